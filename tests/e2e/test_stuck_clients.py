"""What a whole server holds against clients that stand still: it stops in time, serves others, takes bounded memory."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from bench.load.fill import Fill, Shape, fill
from bench.report.figures import memory
from tests.conftest import StartEtcd
from tests.e2e.conftest import StartServer
from tests.support.asking import take
from tests.support.certificates import Authority
from tests.support.fbc import catalog
from tests.support.raw_clients import ADDRESS, RawClients, raw_clients
from tests.support.server import API, ServerProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

MOST_RESIDENT = 400 << 20
MOST_OF_HANDSHAKES = 200 << 20
MOST_OF_PIPELINES = 32 << 20
SLOW_READERS = 200
BIG = Shape(packages=3000, repositories=10)  # a list of 10 MB
HEAD = "Host: x\r\nAccept: application/json\r\n"
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
GRACE_S = 1
STOPS_WITHIN_S = 20  # a client that takes nothing is waited for 60 s where nobody ends it


def _packages(server: ServerProcess, tls: ssl.SSLContext | None = None) -> int:
    """How many an honest client of another address lists. Raises: OSError."""
    return len(take(f"{server.url}{API}/packages", timeout_s=30, context=tls).json["items"])


def _lists(server: ServerProcess, count: int, tls: ssl.SSLContext | None) -> bool:
    try:
        return _packages(server, tls) == count
    except OSError:  # not there yet, or not ready
        return False


async def _served(server: ServerProcess, count: int, tls: ssl.SSLContext | None = None) -> None:
    await eventually(lambda: asyncio.to_thread(_lists, server, count, tls), within_s=30)


def _listing(accept: str = "application/json", encoding: str = "identity") -> str:
    lines = f"Host: x\r\nAccept: {accept}\r\nAccept-Encoding: {encoding}\r\n"
    return f"GET {API}/packages HTTP/1.1\r\n{lines}\r\n"


@pytest.fixture
async def big(start_etcd: StartEtcd, start_server: StartServer) -> ServerProcess:
    """A server of BIG."""
    etcd = await asyncio.to_thread(start_etcd)
    server: ServerProcess = await asyncio.to_thread(
        start_server, "--etcd", etcd.endpoint, "--allow-unsupported-etcd", "--shutdown-grace", f"{GRACE_S}s"
    )
    await fill(Fill(etcd.endpoint, BIG))
    await _served(server, BIG.packages)
    return server


async def test_slow_readers_of_long_lists_share_what_they_read(big: ServerProcess) -> None:
    """Of every form that is kept, and of those that are not. Each own copy would be 2 GB."""
    forms = (
        _listing(),
        _listing(encoding="gzip"),
        _listing("application/json;as=Table;v=v1;g=meta.k8s.io"),
        _listing("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"),
    )
    async with raw_clients(big.url) as clients:
        for form in forms:
            await clients.send(SLOW_READERS // len(forms), form, paused=True)
        for _ in range(5):
            assert await asyncio.to_thread(_packages, big) == BIG.packages
        assert big.text("/livez") == ["ok"]
        assert memory([big.pid]).peak < MOST_RESIDENT
    await _served(big, BIG.packages)
    assert "Traceback" not in big.log()


async def _stuck(clients: RawClients) -> None:
    """Clients in every state in which a connection can stand still."""
    await clients.connect(5)  # nothing sent
    await clients.send(5, f"GET {API}/packages HTTP/1.1\r\nHost: x\r\nX-Half: ")
    await clients.send(5, f"POST {API}/packages HTTP/1.1\r\n{HEAD}Content-Length: 1000000\r\n\r\nhalf a body")
    await clients.send(5, f"POST {API}/packages HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\nffff\r\nhalf")
    await clients.send(5, _listing(), paused=True)
    await clients.send(5, _listing(encoding="gzip"), paused=True)
    await clients.send(
        5, f"GET {API}/packages?watch=1 HTTP/1.1\r\n{HEAD}\r\n", paused=True
    )  # ten megabytes to begin with
    await clients.send(5, f"GET {API}/packages?watch=1 HTTP/1.1\r\n{HEAD}{UPGRADE}\r\n", paused=True)
    await clients.send(
        5, f"GET {API}/packages?watch=1 HTTP/1.1\r\n{HEAD}{UPGRADE}\r\n".encode() + b"\x82\xff", paused=True
    )  # and half a frame, of which nothing more comes
    await clients.send(5, f"GET /openapi/v2 HTTP/1.1\r\n{HEAD}\r\n" * 200, paused=True)
    await clients.send(5, f"GET {API}/packages?resourceVersion=9999999999 HTTP/1.1\r\n{HEAD}\r\n")  # waits for it


async def test_a_server_stops_within_its_grace_whatever_its_clients_do(big: ServerProcess) -> None:
    async with raw_clients(big.url) as clients:
        await _stuck(clients)
        assert await asyncio.to_thread(_packages, big) == BIG.packages
        big.signal(signal.SIGTERM)
        assert await asyncio.to_thread(big.wait, STOPS_WITHIN_S) == 0
    assert "Traceback" not in big.log()
    assert '"stopped"' in big.log()


# --- over TLS ---


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
async def secure(start_server: StartServer, authority: Authority, tmp_path: Path) -> ServerProcess:
    """A server over TLS that lets everybody in."""
    cert, key = authority.issue("server")
    root = catalog(tmp_path / "c").package("app", "1.0.0").root
    flags = ("--catalog", f"c={root}", "--shutdown-grace", f"{GRACE_S}s")
    server: ServerProcess = start_server(*flags, "--tls-cert-file", str(cert), "--tls-key-file", str(key), wait=False)
    server.url = server.url.replace("http:", "https:")
    server.spawn()
    await _served(server, 1, _context(authority))
    return server


def _context(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.certificate)


def _unfinished(port: int, count: int, sends: bytes) -> Sequence[socket.socket]:
    """Connections that say so much of a handshake, and no more."""
    found = []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", port), source_address=(ADDRESS, 0))
        sock.sendall(sends)
        found.append(sock)
    return found


def _client_hello(authority: Authority) -> bytes:
    """The first message of a real handshake."""
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    handshake = _context(authority).wrap_bio(into, out, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        handshake.do_handshake()
    return out.read()


def _endless_hello() -> bytes:
    """A first message of 128 KiB, the most that OpenSSL takes, in records of 16 KiB; its end is missing."""
    message = b"\x01\x01\xff\xff\x03\x03" + bytes(127 << 10)
    parts = [message[at : at + (16 << 10)] for at in range(0, len(message), 16 << 10)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


@pytest.mark.parametrize("kind", ["nothing", "a hello", "an endless hello"])
async def test_thousands_of_unfinished_handshakes_push_out_each_other(
    secure: ServerProcess, authority: Authority, kind: str
) -> None:
    sends = {"nothing": b"", "a hello": _client_hello(authority), "an endless hello": _endless_hello()}[kind]
    before = memory([secure.pid]).rss
    held: list[socket.socket] = []
    try:
        for _ in range(8):
            held += await asyncio.to_thread(_unfinished, secure.port, 500, sends)
            assert await asyncio.to_thread(_packages, secure, _context(authority)) == 1
        print(kind, (memory([secure.pid]).peak - before) >> 20, "MiB")
        assert memory([secure.pid]).peak - before < MOST_OF_HANDSHAKES
        assert len(list(Path(f"/proc/{secure.pid}/fd").iterdir())) < 1000
    finally:
        for sock in held:
            sock.close()
    assert '"too many TLS handshakes are not complete"' in secure.log()
    assert "Traceback" not in secure.log()


@pytest.mark.parametrize("target", ["/openapi/v2", f"{API}/packages", "/livez"])
async def test_pipelines_of_answers_that_nobody_takes_are_held_back(
    secure: ServerProcess, authority: Authority, target: str
) -> None:
    """20,000 requests each; one such connection took 492 MB."""
    before = memory([secure.pid]).rss
    piece = f"GET {target} HTTP/1.1\r\n{HEAD}\r\n" * 1000
    async with raw_clients(secure.url, _context(authority)) as clients:
        for one in await clients.connect(10):
            one.pause()
            with suppress(TimeoutError):  # the server reads no more, which is what it has to do
                async with asyncio.timeout(0.5):
                    for _ in range(20):
                        await one.send(piece)
        for _ in range(3):
            assert await asyncio.to_thread(_packages, secure, _context(authority)) == 1
        took = memory([secure.pid]).peak - before
    print(target, took >> 20, "MiB")
    assert took < MOST_OF_PIPELINES
    assert "Traceback" not in secure.log()


async def test_unfinished_handshakes_keep_nobody_out_and_take_little(
    secure: ServerProcess, authority: Authority
) -> None:
    before = memory([secure.pid]).rss
    hello = _client_hello(authority)
    held: list[socket.socket] = []
    for sends in (
        b"",
        hello[:20],
        hello,
        b"\x16\x03\x01\x40\x00",
    ):  # nothing, a part, all, a record's head that says 16 KiB
        held += _unfinished(secure.port, 100, sends)
        assert await asyncio.to_thread(_packages, secure, _context(authority)) == 1
    try:
        assert memory([secure.pid]).rss - before < len(held) * (100 << 10)
        secure.signal(signal.SIGTERM)
        assert await asyncio.to_thread(secure.wait, STOPS_WITHIN_S) == 0
    finally:
        for sock in held:
            sock.close()
    assert "Traceback" not in secure.log()


@pytest.mark.parametrize(
    "garbage",
    [
        f"GET {API}/packages HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        b"\x16\x03\x01" * 2000,
        b"\0" * 20_000,
        b"\x80" * 5000,
    ],
    ids=["plain HTTP", "records of nonsense", "zeros", "an old hello"],
)
async def test_what_is_no_handshake_ends_its_connection_alone(
    secure: ServerProcess, authority: Authority, garbage: bytes
) -> None:
    for sock in _unfinished(secure.port, 50, garbage):
        sock.settimeout(20)
        with sock:
            answer = b"".join(iter(lambda: _received(sock), b""))  # noqa: B023 # called at once
        assert b"HTTP/1.1 200" not in answer
    assert await asyncio.to_thread(_packages, secure, _context(authority)) == 1
    assert "Traceback" not in secure.log()


def _received(sock: socket.socket) -> bytes:
    """The next bytes, empty at the end; TimeoutError when the server does not end it."""
    try:
        return sock.recv(4096)
    except ConnectionError:
        return b""
