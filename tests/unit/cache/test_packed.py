"""Bodies packed together are what they were, and few of them are unpacked at a time."""

from __future__ import annotations

import random
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from cacheserver.cache.packed import Group, Unpacked, pack

ROOM = 1 << 20


def group(body: bytes, unpacked: Unpacked) -> Group:
    made = pack([body] * 4, unpacked)
    assert made is not None
    return made


@settings(max_examples=20)
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=40), st.binary(min_size=200, max_size=400))
def test_each_body_is_the_same_as_ever(tails: list[bytes], alike: bytes) -> None:
    bodies = [alike * 3 + tail for tail in tails] + [b"", alike * 400]
    made = pack(bodies, Unpacked(ROOM))
    assert made is not None
    assert [made.body(nth) for nth in range(len(bodies))] == bodies
    assert [made.size(nth) for nth in range(len(bodies))] == [len(body) for body in bodies]


def test_what_gets_hardly_smaller_stays_as_it_is() -> None:
    chance = random.Random(1)
    assert pack([chance.randbytes(2000) for _ in range(8)], Unpacked(ROOM)) is None
    assert pack([], Unpacked(ROOM)) is None


def test_a_group_takes_no_more_memory_than_what_is_packed() -> None:
    tracemalloc.start()
    try:
        made = [group(b"x" * 10_000, Unpacked(ROOM)) for _ in range(10)]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2000 * len(made)


def test_of_what_was_read_lately_so_many_bytes_are_unpacked_and_those_asked_again_stay() -> None:
    unpacked = Unpacked(10_000)
    hot, *others = [group(b"%d" % nth * 500, unpacked) for nth in range(1, 9)]
    for other in others:
        hot.body(0)
        hot.body(1)
        other.body(3)
        assert unpacked.bytes <= 10_000
        assert hot.text is not None
    assert sum(len(each.text) for each in (hot, *others) if each.text) == unpacked.bytes


def test_what_nobody_asks_for_is_let_go_at_the_second_look() -> None:
    unpacked = Unpacked(ROOM)
    once, again = group(b"a" * 100, unpacked), group(b"b" * 100, unpacked)
    once.body(0)
    again.body(0)
    again.body(1)
    unpacked.forget_idle()
    assert (once.text, again.text) == (None, b"b" * 400)
    unpacked.forget_idle()
    assert (again.text, unpacked.bytes) == (None, 0)
    assert again.body(2) == b"b" * 100
