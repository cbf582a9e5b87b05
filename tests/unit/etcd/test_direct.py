"""A line to an etcd that is played by the test, frame by frame: whatever comes, an answer or DirectCallError, and
soon."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cacheserver.etcd.direct import DirectCall
from cacheserver.etcd.endpoint import parse_address
from cacheserver.etcd.http2 import DirectCallError
from cacheserver.etcd.values import TLSFiles
from tests.fakes.frames import (
    ACK,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Etcd,
    answer,
    frame,
    message,
    playing,
)


@asynccontextmanager
async def lines(play: Callable[[Etcd], Awaitable[Any]]) -> AsyncIterator[tuple[DirectCall, Sequence[object]]]:
    """A line to an etcd that plays `play` on each connection, and one object for every connection so far."""
    async with playing(play) as (url, seen):
        line = DirectCall(parse_address(url), TLSFiles(), "/path", b"question")
        try:
            async with asyncio.timeout(10):
                yield line, seen
        finally:
            line.close()


async def answering(etcd: Etcd) -> None:
    await etcd.begun()
    while True:
        etcd.say(answer(await etcd.question(), b"revision"))


async def test_each_question_gets_its_own_answer() -> None:
    async def backwards(etcd: Etcd) -> None:
        await etcd.begun()
        etcd.say(frame(SETTINGS, 0, 0))
        streams = [await etcd.question()]
        etcd.say(answer(streams[0], b"first"))
        streams = [await etcd.question() for _ in range(3)]
        etcd.say(*(answer(stream, b"%d" % stream) for stream in reversed(streams)))
        await etcd.next()

    async with lines(backwards) as (line, connections):
        assert await line.ask((), 5) == b"first"
        assert await asyncio.gather(*(line.ask((), 5) for _ in range(3))) == [b"3", b"5", b"7"]
        assert len(connections) == 1


async def test_a_closed_line_is_gone_at_once_though_etcd_takes_nothing() -> None:
    """A hung etcd: what was written to it stays with us, and would keep the connection open for ever."""
    asleep = asyncio.Event()

    async def hung(etcd: Etcd) -> None:
        await etcd.begun()
        await asleep.wait()

    async with lines(hung) as (line, connections):
        asking = [asyncio.create_task(line.ask((("x", "y" * 8_000_000),), 5))]
        while line._connection is None or not connections:
            await asyncio.sleep(0)
        transport = line._connection._transport
        assert transport is not None
        while not transport.get_write_buffer_size():
            await asyncio.sleep(0)
        ended = asyncio.Event()
        transport.set_protocol(_Ended(ended))
        line.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert ended.is_set()
        asleep.set()
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


class _Ended(asyncio.Protocol):
    def __init__(self, ended: asyncio.Event) -> None:
        self._ended = ended

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended.set()


async def test_an_answer_may_come_in_pieces_between_other_frames() -> None:
    async def piecemeal(etcd: Etcd) -> None:
        await etcd.begun()
        stream = await etcd.question()
        body = message(b"revision")
        pieces = [frame(DATA, 0, stream, body[:3]), frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"), frame(99, 0, 0, b"x")]
        pieces += [frame(DATA, 0, stream, body[3:]), frame(HEADERS, 5, stream)]
        for byte in b"".join(pieces):
            etcd.say(bytes((byte,)))
            await asyncio.sleep(0)
        await etcd.next()

    async with lines(piecemeal) as (line, _):
        assert await line.ask((), 5) == b"revision"


async def test_settings_and_pings_are_acknowledged() -> None:
    heard: list[tuple[int, int, int, bytes]] = []

    async def greeting(etcd: Etcd) -> None:
        await etcd.begun()
        stream = await etcd.question()
        etcd.say(frame(SETTINGS, 0, 0), frame(SETTINGS, ACK, 0), frame(PING, 0, 0, b"12345678"))
        heard.extend([await etcd.next(), await etcd.next()])
        etcd.say(answer(stream, b""))
        await etcd.next()

    async with lines(greeting) as (line, _):
        assert await line.ask((), 5) == b""
    assert heard == [(SETTINGS, ACK, 0, b""), (PING, ACK, 0, b"12345678")]


@pytest.mark.parametrize(
    "said",
    [
        lambda stream: frame(HEADERS, 5, stream, b"refused"),
        lambda stream: frame(RST_STREAM, 0, stream, b"\0\0\0\0"),
        lambda stream: frame(GOAWAY, 0, 0, b"\0" * 8),
        lambda stream: frame(DATA, PADDED | END_STREAM, stream, b"\0" + message(b"x")),
        lambda stream: frame(DATA, END_STREAM, stream, b"\1\0\0\0\1x"),
        lambda stream: frame(DATA, END_STREAM, stream, b"\0\0\0\0\2x"),
        lambda stream: frame(DATA, 0, stream, b"x" * (1 << 15)),
        lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
    ids=["refused", "reset", "goaway", "padded", "compressed", "short", "large", "http1"],
)
async def test_whatever_is_no_answer_is_told_at_once(said: Callable[[int], bytes]) -> None:
    async def saying(etcd: Etcd) -> None:
        await etcd.begun()
        etcd.say(said(await etcd.question()))
        await etcd.next()

    async with lines(saying) as (line, _):
        with pytest.raises(DirectCallError):
            await asyncio.wait_for(line.ask((), 60), 5)


async def test_silence_ends_with_the_time_that_was_given() -> None:
    async def silent(etcd: Etcd) -> None:
        await etcd.begun()
        await etcd.question()
        await etcd.next()

    async with lines(silent) as (line, _):
        with pytest.raises(DirectCallError):
            await line.ask((), 0.01)


async def test_a_connection_that_ends_fails_every_question_on_it_and_is_not_made_again_at_once() -> None:
    async def leaving(etcd: Etcd) -> None:
        await etcd.begun()
        etcd.say(answer(await etcd.question(), b"revision"))
        for _ in range(3):
            await etcd.question()
        etcd.hang_up()

    async with lines(leaving) as (line, connections):
        assert await line.ask((), 5) == b"revision"
        failed = await asyncio.gather(*(line.ask((), 5) for _ in range(3)), return_exceptions=True)
        assert [type(each) for each in failed] == [DirectCallError] * 3
        with pytest.raises(DirectCallError):
            await line.ask((), 5)
        assert len(connections) == 1


async def test_who_asks_while_it_connects_is_sent_to_the_ordinary_call() -> None:
    async with lines(answering) as (line, _):
        first, second = await asyncio.gather(line.ask((), 5), line.ask((), 5), return_exceptions=True)
        assert first == b"revision"
        assert isinstance(second, DirectCallError)


async def test_one_that_is_closed_while_it_connects_leaves_no_connection() -> None:
    gone = asyncio.Event()

    async def silent(etcd: Etcd) -> None:
        try:
            await etcd.begun()
            while True:
                await etcd.next()
        finally:
            gone.set()

    async with lines(silent) as (line, _):
        asked = asyncio.create_task(line.ask((), 60))
        await asyncio.sleep(0)  # it has begun to connect
        line.close()
        with pytest.raises(DirectCallError):
            await asyncio.wait_for(asked, 5)
        await asyncio.wait_for(gone.wait(), 5)
        with pytest.raises(DirectCallError):
            await line.ask((), 5)


async def test_nobody_there_is_told_at_once() -> None:
    line = DirectCall(parse_address("unix:/nowhere"), TLSFiles(), "/path", b"question")
    with pytest.raises(DirectCallError):
        await line.ask((), 5)


async def test_a_way_that_never_answers_while_etcd_does_is_told_once_with_its_cause(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cacheserver.etcd.direct._WARN_AFTER_S", 0.0)
    caplog.set_level(logging.INFO)
    line = DirectCall(parse_address("unix:/nowhere"), TLSFiles(), "/path", b"question")
    for etcd_answers in (False, False, True, True, True):
        with pytest.raises(DirectCallError) as down:
            await line.ask((), 5)
        line.passed_over(down.value, answered=etcd_answers)
    [told] = caplog.records
    assert "No such file" in told.__dict__["error"]
    line.found()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_metadata_of_any_length_goes_with_the_question() -> None:
    blocks: list[bytes] = []

    async def reading(etcd: Etcd) -> None:
        await etcd.begun()
        while True:
            kind, _, stream, payload = await etcd.next()
            if kind == HEADERS:
                blocks.append(payload)
            elif kind == DATA:
                etcd.say(answer(stream, b""))

    async with lines(reading) as (line, _):
        for length in (1, 126, 127, 128, 300):
            await line.ask((("token", "x" * length),), 5)
    # RFC 7541 section 5.1, a prefix of seven bits
    sizes = [b"\x01", b"\x7e", b"\x7f\x00", b"\x7f\x01", b"\x7f\xad\x01"]
    for block, size, length in zip(blocks, sizes, (1, 126, 127, 128, 300), strict=True):
        assert block.endswith(b"\x05token" + size + b"x" * length)
