"""What is told of changes by a whole server: once, though it is killed; to kubectl's table, the client, and a feed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.e2e.conftest import StartServer
from tests.support.fbc import FBCCatalog, catalog
from tests.support.server import ServerProcess
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

PACKAGES = 20
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


def told(server: ServerProcess, query: str = "") -> Sequence[str]:
    return [
        f"{item['spec'].get('packageName', '')} {item['spec']['summary']}".strip()
        for item in server.list("packagechanges", query)["items"]
    ]


def write(files: FBCCatalog, *versions: str) -> None:
    for at in range(PACKAGES):
        files.package(f"p{at:02}", *versions)


def test_what_a_killed_server_told_is_told_once_and_everywhere(start_server: StartServer, tmp_path: Path) -> None:
    files = catalog(tmp_path / "c")
    write(files, "1.0.0")
    server = start_server("--catalog", f"c={files.root}")
    until(lambda: len(told(server)) == 1, within_s=30, otherwise=server.log)
    assert told(server) == [f"repository added: {PACKAGES} packages, {PACKAGES} revisions"]
    write(files, "1.0.0", "1.1.0")
    server.signal(signal.SIGHUP)
    until(lambda: len(told(server)) > 5, within_s=30, otherwise=server.log)
    server.kill()
    server.start()
    wanted = 1 + 2 * PACKAGES
    until(lambda: len(told(server)) >= wanted, within_s=40, otherwise=server.log)
    names = [f"p{at:02}" for at in range(PACKAGES)]
    expected = [f"{name} {said}" for name in names for said in ("1.1.0 added", "stable: 1.0.0 -> 1.1.0")]
    assert Counter(told(server)[1:]) == Counter(expected)

    # Selected by what happened, by package and by revision; as people see it.
    assert len(told(server, "?fieldSelector=spec.type=ChannelHeadMoved,spec.repository=c")) == PACKAGES
    assert told(server, "?fieldSelector=spec.revision=p01.v1.0.0") == ["p01 stable: 1.0.0 -> 1.1.0"]
    assert len(told(server, "?labelSelector=cacheserver.dev/package=p02,cacheserver.dev/repository=c")) == 2
    table = server.get("/apis/cacheserver.dev/v1alpha1/packagechanges?limit=1", Accept=TABLE)
    assert [column["name"] for column in table["columnDefinitions"] if not column["priority"]] == [
        "Name",
        "Repository",
        "Package",
        "Change",
        "Age",
    ]
    assert table["rows"][0]["cells"][1:4] == ["c", "", "repository added: 20 packages, 20 revisions"]

    lines = client(server, "changes", "p03", "--since", "1d").splitlines()
    assert [line.split("   ")[-1].strip() for line in sorted(lines)] == [
        "1.1.0 added",
        "stable: 1.0.0 -> 1.1.0",
        "CHANGE",
    ]
    assert client(server, "changes", "--since", "2999-01-01", "-o", "name") == ""

    feed = ElementTree.fromstring("\n".join(server.text("/feeds/default/c.atom")))
    entries = feed.findall("{http://www.w3.org/2005/Atom}entry")
    assert len(entries) == wanted

    with subprocess.Popen(
        command(server, "changes", "-w", "-o", "name", "--type", "PackageGone"), stdout=-1
    ) as watching:
        files.without("p00")
        server.signal(signal.SIGHUP)
        try:
            assert watching.stdout is not None
            assert watching.stdout.readline().startswith(b"packagechange.cacheserver.dev/")
        finally:
            watching.kill()


def command(server: ServerProcess, *words: str) -> list[str]:
    return [sys.executable, "-m", "cacheserver.client.main", *words, "--server", server.url]


def client(server: ServerProcess, *words: str) -> str:
    return subprocess.run(command(server, *words), capture_output=True, text=True, check=True, timeout=60).stdout
