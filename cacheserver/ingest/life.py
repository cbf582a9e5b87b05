"""One repository's task: it takes the claim, looks at its source at its pace, does what authors wait for, and says in
the status what came of it.

Whatever happens to a source, its last good content stays served and its status says why; a defect of ours in one
repository ends no other. Which repositories there are is nothing to it. Called by runner.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import field
from typing import TYPE_CHECKING, NoReturn, Protocol

from cacheserver import metrics
from cacheserver.config import RepositoryConfig
from cacheserver.errors import CacheServerError, EtcdError, LeaseLostError, NoSpace
from cacheserver.ingest import status
from cacheserver.ingest.first import FirstLooks
from cacheserver.ingest.pace import Pace
from cacheserver.ingest.said import Said
from cacheserver.ingest.space import Space
from cacheserver.ingest.sync import Outcome, Sync, SyncReport, SyncServices, count_served, tell_doors
from cacheserver.model import ANNOTATION_REQUESTED, Key, Kind, Record, Stored
from cacheserver.slotted import slotted
from cacheserver.sources import Progress, Source
from cacheserver.store.claims import Claim, Session
from cacheserver.store.objects import Store

if TYPE_CHECKING:
    from cacheserver.ingest.publishing import Publishing
    from cacheserver.publish.git.publisher import Work
    from cacheserver.publish.git.turn import Waiting

log = logging.getLogger(__name__)


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


@slotted(frozen=True)
class Around:
    """What the tasks of all repositories share. publishing: None where no repository is written to."""

    services: SyncServices
    statuses: StatusStore
    space: Space
    looks: FirstLooks
    pace: Pace
    publishing: Publishing | None


@slotted(eq=False)
class Life:
    """One repository, and the task that keeps it in step."""

    config: RepositoryConfig
    source: Source
    access: str
    _around: Around
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    """A look is asked for."""
    _failures: int = 0
    _status_fits: bool = False
    """Status speaks of what is served: this process wrote it."""
    _asked_by: str = ""
    """The annotation requestedAt as it was when the last look began: one that comes meanwhile is the next look's."""
    _said: Said = field(default_factory=Said)
    starved: bool = False
    """The last sync failed for lack of space in etcd: the next one begins as soon as there is some."""
    authored: asyncio.Event = field(default_factory=asyncio.Event)
    """A draft or an operation came or changed."""
    _waiting: tuple[Waiting, ...] = ()
    """Operations that git has carried out and the next sync is to end."""
    _pushing: tuple[bool, str, str] | None = None
    """Whether git takes what is pushed, as a condition; None: not known, or nothing is."""

    async def _pause(self, seconds: float) -> None:
        """Sleep, or less when a sync is asked for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.wanted.wait()
        self.wanted.clear()

    async def _stirred(self, seconds: float) -> None:
        """Sleep, or less when a sync is asked for, or authors did anything."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self.wanted, self.authored)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def once(self, session: Session, progress: Progress, on_report: Callable[[SyncReport], None]) -> None:
        """One look, and no more. on_report: told of it before the claim is let go. Raises: CacheServerError."""
        hold = _LazyClaim(session, self)
        report = await self._sync(hold, progress)
        if report.outcome is Outcome.UNCHANGED:
            await count_served(report, self._around.services.store)
            status.recall(report, await self._around.statuses.read(self.config))
        on_report(report)
        await hold.release()

    async def live(self, session: Session, leader: Claim | None) -> NoReturn:
        """Keep it in step for ever. leader: the claim of the one process that works, where one does."""
        hold = _LazyClaim(session, self, leader)
        # At once: a second process with the same repository waits here and asks its source nothing.
        while not await self._held(hold):
            await self._pause(self._around.pace.spread(self.config.interval_s))
        await self._announce(hold)
        while True:
            seconds = self._around.pace.spread(await self._attempt(hold))
            self._around.looks.ended(self.config.key)
            if self._around.publishing is None or not self._around.publishing.concerns(self.config):
                await self._pause(seconds)
            else:
                await self._author(self._around.publishing, hold, seconds)

    async def _author(self, publishing: Publishing, hold: _LazyClaim, seconds: float) -> None:
        """Do what authors wait for, until the source is to be looked at again: in so many seconds, or when it is asked
        for, or at once where something was published."""
        until, claim = time.monotonic() + seconds, await hold()
        if self._waiting and not self._failures and await publishing.settle(self._waiting, claim):
            self._waiting = ()
        while not self.wanted.is_set() and (left := until - time.monotonic()) > 0:
            self.authored.clear()
            work = await publishing.work(self.config, self.source, claim)
            self._waiting = work.waiting
            await self._told_of_pushes(hold, work)
            if work.pushed or (work.waiting and not self._failures):
                break
            await self._stirred(min(left, left if work.next_s is None else work.next_s))
        self.wanted.clear()

    async def _told_of_pushes(self, hold: _LazyClaim, work: Work) -> None:
        """Say in status whether git takes what is pushed, when that changed."""
        said = status.pushing(work.error)
        if self._pushing == said or (self._pushing is not None and not work.tried):
            return
        self._pushing = said
        if work.error is not None:
            log.warning("git cannot be pushed to; drafts wait", extra=_about(self, error=str(work.error)))
        try:
            previous = await self._around.statuses.read(self.config)
            if previous is not None:
                await self._publish(hold, status.same(previous), None, previous)
        except LeaseLostError:
            raise
        except CacheServerError as exc:
            log.debug("status is not written", extra=_about(self, error=str(exc)))

    async def _held(self, hold: _LazyClaim) -> bool:
        """Whether the repository is ours to work on; False when a full etcd takes no claim, which its status says."""
        started = time.monotonic()
        try:
            await self._around.space.retry(hold, f"the claim on {self.config.key}", full_too=False)
        except NoSpace as exc:
            await self._failed(hold, exc, started)
            return False
        return True

    async def _announce(self, hold: _LazyClaim) -> None:
        """Have a new repository listed before its source answers: others may be silent for a minute before its turn."""

        async def introduce() -> None:
            previous = await self._around.statuses.read(self.config)
            if status.is_silent(previous) and not self.config.suspend:
                await self._publish(hold, status.awaited(self.config), None, previous)

        with contextlib.suppress(NoSpace):  # the look itself says that
            await self._around.space.retry(introduce, f"the status of {self.config.key}", full_too=False)

    async def _attempt(self, hold: _LazyClaim) -> float:
        """One look at the source; returns the seconds until the next."""
        started = time.monotonic()
        self._asked_by = self.config.annotations.get(ANNOTATION_REQUESTED, "")
        try:
            if self.config.suspend:
                await tell_doors(self.config, hold, self._around.services)
                previous = await self._around.statuses.read(self.config)
                await self._publish(hold, status.suspended(previous), None, previous)
                return self.config.interval_s
            report = await self._sync(hold, self._around.looks.progress(self.config.key))
        except (LeaseLostError, asyncio.CancelledError):
            raise
        except CacheServerError as exc:
            return await self._failed(hold, exc, started)
        except Exception as exc:
            # The edge of the task: a defect of ours in one repository must not stop the others.
            log.exception("sync failed by a defect", extra=_about(self))
            return await self._failed(hold, CacheServerError(f"internal error: {exc!r}"), started)
        if self._failures:
            log.info("repository recovered", extra=_about(self, after_failures=self._failures))
        self._failures, self.starved = 0, False
        if report.outcome is not Outcome.UNCHANGED:
            log.info("repository read", extra=_about(self, **_counts(report)))
            self._said.tell(report)
        return self.config.interval_s

    async def _sync(self, hold: _LazyClaim, progress: Progress) -> SyncReport:
        """One sync with its status before and after."""
        previous = await self._around.statuses.read(self.config)

        async def on_change() -> None:
            nonlocal previous
            self._status_fits = False
            with contextlib.suppress(NoSpace):  # what follows may delete, and so make room
                previous = await self._publish(hold, status.syncing(previous), None, previous)

        report = await Sync(
            self.config, self.source, hold, self._around.services, progress=progress, on_change=on_change,
            doubtful=self._failures > 0, said=None if self._status_fits else status.digest_of(previous),
        ).run()  # fmt: skip
        same = report.outcome is Outcome.UNCHANGED
        phase = status.unchanged(previous) if same else status.synced(report)
        await self._publish(hold, phase, report, previous, answers=self._asked_by)
        self._status_fits = True
        labels = self.config.key.namespace, self.config.key.name
        metrics.repository_checked.labels(*labels).set(time.time())
        if report.outcome is Outcome.HELD:
            metrics.sync_failures.labels(*labels, report.reason).inc()
        return report

    async def _failed(self, hold: _LazyClaim, error: CacheServerError, started: float) -> float:
        """Say so in status and, once, in the log; returns the seconds until the next try."""
        self._failures += 1
        if self._failures == 1:
            log.warning("sync failed; what was served stays", extra=_about(self, error=str(error)))
        labels = self.config.key.namespace, self.config.key.name
        metrics.sync_seconds.labels(*labels, "failed").observe(time.monotonic() - started)
        metrics.sync_failures.labels(*labels, status.failure_reason(error)).inc()
        metrics.repository_ready.labels(*labels).set(0)
        if not isinstance(error, EtcdError):
            metrics.repository_checked.labels(*labels).set(time.time())
        self.starved = isinstance(error, NoSpace)
        if isinstance(error, NoSpace):
            self._around.space.refused(error)
        # An etcd that is away cannot be written to; one that is full can where the status lives elsewhere (a cluster).
        if not isinstance(error, EtcdError) or isinstance(error, NoSpace):
            try:
                previous = await self._around.statuses.read(self.config)
                phase = status.failed(error, previous)
                await self._publish(hold, phase, None, previous, answers=self._asked_by)
            except LeaseLostError:
                raise
            except EtcdError as exc:
                log.debug("status is not written", extra=_about(self, error=str(exc)))
        return self._around.pace.retry_s(error, self._failures, self.config.interval_s)

    async def _publish(
        self,
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
            self.config, phase, report, previous, now=time.time(), answers=answers, pushing=self._pushing,
            publishing=await self._shown(self.config),
        )  # fmt: skip
        _measure(self, phase, status.served(record, previous))
        if record is None:
            return previous
        return await self._around.statuses.write(await hold.status_claim(), record, previous) or previous

    async def _shown(self, config: RepositoryConfig) -> status.Says | None:
        """What doors show of it, as a condition; None where it names none, or etcd does not say."""
        if not config.publish:
            return None
        with contextlib.suppress(EtcdError):
            return status.publishing(config, await self._around.services.store.published.read(config.key))
        return None


class _LazyClaim:
    """The claim on one repository, taken when first asked for. status_claim: the leader's, where one leads."""

    def __init__(self, session: Session, life: Life, status_claim: Claim | None = None) -> None:
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


def _about(life: Life, **more: object) -> dict[str, object]:
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


def _measure(life: Life, phase: status.Phase, served: status.Served | None) -> None:
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
