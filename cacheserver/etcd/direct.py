"""HTTP/2 on the event loop, for the one gRPC call that is made a thousand times a second: its bytes are made once.

40 us of CPU a call, where grpc.aio takes 200, and 400 on a busy loop, since its thread and the loop wait for each
other's interpreter lock. Knows of HTTP/2 (RFC 9113) and its headers (RFC 7541) what this one call needs. Neither
retries nor explains: after DirectCallError, `client` makes the ordinary call, which does both.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from time import monotonic
from typing import Final, cast
from urllib.parse import urlsplit

from cacheserver.etcd.endpoint import Address, Metadata
from cacheserver.etcd.values import TLSFiles
from cacheserver.security.x509 import outgoing_context

log = logging.getLogger(__name__)

_AGAIN_AFTER_S: Final = 1.0
"""Between two connections, the ordinary call does alone: it must not fail twice each time while etcd is away."""
_WARN_AFTER_S: Final = 10.0
"""When etcd has answered grpc.aio for so long and never this, it is not a restart any more, and a warning is logged."""

# RFC 9113 section 6
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 0x1
_END_HEADERS, _PADDED = 0x4, 0x8
_FRAME_HEAD: Final = 9
_LARGEST_FRAME: Final = 16 << 10  # the default of SETTINGS_MAX_FRAME_SIZE, which we leave
_WINDOW: Final = (1 << 16) - 1  # what we may send at first, as the default is
_GRPC_HEAD: Final = 5  # not compressed, and the message's length in four bytes
# Then a new connection is made: its window for us, 2 GiB, is never renewed, and an answer takes under 100 bytes of it.
_LAST_STREAM: Final = 1 << 24


class DirectCallError(Exception):
    """No answer over this connection; the cause says why."""


class _NotTriedError(DirectCallError):
    """It is too early to connect again, or another call is connecting."""


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return b"".join((len(payload).to_bytes(3, "big"), bytes((kind, flags)), stream.to_bytes(4, "big"), payload))


# Push off, no table of headers (6.5.2: ENABLE_PUSH, HEADER_TABLE_SIZE); as much as fits into the connection's window.
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"".join(
    (
        _frame(_SETTINGS, 0, 0, b"\0\2\0\0\0\0\0\1\0\0\0\0"),
        _frame(_WINDOW_UPDATE, 0, 0, ((1 << 31) - 1 - _WINDOW).to_bytes(4, "big")),
    )
)


def _text(text: str) -> bytes:
    """RFC 7541 section 5.2: a string as it is."""
    raw = text.encode()
    size, rest = bytearray(), len(raw) - 127
    size.append(min(len(raw), 127))
    if rest >= 0:
        while rest > 127:
            size.append(rest & 127 | 128)
            rest >>= 7
        size.append(rest)
    return bytes(size) + raw


def _headers(address: Address, path: str, metadata: Metadata) -> bytes:
    """RFC 7541 section 6.2.2: nothing is indexed, so there is no state to keep in step."""
    host = urlsplit(address.url).netloc or "localhost"
    lines = [
        b"\x83",  # :method POST
        b"\x87" if address.secure else b"\x86",  # :scheme
        b"\x04" + _text(path),
        b"\x01" + _text(host),  # :authority
        b"\x0f\x10" + _text("application/grpc"),  # content-type
        *(b"\x00" + _text(name) + _text(value) for name, value in (("te", "trailers"), *metadata)),
    ]
    return b"".join(lines)


class DirectCall:
    """One call to one endpoint, made again and again over a connection of its own. Connects when needed; close() it,
    for good."""

    def __init__(self, address: Address, tls: TLSFiles, path: str, message: bytes) -> None:
        """path: of the gRPC method. message: the request, serialized; the same each time."""
        self.address = address
        self._tls = tls
        self._path = path
        self._body = b"\0" + len(message).to_bytes(4, "big") + message
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
            self._metadata, self._block = metadata, _headers(self.address, self._path, metadata)
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
            loop, address = asyncio.get_running_loop(), self.address
            if address.url.startswith("unix:"):
                path = address.url.removeprefix("unix:").removeprefix("//")
                _, connection = await loop.create_unix_connection(_Connection, path)
            else:
                parts = urlsplit(address.url)
                # Read anew, as certificates are rotated.
                tls = await asyncio.to_thread(_context, self._tls) if address.secure else None
                _, connection = await loop.create_connection(
                    _Connection, parts.hostname or "", parts.port or 2379, ssl=tls
                )
            if self._closed:  # in the meantime
                connection.close()
                raise DirectCallError("closed")
            self._connection = connection
            return connection
        finally:
            self._connecting = False


def _context(files: TLSFiles) -> ssl.SSLContext:
    context = outgoing_context(ca_file=files.ca)
    if files.cert is not None:
        context.load_cert_chain(files.cert, files.key)
    context.set_alpn_protocols(["h2"])
    return context


class _Connection(asyncio.Protocol):
    """HTTP/2 as far as it takes to ask and be answered. Anything unexpected ends it."""

    def __init__(self) -> None:
        self.usable = True
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._stream = -1
        self._may_send = _WINDOW
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
        self._transport.write(_frame(_HEADERS, _END_HEADERS, stream, block) + _frame(_DATA, _END_STREAM, stream, body))
        try:
            return await future
        finally:
            del self._waiting[stream]

    def close(self) -> None:
        self.usable = False
        if self._transport is not None:
            # Nothing of ours is worth waiting for. close() would wait, for a peer that hangs to take what was written,
            # and over TLS up to 30 s for its goodbye: the connection would outlive its owner, and perhaps the loop.
            self._transport.abort()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        self._transport.write(_PREFACE)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"connection lost: {exc or 'closed by etcd'}")

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= _FRAME_HEAD:
            size = int.from_bytes(buffer[at : at + 3], "big")
            if size > _LARGEST_FRAME:
                self._end("a frame is too large")
                return
            end = at + _FRAME_HEAD + size
            if len(buffer) < end:
                break
            stream = int.from_bytes(buffer[at + 5 : at + _FRAME_HEAD], "big")
            self._take(buffer[at + 3], buffer[at + 4], stream, bytes(buffer[at + _FRAME_HEAD : end]))
            at = end
        del buffer[:at]

    # --- frames ---

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (_DATA, _HEADERS):
            self._answered(kind, flags, stream, payload)
        elif kind == _RST_STREAM and stream in self._waiting:
            self._fail(stream, "etcd ended the stream")
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._may_send += int.from_bytes(payload, "big")
        elif kind in (_SETTINGS, _PING) and not flags & _ACK and self._transport is not None:
            self._transport.write(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind == _GOAWAY:
            self._end("etcd closes the connection")

    def _answered(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if stream not in self._waiting:
            return  # asked by somebody who gave up
        future, body = self._waiting[stream]
        if kind == _DATA:
            if flags & _PADDED:
                self._fail(stream, "padding was not expected")
                return
            body += payload
        if flags & _END_STREAM:
            # A refusal is headers alone. A server sends the one message of a unary call only when it has succeeded.
            message = bytes(body[_GRPC_HEAD:])
            if len(body) < _GRPC_HEAD or body[0] or int.from_bytes(body[1:_GRPC_HEAD], "big") != len(message):
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
        self.close()
        self._transport = None
