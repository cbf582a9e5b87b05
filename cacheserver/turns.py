"""How much is done in one turn of the event loop, by everybody together. Knows nothing of what is done.

Each task that yields now and then is not enough: a thousand of them take a thousand times as long before a GET has its
next turn.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Final, Generic, TypeVar

T = TypeVar("T")
_FIRST: Final = object()

TURN_COST = 8192
"""Of a Selector's cost: about 1.5 ms."""


class _Rounds(Generic[T]):
    """A queue that is served in rounds, one of each client's at a time; a client's own in the order that they came."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Hashable, deque[T]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, client: Hashable, item: T) -> None:
        self._waiting.setdefault(client, deque()).append(item)

    def clients(self) -> Sequence[Hashable]:
        """Whose turn it is, in order."""
        return list(self._waiting)

    def has(self, client: Hashable) -> bool:
        """Whether one of this client's waits."""
        return client in self._waiting

    def take(self, client: Hashable = _FIRST) -> T:
        """The next, or the next of a client's."""
        return self.take_of(client)[1]

    def take_of(self, client: Hashable = _FIRST) -> tuple[Hashable, T]:
        """As take(), and whose it is."""
        if client is _FIRST:
            client = next(iter(self._waiting))
        waiting = self._waiting.pop(client)
        item = waiting.popleft()
        if waiting:
            self._waiting[client] = waiting  # behind all others
        return client, item


class Turns:
    """Whoever waits is served in rounds of the clients."""

    def __init__(self, most: int = TURN_COST) -> None:
        self._most = most
        self._spent = 0
        self._waiting: _Rounds[tuple[asyncio.Future[None], int]] = _Rounds()  # a task each, which connections bound

    async def spend(self, cost: int, client: Hashable = None) -> None:
        """Returns when there is room in a turn, at once if in this one. Call it before the work, every millisecond.

        client: who has the work done; None where that is not known.
        """
        if not self._waiting and self._spent < self._most:
            self._count(cost)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.put(client, (future, cost))
        await future

    def _count(self, cost: int) -> None:
        if not self._spent:
            asyncio.get_running_loop().call_soon(self._next)
        self._spent += max(cost, 1)

    def _next(self) -> None:
        self._spent = 0
        while self._waiting and self._spent < self._most:
            future, cost = self._waiting.take()
            if not future.done():  # else its task was cancelled
                self._count(cost)
                future.set_result(None)


class Places:
    """So much that takes many turns is done at the same time. Whoever waits is let in in rounds of the clients."""

    def __init__(self, most: int, of_one: int = 0) -> None:
        """of_one: of a client at the same time; 0: as many as there are."""
        self._free = most
        self._of_one = of_one or most
        self._taken: Counter[Hashable] = Counter()
        self._waiting: _Rounds[asyncio.Future[None]] = _Rounds()  # a task each, which connections bound

    @asynccontextmanager
    async def place(self, client: Hashable = None) -> AsyncIterator[None]:
        """Once there is one. client: as for Turns."""
        if self._free and self._taken[client] < self._of_one:
            self._take(client)
        else:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.put(client, future)
            try:
                await future
            except asyncio.CancelledError:
                if not future.cancelled():  # it was given one in the same moment
                    self._leave(client)
                raise
        try:
            yield
        finally:
            self._leave(client)

    def _take(self, client: Hashable) -> None:
        self._free -= 1
        self._taken[client] += 1

    def _leave(self, client: Hashable) -> None:
        self._free += 1
        self._taken[client] -= 1
        if not self._taken[client]:
            del self._taken[client]
        for waiting in self._waiting.clients():
            while self._taken[waiting] < self._of_one and self._waiting.has(waiting):
                future = self._waiting.take(waiting)
                if not future.done():
                    self._take(waiting)
                    future.set_result(None)
                    return


class Pace:
    """Work that needs no task, of many clients: so long a turn of all of them together, in rounds of the clients."""

    def __init__(self, turn_s: float, clock: Callable[[], float] = perf_counter) -> None:
        self._turn_s = turn_s
        self._clock = clock
        self._until = 0.0  # of this turn; 0 while nothing was done in it
        self._waiting: _Rounds[Callable[[Callable[[], bool]], bool]] = _Rounds()  # one of each connection

    def work(self, some: Callable[[Callable[[], bool]], bool], client: Hashable = None) -> None:
        """Do some of it now, if there is time left in this turn, and the rest in others. It is given a question to ask
        now and then, whether it has to stop, and says whether there is more. Not to be handed over again before it
        said that there is none."""
        if self._waiting or self._late() or some(self._late):
            self._waiting.put(client, some)

    def _late(self) -> bool:
        now = self._clock()
        if not self._until:
            self._until = now + self._turn_s
            asyncio.get_running_loop().call_soon(self._next)
        return now >= self._until

    def _next(self) -> None:
        self._until = 0.0
        while self._waiting and not self._late():
            client, some = self._waiting.take_of()
            if some(self._late):
                self._waiting.put(client, some)
