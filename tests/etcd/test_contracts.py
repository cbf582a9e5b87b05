"""The store and its content, on a real etcd, keep the contracts that their fakes keep (tests/unit/test_fakes.py)."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import zstandard

from cacheserver.etcd.client import Client, prefix_end
from cacheserver.model import BlobFile, BlobHead, Digest, Key, Kind, Record, Stored
from cacheserver.store.blobs import Blobs
from cacheserver.store.claims import Claim
from cacheserver.store.keys import BLOB, PREFIX
from cacheserver.store.objects import Store
from tests.conftest import StartEtcd
from tests.support.contracts import BlobsContract, FeedContract
from tests.support.etcd import EtcdProcess

pytestmark = pytest.mark.etcd


class StoreSide:
    def __init__(self, process: EtcdProcess, client: Client, store: Store, claim: Claim) -> None:
        self.feed = store
        self._process = process
        self._client = client
        self._claim = claim
        self._stored: dict[str, Stored] = {}

    async def put(self, name: str) -> int:
        record = Record(Key(Kind.PACKAGE, "ns", "repo", name), {}, b"{}", b"{}")
        stored = await self.feed.put(self._claim, record, None)
        assert stored is not None
        self._stored[name] = stored
        return stored.mod_revision

    async def delete(self, name: str) -> int:
        await self.feed.delete(self._claim, self._stored.pop(name))
        return (await self._client.range(PREFIX)).revision

    async def write_elsewhere(self) -> int:
        return await self._client.put(b"/elsewhere", b"")

    async def compact(self, revision: int) -> None:
        await self._client.compact(revision)

    async def go_away(self) -> None:
        self._process.kill()


class StoredBlobsSide:
    def __init__(self, client: Client, scratch: Path) -> None:
        self._client = client
        self._blobs = Blobs(client)
        self._scratch = scratch

    async def put(self, content: bytes, media_type: str, files: Mapping[str, int]) -> Digest:
        digest = Digest("sha256:" + hashlib.sha256(content).hexdigest())
        path = self._scratch / "content.zst"
        path.write_bytes(zstandard.compress(content))
        await self._blobs.put(BlobFile.whole(BlobHead(digest, len(content), media_type, tuple(files.items())), path))
        return digest

    async def lose(self, digest: Digest) -> None:
        prefix = BLOB + digest.removeprefix("sha256:").encode() + b"/"
        await self._client.delete(prefix, prefix_end(prefix))

    async def head(self, digest: Digest) -> BlobHead | None:
        return await self._blobs.head(digest)

    def read(self, digest: Digest) -> AsyncIterator[bytes]:
        return self._blobs.read(digest)


class TestStore(FeedContract):
    @pytest.fixture
    async def side(self, start_etcd: StartEtcd) -> AsyncIterator[StoreSide]:
        process = start_etcd()
        async with Client([process.endpoint], deadline_s=2.0) as client:
            store = Store(client)
            await store.open()
            async with store.session("test") as session:
                yield StoreSide(process, client, store, await session.claim("ns/repo"))


class TestBlobs(BlobsContract):
    @pytest.fixture
    async def side(self, etcd_client: Client, tmp_path: Path) -> StoredBlobsSide:
        await etcd_client.connect()
        return StoredBlobsSide(etcd_client, tmp_path)
