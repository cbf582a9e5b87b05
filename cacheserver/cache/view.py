"""A kind whose objects are made of a stored kind's, one of each: listed from its state, watched through its window.

Nothing is kept for such a kind but what is worth remembering while somebody lists or watches it, so one that nobody
asks for costs nothing. Versions are the stored object's: any replica, and one that was restarted, says the same.
Knows no HTTP, and not what is made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Final

from cacheserver.cache.snapshot import Entry, Run, Segment
from cacheserver.cache.window import TAKE_BYTES, Event, restamped
from cacheserver.errors import EtcdError
from cacheserver.memo import Memo
from cacheserver.slotted import slotted

log = logging.getLogger(__name__)

_MEMO_BYTES: Final = 4 << 20  # of objects, and as much of events: what many watchers catch up on is made once
_SLICE: Final = 8  # events made in one turn of the loop, two objects each: under 1 ms; and held, however large
_AGAIN_S: Final = 1.0


@slotted(frozen=True)
class Completed:
    """Entries in the order asked for. lasting: they are whole, and the same when asked for again."""

    entries: Sequence[Entry]
    lasting: bool = True


class View:
    """One a kind and form; see the module.

    The entries that `make` and `complete` give carry name, resource version, labels and fields of their source, so
    selectors are matched before anything is made, and their metadata begins with the resource version.
    """

    def __init__(
        self,
        make: Callable[[Entry], Entry | None],
        complete: Callable[[Sequence[Entry]], Awaitable[Completed]] | None = None,
        *,
        memo_bytes: int = _MEMO_BYTES,
        weigh: Callable[[Entry], int] | None = None,
    ) -> None:
        """make: from a stored entry, by that alone, in under 50 us; None: it is not shown. What it gives decides
        whether there is a change.

        complete: from stored entries that are shown, with what has to be read for it; None: `make` says all. Raises:
        EtcdError. memo_bytes: of objects, and as much of events. weigh: bytes of what is made of a stored entry, about,
        where that can be large: then a watcher's initial state is made while it is sent, some at a time.
        """
        self._make = make
        self._complete = complete
        self._objects = Memo[Entry, Entry](memo_bytes)
        self._events = Memo[Event, Event](memo_bytes)
        self._weigh = weigh
        self.while_sent = weigh is not None

    def forget(self) -> None:
        """Nobody watches any more."""
        self._objects.clear()
        self._events.clear()

    async def runs(self, runs: Sequence[Run]) -> Sequence[Run]:
        """Runs of this kind for runs of its source's; kept on their segments. Raises: EtcdError."""
        out: list[Run] = []
        for run in runs:
            known: Segment | None = run.segment.ready.get(self) if run.segment is not None else None
            if known is None:
                made = await self._whole(run.entries)
                known = Segment(tuple(made.entries))
                if run.segment is not None and made.lasting:
                    run.segment.ready[self] = known
                await asyncio.sleep(0)
            out.append(Run(known.entries, known if run.segment is not None else None))
        return out

    async def at_last(self, run: Run) -> AsyncGenerator[Run, None]:
        """Runs of this kind for one of its source's, as much at once as a watcher takes, and always one; kept nowhere.
        Asked for again while the store does not answer."""
        part: list[Entry] = []
        size = 0
        for entry in run.entries:
            weight = self._weigh(entry) if self._weigh is not None else entry.size
            if part and size + weight > TAKE_BYTES:
                yield Run(tuple(await self._whole_at_last(part)), None)
                part, size = [], 0
            part.append(entry)
            size += weight
        yield Run(tuple(await self._whole_at_last(part)), None)

    async def events(self, events: Sequence[Event]) -> Sequence[Event]:
        """What the first of these events are to this kind, one for one, at the same versions; see Event.unseen.

        As many as a watcher takes at once, and always one: an object can be much larger here than its source is.
        While the store does not give what is needed it is asked again each second: whoever waits has its own limit.
        """
        made: list[Event] = []
        size = 0
        step = 1 if self._are_large(events) else _SLICE
        for at in range(0, len(events), step):
            for event in await self._some(events[at : at + step]):
                size += 0 if event.unseen else event.size
                if size > TAKE_BYTES and made:
                    return made
                made.append(event)
        return made

    def _are_large(self, events: Sequence[Event]) -> bool:
        """Whether _SLICE of them, two objects each, are more than a watcher takes at once."""
        weigh = self._weigh
        return weigh is not None and any(
            2 * _SLICE * weigh(entry) > TAKE_BYTES for event in events for entry in (event.old, event.new) if entry
        )

    async def _some(self, sources: Sequence[Event]) -> Sequence[Event]:
        found = [self._events.get(source) for source in sources]
        made = [known or self._changed(source) for source, known in zip(sources, found, strict=True)]
        lacking = [at for at, event in enumerate(made) if found[at] is None and not event.unseen]
        if self._complete is not None and lacking:
            # What is shown of each: never both of nothing, for then nobody sees a change.
            parts = {at: (_if(sources[at].old, made[at].old), _if(sources[at].new, made[at].new)) for at in lacking}
            whole = iter(await self._whole_at_last([entry for pair in parts.values() for entry in pair if entry]))
            for at, pair in parts.items():
                old, new = (next(whole) if entry is not None else None for entry in pair)
                made[at] = Event(sources[at].resource_version, old, new)
        for source, event, known in zip(sources, made, found, strict=True):
            if known is None:
                old_size = event.old.size if event.old is not None else 0
                self._events.put(source, event, 2 * source.size + event.size + old_size + 1000)
        await asyncio.sleep(0)
        return made

    async def _whole_at_last(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        failing = False
        while True:
            try:
                return (await self._whole(entries)).entries
            except EtcdError as exc:
                if not failing:
                    log.warning("what watchers are to see cannot be read, trying again", extra={"error": str(exc)})
                failing = True
                await asyncio.sleep(_AGAIN_S)

    async def _whole(self, entries: Sequence[Entry]) -> Completed:
        if self._complete is None:
            return Completed([made for entry in entries if (made := self._made(entry)) is not None])
        return await self._complete(entries)

    def _changed(self, source: Event) -> Event:
        old, new = (self._made(entry) if entry is not None else None for entry in (source.old, source.new))
        if old is None and new is None:
            hidden = source.new or source.old
            return Event(source.resource_version, hidden, hidden)
        if old is not None and new is not None and _alike(old, new):
            old = new
        return Event(source.resource_version, old, new)

    def _made(self, entry: Entry) -> Entry | None:
        made = self._objects.get(entry)
        if made is None:
            made = self._make(entry)
            if made is not None:
                self._objects.put(entry, made, entry.size + made.size + 1000)
        return made


def _if(source: Entry | None, shown: Entry | None) -> Entry | None:
    return source if shown is not None else None


def _alike(old: Entry, new: Entry) -> bool:
    """Whether they differ in nothing that any form shows or any selector sees but the version."""
    return (
        old.labels == new.labels
        and old.fields == new.fields
        and old.cells == new.cells
        and restamped(old, new.resource_version).body == new.body
    )
