"""The feed of what is new: valid whatever a catalog says, bounded, and for who may list it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any
from xml.etree import ElementTree

import orjson
import pytest
from aiohttp import web

from cacheserver.api.status import forbidden
from cacheserver.cache.watchcache import WatchCache
from cacheserver.model import Kind
from cacheserver.security.identity import Attributes, Identity
from cacheserver.store.news import moment
from cacheserver.web.feed import ENTRIES, Feed
from tests.fakes.api import World, api_world

ATOM = "{http://www.w3.org/2005/Atom}"


class OnlyTeam:
    """Lets everybody list changes of the namespace `team`, and nothing else."""

    def __init__(self) -> None:
        self.asked: list[Attributes] = []

    async def identify(self, request: web.BaseRequest) -> Identity:
        return Identity("jane")

    async def authorize(self, identity: Identity, attributes: Attributes) -> None:
        self.asked.append(attributes)
        if (attributes.verb, attributes.resource, attributes.namespace) != ("list", "packagechanges", "team"):
            raise forbidden("jane", attributes, "")


@pytest.fixture
def gate() -> OnlyTeam:
    return OnlyTeam()


@pytest.fixture
async def world(gate: OnlyTeam) -> AsyncIterator[World]:
    made: list[WatchCache] = []

    class Caught(WatchCache):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            made.append(self)

    async with api_world(cache_type=Caught, routes=(Feed(cache).route for cache in made), gate=gate) as world:
        yield world


def tell(world: World, at: int, summary: str = "1.0.0 added", repository: str = "r", package: str = "app") -> None:
    spec = {
        "repository": repository,
        "packageName": package,
        "object": {"kind": "Package", "name": f"{repository}.{package}"},
        "changes": [{"type": "PackageAdded"}],
        "summary": summary,
    }
    world.feed.put("team", f"{moment(at)}-x", kind=Kind.CHANGE, spec=orjson.dumps(spec))


async def titles(world: World, path: str = "/feeds/team.atom") -> Sequence[str | None]:
    await world.settled()
    answer = await world.get(path)
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "application/atom+xml; charset=utf-8"
    found = ElementTree.fromstring(answer.body)
    for required in ("id", "title", "updated"):
        assert all(len(one.findall(ATOM + required)) == 1 for one in (found, *found.findall(f"{ATOM}entry")))
    return [entry.findtext(f"{ATOM}title") for entry in found.findall(f"{ATOM}entry")]


async def test_the_newest_come_first_and_there_is_a_bound(world: World) -> None:
    assert await titles(world) == []
    for at in range(ENTRIES + 5):
        tell(world, at, f"change {at}", repository="r" if at % 2 else "other")
    newest = await titles(world)
    assert (newest[0], len(newest)) == (f"other/app: change {ENTRIES + 4}", ENTRIES)
    assert (await titles(world, "/feeds/team/r.atom"))[:2] == ["r/app: change 103", "r/app: change 101"]


@pytest.mark.parametrize(
    "text", ["</title><script>", "]]>", "\x00\x08\x1b[0m", "&amp; &lt;", "\ufffe\uffff", "\"'", "a\u202eb \U0001f600"]
)
async def test_what_a_catalog_says_is_text_and_nothing_else(world: World, text: str) -> None:
    tell(world, 1, summary=text, package=text)
    [title] = await titles(world)
    kept = "".join("\ufffd" if each in "\x00\x08\x1b\ufffe\uffff" else each for each in text)
    assert title == f"r/{kept}: {kept}"


async def test_an_unchanged_feed_is_not_sent_again(world: World) -> None:
    tell(world, 1)
    await world.settled()
    etag = (await world.get("/feeds/team.atom")).headers["ETag"]
    again = await world.get("/feeds/team.atom", headers={"If-None-Match": etag})
    assert (again.status, again.body) == (304, b"")
    tell(world, 2)
    await world.settled()
    assert (await world.get("/feeds/team.atom", headers={"If-None-Match": etag})).status == 200


async def test_it_takes_the_right_to_list_changes_of_that_namespace(world: World, gate: OnlyTeam) -> None:
    assert (await world.get("/feeds/team/r.atom")).status == 200
    assert (await world.get("/feeds/others.atom")).status == 403
    assert gate.asked[-1].resource == "packagechanges"
    for path in ("/feeds", "/feeds/team", "/feeds/..%2Fteam.atom", "/feeds/team/r/x.atom", "/feeds/Team.atom"):
        assert (await world.get(path)).status == 403, "as any path that is none"
