"""Writing answers: complete ones in one go, streams chunk by chunk. The only place that writes HTTP headers.

aiohttp's own responses spend most of a small request's time on header objects; these write ready bytes to the
transport (measured, loopback, 3.4 KB body: 65,000 answers/s against 39,000 with web.Response).
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from email.utils import formatdate
from enum import Enum
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import StreamResponse

from cacheserver.api.http import pack
from cacheserver.api.http.pack import Packed
from cacheserver.api.status import StatusError
from cacheserver.slotted import slotted

CHUNK_BYTES: Final = 512 << 10
"""A larger body is handed to the transport in slices of this, each after the last was taken."""

# Over TLS each slice is copied three times, and OpenSSL's copy never shrinks: every connection keeps a third more than
# its largest. To send 17 MB and do nothing else takes 16.0 ms of CPU in slices of 32 KiB, 14.6 in 48, 14.3 in 64 and
# 14.1 in 80. Watchers are thousands, and are seldom sent so much; who lists is one of hundreds.
_TLS_CHUNK_BYTES: Final = 32 << 10
_TLS_WHOLE_CHUNK_BYTES: Final = 48 << 10

JSON: Final = "application/json"
YAML: Final = "application/yaml"
TEXT: Final = "text/plain; charset=utf-8"
NO_CACHE: Final = "no-cache, private"  # k8s.io/apiserver/pkg/endpoints/filters/cachecontrol.go

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_NOT_MODIFIED: Final = HTTPStatus.NOT_MODIFIED.value
_AUDIT_ID: Final = re.compile(r"[!-~]{1,64}\Z")
_STALL_S: Final = 60.0  # ours: a client that takes no byte for so long is gone, or holds our memory for nothing
UNSENT_BYTES: Final = 64 << 10
"""Written and not taken yet, of one connection; with more an answer waits, and what was asked behind it."""

_JOIN_BELOW: Final = 64 << 10  # bodies under this go out in one write with their headers


class _Date:
    """The Date header line, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._line = f"Date: {formatdate(now, usegmt=True)}\r\n".encode()
        return self._line


_date = _Date()
_audit_prefix = str(uuid.uuid4())[:24].encode()
_audit_count = itertools.count(int.from_bytes(uuid.uuid4().bytes[:5], "big"))


def audit_id(request: BaseRequest) -> bytes:
    """A header line: the request's, or a new one in the form of a UUID: the process's random part and a count."""
    given = request.headers.get("Audit-Id")
    if given is not None and _AUDIT_ID.match(given):
        return f"Audit-Id: {given}\r\n".encode()
    return b"Audit-Id: %b%012x\r\n" % (_audit_prefix, next(_audit_count) & 0xFFFFFFFFFFFF)


def header(name: str, value: str) -> bytes:
    """One header line. `value` must be ours, or checked: nothing is escaped here."""
    return f"{name}: {value}\r\n".encode()


GZIPPED: Final = header("Content-Encoding", "gzip") + header("Vary", "Accept-Encoding")
"""Of a body that is compressed because its client takes it so."""


def warning(text: str) -> bytes:
    """RFC 7234 warning, as kube sends it (k8s.io/apimachinery/pkg/util/net/http.go)."""
    return header("Warning", f'299 - "{text}"')


def served_from_memory(silent_s: float) -> bytes:
    """The warning of an answer that was made while etcd was away. silent_s: since it was last heard from."""
    return warning(f"served from memory: etcd has not been heard from for {silent_s:.0f} s, this may be out of date")


@lru_cache(maxsize=256)
def _fixed_lines(status: int, content_type: str, cache_control: str) -> bytes:
    """Status line and the headers that repeat."""
    lines = _STATUS_LINES[status] + header("Cache-Control", cache_control)
    return lines + header("Content-Type", content_type) if content_type else lines


def _connection(request: BaseRequest, *, framed: bool) -> bytes:
    """framed: the body's end is known before the connection ends."""
    if not request.keep_alive or not framed:
        return b"Connection: close\r\n"
    return b"" if request.version >= HttpVersion11 else b"Connection: keep-alive\r\n"


class Reply(StreamResponse):  # aiohttp wants one returned; all it calls is overridden here
    """A complete answer of known size.

    parts: the body in pieces, read once and lazily; `size` is their sum. A HEAD request gets the headers only.
    extra: ready header lines.
    """

    def __init__(
        self,
        status: int,
        parts: Iterable[bytes] = (),
        size: int = 0,
        *,
        content_type: str = JSON,
        cache_control: str = NO_CACHE,
        extra: bytes = b"",
    ) -> None:
        # Not the parent's: it makes header and state dictionaries that nobody reads, a tenth of a small request.
        self._status = status
        self._parts = parts
        self.size = size
        self.extra = extra
        self._type = content_type
        self._cache_control = cache_control
        self._request: BaseRequest | None = None

    @property
    def keep_alive(self) -> bool:
        """For aiohttp: whether the connection goes on behind this answer."""
        return self._request is not None and self._request.keep_alive

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """As start(). Called by aiohttp when the handler has returned this."""
        self.start(request)
        return None

    def start(self, request: BaseRequest) -> bool:
        """Write everything that fits one write. True: nothing is left to write, or to wait for.

        Raises ConnectionResetError when the client is gone. Nothing happens when it was called before.
        """
        if self._request is not None:
            return True
        self._request = request
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client went away before it was answered")
        body: Iterable[bytes] = ()
        if request.method == "HEAD":
            self._parts = ()
        elif self.size < _JOIN_BELOW:
            body, self._parts = self._parts, ()
        pieces = (
            _fixed_lines(self._status, self._type, self._cache_control),
            audit_id(request),
            _date.line(),
            self.extra,
            _connection(request, framed=True),
            b"\r\n" if self._status == _NOT_MODIFIED else b"Content-Length: %d\r\n\r\n" % self.size,
            *body,
        )
        transport.write(b"".join(pieces))
        if self._parts:
            request.writer.output_size = 1  # what fails from here on breaks off
            return False
        return not request.protocol.writing_paused

    async def send(self, request: BaseRequest) -> None:
        """Write all of it, as fast as the client takes it; aiohttp finds nothing left to do."""
        if not self.start(request):
            await self.rest()

    async def rest(self) -> None:
        """What start() left."""
        await self.write_eof()
        self._parts = ()

    async def write_eof(self, data: bytes = b"") -> None:
        """Write the rest, as fast as the client takes it."""
        request = self._request
        if request is None:
            return
        if not self._parts:
            # However small: a client that asks on and on and takes no answer would pile them up.
            if request.protocol.writing_paused:
                await _drain(request)
            return
        transport = _open_transport(request)
        unyielding = 0  # bytes
        for part in self._parts:
            for piece in _slices(transport, part, _TLS_WHOLE_CHUNK_BYTES):
                _open_transport(request).write(piece)
                unyielding += len(piece)
                if request.protocol.writing_paused:
                    await _drain(request)
                elif unyielding >= CHUNK_BYTES:
                    await asyncio.sleep(0)  # a client as fast as we are must not keep the loop to itself
                else:
                    continue
                unyielding = 0


async def _drain(request: BaseRequest) -> None:
    """Wait until the client has taken what was written. Raises ConnectionResetError when it takes nothing for long."""
    try:
        async with asyncio.timeout(_STALL_S):
            await request.writer.drain()
    except TimeoutError as exc:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client takes nothing") from exc


def _open_transport(request: BaseRequest) -> asyncio.Transport:
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client went away")
    return transport


def _slices(
    transport: asyncio.Transport, data: bytes, secure_bytes: int = _TLS_CHUNK_BYTES
) -> Iterable[bytes | memoryview]:
    """`data` in pieces for one write each; over TLS of secure_bytes."""
    if len(data) <= secure_bytes:
        return (data,)
    step = CHUNK_BYTES if transport.get_extra_info("sslcontext") is None else secure_bytes
    view = memoryview(data)
    return [view[at : at + step] for at in range(0, len(view), step)]


class Framing(Enum):
    """How pieces of a stream are told apart on the wire."""

    NONE = "none"
    CHUNKS = "chunks"
    """Of HTTP/1.1; several pieces are one."""
    FRAMES = "frames"
    """Of WebSocket; each piece is a text frame."""
    GZIP = "gzip"
    """Chunks again, of one gzip member: each ends on a byte, and is understood at once."""


@slotted(frozen=True)
class Framed:
    """Some pieces as a stream takes them: `data` goes onto the wire. size: of the pieces; crc: theirs, for gzip."""

    data: bytes
    size: int
    crc: int = 0


class Stream(StreamResponse):
    """An answer that is written while it is made: headers sent at once, chunked unless its length is known.

    Whoever holds it writes, then ends it; an error in between leaves the connection broken off, which the client
    can distinguish from a clean end. A HEAD request gets the headers only; HTTP/1.0 gets plain bytes and a
    closed connection.
    """

    def __init__(
        self,
        request: BaseRequest,
        *,
        content_type: str = JSON,
        cache_control: str = NO_CACHE,
        status: int = 200,
        length: int | None = None,
    ) -> None:
        """length: of the body, where it is known; so much has to be written, or the connection broken off."""
        super().__init__(status=status)
        self._length = length
        self._request = request
        self._protocol = request.protocol
        self._type = content_type
        self._cache_control = cache_control
        self._chunked = request.version >= HttpVersion11 and length is None
        self.framing = Framing.CHUNKS if self._chunked else Framing.NONE
        self.leave: Callable[[], None] = lambda: None
        """To be called when the client says that it wants no more; whoever writes this stream sets it."""
        self.is_head = request.method == "HEAD"
        self.started = False
        self.size = 0

    @property
    def keep_alive(self) -> bool:
        """For aiohttp: whether the connection goes on; not where only its end marks the end of the body."""
        return self._framed and self._request.keep_alive

    @property
    def _framed(self) -> bool:
        return self._chunked or self._length is not None

    def start(self, extra: bytes = b"") -> None:
        """Send the headers. Raises ConnectionResetError when the client is gone, as every write does."""
        self.started = True
        framing = b"Transfer-Encoding: chunked\r\n" if self._chunked else b""
        if self._length is not None:
            framing = b"Content-Length: %d\r\n" % self._length
        head = b"%b%b%b%b%b%b\r\n" % (
            _fixed_lines(self.status, self._type, self._cache_control),
            audit_id(self._request),
            _date.line(),
            extra,
            _connection(self._request, framed=self._framed),
            framing,
        )
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client went away")
        transport.write(head)
        self._request.writer.output_size = 1  # for aiohttp: it cannot send an error page any more

    def write_now(self, framed: Framed) -> bool:
        """Write what framed() made, without waiting. False: the client is gone, or does not take it now: drain()."""
        protocol = self._protocol
        transport = protocol.transport
        if transport is None or transport.is_closing():
            return False
        if not self.is_head:
            for piece in _slices(transport, framed.data):
                transport.write(piece)
        return not protocol.writing_paused

    async def drain(self) -> None:
        """Wait while the client does not take what was written."""
        if self._protocol.transport is None or self._protocol.transport.is_closing():
            raise ConnectionResetError("the client went away")
        if self._protocol.writing_paused:
            await _drain(self._request)

    async def send(self, framed: Framed) -> None:
        """Write what framed() made, and wait while the client does not take it."""
        self.size += len(framed.data)
        if not self.write_now(framed):
            await self.drain()

    async def write(self, *pieces: bytes | bytearray | memoryview) -> None:
        """Write the pieces as one, and wait while the client does not take it."""
        if any(pieces):
            await self.send(framed(pieces, self.framing))

    def end(self, *, going_away: bool = False) -> None:
        """The clean last chunk; nothing happens when the client has gone. going_away: the server stops."""
        transport = self._request.transport
        if self._chunked and not self.is_head and transport is not None and not transport.is_closing():
            transport.write(b"0\r\n\r\n")

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Nothing: start() has sent the headers. Called by aiohttp when the handler has returned this."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing: end() has ended it. Called by aiohttp when the handler has returned this."""
        return


class Gzipped(Stream):
    """A stream of one gzip member, made of what others share: it keeps its own checksum and length for the end."""

    def __init__(self, request: BaseRequest) -> None:
        """request: of HTTP/1.1."""
        super().__init__(request)
        self.framing = Framing.GZIP
        self._member = pack.Member()

    def start(self, extra: bytes = b"") -> None:
        """As any stream; the member begins at once, so that a client's decoder is ready for the first event."""
        super().start(GZIPPED + extra)
        super().write_now(Framed(_chunk(self._member.begin()), 0))

    def write_now(self, framed: Framed) -> bool:
        """As any stream."""
        self._member.add(framed.crc, framed.size)
        return super().write_now(framed)

    def end(self, *, going_away: bool = False) -> None:
        """The member's end in front of the clean last chunk."""
        super().write_now(Framed(_chunk(self._member.end()), 0))
        super().end(going_away=going_away)


_PACK_ABOVE: Final = 16 << 10
_PACK_FOR: Final = 4
"""Streams that share some pieces of gzip, or bytes of them, from which on they are compressed. Compressing 3.4 KB takes
as long as three TLS connections save by it; what is large goes to one alone, too: its wire may be what is slow."""


def framed(pieces: Sequence[bytes | bytearray | memoryview], framing: Framing, *, readers: int = 1) -> Framed:
    """The pieces as a stream takes them: one chunk, or each a frame of text. readers: streams that are to share it."""
    size = sum(map(len, pieces))
    if framing is Framing.CHUNKS:
        return Framed(b"".join((b"%x\r\n" % size, *pieces, b"\r\n")), size)
    if framing is Framing.FRAMES:
        return Framed(b"".join(part for piece in pieces for part in (_frame_head(len(piece)), piece)), size)
    text = b"".join(pieces)
    if framing is Framing.GZIP:
        worth = size >= _PACK_ABOVE or readers >= _PACK_FOR
        return gzipped(pack.pack((text,)) if worth else (pack.stored(text), pack.FLUSH))
    return Framed(text, size)


def gzipped(pieces: Sequence[Packed]) -> Framed:
    """Ready pieces as a stream of Framing.GZIP takes them: one chunk."""
    joined = pieces[0] if len(pieces) == 1 else pack.join(pieces, pack.NOTHING)
    return Framed(_chunk(joined.deflated), joined.size, joined.crc)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _frame_head(size: int) -> bytes:
    """Of a whole, unmasked message of text (RFC 6455, section 5.2)."""
    if size < 126:  # what seven bits say is the size, or how many bytes of it follow
        return bytes((0x81, size))
    if size < 1 << 16:
        return b"\x81\x7e" + size.to_bytes(2, "big")
    return b"\x81\x7f" + size.to_bytes(8, "big")


def whole(body: bytes, *, status: int = 200, content_type: str = JSON, extra: bytes = b"") -> Reply:
    """A small answer, already in memory."""
    return Reply(status, (body,), len(body), content_type=content_type, extra=extra)


def refusal(error: StatusError, body: bytes, *, content_type: str = JSON) -> Reply:
    """The answer for a refusal; `body` is its Status as the client wants to read it."""
    return Reply(error.code, (body,), len(body), content_type=content_type, extra=error.headers())
