"""Makes room in a full etcd that grants this process no lease: deletes packages that their sources have no more.

Without a lease there are no claims, so what is deleted is fenced by there being none, and nothing is put at all. Who
holds a claim does it himself. Started and ended by runner.py, which begins real syncs once there is a lease.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Protocol

from cacheserver.config import RepositoryConfig
from cacheserver.errors import CacheServerError, LeaseLostError, NoSpace
from cacheserver.ingest.sync import Sync, SyncServices
from cacheserver.model import RepositoryKey
from cacheserver.slotted import slotted
from cacheserver.sources import Source
from cacheserver.store.claims import Claim
from cacheserver.tasks import in_parallel

log = logging.getLogger(__name__)


class Life(Protocol):
    """A repository, as runner.py has it."""

    @property
    def config(self) -> RepositoryConfig:
        """What is asked of it."""
        ...

    @property
    def source(self) -> Source:
        """Where it comes from."""
        ...


@slotted(frozen=True)
class _Look:
    source: Source
    at: float


class Shrinking:
    """One for each Ingest. A source is read once in its interval, however often begin() is called."""

    def __init__(self, services: SyncServices, *, lead: bool) -> None:
        """lead: as Ingest's."""
        self._services = services
        self._lead = lead
        self._looked: dict[RepositoryKey, _Look] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is done here."""
        return self._task is None or self._task.done()

    def begin(self, tracked: Mapping[RepositoryKey, Life]) -> None:
        """Look at these, beside whatever the caller does; nothing happens while an earlier look goes on."""
        if self.idle:
            self._looked = {key: look for key, look in self._looked.items() if key in tracked}
            self._task = asyncio.create_task(self._all(list(tracked.values())), name="ingest: make room")

    async def end(self) -> None:
        """Returns when nothing is done here any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _all(self, lives: Iterable[Life]) -> None:
        # Each waits for its turn as a sync does, so all may ask for one.
        due = [life for life in lives if not life.config.suspend and self._is_due(life)]
        await in_parallel(due, self._one, width=max(1, len(due)))

    def _is_due(self, life: Life) -> bool:
        before = self._looked.get(life.config.key)
        if before is None or before.source is not life.source:
            return True
        return time.monotonic() - before.at >= life.config.interval_s

    async def _one(self, life: Life) -> None:
        key, store = life.config.key, self._services.store
        about = {"namespace": key.namespace, "repository": key.name}
        claim = Claim.of_nobody(str(key))

        async def ours() -> Claim:
            return claim

        async def unsaid() -> None:
            """A status is a put."""

        try:
            if not await store.holds(claim) or (self._lead and not await store.holds(Claim.of_nobody("leader"))):
                return
            self._looked[key] = _Look(life.source, time.monotonic())
            await Sync(
                life.config, life.source, ours, self._services, progress=_quiet, on_change=unsaid, only_deletes=True
            ).run()
        except NoSpace:
            log.info("etcd is full: what a source has no more was deleted, the rest waits for room", extra=about)
        except LeaseLostError:
            log.info("another process ingests this repository now", extra=about)
        except CacheServerError as exc:
            log.warning("etcd is full, and a source cannot be read to make room", extra={**about, "error": str(exc)})
        except Exception:
            log.exception("making room failed by a defect", extra=about)


def _quiet(what: str, done: int, total: int) -> None:
    """Nobody is told how far it is."""
