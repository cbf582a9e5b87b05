"""What goes to a client of HTTP/2: frames in the order they are said, and bodies as its windows (RFC 9113, section 5.2)
and the kernel take them, a piece of each stream in turn.

Knows nothing of what is asked. Called by the connection, which says how the client's windows grow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from cacheserver.http2 import frames as f
from cacheserver.http2.frames import ProtocolError
from cacheserver.http2.patience import Patience
from cacheserver.http2.stream import Stream

UNSENT_BYTES: Final = 128 << 10
"""That the kernel did not take yet. Over it nothing is sent, and nothing read: who takes nothing is not heard."""
PIECE: Final = 64 << 10
"""Of a stream, sent before the next one's."""
_ROUND: Final = 1 << 20
"""Sent before others have their turn."""


class Outgoing:
    """Of one connection. initial, largest: what the client said of windows and frames. full_since: when the kernel
    took no more, on the loop's clock; 0 while it does."""

    def __init__(self, first: bytes, patience: Patience, done: Callable[[Stream], None]) -> None:
        """first: said before all else. done: called when all of a stream was sent but its end."""
        self.initial = f.WINDOW
        self.largest = f.LARGEST_FRAME
        self.full_since = 0.0
        self._patience = patience
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._out: list[bytes | memoryview] = [first]
        self._out_bytes = 0
        self._window = f.WINDOW
        self._ready: dict[Stream, None] = {}
        self._pumping = False

    def begin(self, transport: asyncio.WriteTransport) -> None:
        """Write there from now on."""
        transport.set_write_buffer_limits(high=UNSENT_BYTES)
        self._transport = transport

    def stop(self) -> None:
        """Write nothing any more."""
        self._transport = None

    # --- what is to be sent ---

    def say(self, frame: bytes) -> None:
        """To be sent with the next flush."""
        self._out.append(frame)
        self._out_bytes += len(frame)

    def fits(self, size: int) -> bool:
        """Whether so many bytes can be sent at once."""
        free = not self.full_since and not self._ready and self._out_bytes <= PIECE
        return free and size <= self._window and self._transport is not None

    def push(self, stream: Stream) -> None:
        """It has something to be sent, or its end."""
        if stream.unsent and self.fits(len(stream.unsent)):
            self._send_piece(stream, len(stream.unsent))
        self._may_send(stream)
        if not stream.unsent and stream.tail:
            self._done(stream)
        self.pump()

    def forget(self, stream: Stream) -> None:
        """Nothing more of it is to be sent."""
        self._ready.pop(stream, None)

    # --- what the client takes ---

    def grow(self, more: int) -> None:
        """The client takes so many bytes more, on all streams together. Raises: ProtocolError."""
        self._window += more
        if not more or self._window > f.LARGEST_WINDOW:
            code = f.FLOW_CONTROL_ERROR if more else f.PROTOCOL_ERROR
            raise ProtocolError(code, "the window grows by nothing, or too far")

    def grow_stream(self, stream: Stream, more: int) -> bool:
        """And on this one. False: that is nothing, or too much."""
        stream.window += more
        if not more or stream.window > f.LARGEST_WINDOW:
            return False
        self._may_send(stream)
        return True

    def begin_with(self, initial: int, streams: Iterable[Stream]) -> None:
        """The window of new streams, and by as much that of these, which may become negative (6.9.2). Raises:
        ProtocolError."""
        if initial != self.initial:
            for stream in streams:
                stream.window += initial - self.initial
                if stream.window > f.LARGEST_WINDOW:
                    raise ProtocolError(f.FLOW_CONTROL_ERROR, "a window is too large")
                self._may_send(stream)
        self.initial = initial

    # --- sending ---

    @contextmanager
    def held(self) -> Iterator[None]:
        """While the block runs nothing is sent; then all that can be."""
        self._pumping = True
        try:
            yield
        finally:
            self._pumping = False
            self.pump()

    def pump(self) -> None:
        """Send what the windows and the kernel take: a piece of each stream in turn."""
        if self._transport is None or self._pumping:
            return
        sent, self._pumping = 0, True
        try:
            while self._ready and self._window > 0 and not self.full_since and sent < _ROUND:
                stream = next(iter(self._ready))
                del self._ready[stream]
                sent += self._send_piece(stream, PIECE)
                if stream.unsent:
                    self._may_send(stream)
                elif stream.tail:
                    self._done(stream)
                else:
                    stream.drained()
                if self._out_bytes >= PIECE:
                    self.flush()
        finally:
            self._pumping = False
        self.flush()
        if sent >= _ROUND and self._ready:
            self._loop.call_soon(self.pump)

    def flush_soon(self) -> None:
        """Now, unless it is done behind what is being done."""
        if not self._pumping:
            self.flush()

    def flush(self) -> None:
        """Write what was said."""
        if self._out and self._transport is not None:
            out, self._out, self._out_bytes = self._out, [], 0
            self._transport.write(b"".join(out))

    def _may_send(self, stream: Stream) -> None:
        if stream.unsent and stream.window > 0:
            self._ready[stream] = None
        else:
            self._ready.pop(stream, None)

    def _send_piece(self, stream: Stream, most: int) -> int:
        size = max(0, min(len(stream.unsent), stream.window, self._window, most))
        out, unsent, largest = self._out, stream.unsent, self.largest
        for at in range(0, size, largest):
            part = unsent[at : min(at + largest, size)]
            out.append(f.head(len(part), f.DATA, 0, stream.id))
            out.append(part)
        stream.unsent = unsent[size:]
        stream.window -= size
        self._window -= size
        self._out_bytes += size
        self._patience.earn(size >> 10)
        return size
