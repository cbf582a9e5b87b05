"""Servers of a test's own: `start_server("--catalog", ...)`; each has its data directory and port."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.etcd import FoundEtcd
from tests.support.server import ServerProcess

StartServer = Callable[..., ServerProcess]


@pytest.fixture
def start_server(etcd_binary: FoundEtcd, tmp_path: Path) -> Iterator[StartServer]:
    """`start_server(*flags, wait=True, environ=None)`: `cacheserver serve` with an embedded etcd, unless flags name
    another."""
    servers: list[ServerProcess] = []

    def start(*flags: str, wait: bool = True, environ: dict[str, str] | None = None) -> ServerProcess:
        directory = tmp_path / f"server-{len(servers)}"
        directory.mkdir()
        own = (
            () if "--etcd" in flags else ("--data-dir", str(directory / "data"), "--etcd-binary", str(etcd_binary.path))
        )
        server = ServerProcess(directory, *flags, *own, environ=environ)
        servers.append(server)
        if wait:
            server.start()
        return server

    try:
        yield start
    finally:
        for server in servers:
            server.stop()
