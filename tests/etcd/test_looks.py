"""The looks of a repository as its status tells them: before the first, one that was asked for, one that finds nothing.

Real etcd and worker processes; sources that answer as the test says.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from cacheserver.config import Door
from cacheserver.errors import SourceInvalidError
from cacheserver.ingest.sync import ASKS_AT_ONCE
from cacheserver.model import ANNOTATION_ALLOW_EMPTY, ANNOTATION_REQUESTED, Key, Kind
from tests.etcd.test_life import NotedPace, files, world
from tests.fakes.source import FakeSource
from tests.support.krm import kptfile
from tests.support.waiting import eventually
from tests.support.world import World, running

__all__ = ["world"]
pytestmark = pytest.mark.etcd

TEMPLATE = b'{"schema": "olm.template.basic", "entries": []}'


async def _answered(world: World, wish: str) -> bool:
    return (await world.status()).get("lastHandledReconcileAt") == wish


async def test_every_repository_is_listed_before_its_source_answers(world: World) -> None:
    ingest, names = world.ingest(), [f"silent{at}" for at in range(ASKS_AT_ONCE + 4)]
    for name in names:
        silent = FakeSource({})
        silent.hangs = True
        ingest.put(world.config(name), lambda silent=silent: silent)  # type: ignore[misc]  # bound at once
    async with running(ingest):
        for name in names:
            await eventually(lambda name=name: world.says("Waiting", name))  # type: ignore[misc]  # bound at once
    state, _, message = await world.condition(name=names[-1])
    assert state == "Unknown"
    assert "has not answered yet" in message


async def test_a_repository_that_was_read_before_is_not_said_to_wait(world: World) -> None:
    source = FakeSource(files("1.0.0"))
    for hangs in (False, True):
        source.hangs = hangs
        ingest = world.ingest()
        ingest.put(world.config(), lambda: source)
        asked = source.asked
        async with running(ingest):
            await eventually(lambda: source.asked > asked)  # noqa: B023  # awaited within the loop
            await eventually(lambda: world.says("Synced"))


async def test_a_requested_look_that_fails_is_answered_too(world: World) -> None:
    source, ingest = FakeSource(files("1.0.0")), world.ingest(NotedPace())
    source.error = SourceInvalidError("refused")
    ingest.put(world.config(annotations={ANNOTATION_REQUESTED: "now"}), lambda: source)
    async with running(ingest):
        await eventually(lambda: _answered(world, "now"))
        assert await world.says("SourceInvalid")


class Gated(FakeSource):
    """Each question waits until it may be answered."""

    def __init__(self) -> None:
        super().__init__(files("1.0.0"))
        self.may_answer = asyncio.Semaphore(0)
        self.waits = asyncio.Event()

    async def probe(self) -> str:
        self.waits.set()
        await self.may_answer.acquire()
        return await super().probe()


async def test_a_look_answers_no_wish_that_came_after_it_began(world: World) -> None:
    source, ingest = Gated(), world.ingest()
    ingest.put(world.config(annotations={ANNOTATION_REQUESTED: "first"}), lambda: source)
    async with running(ingest):
        await source.waits.wait()
        ingest.put(world.config(annotations={ANNOTATION_REQUESTED: "second"}), lambda: source)
        source.may_answer.release()
        await eventually(lambda: world.says("Synced"))
        assert await _answered(world, "first")
        source.may_answer.release()
        await eventually(lambda: _answered(world, "second"))


async def test_other_doors_count_at_once_and_nothing_is_read_again_for_them(world: World) -> None:
    source, ingest = FakeSource(files("1.0.0")), world.ingest()
    ingest.put(world.config(), lambda: source)
    async with running(ingest):
        await eventually(lambda: world.says("Synced"))
        fetched = source.fetched
        ingest.put(config := world.config(publish=frozenset({Door.CATALOG})), lambda: source)
        assert ingest.repositories[config.key].publish == {Door.CATALOG}

        async def shown() -> bool:
            stored = await world.store.read_object(Key(Kind.REPOSITORY, config.key.namespace, config.key.name))
            return stored is not None and orjson.loads(stored.value)["spec"].get("publish") == ["Catalog"]

        await eventually(shown)
        state, reason, message = await world.condition("Published")
        assert (state, reason) == ("True", "Published")
        assert message.startswith("behind Catalog: 1 package, as sha256:")
    assert source.fetched == fetched


async def test_packages_that_no_door_can_show_are_served_and_said_not_to_be_published(world: World) -> None:
    source, ingest = FakeSource({"pkg/Kptfile": kptfile(), "pkg/a.yaml": b"kind: A\n"}), world.ingest()
    ingest.put(world.config(publish=frozenset({Door.CATALOG, Door.REGISTRY})), lambda: source)
    async with running(ingest):
        await eventually(lambda: world.says("Synced"))
        state, reason, message = await world.condition("Published")
    assert (state, reason) == ("False", "NothingPublished")
    assert message.startswith("behind Catalog, Registry: nothing; no finished sync has left a file-based catalog")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, "there is no file at all"),
        ({"catalog.yaml": TEMPLATE}, "olm.template.basic: a template"),
        ({"docs/a.md": b"", "README": b""}, "there are 2 files, in: README, docs/"),
    ],
    ids=["empty", "template", "other"],
)
async def test_a_source_without_packages_is_not_ready_and_says_what_is_there(
    world: World, content: dict[str, bytes], told: str
) -> None:
    source, ingest = FakeSource(content), world.ingest()
    ingest.put(world.config(interval_s=0.01), lambda: source)
    async with running(ingest):
        await eventually(lambda: world.says("NoPackages"))
        state, _, message = await world.condition()
        assert (state, (await world.condition("Stalled"))[0]) == ("False", "True")
        assert told in message
        assert ANNOTATION_ALLOW_EMPTY in message
        asked = source.asked
        await eventually(lambda: source.asked > asked + 2)
        assert await world.says("NoPackages")
        source.files = files("1.0.0")
        await eventually(lambda: world.says("Synced"))


@pytest.mark.parametrize("how", [{"deployment": True}, {"allow_empty": True}], ids=["deployment", "allowed"])
async def test_a_repository_may_begin_empty_where_that_is_meant(world: World, how: dict[str, Any]) -> None:
    source, ingest = FakeSource({}), world.ingest()
    ingest.put(world.config(**how), lambda: source)
    async with running(ingest):
        await eventually(lambda: world.says("Synced"))
