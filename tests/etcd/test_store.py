"""What the store promises about one object a transaction, fencing, claims and blobs, on a real etcd."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
import zstandard

from cacheserver.errors import BlobMissingError, ConfigError, LeaseLostError
from cacheserver.etcd.client import Client, RangeResult, prefix_end
from cacheserver.model import BlobFile, BlobHead, Digest, Key, Kind, Record, RepositoryKey
from cacheserver.store import blobs as blobs_module
from cacheserver.store.blobs import Blobs
from cacheserver.store.claims import Claim, Session
from cacheserver.store.keys import PREFIX, IngestState
from cacheserver.store.objects import Store
from tests.support.waiting import eventually

pytestmark = pytest.mark.etcd

REPOSITORY = RepositoryKey("ns", "repo")


@pytest.fixture
async def client(etcd_endpoint: str) -> AsyncIterator[Client]:
    async with Client([etcd_endpoint]) as client:
        await client.connect()
        await client.delete(PREFIX, prefix_end(PREFIX))
        yield client


@pytest.fixture
async def store(client: Client) -> Store:
    store = Store(client)
    await store.open()
    return store


@pytest.fixture
async def session(store: Store) -> AsyncIterator[Session]:
    async with store.session("test") as session:
        yield session


@pytest.fixture
async def claim(session: Session) -> Claim:
    return await session.claim("ns/repo")


def revision(name: str, status: dict[str, object] | None = None) -> Record:
    key = Key(Kind.REVISION, "ns", "repo", "app", name)
    return Record(key, {"a": "b"}, b'{"n":1}', orjson.dumps(status or {}))


def blob(tmp_path: Path, content: bytes) -> BlobFile:
    digest = Digest("sha256:" + hashlib.sha256(content).hexdigest())
    path = tmp_path / digest.removeprefix("sha256:")
    path.write_bytes(zstandard.compress(content))
    return BlobFile.whole(BlobHead(digest, len(content), "application/x-tar", (("f", len(content)),)), path)


async def test_an_object_is_written_once_and_not_again_while_it_is_the_same(store: Store, claim: Claim) -> None:
    first = await store.put(claim, revision("1"), None)
    assert first is not None
    assert await store.put(claim, revision("1"), first) is None
    changed = await store.put(claim, revision("1", {"x": 1}), first)
    assert changed is not None
    assert changed.mod_revision > first.mod_revision
    served = await store.read_package(REPOSITORY, "app")
    assert [s.mod_revision for s in served.values()] == [changed.mod_revision]


async def test_a_changed_object_keeps_its_birth_and_moves_generation_only_with_spec(store: Store, claim: Claim) -> None:
    first = await store.put(claim, revision("1"), None)
    assert first is not None
    second = await store.put(claim, revision("1", {"x": 1}), first)
    assert second is not None
    one, two = orjson.loads(first.value), orjson.loads(second.value)
    assert two["metadata"] == one["metadata"]
    assert one["metadata"]["generation"] == 1
    third = await store.put(claim, Record(revision("1").key, {}, b'{"n":2}', b"{}"), second)
    assert third is not None
    assert orjson.loads(third.value)["metadata"]["generation"] == 2


async def test_each_object_has_a_revision_of_its_own(store: Store, claim: Claim) -> None:
    await asyncio.gather(*(store.put(claim, revision(str(i)), None) for i in range(50)))
    served = await store.read_package(REPOSITORY, "app")
    assert len({stored.mod_revision for stored in served.values()}) == 50


async def test_a_write_after_the_claim_was_lost_is_refused(store: Store, session: Session, claim: Claim) -> None:
    stored = await store.put(claim, revision("1"), None)
    assert stored is not None
    await session.release(claim)
    new = await session.claim("ns/repo")
    with pytest.raises(LeaseLostError):
        await store.put(claim, revision("2"), None)
    with pytest.raises(LeaseLostError):
        await store.delete(claim, stored)
    with pytest.raises(LeaseLostError):
        await store.put_state(claim, REPOSITORY, IngestState("d"))
    assert await store.put(new, revision("2"), None) is not None
    assert len(await store.read_package(REPOSITORY, "app")) == 2


async def test_a_write_that_was_made_but_not_answered_is_recognised(store: Store, claim: Claim) -> None:
    first = await store.put(claim, revision("1"), None)
    again = await store.put(claim, revision("1"), None)  # as after a lost answer: it does not know of the first
    assert first is not None
    assert again is not None
    assert again.mod_revision == first.mod_revision


async def test_a_second_claim_waits_for_the_first_to_go(store: Store, session: Session, claim: Claim) -> None:
    told: list[str] = []
    async with store.session("other") as other:
        waiting = asyncio.create_task(other.claim("ns/repo", on_wait=told.append))
        await eventually(lambda: bool(told))
        assert not waiting.done()
        await session.release(claim)
        second = await asyncio.wait_for(waiting, 5)
    assert told == ["test"]
    assert second.create_revision > claim.create_revision


class Gated(Client):
    """Asks nothing while its gate is shut."""

    gate: asyncio.Event

    async def range(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        deadline_s: float | None = None,
    ) -> RangeResult:
        await self.gate.wait()
        return await super().range(key, range_end, limit=limit)


async def test_who_waits_for_a_claim_hears_of_each_holder(
    store: Store, session: Session, claim: Claim, etcd_endpoint: str
) -> None:
    told: list[str] = []
    gated = Gated([etcd_endpoint])
    gated.gate = asyncio.Event()
    gated.gate.set()
    async with gated, Store(gated).session("last") as last, store.session("next") as following:
        waiting = asyncio.create_task(last.claim("ns/repo", on_wait=told.append))
        await eventually(lambda: told == ["test"])
        gated.gate.clear()
        await session.release(claim)
        between = await following.claim("ns/repo")
        gated.gate.set()
        await eventually(lambda: told == ["test", "next"])
        await following.release(between)
        await asyncio.wait_for(waiting, 10)


async def test_names_with_slashes_and_prefixes_of_each_other_do_not_mix(store: Store, claim: Claim) -> None:
    for package in ("a", "ab", "a/b", "a%2Fb"):
        key = Key(Kind.REVISION, "ns", "repo", package, "x/y")
        await store.put(claim, Record(key, {}, b"{}", b"{}"), None)
    for package in ("a", "ab", "a/b", "a%2Fb"):
        assert {key.package for key in await store.read_package(REPOSITORY, package)} == {package}
    assert set(await store.served_keys(REPOSITORY)) == {"a", "ab", "a/b", "a%2Fb"}
    assert await store.served_keys(RepositoryKey("ns", "rep")) == {}
    assert await store.count_served(REPOSITORY) == (0, 4)
    assert await store.count_served(RepositoryKey("ns", "rep")) == (0, 0)


async def test_followers_see_every_change_and_nothing_else(store: Store, claim: Claim, tmp_path: Path) -> None:
    start = await store.current_revision()
    async with store.follow(start) as follower:
        stored = await store.put(claim, revision("1"), None)
        await Blobs(store._client).put(blob(tmp_path, b"x"))
        await store.put_state(claim, REPOSITORY, IngestState("d"))
        assert stored is not None
        await store.delete(claim, stored)
        seen: list[bool] = []
        async with asyncio.timeout(5):
            async for changes in follower:
                seen += [change.value is not None for change in changes.changes]
                if len(seen) == 2:
                    break
    assert seen == [True, False]


async def test_an_etcd_of_a_newer_layout_is_refused(store: Store, client: Client) -> None:
    await client.put(PREFIX + b"layout", b"999")
    with pytest.raises(ConfigError, match="layout 999"):
        await store.open()


async def test_content_comes_back_in_pieces_and_exact(client: Client, tmp_path: Path) -> None:
    blobs = Blobs(client)
    import random

    content = random.Random(1).randbytes(1_500_000)  # three chunks: it does not compress
    file = blob(tmp_path, content)
    await blobs.put(file)
    assert await blobs.head(file.head.digest) == file.head
    assert b"".join([piece async for piece in blobs.read(file.head.digest)]) == content


async def test_content_that_packs_well_comes_in_small_pieces_too(client: Client, tmp_path: Path) -> None:
    blobs = Blobs(client)
    file = blob(tmp_path, bytes(60 << 20))
    await blobs.put(file)
    sizes = [len(piece) async for piece in blobs.read(file.head.digest)]
    assert sum(sizes) == 60 << 20
    assert max(sizes) <= 128 << 10


async def test_absent_and_incomplete_content_is_named(client: Client, tmp_path: Path) -> None:
    blobs = Blobs(client)
    missing = Digest("sha256:" + "0" * 64)
    assert await blobs.head(missing) is None
    with pytest.raises(BlobMissingError, match="not in the store"):
        [_ async for _ in blobs.read(missing)]
    file = blob(tmp_path, b"abc")
    await blobs.put(file)
    await client.delete(blobs_module._chunk_key(file.head.digest, 0))
    with pytest.raises(BlobMissingError, match="chunk 0"):
        [_ async for _ in blobs.read(file.head.digest)]


async def test_only_content_that_nothing_refers_to_is_collected_and_only_after_a_while(
    store: Store, client: Client, claim: Claim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Blobs(client)
    used, unused = blob(tmp_path, b"used"), blob(tmp_path, b"unused")
    for file in (used, unused):
        await blobs.put(file)
    await store.put(claim, revision("1", {"content": {"digest": used.head.digest}}), None)
    assert (await blobs.collect(store)).deleted == 0
    monkeypatch.setattr(blobs_module, "_COLLECT_AFTER_S", 0.0)
    assert await blobs.keep([unused.head.digest]) == set()  # touched: counts as new
    assert (await blobs.collect(store)).deleted in (0, 1)
    await blobs.collect(store)
    assert await blobs.head(used.head.digest) is not None
    assert await blobs.keep([unused.head.digest, used.head.digest]) == {unused.head.digest}


async def test_a_claim_stands_until_it_is_released_or_its_session_ends(store: Store) -> None:
    async with store.session("a") as session:
        claim = await session.claim("ns/repo")
        assert await store.holds(claim)
        await session.release(claim)
        assert not await store.holds(claim)
        again = await session.claim("ns/repo")
        assert await store.holds(again)
        assert not await store.holds(claim)
    assert not await store.holds(again)
