"""The gRPC registry of a whole server: who is published and who is not, a change, a restart, another replica."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import grpc
import grpc.aio
import hpack
import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.test_watch_correctness import empty_store
from tests.fakes.frames import CONTINUATION, DATA, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, frame, message
from tests.fakes.http2 import REQUEST
from tests.support.etcd import free_ports
from tests.support.fbc import catalog
from tests.support.registry_client import Client
from tests.support.server import ServerProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e


async def packages(port: int) -> list[str] | None:
    """None where nobody listens."""
    async with Client(f"127.0.0.1:{port}") as client:
        try:
            return await client.packages()
        except grpc.aio.AioRpcError as exc:
            if exc.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return None


async def shows(port: int, *names: str) -> None:
    async def there() -> bool:
        return await packages(port) == [*names]

    await eventually(there, within_s=60)


async def survives(server: ServerProcess, port: int) -> None:
    """Attackers of one address do what they can, while somebody else asks; then they are gone, and took little."""
    ping, settings = frame(PING, 0, 0, bytes(8)), frame(SETTINGS, 0, 0)
    block = hpack.Encoder().encode([*REQUEST[:2], (":path", "/api.Registry/ListBundles"), *REQUEST[3:]])
    ask = [frame(HEADERS, 4, 2 * at + 1, block) for at in range(3000)]
    body = [frame(DATA, 1, 2 * at + 1, message(b"")) for at in range(100)]
    attacks = [
        b"GET / HTTP/1.1\r\n\r\n",
        PREFACE + settings + ping * 20_000,
        PREFACE + settings * 20_000,
        PREFACE + settings + b"".join(each + frame(RST_STREAM, 0, 2 * at + 1, bytes(4)) for at, each in enumerate(ask)),
        PREFACE + settings + frame(HEADERS, 0, 1, block) + frame(CONTINUATION, 0, 1, bytes(1000)) * 20,
        PREFACE + settings + ask[0] + frame(HEADERS, 5, 3, b"\xbe" * 8000),
    ]

    async def attack(said: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.9", 0))
        try:
            writer.write(said)
            async with asyncio.timeout(30):
                while await reader.read(1 << 16):
                    pass
        except ConnectionError:
            pass  # ended in the midst of it
        finally:
            writer.close()

    async def hold() -> asyncio.StreamWriter:
        """A connection that asks for everything and takes nothing."""
        _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.9", 0), limit=1)
        writer.write(PREFACE + frame(SETTINGS, 0, 0, b"\0\4\0\0\0\0") + b"".join(ask[:100] + body))
        return writer

    before = _peak(server)
    held = [await hold() for _ in range(100)]
    async with Client(f"127.0.0.1:{port}") as client:
        attacking = asyncio.gather(*(attack(each) for each in attacks for _ in range(4)))
        while not attacking.done():
            assert await client.packages() == ["kettle", "pot"]
        await attacking
    for writer in held:
        writer.close()
    assert _peak(server) - before < 48 << 20


def _peak(server: ServerProcess) -> int:
    """The most bytes of memory that the process ever had."""
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


async def test_a_published_catalog_is_answered_over_changes_and_restarts_and_no_other(
    start_server: StartServer, tmp_path: Path, etcd_endpoint: str
) -> None:
    files = catalog(tmp_path / "tea").package("kettle", "1.0.0", "1.1.0")
    catalog(tmp_path / "other").package("secret", "1.0.0")
    flags = ["--catalog", f"tea={files.root}", "--catalog", f"other={tmp_path / 'other'}", "--interval", "10s"]
    flags += ["--etcd", etcd_endpoint, "--allow-unsupported-etcd"]
    first, second = free_ports(2)
    async with empty_store(etcd_endpoint):
        servers = [start_server(*flags, "--registry", f"tea=127.0.0.1:{port}") for port in (first, second)]
        await shows(first, "kettle")
        await shows(second, "kettle")
        async with Client(f"127.0.0.1:{first}") as client:
            head = await client.head("kettle", "stable")
            assert (head.csvName, bool(head.csvJson)) == ("kettle.v1.1.0", True)
        files.package("pot", "1.0.0")
        for server in servers:
            server.signal(signal.SIGHUP)
        await shows(first, "kettle", "pot")
        await shows(second, "kettle", "pot")
        # One that goes leaves the other, and one that comes back is ready only when it listens.
        servers[0].signal(signal.SIGTERM)
        await asyncio.to_thread(servers[0].wait)
        assert await packages(first) is None
        assert await packages(second) == ["kettle", "pot"]
        await asyncio.to_thread(servers[0].start)
        assert await packages(first) == ["kettle", "pot"]
        await survives(servers[0], first)
