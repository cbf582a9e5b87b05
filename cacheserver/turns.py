"""How much is done in one turn of the event loop, by everybody together. Knows nothing of what is done.

Each task that yields now and then is not enough: a thousand of them take a thousand times as long before a GET has its
next turn.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable

TURN_COST = 8192
"""Of a Selector's cost: about 1.5 ms."""

_Waiting = deque[tuple[asyncio.Future[None], int]]


class Turns:
    """Whoever waits is served in rounds, one of each client's at a time; a client's own in the order that they came."""

    def __init__(self, most: int = TURN_COST) -> None:
        self._most = most
        self._spent = 0
        self._waiting: OrderedDict[Hashable, _Waiting] = OrderedDict()  # a task each, which connections bound

    async def spend(self, cost: int, client: Hashable = None) -> None:
        """Returns when there is room in a turn, at once if in this one. Call it before the work, every millisecond.

        client: who has the work done; None where that is not known.
        """
        if not self._waiting and self._spent < self._most:
            self._count(cost)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append((future, cost))
        await future

    def _count(self, cost: int) -> None:
        if not self._spent:
            asyncio.get_running_loop().call_soon(self._next)
        self._spent += max(cost, 1)

    def _next(self) -> None:
        self._spent = 0
        while self._waiting and self._spent < self._most:
            client, waiting = self._waiting.popitem(last=False)
            future, cost = waiting.popleft()
            if waiting:
                self._waiting[client] = waiting  # behind all others
            if not future.done():  # else its task was cancelled
                self._count(cost)
                future.set_result(None)
