"""How far the watch cache has come, how fresh that is, and those who wait for it to come further.

Consistent reads share one question to the store and wait at most 3 s. Then it counts whether the store is known to be
away: while it is, reads are answered from memory at once and say so; while it is only slow, they are refused, never
answered with what may be old. One question after the other finds out, whoever reads. Knows nothing of what is cached.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import NoReturn, Protocol

from cacheserver import metrics
from cacheserver.errors import EtcdError, Expired, NotReady, StoreSlow, TooNew
from cacheserver.slotted import slotted
from cacheserver.store.objects import Changes, Follower

READ_WAIT_S = 3.0
"""Longest wait for freshness. Kubernetes: blockTimeout in k8s.io/apiserver/pkg/storage/cacher/watch_cache.go."""

_PROGRESS_EVERY_S = 0.1  # asked again while somebody waits; Kubernetes: pkg/storage/cacher/progress
# A question unanswered for this long, with no other sign of life (the follower hears progress every second), means that
# the store is away. Ours: under READ_WAIT_S, so that reads which wait meanwhile are answered and not refused.
_AWAY_AFTER_S = 2.0
# The same where the follower's stream broke, which a store that is only slow does not do: then silence is not a riddle.
_BROKEN_AFTER_S = 0.5
_LOOK_EVERY_S = 0.25


class Freshness(Enum):
    """How new the state has to be that a read is answered with; the value says it in words."""

    CONSISTENT = "as new as the store was when the read began"
    ANY = "whatever the cache holds"
    NOT_OLDER_THAN = "at least a resource version"
    EXACT = "as of a resource version"


@slotted(frozen=True)
class ReadAt:
    """How fresh a read must be; `resource_version` only with NOT_OLDER_THAN and EXACT."""

    freshness: Freshness
    resource_version: int = 0


class Feed(Protocol):
    """What the cache needs of the store (store.Store; tests/fakes has one under the test's control)."""

    @property
    def progress_trusted(self) -> bool:
        """Whether progress notifications of this etcd can be believed (etcd/version.py)."""
        ...

    @property
    def cluster_id(self) -> int:
        """Of the etcd that answered last: another one has other revisions."""
        ...

    async def current_revision(self) -> int:
        """The revision as of a moment within the call. Raises: EtcdError."""
        ...

    async def tick(self) -> int:
        """Writes a mark, which a watch sees; returns its revision. Raises: EtcdError (NoSpace among them)."""
        ...

    def read_all(self, revision: int = 0) -> AsyncGenerator[Changes, None]:
        """Every object, a page at a time, all as of `revision`, 0 for the present; to be closed. Raises: Compacted,
        EtcdError."""
        ...

    def follow(self, after: int) -> AbstractAsyncContextManager[Follower]:
        """What changes behind revision `after`, in whole revisions. Raises: Compacted, EtcdError."""
        ...


_Asker = tuple[float, "asyncio.Future[int | None]"]
"""Who wants to know the store's revision, and until when (monotonic) an answer is of use."""


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
        self._questions: list[_Asker] = []
        self._under_way: list[_Asker] = []
        self._asked = asyncio.Event()
        self._asking_since: float | None = None
        self.away = False
        """The store is known to be away: from a question that failed, or found no sign of life, to the next answer."""

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
        """Seconds since the store was last heard from; infinite before the first time."""
        return time.monotonic() - self._heard_at if self._heard_at else float("inf")

    async def reach(self, at: ReadAt) -> bool:
        """Wait until the cache is as fresh as the read asks, 3 s at most. False: the store is away, so as it was.

        Raises: NotReady before the present was reached once; TooNew when what was asked for does not come in time, at
        once when there is no such version; StoreSlow.
        """
        if not self.filled.is_set():
            raise NotReady("the cache has not read the store yet: try again in a moment, or see /readyz?verbose")
        if at.freshness is Freshness.ANY:
            return not self.away
        give_up_at = time.monotonic() + READ_WAIT_S
        consistent, target = at.freshness is Freshness.CONSISTENT, at.resource_version
        if consistent or target > self.resource_version:
            newest = await self._newest(give_up_at)
            if newest is None and consistent:
                if not self.away:
                    raise StoreSlow(READ_WAIT_S)
                return False
            if newest is not None and newest < target:
                raise TooNew(target, max(newest, self.resource_version), unknown=True)
            target = newest or 0 if consistent else target
        if target > self.resource_version and not await self._wait_for(target, give_up_at, strict=not consistent):
            if not consistent or not (self.away or not await self.ask_progress(target)):
                raise TooNew(target, self.resource_version)
            return False
        return consistent or not self.away

    async def expect(self, version: int) -> None:
        """Returns once `version` is here, or the store is known to have it; for watches that begin behind all there is.

        A version to come is waited for as long as a read waits; while the store does not say, for ever, as kube does.
        Raises: Expired when there is no such version.
        """
        while version > self.resource_version:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (version, next(self._order), future))
            await asyncio.wait((future,), timeout=READ_WAIT_S)
            if future.done():
                return
            future.cancel()
            newest = await self._newest(time.monotonic() + READ_WAIT_S)
            if newest is not None and newest < version:
                raise Expired(version, 0, newest=newest)
            if newest is not None:
                return

    async def _newest(self, give_up_at: float) -> int | None:
        """The store's revision at a moment after this call began; None when it is away, or does not say in time.

        Reads share one question: those that arrive while it is under way wait for the next one.
        """
        if self.away:
            return None
        future: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._questions.append((give_up_at, future))
        self._asked.set()
        return await future  # doubt() ends it in time: a timer for each read would cost as much as the rest of it

    async def _wait_for(self, target: int, give_up_at: float, *, strict: bool) -> bool:
        """Whether `target` is reached in time. strict: also while the store is away; else it is given up then."""
        started = time.monotonic()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (target, next(self._order), future))
        asked = await self.ask_progress(target)
        try:
            while not future.done() and (left := give_up_at - time.monotonic()) > 0:
                if not strict and (self.away or not asked):
                    break
                await asyncio.wait((future,), timeout=min(_PROGRESS_EVERY_S, left))
                if not future.done():
                    asked = await self.ask_progress(target)
        finally:
            future.cancel()
        metrics.cache_read_wait_seconds.observe(time.monotonic() - started)
        return self.resource_version >= target

    async def ask_progress(self, target: int) -> bool:
        """Make the follower hear how far it is. With an old etcd, by a mark that only a real need writes.

        False: the store cannot be asked (away, or, for the mark, full).
        """
        try:
            async with asyncio.timeout(READ_WAIT_S):
                if self._store.progress_trusted:
                    if self.follower is not None:
                        await self.follower.request_progress()
                elif self.resource_version < target <= await self._store.current_revision():
                    await self._store.tick()
        except EtcdError:
            return False
        except TimeoutError:
            pass  # slow: whoever waits gives up by itself
        return True

    # --- loops of the cache's ---

    async def answer_questions(self) -> NoReturn:
        """Ask the store for its newest revision whenever reads want to know; one question at a time."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            self._under_way, self._questions = self._questions, []
            self._asking_since = time.monotonic()
            try:
                revision = await self._store.current_revision()
            except EtcdError:
                self._found_away()
            else:
                # Back is a store that is followed again: before that its newest state would be waited for in vain.
                self.away = self.away and self.follower is None
                _answer(self._under_way, revision)
            finally:
                self._asking_since = None

    async def doubt(self) -> NoReturn:
        """Find out, whether anybody reads or not, when the store goes away and is back; end reads that waited."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(_LOOK_EVERY_S)
            now = time.monotonic()
            _answer([asker for asker in (*self._under_way, *self._questions) if asker[0] <= now], None)
            if now - began > 2 * _LOOK_EVERY_S:
                continue  # it was we who stood still: what the store said meanwhile is yet to be read
            patience_s = _BROKEN_AFTER_S if self.follower is None and self.filled.is_set() else _AWAY_AFTER_S
            if self._asking_since is None:
                if self.away or self.stale_for_s > patience_s:
                    self._asked.set()
            elif now - self._asking_since > patience_s and self.stale_for_s > patience_s:
                self._found_away()

    def _found_away(self) -> None:
        """Nobody waits any longer for what cannot be said."""
        self.away = True
        _answer([*self._under_way, *self._questions], None)
        self._questions = []

    async def press_on(self) -> None:
        """Until the present is reached the first time: ask how far we are. etcd drops the question while it replays."""
        while not self.filled.is_set():
            if self.goal and self.follower is not None:
                await self.ask_progress(self.goal)
            await asyncio.sleep(_PROGRESS_EVERY_S / 4)


def _answer(askers: Iterable[_Asker], revision: int | None) -> None:
    for _, future in askers:
        if not future.done():
            future.set_result(revision)
