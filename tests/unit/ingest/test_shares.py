"""Who gets a place: no namespace all of them, and who is slow only one of the few that are kept for that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from cacheserver.ingest.shares import Shares
from cacheserver.model import RepositoryKey
from tests.support.waiting import eventually


class Office:
    """Repositories that work until they are told to stop."""

    def __init__(self, shares: Shares, group: asyncio.TaskGroup) -> None:
        self.shares = shares
        self.working: list[str] = []
        self._group = group
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, *names: str) -> None:
        for name in names:
            self._ends[name] = asyncio.Event()
            self._tasks[name] = self._group.create_task(self._work(name))
        await self.settle()

    async def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
            await self._tasks[name]
        await self.settle()

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    async def _work(self, name: str) -> None:
        async with self.shares.turn(RepositoryKey(*name.split("/"))):
            self.working.append(name)
            try:
                await self._ends[name].wait()
            finally:
                self.working.remove(name)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def office(stack: AsyncExitStack, shares: Shares) -> Office:
    group = await stack.enter_async_context(asyncio.TaskGroup())
    office = Office(shares, group)
    stack.push_async_callback(office.close)
    return office


async def test_a_namespace_never_has_all_places(stack: AsyncExitStack) -> None:
    at = await office(stack, Shares(4, 2))
    await at.come("a/1", "a/2", "a/3", "a/4", "a/5")
    assert at.working == ["a/1", "a/2", "a/3"]
    await at.come("b/1")
    assert at.working == ["a/1", "a/2", "a/3", "b/1"]
    await at.end("b/1")
    assert at.working == ["a/1", "a/2", "a/3"], "the fourth place waits for somebody else"
    await at.end("a/2")
    assert at.working == ["a/1", "a/3", "a/4"]


async def test_a_hundred_who_wait_of_one_namespace_do_not_stand_before_another(stack: AsyncExitStack) -> None:
    at = await office(stack, Shares(4, 2))
    await at.come(*(f"a/{i}" for i in range(100)), "b/1", "c/1")
    assert at.working == ["a/0", "a/1", "a/2", "b/1"]
    await at.end("a/0")
    assert at.working == ["a/1", "a/2", "b/1", "a/3"], "first come, first served among those who may"
    await at.end("a/1", "a/2")
    await at.end("b/1")
    assert "c/1" in at.working


async def test_who_takes_long_makes_room_for_those_who_are_well(stack: AsyncExitStack) -> None:
    """Four slow ones, of two namespaces: without that they would hold all places until they end."""
    at = await office(stack, Shares(4, 4, slow_after_s=0.01))
    await at.come("a/1", "a/2", "a/3", "b/1")
    await at.come("c/1", "a/4")
    await eventually(lambda: {"c/1", "a/4"} <= set(at.working))
    assert {"a/1", "a/2", "a/3", "b/1"} <= set(at.working), "none was stopped for it"


async def test_who_was_slow_waits_among_the_slow_the_next_time(stack: AsyncExitStack) -> None:
    at = await office(stack, Shares(4, 1, slow_after_s=0.01))
    for name in ("a/1", "a/2"):
        await at.come(name)
        await eventually(lambda name=name: RepositoryKey(*name.split("/")) in at.shares._slow)  # type: ignore[misc]
        await at.end(name)
    await at.come("a/1", "a/2", "a/3", "b/1")
    assert sorted(at.working) == ["a/1", "a/3", "b/1"]
    await at.end("a/1")
    assert sorted(at.working) == ["a/2", "a/3", "b/1"]


async def test_who_is_quick_again_is_well_again(stack: AsyncExitStack) -> None:
    shares = Shares(1, 1)
    key = RepositoryKey("a", "1")
    shares._slow[key] = None
    async with shares.turn(key):
        pass
    assert key not in shares._slow


async def test_who_gives_up_waiting_or_working_keeps_no_place(stack: AsyncExitStack) -> None:
    at = await office(stack, Shares(1, 1))
    await at.come("a/1", "a/2", "a/3")
    await at.cancel("a/2")
    await at.cancel("a/1")
    assert at.working == ["a/3"]
