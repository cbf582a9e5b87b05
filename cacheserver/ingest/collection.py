"""Collects content that nothing refers to any more, now and then; has a source read again whose content is missing.

Which content that is, and how long it is left alone, is store/blobs.py's. One process at a time; a task of runner.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final, NoReturn

from cacheserver.errors import EtcdError, LeaseLostError
from cacheserver.ingest.space import Space
from cacheserver.model import Digest, RepositoryKey
from cacheserver.store.blobs import Blobs
from cacheserver.store.claims import Session
from cacheserver.store.journal import FOR_S
from cacheserver.store.objects import Store

log = logging.getLogger(__name__)

_EVERY_S: Final = 900.0
_REPLACED_EVERY_S: Final = 20.0
_REPLACED_AFTER_S: Final = 30.0
"""Ours: who reads it has begun, and who wrote it anew has referred to it by then. So a save's content is gone within a
minute of the next save: at 20 saves a second of 50 kB, the hour of `collect` would keep 3.6 GB."""
_PAUSE_S: Final = 2.0
_CHANGES_EVERY_S: Final = 60.0
_CHANGES_SOONEST_S: Final = 5.0
"""Ours: sooner than in a minute where a tenth more was told, for a sync that tells that much takes a second or two, and
a minute of them is 20 MB in each replica; not at once, since counting takes two questions for each namespace."""
_MOST_REPLACED: Final = 20_000
"""Ours: remembered at a time, 3 MB. What is more is left to the pass over everything."""


class ContentCollection:
    """See the module. request_sync: called with each repository that refers to content which etcd lacks."""

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        request_sync: Callable[[RepositoryKey], None],
        *,
        keep_changes_s: float = FOR_S,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._request_sync = request_sync
        self._missed: set[Digest] = set()
        self._keep_changes_s = keep_changes_s

    async def run(self, session: Session, space: Space) -> NoReturn:
        """One pass every 15 minutes, until cancelled; a pass that etcd refuses is left to the next.

        space: holds the claim on this work back while etcd is full. Raises: LeaseLostError.
        """
        await space.retry(lambda: session.claim("collector"), "the claim to collect content")
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                count = await self._once()
            except LeaseLostError:
                raise
            except EtcdError as exc:
                log.warning("content was not collected; it is tried again later", extra={"error": str(exc)})
            else:
                if count:
                    log.info("content collected", extra={"blobs": count})

    async def run_replaced(self, every_s: float = _REPLACED_EVERY_S, after_s: float = _REPLACED_AFTER_S) -> NoReturn:
        """Deletes what saves of drafts replaced soon after, until cancelled; what it misses is left to run()."""
        waiting: dict[Digest, tuple[int, float]] = {}
        async with asyncio.TaskGroup() as group:
            group.create_task(self._note_replaced(waiting), name="ingest: content that drafts replace")
            while True:
                await asyncio.sleep(every_s)
                try:
                    await self._delete_replaced(waiting, before=time.monotonic() - after_s)
                except LeaseLostError:
                    raise
                except EtcdError as exc:
                    log.debug("replaced content was not deleted yet", extra={"error": str(exc)})

    async def run_changes(self, every_s: float = _CHANGES_EVERY_S, soonest_s: float = _CHANGES_SOONEST_S) -> NoReturn:
        """Deletes PackageChanges that are too old or too many, until cancelled; a full etcd lets it.

        Where two processes do, nothing is deleted that one alone would keep.
        """
        journal = self._store.journal
        while True:
            await asyncio.sleep(soonest_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await journal.overdue.wait()
            try:
                if count := await journal.collect(for_s=self._keep_changes_s):
                    log.debug("changes collected", extra={"changes": count})
            except EtcdError as exc:
                log.debug("changes were not collected yet", extra={"error": str(exc)})

    async def _note_replaced(self, waiting: dict[Digest, tuple[int, float]]) -> NoReturn:
        while True:
            try:
                async for digests in self._store.authored.replaced():
                    for digest in digests:
                        if len(waiting) < _MOST_REPLACED and (mark := await self._blobs.mark(digest)):
                            waiting[digest] = (mark, time.monotonic())
            except EtcdError as exc:
                log.debug("drafts are not followed; beginning again", extra={"error": str(exc)})
            await asyncio.sleep(_PAUSE_S)

    async def _delete_replaced(self, waiting: dict[Digest, tuple[int, float]], *, before: float) -> None:
        due = {digest: mark for digest, (mark, since) in waiting.items() if since <= before}
        if not due:
            return
        referenced = await self._store.referenced_blobs()
        for digest, mark in due.items():
            if digest not in referenced:
                await self._blobs.delete(digest, mark)
            waiting.pop(digest, None)

    async def _once(self) -> int:
        """How much went. What is missing is asked for once: a source that no longer has it would be read for ever."""
        found = await self._blobs.collect(self._store)
        new = found.lost - self._missed
        self._missed = found.lost
        if new:
            for key in await self._store.forget_those_who_miss(new):
                log.warning(
                    "content that is served is missing from etcd; its source is read again",
                    extra={"namespace": key.namespace, "repository": key.name, "first": min(new)},
                )
                self._request_sync(key)
        return found.deleted
