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
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import orjson
import zstandard

from cacheserver import metrics
from cacheserver.errors import BlobMissingError
from cacheserver.etcd.client import Client, Compare, Delete, Put
from cacheserver.model import BlobFile, BlobHead, Digest
from cacheserver.store import PREFIX, Store, in_parallel
from cacheserver.zstd import Blocks

log = logging.getLogger(__name__)

_BLOB = PREFIX + b"blob/"
_CHUNK_BYTES = 512 << 10  # architecture.md, decision 3: far below etcd's 1.5 MiB request limit
_TURN_BYTES = 256 << 10  # unpacked in one turn of the loop: under 1 ms
_WINDOW_BYTES = 8 << 20  # that a frame may ask the decompressor to remember; ours ask for 2 MiB
_PLAIN_HEAD_BYTES = 32 << 10
_HEADS_KEPT = 4096
_COLLECT_AFTER_S = 3600.0


class Blobs:
    """See the module. Safe to share between tasks."""

    def __init__(self, client: Client) -> None:
        self._client = client
        # Immutable by digest, so never stale while the blob exists. When full, the least recently used goes.
        self._heads: OrderedDict[Digest, BlobHead] = OrderedDict()
        self._unreferenced: dict[bytes, tuple[int, float]] = {}

    # --- read ---

    async def head(self, digest: Digest) -> BlobHead | None:
        """What the blob is, or None when there is none."""
        known = self._heads.get(digest)
        if known is not None:
            self._heads.move_to_end(digest)
            return known
        found = (await self._client.range(_key(digest) + b"head")).key_values
        if not found:
            return None
        head, _ = _decode_head(digest, found[0].value)
        self._heads[digest] = head
        if len(self._heads) > _HEADS_KEPT:
            self._heads.popitem(last=False)
        return head

    async def read(self, digest: Digest) -> AsyncIterator[bytes]:
        """The uncompressed bytes in pieces of 128 KiB at most; one chunk and one piece in memory at a time.

        Raises: BlobMissingError when the blob, or a part of it, is not there; EtcdError.
        """
        found = (await self._client.range(_key(digest) + b"head")).key_values
        if not found:
            raise BlobMissingError(f"content {digest} is not in the store")
        head, chunks = _decode_head(digest, found[0].value)
        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).decompressobj()
        blocks = Blocks()
        left = head.size
        for index in range(chunks):
            chunk = (await self._client.range(_chunk_key(digest, index))).key_values
            if not chunk:
                raise BlobMissingError(f"content {digest} is not complete in the store: chunk {index} is missing")
            compressed = chunk[0].value
            unyielding = 0
            for step in _steps(digest, blocks, compressed):
                try:
                    piece = decompressor.decompress(step)
                except zstandard.ZstdError as exc:
                    raise BlobMissingError(f"content {digest} is damaged in the store: chunk {index}: {exc}") from exc
                left -= len(piece)
                unyielding += len(piece)
                if left < 0:
                    raise BlobMissingError(f"content {digest} is damaged in the store: over its {head.size} bytes")
                if piece:
                    yield piece
                if unyielding >= _TURN_BYTES:
                    await asyncio.sleep(0)  # a chunk can stand for gigabytes, and a reader may take them as fast
                    unyielding = 0

    # --- write ---

    async def put(self, blob: BlobFile) -> int:
        """Store the blob's file; the head goes last. Returns compressed bytes written. Idempotent."""
        digest = blob.head.digest
        written = chunks = 0
        with await asyncio.to_thread(blob.path.open, "rb") as file:
            chunk = await asyncio.to_thread(file.read, _CHUNK_BYTES)
            while len(chunk) == _CHUNK_BYTES:
                await self._client.put(_chunk_key(digest, chunks), chunk)
                chunks, written = chunks + 1, written + len(chunk)
                chunk = await asyncio.to_thread(file.read, _CHUNK_BYTES)
        head = Put(_key(digest) + b"head", _encode_head(blob.head, chunks + 1))
        await self._client.txn([], [Put(_chunk_key(digest, chunks), chunk), head])
        written += len(chunk)
        metrics.blob_bytes.inc(written)
        return written

    async def put_bytes(self, content: bytes, media_type: str, scratch: Path) -> Digest:
        """Store bytes that no file holds yet; returns their digest. Absent and present alike end up present."""
        digest, path = await asyncio.to_thread(_compressed, content, scratch)
        if await self.keep([digest]):
            await self.put(BlobFile(BlobHead(digest, len(content), media_type), path))
        return digest

    async def keep(self, digests: Iterable[Digest]) -> set[Digest]:
        """Which of `digests` are absent. Those present are touched, so that a collection under way leaves them."""
        absent: set[Digest] = set()

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

        await in_parallel(digests, touch)
        return absent

    async def absent(self, digests: Iterable[Digest]) -> set[Digest]:
        """Which of `digests` are not in the store; touches nothing. Of those that are, etcd loads nothing."""
        missing: set[Digest] = set()

        async def look(digest: Digest) -> None:
            if not (await self._client.range(_key(digest) + b"head", count_only=True)).count:
                missing.add(digest)

        await in_parallel(digests, look)
        return missing

    # --- collect ---

    async def collect(self, store: Store) -> int:
        """Delete blobs that nothing has referred to for an hour; returns how many. Call it now and then.

        Two passes at least: a blob is deleted only if an earlier pass saw it unreferenced and unchanged, and only
        while its head is still the one seen (ingest touches a blob before it refers to it).
        """
        heads: dict[bytes, int] = {}
        async for page in self._client.pages(_BLOB, keys_only=True):
            heads.update((kv.key, kv.mod_revision) for kv in page.key_values if kv.key.endswith(b"/head"))
        referenced = {_key(digest) + b"head" for digest in await store.referenced_blobs()}
        now = time.monotonic()
        due: list[bytes] = []
        seen: dict[bytes, tuple[int, float]] = {}
        for key, mod_revision in heads.items():
            if key in referenced:
                continue
            revision, since = self._unreferenced.get(key, (mod_revision, now))
            if revision != mod_revision:
                since = now
            seen[key] = (mod_revision, since)
            if now - since >= _COLLECT_AFTER_S:
                due.append(key)
        self._unreferenced = seen
        for key in due:
            unchanged = Compare(key, "mod_revision", seen[key][0])
            prefix = key.removesuffix(b"head")
            await self._client.txn([unchanged], [Delete(prefix, prefix[:-1] + b"0")])
            self._heads.pop(Digest("sha256:" + prefix.split(b"/")[-2].decode()), None)
        return len(due)


def _steps(digest: Digest, blocks: Blocks, compressed: bytes) -> Iterator[bytes]:
    """The next of the frame in parts that unpack to one block at most. Raises: BlobMissingError when it is none."""
    try:
        yield from blocks.feed(compressed)
    except ValueError as exc:
        raise BlobMissingError(f"content {digest} is damaged in the store: {exc}") from exc


def _compressed(content: bytes, scratch: Path) -> tuple[Digest, Path]:
    digest = Digest(f"sha256:{hashlib.sha256(content).hexdigest()}")
    path = scratch / f"{digest.removeprefix('sha256:')}.zst"
    path.write_bytes(zstandard.ZstdCompressor(level=3).compress(content))
    return digest, path


def _key(digest: Digest) -> bytes:
    return _BLOB + digest.removeprefix("sha256:").encode() + b"/"


def _chunk_key(digest: Digest, index: int) -> bytes:
    return _key(digest) + b"%04d" % index


def _encode_head(head: BlobHead, chunks: int) -> bytes:
    value = orjson.dumps({"size": head.size, "mediaType": head.media_type, "files": head.files, "chunks": chunks})
    return value if len(value) <= _PLAIN_HEAD_BYTES else zstandard.ZstdCompressor(level=3).compress(value)


def _decode_head(digest: Digest, value: bytes) -> tuple[BlobHead, int]:
    raw = orjson.loads(value if value[:1] == b"{" else zstandard.ZstdDecompressor().decompress(value))
    files = tuple((path, size) for path, size in raw["files"])
    return BlobHead(digest, raw["size"], raw["mediaType"], files), raw["chunks"]
