"""Doors to clients of other systems, as settings and repositories ask for them: built here, run by the server.

Every replica has all of them. What a door needs is imported where it is asked for, since most servers have none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from cacheserver.compat.catalogs import Catalogs
from cacheserver.config import Settings
from cacheserver.ingest import Ingest
from cacheserver.store.blobs import Blobs
from cacheserver.store.objects import Store

if TYPE_CHECKING:
    from cacheserver.cluster.kubeapi import KubeAPI


class Doors:
    """catalogs: what all of them read. loops: to be run from when etcd answers, until the server stops."""

    def __init__(self, store: Store, blobs: Blobs, ingest: Ingest) -> None:
        self.catalogs = Catalogs(store.published, blobs, ingest.repositories)
        ingest.follow(self.catalogs.note)
        self.loops: list[Callable[[], Coroutine[Any, Any, None]]] = [self.catalogs.run]

    def follow_clustercatalogs(self, settings: Settings, kubernetes: KubeAPI | None, ingest: Ingest) -> None:
        """Where the settings say so: ClusterCatalogs become Repositories, and say what is served of these."""
        namespace, url = settings.serving.cluster_catalogs, settings.serving.catalogs_url
        if namespace is None or url is None or kubernetes is None:
            return
        from cacheserver.compat.clustercatalogs.controller import ClusterCatalogs  # noqa: PLC0415 - where asked for
        from cacheserver.compat.clustercatalogs.status import base_url  # noqa: PLC0415 - as above

        base = functools.partial(base_url, url, settings.content.namespace)
        controller = ClusterCatalogs(kubernetes, self.catalogs, lambda: ingest.leads, namespace=namespace, base=base)
        self.loops.append(controller.run)
