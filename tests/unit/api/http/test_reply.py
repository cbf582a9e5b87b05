"""A large answer goes out piece by piece, no faster than its client takes it; over TLS in pieces that cost little."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from aiohttp import HttpVersion11, web

from cacheserver.api.http.reply import Framed, Reply, Stream

BODY = bytes(range(256)) * 8192  # 2 MiB


class Client:
    """A request and its connection, with a client that has taken what was `written` unless it is `slow`."""

    keep_alive = True
    method = "GET"
    version = HttpVersion11

    def __init__(self, *, tls: bool, slow: bool = False) -> None:
        self.headers: dict[str, str] = {}
        self.transport = self.protocol = self.writer = self
        self.written: list[bytes] = []
        self.writing_paused = False
        self.drained = asyncio.Event()
        self.waits = asyncio.Event()
        self.output_size = 0
        self._tls = tls
        self._slow = slow

    @property
    def request(self) -> web.BaseRequest:
        return cast("web.BaseRequest", self)

    @property
    def body(self) -> bytes:
        return b"".join(self.written).partition(b"\r\n\r\n")[2]

    def get_extra_info(self, name: str) -> Any:
        return object() if self._tls and name == "sslcontext" else None

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.written.append(bytes(data))
        self.writing_paused = self._slow

    async def drain(self) -> None:
        self.waits.set()
        await self.drained.wait()
        self._slow = self.writing_paused = False


async def answer(client: Client) -> None:
    reply = Reply(200, (BODY,), len(BODY))
    await reply.prepare(client.request)
    await reply.write_eof()


@pytest.mark.parametrize("tls", [False, True])
async def test_the_pieces_are_the_whole(tls: bool) -> None:
    client = Client(tls=tls)
    await answer(client)
    assert client.body == BODY


async def test_a_small_answer_waits_for_a_client_that_takes_nothing() -> None:
    client = Client(tls=False, slow=True)
    reply = Reply(200, (b"small",), 5)
    await reply.prepare(client.request)
    answering = asyncio.create_task(reply.write_eof())
    await client.waits.wait()
    assert not answering.done()
    client.drained.set()
    await answering


async def test_over_tls_the_pieces_are_small() -> None:
    client = Client(tls=True)
    await answer(client)
    assert max(map(len, client.written)) <= 48 << 10


@pytest.mark.parametrize("tls", [False, True])
async def test_a_client_that_takes_nothing_is_sent_one_piece(tls: bool) -> None:
    client = Client(tls=tls, slow=True)
    answering = asyncio.create_task(answer(client))
    await client.waits.wait()
    assert len(client.written) == 2  # the head and the first piece
    client.drained.set()
    await answering
    assert client.body == BODY


async def test_a_stream_which_thousands_may_have_writes_smaller_pieces_over_tls() -> None:
    client = Client(tls=True)
    stream = Stream(client.request)
    stream.start()
    await stream.send(Framed(BODY, len(BODY)))
    assert client.body == BODY
    assert max(map(len, client.written)) <= 32 << 10
