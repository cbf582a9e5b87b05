"""How connections are taken: within the room there is, whoever else knocks, and whatever the kernel answers."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cacheserver import metrics
from cacheserver.api.http.connections import ConnectionLimits, Connections, place
from tests.fakes.api import World, api_world
from tests.support.certificates import Authority
from tests.support.waiting import eventually

ASK = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


def refused(reason: str) -> float:
    return metrics.connections_refused.labels(reason).value


@contextmanager
def knocking(world: World, address: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A connection that the kernel takes, and that sends nothing."""
    port = int(world.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), source_address=(address, 0)) as sock:
        sock.setblocking(False)
        yield sock


async def says(sock: socket.socket, sent: bytes = b"") -> bytes:
    """The next that comes; empty when the server has closed."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5):
        try:
            await loop.sock_sendall(sock, sent)
            return await loop.sock_recv(sock, 1 << 16)
        except ConnectionError:
            return b""


async def test_for_a_new_connection_the_one_that_is_idle_longest_goes(world: World) -> None:
    world.server.pool.limits = ConnectionLimits(connections=2)
    with knocking(world) as first, knocking(world) as second:
        for sock in (first, second):
            assert (await says(sock, ASK)).startswith(b"HTTP/1.1 200 ")
        before = refused("idle")
        with knocking(world) as third:
            assert (await says(third, ASK)).startswith(b"HTTP/1.1 200 ")
            assert await says(first) == b""
            assert (await says(second, ASK)).startswith(b"HTTP/1.1 200 ")
            assert refused("idle") == before + 1


async def test_connections_in_use_stay_and_a_new_one_is_closed(world: World) -> None:
    world.server.pool.limits = ConnectionLimits(connections=1)
    async with world.watch() as lines:
        before = refused("full")
        with knocking(world) as late:
            assert await says(late) == b""
        assert refused("full") == before + 1
        world.package("app")
        assert (await lines.next())["object"]["metadata"]["name"] == "r.app"


async def test_room_is_free_again_when_connections_end(world: World) -> None:
    world.server.pool.limits = ConnectionLimits(connections=1)
    for _ in range(3):
        with knocking(world) as sock:
            assert (await says(sock, ASK)).startswith(b"HTTP/1.1 200 ")
        await eventually(lambda: not world.server.connections)


async def test_a_kernel_without_files_is_asked_again_after_a_pause_and_told_of_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with knocking(world) as known:
        assert (await says(known, ASK)).startswith(b"HTTP/1.1 200 ")
        before = refused("files")
        with knocking(world) as waiting, caplog.at_level(logging.WARNING):
            lowest = os.dup(0)
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                await eventually(lambda: refused("files") >= before + 3)
                assert (await says(known, ASK)).startswith(b"HTTP/1.1 200 ")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert (await says(waiting, ASK)).startswith(b"HTTP/1.1 200 ")
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert vars(line)["reason"] == "no more files can be open"
    assert "Too many open files" in vars(line)["error"]


@pytest.mark.parametrize(
    ("peer", "found"),
    [
        (("192.0.2.7", 5), "192.0.2.7"),
        (("::ffff:192.0.2.7", 5, 0, 0), "::ffff:192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 5, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::/64"),
        (None, "?"),
    ],
)
def test_who_has_an_address_of_ipv6_has_all_of_its_network(peer: object, found: str) -> None:
    assert place(peer) == found


def test_few_connections_are_mostly_for_who_has_shown_who_it_is() -> None:
    assert ConnectionLimits.of(100) == ConnectionLimits(connections=100, handshakes=12, unauthenticated=25)
    assert ConnectionLimits.of(100_000) == ConnectionLimits(connections=100_000)


# --- TLS ---


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def secure(authority: Authority) -> AsyncIterator[World]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issued("server"))
    async with api_world(tls=context) as world:
        yield world


async def get(world: World, trusted: Path) -> int:
    """The status that one who comes anew is answered with."""
    context = ssl.create_default_context(cafile=trusted)
    async with world.session.get("/livez", ssl=context) as answer:
        return answer.status


@pytest.mark.processes  # openssl, for certificates
async def test_unfinished_handshakes_push_out_each_other_and_nobody_else(secure: World, authority: Authority) -> None:
    connections = secure.server.pool
    connections.limits = ConnectionLimits(handshakes=3)
    before = refused("handshakes")
    with knocking(secure, "127.0.0.3") as other:
        await eventually(lambda: _under_way(connections) == 1)
        with knocking(secure, "127.0.0.2") as first, knocking(secure, "127.0.0.2") as second:
            await eventually(lambda: _under_way(connections) == 3)
            with knocking(secure, "127.0.0.2") as third:
                assert await says(first) == b""
                assert refused("handshakes") == before + 1
                assert await get(secure, authority.certificate) == 200
                assert await says(second) == b""
                for still in (other, third):
                    with pytest.raises(BlockingIOError):
                        still.recv(1)


@pytest.mark.processes  # openssl, for certificates
async def test_a_handshake_that_ends_makes_room(secure: World, authority: Authority) -> None:
    assert await get(secure, authority.certificate) == 200
    with knocking(secure) as sock:
        assert (await says(sock, b"no TLS at all\r\n\r\n"))[:1] in (b"", b"\x15")  # an alert, or nothing
    with knocking(secure):
        await eventually(lambda: _under_way(secure.server.pool) == 1)
    await eventually(lambda: _under_way(secure.server.pool) == 0)


def _under_way(connections: Connections) -> int:
    return connections._handshakes.count
