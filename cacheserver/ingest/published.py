"""Writes down for doors what a finished sync left: each package's documents, and those of no package.

Never an intermediate state: while packages are written, one by one, doors show what the sync before left. Called by
sync.py, last but for the memory of what it saw, so what was cut short is done again. Knows no door: what is written is
the same whether anybody asks for it, so that switching a door on or off costs nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson

from cacheserver.model import LABEL_FORMAT, Digest, Format, RepositoryKey
from cacheserver.store.blobs import Blobs
from cacheserver.store.claims import Claim
from cacheserver.store.objects import Store
from cacheserver.store.published import PublishedCatalog, PublishedPackage, revision_of
from cacheserver.tasks import in_parallel

log = logging.getLogger(__name__)

_READS_AT_ONCE: Final = 8
"""Documents of packages that changed: a chunk of 512 KiB and a piece each."""


class Publication:
    """What one sync leaves. Run under the claim on the repository."""

    def __init__(self, store: Store, blobs: Blobs, claim: Claim, *, now: Callable[[], float] = time.time) -> None:
        """now: Unix time."""
        self._store = store
        self._blobs = blobs
        self._claim = claim
        self._now = now

    async def write(
        self, key: RepositoryKey, others: str, measures: Mapping[Digest, tuple[int, int]] = MappingProxyType({})
    ) -> None:
        """Publish what is served now; nothing is written where that is what was published before.

        others: digest of the documents of no package, if any. measures: as Catalog's, of what need not be read for it.
        Raises: EtcdError (LeaseLostError, NoSpace among them), BlobMissingError where documents are not in the store.
        """
        before = await self._store.published.read(key)
        documents = await self._documents(key)
        if not documents and not others:
            if before is not None:
                await self._store.published.forget(self._claim, key)
            return
        packages = await self._measured(documents, before, measures)
        revision = revision_of(packages, others)
        if before is not None and before.revision == revision:
            return
        # HTTP compares whole seconds, and a clock may go back: two contents never have one time.
        changed = max(int(self._now()), before.changed + 1 if before is not None else 0)
        catalog = PublishedCatalog(key, revision, changed, packages, Digest(others) if others else "")
        if not await self._store.published.write(self._claim, catalog):
            log.warning(
                "too many packages to be shown by doors: publish them in more than one repository",
                extra={"namespace": key.namespace, "repository": key.name, "packages": len(packages)},
            )

    async def _documents(self, key: RepositoryKey) -> dict[str, Digest]:
        """Package -> the blob of its documents, by name; none of KRM packages, which have no such thing."""
        found: dict[str, Digest] = {}
        async for page in self._store.packages(key):
            for stored in page:
                manifest: dict[str, Any] = orjson.loads(stored.value)
                if manifest["metadata"].get("labels", {}).get(LABEL_FORMAT) == Format.KRM:
                    return {}
                if documents := manifest["status"].get("documents"):
                    found[stored.key.package] = Digest(documents["digest"])
        return dict(sorted(found.items()))

    async def _measured(
        self, documents: dict[str, Digest], before: PublishedCatalog | None, measures: Mapping[Digest, tuple[int, int]]
    ) -> tuple[PublishedPackage, ...]:
        """With size and count, which content says: read of those only that were not published before, nor just parsed,
        as after an upgrade or a sync that was cut short."""
        known = {package.documents: (package.size, package.count) for package in (before.packages if before else ())}
        known.update(measures)

        async def measure(digest: Digest) -> None:
            size = count = 0
            async for piece in self._blobs.read(digest):
                size, count = size + len(piece), count + piece.count(b"\n")
            known[digest] = size, count

        await in_parallel(sorted({*documents.values()} - known.keys()), measure, width=_READS_AT_ONCE)
        return tuple(PublishedPackage(name, digest, *known[digest]) for name, digest in documents.items())
