"""A package's files into the store, judged by the worker processes as those of a catalog are; and back.

Called by author.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cacheserver.catalogs.jobs import Assignment
from cacheserver.catalogs.krm import facts as f
from cacheserver.catalogs.krm.jobs import Jobs
from cacheserver.catalogs.krm.wire import Pack, Packed, Wanted
from cacheserver.catalogs.workers import Workers
from cacheserver.errors import BlobMissingError, CatalogError, Cause, RefusedError
from cacheserver.model import BlobFile, BlobHead, Digest, Key, RepositoryKey
from cacheserver.publish import package, refusals
from cacheserver.publish.package import File, Files, Limits


class Blobs(Protocol):
    """Content by digest (store/blobs.py)."""

    async def head(self, digest: Digest) -> BlobHead | None:
        """As store/blobs.py."""
        ...

    def read(self, digest: Digest) -> AsyncIterator[bytes]:
        """As store/blobs.py."""
        ...

    async def put(self, blob: BlobFile) -> int:
        """As store/blobs.py."""
        ...

    async def keep(self, digests: Iterable[Digest]) -> set[Digest]:
        """As store/blobs.py."""
        ...


@dataclass(frozen=True, slots=True)
class Judged:
    """Files that may be saved. facts: None where they are those that were there before."""

    digest: Digest
    facts: f.Facts | None = None


class Content:
    """See the module. Safe to share between tasks."""

    def __init__(self, blobs: Blobs, workers: Workers, scratch: Path, limits: Limits) -> None:
        self._blobs = blobs
        self._workers = workers
        self._scratch = scratch
        self.limits = limits
        self.parsing = workers.limits

    async def files(self, digest: Digest) -> dict[str, File]:
        """All files of a revision. Raises: BlobMissingError, EtcdError; RefusedError for more than one may have."""
        head = await self._blobs.head(digest)
        if head is None:
            raise BlobMissingError(f"content {digest} is not in the store")
        if sum(size for _, size in head.files) > self.limits.size:
            why = f"its files have more than the {self.limits.size} bytes that a package may have (--max-package-bytes)"
            raise RefusedError(413, "RequestEntityTooLarge", f"content {digest}: {why}")
        return await package.unpacked(self._blobs.read(digest))

    async def judge(self, key: Key, files: Files, *, known: str = "", field: str, kind: str, store: bool) -> Judged:
        """Have the files read by a worker, and kept in the store; what refers to them is to be written within an hour.

        known: digest of the content before. field, kind: of refusals. store: False keeps nothing.
        Raises: RefusedError 422; NoSpace, Unavailable.
        """
        name = key.name
        if causes := await asyncio.to_thread(package.check, files, self.limits, field):
            raise refusals.invalid(name, causes, kind)
        root = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=self._scratch, prefix="save-"))
        try:
            packed = await self._packed(key, files, root, known)
            if packed.refusal is not None:
                raise refusals.invalid(name, [_told(packed, field)], kind)
            if packed.digest == known:
                return Judged(Digest(known))
            if store and packed.blob is not None and await self._blobs.keep([packed.blob.head.digest]):
                await self._blobs.put(packed.blob)
        finally:
            await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)
        return Judged(Digest(packed.digest), f.decode(packed.facts))

    async def _packed(self, key: Key, files: Files, root: Path, known: str) -> Packed:
        listed, executable = await asyncio.to_thread(package.staged, files, root)
        repository = RepositoryKey(key.namespace, key.repository)
        wanted = Wanted(key.package, listed, known, executable=executable)
        try:
            with self._workers.queue() as queue:
                given = Assignment(repository, self._workers, queue, root, write_blobs=True)
                [packed] = await Jobs(given).pack(Pack(str(root), str(root), [wanted]))
        except CatalogError as exc:
            raise RefusedError(503, "ServiceUnavailable", f"no worker could read the files: {exc}") from exc
        return packed


def _told(packed: Packed, field: str) -> Cause:
    problem = packed.refusal
    assert problem is not None
    path = problem.path or f.KPTFILE
    at = f"line {packed.line}: " if packed.line else ""
    return Cause("FieldValueInvalid", f"Invalid value: {problem.reason}: {at}{problem.message}", f"{field}[{path}]")
