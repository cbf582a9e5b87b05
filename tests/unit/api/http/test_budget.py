"""Readers of content share a budget of bytes: one more waits for its turn, and is told to come back when none comes."""

from __future__ import annotations

import asyncio

import pytest

from cacheserver.api import content
from cacheserver.api.http.budget import Budget
from cacheserver.api.status import StatusError
from tests.fakes.api import World


async def test_who_finds_no_room_waits_for_it() -> None:
    budget = Budget(10)
    order: list[str] = []

    async def second() -> None:
        async with budget.hold(8):
            order.append("second")

    async with budget.hold(5):
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0)
        order.append("first")
    await waiting
    assert order == ["first", "second"]


async def test_who_waits_too_long_is_refused_by_name() -> None:
    budget = Budget(5 << 20, wait_s=0)
    async with budget.hold(5 << 20):
        with pytest.raises(StatusError, match="readers of content hold 5 MiB already") as refused:
            async with budget.hold(1):
                pass
    assert refused.value.code == 429
    async with budget.hold(5 << 20):  # nothing was lost
        pass


async def test_who_leaves_the_line_lets_the_next_in() -> None:
    budget = Budget(10)

    async def take(size: int) -> None:
        async with budget.hold(size):
            pass

    async with budget.hold(5):
        large, small = asyncio.create_task(take(10)), asyncio.create_task(take(5))
        await asyncio.sleep(0)
        large.cancel()
        await asyncio.wait_for(small, 5)
    await asyncio.gather(large, return_exceptions=True)


async def test_one_that_wants_more_than_all_gets_all() -> None:
    async with Budget(10).hold(11):
        pass


async def test_a_file_too_large_for_json_is_refused_by_name(world: World) -> None:
    digest = world.blobs.put_files({"big.yaml": b"a" * (content.JSON_FILE_BYTES + 1)})
    world.revision("1.0.0", digest)
    await world.settled()
    for path in ("packagerevisions/r.app.1.0.0/content", "packagerevisionresources/r.app.1.0.0"):
        answer = await world.get(f"namespaces/team/{path}")
        assert answer.status == 406
        assert "over 15 MiB no file comes as JSON" in answer.json["message"]
