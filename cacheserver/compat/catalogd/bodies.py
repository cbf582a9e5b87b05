"""The bytes of a whole catalog in each encoding, made of what is packed in etcd, a piece at a time.

zstd: the frames as they are stored, joined. gzip: a piece a package, made once in a thread, kept, joined. Identity:
unpacked for who reads it. Of one revision from the first byte to the last: content does not change under its digest.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from isal import isal_zlib

from cacheserver.api.http import pack
from cacheserver.api.http.pack import Packed
from cacheserver.compat.catalogs import blobs_of
from cacheserver.compat.frames import Frames
from cacheserver.memo import Memo
from cacheserver.model import Digest
from cacheserver.store.published import PublishedCatalog

CATALOG_BYTES: Final = 1 << 30
"""Of a catalog that is shown. Ours: the largest known has 58 MB; a few kB in etcd can stand for gigabytes."""
GZIP_BYTES: Final = 32 << 20
"""Kept of what was packed with gzip: some 25 catalogs like the community's. What is not kept is packed for each who
asks, faster and a fifth larger."""
_KEPT_WHOLE_BYTES: Final = 16 << 20
"""A package over it, unpacked, is not kept; the largest real one has 2 MB."""
_LEVEL: Final = 6  # made once: 0.24 s for 14.6 MB, 1.35 MB; ISA-L's best level 0.06 s and 1.52 MB
_BATCH_BYTES: Final = 512 << 10  # for one turn of a thread: some 8 ms


class Bodies:
    """See the module. Safe to share between tasks."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._gzipped = Memo[Digest, Packed](GZIP_BYTES)
        self._packing = asyncio.Lock()

    async def sizes(self, catalog: PublishedCatalog) -> Sequence[tuple[Digest, int]]:
        """Each blob of it with its unpacked bytes, in order. Raises: BlobMissingError, EtcdError."""
        found = [(package.documents, package.size) for package in catalog.packages]
        if catalog.others:
            found.append((Digest(catalog.others), await self._frames.size(Digest(catalog.others))))
        return found

    async def identity(
        self, sizes: Sequence[tuple[Digest, int]], first: int, behind: int
    ) -> AsyncGenerator[bytes, None]:
        """Bytes [first, behind) of the documents; packages outside of it are not read. Raises: as sizes."""
        at = 0
        for digest, size in sizes:
            begin, end = max(first - at, 0), min(behind - at, size)
            at += size
            if begin < end:
                async with aclosing(within(self._frames.read(digest), begin, end)) as pieces:
                    async for piece in pieces:
                        yield piece

    async def zstd(self, catalog: PublishedCatalog) -> AsyncGenerator[bytes, None]:
        """Frames that join to one body (RFC 8878, section 3.1). Raises: as sizes."""
        for digest in blobs_of(catalog):
            async with aclosing(self._frames.packed(digest)) as pieces:
                async for piece in pieces:
                    yield piece

    async def gzip(self, sizes: Sequence[tuple[Digest, int]]) -> AsyncGenerator[bytes, None]:
        """One member. Raises: as sizes."""
        member = pack.Member()
        yield member.begin()
        for digest, size in sizes:
            if size > _KEPT_WHOLE_BYTES:
                async with aclosing(self._gzip_large(digest, member)) as pieces:
                    async for piece in pieces:
                        yield piece
            else:
                packed = self._gzipped.get(digest) or await self._gzip(digest)
                member.add(packed.crc, packed.size)
                yield packed.deflated
        yield member.end()

    async def _gzip(self, digest: Digest) -> Packed:
        """One at a time: of all who want the same, one has it made."""
        async with self._packing:
            if (made := self._gzipped.get(digest)) is not None:
                return made
            compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15)
            crc = size = 0
            out: list[bytes] = []
            async with aclosing(batches(self._frames.read(digest))) as texts:
                async for text in texts:
                    out.append(await asyncio.to_thread(compressor.compress, text))
                    crc, size = isal_zlib.crc32(text, crc), size + len(text)
            out.append(await asyncio.to_thread(compressor.flush, zlib.Z_FULL_FLUSH))
            made = Packed(b"".join(out), crc, size)
            self._gzipped.put(digest, made, len(made.deflated))
            return made

    async def _gzip_large(self, digest: Digest, member: pack.Member) -> AsyncGenerator[bytes, None]:
        async with aclosing(batches(self._frames.read(digest))) as texts:
            async for text in texts:
                for packed in await asyncio.to_thread(pack.pack, [text]):
                    member.add(packed.crc, packed.size)
                    yield packed.deflated


async def within(pieces: AsyncGenerator[bytes, None], first: int, behind: int) -> AsyncGenerator[bytes, None]:
    """Bytes [first, behind) of what `pieces` gives, which is closed."""
    at = 0
    async with aclosing(pieces) as source:
        async for piece in source:
            begin, end = max(first - at, 0), behind - at
            at += len(piece)
            if begin < len(piece):
                yield piece[begin:end] if begin or end < len(piece) else piece
            if at >= behind:
                return


async def batches(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same in fewer pieces, of about 512 KiB; closes `pieces`."""
    waiting: list[bytes] = []
    size = 0
    async with aclosing(pieces) as source:
        async for piece in source:
            waiting.append(piece)
            size += len(piece)
            if size >= _BATCH_BYTES:
                yield b"".join(waiting)
                waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
