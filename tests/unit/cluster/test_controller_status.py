"""Status and Events in the cluster's own objects: what ingestion says arrives, whoever else writes, whoever is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from cacheserver.cluster.events import WAITING, Events, EventType, Occurrence, Subject, occurrences
from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.cluster.status import ClusterStatusStore
from cacheserver.config import OCISource, RepositoryConfig
from cacheserver.errors import Unavailable
from cacheserver.model import Key, Kind, Record, RepositoryKey, Stored
from cacheserver.store.claims import Claim
from tests.fakes.kube import KubeStandIn
from tests.support.waiting import eventually

pytestmark = pytest.mark.processes

KEY = RepositoryKey("team", "a")
PATH = "/apis/config.cacheserver.dev/v1alpha1/namespaces/team/repositories/a"
EVENTS = "/api/v1/namespaces/team/events"
CONFIG = RepositoryConfig(KEY, OCISource("registry.example.com/a:v1"), generation=1)
CLAIM = Claim("team/a", b"claim/team/a", 5)
SPEC = {"source": {"oci": {"image": "registry.example.com/a:v1"}}}

Conditions = dict[str, tuple[str, str]]


def status(reason: str = "Synced", *, message: str = "", degraded: str = "", **facts: Any) -> dict[str, Any]:
    """A status as ingestion writes it: Ready with this reason, Degraded where one is given."""
    good = reason in ("Synced", "Suspended")
    says = [("Ready", good, reason, message or f"about {reason}")]
    says += [("Degraded", bool(degraded), degraded or "AllAccepted", f"about {degraded}")]
    return {
        "observedGeneration": 1,
        "conditions": [
            {
                "type": name,
                "status": str(yes),
                "reason": why,
                "message": text,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
            for name, yes, why, text in says
        ],
        **facts,
    }


def record(said: dict[str, Any], key: RepositoryKey = KEY) -> Record:
    return Record(Key(Kind.REPOSITORY, key.namespace, key.name), {}, b"{}", orjson.dumps(said))


def said_in(stored: Stored | None) -> Any:
    assert stored is not None
    return orjson.loads(stored.value)["status"]


@dataclass
class Claims:
    """Which claims stand, as etcd would say it. left: how often one is still said to stand."""

    lost: set[Claim] = field(default_factory=set)
    left: int | None = None
    etcd_is_away: bool = False
    asked: int = 0

    async def hold(self, claim: Claim) -> bool:
        self.asked += 1
        if self.etcd_is_away:
            raise Unavailable("etcd is away")
        return claim not in self.lost and (self.left is None or self.asked <= self.left)


@dataclass
class World:
    kube: KubeStandIn
    book: ClusterStatusStore
    events: Events
    claims: Claims
    stack: contextlib.AsyncExitStack

    async def run(self) -> None:
        task = asyncio.create_task(self.book.run(), name="book")

        async def stop() -> None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        self.stack.push_async_callback(stop)

    def create(self, name: str = "a", **more: Any) -> RepositoryKey:
        """A Repository that the book has seen."""
        key = RepositoryKey("team", name)
        self.book.saw(key, self.kube.put(PATH[:-1] + name, {"spec": SPEC, **more}))
        return key

    async def say(self, said: dict[str, Any], key: RepositoryKey = KEY, claim: Claim = CLAIM) -> Stored | None:
        return await self.book.write(claim, record(said, key), None)

    async def barrier(self) -> None:
        """Until everything that was said before is dealt with: the book goes in order."""
        self.claims.left = None
        said = status(packages=self.claims.asked)
        key = self.create("barrier")
        await self.say(said, key)
        await eventually(lambda: self.shown("barrier") == said)

    def shown(self, name: str = "a") -> Any:
        return self.kube.get(PATH[:-1] + name).get("status")

    def told(self) -> list[tuple[str, str, int]]:
        return [(found["type"], found["reason"], found["count"]) for found in self.kube.objects(EVENTS)]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as outer:
        kube = await outer.enter_async_context(KubeStandIn())
        api = await outer.enter_async_context(KubeAPI(kube.kubeconfig(tmp_path)))
        stack = await outer.enter_async_context(contextlib.AsyncExitStack())
        events, claims = Events(api), Claims()
        yield World(kube, ClusterStatusStore(api, claims.hold, events), events, claims, stack)


# --- status -----------------------------------------------------------------------------------------------------------


async def test_what_is_said_can_be_read_at_once_and_arrives_beside_the_users_spec(world: World) -> None:
    world.create()
    said = status(digest="sha256:1", packages=2)
    assert said_in(await world.say(said)) == said
    assert said_in(await world.book.read(CONFIG)) == said
    assert world.shown() is None
    await world.run()
    await eventually(lambda: world.shown() == said)
    assert world.kube.get(PATH)["spec"] == SPEC


async def test_a_repository_without_status_reads_as_an_empty_one(world: World) -> None:
    world.create()
    assert said_in(await world.book.read(CONFIG)) == {}


async def test_conditions_of_another_form_are_left_out(world: World) -> None:
    world.create(status={"conditions": [{"type": "Ready", "status": "True"}, *status()["conditions"]]})
    assert said_in(await world.book.read(CONFIG))["conditions"] == status()["conditions"]


async def test_its_own_echo_is_written_no_second_time(world: World) -> None:
    world.create()
    await world.run()
    await world.say(status())
    await eventually(lambda: world.shown() == status())
    for _ in range(3):
        world.book.saw(KEY, world.kube.get(PATH))
    await asyncio.sleep(0)
    assert world.kube.calls[f"PATCH {PATH}/status"] == 1


async def test_a_change_by_somebody_else_is_no_obstacle_and_stays(world: World) -> None:
    world.create()
    world.kube.put(PATH, {"spec": {**SPEC, "suspend": True}})  # the book has not seen this
    await world.run()
    await world.say(status())
    await eventually(lambda: world.shown() == status())
    assert world.kube.get(PATH)["spec"]["suspend"] is True
    assert world.kube.calls[f"PATCH {PATH}/status"] == 2


async def test_older_news_does_not_undo_what_is_known(world: World) -> None:
    world.create()
    old = world.kube.get(PATH)
    await world.run()
    await world.say(status())
    await eventually(lambda: world.shown() == status())
    world.book.saw(KEY, old)
    assert said_in(await world.book.read(CONFIG)) == status()


async def test_what_a_status_no_longer_has_goes_from_the_object(world: World) -> None:
    world.create(status=status(lastHandledReconcileAt="yesterday"))
    await world.run()
    await world.say(status())
    await eventually(lambda: world.shown() == status())


async def test_while_the_host_api_is_away_nobody_waits_and_the_last_word_arrives(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.create()
    world.kube.refuse(503)
    await world.run()
    with caplog.at_level(logging.INFO):
        for n in range(5):
            async with asyncio.timeout(0.1):
                await world.say(status(packages=n))
        await eventually(lambda: world.kube.calls[f"PATCH {PATH}/status"] >= 2)
        world.kube.refuse(0)
        await eventually(lambda: world.shown() == status(packages=4))
    messages = [entry.message for entry in caplog.records if entry.name == "cacheserver.cluster.status"]
    assert messages == ["status waits to be written", "status waits no longer"]


async def test_while_etcd_is_away_nobody_knows_who_may_write_so_nobody_does(world: World) -> None:
    world.create()
    world.claims.etcd_is_away = True
    await world.run()
    await world.say(status())
    await eventually(lambda: world.claims.asked > 1)
    assert world.shown() is None
    world.claims.etcd_is_away = False
    await eventually(lambda: world.shown() == status())


async def test_what_was_said_under_a_lost_claim_is_not_written(world: World) -> None:
    other = world.create("b")
    world.create()
    world.claims.lost = {CLAIM}
    await world.run()
    await world.say(status())
    await world.say(status(), other, Claim("team/b", b"claim/team/b", 6))
    await eventually(lambda: world.shown("b") == status())
    assert world.shown() is None
    assert said_in(await world.book.read(CONFIG)) == {}


async def test_a_claim_that_is_lost_during_a_conflict_writes_nothing(world: World) -> None:
    world.create()
    theirs = status("Suspended")
    world.kube.put(PATH, {"spec": SPEC, "status": theirs})  # another process leads meanwhile
    world.claims.left = 1
    await world.run()
    await world.say(status())
    await eventually(lambda: world.claims.asked == 2)
    await world.barrier()
    assert world.shown() == theirs
    assert said_in(await world.book.read(CONFIG)) == theirs


async def test_a_deleted_repository_is_told_nothing_nor_is_one_made_anew(world: World) -> None:
    world.create()
    await world.say(status())
    world.kube.remove(PATH)
    world.kube.put(PATH, {"spec": SPEC})  # another one, of the same name, that the book has not seen
    await world.run()
    await eventually(lambda: world.kube.calls[f"GET {PATH}"] == 1)
    await world.barrier()
    assert world.shown() is None
    world.book.gone(KEY)
    assert await world.book.read(CONFIG) is None
    assert await world.say(status()) is None


async def test_an_answer_that_comes_after_the_deletion_brings_nothing_back(world: World) -> None:
    world.create()
    world.kube.hang()
    await world.run()
    await world.say(status())
    await eventually(lambda: world.kube.calls[f"PATCH {PATH}/status"] == 1)
    world.book.gone(KEY)
    world.kube.let_go()
    await world.barrier()
    assert world.shown() == status()
    assert await world.book.read(CONFIG) is None


async def test_one_that_is_refused_stops_no_other_and_is_told_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.create()
    other = world.create("b")
    world.kube.deny(PATH, 422)
    await world.run()

    async def dealt_with(n: int) -> None:  # several are written at a time, in whatever order they end
        await eventually(
            lambda: world.shown("b") == status(packages=n) and world.kube.calls[f"PATCH {PATH}/status"] > n
        )

    with caplog.at_level(logging.INFO):
        for n in range(3):
            await world.say(status(packages=n))
            await world.say(status(packages=n), other)
            await dealt_with(n)
    assert [entry.message for entry in caplog.records].count("status is not taken") == 1
    assert world.kube.calls[f"PATCH {PATH}/status"] == 3


async def test_one_that_keeps_failing_does_not_hold_up_a_hundred_others(world: World) -> None:
    keys = [world.create(f"r{n}") for n in range(100)]
    for n in range(8):
        world.kube.deny(f"{PATH[:-1]}r{n}", 500)
    for each in keys:
        await world.say(status(), each)
    await world.run()
    await eventually(lambda: all(world.shown(f"r{n}") == status() for n in range(8, 100)))


# --- events -----------------------------------------------------------------------------------------------------------

SYNCED = status(digest="1", packages=1, revisions=2)
FAILED = status("NetworkError")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({}, status("Syncing"), []),
        ({}, SYNCED, [("Normal", "Synced")]),
        (status("Syncing"), SYNCED, [("Normal", "Synced")]),
        (SYNCED, SYNCED, []),
        (SYNCED, status(digest="2", packages=1, revisions=2), [("Normal", "Synced")]),
        (SYNCED, FAILED, [("Warning", "SyncFailed")]),
        (FAILED, FAILED, []),
        (FAILED, status("NetworkError", message="in other words"), []),
        (FAILED, status("AuthenticationFailed"), [("Warning", "SyncFailed")]),
        (FAILED, SYNCED, [("Normal", "Synced")]),
        (SYNCED, status("Suspended", digest="1", packages=1, revisions=2), []),
        (
            SYNCED,
            status(degraded="PackagesRejected", digest="1", packages=1, revisions=2),
            [("Warning", "PackagesRejected")],
        ),
    ],
)
def test_events_tell_transitions_only(
    before: dict[str, Any], after: dict[str, Any], told: list[tuple[str, str]]
) -> None:
    assert [(str(found.type), found.reason) for found in occurrences(before, after)] == told


async def test_an_event_names_the_repository_and_the_reason(world: World) -> None:
    world.create()
    await world.run()
    await world.say(status("SecretNotFound", message="there is no Secret s"))
    await eventually(lambda: world.told() == [("Warning", "SyncFailed", 1)])
    [event] = world.kube.objects(EVENTS)
    assert event["message"] == "SecretNotFound: there is no Secret s"
    about = event["involvedObject"]
    repository = world.kube.get(PATH)
    assert (about["kind"], about["name"], about["uid"]) == ("Repository", "a", repository["metadata"]["uid"])


async def test_the_same_again_is_counted_up_and_not_told_anew(world: World) -> None:
    world.create()
    await world.run()
    for _ in range(3):
        await world.say(FAILED)
        await world.say(SYNCED)
    await eventually(lambda: sorted(world.told()) == [("Normal", "Synced", 3), ("Warning", "SyncFailed", 3)])


async def test_an_event_that_the_host_api_forgot_is_told_anew(world: World) -> None:
    world.create()
    await world.run()
    await world.say(FAILED)
    await eventually(lambda: world.told() == [("Warning", "SyncFailed", 1)])
    world.kube.remove(f"{EVENTS}/{world.kube.objects(EVENTS)[0]['metadata']['name']}")
    await world.say(SYNCED)
    await world.say(FAILED)
    await eventually(lambda: ("Warning", "SyncFailed", 1) in world.told())


async def test_events_that_are_not_taken_hold_nothing_up(world: World) -> None:
    world.kube.deny(EVENTS, 403)
    world.create()
    await world.run()
    await world.say(FAILED)
    await eventually(lambda: world.shown() == FAILED)
    world.kube.deny(EVENTS, 0)
    await world.say(SYNCED)
    await eventually(lambda: world.told() == [("Normal", "Synced", 1)])


async def test_no_more_events_wait_than_there_is_room_for(world: World) -> None:
    for n in range(WAITING + 50):
        world.events.record(Subject("team", "a", "u", "1"), Occurrence(EventType.NORMAL, "Synced", str(n)))
    await world.run()
    await eventually(lambda: len(world.told()) == WAITING)
    messages = {found["message"] for found in world.kube.objects(EVENTS)}
    assert messages == {str(n) for n in range(50, WAITING + 50)}
