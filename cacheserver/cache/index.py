"""Finds things by what they have: an index of any key, under which a thing may have several values, or none.

Used for the objects of a kind, by what selectors require (here), and for watchers, by what they wait for
(api/watching/audience.py). What an index finds is what may match: it is still to be matched.
"""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Generic, TypeVar

from cacheserver.cache.several import Several
from cacheserver.cache.snapshot import Entry, Name
from cacheserver.model import LABEL_PACKAGE
from cacheserver.slotted import slotted

K = TypeVar("K", bound=Hashable)
T = TypeVar("T", bound=Hashable)


_FEW: Final = 32
"""Items that are kept as a tuple, 8 bytes each where a dict of them takes 32. A change looks at all of them: 1 us."""


class Index(Generic[K, T]):
    """Items by key, in the order they came. Memory: 10 to 40 bytes for each key of an item, and 150 for each key."""

    __slots__ = ("_items", "get")

    def __init__(self) -> None:
        self._items: dict[K, Collection[T]] = {}
        self.get: Callable[[K], Collection[T] | None] = self._items.get
        """Items under a key; None where there is none. As fast as a dict: watches ask it ten times a change."""

    def __len__(self) -> int:
        """How many keys have an item."""
        return len(self._items)

    def add(self, item: T, keys: Iterable[K]) -> None:
        """The item is found under each of these keys from now on; under none where there are none."""
        self.add_all((item,), keys)

    def add_all(self, items: Sequence[T], keys: Iterable[K]) -> None:
        """As add(), of each."""
        for key in keys:
            self._items[key] = _with(self._items.get(key, ()), items)

    def remove(self, item: T, keys: Iterable[K]) -> None:
        """keys: those it was added under. Raises: KeyError for another."""
        for key in keys:
            if left := _without(self._items[key], item):
                self._items[key] = left
            else:
                del self._items[key]


def _with(held: Collection[T], items: Iterable[T]) -> Collection[T]:
    """What `held` is from now on: these too, behind those that are there, each once."""
    every = held if isinstance(held, dict) else dict.fromkeys(held)
    every.update(dict.fromkeys(items))
    return tuple(every) if len(every) <= _FEW else every


def _without(held: Collection[T], item: T) -> Collection[T]:
    """What `held` is from now on. Raises: KeyError for what is not there."""
    every = held if isinstance(held, dict) else dict.fromkeys(held)
    del every[item]
    return every if len(every) > _FEW else tuple(every)


@slotted(frozen=True)
class Indexed:
    """An index of objects. answers: field paths and label keys whose required value it can look up.

    values: what an object is found under; of one that has a value at any of `answers`, that value is among them.
    Without the empty string, for which nothing is looked up: what has no value may count as empty.
    """

    answers: tuple[str, ...]
    values: Callable[[Entry], Sequence[str]]


def _package(entry: Entry) -> Sequence[str]:
    field, label = entry.fields.get("spec.packageName", ""), entry.labels.get(LABEL_PACKAGE, "")
    if field == label or not label:
        return (field,) if field else ()
    return (field, label) if field else (label,)


BY_PACKAGE: Final = Indexed(("spec.packageName", LABEL_PACKAGE), _package)
"""By package, which most selectors name. By repository needs none: names begin with it (page.py)."""


PROVIDES: Final = "status.provides"
"""Field path of what an object provides: a field with several values."""
_GROUPS_MOST: Final = 1_000
"""Different sets of values with one in common that are looked at; with more the index finds nothing, and all objects
are gone through, in turns. 1,000 take 0.1 ms."""
PLACES_MOST: Final = 250_000
"""Values of all sets together: 2.5 MB. 5,000 packages of ten kinds have 100,000 at most; but an object can have 20,000
(catalogs/provides.py), and its owner thousands of such objects. What comes beyond is a candidate for everything."""
_SET_MOST: Final = 10_000
"""Values of a set that gets places: they are given without a break, in 7 ms. One with more is beyond."""
_BUCKETS: Final = 4_096


class _Places:
    """Small numbers under texts, of which nothing is kept: 9 bytes each, where a dict of dicts took 330.

    Of a text 44 bits of its hash count, so some are found that have another one: a share of 10**-13 of them.
    """

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: dict[int, array[int]] = {}  # sorted; of each place the hash's bits, then the number in 32

    def add(self, number: int, texts: Iterable[str]) -> None:
        for text in texts:
            bucket, first = _place(text)
            insort(self._buckets.setdefault(bucket, array("Q")), first + number)

    def remove(self, number: int, texts: Iterable[str]) -> None:
        """texts: those that it was added under."""
        for text in texts:
            bucket, first = _place(text)
            places = self._buckets[bucket]
            del places[bisect_left(places, first + number)]
            if not places:
                del self._buckets[bucket]

    def find(self, text: str, most: int) -> Collection[int] | None:
        """Numbers under the text; None: more than `most`."""
        bucket, first = _place(text)
        places = self._buckets.get(bucket, ())
        begin, end = bisect_left(places, first), bisect_left(places, first + (1 << 32))
        return {place - first for place in places[begin:end]} if end - begin <= most else None


def _place(text: str) -> tuple[int, int]:
    """Its bucket, and the place there of the number 0."""
    hashed = hash(text)
    return hashed % _BUCKETS, (hashed // _BUCKETS & 0xFFFF_FFFF) << 32


class BySeveral:
    """Names by any value of a field with several.

    What has the same values is one group, found by each of them: 100,000 revisions of 5,000 packages that each provide
    ten kinds are some 5,000 groups under 20 values, and not two million places. Measured: bench/finding.py.
    """

    def __init__(self, path: str, places: int = PLACES_MOST) -> None:
        self._path = path
        self._room = places
        self._places = _Places()
        self._groups: dict[Several, int] = {}
        self._names: list[Collection[Name]] = []  # of each group; of a number that none has: nothing
        self._free: list[int] = []
        self._beyond: dict[int, None] = {}  # groups that no room was for

    def replace(self, old: Entry | None, new: Entry | None) -> None:
        """`new` is in the place of `old`, of the same name; None: nothing."""
        before, after = (entry.fields.get(self._path, "") if entry is not None else "" for entry in (old, new))
        if before == after:
            return
        if old is not None and isinstance(before, Several):
            number = self._groups[before]
            names = self._names[number] = _without(self._names[number], old.name)
            if not names:
                self._forget(before, number)
        if new is not None and isinstance(after, Several):
            known = self._groups.get(after)
            number = self._know(after) if known is None else known
            self._names[number] = _with(self._names[number], (new.name,))

    def extend(self, entries: Iterable[Entry]) -> None:
        """Put in some that are not there; of the same values are neighbours, as a rule."""
        for values, alike in itertools.groupby(entries, key=lambda entry: entry.fields.get(self._path, "")):
            if isinstance(values, Several):
                known = self._groups.get(values)
                number = self._know(values) if known is None else known
                self._names[number] = _with(self._names[number], (entry.name for entry in alike))

    def _know(self, group: Several) -> int:
        if self._free:
            number = self._free.pop()
        else:
            number = len(self._names)
            self._names.append(())
        self._groups[group] = number
        if group.many > min(self._room, _SET_MOST):
            self._beyond[number] = None
        else:
            self._room -= group.many
            self._places.add(number, group.values)
        return number

    def _forget(self, group: Several, number: int) -> None:
        if number in self._beyond:
            del self._beyond[number]
        else:
            self._room += group.many
            self._places.remove(number, group.values)
        del self._groups[group]
        self._free.append(number)

    def candidates(self, value: str) -> Collection[Name] | None:
        """All that have the value, and some that may; None: too many groups to say."""
        found = self._places.find(value, _GROUPS_MOST - len(self._beyond))
        if found is None:
            return None
        return _Joined([self._names[number] for number in (*found, *self._beyond)])


class _Joined(Collection[Name]):
    """What several collections hold that have nothing in common."""

    def __init__(self, parts: Sequence[Collection[Name]]) -> None:
        self._parts = parts
        self._count = sum(map(len, parts))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Name]:
        return (name for part in self._parts for name in part)

    def __contains__(self, name: object) -> bool:
        return any(name in part for part in self._parts)


class Indexes:
    """Names of the objects of one kind, by each of some indexes."""

    def __init__(self, declared: Sequence[Indexed] = (BY_PACKAGE,)) -> None:
        self._indexes: Sequence[tuple[Indexed, Index[str, Name]]] = [(each, Index()) for each in declared]
        self._provides = BySeveral(PROVIDES)

    def extend(self, entries: Iterable[Entry]) -> None:
        """Put in some that are not there."""
        some = list(entries)
        self._provides.extend(some)
        for declared, index in self._indexes:
            for values, alike in itertools.groupby(some, declared.values):
                index.add_all([entry.name for entry in alike], values)

    def replace(self, old: Entry | None, new: Entry | None) -> None:
        """`new` is in the place of `old`, of the same name; None: nothing."""
        self._provides.replace(old, new)
        for declared, index in self._indexes:
            before = declared.values(old) if old is not None else ()
            after = declared.values(new) if new is not None else ()
            if before == after:
                continue
            if old is not None:
                index.remove(old.name, before)
            if new is not None:
                index.add(new.name, after)

    def candidates(self, required: Mapping[str, str]) -> Collection[Name] | None:
        """Names of all objects that may have each required value (key to value); None: no index of any."""
        best: Collection[Name] | None = None
        for declared, index in self._indexes:
            for key in declared.answers:
                if value := required.get(key):
                    found = index.get(value) or ()
                    if best is None or len(found) < len(best):
                        best = found
        if wanted := required.get(PROVIDES):
            provided = self._provides.candidates(wanted)
            if provided is not None and (best is None or len(provided) < len(best)):
                best = provided
        return best
