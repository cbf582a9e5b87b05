"""Documents as they are packed in etcd, kept in memory a while: what one client asked for, the next one gets without
a question to etcd, also while etcd is away. Bounded in bytes; knows neither catalogs nor doors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Final, Protocol

import zstandard

from cacheserver.errors import BlobMissingError
from cacheserver.memo import Memo
from cacheserver.model import BlobHead, Digest
from cacheserver.store.blobs import unpacked

KEPT_BYTES: Final = 32 << 20
"""Ours: fifty catalogs like the community's, whose documents take 0.6 MB; of the others etcd is asked each time."""
_LARGE_BYTES: Final = 2 << 20
"""A package over it is never kept. The largest real one has 62 kB."""
_PIECE_BYTES: Final = 128 << 10
_WHOLE_BYTES: Final = 512 << 10
"""Unpacked at once: 0.4 ms. In pieces, a catalog of 13 MB takes twice the time."""


class Content(Protocol):
    """Content by digest (store/blobs.py)."""

    async def head(self, digest: Digest) -> BlobHead | None:
        """Its size, unpacked; None where there is none. Raises: EtcdError."""
        ...

    async def stored_bytes(self, digests: Iterable[Digest]) -> Mapping[Digest, int]:
        """Sizes, packed, of those that there are. Raises: EtcdError."""
        ...

    def packed(self, digest: Digest) -> AsyncIterator[bytes]:
        """One zstd frame, in pieces of 512 KiB at most. Raises: BlobMissingError, EtcdError."""
        ...


class Frames:
    """See the module. Safe to share between tasks."""

    def __init__(self, content: Content, most_bytes: int = KEPT_BYTES) -> None:
        self._content = content
        self._kept = Memo[Digest, bytes](most_bytes)
        self._sizes = Memo[Digest, int](most_bytes // 8)
        self._loading: dict[Digest, tuple[asyncio.Lock, int]] = {}

    async def size(self, digest: Digest) -> int:
        """Unpacked bytes. Raises: BlobMissingError, EtcdError."""
        size = self._sizes.get(digest)
        if size is None:
            head = await self._content.head(digest)
            if head is None:
                raise BlobMissingError(f"content {digest} is not in the store")
            size = head.size
            self._sizes.put(digest, size, len(digest))
        return size

    async def packed(self, digest: Digest) -> AsyncGenerator[bytes, None]:
        """One zstd frame, in pieces of 512 KiB at most, of 128 KiB where it is kept. Raises: BlobMissingError,
        EtcdError."""
        kept = self._kept.get(digest) or await self._load(digest)
        if kept is not None:
            for at in range(0, len(kept), _PIECE_BYTES):
                yield kept[at : at + _PIECE_BYTES]
            return
        async for piece in self._content.packed(digest):
            yield piece

    async def read(self, digest: Digest) -> AsyncGenerator[bytes, None]:
        """Unpacked, in pieces of 128 KiB at most; a package of up to 512 KiB whole. Raises: as packed."""
        size = await self.size(digest)
        if size <= _WHOLE_BYTES and (kept := self._kept.get(digest) or await self._load(digest)) is not None:
            yield _whole(digest, size, kept)
            return
        async with aclosing(unpacked(digest, size, self.packed(digest))) as pieces:
            async for piece in pieces:
                yield piece

    async def _load(self, digest: Digest) -> bytes | None:
        """What is kept from now on; None for a large one. Of all who want the same, one asks etcd."""
        async with self._alone(digest):
            if (kept := self._kept.get(digest)) is not None:
                return kept
            stored = (await self._content.stored_bytes([digest])).get(digest)
            if stored is None:
                raise BlobMissingError(f"content {digest} is not in the store")
            if stored > _LARGE_BYTES:
                return None
            kept = b"".join([piece async for piece in self._content.packed(digest)])
            await self.size(digest)  # with it, all is here
            self._kept.put(digest, kept, len(kept))
            return kept

    @asynccontextmanager
    async def _alone(self, digest: Digest) -> AsyncIterator[None]:
        lock, count = self._loading.get(digest, (asyncio.Lock(), 0))
        self._loading[digest] = lock, count + 1
        try:
            async with lock:
                yield
        finally:
            _, count = self._loading[digest]
            if count > 1:
                self._loading[digest] = lock, count - 1
            else:
                del self._loading[digest]


def _whole(digest: Digest, size: int, packed: bytes) -> bytes:
    """Raises: BlobMissingError where it is not what it was."""
    try:
        if zstandard.get_frame_parameters(packed).content_size not in (size, zstandard.CONTENTSIZE_UNKNOWN):
            raise BlobMissingError(f"content {digest} is damaged in the store: it is not of {size} bytes")
        text = zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
    except zstandard.ZstdError as exc:
        raise BlobMissingError(f"content {digest} is damaged in the store: {exc}") from exc
    if len(text) != size:
        raise BlobMissingError(f"content {digest} is damaged in the store: {size - len(text)} bytes are missing")
    return text
