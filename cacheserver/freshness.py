"""How far the watch cache has come, how fresh that is, and those who wait for it to come further.

Consistent reads share one question to the store; reads of a version to come wait for it at most 3 s. Knows nothing of
what is cached.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn, Protocol

from cacheserver import metrics
from cacheserver.errors import EtcdError, NotReady, TooNew
from cacheserver.store import Changes, Follower

READ_WAIT_S = 3.0
"""Longest wait for freshness. Kubernetes: blockTimeout in k8s.io/apiserver/pkg/storage/cacher/watch_cache.go."""

_PROGRESS_EVERY_S = 0.1  # asked again while somebody waits; Kubernetes: pkg/storage/cacher/progress
_AWAY_AFTER_S = 3.0  # the follower hears progress every second; silent for this long, the store counts as away


class Freshness(Enum):
    CONSISTENT = "as new as the store was when the read began"
    ANY = "whatever the cache holds"
    NOT_OLDER_THAN = "at least a resource version"
    EXACT = "as of a resource version"


@dataclass(frozen=True, slots=True)
class ReadAt:
    """How fresh a read must be; `resource_version` only with NOT_OLDER_THAN and EXACT."""

    freshness: Freshness
    resource_version: int = 0


class Feed(Protocol):
    """What the cache needs of the store (store.Store; tests/fakes has one under the test's control)."""

    @property
    def progress_trusted(self) -> bool: ...
    @property
    def cluster_id(self) -> int: ...
    async def current_revision(self) -> int: ...
    async def tick(self) -> int: ...
    def read_all(self, revision: int = 0) -> AsyncIterator[Changes]: ...
    def follow(self, after: int) -> AbstractAsyncContextManager[Follower]: ...


class Position:
    """See the module. The cache advances it; reads wait on it."""

    def __init__(self, store: Feed) -> None:
        self._store = store
        self.resource_version = 0
        """Everything up to this has been seen."""
        self.goal = 0
        """The store's revision when reading it began: reached once, the cache is ready."""
        self.filled = asyncio.Event()
        self.follower: Follower | None = None
        self._heard_at = 0.0
        # Reads that wait for a version, smallest first, and for an answer of the store; each holds a connection, so
        # the server's limits bound them.
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._questions: list[asyncio.Future[int]] = []
        self._asked = asyncio.Event()

    # --- said by the cache ---

    def heard(self) -> None:
        """The store gave a sign of life."""
        self._heard_at = time.monotonic()

    def advance(self, resource_version: int) -> None:
        """Everything up to this is in the cache now (or, after a reload, only up to this)."""
        self.resource_version = resource_version
        if resource_version >= self.goal > 0:
            self.filled.set()
        while self._waiting and self._waiting[0][0] <= resource_version:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)

    def forget_the_gone(self) -> None:
        """Drop readers that were cancelled; called now and then."""
        self._waiting = [waiter for waiter in self._waiting if not waiter[2].done()]
        heapq.heapify(self._waiting)

    # --- asked by reads ---

    @property
    def stale_for_s(self) -> float:
        return time.monotonic() - self._heard_at if self._heard_at else float("inf")

    async def reach(self, at: ReadAt) -> None:
        """Wait until the cache is as fresh as the read asks. While the store is away: as it is (decision 8).

        Raises: NotReady before the present was reached once; TooNew when what was asked for does not come in time.
        """
        if not self.filled.is_set():
            raise NotReady("the cache has not read the store yet: try again in a moment, or see /readyz?verbose")
        if at.freshness is Freshness.ANY:
            return
        target = at.resource_version
        if at.freshness is Freshness.CONSISTENT:
            if self.stale_for_s > _AWAY_AFTER_S:
                return
            target = await self._newest()
        if target > self.resource_version:
            await self._wait_for(target, strict=at.freshness is not Freshness.CONSISTENT)

    async def _newest(self) -> int:
        """The store's revision at a moment after this call began; 0 when the store does not say.

        Reads share one question: those that arrive while it is under way wait for the next one.
        """
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._questions.append(future)
        self._asked.set()
        return await future

    async def _wait_for(self, target: int, *, strict: bool) -> None:
        """strict: a version asked for by number is TooNew while it is not there; what the store called its newest is
        waited for only as long as the store can be asked."""
        started = time.monotonic()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (target, next(self._order), future))
        asked = await self.ask_progress(target)
        try:
            while (asked or strict) and not future.done() and (left := started + READ_WAIT_S - time.monotonic()) > 0:
                await asyncio.wait((future,), timeout=min(_PROGRESS_EVERY_S, left))
                if not future.done():
                    asked = await self.ask_progress(target)
        finally:
            future.cancel()
        metrics.cache_read_wait_seconds.observe(time.monotonic() - started)
        if self.resource_version < target and (strict or (asked and self.stale_for_s <= _AWAY_AFTER_S)):
            raise TooNew(target, self.resource_version)

    async def ask_progress(self, target: int) -> bool:
        """Make the follower hear how far it is. With an old etcd, by a mark that only a real need writes.

        False: the store cannot be asked (away, or, for the mark, full).
        """
        try:
            if self._store.progress_trusted:
                if self.follower is not None:
                    await self.follower.request_progress()
            elif self.resource_version < target <= await self._store.current_revision():
                await self._store.tick()
        except EtcdError:
            return False
        return True

    # --- loops of the cache's ---

    async def answer_questions(self) -> NoReturn:
        """Ask the store for its newest revision whenever reads want to know; one question at a time."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            askers, self._questions = self._questions, []
            try:
                revision = await self._store.current_revision()
            except EtcdError:
                revision = 0  # the read is answered from what is here, marked stale if that lasts
            for future in askers:
                if not future.done():
                    future.set_result(revision)

    async def press_on(self) -> None:
        """Until the present is reached the first time: ask how far we are. etcd drops the question while it replays."""
        while not self.filled.is_set():
            if self.goal and self.follower is not None:
                await self.ask_progress(self.goal)
            await asyncio.sleep(_PROGRESS_EVERY_S / 4)
