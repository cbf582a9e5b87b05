"""The life of repositories: one task each, at its own pace; none waits for another but for a place to work.

A repository's task holds the claim on it while it lives; a second process given the same repository waits in line.
Whatever happens to a source, its last good content stays served and its status says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NoReturn, Protocol

from cacheserver import metrics
from cacheserver.config import RepositoryConfig
from cacheserver.errors import CacheServerError, EtcdError, LeaseLostError, NoSpace
from cacheserver.ingest import status
from cacheserver.ingest.collection import ContentCollection
from cacheserver.ingest.first import FirstLooks
from cacheserver.ingest.pace import Pace
from cacheserver.ingest.removal import Removals
from cacheserver.ingest.said import Said
from cacheserver.ingest.shrinking import Shrinking
from cacheserver.ingest.space import Space
from cacheserver.ingest.sync import Outcome, Sync, SyncReport, SyncServices, count_served, tell_doors
from cacheserver.model import ANNOTATION_REQUESTED, Key, Kind, Record, RepositoryKey, Stored
from cacheserver.sources import Progress, Source
from cacheserver.store.claims import CLAIM_TTL_S, Claim, Session
from cacheserver.store.objects import Store

if TYPE_CHECKING:
    from cacheserver.ingest.publishing import Publishing
    from cacheserver.publish.git.publisher import Publisher, Waiting, Work

log = logging.getLogger(__name__)

Open = Callable[[], Source]


class StatusStore(Protocol):
    """Where the status of repositories is kept: with what is served, or in the cluster's own Repository objects."""

    async def read(self, config: RepositoryConfig) -> Stored | None:
        """The Repository object as it is now."""
        ...

    async def write(self, claim: Claim, record: Record, previous: Stored | None) -> Stored | None:
        """Keep `record`; returns the object as it is then, None when that is `previous`."""
        ...


class ServedStatusStore:
    """Repository objects that we serve ourselves (standalone)."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def read(self, config: RepositoryConfig) -> Stored | None:
        """As StatusStore.read. Raises: EtcdError."""
        return await self._store.read_object(Key(Kind.REPOSITORY, config.key.namespace, config.key.name))

    async def write(self, claim: Claim, record: Record, previous: Stored | None) -> Stored | None:
        """As StatusStore.write, under the claim on the repository. Raises: EtcdError, LeaseLostError."""
        return await self._store.put(claim, record, previous)


@dataclass(slots=True, eq=False)
class _Tracked:
    """One repository between two syncs."""

    config: RepositoryConfig
    source: Source
    access: str
    wanted: asyncio.Event
    failures: int = 0
    status_fits: bool = False
    """Status speaks of what is served: this process wrote it."""
    asked_by: str = ""
    """The annotation requestedAt as it was when the last look began: one that comes meanwhile is the next look's."""
    said: Said = field(default_factory=Said)
    starved: bool = False
    """The last sync failed for lack of space in etcd: the next one begins as soon as there is some."""
    authored: asyncio.Event = field(default_factory=asyncio.Event)
    """A draft or an operation came or changed."""
    waiting: tuple[Waiting, ...] = ()
    """Operations that git has carried out and the next sync is to end."""
    pushing: tuple[bool, str, str] | None = None
    """Whether git takes what is pushed, as a condition; None: not known, or nothing is."""

    async def pause(self, seconds: float) -> None:
        """Sleep, or less when a sync is asked for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.wanted.wait()
        self.wanted.clear()

    async def stirred(self, seconds: float) -> None:
        """Sleep, or less when a sync is asked for, or authors did anything."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self.wanted, self.authored)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


class _Configs(Mapping[RepositoryKey, RepositoryConfig]):
    """What is asked of each repository; changes with what it shows."""

    def __init__(self, tracked: Mapping[RepositoryKey, _Tracked]) -> None:
        self._tracked = tracked

    def __getitem__(self, key: RepositoryKey) -> RepositoryConfig:
        return self._tracked[key].config

    def __iter__(self) -> Iterator[RepositoryKey]:
        return iter(self._tracked)

    def __len__(self) -> int:
        return len(self._tracked)


class _LazyClaim:
    """The claim on one repository, taken when first asked for. status_claim: see Ingest._publish."""

    def __init__(self, session: Session, life: _Tracked, status_claim: Claim | None = None) -> None:
        self._session = session
        self._life = life
        self._status_claim = status_claim
        self._claim: Claim | None = None

    async def __call__(self) -> Claim:
        if self._claim is None:
            self._claim = await self._session.claim(str(self._life.config.key), on_wait=self._log_wait)
        return self._claim

    async def status_claim(self) -> Claim:
        """The claim under which status is written: the leader's where one leads, for that needs no space in etcd."""
        return self._status_claim or await self()

    async def release(self) -> None:
        if self._claim is not None:
            await self._session.release(self._claim)

    def _log_wait(self, holder: str) -> None:
        log.info("another process ingests this repository; waiting", extra=_about(self._life, holder=holder))


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
        self._looks = looks or FirstLooks()
        self._services = services
        self._statuses = statuses
        self._lead = lead
        self._pace = pace or Pace()
        self._tracked: dict[RepositoryKey, _Tracked] = {}
        self._removals = Removals(services, self.space)
        self._collection = ContentCollection(
            services.store, services.blobs, self._request_sync, keep_changes_s=services.keep_changes_s
        )
        self._publishing = _publishing(publisher, services)
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
        self._tracked[config.key] = _Tracked(config, open_source(), access, asyncio.Event())
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
        running: dict[RepositoryKey, tuple[_Tracked, asyncio.Task[None]]] = {}
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
                        running[key] = (life, group.create_task(self._live(session, life), name=name))
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
                hold = _LazyClaim(session, life)
                try:
                    report = await self._sync(life, hold, progress)
                    if report.outcome is Outcome.UNCHANGED:
                        await count_served(report, self._services.store)
                        status.recall(report, await self._statuses.read(life.config))
                    on_report(report)
                    await hold.release()
                except CacheServerError as exc:
                    on_error(life.config, exc)
                finally:
                    await life.source.aclose()

    async def _live(self, session: Session, life: _Tracked) -> None:
        hold = _LazyClaim(session, life, self._leader)
        # At once: a second process with the same repository waits here and asks its source nothing.
        while not await self._held(life, hold):
            await life.pause(self._pace.spread(life.config.interval_s))
        await self._announce(life, hold)
        while True:
            seconds = self._pace.spread(await self._attempt(life, hold))
            self._looks.ended(life.config.key)
            if self._publishing is None or not self._publishing.concerns(life.config):
                await life.pause(seconds)
            else:
                await self._author(self._publishing, life, hold, seconds)

    async def _author(self, publishing: Publishing, life: _Tracked, hold: _LazyClaim, seconds: float) -> None:
        """Do what authors wait for, until the source is to be looked at again: in so many seconds, or when it is asked
        for, or at once where something was published."""
        until, claim = time.monotonic() + seconds, await hold()
        if life.waiting and not life.failures and await publishing.settle(life.waiting, claim):
            life.waiting = ()
        while not life.wanted.is_set() and (left := until - time.monotonic()) > 0:
            life.authored.clear()
            work = await publishing.work(life.config, life.source, claim)
            life.waiting = work.waiting
            await self._told_of_pushes(life, hold, work)
            if work.pushed or (work.waiting and not life.failures):
                break
            await life.stirred(min(left, left if work.next_s is None else work.next_s))
        life.wanted.clear()

    async def _told_of_pushes(self, life: _Tracked, hold: _LazyClaim, work: Work) -> None:
        """Say in status whether git takes what is pushed, when that changed."""
        said = status.pushing(work.error)
        if life.pushing == said or (life.pushing is not None and not work.tried):
            return
        life.pushing = said
        if work.error is not None:
            log.warning("git cannot be pushed to; drafts wait", extra=_about(life, error=str(work.error)))
        try:
            previous = await self._statuses.read(life.config)
            if previous is not None:
                await self._publish(life, hold, status.same(previous), None, previous)
        except LeaseLostError:
            raise
        except CacheServerError as exc:
            log.debug("status is not written", extra=_about(life, error=str(exc)))

    async def _held(self, life: _Tracked, hold: _LazyClaim) -> bool:
        """Whether the repository is ours to work on; False when a full etcd takes no claim, which its status says."""
        started = time.monotonic()
        try:
            await self.space.retry(hold, f"the claim on {life.config.key}", full_too=False)
        except NoSpace as exc:
            await self._failed(life, hold, exc, started)
            return False
        return True

    async def _announce(self, life: _Tracked, hold: _LazyClaim) -> None:
        """Have a new repository listed before its source answers: others may be silent for a minute before its turn."""

        async def introduce() -> None:
            previous = await self._statuses.read(life.config)
            if status.is_silent(previous) and not life.config.suspend:
                await self._publish(life, hold, status.awaited(life.config), None, previous)

        with contextlib.suppress(NoSpace):  # the look itself says that
            await self.space.retry(introduce, f"the status of {life.config.key}", full_too=False)

    async def _attempt(self, life: _Tracked, hold: _LazyClaim) -> float:
        """One look at the source; returns the seconds until the next."""
        started = time.monotonic()
        life.asked_by = life.config.annotations.get(ANNOTATION_REQUESTED, "")
        try:
            if life.config.suspend:
                await tell_doors(life.config, hold, self._services)
                previous = await self._statuses.read(life.config)
                await self._publish(life, hold, status.suspended(previous), None, previous)
                return life.config.interval_s
            report = await self._sync(life, hold, self._looks.progress(life.config.key))
        except (LeaseLostError, asyncio.CancelledError):
            raise
        except CacheServerError as exc:
            return await self._failed(life, hold, exc, started)
        except Exception as exc:
            # The edge of the task: a defect of ours in one repository must not stop the others.
            log.exception("sync failed by a defect", extra=_about(life))
            return await self._failed(life, hold, CacheServerError(f"internal error: {exc!r}"), started)
        if life.failures:
            log.info("repository recovered", extra=_about(life, after_failures=life.failures))
        life.failures, life.starved = 0, False
        if report.outcome is not Outcome.UNCHANGED:
            log.info("repository read", extra=_about(life, **_counts(report)))
            life.said.tell(report)
        return life.config.interval_s

    async def _sync(self, life: _Tracked, hold: _LazyClaim, progress: Progress) -> SyncReport:
        """One sync with its status before and after."""
        previous = await self._statuses.read(life.config)

        async def on_change() -> None:
            nonlocal previous
            life.status_fits = False
            with contextlib.suppress(NoSpace):  # what follows may delete, and so make room
                previous = await self._publish(life, hold, status.syncing(previous), None, previous)

        report = await Sync(
            life.config, life.source, hold, self._services, progress=progress, on_change=on_change,
            doubtful=life.failures > 0, said=None if life.status_fits else status.digest_of(previous),
        ).run()  # fmt: skip
        same = report.outcome is Outcome.UNCHANGED
        phase = status.unchanged(previous) if same else status.synced(report)
        await self._publish(life, hold, phase, report, previous, answers=life.asked_by)
        life.status_fits = True
        labels = life.config.key.namespace, life.config.key.name
        metrics.repository_checked.labels(*labels).set(time.time())
        if report.outcome is Outcome.HELD:
            metrics.sync_failures.labels(*labels, report.reason).inc()
        return report

    async def _failed(self, life: _Tracked, hold: _LazyClaim, error: CacheServerError, started: float) -> float:
        """Say so in status and, once, in the log; returns the seconds until the next try."""
        life.failures += 1
        if life.failures == 1:
            log.warning("sync failed; what was served stays", extra=_about(life, error=str(error)))
        labels = life.config.key.namespace, life.config.key.name
        metrics.sync_seconds.labels(*labels, "failed").observe(time.monotonic() - started)
        metrics.sync_failures.labels(*labels, status.failure_reason(error)).inc()
        metrics.repository_ready.labels(*labels).set(0)
        if not isinstance(error, EtcdError):
            metrics.repository_checked.labels(*labels).set(time.time())
        life.starved = isinstance(error, NoSpace)
        if isinstance(error, NoSpace):
            self.space.refused(error)
        # An etcd that is away cannot be written to; one that is full can where the status lives elsewhere (a cluster).
        if not isinstance(error, EtcdError) or isinstance(error, NoSpace):
            try:
                previous = await self._statuses.read(life.config)
                phase = status.failed(error, previous)
                await self._publish(life, hold, phase, None, previous, answers=life.asked_by)
            except LeaseLostError:
                raise
            except EtcdError as exc:
                log.debug("status is not written", extra=_about(life, error=str(exc)))
        return self._pace.retry_s(error, life.failures, life.config.interval_s)

    async def _publish(
        self,
        life: _Tracked,
        hold: _LazyClaim,
        phase: status.Phase,
        report: SyncReport | None,
        previous: Stored | None,
        *,
        answers: str | None = None,
    ) -> Stored | None:
        """Write the Repository object if it says anything new; returns what is served now. answers: as
        status.repository_record."""
        record = status.repository_record(
            life.config, phase, report, previous, now=time.time(), answers=answers, pushing=life.pushing,
            publishing=await self._shown(life.config),
        )  # fmt: skip
        _measure(life, phase, status.served(record, previous))
        if record is None:
            return previous
        return await self._statuses.write(await hold.status_claim(), record, previous) or previous

    async def _shown(self, config: RepositoryConfig) -> status.Says | None:
        """What doors show of it, as a condition; None where it names none, or etcd does not say."""
        if not config.publish:
            return None
        with contextlib.suppress(EtcdError):
            return status.publishing(config, await self._services.store.published.read(config.key))
        return None


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


def _about(life: _Tracked, **more: object) -> dict[str, object]:
    return {"namespace": life.config.key.namespace, "repository": life.config.key.name, **more}


def _counts(report: SyncReport) -> dict[str, object]:
    return {
        "outcome": report.outcome.value,
        "added": report.added,
        "changed": report.changed,
        "deleted": report.deleted,
        "unchanged": report.unchanged,
        "rejected": len(report.rejected),
        "digest": report.digest,
        "elapsed_s": round(report.elapsed_s, 3),
    }


def _measure(life: _Tracked, phase: status.Phase, served: status.Served | None) -> None:
    """After a restart too, and while the source is away: what is served is known from the status."""
    labels = (life.config.key.namespace, life.config.key.name)
    metrics.repository_interval.labels(*labels).set(life.config.interval_s)
    metrics.repository_suspended.labels(*labels).set(life.config.suspend)
    metrics.repository_ready.labels(*labels).set(phase.ready[0] is True)
    if served is not None:
        metrics.repository_packages.labels(*labels).set(served.packages)
        metrics.repository_revisions.labels(*labels).set(served.revisions)
        metrics.repository_rejected.labels(*labels).set(served.rejected)
        metrics.repository_synced.labels(*labels).set(served.synced_at)
