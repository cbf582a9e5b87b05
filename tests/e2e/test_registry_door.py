"""The gRPC registry of a whole server: who is published and who is not, a change, a restart, another replica."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.test_watch_correctness import empty_store
from tests.support.etcd import free_ports
from tests.support.fbc import catalog
from tests.support.registry_client import Client
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
