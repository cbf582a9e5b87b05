"""Objects that do not change rest packed, where there are many; nobody who reads them can tell."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import orjson
import pytest

from cacheserver.cache.filling import Filling
from cacheserver.cache.kind import CachedKind
from cacheserver.cache.resting import GROUP_BYTES, GROUP_ENTRIES, Resting, _groups
from cacheserver.cache.snapshot import Entry, Name
from cacheserver.cache.window import Event, restamped
from cacheserver.model import Kind


def body_of(name: str, version: int, more: str = "") -> bytes:
    metadata = {"resourceVersion": str(version), "name": name}
    return orjson.dumps({"metadata": metadata, "spec": {"alike": "of all neighbours " * 20, "more": more}})


def entry(name: str, version: int = 1, more: str = "") -> Entry:
    body = body_of(name, version, more)
    start = len(b'{"metadata":')
    return Entry(("ns", name), version, body, start, body.index(b',"spec"') - 1, {}, {}, (b"1", b"2"), 0, name.encode())


def kind_of(entries: list[Entry]) -> CachedKind:
    filling = Filling()
    filling.take(entries)
    cached = CachedKind(Kind.PACKAGE, 1000, 1 << 20)
    cached.begin(filling, 1)
    return cached


def rests(each: Entry) -> bool:
    """Of one that does, each read is a copy."""
    return each.body is not each.body


def held(cached: CachedKind) -> dict[Name, bytes]:
    return {each.name: each.body for run in cached.state.snapshot(1).runs() for each in run.entries}


async def test_what_does_not_change_rests_from_the_second_look_on_and_says_the_same() -> None:
    entries = [entry(f"n{nth:03}") for nth in range(100)]
    said = [(each.body, each.metadata, each.size) for each in entries]
    resting = Resting([kind_of(entries)], 0)
    await resting.look()
    assert not any(map(rests, entries))
    await resting.look()
    assert all(map(rests, entries))
    assert [(each.body, each.metadata, each.size) for each in entries] == said


async def test_up_to_the_bound_nothing_rests_and_one_byte_beyond_it_everything_does() -> None:
    entries = [entry(f"n{nth:03}") for nth in range(100)]
    size = sum(each.size for each in entries)
    for bound, expected in ((size, False), (size - 1, True)):
        resting = Resting([kind_of(entries)], bound)
        await resting.look()
        await resting.look()
        assert {rests(each) for each in entries} == {expected}


async def test_who_is_replaced_keeps_its_own_body_and_who_replaces_it_rests_later() -> None:
    entries = [entry(f"n{nth:03}") for nth in range(20)]
    cached = kind_of(entries)
    resting = Resting([cached], 0)
    await resting.look()
    await resting.look()
    old, new = entries[7], entry("n007", 9)
    cached.written(new)
    assert old.body is old.body == body_of("n007", 1)
    assert Event(9, old, None).deleted is not None
    await resting.look()
    assert not rests(new)
    await resting.look()
    assert rests(new)
    assert held(cached) == {
        each.name: body_of(each.name[1], 9 if each is new else 1) for each in cached_entries(cached)
    }
    assert restamped(new, 12).body == body_of("n007", 12)


def cached_entries(cached: CachedKind) -> list[Entry]:
    return list(cached.by_name.values())


class AtOnce(ThreadPoolExecutor):
    """Has done what it is given before anybody hears of it. begun: how often."""

    begun = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        self.begun += 1
        return done


class Later(AtOnce):
    """Does it when it is told to."""

    go: Callable[[], None]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        self.go = lambda: done.set_result(fn(*args, **kwargs))
        self.begun += 1
        return done


@pytest.mark.parametrize("executor", [AtOnce, Later])
async def test_a_change_while_a_group_is_packed_is_what_is_served(executor: type[AtOnce]) -> None:
    entries = [entry(f"n{nth:03}") for nth in range(40)]
    cached = kind_of(entries)
    resting = Resting([cached], 0)
    await resting.look()
    thread = executor(1)
    asyncio.get_running_loop().set_default_executor(thread)
    look = asyncio.create_task(resting.look())
    while not thread.begun:
        await asyncio.sleep(0)
    assert not rests(entries[0]), "packed, perhaps, but nobody was told"
    changed, added = entry("n003", 50), entry("n003a", 51)
    for each in (changed, added):
        cached.written(each)
    cached.gone(b"n005", ("ns", "n005"), 52)
    if isinstance(thread, Later):
        thread.go()
    await look
    expected = {each.name: each.body for each in entries if each.name[1] != "n005"}
    expected |= {changed.name: body_of("n003", 50), added.name: body_of("n003a", 51)}
    assert held(cached) == expected
    assert not rests(entries[3])
    assert not rests(entries[5])
    if isinstance(thread, AtOnce) and not isinstance(thread, Later):
        await resting.look()
        await resting.look()
        assert all(rests(each) for each in cached.by_name.values())
    assert held(cached) == expected


async def test_what_is_read_anew_rests_before_all_of_it_is_there() -> None:
    entries = [entry(f"n{nth:03}") for nth in range(200)]
    filling = Filling()
    reading = Resting([], 15 << 20).reading()
    filling.take(entries[:100])
    await reading.grown([filling.state], 8 << 20)
    assert not any(map(rests, entries)), "all of it is little"
    await reading.grown([filling.state], 8 << 20)
    assert [rests(each) for each in entries[:100]] == [True] * 96 + [False] * 4
    again, early = entry("n002", 3), entry("a")
    filling.take([again, early, *entries[100:]])
    await reading.grown([filling.state], 1 << 20)
    assert not any(map(rests, entries[100:])), "hardly more than before"
    await reading.grown([filling.state], 7 << 20)
    assert sum(map(rests, entries)) > 170
    served = {each.name: each.body for each in (*entries, early, again)}
    assert {each.name: each.body for run in filling.state.snapshot(1).runs() for each in run.entries} == served


async def test_a_list_that_is_kept_wakes_nobody_who_rests() -> None:
    entries = [entry(f"n{nth:03}") for nth in range(20)]
    text = b",".join(each.body for each in entries)
    entries[3].lies_in(text, text.index(entries[3].body))
    resting = Resting([kind_of(entries)], 0)
    await resting.look()
    await resting.look()
    assert rests(entries[3])
    entries[4].lies_in(text, 0)
    assert [each.body for each in entries] == [body_of(each.name[1], 1) for each in entries]


async def test_whatever_changes_and_rests_in_whatever_order_all_say_what_they_are() -> None:
    chance = random.Random(7)
    cached = kind_of([entry(f"n{nth:03}", 1, "x" * chance.randrange(9000)) for nth in range(150)])
    expected = held(cached)
    resting = Resting([cached], 0)
    past: list[tuple[Entry, bytes]] = []
    for version in range(2, 20):
        for _ in range(chance.randrange(12)):
            name = f"n{chance.randrange(165):03}"
            if (old := cached.by_name.get(("ns", name))) is not None:
                past.append((old, old.body))
            if chance.random() < 0.3:
                cached.gone(name.encode(), ("ns", name), version)
                expected.pop(("ns", name), None)
            else:
                new = entry(name, version, "y" * chance.randrange(9000))
                cached.written(new)
                expected[new.name] = body_of(name, version, orjson.loads(new.body)["spec"]["more"])
        await resting.look()
        assert held(cached) == expected
    assert all(each.body == body for each, body in past)
    assert sum(map(rests, cached.by_name.values())) > 100


def test_a_group_is_bounded_and_a_large_body_is_alone() -> None:
    small = [entry(f"n{nth:03}") for nth in range(100)]
    large = [entry(f"o{nth:03}", 1, "z" * 50_000) for nth in range(3)]
    huge = entry("p", 1, "z" * 200_000)
    groups = list(_groups([*small, *large, huge]))
    assert [each for group in groups for each in group] == [*small, *large, huge]
    assert groups[-4:] == [[*small[96:], large[0]], [large[1]], [large[2]], [huge]]
    for group in groups[:-1]:
        assert len(group) <= GROUP_ENTRIES
        assert sum(each.size for each in group) <= GROUP_BYTES
