"""A client's side of HTTP/2, as much of it as it takes to speak with etcd (RFC 9113).

A connection that splits what comes into frames; what they mean its subclasses know: `calls` asks and is answered,
`stream` reads a watch. Never retries: whoever opened it does.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, TypeVar, cast

from aiohappyeyeballs import start_connection

from cacheserver.etcd.address import Address, Certificates, Metadata
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

# grpc-go asks for a sign (PING) with each question, to measure how far we are (its bdp_estimator.go), and not again
# before it has one. A write of its own costs 37 us, half as much as the question.
_OWED_WITHIN_S: Final = 0.02
_FRAMES_A_TURN: Final = 512  # small ones take 2 us each; while the rest waits, nothing more is read

# Of a name with several addresses the next is tried beside one that does not answer (RFC 8305 section 5).
_NEXT_ADDRESS_S: Final = 0.25
# A peer that vanished without a word is missed by the kernel after 15 s; calls and watches have limits of their own.
_SILENT_S: Final = 10
_PROBES_S: Final = 5


def preface(*, stream_window: int, window: int) -> bytes:
    """What a client says first. Push off, no table of headers (6.5.2).

    stream_window, window: bytes that etcd may send on a stream, and on all of them, before it is told of more.
    """
    said = settings(enable_push=0, header_table_size=0, initial_window_size=stream_window)
    return PREFACE + said + window_update(0, window - WINDOW)


def headers(address: Address, path: str, metadata: Metadata) -> bytes:
    """Of a call; RFC 7541 section 6.2.2: nothing is indexed, so there is no state to keep in step."""
    lines = [
        b"\x83",  # :method POST
        b"\x87" if address.secure else b"\x86",  # :scheme
        b"\x04" + string(path.encode()),
        b"\x01" + string(address.authority.encode()),
        b"\x0f\x10" + string(b"application/grpc"),  # content-type
        *(field(name.encode(), value.encode()) for name, value in (("te", "trailers"), *metadata)),
    ]
    return b"".join(lines)


class Connection(asyncio.Protocol):
    """Frames in, a few at a time. Anything unexpected ends it. heard: how often anything came."""

    def __init__(self, begin: bytes) -> None:
        """begin: what is said first."""
        self.usable = True
        self.heard = 0
        self._begin = begin
        self._buffer = bytearray()
        self._resting = False
        self._transport: asyncio.Transport | None = None
        self._owed = b""  # said with whatever is said next, or soon
        self._paying: asyncio.TimerHandle | None = None

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
        self.heard += 1
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

    def _pay(self) -> None:
        self._paying = None
        if self._owed:
            self._say(b"")

    # --- said by subclasses ---

    def _say(self, what: bytes) -> None:
        """Sent at once, if it still can be."""
        if self._transport is not None and not self._transport.is_closing():
            owed, self._owed = self._owed, b""
            self._transport.write(owed + what if owed else what)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """One frame; here those that are of the connection."""
        if kind in (SETTINGS, PING) and not flags & ACK:
            self._owed += frame(kind, ACK, 0, payload if kind == PING else b"")
            if self._paying is None:
                self._paying = asyncio.get_running_loop().call_later(_OWED_WITHIN_S, self._pay)
            elif len(self._owed) > WINDOW:
                self._say(b"")
        elif kind == GOAWAY:
            self._end("etcd closes the connection")

    def _end(self, why: str) -> None:
        """It is over; tell who waits, then `super()._end`."""
        self.close()
        self._transport, self._owed = None, b""
        if self._paying is not None:
            self._paying.cancel()
            self._paying = None


C = TypeVar("C", bound=Connection)


async def connect(make: Callable[[], C], address: Address, certificates: Certificates) -> C:
    """A connection to this address, whose name is looked up anew: a replaced pod has another. Raises: OSError,
    ValueError, RuntimeError."""
    loop = asyncio.get_running_loop()
    if address.path:
        _, connection = await loop.create_unix_connection(make, address.path)
        return connection
    context = await certificates.context() if address.secure else None
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    place = await start_connection(found, happy_eyeballs_delay=_NEXT_ADDRESS_S)
    try:
        _watch_over(place)
        name = address.host if context is not None else None
        _, connection = await loop.create_connection(make, sock=place, ssl=context, server_hostname=name)
    except BaseException:
        place.close()
        raise
    return connection


def _watch_over(place: socket.socket) -> None:
    """Have the kernel end a connection whose other side is not there any more."""
    place.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    wanted = {"TCP_KEEPIDLE": _SILENT_S, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": _PROBES_S}
    for name, value in (wanted | {"TCP_USER_TIMEOUT": 1000 * (_SILENT_S + _PROBES_S)}).items():
        if hasattr(socket, name):  # Linux has all of them
            place.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
