"""Watches over WebSocket, byte by byte: what a handshake is answered, and what a client may say behind it.

What watches deliver over it is tested with those in chunks: tests/unit/api/watching.
"""

from __future__ import annotations

import asyncio
import base64
import random
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import orjson
import pytest
from aiohttp import web

from cacheserver.api.forms import Framer
from cacheserver.api.http.connection import Connection
from cacheserver.api.http.connections import HEADER_WITHIN_S
from cacheserver.api.http.reply import UNSENT_BYTES, Framing, framed
from cacheserver.api.http.websocket import FRAMES, MESSAGE_BYTES, Incoming, unmasked
from cacheserver.security.handshake import sent_token
from cacheserver.security.identity import Attributes, Identity
from tests.fakes.api import ACCEPTED, BASE, HANDSHAKE, World, api_world
from tests.support.fuzz import EXAMPLES
from tests.support.raw_clients import RawClient, raw_clients
from tests.support.waiting import eventually

MASK = b"\x12\x34\x56\x78"
TOKEN = "base64url.bearer.authorization.k8s.io." + base64.urlsafe_b64encode(b"secret?>").decode().rstrip("=")


def frame(opcode: int, said: bytes = b"", *, last: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    """As a client sends it."""
    first = (0x80 if last else 0) | reserved << 4 | opcode
    size = len(said)
    length = (
        bytes((size,)) if size < 126 else struct.pack(">BH" if size < 1 << 16 else ">BQ", 126 + (size >> 16 > 0), size)
    )
    if not masked:
        return bytes((first,)) + length + said
    covered = bytes(byte ^ MASK[n % 4] for n, byte in enumerate(said))
    return bytes((first, length[0] | 0x80)) + length[1:] + MASK + covered


def request(path: str = "packages?watch=1", method: str = "GET", version: str = "1.1", **headers: str | None) -> bytes:
    """A handshake. headers: with _ for -; None leaves one out."""
    lines: dict[str, str | None] = {"Host": "127.0.0.1", **HANDSHAKE}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"{method} {BASE}/{path} HTTP/{version}\r\n{text}\r\n".encode()


class Talk:
    """A client behind its handshake."""

    def __init__(self, raw: RawClient) -> None:
        self.raw = raw

    async def head(self) -> tuple[int, Mapping[str, str]]:
        """Status and headers, names in lower case."""
        async with asyncio.timeout(5):
            first, *lines = (await self.raw.reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        return int(first.split()[1]), {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }

    async def next(self) -> tuple[int, bytes]:
        """(first byte, payload) of the next frame, which is not masked."""
        take = self.raw.reader.readexactly
        async with asyncio.timeout(5):
            first, size = await take(2)
            if size >= 126:
                size = int.from_bytes(await take(2 if size == 126 else 8), "big")
            return first, await take(size)

    async def event(self) -> Any:
        first, said = await self.next()
        assert first == 0x81, said
        assert said.endswith(b"}\n")
        return orjson.loads(said)

    async def ends(self) -> int:
        """The code of the close frame, which is all that comes."""
        first, said = await self.next()
        assert first == 0x88, (first, said)
        assert await self.raw.rest(within_s=5) == b""
        return int.from_bytes(said, "big")


@asynccontextmanager
async def talking(world: World, sent: bytes) -> AsyncIterator[Talk]:
    async with raw_clients(world.url) as clients:
        (one,) = await clients.send(1, sent)
        yield Talk(one)


@asynccontextmanager
async def quiet(world: World) -> AsyncIterator[Talk]:
    """One that watches, from now on."""
    async with talking(world, request(f"packages?watch=1&resourceVersion={world.feed.revision}")) as talk:
        assert (await talk.head())[0] == 101
        yield talk


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients here have said all that they say."""
    monkeypatch.setattr("cacheserver.api.http.websocket.FAREWELL_S", 0.05)


def _connection(world: World) -> Connection:
    (found,) = (one for one in world.server.connections if cast("Connection", one)._conversation is not None)
    return cast("Connection", found)


# --- the handshake ---


async def test_the_answer_is_the_rfcs(six: World) -> None:
    async with talking(six, request(Upgrade="WebSocket", Connection="keep-alive, upgrade")) as talk:
        status, headers = await talk.head()
        assert (status, headers["sec-websocket-accept"]) == (101, ACCEPTED)
        assert (headers["upgrade"], headers["connection"]) == ("websocket", "Upgrade")
        assert "sec-websocket-protocol" not in headers
        assert "content-length" not in headers
        assert "transfer-encoding" not in headers
        assert (await talk.event())["object"]["metadata"]["name"] == "s.e"


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("binary.k8s.io", "binary.k8s.io"),
        ("base64.binary.k8s.io", "base64.binary.k8s.io"),
        ("any", "any"),
        ("first, second", "first"),
        (f"{TOKEN}, base64.binary.k8s.io", "base64.binary.k8s.io"),
        (f"base64.binary.k8s.io,{TOKEN}", "base64.binary.k8s.io"),
    ],
)
async def test_a_subprotocol_is_answered_and_events_are_text_whatever_it_is(
    six: World, offered: str, chosen: str
) -> None:
    async with talking(six, request(Sec_WebSocket_Protocol=offered)) as talk:
        status, headers = await talk.head()
        assert (status, headers["sec-websocket-protocol"]) == (101, chosen)
        assert (await talk.event())["type"] == "ADDED"


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Sec_WebSocket_Version": "8"}, "13"),
        ({"Sec_WebSocket_Version": None}, "13"),
        ({"Sec_WebSocket_Key": None}, "Sec-WebSocket-Key"),
        ({"Sec_WebSocket_Key": "short"}, "16 bytes"),
        ({"Sec_WebSocket_Key": f"{HANDSHAKE['Sec-WebSocket-Key']}\r\nSec-WebSocket-Key: x"}, "once"),
        ({"Sec_WebSocket_Protocol": TOKEN}, "beside the token"),
        ({"Sec_WebSocket_Protocol": "a b"}, "no name of a subprotocol"),
        ({"Sec_WebSocket_Protocol": "a" * 200}, "no name of a subprotocol"),
        ({"Sec_WebSocket_Protocol": '"quoted"'}, "no name of a subprotocol"),
    ],
)
async def test_a_bad_handshake_is_refused_by_name_and_is_the_last_request(
    six: World, headers: dict[str, str | None], said: str
) -> None:
    async with talking(six, request(**cast("dict[str, Any]", headers)) + request()) as talk:
        status, answered = await talk.head()
        body = await talk.raw.rest()
        assert (status, answered["connection"]) == (400, "close")
        assert said in orjson.loads(body)["message"]
        assert "secret" not in str(body)
        assert ("sec-websocket-version" in answered) == (said == "13")


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked"])
async def test_a_handshake_with_a_body_is_refused(six: World, framing: str) -> None:
    """A proxy and we might see its end in different places."""
    name, _, value = framing.partition(": ")
    body = b"5\r\nhello\r\n0\r\n\r\n" if value == "chunked" else b"hello"
    headers: dict[str, Any] = {name.replace("-", "_"): value}
    async with talking(six, request(**headers) + body + request()) as talk:
        assert (await talk.head())[0] == 400
        assert b"has no body" in await talk.raw.rest()


async def test_what_is_no_handshake_is_answered_as_ever(six: World) -> None:
    for sent in (
        request(version="1.0"),
        request(Connection="keep-alive"),
        request(Upgrade="h2c"),
        request("packages"),
        request("namespaces/team/packages/r.a"),
    ):
        async with talking(six, sent) as talk:
            assert (await talk.head())[0] == 200


async def test_refusals_come_before_the_handshake(six: World) -> None:
    for path, status in (("nothing?watch=1", 404), ("packages?watch=1&resourceVersion=x", 400)):
        async with talking(six, request(path)) as talk:
            assert (await talk.head())[0] == status
    async with talking(six, request(method="POST")) as talk:
        assert (await talk.head())[0] == 405


async def test_watches_over_websocket_count_with_all_others() -> None:
    async with api_world(max_watches=2) as world, quiet(world), world.watch(), talking(world, request()) as talk:
        assert (await talk.head())[0] == 429


# --- who asks ---


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({"Authorization": "Bearer one"}, "one"),
        ({"Authorization": "Bearer one", "Sec-WebSocket-Protocol": f"{TOKEN}, a"}, "one"),
        ({"Authorization": "Basic one", "Sec-WebSocket-Protocol": f"{TOKEN}, a"}, "secret?>"),
        ({"Sec-WebSocket-Protocol": f"a, {TOKEN}"}, "secret?>"),
        ({"Sec-WebSocket-Protocol": TOKEN}, ""),
        ({"Sec-WebSocket-Protocol": f"{TOKEN}, {TOKEN}, a"}, ""),
        ({"Sec-WebSocket-Protocol": f"{TOKEN[:-2]}, a"}, ""),
        ({"Sec-WebSocket-Protocol": f"{TOKEN}=, a"}, ""),
        ({"Sec-WebSocket-Protocol": f"{TOKEN}$, a"}, ""),
        ({"Sec-WebSocket-Protocol": f"{TOKEN[:38]}/w, a"}, ""),
        ({"Sec-WebSocket-Protocol": f"{TOKEN[:38]}_w, a"}, ""),  # not UTF-8
        ({"Sec-WebSocket-Protocol": f"{TOKEN[:38]}, a"}, ""),
        ({"Sec-WebSocket-Protocol": f"{TOKEN}, a", "Upgrade": "h2c"}, ""),
    ],
)
async def test_a_token_is_taken_from_where_kubernetes_takes_it(headers: dict[str, str], token: str) -> None:
    asked = {"tokens": [""]}

    class Gate:
        async def identify(self, request: web.BaseRequest) -> Identity:
            asked["tokens"].append(sent_token(request))
            return Identity("x", (), "", ())

        async def authorize(self, identity: Identity, attributes: Attributes) -> None: ...

    async with api_world(gate=Gate()) as world:
        await world.get(
            "packages", headers={**HANDSHAKE, **headers}, watch="1", timeoutSeconds="1", resourceVersion="x"
        )
    assert asked["tokens"][1:] in ([token], [token, token])


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("http://evil.example", "127.0.0.1:8001", 403),
        ("null", "127.0.0.1:8001", 403),
        ("http://[", "127.0.0.1:8001", 403),
        ("http://127.0.0.1.evil.example", "127.0.0.1:8001", 403),
        ("http://localhost:9000", "127.0.0.1:8001", 101),
        ("http://127.0.0.1:8001", "127.0.0.1:8001", 101),
        ("https://packages.example", "packages.example:443", 101),
        (None, "127.0.0.1", 101),
    ],
)
async def test_a_page_of_another_site_reads_nothing_where_nobody_is_asked_who_he_is(
    six: World, origin: str | None, host: str, status: int
) -> None:
    async with talking(six, request(Origin=origin, Host=host)) as talk:
        assert (await talk.head())[0] == status


# --- behind the handshake ---


async def test_one_event_is_one_frame_also_where_many_are_sent_at_once(six: World) -> None:
    async with quiet(six) as talk:
        for _ in range(50):
            six.package("a", revisions=1)
        versions = [int((await talk.event())["object"]["metadata"]["resourceVersion"]) for _ in range(50)]
    assert versions == list(range(17, 67))


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 1 << 20])
async def test_frames_say_their_size(size: int) -> None:
    sent = framed([b"x" * size, b"next"], Framing.FRAMES).data
    reader = asyncio.StreamReader()
    reader.feed_data(sent)
    talk = Talk(RawClient(reader, cast("asyncio.StreamWriter", None)))
    assert await talk.next() == (0x81, b"x" * size)
    assert await talk.next() == (0x81, b"next")


async def test_chunks_and_frames_are_made_of_the_same_bytes(six: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    frame_of = Framer.frame

    def counted(self: Framer, *arguments: Any, **options: Any) -> bytes:
        made.append("frame")
        return frame_of(self, *arguments, **options)

    async with quiet(six) as talk, six.watch(resourceVersion="16") as lines:
        await eventually(lambda: six.watches == 2)
        assert len(six.api._watches._channels) == 1
        for _ in range(20):
            await asyncio.sleep(0)  # both follow
        monkeypatch.setattr(Framer, "frame", counted)
        six.package("a", revisions=1)
        assert await talk.event() == await lines.next()
    assert made == ["frame"]


async def test_a_ping_is_answered_and_all_else_that_a_client_says_is_thrown_away(six: World) -> None:
    async with quiet(six) as talk:
        await talk.raw.send(
            frame(1, b"hello")
            + frame(2, b"\xff" * 1000)
            + frame(10, b"unasked")
            + frame(1, b"one, ", last=False)
            + frame(9, b"between")
            + frame(0, b"two")
        )
        assert await talk.next() == (0x8A, b"between")
        await talk.raw.send(frame(9, b"x" * 125))
        assert await talk.next() == (0x8A, b"x" * 125)
        six.package("a", revisions=1)
        assert (await talk.event())["type"] == "MODIFIED"
        held = sum(len(value) for value in (_connection(six)._message_tail, _incoming(six)._held))
        assert held == 0


def _incoming(world: World) -> Incoming:
    incoming: Incoming = cast("Any", _connection(world)._conversation)._incoming
    return incoming


async def test_frames_behind_the_handshake_in_the_same_packet_are_frames(six: World) -> None:
    sent = request(f"packages?watch=1&resourceVersion={six.feed.revision}") + frame(9, b"early")
    async with talking(six, sent) as talk:
        assert (await talk.head())[0] == 101
        assert await talk.next() == (0x8A, b"early")


@pytest.mark.parametrize("together", [True, False])
async def test_no_byte_behind_the_handshake_is_read_as_a_request(six: World, together: bool) -> None:
    hidden = f"GET {BASE}/namespaces/team/packages/r.b HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    answered = six.server.requests_count
    async with talking(six, request("packages?watch=1&resourceVersion=16") + (hidden if together else b"")) as talk:
        assert (await talk.head())[0] == 101
        if not together:
            await talk.raw.send(hidden)
        assert await talk.ends() == 1002
    assert six.server.requests_count == answered + 1


async def test_nor_is_any_behind_the_end_of_a_watch(six: World) -> None:
    hidden = f"GET {BASE}/namespaces/team/packages/r.b HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    async with talking(six, request("packages?watch=1&resourceVersion=1")) as talk:
        assert (await talk.head())[0] == 101
        assert (await talk.event())["object"]["code"] == 410
        assert await talk.next() == (0x88, b"\x03\xe8")
        await talk.raw.send(hidden + frame(8, b"\x03\xe8"))
        assert b"HTTP/1.1" not in await talk.raw.rest(within_s=5)


WRONG: Mapping[str, tuple[bytes, int]] = {
    "not masked": (frame(1, b"hi", masked=False), 1002),
    "a ping that is not masked": (frame(9, b"hi", masked=False), 1002),
    "a reserved bit": (frame(1, b"hi", reserved=4), 1002),
    "compressed, which was not agreed on": (frame(2, b"hi", reserved=4), 1002),
    "an opcode of no frame": (frame(3, b"hi"), 1002),
    "an opcode of no control frame": (frame(11, b"hi"), 1002),
    "a ping in pieces": (frame(9, b"hi", last=False), 1002),
    "a long ping": (frame(9, b"x" * 126), 1002),
    "a long close": (frame(8, b"\x03\xe8" + b"x" * 124), 1002),
    "a continuation of nothing": (frame(0, b"hi"), 1002),
    "a beginning inside of a message": (frame(1, b"hi", last=False) + frame(1, b"hi"), 1002),
    "a large message": (frame(2, bytes(MESSAGE_BYTES + 1)), 1009),
    "the header of one of 2^63 bytes": (b"\x82\xff" + b"\xff" * 8 + MASK, 1009),
    "a large one in pieces": (frame(2, bytes(40_000), last=False) + frame(0, bytes(40_000), last=False), 1009),
    "a crowd of small ones": (frame(10) * (2 * FRAMES), 1008),
    "goodbye in one byte": (frame(8, b"x"), 1002),
    "goodbye with a code that is never sent": (frame(8, b"\x03\xed"), 1002),
    "goodbye with no code of the RFC's": (frame(8, b"\x00\x01"), 1002),
    "goodbye without a code": (frame(8), 1000),
    "goodbye": (frame(8, b"\x03\xe9bye"), 1001),
    "goodbye with a code of its own": (frame(8, b"\x0f\xa0"), 4000),
}


@pytest.mark.parametrize("case", WRONG)
async def test_what_a_client_may_not_say_and_its_goodbye_end_the_watch_with_a_code(six: World, case: str) -> None:
    sent, code = WRONG[case]
    async with quiet(six) as talk:
        await talk.raw.send(sent)
        assert await talk.ends() == code
        await eventually(lambda: six.watches == 0)


@pytest.mark.parametrize("case", WRONG)
def test_frames_are_the_same_in_whatever_pieces_they_come(case: str) -> None:
    sent, code = WRONG[case]
    if case == "a crowd of small ones":
        code = 0  # it is one of a read
    chance = random.Random(case)
    for most in (1, 7, 100):
        incoming, at = Incoming(), 0
        while at < len(sent):
            size = chance.randint(1, most)
            incoming.feed(sent[at : at + size])
            at += size
            assert len(incoming._held) <= 139
        assert incoming.close == code


def test_fuzzed_frames_are_thrown_away_or_end_it_and_nothing_is_kept() -> None:
    chance = random.Random(14)
    for _ in range(EXAMPLES):
        incoming = Incoming()
        for _ in range(20):
            incoming.feed(chance.randbytes(chance.randint(1, 200)))
            assert len(incoming._held) <= 139
        assert incoming.close in (0, 1002, 1008, 1009) or 1000 <= incoming.close < 5000


async def test_half_a_frame_holds_nothing_up_and_is_no_header_that_is_late(six: World) -> None:
    """Whoever sends a byte a minute has a watch, and 139 bytes."""
    path = "packages?watch=1&timeoutSeconds=1&resourceVersion=16"
    async with talking(six, request(path) + frame(9, b"x" * 100)[:50]) as talk:
        assert (await talk.head())[0] == 101
        await talk.raw.send(b"x")
        await eventually(lambda: len(_incoming(six)._held) == 51)
        six.server.pool.look(asyncio.get_running_loop().time() + 2 * HEADER_WITHIN_S)
        six.package("a", revisions=1)
        assert (await talk.event())["type"] == "MODIFIED"
        assert await talk.ends() == 1000  # when its time is over


async def test_a_client_that_closes_its_half_is_gone(six: World) -> None:
    async with quiet(six) as talk:
        talk.raw.writer.write_eof()
        assert await talk.raw.rest(within_s=5) == b""
        await eventually(lambda: six.watches == 0)


async def test_a_client_that_takes_nothing_holds_as_much_as_one_of_a_watch_in_chunks(world: World) -> None:
    for _ in range(2):
        async with raw_clients(world.url) as clients:
            begin = request(f"packages?watch=1&resourceVersion={world.feed.revision}")
            plain = begin.replace(b"Upgrade: websocket\r\n", b"")
            await clients.send(1, begin, paused=True)
            await clients.send(1, plain, paused=True)
            await eventually(lambda: world.watches == 2)
            stuck = [cast("Connection", one) for one in world.server.connections]
            event = 0
            while not all(one.writing_paused for one in stuck if one._request_in_progress):
                event = world.package("big", summary="x" * 60_000)
                await world.settled()
            for _ in range(30):
                world.package("big", summary="x" * 60_000)
                await world.settled()
            assert event
            for one in stuck:
                if one.transport is not None and one._request_in_progress:
                    assert one.transport.get_write_buffer_size() < UNSENT_BYTES + (192 << 10)
        await eventually(lambda: world.watches == 0)


async def test_pings_of_a_client_that_takes_nothing_are_answered_once_when_it_does(world: World) -> None:
    async with talking(world, request(f"packages?watch=1&resourceVersion={world.feed.revision}")) as talk:
        assert (await talk.head())[0] == 101
        connection = _connection(world)
        talk.raw.pause()
        while not connection.writing_paused:
            world.package("big", summary="x" * 60_000)
            await world.settled()
        for n in range(50):
            await talk.raw.send(frame(9, b"%d" % n))
        await eventually(lambda: unmasked(_incoming(world).ping or MASK) == b"49")
        talk.raw.writer.transport.resume_reading()  # type: ignore[attr-defined] # a socket's transport reads, too
        pongs: list[bytes] = []
        while not pongs:
            first, said = await talk.next()
            if first == 0x8A:
                pongs.append(said)
        assert pongs == [b"49"]


async def test_who_sends_much_is_read_in_turn(six: World) -> None:
    async with quiet(six) as talk:
        connection = _connection(six)
        sending = asyncio.create_task(talk.raw.send(frame(2, bytes(60_000)) * 200))
        await eventually(lambda: connection in six.server.pool._put_off)
        six.package("a", revisions=1)
        assert (await talk.event())["type"] == "MODIFIED"
        await sending


async def test_who_sends_a_crowd_of_pings_is_read_in_turn(six: World) -> None:
    """60 of them are 360 bytes and 0.1 ms: of 300 who send them again and again, all others have nothing left."""
    async with raw_clients(six.url) as clients:
        crowd = await clients.send(100, request(f"packages?watch=1&resourceVersion={six.feed.revision}"))
        for one in crowd:
            assert (await Talk(one).head())[0] == 101
        for one in crowd:
            await one.send(frame(9) * 60)
        await eventually(lambda: len(six.server.pool._put_off) > 1)
        for one in crowd:
            assert await Talk(one).next() == (0x8A, b"")


async def test_a_server_that_stops_says_so(six: World) -> None:
    async with quiet(six) as talk:
        await six.api.shut_down(grace_s=0.01)
        assert await talk.next() == (0x88, b"\x03\xe9")
        await talk.raw.send(frame(8, b"\x03\xe9"))
        assert await talk.raw.rest(within_s=5) == b""


async def test_a_client_that_never_says_goodbye_is_waited_for_a_moment(
    six: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cacheserver.api.http.websocket.GOODBYE_S", 0.01)
    async with talking(six, request("packages?watch=1&resourceVersion=1")) as talk:
        await talk.head()
        await talk.event()
        assert await talk.ends() == 1000
