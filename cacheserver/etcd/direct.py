"""The one gRPC call that is made a thousand times a second, over HTTP/2 on the event loop: its bytes are made once.

40 us of CPU a call, where grpc.aio takes 200, and 400 on a busy loop, since its thread and the loop wait for each
other's interpreter lock. Neither retries nor explains: after DirectCallError, `client` makes the ordinary call, which
does both.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Final

from cacheserver.etcd import http2
from cacheserver.etcd.endpoint import Address, Metadata
from cacheserver.etcd.http2 import DirectCallError
from cacheserver.etcd.values import TLSFiles
from cacheserver.http2 import frames
from cacheserver.http2.frames import GRPC_HEAD, frame

log = logging.getLogger(__name__)

_AGAIN_AFTER_S: Final = 1.0
"""Between two connections, the ordinary call does alone: it must not fail twice each time while etcd is away."""
_WARN_AFTER_S: Final = 10.0
"""When etcd has answered grpc.aio for so long and never this, it is not a restart any more, and a warning is logged."""

# Then a new connection is made: its window for us, 2 GiB, is never renewed, and an answer takes under 100 bytes of it.
_LAST_STREAM: Final = 1 << 24
# As much as fits into the connection's window; each stream is one small answer.
_PREFACE: Final = http2.preface(stream_window=frames.WINDOW, window=(1 << 31) - 1)


class _NotTriedError(DirectCallError):
    """It is too early to connect again, or another call is connecting."""


class DirectCall:
    """One call to one endpoint, made again and again over a connection of its own. Connects when needed; close() it,
    for good."""

    def __init__(self, address: Address, tls: TLSFiles, path: str, message: bytes) -> None:
        """path: of the gRPC method. message: the request, serialized; the same each time."""
        self.address = address
        self._tls = tls
        self._path = path
        self._body = frames.grpc_message(message)
        self._connection: _Connection | None = None
        self._connecting = self._closed = False
        self._tried_at = float("-inf")
        self._metadata: Metadata | None = None
        self._block = b""
        self._missed_since: float | None = None
        self._why = ""
        self._warned = False

    async def ask(self, metadata: Metadata, timeout_s: float) -> bytes:
        """The answer, serialized. metadata: gRPC's, sent as headers.

        Raises: DirectCallError, at once when there is no connection and it is too early to try another.
        """
        if metadata is not self._metadata:
            self._metadata, self._block = metadata, http2.headers(self.address, self._path, metadata)
        try:
            async with asyncio.timeout(timeout_s):
                connection = self._connection
                if connection is None or not connection.usable:
                    connection = await self._connect()
                return await connection.ask(self._block, self._body)
        except (OSError, ValueError, DirectCallError) as exc:  # TimeoutError is an OSError
            self._hang_up()
            raise DirectCallError(str(exc) or type(exc).__name__) from exc

    @property
    def missed(self) -> bool:
        """Whether grpc.aio was called instead since the last `found`."""
        return self._missed_since is not None

    def found(self) -> None:
        """An answer came this way again."""
        if self._warned:
            log.info("etcd answers in the quick way again", extra={"endpoint": self.address.url})
        self._missed_since, self._warned = None, False

    def passed_over(self, why: Exception, *, answered: bool) -> None:
        """grpc.aio was called instead. answered: etcd answered it, so the fault is this connection's."""
        now = monotonic()
        if not isinstance(why.__cause__, _NotTriedError):
            self._why = str(why) or type(why).__name__
        if not answered or self._missed_since is None:
            self._missed_since = now
        elif not self._warned and now - self._missed_since >= _WARN_AFTER_S:
            self._warned = True
            log.warning(
                "etcd never answers in the quick way, so each consistent read costs five times the processor time;"
                " the ordinary way works",
                extra={"endpoint": self.address.url, "error": self._why},
            )

    def close(self) -> None:
        """Ends the connection, also one that is just being made; nothing is called any more."""
        self._closed = True
        self._hang_up()

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    async def _connect(self) -> _Connection:
        if self._closed or self._connecting or monotonic() - self._tried_at < _AGAIN_AFTER_S:
            raise _NotTriedError("not connected")
        self._connecting, self._tried_at = True, monotonic()
        try:
            self._hang_up()
            connection = await http2.connect(_Connection, self.address, self._tls)
            if self._closed:  # in the meantime
                connection.close()
                raise DirectCallError("closed")
            self._connection = connection
            return connection
        finally:
            self._connecting = False


class _Connection(http2.Connection):
    """As far as it takes to ask and be answered."""

    def __init__(self) -> None:
        super().__init__(_PREFACE)
        self._stream = -1
        self._may_send = frames.WINDOW
        self._waiting: dict[int, tuple[asyncio.Future[bytes], bytearray]] = {}

    async def ask(self, block: bytes, body: bytes) -> bytes:
        """Raises: DirectCallError."""
        self._stream += 2
        stream = self._stream
        self.usable = self.usable and stream < _LAST_STREAM
        self._may_send -= len(body)
        if self._transport is None or self._may_send < 0:
            raise DirectCallError("etcd takes nothing")
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[stream] = future, bytearray()
        self._transport.write(
            frame(frames.HEADERS, frames.END_HEADERS, stream, block)
            + frame(frames.DATA, frames.END_STREAM, stream, body)
        )
        try:
            return await future
        finally:
            del self._waiting[stream]

    # --- frames ---

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (frames.DATA, frames.HEADERS):
            self._answered(kind, flags, stream, payload)
        elif kind == frames.RST_STREAM and stream in self._waiting:
            self._fail(stream, "etcd ended the stream")
        elif kind == frames.WINDOW_UPDATE and stream == 0:
            self._may_send += int.from_bytes(payload, "big")
        else:
            super()._take(kind, flags, stream, payload)

    def _answered(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if stream not in self._waiting:
            return  # asked by somebody who gave up
        future, body = self._waiting[stream]
        if kind == frames.DATA:
            if flags & frames.PADDED:
                self._fail(stream, "padding was not expected")
                return
            body += payload
        if flags & frames.END_STREAM:
            # A refusal is headers alone. A server sends the one message of a unary call only when it has succeeded.
            message = bytes(body[GRPC_HEAD:])
            if len(body) < GRPC_HEAD or body[0] or int.from_bytes(body[1:GRPC_HEAD], "big") != len(message):
                self._fail(stream, "no message in the answer")
            elif not future.done():
                future.set_result(message)

    def _fail(self, stream: int, why: str) -> None:
        future, _ = self._waiting[stream]
        if not future.done():
            future.set_exception(DirectCallError(why))

    def _end(self, why: str) -> None:
        for stream in self._waiting:
            self._fail(stream, why)
        super()._end(why)
