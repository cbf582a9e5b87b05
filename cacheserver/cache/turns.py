"""How much matching is done in one turn of the event loop, by everybody together. Knows nothing of what is matched.

Each list and watch that yields now and then is not enough: a thousand of them take a thousand times as long before a
GET has its next turn.
"""

from __future__ import annotations

import asyncio
from collections import deque

TURN_COST = 8192
"""Of a Selector's cost: about 1.5 ms."""


class Turns:
    """First come, first served. One for all who match."""

    def __init__(self, most: int = TURN_COST) -> None:
        self._most = most
        self._spent = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()  # a task each, which connections bound

    async def spend(self, cost: int) -> None:
        """Returns when there is room in a turn, at once if in this one. Call it before the work, every millisecond."""
        if not self._waiting and self._spent < self._most:
            self._count(cost)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((future, cost))
        await future

    def _count(self, cost: int) -> None:
        if not self._spent:
            asyncio.get_running_loop().call_soon(self._next)
        self._spent += max(cost, 1)

    def _next(self) -> None:
        self._spent = 0
        while self._waiting and self._spent < self._most:
            future, cost = self._waiting.popleft()
            if not future.done():  # else its task was cancelled
                self._count(cost)
                future.set_result(None)
