"""All watchers of one resource and form: served together, by one task, whatever each of them selects.

Resuming a task for each watcher of a crowd costs more than writing to its connection; so one task writes to all of
them, and matches each change once with the audiences that it may concern (audience.py), not with every watcher. Only
who keeps up follows; the others are let go and catch up alone (watch.py), then follow again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from cacheserver.api.forms import Form, Framer
from cacheserver.api.http.accounting import WatchMeters
from cacheserver.api.http.reply import Framed, Framing, framed
from cacheserver.api.kinds.resource import Resource
from cacheserver.api.selectors import Selection
from cacheserver.api.watching.audience import Audience, Audiences
from cacheserver.api.watching.beginning import PACKING, Beginnings
from cacheserver.cache.watchcache import Event, EventType, Watch
from cacheserver.errors import Expired
from cacheserver.memo import Memo
from cacheserver.slotted import slotted
from cacheserver.turns import Turns

log = logging.getLogger(__name__)

_BATCHES_BYTES: Final = 8 << 20  # of all channels: watchers that catch up from the same place ask for the same ones
_JOINED_BYTES: Final = 4 << 20  # kept while a crowd is served: audiences that see the same get the same bytes
_TURN_WATCHERS: Final = 256  # served in one turn of the loop: 1 to 2 ms
_TURN_BYTES: Final = 4 << 20  # written in one turn: TLS encrypts about 2 GB/s
_TURN_ALONE_BYTES: Final = 256 << 10
"""Framed and written in one turn for those who are sent what is theirs alone, the state at their beginning above all: a
thousand who begin at once, and yield after each piece, are still a thousand pieces before a GET has its next turn."""
_TURN_MATCHED: Final = 1024  # of a selection's cost, matched before the others are asked for the next turn
PAUSE_S: Final = 80e-6
"""For each watcher reached: some 4 times what sending it 3 events takes over TLS, 8 times what one takes without."""
PAUSE_MOST_S: Final = 0.027
"""So that an event is with 1,000 watchers in less than 50 ms."""
_WAIT_S: Final = 3600.0  # nothing depends on it: a channel without events looks again


@slotted(frozen=True)
class Batch:
    """Frames of some events, joined and ready to send. last: resource version of the last one, 0: empty."""

    framed: Framed
    count: int
    last: int

    @property
    def packed(self) -> int:
        """What compressing it took, as bytes that could have been written instead; 0 where it was not."""
        saved = self.framed.size - len(self.framed.data)
        return PACKING * self.framed.size if saved > 0 else 0


_EMPTY: Final = Batch(Framed(b"", 0), 0, 0)


class Follower(Protocol):
    """A watcher, as a channel knows it. watch: what it has been sent."""

    watch: Watch

    def deliver(self, batch: Batch) -> bool:
        """Write, without waiting; never raises. False: the client does not take it as fast, or is gone."""

    def let_go(self) -> None:
        """It follows no more, and has to go on from `watch` alone. Must not run anything of its own at once."""


class Shared:
    """What all channels of a process have in common."""

    def __init__(self, turns: Turns, now: Callable[[], float]) -> None:
        """now: seconds since the epoch."""
        self.turns = turns
        self.alone = Turns(_TURN_ALONE_BYTES)
        self.now = now
        self.batches = Memo[tuple[Audience, Event, Event, bool], Batch](_BATCHES_BYTES)
        self.beginnings = Beginnings(self.alone)
        self._reached: dict[Channel, tuple[float, int]] = {}

    def pause_s(self, channel: Channel, reached: int) -> float:
        """How long `channel` lets events gather, having reached so many: by how many all have reached lately."""
        now = time.monotonic()
        self._reached[channel] = (now, reached)
        lately = sum(count for at, count in self._reached.values() if now - at <= PAUSE_MOST_S)
        return min(lately * PAUSE_S, PAUSE_MOST_S)

    def forget(self, channel: Channel) -> None:
        """The channel ended: whom it reached counts for no pause."""
        self._reached.pop(channel, None)


_Sights = tuple[int, ...]
"""What an audience sees of some events, oldest first: the place of each among them and its type, in one number."""

_Key = tuple[str, _Sights]
"""Who is sent the same bytes: a framing's value, and what is seen."""

_TYPES: Final = (EventType.ADDED, EventType.MODIFIED, EventType.DELETED)


class Channel:
    """See the module. `run` is a task of the owner's."""

    def __init__(self, resource: Resource, form: Form, meters: WatchMeters, shared: Shared, cursor: Watch) -> None:
        """cursor: of the resource's events, from now on."""
        self.framer = Framer(resource, form)
        self._meters = meters
        self._shared = shared
        self._audiences: dict[tuple[str, str, str], Audience] = {}
        self._index = Audiences()
        # `_taken` has the events that are being matched. `_cursor` has them once they are. Every follower is in one of
        # three places: `level` in its audience: with the cursor; `waiting` for its turn, level with `_before`;
        # `_ahead` of the cursor, at its own place. While events are matched nobody waits, and all are level or ahead.
        self._taken = cursor
        self._cursor = cursor.from_now()
        self._before = cursor.from_now()
        self._ahead: dict[Follower, Audience] = {}
        self._waiting: Sequence[Audience] = ()

    @property
    def alone(self) -> Turns:
        """Bytes that watchers are sent by themselves, of all channels together."""
        return self._shared.alone

    @property
    def beginnings(self) -> Beginnings:
        """What watchers begin with, of all channels together."""
        return self._shared.beginnings

    # --- who follows ---

    def join(self, namespace: str, selection: Selection, framing: Framing) -> Audience:
        """The audience of all who watch this so; needs its quit(). namespace: empty for all."""
        key = (namespace, selection.text, framing.value)
        audience = self._audiences.get(key)
        if audience is None:
            audience = self._audiences[key] = Audience(namespace or None, selection, framing)
            self._index.add(audience)
        audience.users += 1
        return audience

    def quit(self, audience: Audience) -> None:
        """Once for each join()."""
        audience.users -= 1
        if not audience.users:
            self._index.remove(audience)
            del self._audiences[audience.namespace or "", audience.selection.text, audience.framing.value]

    def follow(self, follower: Follower, audience: Audience) -> bool:
        """Send it from now on what comes behind its `watch`, until it is let go of or leaves.

        False: it is behind, and has to catch up first: its `watch` has something new.
        """
        # Not the cursor: an audience that came after events were taken is not among those they are matched with.
        lead = follower.watch.lead_on(self._taken)
        if lead is None or lead < 0:
            return False
        if lead or follower.watch.lead_on(self._cursor):
            self._ahead[follower] = audience
        else:
            audience.level[follower] = None
        return True

    def leave(self, follower: Follower, audience: Audience) -> None:
        """Brings its `watch` up to date; nothing happens to one that does not follow."""
        if follower in audience.level:
            del audience.level[follower]
            follower.watch.go_to(self._cursor)
        elif follower in audience.waiting:
            del audience.waiting[follower]
            follower.watch.go_to(self._before)
        else:
            self._ahead.pop(follower, None)

    # --- delivering ---

    async def run(self) -> None:
        """Serve all who follow, until cancelled."""
        try:
            while True:
                await self._turn()
        finally:
            self._shared.forget(self)

    async def _turn(self) -> None:
        try:
            events = await self._taken.next(timeout_s=_WAIT_S)
            reached = await self._deliver(events)
        except Expired:
            # Each of them learns that for itself; what comes next goes to those who begin anew.
            self._let_all_go()
            self._taken = self._taken.from_now()
        except Exception:
            log.exception("sending to watchers failed, each goes on alone")
            self._let_all_go()
        else:
            await (asyncio.sleep(0) if self._taken.more else self._pause(reached))
        self._cursor.go_to(self._taken)
        self._before.go_to(self._taken)

    async def batch(self, audience: Audience, events: Sequence[Event], *, columns: bool = False) -> Batch:
        """What a watcher gets of these events. columns: the first one sent carries a Table's columns."""
        # Not by resource version: after the store was replaced, the same versions can mean other events.
        key = (audience, events[0], events[-1], columns)
        known = self._shared.batches.get(key)
        if known is not None:
            return known
        selection = audience.selection
        if not selection.everything:
            await self._shared.turns.spend(2 * len(events) * selection.cost)
        sights = [sight for n, event in enumerate(events) if (sight := _sight(n, event, audience)) is not None]
        made = self._join(events, tuple(sights), audience.framing, {}, columns=columns)
        held = len(made.framed.data) + 2 * (events[0].size + events[-1].size) + selection.size
        self._shared.batches.put(key, made, held)
        return made

    async def _deliver(self, events: Sequence[Event]) -> int:
        """Returns how many watchers got something."""
        concerned = await self._match(events)
        self._before.go_to(self._cursor)
        self._cursor.go_to(self._taken)
        for audience in concerned:
            audience.waiting, audience.level = audience.level, {}
        self._waiting = list(concerned)
        reached = await self._deliver_ahead(events)
        readers: Counter[_Key] = Counter()
        keys = {audience: (audience.framing.value, tuple(seen)) for audience, seen in concerned.items()}
        for audience, key in keys.items():
            readers[key] += len(audience.waiting)
        joined: dict[_Key, Batch] = {}
        frames: dict[int, bytes] = {}
        kept = turn = written = 0
        for audience, key in keys.items():
            if not audience.waiting:
                continue
            batch = joined.get(key)
            if batch is None:
                batch = self._join(events, key[1], audience.framing, frames, readers=readers[key])
                kept += len(batch.framed.data)
                if kept > _JOINED_BYTES:
                    joined, kept = {}, len(batch.framed.data)
                joined[key] = batch
                written += batch.packed
            while audience.waiting:
                follower, _ = audience.waiting.popitem()
                audience.level[follower] = None
                self._deliver_one(follower, audience, batch)
                turn += 1
                written += len(batch.framed.data)
                if turn >= _TURN_WATCHERS or written >= _TURN_BYTES:
                    reached, turn, written = reached + turn, 0, 0
                    await asyncio.sleep(0)  # others get their turn, and the loop writes
        self._waiting = ()
        return reached + turn

    async def _match(self, events: Sequence[Event]) -> dict[Audience, list[int]]:
        """Who sees something of these events, and what."""
        concerned: dict[Audience, list[int]] = {}
        owed = 0
        for n, event in enumerate(events):
            for audience in self._index.concerned(event):
                if not audience.selection.everything:
                    owed += 2 * audience.selection.cost
                    if owed >= _TURN_MATCHED:
                        await self._shared.turns.spend(owed)
                        owed = 0
                sight = _sight(n, event, audience)
                if sight is not None:
                    concerned.setdefault(audience, []).append(sight)
        return concerned

    async def _deliver_ahead(self, events: Sequence[Event]) -> int:
        """Those who are ahead get what they have not taken of `events`, and are level then."""
        reached = 0
        for follower, audience in list(self._ahead.items()):
            lead = follower.watch.lead_on(self._cursor)
            if lead is not None and lead > 0:
                continue
            batch = await self.batch(audience, events[lead:]) if lead else _EMPTY
            if follower not in self._ahead or follower.watch.lead_on(self._cursor) != lead:
                continue  # it left meanwhile, or came back from elsewhere
            del self._ahead[follower]
            if lead is None:  # the cache was rebuilt; its own cursor notices
                follower.let_go()
                continue
            audience.level[follower] = None
            if batch.count:
                self._deliver_one(follower, audience, batch)
                reached += 1
        return reached

    def _deliver_one(self, follower: Follower, audience: Audience, batch: Batch) -> None:
        self._meters.events.inc(batch.count)
        self._meters.sent_bytes.inc(len(batch.framed.data))
        if not follower.deliver(batch):
            self.leave(follower, audience)
            follower.let_go()

    def _let_all_go(self) -> None:
        for audience in (*self._audiences.values(), *self._waiting):
            for follower in (*audience.level, *audience.waiting):
                self.leave(follower, audience)
                follower.let_go()
        for follower in list(self._ahead):
            del self._ahead[follower]
            follower.let_go()
        self._waiting = ()

    async def _pause(self, reached: int) -> None:
        """Let events gather, so that under load a crowd takes several with each write; a lone one has gone out."""
        pause_s = self._shared.pause_s(self, reached)
        if pause_s >= 0.001:
            await asyncio.sleep(pause_s)

    def _join(
        self,
        events: Sequence[Event],
        sights: _Sights,
        framing: Framing,
        frames: dict[int, bytes],
        *,
        columns: bool = False,
        readers: int = 1,
    ) -> Batch:
        """frames: what was made of these events before, without columns, by sight; added to. readers: known ones."""
        if not sights:
            return _EMPTY
        pieces: list[bytes] = []
        for sight in sights:
            if columns and not pieces:
                pieces.append(self._frame(events, sight, columns=True))
                continue
            frame = frames.get(sight)
            if frame is None:
                frame = frames[sight] = self._frame(events, sight)
            pieces.append(frame)
        last = events[sights[-1] // len(_TYPES)].resource_version
        return Batch(framed(pieces, framing, readers=readers), len(pieces), last)

    def _frame(self, events: Sequence[Event], sight: int, *, columns: bool = False) -> bytes:
        event, type_ = events[sight // len(_TYPES)], _TYPES[sight % len(_TYPES)]
        entry = event.deleted if type_ is EventType.DELETED else event.new
        assert entry is not None
        return self.framer.frame(type_.value, entry, int(self._shared.now()), columns=columns)


def _sight(n: int, event: Event, audience: Audience) -> int | None:
    """None: the audience does not see the event."""
    type_ = event.seen_by(audience.namespace, audience.selection)
    return None if type_ is None else n * len(_TYPES) + _TYPES.index(type_)
