"""The quickstart of rukpak-packageserver, as its README has it, without a cluster: from a registry to kubectl."""

from __future__ import annotations

import asyncio
import functools
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.conftest import StartServer
from tests.support.certificates import Authority
from tests.support.fbc import CATALOG_SOURCE, catalog
from tests.support.registry import FakeRegistry, image_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

PRIVATE = """\
---
apiVersion: config.cacheserver.dev/v1alpha1
kind: Repository
metadata: {{name: private, namespace: test}}
spec:
  source: {{directory: {{path: {path}}}}}
  publish: [Catalog]
"""


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[tuple[FakeRegistry, Authority]]:
    authority, registry = Authority(tmp_path / "authority"), FakeRegistry()
    await registry.start(tls=authority.issue("registry"))
    yield registry, authority
    await registry.stop()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="NO KUBECTL ON PATH: the quickstart was not tried")
async def test_its_commands_print_what_its_readme_shows(
    start_server: StartServer, registry: tuple[FakeRegistry, Authority], tmp_path: Path
) -> None:
    served, authority = registry
    names = ["3scale-community-operator", "ack-ec2-controller"]
    files = catalog(tmp_path / "c").package(names[0], "0.1.0").package(names[1], "1.0.0")
    await served.push(image_of(files.root), "anik120/community-operator-index", "v4.11")
    manifests = tmp_path / "catalogsource.yaml"
    manifests.write_text(CATALOG_SOURCE.format(host=served.host) + PRIVATE.format(path=files.root))
    environ = {"SSL_CERT_FILE": str(authority.certificate)}
    flags = ("--repositories", str(manifests), "--rukpak")
    server = await asyncio.to_thread(functools.partial(start_server, *flags, environ=environ))
    packages = 2 * len(names)
    await eventually(lambda: len(list(server.names())) == packages, within_s=60)

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
    assert await asyncio.to_thread(kubectl, "get", "packages.core.rukpak.io") == [["NAME"], *([name] for name in names)]
