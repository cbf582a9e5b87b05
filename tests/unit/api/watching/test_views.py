"""A watch of PackageRevisionResources, a view of package revisions: what its list shows, whenever that changed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
import pytest

from cacheserver.api.forms import OBJECT, TABLE
from cacheserver.api.kinds.contents import PACKAGE_REVISION_RESOURCES
from cacheserver.api.kinds.package import PACKAGE
from cacheserver.api.selectors import EVERYTHING
from cacheserver.api.views import Views
from cacheserver.cache.snapshot import Entry
from cacheserver.cache.view import View
from cacheserver.cache.watchcache import WatchCache
from cacheserver.cache.window import TAKE_BYTES
from cacheserver.model import Digest, Kind
from tests.fakes import api
from tests.fakes.api import METADATA, World, api_world
from tests.fakes.blobs import FakeBlobs
from tests.fakes.feed import PROJECTIONS, FakeFeed, running

PATH = "packagerevisionresources"
DRAFT: Mapping[str, bytes] = {"Kptfile": b"kind: Kptfile\n"}


class Revisions:
    """Package revisions of one package, written as ingest does."""

    def __init__(self, world: World) -> None:
        self._world = world

    def put(self, name: str, files: Mapping[str, bytes] = DRAFT, *, latest: bool = False, **status: object) -> int:
        digest = self._world.blobs.put_files(files)
        spec = {"repository": "r", "packageName": "app", "revision": name, "version": name, "lifecycle": "Draft"}
        return self._world.feed.put(
            "team",
            f"r.app.{name}",
            kind=Kind.REVISION,
            labels={"latest": "true"} if latest else {},
            spec=orjson.dumps(spec),
            status=orjson.dumps({**status, "content": {"digest": digest, "size": 1024, "files": len(files)}}),
        )

    def delete(self, name: str) -> int:
        return self._world.feed.delete("team", f"r.app.{name}", kind=Kind.REVISION)


@pytest.fixture
def revisions(world: World) -> Revisions:
    return Revisions(world)


def _brief(event: Any) -> tuple[str, str, int]:
    metadata = event["object"]["metadata"]
    return event["type"], metadata["name"], int(metadata["resourceVersion"])


async def test_each_event_has_what_the_list_shows_then(world: World, revisions: Revisions) -> None:
    since = world.feed.revision
    item: Any = None
    async with world.watch(PATH, resourceVersion=str(since)) as lines:
        for files in (DRAFT, {**DRAFT, "a/b.yaml": b"x: 1\n"}):
            revisions.put("v1", files)
            await world.settled()
            event = await lines.next()
            (item,) = (await world.get(PATH)).json["items"]
            assert event["object"] == item
            assert [file["path"] for file in item["status"]["files"]] == list(files)
        gone = revisions.delete("v1")
        assert await lines.next() == {
            "type": "DELETED",
            "object": {**item, "metadata": {**item["metadata"], "resourceVersion": str(gone)}},
        }


async def test_a_change_of_a_revision_that_the_list_does_not_show_is_no_event(
    world: World, revisions: Revisions
) -> None:
    since = world.feed.revision
    async with (
        world.watch(PATH, resourceVersion=str(since)) as lines,
        world.watch(PATH, accept=api.TABLE, resourceVersion=str(since)) as rows,
    ):
        added = revisions.put("v1")
        revisions.put("v1", channels=[{"name": "stable", "head": True}])
        revisions.put("v1", deprecation={"message": "use v2"})
        labelled = revisions.put("v1", latest=True)
        assert [_brief(event) for event in await lines.take(2)] == [
            ("ADDED", "r.app.v1", added),
            ("MODIFIED", "r.app.v1", labelled),
        ]
        assert [event["type"] for event in await rows.take(2)] == ["ADDED", "MODIFIED"]


async def test_an_unseen_change_moves_a_bookmark_all_the_same(world: World, revisions: Revisions) -> None:
    revisions.put("v1")
    await world.settled()
    async with world.watch(
        PATH, sendInitialEvents="true", resourceVersionMatch="NotOlderThan", allowWatchBookmarks="true"
    ) as lines:
        assert [event["type"] for event in await lines.take(2)] == ["ADDED", "BOOKMARK"]
    unseen = revisions.put("v1", channels=[])
    await world.settled()
    async with world.watch(
        PATH, sendInitialEvents="true", resourceVersionMatch="NotOlderThan", allowWatchBookmarks="true"
    ) as lines:
        initial, bookmark = await lines.take(2)
        assert [file["path"] for file in initial["object"]["status"]["files"]] == ["Kptfile"]
        assert int(bookmark["object"]["metadata"]["resourceVersion"]) == unseen


async def test_selectors_and_their_transitions_are_those_of_the_revisions(world: World, revisions: Revisions) -> None:
    since = str(world.feed.revision)
    async with (
        world.watch(PATH, resourceVersion=since, labelSelector="latest") as latest,
        world.watch(PATH, resourceVersion=since, fieldSelector="spec.revision=v2") as second,
    ):
        one = revisions.put("v1", latest=True)
        two = revisions.put("v2")
        left = revisions.put("v1")
        came = revisions.put("v2", latest=True)
        assert [_brief(event) for event in await latest.take(3)] == [
            ("ADDED", "r.app.v1", one),
            ("DELETED", "r.app.v1", left),
            ("ADDED", "r.app.v2", came),
        ]
        assert [_brief(event) for event in await second.take(2)] == [
            ("ADDED", "r.app.v2", two),
            ("MODIFIED", "r.app.v2", came),
        ]


async def test_a_watch_resumes_behind_any_version_and_is_expired_before_the_window(
    world: World, revisions: Revisions
) -> None:
    versions = [revisions.put("v1", {"n": b"%d" % n}) for n in range(200)]
    await world.settled()
    async with world.watch(PATH, resourceVersion=str(versions[99])) as lines:
        assert [_brief(event)[2] for event in await lines.take(100)] == versions[100:]
    async with world.watch(PATH, resourceVersion="1") as lines:
        assert (await lines.next())["object"]["code"] == 410


async def test_metadata_and_rows_need_nothing_of_the_content(world: World, revisions: Revisions) -> None:
    since = str(world.feed.revision)
    world.blobs.away = True
    async with (
        world.watch(PATH, accept=METADATA, resourceVersion=since) as metadata,
        world.watch(PATH, accept=api.TABLE, resourceVersion=since) as rows,
    ):
        added = revisions.put("v1")
        event = await metadata.next()
        assert event["object"]["kind"] == "PartialObjectMetadata"
        assert _brief(event) == ("ADDED", "r.app.v1", added)
        (row,) = (await rows.next())["object"]["rows"]
        assert row["cells"][:5] == ["r.app.v1", "app", "v1", 1, "1.0Ki"]


async def test_while_content_cannot_be_read_watchers_wait_and_then_miss_nothing(
    world: World, revisions: Revisions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cacheserver.cache.view._AGAIN_S", 0.0)
    asked = 0
    head = world.blobs.head

    async def failing_at_first(digest: Digest) -> Any:
        nonlocal asked
        asked += 1
        world.blobs.away = asked < 20
        return await head(digest)

    monkeypatch.setattr(world.blobs, "head", failing_at_first)
    async with world.watch(PATH, resourceVersion=str(world.feed.revision)) as lines:
        versions = [revisions.put(f"v{n}") for n in range(5)]
        events = await lines.take(5)
    assert [_brief(event)[2] for event in events] == versions
    assert all(event["object"]["status"]["files"] for event in events)
    assert asked >= 20


# --- what it costs ---


@pytest.fixture
async def counted(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[World, list[str]]]:
    """A world, and the names of all objects made for the view so far."""
    made: list[str] = []
    declared = PACKAGE_REVISION_RESOURCES.view
    assert declared is not None
    make = declared.make

    def of(self: Views, *_: object) -> View:
        return views[0]

    async with api_world() as world:
        views = [View(lambda entry: made.append(entry.name[1]) or make(entry))]  # type: ignore[func-returns-value] # None
        monkeypatch.setattr(Views, "of", of)
        yield world, made


async def test_what_nobody_watches_is_not_made(counted: tuple[World, list[str]]) -> None:
    world, made = counted
    revisions = Revisions(world)
    for n in range(50):
        revisions.put(f"v{n}")
    await world.settled()
    assert made == []


async def test_many_watchers_share_what_is_made(counted: tuple[World, list[str]]) -> None:
    world, made = counted
    since = str(world.feed.revision)
    async with world.watch(PATH, resourceVersion=since) as one, world.watch(PATH, resourceVersion=since) as two:
        versions = [Revisions(world).put(f"v{n}") for n in range(50)]
        for lines in (one, two):
            assert [_brief(event)[2] for event in await lines.take(50)] == versions
    assert len(made) == 50


async def test_large_objects_are_taken_a_few_at_a_time_and_all_in_the_end() -> None:
    feed = FakeFeed()

    def large(entry: Entry) -> Entry:
        body = entry.body + b" " * 50_000
        return Entry(entry.name, entry.resource_version, body, 0, 0, entry.labels, entry.fields, entry.cells, 0)

    async with running(WatchCache(feed, PROJECTIONS)) as cache:
        watch = await cache.watch(
            Kind.REVISION, since=None, initial=None, namespace=None, selector=EVERYTHING, view=View(large)
        )
        versions = [feed.put("a", f"n{n}", kind=Kind.REVISION) for n in range(100)]
        got: list[int] = []
        while len(got) < len(versions):
            events = await watch.next(timeout_s=5)
            assert sum(event.size for event in events) <= TAKE_BYTES
            got += [event.resource_version for event in events]
            assert watch.position >= got[-1]
            assert watch.more == (len(got) < len(versions))
        assert got == versions


def test_a_view_is_one_a_kind_and_need_of_content() -> None:
    views = Views(FakeBlobs())
    rows = PACKAGE_REVISION_RESOURCES
    whole, table = views.of(rows, OBJECT), views.of(rows, next(iter(TABLE.values())))
    assert whole is views.of(rows, OBJECT)
    assert whole is not table


def test_a_stored_kind_has_none() -> None:
    assert Views(FakeBlobs()).of(PACKAGE, OBJECT) is None
