"""?order=newest on packagechanges: the newest first over all namespaces, a page at a time, whatever happens between."""

from __future__ import annotations

import random
from collections.abc import Sequence

import orjson
import pytest

from cacheserver.api.selectors import EVERYTHING
from cacheserver.cache.watchcache import Freshness, ReadAt
from cacheserver.model import Kind
from cacheserver.store.news import moment
from cacheserver.turns import Turns
from tests.fakes.api import TABLE, Answer, World

Name = tuple[str, str]


def tell(world: World, namespace: str, at: int, what: str = "PackageAdded", suffix: str = "x") -> Name:
    spec = {"repository": "r", "packageName": "app", "changes": [{"type": what}], "summary": f"change {at}"}
    name = f"{moment(at)}-{suffix}"
    world.feed.put(namespace, name, kind=Kind.CHANGE, spec=orjson.dumps(spec))
    return namespace, name


def names(answer: Answer) -> Sequence[Name]:
    return [(item["metadata"]["namespace"], item["metadata"]["name"]) for item in answer.json["items"]]


async def page(world: World, path: str = "packagechanges", **query: str) -> tuple[Sequence[Name], str]:
    answer = await world.get(path, query={"order": "newest", **query})
    assert answer.status == 200, answer.body
    return names(answer), answer.json["metadata"].get("continue", "")


@pytest.mark.parametrize("seed", range(5))
async def test_pages_have_each_change_once_from_the_newest_to_the_oldest(world: World, seed: int) -> None:
    rng = random.Random(seed)
    # Few moments, so that several namespaces have changes of one name.
    told = {tell(world, rng.choice("abcd"), rng.randrange(60)) for _ in range(200)}
    await world.settled()
    for path, wanted in (("packagechanges", told), ("namespaces/b/packagechanges", {n for n in told if n[0] == "b"})):
        ordered = sorted(wanted, key=lambda name: (name[1], name[0]), reverse=True)
        assert (await page(world, path))[0] == ordered
        found: list[Name] = []
        token = ""
        while token or not found:
            some, token = await page(
                world, path, limit=str(rng.randrange(1, 40)), **({"continue": token} if token else {})
            )
            found += some
        assert found == ordered


async def test_what_comes_and_goes_meanwhile_leaves_no_gap_and_no_double(world: World) -> None:
    for at in range(10):
        tell(world, "team", at)
    await world.settled()
    first, token = await page(world, limit="4")
    tell(world, "team", 100)
    world.feed.delete("team", f"{moment(0)}-x", kind=Kind.CHANGE)  # the oldest goes, as collection has it
    world.feed.delete("team", first[-1][1], kind=Kind.CHANGE)  # and the mark itself
    await world.settled()
    rest, token = await page(world, **{"continue": token})
    assert [name for _, name in (*first, *rest)] == [f"{moment(at)}-x" for at in range(9, 0, -1)]
    assert token == ""


async def test_it_selects_and_has_every_form_of_a_list(world: World) -> None:
    for at in range(9):
        tell(world, "team", at, "Deprecated" if at % 3 == 0 else "PackageAdded")
    await world.settled()
    found, token = await page(world, fieldSelector="spec.type=Deprecated", limit="2")
    assert [name for _, name in found] == [f"{moment(at)}-x" for at in (6, 3)]
    assert [
        name for _, name in (await page(world, fieldSelector="spec.type=Deprecated", **{"continue": token}))[0]
    ] == [f"{moment(0)}-x"]
    table = await world.get("packagechanges", accept=TABLE, order="newest", limit="1")
    assert [row["cells"][3] for row in table.json["rows"]] == ["change 8"]
    # The whole list in the order of names is kept ready, and is another one.
    assert (await world.get("packagechanges")).names == [f"{moment(at)}-x" for at in range(9)]
    assert (await page(world))[0][0] == ("team", f"{moment(8)}-x")


@pytest.mark.parametrize(
    ("path", "query", "said"),
    [
        ("packages", {"order": "newest"}, "packages have one order"),
        ("packagechanges", {"order": "oldest"}, 'order "oldest" is not known'),
        ("packagechanges", {"order": ""}, 'order "" is not known'),
        ("packagechanges", {"order": "newest", "resourceVersion": "3", "resourceVersionMatch": "Exact"}, "has no past"),
        ("packagechanges", {"order": "newest", "watch": "1"}, "a watch has one order"),
    ],
)
async def test_what_it_cannot_be_is_refused_by_name(world: World, path: str, query: dict[str, str], said: str) -> None:
    answer = await world.get(path, query=query)
    assert (answer.status, said in answer.json["message"]) == (400, True), answer.body


async def test_a_token_of_the_ordinary_list_is_refused(world: World) -> None:
    for at in range(3):
        tell(world, "team", at)
    await world.settled()
    token = (await world.get("packagechanges", limit="1")).json["metadata"]["continue"]
    answer = await world.get("packagechanges", query={"order": "newest", "continue": token})
    assert (answer.status, "only tokens that came with this order" in answer.json["message"]) == (400, True)


async def test_many_namespaces_are_put_in_order_over_several_turns(world: World) -> None:
    class Counted(Turns):
        taken = 0

        def _next(self) -> None:
            self.taken += 1
            super()._next()

    for at in range(1_000):
        tell(world, f"n{at:04}", at)
    await world.settled()
    turns = world.cache.turns = Counted()
    found = await world.cache.newest(Kind.CHANGE, ReadAt(Freshness.ANY), selector=EVERYTHING, limit=1)
    assert found.runs[0].entries[0].name == ("n0999", f"{moment(999)}-x")
    assert turns.taken >= 4
