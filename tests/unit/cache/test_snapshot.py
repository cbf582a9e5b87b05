"""The state of a kind: ordered, shared without copying, and exact at every past version."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cacheserver.cache.page import rewind
from cacheserver.cache.snapshot import SEGMENT_SIZE, Entry, Name, Snapshot, State
from cacheserver.cache.window import Event
from cacheserver.turns import Turns

names = st.tuples(st.sampled_from(["a", "b", "c"]), st.text(alphabet="abc.-", min_size=1, max_size=3))
steps = st.lists(st.tuples(names, st.booleans()), max_size=200)


def entry(name: Name, resource_version: int = 1) -> Entry:
    return Entry(name, resource_version, b"{}", 0, 0, {}, {}, (b"", b""), 0)


def flat(snapshot: Snapshot, namespace: str | None = None, after: Name | None = None) -> list[Name]:
    return [e.name for run in snapshot.runs(namespace, after) for e in run.entries]


@given(steps)
def test_a_snapshot_never_changes_and_holds_what_was_there_in_order(steps: list[tuple[Name, bool]]) -> None:
    state = State()
    model: dict[Name, int] = {}
    taken: list[tuple[Snapshot, dict[Name, int]]] = []
    for version, (name, present) in enumerate(steps, 1):
        if present:
            state.put(entry(name, version))
            model[name] = version
        else:
            state.remove(name)
            model.pop(name, None)
        taken.append((state.snapshot(version), dict(model)))
    for snapshot, expected in taken:
        found = {e.name: e.resource_version for run in snapshot.runs() for e in run.entries}
        assert list(found.items()) == sorted(expected.items())
        assert len(snapshot) == len(expected)


@given(st.sets(names), st.sampled_from([None, "a", "b", "bb"]), st.none() | names)
def test_runs_are_the_namespace_behind_the_mark(present: set[Name], namespace: str | None, after: Name | None) -> None:
    state = State()
    state.extend([entry(name) for name in present])
    expected = sorted(n for n in present if (namespace in (None, n[0])) and (after is None or n > after))
    snapshot = state.snapshot(1)
    assert flat(snapshot, namespace, after) == expected
    if after is not None:
        assert snapshot.count_after(namespace, after) == len(expected)


@given(
    st.sets(names, max_size=60),
    st.sampled_from([None, "a", "c"]),
    st.none() | names,
    st.text("abc.", min_size=1, max_size=2),
)
def test_runs_with_a_prefix_are_those_whose_names_begin_so(
    present: set[Name], namespace: str | None, after: Name | None, prefix: str
) -> None:
    state = State()
    for name in present:
        state.put(entry(name))
    expected = sorted(
        n for n in present if namespace in (None, n[0]) and (after is None or n > after) and n[1].startswith(prefix)
    )
    found = [e.name for run in state.snapshot(1).runs(namespace, after, prefix=prefix) for e in run.entries]
    assert found == expected


@given(steps, st.integers(0, 200))
def test_undoing_events_gives_back_the_past(steps: list[tuple[Name, bool]], cut: int) -> None:
    state = State()
    model: dict[Name, Entry] = {}
    past: dict[Name, Entry] = {}
    events: list[Event] = []
    for version, (name, present) in enumerate(steps):
        if version == cut:
            past = dict(model)
        old, new = model.get(name), entry(name, version) if present else None
        if version >= cut and (old or new):
            events.append(Event(version, old, new))
        if present:
            model[name] = entry(name, version)
            state.put(model[name])
        else:
            state.remove(name)
            model.pop(name, None)
    if cut >= len(steps):
        past = dict(model)
    rewound = asyncio.run(rewind(state.snapshot(len(steps)), events, cut, Turns()))
    assert [e for run in rewound.runs() for e in run.entries] == [past[name] for name in sorted(past)]


def test_whole_segments_are_offered_as_such_and_untouched_ones_survive_a_write() -> None:
    state = State()
    state.extend([entry(("ns", f"{i:04}")) for i in range(100)])
    before = [run.segment for run in state.snapshot(1).runs()]
    assert all(segment is not None for segment in before)
    state.put(entry(("ns", "0000"), 2))
    after = [run.segment for run in state.snapshot(2).runs()]
    assert sum(one is other for one, other in zip(before, after, strict=True)) == len(before) - 1


@given(st.lists(st.sets(names, max_size=40), max_size=6))
def test_what_is_put_in_some_at_a_time_is_in_order_whatever_came_first(parts: list[set[Name]]) -> None:
    state, model = State(), set[Name]()
    for part in parts:
        before, held = state.snapshot(1), sorted(model)
        state.extend([entry(name) for name in part - model])
        model |= part
        assert flat(before) == held
    assert flat(state.snapshot(2)) == sorted(model)
    assert len(state) == len(model)


def test_parts_in_order_make_segments_as_the_whole_does() -> None:
    state, whole = State(), State()
    entries = [entry(("ns", f"{i:04}")) for i in range(100)]
    for at in range(0, 100, 7):
        state.extend(entries[at : at + 7])
    whole.extend(entries)
    sizes = [[len(run.entries) for run in each.snapshot(1).runs()] for each in (state, whole)]
    assert sizes[0] == sizes[1]


def test_segments_stay_small() -> None:
    state = State()
    for i in range(1000):
        state.put(entry(("ns", f"{i * 7919 % 1000:04}")))
    assert max(len(run.entries) for run in state.snapshot(1).runs()) <= SEGMENT_SIZE


def _said(body: bytes = b'{"metadata":{"name":"x"},"spec":{}}') -> Entry:
    return Entry(("a", "x"), 1, body, 12, 23, {}, {}, (b"", b""), 0)


def test_an_entry_says_the_same_wherever_its_bytes_lie() -> None:
    alone, moved = _said(), _said()
    moved.lies_in(b"[" + alone.body + b"," + alone.body + b"]", 1 + alone.size + 1)
    assert (moved.body, moved.metadata, moved.size) == (alone.body, alone.metadata, alone.size)


def test_an_entry_that_was_replaced_holds_on_to_nothing_but_its_own_bytes() -> None:
    old = _said()
    body = old.body
    old.lies_in(b"," + body, 1)
    old.replaced()
    list_of_then = b"?" * len(body)
    references = sys.getrefcount(list_of_then)
    old.lies_in(list_of_then, 0)
    assert sys.getrefcount(list_of_then) == references
    assert old.body == body


def test_cells_are_made_once_of_the_body_wherever_it_lies_and_whatever_its_version() -> None:
    made: list[str] = []

    def cells(manifest: Mapping[str, Any]) -> tuple[bytes, bytes]:
        made.append(manifest["metadata"]["name"])
        return b'"x","', b'","y"'

    entry = Entry(("a", "x"), 1, b'{"metadata":{"name":"x"},"spec":{}}', 12, 23, {}, {}, cells, 0)
    before = entry.as_of(2, entry.body, 23)
    entry.lies_in(b"[" + entry.body, 1)
    assert made == []
    assert entry.cells == entry.cells == entry.as_of(3, entry.body, 23).cells == (b'"x","', b'","y"')
    assert made == ["x"]
    assert before.cells == entry.cells
    assert made == ["x", "x"]
