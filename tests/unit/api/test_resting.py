"""Objects that rest are served as ever, in every form, by page and selector, as change and as past."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Mapping

import pytest

from cacheserver.api import PROJECTIONS
from cacheserver.cache.freshness import Feed
from cacheserver.cache.making import Projection
from cacheserver.cache.watchcache import WatchCache
from cacheserver.model import Kind
from tests.fakes.api import METADATA, METADATA_LIST, TABLE, World, api_world


class Packing(WatchCache):
    """Whose objects rest, however few they are."""

    def __init__(self, store: Feed, projections: Mapping[Kind, Projection] = PROJECTIONS) -> None:
        super().__init__(store, projections, plain_bytes=0)


async def fill(world: World) -> None:
    for nth in range(60):
        namespace = "other" if nth % 10 == 9 else "team"
        world.package(f"p{nth:02}", namespace=namespace, displayName="alike in all of them " * 10, revisions=nth)
    await world.settled()


@pytest.fixture
async def many() -> AsyncIterator[World]:
    async with api_world(cache_type=Packing) as world:
        await fill(world)
        yield world


async def rest(world: World) -> None:
    for _ in range(2):
        await world.cache.resting.look()
    entry = world.cache.held(Kind.PACKAGE, ("team", "r.p00"))
    assert entry is not None
    assert entry.body is not entry.body, "a copy each time: it rests"


ASKED: list[tuple[str, str, dict[str, str]]] = [
    ("namespaces/team/packages/r.p07", "application/json", {}),
    ("namespaces/team/packages/r.p07", METADATA, {}),
    ("namespaces/team/packages/r.p07", TABLE, {}),
    ("namespaces/team/packages/r.p07", "application/yaml", {}),
    ("packages", "application/json", {}),
    ("packages", "application/json", {"pretty": "true"}),
    ("packages", "application/yaml", {}),
    ("packages", METADATA_LIST, {}),
    ("packages", TABLE, {}),
    ("packages", TABLE, {"includeObject": "Object"}),
    ("packages", "application/json", {"limit": "7"}),
    ("namespaces/other/packages", "application/json", {}),
    ("packages", "application/json", {"labelSelector": "cacheserver.dev/package in (p03,p59)"}),
    ("packages", "application/json", {"fieldSelector": "spec.packageName=p33"}),
    ("packages", "application/json", {"fieldSelector": "metadata.name!=r.p33"}),
]


async def test_every_answer_has_the_same_bytes(many: World) -> None:
    before = [(await many.get(path, accept=accept, query=query)).body for path, accept, query in ASKED]
    await rest(many)
    for (path, accept, query), body in zip(ASKED, before, strict=True):
        assert (await many.get(path, accept=accept, query=query)).body == body, (path, accept, query)


async def test_asked_for_the_first_time_it_is_the_same_too(many: World) -> None:
    await rest(many)
    resting = [(await many.get(path, accept=accept, query=query)).body for path, accept, query in ASKED]
    async with api_world() as plain:
        await fill(plain)
        assert [(await plain.get(path, accept=accept, query=query)).body for path, accept, query in ASKED] == resting


async def test_pages_of_the_past_and_changes_tell_what_was(many: World) -> None:
    await rest(many)
    first = (await many.get("namespaces/team/packages", limit="5")).json
    old = (await many.get("namespaces/team/packages/r.p20")).json
    async with many.watch("namespaces/team/packages", labelSelector="cacheserver.dev/package=p20") as lines:
        assert await lines.next() == {"type": "ADDED", "object": old}
        changed = many.package("p20", displayName="another")
        assert (await lines.next())["type"] == "MODIFIED"
        await rest(many)
        gone = many.feed.delete("team", "r.p20")
        last = await lines.next()
    assert last["type"] == "DELETED"
    assert last["object"]["metadata"]["resourceVersion"] == str(gone)
    assert last["object"]["status"] == {"displayName": "another"}
    assert changed < gone
    query = {"continue": first["metadata"]["continue"]}
    rest_of_it = (await many.get("namespaces/team/packages", query=query)).json["items"]
    assert [item for item in rest_of_it if item["metadata"]["name"] == "r.p20"] == [old]
    assert len(rest_of_it) == 54 - 5


async def test_a_gzipped_list_of_what_rests_is_the_list(many: World) -> None:
    for nth in range(200, 400):
        many.package(f"p{nth}", displayName="alike in all of them " * 50)
    await many.settled()
    await rest(many)
    plain = await many.get("packages")
    zipped = await many.get("packages", headers={"Accept-Encoding": "gzip"})
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(zipped.body) == plain.body
