"""When a repository that is written to is worked on: what publish does between two syncs, in the repository's task.

So a sync and a push of one repository never run at the same time, and both are under its claim. One watch a process
says which repositories have something to do. Called by life.py.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Final

from cacheserver.config import RepositoryConfig
from cacheserver.errors import CacheServerError, EtcdError, LeaseLostError
from cacheserver.ingest.sync import SyncServices
from cacheserver.model import RepositoryKey
from cacheserver.publish.git.publisher import Publisher, Work
from cacheserver.publish.git.turn import Waiting
from cacheserver.sources import Source, Written
from cacheserver.store.claims import Claim

log = logging.getLogger(__name__)

_AGAIN_S: Final = 2.0
"""Behind what should not have failed, and between two watches."""
_LAST_S: Final = 20.0
"""For the drafts of a repository that is being removed: longer, and a namespace would not go."""


class Publishing:
    """One for each Ingest."""

    def __init__(self, publisher: Publisher, services: SyncServices) -> None:
        self._publisher = publisher
        self._services = services

    def concerns(self, config: RepositoryConfig) -> bool:
        """Whether the repository is written to now."""
        return config.writable and not config.suspend

    async def follow(self, wake: Callable[[RepositoryKey], None]) -> None:
        """Call `wake` for every repository with something to do, for ever. What was missed is asked for again."""
        authored, told = self._services.store.authored, False
        while True:
            try:
                found, revision = await authored.repositories()
                for key in found:
                    wake(key)
                async with authored.follow(revision) as changes:
                    told = False
                    async for keys in changes:
                        for key in keys:
                            wake(key)
            except EtcdError as exc:
                if not told:
                    log.warning("drafts are not followed; it is tried again", extra={"error": str(exc)})
                told = True
            await asyncio.sleep(_AGAIN_S)

    async def work(self, config: RepositoryConfig, source: Source, claim: Claim) -> Work:
        """As Publisher.work; what fails is told and tried again later. Raises: LeaseLostError."""
        about = {"namespace": config.key.namespace, "repository": config.key.name}
        if not isinstance(source, Written):
            return Work(tried=False)
        try:
            copies = functools.partial(self._services.copies, config, fetch=True)
            return await self._publisher.work(config, source, claim, copies=copies)
        except LeaseLostError:
            raise
        except CacheServerError as exc:
            log.warning("drafts and operations wait; it is tried again", extra={**about, "error": str(exc)})
        except Exception:
            # The edge of the task: a defect of ours in one repository must not stop the others.
            log.exception("publishing failed by a defect", extra=about)
        return Work(next_s=_AGAIN_S, tried=False)

    async def settle(self, waiting: tuple[Waiting, ...], claim: Claim) -> bool:
        """As Publisher.settle, behind a sync that found all well; false: to be done again."""
        try:
            await self._publisher.settle(waiting, claim)
        except LeaseLostError:
            raise
        except EtcdError as exc:
            log.warning("operations are not ended yet", extra={"error": str(exc)})
            return False
        return True

    async def last(self, config: RepositoryConfig, source: Source, claim: Claim) -> None:
        """Push what git does not have yet of a repository that is being removed, best effort; say what is lost.

        Raises: LeaseLostError.
        """
        key, about = config.key, {"namespace": config.key.namespace, "repository": config.key.name}
        why = "it took too long"
        try:
            if isinstance(source, Written):
                async with asyncio.timeout(_LAST_S), self._services.copies(config, fetch=True):
                    done = await self._publisher.work(config, source, claim, everything=True)
                    why = str(done.error or "their branches were moved, or the server refused them")
        except LeaseLostError:
            raise
        except (CacheServerError, TimeoutError) as exc:
            why = str(exc) or why
        try:
            drafts = await self._services.store.authored.drafts(key)
        except EtcdError:
            drafts = {}
        lost = [draft.name for draft, record in drafts.items() if record.unpushed_ms]
        if lost:
            log.warning(
                "the repository goes, and what git does not have of its drafts is lost",
                extra={**about, "drafts": len(lost), "first": lost[0], "error": why},
            )
        self._publisher.forget(key)
