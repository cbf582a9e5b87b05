"""CatalogSources of a cluster become Repositories beside them, and their status says how it goes: by one replica.

Against a stand-in of kube-apiserver; with a real one it is in tests/e2e/test_kube_doors.py. What they share with
ClusterCatalogs (compat/made) is tried there as well, in test_clustercatalogs.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from cacheserver import metrics
from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.compat.made.maker import Maker
from cacheserver.compat.made.words import MESSAGE_CHARACTERS
from cacheserver.compat.rukpak.sources import MADE_OF, CatalogSources
from cacheserver.config import Defaults, Door, from_cluster
from cacheserver.model import RepositoryKey
from tests.fakes.kube import KubeStandIn
from tests.support.waiting import eventually

SOURCES: Final = "/apis/core.rukpak.io/v1beta1"
REPOSITORIES: Final = "/apis/config.cacheserver.dev/v1alpha1"
IMAGE: Final = "docker.io/anik120/community-operator-index:v4.11"
SAMPLE: Final = "catalogsource-sample"
LOOKED: Final = "2026-01-02T03:04:05Z"


@dataclass
class World:
    kube: KubeStandIn
    api: KubeAPI
    leader: int = 0

    def source(self, name: str = SAMPLE, namespace: str = "test", **spec: Any) -> dict[str, Any]:
        """Made, or changed by its user."""
        path = f"{SOURCES}/namespaces/{namespace}/catalogsources/{name}"
        metadata = self.found(path).get("metadata", {})
        return self.kube.put(path, {"metadata": metadata, "spec": {"image": IMAGE, **spec}})

    def found(self, path: str) -> dict[str, Any]:
        try:
            return self.kube.get(path)
        except KeyError:
            return {}

    def repository(self, name: str = SAMPLE, namespace: str = "test") -> dict[str, Any]:
        return self.found(f"{REPOSITORIES}/namespaces/{namespace}/repositories/{name}")

    def status(self, name: str = SAMPLE, namespace: str = "test") -> dict[str, Any]:
        return dict(self.found(f"{SOURCES}/namespaces/{namespace}/catalogsources/{name}").get("status", {}))

    def says(self, name: str = SAMPLE, namespace: str = "test") -> tuple[str, str]:
        [ready] = self.status(name, namespace).get("conditions") or [{"reason": "", "message": ""}]
        return ready["reason"], ready["message"]

    async def made(self, name: str = SAMPLE, namespace: str = "test") -> dict[str, Any]:
        await self.until(lambda: bool(self.repository(name, namespace)))
        return self.repository(name, namespace)

    def looked(self, ready: str = "True", why: str = "Synced", at: str = LOOKED) -> None:
        """What ingestion does after a look at the source."""
        found = self.repository()
        condition = {"type": "Ready", "status": ready, "reason": why, "message": f"words on {why}"}
        other = {"type": "Degraded", "status": "False", "reason": "x", "message": ""}
        generation = found["metadata"]["generation"]
        status = {"observedGeneration": generation, "conditions": [condition, other], "lastCheckedAt": at}
        self.kube.put(f"{REPOSITORIES}/namespaces/test/repositories/{SAMPLE}", {**found, "status": status})

    async def until(self, true: Any) -> None:
        async def asked() -> bool:
            return bool(true())

        await eventually(asked)

    @contextlib.asynccontextmanager
    async def running(self, replica: int = 0, namespaces: Sequence[str] = ()) -> AsyncIterator[Maker]:
        pauses = {"look_s": 0.02, "again_s": 0.02, "first_pause_s": 0.02}
        controller = CatalogSources(self.api, lambda: self.leader == replica, namespaces=namespaces, **pauses)
        task = asyncio.create_task(controller.run())
        try:
            yield controller._maker
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with KubeStandIn() as kube, KubeAPI(kube.kubeconfig(tmp_path)) as api:
        yield World(kube, api)


async def test_the_sample_of_its_quickstart_becomes_a_repository_beside_it(world: World) -> None:
    source = world.source(pollingInterval="45m")
    async with world.running():
        found = await world.made()
    expected = {"source": {"oci": {"image": IMAGE}}, "format": "FBC", "interval": "45m", "publish": ["Rukpak"]}
    assert found["spec"] == expected
    assert found["metadata"]["annotations"] == {MADE_OF: SAMPLE}
    [owner] = found["metadata"]["ownerReferences"]
    assert (owner["apiVersion"], owner["kind"]) == ("core.rukpak.io/v1beta1", "CatalogSource")
    assert (owner["name"], owner["uid"], owner["controller"]) == (SAMPLE, source["metadata"]["uid"], True)
    config = from_cluster(found, Defaults())
    assert (config.interval_s, config.publish) == (2700.0, frozenset((Door.RUKPAK,)))


async def test_its_status_says_when_it_was_looked_at_and_how_that_went(world: World) -> None:
    world.source()
    async with world.running():
        await world.made()
        world.looked()
        await world.until(lambda: world.says() == ("Synced", "words on Synced"))
        assert world.status()["latestImagePoll"] == LOOKED
        world.looked("False", "NetworkError", at="2026-01-02T03:05:05Z")
        await world.until(lambda: world.says()[0] == "NetworkError")
        assert world.status()["latestImagePoll"] == "2026-01-02T03:05:05Z"


@pytest.mark.parametrize(
    ("spec", "interval"),
    [
        ({}, None),
        ({"pollingInterval": "90m"}, "1h30m"),
        ({"pollingInterval": "1.5h"}, "1h30m"),
        ({"image": f"quay.io/a/b@sha256:{'0' * 64}", "pollingInterval": "45m"}, None),
    ],
    ids=["silent", "minutes", "fraction", "digest"],
)
async def test_it_is_looked_at_as_often_as_it_says(world: World, spec: dict[str, Any], interval: str | None) -> None:
    world.source(**spec)
    async with world.running():
        assert (await world.made())["spec"].get("interval") == interval


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"image": "https://quay.io/a/b"}, "without a scheme"),
        ({"image": "user:secret@quay.io/a/b:v1"}, "user or password"),
        ({"image": "--upload-pack=x"}, "is not an image"),
        ({"image": "quay.io/a/b:v1\nDELETE /"}, "is not an image"),
        ({"image": ["quay.io/a/b"]}, "to name an image"),
        ({"image": None}, "to name an image"),
        ({"image": "quay.io/" + "a." * 200_000}, "640 characters"),
        ({"pollingInterval": "soon"}, "spec.pollingInterval: 'soon' is not a duration"),
        ({"pollingInterval": "1s"}, "out of range"),
        ({"pollingInterval": "9" * 31 + "h"}, "out of range"),
        ({"pollingInterval": "9" * 100_000}, "32 characters"),
        ({"pollingInterval": 45}, "spec.pollingInterval"),
    ],
    ids=[
        "scheme", "password", "option", "line break", "list", "none", "long image",
        "word", "too often", "for ever", "long number", "number",
    ],
)  # fmt: skip
async def test_what_cannot_be_read_is_said_and_nothing_is_made(world: World, spec: dict[str, Any], why: str) -> None:
    world.source(**spec)
    async with world.running():
        await world.until(lambda: world.says()[0] == "Refused")
    assert why in world.says()[1]
    assert len(world.says()[1]) <= MESSAGE_CHARACTERS
    assert "secret" not in world.says()[1]
    assert world.repository() == {}


async def test_one_that_is_put_right_is_made_at_once(world: World) -> None:
    world.source(image="no image")
    async with world.running():
        await world.until(lambda: world.says()[0] == "Refused")
        world.source()
        await world.made()
        world.looked()
        await world.until(lambda: world.says()[0] == "Synced")


async def test_a_repository_of_that_name_that_is_somebody_elses_stays_as_it_is(world: World) -> None:
    mine = {"metadata": {}, "spec": {"source": {"git": {"url": "https://g.example/a"}}, "format": "KRM"}}
    world.kube.put(f"{REPOSITORIES}/namespaces/test/repositories/{SAMPLE}", mine)
    world.source()
    async with world.running():
        await world.until(lambda: "was made by somebody else" in world.says()[1])
        before = world.repository()
        world.kube.remove(f"{SOURCES}/namespaces/test/catalogsources/{SAMPLE}")
        world.source("another")
        await world.made("another")
        assert world.repository() == before
        # Once it is gone, there is one of the CatalogSource.
        world.source()
        await world.until(lambda: "was made by somebody else" in world.says()[1])
        world.kube.remove(f"{REPOSITORIES}/namespaces/test/repositories/{SAMPLE}")
        await world.until(lambda: MADE_OF in world.repository().get("metadata", {}).get("annotations", {}))


async def test_what_users_add_to_its_repository_stays_and_what_it_says_itself_is_put_back(world: World) -> None:
    world.source(pollingInterval="45m")
    async with world.running():
        found = await world.made()
        found["spec"] |= {
            "secretRef": {"name": "pull"},
            "suspend": True,
            "publish": ["Catalog"],
            "source": {"git": {"url": "https://g.example/a"}, "oci": {"image": "evil.example/a:v1"}},
        }
        world.kube.put(f"{REPOSITORIES}/namespaces/test/repositories/{SAMPLE}", found)
        await world.until(lambda: world.repository()["spec"]["publish"] == ["Catalog", "Rukpak"])
    spec = world.repository()["spec"]
    assert (spec["secretRef"], spec["suspend"]) == ({"name": "pull"}, True)
    assert spec["source"] == {"oci": {"image": IMAGE}}


async def test_it_takes_its_repository_with_it_in_its_own_namespace_alone(world: World) -> None:
    for namespace in ("test", "other"):
        world.source(namespace=namespace)
    async with world.running():
        for namespace in ("test", "other"):
            await world.made(namespace=namespace)
        world.kube.remove(f"{SOURCES}/namespaces/test/catalogsources/{SAMPLE}")
        await world.until(lambda: not world.repository())
        assert world.repository(namespace="other")


async def test_one_that_went_while_nobody_looked_takes_its_repository_with_it(world: World) -> None:
    world.source()
    async with world.running():
        await world.made()
    world.kube.remove(f"{SOURCES}/namespaces/test/catalogsources/{SAMPLE}")
    async with world.running():
        await world.until(lambda: not world.repository())


async def test_of_two_replicas_the_leader_writes_and_the_other_goes_on_where_it_stopped(world: World) -> None:
    world.source()
    async with world.running(0), world.running(1):
        await world.made()
        world.looked()
        await world.until(lambda: world.says()[0] == "Synced")
        world.leader = 1
        world.source("late")
        await world.made("late")
    posts = f"POST {REPOSITORIES}/namespaces/test/repositories"
    assert world.kube.calls[posts] == 2
    before = dict(world.kube.calls)
    async with world.running(1) as maker:  # started again: all is as it is to be
        await world.until(lambda: maker.acts)
        await world.until(lambda: not maker._due)
    assert {call for call in world.kube.calls if call.split()[0] != "GET"} == {
        call for call in before if call.split()[0] != "GET"
    }


async def test_where_namespaces_are_named_others_are_left_alone(world: World) -> None:
    for namespace in ("one", "two", "three"):
        world.source(namespace=namespace)
    async with world.running(namespaces=("one", "two")):
        for namespace in ("one", "two"):
            await world.made(namespace=namespace)
        await world.until(lambda: metrics.catalogsources.value == 2)
    assert world.repository(namespace="three") == {}


async def test_twenty_thousand_wait_once_each_however_often_they_are_woken(world: World) -> None:
    async with world.running(replica=1) as maker:
        await world.until(lambda: not maker._unlisted)
        keys = [RepositoryKey("test", f"c{at}") for at in range(20_000)]
        for at, key in enumerate(keys):
            metadata = {"name": key.name, "namespace": "test", "uid": str(at), "resourceVersion": str(at + 1)}
            maker._take("made_of", key, {"metadata": metadata, "spec": {"image": IMAGE}})
            maker._ones[key].pause_s = 150.0
            maker._later(key, maker._ones[key])
        for _ in range(3):
            for key in keys:
                maker.wake(key)
        assert len(maker._asleep) == len(keys)
        for key in keys:
            maker._take("made_of", key, None)
        assert (maker._known, len(maker._ones), len(maker._due)) == (0, 0, 0)
