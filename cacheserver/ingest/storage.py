"""How much of etcd a repository, and a namespace, may have: counted and reserved before the first write of a sync.

etcd is one for all: a tenant that fills it stops everybody's syncs. Counted are objects, content (by digest; once for
each repository that refers to it), the index and what doors show, and what was replaced, until it is collected.
Called by sync.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from cacheserver.catalogs import Catalog
from cacheserver.errors import NoSpace, StorageLimitError
from cacheserver.model import Digest, RepositoryKey
from cacheserver.slotted import slotted
from cacheserver.store.blobs import Blobs
from cacheserver.store.claims import Claim
from cacheserver.store.published import size_of
from cacheserver.store.usage import Package, Usage, Usages

REPOSITORY_BYTES: Final = 512 << 20
NAMESPACE_BYTES: Final = 1 << 30
"""Half of the 2 GiB at which an etcd with its own defaults takes nothing more (etcd's documentation, System limits):
beside what is counted it holds the past, and room that only defragmenting gives back."""

_BESIDE_BYTES: Final = 4096
"""Of each repository, however little it serves: the Repository, what its last sync saw, its claim, and this account."""

_LEFT_FOR_S: Final = 4500.0
"""Until content that nobody refers to is collected: an hour, and a pass each quarter of one (store/blobs.py)."""
_LEFT_STEP_S: Final = 300
"""So that a repository has some 16 entries of what is left, however often it changes."""
_OBJECT_BYTES: Final = 700
"""Of an object beside its spec and status: its key, and metadata."""


@slotted(frozen=True)
class Reserved:
    """What a sync may write; hand it to finished(). stored: bytes referred to when it is through; released: content
    that it stops referring to."""

    usage: Usage
    stored: int
    released: int


class Storage:
    """One for all syncs of a process. The caps hold for all processes that share an etcd."""

    def __init__(
        self,
        usages: Usages,
        blobs: Blobs,
        *,
        repository_bytes: int = REPOSITORY_BYTES,
        namespace_bytes: int = NAMESPACE_BYTES,
        now: Callable[[], float] = time.time,
    ) -> None:
        """now: Unix time."""
        self._usages = usages
        self._blobs = blobs
        self._repository_bytes = repository_bytes
        self._namespace_bytes = namespace_bytes
        self._now = now

    async def reserve(
        self, claim: Claim, key: RepositoryKey, catalog: Catalog, gone: Iterable[str], digest: str
    ) -> Reserved:
        """Room for what `catalog`, of the source with this digest, writes, or a refusal. gone: packages it removes.

        A sync that writes no new content and ends with no more bytes than there are is never refused: it makes room.
        Raises: StorageLimitError, NoSpace, LeaseLostError.
        """
        before = await self._usages.measure(key)
        after = dict(before)
        for name in gone:
            after.pop(name, None)
        for package in catalog.packages:
            size = sum(_OBJECT_BYTES + len(record.spec) + len(record.status) for record in package.records)
            content = frozenset(digest for record in package.records for digest in record.blobs)
            after[package.name] = Package(size, content)
        sizes = await self._sizes(catalog, [*before.values(), *after.values()])
        beside = _BESIDE_BYTES + len(catalog.index) + size_of(after) + await self._of_no_package(catalog, sizes)
        stored = _bytes(after.values(), sizes) + beside
        new = await self._blobs.absent(catalog.blobs.keys())
        writes = sum(sizes[one] for one in new if one in sizes)
        released = sum(sizes[one] for one in _content(before.values()) - _content(after.values()))
        grows = bool(writes) or stored > _bytes(before.values(), sizes) + beside
        while True:
            now = self._now()
            ledger = await self._usages.read(key.namespace)
            old = ledger.usages.get(key.name, Usage()).at(now)
            again = old.digest == digest
            left = old.left if again or not old.pending else _with(old.left, old.pending, now)
            usage = Usage(stored, left, max(writes, old.pending) if again else writes, digest)
            if grows:
                others = sum(one.at(now).total for name, one in ledger.usages.items() if name != key.name)
                self._check(key, usage, others, ledger.changes)
            if await self._usages.reserve(claim, key, usage, ledger):
                return Reserved(usage, stored, released)

    async def finished(self, claim: Claim, key: RepositoryKey, reserved: Reserved) -> None:
        """The sync is through. Raises: LeaseLostError, NoSpace."""
        left = _with(reserved.usage.left, reserved.released, self._now()) if reserved.released else reserved.usage.left
        await self._usages.write(claim, key, Usage(reserved.stored, left))

    async def forget(self, claim: Claim, key: RepositoryKey) -> None:
        """The repository went; what it had is collected later, and counts for its namespace until then."""
        now = self._now()
        ledger = await self._usages.read(key.namespace)
        old = ledger.usages.get(key.name, Usage()).at(now)
        try:
            await self._usages.write(claim, key, Usage(0, _with(old.left, old.stored, now)))
        except NoSpace:
            await self._usages.write(claim, key, None)

    def _check(self, key: RepositoryKey, usage: Usage, others: int, changes: int) -> None:
        """changes: bytes of the namespace's. Raises: StorageLimitError."""
        wanted = usage.total
        for whose, total, most, flag in (
            (f"repository {key.namespace}/{key.name}", wanted, self._repository_bytes, "--max-repository-bytes"),
            (f"namespace {key.namespace}", wanted + others + changes, self._namespace_bytes, "--max-namespace-bytes"),
        ):
            if total > most:
                soon = sum(size for _, size in usage.left)
                told = f", {changes} of them its PackageChanges (--max-changes)" if changes and total > wanted else ""
                waits = f", {soon} of them replaced content that is collected within 75 minutes" if soon else ""
                raise StorageLimitError(
                    f"{whose} would have {total} bytes stored{waits}{told}, at most {most} are allowed ({flag}); "
                    "nothing of this sync was written"
                )

    async def _sizes(self, catalog: Catalog, packages: Iterable[Package]) -> dict[Digest, int]:
        """Bytes of all content, packed: of what the catalog brings by its files, of the rest by what is stored."""
        brought = {digest: blob.stored for digest, blob in catalog.blobs.items()}
        return {**await self._blobs.stored_bytes(_content(packages) - brought.keys()), **brought}

    async def _of_no_package(self, catalog: Catalog, sizes: Mapping[Digest, int]) -> int:
        """Bytes of the documents of no package."""
        digest = catalog.documents
        if digest is None:
            return 0
        return sizes[digest] if digest in sizes else (await self._blobs.stored_bytes({digest})).get(digest, 0)


def _content(packages: Iterable[Package]) -> set[Digest]:
    return {digest for package in packages for digest in package.content}


def _bytes(packages: Iterable[Package], sizes: dict[Digest, int]) -> int:
    packages = list(packages)
    return sum(one.objects for one in packages) + sum(sizes.get(digest, 0) for digest in _content(packages))


def _with(left: tuple[tuple[int, int], ...], size: int, now: float) -> tuple[tuple[int, int], ...]:
    """`left`, and so much more that is collected later."""
    until = (int(now + _LEFT_FOR_S) // _LEFT_STEP_S + 1) * _LEFT_STEP_S
    found = dict(left)
    found[until] = found.get(until, 0) + size
    return tuple(sorted(found.items()))
