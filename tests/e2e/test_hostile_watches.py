"""Watches opened to exhaust the server: what they keep is bounded, refusals name the cap, and others are served."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.conftest import StartServer
from tests.support.fbc import catalog
from tests.support.server import API, ServerProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

MB = 1 << 20


class Crowd:
    """Open watches, each on a connection of its own that reads one status line and nothing else."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._writers: list[asyncio.StreamWriter] = []

    async def watch(self, query: str) -> tuple[int, bytes]:
        """Status, and what else came of a refusal."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port, limit=4 * MB)
        self._writers.append(writer)
        writer.write(f"GET {API}/packages?watch=1&{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(30):
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            return status, b"" if status == 200 else await reader.read(4096)

    async def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)


async def test_selectors_of_open_watches_have_a_bound_in_bytes(start_server: StartServer, tmp_path: Path) -> None:
    files = catalog(tmp_path / "c").package("app", "1.0.0")
    server = start_server("--catalog", f"c={files.root}")
    await eventually(lambda: list(server.names()) == ["c.app"])
    before = resident(server)
    crowd = Crowd(server)
    try:
        answers: Counter[int] = Counter()
        refusal = b""
        for n in range(1200):
            # 250 terms of label and field selector each, and no two watches the same.
            labels = ",".join(f"k{i}!=v{n}" for i in range(250))
            fields = ",".join(f"metadata.name!=n{i}x{n}" for i in range(250))
            status, told = await crowd.watch(f"labelSelector={labels}&fieldSelector={fields}".replace("!", "%21"))
            answers[status] += 1
            refusal = told or refusal
        grown = resident(server) - before
        assert answers.keys() == {200, 429}, answers
        assert b"selectors" in refusal
        assert b"64 MiB" in refusal
        assert grown < 100 * MB, "without the bound 174, and 1.4 GB with all watches there may be"
        assert (await crowd.watch("labelSelector=a%3Db"))[0] == 200, "who selects little is not among those refused"
        assert list(server.names()) == ["c.app"]
    finally:
        await crowd.close()


def resident(server: ServerProcess) -> int:
    """Bytes of memory that the process has now."""
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))
