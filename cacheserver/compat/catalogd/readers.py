"""Clients that are being sent a body: what they may hold together, how much is done for all of them in one turn of the
loop, and who has to go when there is no room. Who takes its answer is never in the way of another for long.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from aiohttp.web_request import BaseRequest

from cacheserver.api.http.budget import Budget
from cacheserver.api.http.connection import client_of
from cacheserver.api.status import StatusError
from cacheserver.turns import Turns

TURN_BYTES: Final = 512 << 10
"""Of bodies, unpacked or written in one turn of the loop for all readers together: about 1 ms."""
SLOW_S: Final = 5.0
"""Who took no piece of 64 KiB for so long, 13 kB/s, makes room for who finds none."""
_GO_AT_ONCE: Final = 16
"""One in so many of those, and one at least, each time that somebody found no room for 3 s."""


class Reader:
    """One of them. client: where it comes from. since: when it last took a piece, on the loop's clock."""

    def __init__(self, request: BaseRequest, turns: Turns) -> None:
        self._request = request
        self._turns = turns
        self._clock = asyncio.get_running_loop().time
        self.client = client_of(request)
        self.since = self._clock()

    async def turn(self, size: int) -> None:
        """To be awaited before `size` bytes are unpacked, looked through or written for it."""
        await self._turns.spend(size, self.client)

    def took(self) -> None:
        """It took a piece."""
        self.since = self._clock()

    def end(self) -> None:
        """Break its answer off."""
        if self._request.transport is not None:
            self._request.transport.abort()


class Readers:
    """One for all listeners of a door."""

    def __init__(self, budget: Budget | None = None, *, slow_s: float = SLOW_S) -> None:
        """budget: what they may hold together, and each client of them."""
        self._budget = budget or Budget()
        self._slow_s = slow_s
        self._turns = Turns(TURN_BYTES)
        self._all: set[Reader] = set()

    @asynccontextmanager
    async def place(self, request: BaseRequest, size: int) -> AsyncIterator[Reader]:
        """For somebody who holds `size` bytes until it has its answer. Raises: StatusError 429 without room."""
        reader = Reader(request, self._turns)
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._budget.hold(reader.client, size))
            except StatusError:
                # No other's end makes room in one's own share.
                whose = reader.client if self._budget.is_own(reader.client, size) else ""
                if not self._make_room(asyncio.get_running_loop().time() - self._slow_s, whose):
                    raise
                await stack.enter_async_context(self._budget.hold(reader.client, size))
            reader.took()
            self._all.add(reader)
            try:
                yield reader
            finally:
                self._all.discard(reader)

    def _make_room(self, before: float, whose: str) -> bool:
        """End some who took nothing since then, those who took nothing for longest, of the clients that have most.

        whose: of this client alone; empty: of all.
        """
        slow = [reader for reader in self._all if reader.since <= before and whose in ("", reader.client)]
        counts = Counter(reader.client for reader in slow)
        slow.sort(key=lambda reader: (-counts[reader.client], reader.since))
        for reader in slow[: len(slow) // _GO_AT_ONCE + 1]:
            self._all.discard(reader)
            reader.end()
        return bool(slow)
