"""Readers of content share a budget of bytes: one more waits for its turn, and is told to come back when none comes."""

from __future__ import annotations

import asyncio

import pytest

from cacheserver.api.http.budget import CLIENT_BYTES, Budget
from cacheserver.api.status import StatusError
from tests.fakes.api import BASE, World
from tests.support.raw_clients import raw_clients
from tests.support.waiting import eventually


async def test_who_finds_no_room_waits_for_it() -> None:
    budget = Budget(10, each=10)
    order: list[str] = []

    async def second() -> None:
        async with budget.hold("a", 8):
            order.append("second")

    async with budget.hold("a", 5):
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0)
        order.append("first")
    await waiting
    assert order == ["first", "second"]


async def test_who_waits_too_long_is_refused_by_name() -> None:
    budget = Budget(5 << 20, each=5 << 20, wait_s=0)
    async with budget.hold("a", 5 << 20):
        with pytest.raises(StatusError, match="readers of content hold 5 MiB already") as refused:
            async with budget.hold("b", 1):
                pass
    assert refused.value.code == 429
    async with budget.hold("a", 5 << 20):  # nothing was lost
        pass


async def test_who_leaves_the_line_lets_the_next_in() -> None:
    budget = Budget(10, each=10)

    async def take(size: int) -> None:
        async with budget.hold("a", size):
            pass

    async with budget.hold("a", 5):
        large, small = asyncio.create_task(take(10)), asyncio.create_task(take(5))
        await asyncio.sleep(0)
        large.cancel()
        await asyncio.wait_for(small, 5)
    await asyncio.gather(large, return_exceptions=True)


async def test_one_that_wants_more_than_all_gets_all() -> None:
    async with Budget(10).hold("a", 11):
        pass


async def test_one_client_has_a_share_and_keeps_nobody_waiting() -> None:
    budget = Budget(64 << 20, each=16 << 20, wait_s=0)
    async with budget.hold("a", 10 << 20), budget.hold("a", 6 << 20):
        with pytest.raises(StatusError, match="your readers of content hold 16 MiB already") as refused:
            async with budget.hold("a", 1):
                pass
        assert refused.value.code == 429
        async with budget.hold("b", 16 << 20):
            pass


async def test_nobody_waits_behind_one_whose_share_is_held() -> None:
    budget = Budget(100, each=10)

    async def take(who: str) -> None:
        async with budget.hold(who, 10):
            pass

    async with budget.hold("a", 10):
        mine = asyncio.create_task(take("a"))
        await asyncio.sleep(0)
        await asyncio.wait_for(take("b"), 5)
        assert not mine.done()
    await mine


async def test_stalled_readers_of_one_address_leave_room_for_another(world: World) -> None:
    """As many as find no end: those over the share are told to come back."""
    world.revision("1.0.0", world.blobs.put_files({"big": b"a" * (4 << 20)}))
    await world.settled()
    target = f"{BASE}/namespaces/team/packagerevisions/r.app.1.0.0/content"
    ask = f"GET {target} HTTP/1.1\r\nHost: x\r\nAccept: application/x-tar\r\n\r\n".encode()
    budget = world.api._verbs._budget
    async with raw_clients(world.url) as clients:
        await clients.send(20, ask, paused=True)
        await eventually(lambda: budget._held == CLIENT_BYTES)
        assert len(budget._line) == 4
        answer = await world.get(target, accept="application/x-tar")  # from 127.0.0.1
        assert (answer.status, len(answer.body) > 4 << 20) == (200, True)
    await eventually(lambda: budget._held == 0)
    assert not budget._held_by


async def test_an_icon_that_nobody_takes_counts(world: World) -> None:
    digest = world.blobs.put(bytes(12 << 20), "image/png")
    world.package("quay", icon={"digest": digest})
    await world.settled()
    budget = world.api._verbs._budget
    async with raw_clients(world.url) as clients:
        await clients.send(
            3, f"GET {BASE}/namespaces/team/packages/r.quay/icon HTTP/1.1\r\nHost: x\r\n\r\n", paused=True
        )
        await eventually(lambda: budget._held >= 12 << 20)
        assert len(budget._line) == 2
    await eventually(lambda: budget._held == 0)
