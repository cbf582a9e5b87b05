"""Builds everything once, runs it in one TaskGroup, shuts down in order. The only module that knows all packages.

Order of start: etcd, the listener (discovery answers at once, reads are put off until the cache is filled), cache,
ingestion; parse workers when there is something to parse. Order of stop: readyz fails and watches end politely, the
listener closes, open requests finish within the grace, then ingestion, cache and etcd go.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import cacheserver
from cacheserver import metrics
from cacheserver.config import Defaults, GitSource, RepositoryConfig, ServingSettings, Settings
from cacheserver.errors import CacheServerError, EtcdError, EtcdStartError, NoSpace, SecretInvalidError
from cacheserver.etcd.client import Client, TLSFiles
from cacheserver.etcd.version import check_supported
from cacheserver.headstart import HeadStart
from cacheserver.ingest import Ingest, ServedStatusStore, Space, SyncReport, SyncServices
from cacheserver.ingest.configured import Configured
from cacheserver.ingest.disk import Mirrors, ScratchSpace, scratch_directory
from cacheserver.ingest.first import FirstLooks
from cacheserver.ingest.reading import open_for
from cacheserver.ingest.space import TROUBLE
from cacheserver.ingest.storage import Storage
from cacheserver.model import Kind
from cacheserver.security import library
from cacheserver.server import limits, memory
from cacheserver.server.begun import Begun, begun
from cacheserver.sources import Access, Progress, Source
from cacheserver.store.blobs import Blobs
from cacheserver.store.claims import CLAIM_TTL_S
from cacheserver.store.objects import Store
from cacheserver.store.usage import Usages

if TYPE_CHECKING:
    from cacheserver.api import Acceptor, Api, Route
    from cacheserver.cache.watchcache import WatchCache
    from cacheserver.catalogs.workers import Workers
    from cacheserver.cluster.kubeapi import KubeAPI
    from cacheserver.publish.author import Author
    from cacheserver.publish.git.publisher import Publisher
    from cacheserver.server.doors import Doors

log = logging.getLogger(__name__)

# Connections that wait to be accepted; the kernel caps it at its own limit (net.core.somaxconn, 4,096 by default). Past
# that it drops handshakes, and clients try again after a second: what a crowd that comes back meets. Go's servers take
# the kernel's limit, too.
_BACKLOG = 4096

# Python's 5 ms is how long the loop waits for a thread that computes, at each event, of which an echo has two. Measured
# with one such thread: an echo 10.5 ms, 0.8 with this; with three 26 ms, 3 with this; the threads get as much done.
_SWITCH_S = 0.0005

# Besides those of watches and requests: who has not shown who it is, and clients between two requests.
_OTHER_CONNECTIONS = 2048


async def serve(settings: Settings, *, ready: Callable[[Begun], None], progress: Progress) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Calls `ready` once there is something to see (begun.py).

    progress: told what the first looks at the sources do. SIGHUP: look at every source now.
    Raises: ConfigError, EtcdStartError, OSError when the address is taken.
    """
    stop = _settle_in()
    from cacheserver.api import Api  # noqa: PLC0415 - costs `ingest` half its time
    from cacheserver.server.doors import open_doors  # noqa: PLC0415 - as above
    from cacheserver.server.listener import open_listener  # noqa: PLC0415 - as above

    async with AsyncExitStack() as stack:
        workers = await stack.enter_async_context(limits.workers(settings.parsing))
        client = await stack.enter_async_context(_etcd(settings))
        store, blobs = Store(client, changes=settings.parsing.changes), Blobs(client)
        cache = _cache(store, settings)
        listener = await stack.enter_async_context(open_listener(settings.serving))
        opening = _Opening(space := Space())
        scratch = stack.enter_context(scratch_directory())
        services = _services(client, store, blobs, workers, scratch, settings)
        looks = FirstLooks([config.key for config in settings.repositories], progress)
        ingest, followers = _ingestion(services, settings, listener.kubernetes, space, looks, cache)
        doors = await stack.enter_async_context(open_doors(settings, store, blobs, ingest, workers, listener))
        api = Api(
            cache,
            blobs,
            standalone=not settings.from_cluster,
            version=cacheserver.__version__,
            checks={**listener.checks, **doors.checks, "etcd": opening},
            notes={"etcd-space": lambda: space.trouble},
            routes=_routes(doors, cache),
            beside=doors.show_clustercatalogs(cache, ingest),
            gate=listener.gate,
            author=_author(client, services, cache, ingest, settings, listener.kubernetes),
            nobody=settings.authoring.author,
            more=doors.kinds(cache),
            list_cache_bytes=settings.cache.list_cache_bytes,
            max_reads=settings.serving.max_reads,
            max_watches=limits.watches_that_fit(settings.serving.max_watches),
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, ingest.request_sync)
        acceptor = await stack.enter_async_context(_listening(api, settings.serving, listener.context))
        log.info("listening", extra={"url": (url := doors.opened(_url(acceptor, listener.context)))})
        async with asyncio.TaskGroup() as group:
            opened = functools.partial(_open_for, ingest, store, client, settings)
            working = _work(opened, cache, ingest, (*followers, *doors.loops), opening)
            work = group.create_task(working, name="server: work")
            guard = group.create_task(listener.run(), name="server: listener")
            tidy = group.create_task(_hold_little(cache), name="server: memory")
            first = functools.partial(begun, url, [config.key for config in settings.repositories], cache, looks)
            announce = group.create_task(_announce(cache, first, ready), name="server: announce")
            await _stopped(stop, work)
            log.info("stopping", extra={"grace_s": (grace_s := settings.serving.shutdown_grace_s)})
            await asyncio.gather(api.shut_down(grace_s=grace_s), doors.close(grace_s))
            await acceptor.close()
            for task in (announce, tidy, guard, work):
                task.cancel()
    log.info("stopped")
    return 0


async def ingest(
    settings: Settings,
    *,
    progress: Progress,
    on_report: Callable[[SyncReport], None],
    on_error: Callable[[RepositoryConfig, CacheServerError], None],
    begun: HeadStart | None = None,
) -> None:
    """Every repository once. Each ends in one call: on_report, or on_error for one that failed as a whole."""
    async with AsyncExitStack() as stack:
        workers = await stack.enter_async_context(limits.workers(settings.parsing, begun))
        client = await stack.enter_async_context(_etcd(settings))
        store = Store(client, changes=settings.parsing.changes)
        await _open(store, client, settings)
        scratch = stack.enter_context(scratch_directory())
        services = _services(client, store, Blobs(client), workers, scratch, settings)
        await _standalone_ingestion(services, settings, Space()).once(
            progress=progress, on_report=on_report, on_error=on_error
        )


async def _open(store: Store, client: Client, settings: Settings) -> None:
    """Make the store usable. Raises: EtcdStartError for a version we refuse, ConfigError, Unavailable."""
    version = await client.connect()
    if not settings.etcd.embedded and version is not None:
        warning = check_supported(version, embedded=False, allow_unsupported=settings.etcd.allow_unsupported)
        if warning:
            log.warning(warning)
    await store.open()
    if settings.etcd.embedded:
        await store.drop_claims()  # left by a killed server: nobody else can reach this etcd


class _Opening:
    """Whether the store is open, and if not, why; a check of /readyz, so its words are for everybody."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._cause: str | None = "etcd has not answered yet"

    def __call__(self) -> str | None:
        return self._cause

    def failed(self, error: EtcdError, *, after_s: float) -> None:
        """after_s: since the first try."""
        if isinstance(error, NoSpace):
            self._cause = TROUBLE
            self._space.refused(error)  # which says so in the log, again and again
            return
        metrics.cache_lag_seconds.set(after_s)
        cause = f"etcd does not answer, or refuses ({type(error).__name__}): the log has its words"
        if self._cause != cause:
            log.warning("the store cannot be opened yet; trying on", extra={"error": str(error)})
        self._cause = cause

    def succeeded(self) -> None:
        self._cause = None


async def _open_for(ingest: Ingest, store: Store, client: Client, settings: Settings) -> None:
    """As _open; then what is configured no more goes. Raises: as _open."""
    await _open(store, client, settings)
    if not settings.from_cluster:
        await _take_out(ingest, store, settings)


async def _take_out(ingest: Ingest, store: Store, settings: Settings) -> None:
    """Forget the catalogs that this server's configuration had once and has no more; see ingest/configured.py."""
    configured = Configured(settings.etcd.data_dir / "catalogs.json", f"{store.cluster_id:x}")
    for key in await configured.begin([config.key for config in settings.repositories]):
        log.info("no longer configured", extra={"namespace": key.namespace, "repository": key.name})
        # A process that was killed holds its claims for a while yet; who holds one for longer is alive.
        ingest.remove(key, patience_s=2 * CLAIM_TTL_S, done=functools.partial(configured.settled, key))


async def _work(
    opened: Callable[[], Awaitable[None]],
    cache: WatchCache,
    ingest: Ingest,
    followers: Sequence[Callable[[], Coroutine[Any, Any, None]]],
    opening: _Opening,
) -> None:
    """Everything that needs etcd, begun once it answers."""
    pause_s, began = 0.1, time.monotonic()
    while True:
        try:
            await opened()
            break
        except EtcdStartError:
            raise
        except EtcdError as exc:
            opening.failed(exc, after_s=time.monotonic() - began)
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, 5.0)
    opening.succeeded()
    async with asyncio.TaskGroup() as group:
        group.create_task(cache.run(), name="server: cache")
        group.create_task(ingest.run(), name="server: ingest")
        for follow in followers:
            group.create_task(follow(), name=f"server: {follow.__qualname__}")


async def _hold_little(cache: WatchCache) -> NoReturn:
    """Once the cache is filled, hold no more memory than it takes."""
    await cache.wait_ready()
    # What is loaded stays for long and holds no cycles: keep the collector from walking it again and again.
    gc.collect()
    gc.freeze()
    # The youngest are walked each 10,000, which is 4 ms of the loop, and not each 50,000: 20 ms. The others as seldom.
    gc.set_threshold(10_000, 100, 50)
    await memory.keep_giving_back()


async def _announce(cache: WatchCache, first: Callable[[], Awaitable[Begun]], ready: Callable[[Begun], None]) -> None:
    """Once the cache is filled and there is something to see in it: say so."""
    await cache.wait_ready()
    ready(await first())


def _settle_in() -> asyncio.Event:
    """What a process that serves has differently, before it imports the rest; the event that it is asked to stop."""
    memory.keep_little()
    library.load()
    from cacheserver.api import require_compiled_parser  # noqa: PLC0415 - see serve

    require_compiled_parser()
    sys.setswitchinterval(_SWITCH_S)
    metrics.build.labels(cacheserver.__version__).set(1)
    return _asked_to_stop()


def _asked_to_stop() -> asyncio.Event:
    """Set by SIGTERM and SIGINT from now on."""
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    return stop


async def _stopped(stop: asyncio.Event, work: asyncio.Task[None]) -> None:
    """Until a signal asks to stop, or the work ended by an error (which the TaskGroup then raises)."""
    waiting = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({waiting, work}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


@asynccontextmanager
async def _etcd(settings: Settings) -> AsyncIterator[Client]:
    """A client of the etcd that the settings name, or of one started for this process."""
    etcd = settings.etcd
    async with AsyncExitStack() as stack:
        if etcd.embedded:
            from cacheserver.etcd.embedded import EmbeddedEtcd  # noqa: PLC0415 - where it is asked for

            child = await stack.enter_async_context(EmbeddedEtcd(etcd.data_dir / "etcd", binary=etcd.binary))
            client = Client([child.endpoint])
        else:
            tls = TLSFiles(etcd.ca_file, etcd.cert_file, etcd.key_file) if etcd.ca_file or etcd.cert_file else None
            client = Client(etcd.endpoints, tls=tls, user=etcd.user, password=etcd.password() if etcd.user else None)
        yield await stack.enter_async_context(client)


def _cache(store: Store, settings: Settings) -> WatchCache:
    from cacheserver.api import PROJECTIONS  # noqa: PLC0415 - see serve
    from cacheserver.cache.watchcache import WatchCache  # noqa: PLC0415 - as above
    from cacheserver.server.doors import projections  # noqa: PLC0415 - as above

    made, kept = projections(PROJECTIONS, settings), settings.cache
    return WatchCache(
        store,
        made,
        window_events=kept.window_events,
        window_bytes=kept.window_bytes,
        plain_bytes=kept.plain_bytes,
    )


def _routes(doors: Doors, cache: WatchCache) -> Sequence[Route]:
    """Paths beside the API's own."""
    from cacheserver.web.feed import Feed  # noqa: PLC0415 - see serve

    return (*doors.routes, Feed(cache).route)


def _author(
    client: Client,
    services: SyncServices,
    cache: WatchCache,
    ingest: Ingest,
    settings: Settings,
    kubernetes: KubeAPI | None,
) -> Author:
    """Who takes writes of users, for every repository that there is."""
    from cacheserver.api import Shelf  # noqa: PLC0415 - see serve
    from cacheserver.publish.allowance import Allowance, Rationed  # noqa: PLC0415 - as above
    from cacheserver.publish.author import Author  # noqa: PLC0415 - as above
    from cacheserver.publish.content import Content  # noqa: PLC0415 - as above
    from cacheserver.publish.create.git_clone import GitClones  # noqa: PLC0415 - as above
    from cacheserver.publish.package import Limits  # noqa: PLC0415 - as above

    most = settings.authoring
    sizes = Limits(most.package_files, most.package_bytes, most.drafts)
    authored, caps = services.store.authored, settings.parsing
    room = Allowance(
        authored,
        Usages(client),
        ingest.repositories,
        repository_bytes=caps.repository_bytes,
        namespace_bytes=caps.namespace_bytes,
    )
    content = Content(services.blobs, services.workers, services.scratch, sizes, room.admit)

    def is_local(url: str) -> bool:
        named = (each.source for each in ingest.repositories.values())
        return not settings.from_cluster and any(isinstance(each, GitSource) and each.url == url for each in named)

    clones = GitClones(services.scratch, limits.source_limits(caps), _access_of(kubernetes), is_local=is_local)
    return Author(Rationed(authored, room), content, Shelf(cache), ingest.repositories, clones=clones)


def _access_of(kubernetes: KubeAPI | None) -> Callable[[RepositoryConfig], Awaitable[Access]]:
    """Who we are to a source that is read once: by Secrets, which are in a cluster only."""

    async def access(config: RepositoryConfig) -> Access:
        if kubernetes is None:
            if config.secret or config.ca_secret:
                raise SecretInvalidError("Secrets are in a cluster only; here no URL is fetched with credentials")
            return Access()
        from cacheserver.cluster.credentials import Secrets, access_of  # noqa: PLC0415  in a cluster only

        secrets, namespace = Secrets(kubernetes), config.key.namespace
        found = [await secrets.read(namespace, name) if name else None for name in (config.secret, config.ca_secret)]
        return access_of(config, found[0], found[1])

    return access


def _services(
    client: Client, store: Store, blobs: Blobs, workers: Workers, scratch: Path, settings: Settings
) -> SyncServices:
    parsing = settings.parsing
    mirrors = Mirrors(settings.etcd.data_dir / "sources", parsing.mirror_bytes)
    return SyncServices(
        store,
        blobs,
        workers,
        scratch,
        timeout_s=parsing.sync_timeout_s,
        from_cluster=settings.from_cluster,
        keep_changes_s=parsing.changes_for_s,
        scratch_space=ScratchSpace(parsing.scratch_bytes),
        mirrors=mirrors,
        storage=Storage(
            Usages(client),
            blobs,
            repository_bytes=parsing.repository_bytes,
            namespace_bytes=parsing.namespace_bytes,
        ),
    )


def _ingestion(
    services: SyncServices,
    settings: Settings,
    kubernetes: KubeAPI | None,
    space: Space,
    looks: FirstLooks,
    cache: WatchCache,
) -> tuple[Ingest, Sequence[Callable[[], Coroutine[Any, Any, None]]]]:
    """Of the configured repositories, or of those that the cluster has; and what has to run beside it for these."""
    if settings.from_cluster and kubernetes is not None:
        return _cluster_ingestion(services, settings, kubernetes, space, cache)
    return _standalone_ingestion(services, settings, space, looks), ()


def _standalone_ingestion(
    services: SyncServices, settings: Settings, space: Space, looks: FirstLooks | None = None
) -> Ingest:
    """Ingestion of the configured repositories."""
    if any(isinstance(each.source, GitSource) for each in settings.repositories):
        _load_git()
    publisher = _publisher(services, settings) if any(each.writable for each in settings.repositories) else None
    ingest = Ingest(services, ServedStatusStore(services.store), space=space, looks=looks, publisher=publisher)
    for config in settings.repositories:
        ingest.put(config, functools.partial(_source, settings, config))
    return ingest


def _cluster_ingestion(
    services: SyncServices, settings: Settings, kubernetes: KubeAPI, space: Space, cache: WatchCache
) -> tuple[Ingest, Sequence[Callable[[], Coroutine[Any, Any, None]]]]:
    """Ingestion of the cluster's Repository objects, one replica at a time, with the controller that follows these, and
    with Events on what is written."""
    _load_git()
    from cacheserver.cluster.credentials import Secrets  # noqa: PLC0415  in a cluster only
    from cacheserver.cluster.events import Events  # noqa: PLC0415
    from cacheserver.cluster.parting import Parting  # noqa: PLC0415
    from cacheserver.cluster.repositories import Controller  # noqa: PLC0415
    from cacheserver.cluster.status import ClusterStatusStore  # noqa: PLC0415
    from cacheserver.cluster.steps import Steps  # noqa: PLC0415

    content, events = settings.content, Events(kubernetes)
    statuses = ClusterStatusStore(kubernetes, services.store.holds, events)
    ingest = Ingest(services, statuses, lead=True, space=space, publisher=_publisher(services, settings))
    controller = Controller(
        kubernetes,
        ingest,
        statuses,
        Secrets(kubernetes),
        functools.partial(_source, settings),
        namespaces=content.watch_namespaces,
        defaults=Defaults(content.namespace, content.interval_s, content.validation, content.allow_empty),
        parting=Parting(kubernetes, services.store.authored, events, lambda: ingest.leads),
    )
    from cacheserver.api.selectors import EVERYTHING  # noqa: PLC0415

    watch = functools.partial(cache.watch, Kind.REVISION, since=None, initial=None, namespace=None, selector=EVERYTHING)
    steps = Steps(events, watch, ingest.repositories, lambda: ingest.leads)
    return ingest, (controller.run, steps.run)


def _load_git() -> None:
    """What the first git repository needs: by then we serve, and loading it would hold up everybody for 20 ms."""
    import cacheserver.catalogs.krm.git  # noqa: PLC0415
    import cacheserver.sources.git.packages  # noqa: F401, PLC0415


def _publisher(services: SyncServices, settings: Settings) -> Publisher:
    """Of what is written here. Knows no repository yet."""
    from cacheserver.publish.git.publisher import Publisher  # noqa: PLC0415 - git, which `ingest` of a directory needs not

    who = settings.authoring
    return Publisher(services.store.authored, services.blobs, author=who.author, committer=who.committer)


def _source(settings: Settings, config: RepositoryConfig, access: Access | None = None) -> Source:
    """A repository's source. What it keeps between fetches (git's objects) lies in the data directory, also with an
    etcd elsewhere, so that a restart fetches nothing again. Raises: SourceInvalidError."""
    cache = settings.etcd.data_dir / "sources" / config.key.namespace / config.key.name
    caps = limits.source_limits(settings.parsing)
    return open_for(config.source, config.format, cache=cache, limits=caps, access=access)


@asynccontextmanager
async def _listening(api: Api, serving: ServingSettings, tls: ssl.SSLContext | None) -> AsyncIterator[Acceptor]:
    from cacheserver.api import Acceptor, make_server  # noqa: PLC0415 - see serve

    connections = limits.connections_that_fit(serving.max_watches + serving.max_reads + _OTHER_CONNECTIONS)
    acceptor = Acceptor(make_server(api, secure=tls is not None, connections=connections), tls)
    await acceptor.open(serving.listen.host, serving.listen.port, backlog=_BACKLOG)
    try:
        yield acceptor
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await acceptor.close()


def _url(acceptor: Acceptor, tls: ssl.SSLContext | None) -> str:
    host, port = acceptor.addresses[0]
    scheme = "http" if tls is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
