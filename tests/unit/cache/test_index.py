"""What an object is found by, and that a list asks only those that are found."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest

from cacheserver.cache.freshness import Freshness, ReadAt
from cacheserver.cache.index import Index, Indexed, Indexes
from cacheserver.cache.snapshot import Entry
from cacheserver.cache.watchcache import WatchCache
from cacheserver.model import LABEL_PACKAGE, Kind
from tests.fakes.feed import PROJECTIONS, FakeFeed, running


def _entry(
    name: str, provides: Sequence[str] = (), labels: Mapping[str, str] | None = None, package: str = ""
) -> Entry:
    fields = {"metadata.name": name, "spec.packageName": package, "provides": " ".join(provides)}
    return Entry(("x", name), 1, b"", 0, 0, labels or {}, fields, (b"", b""), 0)


def _provided(entry: Entry) -> Sequence[str]:
    return entry.fields["provides"].split()


def test_an_item_is_found_under_each_of_its_keys_until_it_goes() -> None:
    index = Index[str, int]()
    index.add(1, "ab")
    index.add(2, "b")
    assert [list(index.get(key) or ()) for key in "abc"] == [[1], [1, 2], []]
    index.remove(1, "ab")
    assert [list(index.get(key) or ()) for key in "ab"] == [[], [2]]
    index.remove(2, "b")
    assert len(index) == 0


def test_many_items_of_a_key_are_as_few_are() -> None:
    index, choose, held = Index[str, int](), random.Random(1), dict[int, None]()
    for goal in (80, 5, 50, 0):  # to and fro over where few end
        while len(held) != goal:
            item = choose.randrange(200)
            if item in held and len(held) > goal:
                del held[item]
                index.remove(item, "a")
            elif len(held) < goal:
                held[item] = None
                index.add(item, "a")
            assert list(index.get("a") or ()) == list(held)
    with pytest.raises(KeyError):
        index.remove(1, "a")
    index.add(1, "a")
    with pytest.raises(KeyError):
        index.remove(2, "a")
    assert list(index.get("a") or ()) == [1]


@pytest.mark.parametrize("seed", range(5))
def test_candidates_are_all_that_have_a_value_whatever_changed(seed: int) -> None:
    choose, held = random.Random(seed), dict[str, Entry]()
    indexes = Indexes((Indexed(("status.kinds",), _provided),))
    for _ in range(300):
        name = f"n{choose.randrange(10)}"
        new = _entry(name, choose.sample("abc", choose.randrange(4))) if choose.random() < 0.8 else None
        indexes.replace(held.pop(name, None), new)
        if new is not None:
            held[name] = new
        if choose.random() < 0.05:
            indexes = Indexes((Indexed(("status.kinds",), _provided),))
            indexes.extend(held.values())
        for value in "abcd":
            found = indexes.candidates({"status.kinds": value, "else": "1"})
            assert set(found or ()) == {("x", n) for n, entry in held.items() if value in _provided(entry)}
    assert indexes.candidates({"else": "1"}) is None
    assert indexes.candidates({"status.kinds": ""}) is None


def test_the_index_that_leaves_fewest_is_taken() -> None:
    by_first = Indexed(("first",), lambda entry: entry.fields["metadata.name"][0])
    by_last = Indexed(("last",), lambda entry: entry.fields["metadata.name"][-1])
    indexes = Indexes((by_first, by_last))
    indexes.extend(map(_entry, ("ax", "ay", "az", "bz")))
    assert list(indexes.candidates({"first": "a", "last": "z"}) or ()) == [("x", "az"), ("x", "bz")]


class _Wanted:
    """One label, counted."""

    everything, cost, held = False, 3, 0

    def __init__(self, value: str) -> None:
        self.required = {LABEL_PACKAGE: value}
        self.asked = 0

    def matches(self, labels: Mapping[str, str], fields: Mapping[str, str]) -> bool:
        self.asked += 1
        return labels.get(LABEL_PACKAGE) == self.required[LABEL_PACKAGE]


async def test_a_package_is_found_by_a_label_that_is_spelled_otherwise_than_the_field() -> None:
    feed = FakeFeed()
    for i in range(50):
        feed.put("a", f"n{i}", labels={LABEL_PACKAGE: f"sites.p{i}"}, spec=b'{"packageName":"sites/p%d"}' % i)
    async with running(WatchCache(feed, PROJECTIONS)) as cache:
        wanted = _Wanted("sites.p7")
        page = await cache.list(Kind.PACKAGE, ReadAt(Freshness.CONSISTENT), selector=wanted)
        assert [entry.name for run in page.runs for entry in run.entries] == [("a", "n7")]
        assert wanted.asked == 1
