"""`validate` and `ingest` on every kind of source, as an operator types them: counts, findings, progress, exit codes.

Real registry, real git servers, real etcd, and the program as a process of its own.
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import StartEtcd
from tests.support.certificates import Authority
from tests.support.etcd import EtcdProcess
from tests.support.fbc import catalog
from tests.support.gitserver import GitHTTPS, GitRepository
from tests.support.krm import kptfile
from tests.support.registry import RealRegistry, find_registry, image_of, write_layout
from tests.support.server import run_cli

pytestmark = pytest.mark.e2e

COUNTS = ("ADDED", "CHANGED", "DELETED", "UNCHANGED", "REJECTED", "PACKAGES", "REVISIONS")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
async def registry(authority: Authority, tmp_path: Path) -> AsyncIterator[RealRegistry]:
    binary = find_registry()
    if isinstance(binary, str):
        pytest.skip(f"NO REAL REGISTRY: {binary}")
    real = RealRegistry(binary, tmp_path / "registry", tls=authority.issue("registry"))
    try:
        await real.start()
        yield real
    finally:
        real.stop()


@pytest.fixture
def https(authority: Authority, tmp_path: Path) -> Iterator[GitHTTPS]:
    with GitHTTPS(tmp_path, authority.issue("git")) as server:
        yield server


@pytest.fixture
def etcd(start_etcd: StartEtcd) -> EtcdProcess:
    return start_etcd()


# --- what is published, twice ----------------------------------------------------------------------------------------


def fbc(root: Path, *, second: bool) -> None:
    files = catalog(root)
    if not second:
        files.package("app", "1.0.0", "1.1.0").package("db", "2.0.0").package("old", "1.0.0")
        return
    files.package("app", "1.0.0", "1.1.0", "1.2.0").package("db", "not-a-version").without("old")


def krm(root: Path, *, second: bool) -> None:
    def write(path: str, content: bytes) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)

    if not second:
        for name in ("app", "db", "old"):
            write(f"{name}/Kptfile", kptfile(name))
        return
    write("app/more.yaml", b"a: b\n")
    write("db/Kptfile", b"{")
    write("new/Kptfile", kptfile("new"))
    (root / "old" / "Kptfile").unlink()
    (root / "old").rmdir()


Publish = Callable[[Path], Awaitable[str]]
"""Puts the files of a directory where the source is; returns the source."""


@dataclass(frozen=True)
class Kind:
    """first, second: COUNTS of an ingest of what is published first, and of what comes after it."""

    write: Callable[..., None]
    first: Sequence[int]
    second: Sequence[int]


# Changed: the package, and the revision that is the latest no more. What is rejected is in no count but its own.
FBC = Kind(fbc, (7, 0, 0, 0, 0, 3, 4), (1, 2, 2, 1, 1, 2, 4))
KRM = Kind(krm, (6, 0, 0, 0, 0, 3, 3), (2, 1, 2, 1, 1, 3, 3))
# The last good revision is known by its commit: it is part of the new state, unchanged.
KRM_IN_GIT = Kind(krm, KRM.first, (2, 1, 2, 3, 1, 3, 3))


@pytest.fixture
def publish(request: pytest.FixtureRequest, tmp_path: Path) -> Publish:
    place: str = request.param

    async def directory(root: Path) -> str:
        return str(root)

    async def oci(root: Path) -> str:
        registry: RealRegistry = request.getfixturevalue("registry")
        await registry.push(image_of(root), "team/catalog", "v1")
        return f"oci://{registry.host}/team/catalog:v1"

    async def layout(root: Path) -> str:
        path = tmp_path / "layout"
        subprocess.run(["rm", "-rf", path], check=True)
        write_layout(path, {"v1": image_of(root)})
        return f"oci-layout:{path}"

    async def layout_tar(root: Path) -> str:
        await layout(root)
        with tarfile.open(tmp_path / "layout.tar", "w") as archive:
            archive.add(tmp_path / "layout", ".")
        return f"oci-layout:{tmp_path / 'layout.tar'}"

    async def git_file(root: Path) -> str:
        repository = GitRepository(tmp_path / "repo.git")
        repository.commit({str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()})
        return f"git+file://{repository.path}@main"

    async def git_https(root: Path) -> str:
        await git_file(root)
        https: GitHTTPS = request.getfixturevalue("https")
        return f"git+{https.origin}/repo.git@main"

    places: dict[str, Publish] = {
        "directory": directory, "oci": oci, "layout": layout, "layout-tar": layout_tar,
        "git-file": git_file, "git-https": git_https,
    }  # fmt: skip
    if place == "oci":
        request.getfixturevalue("registry")  # before the test's loop is busy
    return places[place]


EVERYWHERE = [
    *((place, FBC) for place in ("directory", "oci", "layout", "layout-tar", "git-file", "git-https")),
    ("directory", KRM),
    *((place, KRM_IN_GIT) for place in ("git-file", "git-https")),
]


def row(output: str) -> dict[str, str]:
    """The one row of `ingest`'s table, by column."""
    header, first, *_ = output.splitlines()
    return dict(zip(header.split(), first.split(), strict=True))


def counts(output: str) -> tuple[int, ...]:
    return tuple(int(row(output)[name]) for name in COUNTS)


@pytest.mark.parametrize(
    ("publish", "kind"),
    EVERYWHERE,
    indirect=["publish"],
    ids=[f"{place}-{kind.write.__name__}" for place, kind in EVERYWHERE],
)
async def test_every_source_is_validated_and_ingested_and_only_what_changed_is_written(
    publish: Publish,
    kind: Kind,
    etcd: EtcdProcess,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))  # the servers' authority, as an operator gives it
    flags = ("--etcd", etcd.endpoint, "--allow-unsupported-etcd", "--data-dir", str(tmp_path / "data"))
    root = tmp_path / "content"
    kind.write(root, second=False)
    source = await publish(root)

    valid = run_cli("validate", source, cwd=tmp_path)
    assert valid.returncode == 0, valid.stderr + valid.stdout
    assert f"{kind.first[5]} good packages with {kind.first[6]} revisions, 0 rejected" in valid.stdout
    first, again = (run_cli("ingest", "--catalog", f"c={source}", *flags, cwd=tmp_path) for _ in range(2))
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert counts(first.stdout) == tuple(kind.first)
    assert row(again.stdout)["RESULT"] == "unchanged"
    assert counts(again.stdout)[:3] == (0, 0, 0)

    kind.write(root, second=True)
    source = await publish(root)
    invalid = run_cli("validate", source, cwd=tmp_path)
    assert invalid.returncode == 1
    assert invalid.stdout.splitlines()[-1] == "rejected: db"
    second = run_cli("ingest", "--catalog", f"c={source}", *flags, cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert counts(second.stdout) == tuple(kind.second)
    assert "package db" in second.stdout.splitlines()[2]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("oci://127.0.0.1:1/a/b:c", "127.0.0.1:1 cannot be reached"),
        ("oci-layout:nowhere", "nowhere"),
        ("git+https://127.0.0.1:1/a.git@main", "the server cannot be reached"),
        ("git+file:///nowhere/a.git@main", "there is no such repository"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_line_and_exit_1(source: str, said: str, tmp_path: Path) -> None:
    failed = run_cli("validate", source, cwd=tmp_path)
    assert failed.returncode == 1
    assert failed.stderr.startswith("cacheserver: error: ")
    assert said in failed.stderr.splitlines()[0]
    assert "Traceback" not in failed.stderr


# --- progress --------------------------------------------------------------------------------------------------------


def on_a_terminal(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    """(exit code, stdout, what the terminal on stderr was sent) of one command."""
    master, slave = pty.openpty()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CACHESERVER_")}
    with subprocess.Popen(
        [sys.executable, "-m", "cacheserver", *arguments],
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
    ) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                piece = os.read(master, 1 << 16)
            except OSError:  # EIO: nobody has the other end any more
                break
            if not piece:
                break
            shown += piece
        os.close(master)
        assert process.stdout is not None
        return process.wait(60), process.stdout.read(), shown.decode()


@pytest.mark.parametrize(
    ("publish", "steps"),
    [("oci", ["download", "unpack", "parsing", "write"]), ("git-file", ["unpack", "parsing", "write"])],
    indirect=["publish"],
    ids=["oci", "git-file"],
)
async def test_progress_of_each_step_is_shown_on_a_terminal_only_and_wiped(
    publish: Publish,
    steps: Sequence[str],
    etcd: EtcdProcess,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    fbc(tmp_path / "content", second=False)
    source = await publish(tmp_path / "content")
    flags = ("--etcd", etcd.endpoint, "--allow-unsupported-etcd", "--data-dir", str(tmp_path / "data"))

    code, out, shown = on_a_terminal("ingest", "--catalog", f"c={source}", *flags, cwd=tmp_path)
    assert (code, counts(out)) == (0, tuple(FBC.first)), shown
    lines = [line.split()[0] for line in shown.split("\r\x1b[K") if line.strip()]
    assert [step for step in dict.fromkeys(lines) if step in steps] == steps
    assert " 100 %" in shown
    assert shown.endswith("\r\x1b[K")
    assert "\x1b" not in out

    elsewhere = run_cli("ingest", "--catalog", f"d={source}", *flags, cwd=tmp_path)
    assert elsewhere.returncode == 0
    assert not any(step in elsewhere.stderr for step in ("download", "unpack", "parsing"))
