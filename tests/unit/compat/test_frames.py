"""Documents kept in memory: asked for once, whole or not at all, and never more than there is room for."""

from __future__ import annotations

import asyncio
import random

import pytest
import zstandard

from cacheserver.compat.frames import Frames
from cacheserver.errors import BlobMissingError
from cacheserver.model import Digest
from tests.fakes.published import FakeDocuments

TEXT = b'{"schema":"x"}\n' * 1000


async def read(frames: Frames, digest: Digest) -> bytes:
    return b"".join([piece async for piece in frames.read(digest)])


async def test_of_all_who_want_the_same_one_asks() -> None:
    documents = FakeDocuments()
    frames, digest = Frames(documents), documents.put(TEXT)
    assert await asyncio.gather(*(read(frames, digest) for _ in range(20))) == [TEXT] * 20
    assert documents.reads == 1


@pytest.mark.parametrize("size", [1, 700_000, 3_000_000])
async def test_content_of_any_size_is_what_was_stored(size: int) -> None:
    documents, noise = FakeDocuments(), random.Random(size).randbytes(size)
    frames, digest = Frames(documents), documents.put(noise)
    for _ in range(2):
        assert await read(frames, digest) == noise
        packed = b"".join([piece async for piece in frames.packed(digest)])
        assert zstandard.ZstdDecompressor().decompress(packed, max_output_size=size) == noise
    assert documents.reads == (1 if size < 2 << 20 else 4), "a large package is not kept"


async def test_what_is_kept_has_a_bound() -> None:
    documents = FakeDocuments()
    frames = Frames(documents, most_bytes=1 << 20)
    digests = [documents.put(random.Random(seed).randbytes(100_000)) for seed in range(40)]
    for digest in digests:
        await read(frames, digest)
    assert sum(frames._kept.get(digest) is not None for digest in digests) <= 10
    await read(frames, digests[0])
    assert documents.reads == 41


@pytest.mark.parametrize("says_its_size", [True, False])
@pytest.mark.parametrize("damage", ["shorter", "longer", "no frame"])
async def test_damaged_content_is_missing_content(damage: str, *, says_its_size: bool) -> None:
    documents = FakeDocuments()
    digest = documents.put(TEXT)
    stored = {"shorter": TEXT[:-1], "longer": TEXT + b"x", "no frame": b""}[damage]
    compressor = zstandard.ZstdCompressor(write_content_size=says_its_size)
    documents.damage(digest, compressor.compress(stored) if stored else b"nonsense")
    with pytest.raises(BlobMissingError, match="damaged"):
        await read(Frames(documents), digest)
