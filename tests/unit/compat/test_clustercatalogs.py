"""ClusterCatalogs become Repositories, and their status says what is served: by one replica, and never beside catalogd.

Against a stand-in of kube-apiserver; what kube-apiserver itself refuses is in tests/e2e/test_clustercatalogs.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cacheserver import metrics
from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.compat.clustercatalogs.controller import CATALOGD_FINALIZER, IMAGE_DIGEST, LABEL, PATH, ClusterCatalogs
from cacheserver.compat.clustercatalogs.rival import DEPLOYMENT
from cacheserver.compat.clustercatalogs.wanted import MADE_OF
from cacheserver.errors import KubernetesError
from cacheserver.model import Digest, RepositoryKey
from tests.fakes.contents import CHANGED, Contents
from tests.fakes.kube import KubeStandIn
from tests.support.waiting import eventually

NAMESPACE = "catalogs"
REPOSITORIES = f"/apis/config.cacheserver.dev/v1alpha1/namespaces/{NAMESPACE}/repositories"
CATALOGD = f"/apis/apps/v1/namespaces/olmv1-system/deployments/{DEPLOYMENT}"
IMAGE = "quay.io/operatorhubio/catalog:latest"
ONE, TWO = (Digest(f"sha256:{digit * 64}") for digit in "12")
MANY = 40  # five times as many as are worked on at the same time


@dataclass
class World:
    kube: KubeStandIn
    api: KubeAPI
    contents: Contents = field(default_factory=lambda: Contents(NAMESPACE))
    leader: int = 0

    def catalog(self, name: str = "hub", ref: str = IMAGE, mode: str = "Available", **image: Any) -> dict[str, Any]:
        """Made, or changed by its user."""
        source = {"type": "Image", "image": {"ref": ref, **image}}
        metadata = self.metadata(name)
        spec = {"source": source, "priority": 0, "availabilityMode": mode}
        return self.kube.put(f"{PATH}/{name}", {"metadata": metadata, "spec": spec})

    def metadata(self, name: str) -> dict[str, Any]:
        with contextlib.suppress(KeyError):
            return dict(self.kube.get(f"{PATH}/{name}")["metadata"])
        return {}

    def status(self, name: str = "hub") -> dict[str, Any]:
        return dict(self.kube.get(f"{PATH}/{name}").get("status", {}))

    def says(self, kind: str, name: str = "hub") -> tuple[str, str, str]:
        conditions = self.status(name).get("conditions", ())
        found = next((c for c in conditions if c["type"] == kind), {"status": "", "reason": "", "message": ""})
        return found["status"], found["reason"], found["message"]

    def repository(self, name: str = "hub") -> dict[str, Any]:
        try:
            return self.kube.get(f"{REPOSITORIES}/{name}")
        except KeyError:
            return {}

    async def made(self, name: str = "hub") -> dict[str, Any]:
        await self.until(lambda: bool(self.repository(name)))
        return self.repository(name)

    def synced(
        self, name: str = "hub", revision: Digest | None = ONE, ready: str = "True", why: str = "Synced", **more: Any
    ) -> None:
        """What ingestion does after a look at the source."""
        if revision is not None:
            self.contents.serve(name, revision, more.pop("changed", CHANGED))
        found = self.repository(name)
        stalled = more.pop("stalled", "False")
        conditions = [
            {"type": "Ready", "status": ready, "reason": why, "message": f"words on {why}"},
            {"type": "Stalled", "status": stalled, "reason": why, "message": ""},
        ]
        generation = found["metadata"]["generation"]
        found["status"] = {"observedGeneration": generation, "conditions": conditions, "digest": "sha256:image", **more}
        self.kube.put(f"{REPOSITORIES}/{name}", found)

    def catalogd(self, ready: int) -> None:
        self.kube.put(CATALOGD, {"metadata": {}, "status": {"readyReplicas": ready}})

    async def until(self, true: Any) -> None:
        async def asked() -> bool:
            return bool(true())

        await eventually(asked)

    async def served(self, name: str = "hub", revision: Digest = ONE) -> None:
        ref = f"cacheserver.dev/{NAMESPACE}/{name}@{revision}"
        await self.until(lambda: self.status(name).get("resolvedSource", {}).get("image", {}).get("ref") == ref)

    @contextlib.asynccontextmanager
    async def running(self, replica: int = 0, settle_s: float = 0.0) -> AsyncIterator[ClusterCatalogs]:
        controller = ClusterCatalogs(
            self.api,
            self.contents,
            lambda: self.leader == replica,
            namespace=NAMESPACE,
            base=lambda key: f"https://doors.cacheserver.svc/catalogs/{key.name}.{key.namespace}",
            look_s=0.02,
            again_s=0.02,
            settle_s=settle_s,
            first_pause_s=0.02,
        )
        task = asyncio.create_task(controller.run())
        try:
            yield controller
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def writes(self) -> int:
        return sum(n for call, n in self.kube.calls.items() if call.split()[0] in ("POST", "PATCH", "PUT", "DELETE"))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with KubeStandIn() as kube, KubeAPI(kube.kubeconfig(tmp_path)) as api:
        yield World(kube, api)


async def test_a_clustercatalog_becomes_a_repository_that_is_published(world: World) -> None:
    catalog = world.catalog(pollIntervalMinutes=90)
    async with world.running():
        found = await world.made()
    assert found["spec"] == {
        "source": {"oci": {"image": IMAGE}},
        "format": "FBC",
        "interval": "1h30m",
        "suspend": False,
        "publish": ["Catalog"],
    }
    assert found["metadata"]["annotations"] == {MADE_OF: "hub"}
    [owner] = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("ClusterCatalog", "hub", catalog["metadata"]["uid"])


@pytest.mark.parametrize(
    ("ref", "image", "interval"),
    [
        (IMAGE, {}, "168h"),
        (IMAGE, {"pollIntervalMinutes": 1}, "1m"),
        (IMAGE, {"pollIntervalMinutes": 1 << 31}, "168h"),
        (f"quay.io/a/b@sha256:{'0' * 64}", {}, None),
    ],
    ids=["never", "often", "hardly", "digest"],
)
async def test_it_is_asked_as_often_as_it_says(
    world: World, ref: str, image: dict[str, Any], interval: str | None
) -> None:
    world.catalog(ref=ref, **image)
    async with world.running():
        found = await world.made()
    assert found["spec"].get("interval") == interval


async def test_its_status_has_catalogds_words_and_names_what_is_served(world: World) -> None:
    world.catalog()
    async with world.running():
        await world.made()
        world.synced()
        await world.served()
    status = world.status()
    assert status["resolvedSource"] == {"type": "Image", "image": {"ref": f"cacheserver.dev/catalogs/hub@{ONE}"}}
    assert status["urls"] == {"base": "https://doors.cacheserver.svc/catalogs/hub.catalogs"}
    assert status["lastUnpacked"] == "2026-09-21T14:13:20Z"
    conditions = [(c["type"], c["status"], c["reason"], c["message"]) for c in status["conditions"]]
    assert conditions == [
        ("Progressing", "True", "Succeeded", "Successfully unpacked and stored content from resolved source"),
        ("Serving", "True", "Available", "Serving desired content from resolved source"),
    ]
    assert {c["observedGeneration"] for c in status["conditions"]} == {1}
    metadata = world.metadata("hub")
    assert metadata["labels"][LABEL] == "hub"
    assert metadata["annotations"][IMAGE_DIGEST] == "sha256:image"


async def test_content_that_changes_under_one_image_is_another_reference(world: World) -> None:
    world.catalog()
    async with world.running():
        await world.made()
        world.synced(revision=ONE)
        await world.served(revision=ONE)
        world.contents.serve("hub", TWO, CHANGED + 1)
        await world.served(revision=TWO)
    assert world.status()["lastUnpacked"] == "2026-09-21T14:13:21Z"


async def test_content_is_named_when_every_replica_has_had_time_to_hear_of_it(world: World) -> None:
    """Clients keep what they get by the name, from whichever replica answers."""
    world.catalog()
    async with world.running(settle_s=3600):
        await world.made()
        world.synced(revision=ONE)
        await asyncio.wait_for(_settled(world), 10)
        assert "resolvedSource" not in world.status()
    async with world.running(settle_s=0.01):
        await world.served()
        world.contents.serve("hub", TWO)
        await world.served(revision=TWO)


async def test_a_look_that_fails_takes_nothing_from_what_is_served(world: World) -> None:
    world.catalog()
    async with world.running():
        await world.made()
        world.synced()
        await world.served()
        world.synced(revision=None, ready="False", why="NetworkError")
        await world.until(lambda: world.says("Progressing")[1] == "Retrying")
        assert world.says("Progressing") == (
            "True",
            "Retrying",
            "source catalog content: NetworkError: words on NetworkError",
        )
        assert world.says("Serving")[:2] == ("True", "Available")
        assert "urls" in world.status()
        world.synced(revision=None, ready="False", why="SourceInvalid", stalled="True")
        await world.until(lambda: world.says("Progressing")[:2] == ("False", "Blocked"))
        world.synced(revision=None)
        await world.until(lambda: world.says("Progressing")[:2] == ("True", "Succeeded"))


async def test_unavailable_takes_it_out_and_available_brings_it_back(world: World) -> None:
    world.catalog()
    async with world.running():
        await world.made()
        world.synced()
        await world.served()
        world.catalog(mode="Unavailable")
        await world.until(lambda: world.says("Serving")[1] == "UserSpecifiedUnavailable")
        status = world.status()
        assert not status.keys() & {"urls", "resolvedSource", "lastUnpacked"}
        words = "Catalog availability mode is set to Unavailable"
        assert world.says("Serving") == ("False", "UserSpecifiedUnavailable", words)
        assert world.says("Progressing") == ("True", "Succeeded", words)
        assert {c["observedGeneration"] for c in status["conditions"]} == {2}
        await world.until(lambda: world.repository()["spec"]["suspend"] is True)
        assert world.repository()["spec"]["publish"] == []
        world.catalog()
        await world.until(lambda: world.repository()["spec"]["publish"] == ["Catalog"])
        assert world.repository()["spec"]["suspend"] is False
        world.synced()
        await world.served()


async def test_what_users_set_on_its_repository_stays(world: World) -> None:
    world.catalog()
    async with world.running():
        found = await world.made()
        found["spec"] |= {"secretRef": {"name": "pull"}, "validation": "Strict", "publish": ["Registry", "Catalog"]}
        found["spec"]["source"]["oci"]["insecure"] = True
        world.kube.put(f"{REPOSITORIES}/hub", found)
        world.catalog(ref="quay.io/other/catalog:v2")
        await world.until(lambda: world.repository()["spec"]["source"]["oci"]["image"] == "quay.io/other/catalog:v2")
    spec = world.repository()["spec"]
    assert (spec["secretRef"], spec["validation"]) == ({"name": "pull"}, "Strict")
    assert spec["publish"] == ["Registry", "Catalog"]
    assert spec["source"]["oci"]["insecure"] is True


async def test_its_repository_goes_with_it_and_is_made_again_when_it_was_deleted_alone(world: World) -> None:
    world.catalog()
    async with world.running():
        await world.made()
        world.kube.remove(f"{REPOSITORIES}/hub")
        await world.made()
        world.kube.remove(f"{PATH}/hub")
        await world.until(lambda: not world.repository())


async def test_a_repository_that_somebody_else_made_is_left_alone(world: World) -> None:
    theirs = {"metadata": {"annotations": {}}, "spec": {"source": {"oci": {"image": "r.example/mine:v1"}}}}
    before = world.kube.put(f"{REPOSITORIES}/hub", theirs)
    world.contents.serve("hub", ONE)
    world.catalog()
    async with world.running():
        await world.until(lambda: world.says("Progressing")[1] == "Blocked")
        assert "was made by somebody else" in world.says("Progressing")[2]
        assert "resolvedSource" not in world.status()
        assert world.repository() == before
        world.kube.remove(f"{PATH}/hub")
        await asyncio.wait_for(_settled(world), 10)
        assert world.repository() == before
        # Its user makes room.
        world.catalog()
        world.kube.remove(f"{REPOSITORIES}/hub")
        assert (await world.made())["metadata"]["annotations"] == {MADE_OF: "hub"}


async def _settled(world: World) -> None:
    """Another ClusterCatalog, that came later, is done."""
    world.catalog("later")
    await world.made("later")


@pytest.mark.parametrize(
    ("name", "ref", "why"),
    [
        ("a.b", IMAGE, "not a repository name"),
        ("a" * 64, IMAGE, "not a repository name"),
        ("hub", "nothing", "is not an image"),
        ("hub", f"quay.io/a/b@sha512:{'0' * 128}", "is not an image"),
        ("hub", "https://quay.io/a/b:v1", "without a scheme"),
        ("hub", "u:p@quay.io/a/b:v1", "holds a user or password"),
        ("hub", "quay.io/a/b:v1\nReady", "is not an image"),
    ],
)
async def test_what_cannot_be_read_is_said_and_nothing_is_made(world: World, name: str, ref: str, why: str) -> None:
    world.catalog(name, ref)
    async with world.running():
        await world.until(lambda: world.says("Progressing", name)[1] == "Blocked")
        await asyncio.wait_for(_settled(world), 10)
    assert why in world.says("Progressing", name)[2]
    assert "\n" not in world.says("Progressing", name)[2]
    assert world.says("Serving", name)[:2] == ("False", "Unavailable")
    assert not world.repository(name)


async def test_a_source_of_another_kind_is_refused(world: World) -> None:
    world.kube.put(f"{PATH}/hub", {"metadata": {}, "spec": {"source": {"type": "Git", "git": {"url": "x"}}}})
    async with world.running():
        await world.until(lambda: world.says("Progressing")[1] == "Blocked")
    assert "'Git'" in world.says("Progressing")[2]


async def test_an_odd_object_stops_no_other(world: World) -> None:
    world.kube.put(f"{PATH}/odd", {"metadata": {}, "spec": {"source": ["no", "mapping"]}, "status": {"conditions": 7}})
    world.catalog()
    async with world.running():
        await world.made()
        world.synced()
        await world.served()


async def test_one_made_anew_during_a_sync_shows_nothing_of_the_one_before(world: World) -> None:
    world.catalog(ref="quay.io/old/catalog:v1")
    async with world.running():
        await world.made()
        world.synced(revision=ONE)
        await world.served(revision=ONE)
        world.kube.hang()  # nobody of us sees that it went
        world.kube.remove(f"{PATH}/hub")
        anew = world.catalog(ref="quay.io/new/catalog:v1")
        world.kube.let_go()
        await world.until(lambda: world.repository()["spec"]["source"]["oci"]["image"] == "quay.io/new/catalog:v1")
        [owner] = world.repository()["metadata"]["ownerReferences"]
        assert owner["uid"] == anew["metadata"]["uid"]
        assert "resolvedSource" not in world.status()
        world.synced(revision=TWO)
        await world.served(revision=TWO)


async def test_only_the_replica_that_leads_writes(world: World) -> None:
    world.leader = 2
    world.catalog()
    async with world.running(0), world.running(1):
        await world.until(lambda: metrics.clustercatalogs.value == 1)  # known by all of them
        assert world.writes() == 0
        world.leader = 1
        await world.made()
        world.synced()
        await world.served()
        writes = world.writes()
        world.leader = 0
        world.contents.serve("hub", TWO)
        await world.served(revision=TWO)
        assert world.writes() == writes + 1
    assert world.kube.calls[f"POST {REPOSITORIES}"] == 1


async def test_one_that_was_paused_past_its_lead_overwrites_nothing(world: World) -> None:
    """Both believe that they lead: each write is onto the version that was seen."""
    world.catalog()
    async with world.running(), world.running():
        await world.made()
        world.synced()
        await world.served()
        await world.until(lambda: world.metadata("hub").get("annotations", {}).get(IMAGE_DIGEST))
        assert world.kube.calls[f"POST {REPOSITORIES}"] <= 2
    assert world.repository()["spec"]["publish"] == ["Catalog"]


async def test_beside_a_catalogd_nothing_is_written_until_it_goes(world: World) -> None:
    world.catalogd(ready=1)
    world.catalog()
    async with world.running() as controller:
        await world.until(lambda: metrics.clustercatalogs_catalogd.value == 1)
        await world.until(lambda: world.kube.calls[f"WATCH {PATH}"])
        assert not controller.acts
        assert world.writes() == 0
        world.catalogd(ready=0)
        await world.made()
        assert metrics.clustercatalogs_catalogd.value == 0


async def test_a_catalogd_that_comes_is_left_everything_at_once(world: World) -> None:
    world.catalog()
    async with world.running() as controller:
        await world.made()
        world.synced()
        await world.served()
        world.catalogd(ready=2)
        await world.until(lambda: not controller.acts)
        writes, before = world.writes(), world.status()
        world.contents.serve("hub", TWO)
        world.catalog("more")
        foreign = {"conditions": [], "urls": {"base": "https://catalogd-service.olmv1-system.svc/catalogs/hub"}}
        world.kube.put(f"{PATH}/hub", {**world.kube.get(f"{PATH}/hub"), "status": foreign})
        await world.until(lambda: world.kube.calls[f"WATCH {PATH}"])
        assert world.writes() == writes
        assert world.status() == foreign
        world.kube.remove(CATALOGD)
        await world.served(revision=TWO)
        await world.made("more")
    assert world.status()["urls"] == before["urls"]


async def test_where_nobody_says_whether_there_is_a_catalogd_nothing_is_done(world: World) -> None:
    world.kube.deny("/apis/apps/v1/deployments")
    world.catalog()
    async with world.running() as controller:
        await world.until(lambda: world.kube.calls["GET /apis/apps/v1/deployments"] > 1)
        assert not controller.acts
        assert world.writes() == 0
        world.kube.deny("/apis/apps/v1/deployments", 0)
        await world.made()


async def test_before_it_is_known_what_is_served_nothing_is_taken_back(world: World) -> None:
    world.catalog()
    async with world.running():
        await world.made()
        world.synced()
        await world.served()
    world.contents.forget()
    before = world.status()
    async with world.running():  # after a restart, with etcd away
        await asyncio.wait_for(_settled(world), 10)
        assert world.status() == before
        world.contents.serve("hub", None)
        world.contents.know()
        await world.until(lambda: world.says("Serving")[:2] == ("False", "Unavailable"))
    assert "urls" not in world.status()


async def test_a_status_that_somebody_else_writes_is_put_right_ever_later(world: World) -> None:
    world.catalog()
    undone = metrics.clustercatalog_contested.value
    async with world.running():
        await world.made()
        world.synced()
        await world.served()
        foreign = {"conditions": [], "urls": {"base": "https://elsewhere"}}
        for _ in range(3):
            world.kube.put(f"{PATH}/hub", {**world.kube.get(f"{PATH}/hub"), "status": foreign})
            await world.served()
        # At least once: of what is overwritten before our own write is answered there is one pause for both.
        assert undone < metrics.clustercatalog_contested.value <= undone + 3
        assert world.status()["urls"]["base"].startswith("https://doors.")


async def test_one_that_catalogd_left_can_be_deleted(world: World) -> None:
    world.catalog()
    async with world.running():
        await world.made()
        held = world.kube.get(f"{PATH}/hub")
        held["metadata"]["finalizers"] = [CATALOGD_FINALIZER]
        world.kube.put(f"{PATH}/hub", held)
        await world.api.delete(f"{PATH}/hub")
        await world.until(lambda: not world.kube.objects(PATH))
        await world.until(lambda: not world.repository())


async def test_a_right_that_lacks_is_said_and_found_when_it_comes(world: World) -> None:
    world.kube.deny(REPOSITORIES.replace("/repositories", "/nothing"))
    world.catalog()
    async with world.running():
        await world.made()
        world.kube.deny(f"{PATH}/hub/status")
        world.synced()
        await world.until(lambda: world.kube.calls[f"PATCH {PATH}/hub/status"] > 2)
        world.kube.deny(f"{PATH}/hub/status", 0)
        await world.served()


class _WithoutNamespace(KubeAPI):
    """A list of what is in a namespace that is not there is empty; only a create is told."""

    async def create(self, path: str, body: dict[str, Any], query: Mapping[str, str] | None = None) -> dict[str, Any]:
        if path == REPOSITORIES:
            raise KubernetesError(f'namespaces "{NAMESPACE}" not found', code=404)
        return await super().create(path, body, query)


async def test_a_namespace_that_is_not_there_is_said(tmp_path: Path) -> None:
    async with KubeStandIn() as kube, _WithoutNamespace(kube.kubeconfig(tmp_path)) as api:
        world = World(kube, api)
        world.catalog()
        async with world.running():
            await world.until(lambda: world.says("Progressing")[:2] == ("True", "Retrying"))
    assert f'namespaces "{NAMESPACE}" not found' in world.says("Progressing")[2]


async def test_many_are_all_followed_by_few_calls_each(world: World) -> None:
    names = [f"c{at}" for at in range(MANY)]
    for name in names:
        world.catalog(name)
    async with world.running():
        await world.until(lambda: world.kube.calls[f"POST {REPOSITORIES}"] == MANY)
        for name in names:
            await world.made(name)
            world.synced(name)
        for name in names:
            await world.served(name)
        await world.until(lambda: IMAGE_DIGEST in world.metadata(names[-1]).get("annotations", {}))
    assert world.kube.calls[f"POST {REPOSITORIES}"] == MANY
    # The label, the Repository, a status that nothing is there yet, one that says what, and the image's digest.
    assert world.writes() <= 5 * MANY


async def test_an_answer_that_comes_behind_newer_news_is_not_believed(world: World) -> None:
    def shown(version: int, uid: str = "u") -> dict[str, Any]:
        return {"metadata": {"name": "hub", "uid": uid, "resourceVersion": str(version)}, "status": {"at": version}}

    async with world.running() as controller:
        maker, hub = controller._maker, RepositoryKey(NAMESPACE, "hub")
        maker._take("made_of", hub, shown(7))
        one = maker._ones[hub]

        def known() -> int:
            return 0 if one.made_of is None else one.made_of["status"]["at"]

        for late in (shown(6), shown(9, uid="another")):
            maker._answered("made_of", hub, one, late)
            assert known() == 7
        maker._answered("made_of", hub, one, shown(8))
        assert known() == 8
        maker._take("made_of", hub, shown(7))
        assert known() == 8
        maker._take("made_of", hub, None)
        maker._answered("made_of", hub, one, shown(10))
        assert known() == 0
