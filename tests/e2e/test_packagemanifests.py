"""PackageManifests of a whole server, as kubectl and a watcher see them."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.test_kubectl import KUBECTLS, Kubectl, needs_kubectl
from tests.support.fbc import FBCCatalog
from tests.support.server import ServerProcess
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, needs_kubectl]

Event = tuple[str, str, str]
"""(type, namespace, name)"""
GROUP = "/apis/packages.operators.coreos.com/v1"


def repository(name: str, namespace: str, path: Path, publish: str) -> str:
    return (
        "apiVersion: config.cacheserver.dev/v1alpha1\nkind: Repository\n"
        f"metadata: {{name: {name}, namespace: {namespace},\n"
        f"           annotations: {{cacheserver.dev/display-name: The {name}}}}}\n"
        f"spec: {{source: {{directory: {{path: {path}}}}}, publish: [{publish}]}}\n---\n"
    )


def names(server: ServerProcess, namespace: str) -> list[str]:
    listed = server.get(f"{GROUP}/namespaces/{namespace}/packagemanifests")["items"]
    return [f"{item['status']['catalogSource']}/{item['metadata']['name']}" for item in listed]


async def events_of(server: ServerProcess, namespace: str, since: str, *changes: Callable[[], object]) -> list[Event]:
    """What a watch from `since` on sees of changes; each is made when the package that the one before adds has come.
    They add `new0`, `new1`..."""
    events: list[Event] = []
    url = f"{server.url}{GROUP}/namespaces/{namespace}/packagemanifests?watch=1&resourceVersion={since}"
    async with asyncio.timeout(120), aiohttp.ClientSession() as session, session.get(url) as response:
        for at, change in enumerate(changes):
            change()
            server.signal(signal.SIGHUP)
            while f"new{at}" not in {name for _, _, name in events}:
                event = json.loads(await response.content.readline())
                metadata = event["object"]["metadata"]
                events.append((event["type"], metadata["namespace"], metadata["name"]))
    return events


async def test_kubectl_lists_and_watches_what_is_published(start_server: StartServer, tmp_path: Path) -> None:
    community = FBCCatalog(tmp_path / "community").package("lamp", "1.0.0", "1.1.0").package("quay", "2.0.0")
    own = FBCCatalog(tmp_path / "own").package("lamp", "3.0.0")
    secret = FBCCatalog(tmp_path / "secret").package("hidden", "1.0.0")
    file = tmp_path / "repositories.yaml"
    file.write_text(
        repository("community", "olm", community.root, "PackageManifest")
        + repository("own", "team", own.root, "PackageManifest")
        + repository("secret", "olm", secret.root, "Catalog")
    )
    flags = ("--repositories", str(file), "--packagemanifests", "--packagemanifests-namespace", "olm")
    server = start_server(*flags)
    until(lambda: len(names(server, "team")) == 3, within_s=60)

    kubectl = Kubectl(KUBECTLS[0], server, tmp_path / "cache")
    lines = kubectl("get", "packagemanifests", "-n", "team").splitlines()
    assert lines[0].split() == ["NAME", "CATALOG", "AGE"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["lamp", "The", "own"],
        ["lamp", "The", "community"],
        ["quay", "The", "community"],
    ]
    everywhere = kubectl("get", "packagemanifests", "-A", "-o", "wide").splitlines()[1:]
    assert [line.split()[:2] for line in everywhere] == [["olm", "lamp"], ["olm", "quay"], ["team", "lamp"]]
    chosen = ("-l", "catalog=community", "--field-selector", "metadata.name=lamp", "-o", "name")
    assert kubectl("get", "packagemanifests", "-n", "nobody", *chosen).split() == [
        "packagemanifest.packages.operators.coreos.com/lamp"
    ]
    versions = "{.metadata.namespace} {.status.channels[0].entries[*].version}"
    assert kubectl("get", "packagemanifest", "lamp", "-n", "olm", "-o", f"jsonpath={versions}") == "olm 1.1.0 1.0.0"
    assert kubectl("get", "packagemanifest", "lamp", "-n", "team", "-o", f"jsonpath={versions}") == "team 3.0.0"
    assert "channels" in kubectl("explain", "packagemanifests.status")
    assert "NotFound" in kubectl.refused("get", "packagemanifest", "hidden", "-n", "olm")

    since = server.get(f"{GROUP}/namespaces/nobody/packagemanifests")["metadata"]["resourceVersion"]

    def first() -> None:
        community.package("lamp", "1.0.0", "1.1.0", descriptions={"1.1.0": "changed"}).package("new0", "1.0.0")

    # Packages of one sync come in any order; what the second brings is behind all of the first.
    events = await events_of(server, "nobody", since, first, lambda: community.package("new1", "1.0.0"))
    assert sorted(events) == [("ADDED", "nobody", "new0"), ("ADDED", "nobody", "new1"), ("MODIFIED", "nobody", "lamp")]

    before = server.get(f"{GROUP}/packagemanifests")["items"]
    server.kill()
    server.start()
    assert server.get(f"{GROUP}/packagemanifests")["items"] == before, "a restart changes nothing, and shows no less"
