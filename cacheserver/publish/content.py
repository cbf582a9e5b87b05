"""A package's files into the store, judged by the worker processes as those of a catalog are; and back.

What was read or saved last is kept in memory, since who edits a draft saves it again. Called by author.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final, Protocol

from cacheserver.catalogs.jobs import Assignment
from cacheserver.catalogs.krm import facts as f
from cacheserver.catalogs.krm.jobs import Jobs
from cacheserver.catalogs.krm.wire import Pack, Packed, Wanted
from cacheserver.catalogs.workers import Workers
from cacheserver.errors import BlobMissingError, CatalogError, Cause, RefusedError
from cacheserver.memo import Memo
from cacheserver.model import BlobFile, BlobHead, Digest, Key, RepositoryKey
from cacheserver.publish import package, refusals
from cacheserver.publish.package import File, Files, Limits
from cacheserver.slotted import slotted
from cacheserver.turns import Places

RECENT_BYTES: Final = 32 << 20
"""Of files kept in memory. Ours: 2,000 drafts of ten small files; one package has an eighth of it at most."""
AT_ONCE: Final = 4
"""Packages judged and stored at the same time. Ours: a save is 10 ms of the loop's time in a dozen turns, and waits for
a thread, a worker and etcd between: four keep them busy. Of 32 at once each turn had a piece of every one, and who only
reads waited for them all."""
_FILE_BYTES: Final = 300
"""What a file takes there beside its content and path."""


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


@slotted(frozen=True)
class Judged:
    """Files that may be saved. facts: None where they are those that were there before."""

    digest: Digest
    facts: f.Facts | None = None


Admit = Callable[[Key, Digest, int], Awaitable[None]]
"""Whether there is room for a revision's content, by digest and packed bytes (allowance.py). Raises: RefusedError."""


class Content:
    """See the module. Safe to share between tasks."""

    def __init__(
        self, blobs: Blobs, workers: Workers, scratch: Path, limits: Limits, admit: Admit | None = None
    ) -> None:
        """admit: called before content is stored."""
        self._admit = admit
        self._blobs = blobs
        self._workers = workers
        self._scratch = scratch
        self.limits = limits
        self.parsing = workers.limits
        self._recent: Memo[str, Files] = Memo(RECENT_BYTES)
        self._places = Places(AT_ONCE)

    async def files(self, digest: Digest) -> dict[str, File]:
        """All files of a revision. Raises: BlobMissingError, EtcdError; RefusedError for more than one may have."""
        if (recent := self._recent.get(digest)) is not None:
            return dict(recent)
        head = await self._blobs.head(digest)
        if head is None:
            raise BlobMissingError(f"content {digest} is not in the store")
        if sum(size for _, size in head.files) > self.limits.size:
            why = f"its files have more than the {self.limits.size} bytes that a package may have (--max-package-bytes)"
            raise RefusedError(413, "RequestEntityTooLarge", f"content {digest}: {why}")
        found = await package.unpacked(self._blobs.read(digest))
        self._remember(digest, found)
        return found

    def _remember(self, digest: str, files: Files) -> None:
        size = sum(len(path) + len(file.content) + _FILE_BYTES for path, file in files.items())
        self._recent.put(digest, dict(files), size)

    async def judge(self, key: Key, files: Files, *, known: str = "", field: str, kind: str, store: bool) -> Judged:
        """Have the files read by a worker, and kept in the store; what refers to them is to be written within an hour.

        known: digest of the content before. field, kind: of refusals. store: False keeps nothing.
        Raises: RefusedError 422, and as `admit` does; NoSpace, Unavailable.
        """
        async with self._places.place(key.namespace):
            return await self._judge(key, files, known, field, kind, store=store)

    async def _judge(self, key: Key, files: Files, known: str, field: str, kind: str, *, store: bool) -> Judged:
        staged = await asyncio.to_thread(self._staged, files, field)
        if isinstance(staged, list):
            raise refusals.invalid(key.name, staged, kind)
        try:
            packed = await self._packed(key, staged, known)
            if packed.refusal is not None:
                raise refusals.invalid(key.name, [_told(packed, field)], kind)
            if packed.digest == known:
                return Judged(Digest(known))
            if store and packed.blob is not None:
                if self._admit is not None:
                    await self._admit(key, packed.blob.head.digest, packed.blob.stored)
                if await self._blobs.keep([packed.blob.head.digest]):
                    await self._blobs.put(packed.blob)
                self._remember(packed.digest, files)
        finally:
            await asyncio.to_thread(shutil.rmtree, staged.root, ignore_errors=True)
        return Judged(Digest(packed.digest), f.decode(packed.facts))

    def _staged(self, files: Files, field: str) -> _Staged | list[Cause]:
        """The files for a worker to read, or what is wrong with them. In a thread, once: each turn to one costs."""
        if causes := package.check(files, self.limits, field):
            return causes
        root = Path(tempfile.mkdtemp(dir=self._scratch, prefix="save-"))
        listed, executable = package.staged(files, root)
        return _Staged(root, listed, executable)

    async def _packed(self, key: Key, staged: _Staged, known: str) -> Packed:
        repository, root = RepositoryKey(key.namespace, key.repository), staged.root
        wanted = Wanted(key.package, staged.listed, known, executable=staged.executable)
        try:
            with self._workers.queue() as queue:
                given = Assignment(repository, self._workers, queue, root, write_blobs=True)
                [packed] = await Jobs(given).pack(Pack(str(root), str(root), [wanted]))
        except CatalogError as exc:
            raise RefusedError(503, "ServiceUnavailable", f"no worker could read the files: {exc}") from exc
        return packed


@slotted(frozen=True)
class _Staged:
    """As package.staged; root: the directory, which goes with the save."""

    root: Path
    listed: list[tuple[str, str]]
    executable: list[str]


def _told(packed: Packed, field: str) -> Cause:
    problem = packed.refusal
    assert problem is not None
    path = problem.path or f.KPTFILE
    at = f"line {packed.line}: " if packed.line else ""
    return Cause("FieldValueInvalid", f"Invalid value: {problem.reason}: {at}{problem.message}", f"{field}[{path}]")
