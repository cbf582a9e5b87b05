"""Collects content that nothing refers to any more, now and then; has a source read again whose content is missing.

Which content that is, and how long it is left alone, is store/blobs.py's. One process at a time; a task of runner.py's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, NoReturn

from cacheserver.errors import EtcdError, LeaseLostError
from cacheserver.ingest.space import Space
from cacheserver.model import Digest, RepositoryKey
from cacheserver.store.blobs import Blobs
from cacheserver.store.claims import Session
from cacheserver.store.objects import Store

log = logging.getLogger(__name__)

_EVERY_S: Final = 900.0


class ContentCollection:
    """See the module. request_sync: called with each repository that refers to content which etcd lacks."""

    def __init__(self, store: Store, blobs: Blobs, request_sync: Callable[[RepositoryKey], None]) -> None:
        self._store = store
        self._blobs = blobs
        self._request_sync = request_sync
        self._missed: set[Digest] = set()

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
