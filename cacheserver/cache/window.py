"""Window of recent events of one kind, shared by all watchers. Never waits for a reader; knows nothing of HTTP.

Bounded in events and bytes; when full, the oldest events go, and a watcher that still needed them gets 410.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol

from cacheserver.cache.snapshot import Entry, Name

TAKE_EVENTS = 64
TAKE_BYTES = 128 << 10
"""Most that a watcher takes at once, but always one event: what one write joins, and a stalled client holds."""


class Selector(Protocol):
    """What a list or watch wants. `required` narrows by index: (field path or label key) -> value, all must hold."""

    @property
    def everything(self) -> bool:
        """Whether it matches any object, so that nobody needs to ask."""
        ...

    @property
    def cost(self) -> int:
        """Of one call of `matches`, in steps of about 0.2 us."""
        ...

    @property
    def held(self) -> int:
        """Bytes that it takes, about, where the same is asked again with this very object, so that what it finds is
        worth remembering; 0 where it is made for one question."""
        ...

    @property
    def required(self) -> Mapping[str, str]:
        """Paths of fields, and labels, with the one value that every match has; for indexes. May be empty."""
        ...

    def matches(self, labels: Mapping[str, str], fields: Mapping[str, str]) -> bool:
        """Whether an object with these labels and fields is meant."""
        ...


class EventType(Enum):
    """What happened to an object, as a watcher that selects some objects sees it."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


class Event:
    """One change of one object.

    new: None for a deletion. old: None for a creation. The same one as `new`: nobody sees a change.
    """

    __slots__ = ("_deleted", "name", "new", "old", "resource_version")

    def __init__(self, resource_version: int, old: Entry | None, new: Entry | None) -> None:
        self.resource_version = resource_version
        self.old = old
        self.new = new
        self.name: Name = (new or old).name  # type: ignore[union-attr] # one of the two is set
        self._deleted: Entry | None = None

    @property
    def size(self) -> int:
        """Bytes of the body that it brings, about."""
        entry = self.new or self.old
        return entry.size if entry else 0

    @property
    def unseen(self) -> bool:
        """What changed is nothing that this kind shows; it keeps its place among the events, and is sent to nobody."""
        return self.old is self.new

    @property
    def deleted(self) -> Entry | None:
        """`old` with this event's resource version: what a watcher gets when the object goes or stops matching.

        Kubernetes: the old state carries the new resourceVersion (k8s.io/apiserver/pkg/storage/cacher).
        """
        if self._deleted is None and self.old is not None:
            self._deleted = restamped(self.old, self.resource_version)
        return self._deleted

    def seen_by(self, namespace: str | None, selector: Selector) -> EventType | None:
        """How a watcher with this selector sees it: selector transitions are ADDED and DELETED; None: not at all.

        ADDED and MODIFIED bring `new`, DELETED brings `deleted`.
        """
        if namespace is not None and self.name[0] != namespace:
            return None
        old, new = self.old, self.new
        if old is new:
            return None
        if selector.everything:
            was, is_ = old is not None, new is not None
        else:
            was = old is not None and selector.matches(old.labels, old.fields)
            is_ = new is not None and selector.matches(new.labels, new.fields)
        if is_:
            return EventType.MODIFIED if was else EventType.ADDED
        return EventType.DELETED if was else None


class Window:
    """Events with an absolute index each: base for the oldest kept, end behind the newest.

    floor: every event behind this resource version is here. epoch: moves when the events start anew.
    """

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._events: list[Event] = []
        self.base = 0
        self.floor = 0
        self.epoch = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._events)

    @property
    def end(self) -> int:
        """Index behind the newest event."""
        return self.base + len(self._events)

    def reset(self, floor: int) -> None:
        """Forget everything: the state was read anew at `floor`."""
        self.base, self._events, self.floor, self.bytes = self.end, [], floor, 0
        self.epoch += 1

    def append(self, event: Event) -> None:
        """The newest event. Takes the oldest ones away where there are too many, or too many bytes."""
        self._events.append(event)
        self.bytes += _cost(event)
        if len(self._events) > self._max_events or self.bytes > self._max_bytes:
            self._trim()

    def index_after(self, resource_version: int) -> int:
        """Index of the first event behind `resource_version`."""
        return self.base + bisect_right(self._events, resource_version, key=lambda event: event.resource_version)

    def since(self, index: int) -> Sequence[Event]:
        """All events from `index` on, oldest first. index >= base."""
        return self._events[index - self.base :]

    def some_since(self, index: int) -> Sequence[Event]:
        """Events from `index` on, oldest first, as many as are taken at once. index >= base."""
        start = index - self.base
        events = self._events[start : start + TAKE_EVENTS]
        size = 0
        for count, event in enumerate(events):
            size += event.size
            if size > TAKE_BYTES and count:
                return events[:count]
        return events

    def _trim(self) -> None:
        """Drop the oldest eighth at once (and more, while there are too many bytes): cheap for each event."""
        drop = max(len(self._events) // 8, 1)
        freed = sum(map(_cost, self._events[:drop]))
        while self.bytes - freed > self._max_bytes and drop < len(self._events) - 1:
            freed += _cost(self._events[drop])
            drop += 1
        self.floor = self._events[drop - 1].resource_version
        del self._events[:drop]
        self.base += drop
        self.bytes -= freed


def _cost(event: Event) -> int:
    """What the event holds in memory, about: two objects with their bodies, of which the cache may hold one anyway."""
    return 2048 + (event.new.size if event.new else 0) + (event.old.size if event.old else 0)


def restamped(entry: Entry, resource_version: int) -> Entry:
    """The same object under another resource version, which its metadata begins with."""
    at, before = entry.metadata_start + 1, entry.body
    rest = before.index(b",", at)
    body = b'%b"resourceVersion":"%d"%b' % (before[:at], resource_version, before[rest:])
    return entry.as_of(resource_version, body, entry.metadata_end + len(body) - len(before))
