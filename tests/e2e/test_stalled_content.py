"""Content that is small in the store and large on the wire, for readers that take nothing of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from bench.report.figures import memory
from tests.e2e.conftest import StartServer
from tests.support.asking import take
from tests.support.krm import KRMRepository, kptfile
from tests.support.raw_clients import raw_clients
from tests.support.server import API, ServerProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

SIZE = 60 << 20
REVISION = f"{API}/namespaces/default/packagerevisions/c.pkg.v1"
RESOURCES = f"{API}/namespaces/default/packagerevisionresources/c.pkg.v1"
MOST_MORE = 60 << 20
"""Of memory: 16 MiB of readers, and what the allocator makes of them."""


@pytest.fixture
async def server(start_server: StartServer, tmp_path: Path) -> ServerProcess:
    """Serves one revision with a file of one repeated byte."""
    repository = KRMRepository(tmp_path / "repository")
    repository.files |= {"pkg/Kptfile": kptfile("pkg"), "pkg/big.yaml": b"a" * SIZE}
    repository.save()
    repository.tag("pkg/v1")
    server: ServerProcess = start_server("--catalog", f"c=git+file://{tmp_path / 'repository'}")
    await eventually(lambda: "c.pkg.v1" in server.names("packagerevisions"), within_s=60)
    return server


def _taken(server: ServerProcess, target: str, accept: str) -> bytes:
    return take(f"{server.url}{target}", {"Accept": accept}, timeout_s=60).body


FORMS = (
    (f"{REVISION}/content", "application/x-tar"),
    (f"{REVISION}/content", "application/gzip"),
    (f"{REVISION}/content", "application/json"),
    (RESOURCES, "application/json"),
)


async def test_readers_that_take_nothing_hold_little_and_keep_nobody_waiting(server: ServerProcess) -> None:
    """60 MiB each, where a piece left the store as one; or no answer at all, as JSON."""
    for target, accept in FORMS:
        Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # VmHWM begins anew: proc(5)
        before = memory([server.pid]).rss
        ask = f"GET {target} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n"
        async with raw_clients(server.url) as clients:
            stalled = await clients.send(8, ask)
            assert {await one.status() for one in stalled} == {200}
            for one in stalled:
                one.pause()
            await clients.send(24, ask, paused=True)
            for _ in range(5):
                assert server.text("/livez") == ["ok"]
            body = await asyncio.to_thread(_taken, server, target, accept)  # by another client
            took = memory([server.pid]).peak - before
        print(f"{target} as {accept}: {took >> 20} MiB")
        assert took < MOST_MORE
        if accept == "application/json":
            found = json.loads(body)
            assert found.get("spec", found)["resources"]["big.yaml"] == "a" * SIZE
    assert "Traceback" not in server.log()
