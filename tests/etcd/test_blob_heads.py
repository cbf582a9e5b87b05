"""Heads of content are remembered with the number of their chunks: what a read asks etcd, and what may have changed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from cacheserver.errors import BlobMissingError
from cacheserver.etcd.client import Client, RangeResult, prefix_end
from cacheserver.model import BlobFile, BlobHead, Digest
from cacheserver.store import blobs as module
from cacheserver.store.blobs import Blobs
from cacheserver.store.keys import BLOB, PREFIX

pytestmark = pytest.mark.etcd

CONTENT = random.Random(7).randbytes(600_000) * 2
"""The second half repeats the first from afar: one chunk more where the compressor does not look back so far."""


@pytest.fixture
async def client(etcd_endpoint: str) -> AsyncIterator[Client]:
    async with Client([etcd_endpoint]) as client:
        await client.connect()
        await client.delete(PREFIX, prefix_end(PREFIX))
        yield client


@pytest.fixture
def asked(client: Client, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The last part of each key that was asked for."""
    keys: list[bytes] = []
    ask = client.range

    async def counted(key: bytes, *arguments: bytes, **options: bool) -> RangeResult:
        keys.append(key.rpartition(b"/")[2])
        return await ask(key, *arguments, **options)  # type: ignore[arg-type] # passed on as they came

    monkeypatch.setattr(client, "range", counted)
    return keys


def packed(tmp_path: Path, content: bytes, *, window_log: int = 21) -> BlobFile:
    """window_log: how far back the compressor looks, as a power of two."""
    options = zstandard.ZstdCompressionParameters.from_level(3, window_log=window_log)
    path = tmp_path / f"{window_log}.zst"
    path.write_bytes(zstandard.ZstdCompressor(compression_params=options).compress(content))
    digest = Digest(f"sha256:{hashlib.sha256(content).hexdigest()}")
    return BlobFile.whole(BlobHead(digest, len(content), "application/x-tar"), path)


async def whole(blobs: Blobs, digest: Digest) -> bytes:
    return b"".join([piece async for piece in blobs.read(digest)])


async def delete(client: Client, digest: Digest) -> None:
    prefix = module._key(digest)
    assert await client.delete(prefix, prefix_end(prefix))


async def test_reading_content_whose_head_is_known_asks_once_a_chunk(
    client: Client, tmp_path: Path, asked: list[bytes]
) -> None:
    blobs, small = Blobs(client), packed(tmp_path, b"a tar of a package")
    await blobs.put(small)
    assert await blobs.head(small.head.digest) == small.head
    asked.clear()
    for _ in range(2):
        assert await whole(blobs, small.head.digest) == b"a tar of a package"
    assert asked == [b"0000", b"0000"]


async def test_a_first_read_remembers_the_head(client: Client, tmp_path: Path, asked: list[bytes]) -> None:
    blobs, large = Blobs(client), packed(tmp_path, CONTENT)
    await blobs.put(large)
    asked.clear()
    for _ in range(2):
        assert await whole(blobs, large.head.digest) == CONTENT
    assert await blobs.head(large.head.digest) == large.head
    assert asked == [b"head", b"0000", b"0001", b"0000", b"0001"]


@pytest.mark.parametrize(("before", "after"), [(17, 21), (21, 17)], ids=["fewer", "more"])
async def test_content_that_another_process_collected_and_stored_anew_in_other_chunks_is_read_whole(
    client: Client, tmp_path: Path, before: int, after: int
) -> None:
    blobs, first = Blobs(client), packed(tmp_path, CONTENT, window_log=before)
    await blobs.put(first)
    assert await whole(blobs, first.head.digest) == CONTENT
    await delete(client, first.head.digest)
    await Blobs(client).put(packed(tmp_path, CONTENT, window_log=after))
    chunks = [kv.key for kv in (await client.range(module._key(first.head.digest), BLOB + b"g")).key_values]
    assert len(chunks) == (4 if after == 17 else 3), "with the head; the other way around before"
    assert await whole(blobs, first.head.digest) == CONTENT


async def test_content_that_another_process_collected_is_missing_and_its_head_forgotten(
    client: Client, tmp_path: Path
) -> None:
    blobs, file = Blobs(client), packed(tmp_path, b"gone")
    await blobs.put(file)
    await whole(blobs, file.head.digest)
    await delete(client, file.head.digest)
    with pytest.raises(BlobMissingError, match="is not in the store"):
        await whole(blobs, file.head.digest)
    assert await blobs.head(file.head.digest) is None


async def test_content_that_ends_too_early_is_damaged_and_not_served_as_whole(client: Client, tmp_path: Path) -> None:
    blobs, file = Blobs(client), packed(tmp_path, CONTENT)
    await blobs.put(file)
    key = module._key(file.head.digest) + b"head"
    (head,) = (await client.range(key)).key_values
    await client.put(key, head.value.replace(b'"chunks":2', b'"chunks":1'))
    with pytest.raises(BlobMissingError, match="bytes are missing at its end"):
        await whole(blobs, file.head.digest)


async def test_many_small_ones_are_stored_and_asked_for_in_few_steps(
    client: Client, tmp_path: Path, asked: list[bytes]
) -> None:
    blobs = Blobs(client)
    contents = [f"content {number}".encode() * 9 for number in range(200)] + [random.Random(8).randbytes(700_000)]
    files = []
    for number, content in enumerate(contents):
        (home := tmp_path / str(number)).mkdir()
        files.append(packed(home, content))
    digests = [file.head.digest for file in files]
    assert await blobs.keep(digests) == await blobs.absent(digests) == set(digests)
    assert asked == []
    first = (await client.range(PREFIX)).revision
    await blobs.put_all(files)
    # 60 a write, by etcd's 128 operations a transaction; the large one in two parts.
    assert (await client.range(PREFIX)).revision - first == 4 + 2
    assert await blobs.absent(digests) == await blobs.keep(digests) == set()
    fresh = Blobs(client)
    for digest, content in zip(digests, contents, strict=True):
        assert await whole(fresh, digest) == content


async def test_small_ones_of_very_many_files_do_not_make_one_write_too_large(client: Client, tmp_path: Path) -> None:
    blobs, files = Blobs(client), []
    for number in range(20):
        (home := tmp_path / str(number)).mkdir()
        file = packed(home, f"content {number}".encode())
        noise = random.Random(number)
        names = tuple((noise.randbytes(100).hex(), at) for at in range(700))
        files.append(replace(file, head=replace(file.head, files=names)))
    await blobs.put_all(files)
    assert await blobs.absent([file.head.digest for file in files]) == set()
