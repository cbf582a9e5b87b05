"""Doors to clients of other systems, as settings and repositories ask for them: built here, run by the server.

Every replica has all of them. What a door needs is imported where it is asked for, since most servers have none.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from cacheserver.api import Acceptor, Route, bounded_server
from cacheserver.api.http.connections import ConnectionLimits
from cacheserver.api.http.reply import TEXT, Reply, Stream, whole
from cacheserver.api.paths import PathRequest
from cacheserver.catalogs import Workers
from cacheserver.compat.catalogs import Catalogs
from cacheserver.config import Door, Settings
from cacheserver.ingest import Ingest
from cacheserver.model import Kind, RepositoryKey
from cacheserver.server.listener import Listener
from cacheserver.store.blobs import Blobs
from cacheserver.store.objects import Store
from cacheserver.web.route import ROUTE as PAGE

if TYPE_CHECKING:
    from cacheserver.api.beside import KindBeside
    from cacheserver.api.kinds.resource import Resource
    from cacheserver.cache.watchcache import Projection, WatchCache
    from cacheserver.cluster.kubeapi import KubeAPI
    from cacheserver.compat.catalogd.door import Catalogd

log = logging.getLogger(__name__)

_STRANGERS: Final = ConnectionLimits(connections=1280, handshakes=128, unauthenticated=1024)
"""Of a listener where nobody is asked who he is: past 1,024 the oldest go, of the address that has most. There have to
be more connections than strangers: who finds no connection free is turned away, whoever has all of them."""
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
"""The door says itself what it does not do."""


def projections(of_kinds: Mapping[Kind, Projection], settings: Settings) -> Mapping[Kind, Projection]:
    """What the watch cache makes of stored kinds, with what doors need of these."""
    if settings.serving.packagemanifests:
        from cacheserver.compat import packagemanifests  # noqa: PLC0415 - where asked for

        of_kinds = packagemanifests.projections(of_kinds)
    if settings.serving.rukpak:
        from cacheserver.compat import rukpak  # noqa: PLC0415 - as above

        of_kinds = rukpak.projections(of_kinds)
    return of_kinds


class Doors:
    """catalogs: what all of them read. routes: paths of theirs, and the page's, on the API's listener. loops: to be run
    from when etcd answers, until the server stops. checks: for readyz."""

    def __init__(self, settings: Settings, store: Store, blobs: Blobs, ingest: Ingest) -> None:
        self._settings = settings
        self._url = ""
        self._blobs, self._ingest = blobs, ingest
        self.catalogs = Catalogs(store.published, blobs, ingest.repositories)
        ingest.follow(self.catalogs.note)
        self.loops: list[Callable[[], Coroutine[Any, Any, None]]] = [self.catalogs.run]
        self.checks: dict[str, Callable[[], str | None]] = {}
        self._close: list[Callable[[float], Coroutine[Any, Any, None]]] = []
        below = Route("catalogs", self._below_catalogs, below=True, methods=_METHODS, listed=())
        self.routes = (PAGE,) if settings.from_cluster else (PAGE, below)

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

    def follow_catalog_sources(self, settings: Settings, kubernetes: KubeAPI | None, ingest: Ingest) -> None:
        """Where the settings say so: CatalogSources of rukpak-packageserver become Repositories."""
        if not settings.serving.catalog_sources or kubernetes is None:
            return
        from cacheserver.compat.rukpak.sources import CatalogSources  # noqa: PLC0415 - where asked for

        watched = settings.content.watch_namespaces
        self.loops.append(CatalogSources(kubernetes, lambda: ingest.leads, namespaces=watched).run)

    def open_registries(self, settings: Settings, workers: Workers) -> None:
        """Where the settings name some. Raises: ValueError where two of them want one port."""
        if addresses := settings.registries():
            from cacheserver.compat.registry.door import Registry  # noqa: PLC0415 - where it is asked for

            registry = Registry(self.catalogs, workers, addresses)
            self.loops.append(registry.run)
            self.checks["registry"] = registry.check
            self._close.append(registry.close)

    async def close(self, grace_s: float) -> None:
        """Let those go who hold a connection, to another replica; calls have the grace to end."""
        await asyncio.gather(*(close(grace_s) for close in self._close))

    def opened(self, url: str) -> str:
        """Take note of where the API listens; returns it."""
        self._url = url
        return url

    def show_clustercatalogs(self, cache: WatchCache, ingest: Ingest) -> Sequence[KindBeside]:
        """Without a cluster, and where a catalog is published for clients of catalogd: the kind that leads them to it.
        Its URLs are right once `opened` was called."""
        settings = self._settings
        if settings.from_cluster or not any(Door.CATALOG in each.publish for each in settings.repositories):
            return ()
        from cacheserver.api.selectors import EVERYTHING  # noqa: PLC0415 - see the module
        from cacheserver.compat.clustercatalogs.status import base_url, called  # noqa: PLC0415 - as above
        from cacheserver.compat.clustercatalogs.view import ClusterCatalogView  # noqa: PLC0415 - as above

        namespace, kind = settings.content.namespace, Kind.REPOSITORY
        view = ClusterCatalogView(
            self.catalogs,
            ingest.repositories,
            lambda key: base_url(settings.serving.catalogs_url or self._url, namespace, key),
            functools.partial(called, namespace),
            lambda key: cache.held(kind, (key.namespace, key.name)),
            functools.partial(cache.watch, kind, since=None, initial=None, namespace=None, selector=EVERYTHING),
        )
        self.loops.append(view.run)
        return (view,)

    @functools.cached_property
    def catalogd(self) -> Catalogd:
        """The door for clients of catalogd."""
        from cacheserver.compat.catalogd.door import Catalogd  # noqa: PLC0415 - see the module

        ingest, namespace = self._ingest, self._settings.content.namespace
        return Catalogd(self.catalogs, namespace=namespace, complete=lambda: ingest.complete)

    async def _below_catalogs(self, asked: PathRequest) -> Reply | Stream:
        if not self.catalogs.published(Door.CATALOG):
            return whole(b"404 page not found\n", status=404, content_type=TEXT)
        return await self.catalogd.route(asked)

    def kinds(self, cache: WatchCache) -> Sequence[Resource]:
        """Kinds of other systems, which the API serves like its own. cache: what it reads."""
        rows = [*self._packagemanifests()]
        if self._settings.serving.rukpak:
            from cacheserver.compat import rukpak  # noqa: PLC0415 - where asked for

            def published(key: RepositoryKey) -> bool:
                config = self._ingest.repositories.get(key)
                return config is not None and Door.RUKPAK in config.publish

            rows += rukpak.kinds(self._blobs, cache, published, standalone=not self._settings.from_cluster)
        return rows

    def _packagemanifests(self) -> Sequence[Resource]:
        if not self._settings.serving.packagemanifests:
            return ()
        from cacheserver.compat.packagemanifests import PackageManifests  # noqa: PLC0415 - where asked for

        def published(key: RepositoryKey) -> bool:
            # What nobody knows yet, as at a start in a cluster, was published when it was last synced.
            config = self._ingest.repositories.get(key)
            return config is None or Door.PACKAGE_MANIFEST in config.publish

        return [PackageManifests(self._blobs, published, self._settings.serving.packagemanifests_namespace).row]


@asynccontextmanager
async def open_doors(
    settings: Settings, store: Store, blobs: Blobs, ingest: Ingest, workers: Workers, main: Listener
) -> AsyncIterator[Doors]:
    """Doors, with the listeners of their own that the settings ask for. main: the API's, whose TLS these speak as well.

    Raises: OSError when an address is taken.
    """
    doors = Doors(settings, store, blobs, ingest)
    doors.follow_clustercatalogs(settings, main.kubernetes, ingest)
    doors.follow_catalog_sources(settings, main.kubernetes, ingest)
    doors.open_registries(settings, workers)
    tls = main.context
    async with AsyncExitStack() as stack:
        if (address := settings.serving.catalogs_listen) is not None:
            server = bounded_server(doors.catalogd.handle, _STRANGERS, secure=tls is not None)
            acceptor = Acceptor(server, tls)
            await acceptor.open(address.host, address.port)
            stack.push_async_callback(acceptor.close)
            log.info("listening for clients of catalogd", extra={"port": acceptor.addresses[0][1]})
        yield doors
