"""Calls to an etcd that is played by the test, frame by frame: whatever comes, an answer or a CallError, and soon; and
of each failure whether the call was certainly not done."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import hpack
import pytest

from cacheserver.etcd.address import Certificates, parse_address
from cacheserver.etcd.calls import Calls, Line
from cacheserver.http2.grpc import CallError, Code, ending
from tests.fakes.frames import (
    ACK,
    CONTINUATION,
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
    answer,
    frame,
    message,
    playing,
    trailers,
)

MOST_AT_ONCE, INITIAL_WINDOW = 3, 4  # RFC 9113 section 6.5.2


def setting(name: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, name.to_bytes(2, "big") + value.to_bytes(4, "big"))


@asynccontextmanager
async def lines(play: Callable[[Etcd], Awaitable[Any]]) -> AsyncIterator[tuple[Line, Sequence[object]]]:
    """A line to an etcd that plays `play` on each connection, and one object for every connection so far."""

    async def begun(etcd: Etcd) -> None:
        await etcd.begun()
        etcd.say(frame(SETTINGS, 0, 0))
        await play(etcd)

    async with playing(begun) as (url, seen):
        line = Line(parse_address(url), Certificates(None))
        try:
            async with asyncio.timeout(10):
                yield line, seen
        finally:
            await line.close()


async def ask(line: Line, message: bytes = b"question", within_s: float = 5) -> bytes:
    return await line.call("/path", message, (), within_s)


async def failure(line: Line, message: bytes = b"question", within_s: float = 5) -> CallError:
    with pytest.raises(CallError) as caught:
        await ask(line, message, within_s)
    return caught.value


async def answering(etcd: Etcd) -> None:
    while True:
        etcd.say(answer(await etcd.question(), b"revision"))


async def test_each_call_gets_its_own_answer_over_one_connection() -> None:
    async def backwards(etcd: Etcd) -> None:
        etcd.say(answer(await etcd.question(), b"first"))
        streams = [await etcd.question() for _ in range(3)]
        etcd.say(*(answer(stream, b"%d" % stream) for stream in reversed(streams)))
        await etcd.next_forever()

    async with lines(backwards) as (line, connections):
        assert await ask(line) == b"first"
        assert await asyncio.gather(*(ask(line) for _ in range(3))) == [b"3", b"5", b"7"]
        assert len(connections) == 1


async def test_who_asks_while_it_connects_waits_for_the_same_connection() -> None:
    async with lines(answering) as (line, connections):
        assert await asyncio.gather(*(ask(line) for _ in range(5))) == [b"revision"] * 5
        assert len(connections) == 1


async def test_an_answer_may_come_in_pieces_between_other_frames() -> None:
    async def piecemeal(etcd: Etcd) -> None:
        stream = await etcd.question()
        body = message(b"revision")
        pieces = [frame(HEADERS, 0, stream, OK[:3]), frame(CONTINUATION, 0, stream, OK[3:5])]
        pieces += [frame(CONTINUATION, 4, stream, OK[5:]), frame(DATA, 0, stream, body[:3])]
        pieces += [frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"), frame(99, 0, 0, b"x"), frame(DATA, 0, stream, body[3:])]
        pieces += [frame(HEADERS, END_STREAM, stream, SUCCESS[:2]), frame(CONTINUATION, 4, stream, SUCCESS[2:])]
        for byte in b"".join(pieces):
            etcd.say(bytes((byte,)))
            await asyncio.sleep(0)
        await etcd.next_forever()

    async with lines(piecemeal) as (line, _):
        assert await ask(line) == b"revision"


async def test_settings_and_pings_are_acknowledged_though_nothing_else_is_said() -> None:
    heard: list[tuple[int, int, int, bytes]] = []

    async def greeting(etcd: Etcd) -> None:
        stream = await etcd.question()
        etcd.say(frame(SETTINGS, 0, 0), frame(SETTINGS, ACK, 0), frame(PING, 0, 0, b"12345678"))
        heard.extend([await etcd.next(), await etcd.next()])
        etcd.say(answer(stream, b""))
        await etcd.next_forever()

    async with lines(greeting) as (line, _):
        assert await ask(line) == b""
    assert heard == [(SETTINGS, ACK, 0, b""), (PING, ACK, 0, b"12345678")]


async def test_a_question_larger_than_the_windows_goes_as_etcd_takes_it_and_lets_others_pass() -> None:
    window, sent = (1 << 16) - 1, {1: 0, 3: 0}
    asked: list[int] = []

    async def slow(etcd: Etcd) -> None:
        def room(stream: int, more: int) -> None:
            allowed[stream] += more
            etcd.say(frame(WINDOW_UPDATE, 0, stream, more.to_bytes(4, "big")))

        allowed = {0: window, 1: window, 3: window}
        while len(asked) < 2:
            kind, flags, stream, payload = await etcd.next()
            if kind == HEADERS and stream == 3:
                assert sent == {1: window, 3: 0}
                room(0, 100_000)
            if kind != DATA:
                continue
            assert len(payload) <= 16 << 10
            sent[stream] += len(payload)
            for each in (0, stream):
                allowed[each] -= len(payload)
                assert allowed[each] >= 0
            if flags & END_STREAM:
                asked.append(stream)
                room(0, 1_000_000)
                room(1, 1_000_000)
        etcd.say(*(answer(stream, b"%d" % stream) for stream in asked))
        await etcd.next_forever()

    async with lines(slow) as (line, _):
        large, small = await asyncio.gather(ask(line, bytes(500_000)), ask(line, b"small"))
    assert (large, small) == (b"1", b"3")
    assert asked == [3, 1]
    assert sent == {1: 500_005, 3: 10}


async def test_a_smaller_window_counts_for_calls_under_way() -> None:
    """RFC 9113 section 6.9.2: what may be sent can become less than nothing."""
    sizes: list[int] = []

    async def shrinking(etcd: Etcd) -> None:
        while sum(sizes) < (1 << 16) - 1:
            kind, _, _, payload = await etcd.next()
            if kind == DATA:
                sizes.append(len(payload))
        etcd.say(setting(INITIAL_WINDOW, 10), frame(WINDOW_UPDATE, 0, 0, (1 << 20).to_bytes(4, "big")))
        sizes.clear()
        back = (1 << 16) - 1 - 10
        etcd.say(frame(WINDOW_UPDATE, 0, 1, (back + 7).to_bytes(4, "big")))
        kind, _, _, payload = await etcd.next()
        while kind != DATA:
            kind, _, _, payload = await etcd.next()
        sizes.append(len(payload))
        etcd.say(frame(HEADERS, 5, 1, trailers(8, "enough")))
        await etcd.next_forever()

    async with lines(shrinking) as (line, _):
        refused = await failure(line, bytes(200_000))
    assert sizes == [7]
    assert (refused.code, refused.details) == (Code.RESOURCE_EXHAUSTED, "enough")


async def test_no_more_calls_are_made_at_once_than_etcd_takes() -> None:
    streams: list[int] = []
    most = 0

    async def few(etcd: Etcd) -> None:
        nonlocal most
        etcd.say(setting(MOST_AT_ONCE, 2))
        etcd.say(answer(await etcd.question(), b""))
        waiting: list[int] = []
        while len(streams) < 5:
            waiting.append(await etcd.question())
            streams.append(waiting[-1])
            most = max(most, len(waiting))
            if len(waiting) == 2 or len(streams) == 5:
                etcd.say(answer(waiting.pop(0), b"%d" % len(streams)))
        etcd.say(*(answer(stream, b"") for stream in waiting))
        await etcd.next_forever()

    async with lines(few) as (line, _):
        await ask(line)
        await asyncio.gather(*(ask(line) for _ in range(5)))
    assert (len(streams), most) == (5, 2)


async def test_an_answer_of_any_size_is_taken_and_its_room_given_back() -> None:
    returned = 0

    async def generous(etcd: Etcd) -> None:
        nonlocal returned
        stream = await etcd.question()
        body = message(bytes(5_000_000))
        etcd.say(frame(HEADERS, 4, stream, OK))
        for at in range(0, len(body), 16 << 10):
            etcd.say(frame(DATA, 0, stream, body[at : at + (16 << 10)]))
        etcd.say(frame(HEADERS, 5, stream, SUCCESS))
        while True:
            kind, _, where, payload = await etcd.next()
            if (kind, where) == (WINDOW_UPDATE, 0):
                returned += int.from_bytes(payload, "big")

    async with lines(generous) as (line, _):
        assert await ask(line) == bytes(5_000_000)
        while returned < 4 << 20:
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("said", "code", "words", "sent"),
    [
        (lambda s: frame(HEADERS, 5, s, OK + trailers(5, "no%20such%20lease")), Code.NOT_FOUND, "no such lease", True),
        (
            lambda s: frame(HEADERS, 4, s, OK) + frame(HEADERS, 5, s, trailers(9, "x")),
            Code.FAILED_PRECONDITION,
            "x",
            True,
        ),
        (
            lambda s: (
                frame(HEADERS, 4, s, OK) + frame(DATA, 0, s, message(b"x")) + frame(HEADERS, 5, s, trailers(14, "late"))
            ),
            Code.UNAVAILABLE,
            "late",
            True,
        ),
        (lambda s: frame(HEADERS, 5, s, trailers(77, "")), Code.UNKNOWN, "", True),
        (lambda s: frame(HEADERS, 5, s, b"\x08\x03502"), Code.UNAVAILABLE, "HTTP 502", True),
        (lambda s: frame(HEADERS, 4, s, OK) + frame(DATA, END_STREAM, s, b"<html>"), Code.UNKNOWN, "HTTP 200", True),
        (lambda s: frame(HEADERS, 5, s, b"\xff\xff"), Code.INTERNAL, "cannot be read", True),
        (lambda s: frame(HEADERS, 5, s, SUCCESS), Code.INTERNAL, "not one message", True),
        (lambda s: answer(s, b"x", before=message(b"y")), Code.INTERNAL, "not one message", True),
        (lambda s: answer(s, b"", before=b"\1\0\0\0\0"), Code.INTERNAL, "not one message", True),
        (
            lambda s: frame(HEADERS, 4, s, OK) + frame(DATA, 0, s, b"\1\0\0\0\1x") + frame(HEADERS, 5, s, SUCCESS),
            Code.INTERNAL,
            "compressed",
            True,
        ),
        (lambda s: frame(RST_STREAM, 0, s, b"\0\0\0\2"), Code.UNAVAILABLE, "HTTP/2 error 2", True),
        (lambda s: frame(RST_STREAM, 0, s, b"\0\0\0\7"), Code.UNAVAILABLE, "HTTP/2 error 7", False),
        (lambda s: frame(DATA, PADDED, s, b"\0" + message(b"x")), Code.UNAVAILABLE, "padding", True),
        (lambda s: frame(HEADERS, 4 | PADDED, s, b"\0" + OK), Code.UNAVAILABLE, "padding", True),
        (lambda s: frame(HEADERS, 0, s, OK) + frame(DATA, 0, s, b""), Code.UNAVAILABLE, "not complete", True),
        (
            lambda s: frame(HEADERS, 0, s, OK) + 9 * frame(CONTINUATION, 0, s, bytes(16000)),
            Code.UNAVAILABLE,
            "large",
            True,
        ),
        (lambda s: frame(DATA, 0, s, b"x" * (1 << 15)), Code.UNAVAILABLE, "too large", True),
        (lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n", Code.UNAVAILABLE, "too large", True),
        (lambda _: frame(GOAWAY, 0, 0, b"\0" * 8), Code.UNAVAILABLE, "closes the connection", False),
        (lambda _: None, Code.UNAVAILABLE, "connection lost", True),
    ],
)
async def test_whatever_is_no_answer_is_told_at_once(
    said: Callable[[int], bytes | None], code: Code, words: str, sent: bool
) -> None:
    async def saying(etcd: Etcd) -> None:
        what = said(await etcd.question())
        etcd.say(what or b"")
        if what is None:
            etcd.hang_up()
        await etcd.next_forever()

    async with lines(saying) as (line, _):
        refused = await asyncio.wait_for(failure(line, within_s=60), 5)
    assert refused.code is code
    assert words in refused.details
    assert refused.sent is sent


async def test_a_question_that_did_not_go_whole_was_certainly_not_done() -> None:
    async def leaving(etcd: Etcd) -> None:
        await etcd.question()
        etcd.hang_up()

    async with lines(leaving) as (line, _):
        assert not (await failure(line, bytes(200_000))).sent


async def test_a_connection_that_ends_fails_every_call_on_it_and_the_next_one_connects_anew() -> None:
    async def leaving(etcd: Etcd) -> None:
        for _ in range(3):
            await etcd.question()
        etcd.hang_up()

    async with lines(leaving) as (line, connections):
        failed = await asyncio.gather(*(failure(line) for _ in range(3)))
        assert [each.sent for each in failed] == [True] * 3
        asking = asyncio.create_task(ask(line))
        while len(connections) < 2:
            await asyncio.sleep(0)
        asking.cancel()


async def test_an_etcd_that_leaves_answers_what_it_took_and_the_rest_is_asked_elsewhere() -> None:
    connections = 0

    async def leaving(etcd: Etcd) -> None:
        nonlocal connections
        connections += 1
        if connections > 1:
            await answering(etcd)
        first, second = await etcd.question(), await etcd.question()
        etcd.say(frame(GOAWAY, 0, 0, b"\x7f\xff\xff\xff\0\0\0\0"))
        etcd.say(frame(GOAWAY, 0, 0, first.to_bytes(4, "big") + b"\0\0\0\0"))
        await asyncio.sleep(0)
        etcd.say(answer(first, b"taken"))
        await etcd.next_forever()
        assert second

    async with lines(leaving) as (line, _):
        taken, refused = await asyncio.gather(ask(line), failure(line))
        assert taken == b"taken"
        assert not refused.sent
        assert await ask(line) == b"revision"


async def test_who_gives_up_is_let_go_by_etcd_and_nobody_else_is_disturbed() -> None:
    given_up: list[bytes] = []

    async def patient(etcd: Etcd) -> None:
        first, second = await etcd.question(), await etcd.question()
        while True:
            kind, _, stream, payload = await etcd.next()
            if kind == RST_STREAM:
                assert stream == first
                given_up.append(payload)
                etcd.say(answer(first, b"late"), answer(second, b"revision"))

    async with lines(patient) as (line, connections):
        first, second = asyncio.create_task(ask(line)), asyncio.create_task(ask(line))
        await asyncio.wait([first, second], timeout=0.05)
        first.cancel()
        assert await second == b"revision"
        assert given_up == [b"\0\0\0\x08"]  # CANCEL
        assert len(connections) == 1


async def test_silence_ends_with_the_time_that_was_given_and_is_not_trusted_again() -> None:
    """The other side may have gone without a word, a pod whose node died: the next call takes another connection."""
    async with lines(Etcd.next_forever) as (line, connections):
        assert (await failure(line, within_s=0.05)).code is Code.DEADLINE_EXCEEDED
        assert (await failure(line, within_s=0.05)).code is Code.DEADLINE_EXCEEDED
        assert len(connections) == 2


async def test_a_slow_answer_beside_others_leaves_the_connection_as_it_is() -> None:
    async def choosy(etcd: Etcd) -> None:
        await etcd.question()
        while True:
            etcd.say(answer(await etcd.question(), b"revision"))

    async with lines(choosy) as (line, connections):
        slow = asyncio.create_task(failure(line, within_s=0.2))
        await asyncio.sleep(0)
        while not slow.done():
            assert await ask(line) == b"revision"
        assert (await slow).code is Code.DEADLINE_EXCEEDED
        assert await ask(line) == b"revision"
        assert len(connections) == 1


async def test_nobody_there_is_told_at_once_and_nothing_was_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for url in ("unix:/nowhere", f"http://127.0.0.1:{port}"):
        line = Line(parse_address(url), Certificates(None))
        for _ in range(2):
            refused = await failure(line)
            assert (refused.code, refused.sent) == (Code.UNAVAILABLE, False)
            assert "cannot connect" in refused.details
        await line.close()


async def test_one_who_accepts_and_says_nothing_is_asked_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = parse_address(f"http://127.0.0.1:{listener.getsockname()[1]}")
        line = Line(address, Certificates(None), connect_within_s=0.1)
        refused = await failure(line, within_s=0.01)
        assert (refused.details, refused.sent) == ("not connected within the deadline", False)
        refused = await failure(line)
        assert (refused.details, refused.sent) == ("cannot connect: nothing came in time", False)
        await line.close()


async def test_a_closed_line_leaves_no_connection_and_makes_none() -> None:
    gone = asyncio.Event()

    async def silent(etcd: Etcd) -> None:
        try:
            await etcd.next_forever()
        finally:
            gone.set()

    async with lines(silent) as (line, _):
        asked = asyncio.create_task(failure(line, within_s=60))
        await asyncio.sleep(0)  # it has begun to connect
        await line.close()
        assert not (await asyncio.wait_for(asked, 5)).sent
        assert not (await failure(line)).sent
    async with lines(silent) as (line, connections):
        asked = asyncio.create_task(failure(line, within_s=60))
        while not connections:
            await asyncio.sleep(0)
        await asyncio.wait([asked], timeout=0.05)
        await line.close()
        assert (await asyncio.wait_for(asked, 5)).details
        await asyncio.wait_for(gone.wait(), 5)


async def test_a_closed_connection_is_gone_at_once_though_etcd_takes_nothing() -> None:
    """A hung etcd: what was written to it stays with us, and would keep the connection open for ever."""
    asleep = asyncio.Event()

    async def hung(etcd: Etcd) -> None:
        etcd.say(setting(INITIAL_WINDOW, (1 << 31) - 1), frame(WINDOW_UPDATE, 0, 0, (1 << 30).to_bytes(4, "big")))
        await asleep.wait()

    ended = asyncio.Event()

    class Watched(Calls):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            ended.set()

    async with playing(hung) as (url, _):
        place = parse_address(url)
        _, connection = await asyncio.get_running_loop().create_connection(Watched, place.host, place.port)
        await connection.begun
        asking = asyncio.create_task(connection.ask(b"", bytes(30_000_000), 60))
        while not connection._paused:
            await asyncio.sleep(0)
        connection.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert ended.is_set()
        asleep.set()
        with pytest.raises(CallError):
            await asking


async def test_metadata_of_any_length_goes_with_the_call() -> None:
    blocks: list[bytes] = []

    async def reading(etcd: Etcd) -> None:
        while True:
            kind, _, stream, payload = await etcd.next()
            if kind == HEADERS:
                blocks.append(payload)
            elif kind == DATA:
                etcd.say(answer(stream, b""))

    async with lines(reading) as (line, _):
        for length in (1, 126, 127, 128, 300):
            await line.call("/path", b"", (("token", "x" * length),), 5)
    # RFC 7541 section 5.1, a prefix of seven bits
    sizes = [b"\x01", b"\x7e", b"\x7f\x00", b"\x7f\x01", b"\x7f\xad\x01"]
    for block, size, length in zip(blocks, sizes, (1, 126, 127, 128, 300), strict=True):
        assert block.endswith(b"\x05token" + size + b"x" * length)


def test_words_of_an_error_may_be_huffman_coded_behind_a_change_of_the_table() -> None:
    """As Go writes them."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    block = encoder.encode([(b"grpc-status", b"3"), (b"grpc-message", b"caf%C3%A9")], huffman=True)
    assert block[:1] == b"\x20"
    assert ending(OK, block) == (Code.INVALID_ARGUMENT, "café")
