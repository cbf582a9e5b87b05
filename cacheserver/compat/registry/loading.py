"""From what is published to what is answered: each package's documents through a worker, once for each content.

Of a new revision only the packages that changed are read. Documents are in memory a package at a time, and what is made
of them within WEIGHT for a repository: more is refused by name, and what was answered before stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

from cacheserver.catalogs.fbc.registry.wire import Packed, Refused, decode_packed, encode_job
from cacheserver.catalogs.wire import unhurried
from cacheserver.catalogs.workers import JobQueue
from cacheserver.compat.registry.content import Content
from cacheserver.errors import CacheServerError, WorkerCrashedError
from cacheserver.model import Digest
from cacheserver.slotted import slotted
from cacheserver.store.published import PublishedCatalog, PublishedPackage
from cacheserver.tasks import in_parallel

log = logging.getLogger(__name__)

WEIGHT: Final = 128 << 20
"""Bytes that answers of one repository may take, about: community v4.20 takes 3 MB of them, a catalog of 58 MB of
documents some 15."""
_ALONE_BYTES: Final = 8 << 20
"""Documents of a package that are read with no other beside it: there are four readers, and 64 MiB may come."""
_AT_ONCE: Final = 4


class Documents(Protocol):
    """Documents of what is published (compat/catalogs.py)."""

    async def lines(self, catalog: PublishedCatalog, package: PublishedPackage) -> Sequence[bytes]:
        """Of a package. Raises: BlobMissingError, EtcdError."""
        ...

    async def other_lines(self, catalog: PublishedCatalog) -> Sequence[bytes]:
        """Of no package. Raises: as lines."""
        ...


class Pool(Protocol):
    """The worker processes (catalogs/workers.py)."""

    def queue(self) -> AbstractContextManager[JobQueue]:
        """A place in the rotation."""
        ...

    async def run(self, queue: JobQueue, job: bytes, what: str) -> bytes:
        """The worker's answer. Raises: WorkerCrashedError, CatalogError."""
        ...


class TooLargeError(CacheServerError):
    """A catalog's answers would take more memory than one may."""


@slotted(frozen=True)
class Loaded:
    """A catalog, ready. by_digest: what was made of which documents, for the next revision."""

    content: Content
    refused: Sequence[Refused]
    by_digest: Mapping[Digest, Packed | Refused]


class Loader:
    """Makes answers of documents. Safe to share between listeners: one catalog is loaded at a time."""

    def __init__(self, documents: Documents, workers: Pool) -> None:
        self._documents = documents
        self._workers = workers
        self._turn = asyncio.Lock()
        self._alone = asyncio.Lock()

    async def load(self, catalog: PublishedCatalog, before: Loaded | None) -> Loaded:
        """Raises: BlobMissingError, EtcdError, CatalogError without workers, TooLargeError."""
        known = before.by_digest if before else {}
        made: dict[Digest, Packed | Refused] = {}
        weight = 0

        async def take(package: PublishedPackage | None) -> None:
            nonlocal weight
            digest = package.documents if package else Digest(catalog.others)
            found = known.get(digest)
            if found is None or (package is not None and found.name != package.name):
                found = await self._make(catalog, package, queue)
            made[digest] = found
            weight += found.weight if isinstance(found, Packed) else 0
            if weight > WEIGHT:
                raise TooLargeError(
                    f"what the registry answers of {catalog.key.namespace}/{catalog.key.name} would take more than "
                    f"{WEIGHT} bytes of memory; publish fewer packages in one repository"
                )

        wanted: list[PublishedPackage | None] = [*catalog.packages, *([None] if catalog.others else [])]
        async with self._turn:
            with self._workers.queue() as queue:
                await in_parallel(wanted, take, width=_AT_ONCE)
        found = [made[package.documents] for package in catalog.packages]
        others = made.get(Digest(catalog.others)) if catalog.others else None
        content = await asyncio.to_thread(
            Content,
            catalog.revision,
            [one for one in found if isinstance(one, Packed)],
            others if isinstance(others, Packed) else None,
        )
        refused = [one for one in made.values() if isinstance(one, Refused)]
        # Whose worker died is tried again with the next revision: the fault may have been another's.
        return Loaded(content, refused, {digest: one for digest, one in made.items() if one.lasting})

    async def _make(
        self, catalog: PublishedCatalog, package: PublishedPackage | None, queue: JobQueue
    ) -> Packed | Refused:
        if package is not None and package.size <= _ALONE_BYTES:
            return await self._ask(catalog, package, queue)
        async with self._alone:
            return await self._ask(catalog, package, queue)

    async def _ask(
        self, catalog: PublishedCatalog, package: PublishedPackage | None, queue: JobQueue
    ) -> Packed | Refused:
        name = package.name if package else ""
        lines = await (self._documents.lines(catalog, package) if package else self._documents.other_lines(catalog))
        job = await asyncio.to_thread(encode_job, name, lines)
        del lines
        try:
            answer = await self._workers.run(queue, job, f"documents of package {name!r}")
        except WorkerCrashedError as exc:
            return Refused(name, str(exc), lasting=False)
        return await unhurried(decode_packed, answer)
