"""A watch's two-way stream to etcd. Spoken directly, which hands over all that has come; else through grpc.aio.

Through grpc.aio each message takes two turns of the event loop and a change of threads: a sync that writes 100 objects
is 100 messages, and while thousands of watchers are served a turn takes 10 ms. Directly, what has come since the last
turn is one piece. Whatever is no answer there, the ordinary way asks again, and explains. Used by `watch`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol, cast

import grpc
import grpc.aio

from cacheserver.errors import EtcdError, Unavailable
from cacheserver.etcd import etcd_pb2 as pb
from cacheserver.etcd import http2, wire
from cacheserver.etcd.endpoint import Address, Endpoint, Metadata, StreamCall
from cacheserver.etcd.faults import error_of
from cacheserver.etcd.http2 import DirectCallError
from cacheserver.etcd.transport import Transport
from cacheserver.etcd.values import TLSFiles
from cacheserver.http2 import frames
from cacheserver.http2.frames import GRPC_HEAD, frame

log = logging.getLogger(__name__)

WINDOW_BYTES: Final = 1 << 20
"""That etcd may send before it is told that they were taken: 300 changes of 3.4 KB, 5 ms of work. Read in one turn and
taken in the next, that is 100 MB/s where a turn takes 10 ms."""
_MESSAGES_A_TURN: Final = 128  # small ones take 10 us each
_STREAM: Final = 1  # the connection has no other
# As gRPC's keep-alive (endpoint._OPTIONS): etcd ends connections that are pinged more often than every 5 s.
_PING_EVERY_TICKS: Final = 10
_PONG_WITHIN_TICKS: Final = 5
# Of the time to open a watch the direct way may take one part in four; the rest is for the ordinary one.
_DIRECT_SHARE: Final = 4


class Stream(Protocol):
    """What a watch speaks over. Errors are EtcdError."""

    async def write(self, request: pb.WatchRequest) -> None:
        """Waits while etcd takes nothing. Raises: EtcdError."""

    async def read(self) -> Sequence[pb.WatchResponse]:
        """The next message, or all that have come, but so many that a turn of the loop stays short.

        Raises: EtcdError when the stream has ended.
        """
        ...

    def tick(self) -> None:
        """Said once a second by a watch that etcd does not answer: look whether the connection is alive."""

    def stays(self) -> bool:
        """Whether the connection is there and etcd takes more questions on it, see Endpoint.stays."""
        ...

    def cancel(self) -> None:
        """Ends it; who reads is told."""


async def open_stream(
    transport: Transport, endpoint: Endpoint, first: pb.WatchRequest, metadata: Metadata, timeout: float
) -> tuple[Stream, Sequence[pb.WatchResponse]]:
    """A stream on which `first` was sent, and what etcd answered so far. Raises: EtcdError, TimeoutError."""
    async with asyncio.timeout(timeout):
        try:
            async with asyncio.timeout(timeout / _DIRECT_SHARE):
                begun = await _begun(await speak(endpoint.address, metadata, transport.tls), first)
        except (OSError, ValueError, DirectCallError, EtcdError) as exc:  # TimeoutError is an OSError
            why = str(exc) or type(exc).__name__
        else:
            endpoint.indirect = False
            return begun
        begun = await _begun(_Ordinary(endpoint, metadata), first)
        if not endpoint.indirect:
            endpoint.indirect = True
            log.warning(
                "etcd's watch cannot be read in the quick way, so each change costs ten times the processor time;"
                " the ordinary way works",
                extra={"endpoint": endpoint.address.url, "error": why},
            )
        return begun


async def _begun(stream: Stream, first: pb.WatchRequest) -> tuple[Stream, Sequence[pb.WatchResponse]]:
    try:
        await stream.write(first)
        return stream, await stream.read()
    except BaseException:
        stream.cancel()
        raise


async def speak(address: Address, metadata: Metadata, tls: TLSFiles) -> Stream:
    """A stream that is spoken directly, on a connection of its own. Raises: OSError, ValueError."""
    return await http2.connect(lambda: _Direct(address, metadata), address, tls)


class _Ordinary:
    """Through grpc.aio."""

    def __init__(self, endpoint: Endpoint, metadata: Metadata) -> None:
        self._url = endpoint.address.url
        self._stays = endpoint.stays()
        self._call: StreamCall[pb.WatchRequest, pb.WatchResponse] = endpoint.stream(wire.WATCH, metadata)

    async def write(self, request: pb.WatchRequest) -> None:
        try:
            await self._call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as exc:
            raise Unavailable(f"etcd watch at {self._url}: the stream takes no request") from exc

    async def read(self) -> Sequence[pb.WatchResponse]:
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as exc:
            raise error_of(exc.code(), exc.details() or "", operation="watch", endpoint=self._url) from exc
        if response is grpc.aio.EOF:
            raise Unavailable(f"etcd watch at {self._url}: the stream ended")
        return (cast("pb.WatchResponse", response),)

    def tick(self) -> None:
        """gRPC's keep-alive looks by itself."""

    def stays(self) -> bool:
        return self._stays()

    def cancel(self) -> None:
        self._call.cancel()


class _Direct(http2.Connection):
    """One stream on a connection of its own."""

    def __init__(self, address: Address, metadata: Metadata) -> None:
        preface = http2.preface(stream_window=WINDOW_BYTES, window=WINDOW_BYTES)
        block = http2.headers(address, wire.WATCH.path, metadata)
        super().__init__(preface + frame(frames.HEADERS, frames.END_HEADERS, _STREAM, block))
        self._url = address.url
        self._why = ""
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
        body = frames.grpc_message(wire.WATCH.serialize(request))  # far under 16 KiB: one frame
        while not self._why and min(self._may_send, self._may_send_here) < len(body):
            self._room.clear()
            await self._room.wait()
        if self._transport is None or self._why:
            raise self._unavailable()
        self._may_send -= len(body)
        self._may_send_here -= len(body)
        self._transport.write(frame(frames.DATA, 0, _STREAM, body))

    async def read(self) -> Sequence[pb.WatchResponse]:
        if self._messages:  # left by the last call
            await asyncio.sleep(0)
        while not self._messages:
            if self._why:
                raise self._unavailable()
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
        self._ticks += 1
        if self._ping is None and self._ticks % _PING_EVERY_TICKS == 0 and self._transport is not None:
            self._ping = self._ticks
            self._transport.write(frame(frames.PING, 0, 0, bytes(8)))
        elif self._ping is not None and self._ticks - self._ping >= _PONG_WITHIN_TICKS:
            self._end("no sign of life on the connection")

    def stays(self) -> bool:
        return self.usable

    def cancel(self) -> None:
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
        else:
            super()._take(kind, flags, stream, payload)
        if kind in (frames.DATA, frames.HEADERS) and flags & frames.END_STREAM:
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
        self._transport.write(frame(frames.WINDOW_UPDATE, 0, 0, more) + frame(frames.WINDOW_UPDATE, 0, _STREAM, more))

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
        self._why = self._why or why
        super()._end(why)
        self._arrived.set()
        self._room.set()

    def _unavailable(self) -> Unavailable:
        return Unavailable(f"etcd watch at {self._url}: {self._why}")
