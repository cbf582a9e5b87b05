"""A client's side of HTTP/2, as much of it as it takes to speak with etcd (RFC 9113).

A connection that splits what comes into frames; what they mean its subclasses know: `direct` asks one question again
and again, `stream` reads a watch. Never retries: whoever opened it does, or calls in the ordinary way.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, TypeVar, cast
from urllib.parse import urlsplit

from cacheserver.etcd.endpoint import Address, Metadata
from cacheserver.etcd.values import TLSFiles
from cacheserver.http2.frames import (
    ACK,
    GOAWAY,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW,
    FrameTooLargeError,
    field,
    frame,
    settings,
    split,
    string,
    window_update,
)
from cacheserver.security.x509 import outgoing_context

_FRAMES_A_TURN: Final = 512  # small ones take 2 us each; while the rest waits, nothing more is read


class DirectCallError(Exception):
    """No answer over this connection; the cause says why."""


def preface(*, stream_window: int, window: int) -> bytes:
    """What a client says first. Push off, no table of headers (6.5.2).

    stream_window, window: bytes that etcd may send on a stream, and on all of them, before it is told of more.
    """
    said = settings(enable_push=0, header_table_size=0, initial_window_size=stream_window)
    return PREFACE + said + window_update(0, window - WINDOW)


def headers(address: Address, path: str, metadata: Metadata) -> bytes:
    """Of a call; RFC 7541 section 6.2.2: nothing is indexed, so there is no state to keep in step."""
    host = urlsplit(address.url).netloc or "localhost"
    lines = [
        b"\x83",  # :method POST
        b"\x87" if address.secure else b"\x86",  # :scheme
        b"\x04" + string(path.encode()),
        b"\x01" + string(host.encode()),  # :authority
        b"\x0f\x10" + string(b"application/grpc"),  # content-type
        *(field(name.encode(), value.encode()) for name, value in (("te", "trailers"), *metadata)),
    ]
    return b"".join(lines)


class Connection(asyncio.Protocol):
    """Frames in, a few at a time. Anything unexpected ends it."""

    def __init__(self, begin: bytes) -> None:
        """begin: what is said first."""
        self.usable = True
        self._begin = begin
        self._buffer = bytearray()
        self._resting = False
        self._transport: asyncio.Transport | None = None

    def close(self) -> None:
        """Nothing more is sent or taken."""
        self.usable = False
        if self._transport is not None:
            # Nothing of ours is worth waiting for. close() would wait, for a peer that hangs to take what was written,
            # and over TLS up to 30 s for its goodbye: the connection would outlive its owner, and perhaps the loop.
            self._transport.abort()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        self._transport.write(self._begin)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whichever side."""
        self._end(f"connection lost: {exc or 'closed by etcd'}")

    def data_received(self, data: bytes) -> None:
        """Bytes of frames, split anywhere."""
        self._buffer += data
        if not self._resting:
            self._split()

    def _split(self) -> None:
        """The whole frames of the buffer; if they are many, the others are left for the next turn of the loop."""
        try:
            more = split(self._buffer, self._hand, _FRAMES_A_TURN)
        except FrameTooLargeError:
            self._end("a frame is too large")
            return
        if more:
            self._rest()

    def _hand(self, kind: int, flags: int, stream: int, payload: bytes) -> bool:
        if self._transport is not None:
            self._take(kind, flags, stream, payload)
        return self._transport is not None

    def _rest(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._resting = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._resting = False
        self._split()
        if not self._resting and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # --- said by subclasses ---

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """One frame; here those that are of the connection."""
        if kind in (SETTINGS, PING) and not flags & ACK and self._transport is not None:
            self._transport.write(frame(kind, ACK, 0, payload if kind == PING else b""))
        elif kind == GOAWAY:
            self._end("etcd closes the connection")

    def _end(self, why: str) -> None:
        """It is over; tell who waits, then `super()._end`."""
        self.close()
        self._transport = None


C = TypeVar("C", bound=Connection)


async def connect(make: Callable[[], C], address: Address, tls: TLSFiles) -> C:
    """A connection to this address. tls: read anew, as certificates are rotated. Raises: OSError, ValueError."""
    loop = asyncio.get_running_loop()
    if address.url.startswith("unix:"):
        path = address.url.removeprefix("unix:").removeprefix("//")
        _, connection = await loop.create_unix_connection(make, path)
    else:
        parts = urlsplit(address.url)
        context = await asyncio.to_thread(_context, tls) if address.secure else None
        _, connection = await loop.create_connection(make, parts.hostname or "", parts.port or 2379, ssl=context)
    return connection


def _context(files: TLSFiles) -> ssl.SSLContext:
    context = outgoing_context(ca_file=files.ca)
    if files.cert is not None:
        context.load_cert_chain(files.cert, files.key)
    context.set_alpn_protocols(["h2"])
    return context
