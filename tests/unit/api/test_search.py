"""?search= on packages: a list in the order of rank, within what may be listed, and as fresh as any list."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from cacheserver.api.searching import Searching
from cacheserver.api.selectors import EVERYTHING
from cacheserver.cache.freshness import Freshness, ReadAt
from cacheserver.cache.snapshot import Entry, Name
from cacheserver.model import Kind
from cacheserver.turns import Turns
from tests.fakes.api import TABLE, World
from tests.support import waiting


@pytest.fixture
async def shelf(world: World) -> World:
    world.package("argo-cd", displayName="Argo CD", keywords=["gitops"])
    world.package("ledger", summary="works with gitops")
    world.package("vault", namespace="other", keywords=["gitops", "hidden"])
    await world.settled()
    return world


async def test_packages_are_listed_by_rank(shelf: World) -> None:
    answer = await shelf.get("packages", search="gitops")
    assert (answer.json["kind"], answer.json["metadata"].get("continue")) == ("PackageList", None)
    assert answer.names[-1] == "r.ledger"
    assert len(answer.names) == 3
    assert (await shelf.get("packages", search="gitops", limit="1")).names == answer.names[:1]
    table = await shelf.get("packages", accept=TABLE, search="ledger")
    assert [row["cells"][0] for row in table.json["rows"]] == ["r.ledger"]


async def test_small_searches_wait_for_their_turn_as_well(shelf: World) -> None:
    """What a few packages are searched for is little, and a thousand times little in one turn is not."""

    class Counted(Turns):
        taken = 0

        def _next(self) -> None:
            self.taken += 1
            super()._next()

    page = await shelf.cache.list(Kind.PACKAGE, ReadAt(Freshness.ANY), selector=EVERYTHING)
    searching = Searching(shelf.cache)
    searching.loaded([entry for run in page.runs for entry in run.entries])
    async with asyncio.TaskGroup() as group:
        running = group.create_task(searching.run())
        await searching.search("gitops", None)
        turns = shelf.cache.turns = Counted(1)
        await asyncio.gather(*(searching.search("gitops", None) for _ in range(20)))
        running.cancel()
    assert turns.taken >= 20


async def test_a_search_of_a_namespace_knows_no_other(shelf: World) -> None:
    assert (await shelf.get("namespaces/team/packages", search="gitops")).names == ["r.argo-cd", "r.ledger"]
    assert (await shelf.get("namespaces/team/packages", search="hidden")).names == []
    assert (await shelf.get("namespaces/other/packages", search="hidden")).names == ["r.vault"]


async def test_a_search_is_selected_from_like_a_list(shelf: World) -> None:
    answer = await shelf.get("packages", search="gitops", fieldSelector="spec.packageName!=argo-cd")
    assert sorted(answer.names) == ["r.ledger", "r.vault"]


async def test_a_list_and_a_search_of_everything_are_not_taken_for_each_other(shelf: World) -> None:
    listed = (await shelf.get("namespaces/team/packages", search="ledger")).names
    assert (await shelf.get("namespaces/team/packages")).names == ["r.argo-cd", "r.ledger"]
    assert (await shelf.get("namespaces/team/packages", search="ledger")).names == listed == ["r.ledger"]


async def test_what_was_written_is_found_and_what_is_gone_is_not(shelf: World) -> None:
    shelf.package("lamp", keywords=["light"])
    shelf.package("ledger", summary="a journal")
    shelf.feed.delete("team", "r.argo-cd")
    await shelf.settled()
    assert (await shelf.get("packages", search="light")).names == ["r.lamp"]
    assert (await shelf.get("namespaces/team/packages", search="gitops")).names == []
    shelf.feed.compact()
    shelf.feed.break_streams()
    assert (await shelf.get("packages", search="light")).names == ["r.lamp"]


async def test_a_package_that_another_release_wrote_otherwise_is_not_found_and_stops_nothing(shelf: World) -> None:
    shelf.package("odd", keywords=[{"text": "gitops"}])
    shelf.package("ledger", summary="works with gitops", keywords=7)
    shelf.package("lamp", summary="works with gitops")
    await shelf.settled()
    assert (await shelf.get("namespaces/team/packages", search="gitops")).names == ["r.argo-cd", "r.lamp"]
    shelf.package("ledger", summary="works with gitops")
    await shelf.settled()
    found = (await shelf.get("namespaces/team/packages", search="gitops")).names
    assert sorted(found) == ["r.argo-cd", "r.lamp", "r.ledger"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"search": "x" * 8_000}, "at most 512"),
        ({"search": "x", "watch": "1"}, "cannot be watched"),
        ({"search": "x", "resourceVersion": "12", "resourceVersionMatch": "Exact"}, "no past"),
    ],
)
async def test_what_a_search_cannot_be_is_refused_by_name(shelf: World, query: dict[str, str], said: str) -> None:
    answer = await shelf.get("packages", query=query)
    assert (answer.status, said in answer.json["message"]) == (400, True)


@pytest.mark.parametrize("text", ["", "a", "\u0000", "\u0301" * 400, "\ufdfa" * 400, "%", "'\"<>"])
async def test_any_text_is_answered(shelf: World, text: str) -> None:
    assert (await shelf.get("packages", query={"search": text})).status == 200


async def test_other_kinds_are_not_searched(shelf: World) -> None:
    answer = await shelf.get("packagerevisions", search="x")
    assert answer.status == 400


async def test_few_packages_enter_the_index_in_one_turn_of_the_loop(world: World) -> None:
    """Each takes half a millisecond."""
    loop, turn, entered = asyncio.get_running_loop(), 0, Counter[int]()

    def tick() -> None:
        nonlocal turn
        turn += 1
        loop.call_soon(tick)

    class Counted(Searching):
        def _take(self, name: Name, entry: Entry | None) -> None:
            entered[turn] += 1

    for at in range(100):
        world.package(f"p{at}", summary="word " * 200)
    await world.settled()
    page = await world.cache.list(Kind.PACKAGE, ReadAt(Freshness.ANY), selector=EVERYTHING)
    index = Counted(world.cache)
    index.loaded([entry for run in page.runs for entry in run.entries])
    tick()
    task = asyncio.create_task(index.run())
    await waiting.eventually(lambda: entered.total() == 100)
    task.cancel()
    assert max(entered.values()) <= 8
