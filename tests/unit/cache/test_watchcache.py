"""What readers and watchers of the cache are promised, with a store under the test's control.

Left to tests/etcd: the same promises on a real etcd, random and long.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import NoReturn

import orjson
import pytest

from cacheserver.cache.kind import ANSWERS_BYTES
from cacheserver.cache.snapshot import Entry, Name
from cacheserver.cache.watchcache import Event, EventType, Freshness, Page, ReadAt, Watch, WatchCache
from cacheserver.errors import Expired, NotReady, StoreSlow, TooNew
from cacheserver.model import LABEL_PACKAGE, Kind
from cacheserver.store.keys import SERVED
from cacheserver.store.objects import Changes, Follower
from cacheserver.turns import TURN_COST, Turns
from tests.fakes.feed import PROJECTIONS, FakeFeed, running
from tests.support.waiting import eventually

ANY = ReadAt(Freshness.ANY)
CONSISTENT = ReadAt(Freshness.CONSISTENT)


@dataclass(frozen=True)
class Labelled:
    """Selects by equal labels; nothing given selects everything."""

    labels: Mapping[str, str] = field(default_factory=dict)
    required: Mapping[str, str] = field(default_factory=dict)

    cost, held = 3, 0

    @property
    def everything(self) -> bool:
        return not self.labels and not self.required

    def matches(self, labels: Mapping[str, str], fields: Mapping[str, str]) -> bool:
        return all(labels.get(k) == v for k, v in self.labels.items()) and all(
            isinstance(self.required, Hint) or fields.get(k) == v for k, v in self.required.items()
        )


@dataclass(frozen=True)
class Counting(Labelled):
    """begun: grows with each object that is asked about."""

    begun: list[int] = field(default_factory=list)

    def matches(self, labels: Mapping[str, str], fields: Mapping[str, str]) -> bool:
        self.begun.append(1)
        return super().matches(labels, fields)


class Again(Counting):
    """Whoever asks with it asks again with it."""

    held = 1000


class Large(Again):
    """Itself most of what is kept of an answer."""

    held = 100_000


class Slow(Again):
    """Of which a turn of the loop has one segment."""

    cost = TURN_COST


class Hint(dict[str, str]):
    """What the labels alone already require."""


ALL = Labelled()


def exact(version: int) -> ReadAt:
    return ReadAt(Freshness.EXACT, version)


def at_least(version: int) -> ReadAt:
    return ReadAt(Freshness.NOT_OLDER_THAN, version)


def names(page: Page) -> list[str]:
    return [entry.name[1] for run in page.runs for entry in run.entries]


@pytest.fixture
def feed() -> FakeFeed:
    return FakeFeed()


@pytest.fixture
async def cache(feed: FakeFeed) -> AsyncIterator[WatchCache]:
    async with running(WatchCache(feed, PROJECTIONS, window_events=50)) as cache:
        yield cache


async def watching(cache: WatchCache, since: int | None = None, selector: Labelled = ALL) -> Watch:
    return await cache.watch(
        Kind.PACKAGE, since=since, initial=ANY if since is None else None, namespace=None, selector=selector
    )


async def take(watch: Watch, count: int) -> list[Event]:
    """The next `count` events; fails after 5 s."""
    events: list[Event] = []
    async with asyncio.timeout(5):
        while len(events) < count:
            events += await watch.next(timeout_s=5)
    return events


async def test_what_a_selector_found_is_looked_for_once_in_each_state(feed: FakeFeed, cache: WatchCache) -> None:
    for name in "abc":
        feed.put("ns", name, labels={"odd": "1" if name != "b" else "0"})
    odd, other = Again({"odd": "1"}), Counting({"odd": "1"})

    async def found(selector: Labelled, namespace: str | None = "ns") -> list[str]:
        page = await cache.list(Kind.PACKAGE, CONSISTENT, selector=selector, namespace=namespace)
        assert page.resource_version == feed.revision
        return names(page)

    assert await found(odd) == await found(odd) == ["a", "c"]
    assert len(odd.begun) == 3
    assert await found(odd, "elsewhere") == []
    assert await found(other) == await found(other) == ["a", "c"]
    assert len(other.begun) == 6, "one that is made for a question is not remembered"
    feed.put("ns", "b", labels={"odd": "1"})
    assert await found(odd) == ["a", "b", "c"]
    feed.delete("ns", "a")
    assert await found(odd) == ["b", "c"]
    feed.write_elsewhere()
    before = len(odd.begun)
    assert await found(odd) == ["b", "c"]
    assert len(odd.begun) == before, "what is written elsewhere changes no answer but its version"


async def test_what_was_found_while_the_state_changed_is_no_answer_later(feed: FakeFeed, cache: WatchCache) -> None:
    for number in range(100):
        feed.put("ns", f"n{number:02}", labels={"odd": "1"})
    await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
    odd = Slow({"odd": "1"})
    slow = asyncio.create_task(cache.list(Kind.PACKAGE, ANY, selector=odd))
    while not odd.begun:
        await asyncio.sleep(0)
    feed.delete("ns", "n00")
    while cache.resource_version < feed.revision:
        await asyncio.sleep(0)
    assert not slow.done(), "the change came in the midst of it"
    assert len(names(await slow)) == 100
    assert len(names(await cache.list(Kind.PACKAGE, CONSISTENT, selector=odd))) == 99


async def test_what_is_remembered_of_lists_has_a_bound(feed: FakeFeed, cache: WatchCache) -> None:
    feed.put("ns", "a", labels={"odd": "1"})
    asked: list[weakref.ref[Again]] = []
    for _ in range(60):
        selector = Large({"odd": "1"})
        asked.append(weakref.ref(selector))
        assert names(await cache.list(Kind.PACKAGE, CONSISTENT, selector=selector)) == ["a"]
    gc.collect()
    assert 0 < sum(each() is not None for each in asked) <= ANSWERS_BYTES / Large.held


async def test_a_page_behind_a_mark_has_nothing_before_it_whatever_finds_it(feed: FakeFeed, cache: WatchCache) -> None:
    for name in "abc":
        feed.put("ns", name, labels={LABEL_PACKAGE: "p"})
    by_package = Labelled({LABEL_PACKAGE: "p"}, required=Hint({LABEL_PACKAGE: "p"}))
    first = await cache.list(Kind.PACKAGE, CONSISTENT, selector=by_package, limit=1)
    assert names(first) == ["a"]
    at = exact(first.resource_version)
    assert names(await cache.list(Kind.PACKAGE, at, selector=by_package, after=first.next_after)) == ["b", "c"]


async def test_before_the_first_read_of_the_store_nothing_is_answered(feed: FakeFeed) -> None:
    with pytest.raises(NotReady):
        await WatchCache(feed, PROJECTIONS).list(Kind.PACKAGE, ANY, selector=ALL)


async def test_a_consistent_read_sees_what_was_written_before_it_began(feed: FakeFeed, cache: WatchCache) -> None:
    version = feed.put("ns", "a")
    page = await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
    assert names(page) == ["a"]
    assert page.resource_version == version
    entry = await cache.get(Kind.PACKAGE, ("ns", "a"), CONSISTENT)
    assert entry is not None
    assert orjson.loads(entry.body)["metadata"]["resourceVersion"] == str(version)


async def test_a_consistent_read_catches_up_with_writes_that_make_no_event(feed: FakeFeed, cache: WatchCache) -> None:
    version = feed.write_elsewhere()
    assert (await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)).resource_version == version


async def test_an_empty_old_etcd_is_ready_at_once() -> None:
    feed = FakeFeed(progress_trusted=False)
    feed.revision = 2
    async with running(WatchCache(feed, PROJECTIONS)) as cache:
        async with asyncio.timeout(1):
            await cache.wait_ready()


async def test_with_an_old_etcd_freshness_costs_a_tick_only_when_it_is_needed() -> None:
    feed = FakeFeed(progress_trusted=False)
    async with running(WatchCache(feed, PROJECTIONS)) as cache:
        feed.ticks = 0  # the start may take one
        feed.write_elsewhere()
        first = await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
        again = await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
    assert feed.ticks == 1
    assert first.resource_version == again.resource_version


async def test_an_old_etcd_that_takes_no_mark_is_read_as_it_was_and_that_is_said() -> None:
    feed = FakeFeed(progress_trusted=False)
    async with running(WatchCache(feed, PROJECTIONS)) as cache:
        feed.put("ns", "a")
        await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
        feed.write_elsewhere()
        feed.full = True
        page = await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
        assert (names(page), page.stale) == (["a"], True)


async def test_a_read_of_a_version_that_is_on_its_way_waits_for_it(feed: FakeFeed, cache: WatchCache) -> None:
    feed.hold()
    version = feed.put("ns", "a")
    reading = asyncio.create_task(cache.list(Kind.PACKAGE, at_least(version), selector=ALL))
    await eventually(lambda: feed.questions > 0)
    feed.release()
    assert names(await reading) == ["a"]


# --- versions that the store never had: it was replaced, or restored from yesterday ---


@pytest.mark.parametrize("at", [at_least(10_000), exact(10_000)], ids=["not older than", "exact"])
async def test_a_read_of_a_version_that_there_is_not_is_refused_without_waiting_for_it(
    feed: FakeFeed, cache: WatchCache, monkeypatch: pytest.MonkeyPatch, at: ReadAt
) -> None:
    monkeypatch.setattr("cacheserver.cache.freshness.READ_WAIT_S", 3600.0)
    async with asyncio.timeout(10):
        with pytest.raises(TooNew) as caught:
            await cache.list(Kind.PACKAGE, at, selector=ALL)
        with pytest.raises(TooNew):
            await cache.get(Kind.PACKAGE, ("ns", "a"), at)
    assert (caught.value.requested, caught.value.current, caught.value.unknown) == (10_000, feed.revision, True)


async def test_a_watch_from_a_version_that_there_is_not_is_told_to_list_anew(
    feed: FakeFeed, cache: WatchCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cacheserver.cache.freshness.READ_WAIT_S", 0.01)
    watch = await watching(cache, 10_000)
    with pytest.raises(Expired, match="replaced or restored"):
        await watch.begun()


async def test_a_watch_from_a_version_on_its_way_is_not_refused(
    feed: FakeFeed, cache: WatchCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cacheserver.cache.freshness.READ_WAIT_S", 0.01)
    feed.hold()
    feed.put("ns", "a")
    watch = await watching(cache, feed.put("ns", "b"))
    await watch.begun()
    feed.put("ns", "c")
    feed.release()
    assert [event.name[1] for event in await take(watch, 1)] == ["c"]


async def test_while_the_store_does_not_say_a_watch_from_the_future_is_not_refused(
    feed: FakeFeed, cache: WatchCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cacheserver.cache.freshness.READ_WAIT_S", 0.01)
    feed.hang()
    watch = await watching(cache, feed.revision + 1)
    begun = asyncio.create_task(watch.begun())
    await eventually(lambda: feed.questions > 0)
    await asyncio.wait((begun,), timeout=0.1)
    assert not begun.done()
    feed.put("ns", "a")
    await begun


# --- a store that is slow, and one that is away ---


async def test_a_store_that_does_not_answer_in_time_but_lives_is_slow_and_nothing_old_is_served(
    feed: FakeFeed, cache: WatchCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cacheserver.cache.freshness.READ_WAIT_S", 0.05)
    monkeypatch.setattr("cacheserver.cache.freshness._AWAY_AFTER_S", 3600.0)  # the follower hears from it
    feed.put("ns", "a")
    feed.hang()
    async with asyncio.timeout(10):
        with pytest.raises(StoreSlow, match="resourceVersion=0"):
            await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
        assert not (await cache.list(Kind.PACKAGE, ANY, selector=ALL)).stale
    feed.unhang()
    assert names(await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)) == ["a"]


async def test_a_follower_that_lags_makes_a_consistent_read_fail_not_lie(
    feed: FakeFeed, cache: WatchCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cacheserver.cache.freshness.READ_WAIT_S", 0.05)
    monkeypatch.setattr("cacheserver.cache.freshness._AWAY_AFTER_S", -1.0)  # silent, but for the answers to questions
    feed.hold()
    feed.put("ns", "a")
    with pytest.raises(TooNew) as caught:
        await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
    assert not caught.value.unknown


async def test_a_store_that_gives_no_sign_of_life_is_found_out_once_and_for_all_readers(
    feed: FakeFeed, cache: WatchCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed.put("ns", "a")
    await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
    monkeypatch.setattr("cacheserver.cache.freshness._AWAY_AFTER_S", 0.02)
    monkeypatch.setattr("cacheserver.cache.freshness._LOOK_EVERY_S", 0.01)
    feed.hang()
    feed.hold()
    pages = await asyncio.gather(*(cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL) for _ in range(100)))
    assert all(names(page) == ["a"] and page.stale for page in pages)
    monkeypatch.setattr("cacheserver.cache.freshness.READ_WAIT_S", 0.0)  # from here on nobody waits at all
    asked = feed.questions
    for _ in range(100):
        page = await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
        assert (names(page), page.stale, cache.away) == (["a"], True, True)
    assert feed.questions == asked
    feed.unhang()
    feed.release()
    await eventually(lambda: not cache.away)


async def test_a_store_whose_stream_broke_need_not_be_silent_for_long_to_count_as_away(
    feed: FakeFeed, cache: WatchCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed.put("ns", "a")
    await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
    monkeypatch.setattr("cacheserver.cache.freshness._AWAY_AFTER_S", 3600.0)
    monkeypatch.setattr("cacheserver.cache.freshness._BROKEN_AFTER_S", 0.02, raising=False)
    monkeypatch.setattr("cacheserver.cache.freshness._LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("cacheserver.cache.freshness.READ_WAIT_S", 1.0)
    feed.hang()
    feed.break_streams()
    page = await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
    assert (names(page), page.stale) == (["a"], True)
    feed.unhang()
    await eventually(lambda: not cache.away)


async def test_a_store_that_went_is_noticed_while_nobody_reads(
    feed: FakeFeed, cache: WatchCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cacheserver.cache.freshness._AWAY_AFTER_S", 0.02)
    monkeypatch.setattr("cacheserver.cache.freshness._LOOK_EVERY_S", 0.01)
    feed.hang()
    feed.hold()
    await eventually(lambda: cache.away)
    feed.unhang()
    await eventually(lambda: not cache.away)


async def test_while_the_store_is_away_reads_answer_from_the_last_state_and_say_so(
    feed: FakeFeed, cache: WatchCache
) -> None:
    feed.put("ns", "a")
    await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
    feed.away = True
    feed.break_streams()
    for at in (CONSISTENT, ANY, at_least(feed.revision)):
        page = await cache.list(Kind.PACKAGE, at, selector=ALL)
        assert (names(page), page.stale) == (["a"], True)
    feed.away = False
    await eventually(lambda: not cache.away)
    assert not (await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)).stale


async def test_pages_are_of_one_version_while_writes_go_on(feed: FakeFeed, cache: WatchCache) -> None:
    for name in "abcde":
        feed.put("ns", name)
    first = await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL, limit=2)
    feed.delete("ns", "c")
    feed.put("ns", "aa")
    await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
    rest = await cache.list(Kind.PACKAGE, exact(first.resource_version), selector=ALL, after=first.next_after)
    assert (names(first), first.remaining) == (["a", "b"], 3)
    assert names(rest) == ["c", "d", "e"]
    assert rest.resource_version == first.resource_version
    assert (rest.next_after, rest.remaining) == (None, None)


@pytest.fixture
async def roomy(feed: FakeFeed) -> AsyncIterator[WatchCache]:
    """With a window of the usual size."""
    async with running(WatchCache(feed, PROJECTIONS)) as cache:
        yield cache


async def test_more_pages_under_way_than_are_kept_go_on_where_they_were(feed: FakeFeed, roomy: WatchCache) -> None:
    """Those whose state is kept no more are told from the window, each as of its own version."""
    begun: list[tuple[Page, list[str]]] = []
    there: set[str] = set()
    for i in range(150):
        name = f"n{i * 7 % 40:02}"
        if name in there:
            feed.delete("ns", name)
        else:
            feed.put("ns", name)
        there ^= {name}
        page = await roomy.list(Kind.PACKAGE, CONSISTENT, selector=ALL, limit=3)
        begun.append((page, sorted(there)))
    for page, expected in begun:
        found = names(page)
        while page.next_after is not None:
            at = exact(page.resource_version)
            page = await roomy.list(Kind.PACKAGE, at, selector=ALL, limit=10, after=page.next_after)
            found += names(page)
        assert found == expected
    assert len(roomy.past) <= 64


async def test_a_page_of_the_past_is_made_a_little_a_turn(feed: FakeFeed, roomy: WatchCache) -> None:
    class Counted(Turns):
        spent = 0
        most = 0

        async def spend(self, cost: int, client: Hashable = None) -> None:
            self.spent, self.most = self.spent + cost, max(self.most, cost)
            await super().spend(cost)

    since = feed.put("ns", "first")
    for i in range(1_000):
        feed.put("ns", f"n{i}")
    await roomy.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
    roomy.turns = turns = Counted()
    asked = (roomy.list(Kind.PACKAGE, exact(since), selector=ALL, limit=1) for _ in range(20))
    assert [names(page) for page in await asyncio.gather(*asked)] == [["first"]] * 20
    assert turns.most <= 2048
    assert 1_000 * 40 <= turns.spent < 2 * 1_000 * 50  # the work is done once, and those who want the same share it


async def test_pages_that_nobody_goes_on_with_are_forgotten(feed: FakeFeed, cache: WatchCache) -> None:
    for name in "abc":
        feed.put("ns", name)
    await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL, limit=1)
    cache.past.forget_idle(time.monotonic() + 200)
    assert cache.past
    cache.past.forget_idle(time.monotonic() + 400)
    assert not cache.past


async def test_a_page_of_a_store_that_was_replaced_meanwhile_is_expired(feed: FakeFeed, cache: WatchCache) -> None:
    class Replaced(Turns):
        async def spend(self, cost: int, client: Hashable = None) -> None:
            if feed.cluster_id == 1:
                feed.replace_cluster()
                feed.put("ns", "other")
                await eventually(lambda: cache.resource_version <= 5)

    since = feed.put("ns", "a")
    feed.put("ns", "b")
    await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
    cache.turns = Replaced()
    with pytest.raises(Expired):
        await cache.list(Kind.PACKAGE, exact(since), selector=ALL, limit=1)
    assert not cache.past


async def test_a_page_with_a_selector_is_filled_and_says_no_remaining_count(feed: FakeFeed, cache: WatchCache) -> None:
    for i in range(100):
        feed.put("ns", f"{i:03}", labels={"odd": str(i % 2)})
    page = await cache.list(Kind.PACKAGE, CONSISTENT, selector=Labelled({"odd": "1"}), limit=3)
    assert names(page) == ["001", "003", "005"]
    assert page.next_after == ("ns", "005")
    assert page.remaining is None


async def test_what_few_objects_are_selected_from_waits_for_its_turn_as_well(feed: FakeFeed, cache: WatchCache) -> None:
    """Two thousand watches that begin together on a small catalog would else all be matched before a GET goes on."""
    for i in range(10):
        feed.put("ns", f"{i}", labels={"odd": str(i % 2)})
    await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
    begun: list[int] = []

    async def ask() -> None:
        await cache.list(Kind.PACKAGE, ReadAt(Freshness.ANY), selector=Counting({"odd": "1"}, begun=begun))

    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(ask()) for _ in range(100)]
        in_turns = [0]
        while not all(task.done() for task in asked):
            await asyncio.sleep(0)
            in_turns.append(len(begun))
    most = max(later - before for before, later in itertools.pairwise(in_turns))
    assert len(begun) == 100 * 10
    assert most <= 10 * TURN_COST / 1024


async def test_a_full_last_page_offers_no_next_one(feed: FakeFeed, cache: WatchCache) -> None:
    for i in range(4):
        feed.put("ns", str(i), labels={"x": "1" if i < 2 else "2"})
    for selector in (ALL, Labelled({"x": "1"})):
        count = 4 if selector is ALL else 2
        page = await cache.list(Kind.PACKAGE, CONSISTENT, selector=selector, limit=count)
        assert len(names(page)) == count
        assert page.next_after is None


async def test_the_exact_past_is_served_from_the_window_and_gone_behind_it(feed: FakeFeed, cache: WatchCache) -> None:
    feed.put("ns", "a")
    past = feed.put("ns", "b")
    feed.delete("ns", "a")
    feed.put("ns", "c")
    await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
    assert names(await cache.list(Kind.PACKAGE, exact(past), selector=ALL)) == ["a", "b"]
    for i in range(200):
        feed.put("ns", f"x{i}")
    await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
    with pytest.raises(Expired):
        await cache.list(Kind.PACKAGE, exact(past), selector=ALL)


async def test_one_package_is_found_without_a_scan(feed: FakeFeed, cache: WatchCache) -> None:
    for i in range(10):
        feed.put("ns", f"p{i % 2}.{i}", spec=orjson.dumps({"packageName": f"p{i % 2}"}), kind=Kind.REVISION)
    wanted = Labelled(required={"spec.packageName": "p1"})
    page = await cache.list(Kind.REVISION, CONSISTENT, selector=wanted)
    assert names(page) == ["p1.1", "p1.3", "p1.5", "p1.7", "p1.9"]
    feed.delete("ns", "p1.3", kind=Kind.REVISION)
    assert len(names(await cache.list(Kind.REVISION, CONSISTENT, selector=wanted, namespace="ns"))) == 4
    assert names(await cache.list(Kind.REVISION, CONSISTENT, selector=wanted, namespace="other")) == []


async def test_one_package_and_one_repository_are_found_by_their_labels_too(feed: FakeFeed, cache: WatchCache) -> None:
    for repository in ("r", "r-2"):
        for i in range(40):
            labels = {"cacheserver.dev/repository": repository, "cacheserver.dev/package": f"p{i}"}
            spec = orjson.dumps({"packageName": f"p{i}"})
            feed.put("ns", f"{repository}.p{i:02}", labels=labels, spec=spec)
    for labels, count in (({"cacheserver.dev/package": "p7"}, 2), ({"cacheserver.dev/repository": "r"}, 40)):
        page = await cache.list(Kind.PACKAGE, CONSISTENT, selector=Labelled(labels, required=Hint(labels)))
        assert len(names(page)) == count
    both = {"cacheserver.dev/repository": "r-2", "cacheserver.dev/package": "p7"}
    page = await cache.list(Kind.PACKAGE, CONSISTENT, selector=Labelled(both, required=Hint(both)))
    assert names(page) == ["r-2.p07"]


async def test_a_watch_from_a_list_sees_exactly_what_came_after(feed: FakeFeed, cache: WatchCache) -> None:
    feed.put("ns", "a")
    page = await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
    watch = await watching(cache, page.resource_version)
    feed.put("ns", "a", labels={"x": "1"})
    feed.put("ns", "b")
    last = feed.delete("ns", "a")
    events = await take(watch, 3)
    assert [(event.seen_by(None, ALL), event.name[1]) for event in events] == [
        (EventType.MODIFIED, "a"),
        (EventType.ADDED, "b"),
        (EventType.DELETED, "a"),
    ]
    assert events[2].deleted is not None
    gone = orjson.loads(events[2].deleted.body)
    assert gone["metadata"]["resourceVersion"] == str(last)
    assert gone["metadata"]["labels"] == {"x": "1"}
    assert watch.position == last


async def test_initial_state_and_live_events_join_without_gap_or_overlap(feed: FakeFeed, cache: WatchCache) -> None:
    feed.put("ns", "a")
    await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
    watch = await watching(cache)
    feed.put("ns", "b")
    assert watch.initial is not None
    assert names(watch.initial) == ["a"]
    assert [event.name[1] for event in await take(watch, 1)] == ["b"]


async def test_a_selector_turns_changes_of_labels_into_coming_and_going(feed: FakeFeed, cache: WatchCache) -> None:
    on = Labelled({"on": "1"})
    watch = await watching(cache, feed.revision, on)
    for value in ("0", "1", "1", "2", "0"):
        feed.put("ns", "a", labels={"on": value}, status=orjson.dumps({"n": feed.revision}))
    events = await take(watch, 5)
    seen = [event.seen_by(None, on) for event in events]
    assert seen == [None, EventType.ADDED, EventType.MODIFIED, EventType.DELETED, None]
    assert events[3].deleted is not None
    assert events[3].deleted.labels == {"on": "1"}
    assert events[3].deleted.resource_version == feed.revision - 1


async def test_a_watch_from_the_future_is_silent_until_then(feed: FakeFeed, cache: WatchCache) -> None:
    watch = await watching(cache, feed.revision + 2)
    for name in "abc":
        feed.put("ns", name)
    assert [event.name[1] for event in await take(watch, 1)] == ["c"]


async def test_a_watcher_that_falls_off_the_window_is_told(feed: FakeFeed, cache: WatchCache) -> None:
    start = feed.revision
    watch = await watching(cache, start)
    for i in range(200):
        feed.put("ns", f"x{i}")
    await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
    with pytest.raises(Expired):
        await watch.next(timeout_s=1)
    with pytest.raises(Expired):
        await watching(cache, start)


async def test_a_broken_stream_is_resumed_without_loss_or_repetition(feed: FakeFeed, cache: WatchCache) -> None:
    watch = await watching(cache, feed.revision)
    feed.put("ns", "a")
    feed.break_streams()
    feed.put("ns", "b")
    feed.break_streams()
    feed.put("ns", "c")
    assert [event.name[1] for event in await take(watch, 3)] == ["a", "b", "c"]


def fall_behind_compaction(feed: FakeFeed) -> None:
    """Two objects come while nobody follows, and etcd forgets that they did."""
    feed.hold()
    feed.put("ns", "a")
    feed.put("ns", "b")
    feed.break_streams()
    feed.compact()
    feed.release()


async def test_behind_etcds_compaction_everything_is_read_anew_and_watchers_are_told(
    feed: FakeFeed, cache: WatchCache
) -> None:
    watch = await watching(cache, feed.revision)
    fall_behind_compaction(feed)
    with pytest.raises(Expired):
        await take(watch, 1)
    assert names(await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)) == ["a", "b"]


class Cycle:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


async def test_what_is_garbage_when_everything_is_read_anew_is_still_collected(
    feed: FakeFeed, cache: WatchCache
) -> None:
    watch = await watching(cache, feed.revision)
    fall_behind_compaction(feed)
    left = weakref.ref(Cycle())
    try:
        with pytest.raises(Expired):
            await take(watch, 1)
        gc.collect()
        assert left() is None
    finally:
        gc.unfreeze()


class Beside:
    """A listener that says when it was told, and when its own work began."""

    def __init__(self) -> None:
        self.loaded_once = asyncio.Event()
        self.began = asyncio.Event()

    def loaded(self, entries: Sequence[Entry]) -> None:
        self.loaded_once.set()

    def replaced(self, name: Name, entry: Entry | None) -> None:
        pass

    async def run(self) -> NoReturn:
        self.began.set()
        await asyncio.Event().wait()
        raise AssertionError


async def test_what_runs_beside_the_cache_begins_when_it_is_ready_and_delays_nobody_before(feed: FakeFeed) -> None:
    cache, beside = WatchCache(feed, PROJECTIONS), Beside()
    cache.listen(Kind.PACKAGE, beside)
    feed.put("ns", "a")
    feed.hold()  # what is read first is of a while ago: the present is not there yet
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        task = group.create_task(cache.run())
        await beside.loaded_once.wait()
        assert not cache.ready
        assert not beside.began.is_set()
        feed.release()
        await beside.began.wait()
        assert cache.ready
        task.cancel()


async def test_a_cache_that_starts_anew_serves_watches_from_before_its_start(feed: FakeFeed) -> None:
    before = feed.put("ns", "a")
    feed.put("ns", "b")
    feed.delete("ns", "a")
    async with running(WatchCache(feed, PROJECTIONS)) as cache:
        watch = await watching(cache, before)
        assert [event.name[1] for event in await take(watch, 2)] == ["b", "a"]
        assert names(await cache.list(Kind.PACKAGE, ANY, selector=ALL)) == ["b"]
        with pytest.raises(Expired):
            await watching(cache, 1)


async def test_a_cache_that_starts_behind_a_compaction_begins_there(feed: FakeFeed) -> None:
    before = feed.put("ns", "a")
    feed.put("ns", "b")
    feed.compact()
    async with running(WatchCache(feed, PROJECTIONS)) as cache:
        assert names(await cache.list(Kind.PACKAGE, ANY, selector=ALL)) == ["a", "b"]
        with pytest.raises(Expired):
            await watching(cache, before)


class Told(FakeFeed):
    """Says what it was asked for, and how many follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int]] = []
        self.followers = 0

    async def read_all(self, revision: int = 0) -> AsyncGenerator[Changes, None]:
        self.asked.append(("read", revision))
        async with aclosing(super().read_all(revision)) as pages:
            async for page in pages:
                yield page

    @asynccontextmanager
    async def follow(self, after: int) -> AsyncIterator[Follower]:
        self.asked.append(("follow", after))
        async with super().follow(after) as follower:
            self.followers += 1
            try:
                yield follower
            finally:
                self.followers -= 1


async def test_what_comes_behind_a_first_read_is_on_its_way_while_it_is_read() -> None:
    feed = Told()
    feed.put("ns", "a")
    async with running(WatchCache(feed, PROJECTIONS)) as cache:
        assert feed.asked == [("follow", 2), ("read", 2)]
        assert names(await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)) == ["a"]


async def test_who_followed_a_revision_that_is_compacted_is_gone_when_a_later_one_is_read() -> None:
    feed = Told()
    feed.put("ns", "a")
    feed.compact()
    async with running(WatchCache(feed, PROJECTIONS)):
        assert [asked for asked in feed.asked if asked[0] == "read"] == [("read", 2), ("read", 2), ("read", 11)]
        assert feed.followers == 1


async def test_a_replaced_etcd_is_noticed(feed: FakeFeed, cache: WatchCache) -> None:
    feed.put("ns", "a")
    await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
    watch = await watching(cache, feed.revision)
    feed.replace_cluster()
    with pytest.raises(Expired):
        await take(watch, 1)
    feed.put("ns", "b")
    assert names(await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)) == ["b"]


async def test_a_quiet_watch_reports_progress(feed: FakeFeed, cache: WatchCache) -> None:
    watch = await watching(cache, feed.revision)
    version = feed.write_elsewhere()
    await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
    assert await watch.next(timeout_s=0) == []
    assert watch.position == version


# --- one key, one name: not so in what an older release wrote ---


async def seen_since(cache: WatchCache, feed: FakeFeed, since: int) -> list[tuple[str, str]]:
    """Every event behind `since`, as (type, name)."""
    await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
    watch = await watching(cache, since)
    seen = [(event.seen_by(None, ALL), event.name[1]) for event in await watch.next(timeout_s=0)]
    return [(type_.value, name) for type_, name in seen if type_]


async def test_an_object_that_moves_to_another_key_is_changed_and_stays(feed: FakeFeed, cache: WatchCache) -> None:
    since = feed.put("ns", "a", key="old")
    feed.put("ns", "a", key="new", labels={"x": "1"})
    feed.delete("ns", "old")
    assert await seen_since(cache, feed, since) == [("MODIFIED", "a")]
    entry = await cache.get(Kind.PACKAGE, ("ns", "a"), CONSISTENT)
    assert entry is not None
    assert entry.labels == {"x": "1"}
    assert feed.delete("ns", "new")
    assert names(await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)) == []


async def test_a_move_in_one_revision_is_one_change(feed: FakeFeed, cache: WatchCache) -> None:
    since = feed.put("ns", "a", key="old")
    feed.write(("ns", "old", None), ("ns", "new", feed.value("ns", "a", {"x": "1"})))
    assert await seen_since(cache, feed, since) == [("MODIFIED", "a")]
    assert names(await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)) == ["a"]


async def test_a_key_whose_object_changes_its_name_leaves_no_ghost(feed: FakeFeed, cache: WatchCache) -> None:
    since = feed.put("ns", "a", key="k")
    feed.put("ns", "b", key="k")
    assert await seen_since(cache, feed, since) == [("DELETED", "a"), ("ADDED", "b")]
    assert names(await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)) == ["b"]


async def test_of_two_keys_with_one_name_the_later_is_served_and_outlived_by_the_other(
    feed: FakeFeed, cache: WatchCache
) -> None:
    feed.put("ns", "a", key="k1", labels={"x": "1"})
    since = feed.put("ns", "a", key="k2", labels={"x": "2"})
    feed.put("ns", "a", key="k1", labels={"x": "3"})
    left = feed.delete("ns", "k1")
    entry = await cache.get(Kind.PACKAGE, ("ns", "a"), CONSISTENT)
    assert entry is not None
    assert (entry.labels, entry.resource_version) == ({"x": "2"}, left)
    feed.delete("ns", "k2")
    assert await seen_since(cache, feed, since) == [("MODIFIED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


@pytest.mark.parametrize("goes", ["k1", "k2"])
async def test_two_keys_with_one_name_found_at_the_start_are_one_object(goes: str) -> None:
    feed = FakeFeed()
    feed.put("ns", "a", key="k2", labels={"x": "1"})
    feed.put("ns", "a", key="k1", labels={"x": "2"})
    feed.compact()
    async with running(WatchCache(feed, PROJECTIONS)) as cache:
        page = await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
        assert [(entry.name[1], entry.labels["x"]) for run in page.runs for entry in run.entries] == [("a", "2")]
        feed.delete("ns", goes)
        page = await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)
        left = {"k1": "1", "k2": "2"}[goes]
        assert [(entry.name[1], entry.labels["x"]) for run in page.runs for entry in run.entries] == [("a", left)]


def _named(caplog: pytest.LogCaptureFixture) -> list[str]:
    keys = [vars(record)["key"] for record in caplog.records if record.levelname == "ERROR"]
    return [key.removeprefix(SERVED.decode()) for key in keys]


BAD = [
    pytest.param(b"", id="nothing"),
    pytest.param(b'{"apiVersion":', id="cut"),
    pytest.param(b"[]", id="no object"),
    pytest.param(b'{"metadata":{"name":"bad","namespace":"ns"},"spec":{}}', id="less than there is to be"),
]


@pytest.mark.parametrize("value", BAD)
async def test_what_cannot_be_read_at_the_start_is_named_and_all_else_is_served(
    feed: FakeFeed, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    feed.put("ns", "a")
    feed.write(("ns", "bad", value))
    feed.put("ns", "c")
    feed.revision += 10_000  # so that it is read, and not followed
    async with running(WatchCache(feed, PROJECTIONS)) as cache:
        assert names(await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)) == ["a", "c"]
        assert _named(caplog) == ["packages/ns/bad"]
        feed.delete("ns", "bad")
        feed.put("ns", "bad")
        assert names(await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)) == ["a", "bad", "c"]


@pytest.mark.parametrize("value", BAD)
async def test_what_cannot_be_read_any_more_is_gone_and_all_else_goes_on(
    feed: FakeFeed, cache: WatchCache, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    feed.put("ns", "a")
    feed.put("ns", "bad")
    watch = await watching(cache, feed.revision)
    feed.write(("ns", "bad", value))
    feed.put("ns", "c")
    gone, came = await take(watch, 2)
    assert (gone.name, gone.new, came.name) == (("ns", "bad"), None, ("ns", "c"))
    assert names(await cache.list(Kind.PACKAGE, CONSISTENT, selector=ALL)) == ["a", "c"]
    assert _named(caplog) == ["packages/ns/bad"]


async def test_while_everything_is_read_others_have_their_turns(feed: FakeFeed) -> None:
    for number in range(1_300):
        feed.put("ns", f"n{number:04}")
    feed.revision += 10_000  # so that it is read, and not followed
    turns, made = 0, list[int]()

    def counting(manifest: Mapping[str, object], texts: Mapping[str, str]) -> object:
        made.append(turns)
        return PROJECTIONS[Kind.PACKAGE](manifest, texts)

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(turn())
    async with running(WatchCache(feed, dict.fromkeys(Kind, counting))):  # type: ignore[arg-type] # as it is wrapped
        other.cancel()
    assert max(made.count(at) for at in set(made)) <= 128


async def test_what_objects_have_alike_is_in_memory_once(feed: FakeFeed, cache: WatchCache) -> None:
    """100,000 revisions have a few thousand sets of labels, and say their names and their package's several times."""
    for name in "abc":
        feed.put("n", name, labels={"team": "blue", "tier": "x" if name == "c" else "y"})
    await eventually(lambda: cache.resource_version == feed.revision)
    a, b, c = (cache.held(Kind.PACKAGE, ("n", name)) for name in "abc")
    assert a is not None
    assert b is not None
    assert c is not None
    assert a.labels is b.labels
    assert c.labels == {"team": "blue", "tier": "x"}
    assert all(entry.fields["metadata.name"] is entry.name[1] for entry in (a, b, c))
    assert a.created == b.created
