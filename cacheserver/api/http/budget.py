"""Bytes that readers of content may hold together, and each client of them. Without room: wait a little, then 429.

A reader that stalls holds its bytes until the stall limit ends it (reply.py). Who a client is, is the caller's word.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from cacheserver.api.status import StatusError
from cacheserver.slotted import slotted

CONTENT_BYTES: Final = 64 << 20
"""Of all readers. Ours: a sixth of what a server may take under attack."""

CLIENT_BYTES: Final = 16 << 20
"""Of one client's readers: four that stall on purpose are needed to keep others waiting."""

READER_BYTES: Final = 1 << 20
"""Of one: a chunk of 512 KiB from the store, a block of 128 KiB unpacked, as much packed, and its transport's."""

_WAIT_S: Final = 3.0  # as long as a read waits for a revision (freshness.py)


@slotted(frozen=True, eq=False)
class _Waiting:
    who: str
    size: int
    turn: asyncio.Future[None]


class Budget:
    """First come, first served, but that nobody waits behind one whose own share is held."""

    def __init__(self, most: int = CONTENT_BYTES, *, each: int = CLIENT_BYTES, wait_s: float = _WAIT_S) -> None:
        """each: of one client."""
        self._most = most
        self._each = min(each, most)
        self._wait_s = wait_s
        self._held = 0
        self._held_by: Counter[str] = Counter()
        self._line: list[_Waiting] = []

    def share(self, who: str) -> Share:
        """What a client may hold of it."""
        return Share(self, who)

    def is_own(self, who: str, size: int) -> bool:
        """Whether it is this client's own share that has no room for so much."""
        return self._held_by[who] + min(size, self._each) > self._each

    @asynccontextmanager
    async def hold(self, who: str, size: int) -> AsyncIterator[None]:
        """Have `size` bytes, a client's share at most. Raises: StatusError 429 without room for some seconds."""
        place = _Waiting(who, min(size, self._each), asyncio.get_running_loop().create_future())
        self._line.append(place)
        self._let_in()
        if not place.turn.done():
            await self._wait(place)
        try:
            yield
        finally:
            self._give_back(place)

    async def _wait(self, place: _Waiting) -> None:
        try:
            async with asyncio.timeout(self._wait_s):
                await place.turn
        except BaseException as exc:
            if place in self._line:
                self._line.remove(place)
                self._let_in()
            else:
                self._give_back(place)  # its turn had come
            if isinstance(exc, TimeoutError):
                raise self._refusal(place) from None
            raise

    def _refusal(self, place: _Waiting) -> StatusError:
        mine = self.is_own(place.who, place.size)
        whose, most = ("your readers", self._each) if mine else ("readers", self._most)
        said = f"{whose} of content hold {most >> 20} MiB already; take their answers, or try again in a moment"
        return StatusError(429, "TooManyRequests", said, details={}, retry_after_s=1)

    def _give_back(self, place: _Waiting) -> None:
        self._held -= place.size
        self._held_by[place.who] -= place.size
        if not self._held_by[place.who]:
            del self._held_by[place.who]
        self._let_in()

    def _let_in(self) -> None:
        still = []
        full = False
        for place in self._line:
            full = full or self._held + place.size > self._most
            if full or self._held_by[place.who] + place.size > self._each:
                still.append(place)
            else:
                self._held += place.size
                self._held_by[place.who] += place.size
                if not place.turn.done():  # cancelled in this turn of the loop, it gives back at once
                    place.turn.set_result(None)
        self._line = still


@slotted(frozen=True)
class Share:
    """One client's part of a budget."""

    _budget: Budget
    _who: str

    def hold(self, size: int) -> AbstractAsyncContextManager[None]:
        """As Budget.hold."""
        return self._budget.hold(self._who, size)
