"""A watch's two-way stream to etcd, which hands over all that has come since the last turn of the event loop: a sync
that writes 100 objects is 100 messages, and while thousands of watchers are served a turn takes 10 ms. Used by `watch`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from cacheserver.errors import EtcdError, Unavailable
from cacheserver.etcd import etcd_pb2 as pb
from cacheserver.etcd import http2, wire
from cacheserver.etcd.address import Address, Certificates, Metadata
from cacheserver.etcd.faults import error_of
from cacheserver.http2 import frames
from cacheserver.http2.frames import GRPC_HEAD, frame
from cacheserver.http2.grpc import CallError, Code, ending

WINDOW_BYTES: Final = 1 << 20
"""That etcd may send before it is told that they were taken: 300 changes of 3.4 KB, 5 ms of work. Read in one turn and
taken in the next, that is 100 MB/s where a turn takes 10 ms."""
_MESSAGES_A_TURN: Final = 128  # small ones take 10 us each
_STREAM: Final = 1  # the connection has no other
# etcd ends connections that are pinged more often than every 5 s (--grpc-keepalive-min-time).
_PING_EVERY_TICKS: Final = 10
_PONG_WITHIN_TICKS: Final = 5


async def open_stream(
    address: Address, metadata: Metadata, certificates: Certificates, first: pb.WatchRequest, timeout: float
) -> tuple[Stream, Sequence[pb.WatchResponse]]:
    """A stream on which `first` was sent, and what etcd answered so far. Raises: EtcdError, TimeoutError."""
    async with asyncio.timeout(timeout):
        stream = await speak(address, metadata, certificates)
        try:
            await stream.write(first)
            return stream, await stream.read()
        except BaseException:
            stream.cancel()
            raise


async def speak(address: Address, metadata: Metadata, certificates: Certificates) -> Stream:
    """A stream on a connection of its own. Raises: Unavailable."""
    try:
        return await http2.connect(lambda: Stream(address, metadata), address, certificates)
    except (OSError, ValueError, RuntimeError) as exc:
        why = f"cannot connect: {str(exc) or type(exc).__name__}"
        raise Unavailable(f"etcd watch at {address.url}: {why}") from exc


class Stream(http2.Connection):
    """One stream on a connection of its own. Errors are EtcdError."""

    def __init__(self, address: Address, metadata: Metadata) -> None:
        preface = http2.preface(stream_window=WINDOW_BYTES, window=WINDOW_BYTES)
        block = http2.headers(address, wire.WATCH.path, metadata)
        super().__init__(preface + frame(frames.HEADERS, frames.END_HEADERS, _STREAM, block))
        self._url = address.url
        self._failure: EtcdError | None = None
        self._header = b""
        self._body = bytearray()  # of a message that is not whole yet
        self._messages: deque[tuple[bytes, int]] = deque()  # and what to tell etcd once it is taken
        self._arrived = asyncio.Event()
        self._told = 0  # bytes of _body that etcd was told of already
        self._taken = 0  # bytes that it was not told of yet
        self._may_send = self._may_send_here = frames.WINDOW  # on the connection, on the stream
        self._initial = frames.WINDOW
        self._room = asyncio.Event()
        self._ticks = 0
        self._ping: int | None = None  # the tick of a ping that was not answered yet

    async def write(self, request: pb.WatchRequest) -> None:
        """Waits while etcd takes nothing. Raises: EtcdError."""
        body = frames.grpc_message(wire.WATCH.serialize(request))  # far under 16 KiB: one frame
        while not self._failure and min(self._may_send, self._may_send_here) < len(body):
            self._room.clear()
            await self._room.wait()
        if self._transport is None or self._failure:
            raise self._over()
        self._may_send -= len(body)
        self._may_send_here -= len(body)
        self._say(frame(frames.DATA, 0, _STREAM, body))

    async def read(self) -> Sequence[pb.WatchResponse]:
        """All messages that have come, but so many that a turn of the loop stays short. Raises: EtcdError when the
        stream has ended."""
        if self._messages:  # left by the last call
            await asyncio.sleep(0)
        while not self._messages:
            if self._failure:
                raise self._over()
            self._arrived.clear()
            await self._arrived.wait()
        taken: list[pb.WatchResponse] = []
        while self._messages and len(taken) < _MESSAGES_A_TURN:
            message, cost = self._messages.popleft()
            self._taken += cost
            taken.append(wire.WATCH.parse(message))
        self._tell()
        return taken

    def tick(self) -> None:
        """Said once a second by a watch that etcd does not answer: look whether the connection is alive."""
        self._ticks += 1
        if self._ping is None and self._ticks % _PING_EVERY_TICKS == 0:
            self._ping = self._ticks
            self._say(frame(frames.PING, 0, 0, bytes(8)))
        elif self._ping is not None and self._ticks - self._ping >= _PONG_WITHIN_TICKS:
            self._end("no sign of life on the connection")

    def cancel(self) -> None:
        """Ends it; who reads is told."""
        self._end("closed")

    # --- frames ---

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.DATA and stream == _STREAM:
            if flags & frames.PADDED:
                self._end("padding was not expected")
                return
            self._body += payload
            self._split_messages()
            self._tell()
        elif kind == frames.WINDOW_UPDATE:
            self._more_room(stream, int.from_bytes(payload, "big"))
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            self._set(payload)
            super()._take(kind, flags, stream, payload)
        elif kind == frames.PING and flags & frames.ACK:
            self._ping = None
        elif kind == frames.RST_STREAM:
            self._end("etcd ended the stream")
        elif kind == frames.HEADERS and not flags & frames.END_STREAM:
            self._header = payload
        elif kind != frames.HEADERS:
            super()._take(kind, flags, stream, payload)
        if kind in (frames.DATA, frames.HEADERS) and flags & frames.END_STREAM:
            self._ended(payload if kind == frames.HEADERS else b"")

    def _ended(self, trailers: bytes) -> None:
        code, details = ending(self._header, trailers)
        if code is not Code.OK and self._failure is None:
            self._failure = error_of(CallError(code, details), operation="watch", endpoint=self._url)
        self._end("etcd ended the stream")

    def _split_messages(self) -> None:
        body = self._body
        while len(body) >= GRPC_HEAD:
            if body[0]:
                self._end("a message is compressed")
                return
            end = GRPC_HEAD + int.from_bytes(body[1:GRPC_HEAD], "big")
            if len(body) < end:
                return
            self._messages.append((bytes(body[GRPC_HEAD:end]), end - self._told))
            self._told = 0
            del body[:end]
            self._arrived.set()

    def _tell(self) -> None:
        """Tell etcd what it may send more, a quarter of the window at a time. While nobody takes what is whole, nothing
        is told, and etcd waits; of a message larger than the window the parts are, since it cannot be taken before."""
        partial = 0 if self._messages else len(self._body) - self._told
        if self._taken + partial < WINDOW_BYTES // 4 or self._transport is None:
            return
        more = (self._taken + partial).to_bytes(4, "big")
        self._taken, self._told = 0, self._told + partial
        self._say(frame(frames.WINDOW_UPDATE, 0, 0, more) + frame(frames.WINDOW_UPDATE, 0, _STREAM, more))

    def _more_room(self, stream: int, more: int) -> None:
        if stream == 0:
            self._may_send += more
        elif stream == _STREAM:
            self._may_send_here += more
        self._room.set()

    def _set(self, settings: bytes) -> None:
        """RFC 9113 section 6.9.2: a new initial window changes that of streams that are open, too."""
        for name, size in frames.read_settings(settings):
            if name == frames.INITIAL_WINDOW_SIZE:
                self._may_send_here += size - self._initial
                self._initial = size
                self._room.set()

    def _end(self, why: str) -> None:
        self._failure = self._failure or Unavailable(f"etcd watch at {self._url}: {why}")
        super()._end(why)
        self._arrived.set()
        self._room.set()

    def _over(self) -> EtcdError:
        """Why, made anew for each who asks."""
        why = self._failure
        return type(why)(str(why)) if why is not None else Unavailable(f"etcd watch at {self._url}: closed")
