"""Names that never resolve take a share of the lookups, and no more."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from cacheserver.sources.oci.resolver import Resolver, shared


class System(AbstractResolver):
    """Answers for names below `good.example`, and for all others when the test lets it."""

    def __init__(self) -> None:
        self.asked = Counter[str]()
        self.stuck = 0
        self.let = asyncio.Event()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked[host] += 1
        if not host.endswith("good.example"):
            self.stuck += 1
            await self.let.wait()
            raise OSError(f"{host} is not known")
        await asyncio.sleep(0)
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None: ...


async def test_a_thousand_names_that_never_resolve_hold_up_no_other() -> None:
    system = System()
    resolver = Resolver(system)
    lost = [asyncio.create_task(resolver.resolve(f"n{number}.hostile.example.org")) for number in range(1000)]
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        for number in range(10):
            assert (await resolver.resolve(f"{number}.good.example", 443))[0]["host"] == "127.0.0.1"
    assert system.stuck == 2
    for task in lost:
        task.cancel()
    await asyncio.gather(*lost, return_exceptions=True)
    await resolver.resolve("again.good.example")
    assert system.stuck == 2, "a lookup that nobody waits for any more still has its thread"
    system.let.set()
    await resolver.resolve("last.good.example")


async def test_who_asks_for_the_same_name_shares_the_lookup_and_what_it_says() -> None:
    system = System()
    resolver = Resolver(system)
    found = await asyncio.gather(*(resolver.resolve("registry.good.example", 443) for _ in range(50)))
    assert len(found) == 50
    assert system.asked["registry.good.example"] == 1
    await resolver.resolve("registry.good.example", 443)
    assert system.asked["registry.good.example"] == 2, "nothing is remembered"
    system.let.set()
    with pytest.raises(OSError, match="is not known"):
        await resolver.resolve("bad.example")


async def test_all_registries_of_a_process_have_one() -> None:
    assert shared() is shared()
