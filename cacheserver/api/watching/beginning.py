"""What a watch begins with: ADDED events of the present state, in the order of lists, joined as they are sent.

Of a segment of the state the events look the same to all who begin, but for rows with an age: what is compressed of it
hangs on it, as lists' pieces do, up to a bound over all. Called by watches; writes nothing.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from cacheserver.api.forms import Framer
from cacheserver.api.http import pack
from cacheserver.api.http.pack import Packed
from cacheserver.api.http.reply import Framed, Framing, framed, gzipped
from cacheserver.cache.snapshot import Segment
from cacheserver.cache.watchcache import Page, Watch
from cacheserver.turns import Turns

PACKING: Final = 4
"""Compressing a byte takes as long as sending so many: 1.3 us for 1 KB, sending it over TLS 0.3."""
_BEGUN_BYTES: Final = 16 << 10
"""What a beginning counts before any of it is made: of a thousand that begin together, 16 are made in a turn."""
_SENT_BYTES: Final = 128 << 10  # joined in one turn of the loop
_PACKED_BYTES: Final = 1 << 20  # compressed in one turn: 1.3 ms
_KEPT_BYTES: Final = 16 << 20
"""Of compressed pieces: the state of 20,000 objects of 3.4 KB. With more than that those who begin at the same time
still share, being at about the same place, and who comes later has them made again."""


class Beginnings:
    """Of all watches of a process."""

    def __init__(self, turns: Turns, kept_bytes: int = _KEPT_BYTES) -> None:
        """turns: bytes to be sent, of all who are sent what is theirs alone."""
        self.turns = turns
        self._most = kept_bytes
        self._packing = asyncio.Lock()  # one packer: a crowd that begins at once shares its work
        self._kept: deque[tuple[weakref.ref[Segment], object, int]] = deque()
        self._bytes = 0  # of those that went with their segments, too, until it is their turn

    async def parts(
        self, watch: Watch, page: Page, framer: Framer, framing: Framing, now: int
    ) -> AsyncGenerator[tuple[Framed, int], None]:
        """Each with how many events it is; a Table's columns go with the first. page: of `watch`.

        now: seconds since the epoch.
        """
        columns = framer.has_columns
        if page.runs:
            await self.turns.spend(_BEGUN_BYTES)
        packed: list[Packed] = []
        frames: list[bytes] = []  # behind what is packed
        waits = count = 0
        for whole in page.runs:
            async with aclosing(watch.shown(whole)) as runs:
                async for run in runs:
                    count += len(run.entries)
                    if framing is Framing.GZIP and run.segment is not None and not framer.has_columns:
                        packed += [*await self._pack(frames), await self._of(run.segment, framer, now)]
                        frames = []
                        waits += len(packed[-1].deflated)
                    else:
                        for entry in run.entries:
                            frames.append(framer.frame("ADDED", entry, now, columns=columns))
                            columns = False
                            waits += len(frames[-1])
                    if waits >= _SENT_BYTES:
                        yield await self._part(packed, frames, framing), count
                        packed, frames, waits, count = [], [], 0, 0
        if count:
            yield await self._part(packed, frames, framing), count

    async def _part(self, packed: Sequence[Packed], frames: Sequence[bytes], framing: Framing) -> Framed:
        zipped = framing is Framing.GZIP
        part = gzipped([*packed, *await self._pack(frames)]) if zipped else framed(frames, framing)
        await self.turns.spend(len(part.data))
        return part

    async def _of(self, segment: Segment, framer: Framer, now: int) -> Packed:
        """The events of all its entries."""
        key = ("added", framer.form)
        known: Packed | None = segment.ready.get(key)
        if known is not None:
            return known
        async with self._packing:
            known = segment.ready.get(key)
            if known is None:
                frames = [framer.frame("ADDED", entry, now) for entry in segment.entries]
                known = pack.join(await self._pack(frames), pack.NOTHING)
                self._keep(segment, key, known)
            return known

    async def _pack(self, frames: Sequence[bytes]) -> Sequence[Packed]:
        made: list[Packed] = []
        batch: list[bytes] = []
        size = 0
        for number, frame in enumerate(frames, 1):
            batch.append(frame)
            size += len(frame)
            if size >= _PACKED_BYTES or number == len(frames):
                await self.turns.spend(PACKING * size)
                made += pack.pack((b"".join(batch),))
                batch, size = [], 0
        return made

    def _keep(self, segment: Segment, key: object, piece: Packed) -> None:
        segment.ready[key] = piece
        self._kept.append((weakref.ref(segment), key, len(piece.deflated)))
        self._bytes += len(piece.deflated)
        while self._bytes > self._most:
            holder, key, size = self._kept.popleft()
            self._bytes -= size
            if (there := holder()) is not None:
                there.ready.pop(key, None)
