"""Content by digest in etcd: written once, read as a stream, collected when nothing refers to it any more.

    blob/<sha256>/head    JSON (or zstd of it): size, media type, files, chunks; written last: present means complete
    blob/<sha256>/<nnnn>  the zstd frame in chunks of 512 KiB

Outside the watched prefix: content never makes an event. Called by ingest (write) and the API (read).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path

import orjson
import zstandard

from cacheserver import metrics
from cacheserver.errors import BlobMissingError, Unavailable
from cacheserver.etcd.client import Client, Compare, Delete, Get, KeyValue, Put, RangeResult, prefix_end
from cacheserver.memo import Memo
from cacheserver.model import BlobFile, BlobHead, Digest
from cacheserver.slotted import slotted
from cacheserver.store.keys import BLOB
from cacheserver.store.objects import PIPELINE, Store
from cacheserver.store.zstd import Blocks
from cacheserver.tasks import in_parallel
from cacheserver.turns import Turns

log = logging.getLogger(__name__)

_CHUNK_BYTES = 512 << 10  # ARCHITECTURE.md, decision 3: far below etcd's 1.5 MiB request limit
TURN_BYTES = 512 << 10
"""Unpacked, and written by who reads it, in one turn of the loop for all readers together: about 1 ms."""
_WINDOW_BYTES = 8 << 20  # that a frame may ask the decompressor to remember; ours ask for 2 MiB
_PLAIN_HEAD_BYTES = 32 << 10
_HEADS_KEPT = 4096
_STORED_BYTES = 8 << 20  # remembered: some 16,000 sizes
_COLLECT_AFTER_S = 3600.0
_WALK_KEYS = 8  # etcd loads values also where keys alone are asked for: 8 chunks are 4 MiB of its memory
_PUT_TRIES = 3
_KEYS_AT_ONCE = 120  # of a transaction: etcd takes 128 operations (--max-txn-ops)
_SMALL_BYTES = 64 << 10  # of a packed blob, that is written together with others
_TOGETHER_BYTES = 512 << 10  # of one write of several
_GROUPS_AT_ONCE = 6


class Blobs:
    """See the module. Safe to share between tasks."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._turns = Turns(TURN_BYTES)
        # Immutable by digest, so never stale while the blob exists. When full, the least recently used goes.
        self._heads: OrderedDict[Digest, _Head] = OrderedDict()
        self._stored = Memo[Digest, int](_STORED_BYTES)
        self._unreferenced: dict[bytes, tuple[_Marks, float]] = {}

    # --- read ---

    async def head(self, digest: Digest) -> BlobHead | None:
        """What the blob is, or None when there is none."""
        found = await self._head(digest)
        return found.about if found else None

    async def read(self, digest: Digest) -> AsyncIterator[bytes]:
        """The uncompressed bytes in pieces of 128 KiB at most; one chunk and one piece in memory at a time.

        One question a chunk where the head is remembered.
        Raises: BlobMissingError when the blob, or a part of it, is not there; EtcdError.
        """
        head, chunk = await self._begin(digest)
        try:
            chunks = self._chunks(digest, head, chunk)
            async with aclosing(unpacked(digest, head.about.size, chunks, self._turns)) as pieces:
                async for piece in pieces:
                    yield piece
        except BlobMissingError:
            self._heads.pop(digest, None)
            raise

    async def packed(self, digest: Digest) -> AsyncIterator[bytes]:
        """The blob as it is stored: one zstd frame, in pieces of 512 KiB at most. Raises: as read."""
        head, chunk = await self._begin(digest)
        async with aclosing(self._chunks(digest, head, chunk)) as chunks:
            async for each in chunks:
                yield each

    async def _chunks(self, digest: Digest, head: _Head, first: KeyValue) -> AsyncGenerator[bytes, None]:
        yield first.value
        for index in range(1, head.chunks):
            yield _chunk(digest, index, await self._client.range(_chunk_key(digest, index))).value

    async def _begin(self, digest: Digest) -> tuple[_Head, KeyValue]:
        """The head and the first chunk that belong together. Raises: BlobMissingError."""
        remembered = digest in self._heads
        head = await self._head(digest)
        if head is None:
            raise BlobMissingError(f"content {digest} is not in the store")
        found = await self._client.range(_chunk_key(digest, 0))
        # Another process may have collected the blob since, and stored it anew, perhaps in other chunks: those are
        # younger than the head that is remembered. Chunks are never younger than their own head.
        if remembered and (not found.key_values or found.key_values[0].create_revision > head.created):
            self._heads.pop(digest, None)
            return await self._begin(digest)
        return head, _chunk(digest, 0, found)

    async def _head(self, digest: Digest) -> _Head | None:
        known = self._heads.get(digest)
        if known is not None:
            self._heads.move_to_end(digest)
            return known
        found = (await self._client.range(_key(digest) + b"head")).key_values
        if not found:
            return None
        head = _decode_head(digest, found[0])
        self._heads[digest] = head
        if len(self._heads) > _HEADS_KEPT:
            self._heads.popitem(last=False)
        return head

    # --- write ---

    async def put(self, blob: BlobFile) -> int:
        """Store the blob's file; the head goes last. Returns compressed bytes written. Idempotent.

        Raises: NoSpace, Unavailable (also where its chunks were collected again and again).
        """
        for _ in range(_PUT_TRIES):
            if written := await self._put_once(blob):
                metrics.blob_bytes.inc(written)
                return written
        raise Unavailable(f"content {blob.head.digest} could not be stored whole: its chunks were collected")

    async def put_all(self, blobs: Sequence[BlobFile]) -> None:
        """As put, of each; small ones many in a write. Raises: as put; any of them may be stored then."""
        await in_parallel(_grouped(blobs), self._put_group, width=_GROUPS_AT_ONCE)

    async def _put_group(self, blobs: Sequence[BlobFile]) -> None:
        if len(blobs) == 1:
            await self.put(blobs[0])
            return
        parts = await asyncio.to_thread(lambda: [_part(blob, 0) for blob in blobs])
        heads = [_encode_head(blob.head, 1, len(part)) for blob, part in zip(blobs, parts, strict=True)]
        if sum(map(len, heads)) > _TOGETHER_BYTES:  # of many files each, which no size of theirs tells
            await in_parallel(blobs, self.put, width=_GROUPS_AT_ONCE)
            return
        puts = [
            put
            for blob, part, head in zip(blobs, parts, heads, strict=True)
            for put in (Put(_chunk_key(blob.head.digest, 0), part), Put(_key(blob.head.digest) + b"head", head))
        ]
        await self._client.txn([], puts)
        metrics.blob_bytes.inc(sum(map(len, parts)))

    async def _put_once(self, blob: BlobFile) -> int:
        """Bytes written; 0 when chunks written before the head are not those that are there any more."""
        digest = blob.head.digest
        written = chunks = 0
        first: list[Compare] = []
        chunk = await asyncio.to_thread(_part, blob, 0)
        while len(chunk) == _CHUNK_BYTES:
            await self._client.put(_chunk_key(digest, chunks), chunk)
            if not first:
                # A collection takes all chunks or none: while the first stands, so do the others. By its creation,
                # since another writer of the same content may well put it again.
                stands = (await self._client.range(_chunk_key(digest, 0), keys_only=True)).key_values
                if not stands:
                    return 0
                first = [Compare(_chunk_key(digest, 0), "create_revision", stands[0].create_revision)]
            chunks, written = chunks + 1, written + len(chunk)
            chunk = await asyncio.to_thread(_part, blob, written)
        head = Put(_key(digest) + b"head", _encode_head(blob.head, chunks + 1, written + len(chunk)))
        stored = await self._client.txn(first, [Put(_chunk_key(digest, chunks), chunk), head])
        return written + len(chunk) if stored.succeeded else 0

    async def put_bytes(self, content: bytes, media_type: str, scratch: Path) -> Digest:
        """Store bytes that no file holds yet; returns their digest. Absent and present alike end up present."""
        digest, path = await asyncio.to_thread(_compressed, content, scratch)
        if await self.keep([digest]):
            head = BlobHead(digest, len(content), media_type)
            await self.put(await asyncio.to_thread(BlobFile.whole, head, path))
        return digest

    async def keep(self, digests: Iterable[Digest]) -> set[Digest]:
        """Which of `digests` are absent. Those present are touched, so that a collection under way leaves them."""
        digests = set(digests)
        absent = await self.absent(digests)

        async def touch(digest: Digest) -> None:
            key = _key(digest) + b"head"
            while True:
                found = (await self._client.range(key)).key_values
                if not found:
                    absent.add(digest)
                    return
                same = Compare(key, "mod_revision", found[0].mod_revision)
                if (await self._client.txn([same], [Put(key, found[0].value)])).succeeded:
                    return

        await in_parallel(digests - absent, touch, width=PIPELINE)
        return absent

    async def absent(self, digests: Iterable[Digest]) -> set[Digest]:
        """Which of `digests` are not in the store; touches nothing. Of those that are, etcd loads nothing."""
        missing: set[Digest] = set()

        async def look(some: Sequence[Digest]) -> None:
            asked = [Get(_key(digest) + b"head", count_only=True) for digest in some]
            answers = (await self._client.txn([], asked)).ranges
            missing.update(digest for digest, answer in zip(some, answers, strict=True) if not answer.count)

        every = list(digests)
        batches = [every[at : at + _KEYS_AT_ONCE] for at in range(0, len(every), _KEYS_AT_ONCE)]
        await in_parallel(batches, look, width=PIPELINE)
        return missing

    async def stored_bytes(self, digests: Iterable[Digest]) -> dict[Digest, int]:
        """Packed bytes of those of `digests` that are in the store."""
        found: dict[Digest, int] = {}

        async def look(digest: Digest) -> None:
            known = self._stored.get(digest)
            if known is None:
                heads = (await self._client.range(_key(digest) + b"head")).key_values
                if not heads:
                    return
                known = _stored_bytes(heads[0].value)
                self._stored.put(digest, known, len(digest))
            found[digest] = known

        await in_parallel(digests, look, width=PIPELINE)
        return found

    # --- collect ---

    async def mark(self, digest: Digest) -> int:
        """By which content is recognised as not touched since; 0 where there is none. Raises: Unavailable."""
        found = (await self._client.range(_key(digest) + b"head", keys_only=True)).key_values
        return found[0].mod_revision if found else 0

    async def delete(self, digest: Digest, mark: int) -> bool:
        """Delete content that nothing refers to, unless it was touched since it had this mark; whether it went.

        Who is about to refer to content touches it (keep, put); that must have been longer ago than a write takes.
        Raises: Unavailable.
        """
        same = Compare(_key(digest) + b"head", "mod_revision", mark)
        prefix = _key(digest)
        gone = (await self._client.txn([same], [Delete(prefix, prefix[:-1] + b"0")])).succeeded
        if gone:
            self._heads.pop(digest, None)
        return gone

    async def collect(self, store: Store) -> Collected:
        """Delete content that nothing has referred to for an hour, and chunks that never got their head.

        Call it now and then. Two passes at least: a blob is deleted only if an earlier pass saw it so and unchanged,
        and only while it is the one seen: ingest touches a head before it refers to it, and a writer adds no head to
        chunks that went (see put).
        """
        found = await self._walk()
        referenced = {_key(digest): digest for digest in await store.referenced_blobs()}
        now = time.monotonic()
        seen: dict[bytes, tuple[_Marks, float]] = {}
        for prefix, marks in found.items():
            if prefix not in referenced or not marks.head:
                before, since = self._unreferenced.get(prefix, (marks, now))
                seen[prefix] = (marks, since if before == marks else now)
        self._unreferenced = seen
        deleted = 0
        for prefix, (marks, since) in seen.items():
            if now - since >= _COLLECT_AFTER_S:
                same = [Compare(prefix + b"head", "mod_revision", marks.head)]
                if not marks.head:
                    same.append(Compare(marks.first, "mod_revision", marks.first_at))
                if (await self._client.txn(same, [Delete(prefix, prefix[:-1] + b"0")])).succeeded:
                    deleted += 1
                    self._heads.pop(Digest("sha256:" + prefix.split(b"/")[-2].decode()), None)
        # What was stored after the walk is referred to and was not seen: ask again before calling it lost.
        unseen = [digest for prefix, digest in referenced.items() if prefix not in found or not found[prefix].head]
        return Collected(deleted, await self.absent(unseen))

    async def _walk(self) -> dict[bytes, _Marks]:
        """Every blob of which anything is stored, complete or not, by its prefix."""
        found: dict[bytes, _Marks] = {}
        key, end = BLOB, prefix_end(BLOB)
        while True:
            page = await self._client.range(key, end, limit=_WALK_KEYS, keys_only=True)
            for kv in page.key_values:
                prefix, _, part = kv.key.rpartition(b"/")
                marks = found.setdefault(prefix + b"/", _Marks(kv.key, kv.mod_revision))
                if part == b"head":
                    marks.head = kv.mod_revision
            if not page.more:
                return found
            last, _, part = page.key_values[-1].key.rpartition(b"/")
            # A head is behind its chunks: those that are left of them need not be looked at.
            key = last + b"/head" if part < b"head" else page.key_values[-1].key + b"\0"


@slotted(frozen=True)
class _Head:
    """A head as stored. chunks: how many. created: the mod revision that first wrote it."""

    about: BlobHead
    chunks: int
    created: int


@slotted()
class _Marks:
    """By which a blob is recognised: its first key with the revision that wrote it, and its head's (0: none yet)."""

    first: bytes
    first_at: int
    head: int = 0


@slotted(frozen=True)
class Collected:
    """deleted: how many blobs went. lost: what is referred to and not in the store."""

    deleted: int
    lost: set[Digest]


async def unpacked(
    digest: Digest, size: int, chunks: AsyncGenerator[bytes, None], turns: Turns | None = None
) -> AsyncGenerator[bytes, None]:
    """The `size` bytes that the frame in `chunks` stands for, in pieces of 128 KiB at most; closes `chunks`.

    turns: of bytes, shared with whoever else reads; by default its own.
    Raises: BlobMissingError where the frame is damaged, or longer or shorter than that; what `chunks` raises.
    """
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).decompressobj()
    blocks = Blocks()
    left, turns = size, turns or Turns(TURN_BYTES)
    async with aclosing(chunks):
        async for chunk in chunks:
            for step in _steps(digest, blocks, chunk):
                try:
                    piece = decompressor.decompress(step)
                except zstandard.ZstdError as exc:
                    raise BlobMissingError(f"content {digest} is damaged in the store: {exc}") from exc
                left -= len(piece)
                if left < 0:
                    raise BlobMissingError(f"content {digest} is damaged in the store: over its {size} bytes")
                if piece:
                    await turns.spend(len(piece))  # a chunk can stand for gigabytes, and a reader may take them as fast
                    yield piece
    if left:
        raise BlobMissingError(f"content {digest} is damaged in the store: {left} bytes are missing at its end")


def _steps(digest: Digest, blocks: Blocks, compressed: bytes) -> Iterator[bytes]:
    """The next of the frame in parts that unpack to one block at most. Raises: BlobMissingError when it is none."""
    try:
        yield from blocks.feed(compressed)
    except ValueError as exc:
        raise BlobMissingError(f"content {digest} is damaged in the store: {exc}") from exc


def _grouped(blobs: Sequence[BlobFile]) -> list[list[BlobFile]]:
    """Small blobs together, as one write takes them; others alone."""
    groups: list[list[BlobFile]] = []
    filling: list[BlobFile] = []
    size = 0
    for blob in blobs:
        if blob.stored > _SMALL_BYTES:
            groups.append([blob])
            continue
        if size + blob.stored > _TOGETHER_BYTES or 2 * len(filling) >= _KEYS_AT_ONCE:
            groups.append(filling)
            filling, size = [], 0
        filling.append(blob)
        size += blob.stored
    return [*groups, filling] if filling else groups


def _part(blob: BlobFile, at: int) -> bytes:
    """A chunk of the frame; the file is closed by who opened it, for whoever waits for this may be gone by then."""
    with blob.path.open("rb") as file:
        file.seek(blob.at + at)
        return file.read(min(_CHUNK_BYTES, blob.stored - at))


def _compressed(content: bytes, scratch: Path) -> tuple[Digest, Path]:
    digest = Digest(f"sha256:{hashlib.sha256(content).hexdigest()}")
    path = scratch / f"{digest.removeprefix('sha256:')}.zst"
    path.write_bytes(zstandard.ZstdCompressor(level=3).compress(content))
    return digest, path


def _key(digest: Digest) -> bytes:
    return BLOB + digest.removeprefix("sha256:").encode() + b"/"


def _chunk_key(digest: Digest, index: int) -> bytes:
    return _key(digest) + b"%04d" % index


def _encode_head(head: BlobHead, chunks: int, stored: int) -> bytes:
    value = orjson.dumps(
        {"size": head.size, "mediaType": head.media_type, "files": head.files, "chunks": chunks, "stored": stored}
    )
    return value if len(value) <= _PLAIN_HEAD_BYTES else zstandard.ZstdCompressor(level=3).compress(value)


def _stored_bytes(value: bytes) -> int:
    """Of a blob by its head; about, where an older release wrote it."""
    raw = orjson.loads(value if value[:1] == b"{" else zstandard.ZstdDecompressor().decompress(value))
    stored: int = raw.get("stored", min(raw["size"], raw["chunks"] * _CHUNK_BYTES))
    return stored


def _decode_head(digest: Digest, stored: KeyValue) -> _Head:
    value = stored.value
    raw = orjson.loads(value if value[:1] == b"{" else zstandard.ZstdDecompressor().decompress(value))
    files = tuple((path, size) for path, size in raw["files"])
    return _Head(BlobHead(digest, raw["size"], raw["mediaType"], files), raw["chunks"], stored.create_revision)


def _chunk(digest: Digest, index: int, found: RangeResult) -> KeyValue:
    """The chunk that was asked for. Raises: BlobMissingError."""
    if not found.key_values:
        raise BlobMissingError(f"content {digest} is not complete in the store: chunk {index} is missing")
    return found.key_values[0]
