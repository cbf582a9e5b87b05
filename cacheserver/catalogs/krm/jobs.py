"""KRM jobs for the pool of workers: several at a time, and when a worker dies, each tree or package is tried alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

from cacheserver.catalogs import bounds
from cacheserver.catalogs.catalog import Finding
from cacheserver.catalogs.krm.facts import Problem
from cacheserver.catalogs.krm.wire import Describe, Described, Pack, Packed, decode_packed, encode_job
from cacheserver.catalogs.wire import Assembled, decode_assembled, unhurried
from cacheserver.catalogs.workers import JobQueue, Workers
from cacheserver.errors import CatalogError, WorkerCrashedError
from cacheserver.model import Key, Kind, RepositoryKey

_AHEAD: Final = 2
"""Jobs under way for one parse, per worker: the next one is ready when a worker is."""

_B = TypeVar("_B")


class Jobs:
    """The workers as one parse of one repository uses them."""

    def __init__(self, key: RepositoryKey, workers: Workers, queue: JobQueue) -> None:
        self._key = key
        self._workers = workers
        self._queue = queue
        self.limits = workers.limits

    def unnameable(self, package: str, revision: str) -> Problem | None:
        """Why a revision cannot have a key in the store, if it cannot: git allows longer names."""
        try:
            key = Key(Kind.REVISION, self._key.namespace, self._key.name, package, revision)
            bounds.check_key(key, self.limits)
        except bounds.BoundError as exc:
            return exc.reason, str(exc), ""
        return None

    async def pack(self, job: Pack) -> list[Packed]:
        """One answer for each tree, in order. Raises: CatalogError when the pool cannot go on."""
        try:
            answer = await self._workers.run(self._queue, encode_job(job), f"package {job.trees[0].name}")
            return await unhurried(decode_packed, answer)
        except WorkerCrashedError as exc:
            if len(job.trees) == 1:
                return [Packed(refusal=("WorkerCrashed", str(exc), ""))]
        return [one for tree in job.trees for one in await self.pack(replace(job, trees=[tree]))]

    async def describe(self, packages: list[Described]) -> list[Assembled]:
        """The records of each package; of one that kills its worker none, and a finding."""
        namespace, repository = self._key.namespace, self._key.name
        job = encode_job(Describe(namespace, repository, packages))
        try:
            answer = await self._workers.run(self._queue, job, f"package {packages[0].name}")
            return await unhurried(partial(decode_assembled, namespace=namespace, repository=repository), answer)
        except WorkerCrashedError as exc:
            if len(packages) == 1:
                name = packages[0].name
                return [Assembled(name, (), [Finding("WorkerCrashed", str(exc), package=name)])]
        return [one for package in packages for one in await self.describe([package])]

    async def each(self, batches: Iterable[_B], do: Callable[[_B], Awaitable[None]]) -> None:
        """`do` for every batch, a few at a time. Raises: CatalogError."""
        waiting = iter(batches)

        async def take() -> None:
            for batch in waiting:
                await do(batch)

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(_AHEAD * self._workers.count):
                    tasks.create_task(take(), name=f"parse {self._key.namespace}/{self._key.name}")
        except ExceptionGroup as group:
            failed = group.subgroup(CatalogError)
            if failed is None:
                raise
            raise CatalogError(str(failed.exceptions[0])) from group
