"""A client's side of HTTP/2 without sockets: what it says is handed to a connection, and what that answers is read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import hpack

from cacheserver.http2.connection import Connection, Home
from cacheserver.turns import Pace
from tests.fakes.frames import DATA, PREFACE, SETTINGS, frame, message

HEADERS = 1
REQUEST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/api.Registry/ListPackages"),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


class Transport:
    """Takes all that is written while it is not full; `full` is said by the test."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.reading = True
        self.ended = self.aborted = False
        self.protocol: Connection | None = None

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.1", 1) if name == "peername" else None

    def write(self, data: bytes) -> None:
        assert not self.ended
        assert not self.aborted
        self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Client:
    """Of one connection."""

    def __init__(self, home: Home, pace: Pace | None = None) -> None:
        self.transport = Transport()
        self.connection = Connection(home, pace or Pace(3600))
        self.encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self.connection.connection_made(cast("asyncio.Transport", self.transport))

    def greet(self, settings: bytes = b"") -> None:
        self.say(PREFACE, frame(SETTINGS, 0, 0, settings))
        assert [each.kind for each in self.heard()] == [SETTINGS, SETTINGS]

    def say(self, *frames: bytes) -> None:
        self.connection.data_received(b"".join(frames))

    def ask(self, stream: int, body: bytes | None = b"", fields: Iterable[tuple[str, str]] = REQUEST) -> None:
        self.say(self.question(stream, body, fields))

    def question(self, stream: int, body: bytes | None = b"", fields: Iterable[tuple[str, str]] = REQUEST) -> bytes:
        """body: of the one message; None: nothing yet."""
        header = frame(HEADERS, 4, stream, self.encoder.encode(list(fields)))
        return header if body is None else header + frame(DATA, 1, stream, message(body))

    def heard(self) -> Sequence[Frame]:
        """Frames since the last time."""
        found, written = [], self.transport.written
        while written:
            size = int.from_bytes(written[:3], "big")
            assert len(written) >= 9 + size
            found.append(
                Frame(written[3], written[4], int.from_bytes(written[5:9], "big"), bytes(written[9 : 9 + size]))
            )
            del written[: 9 + size]
        return found

    def fields(self, block: bytes) -> dict[str, str]:
        return {str(name): str(value) for name, value in self._decoder.decode(block)}

    @property
    def over(self) -> bool:
        return self.transport.ended or self.transport.aborted
