"""kubectl-operator on our PackageManifests, and these beside OLM's package-server's: one catalog, the same answers."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import StartServer
from tests.support import odd_catalog, olm
from tests.support.asking import Answer, ask
from tests.support.certificates import Authority
from tests.support.olm import OLMCluster, OpmServe, PackageServer
from tests.support.server import ServerProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

COUNT = 3
MANIFESTS = f"{olm.PACKAGES}/namespaces/default/packagemanifests"


@dataclass(frozen=True, slots=True)
class Pair:
    theirs: PackageServer
    ours: ServerProcess


@pytest.fixture
async def pair(start_server: StartServer, tmp_path: Path) -> AsyncIterator[Pair]:
    """package-server on `opm serve`, and our server, both with the catalog `tea` in the namespace default."""
    binary, opm = olm.program(olm.PACKAGE_SERVER), olm.program(olm.OPM)
    catalog = odd_catalog.write(tmp_path / "catalog")
    ours = start_server("--catalog", f"tea={catalog}", "--publish", "tea=PackageManifest", "--packagemanifests")
    with OpmServe(opm, catalog, tmp_path / "opm") as registry:
        async with OLMCluster(Authority(tmp_path / "authority")) as cluster:
            cluster.catalog_source("default", "tea", registry.address)
            async with PackageServer(binary, cluster, tmp_path / "package-server") as theirs:

                async def loaded() -> bool:
                    return len(await theirs.names("default")) == COUNT

                await eventually(loaded, within_s=20)
                yield Pair(theirs, ours)


async def test_our_manifests_are_those_of_package_server(pair: Pair) -> None:
    theirs = await pair.theirs.manifests("default")
    ours = (await asyncio.to_thread(pair.ours.get, MANIFESTS))["items"]
    assert olm.comparable(ours) == olm.comparable(theirs)


async def test_our_icons_are_those_of_package_server(pair: Pair) -> None:
    """Where a package has none, both draw one of their own."""
    its, mine = await _icons(pair, "kettle")
    assert (mine.status, mine.headers["Content-Type"], mine.body) == (200, its.headers["Content-Type"], its.body)
    its, mine = await _icons(pair, "samovar")
    assert (mine.status, mine.headers["Content-Type"]) == (its.status, its.headers["Content-Type"])
    its, mine = await _icons(pair, "nope")
    assert (mine.status, its.status) == (404, 404)


async def _icons(pair: Pair, package: str) -> tuple[Answer, Answer]:
    """The reference's first."""
    path = f"{MANIFESTS}/{package}/icon"
    return await pair.theirs.ask(path), await asyncio.to_thread(ask, f"{pair.ours.url}{path}")


async def test_kubectl_operator_prints_the_same_of_both(pair: Pair, tmp_path: Path) -> None:
    binary = olm.program(olm.KUBECTL_OPERATOR)
    authority = str(tmp_path / "authority" / "ca.crt")
    configs = [
        _kubeconfig(tmp_path / "theirs", {"server": pair.theirs.url, "certificate-authority": authority}),
        _kubeconfig(tmp_path / "ours", {"server": pair.ours.url}),
    ]
    for arguments in (
        ("list-available",),
        ("list-available", "kettle"),
        ("list-available", "nope"),
        ("list-available", "-c", "default/tea"),
        ("list-available", "-c", "default/nope"),
        ("list-available", "-n", "elsewhere"),
        ("describe", "kettle"),
        ("describe", "kettle", "-C", "fast", "-L"),
        ("describe", "kettle", "-C", "nope"),
        ("describe", "teapot"),
        ("describe", "nope"),
    ):
        theirs, ours = [await asyncio.to_thread(_printed, binary, config, *arguments) for config in configs]
        assert ours == theirs, arguments


def _printed(binary: Path, config: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors; ages are as old as the servers are."""
    done = subprocess.run(
        [binary, *arguments],
        env={"KUBECONFIG": str(config), "HOME": str(config.parent), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, re.sub(r" +\d+[smh]\b", " AGE", done.stdout), done.stderr


def _kubeconfig(path: Path, cluster: dict[str, str]) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "t",
        "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t", "namespace": "default"}}],
        "clusters": [{"name": "t", "cluster": cluster}],
        "users": [{"name": "t", "user": {"token": olm.READER}}],
    }
    path.write_text(json.dumps(document))
    return path
