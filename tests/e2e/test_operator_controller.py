"""operator-controller's catalog client and resolver on our catalogs: what OLM v1 would install, and that it follows."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import StartServer
from tests.support import odd_catalog, olm
from tests.support.asking import ask
from tests.support.server import ServerProcess
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

IMAGE = "registry.example.com/kettle:v"
AMBIGUOUS = 'found bundles for package "kettle" in multiple catalogs with the same priority [one two]'
CLUSTER_CATALOGS = "/apis/olm.operatorframework.io/v1/clustercatalogs"


class Resolver:
    """The program that CACHESERVER_TEST_OPERATOR_CONTROLLER names; CONTRIBUTING.md says how it is called."""

    def __init__(self, binary: Path, *catalogs: str) -> None:
        self._command = [str(binary), *(part for each in catalogs for part in ("-catalog", each))]

    def __call__(self, *arguments: str) -> str:
        """The line that it prints: name, version and image of the bundle, or what is wrong."""
        done = subprocess.run([*self._command, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode < 2, done.stderr
        return done.stdout.strip()

    @contextmanager
    def kept(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """One with its cache, which resolves again for each line that it is sent."""
        with subprocess.Popen(
            [*self._command, "-repeat", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            yield process
            process.kill()


@pytest.fixture(scope="module")
def binary() -> Path:
    return olm.program(olm.OPERATOR_CONTROLLER)


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    return odd_catalog.write(tmp_path / "catalog")


@pytest.fixture
def server(binary: Path, catalog: Path, start_server: StartServer) -> ServerProcess:
    """Publishes the same catalog twice."""
    names = ("one", "two")
    server = start_server(
        *(f"--catalog={name}={catalog}" for name in names), *(f"--publish={name}=Catalog" for name in names)
    )
    # A catalog that was never read is not served yet, and what says so of it comes a moment later.
    until(lambda: all(_served(server, name) for name in names), within_s=20)
    return server


def _served(server: ServerProcess, name: str) -> bool:
    found = ask(f"{server.url}{CLUSTER_CATALOGS}/{name}")
    return found.status == 200 and "resolvedSource" in found.json.get("status", {})


def test_it_resolves_what_is_asked_for(binary: Path, server: ServerProcess) -> None:
    resolve = Resolver(binary, f"one={server.url}/catalogs/one")
    newest, stable = "2.1.0-rc.1", "2.0.0"
    deprecated = "deprecation=true"
    for arguments, version in (
        ((), newest),
        (("-channel", "stable"), stable),
        (("-channel", "fast"), newest),
        (("-channel", "stable", "-version", "<2.0.0"), "1.1.0"),
        (("-installed", "kettle.v1.0.0@1.0.0"), stable),
        (("-installed", "kettle.v1.0.1@1.0.1"), stable),
        (("-installed", "kettle.v2.0.0@2.0.0"), newest),
    ):
        said = resolve("-package", "kettle", *arguments)
        assert said == f"kettle.v{version}\t{version}\t{IMAGE}{version}\t{deprecated}", arguments
    assert resolve("-package", "nope") == 'error: no bundles found for package "nope"'
    assert 'declared via property "olm.gvk.required"' in resolve("-package", "samovar")


def test_a_priority_decides_between_two_catalogs(binary: Path, server: ServerProcess) -> None:
    one, two = (f"{name}={server.url}/catalogs/{name}" for name in ("one", "two"))
    assert Resolver(binary, one, two)("-package", "kettle") == f"error: {AMBIGUOUS}"
    assert Resolver(binary, one, f"{two}#5")("-package", "kettle").startswith("kettle.v2.1.0-rc.1\t")
    assert Resolver(binary, "gone=http://127.0.0.1:9/catalogs/gone")("-package", "kettle").startswith("error: ")


def test_it_finds_catalogs_by_the_kind_that_lists_them(binary: Path, server: ServerProcess) -> None:
    resolve = Resolver(binary)
    arguments = ("-server", server.url, "-package", "kettle")
    assert resolve(*arguments) == f"error: {AMBIGUOUS}"
    label = "olm.operatorframework.io/metadata.name"
    assert resolve(*arguments, "-selector", f"{label}=two").startswith("kettle.v2.1.0-rc.1\t")


def test_a_change_is_another_reference_and_is_fetched_once(binary: Path, server: ServerProcess, catalog: Path) -> None:
    label = "olm.operatorframework.io/metadata.name"
    resolve = Resolver(binary)
    asked = ("-server", server.url, "-selector", f"{label}=one", "-package", "kettle", "-channel", "stable")
    before = _reference(server)
    with resolve.kept(*asked) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline().startswith("kettle.v2.0.0\t")
        odd_catalog.write(catalog, changed=True)
        server.signal(signal.SIGHUP)
        until(lambda: _reference(server) != before, within_s=10)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith("kettle.v2.2.0\t")


def _reference(server: ServerProcess) -> str:
    items = {each["metadata"]["name"]: each for each in server.get(CLUSTER_CATALOGS)["items"]}
    return str(items["one"]["status"]["resolvedSource"]["image"]["ref"])
