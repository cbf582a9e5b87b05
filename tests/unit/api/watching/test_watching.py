"""Watches as clients see them, in chunks and over WebSocket: beginnings, transitions, bookmarks, ends."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from cacheserver import metrics
from cacheserver.turns import Turns
from tests.fakes.api import METADATA, TABLE, Lines, World
from tests.support.waiting import eventually

WATCH_LIST = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
END = "k8s.io/initial-events-end"


def _seen(events: list[Any]) -> list[tuple[str, str]]:
    return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]


async def test_a_plain_watch_begins_with_what_is_there(six: World) -> None:
    async with six.watch("namespaces/other/packages") as lines:
        if isinstance(lines, Lines):
            assert lines.response.headers["Content-Type"] == "application/json"
            assert lines.response.headers["Transfer-Encoding"] == "chunked"
        assert _seen(await lines.take(2)) == [("ADDED", "s.e"), ("ADDED", "s.f")]
        six.package("g", namespace="other")
        assert _seen(await lines.take(1)) == [("ADDED", "r.g")]


async def test_what_many_watchers_begin_with_is_bounded_in_each_turn_of_the_loop(six: World) -> None:
    """A thousand who begin at once would else be a thousand pieces before anybody else has a turn."""

    class Counted(Turns):
        taken = 0

        def _next(self) -> None:
            self.taken += 1
            super()._next()

    shared = six.api._watches._shared
    turns = shared.alone = shared.beginnings.turns = Counted(1)
    async with AsyncExitStack() as stack:
        watches = [await stack.enter_async_context(six.watch()) for _ in range(20)]
        for lines in watches:
            assert len(await lines.take(6)) == 6
    assert turns.taken >= 2 * 20, "one before anything is framed, one for what was"


async def test_a_watch_list_ends_its_beginning_with_the_annotated_bookmark_at_once(six: World) -> None:
    async with six.watch(fieldSelector="metadata.name=r.a", **WATCH_LIST) as lines:
        added, bookmark = await lines.take(2)
    assert added["type"] == "ADDED"
    assert bookmark == {
        "type": "BOOKMARK",
        "object": {
            "kind": "Package",
            "apiVersion": "cacheserver.dev/v1alpha1",
            "metadata": {"resourceVersion": "16", "annotations": {END: "true"}},
        },
    }


async def test_a_watch_from_a_list_replays_nothing_and_misses_nothing(six: World) -> None:
    version = (await six.get("packages")).json["metadata"]["resourceVersion"]
    six.package("a", defaultChannel="beta")
    six.feed.delete("team", "r.b")
    await six.settled()
    async with six.watch(resourceVersion=version) as lines:
        events = await lines.take(2)
        assert _seen(events) == [("MODIFIED", "r.a"), ("DELETED", "r.b")]
        assert [event["object"]["metadata"]["resourceVersion"] for event in events] == ["17", "18"]


async def test_coming_to_match_is_added_ceasing_to_is_deleted_with_the_old_state(world: World) -> None:
    world.feed.put("team", "x", labels={"on": "0"})
    await world.settled()
    async with world.watch(resourceVersion="11", labelSelector="on=1") as lines:
        world.feed.put("team", "x", labels={"on": "1"})
        world.feed.put("team", "x", labels={"on": "2"})
        world.feed.delete("team", "x")
        world.feed.put("team", "y", labels={"on": "1"})
        added, deleted, other = await lines.take(3)
    assert (added["type"], added["object"]["metadata"]["labels"]) == ("ADDED", {"on": "1"})
    assert (deleted["type"], deleted["object"]["metadata"]["labels"]) == ("DELETED", {"on": "1"})
    assert deleted["object"]["metadata"]["resourceVersion"] == "13"
    assert other["object"]["metadata"]["name"] == "y"


async def test_many_watchers_of_the_same_see_the_same_in_order(six: World) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_take_from(six, 20)) for _ in range(20)]
        await eventually(lambda: six.watches == 20)
        for i in range(20):
            six.package("a", revisions=i)
            await asyncio.sleep(0)
    versions = {tuple(task.result()) for task in tasks}
    assert versions == {tuple(str(version) for version in range(17, 37))}


async def _take_from(world: World, count: int) -> list[str]:
    async with world.watch(resourceVersion="16") as lines:
        return [event["object"]["metadata"]["resourceVersion"] for event in await lines.take(count)]


async def test_a_version_before_the_window_is_told_in_the_stream_and_ends_it(six: World) -> None:
    async with six.watch(resourceVersion="1") as lines:
        error = await lines.next()
        assert (error["type"], error["object"]["code"], error["object"]["reason"]) == ("ERROR", 410, "Expired")
        assert error["object"]["message"].startswith("too old resource version: 1")
        with pytest.raises(EOFError):
            await lines.next()


async def test_a_watch_from_a_version_that_there_is_not_is_told_410_in_the_stream(
    six: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cacheserver.cache.freshness.READ_WAIT_S", 0.01)
    async with six.watch(resourceVersion="999999") as lines:
        event = await lines.next()
        assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
        with pytest.raises(EOFError):
            await lines.next()


async def test_a_watch_that_ends_before_a_version_is_known_to_be_none_ends_cleanly(six: World) -> None:
    """As kube's does, and within the wait that a read of such a version has there."""
    async with six.watch(resourceVersion="999999", timeoutSeconds="1") as lines:
        with pytest.raises(EOFError):
            await lines.next()


async def test_a_rebuilt_cache_tells_its_watchers_to_list_again(six: World) -> None:
    async with six.watch(resourceVersion="16") as lines:
        six.feed.replace_cluster()
        six.package("new")
        error = await lines.next()
        assert (error["type"], error["object"]["code"]) == ("ERROR", 410)


async def test_a_table_watch_sends_its_columns_once(six: World) -> None:
    async with six.watch("namespaces/other/packages", accept=TABLE, **WATCH_LIST) as lines:
        first, second, bookmark = await lines.take(3)
        six.package("e", namespace="other", repository="s", revisions=9)
        live = await lines.next()
    assert first["object"]["columnDefinitions"]
    for event in (second, bookmark, live):
        assert event["object"]["columnDefinitions"] is None
        assert len(event["object"]["rows"]) == 1
    assert bookmark["object"]["rows"][0]["object"]["metadata"]["annotations"] == {END: "true"}
    assert live["object"]["rows"][0]["cells"][0] == "s.e"


async def test_a_table_watch_of_nothing_yet_sends_columns_with_its_first_event(six: World) -> None:
    async with six.watch(accept=TABLE, resourceVersion="16") as lines:
        six.package("a", revisions=1)
        six.package("a", revisions=2)
        first, second = await lines.take(2)
    assert first["object"]["columnDefinitions"]
    assert second["object"]["columnDefinitions"] is None


async def test_a_metadata_watch_sends_metadata(six: World) -> None:
    async with six.watch(accept=METADATA, fieldSelector="metadata.name=r.a", **WATCH_LIST) as lines:
        added, bookmark = await lines.take(2)
    assert set(added["object"]) == {"kind", "apiVersion", "metadata"}
    assert bookmark["object"]["kind"] == "PartialObjectMetadata"
    assert bookmark["object"]["metadata"]["annotations"] == {END: "true"}


async def test_a_watch_from_now_replays_nothing(six: World) -> None:
    async with six.watch(sendInitialEvents="false", resourceVersionMatch="NotOlderThan") as lines:
        six.package("new")
        assert _seen([await lines.next()]) == [("ADDED", "r.new")]


async def test_timeout_seconds_end_a_watch_cleanly(six: World) -> None:
    begun = asyncio.get_running_loop().time()
    async with six.watch(resourceVersion="16", timeoutSeconds="1") as lines:
        with pytest.raises(EOFError):
            await lines.next()
    assert 0.9 < asyncio.get_running_loop().time() - begun < 2


@pytest.mark.parametrize(
    ("parameters", "status", "fields"),
    [
        ({"sendInitialEvents": "true"}, 422, ["resourceVersionMatch"]),
        ({"sendInitialEvents": "true", "resourceVersionMatch": "Exact"}, 422, ["resourceVersionMatch"] * 2),
        ({"resourceVersionMatch": "NotOlderThan", "resourceVersion": "5"}, 422, ["resourceVersionMatch"]),
        ({**WATCH_LIST, "continue": "abc"}, 422, ["resourceVersionMatch"]),
        ({"resourceVersion": "abc"}, 400, []),
        ({"timeoutSeconds": "abc"}, 400, []),
        ({"fieldSelector": "no.such=1"}, 400, []),
    ],
)
async def test_bad_watches_are_refused_before_the_stream(
    six: World, parameters: dict[str, str], status: int, fields: list[str]
) -> None:
    answer = await six.asked_to_watch(query=parameters)
    assert answer.status == status
    assert [cause["field"] for cause in answer.json.get("details", {}).get("causes", [])] == fields


async def test_there_is_no_yaml_stream(six: World) -> None:
    assert (await six.asked_to_watch(accept="application/yaml")).status == 406


async def test_a_watcher_that_leaves_is_forgotten(six: World) -> None:
    counted = metrics.watchers.labels("packages")
    async with six.watch(resourceVersion="16"):
        await eventually(lambda: six.watches == 1)
        before = counted.value
        assert f'cacheserver_watchers{{resource="packages"}} {before}'.encode() in (await six.get("/metrics")).body
    await eventually(lambda: six.watches == 0)
    assert counted.value < before  # other worlds of this process may lose theirs meanwhile, and none gets one


async def test_a_quiet_watch_is_told_how_far_it_is_and_goes_on(six: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cacheserver.api.watching.watch._BOOKMARK_S", 0.05)
    async with six.watch(resourceVersion="16", allowWatchBookmarks="true") as lines:
        six.package("a", revisions=9)
        assert _seen([await lines.next()]) == [("MODIFIED", "r.a")]
        version = six.feed.write_elsewhere()
        await six.get("packages")  # as fresh as the store: the cache has heard of it then
        bookmark = await lines.next()
        assert (bookmark["type"], bookmark["object"]["metadata"]["resourceVersion"]) == ("BOOKMARK", str(version))
        six.package("b", revisions=9)
        assert _seen([await lines.next()]) == [("MODIFIED", "r.b")]


async def test_shutting_down_refuses_new_watches_and_ends_the_others_cleanly(six: World) -> None:
    async with six.watch(resourceVersion="16") as one, six.watch(resourceVersion="16") as two:
        six.api.begin_shutdown()
        refused = await six.asked_to_watch()
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert (await six.get("/readyz")).status == 500
        assert (await six.get("/livez")).status == 200
        assert (await six.get("packages")).status == 200
        six.package("last")
        assert _seen([await one.next()]) == [("ADDED", "r.last")]
        await six.api.shut_down(grace_s=0.1)
        for lines in (one, two):
            with pytest.raises(EOFError):
                await lines.take(100)
