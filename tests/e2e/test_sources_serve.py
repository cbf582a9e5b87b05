"""Servers with repositories in git and registries: nephio's packages whole, and that none delays another.

Real git, a server process with its own etcd. What sources answer one by one: test_git, test_oci.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.report.figures import family, memory
from tests.e2e.conftest import StartServer
from tests.support.asking import take
from tests.support.fbc import catalog
from tests.support.gitserver import GitRepository
from tests.support.krm import KRMRepository, kptfile
from tests.support.server import API, ServerProcess
from tests.support.shared import ABSENT, NEPHIO
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

REPOSITORIES = "/apis/config.cacheserver.dev/v1alpha1/namespaces/default/repositories"
SLOW = "CACHESERVER_TEST_SLOW"


def states(server: ServerProcess) -> dict[str, tuple[str, str]]:
    """Repository -> its Ready condition's (status, reason)."""
    found: dict[str, tuple[str, str]] = {}
    for item in server.get(REPOSITORIES)["items"]:
        ready = next((c for c in item["status"].get("conditions", ()) if c["type"] == "Ready"), None)
        found[item["metadata"]["name"]] = (ready["status"], ready["reason"]) if ready else ("", "")
    return found


def synced(server: ServerProcess, names: Sequence[str]) -> bool:
    found = states(server)
    return all(found.get(name) == ("True", "Synced") for name in names)


def metric(server: ServerProcess, name: str, repository: str) -> float:
    label = f'repository="{repository}"'
    lines = [line for line in server.text("/metrics") if line.startswith(f"{name}{{") and label in line]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0


class GitCalls:
    """Stands before git on PATH and writes down what it is called with."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._log = directory / "log"
        self._log.touch()
        real = shutil.which("git")
        (directory / "git").write_text(f'#!/bin/sh\necho "$*" >> {self._log}\nexec {real} "$@"\n')
        (directory / "git").chmod(0o755)
        self.path = f"{directory}{os.pathsep}{os.environ['PATH']}"

    def take(self) -> list[str]:
        """The subcommands so far; begins to count anew. Empties while nobody writes, or loses a line."""
        verbs = ("ls-remote", "fetch", "cat-file", "init", "for-each-ref", "rev-list")
        lines = self._log.read_text().splitlines()
        self._log.write_text("")
        return [next((verb for verb in verbs if verb in line.split()), line) for line in lines]


@pytest.mark.skipif(not NEPHIO.exists(), reason=ABSENT)
async def test_nephios_catalog_is_served_whole_and_looked_at_again_for_nothing(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = tmp_path / "catalog.git"
    subprocess.run(["git", "clone", "--quiet", "--mirror", str(NEPHIO), str(remote)], check=True, timeout=120)
    calls = GitCalls(tmp_path / "bin")
    monkeypatch.setenv("PATH", calls.path)
    server = start_server("--catalog", f"nephio=git+file://{remote}@main")
    await eventually(lambda: synced(server, ["nephio"]), within_s=60)

    status = server.get(f"{REPOSITORIES}/nephio")["status"]
    assert (status["packages"], status["revisions"], status["ignoredTags"], status["rejectedCount"]) == (77, 189, 7, 0)
    revisions = server.list("packagerevisions")["items"]
    on_branch = [one for one in revisions if one["status"]["selfLock"]["git"]["ref"] == "main"]
    assert (len(revisions), len(on_branch), len(server.names())) == (189, 65, 77)

    files = unpacked(server, "nephio.infra.capi.cluster-capi.main")
    assert sum(map(len, files.values())) == 1_689_237
    assert files == of_git(remote, "main:infra/capi/cluster-capi")

    assert "fetch" in calls.take()
    checked = metric(server, "cacheserver_repository_last_checked_timestamp_seconds", "nephio")
    server.signal(signal.SIGHUP)
    await eventually(
        lambda: metric(server, "cacheserver_repository_last_checked_timestamp_seconds", "nephio") > checked
    )
    assert calls.take() == ["ls-remote"]
    assert _versions(server.list("packagerevisions")["items"]) == _versions(revisions)


def _versions(items: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in items}


def unpacked(server: ServerProcess, name: str) -> dict[str, bytes]:
    """A revision's content as the API gives it."""
    url = f"{server.url}{API}/namespaces/default/packagerevisions/{name}/content"
    content = take(url, {"Accept": "application/x-tar"}, timeout_s=30).body
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
    return found


def of_git(repository: Path, tree: str) -> dict[str, bytes]:
    """The files of a tree as `git cat-file` gives them."""

    def git(*arguments: str) -> bytes:
        command = ["git", "--git-dir", str(repository), *arguments]
        return subprocess.run(command, check=True, capture_output=True, timeout=30).stdout

    paths = git("ls-tree", "-r", "--name-only", tree).decode().splitlines()
    return {path: git("cat-file", "blob", f"{tree}/{path}") for path in paths}


# --- many repositories -----------------------------------------------------------------------------------------------


@contextmanager
def nobody_answers() -> Iterator[int]:
    """A port that accepts connections (the kernel does) and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as held:
        yield int(held.getsockname()[1])


def repository(home: Path, number: int) -> str:
    """One small repository as a source: by turns a directory, FBC in git, packages in git."""
    path = home / f"r{number}"
    match number % 3:
        case 0:
            return str(catalog(path).package("app", "1.0.0").root)
        case 1:
            file = catalog(home / f"w{number}").package("app", "1.0.0").root / "app" / "catalog.yaml"
            GitRepository(path).commit({"app/catalog.json": file.read_bytes()})
        case _:
            made = KRMRepository(path)
            made.write({"app/Kptfile": kptfile("app"), "app/x.yaml": b"a: b\n"})
            made.tag("app/v1")
    return f"git+file://{path}@main"


async def test_a_hanging_git_server_and_a_hanging_registry_delay_nobody_else(
    start_server: StartServer, tmp_path: Path
) -> None:
    good = {f"good{number}": repository(tmp_path, number) for number in range(18)}
    with nobody_answers() as git, nobody_answers() as registry:
        bad = {"git": f"git+https://127.0.0.1:{git}/a.git@main", "oci": f"oci://127.0.0.1:{registry}/a/b:c"}
        server = start_server(*(f"--catalog={name}={source}" for name, source in {**bad, **good}.items()))
        await eventually(lambda: synced(server, list(good)), within_s=20)
        assert not synced(server, ["git"])
        assert not synced(server, ["oci"])
        # And they stay well while the two still hang.
        catalog(tmp_path / "r0").package("app", "1.0.0", "1.1.0")
        server.signal(signal.SIGHUP)
        await eventually(lambda: "good0.app.1.1.0" in server.names("packagerevisions"), within_s=5)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert time.monotonic() - began < 10, "a hanging source delays the stop"


@pytest.mark.skipif(not os.environ.get(SLOW), reason=f"takes a minute; set {SLOW}=1")
async def test_a_hundred_repositories_take_bounded_memory_and_processes(
    start_server: StartServer, tmp_path: Path
) -> None:
    names = [f"r{number}" for number in range(100)]
    sources = [repository(tmp_path, number) for number in range(100)]
    flags = [f"--catalog={name}={source}" for name, source in zip(names, sources, strict=True)]
    began = time.monotonic()
    server = start_server(*flags, "--interval", "10s")
    most_processes = most_bytes = 0

    def all_synced() -> bool:
        nonlocal most_processes, most_bytes
        processes = family(server.pid)
        most_processes = max(most_processes, len(processes))
        most_bytes = max(most_bytes, memory(processes).rss)
        return synced(server, names)

    await eventually(all_synced, within_s=120)
    cold_s = time.monotonic() - began
    until = time.monotonic() + 25  # two rounds of questions
    await eventually(lambda: all_synced() and time.monotonic() > until, within_s=60)
    alone = memory([server.pid])
    print(
        f"\n100 repositories: all synced after {cold_s:.1f} s, at most {most_processes} processes and"
        f" {most_bytes / 1e6:.0f} MB of them all, the server alone {alone.rss / 1e6:.0f} MB"
    )
    # The server, etcd, two workers; 16 questions and 16 fetches of a few processes each.
    assert most_processes < 4 + 32 * 4
    assert most_bytes < 900e6
    assert alone.peak < 300e6


def test_the_stand_in_for_git_runs_git(tmp_path: Path) -> None:
    calls = GitCalls(tmp_path / "bin")
    assert (tmp_path / "bin" / "git").stat().st_mode & stat.S_IXUSR
    subprocess.run(["git", "--version"], env={"PATH": calls.path}, check=True, timeout=10, capture_output=True)
    assert calls.take() == ["--version"]
