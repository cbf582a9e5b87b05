"""OLM's own package-server on our registry: it shows what it shows from `opm serve`, follows, and never shows none."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.conftest import StartServer
from tests.support import odd_catalog, olm
from tests.support.asking import ask
from tests.support.certificates import Authority
from tests.support.etcd import free_ports
from tests.support.olm import OLMCluster, OpmServe, PackageServer
from tests.support.server import ServerProcess
from tests.support.service import Service
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

REAL: Final = Path(__file__).parents[3] / "shared" / "data" / "fbc" / "community-v4.20"
BEFORE: Final = ["kettle", "samovar", "teapot"]  # an urn has no CSV
AFTER: Final = ["kettle", "samovar"]
ABOUT: Final = {"displayName": "Tea <&>", "publisher": "Example"}
FOLLOWS_WITHIN_S: Final = 30.0
"""Less than a second where nothing else runs. By itself package-server would ask again after 12 hours."""


@pytest.fixture
def binary() -> Path:
    return olm.program(olm.PACKAGE_SERVER)


@asynccontextmanager
async def shown(binary: Path, tmp_path: Path, addresses: dict[str, str]) -> AsyncIterator[PackageServer]:
    """package-server with a CatalogSource `tea` in each namespace, by the address of its registry, once that listens:
    one of ours does when its catalog was read."""
    for address in addresses.values():
        await eventually(partial(olm.accepts, address), within_s=60)
    async with OLMCluster(Authority(tmp_path / "authority")) as cluster:
        for namespace, address in addresses.items():
            cluster.catalog_source(namespace, "tea", address, **ABOUT)
        async with PackageServer(binary, cluster, tmp_path / "package-server") as server:
            yield server


@pytest.mark.parametrize("name", ["odd", "real"])
async def test_it_shows_of_ours_what_it_shows_of_the_reference(
    binary: Path, start_server: StartServer, tmp_path: Path, name: str
) -> None:
    opm = olm.program(olm.OPM)
    if name == "real" and not REAL.is_dir():
        pytest.skip("NO REAL CATALOG: no folder shared next to the repository")
    catalog = REAL if name == "real" else odd_catalog.write(tmp_path / "catalog")
    count = 37 if name == "real" else len(BEFORE)
    port = free_ports(1)[0]
    with OpmServe(opm, catalog, tmp_path / "opm") as reference:
        start_server("--catalog", f"tea={catalog}", "--registry", f"tea=127.0.0.1:{port}")
        async with shown(binary, tmp_path, {"theirs": reference.address, "ours": f"127.0.0.1:{port}"}) as server:
            for namespace in ("theirs", "ours"):
                await eventually(_counted(server, namespace, count), within_s=60)
            theirs, ours = [await server.manifests(namespace) for namespace in ("theirs", "ours")]
    assert olm.comparable(ours) == olm.comparable(theirs)


async def test_it_follows_a_change_and_never_shows_none(
    binary: Path, start_server: StartServer, tmp_path: Path
) -> None:
    catalog = odd_catalog.write(tmp_path / "catalog")
    port = free_ports(1)[0]
    ours = start_server("--catalog", f"tea={catalog}", "--registry", f"tea=127.0.0.1:{port}")
    async with shown(binary, tmp_path, {"ours": f"127.0.0.1:{port}"}) as server:
        await eventually(_counted(server, "ours", len(BEFORE)), within_s=60)
        seen, looking = _looking(server)
        odd_catalog.write(catalog, changed=True)
        ours.signal(signal.SIGHUP)
        await eventually(lambda: seen[-1:] == [AFTER], within_s=FOLLOWS_WITHIN_S)
        states = server.states()
        odd_catalog.write(catalog)
        ours.signal(signal.SIGHUP)
        await eventually(lambda: seen[-1:] == [BEFORE], within_s=FOLLOWS_WITHIN_S)
        await _ended(looking)
        assert all(BEFORE[:2] == each[:2] for each in seen), "at a look there was less than both contents have"
        assert "TRANSIENT_FAILURE" not in states + server.states()
        heads = {
            each["metadata"]["name"]: each["status"]["channels"][-1]["currentCSV"]
            for each in await server.manifests("ours")
        }
        assert heads["kettle"] == "kettle.v2.0.0"


async def test_it_does_not_notice_a_look_that_changed_nothing(
    binary: Path, start_server: StartServer, tmp_path: Path
) -> None:
    catalog = odd_catalog.write(tmp_path / "catalog")
    port = free_ports(1)[0]
    ours = start_server("--catalog", f"tea={catalog}", "--registry", f"tea=127.0.0.1:{port}")
    async with shown(binary, tmp_path, {"ours": f"127.0.0.1:{port}"}) as server:
        await eventually(_counted(server, "ours", len(BEFORE)), within_s=60)
        states, looks = server.states(), await _unchanged(ours)

        async def looked() -> bool:
            return await _unchanged(ours) > looks

        (catalog / "kettle" / "catalog.json").touch()
        ours.signal(signal.SIGHUP)
        await eventually(looked)
        assert server.states() == states


async def test_it_shows_all_while_one_of_two_replicas_restarts(
    binary: Path, start_server: StartServer, start_etcd: Any, tmp_path: Path
) -> None:
    catalog = odd_catalog.write(tmp_path / "catalog")
    etcd = start_etcd()
    ports = free_ports(2)
    replicas = [
        start_server(
            *("--etcd", etcd.endpoint, "--allow-unsupported-etcd", "--data-dir", str(tmp_path / f"data-{port}")),
            *("--catalog", f"tea={catalog}", "--registry", f"tea=127.0.0.1:{port}"),
        )
        for port in ports
    ]
    async with Service(ports) as service, shown(binary, tmp_path, {"ours": service.address}) as server:
        await eventually(_counted(server, "ours", len(BEFORE)), within_s=60)
        seen, looking = _looking(server)
        for replica in (replicas[0], replicas[1], replicas[0]):  # whichever is asked is among them
            replica.signal(signal.SIGTERM)
            await eventually(partial(_gone, replica), within_s=60)
            replica.spawn()
            await eventually(partial(_ready, replica), within_s=30)
        await eventually(lambda: seen[-1:] == [BEFORE], within_s=FOLLOWS_WITHIN_S)
        await _ended(looking)
    assert [] not in seen, "OLM's users saw no packages while one replica was up all the time"


def _gone(server: ServerProcess) -> bool:
    return not server.alive


async def _ready(server: ServerProcess) -> bool:
    try:
        return (await asyncio.to_thread(ask, f"{server.url}/readyz")).status == 200
    except OSError:
        return False


def _counted(server: PackageServer, namespace: str, count: int) -> Callable[[], Awaitable[bool]]:
    async def counted() -> bool:
        return len(await server.names(namespace)) == count

    return counted


def _looking(server: PackageServer) -> tuple[list[list[str]], asyncio.Task[None]]:
    """What is seen from now on, look after look, and the task that looks."""
    seen: list[list[str]] = []

    async def look() -> None:
        while True:
            seen.append(await server.names("ours"))

    return seen, asyncio.create_task(look())


async def _ended(looking: asyncio.Task[None]) -> None:
    assert not looking.done(), looking
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)


async def _unchanged(server: ServerProcess) -> int:
    """How many looks found what was there."""
    lines = await asyncio.to_thread(server.text, "/metrics")
    return sum(
        int(float(line.rpartition(" ")[2]))
        for line in lines
        if line.startswith("cacheserver_sync_duration_seconds_count{") and 'outcome="unchanged"' in line
    )
