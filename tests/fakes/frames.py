"""etcd's side of an HTTP/2 connection, played frame by frame by a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, PADDED = 1, 1, 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def message(body: bytes) -> bytes:
    return b"\0" + len(body).to_bytes(4, "big") + body


def trailers(code: int, words: str) -> bytes:
    """The block behind an answer's messages, of short words that are percent-encoded."""
    said = (b"grpc-status", b"%d" % code), (b"grpc-message", words.encode())
    return b"".join(b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value for name, value in said)


OK = b"\x88\x0f\x10\x10application/grpc"
"""The block before them: :status 200 and the content type."""
SUCCESS = trailers(0, "")


def answer(stream: int, body: bytes, *, before: bytes = b"") -> bytes:
    """As etcd sends it: headers, the message, trailers. before: what stands before the message."""
    said = before + message(body)
    return frame(HEADERS, 4, stream, OK) + frame(DATA, 0, stream, said) + frame(HEADERS, 5, stream, SUCCESS)


class Etcd:
    """The far end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def next(self) -> tuple[int, int, int, bytes]:
        """(kind, flags, stream, payload) of what the client sent."""
        head = await self._reader.readexactly(9)
        payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
        return head[3], head[4], int.from_bytes(head[5:], "big"), payload

    async def begun(self) -> None:
        """The preface was right."""
        assert await self._reader.readexactly(len(PREFACE)) == PREFACE
        assert [(await self.next())[0] for _ in range(2)] == [SETTINGS, WINDOW_UPDATE]

    async def question(self) -> int:
        """The stream of the client's next question."""
        kind, _, stream, _ = await self.next()
        while kind != DATA:
            kind, _, stream, _ = await self.next()
        return stream

    async def next_forever(self) -> None:
        """Take what the client says, until it has gone."""
        while True:
            await self.next()

    def say(self, *frames: bytes) -> None:
        self._writer.write(b"".join(frames))

    def hang_up(self) -> None:
        self._writer.close()


@asynccontextmanager
async def playing(
    play: Callable[[Etcd], Awaitable[Any]], host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[tuple[str, Sequence[object]]]:
    """The URL of an etcd that plays `play` on each connection, and one object for every connection so far."""
    seen: list[object] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(object())
        try:
            await play(Etcd(reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):  # the client has gone
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, host, port)
    try:
        yield f"http://{host}:{server.sockets[0].getsockname()[1]}", seen
    finally:
        server.close()
