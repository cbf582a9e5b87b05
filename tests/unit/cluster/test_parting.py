"""A Repository that is written to stays until git has its drafts, and everybody else's does not wait for anything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cacheserver.cluster.events import Occurrence, Subject
from cacheserver.cluster.follow import Listed, follow
from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.cluster.parting import FINALIZER, Parting
from cacheserver.errors import Unavailable
from cacheserver.model import Key, Kind, RepositoryKey
from cacheserver.store.authored import Draft, Operation, Step
from tests.fakes.kube import KubeStandIn
from tests.support.waiting import eventually

COLLECTION = "/apis/config.cacheserver.dev/v1alpha1/repositories"
PATH = "/apis/config.cacheserver.dev/v1alpha1/namespaces/team/repositories/edge"
DRAFT = Key(Kind.REVISION, "team", "edge", "p", "w1")


@dataclass
class Authored:
    """What etcd has of drafts. away: it does not answer."""

    drafts: dict[Key, Draft] = field(default_factory=dict)
    operations: dict[Key, Operation] = field(default_factory=dict)
    away: bool = False
    asked: int = 0

    async def of_repository(self, _: RepositoryKey) -> tuple[dict[Key, Draft], dict[Key, Operation]]:
        self.asked += 1
        if self.away:
            raise Unavailable("etcd is away")
        return self.drafts, self.operations


@dataclass
class World:
    kube: KubeStandIn
    authored: Authored
    told: list[tuple[Subject, Occurrence]] = field(default_factory=list)
    leads: bool = True
    leads_asked: int = 0

    def is_leading(self) -> bool:
        self.leads_asked += 1
        return self.leads

    def record(self, subject: Subject, occurrence: Occurrence) -> None:
        self.told.append((subject, occurrence))

    def finalizers(self) -> list[str]:
        found: list[str] = self.kube.get(PATH)["metadata"].get("finalizers", [])
        return found

    def put(self, access: str = "ReadWrite", finalizers: tuple[str, ...] = ()) -> None:
        self.kube.put(PATH, {"metadata": {"finalizers": list(finalizers)}, "spec": {"access": access}})

    async def delete(self, api: KubeAPI) -> None:
        await api.delete(PATH)

    @property
    def there(self) -> bool:
        return bool(self.kube.objects(COLLECTION))


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[tuple[World, KubeAPI]]:
    """With somebody who tells of Repositories as the controller does."""
    async with KubeStandIn() as kube, KubeAPI(kube.kubeconfig(tmp_path)) as api:
        world = World(kube, Authored())
        parting = Parting(api, world.authored, world, world.is_leading, look_s=0.02)  # type: ignore[arg-type]

        async def tell() -> None:
            def saw(manifest: Mapping[str, Any]) -> None:
                writable = manifest["spec"]["access"] == "ReadWrite"
                parting.saw(RepositoryKey("team", "edge"), manifest, writable=writable)

            async for new in follow(api, COLLECTION, first_pause_s=0.02):
                if isinstance(new, Listed):
                    for each in new.objects:
                        saw(each)
                elif new.deleted:
                    parting.gone(RepositoryKey("team", "edge"))
                else:
                    saw(new.object)

        tasks = [asyncio.create_task(parting.run()), asyncio.create_task(tell())]
        try:
            yield world, api
        finally:
            for task in tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks)


Running = tuple[World, KubeAPI]


def draft(unpushed_ms: int) -> Draft:
    return Draft("n", "p", "", unpushed_ms=unpushed_ms)


async def test_only_what_is_written_to_is_held(running: Running) -> None:
    world, _ = running
    world.put(finalizers=("others/own",))
    await eventually(lambda: world.finalizers() == ["others/own", FINALIZER])
    world.put("ReadOnly", tuple(world.finalizers()))
    await eventually(lambda: world.finalizers() == ["others/own"])


async def test_it_goes_when_git_has_its_drafts_and_not_before(running: Running) -> None:
    world, api = running
    world.authored.drafts[DRAFT] = draft(1)
    world.put()
    await eventually(lambda: world.finalizers() == [FINALIZER])
    await world.delete(api)
    await eventually(lambda: bool(world.told))
    [(subject, occurrence)] = world.told
    assert (subject.kind, occurrence.reason) == ("Repository", "DraftsNotPushed")
    assert "1 drafts are not in git yet, edge.p.w1 among them" in occurrence.message
    looks = world.authored.asked
    await eventually(lambda: world.authored.asked > looks + 3)
    assert world.there
    assert len(world.told) == 1, "once, not at each look"
    world.authored.drafts[DRAFT] = draft(0)
    await eventually(lambda: not world.there)


async def test_what_is_asked_of_git_is_waited_for(running: Running) -> None:
    world, api = running
    world.authored.drafts[DRAFT] = draft(0)
    world.authored.operations[DRAFT] = Operation("1", Step.APPROVE, "ada", "")
    world.put()
    await eventually(lambda: world.finalizers() == [FINALIZER])
    await world.delete(api)
    await eventually(lambda: bool(world.told))
    assert world.there
    world.authored.operations.clear()
    await eventually(lambda: not world.there)


async def test_who_takes_the_finalizer_away_by_hand_is_obeyed(running: Running) -> None:
    world, api = running
    world.authored.drafts[DRAFT] = draft(1)
    world.put()
    await eventually(lambda: world.finalizers() == [FINALIZER])
    await world.delete(api)
    await eventually(lambda: bool(world.told))
    await api.patch(PATH, {"metadata": {"finalizers": None}})
    await eventually(lambda: not world.there)


async def test_an_etcd_that_is_away_lets_nothing_go(running: Running) -> None:
    world, api = running
    world.put()
    await eventually(lambda: world.finalizers() == [FINALIZER])
    world.authored.away = True
    await world.delete(api)
    await eventually(lambda: world.authored.asked > 3)
    assert world.there
    world.authored.away = False
    await eventually(lambda: not world.there)


async def test_a_replica_that_stands_by_changes_nothing(running: Running) -> None:
    world, _ = running
    world.leads = False
    world.put()
    await eventually(lambda: world.leads_asked > 3)
    assert world.kube.calls[f"PATCH {PATH}"] == 0
    world.leads = True
    await eventually(lambda: world.finalizers() == [FINALIZER])


@pytest.mark.parametrize("code", [404, 409])
async def test_a_finalizer_is_said_to_be_set_when_it_was(
    running: Running, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    world, _ = running
    with caplog.at_level("INFO"):
        world.kube.deny(PATH, code)
        world.put(finalizers=("others/own",))
        asked = world.leads_asked
        await eventually(lambda: world.leads_asked > asked + 3)
        assert [each.getMessage() for each in caplog.records if each.getMessage() == "finalizer"] == []
