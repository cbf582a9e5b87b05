"""A watch's stream from an etcd that is played by the test, frame by frame: all that has come at once, no more than was
taken, and a named end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cacheserver.errors import Unavailable
from cacheserver.etcd import etcd_pb2 as pb
from cacheserver.etcd.address import Certificates, parse_address
from cacheserver.etcd.stream import WINDOW_BYTES, Stream, speak
from cacheserver.http2 import frames
from tests.fakes.frames import (
    ACK,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    OK,
    PADDED,
    PING,
    RST_STREAM,
    SETTINGS,
    SUCCESS,
    WINDOW_UPDATE,
    Etcd,
    frame,
    message,
    playing,
    trailers,
)

STREAM = 1
PROGRESS = pb.WatchRequest(progress_request=pb.WatchProgressRequest())


def change(revision: int, size: int = 0) -> bytes:
    """etcd's word of one change, of about so many bytes."""
    event = pb.Event(kv=pb.KeyValue(key=b"k", value=bytes(size), mod_revision=revision))
    return message(pb.WatchResponse(events=[event]).SerializeToString())


def in_frames(body: bytes) -> Sequence[bytes]:
    return [frame(DATA, 0, STREAM, body[at : at + (16 << 10)]) for at in range(0, len(body), 16 << 10)]


def revisions(responses: Sequence[pb.WatchResponse]) -> list[int]:
    return [event.kv.mod_revision for response in responses for event in response.events]


@asynccontextmanager
async def stream_from(play: Callable[[Etcd], Awaitable[Any]]) -> AsyncIterator[Stream]:
    async def begun(etcd: Etcd) -> None:
        await etcd.begun()
        assert (await etcd.next())[0] == HEADERS
        etcd.say(frame(SETTINGS, 0, 0), frame(HEADERS, 4, STREAM, OK))
        await play(etcd)

    async with playing(begun) as (url, _):
        stream = await speak(parse_address(url), (), Certificates(None))
        try:
            async with asyncio.timeout(20):
                yield stream
        finally:
            stream.cancel()


async def heard(etcd: Etcd, kind: int) -> bytes:
    """The payload of the next frame of this kind."""
    while True:
        said, _, _, payload = await etcd.next()
        if said == kind:
            return payload


async def test_all_that_has_come_is_handed_over_at_once() -> None:
    async def saying(etcd: Etcd) -> None:
        etcd.say(*(frame(DATA, 0, STREAM, change(revision)) for revision in range(100)))
        await etcd.next_forever()

    async with stream_from(saying) as stream:
        assert revisions(await stream.read()) == list(range(100))


async def test_of_very_many_a_turn_of_the_loop_takes_a_part_and_none_is_lost() -> None:
    async def saying(etcd: Etcd) -> None:
        etcd.say(*(frame(DATA, 0, STREAM, change(revision)) for revision in range(5000)))
        await etcd.next_forever()

    turns = 0

    async def turning() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with stream_from(saying) as stream:
        found = revisions(await stream.read())
        first = len(found)
        turning_task = asyncio.create_task(turning())
        while found[-1] < 4999:
            piece = revisions(await stream.read())
            assert 0 < len(piece) <= 128
            found += piece
        turning_task.cancel()
    assert found == list(range(5000))
    assert turns >= (len(found) - first) // 128


async def test_messages_may_be_split_anywhere_and_share_frames() -> None:
    async def saying(etcd: Etcd) -> None:
        body = b"".join(map(change, range(3)))
        for byte in frame(DATA, 0, STREAM, body[:40]) + frame(99, 0, 0, b"x") + frame(DATA, 0, STREAM, body[40:]):
            etcd.say(bytes((byte,)))
            await asyncio.sleep(0)
        await etcd.next_forever()

    async with stream_from(saying) as stream:
        found: list[int] = []
        while len(found) < 3:
            found += revisions(await stream.read())
        assert found == [0, 1, 2]


async def test_etcd_may_send_what_was_taken_and_a_window_more() -> None:
    """So a reader who stands still holds etcd back, whatever it has to say."""
    body = change(1, 100_000)
    allowed, sent, waits = WINDOW_BYTES, 0, asyncio.Event()

    async def sending(etcd: Etcd) -> None:
        nonlocal allowed, sent
        while True:
            for piece in in_frames(body):
                size = len(piece) - 9
                while sent + size > allowed:
                    waits.set()
                    kind, _, where, payload = await etcd.next()
                    if (kind, where) == (WINDOW_UPDATE, STREAM):
                        allowed += int.from_bytes(payload, "big")
                sent += size
                etcd.say(piece)

    async with stream_from(sending) as stream:
        await waits.wait()
        assert allowed == WINDOW_BYTES
        taken = 0
        while taken < 10 * WINDOW_BYTES:
            taken += len(body) * len(await stream.read())
            assert taken <= allowed <= taken + WINDOW_BYTES


async def test_a_message_larger_than_the_window_is_taken_as_it_comes() -> None:
    body = change(1, 3 * WINDOW_BYTES)

    async def sending(etcd: Etcd) -> None:
        allowed = {0: WINDOW_BYTES, STREAM: WINDOW_BYTES}
        sent = 0
        etcd.say(frame(DATA, 0, STREAM, change(0)))
        sent += len(change(0))
        for piece in in_frames(body):
            while sent + len(piece) - 9 > min(allowed.values()):
                kind, _, where, payload = await etcd.next()
                if kind == WINDOW_UPDATE:
                    allowed[where] += int.from_bytes(payload, "big")
            sent += len(piece) - 9
            etcd.say(piece)
        await etcd.next_forever()

    async with stream_from(sending) as stream:
        found: list[int] = []
        while len(found) < 2:
            found += revisions(await stream.read())
        assert found == [0, 1]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (frame(HEADERS, 5, STREAM, SUCCESS), "ended the stream"),
        (frame(HEADERS, 5, STREAM, trailers(14, "etcdserver: no leader")), "no leader"),
        (frame(RST_STREAM, 0, STREAM, b"\0\0\0\0"), "ended the stream"),
        (frame(GOAWAY, 0, 0, b"\0" * 8), "closes the connection"),
        (frame(DATA, PADDED, STREAM, b"\0" + change(2)), "padding"),
        (frame(DATA, 0, STREAM, b"\1\0\0\0\1x"), "compressed"),
        (frame(DATA, END_STREAM, STREAM, b""), "no gRPC answer"),
        (frame(DATA, 0, STREAM, b"x" * (1 << 15)), "too large"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "too large"),
        (None, "connection lost"),
    ],
)
async def test_an_end_is_told_behind_what_came_before_it(said: bytes | None, why: str) -> None:
    async def saying(etcd: Etcd) -> None:
        etcd.say(frame(DATA, 0, STREAM, change(1)), said or b"")
        if said is None:
            etcd.hang_up()
        await etcd.next_forever()

    async with stream_from(saying) as stream:
        assert revisions(await stream.read()) == [1]
        with pytest.raises(Unavailable, match=why):
            await stream.read()
        with pytest.raises(Unavailable, match=why):
            await stream.write(PROGRESS)
        assert not stream.usable


async def test_who_reads_is_told_when_it_is_cancelled() -> None:
    async def silent(etcd: Etcd) -> None:
        await etcd.next_forever()

    async with stream_from(silent) as stream:
        reading = asyncio.create_task(stream.read())
        await asyncio.sleep(0)
        stream.cancel()
        with pytest.raises(Unavailable, match="closed"):
            await reading


async def test_requests_wait_until_etcd_takes_them() -> None:
    """Who writes to one that hangs waits, within a limit of the caller's; nothing gathers here."""
    asked = 0
    more = asyncio.Event()

    async def slow(etcd: Etcd) -> None:
        nonlocal asked
        await more.wait()
        room = (1 << 20).to_bytes(4, "big")
        etcd.say(frame(SETTINGS, 0, 0, b"\0\4" + room), frame(WINDOW_UPDATE, 0, 0, room))
        while True:
            asked += len(await heard(etcd, DATA))

    async with stream_from(slow) as stream:
        size = len(message(PROGRESS.SerializeToString()))
        for _ in range(frames.WINDOW // size):
            await stream.write(PROGRESS)
        waiting = asyncio.create_task(stream.write(PROGRESS))
        await asyncio.sleep(0)
        assert not waiting.done()
        more.set()
        await waiting
        while asked < (frames.WINDOW // size + 1) * size:
            await asyncio.sleep(0)


async def test_a_connection_that_answers_no_ping_is_given_up() -> None:
    async def answering_once(etcd: Etcd) -> None:
        etcd.say(frame(PING, ACK, 0, await heard(etcd, PING)), frame(DATA, 0, STREAM, change(1)))
        await heard(etcd, PING)
        await etcd.next_forever()

    async with stream_from(answering_once) as stream:
        for _ in range(10):
            stream.tick()
        assert revisions(await stream.read()) == [1]
        for _ in range(14):
            stream.tick()
        assert stream.usable
        stream.tick()
        assert not stream.usable
        with pytest.raises(Unavailable, match="no sign of life"):
            await stream.read()
