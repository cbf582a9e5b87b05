"""What doors read, in memory: records of published catalogs with the promises of cacheserver.store.published, and their
documents with those of cacheserver.store.blobs.

async with published() as world:
    world.publish("community", {"app": [{"schema": "olm.package", "name": "app"}]})
    await world.settled()
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import orjson
import zstandard

from cacheserver.compat.catalogs import Catalogs
from cacheserver.config import Door, RepositoryConfig
from cacheserver.config.sources import DirectorySource
from cacheserver.errors import BlobMissingError, Unavailable
from cacheserver.model import BlobHead, Digest, RepositoryKey
from cacheserver.store.published import (
    PublishedCatalog,
    PublishedPackage,
    Record,
    decode,
    encode,
    revision_of,
)

NAMESPACE = "default"
CHANGED = 1_800_000_000

_PIECE = 40_000  # as little as a reader of real content gets, now and then


class FakeDocuments:
    """Content by digest. away: etcd does not answer. reads: how often content was asked for. hold: a reader waits for
    it before each piece but its first."""

    def __init__(self) -> None:
        self.away = False
        self.reads = 0
        self.hold: asyncio.Event | None = None
        self._blobs: dict[Digest, tuple[int, bytes]] = {}

    def put(self, content: bytes) -> Digest:
        digest = Digest(f"sha256:{hashlib.sha256(content).hexdigest()}")
        self._blobs[digest] = len(content), zstandard.ZstdCompressor(level=3).compress(content)
        return digest

    def damage(self, digest: Digest, frame: bytes) -> None:
        self._blobs[digest] = self._blobs[digest][0], frame

    def lose(self, digest: Digest) -> None:
        del self._blobs[digest]

    async def head(self, digest: Digest) -> BlobHead | None:
        await self._ask()
        found = self._blobs.get(digest)
        return BlobHead(digest, found[0], "application/jsonl") if found else None

    async def stored_bytes(self, digests: Iterable[Digest]) -> Mapping[Digest, int]:
        await self._ask()
        return {digest: len(self._blobs[digest][1]) for digest in digests if digest in self._blobs}

    async def packed(self, digest: Digest) -> AsyncIterator[bytes]:
        await self._ask()
        if digest not in self._blobs:
            raise BlobMissingError(f"content {digest} is not in the store")
        self.reads += 1
        frame = self._blobs[digest][1]
        for at in range(0, len(frame), _PIECE):
            await self._ask()
            if at and self.hold is not None:
                await self.hold.wait()
            yield frame[at : at + _PIECE]

    async def _ask(self) -> None:
        await asyncio.sleep(0)  # others have their turn, as while etcd is asked
        if self.away:
            raise Unavailable("the fake is away")


class FakePublished:
    """Records, and who follows them."""

    def __init__(self) -> None:
        self._values: dict[RepositoryKey, bytes] = {}
        self._revision = 1
        self._followers: set[asyncio.Queue[Record | None]] = set()

    def put(self, catalog: PublishedCatalog) -> None:
        self._take(Record(catalog.key, encode(catalog)))

    def forget(self, key: RepositoryKey) -> None:
        self._take(Record(key, None))

    def read(self, key: RepositoryKey) -> PublishedCatalog | None:
        value = self._values.get(key)
        return decode(key, value) if value is not None else None

    @property
    def followed(self) -> bool:
        """Whether anybody follows now."""
        return bool(self._followers)

    def break_off(self) -> None:
        """As etcd does when it goes away: whoever follows begins again."""
        for follower in self._followers:
            follower.put_nowait(None)

    async def everything(self) -> tuple[Mapping[RepositoryKey, bytes], int]:
        return dict(self._values), self._revision

    @asynccontextmanager
    async def follow(self, after: int) -> AsyncIterator[AsyncIterator[Sequence[Record]]]:
        waiting = asyncio.Queue[Record | None]()
        self._followers.add(waiting)

        async def each() -> AsyncIterator[Sequence[Record]]:
            while (record := await waiting.get()) is not None:
                yield [record]
            raise Unavailable("the fake is away")

        try:
            yield each()
        finally:
            self._followers.discard(waiting)

    def _take(self, record: Record) -> None:
        self._revision += 1
        if record.value is None:
            self._values.pop(record.key, None)
        else:
            self._values[record.key] = record.value
        for follower in self._followers:
            follower.put_nowait(record)


class Published:
    """Catalogs as one process has them, whose repositories a test publishes."""

    def __init__(self) -> None:
        self.documents = FakeDocuments()
        self.records = FakePublished()
        self.configs: dict[RepositoryKey, RepositoryConfig] = {}
        self.catalogs = Catalogs(self.records, self.documents, self.configs)  # type: ignore[arg-type] # a fake of it

    def publish(
        self,
        name: str,
        packages: Mapping[str, Sequence[Mapping[str, Any]]],
        others: Sequence[Mapping[str, Any]] = (),
        *,
        doors: Iterable[Door] = (Door.CATALOG,),
        namespace: str = NAMESPACE,
    ) -> PublishedCatalog:
        """A finished sync of the repository with these documents; of each package those of its list."""
        key = RepositoryKey(namespace, name)
        made = [self._package(package, documents) for package, documents in sorted(packages.items())]
        loose: Digest | Literal[""] = self.documents.put(lines(others)) if others else ""
        before = self.records.read(key)
        changed = before.changed + 1 if before else CHANGED
        catalog = PublishedCatalog(key, revision_of(made, loose), changed, tuple(made), loose)
        self.records.put(catalog)
        self.open(key, *doors)
        return catalog

    def open(self, key: RepositoryKey, *doors: Door) -> None:
        """The repository names these doors from now on."""
        self.configs[key] = self.config(key, *doors)
        self.catalogs.note(key)

    @staticmethod
    def config(key: RepositoryKey, *doors: Door) -> RepositoryConfig:
        return RepositoryConfig(key, source=DirectorySource(Path("/x")), publish=frozenset(doors))

    def remove(self, key: RepositoryKey) -> None:
        del self.configs[key]
        self.records.forget(key)
        self.catalogs.note(key)

    async def settled(self) -> None:
        """Until the process has seen all there is."""
        async with asyncio.timeout(5):
            await self.catalogs.wait_known()
            while any(self.catalogs.get(key) != self.records.read(key) for key in self.configs):
                await asyncio.sleep(0)

    def _package(self, name: str, documents: Sequence[Mapping[str, Any]]) -> PublishedPackage:
        text = lines(documents)
        return PublishedPackage(name, self.documents.put(text), len(text), len(documents))


def lines(documents: Iterable[Mapping[str, Any]]) -> bytes:
    """As they are kept: keys sorted, a line each."""
    return b"".join(orjson.dumps(each, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE) for each in documents)


@asynccontextmanager
async def published() -> AsyncIterator[Published]:
    world = Published()
    task = asyncio.create_task(world.catalogs.run())
    try:
        yield world
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
