"""Bytes that readers of content may hold together. When they are held: wait a little, then 429.

A reader that stalls holds its share until the stall limit ends it (reply.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from cacheserver.api.status import StatusError

CONTENT_BYTES: Final = 64 << 20
"""Of all readers. Ours: a sixth of what a server may take under attack."""

READER_BYTES: Final = 1 << 20
"""Of one: a chunk of 512 KiB from the store, a block of 128 KiB unpacked, as much packed, and its transport's."""

_WAIT_S: Final = 3.0  # as long as a read waits for a revision (cache/watchcache.py)


class Budget:
    """First come, first served."""

    def __init__(self, most: int = CONTENT_BYTES, *, wait_s: float = _WAIT_S) -> None:
        self._most = most
        self._wait_s = wait_s
        self._held = 0
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Have `size` bytes, all there are at most. Raises: StatusError 429 when there is no room for some seconds."""
        size = min(size, self._most)
        if self._line or self._held + size > self._most:
            await self._wait(size)
        else:
            self._held += size
        try:
            yield
        finally:
            self._give_back(size)

    async def _wait(self, size: int) -> None:
        turn = asyncio.get_running_loop().create_future()
        place = (size, turn)
        self._line.append(place)
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except BaseException as exc:
            if turn.done() and not turn.cancelled():
                self._give_back(size)
            else:
                if place in self._line:
                    self._line.remove(place)
                self._let_in()
            if isinstance(exc, TimeoutError):
                said = f"readers of content hold {self._most >> 20} MiB already; try again in a moment"
                raise StatusError(429, "TooManyRequests", said, details={}, retry_after_s=1) from None
            raise

    def _give_back(self, size: int) -> None:
        self._held -= size
        self._let_in()

    def _let_in(self) -> None:
        while self._line and self._held + self._line[0][0] <= self._most:
            size, turn = self._line.popleft()
            self._held += size
            if turn.done():  # cancelled in this turn of the loop, and not gone yet
                self._held -= size
            else:
                turn.set_result(None)
