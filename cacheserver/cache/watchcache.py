"""Current state of every kind and a window of recent events, kept in step with the store; served to any reader.

Reads say how fresh they must be; watchers are cursors into the window, never waited for. Knows nothing of HTTP.
One per process; the API reads it, `run` is a task of the server's TaskGroup.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import operator
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Final, NoReturn

from cacheserver import metrics
from cacheserver.cache.compact import named_after
from cacheserver.cache.filling import Filling, Refused, never_collected
from cacheserver.cache.freshness import Feed, Freshness, Position, ReadAt
from cacheserver.cache.kind import CachedKind, Listener
from cacheserver.cache.making import Maker, Projection
from cacheserver.cache.page import Page, cut_backwards, cut_page
from cacheserver.cache.past import Past
from cacheserver.cache.resting import PLAIN_BYTES, Resting
from cacheserver.cache.snapshot import Entry, Name, Run, Snapshot
from cacheserver.cache.view import View
from cacheserver.cache.window import Event, EventType, Selector
from cacheserver.errors import Compacted, EtcdError, Expired
from cacheserver.model import LABEL_PACKAGE, NAMED_BY_REPOSITORY, Kind, Stored
from cacheserver.store.objects import Change, Changes, Follower
from cacheserver.turns import TURN_COST, Turns

log = logging.getLogger(__name__)

__all__ = ["Event", "EventType", "Freshness", "Page", "Projection", "ReadAt", "Selector", "Watch", "WatchCache"]

_SLICE = 128  # entries decoded between two turns of the loop: about 3 ms
# Revisions; the furthest that etcd still has. etcd replays 5,000 in 0.3 to 2 s (measured), while we read.
_LOOK_BACK = (5_000, 500, 0)

_KIND_OF: Final = operator.attrgetter("kind")


class Watch:
    """A cursor into the window. Each watcher reads it alone, at its own pace."""

    def __init__(self, at: Position, cached: CachedKind, position: int, view: View | None) -> None:
        self.initial: Page | None = None
        """The synthetic start, joined to the live events without a gap; None when the watch starts at a version."""
        self.position = position
        """Everything up to this resource version has been taken."""
        self._at = at
        self._cached = cached
        self._view = view
        self._epoch = cached.window.epoch
        self._index = cached.window.index_after(position)
        self._in_future = position > at.resource_version

    async def next(self, *, timeout_s: float) -> Sequence[Event]:
        """Events of the kind behind `position`, unfiltered, oldest first, some at a time; waits for the first one.

        Empty after about timeout_s; `position` may have moved all the same (progress: good for a bookmark).
        Raises: Expired when the watcher fell off the window or the cache was rebuilt.
        """
        events = self._take()
        if not events and timeout_s > 0:
            await self._cached.watchers.wait(timeout_s)
            events = self._take()
        if self._view is None or not events:
            return events
        shown = await self._view.events(events)
        if (left := len(events) - len(shown)) > 0:  # too large to take all of them now: these come next
            self._index -= left
            self.position = shown[-1].resource_version
        return shown

    async def shown(self, run: Run) -> AsyncGenerator[Run, None]:
        """A run of `initial`, as it is to be sent, in parts. Waits for the store where it has to be read."""
        if self._view is None or not self._view.while_sent:
            yield run
            return
        async with aclosing(self._view.at_last(run)) as parts:
            async for part in parts:
                yield part

    async def begun(self) -> None:
        """Returns once there is what the watch was to begin behind, or may be. Raises: Expired when there is not."""
        await self._at.expect(self.position)

    @property
    def more(self) -> bool:
        """Whether next() would not wait."""
        return self._index < self._cached.window.end or self._epoch != self._cached.window.epoch

    def from_now(self) -> Watch:
        """Another cursor of the same events, which has taken all that are there."""
        return Watch(self._at, self._cached, self._at.resource_version, self._view)

    def lead_on(self, other: Watch) -> int | None:
        """How many events this one has taken that `other` has not; negative: the other way round.

        None: there is no such number, for one of them started in the future, or before the cache was rebuilt.
        """
        if self._epoch != other._epoch or self.position > self._at.resource_version:
            return None
        if self._in_future:
            self._arrive()
        return self._index - other._index

    def go_to(self, other: Watch) -> None:
        """Count as taken what `other` has taken."""
        self._epoch, self._index, self.position = other._epoch, other._index, other.position
        self._in_future = other._in_future

    def _arrive(self) -> None:
        """What came up to where it began is here: count it as taken. Some of it may have come since it was counted."""
        window = self._cached.window
        if self._epoch == window.epoch and self.position >= window.floor:  # else next() says that it fell off
            self._index = max(self._index, window.index_after(self.position))
        self._in_future = False

    def _take(self) -> Sequence[Event]:
        window = self._cached.window
        if self._epoch != window.epoch or self._index < window.base:
            raise Expired(self.position, window.floor)
        events: Sequence[Event] = []
        while not events and self._index < window.end:
            events = window.some_since(self._index)
            self._index += len(events)
            last = events[-1].resource_version
            if events[0].resource_version <= self.position:  # started in the future
                events = [event for event in events if event.resource_version > self.position]
            self.position = max(self.position, last)
        if self._index == window.end:
            self.position = max(self.position, self._at.resource_version)
        return events


class WatchCache:
    """See the module. run() keeps it in step until cancelled."""

    def __init__(
        self,
        store: Feed,
        projections: Mapping[Kind, Projection],
        *,
        window_events: int = 20_000,
        window_bytes: int = 64 << 20,
        plain_bytes: int = PLAIN_BYTES,
    ) -> None:
        """window_events, window_bytes: for each kind; when full, the oldest events go and slow watchers get 410.

        plain_bytes: of all bodies; with more of them, those that do not change are kept packed.
        """
        self._store = store
        self._maker = Maker(projections)
        self._kinds = {kind: CachedKind(kind, window_events, window_bytes) for kind in projections}
        self._names: dict[bytes, Name] = {}  # of keys that do not say the name
        self._at = Position(store)
        self.turns = Turns()
        """For all matching of this process, of lists here and of events in the API."""
        self._cluster_id = 0
        self.past = Past()
        self.resting = Resting(tuple(self._kinds.values()), plain_bytes)
        metrics.cache_capacity.set(window_events)

    def listen(self, kind: Kind, listener: Listener) -> None:
        """Tell it of every object of the kind from now on, and run it while this runs and is `ready`; before run()."""
        self._kinds[kind].listeners.append(listener)

    # --- state of the cache itself ---

    @property
    def resource_version(self) -> int:
        """Everything up to this has been seen."""
        return self._at.resource_version

    @property
    def ready(self) -> bool:
        """True from the first complete read of the store on, also while the store is away."""
        return self._at.filled.is_set()

    async def wait_ready(self) -> None:
        """Returns once `ready`; no limit, since etcd may come up at any time."""
        await self._at.filled.wait()

    @property
    def away(self) -> bool:
        """The store is known to be away: reads are answered with the last state, which may be old."""
        return self._at.away

    @property
    def stale_for_s(self) -> float:
        """Seconds since the store was last heard from; small (under 3) while all is well."""
        return self._at.stale_for_s

    # --- reads ---

    async def get(self, kind: Kind, name: Name, at: ReadAt) -> Entry | None:
        """The object as it is at the return, possibly old if the cache says `away` then.

        Raises: NotReady, TooNew, StoreSlow.
        """
        await self._at.reach(at)
        return self._kinds[kind].by_name.get(name)

    async def reach(self, at: ReadAt) -> None:
        """Returns when what is here is as fresh as that, or the store is away. Raises: NotReady, TooNew, StoreSlow."""
        await self._at.reach(at)

    def held(self, kind: Kind, name: Name) -> Entry | None:
        """The object in memory, however old."""
        return self._kinds[kind].by_name.get(name)

    def of_package(self, kind: Kind, package: str) -> Collection[Name]:
        """Names of the objects in memory, of every namespace, whose package has this name or label."""
        return self._kinds[kind].indexes.candidates({LABEL_PACKAGE: package}) or ()

    def indexed(self, kind: Kind, path: str, value: str) -> Collection[Name] | None:
        """Names of the objects in memory, of every namespace, that an index has under the value of a field; None where
        there are too many to say. To be gone through before anything else happens."""
        return self._kinds[kind].indexes.candidates({path: value})

    def entry(self, stored: Stored) -> Entry:
        """An object as it would be served; nothing of it is kept."""
        return self._maker.entry(Change(stored.key.kind, b"", stored.value, stored.mod_revision), stored.value)

    async def list(
        self,
        kind: Kind,
        at: ReadAt,
        *,
        namespace: str | None = None,
        selector: Selector,
        limit: int = 0,
        after: Name | None = None,
        behind: str = "",
    ) -> Page:
        """Entries that match, by namespace and name, all as of one resource version.

        behind: a second namespace, whose entries follow those of `namespace`.
        Waits at most 3 s for freshness; while the store is away not at all.
        Raises: NotReady before the first sync; TooNew or StoreSlow if the wait runs out; Expired when an EXACT version
        is gone.
        """
        stale = not await self._at.reach(at)
        cached = self._kinds[kind]
        if at.freshness is Freshness.EXACT and at.resource_version != self.resource_version:
            snapshot = await self.past.at(cached, at.resource_version, lambda: self._present(cached), self.turns)
        else:
            snapshot = self._present(cached)
            if not limit and after is None:
                runs = await self._matching(kind, snapshot, namespace, selector, behind)
                return Page(runs, snapshot.resource_version, stale=stale)
        ranged = kind in NAMED_BY_REPOSITORY
        page = await cut_page(snapshot, namespace, selector, limit, after, self.turns, behind, ranged=ranged)
        if stale:
            page = replace(page, stale=True)
        if page.next_after is not None:
            self.past.keep(kind, snapshot)
        return page

    async def newest(
        self,
        kind: Kind,
        at: ReadAt,
        *,
        namespace: str | None = None,
        selector: Selector,
        limit: int,
        before: Name | None = None,
    ) -> Page:
        """As list(), of a kind whose names are times: the newest first, of all namespaces, as they are now.

        before: the last one of the page before. Raises: NotReady, TooNew, StoreSlow.
        """
        stale = not await self._at.reach(at)
        page = await cut_backwards(self._present(self._kinds[kind]), namespace, selector, limit, before, self.turns)
        return replace(page, stale=stale)

    async def watch(
        self,
        kind: Kind,
        *,
        since: int | None,
        initial: ReadAt | None,
        namespace: str | None,
        selector: Selector,
        view: View | None = None,
        behind: str = "",
    ) -> Watch:
        """A watcher of events behind `since`, or (since None) of `initial` state first and then what follows.

        since in the future: silent until then, see Watch.begun. Neither: from now on. view: to see the kind as it shows
        it. behind: as list() has it, for the initial state.
        Raises: NotReady; Expired when `since` lies before the window; TooNew or StoreSlow when `initial` does not
        come within 3 s; EtcdError when the view cannot read what `initial` needs.
        """
        await self._at.reach(initial or ReadAt(Freshness.ANY))
        cached = self._kinds[kind]
        if since is not None:
            if since < cached.window.floor:
                raise Expired(since, cached.window.floor)
            return Watch(self._at, cached, since, view)
        # No await between the snapshot and the cursor: an event could slip between. The page is cut afterwards.
        snapshot = self._present(cached)
        watch = Watch(self._at, cached, snapshot.resource_version, view)
        if initial is not None:
            ranged = kind in NAMED_BY_REPOSITORY
            page = await cut_page(snapshot, namespace, selector, 0, None, self.turns, behind, ranged=ranged)
            at_once = view is not None and not view.while_sent
            watch.initial = replace(page, runs=await view.runs(page.runs)) if view and at_once else page
        return watch

    def _present(self, cached: CachedKind) -> Snapshot:
        return cached.state.snapshot(self.resource_version)

    async def _matching(
        self, kind: Kind, snapshot: Snapshot, namespace: str | None, selector: Selector, behind: str
    ) -> Sequence[Run]:
        """All that match, in order. snapshot: the present one, made without an await in between."""
        cached = self._kinds[kind]
        answers = cached.answers  # of this state; what is put there after a change, nobody finds
        known = answers.get(namespace, selector, behind)
        if known is not None:
            return known
        found = self._indexed(cached, namespace, selector, behind)
        if found is None:
            ranged = kind in NAMED_BY_REPOSITORY
            found = (await cut_page(snapshot, namespace, selector, 0, None, self.turns, behind, ranged=ranged)).runs
        answers.put(namespace, selector, behind, found)
        return found

    def _indexed(
        self, cached: CachedKind, namespace: str | None, selector: Selector, behind: str
    ) -> Sequence[Run] | None:
        """The answer from an index, when the selector names one object, or something indexed; None: scan."""
        required = selector.required
        if namespace is not None and "metadata.name" in required:
            names: Sequence[Name] = [(namespace, required["metadata.name"])]
        elif (candidates := cached.indexes.candidates(required)) is not None:
            if len(candidates) * selector.cost > TURN_COST:
                return None
            names = sorted(candidates, key=lambda name: (bool(behind) and name[0] != namespace, name))
        else:
            return None
        found = [entry for name in names if (entry := cached.by_name.get(name)) is not None]
        matching = tuple(
            entry
            for entry in found
            if (namespace is None or entry.name[0] in (namespace, behind))
            and selector.matches(entry.labels, entry.fields)
        )
        return [Run(matching, None)] if matching else []

    # --- keeping in step ---

    async def run(self) -> NoReturn:
        """Follow the store until cancelled; survives any failure of it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_for_ever(), name="watch cache: follow")
            group.create_task(self._at.answer_questions(), name="watch cache: barrier")
            group.create_task(self._at.doubt(), name="watch cache: is the store away")
            group.create_task(self._at.press_on(), name="watch cache: start")
            group.create_task(self._clock(), name="watch cache: clock")
            group.create_task(self.resting.run(), name="watch cache: rest")
            for kind, cached in self._kinds.items():
                for listener in cached.listeners:
                    group.create_task(self._beside(listener), name=f"watch cache: beside {kind}")
        raise AssertionError("the loops above never end")

    async def _beside(self, listener: Listener) -> NoReturn:
        """A listener's work, begun when everything is read: before that nobody is answered, and it would only delay
        the first answers, with a package's search 0.5 s of CPU for 5,000 of them."""
        await self.wait_ready()
        await listener.run()

    async def _follow_for_ever(self) -> NoReturn:
        pause_s, failing, reload = 0.05, False, True
        while True:
            try:
                reload = reload or await self._is_another_store()
                async with self._loaded() if reload else self._store.follow(self.resource_version) as follower:
                    reload = False
                    self._at.follower = follower
                    async for changes in follower:
                        await self._apply(changes)
                        if failing:
                            log.info("etcd answers again", extra={"resource_version": self.resource_version})
                        pause_s, failing = 0.05, False
            except Compacted:
                log.warning("fell behind etcd's compaction, reading everything again")
                reload = True
            except EtcdError as exc:
                if not failing:
                    log.warning("etcd is away, serving the last state", extra={"error": str(exc)})
                failing = True
            finally:
                self._at.follower = None
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, 1.0)

    async def _is_another_store(self) -> bool:
        """True when etcd was replaced or restored: its revisions are not the ones that clients know."""
        current = await self._store.current_revision()
        return self._store.cluster_id != self._cluster_id or current < self.resource_version

    @asynccontextmanager
    async def _loaded(self) -> AsyncIterator[Follower]:
        """Read everything and start a new window; watchers of the old one get 410 and list again. Then what follows.

        The first time, as of a while ago: following from there fills the window, so that clients of a server that
        was restarted resume instead of listing again. Ready once the present is reached.
        """
        present = await self._store.current_revision()
        # Where only a mark shows how far the watch is, and etcd is too full to take it, the present is all there is.
        backs = _LOOK_BACK if not self.ready and await self._at.ask_progress(present) else (0,)
        for back in backs:
            # Never revision 1, an etcd's empty beginning: Kubernetes' clients expect it to be too old.
            revision = min(max(present - back, 2), present)
            async with AsyncExitStack() as stack:
                try:
                    # Followed before it is read, so that etcd replays while we read; etcd/watch.py bounds what waits.
                    follower = await stack.enter_async_context(self._store.follow(revision))
                    await self._load_at(revision)
                except Compacted:
                    continue
                self._at.goal = present
                self._advance(self.resource_version, set())
                yield follower
                return
        raise Compacted("the revision was compacted while it was read")

    async def _load_at(self, at_revision: int) -> None:
        filled = {kind: Filling() for kind in self._kinds}
        names: dict[bytes, Name] = {}
        refused = Refused()
        reading = self.resting.reading()
        with never_collected(beside=self.ready):
            async with aclosing(self._store.read_all(at_revision)) as pages:
                async for page in pages:
                    for at in range(0, len(page.changes), _SLICE):
                        self._fill(filled, names, page.changes[at : at + _SLICE], refused)
                        await asyncio.sleep(0)
                    size = sum(len(change.value) for change in page.changes if change.value is not None)
                    await reading.grown([each.state for each in filled.values()], size)
        refused.tell()
        for kind, cached in self._kinds.items():
            cached.begin(filled[kind], at_revision)
            cached.watchers.wake()
        self._names = names
        self.past.clear()
        self._cluster_id = self._store.cluster_id
        self._at.heard()
        self._at.advance(at_revision)
        metrics.cache_initializations.inc()

    def _fill(
        self, filled: Mapping[Kind, Filling], names: dict[bytes, Name], changes: Sequence[Change], refused: Refused
    ) -> None:
        for kind, some in itertools.groupby(changes, key=_KIND_OF):
            if kind not in filled:
                continue
            entries: list[Entry] = []
            for change in some:
                entry = self._maker.made(change, refused)
                if entry is not None:
                    entries.append(entry)
                    if entry.has_own_key:
                        names[change.key] = entry.name
            filled[kind].take(entries)

    async def _apply(self, changes: Changes) -> None:
        """Take in whole revisions, a slice at a time, and wake who waits."""
        touched: set[Kind] = set()
        refused = Refused()
        self._at.heard()
        batch = [change for change in changes.changes if change.mod_revision > self.resource_version]
        # Of one revision what is put comes first: an object that moves to another key is changed, not gone and new.
        batch.sort(key=lambda change: (change.mod_revision, change.value is None))
        for kind, count in Counter(change.kind for change in batch if change.kind in self._kinds).items():
            metrics.cache_events_received.labels(kind.value).inc(count)
        for at in range(0, len(batch), _SLICE):
            for change in batch[at : at + _SLICE]:
                if change.kind in self._kinds:
                    self._apply_one(change, refused)
                    touched.add(change.kind)
            if at + _SLICE < len(batch) and batch[at + _SLICE].mod_revision > batch[at + _SLICE - 1].mod_revision:
                self._advance(batch[at + _SLICE - 1].mod_revision, touched)
                await asyncio.sleep(0)
        refused.tell()
        self._advance(max(changes.revision, self.resource_version), touched)

    def _advance(self, revision: int, touched: set[Kind]) -> None:
        was_ready = self.ready
        self._at.advance(revision)
        if self.ready and not was_ready:
            objects = sum(len(cached.state) for cached in self._kinds.values())
            log.info("cache filled", extra={"resource_version": revision, "objects": objects})
        for kind in touched:
            self._kinds[kind].watchers.wake()
        touched.clear()

    def _apply_one(self, change: Change, refused: Refused) -> None:
        cached = self._kinds[change.kind]
        entry = self._maker.made(change, refused)
        name = self._carried(cached, change.key)
        if name is not None and (entry is None or entry.name != name):
            self._names.pop(change.key, None)
            left = cached.gone(change.key, name, change.mod_revision)
            if left is not None:
                cached.window.append(Event(change.mod_revision, *left))
        if entry is not None:
            if entry.has_own_key:
                self._names[change.key] = entry.name
            cached.window.append(Event(change.mod_revision, cached.written(entry), entry))

    def _carried(self, cached: CachedKind, key: bytes) -> Name | None:
        """The name of the object that this key has; None: it has none."""
        if (name := self._names.get(key)) is not None:
            return name
        name = named_after(cached.kind, key)
        held = cached.by_name.get(name)
        return name if (held is not None and held.key == key) or key in cached.shadowed.get(name, ()) else None

    async def _clock(self) -> NoReturn:
        """Once a second: time out waiting watchers, drop cancelled readers, set the gauges."""
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            self._at.forget_the_gone()
            self.past.forget_idle(now)
            for kind, cached in self._kinds.items():
                cached.watchers.wake(due_before=now)
                metrics.storage_objects.labels(kind.value).set(len(cached.state))
            metrics.cache_resource_version.set(self.resource_version)
            metrics.cache_lag_seconds.set(self.stale_for_s)
            metrics.window_events.set(sum(len(cached.window) for cached in self._kinds.values()))
            metrics.window_bytes.set(sum(cached.window.bytes for cached in self._kinds.values()))
