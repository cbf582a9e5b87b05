"""A cache of answers that expire: bounded in bytes, each looked up once however many ask. Knows nothing of reviews."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

from cacheserver.memo import Memo

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

REVIEWS_A_TURN: Final = 4
"""Asked of the host cluster in one turn of the loop: some 0.5 ms each. Who opens a thousand watches that all select
otherwise has a thousand asked, and everybody else is to be answered meanwhile."""


class Remembered(Generic[K, V]):
    """Full: what was not asked for in a while goes. Errors are not remembered: every waiter gets it, the next one asks.

    Owns the tasks that look up; close() it.
    """

    def __init__(self, *, keep_s: float, most_bytes: int, now: Callable[[], float] = time.monotonic) -> None:
        self._keep_s = keep_s
        self._now = now
        self._answers = Memo[K, tuple[float, V]](most_bytes)
        self._running: dict[K, asyncio.Task[V]] = {}

    def get(self, key: K) -> V | None:
        """The answer, while it is fresh."""
        found = self._answers.get(key)
        if found is None:
            return None
        if found[0] <= self._now():
            self._answers.forget(key)
            return None
        return found[1]

    async def look_up(self, key: K, ask: Callable[[], Awaitable[V]], size: Callable[[V], int]) -> V:
        """What `ask` returns or raises. size: bytes of key and answer, about; what is large is not remembered.

        `ask` bounds its own time: it outlives who asked first.
        """
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(self._ask(key, ask, size), name="review")
            task.add_done_callback(_retrieve)
        # Shielded: others may wait for the same answer, and the next request of this client most likely wants it.
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Cancels what is under way."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, key: K, ask: Callable[[], Awaitable[V]], size: Callable[[V], int]) -> V:
        try:
            answer = await ask()
        finally:
            del self._running[key]
        self._answers.put(key, (self._now() + self._keep_s, answer), size(answer))
        return answer


def _retrieve(task: asyncio.Task[V]) -> None:
    """Every waiter may have left: then nobody else looks at the error, and asyncio would complain."""
    if not task.cancelled():
        task.exception()
