"""Fields with several values: found by each, shared by all who have the same, and as few places as there are sets."""

from __future__ import annotations

import gc
import random
import tracemalloc
import weakref
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.cache.index import PLACES_MOST, PROVIDES, BySeveral, Indexes
from cacheserver.cache.several import Several, several
from cacheserver.cache.snapshot import Entry


def entry(name: str, values: Sequence[str]) -> Entry:
    return Entry(("x", name), 1, b"", 0, 0, {}, {PROVIDES: several(values)}, (b"", b""), 0)


def test_equal_values_are_one_object_as_long_as_anybody_has_them() -> None:
    first, second = several(["b", "a"]), several(["a", "b", "a"])
    assert first is second
    assert isinstance(first, Several)
    assert first.values == {"a", "b"}
    held = several(["only-here"])
    assert several(["only-here"]) is held
    gone = weakref.ref(held)
    del held
    gc.collect()
    assert gone() is None
    assert several(["only-here"]) == "only-here"


def test_no_value_is_the_empty_text_and_one_with_a_break_is_none() -> None:
    assert several([]) == several(["", "a\nb"]) == ""
    assert several(["a", "a\nb"]) == "a"


@pytest.mark.parametrize("seed", range(5))
def test_candidates_are_all_that_have_the_value_whatever_changed(seed: int) -> None:
    choose, held, indexes = random.Random(seed), dict[str, Entry](), Indexes()
    for _ in range(300):
        name = f"n{choose.randrange(10)}"
        new = entry(name, choose.sample("abc", choose.randrange(4))) if choose.random() < 0.8 else None
        indexes.replace(held.pop(name, None), new)
        if new is not None:
            held[name] = new
        if choose.random() < 0.05:
            indexes = Indexes()
            indexes.extend(held.values())
        for value in "abcd":
            found = indexes.candidates({PROVIDES: value, "else": "1"})
            assert found is not None
            wanted = {("x", n) for n, each in held.items() if value in each.fields[PROVIDES].split()}
            assert (set(found), len(found)) == (wanted, len(wanted))
            assert all(name in found for name in wanted)


@pytest.mark.parametrize("seed", range(5))
def test_without_room_all_that_have_the_value_are_found_among_others_and_places_come_back(seed: int) -> None:
    choose, held, index = random.Random(seed), dict[str, Entry](), BySeveral(PROVIDES, places=4)
    for _ in range(300):
        name = f"n{choose.randrange(6)}"
        new = entry(name, choose.sample("abcd", choose.randrange(4))) if choose.random() < 0.7 else None
        index.replace(held.pop(name, None), new)
        if new is not None:
            held[name] = new
        for value in "abcd":
            found = index.candidates(value)
            assert found is not None
            assert len(found) == len(set(found))
            assert {("x", n) for n, each in held.items() if value in each.fields[PROVIDES].split()} <= set(found)
    for each in held.values():
        index.replace(each, None)
    index.replace(None, entry("last", "abcd"))
    assert list(index.candidates("e") or ()) == []
    assert list(index.candidates("a") or ()) == [("x", "last")]


@given(st.lists(st.text("ab.\n", max_size=3), max_size=5), st.text("ab.\n", max_size=3))
def test_what_it_has_is_what_its_values_are(values: Sequence[str], asked: str) -> None:
    made = several(values)
    if isinstance(made, Several):
        assert made.values == {value for value in values if value and "\n" not in value}
        assert made.has(asked) == (asked in made.values)


def test_many_values_take_memory_as_their_text_does() -> None:
    """A kind takes some 45 bytes in an object; twice two texts in sets and dictionaries took 800."""
    index, held = BySeveral(PROVIDES), list[Entry]()
    tracemalloc.start()
    try:
        for at in range(100):
            kinds = (f"Kind{n}.of{at}" for n in range(6_000))
            held.append(entry(str(at), [*kinds]))
            index.replace(None, held[-1])
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    written = 100 * 3_000 * 45
    assert taken < 10 * written
    assert len(index.candidates("Kind5999.of99") or ()) == 100 - PLACES_MOST // 6_000


def test_what_has_the_same_values_takes_one_place_a_value() -> None:
    index = BySeveral(PROVIDES)
    for at in range(1_000):
        index.replace(None, entry(str(at), [f"Kind{n}.example.com" for n in range(50)]))
    assert PLACES_MOST - index._room == 50
    assert len(index._groups) == 1


def test_a_value_of_too_many_different_sets_is_left_to_a_pass_over_everything() -> None:
    index = BySeveral(PROVIDES)
    for at in range(1_001):
        index.replace(None, entry(str(at), ["Common.example.com", f"Own{at}.example.com"]))
    assert index.candidates("Common.example.com") is None
    assert len(index.candidates("Own7.example.com") or ()) == 1
