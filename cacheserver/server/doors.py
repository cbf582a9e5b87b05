"""Doors to clients of other systems, as settings and repositories ask for them: built here, run by the server.

Every replica has all of them. What a door needs is imported where it is asked for, since most servers have none.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from cacheserver.compat.catalogs import Catalogs
from cacheserver.ingest import Ingest
from cacheserver.store.blobs import Blobs
from cacheserver.store.objects import Store


class Doors:
    """catalogs: what all of them read. loops: to be run from when etcd answers, until the server stops."""

    def __init__(self, store: Store, blobs: Blobs, ingest: Ingest) -> None:
        self.catalogs = Catalogs(store.published, blobs, ingest.repositories)
        ingest.follow(self.catalogs.note)
        self.loops: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (self.catalogs.run,)
