"""Requests made to exhaust the server: it refuses them by name, gives nothing for them, and serves others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import StartServer
from tests.support.asking import ask
from tests.support.fbc import catalog
from tests.support.server import ServerProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

MB = 1 << 20


async def test_a_hundred_huge_headers_and_selectors_leave_no_memory_behind(
    start_server: StartServer, tmp_path: Path
) -> None:
    """Remembered by count they took 3.6 MB each, for ever."""
    files = catalog(tmp_path / "c").package("app", "1.0.0")
    server = start_server("--catalog", f"c={files.root}")
    await eventually(lambda: list(server.names()) == ["c.app"])
    before = _peak(server)
    for i in range(100):
        assert _answered(server, "/no-such-path", f"a/{i}," + "*/*;a=b," * 7000) == 404
    assert _peak(server) - before < 40 * MB
    for i in range(100):
        for query in (f"labelSelector={'k,' * 4000}{i}", f"{'a&' * 10_000}{i}"):
            assert _answered(server, f"/apis/cacheserver.dev/v1alpha1/packages?{query}") == 400
    assert _peak(server) - before < 40 * MB
    assert list(server.names()) == ["c.app"]


def _answered(server: ServerProcess, path: str, accept: str = "*/*") -> int:
    return ask(f"{server.url}{path}", {"Accept": accept}).status


def _peak(server: ServerProcess) -> int:
    """The most bytes of memory that the process ever had."""
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
