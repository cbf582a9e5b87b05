"""One stream of a connection, as a server has it: what came on it, what is still to be sent, and whether that may be.

Keeps the client's windows and its own (RFC 9113 section 5.2); `connection` decides whose turn it is to send.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from cacheserver.http2.frames import CANCEL, END_HEADERS, END_STREAM, HEADERS, frame
from cacheserver.http2.requests import Request

if TYPE_CHECKING:
    from cacheserver.http2.connection import Connection

STREAM_WINDOW: Final = 64 << 10
"""Bytes that a client may send on a stream, less one: HTTP/2's default, larger than any question."""

ASK_WITHIN_S: Final = 60.0
"""For what is asked to come whole."""


class GoneError(Exception):
    """The client wants no answer any more, or has gone."""


class Answerer(Protocol):
    """Whoever answers a stream. No call waits."""

    def arrived(self) -> None:
        """Something more came, or the end of it."""
        ...

    def gone(self) -> None:
        """Nobody wants an answer any more; said once, and not where one was given whole."""
        ...

    def late(self) -> None:
        """What was asked did not come whole within ASK_WITHIN_S."""
        ...


class Stream:
    """said: whether an answer has begun. received: bytes of the body that nobody took yet. ended: no more will come.
    since: when it began. busy: a task answers it, so that it keeps its place among the connection's streams, also once
    its client gave it up."""

    __slots__ = (
        "_connection",
        "_drained",
        "answerer",
        "busy",
        "ended",
        "id",
        "received",
        "request",
        "said",
        "since",
        "tail",
        "unsent",
        "window",
        "window_here",
    )

    def __init__(self, connection: Connection, number: int, request: Request, window: int, now: float) -> None:
        self._connection = connection
        self.said = False
        self._drained: asyncio.Future[None] | None = None
        self.id = number
        self.request = request
        self.window = window
        self.window_here = STREAM_WINDOW - 1
        self.received = bytearray()
        self.ended = False
        self.since = now
        self.answerer: Answerer | None = None
        self.busy = False
        self.unsent = memoryview(b"")
        self.tail = b""

    @property
    def open(self) -> bool:
        """Whether an answer is still wanted."""
        return self._connection.has(self)

    @property
    def where(self) -> str:
        """Whom its connection is counted to."""
        return self._connection.where

    # --- what came ---

    def take(self, size: int) -> bytes:
        """Bytes of what was received; the client may send as many more."""
        taken = bytes(self.received[:size])
        del self.received[:size]
        self._connection.give_back(size, self)
        return taken

    # --- what is sent ---

    def fits(self, size: int) -> bool:
        """Whether so many bytes can be sent at once, without waiting for anything."""
        return not self.unsent and size <= self.window and self._connection.fits(size)

    async def send(self, header: bytes, body: bytes | memoryview) -> None:
        """Returns when all of it went to the kernel but for a little. header: a block, sent before the first body.

        Raises: GoneError.
        """
        if not self.open:
            raise GoneError
        self._begin(header)
        self.unsent = memoryview(body)
        self._connection.push(self)
        if self.unsent or self._connection.full:
            self._drained = asyncio.get_running_loop().create_future()
            try:
                await self._drained
            finally:
                self._drained = None

    def finish(self, header: bytes, body: bytes, trailers: bytes) -> None:
        """The rest of the answer, of which nothing was sent that had to be waited for. header: as in send()."""
        self._begin(header)
        self.unsent, self.tail = memoryview(body), trailers
        self._connection.push(self)

    def fail(self, trailers: bytes) -> None:
        """As finish(), with nothing more than these; what was not sent yet is not sent any more."""
        self.finish(b"", b"", trailers)

    def reset(self, code: int = CANCEL) -> None:
        """It is over, without an answer or in the midst of it."""
        self._connection.reset(self, code)

    def freed(self) -> None:
        """The task that answered it is done."""
        self.busy = False
        self._connection.free(self)

    def _begin(self, header: bytes) -> None:
        if header and not self.said:
            self.said = True
            self._connection.say(frame(HEADERS, END_HEADERS, self.id, header))

    # --- said by the connection ---

    def trailing(self) -> bytes:
        """The frame that ends it."""
        return frame(HEADERS, END_HEADERS | END_STREAM, self.id, self.tail)

    def drained(self) -> None:
        """Who sends goes on."""
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def lost(self) -> None:
        """Nobody wants it any more."""
        self.unsent, self.tail = memoryview(b""), b""
        if self._drained is not None and not self._drained.done():
            self._drained.set_exception(GoneError())
        if self.answerer is not None:
            self.answerer.gone()
