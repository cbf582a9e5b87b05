"""Who watches the same, and which of many such audiences a change may concern: an index by what selectors require.

2,500 watches that each wait for another package are 2,500 questions a change when all are asked, and one look-up here.
Decides nothing: what the index finds is still to be matched. Used by channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from cacheserver.api.http.reply import Framing
from cacheserver.api.selectors import Must, Selection
from cacheserver.cache.index import Index
from cacheserver.cache.several import Several
from cacheserver.cache.snapshot import Entry
from cacheserver.cache.watchcache import Event

if TYPE_CHECKING:
    from cacheserver.api.watching.channel import Follower

_SET_MOST: Final = 16  # values of a set that an audience is found by, each a place of some 400 bytes in the index


class Audience:
    """All who watch one namespace (None: all) and selection of a channel in a framing, by what they have been sent."""

    __slots__ = ("found_by", "framing", "level", "namespace", "selection", "users", "waiting")

    def __init__(self, namespace: str | None, selection: Selection, framing: Framing) -> None:
        self.namespace = namespace
        self.selection = selection
        self.framing = framing
        self.users = 0
        self.level: dict[Follower, None] = {}
        """Level with the channel's cursor."""
        self.waiting: dict[Follower, None] = {}
        """To be sent next what the cursor took."""
        self.found_by: Sequence[_Place] = ()


_Place = tuple[str, str, str]
"""A fact of an object: (what, key, value)."""

# Not an Enum, whose hash is a function of Python's: a change is looked up under each of its facts.
_NAMESPACE: Final = "namespace"
_FIELD: Final = "field"
_LABEL: Final = "label"
_LABELLED: Final = "has the label"


class Audiences:
    """Every audience has one or more places where a change finds it, or it is asked of every change."""

    def __init__(self) -> None:
        self._always: dict[Audience, None] = {}
        self._places = Index[_Place, Audience]()
        self._waited: dict[str, Counter[str]] = {}  # field -> values that somebody waits for

    def add(self, audience: Audience) -> None:
        """By the requirement that fewest others are found by, so that one that all share does not gather them."""
        get = self._places.get
        best = min(_requirements(audience), key=lambda places: max(len(get(p) or ()) for p in places), default=())
        audience.found_by = best
        self._places.add(audience, best)
        for what, key, value in best:
            if what == _FIELD:
                self._waited.setdefault(key, Counter())[value] += 1
        if not best:
            self._always[audience] = None

    def remove(self, audience: Audience) -> None:
        """Changes no longer find it. It has to be there."""
        self._always.pop(audience, None)
        self._places.remove(audience, audience.found_by)
        for what, key, value in audience.found_by:
            if what == _FIELD:
                values = self._waited[key]
                values[value] -= 1
                if not values[value]:
                    del values[value]

    def concerned(self, event: Event) -> Sequence[Audience]:
        """Each audience that may see it, once; those that are not among them do not."""
        found = dict(self._always)
        if self._places:
            old, new, get = event.old, event.new, self._places.get
            for place in _facts(event.name[0], new or old, self._waited):
                if (there := get(place)) is not None:
                    found.update(dict.fromkeys(there))
            if old is not None and new is not None and (old.labels != new.labels or old.fields != new.fields):
                for place in _facts("", old, self._waited):
                    if (there := get(place)) is not None:
                        found.update(dict.fromkeys(there))
        return list(found)


def _requirements(audience: Audience) -> Iterator[Sequence[_Place]]:
    """Each: places of which an object has one if it matches. Without those that every object may fulfil."""
    for term in audience.selection.fields:
        # A field that is not there counts as empty, and no fact says so.
        if term.must is Must.BE_ONE_OF and len(term.values) <= _SET_MOST and "" not in term.values:
            yield [(_FIELD, term.key, value) for value in term.values]
    for term in audience.selection.labels:
        if term.must is Must.BE_ONE_OF and len(term.values) <= _SET_MOST:
            yield [(_LABEL, term.key, value) for value in term.values]
        elif term.must not in (Must.NOT_BE_ANY_OF, Must.NOT_BE_THERE):
            yield [(_LABELLED, term.key, "")]
    if audience.namespace is not None:
        yield [(_NAMESPACE, "", audience.namespace)]


def _facts(namespace: str, entry: Entry | None, waited: Mapping[str, Mapping[str, int]]) -> Iterator[_Place]:
    """waited: field -> values that somebody waits for: of a field with thousands of values no others are looked up."""
    yield _NAMESPACE, "", namespace
    if entry is not None:
        for key, value in entry.fields.items():
            if isinstance(value, Several):
                if wanted := waited.get(key):
                    yield from ((_FIELD, key, each) for each in value.values & wanted.keys())
            else:
                yield _FIELD, key, value
        for key, value in entry.labels.items():
            yield _LABEL, key, value
            yield _LABELLED, key, ""
