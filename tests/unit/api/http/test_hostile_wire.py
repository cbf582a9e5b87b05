"""One client against the server, with bytes that no HTTP library would send. Memory is told by counts and sizes."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from cacheserver import metrics
from cacheserver.api.http.connection import BODY_BYTES, HEADER_BYTES, Connection
from cacheserver.api.http.connections import CLOSE_WITHIN_S, HEADER_WITHIN_S, ConnectionLimits
from cacheserver.api.http.reply import UNSENT_BYTES
from tests.fakes.api import BASE, World, api_world
from tests.support.raw_clients import raw_clients
from tests.support.waiting import eventually

GET = b"GET /openapi/v2 HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Raw:
    """A client of bytes. It takes nothing until it is asked to: what the server sends stays with the server."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(5):
            await self._loop.sock_sendall(self._sock, data)

    async def rest(self) -> bytes:
        """All until the server ends the connection, whether politely or not."""
        taken = b""
        async with asyncio.timeout(5):
            try:
                while more := await self._loop.sock_recv(self._sock, 1 << 16):
                    taken += more
            except ConnectionError:
                pass
        return taken


@asynccontextmanager
async def connected(world: World, *, window: int = 4096) -> AsyncIterator[tuple[Raw, Connection]]:
    """A client, and the server's side of it. window: bytes that the client's kernel takes."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", int(world.url.rpartition(":")[2])))
        ours = sock.getsockname()
        found: list[Connection] = []
        while not found:
            await asyncio.sleep(0)
            found = [cast("Connection", one) for one in world.server.connections if one.peername == ours]
        yield Raw(sock), found[0]
    finally:
        sock.close()


async def turns(world: World, count: int = 200) -> None:
    """The loop goes round so often, with another client's requests: what would pile up has time to."""
    for _ in range(count):
        assert (await world.get("/livez")).status == 200


# --- answers that nobody takes ---


async def test_small_answers_that_nobody_takes_do_not_pile_up(world: World) -> None:
    async with connected(world) as (client, connection):
        await client.send(GET * 2000)
        await turns(world)
        assert connection.transport is not None
        assert connection.transport.get_write_buffer_size() < UNSENT_BYTES + len((await world.get("/openapi/v2")).body)
        assert not connection.transport.is_reading()


async def test_little_may_wait_unsent(world: World) -> None:
    async with connected(world) as (_, connection):
        assert connection.transport is not None
        assert connection.transport.get_write_buffer_limits()[1] == UNSENT_BYTES


async def test_requests_behind_an_answer_that_nobody_takes_are_not_read(world: World) -> None:
    async with connected(world) as (client, connection):
        await client.send(GET * 100)
        await turns(world)
        answered = world.server.requests_count
        sending = asyncio.create_task(client.send(GET * 1_000_000))
        await turns(world, 100)
        assert world.server.requests_count - answered == 100  # those of the other client
        assert not sending.done()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert len(connection._messages) <= 32


async def test_an_answer_counts_until_it_is_taken() -> None:
    async with api_world(max_reads=1) as world:
        for i in range(400):
            world.package(f"p{i}", summary="x" * 20_000)
        await world.settled()
        async with connected(world) as (client, connection):
            await client.send(f"GET {BASE}/packages HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await eventually(lambda: connection.writing_paused)
            assert (await world.get("namespaces/team/packages/r.p1")).status == 429
            assert (await world.get("/readyz")).status == 200
        answers = (await world.get("namespaces/team/packages/r.p1") for _ in range(100))
        assert 200 in [answer.status async for answer in answers]  # it left, and made room


async def test_discovery_that_nobody_takes_counts_for_its_client_alone() -> None:
    async with api_world(max_reads=4) as world, raw_clients(world.url) as clients:
        (stalled,) = await clients.send(1, GET * 100, paused=True)
        await eventually(lambda: any(cast("Connection", one).writing_paused for one in world.server.connections))
        for path, status in (("/openapi/v2", 429), ("/livez", 200), (f"{BASE}/packages", 200)):
            (other,) = await clients.send(1, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await other.status() == status
        assert (await world.get("/openapi/v2")).status == 200  # from 127.0.0.1
        stalled.writer.transport.abort()
        await eventually(lambda: world.api._in_flight_beside._now[0] == 0)


async def test_a_long_pipeline_is_answered_to_its_end_when_the_client_takes_it(six: World) -> None:
    one = f"GET {BASE}/namespaces/team/packages/r.a HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    async with connected(six, window=1 << 20) as (client, _):
        sending = asyncio.create_task(client.send(one * 500 + LAST))
        assert (await client.rest()).count(b"HTTP/1.1 200 OK\r\n") == 501
        await sending


# --- headers ---


async def test_a_header_without_end_is_refused_by_name(world: World) -> None:
    async with connected(world) as (client, connection):
        await client.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
        line = b"X-A: " + b"a" * 8000 + b"\r\n"
        sending = asyncio.create_task(client.send(line * 4000))  # 32 MB
        answer = await client.rest()
        sending.cancel()
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert b"the request's header is too large: it has more than 256 KiB" in answer
        assert b"Connection: close\r\n" in answer
        assert connection._unfinished < HEADER_BYTES + (512 << 10)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (b"X-A: " + b"a" * 70_000 + b"\r\n", b"a line of it has more than 64 KiB"),
        (b"X-A: a\r\n" * 600, b"it has more than 512 lines"),
    ],
)
async def test_a_line_or_lines_too_many_are_refused_by_name(world: World, lines: bytes, said: bytes) -> None:
    async with connected(world) as (client, _):
        await client.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n")
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert said in answer


async def test_a_user_of_many_groups_is_let_in(world: World) -> None:
    groups = b"".join(b"X-Remote-Group: %b-%d\r\n" % (b"g" * 400, i) for i in range(500))
    async with connected(world) as (client, _):
        await client.send(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + groups + b"\r\n")
        assert (await client.rest()).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_header_that_never_ends_has_a_deadline(world: World) -> None:
    async with connected(world) as (slow, _), connected(world) as (silent, _), connected(world) as (well, known):
        await slow.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
        await well.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        await turns(world, 5)
        now = asyncio.get_running_loop().time()
        world.server.pool.look(now + HEADER_WITHIN_S - 5)
        assert known.transport is not None
        assert len(world.server.connections) == 4  # the session's, too
        world.server.pool.look(now + HEADER_WITHIN_S)
        assert await slow.rest() == await silent.rest() == b""
        assert not known.transport.is_closing()


async def test_a_second_header_has_its_own_deadline(world: World) -> None:
    async with connected(world) as (client, connection):
        await client.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        await turns(world, 5)
        await client.send(b"GET /livez HTTP/1.1\r\n")
        await turns(world, 5)
        assert connection.since > 0.0
        world.server.pool.look(connection.since + HEADER_WITHIN_S)
        assert (await client.rest()).count(b"HTTP/1.1") == 1


async def test_unfinished_headers_of_many_clients_share_a_budget(world: World) -> None:
    world.server.pool.limits = ConnectionLimits(unfinished_bytes=20_000)
    begin = b"GET /livez HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 8000
    async with connected(world) as first, connected(world) as second, connected(world) as third:
        for client, _ in (first, second, third):
            await client.send(begin)
            await turns(world, 5)
        assert await first[0].rest() == b""  # the one that took longest
        for client, _ in (second, third):
            await client.send(b"\r\nConnection: close\r\n\r\n")
            assert (await client.rest()).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.usefixtures("hasty")
async def test_large_headers_of_watches_share_a_budget(world: World) -> None:
    """Each is kept as long as its watch."""
    world.server.pool.limits = ConnectionLimits(large_bytes=50_000)
    watch = f"GET {BASE}/packages?watch=1 HTTP/1.1\r\nHost: x\r\nX-A: {'a' * 20_000}\r\n\r\n".encode()
    async with connected(world) as first, connected(world) as second, connected(world) as third:
        for client, _ in (first, second, third):
            await client.send(watch)
            await turns(world, 5)
        answer = await third[0].rest()
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert b"it has more than 16 KiB, and there is no room for another such one" in answer
        assert all(connection.transport is not None for _, connection in (first, second))
    async with connected(world) as fourth:
        await turns(world, 5)
        await fourth[0].send(watch)
        await turns(world, 5)
        assert fourth[1].transport is not None  # who left has made room


# --- bodies ---


async def test_a_body_without_end_is_answered_and_the_connection_ends(world: World) -> None:
    begin = f"POST {BASE}/packages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    async with connected(world) as (client, connection):
        await client.send(begin)
        sending = asyncio.create_task(client.send(b"10000\r\n" + (b"a" * 65536 + b"\r\n10000\r\n") * 1000))
        answer = await client.rest()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert answer.startswith(b"HTTP/1.1 405 ")
        assert connection._unfinished <= BODY_BYTES + (512 << 10)


async def test_those_who_send_much_read_on_one_after_the_other(world: World) -> None:
    """A hundred who send as fast as they can would be all that the loop does: what is thrown away is decrypted."""
    begin = f"POST {BASE}/packages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    async with connected(world) as (body, first), connected(world) as (header, second):
        sending = [
            asyncio.create_task(body.send(begin + (b"10000\r\n" + b"a" * 65536 + b"\r\n") * 1000)),
            asyncio.create_task(header.send(b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 200 + b"X-B: " + b"a" * 20_000)),
        ]
        connections = world.server.pool
        await eventually(lambda: first._deaf and second._unfinished > 20_000)
        transport = first.transport
        assert transport is not None
        await eventually(lambda: first in connections._put_off and not transport.is_reading())
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)


async def test_a_body_is_read_in_turn_until_somebody_wants_it(world: World) -> None:
    """A hundred who begin one each are a hundred reads a turn of the loop otherwise, eight times, before they are cut
    off."""
    begin = f"POST {BASE}/packages HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n".encode()
    connections = world.server.pool
    connections._reading_on = asyncio.get_running_loop().call_later(3600, connections._read_on)  # nobody's turn comes
    async with connected(world) as (client, connection):
        await client.send(begin + bytes(1000))
        await eventually(lambda: connection._body is not None)
        await client.send(bytes(100_000))
        await eventually(lambda: connection in connections._put_off)
        assert not connection._deaf, "it may still be asked for"
        assert connection.transport is not None
        assert not connection.transport.is_reading()
        connection.take_body(1 << 20)
        assert connection not in connections._put_off
        assert connection.transport.is_reading()


async def test_connections_that_end_together_end_in_turns(world: World) -> None:
    """Each wakes whoever answers on it: 2,500 watchers of one process that ended were 0.3 s without an answer."""
    ended: list[int] = []

    def end(number: int) -> None:
        until = time.perf_counter() + 0.002
        while time.perf_counter() < until:
            pass
        ended.append(number)

    for number in range(20):
        world.server.pool.part(functools.partial(end, number))
    assert ended == [0]
    await turns(world, 1)
    assert len(ended) < 20, "others are answered in between"
    await eventually(lambda: ended == list(range(20)))


async def test_who_looks_for_an_answer_when_all_is_sent_finds_it(world: World) -> None:
    body = bytes(3 << 20)
    head = f"POST {BASE}/packages HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    async with connected(world, window=1 << 16) as (client, _):
        await client.send(head.encode() + body)
        assert (await client.rest()).startswith(b"HTTP/1.1 405 ")


async def test_the_trailer_of_a_body_is_bounded(world: World) -> None:
    begin = f"POST {BASE}/packages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n".encode()
    async with connected(world) as (client, connection):
        await client.send(begin)
        sending = asyncio.create_task(client.send((b"X-A: " + b"a" * 60_000 + b"\r\n") * 300))
        answer = await client.rest()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert answer.startswith(b"HTTP/1.1 405 ")
        assert connection._unfinished <= BODY_BYTES + (512 << 10)


async def test_a_body_is_never_unpacked(world: World) -> None:
    bomb = zlib.compress(bytes(30 << 20))
    head = (
        f"POST {BASE}/packages HTTP/1.1\r\nHost: x\r\nContent-Encoding: deflate\r\nContent-Length: {len(bomb)}\r\n\r\n"
    )
    async with connected(world) as (client, connection):
        await client.send(head.encode() + bomb)
        await turns(world, 5)
        assert connection.transport is not None  # the body was whole, and small: the connection goes on
        await client.send(LAST)
        assert (await client.rest()).count(b"HTTP/1.1 ") == 2


# --- who has not shown who it is ---


async def test_the_unauthenticated_push_out_each_other_and_nobody_else(world: World) -> None:
    async with connected(world) as (well, known):
        await well.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        await turns(world, 5)
        world.server.pool.limits = ConnectionLimits(unauthenticated=2)
        before = metrics.connections_refused.labels("unauthenticated").value
        async with connected(world) as (first, _), connected(world) as (_, second), connected(world) as (_, third):
            assert await first.rest() == b""
            assert metrics.connections_refused.labels("unauthenticated").value == before + 1
            assert known.transport is not None
            assert second.transport is not None
            assert third.transport is not None


async def test_what_a_closed_connection_has_for_its_client_is_not_kept_for_ever(world: World) -> None:
    async with connected(world) as (client, connection):
        await client.send(GET * 100)
        await turns(world)
        transport = connection.transport
        assert transport is not None
        transport.close()
        assert transport.get_write_buffer_size() > 0
        now = asyncio.get_running_loop().time()
        world.server.pool.look(now)
        world.server.pool.look(now + CLOSE_WITHIN_S)

        async def gone() -> bool:
            return connection not in world.server.connections

        await eventually(gone)


# --- what is not a request ---


@pytest.mark.usefixtures("hasty")
async def test_nonsense_is_answered_in_a_line_and_logged_in_one(world: World, caplog: pytest.LogCaptureFixture) -> None:
    nonsense = b"GET /livez HTTP/1.1\r\nHost: x\r\nX-A\x01" + b"secret" * 5000 + b": a\r\n\r\n"
    with caplog.at_level(logging.DEBUG):
        for _ in range(20):
            async with connected(world) as (client, _):
                await client.send(nonsense)
                await client.send(b"more" * 10)
                await turns(world, 2)
        async with connected(world) as (client, _):
            await client.send(nonsense)
            answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"this is not a request of HTTP/1: " in answer
    assert b"secret" not in answer
    assert b"Server:" not in answer
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.getMessage() == "a client was turned away"
    assert line.exc_info is None
    assert len(str(vars(line))) < 2000
    assert "secret" not in caplog.text


@pytest.mark.usefixtures("hasty")
async def test_no_answer_says_which_software_this_is(world: World) -> None:
    for sent in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", LAST, b"GET /nope HTTP/1.0\r\n\r\n"):
        async with connected(world) as (client, _):
            await client.send(sent)
            answer = await client.rest()
            assert answer.startswith(b"HTTP/1.1 ")
            assert b"server:" not in answer.lower()
            assert b"aiohttp" not in answer.lower()


# --- another protocol ---


@pytest.mark.parametrize("protocol", [b"websocket", b"SPDY/3.1", b"h2c"])
async def test_a_refused_upgrade_is_the_last_answer_and_says_so(world: World, protocol: bytes) -> None:
    upgrade = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n"
    async with connected(world) as (client, _):
        await client.send(upgrade + GET)
        answer = await client.rest()
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"Connection: close\r\n" in answer
