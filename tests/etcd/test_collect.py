"""Collecting content: what it costs etcd, and chunks that never got their head, and writers still at it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cacheserver.etcd.client import Client, RangeResult
from cacheserver.model import BlobFile
from cacheserver.store import blobs as module
from cacheserver.store.blobs import Blobs
from cacheserver.store.keys import PREFIX
from cacheserver.store.objects import Store
from tests.conftest import StartEtcd
from tests.etcd.test_store import blob
from tests.support.etcd import EtcdProcess

pytestmark = pytest.mark.etcd

CHUNK = 512 << 10


@pytest.fixture
def etcd(start_etcd: StartEtcd) -> EtcdProcess:
    return start_etcd()


@pytest.fixture
async def client(etcd: EtcdProcess) -> AsyncIterator[Client]:
    async with Client([etcd.endpoint]) as client:
        await client.connect()
        yield client


@pytest.fixture
def due(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one pass saw, the next one takes."""
    monkeypatch.setattr(module, "_COLLECT_AFTER_S", 0.0)


def large(tmp_path: Path, seed: int) -> BlobFile:
    """Three chunks: it does not compress."""
    return blob(tmp_path, random.Random(seed).randbytes(2 * CHUNK + 1000))


async def keys(client: Client) -> set[bytes]:
    return {kv.key async for page in client.pages(PREFIX + b"blob/", keys_only=True) for kv in page.key_values}


async def test_a_pass_makes_etcd_load_a_few_chunks_at_a_time_and_of_a_large_blob_only_some(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """etcd reads the values of keys that are asked for without values: 572 keys of 512 KiB were 280 MiB in one page."""
    for number in range(8):
        prefix = PREFIX + b"blob/%064x/" % number
        for index in range(70):
            await client.put(prefix + b"%04d" % index, b"chunk")
        await client.put(prefix + b"head", b"{}")
    loaded: list[int] = []
    ask = client.range

    async def counted(*arguments: Any, **options: Any) -> RangeResult:
        answer = await ask(*arguments, **options)
        loaded.append(len(answer.key_values))
        return answer

    monkeypatch.setattr(client, "range", counted)
    found = await Blobs(client)._walk()
    assert len(found) == 8
    assert all(marks.head for marks in found.values())
    assert max(loaded) <= 8, "4 MiB at a time"
    assert sum(loaded) <= 8 * 9


@pytest.mark.usefixtures("due")
async def test_chunks_without_a_head_are_collected(client: Client, tmp_path: Path) -> None:
    store, blobs, whole = Store(client), Blobs(client), large(tmp_path, 1)
    await store.open()
    await client.put(module._chunk_key(large(tmp_path, 2).head.digest, 0), b"left behind")
    await client.put(module._chunk_key(large(tmp_path, 2).head.digest, 1), b"left behind")
    await blobs.put(whole)
    await blobs.keep([whole.head.digest])
    assert (await blobs.collect(store)).deleted == 2, "nobody refers to the whole one either"
    assert await keys(client) == set()


@pytest.mark.usefixtures("due")
async def test_a_writer_whose_chunks_are_collected_under_its_hands_stores_all_of_them(
    client: Client, tmp_path: Path
) -> None:
    """The worst there is: each chunk that it wrote goes before the next."""
    store, blobs, file = Store(client), Blobs(client), large(tmp_path, 3)
    await store.open()
    put, times = client.put, 0

    async def put_then_collect(key: bytes, value: bytes, *, lease: int = 0) -> int:
        nonlocal times
        revision, times = await put(key, value, lease=lease), times + 1
        if times <= 2:
            assert (await Blobs(client).collect(store)).deleted == 1
        return revision

    client.put = put_then_collect  # type: ignore[method-assign] # the one place to be between two of its writes
    await blobs.put(file)
    assert b"".join([piece async for piece in blobs.read(file.head.digest)])
    assert times == 4


async def test_writers_of_the_same_content_do_not_disturb_each_other(client: Client, tmp_path: Path) -> None:
    blobs, file = Blobs(client), large(tmp_path, 5)
    written = await asyncio.gather(*(blobs.put(file) for _ in range(8)))
    assert len(set(written)) == 1
    assert b"".join([piece async for piece in blobs.read(file.head.digest)])


async def test_chunks_of_a_writer_at_work_are_not_collected(client: Client, tmp_path: Path) -> None:
    store, blobs, file = Store(client), Blobs(client), large(tmp_path, 4)
    await store.open()
    await client.put(module._chunk_key(file.head.digest, 0), b"just now")
    for _ in range(3):
        assert (await blobs.collect(store)).deleted == 0
    assert len(await keys(client)) == 1
