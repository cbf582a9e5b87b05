"""What is read anew, a few objects at a time, beside what is served."""

from __future__ import annotations

import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.cache.filling import Filling, Refused, never_collected
from cacheserver.cache.snapshot import Entry
from cacheserver.model import LABEL_PACKAGE


def entry(name: str, version: int, key: bytes) -> Entry:
    return Entry(("ns", name), version, b"{}", 0, 0, {LABEL_PACKAGE: name[:1]}, {}, (b"", b""), 0, key)


@given(st.lists(st.sampled_from(["a1", "a2", "b1", "b2"]), max_size=20), st.randoms(), st.integers(1, 7))
def test_of_keys_with_one_name_the_latest_is_served_in_whatever_order_they_come(
    names: list[str], random: object, some: int
) -> None:
    entries = [entry(name, version, b"%d" % version) for version, name in enumerate(names)]
    latest = {each.name: each for each in entries}
    random.shuffle(entries)  # type: ignore[attr-defined] # hypothesis' own Random
    filling = Filling()
    for at in range(0, len(entries), some):
        filling.take(entries[at : at + some])
    assert filling.by_name == latest
    assert [e for run in filling.state.snapshot(1).runs() for e in run.entries] == [latest[n] for n in sorted(latest)]
    others = {each.key: each for each in entries if latest[each.name] is not each}
    assert {key: each for held in filling.shadowed.values() for key, each in held.items()} == others
    for package in "ab":
        found = filling.indexes.candidates({LABEL_PACKAGE: package})
        assert set(found or ()) == {name for name in latest if name[1].startswith(package)}


def test_the_collector_rests_while_much_is_made_and_what_was_made_is_never_its_own() -> None:
    assert gc.isenabled()
    with never_collected():
        assert not gc.isenabled()
        made = [[] for _ in range(10)]  # type: list[list[int]]
    assert gc.isenabled()
    try:
        seen = {id(each) for each in gc.get_objects()}
        assert not seen & {id(each) for each in made}
    finally:
        gc.unfreeze()


class Cycle:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


def test_what_others_leave_while_everything_is_read_anew_is_collected() -> None:
    thresholds, left = gc.get_threshold(), []
    gc.disable()  # so that nothing is collected by chance
    try:
        left.append(weakref.ref(Cycle()))
        old = Cycle()
        gc.collect(1)
        left.append(weakref.ref(old))
        del old
        with never_collected(beside=True):
            left.append(weakref.ref(Cycle()))
            made = [[] for _ in range(10)]  # type: list[list[int]]
        assert [each() for each in left] == [None] * 3
        assert not {id(each) for each in gc.get_objects()} & {id(each) for each in made}
        assert not gc.isenabled()
        assert gc.get_threshold() == thresholds
    finally:
        gc.enable()
        gc.unfreeze()


def test_the_young_are_collected_while_others_are_served_and_the_old_are_not() -> None:
    thresholds = gc.get_threshold()
    try:
        with never_collected(beside=True):
            assert gc.isenabled()
            young, *older = gc.get_threshold()
        assert young == thresholds[0]
        assert min(older) > 1_000_000
        assert gc.get_threshold() == thresholds
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("beside", [False, True])
def test_the_collector_works_again_after_a_failure(beside: bool) -> None:
    frozen, thresholds = gc.get_freeze_count(), gc.get_threshold()
    with pytest.raises(ValueError, match="no"), never_collected(beside=beside):
        raise ValueError("no")
    assert gc.get_threshold() == thresholds
    assert gc.get_freeze_count() == frozen, "what others leave meanwhile is still collected"
    assert gc.isenabled()


def test_the_collector_stays_off_where_it_was() -> None:
    gc.disable()
    try:
        with never_collected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()


def test_a_thousand_that_cannot_be_read_are_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    refused = Refused()
    for number in range(1000):
        refused.add(b"/key/%d" % number, KeyError("metadata"))
    refused.tell()
    *named, last = caplog.records
    assert [vars(record)["key"] for record in named] == [f"/key/{number}" for number in range(10)]
    assert vars(last)["objects"] == 990
