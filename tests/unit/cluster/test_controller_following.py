"""From the cluster's Repository objects to what ingestion is told: all of them, at once, whatever the host API does.

The host API is the stand-in, over real HTTP; ingestion only takes note.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cacheserver.cluster.credentials import Secrets
from cacheserver.cluster.events import Events
from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.cluster.repositories import Controller
from cacheserver.cluster.status import ClusterStatusStore
from cacheserver.config import Defaults, RepositoryConfig
from cacheserver.errors import SecretForbiddenError, SecretNotFoundError, SpecInvalidError, Unavailable
from cacheserver.model import RepositoryKey
from cacheserver.sources import Access, Source, Tree
from cacheserver.store.claims import Claim
from tests.fakes.kube import KubeStandIn
from tests.support.waiting import eventually

pytestmark = pytest.mark.processes

ROOT = "/apis/config.cacheserver.dev/v1alpha1"
IMAGE = "registry.example.com/team/catalog:v1"


def path(name: str, namespace: str = "team") -> str:
    return f"{ROOT}/namespaces/{namespace}/repositories/{name}"


def repository(image: str = IMAGE, **spec: Any) -> dict[str, Any]:
    return {"spec": {"source": {"oci": {"image": image}}, **spec}}


def key(name: str, namespace: str = "team") -> RepositoryKey:
    return RepositoryKey(namespace, name)


@dataclass
class Ingestion:
    """Takes note of what it is told."""

    present: dict[RepositoryKey, RepositoryConfig] = field(default_factory=dict)
    sources: dict[RepositoryKey, Source] = field(default_factory=dict)
    access: dict[RepositoryKey, str] = field(default_factory=dict)
    puts: int = 0
    removed: list[RepositoryKey] = field(default_factory=list)
    left: list[set[RepositoryKey]] = field(default_factory=list)
    etcd_is_away: bool = False

    def put(self, config: RepositoryConfig, open_source: Callable[[], Source], *, access: str = "") -> None:
        self.puts += 1
        self.present[config.key] = config
        self.sources[config.key] = open_source()
        self.access[config.key] = access

    def remove(self, key: RepositoryKey) -> None:
        self.present.pop(key, None)
        self.removed.append(key)

    async def left_behind(self, present: Collection[RepositoryKey]) -> None:
        await asyncio.sleep(0)
        if self.etcd_is_away:
            raise Unavailable("etcd is away")
        self.left.append(set(present))


class Opened:
    """What the controller opens; says with which user."""

    def __init__(self, config: RepositoryConfig, access: Access) -> None:
        self._user = access.registry.for_repository("registry.example.com", "team/catalog")

    async def probe(self) -> str:
        return self._user.username if self._user else "nobody"

    async def fetch(self, scratch: Path, progress: Any) -> Tree:
        raise NotImplementedError

    async def aclose(self) -> None: ...


@dataclass
class World:
    kube: KubeStandIn
    api: KubeAPI
    ingest: Ingestion
    stack: contextlib.AsyncExitStack

    async def run(self, *namespaces: str) -> None:
        """A controller, until the test ends."""

        async def holds(claim: Claim) -> bool:
            return True

        controller = Controller(
            self.api,
            self.ingest,
            ClusterStatusStore(self.api, holds, Events(self.api)),
            Secrets(self.api),
            Opened,
            namespaces=namespaces,
            defaults=Defaults(),
            first_pause_s=0.02,
        )
        task = asyncio.create_task(controller.run(), name="controller")

        async def stop() -> None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        self.stack.push_async_callback(stop)

    def names(self) -> list[str]:
        return sorted(f"{known.namespace}/{known.name}" for known in self.ingest.present)

    async def settled(self, *names: str) -> None:
        await eventually(lambda: self.names() == sorted(names))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as outer:
        kube = await outer.enter_async_context(KubeStandIn())
        api = await outer.enter_async_context(KubeAPI(kube.kubeconfig(tmp_path)))
        stack = await outer.enter_async_context(contextlib.AsyncExitStack())
        yield World(kube, api, Ingestion(), stack)


async def test_repositories_come_change_and_go(world: World) -> None:
    world.kube.put(path("a"), repository())
    await world.run()
    await world.settled("team/a")
    world.kube.put(path("b", "other"), repository())
    await world.settled("other/b", "team/a")
    world.kube.put(path("a"), repository(suspend=True, secretRef={"name": "s"}))
    await eventually(lambda: world.ingest.present[key("a")].suspend)
    config = world.ingest.present[key("a")]
    assert (config.secret, config.generation, config.uid) == ("s", 2, world.kube.get(path("a"))["metadata"]["uid"])
    world.kube.remove(path("a"))
    await world.settled("other/b")
    assert world.ingest.removed == [key("a")]


async def test_what_went_while_nobody_looked_is_looked_for_once_all_is_listed(world: World) -> None:
    world.kube.put(path("a"), repository())
    world.kube.refuse(503)
    world.ingest.etcd_is_away = True
    await world.run()
    await eventually(lambda: sum(world.kube.calls.values()) > 1)
    assert world.ingest.left == []
    world.kube.refuse(0)
    await world.settled("team/a")
    world.ingest.etcd_is_away = False
    await eventually(lambda: world.ingest.left == [{key("a")}])


async def test_a_cluster_without_the_crd_is_not_taken_for_an_empty_one(world: World) -> None:
    world.kube.deny(f"{ROOT}/repositories", 404)
    await world.run()
    await eventually(lambda: world.kube.calls[f"GET {ROOT}/repositories"] > 1)
    assert (world.ingest.left, world.ingest.removed) == ([], [])


async def test_a_namespaced_installation_reads_its_namespaces_and_nothing_else(world: World) -> None:
    for namespace in ("team", "other", "third"):
        world.kube.put(path("a", namespace), repository())
    world.kube.deny(f"{ROOT}/namespaces/other/repositories", 403)
    await world.run("team", "other")
    await world.settled("team/a")
    assert world.ingest.left == []  # one namespace is not known yet
    world.kube.deny(f"{ROOT}/namespaces/other/repositories", 0)
    await world.settled("other/a", "team/a")
    await eventually(lambda: world.ingest.left == [{key("a"), key("a", "other")}])
    assert f"GET {ROOT}/repositories" not in world.kube.calls


async def test_what_happened_behind_a_broken_watch_is_not_missed(world: World) -> None:
    world.kube.put(path("a"), repository())
    world.kube.put(path("b"), repository())
    await world.run()
    await world.settled("team/a", "team/b")
    world.kube.refuse(503)
    world.kube.hang_up()
    world.kube.remove(path("a"))
    world.kube.put(path("c"), repository())
    world.kube.refuse(0)
    await world.settled("team/b", "team/c")
    assert world.kube.calls[f"GET {ROOT}/repositories"] == 1


async def test_when_the_host_api_has_forgotten_everything_is_listed_again(world: World) -> None:
    world.kube.put(path("a"), repository())
    world.kube.put(path("b"), repository())
    await world.run()
    await world.settled("team/a", "team/b")
    world.kube.refuse(503)
    world.kube.hang_up()
    world.kube.remove(path("a"))
    world.kube.put(path("c"), repository())
    world.kube.forget()
    world.kube.refuse(0)
    await world.settled("team/b", "team/c")
    assert world.ingest.removed == [key("a")]


async def test_more_repositories_than_a_page_are_all_found(world: World) -> None:
    for n in range(501):
        world.kube.put(path(f"r{n}"), repository())
    await world.run()
    await world.settled(*(f"team/r{n}" for n in range(501)))
    assert world.kube.calls[f"GET {ROOT}/repositories"] == 2


async def test_a_spec_that_cannot_be_becomes_a_source_that_says_so_and_heals(world: World) -> None:
    world.kube.put(path("a"), {"spec": {"source": {"directory": {"path": "/etc"}}}})
    world.kube.put(path("b"), repository())
    await world.run()
    await world.settled("team/a", "team/b")
    with pytest.raises(SpecInvalidError, match="standalone only"):
        await world.ingest.sources[key("a")].probe()
    before = world.ingest.access[key("a")]
    world.kube.put(path("a"), repository("NO SUCH"))
    await eventually(lambda: world.ingest.access[key("a")] != before)
    with pytest.raises(SpecInvalidError, match=r"spec\.source\.oci\.image"):
        await world.ingest.sources[key("a")].probe()
    assert world.ingest.present[key("a")].generation == 2
    world.kube.put(path("a"), repository())
    await eventually(lambda: world.ingest.access[key("a")] == "")
    assert await world.ingest.sources[key("a")].probe() == "nobody"


async def test_credentials_come_from_the_secret_in_the_same_namespace(world: World) -> None:
    world.kube.put(path("a"), repository(secretRef={"name": "pull"}))
    await world.run()
    await world.settled("team/a")
    source = world.ingest.sources[key("a")]
    with pytest.raises(SecretNotFoundError, match="no Secret pull in team"):
        await source.probe()
    held = {"type": "kubernetes.io/basic-auth", "data": {"username": "YQ==", "password": "cA=="}}
    world.kube.put("/api/v1/namespaces/team/secrets/pull", held)
    assert await source.probe() == "a"
    world.kube.put("/api/v1/namespaces/team/secrets/pull", {"data": {"username": "Yg==", "password": "cA=="}})
    assert await source.probe() == "b"
    world.kube.refuse(503)
    assert await source.probe() == "b"
    world.kube.refuse(0)
    world.kube.deny("/api/v1/namespaces/team/secrets")
    with pytest.raises(SecretForbiddenError, match="kubectl -n team create rolebinding"):
        await source.probe()
