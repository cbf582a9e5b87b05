"""The quickstart of rukpak-packageserver, as its README has it, on a server of one's own."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import StartServer
from tests.support.fbc import catalog
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

REPOSITORY = """\
apiVersion: config.cacheserver.dev/v1alpha1
kind: Repository
metadata: {{name: {name}, namespace: test}}
spec:
  source: {{directory: {{path: {path}}}}}
  publish: {doors}
"""


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="NO KUBECTL ON PATH: the quickstart was not tried")
async def test_its_commands_print_what_its_readme_shows(start_server: StartServer, tmp_path: Path) -> None:
    files = catalog(tmp_path / "c").package("3scale-community-operator", "0.1.0").package("ack-ec2-controller", "1.0.0")
    (tmp_path / "repositories.yaml").write_text(
        REPOSITORY.format(name="catalogsource-sample", path=files.root, doors="[Rukpak]")
        + "---\n"
        + REPOSITORY.format(name="private", path=files.root, doors="[Catalog]")
    )
    server = start_server("--repositories", str(tmp_path / "repositories.yaml"), "--rukpak")
    await eventually(lambda: len(list(server.names())) == 4, within_s=60)

    def kubectl(*command: str) -> list[list[str]]:
        found = subprocess.run(
            ["kubectl", "--server", server.url, "-n", "test", *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin:/usr/local/bin"},
        )
        return [line.split()[:1] + line.split()[2:] for line in (found.stdout + found.stderr).splitlines()]

    for kind in ("catalogsource", "catalogcache"):
        assert await asyncio.to_thread(kubectl, "get", kind) == [["NAME"], ["catalogsource-sample"]]
    names = ["3scale-community-operator", "ack-ec2-controller"]
    assert await asyncio.to_thread(kubectl, "get", "packages.core.rukpak.io") == [["NAME"], *([name] for name in names)]
