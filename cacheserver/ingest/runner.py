"""Every repository that there is: one task each (life.py), at its own pace; none waits for another but for a place to
work.

A repository's task holds the claim on it while it lives; a second process given the same repository waits in line. Here
they come and go, on one lease, which is begun anew when it is lost.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from cacheserver import metrics
from cacheserver.config import RepositoryConfig
from cacheserver.errors import CacheServerError, EtcdError, LeaseLostError, NoSpace
from cacheserver.ingest.collection import ContentCollection
from cacheserver.ingest.first import FirstLooks
from cacheserver.ingest.life import Around, Life, StatusStore
from cacheserver.ingest.pace import Pace
from cacheserver.ingest.removal import Removals
from cacheserver.ingest.shrinking import Shrinking
from cacheserver.ingest.space import Space
from cacheserver.ingest.sync import SyncReport, SyncServices
from cacheserver.model import RepositoryKey
from cacheserver.sources import Progress, Source
from cacheserver.store.claims import CLAIM_TTL_S, Claim, Session

if TYPE_CHECKING:
    from cacheserver.ingest.publishing import Publishing
    from cacheserver.publish.git.publisher import Publisher

log = logging.getLogger(__name__)

Open = Callable[[], Source]


class _Configs(Mapping[RepositoryKey, RepositoryConfig]):
    """What is asked of each repository; changes with what it shows."""

    def __init__(self, tracked: Mapping[RepositoryKey, Life]) -> None:
        self._tracked = tracked

    def __getitem__(self, key: RepositoryKey) -> RepositoryConfig:
        return self._tracked[key].config

    def __iter__(self) -> Iterator[RepositoryKey]:
        return iter(self._tracked)

    def __len__(self) -> int:
        return len(self._tracked)


class Ingest:
    """Every repository that was put and not removed. Call run() (for ever) or once()."""

    def __init__(
        self,
        services: SyncServices,
        statuses: StatusStore,
        *,
        lead: bool = False,
        pace: Pace | None = None,
        space: Space | None = None,
        looks: FirstLooks | None = None,
        publisher: Publisher | None = None,
    ) -> None:
        """lead: one process at a time does any work here; the others wait for it to go (a cluster's replicas).

        looks: told of the first look at each repository. publisher: of repositories that are written to; without one
        they are only read.
        """
        self.space = space or Space()
        self._services = services
        self._lead = lead
        self._tracked: dict[RepositoryKey, Life] = {}
        self._removals = Removals(services, self.space)
        self._collection = ContentCollection(
            services.store, services.blobs, self._request_sync, keep_changes_s=services.keep_changes_s
        )
        self._publishing = _publishing(publisher, services)
        self._around = Around(services, statuses, self.space, looks or FirstLooks(), pace or Pace(), self._publishing)
        self._shrinking = Shrinking(services, lead=lead)
        self._leader: Claim | None = None
        self._complete = not lead
        self._changed = asyncio.Event()
        self._told: list[Callable[[RepositoryKey], None]] = []
        self._holder = f"{socket.gethostname()}/{os.getpid()}"

    # --- which repositories ---

    @property
    def repositories(self) -> Mapping[RepositoryKey, RepositoryConfig]:
        """Every repository that was put and not removed, as it is at each look."""
        return _Configs(self._tracked)

    def follow(self, told: Callable[[RepositoryKey], None]) -> None:
        """Call `told` with each repository whose configuration came, changed or went from now on, after it did."""
        self._told.append(told)

    def _tell(self, key: RepositoryKey) -> None:
        for told in self._told:
            told(key)

    @property
    def complete(self) -> bool:
        """Whether `repositories` has all that there are: in a cluster not before they were listed once."""
        return self._complete

    @property
    def leads(self) -> bool:
        """Whether this is the process that works, of those of which one does (lead)."""
        return self._leader is not None

    def put(self, config: RepositoryConfig, open_source: Open, *, access: str = "") -> None:
        """Keep this repository in step from now on.

        A changed source, setting or `access` (whatever stands for its credentials) starts it anew; a change of labels,
        annotations (requestedAt) or doors alone is taken at once, and only asks for a look; see sync.py: _made.
        """
        life = self._tracked.get(config.key)
        self._removals.cancel(config.key)
        if life is not None and life.access == access and _decisive(life.config) == _decisive(config):
            if life.config != config:
                life.config = config
                life.wanted.set()
                self._tell(config.key)
            return
        self._tracked[config.key] = Life(config, open_source(), access, self._around)
        self._changed.set()
        self._tell(config.key)

    def remove(
        self,
        key: RepositoryKey,
        *,
        patience_s: float | None = None,
        done: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Stop serving a repository and delete what was served of it; patience_s, done: see Removals.add."""
        life, last = self._tracked.pop(key, None), None
        if life is not None and self._publishing is not None and self._publishing.concerns(life.config):
            last = functools.partial(self._publishing.last, life.config, life.source)
        self._removals.add(key, patience_s=patience_s, done=done, last=last)
        self._changed.set()
        self._tell(key)

    def request_sync(self) -> None:
        """Look at every source now."""
        for life in self._tracked.values():
            life.wanted.set()

    def _request_sync(self, key: RepositoryKey) -> None:
        if (life := self._tracked.get(key)) is not None:
            life.wanted.set()

    def _stir(self, key: RepositoryKey) -> None:
        if (life := self._tracked.get(key)) is not None:
            life.authored.set()

    # --- work ---

    async def run(self) -> None:
        """Keep every repository in step until cancelled; survives the loss of etcd and of its lease."""
        if self._services.mirrors is not None and not self._lead:
            await self._services.mirrors.keep_only(self._tracked)
        try:
            await self._run()
        finally:
            await self._shrinking.end()

    async def _run(self) -> NoReturn:
        pause_s = 0.5
        while True:
            started = time.monotonic()
            try:
                async with self._services.store.session(self._holder) as session:
                    await self._shrinking.end()
                    self.space.taken()  # a full etcd grants no lease
                    await self._with(session)
            except* NoSpace as full:
                self.space.refused(_first(full))
                await self._removals.begin_without_claims()
                self._shrinking.begin(self._tracked)
            except* EtcdError as lost:
                log.warning("ingestion lost its lease, starting over", extra={"error": str(lost.exceptions[0])})
                for key in self._tracked:  # another replica may measure them now; our last figures must not stay
                    metrics.forget_repository(key.namespace, key.name)
            self._leader = None
            pause_s = 0.5 if time.monotonic() - started > 60 else min(pause_s * 2, 10.0)
            await asyncio.sleep(pause_s)

    async def _with(self, session: Session) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_until_lost(session), name="ingest: lease")
            group.create_task(self.space.watch(session.try_writing, self._wake_starved), name="ingest: space")
            if self._lead:
                stand_by = functools.partial(session.claim, on_wait=_log_standing_by)
                self._leader = await self.space.retry(lambda: stand_by("leader"), "the claim to lead")
                log.info("leading: this replica reads the sources", extra={"holder": self._holder})
            await self._migrate(session)
            group.create_task(self._collection.run(session, self.space), name="ingest: collect content")
            group.create_task(self._collection.run_replaced(), name="ingest: collect replaced content")
            group.create_task(self._collection.run_changes(), name="ingest: collect changes")
            if self._publishing is not None:
                group.create_task(self._publishing.follow(self._stir), name="ingest: follow authors")
            group.create_task(self._supervise(session, group), name="ingest: supervise")

    async def _migrate(self, session: Session) -> None:
        """Before the first sync: nobody else writes what moves. A process that was killed holds its claims a while.

        A full etcd keeps its older layout till the next start: what makes room is not held up.
        """

        async def migrate() -> object:
            return await self._services.store.migrate(session, patience_s=2 * CLAIM_TTL_S)

        try:
            await self.space.retry(migrate, "etcd's layout", full_too=False)
        except NoSpace:
            log.warning("etcd is full and keeps its older layout; the next start tries again")

    def _wake_starved(self) -> None:
        """etcd has space again: those that lacked it go on now."""
        for life in self._tracked.values():
            if life.starved:
                life.wanted.set()

    async def _supervise(self, session: Session, group: asyncio.TaskGroup) -> None:
        """One task for each repository there is, and one for each that went until it is forgotten."""
        running: dict[RepositoryKey, tuple[Life, asyncio.Task[None]]] = {}
        leaving: dict[RepositoryKey, asyncio.Task[None]] = {}
        try:
            while True:
                self._changed.clear()
                for key, (life, task) in list(running.items()):
                    if self._tracked.get(key) is not life:
                        del running[key]
                        await _ended(task)
                        await life.source.aclose()
                for key in self._removals.wanted():
                    if key not in leaving or leaving[key].done():
                        name = f"ingest: forget {key.namespace}/{key.name}"
                        leaving[key] = group.create_task(self._removals.carry_out(session, key), name=name)
                for key, life in list(self._tracked.items()):
                    if key not in running:
                        if (left := leaving.pop(key, None)) is not None:
                            await _ended(left)  # cut short or not: a sync begins from nothing
                        name = f"ingest: {key.namespace}/{key.name}"
                        running[key] = (life, group.create_task(life.live(session, self._leader), name=name))
                await self._changed.wait()
        finally:
            for life, task in running.values():
                await _ended(task)
                await life.source.aclose()

    async def left_behind(self, present: Collection[RepositoryKey]) -> None:
        """Forget every repository that the store holds and that is not `present`: it went while nobody looked."""
        self._complete = True
        if self._services.mirrors is not None:
            await self._services.mirrors.keep_only(present)
        for key in await self._services.store.repositories():
            if key not in present:
                self.remove(key)

    async def once(
        self, *, progress: Progress, on_report: Callable[[SyncReport], None], on_error: Callable[..., None]
    ) -> None:
        """Sync every repository one time, one after the other.

        on_error: called with (RepositoryConfig, CacheServerError) for each that failed; the others go on.
        """
        async with self._services.store.session(self._holder) as session:
            await self._migrate(session)
            for life in self._tracked.values():
                try:
                    await life.once(session, progress, on_report)
                except CacheServerError as exc:
                    on_error(life.config, exc)
                finally:
                    await life.source.aclose()


def _publishing(publisher: Publisher | None, services: SyncServices) -> Publishing | None:
    if publisher is None:
        return None
    from cacheserver.ingest.publishing import Publishing  # noqa: PLC0415 - who writes nothing does without git

    return Publishing(publisher, services)


def _log_standing_by(leader: str) -> None:
    log.info("standing by: another replica reads the sources, and its log speaks of them", extra={"leader": leader})


def _decisive(config: RepositoryConfig) -> RepositoryConfig:
    """The configuration less what starts no sync anew: the next one takes it as it is."""
    return replace(config, labels={}, annotations={}, generation=0, leaving=False, publish=frozenset())


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancel, and wait until it has let go of everything: two tasks of one repository would share its claim."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _first(group: ExceptionGroup[NoSpace]) -> NoSpace:
    """One error of those in the group, and in groups inside it."""
    found = group.exceptions[0]
    return _first(found) if isinstance(found, ExceptionGroup) else found


async def _until_lost(session: Session) -> None:
    await session.wait_lost()
    raise LeaseLostError("the lease ran out: etcd did not hear from this process in time")
