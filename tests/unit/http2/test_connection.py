"""A server's side of HTTP/2, frame by frame: what is asked and answered, windows to the byte, how it ends; and what
each way to abuse it costs whoever does."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.http2 import connection as http2
from cacheserver.http2.connection import Connection
from cacheserver.http2.frames import GOAWAY, LARGEST_WINDOW, PING, RST_STREAM, SETTINGS, WINDOW, WINDOW_UPDATE
from cacheserver.http2.incoming import UNREAD_BYTES
from cacheserver.http2.patience import PATIENCE
from cacheserver.http2.requests import HEADER_BYTES
from cacheserver.http2.stream import ASK_WITHIN_S, GoneError, Stream
from cacheserver.turns import Pace
from tests.fakes.frames import ACK, CONTINUATION, DATA, END_STREAM, HEADERS, PADDED, PREFACE, frame, message
from tests.fakes.http2 import REQUEST, Client, Frame

CALM, PROTOCOL, FLOW, CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION = 11, 1, 3, 5, 6, 7, 8, 9
HEADER, TRAILERS = b"\x88", b"\x00\x01t\x011"


class Answerer:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.ends = 0
        self.lates = 0
        self.heard = b""

    def arrived(self) -> None:
        self.heard = bytes(self.stream.received)

    def gone(self) -> None:
        self.ends += 1

    def late(self) -> None:
        self.lates += 1


class Home:
    """Remembers what was asked; the test answers."""

    def __init__(self) -> None:
        self.asked: list[Answerer] = []
        self.complaints: list[str] = []
        self.lost = 0

    def entered(self, connection: Connection) -> bool:
        return True

    def left(self, connection: Connection) -> None:
        self.lost += 1

    def opened(self, stream: Stream) -> Answerer:
        self.asked.append(Answerer(stream))
        return self.asked[-1]

    def complain(self, connection: Connection, why: str) -> None:
        self.complaints.append(why)


@pytest.fixture
async def home() -> Home:
    return Home()


@pytest.fixture
async def client(home: Home) -> Client:
    """One that has greeted."""
    client = Client(home)
    client.greet()
    return client


def setting(number: int, value: int) -> bytes:
    return struct.pack(">HI", number, value)


def more(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def reset(stream: int, code: int = CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def data(frames: Sequence[Frame], stream: int | None = None) -> list[int]:
    """Sizes of DATA."""
    return [len(each.payload) for each in frames if each.kind == DATA and stream in (None, each.stream)]


def ended(client: Client) -> int | None:
    """The code with which the connection was ended, if it was."""
    codes = [int.from_bytes(each.payload[4:8], "big") for each in client.heard() if each.kind == GOAWAY]
    assert bool(codes) == client.over
    return codes[0] if codes else None


# --- what is asked and answered ---


async def test_a_question_is_heard_and_its_answer_is_sent(client: Client, home: Home) -> None:
    client.ask(1, b"tea")
    [asked] = home.asked
    assert (asked.heard, asked.stream.ended) == (message(b"tea"), True)
    assert dict(asked.stream.request.fields) == {b"content-type": b"application/grpc", b"te": b"trailers"}
    asked.stream.finish(HEADER, b"cup", TRAILERS)
    assert client.heard() == [
        (HEADERS, 4, 1, HEADER),
        (DATA, 0, 1, b"cup"),
        (HEADERS, 4 | END_STREAM, 1, TRAILERS),
    ]
    assert not asked.ends
    assert client.connection.streams == 0


async def test_it_is_heard_however_it_is_split_padded_and_continued(home: Home) -> None:
    client = Client(home)
    block = client.encoder.encode(list(REQUEST))
    parts = (
        frame(HEADERS, PADDED | 0x20, 1, b"\x03" + bytes(5) + block[:4] + bytes(3)),
        frame(CONTINUATION, 0, 1, block[4:20]),
        frame(CONTINUATION, 4, 1, block[20:]),
        frame(2, 0, 1, bytes(5)),  # PRIORITY
        frame(0xAB, 0xFF, 7, b"of no type that is known"),
        frame(DATA, PADDED, 1, b"\x02" + b"te" + bytes(2)),
        frame(DATA, PADDED | END_STREAM, 1, b"\0" + b"a"),
    )
    for byte in PREFACE + frame(SETTINGS, 0, 0) + b"".join(parts):
        client.say(bytes((byte,)))
    [asked] = home.asked
    assert asked.heard == b"tea"
    assert asked.stream.request.path == b"/api.Registry/ListPackages"
    assert not home.complaints


async def test_pings_and_settings_are_answered(client: Client) -> None:
    client.say(frame(PING, 0, 0, b"12345678"), frame(PING, ACK, 0, bytes(8)), frame(SETTINGS, ACK, 0))
    client.say(frame(SETTINGS, 0, 0, setting(0xABCD, 1)))
    assert client.heard() == [(PING, ACK, 0, b"12345678"), (SETTINGS, ACK, 0, b"")]


async def test_blocks_that_repeat_mean_what_the_table_says_now(client: Client, home: Home) -> None:
    for at, path in enumerate(("/a", "/b", "/a", "/a", "/b", "/c", "/c")):
        client.ask(2 * at + 1, b"", (*REQUEST[:2], (":path", path), *REQUEST[3:]))
    assert [asked.stream.request.path for asked in home.asked] == [b"/a", b"/b", b"/a", b"/a", b"/b", b"/c", b"/c"]


# --- windows ---


async def test_an_answer_is_sent_as_far_as_both_windows_let_it(client: Client, home: Home) -> None:
    client.ask(1)
    sending = asyncio.create_task(home.asked[0].stream.send(HEADER, bytes(200_000)))
    await asyncio.sleep(0)
    assert sum(data(client.heard())) == WINDOW
    client.say(more(1, 1000))
    assert data(client.heard()) == []  # the connection's is used up
    client.say(more(0, 700))
    assert data(client.heard()) == [700]
    client.say(more(0, 1_000_000))
    assert data(client.heard()) == [300]
    assert not sending.done()
    client.say(more(1, 1_000_000))
    assert sum(data(client.heard())) == 200_000 - WINDOW - 1000
    await sending
    home.asked[0].stream.finish(HEADER, b"", TRAILERS)
    assert [each.flags for each in client.heard()] == [4 | END_STREAM]


async def test_a_changed_initial_window_is_that_of_open_streams_and_may_be_negative(client: Client, home: Home) -> None:
    client.say(more(0, 1_000_000))
    client.ask(1)
    home.asked[0].stream.finish(HEADER, bytes(100_000), TRAILERS)
    assert sum(data(client.heard())) == WINDOW
    client.say(frame(SETTINGS, 0, 0, setting(4, 1000)))  # now it may send 64,535 less than nothing
    client.say(more(1, WINDOW - 1000))
    assert data(client.heard()) == []
    client.say(more(1, 10))
    assert data(client.heard()) == [10]
    client.say(frame(SETTINGS, 0, 0, setting(4, 0) + setting(4, 1500)))
    assert data(client.heard()) == [500]
    client.ask(3)
    home.asked[1].stream.finish(HEADER, bytes(5000), TRAILERS)
    assert data(client.heard(), 3) == [1500]


async def test_frames_are_as_large_as_the_client_takes_them(home: Home) -> None:
    client = Client(home)
    client.greet(setting(5, 20_000) + setting(4, 1_000_000))
    client.say(more(0, 1_000_000))
    client.ask(1)
    home.asked[0].stream.finish(HEADER, bytes(50_000), TRAILERS)
    assert data(client.heard()) == [20_000, 20_000, 10_000]


async def test_streams_share_the_connections_window_in_turn(home: Home) -> None:
    client = Client(home)
    client.greet(setting(4, 1_000_000))
    for stream in (1, 3, 5):
        client.ask(stream)
    client.heard()
    for asked in home.asked:
        asked.stream.finish(HEADER, bytes(500_000), TRAILERS)
    client.say(more(0, 600_000))
    found = client.heard()
    sizes = [sum(data(found, stream)) for stream in (1, 3, 5)]
    assert max(sizes) - min(sizes) <= 2 * 65536


async def test_what_a_client_may_send_grows_as_it_is_taken_and_padding_at_once(client: Client, home: Home) -> None:
    client.ask(1, None)
    client.say(frame(DATA, PADDED, 1, b"\xff" + bytes(255) + b"tea"))
    assert client.heard() == [(WINDOW_UPDATE, 0, 1, (256).to_bytes(4, "big"))]
    for _ in range(3):
        client.say(frame(DATA, 0, 1, bytes(16 << 10)))
    assert client.heard() == []
    home.asked[0].stream.take(20_000)
    told = {each.stream: int.from_bytes(each.payload, "big") for each in client.heard()}
    assert told == {1: 20_000, 0: 20_256}


async def test_what_is_sent_for_a_stream_that_is_over_is_given_back(client: Client, home: Home) -> None:
    client.ask(1, None)
    home.asked[0].stream.fail(TRAILERS)
    assert [each.kind for each in client.heard()] == [HEADERS, RST_STREAM]
    for _ in range(20):
        client.say(frame(DATA, 0, 1, bytes(16 << 10)))
    told = sum(int.from_bytes(each.payload, "big") for each in client.heard() if each.stream == 0)
    assert told == 20 * (16 << 10)


# --- streams ---


async def test_a_stream_over_the_hundredth_is_refused(client: Client, home: Home) -> None:
    for at in range(http2.STREAMS + 1):
        client.ask(2 * at + 1)
    assert client.heard() == [(RST_STREAM, 0, 2 * http2.STREAMS + 1, REFUSED.to_bytes(4, "big"))]
    assert len(home.asked) == http2.STREAMS


async def test_a_stream_that_was_given_up_has_its_place_until_nothing_works_for_it(client: Client, home: Home) -> None:
    for at in range(http2.STREAMS):
        client.ask(2 * at + 1)
        home.asked[-1].stream.busy = True
        client.say(reset(2 * at + 1))
    client.ask(1001)
    assert [each.kind for each in client.heard()] == [RST_STREAM]
    home.asked[0].stream.freed()
    client.ask(1003)
    assert client.heard() == []
    assert [asked.ends for asked in home.asked] == [1] * http2.STREAMS + [0]


async def test_who_sends_is_told_when_the_client_wants_it_no_more(client: Client, home: Home) -> None:
    client.ask(1)
    sending = asyncio.create_task(home.asked[0].stream.send(HEADER, bytes(200_000)))
    await asyncio.sleep(0)
    client.say(reset(1))
    with pytest.raises(GoneError):
        await sending
    assert home.asked[0].ends == 1
    with pytest.raises(GoneError):
        await home.asked[0].stream.send(HEADER, b"a")


MALFORMED = [
    [("X-Upper", "a")],
    [("connection", "close")],
    [("te", "gzip")],
    [(":path", "/again")],
    [(":nope", "a")],
    [("a", "b"), (":authority", "late")],
    [("", "no name")],
]


@pytest.mark.parametrize("fields", [[*REQUEST[:5], *each] for each in MALFORMED] + [REQUEST[1:], [("a", "b")]])
async def test_a_malformed_request_is_reset_and_the_next_is_heard(
    client: Client, home: Home, fields: Sequence[tuple[str, str]]
) -> None:
    client.ask(1, b"", fields)
    assert client.heard() == [(RST_STREAM, 0, 1, PROTOCOL.to_bytes(4, "big"))]
    client.ask(3)
    assert len(home.asked) == 1


async def test_trailers_of_a_question_end_it(client: Client, home: Home) -> None:
    client.ask(1, None)
    client.say(frame(HEADERS, 5, 1, client.encoder.encode([("grpc-status", "0")])))
    assert home.asked[0].stream.ended


# --- how it ends ---


async def test_who_is_told_to_leave_is_answered_until_he_knows(client: Client, home: Home) -> None:
    client.ask(1)
    client.connection.leave()
    goaway, ping = client.heard()
    assert (goaway.kind, goaway.payload) == (GOAWAY, LARGEST_WINDOW.to_bytes(4, "big") + bytes(4))
    client.ask(3)  # on its way when we said so
    client.say(frame(PING, ACK, 0, ping.payload))
    assert client.heard() == [(GOAWAY, 0, 0, (3).to_bytes(4, "big") + bytes(4))]
    client.ask(5)
    assert len(home.asked) == 2
    for asked in home.asked:
        assert not client.over
        asked.stream.finish(HEADER, b"tea", TRAILERS)
        await asyncio.sleep(0)
    assert data(client.heard()) == [3, 3]
    assert client.transport.ended
    client.say(frame(PING, 0, 0, bytes(8)))  # nothing is written any more
    assert not client.transport.aborted


async def test_who_has_asked_nothing_leaves_at_once(client: Client) -> None:
    client.connection.leave()
    client.say(frame(PING, ACK, 0, client.heard()[1].payload))
    await asyncio.sleep(0)
    assert client.transport.ended


async def test_who_does_not_say_that_he_knows_or_does_not_end_is_ended(client: Client, home: Home) -> None:
    now = asyncio.get_running_loop().time()
    client.ask(1)
    client.connection.leave()
    client.heard()
    client.connection.look(now + 6)
    assert [each.kind for each in client.heard()] == [GOAWAY]
    client.connection.look(now + http2.LEAVE_WITHIN_S + 1)
    assert client.transport.aborted


async def test_a_lost_connection_ends_all_that_was_asked(client: Client, home: Home) -> None:
    client.ask(1)
    client.ask(3)
    client.connection.connection_lost(None)
    assert [asked.ends for asked in home.asked] == [1, 1]
    assert home.lost == 1
    home.asked[0].stream.finish(HEADER, b"tea", TRAILERS)  # nobody hears it


# --- what a client must not do ---

WRONG: list[tuple[str, Callable[[Client], bytes], int]] = [
    ("an even stream", lambda c: c.question(2), PROTOCOL),
    ("stream 0", lambda c: c.question(0), PROTOCOL),
    ("DATA of no stream", lambda _: frame(DATA, 0, 1, b"a"), PROTOCOL),
    ("DATA on stream 0", lambda _: frame(DATA, 0, 0, b"a"), PROTOCOL),
    ("DATA behind the end", lambda c: c.question(1) + frame(DATA, 0, 1, b"a"), CLOSED),
    ("a header in the middle", lambda c: c.question(1, None) + c.question(1, None), PROTOCOL),
    ("RST_STREAM of nothing", lambda _: reset(1), PROTOCOL),
    ("WINDOW_UPDATE of nothing", lambda _: more(1, 1), PROTOCOL),
    ("a short RST_STREAM", lambda c: c.question(1) + frame(RST_STREAM, 0, 1, b"a"), SIZE),
    ("a short PING", lambda _: frame(PING, 0, 0, b"a"), SIZE),
    ("PING on a stream", lambda _: frame(PING, 0, 1, bytes(8)), PROTOCOL),
    ("odd SETTINGS", lambda _: frame(SETTINGS, 0, 0, b"a"), SIZE),
    ("SETTINGS in an ACK", lambda _: frame(SETTINGS, ACK, 0, setting(4, 1)), SIZE),
    ("a window past the largest", lambda _: frame(SETTINGS, 0, 0, setting(4, 1 << 31)), FLOW),
    ("frames of no size", lambda _: frame(SETTINGS, 0, 0, setting(5, 100)), PROTOCOL),
    ("push, perhaps", lambda _: frame(SETTINGS, 0, 0, setting(2, 2)), PROTOCOL),
    ("a push", lambda _: frame(5, 4, 1, bytes(4)), PROTOCOL),
    ("no growth", lambda _: more(0, 0), PROTOCOL),
    ("growth past the largest", lambda _: more(0, LARGEST_WINDOW), FLOW),
    ("an open window past it", lambda c: c.question(1) + more(1, 1 << 30) + frame(4, 0, 0, setting(4, 1 << 30)), FLOW),
    ("a frame too large", lambda _: (16385).to_bytes(3, "big") + bytes(6), SIZE),
    ("nothing but padding", lambda c: c.question(1, None) + frame(DATA, PADDED, 1, b"\x05abcd"), PROTOCOL),
    ("a header that cannot be read", lambda _: frame(HEADERS, 4, 1, b"\xff\xff\xff\xff\xff\xff"), COMPRESSION),
    ("CONTINUATION of nothing", lambda _: frame(CONTINUATION, 4, 1, b""), PROTOCOL),
    ("something amid a header", lambda _: frame(HEADERS, 0, 1, b"") + frame(PING, 0, 0, bytes(8)), PROTOCOL),
    ("a short priority", lambda _: frame(HEADERS, 4 | 0x20, 1, b"abc"), SIZE),
    ("a wrong PRIORITY", lambda _: frame(2, 0, 1, b"abc"), SIZE),
    ("more than the window", lambda c: c.question(1, None) + 4 * frame(DATA, 0, 1, bytes(16 << 10)), FLOW),
]


@pytest.mark.parametrize(("frames", "code"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
async def test_what_the_protocol_forbids_ends_the_connection(
    client: Client, home: Home, frames: Callable[[Client], bytes], code: int
) -> None:
    client.say(frames(client))
    assert ended(client) == code
    assert len(home.complaints) == 1
    client.ask(101)  # it is not heard any more
    assert not [asked for asked in home.asked if asked.stream.id == 101]


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00", bytes(30), PREFACE + frame(PING, 0, 0)]
)
async def test_who_does_not_speak_http2_is_turned_away(home: Home, said: bytes) -> None:
    client = Client(home)
    client.say(said)
    assert client.over
    assert len(home.complaints) == 1


# --- attacks: each costs its client the connection, after a number of frames that no honest one comes near to ---

FLOODS: list[tuple[str, Callable[[Client, int], bytes], int]] = [
    ("PING", lambda _c, _n: frame(PING, 0, 0, bytes(8)), PATIENCE),
    ("SETTINGS", lambda _c, _n: frame(SETTINGS, 0, 0, setting(4, 1000)), PATIENCE),
    ("acknowledged SETTINGS", lambda _c, _n: frame(SETTINGS, ACK, 0), PATIENCE),
    ("PRIORITY", lambda _c, n: frame(2, 0, 2 * n + 1, bytes(5)), PATIENCE),
    ("frames of no known type", lambda _c, _n: frame(0xEE, 0, 0, b""), PATIENCE),
    ("GOAWAY", lambda _c, _n: frame(GOAWAY, 0, 0, bytes(8)), PATIENCE),
    ("WINDOW_UPDATE of a byte", lambda _c, _n: more(0, 1), PATIENCE),
    ("empty DATA", lambda c, n: c.question(1, None) if not n else frame(DATA, 0, 1, b""), PATIENCE),
    ("DATA for what is over", lambda c, n: c.question(1) + reset(1) if not n else frame(DATA, 0, 1), PATIENCE),
    # Rapid reset, CVE-2023-44487: three frames, and what giving up costs.
    ("questions that are given up", lambda c, n: c.question(2 * n + 1) + reset(2 * n + 1), PATIENCE // 11),
    ("questions with a wrong window", lambda c, n: c.question(2 * n + 1) + more(2 * n + 1, 0), PATIENCE // 11),
    ("malformed questions", lambda c, n: c.question(2 * n + 1, b"", REQUEST[1:]), PATIENCE // 10),
    ("questions past the hundredth", lambda c, n: c.question(2 * n + 1, None), http2.STREAMS + PATIENCE // 9),
]


@pytest.mark.parametrize(("one", "most"), [case[1:] for case in FLOODS], ids=[case[0] for case in FLOODS])
async def test_a_flood_ends_with_its_connection(
    client: Client, home: Home, one: Callable[[Client, int], bytes], most: int
) -> None:
    said = 0
    while not client.over:
        client.say(one(client, said))
        said += 1
        assert said <= most + 5
    assert ended(client) == CALM
    assert said > most // 2


async def test_honest_calls_never_come_near_to_that(client: Client, home: Home) -> None:
    for at in range(PATIENCE):
        client.say(frame(PING, 0, 0, bytes(8)), client.question(2 * at + 1), more(0, 1000))
        home.asked[-1].stream.finish(HEADER, bytes(1000), TRAILERS)
        client.say(frame(PING, ACK, 0, bytes(8)))
        home.asked.clear()
    assert ended(client) is None


async def test_a_large_answer_earns_the_growth_of_windows_that_it_takes(client: Client, home: Home) -> None:
    client.ask(1)
    sending = asyncio.create_task(home.asked[0].stream.send(HEADER, bytes(32 << 20)))
    while not sending.done():
        await asyncio.sleep(0)
        client.say(more(0, 8192), more(1, 8192))
        client.heard()
    await sending
    assert not client.over


async def test_a_header_in_parts_without_end_is_bounded(client: Client) -> None:
    client.say(frame(HEADERS, 0, 1, b"\x00"))
    parts = 0
    while not client.over:
        client.say(frame(CONTINUATION, 0, 1, bytes(100)))
        parts += 1
    assert parts <= HEADER_BYTES // 100 + 1
    assert ended(client) == CALM


async def test_an_empty_part_of_a_header_ends_the_connection(client: Client) -> None:
    client.say(frame(HEADERS, 0, 1, b""), frame(CONTINUATION, 0, 1, b""))
    assert ended(client) == CALM


BOMBS = [
    ("one field, again and again", lambda c: c.encoder.encode([("a", "b" * 4000)]) + b"\xbe" * 4000),
    ("fields without end", lambda _: b"\x82" * 8000),
    ("empty fields", lambda _: b"\x00\x00\x00" * 2000),
    ("a long text", lambda c: c.encoder.encode([("a", "0" * 9000)])),
    ("a number without end", lambda _: b"\x7f" + b"\xff" * 8000),
    ("a table that grows and shrinks", lambda _: b"\x20" * 8000),
    ("a table over ours", lambda _: b"\x3f\xff\xff\x03"),
]


@pytest.mark.parametrize("bomb", [case[1] for case in BOMBS], ids=[case[0] for case in BOMBS])
async def test_a_header_that_grows_when_it_is_read_is_not(
    client: Client, home: Home, bomb: Callable[[Client], bytes]
) -> None:
    block = bomb(client)
    assert len(block) <= HEADER_BYTES
    client.say(frame(HEADERS, 5, 1, block))
    assert ended(client) == COMPRESSION
    assert not home.asked


async def test_settings_without_end_in_one_frame_are_refused(client: Client) -> None:
    client.say(frame(SETTINGS, 0, 0, setting(4, 1) * 2000))
    assert ended(client) == CALM


async def test_who_takes_nothing_is_not_read_and_at_last_ended(client: Client, home: Home) -> None:
    client.connection.pause_writing()  # what the transport says
    said = 0
    while client.transport.reading:
        client.say(frame(PING, 0, 0, bytes(8)) * 100)
        said += 1700
    assert said <= UNREAD_BYTES + 1700
    assert not client.heard()
    client.connection.look(asyncio.get_running_loop().time() + http2.UNTAKEN_WITHIN_S + 1)
    assert client.transport.aborted
    assert home.complaints == ["nothing was taken in time"]


async def test_who_takes_again_is_read_on(client: Client) -> None:
    client.connection.pause_writing()
    client.say(frame(PING, 0, 0, b"12345678") * 1000, frame(0xEE, 0, 0, bytes(16000)) * 4)
    assert not client.transport.reading
    client.connection.resume_writing()
    assert client.transport.reading
    assert len(client.heard()) == 1000


async def test_nobody_waits_for_who_says_nothing_or_half_of_it(home: Home) -> None:
    now = asyncio.get_running_loop().time()
    silent, half, header, good = Client(home), Client(home), Client(home), Client(home)
    for each in (half, header, good):
        each.greet()
    half.say(frame(PING, 0, 0, bytes(8))[:-1])
    header.say(frame(HEADERS, 0, 1, b"a"))
    good.ask(1)
    for each in (silent, half, header, good):
        each.connection.look(now + 5)
        assert not each.over
        each.connection.look(now + 11)
    assert [each.over for each in (silent, half, header, good)] == [True, True, True, False]


async def test_a_trickle_does_not_hold_a_frame_open(client: Client) -> None:
    now = asyncio.get_running_loop().time()
    for at, byte in enumerate(frame(DATA, 0, 1, bytes(100))[:-1]):
        client.say(bytes((byte,)))
        client.connection.look(now + at)
        if client.over:
            break
    assert client.over


async def test_a_question_that_is_not_finished_is_told_to_who_answers(client: Client, home: Home) -> None:
    now = asyncio.get_running_loop().time()
    client.ask(1, None)
    client.connection.look(now + ASK_WITHIN_S - 1)
    assert home.asked[0].lates == 0
    client.connection.look(now + ASK_WITHIN_S + 1)
    assert home.asked[0].lates == 1


async def test_many_frames_at_once_are_worked_on_a_little_a_turn(home: Home) -> None:
    """By a clock that stands still but where it is asked."""
    asked = 0.0

    def clock() -> float:
        nonlocal asked
        asked += 1
        return asked

    client = Client(home, Pace(2.5, clock))
    client.greet()
    client.say(frame(PING, 0, 0, bytes(8)) * 100)
    answered = len(client.heard())
    assert 0 < answered < 100
    turns = 0
    while answered < 100:
        await asyncio.sleep(0)
        answered += len(client.heard())
        turns += 1
    assert turns >= 3


# --- whatever comes ---

_FRAMES = st.builds(
    frame,
    st.integers(0, 12),
    st.sampled_from([0, 1, 4, 5, 8, 12, 13, 0x20, 0x2D]),
    st.sampled_from([0, 1, 1, 3, 3, 5, 7, 9, 2, 1 << 31]),
    st.one_of(st.binary(max_size=40), st.just(bytes(4)), st.just(bytes(8)), st.just(setting(4, 7))),
)


@given(st.lists(_FRAMES, max_size=30), st.data())
def test_no_frames_are_a_fault_of_ours_fuzz(frames: list[bytes], choose: st.DataObject) -> None:
    async def feed() -> None:
        home, faults = Home(), []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        client = Client(home)
        client.greet()
        client.ask(1, None)
        client.ask(3)
        for each in frames:
            client.say(each)
            if choose.draw(st.booleans()) and home.asked:
                home.asked[choose.draw(st.integers(0, len(home.asked) - 1))].stream.finish(HEADER, bytes(70), TRAILERS)
            await asyncio.sleep(0)
        client.connection.connection_lost(None)
        assert not faults
        assert not client.transport.aborted
        assert client.connection.streams == 0

    asyncio.run(feed())


@given(st.lists(st.integers(1, 400), max_size=20))
def test_it_does_not_matter_where_bytes_are_split_fuzz(cuts: list[int]) -> None:
    async def feed() -> None:
        home = Home()
        client = Client(home)
        said = PREFACE + frame(SETTINGS, 0, 0, setting(4, 100)) + client.question(1, b"a" * 100)
        said += frame(PING, 0, 0, bytes(8)) + client.question(3, b"b" * 300) + more(3, 5)
        at = 0
        for cut in (*cuts, len(said)):
            client.say(said[at : at + cut])
            at += cut
        assert [asked.heard for asked in home.asked] == [message(b"a" * 100), message(b"b" * 300)]
        assert [each.kind for each in client.heard()] == [SETTINGS, SETTINGS, PING]

    asyncio.run(feed())
