"""The state of one kind at one resource version, ordered by namespace and name, cheap to keep and to share.

A sorted list of small immutable segments. A write replaces one segment; a snapshot is the list itself, copied on the
next write. Ready bytes hang on segments, so what did not change is never encoded or compressed again.
Knows nothing of etcd or HTTP.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, Final, Protocol

import orjson

from cacheserver.cache.packed import Group
from cacheserver.slotted import slotted

Name = tuple[str, str]
"""(namespace, name): the order of every list."""

SEGMENT_SIZE = 32
"""Most entries in a segment; it splits in two beyond. 16 to 32 objects compress within 12 % of the whole list."""


Cells = tuple[bytes, bytes]
"""Table cells as JSON text around the age: b"".join((cells[0], age, cells[1])) is the array's inside."""

CellsOf = Callable[[Mapping[str, Any]], Cells]
"""Makes an object's cells from its manifest. They are a sixth of its body, and nobody asks for those of most."""

_BREAK: Final = b"\n"  # JSON text of ours has none
_LENGTHS: Final = tuple(range(2048))  # Python keeps one of each number up to 256 by itself
_REPLACED: Final = -1


class Placed(Protocol):
    """Says the key of an object by its name: of objects whose keys say no more than that (compact.py)."""

    def key(self, name: Name) -> bytes:
        """Where the store keeps it."""
        ...


class Entry:
    """One object as of one resource version, ready to be sent. What it says never changes, where its bytes lie may.

    body: the whole JSON object, resourceVersion included; size: its bytes. metadata: the inside of its metadata, begun
    by a brace that is not closed: body[metadata_start:metadata_end].
    labels, fields: what selectors match; fields maps selectable field paths to values.
    created: creationTimestamp in seconds since the epoch.
    """

    __slots__ = (
        "_cells",
        "_key",
        "_nth",
        "_place",
        "created",
        "fields",
        "labels",
        "metadata_end",
        "metadata_start",
        "name",
        "resource_version",
    )

    def __init__(
        self,
        name: Name,
        resource_version: int,
        body: bytes,
        metadata_start: int,
        metadata_end: int,
        labels: Mapping[str, str],
        fields: Mapping[str, str],
        cells: Cells | CellsOf,
        created: int,
        key: bytes | Placed = b"",
    ) -> None:
        """cells: ready, or how they are made of the body. key: where the store keeps it; empty where nobody asks."""
        self.name = name
        self.resource_version = resource_version
        self.metadata_start = metadata_start
        self.metadata_end = _LENGTHS[metadata_end] if metadata_end < len(_LENGTHS) else metadata_end
        self.labels = labels
        self.fields = fields
        self._cells: bytes | CellsOf = _BREAK.join(cells) if isinstance(cells, tuple) else cells
        self.created = created
        self._key = key
        # One value, for threads that compress read it while it is moved: the body; (text, where in it, its size); or
        # the group where it is the nth.
        self._place: bytes | tuple[bytes, int, int] | Group = body
        self._nth = 0

    @property
    def cells(self) -> Cells:
        """Made when they are first asked for, and kept then: of those who are shown in Tables once, it is asked again
        whenever a neighbour changes."""
        cells = self._cells
        if not isinstance(cells, bytes):
            cells = self._cells = _BREAK.join(cells(orjson.loads(self.body)))
        before, _, behind = cells.partition(_BREAK)
        return before, behind

    @property
    def key(self) -> bytes:
        """Where the store keeps it; empty where nobody asks."""
        key = self._key
        return key if isinstance(key, bytes) else key.key(self.name)

    @property
    def has_own_key(self) -> bool:
        """Whether its key says something else than its name."""
        return isinstance(self._key, bytes)

    def has_key_of(self, other: Entry) -> bool:
        """Whether the other, of the same name, lies where this one does."""
        return self._key == other._key

    @property
    def size(self) -> int:
        """Bytes of the body."""
        while True:
            place = self._place
            if isinstance(place, bytes):
                return len(place)
            if isinstance(place, tuple):
                return place[2]
            nth = self._nth
            if self._place is place:  # as for the body
                return place.size(nth)

    @property
    def body(self) -> bytes:
        """The whole object as JSON, its resourceVersion included. The one way to it: wherever it lies."""
        while True:
            place = self._place
            if isinstance(place, bytes):
                return place
            if isinstance(place, tuple):
                text, at, size = place
                return text[at : at + size]
            nth = self._nth
            if self._place is place:  # else it was moved in between, by another thread, and is not the nth there
                return place.body(nth)

    @property
    def metadata(self) -> bytes:
        """The inside of its metadata, without the brace that closes it."""
        place = self._place
        text, at = place[:2] if isinstance(place, tuple) else (self.body, 0)
        return text[at + self.metadata_start : at + self.metadata_end]

    def as_of(self, resource_version: int, body: bytes, metadata_end: int) -> Entry:
        """The same object with another resource version. body: with it; metadata_end: in that."""
        labels, fields, cells, created, key = self.labels, self.fields, self._cells, self.created, self._key
        ready = self.cells if isinstance(cells, bytes) else cells
        return Entry(
            self.name, resource_version, body, self.metadata_start, metadata_end, labels, fields, ready, created, key
        )

    def lies_in(self, text: bytes, at: int) -> None:
        """The body is in `text` too, which somebody keeps: one of the two is enough. Not for one that was replaced, nor
        for one that rests: it would wake up."""
        if self._nth != _REPLACED and not isinstance(self._place, Group):
            self._place = (text, at, self.size)

    def rest(self, group: Group, nth: int) -> None:
        """The body is in that group too, which is all that is kept of it. Not for one that was replaced."""
        if self._nth == _REPLACED:
            return
        if isinstance(self._place, Group):
            self._place = self.body  # never from group to group: a thread reads which one, then the place in it
        self._nth = nth
        self._place = group

    def replaced(self) -> None:
        """It is of the past: from now on it keeps its own body alive, and nothing around it."""
        self._place = self.body
        self._nth = _REPLACED


@slotted(eq=False, weakref_slot=True)
class Segment:
    """Up to SEGMENT_SIZE neighbours. `ready` is the API's: bytes made from exactly these entries, by form.

    seen, rests: what resting.py notes.
    """

    entries: tuple[Entry, ...]
    ready: dict[Any, Any] = field(default_factory=dict)
    seen: bool = False
    rests: bool = False
    _size: int = -1

    @property
    def size(self) -> int:
        """Bytes of the bodies."""
        if self._size < 0:
            self._size = sum(entry.size for entry in self.entries)
        return self._size


@slotted(frozen=True)
class Run:
    """Some neighbouring entries of a list. `segment` is set when they are all of that segment's."""

    entries: tuple[Entry, ...]
    segment: Segment | None


class Snapshot:
    """Immutable state of a kind. Made by State.snapshot."""

    __slots__ = ("_firsts", "_segments", "count", "resource_version")

    def __init__(self, segments: list[Segment], firsts: list[Name], count: int, resource_version: int) -> None:
        self._segments = segments
        self._firsts = firsts
        self.count = count
        self.resource_version = resource_version

    def __len__(self) -> int:
        return self.count

    @property
    def segments(self) -> Sequence[Segment]:
        """All, in order. Nobody changes which they are."""
        return self._segments

    def runs(self, namespace: str | None = None, after: Name | None = None, *, prefix: str = "") -> Iterator[Run]:
        """Every entry in order; only of `namespace`, behind `after`, with names that begin with `prefix`, if given."""
        if not prefix:
            low = ("", "") if namespace is None else (namespace, "")
            yield from self._between(low, None if namespace is None else (namespace + "\0", ""), after)
            return
        beyond = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        for each in self.namespaces() if namespace is None else (namespace,):
            yield from self._between((each, prefix), (each, beyond), after)

    def backwards(self, namespace: str, before: str = "") -> Iterator[Entry]:
        """Every entry of a namespace from the last name to the first; only names below `before`, if given."""
        low, high = (namespace, ""), (namespace, before) if before else (namespace + "\0", "")
        for at in range(bisect_left(self._firsts, high) - 1, -1, -1):
            for entry in reversed(self._segments[at].entries):
                if entry.name < low:
                    return
                if entry.name < high:
                    yield entry

    def _between(self, low: Name, high: Name | None, after: Name | None) -> Iterator[Run]:
        """Entries from low (inclusive) to high (exclusive), behind after."""
        if after is not None and after >= low:
            low = (after[0], after[1] + "\0")  # the first name that sorts behind `after`
        for segment in self._segments[max(bisect_right(self._firsts, low) - 1, 0) :]:
            entries = segment.entries
            first, last = entries[0].name, entries[-1].name
            if high is not None and first >= high:
                return
            if first >= low and (high is None or last < high):
                yield Run(entries, segment)
            else:
                part = tuple(e for e in entries if e.name >= low and (high is None or e.name < high))
                if part:
                    yield Run(part, None)

    def namespaces(self) -> Iterator[str]:
        """Each namespace that has an entry, in order; a search each, whatever it holds."""
        at: Name = ("", "")
        while (entry := self._first_from(at)) is not None:
            yield entry.name[0]
            at = (entry.name[0] + "\0", "")

    def _first_from(self, low: Name) -> Entry | None:
        for segment in self._segments[max(bisect_right(self._firsts, low) - 1, 0) :][:2]:
            for entry in segment.entries:
                if entry.name >= low:
                    return entry
        return None

    def count_after(self, namespace: str | None, after: Name) -> int:
        """How many entries (of `namespace`, if given) sort behind `after`."""
        start = bisect_right(self._firsts, after) - 1
        end = len(self._firsts) if namespace is None else bisect_left(self._firsts, (namespace + "\0", ""))
        within = [segment.entries for segment in self._segments[max(start, 0) : end]]
        if not within:
            return 0
        # Only the first segment can hold entries up to `after`, only the last can reach into the next namespace.
        outside = sum(entry.name <= after for entry in within[0])
        if namespace is not None:
            outside += sum(entry.name[0] != namespace and entry.name > after for entry in {*within[0], *within[-1]})
        return sum(map(len, within)) - outside

    def copy(self) -> State:
        """To be changed; shares every segment that is not."""
        state = State()
        state._segments, state._firsts, state._count = self._segments.copy(), self._firsts.copy(), self.count
        return state


class State:
    """The current state of a kind: the only thing here that changes."""

    def __init__(self) -> None:
        self._segments: list[Segment] = []
        self._firsts: list[Name] = []
        self._count = 0
        self._shared = False

    def __len__(self) -> int:
        return self._count

    def snapshot(self, resource_version: int) -> Snapshot:
        """The state as it is; later writes do not touch it. Costs nothing now, one list copy at the next write."""
        self._shared = True
        return Snapshot(self._segments, self._firsts, self._count, resource_version)

    def extend(self, entries: Iterable[Entry]) -> None:
        """Add some that are not there, in any order: soonest those whose names lie behind all that are."""
        ordered = sorted(entries, key=_name_of)
        if self._segments and ordered and ordered[0].name < self._segments[-1].entries[-1].name:
            for entry in ordered:
                self.put(entry)
            return
        self._own()
        self._count += len(ordered)
        half = SEGMENT_SIZE // 2
        if self._segments and len(self._segments[-1].entries) < half:  # of the last time
            ordered = [*self._segments.pop().entries, *ordered]
            del self._firsts[-1]
        segments = [Segment(tuple(ordered[i : i + half])) for i in range(0, len(ordered), half)]
        self._segments += segments
        self._firsts += [segment.entries[0].name for segment in segments]

    def put(self, entry: Entry) -> None:
        """Add or replace."""
        self._own()
        if not self._segments:
            self._segments, self._firsts, self._count = [Segment((entry,))], [entry.name], 1
            return
        at = max(bisect_right(self._firsts, entry.name) - 1, 0)
        entries = list(self._segments[at].entries)
        position = _position(entries, entry.name)
        if position < len(entries) and entries[position].name == entry.name:
            entries[position] = entry
        else:
            entries.insert(position, entry)
            self._count += 1
        self._replace(at, entries)

    def remove(self, name: Name) -> None:
        """Take `name` out, if it is there."""
        at = bisect_right(self._firsts, name) - 1
        if at < 0:
            return
        kept = [entry for entry in self._segments[at].entries if entry.name != name]
        if len(kept) < len(self._segments[at].entries):
            self._own()
            self._count -= 1
            self._replace(at, kept)

    def _own(self) -> None:
        """Copy the lists if a snapshot holds them."""
        if self._shared:
            self._segments, self._firsts, self._shared = self._segments.copy(), self._firsts.copy(), False

    def _replace(self, at: int, entries: list[Entry]) -> None:
        if not entries:
            del self._segments[at], self._firsts[at]
        elif len(entries) > SEGMENT_SIZE:
            half = len(entries) // 2
            self._segments[at : at + 1] = [Segment(tuple(entries[:half])), Segment(tuple(entries[half:]))]
            self._firsts[at : at + 1] = [entries[0].name, entries[half].name]
        else:
            self._segments[at] = Segment(tuple(entries))
            self._firsts[at] = entries[0].name


def _name_of(entry: Entry) -> Name:
    return entry.name


def _position(entries: list[Entry], name: Name) -> int:
    return bisect_left(entries, name, key=lambda entry: entry.name)
