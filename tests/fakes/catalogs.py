"""Published catalogs without etcd, as compat/catalogs.py has them, and a pool that works in this process."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import orjson

from cacheserver.catalogs.fbc.registry import answers
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.catalogs.workers import JobQueue
from cacheserver.config import Door
from cacheserver.errors import BlobMissingError
from cacheserver.model import Digest, RepositoryKey
from cacheserver.store.published import PublishedCatalog, PublishedPackage, revision_of

Documents = Sequence[Mapping[str, object]]


class Catalogs:
    """One follower at most."""

    def __init__(self) -> None:
        self.known = True
        self.doors: dict[RepositoryKey, frozenset[Door]] = {}
        self._catalogs: dict[RepositoryKey, PublishedCatalog] = {}
        self._lines: dict[Digest, Sequence[bytes]] = {}
        self._changed: asyncio.Queue[RepositoryKey] = asyncio.Queue()
        self.read: list[Digest] = []

    def publish(self, key: RepositoryKey, packages: Mapping[str, Documents], others: Documents = ()) -> None:
        """What a finished sync left, through the registry."""
        self.doors.setdefault(key, frozenset({Door.REGISTRY}))
        found = [
            PublishedPackage(name, *self._keep(documents), len(documents))
            for name, documents in sorted(packages.items())
        ]
        loose: Digest | Literal[""] = self._keep(others)[0] if others else ""
        changed = self._catalogs[key].changed + 1 if key in self._catalogs else 1
        self._catalogs[key] = PublishedCatalog(key, revision_of(found, loose), changed, found, loose)
        self.tell(key)

    def withdraw(self, key: RepositoryKey) -> None:
        """Its spec names no door any more."""
        self.doors[key] = frozenset()
        self.tell(key)

    def lose(self) -> None:
        """All documents are gone from the store."""
        self._lines.clear()

    def tell(self, key: RepositoryKey) -> None:
        self._changed.put_nowait(key)

    def _keep(self, documents: Documents) -> tuple[Digest, int]:
        lines = [orjson.dumps(each, option=orjson.OPT_SORT_KEYS) for each in documents]
        text = b"\n".join(lines)
        digest = Digest(f"sha256:{hashlib.sha256(text).hexdigest()}")
        self._lines[digest] = lines
        return digest, len(text)

    def get(self, key: RepositoryKey) -> PublishedCatalog | None:
        return self._catalogs.get(key)

    def is_published(self, key: RepositoryKey, door: Door) -> bool:
        return door in self.doors.get(key, ())

    async def changes(self) -> AsyncIterator[RepositoryKey]:
        while True:
            yield await self._changed.get()

    async def lines(self, catalog: PublishedCatalog, package: PublishedPackage) -> Sequence[bytes]:
        return self._found(package.documents)

    async def other_lines(self, catalog: PublishedCatalog) -> Sequence[bytes]:
        return self._found(Digest(catalog.others)) if catalog.others else ()

    def _found(self, digest: Digest) -> Sequence[bytes]:
        self.read.append(digest)
        if digest not in self._lines:
            raise BlobMissingError(f"content {digest} is not in the store")
        return self._lines[digest]


class InProcess:
    """Answers jobs of fbc/registry/wire.py at once."""

    @contextmanager
    def queue(self) -> Iterator[JobQueue]:
        yield JobQueue()

    async def run(self, queue: JobQueue, job: bytes, what: str) -> bytes:
        return answers.answer(job, ParseLimits())
