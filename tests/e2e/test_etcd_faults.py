"""etcd is killed, hung, full, or loses its leader under a server: reads go on, nothing is lost, nothing comes twice.

Each test ends with the state of an undisturbed run, and with a watcher whose events lead exactly there.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cacheserver.errors import NoSpace
from cacheserver.etcd.client import Client, prefix_end
from cacheserver.etcd.version import Version
from tests.conftest import StartEtcd
from tests.e2e.conftest import StartServer
from tests.support.asking import RefusedError, take
from tests.support.etcd import EtcdProcess, FoundEtcd, free_ports
from tests.support.fbc import FBCCatalog, catalog
from tests.support.server import API, Recorder, ServerProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

JUNK = b"/junk/"


@asynccontextmanager
async def watched(server: ServerProcess, *, final: Sequence[str]) -> AsyncIterator[Recorder]:
    """A watcher around a fault; afterwards the server serves `final`, and so says what the watcher saw."""
    listed = server.list("packages")
    async with Recorder(server, "packages", listed["metadata"]["resourceVersion"]) as recorder:
        yield recorder
        await eventually(lambda: list(server.names()) == sorted(final), within_s=30)
        await eventually(lambda: recorder.applied_to(listed) == _state(server.list("packages")), within_s=15)


def _state(listed: Any) -> dict[str, Any]:
    return {item["metadata"]["name"]: item for item in listed["items"]}


async def serving(start_server: StartServer, root: Path, *endpoints: str) -> tuple[ServerProcess, FBCCatalog]:
    files = catalog(root).package("app", "1.0.0")
    flags = ["--etcd", ",".join(endpoints), "--allow-unsupported-etcd", "--catalog", f"c={root}"]
    server = start_server(*flags, "--data-dir", str(root.parent / "data"))
    await eventually(lambda: list(server.names()) == ["c.app"])
    return server, files


def stays_up(server: ServerProcess) -> None:
    """What must answer whatever etcd does: an APIService that fails discovery blocks the whole cluster."""
    assert server.get("/apis")["kind"] == "APIGroupList"
    assert server.get(API)["kind"] == "APIResourceList"
    assert server.get("/openapi/v3")["paths"]
    assert server.text("/livez") == ["ok"]
    assert list(server.names()) == ["c.app"]


async def test_etcd_killed_and_started_again(start_etcd: StartEtcd, start_server: StartServer, tmp_path: Path) -> None:
    etcd = start_etcd()
    server, files = await serving(start_server, tmp_path / "c", etcd.endpoint)
    async with watched(server, final=["c.app", "c.db"]):
        # Before 3.5.5 a lone member answers before it has written; only an orderly end keeps what it promised.
        etcd.kill() if etcd.version >= Version(3, 5, 5) else etcd.terminate()
        stays_up(server)
        files.package("db", "1.0.0")
        server.signal(signal.SIGHUP)
        etcd.spawn()
        await etcd.ready()


async def test_etcd_hung_and_woken(start_etcd: StartEtcd, start_server: StartServer, tmp_path: Path) -> None:
    etcd = start_etcd()
    server, files = await serving(start_server, tmp_path / "c", etcd.endpoint)
    async with watched(server, final=["c.app", "c.db"]):
        etcd.pause()
        try:
            # None is turned away, none waits as long as kubectl's shortest timeouts, and none is old without a word.
            first = await asyncio.gather(*(asyncio.to_thread(_warning, server, 5) for _ in range(8)))
            assert all("served from memory" in warning for warning in [*first, _warning(server)])
            stays_up(server)
            assert server.text("/readyz") == ["ok"], "unready replicas would take the API away; stale ones serve"
        finally:
            etcd.resume()
        await eventually(lambda: not _warning(server), within_s=10)
        files.package("db", "1.0.0")
        server.signal(signal.SIGHUP)


async def test_a_replaced_etcd_is_not_taken_for_the_one_before(
    start_etcd: StartEtcd, start_server: StartServer, tmp_path: Path
) -> None:
    """Clients come with versions that the new one has not reached: told so, and led to list anew."""
    server, _ = await serving(start_server, tmp_path / "c", start_etcd().endpoint)
    page = server.list("packages")
    known = int(page["metadata"]["resourceVersion"]) + 10_000  # the old one had lived for longer
    server.stop()
    server, _ = await serving(start_server, tmp_path / "c", start_etcd().endpoint)
    events = server.text(f"{API}/packages?watch=1&timeoutSeconds=30&resourceVersion={known}")
    assert [json.loads(line)["object"]["reason"] for line in events] == ["Expired"]
    with pytest.raises(RefusedError) as caught:
        server.list("packages", f"?resourceVersion={known}")
    status = caught.value.answer.json
    assert status["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"
    assert "Retry-After" not in caught.value.answer.headers
    assert server.list("packages")["items"]


def _warning(server: ServerProcess, timeout_s: float = 10) -> str:
    return str(take(f"{server.url}{API}/packages", timeout_s=timeout_s).headers.get("Warning", ""))


async def test_etcd_full_and_given_space_again(
    start_etcd: StartEtcd, start_server: StartServer, tmp_path: Path
) -> None:
    etcd = start_etcd("--quota-backend-bytes=3000000")
    server, files = await serving(start_server, tmp_path / "c", etcd.endpoint)
    async with watched(server, final=["c.app", "c.db"]), Client([etcd.endpoint]) as client:
        with pytest.raises(NoSpace):
            await _fill(client)
        files.package("db", "1.0.0")
        server.signal(signal.SIGHUP)
        await eventually(lambda: "sync failed" in server.log() or "lost its lease" in server.log(), within_s=30)
        stays_up(server)
        await _make_room(client)
        server.signal(signal.SIGHUP)


async def test_a_server_started_on_a_full_etcd_serves_and_says_what_to_do(
    start_etcd: StartEtcd, start_server: StartServer, tmp_path: Path
) -> None:
    etcd = start_etcd("--quota-backend-bytes=3000000")
    server, files = await serving(start_server, tmp_path / "c", etcd.endpoint)
    async with Client([etcd.endpoint]) as client:
        with pytest.raises(NoSpace):
            await _fill(client)
        server.stop()
        files.package("db", "1.0.0")
        await asyncio.to_thread(server.start)
        stays_up(server)
        await eventually(lambda: "NoSpace" in "\n".join(server.text("/readyz?verbose")))
        told = [line for line in server.text("/readyz?verbose") if "etcd-space" in line]
        assert "compact, defragment, then disarm the alarm" in told[0]
        assert "cacheserver_etcd_full 1.0" in server.text("/metrics")
        assert "etcd is full (NoSpace)" in server.log()
        assert "does not answer" not in server.log()
        await _make_room(client)
        await eventually(lambda: list(server.names()) == ["c.app", "c.db"], within_s=30)
        assert "cacheserver_etcd_full 0.0" in server.text("/metrics")
        assert not any("etcd-space" in line for line in server.text("/readyz?verbose"))


async def _fill(client: Client) -> None:
    for number in range(100):
        await client.put(JUNK + b"%d" % number, b"x" * 400_000)


async def _make_room(client: Client) -> None:
    """What docs/troubleshooting.md tells to do: delete, compact, defragment, disarm."""
    await client.delete(JUNK, prefix_end(JUNK))
    await client.compact((await client.range(b"x")).revision, physical=True)
    await client.defragment()
    for alarm in await client.alarms():
        await client.disarm(alarm)


async def test_three_members_losing_their_leader(
    etcd_binary: FoundEtcd, start_server: StartServer, tmp_path: Path
) -> None:
    members = three_members(etcd_binary, tmp_path)
    try:
        for member in members:
            member.spawn()
        for member in members:
            await member.ready()
        server, files = await serving(start_server, tmp_path / "c", *(member.endpoint for member in members))
        async with watched(server, final=["c.app", "c.db", "c.web"]):
            leader = await leader_of(members)
            leader.kill()
            files.package("db", "1.0.0")
            server.signal(signal.SIGHUP)
            await eventually(lambda: _shows(server, "c.db"), within_s=30)
            leader.spawn()
            await leader.ready()
            (await leader_of(members)).pause()
            files.package("web", "1.0.0")
            server.signal(signal.SIGHUP)
            await eventually(lambda: _shows(server, "c.web"), within_s=30)
    finally:
        for member in members:
            member.stop()


def _shows(server: ServerProcess, name: str) -> bool:
    """False too while a new leader is awaited: nobody is told then that what is in memory is the newest."""
    try:
        return name in server.names()
    except RefusedError as refused:
        if refused.answer.status != 504:
            raise
        return False


def three_members(found: FoundEtcd, directory: Path) -> Sequence[EtcdProcess]:
    peers = [f"http://127.0.0.1:{port}" for port in free_ports(3)]
    cluster = ",".join(f"m{i}={peer}" for i, peer in enumerate(peers))
    members = []
    for i, peer in enumerate(peers):
        (directory / f"m{i}").mkdir()
        flags = (
            f"--name=m{i}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={cluster}",
            "--initial-cluster-token=three",
        )
        members.append(EtcdProcess(found, directory / f"m{i}", flags=flags))
    return members


async def leader_of(members: Sequence[EtcdProcess]) -> EtcdProcess:
    for member in members:
        async with Client([member.endpoint]) as client:
            status = await client.status()
            if status.leader == status.member_id:
                return member
    raise AssertionError("no member leads")
