"""What real kubectl sees, every version found on the machine; skipped, loudly, where there is none."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.e2e.conftest import StartServer
from tests.support.fbc import FBCCatalog, catalog
from tests.support.server import ServerProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e


def find_kubectls() -> Sequence[Path]:
    """kubectl on PATH, and its neighbours named kubectl.N (as some distributions install several)."""
    found: dict[Path, None] = {}
    for directory in map(Path, os.get_exec_path()):
        first = directory / "kubectl"
        if first.exists():
            found[first] = None
            beside = first.resolve().parent
            found.update(dict.fromkeys(sorted(beside.glob("kubectl.1.[0-9][0-9]"))))
    return list(found)


KUBECTLS = find_kubectls()
PROTOBUF_ALONE = [each for each in KUBECTLS if each.name.endswith((".1.27", ".1.28"))]
"""These ask a server for OpenAPI v2, in protobuf alone."""

needs_kubectl = pytest.mark.skipif(not KUBECTLS, reason="NO KUBECTL FOUND: put one on PATH to run these tests")


class Kubectl:
    def __init__(self, binary: Path, server: ServerProcess, cache: Path) -> None:
        self._base = [str(binary), "--server", server.url, "--cache-dir", str(cache), "--kubeconfig", os.devnull]

    def __call__(self, *arguments: str, timeout_s: float = 30) -> str:
        """Its stdout; fails with what it said when it exits otherwise than 0."""
        done = subprocess.run([*self._base, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def refused(self, *arguments: str) -> str:
        """Its stderr, when it must fail."""
        done = subprocess.run([*self._base, *arguments], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode != 0
        return done.stderr

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen([*self._base, *arguments], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def files(tmp_path: Path) -> FBCCatalog:
    return catalog(tmp_path / "c").package("app", "1.0.0", "1.1.0").package("db", "2.0.0")


@pytest.fixture
async def server(start_server: StartServer, files: FBCCatalog) -> ServerProcess:
    server = start_server("--catalog", f"c={files.root}")
    await eventually(lambda: list(server.names()) == ["c.app", "c.db"])
    return server


@pytest.fixture
def kubectl(server: ServerProcess, tmp_path: Path) -> Kubectl:
    return Kubectl(KUBECTLS[0], server, tmp_path / "kube-cache")


def rows(table: str) -> list[list[str]]:
    """Cells by two or more spaces, as kubectl pads them."""
    return [[cell for cell in line.split("  ") if cell.strip()] for line in table.splitlines()]


@needs_kubectl
@pytest.mark.parametrize("binary", KUBECTLS, ids=lambda path: path.name)
async def test_every_kubectl_lists_gets_explains_and_discovers(
    binary: Path, server: ServerProcess, tmp_path: Path
) -> None:
    kubectl = Kubectl(binary, server, tmp_path / "kube-cache")
    table = kubectl("get", "packages,packagerevisions", "-A")
    assert "package.cacheserver.dev/c.app" in table
    assert "packagerevision.cacheserver.dev/c.app.1.1.0" in table
    assert "packageName: app" in kubectl("get", "package", "c.app", "-o", "yaml")
    if binary not in PROTOBUF_ALONE:
        assert "headVersion" in kubectl("explain", "package.status.channels")
    assert "cpkgrev" in kubectl("api-resources", "--api-group", "cacheserver.dev")


@needs_kubectl
async def test_tables_have_the_agreed_columns(kubectl: Kubectl) -> None:
    assert kubectl("get", "packages").splitlines()[0].split() == [
        "NAME", "REPOSITORY", "PACKAGE", "LATEST", "CHANNEL", "REVISIONS", "AGE",
    ]  # fmt: skip
    wide = kubectl("get", "cpkg", "-o", "wide").splitlines()[0].split()
    assert wide[7:] == ["PROVIDER", "CHANNELS", "FORMAT", "DEPRECATED"]
    revisions = kubectl("get", "cpkgrev").splitlines()
    assert revisions[0].split() == ["NAME", "PACKAGE", "VERSION", "LIFECYCLE", "LATEST", "AGE"]
    assert revisions[2].split()[:5] == ["c.app.1.1.0", "app", "1.1.0", "Published", "true"]
    repositories = kubectl("get", "crepo").splitlines()
    columns = ["NAME", "SOURCE", "READY", "REASON", "DEGRADED", "PACKAGES", "REVISIONS", "SYNCED"]
    assert repositories[0].split() == columns


@needs_kubectl
async def test_selectors_names_and_formats(kubectl: Kubectl) -> None:
    assert kubectl("get", "packages", "-o", "name").split() == [
        "package.cacheserver.dev/c.app",
        "package.cacheserver.dev/c.db",
    ]
    latest = kubectl("get", "cpkgrev", "-l", "cacheserver.dev/latest=true", "-o", "name")
    assert latest.split() == [
        "packagerevision.cacheserver.dev/c.app.1.1.0",
        "packagerevision.cacheserver.dev/c.db.2.0.0",
    ]
    one = kubectl("get", "cpkgrev", "--field-selector", "spec.packageName=app,spec.version!=1.0.0", "-o", "name")
    assert one.split() == ["packagerevision.cacheserver.dev/c.app.1.1.0"]
    assert len(json.loads(kubectl("get", "packages", "-o", "json"))["items"]) == 2
    assert "spec.packageName" in kubectl.refused("get", "packages", "--field-selector", "no.such=1")
    assert 'packages.cacheserver.dev "none" not found' in kubectl.refused("get", "package", "none")
    template = "{{range .items}}{{.metadata.name}} {{end}}"  # what shell completion of names runs
    assert kubectl("get", "packages", "-o", "template", "--template", template).split() == ["c.app", "c.db"]
    assert "delete is not supported" in kubectl.refused("delete", "package", "c.app")


REPOSITORY = """\
apiVersion: config.cacheserver.dev/v1alpha1
kind: Repository
metadata: {name: mine, namespace: default}
spec: {source: {directory: {path: /srv/mine}}}
"""


@needs_kubectl
@pytest.mark.parametrize(
    "binary", [each for each in KUBECTLS if each not in PROTOBUF_ALONE], ids=lambda path: path.name
)
async def test_who_applies_a_manifest_hears_what_to_do_instead(
    binary: Path, server: ServerProcess, tmp_path: Path
) -> None:
    (tmp_path / "repository.yaml").write_text(REPOSITORY)
    kubectl = Kubectl(binary, server, tmp_path / "kube-cache")
    for command in ("apply", "apply --server-side", "apply --validate=warn", "create", "delete"):
        said = kubectl.refused(*command.split(), "-f", str(tmp_path / "repository.yaml"))
        assert "is not supported" in said, command
        assert "cacheserver serve --repositories FILE reads this manifest" in said, command


@needs_kubectl
async def test_a_name_without_its_repository_is_told_with_it(kubectl: Kubectl) -> None:
    assert 'packages.cacheserver.dev "app" not found; there is "c.app"' in kubectl.refused("get", "package", "app")
    assert 'there is "c.app.1.1.0"' in kubectl.refused("get", "cpkgrev", "app.1.1.0")
    told = kubectl.refused("get", "cpkgrev", "app")
    assert '"app" is a package: kubectl get packagerevisions -l cacheserver.dev/package=app' in told
    assert len(kubectl("get", "packagerevisions", "-l", "cacheserver.dev/package=app", "-o", "name").split()) == 2


@needs_kubectl
async def test_chunks_and_sorting(kubectl: Kubectl) -> None:
    chunked = kubectl("get", "cpkgrev", "--chunk-size=1", "--no-headers")
    assert [row.split()[0] for row in chunked.splitlines()] == ["c.app.1.0.0", "c.app.1.1.0", "c.db.2.0.0"]
    sorted_rows = kubectl("get", "cpkgrev", "--sort-by=.spec.version", "--no-headers").splitlines()
    assert [row.split()[0] for row in sorted_rows] == ["c.app.1.0.0", "c.app.1.1.0", "c.db.2.0.0"]


@needs_kubectl
async def test_describe_wait_and_content(kubectl: Kubectl) -> None:
    assert "Default Channel:  stable" in kubectl("describe", "package", "c.app")
    assert "condition met" in kubectl("wait", "crepo/c", "--for=condition=Ready", "--timeout=10s")
    assert "condition met" in kubectl(
        "wait", "package/c.app", "--for=jsonpath={.status.latest.version}=1.1.0", "--timeout=10s"
    )
    resources = json.loads(kubectl("get", "cpkgres", "c.app.1.1.0", "-o", "json"))["spec"]["resources"]
    assert any("app.v1.1.0" in text for text in resources.values())
    assert {line.split()[0] for line in kubectl("get", "catalog", "--no-headers", "-o", "name").splitlines()} >= {
        "package.cacheserver.dev/c.app",
        "repository.config.cacheserver.dev/c",
    }


@needs_kubectl
async def test_watch_shows_changes_and_deletions_while_a_catalog_changes(
    kubectl: Kubectl, server: ServerProcess, files: FBCCatalog
) -> None:
    watching = kubectl.start("get", "packages", "-w", "--output-watch-events", "--no-headers")
    try:
        lines = _lines(watching)
        assert [next(lines)[:2] for _ in range(2)] == [["ADDED", "c.app"], ["ADDED", "c.db"]]
        files.package("app", "1.0.0", "1.1.0", "1.2.0")
        server.signal(signal.SIGHUP)
        changed = await asyncio.wait_for(asyncio.to_thread(next, lines), 10)
        assert changed[:5] == ["MODIFIED", "c.app", "c", "app", "1.2.0"]
        files.without("db")
        server.signal(signal.SIGHUP)
        assert (await asyncio.wait_for(asyncio.to_thread(next, lines), 10))[:2] == ["DELETED", "c.db"]
    finally:
        watching.kill()
        watching.communicate()


def _lines(process: subprocess.Popen[str]) -> Iterator[list[str]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line.split()


def test_there_is_a_kubectl_or_it_is_said_aloud() -> None:
    if not KUBECTLS:
        pytest.skip("NO KUBECTL FOUND: nothing here was tested with a real kubectl")
    assert shutil.which(str(KUBECTLS[0]))
