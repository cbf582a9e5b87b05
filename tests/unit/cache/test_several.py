"""Fields with several values: found by each, shared by all who have the same, and as few places as there are sets."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Sequence

import pytest

from cacheserver.cache.index import PROVIDES, BySeveral, Indexes
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
            indexes.load(held.values())
        for value in "abcd":
            found = indexes.candidates({PROVIDES: value, "else": "1"})
            assert found is not None
            wanted = {("x", n) for n, each in held.items() if value in each.fields[PROVIDES].split()}
            assert (set(found), len(found)) == (wanted, len(wanted))
            assert all(name in found for name in wanted)


def test_what_has_the_same_values_takes_one_place_a_value() -> None:
    index = BySeveral(PROVIDES)
    for at in range(1_000):
        index.replace(None, entry(str(at), [f"Kind{n}.example.com" for n in range(50)]))
    assert len(index._groups) == 50
    assert len(index._names) == 1


def test_a_value_of_too_many_different_sets_is_left_to_a_pass_over_everything() -> None:
    index = BySeveral(PROVIDES)
    for at in range(1_001):
        index.replace(None, entry(str(at), ["Common.example.com", f"Own{at}.example.com"]))
    assert index.candidates("Common.example.com") is None
    assert len(index.candidates("Own7.example.com") or ()) == 1
