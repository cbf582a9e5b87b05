"""Watchers of many selections told by one task: each sees what a plain model says, and costs only where it looks."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from dataclasses import dataclass

import orjson
import pytest

from cacheserver.api.forms import OBJECT
from cacheserver.api.http.accounting import Accounting
from cacheserver.api.http.reply import Framing
from cacheserver.api.kinds.package import PACKAGE
from cacheserver.api.selectors import EVERYTHING, parse_selection
from cacheserver.api.watching.audience import Audience, Audiences, _facts
from cacheserver.api.watching.channel import Channel, Shared
from cacheserver.cache.several import several
from cacheserver.cache.snapshot import Entry
from cacheserver.cache.watchcache import Event, Watch, WatchCache
from cacheserver.model import Kind
from cacheserver.turns import Turns
from tests.fakes.feed import PROJECTIONS, FakeFeed, running
from tests.support.watchers import Client

SELECTABLE = ("metadata.name", "metadata.namespace", "spec.packageName")
Labels = Mapping[str, str]


@dataclass(frozen=True)
class Term:
    """One requirement, as text, and what it means, written down apart from the code that parses it."""

    text: str
    field: bool
    holds: Callable[[str | None], bool]
    key: str


def term(choose: random.Random) -> Term:
    if choose.random() < 0.4:
        key, value = choose.choice(
            [("metadata.name", f"n{choose.randrange(5)}"), ("spec.packageName", choose.choice("pq"))]
        )
        if choose.random() < 0.3:
            return Term(f"{key}!={value}", True, lambda found: found != value, key)
        return Term(f"{key}={value}", True, lambda found: found == value, key)
    key, values = choose.choice("ab"), {str(choose.randrange(3)) for _ in range(choose.randrange(1, 3))}
    some, listed = min(values), ",".join(values)
    return choose.choice(
        [
            Term(f"{key}={some}", False, lambda found: found == some, key),
            Term(f"{key}!={some}", False, lambda found: found != some, key),
            Term(f"{key} in ({listed})", False, lambda found: found in values, key),
            Term(f"{key} notin ({listed})", False, lambda found: found not in values, key),
            Term(key, False, lambda found: found is not None, key),
            Term(f"!{key}", False, lambda found: found is None, key),
            Term(f"{key}>{some}", False, lambda found: found is not None and int(found) > int(some), key),
            Term(f"{key} in ({','.join(map(str, range(20)))})", False, lambda found: found is not None, key),
        ]
    )


@dataclass(frozen=True)
class Wish:
    """What a watcher wants; the model."""

    namespace: str
    terms: tuple[Term, ...]

    def matches(self, namespace: str, labels: Labels | None, fields: Mapping[str, str]) -> bool:
        if labels is None or self.namespace not in ("", namespace):
            return False
        return all(each.holds((fields if each.field else labels).get(each.key)) for each in self.terms)

    def texts(self) -> tuple[str, str]:
        return tuple(",".join(each.text for each in self.terms if each.field is field) for field in (False, True))  # type: ignore[return-value] # two


def wish(choose: random.Random) -> Wish:
    return Wish(choose.choice(["", "", "x", "y"]), tuple(term(choose) for _ in range(choose.randrange(4))))


class World:
    """Objects that change at random, and what each change is to a wish."""

    def __init__(self, feed: FakeFeed, choose: random.Random) -> None:
        self._feed = feed
        self._choose = choose
        self._objects: dict[tuple[str, str], tuple[Labels, str]] = {}
        self.changes: list[tuple[int, tuple[str, str], tuple[Labels, str] | None, tuple[Labels, str] | None]] = []

    def change(self) -> None:
        choose = self._choose
        key = choose.choice("xy"), f"n{choose.randrange(5)}"
        old = self._objects.get(key)
        if old is not None and choose.random() < 0.2:
            del self._objects[key]
            self.changes.append((self._feed.delete(*key), key, old, None))
            return
        labels = {label: str(choose.randrange(3)) for label in "ab" if choose.random() < 0.6}
        package = "p" if key[1] in ("n0", "n1") else "q"  # an object's package stays
        spec = orjson.dumps({"packageName": package, "n": len(self.changes)})
        self._objects[key] = labels, package
        self.changes.append((self._feed.put(*key, labels=labels, spec=spec), key, old, (labels, package)))

    def seen(self, wanted: Wish, since: int) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        for version, (namespace, name), *states in self.changes:
            was, is_ = (
                state is not None
                and wanted.matches(namespace, state[0], {"metadata.name": name, "spec.packageName": state[1]})
                for state in states
            )
            if version > since and (was or is_):
                found.append(("MODIFIED" if was and is_ else "ADDED" if is_ else "DELETED", version))
        return found


class Wishing(Client):
    """A client that knows what it wants, and since when."""

    def __init__(self, channel: Channel, watch: Watch, wanted: Wish) -> None:
        super().__init__(channel, watch, wanted.namespace, parse_selection(*wanted.texts(), SELECTABLE))
        self.wanted = wanted
        self.since = watch.position


@pytest.mark.parametrize("seed", range(6))
async def test_each_of_many_sees_exactly_what_a_plain_model_says(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr("cacheserver.api.watching.channel._TURN_WATCHERS", 3)  # so that much happens between two turns
    monkeypatch.setattr("cacheserver.api.watching.channel._TURN_MATCHED", 16)
    choose, feed = random.Random(seed), FakeFeed()
    world = World(feed, choose)
    async with running(WatchCache(feed, PROJECTIONS, window_events=5_000)) as cache:
        monkeypatch.setattr(cache, "turns", Turns(40))
        cursor = await _watch(cache)
        channel = Channel(PACKAGE, OBJECT, Accounting().watches(PACKAGE), Shared(cache.turns, lambda: 0.0), cursor)
        wishes = [wish(choose) for _ in range(15)]
        clients: list[Wishing] = []
        tasks = [asyncio.create_task(channel.run())]
        gone: list[Wishing] = []
        try:
            for _ in range(120):
                does = choose.randrange(8)
                if does == 0:
                    since = max(cache.resource_version - choose.randrange(40), 10)
                    clients.append(Wishing(channel, await _watch(cache, since), choose.choice(wishes)))
                    tasks.append(asyncio.create_task(clients[-1].run()))
                elif does == 1 and clients:
                    client = choose.choice(clients)
                    client.takes = not client.takes
                elif does == 2 and clients:  # as for a bookmark
                    choose.choice(clients).let_go()
                elif does == 3 and len(clients) > 10:
                    at = choose.randrange(len(clients))
                    gone.append(clients.pop(at))
                    tasks.pop(at + 1).cancel()
                else:
                    for _ in range(choose.randrange(30)):
                        world.change()
                for _ in range(choose.randrange(12)):
                    await asyncio.sleep(0)
            async with asyncio.timeout(10):
                for client in clients:
                    expected = len(world.seen(client.wanted, client.since))
                    while len(client.got) < expected:
                        await asyncio.sleep(0)
        finally:
            for task in tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(len(client.got) for client in clients) > 500
        for client in clients:
            assert client.got == world.seen(client.wanted, client.since), client.wanted.texts()
        for client in gone:
            whole = world.seen(client.wanted, client.since)
            assert client.got == whole[: len(client.got)]
        assert not channel._audiences
        assert not channel._index._places
        assert not channel._index._always


class Held(Turns):
    """Keeps the next one that spends so much waiting until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self._cost = 0
        self.reached = asyncio.Event()
        self.go = asyncio.Event()

    def hold(self, cost: int) -> None:
        self._cost = cost
        self.reached.clear()
        self.go.clear()

    async def spend(self, cost: int, client: Hashable = None) -> None:
        if cost == self._cost:
            self._cost = 0
            self.reached.set()
            await self.go.wait()


@pytest.fixture
async def held(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[FakeFeed, WatchCache, Channel, Held]]:
    monkeypatch.setattr("cacheserver.api.watching.channel._TURN_MATCHED", 1)
    feed, turns = FakeFeed(), Held()
    async with running(WatchCache(feed, PROJECTIONS)) as cache:
        shared = Shared(turns, lambda: 0.0)
        channel = Channel(PACKAGE, OBJECT, Accounting().watches(PACKAGE), shared, await _watch(cache))
        task = asyncio.create_task(channel.run())
        try:
            yield feed, cache, channel, turns
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _lacking(*labels: str) -> Wish:
    """Costs one for each label more than another, and is asked of every change."""
    return Wish("", tuple(Term(f"!{label}", False, lambda found: found is None, label) for label in labels))


async def _settled(feed: FakeFeed, cache: WatchCache) -> None:
    async with asyncio.timeout(5):
        while cache.resource_version < feed.revision:
            await asyncio.sleep(0)


async def _has(client: Client, count: int) -> list[int]:
    async with asyncio.timeout(5):
        while len(client.got) < count:
            await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    return [version for _, version in client.got]


async def test_one_that_comes_while_events_are_matched_misses_none(
    held: tuple[FakeFeed, WatchCache, Channel, Held],
) -> None:
    feed, cache, channel, turns = held
    since = cache.resource_version
    first = Wishing(channel, await _watch(cache), _lacking("p"))
    turns.hold(2 * 3)
    async with _at_work(first):
        await asyncio.sleep(0)
        feed.put("x", "a")
        await turns.reached.wait()
        second = Wishing(channel, await _watch(cache, since), _lacking("q"))
        assert not channel.follow(second, channel.join("", EVERYTHING, Framing.NONE))
        async with _at_work(second):
            turns.go.set()
            assert await _has(first, 1) == await _has(second, 1) == [since + 1]


async def test_one_that_is_ahead_leaves_and_comes_back_is_told_nothing_twice(
    held: tuple[FakeFeed, WatchCache, Channel, Held],
) -> None:
    feed, cache, channel, turns = held
    since = cache.resource_version
    first = Wishing(channel, await _watch(cache), _lacking("p"))
    turns.hold(2 * 3)
    async with _at_work(first):
        await asyncio.sleep(0)
        for _ in range(100):  # more than are taken at once
            feed.put("x", "a")
        await turns.reached.wait()
        await _settled(feed, cache)
        second = Wishing(channel, await _watch(cache, since + 70), _lacking("p", "q"))
        async with _at_work(second):
            await asyncio.sleep(0)
            turns.go.set()
            turns.hold(2 * 30 * 4)  # what is behind it, matched for it alone
            await turns.reached.wait()
            for _ in range(5):
                feed.put("x", "a")
            await _settled(feed, cache)
            second.let_go()
            await _has(second, 35)
            turns.go.set()
            assert await _has(second, 35) == list(range(since + 71, since + 106))


@contextlib.asynccontextmanager
async def _at_work(client: Client) -> AsyncIterator[None]:
    task = asyncio.create_task(client.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _watch(cache: WatchCache, since: int | None = None) -> Watch:
    return await cache.watch(Kind.PACKAGE, since=since, initial=None, namespace=None, selector=EVERYTHING)


# --- the index ---


def _entry(name: str, labels: Labels, package: str) -> Entry:
    fields = {"metadata.name": name, "spec.packageName": package}
    return Entry(("x", name), 1, b"", 0, 0, labels, fields, (b"", b""), 0)


def _audience(index: Audiences, labels: str = "", fields: str = "", namespace: str | None = None) -> Audience:
    audience = Audience(namespace, parse_selection(labels, fields, SELECTABLE), Framing.NONE)
    index.add(audience)
    return audience


@pytest.mark.parametrize(
    "selectors",
    [
        [("", f"spec.packageName=p{i}") for i in range(2_500)],
        [(f"repository=r,package=p{i}", "") for i in range(2_500)],  # what all of them require gathers none of them
        [(f"package=p{i},repository=r", "") for i in range(2_500)],
        [(f"package in (p{i},q{i}),!away", "") for i in range(2_500)],
        [("package,!x", f"metadata.name=n{i}") for i in range(2_500)],
        [(f"label{i}", "") for i in range(2_500)],
        [(f"label{i}>5", "") for i in range(2_500)],
    ],
)
def test_a_change_concerns_the_few_that_look_for_it(selectors: list[tuple[str, str]]) -> None:
    index = Audiences()
    audiences = [_audience(index, *each) for each in selectors]
    labels = {"package": "p7", "repository": "r", "label7": "6"}
    found = index.concerned(Event(2, None, _entry("n7", labels, "p7")))
    assert audiences[7] in found
    assert len(found) <= 3


def test_a_change_concerns_those_it_leaves_and_those_it_comes_to_once_each() -> None:
    index = Audiences()
    left, came, both = (_audience(index, each) for each in ("package=p1", "package=p2", "package in (p1,p2)"))
    _audience(index, "package=p3")
    event = Event(2, _entry("n", {"package": "p1"}, ""), _entry("n", {"package": "p2"}, ""))
    found = index.concerned(event)
    assert set(found) == {left, came, both}
    assert len(found) == 3


def test_what_cannot_be_looked_up_is_always_asked() -> None:
    index = Audiences()
    always = {
        _audience(index, *each)
        for each in [("", ""), ("a!=1", ""), ("!a", ""), ("", "spec.packageName="), ("", "metadata.name!=n")]
    }
    assert set(index.concerned(Event(2, None, _entry("n", {}, "")))) == always


def test_of_a_field_with_thousands_of_values_only_those_are_looked_up_that_somebody_waits_for() -> None:
    provides = several(f"Kind{n}.example.com" for n in range(10_000))
    entry = Entry(("x", "n"), 1, b"", 0, 0, {}, {"metadata.name": "n", "status.provides": provides}, (b"", b""), 0)
    index = Audiences()
    _audience(index, fields="metadata.name=other")
    assert list(_facts("x", entry, index._waited)) == [("namespace", "", "x"), ("field", "metadata.name", "n")]
    waits = [Audience(None, parse_selection("", f"status.provides={kind}", ("status.provides",)), Framing.NONE)
             for kind in ("Kind7.example.com", "Kind7.example.com", "Other.example.com")]  # fmt: skip
    for each in waits:
        index.add(each)
    assert index.concerned(Event(2, None, entry)) == waits[:2]
    assert len(list(_facts("x", entry, index._waited))) == 3
    index.remove(waits[0])
    assert index.concerned(Event(2, None, entry)) == waits[1:2]
    index.remove(waits[1])
    assert len(list(_facts("x", entry, index._waited))) == 2


def test_one_namespace_is_looked_up() -> None:
    index = Audiences()
    here, _ = _audience(index, namespace="x"), _audience(index, namespace="y")
    assert index.concerned(Event(2, None, _entry("n", {}, ""))) == [here]


# --- turns ---


async def test_all_who_match_share_one_turn() -> None:
    """However many they are, a turn of the loop has room for so much of their work."""
    turns, done = Turns(100), [0]

    async def match() -> None:
        for _ in range(20):
            await turns.spend(10)
            done[0] += 10

    async with asyncio.TaskGroup() as group:
        for _ in range(50):
            group.create_task(match())
        before = most = 0
        while done[0] < 50 * 20 * 10:
            await asyncio.sleep(0)
            most, before = max(most, done[0] - before), done[0]
    assert most <= 200  # of two turns, as the order of tasks within one is free


async def test_one_that_is_cancelled_while_it_waits_keeps_nobody() -> None:
    turns = Turns(1)
    waiting = [asyncio.create_task(turns.spend(1)) for _ in range(10)]
    await asyncio.sleep(0)
    for task in waiting[1:5]:
        task.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting, return_exceptions=True)
        await turns.spend(1)
