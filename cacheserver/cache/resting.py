"""Lets objects rest: where all of them together are many, the bodies of those that do not change are kept packed.

An entry's body never changes, and is the same wherever its bytes lie: so packing needs no lock, may be overtaken by any
write, and nobody who reads knows of it (Entry.body). Called by watchcache, whose task it is.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final, NoReturn

from cacheserver import metrics
from cacheserver.cache.kind import CachedKind
from cacheserver.cache.packed import Group, Unpacked, pack
from cacheserver.cache.snapshot import Entry, Segment, State

PLAIN_BYTES: Final = 64 << 20
"""Of all bodies up to which nothing rests: of 5,000 packages of 3.4 kB, 17 MB, a tenth of them would be saved memory
that nobody misses."""
GROUP_ENTRIES: Final = 32
GROUP_BYTES: Final = 64 << 10
"""Of a group, but always one body: unpacked in 20 to 60 us, of which a GET pays all. 64 would save a tenth more."""
UNPACKED_BYTES: Final = 8 << 20
"""Of groups that were read lately: some 160, of 5,000 objects; let go when nobody asks for a look or two."""
_LOOK_S: Final = (
    5.0  # what has not changed from one look to the next may rest: what a sync just wrote is read by watchers
)
_SEGMENTS_A_TURN: Final = 1_000  # looked at: 1 ms
_READ_BYTES: Final = 8 << 20  # of what is read anew, that is packed before more is read: 20 ms
_BATCH_BYTES: Final = 1 << 20  # packed by one call in a thread: 2 ms; then 700 entries are told, in 0.4 ms


class Resting:
    """See the module. One of a cache."""

    def __init__(self, kinds: Sequence[CachedKind], plain_bytes: int = PLAIN_BYTES) -> None:
        """plain_bytes: of all bodies; with more of them all rest that have not changed for 5 to 10 s."""
        self._kinds = kinds
        self._plain_bytes = plain_bytes
        self._unpacked = Unpacked(UNPACKED_BYTES)

    async def run(self) -> NoReturn:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Have rest what has not changed since the last look, if there is enough of everything."""
        self._unpacked.forget_idle()
        size = resting = 0
        cold: list[Segment] = []
        for segments in self._slices():
            for segment in segments:
                size += segment.size
                if segment.rests:
                    resting += len(segment.entries)
                elif segment.seen:
                    cold.append(segment)
                else:
                    segment.seen = True
            await asyncio.sleep(0)
        if size > self._plain_bytes:
            for batch in _batches(cold):
                resting += await self._rest(batch)
        metrics.resting_objects.set(resting)

    def reading(self) -> Reading:
        """For what is read anew from now on."""
        return Reading(self._rest, self._plain_bytes)

    def _slices(self) -> Iterator[Sequence[Segment]]:
        for cached in self._kinds:
            # What is written meanwhile is in segments of its own, to be seen by the next look.
            segments = cached.state.snapshot(0).segments
            for at in range(0, len(segments), _SEGMENTS_A_TURN):
                yield segments[at : at + _SEGMENTS_A_TURN]

    async def _rest(self, segments: Sequence[Segment]) -> int:
        """Returns how many objects rest."""
        entries = [entry for segment in segments for entry in segment.entries]
        count = 0
        for group, some in await asyncio.to_thread(self._packed, entries):
            for nth, entry in enumerate(some):
                entry.rest(group, nth)
            count += len(some)
        for segment in segments:
            segment.rests = True
        return count

    def _packed(self, entries: Sequence[Entry]) -> list[tuple[Group, Sequence[Entry]]]:
        """In a thread. What is not worth it is left out."""
        made = [(pack([entry.body for entry in some], self._unpacked), some) for some in _groups(entries)]
        return [(group, some) for group, some in made if group is not None]


class Reading:
    """What is read anew, and served when all of it is there: of much it rests at once, for nobody asks for it yet. So a
    start takes no more memory than what comes of it, and leaves no holes where bodies were."""

    def __init__(self, rest: Callable[[Sequence[Segment]], Awaitable[int]], plain_bytes: int) -> None:
        self._rest = rest
        self._plain_bytes = plain_bytes
        self._read = self._plain = 0

    async def grown(self, states: Iterable[State], size: int) -> None:
        """So many bytes were added to these, most of them at their ends; what was added elsewhere rests later."""
        self._read += size
        self._plain += size
        if self._read <= self._plain_bytes or self._plain < _READ_BYTES:
            return
        self._plain = 0
        for state in states:
            whole = state.snapshot(0).segments[:-1]  # the last one grows
            new = list(itertools.takewhile(lambda segment: not segment.rests, reversed(whole)))
            for batch in _batches(new[::-1]):
                await self._rest(batch)


def _batches(segments: Sequence[Segment]) -> Iterator[Sequence[Segment]]:
    batch: list[Segment] = []
    size = 0
    for segment in segments:
        batch.append(segment)
        size += segment.size
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _groups(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    group: list[Entry] = []
    size = 0
    for entry in entries:
        if group and (len(group) == GROUP_ENTRIES or size + entry.size > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(entry)
        size += entry.size
    if group:
        yield group
