"""What a client of HTTP/2 says: bytes into frames, and frames into what they mean (RFC 9113, sections 3.4 to 6).

Worked on when Pace has time for it. Keeps what belongs to no stream: what was not worked on yet, a frame that is not
whole, a header in parts, and the table of header fields. Knows nothing of answers; the connection is told (Receiver).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol

from cacheserver.http2 import frames as f
from cacheserver.http2.frames import ProtocolError
from cacheserver.http2.patience import Patience
from cacheserver.http2.requests import HEADER_BYTES, BlockError, Decoder, Request
from cacheserver.turns import Pace

log = logging.getLogger(__name__)

UNREAD_BYTES: Final = 64 << 10
"""Of frames that wait for their turn, or for the rest of them. Then nothing is read."""
_SETTINGS_MOST: Final = 64
"""In a frame; there are some ten."""
_FRAMES_A_STEP: Final = 8


class Receiver(Protocol):
    """Who is told what a client says. Each may raise ProtocolError, which ends the connection."""

    where: str

    @property
    def listens(self) -> bool:
        """Whether anything is worked on now: not while the client takes nothing, nor when it is over."""
        ...

    def replying(self) -> AbstractContextManager[None]:
        """While the block runs, what is answered gathers."""
        ...

    def said_settings(self, payload: bytes) -> None:
        """SETTINGS, of a right size."""
        ...

    def said_ping(self, payload: bytes) -> None:
        """A PING, or (acknowledged) the answer to ours."""
        ...

    def heard_ping(self, payload: bytes) -> None:
        """What answers a PING of ours."""
        ...

    def said_header(self, number: int, request: Request | None, *, ended: bool) -> None:
        """A header, whole; None: it is malformed. ended: nothing more comes on the stream."""
        ...

    def said_data(self, number: int, flags: int, payload: bytes) -> None:
        """DATA."""
        ...

    def said_window(self, number: int, more: int) -> None:
        """It takes so many bytes more."""
        ...

    def said_reset(self, number: int) -> None:
        """It gives up what it asked."""
        ...

    def refuse(self, code: int, why: str) -> None:
        """It did what it must not."""
        ...

    def abort(self) -> None:
        """Something is wrong here."""
        ...


class Incoming:
    """Of one connection. part_since: when what is not whole began to come; 0: nothing. now: of the last work.
    greeted, settled: it said that it speaks HTTP/2, and its first settings."""

    def __init__(self, receiver: Receiver, pace: Pace, patience: Patience, now: float) -> None:
        self.part_since = 0.0
        self.now = now
        self.greeted = self.settled = False
        self._receiver = receiver
        self._pace = pace
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.ReadTransport | None = None
        self._buffer = bytearray()
        self._waiting = self._deaf = False
        self._decoder = Decoder()
        self._block: bytearray | None = None
        self._block_stream = self._block_flags = 0

    def begin(self, transport: asyncio.ReadTransport) -> None:
        """What comes, comes from there."""
        self._transport = transport

    def stop(self) -> None:
        """Whatever it said and was not worked on is thrown away."""
        self._buffer.clear()

    # --- bytes ---

    def feed(self, data: bytes) -> None:
        """Bytes of frames, split anywhere."""
        self._buffer += data
        self.hear()

    def hear(self) -> None:
        """Have what came worked on, unless it is already."""
        if not self._waiting and self._buffer and self._receiver.listens:
            self._waiting = True
            self._pace.work(self._work, self._receiver.where)
        if not self._deaf and len(self._buffer) >= UNREAD_BYTES and self._transport is not None:
            self._deaf = True
            self._transport.pause_reading()

    def listen(self) -> None:
        """Read on, if there is nothing left of what was read."""
        if self._deaf and not self._waiting and self._receiver.listens and self._transport is not None:
            self._deaf = False
            self._transport.resume_reading()

    def _work(self, late: Callable[[], bool]) -> bool:
        """Some frames. True: there are more, and no time."""
        self.now = self._loop.time()
        try:
            more = self._read(late)
        except ProtocolError as exc:
            self._receiver.refuse(exc.code, str(exc))
            more = False
        except Exception:
            log.exception("a connection of HTTP/2 ends for a fault of ours")
            self._receiver.abort()
            more = False
        self._waiting = more
        self.listen()
        return more

    # --- frames ---

    def _read(self, late: Callable[[], bool]) -> bool:
        """Raises: ProtocolError."""
        if not self.greeted and not self._greet():
            return False
        more = True
        with self._receiver.replying():
            while more and self._receiver.listens:
                size = len(self._buffer)
                try:
                    more = f.split(self._buffer, self._take, _FRAMES_A_STEP)
                except f.FrameTooLargeError:
                    raise ProtocolError(f.FRAME_SIZE_ERROR, "a frame is too large") from None
                if len(self._buffer) != size and self._block is None:
                    self.part_since = 0.0
                if more and late():
                    return self._receiver.listens
        if not self._buffer and self._block is None:
            self.part_since = 0.0
        elif not self.part_since:
            self.part_since = self.now
        return False

    def _greet(self) -> bool:
        """Whether it has said the preface, which is no frame. Raises: ProtocolError."""
        if not f.PREFACE.startswith(self._buffer[: len(f.PREFACE)]):
            raise ProtocolError(f.PROTOCOL_ERROR, "it does not speak HTTP/2")
        if len(self._buffer) < len(f.PREFACE):
            return False
        del self._buffer[: len(f.PREFACE)]
        self.greeted = True
        return True

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> bool:
        """One frame. False: no more now. Raises: ProtocolError."""
        receiver = self._receiver
        if not self._patience.spend(1):
            raise ProtocolError(f.ENHANCE_YOUR_CALM, "it sends frames that lead to nothing")
        if not self.settled and (kind != f.SETTINGS or flags & f.ACK):
            raise ProtocolError(f.PROTOCOL_ERROR, "its first frame is not SETTINGS")
        if self._block is not None and (kind != f.CONTINUATION or stream != self._block_stream):
            raise ProtocolError(f.PROTOCOL_ERROR, "a header is not complete")
        if kind == f.HEADERS:
            self._take_headers(flags, stream, payload)
        elif kind == f.DATA:
            receiver.said_data(stream, flags, payload)
        elif kind == f.WINDOW_UPDATE:
            if len(payload) != 4:
                raise ProtocolError(f.FRAME_SIZE_ERROR, "WINDOW_UPDATE has 4 bytes")
            receiver.said_window(stream, int.from_bytes(payload, "big") & f.LARGEST_WINDOW)
        elif kind == f.CONTINUATION:
            self._take_continuation(flags, payload)
        elif kind == f.RST_STREAM:
            if len(payload) != 4:
                raise ProtocolError(f.FRAME_SIZE_ERROR, "RST_STREAM has 4 bytes")
            receiver.said_reset(stream)
        elif kind == f.PRIORITY:  # 5.3.2: of no use any more
            if not stream or len(payload) != 5:
                raise ProtocolError(f.PROTOCOL_ERROR if not stream else f.FRAME_SIZE_ERROR, "PRIORITY is wrong")
        else:
            self._take_common(kind, flags, stream, payload)
        return receiver.listens

    def _take_common(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """A frame of the connection, or one that nobody knows (4.1: it means nothing). Raises: ProtocolError."""
        if kind == f.PUSH_PROMISE:
            raise ProtocolError(f.PROTOCOL_ERROR, "a client pushes nothing")
        if stream and kind in (f.SETTINGS, f.PING, f.GOAWAY):
            raise ProtocolError(f.PROTOCOL_ERROR, "a frame of the connection names a stream")
        if kind == f.SETTINGS:
            if len(payload) % 6 or (flags & f.ACK and payload):
                raise ProtocolError(f.FRAME_SIZE_ERROR, "SETTINGS has no such size")
            if not flags & f.ACK:
                if len(payload) > 6 * _SETTINGS_MOST:
                    raise ProtocolError(f.ENHANCE_YOUR_CALM, "it has too many settings")
                self.settled = True
                self._receiver.said_settings(payload)
        elif kind == f.PING:
            if len(payload) != 8:
                raise ProtocolError(f.FRAME_SIZE_ERROR, "PING has 8 bytes")
            if flags & f.ACK:
                self._receiver.heard_ping(payload)
            else:
                self._receiver.said_ping(payload)
        # GOAWAY of a client: it asks nothing more, and closes the connection when it is answered.

    # --- headers ---

    def _take_headers(self, flags: int, stream: int, payload: bytes) -> None:
        """Raises: ProtocolError."""
        if not stream % 2:
            raise ProtocolError(f.PROTOCOL_ERROR, "clients have streams of odd numbers")
        block = f.unpadded(flags, payload)
        if flags & f.PRIORITIZED:
            if len(block) < 5:
                raise ProtocolError(f.FRAME_SIZE_ERROR, "HEADERS is too short for its priority")
            block = block[5:]
        if len(block) > HEADER_BYTES:
            raise ProtocolError(f.ENHANCE_YOUR_CALM, "a header is too large")
        if flags & f.END_HEADERS:
            self._take_block(flags, stream, block)
        else:
            self._block, self._block_stream, self._block_flags = bytearray(block), stream, flags

    def _take_continuation(self, flags: int, payload: bytes) -> None:
        """Raises: ProtocolError."""
        if self._block is None:
            raise ProtocolError(f.PROTOCOL_ERROR, "CONTINUATION of nothing")
        # An empty one is nothing but work for us (CVE-2024-27316).
        if len(self._block) + len(payload) > HEADER_BYTES or not (payload or flags & f.END_HEADERS):
            raise ProtocolError(f.ENHANCE_YOUR_CALM, "a header is too large, or in too many parts")
        self._block += payload
        if flags & f.END_HEADERS:
            block, self._block = bytes(self._block), None
            self._take_block(self._block_flags, self._block_stream, block)

    def _take_block(self, flags: int, number: int, block: bytes) -> None:
        """Raises: ProtocolError."""
        try:
            request = self._decoder.read(block)  # also of what is not answered: the table is of all
        except BlockError as exc:
            raise ProtocolError(f.COMPRESSION_ERROR, f"a header cannot be read: {exc}") from None
        self._receiver.said_header(number, request, ended=bool(flags & f.END_STREAM))
