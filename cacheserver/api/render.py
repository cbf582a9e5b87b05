"""Lists at the speed of memory: answers are joins of ready bytes, plain or gzipped, and remembered while they hold.

What is made from a segment of the state (rows, compressed pieces) is kept on that segment and goes with it: after a
change, one segment of many is made anew. Called by verbs; parses no JSON except to print it for people.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from cacheserver.api.forms import FOREVER, Envelope, Form, ItemMaker, Shape, item_maker
from cacheserver.api.http import pack
from cacheserver.api.http.pack import Packed
from cacheserver.api.http.reply import GZIPPED, Reply
from cacheserver.api.kinds.resource import Resource
from cacheserver.cache.snapshot import Entry, Run
from cacheserver.slotted import slotted

GZIP_ABOVE: Final = 128 << 10  # bytes; k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/writers.go
MEMO_BYTES: Final = 32 << 20  # of finished lists, all together; when full, the least recently used goes
_MEMO_LISTS: Final = 32  # each holds on to the segments it was made of, so their number has a bound too

_CHUNK: Final = 1 << 20  # bytes joined in one turn of the loop, where they are kept: under 1 ms
_PASSING_CHUNK: Final = 192 << 10  # where they are not: larger blocks are mapped anew each time (server/memory.py)
_AT_ONCE: Final = 64 << 10  # bytes that are joined before anybody asks for them: a few objects, in 5 us
_ROWS_A_TURN: Final = 200  # rows made in one turn of the loop: 3 ms where their cells are asked for the first time
_PACK_A_TURN: Final = 4 << 20  # bytes compressed by one call in a thread: about 5 ms


@slotted(frozen=True)
class Listing:
    """One list to be sent. whole: nothing was left out by selector, limit or token, so it is worth remembering."""

    resource: Resource
    namespace: str
    form: Form
    runs: Sequence[Run]
    envelope: Envelope
    whole: bool


@slotted(frozen=True)
class _Piece:
    """Ready items of one run, joined by commas. true_until: in seconds since the epoch, for the ages in it."""

    items: bytes
    true_until: int


@slotted(frozen=True)
class _PackedPiece:
    packed: Packed
    true_until: int


@slotted(frozen=True)
class _Remembered:
    """made_of: the segments (or entries) of the list; the same ones mean the same list."""

    made_of: Sequence[object]
    true_until: int
    chunks: Sequence[bytes]
    packed: Packed | None
    cost: int


_Key = tuple[str, str, Form, bool]


class Renderer:
    """One per process. Memory: `memo_bytes` of finished lists, and kept pieces on the segments of the live state."""

    def __init__(self, now: Callable[[], float], memo_bytes: int = MEMO_BYTES) -> None:
        """now: seconds since the epoch."""
        self._now = now
        self._memo_bytes = memo_bytes
        self._memo: OrderedDict[_Key, _Remembered] = OrderedDict()
        self._memo_cost = 0
        self._packing = asyncio.Lock()  # one packer: a crowd of first readers shares its work

    async def reply(self, listing: Listing, *, gzip: bool, extra: bytes) -> Reply:
        """The answer, compact JSON; gzip: compressed when it is over GZIP_ABOVE."""
        now = int(self._now())
        made_of = tuple(run.segment or run.entries for run in listing.runs)
        envelope = listing.envelope
        around = len(envelope.head) + len(envelope.tail)
        plain = self._recall(listing, made_of, now, packed=False)
        if plain is not None and not gzip:
            size = sum(map(len, plain.chunks))
            return Reply(200, (envelope.head, *plain.chunks, envelope.tail), around + size, extra=extra)
        if gzip:
            packed = self._recall(listing, made_of, now, packed=True)
            if packed is not None and packed.packed is not None:
                return _gzip_reply(envelope, packed.packed, extra)
        if listing.form.shape is Shape.OBJECT:
            return await self._objects(listing, made_of, now, gzip=gzip, extra=extra)
        pieces = await self._pieces(listing, now)
        size = sum(len(piece.items) for piece in pieces) + max(len(pieces) - 1, 0)
        if gzip and around + size > GZIP_ABOVE:
            return _gzip_reply(envelope, await self._packed(listing, made_of, now, pieces), extra)
        true_until = min((piece.true_until for piece in pieces), default=FOREVER)
        chunks = self._joined(listing, made_of, true_until, size, (piece.items for piece in pieces))
        return Reply(200, _around(envelope, chunks), around + size, extra=extra)

    async def _objects(
        self, listing: Listing, made_of: Sequence[object], now: int, *, gzip: bool, extra: bytes
    ) -> Reply:
        """Whole objects: their bodies are ready bytes, so nothing needs making before the size is known."""
        envelope = listing.envelope
        count = sum(len(run.entries) for run in listing.runs)
        size = sum(map(_bytes_of, listing.runs)) + max(count - 1, 0)
        around = len(envelope.head) + len(envelope.tail)
        if gzip and around + size > GZIP_ABOVE:
            return _gzip_reply(envelope, await self._packed(listing, made_of, now, None), extra)
        if size <= _AT_ONCE and not listing.whole:
            items = b",".join([entry.body for run in listing.runs for entry in run.entries])
            return Reply(200, (envelope.head, items, envelope.tail), around + size, extra=extra)
        entries = [entry for run in listing.runs for entry in run.entries]
        chunks = self._joined(listing, made_of, FOREVER, size, (entry.body for entry in entries), entries)
        return Reply(200, _around(envelope, chunks), around + size, extra=extra)

    def _joined(
        self,
        listing: Listing,
        made_of: Sequence[object],
        true_until: int,
        size: int,
        items: Iterable[bytes],
        bodies_of: Sequence[Entry] = (),
    ) -> Iterator[bytes]:
        """Items joined by commas in chunks; remembered once all of them were taken.

        bodies_of: whose bodies the items are, if they are any. What is remembered then holds the bodies, too.
        """
        memorable = listing.whole and size <= self._memo_bytes
        chunks: list[bytes] = []
        left = iter(bodies_of)
        for chunk, count in _chunks(items, _CHUNK if memorable else _PASSING_CHUNK):
            if memorable:
                chunks.append(chunk)
                _let_lie_in(chunk, itertools.islice(left, count))
            yield chunk
        if memorable:
            self._remember(listing, _Remembered(made_of, true_until, chunks, None, size), packed=False)

    # --- pieces ---

    async def _pieces(self, listing: Listing, now: int) -> Sequence[_Piece]:
        """Rows of every run, from its segment where they are ready and still true."""
        make = item_maker(listing.resource, listing.form)
        pieces: list[_Piece] = []
        made = 0
        for run in listing.runs:
            ready = run.segment.ready if run.segment is not None and listing.form.kept else None
            piece: _Piece | None = ready.get(listing.form) if ready is not None else None
            if piece is None or piece.true_until <= now:
                piece = _make(run, make, now)
                made += len(run.entries)
                if ready is not None:
                    ready[listing.form] = piece
                if made >= _ROWS_A_TURN:
                    made = 0
                    await asyncio.sleep(0)
            pieces.append(piece)
        return pieces

    async def _packed(
        self, listing: Listing, made_of: Sequence[object], now: int, pieces: Sequence[_Piece] | None
    ) -> Packed:
        """All items, compressed. pieces: None for whole objects."""
        async with self._packing:
            known = self._recall(listing, made_of, now, packed=True)
            if known is not None and known.packed is not None:
                return known.packed
            found: list[_PackedPiece | None] = [_ready(run, listing.form, now) for run in listing.runs]
            missing = [i for i, piece in enumerate(found) if piece is None]
            for batch in _batches(missing, [_bytes_of(run) for run in listing.runs]):
                texts = [pieces[i].items for i in batch] if pieces is not None else None
                made = await asyncio.to_thread(_pack_runs, [listing.runs[i] for i in batch], texts)
                for i, packed in zip(batch, made, strict=True):
                    piece = _PackedPiece(packed, pieces[i].true_until if pieces is not None else FOREVER)
                    found[i] = piece
                    segment = listing.runs[i].segment
                    if segment is not None and (listing.form.kept or pieces is None):
                        segment.ready["gzip", listing.form] = piece
            whole = pack.join([piece.packed for piece in found if piece is not None])
            if listing.whole and len(whole.deflated) <= self._memo_bytes:
                true_until = min((p.true_until for p in pieces), default=FOREVER) if pieces is not None else FOREVER
                cost = len(whole.deflated)
                self._remember(listing, _Remembered(made_of, true_until, (), whole, cost), packed=True)
            return whole

    # --- memory ---

    def _recall(self, listing: Listing, made_of: Sequence[object], now: int, *, packed: bool) -> _Remembered | None:
        if not listing.whole:
            return None
        key = (listing.resource.full_name, listing.namespace, listing.form, packed)
        known = self._memo.get(key)
        if known is None or known.true_until <= now or known.made_of != made_of:
            return None
        self._memo.move_to_end(key)
        return known

    def _remember(self, listing: Listing, remembered: _Remembered, *, packed: bool) -> None:
        key = (listing.resource.full_name, listing.namespace, listing.form, packed)
        previous = self._memo.pop(key, None)
        self._memo_cost += remembered.cost - (previous.cost if previous is not None else 0)
        self._memo[key] = remembered
        while self._memo_cost > self._memo_bytes or len(self._memo) > _MEMO_LISTS:
            _, dropped = self._memo.popitem(last=False)
            self._memo_cost -= dropped.cost


def _chunks(items: Iterable[bytes], size: int) -> Iterator[tuple[bytes, int]]:
    """Texts of about `size` that join to the items with commas between, and how many items each holds."""
    batch: list[bytes] = []
    gathered = 0
    first = 0  # 1: the batch begins with an empty item, for the comma behind the last chunk
    for item in items:
        batch.append(item)
        gathered += len(item)
        if gathered >= size:
            yield b",".join(batch), len(batch) - first
            batch, gathered, first = [b""], 0, 1
    if len(batch) > first:
        yield b",".join(batch), len(batch) - first


def _let_lie_in(chunk: bytes, entries: Iterable[Entry]) -> None:
    at = 1 if chunk.startswith(b",") else 0
    for entry in entries:
        entry.lies_in(chunk, at)
        at += entry.size + 1


def _around(envelope: Envelope, chunks: Iterable[bytes]) -> Iterator[bytes]:
    yield envelope.head
    yield from chunks
    yield envelope.tail


def _gzip_reply(envelope: Envelope, items: Packed, extra: bytes) -> Reply:
    parts = tuple(pack.member((pack.stored(envelope.head), items, pack.stored(envelope.tail))))
    return Reply(200, parts, sum(map(len, parts)), extra=GZIPPED + extra)


def _bytes_of(run: Run) -> int:
    """Bytes of the run's bodies."""
    return run.segment.size if run.segment is not None else sum(entry.size for entry in run.entries)


def _make(run: Run, make: ItemMaker, now: int) -> _Piece:
    items, true_for = zip(*(make(entry, now) for entry in run.entries), strict=True)
    return _Piece(b",".join(items), now + min(true_for))


def _ready(run: Run, form: Form, now: int) -> _PackedPiece | None:
    if run.segment is None:
        return None
    piece: _PackedPiece | None = run.segment.ready.get(("gzip", form))
    return piece if piece is not None and piece.true_until > now else None


def _batches(indices: Sequence[int], sizes: Sequence[int]) -> Iterator[Sequence[int]]:
    """Neighbouring indices, about _PACK_A_TURN bytes together."""
    batch: list[int] = []
    gathered = 0
    for i in indices:
        batch.append(i)
        gathered += sizes[i]
        if gathered >= _PACK_A_TURN:
            yield batch
            batch, gathered = [], 0
    if batch:
        yield batch


def _pack_runs(runs: Sequence[Run], texts: Sequence[bytes] | None) -> list[Packed]:
    """In a thread. texts: ready items of each run; None for whole objects."""
    return pack.pack(texts or [b",".join([entry.body for entry in run.entries]) for run in runs])
