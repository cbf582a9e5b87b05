"""Catalogs that are served as a test says: a revision each, without documents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from cacheserver.model import Digest, RepositoryKey
from cacheserver.store.published import PublishedCatalog

CHANGED = 1_790_000_000


class Contents:
    """What is served of the repositories of one namespace, as a test says; stands for compat/catalogs.py."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self.served: dict[RepositoryKey, PublishedCatalog] = {}
        self._known = asyncio.Event()
        self._known.set()
        self._followers: list[asyncio.Queue[RepositoryKey]] = []

    @property
    def known(self) -> bool:
        return self._known.is_set()

    def forget(self) -> None:
        self._known.clear()

    def know(self) -> None:
        self._known.set()

    async def wait_known(self) -> None:
        await self._known.wait()

    def get(self, key: RepositoryKey) -> PublishedCatalog | None:
        return self.served.get(key) if self.known else None

    def serve(self, name: str, revision: Digest | None, changed: int = CHANGED) -> None:
        key = RepositoryKey(self._namespace, name)
        if revision is None:
            self.served.pop(key, None)
        else:
            self.served[key] = PublishedCatalog(key, revision, changed, ())
        for follower in self._followers:
            follower.put_nowait(key)

    async def changes(self) -> AsyncIterator[RepositoryKey]:
        mine: asyncio.Queue[RepositoryKey] = asyncio.Queue()
        self._followers.append(mine)
        for key in self.served:
            mine.put_nowait(key)
        while True:
            yield await mine.get()
