"""Answers remembered for a while: bounded, each looked up once however many ask. Used for reviews; knows none."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """Full: what was not asked for longest goes. Errors are not remembered: every waiter gets it, the next one asks.

    Owns the tasks that look up; close() it.
    """

    def __init__(self, *, keep_s: float, most: int, now: Callable[[], float] = time.monotonic) -> None:
        self._keep_s = keep_s
        self._most = most
        self._now = now
        self._answers: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._running: dict[K, asyncio.Task[V]] = {}

    def get(self, key: K) -> V | None:
        """The answer, while it is fresh."""
        found = self._answers.get(key)
        if found is None:
            return None
        if found[0] <= self._now():
            del self._answers[key]
            return None
        self._answers.move_to_end(key)
        return found[1]

    async def look_up(self, key: K, ask: Callable[[], Awaitable[V]], *, keep: bool = True) -> V:
        """What `ask` returns or raises. keep: remember it. `ask` bounds its own time: it outlives who asked first."""
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(self._ask(key, ask, keep=keep), name="review")
            task.add_done_callback(_retrieve)
        # Shielded: others may wait for the same answer, and the next request of this client most likely wants it.
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Cancels what is under way."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, key: K, ask: Callable[[], Awaitable[V]], *, keep: bool) -> V:
        try:
            answer = await ask()
        finally:
            del self._running[key]
        if keep:
            self._answers[key] = (self._now() + self._keep_s, answer)
            self._answers.move_to_end(key)
            if len(self._answers) > self._most:
                self._answers.popitem(last=False)
        return answer


def _retrieve(task: asyncio.Task[V]) -> None:
    """Every waiter may have left: then nobody else looks at the error, and asyncio would complain."""
    if not task.cancelled():
        task.exception()
