"""What the author asks of what is served, from the watch cache; as fresh as a list without a resourceVersion.

Raises, everywhere: Unavailable while etcd is away, for nothing is decided by what may be old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

from cacheserver.api.options import CONSISTENT
from cacheserver.api.selectors import parse_selection
from cacheserver.cache.snapshot import Entry
from cacheserver.cache.watchcache import WatchCache
from cacheserver.errors import Unavailable
from cacheserver.model import LABEL_LATEST, Kind, RepositoryKey

_AWAY: Final = "it has not been heard from for a while, and what is in memory may be old"
_OPEN: Final = ("Draft", "Proposed")
_FIELDS: Final = ("spec.repository", "spec.packageName")


class Shelf:
    """Implements publish.author.Shelf."""

    def __init__(self, cache: WatchCache) -> None:
        self._cache = cache

    async def packages(self, repository: RepositoryKey) -> tuple[Collection[str], Collection[tuple[str, str]]]:
        """Packages with any revision; package and workspace of each draft and proposed revision."""
        found: set[str] = set()
        drafts: set[tuple[str, str]] = set()
        for entry in await self._entries(repository, ""):
            package = entry.fields["spec.packageName"]
            found.add(package)
            if entry.fields["spec.lifecycle"] in _OPEN:
                drafts.add((package, entry.fields["spec.revision"]))
        return found, drafts

    async def newest(self, repository: RepositoryKey, package: str) -> bytes | None:
        """The manifest of the package's latest published revision."""
        for entry in await self._entries(repository, package):
            if entry.labels.get(LABEL_LATEST) == "true":
                return entry.body
        return None

    async def revisions(self, repository: RepositoryKey, package: str) -> list[bytes]:
        """The manifests of all revisions of a package."""
        return [entry.body for entry in await self._entries(repository, package)]

    async def speaking_of(self, namespace: str, commit: str) -> list[bytes]:
        """The manifests of revisions in which a commit's name stands, whatever for. Looks at all of the namespace."""
        everything = parse_selection("", "", _FIELDS)
        page = await self._cache.list(Kind.REVISION, CONSISTENT, namespace=namespace, selector=everything)
        if page.stale:
            raise Unavailable(_AWAY)
        found: list[bytes] = []
        wanted = f'"{commit}"'.encode()
        for run in page.runs:
            found += [entry.body for entry in run.entries if wanted in entry.body]
            await asyncio.sleep(0)  # a run is 128 objects at most
        return found

    async def versions(self, repository: RepositoryKey, package: str) -> Collection[str]:
        """spec.version of each published revision of a package."""
        entries = await self._entries(repository, package)
        return [entry.fields["spec.version"] for entry in entries if entry.fields["spec.lifecycle"] not in _OPEN]

    async def named(self, namespace: str, name: str) -> bytes | None:
        """The manifest of any revision."""
        entry = await self._cache.get(Kind.REVISION, (namespace, name), CONSISTENT)
        if entry is None and self._cache.away:
            raise Unavailable(_AWAY)
        return entry.body if entry is not None else None

    async def _entries(self, repository: RepositoryKey, package: str) -> list[Entry]:
        wanted = f"spec.repository={repository.name}" + (f",spec.packageName={package}" if package else "")
        selection = parse_selection("", wanted, _FIELDS)
        page = await self._cache.list(Kind.REVISION, CONSISTENT, namespace=repository.namespace, selector=selection)
        if page.stale:
            raise Unavailable(_AWAY)
        return [entry for run in page.runs for entry in run.entries]
