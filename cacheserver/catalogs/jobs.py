"""The pool of workers as one parse uses it: jobs of a bounded size, a few at a time, and who killed a worker is blamed.

What the jobs of a format are is in fbc/jobs.py and krm/jobs.py; what workers do with them in fbc/worker.py and
krm/worker.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from cacheserver.catalogs.catalog import Manifests
from cacheserver.catalogs.wire import Assembled, decode_assembled, unhurried
from cacheserver.catalogs.workers import JobQueue, Workers
from cacheserver.errors import CatalogError, WorkerCrashedError
from cacheserver.model import RepositoryKey
from cacheserver.slotted import slotted

_AHEAD: Final = 2
"""Jobs under way for one parse, per worker: the next one is ready when a worker is."""

_A = TypeVar("_A")
_B = TypeVar("_B")


def batched(items: Iterable[_B], size: Callable[[_B], int], most: int, most_items: int) -> Iterator[list[_B]]:
    """Jobs of at most `most` in size and `most_items`, in the order given; what is larger is a job by itself."""
    batch: list[_B] = []
    total = 0
    for item in items:
        if batch and (total + size(item) > most or len(batch) >= most_items):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size(item)
    if batch:
        yield batch


@slotted(frozen=True)
class Assignment:
    """What one parse is given beside the files: whose they are, who works on them, and where content is put.

    scratch: a directory that is there. write_blobs: whether content is wanted. manifests: None where none are.
    """

    key: RepositoryKey
    workers: Workers
    queue: JobQueue
    scratch: Path
    write_blobs: bool
    manifests: Manifests | None = None

    @property
    def blobs(self) -> str:
        """Where workers write content; empty where it is not wanted."""
        return str(self.scratch) if self.write_blobs else ""


class Jobs:
    """The workers as one parse of one repository uses them."""

    def __init__(self, given: Assignment) -> None:
        self.key = given.key
        self.limits = given.workers.limits
        self.blobs = given.blobs
        self.manifests = given.manifests if given.write_blobs else None
        self._workers = given.workers
        self._queue = given.queue

    async def ask(self, job: bytes, what: str) -> bytes:
        """A worker's answer. what: as Workers.run's. Raises: WorkerCrashedError, CatalogError."""
        return await self._workers.run(self._queue, job, what)

    async def assembled(self, job: bytes, what: str) -> list[Assembled]:
        """The answer to a job that assembles packages. Raises: as ask()."""
        return await unhurried(partial(decode_assembled, repository=self.key), await self.ask(job, what))

    async def answers(
        self,
        items: Sequence[_B],
        ask: Callable[[Sequence[_B]], Awaitable[list[_A]]],
        blamed: Callable[[_B, WorkerCrashedError], _A],
        *,
        alone: bool = False,
    ) -> list[_A]:
        """One answer for each item, in order: `ask`'s, or `blamed`'s for one that kills its worker.

        When a worker dies, each of its items is tried again alone: the kernel may have killed it for another's greed,
        and the one to blame must be known. What took too long alone is not tried again. Raises: CatalogError.
        """
        try:
            return await ask(items)
        except WorkerCrashedError as exc:
            if alone or (len(items) == 1 and isinstance(exc.__cause__, TimeoutError)):
                return [blamed(items[0], exc)]
        return [one for item in items for one in await self.answers([item], ask, blamed, alone=True)]

    async def each(self, batches: Iterable[_B], do: Callable[[_B], Awaitable[None]]) -> None:
        """`do` for every batch, a few at a time. Raises: CatalogError."""
        waiting = iter(batches)

        async def take() -> None:
            for batch in waiting:
                await do(batch)

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(_AHEAD * self._workers.count):
                    tasks.create_task(take(), name=f"parse {self.key.namespace}/{self.key.name}")
        except ExceptionGroup as group:
            failed = group.subgroup(CatalogError)
            if failed is None:
                raise
            raise CatalogError(str(failed.exceptions[0])) from group

    async def gather(self, batches: Iterable[_B], do: Callable[[_B], Awaitable[Iterable[_A]]]) -> list[_A]:
        """Everything that `do` makes of the batches, in no order. Raises: CatalogError."""
        found: list[_A] = []

        async def add(batch: _B) -> None:
            found.extend(await do(batch))

        await self.each(batches, add)
        return found
