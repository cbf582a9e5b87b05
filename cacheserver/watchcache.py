"""Current state of every kind and a window of recent events, kept in step with the store; served to any reader.

Reads say how fresh they must be; watchers are cursors into the window, never waited for. Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from cacheserver.model import Kind
from cacheserver.snapshot import Entry, Name, Run


class Freshness(Enum):
    CONSISTENT = "as new as the store was when the read began"
    ANY = "whatever the cache holds"
    NOT_OLDER_THAN = "at least a resource version"
    EXACT = "as of a resource version"


@dataclass(frozen=True, slots=True)
class ReadAt:
    """How fresh a read must be; `resource_version` only with NOT_OLDER_THAN and EXACT."""

    freshness: Freshness
    resource_version: int = 0


class Selector(Protocol):
    """What a list or watch wants. `required` narrows by index: (field path or label key) -> value, all must hold."""

    @property
    def everything(self) -> bool: ...
    @property
    def required(self) -> Mapping[str, str]: ...
    def matches(self, labels: Mapping[str, str], fields: Mapping[str, str]) -> bool: ...


@dataclass(frozen=True, slots=True)
class Page:
    """One list answer: `runs` in order, all as of `resource_version`.

    next_after: where the next page begins (exclusive), None on the last. remaining: entries behind this page, known
    only without a selector.
    """

    runs: Sequence[Run]
    resource_version: int
    next_after: Name | None = None
    remaining: int | None = None


class EventType(Enum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(slots=True, eq=False)
class Event:
    """One change of one object. `frames` is the API's: bytes ready to send, shared by all watchers.

    new: None for a deletion. old: None for a creation. deleted: `old` with this event's resource version, what a
    watcher gets when the object stops matching (k8s: the old state carries the new resourceVersion).
    """

    kind: Kind
    resource_version: int
    old: Entry | None
    new: Entry | None
    deleted: Entry | None
    frames: dict[Any, bytes] = field(default_factory=dict)

    def seen_by(self, namespace: str | None, selector: Selector) -> tuple[EventType, Entry] | None:
        """What a watcher with this selector gets: selector transitions become ADDED and DELETED; None: nothing."""
        raise NotImplementedError


class Watch:
    """A cursor into the window. Each watcher reads it alone, at its own pace."""

    initial: Page | None
    """The synthetic start, joined to the live events without a gap; None when the watch starts at a version."""

    position: int
    """Everything up to this resource version has been taken."""

    async def next(self, *, timeout_s: float) -> Sequence[Event]:
        """Every event of the kind behind `position`, unfiltered, oldest first; waits for the first one.

        Empty after timeout_s; `position` may have moved all the same (progress: good for a bookmark).
        Raises: Expired when the watcher fell off the window or the cache was rebuilt.
        """
        raise NotImplementedError


class WatchCache:
    """See the module. One per process; run() keeps it in step until cancelled."""

    @property
    def resource_version(self) -> int:
        """Everything up to this has been seen."""
        raise NotImplementedError

    @property
    def ready(self) -> bool:
        """True from the first complete read of the store on, also while the store is away."""
        raise NotImplementedError

    @property
    def stale_for_s(self) -> float:
        """Seconds since the store was last heard from; small (under 3) while all is well."""
        raise NotImplementedError

    async def get(self, kind: Kind, name: Name, at: ReadAt) -> Entry | None:
        """Raises: NotReady, TooNew."""
        raise NotImplementedError

    async def list(
        self,
        kind: Kind,
        at: ReadAt,
        *,
        namespace: str | None = None,
        selector: Selector,
        limit: int = 0,
        after: Name | None = None,
    ) -> Page:
        """Entries that match, by namespace and name, all as of one resource version.

        Waits at most 3 s for freshness (Kubernetes: watch cache block timeout).
        Raises: NotReady before the first sync; TooNew if the wait runs out; Expired when an EXACT version is gone.
        """
        raise NotImplementedError

    async def watch(
        self, kind: Kind, *, since: int | None, initial: ReadAt | None, namespace: str | None, selector: Selector
    ) -> Watch:
        """A watcher of events behind `since`, or (since None) of `initial` state first and then what follows.

        since in the future: silent until then. Raises: NotReady; Expired when `since` lies before the window;
        TooNew when `initial` asks for what does not come within 3 s.
        """
        raise NotImplementedError


Projection = Callable[[Mapping[str, Any]], tuple[Mapping[str, str], Mapping[str, str], tuple[bytes, bytes]]]
"""From a manifest: (labels, selectable fields, cells around the age). One a kind, from the API's resource rows."""
