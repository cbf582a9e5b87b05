"""The fakes keep the contracts of what they stand for. The real sides: tests/etcd/test_contracts.py, and
tests/unit/sources/test_contracts.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest

from cacheserver.errors import SourceNetworkError
from cacheserver.model import BlobHead, Digest
from tests.fakes.blobs import FakeBlobs
from tests.fakes.feed import FakeFeed
from tests.fakes.source import FakeSource
from tests.support.contracts import BlobsContract, FeedContract, SourceContract


class FakeFeedSide:
    def __init__(self) -> None:
        self.feed = FakeFeed()

    async def put(self, name: str) -> int:
        return self.feed.put("ns", name)

    async def delete(self, name: str) -> int:
        return self.feed.delete("ns", name)

    async def write_elsewhere(self) -> int:
        return self.feed.write_elsewhere()

    async def compact(self, revision: int) -> None:
        self.feed.compact(revision)

    async def go_away(self) -> None:
        self.feed.away = True
        self.feed.break_streams()


class FakeBlobsSide:
    def __init__(self) -> None:
        self._blobs = FakeBlobs()

    async def put(self, content: bytes, media_type: str, files: Mapping[str, int]) -> Digest:
        return self._blobs.put(content, media_type, {path: bytes(size) for path, size in files.items()})

    async def lose(self, digest: Digest) -> None:
        self._blobs.lose(digest)

    async def head(self, digest: Digest) -> BlobHead | None:
        return await self._blobs.head(digest)

    def read(self, digest: Digest) -> AsyncIterator[bytes]:
        return self._blobs.read(digest)


class FakeSourceSide:
    def __init__(self) -> None:
        self.source = FakeSource({})

    async def write(self, files: Mapping[str, bytes]) -> None:
        self.source.files = dict(files)

    async def break_off(self) -> None:
        self.source.error = SourceNetworkError("x: no route")

    async def mend(self) -> None:
        self.source.error = None


class TestFakeFeed(FeedContract):
    @pytest.fixture
    async def side(self) -> FakeFeedSide:
        return FakeFeedSide()


class TestFakeBlobs(BlobsContract):
    @pytest.fixture
    async def side(self) -> FakeBlobsSide:
        return FakeBlobsSide()


class TestFakeSource(SourceContract):
    @pytest.fixture
    async def side(self) -> FakeSourceSide:
        return FakeSourceSide()
