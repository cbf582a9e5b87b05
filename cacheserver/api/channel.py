"""All watchers of one resource, namespace, selection and form: told together, by one task, from one piece of bytes.

Resuming a task for each watcher of a crowd costs more than writing to its connection; so one task writes to all of
them. Only who keeps up follows; the others are let go and catch up alone (watch.py), then follow again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cacheserver.api.accounting import WatchMeters
from cacheserver.api.forms import Form, Framer
from cacheserver.api.query import Selection
from cacheserver.api.reply import framed
from cacheserver.api.resource import Resource
from cacheserver.errors import Expired
from cacheserver.watchcache import Event, Watch

log = logging.getLogger(__name__)

_BATCHES_KEPT: Final = 8  # watchers that catch up from the same place ask for the same ones
_KEPT_BELOW: Final = 1 << 20  # bytes; a larger batch is not remembered
_TURN_WATCHERS: Final = 256  # told in one turn of the loop: 1 to 2 ms
_TURN_BYTES: Final = 4 << 20  # written in one turn: TLS encrypts about 2 GB/s
PAUSE_S: Final = 80e-6
"""For each watcher told: some 4 times what telling it 3 events takes over TLS, 8 times what one takes without."""
PAUSE_MOST_S: Final = 0.027
"""So that an event is with 1,000 watchers in less than 50 ms."""
_WAIT_S: Final = 3600.0  # nothing depends on it: a channel without events looks again


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames of some events, joined and ready to send. last: resource version of the last one, 0: empty."""

    chunk: bytes
    count: int
    last: int


_EMPTY: Final = Batch(b"", 0, 0)


class Follower(Protocol):
    """A watcher, as a channel knows it. watch: what it has been sent."""

    watch: Watch

    def tell(self, batch: Batch) -> bool:
        """Write, without waiting; never raises. False: the client does not take it as fast, or is gone."""

    def let_go(self) -> None:
        """It follows no more, and has to go on from `watch` alone. Must not run anything of its own at once."""


class Channel:
    """See the module. `run` is a task of the owner's."""

    def __init__(
        self,
        resource: Resource,
        namespace: str,
        selection: Selection,
        form: Form,
        meters: WatchMeters,
        now: Callable[[], float],
        cursor: Watch,
        *,
        chunked: bool,
    ) -> None:
        """namespace: empty for all. now: seconds since the epoch. cursor: of the resource's events, from now on.

        chunked: whether the bodies are."""
        self.framer = Framer(resource, form)
        self._namespace = namespace or None
        self._selection = selection
        self._meters = meters
        self._now = now
        self._chunked = chunked
        self._batches: OrderedDict[tuple[Event, Event, bool], Batch] = OrderedDict()
        # The cursor has taken the events that are being told. Every follower is in one of three places: `_told`, level
        # with the cursor; `_waiting` for its turn, level with `_before`; `_ahead` of the cursor, at its own place.
        self._cursor = cursor
        self._before = cursor.from_now()
        self._told: dict[Follower, None] = {}
        self._waiting: dict[Follower, None] = {}
        self._ahead: dict[Follower, None] = {}

    def follow(self, follower: Follower) -> bool:
        """Tell it from now on what comes behind its `watch`, until it is let go of or leaves.

        False: it is behind, and has to catch up first: its `watch` has something new.
        """
        lead = follower.watch.lead_on(self._cursor)
        if lead is None or lead < 0:
            return False
        (self._ahead if lead else self._told)[follower] = None
        return True

    def leave(self, follower: Follower) -> None:
        """Brings its `watch` up to date; nothing happens to one that does not follow."""
        if follower in self._told:
            del self._told[follower]
            follower.watch.go_to(self._cursor)
        elif follower in self._waiting:
            del self._waiting[follower]
            follower.watch.go_to(self._before)
        else:
            self._ahead.pop(follower, None)

    async def run(self) -> None:
        """Tell all who follow, until cancelled."""
        while True:
            try:
                events = await self._cursor.next(timeout_s=_WAIT_S)
                told = await self._tell_all(events) if events else 0
            except Expired:
                # Each of them learns that for itself; what comes next goes to those who begin anew.
                self._let_all_go()
                self._cursor = self._cursor.from_now()
            except Exception:
                log.exception("telling watchers failed, each goes on alone")
                self._let_all_go()
            else:
                await (asyncio.sleep(0) if self._cursor.more else self._pause(told))
            self._before.go_to(self._cursor)

    def batch(self, events: Sequence[Event], *, columns: bool = False) -> Batch:
        """What a watcher gets of these events. columns: the first one sent carries a Table's columns."""
        # Not by resource version: after the store was replaced, the same versions can mean other events.
        key = (events[0], events[-1], columns)
        known = self._batches.get(key)
        if known is not None:
            return known
        made = self._make(events, columns=columns)
        if len(made.chunk) < _KEPT_BELOW:
            self._batches[key] = made
            if len(self._batches) > _BATCHES_KEPT:
                self._batches.popitem(last=False)
        return made

    async def _tell_all(self, events: Sequence[Event]) -> int:
        """Returns how many were told something."""
        self._waiting, self._told = self._told, {}
        told = self._tell_ahead(events)
        batch = self.batch(events) if self._waiting else _EMPTY
        if not batch.count:
            self._told.update(self._waiting)
            self._waiting = {}
            return told
        turn = max(1, min(_TURN_WATCHERS, _TURN_BYTES // len(batch.chunk)))
        while self._waiting:
            for _ in range(min(turn, len(self._waiting))):
                follower, _ = self._waiting.popitem()
                self._told[follower] = None
                self._tell(follower, batch)
                told += 1
            await asyncio.sleep(0)  # others get their turn, and the loop writes
        return told

    def _tell_ahead(self, events: Sequence[Event]) -> int:
        """Those who are ahead get what they have not taken of `events`, and are level then."""
        told = 0
        for follower in list(self._ahead):
            lead = follower.watch.lead_on(self._cursor)
            if lead is not None and lead > 0:
                continue
            del self._ahead[follower]
            if lead is None:  # the cache was rebuilt; its own cursor tells it
                follower.let_go()
                continue
            self._told[follower] = None
            if lead < 0:
                batch = self.batch(events[lead:])
                if batch.count:
                    self._tell(follower, batch)
                    told += 1
        return told

    def _tell(self, follower: Follower, batch: Batch) -> None:
        self._meters.events.inc(batch.count)
        self._meters.sent_bytes.inc(len(batch.chunk))
        if not follower.tell(batch):
            self._let_go(follower)

    def _let_go(self, follower: Follower) -> None:
        self.leave(follower)
        follower.let_go()

    def _let_all_go(self) -> None:
        for follower in (*self._told, *self._waiting, *self._ahead):
            self._let_go(follower)

    async def _pause(self, told: int) -> None:
        """Let events gather, so that under load a crowd takes several with each write; a lone one has gone out."""
        pause_s = min(told * PAUSE_S, PAUSE_MOST_S)
        if pause_s >= 0.001:
            await asyncio.sleep(pause_s)

    def _make(self, events: Sequence[Event], *, columns: bool) -> Batch:
        frames: list[bytes] = []
        last = 0
        now = int(self._now())
        for event in events:
            seen = event.seen_by(self._namespace, self._selection)
            if seen is None:
                continue
            type_, entry = seen
            last = event.resource_version
            frames.append(self.framer.frame(type_.value, entry, now, columns=columns and not frames))
        return Batch(framed(frames, chunked=self._chunked), len(frames), last) if frames else _EMPTY
