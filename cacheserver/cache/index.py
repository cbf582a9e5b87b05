"""Finds things by what they have: an index of any key, under which a thing may have several values, or none.

Used for the objects of a kind, by what selectors require (here), and for watchers, by what they wait for
(api/watching/audience.py). What an index finds is what may match: it is still to be matched.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from cacheserver.cache.several import Several
from cacheserver.cache.snapshot import Entry, Name
from cacheserver.model import LABEL_PACKAGE

K = TypeVar("K", bound=Hashable)
T = TypeVar("T", bound=Hashable)


class Index(Generic[K, T]):
    """Items by key, in the order they came. Memory: about 100 bytes for each key of an item, and 230 for each key."""

    __slots__ = ("_items", "get")

    def __init__(self) -> None:
        self._items: dict[K, dict[T, None]] = {}
        self.get: Callable[[K], Mapping[T, None] | None] = self._items.get
        """Items under a key; None where there is none. As fast as a dict: watches ask it ten times a change."""

    def __len__(self) -> int:
        """How many keys have an item."""
        return len(self._items)

    def add(self, item: T, keys: Iterable[K]) -> None:
        """The item is found under each of these keys from now on; under none where there are none."""
        for key in keys:
            self._items.setdefault(key, {})[item] = None

    def add_all(self, items: Sequence[T], keys: Iterable[K]) -> None:
        """As add(), of each."""
        for key in keys:
            self._items.setdefault(key, {}).update(dict.fromkeys(items))

    def remove(self, item: T, keys: Iterable[K]) -> None:
        """keys: those it was added under. Raises: KeyError for another."""
        for key in keys:
            items = self._items[key]
            del items[item]
            if not items:
                del self._items[key]


@dataclass(frozen=True, slots=True)
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
"""Values of all sets together: 100 MB. 5,000 packages of ten kinds have 100,000 at most; but an object can have 20,000
(catalogs/provides.py), and its owner thousands of such objects. What comes beyond is a candidate for everything."""
_SET_MOST: Final = 10_000
"""Values of a set that gets places: they are given without a break, in 7 ms. One with more is beyond."""


class BySeveral:
    """Names by any value of a field with several.

    What has the same values is one group, found by each of them: 100,000 revisions of 5,000 packages that each provide
    ten kinds are some 5,000 groups under 20 values, and not two million places. Measured: bench/finding.py.
    """

    def __init__(self, path: str, places: int = PLACES_MOST) -> None:
        self._path = path
        self._room = places
        self._groups = Index[str, str]()
        self._names = Index[str, Name]()
        self._beyond: dict[str, None] = {}  # groups that no room was for

    def replace(self, old: Entry | None, new: Entry | None) -> None:
        """`new` is in the place of `old`, of the same name; None: nothing."""
        before, after = (entry.fields.get(self._path, "") if entry is not None else "" for entry in (old, new))
        if before == after:
            return
        if old is not None and isinstance(before, Several):
            self._names.remove(old.name, (before,))
            if self._names.get(before) is None:
                self._forget(before)
        if new is not None and isinstance(after, Several):
            if self._names.get(after) is None:
                self._know(after)
            self._names.add(new.name, (after,))

    def _know(self, group: Several) -> None:
        if group.many > min(self._room, _SET_MOST):
            self._beyond[group] = None
        else:
            self._room -= group.many
            self._groups.add(group, group.values)

    def _forget(self, group: Several) -> None:
        if group in self._beyond:
            del self._beyond[group]
        else:
            values = group.values
            self._room += len(values)
            self._groups.remove(group, values)

    def candidates(self, value: str) -> Collection[Name] | None:
        """All that have the value, and some that may; None: too many groups to say."""
        groups = self._groups.get(value) or ()
        if len(groups) + len(self._beyond) > _GROUPS_MOST:
            return None
        return _Joined([self._names.get(group) or {} for group in (*groups, *self._beyond)])


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
        for entry in some:
            self._provides.replace(None, entry)
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
