"""Servers of a test's own: `start_server("--catalog", ...)`; each has its data directory and port. And two of them that
write to the same repositories."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cacheserver.etcd.client import Client
from tests.support.arena import PACKAGES, Arena, manifests
from tests.support.etcd import FoundEtcd
from tests.support.gitserver import GitRepository
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


@asynccontextmanager
async def opened(
    endpoints: str,
    start_server: StartServer,
    home: Path,
    *,
    urls: Mapping[str, str] | None = None,
    push_after: str = "1s",
    environ: dict[str, str] | None = None,
) -> AsyncIterator[Arena]:
    """Two replicas on that etcd, which write to a bare repository for each of PACKAGES. urls: where these are to be
    reached, by name, if not as files."""
    remotes = {name: GitRepository(home / "git" / f"{name}.git") for name in PACKAGES}
    for remote in remotes.values():
        remote.git("config", "http.receivepack", "true")  # whoever may reach it may push
    file = manifests(
        home / "repositories.yaml", urls or {name: each.url for name, each in remotes.items()}, push_after=push_after
    )
    flags = ("--etcd", endpoints, "--allow-unsupported-etcd", "--repositories", str(file))
    # Each with git copies of its own, as on machines of their own.
    servers = [start_server(*flags, "--data-dir", str(home / f"data-{at}"), environ=environ) for at in range(2)]
    async with Client(endpoints.split(",")) as client:
        await client.connect()
        yield Arena(client, servers, remotes)
