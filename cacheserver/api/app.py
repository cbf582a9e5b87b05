"""The edge of the API: a request comes in, its attributes say who answers, what goes wrong becomes a Status.

No router and no middleware: one path from the socket to the answer, measured at every request.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

from aiohttp.web_request import BaseRequest
from aiohttp.web_response import StreamResponse

from cacheserver.api.attributes import Attributes, Query, check_size, parse_query, read_attributes
from cacheserver.api.auth import OPEN_PATHS, Gate, Identity, privileged
from cacheserver.api.beside import KindBeside
from cacheserver.api.content import Blobs
from cacheserver.api.describe.discovery import Discovery
from cacheserver.api.describe.openapi import OpenAPI
from cacheserver.api.health import Health, HealthCheck, version_document
from cacheserver.api.http.accounting import Accounting, Series
from cacheserver.api.http.connection import (
    BODY_WAITS,
    LINE_BYTES,
    LINES,
    LINGERING_S,
    SecureServer,
    Server,
    authenticated,
    client_of,
)
from cacheserver.api.http.connections import CONNECTIONS, ConnectionLimits
from cacheserver.api.http.inflight import READS, WATCHES, WRITES, InFlight
from cacheserver.api.http.negotiate import Answer, Encoding, negotiate, wants_pretty
from cacheserver.api.http.reply import Reply, Stream, refusal, whole
from cacheserver.api.kinds.resource import Resource
from cacheserver.api.kinds.table import served
from cacheserver.api.options import request_timeout_s
from cacheserver.api.paths import METRICS, PathRequest, Paths, Route, listed
from cacheserver.api.readable import readable
from cacheserver.api.render import MEMO_BYTES, Renderer
from cacheserver.api.selectors import check_cost, held_bytes
from cacheserver.api.status import (
    StatusError,
    from_error,
    internal,
    no_such_path,
    timed_out,
)
from cacheserver.api.verbs import Call, Verbs
from cacheserver.api.views import Views
from cacheserver.api.watching.watch import Watches
from cacheserver.api.writing.writes import VERBS, Writes
from cacheserver.cache.watchcache import WatchCache
from cacheserver.errors import CacheServerError
from cacheserver.memo import Memo
from cacheserver.publish.author import Author
from cacheserver.publish.git.message import AUTHOR
from cacheserver.slotted import slotted
from cacheserver.turns import Turns

log = logging.getLogger(__name__)

REMEMBERED_BYTES: Final = 8 << 20  # of request lines: some 4,000; clients ask the same over and over
_LONG_CHARACTERS: Final = 4096
"""Of a request line. To decode a longer one takes up to 1 ms, so they are read one in a turn of the loop, whoever sends
them: of 32 clients at once each of the others' events waited for 30 of them."""


@slotted(frozen=True, eq=False)
class _Asked:
    """What a request line says. text: the query as sent. resource: None for other paths, and for none of ours.

    selectors: bytes that its selectors hold while it is answered, about. refusal: it asks for more than is read, and
    nobody looks at it any further.
    """

    attributes: Attributes
    query: Query
    text: str
    resource: Resource | None
    is_watch: bool
    series: Series
    selectors: int = 0
    refusal: StatusError | None = None

    def size(self, target: str) -> int:
        """Bytes that it takes to remember this by its target, about."""
        sizeof = sys.getsizeof
        parts = sum(map(sizeof, self.attributes)) + sum(120 + sizeof(k) + sizeof(v) for k, v in self.query.items())
        return 700 + sizeof(target) + sizeof(self.text) + parts


class Api:
    """The HTTP API over one cache and one content store; see make_server for how to serve it."""

    def __init__(
        self,
        cache: WatchCache,
        blobs: Blobs,
        *,
        standalone: bool,
        version: str,
        checks: Mapping[str, HealthCheck] | None = None,
        live_checks: Mapping[str, HealthCheck] | None = None,
        notes: Mapping[str, HealthCheck] | None = None,
        routes: Iterable[Route] = (),
        gate: Gate | None = None,
        author: Author | None = None,
        nobody: str = AUTHOR,
        beside: Sequence[KindBeside] = (),
        more: Sequence[Resource] = (),
        list_cache_bytes: int = MEMO_BYTES,
        max_reads: int = READS,
        max_watches: int = WATCHES,
        now: Callable[[], float] = time.time,
    ) -> None:
        """standalone: Repository is served too. checks: what /readyz asks besides the cache; live_checks: /livez.

        routes: of other protocols, served beside the API's own paths. gate: who may what; None: everybody everything.
        author: takes what is written; None: nothing is. nobody: whose name it has where there is no gate.
        beside: kinds of other systems that answer by themselves. more: those that are served like our own.
        list_cache_bytes: finished lists kept.
        max_reads, max_watches: at the same time, of resources. now: Unix time.
        """
        resources = (*served(standalone=standalone), *more)
        self._beside_kinds = {kind.resource.plural: kind for kind in beside}
        described = (*resources, *(kind.resource for kind in beside))
        self._resources = {(row.group, row.version, row.plural): row for row in described}
        self._cache = cache
        self._gate = gate
        self._now = now
        self._accounting = Accounting()
        self._in_flight = InFlight(max_reads, max_watches)
        self._in_flight_writes = InFlight(WRITES)
        self._in_flight_beside = InFlight(max_reads)  # whatever reads do, discovery is answered
        views = Views(blobs)
        self._watches = Watches(cache, views, self._accounting, now)
        writes = Writes(author, cache, blobs, gate, nobody, now) if author else None
        self._verbs = Verbs(cache, blobs, views, Renderer(now, list_cache_bytes), self._watches, now, writes, gate)
        filled: Mapping[str, HealthCheck] = {
            "watch-cache": lambda: None if cache.ready else "the store has not been read yet"
        }
        self._health = Health({**filled, **(checks or {})}, live_checks or {}, notes)
        self._paths = Paths(self._all_routes(described, version, tuple(routes)))
        self._known = Memo[tuple[str, str], _Asked](REMEMBERED_BYTES)
        self._long = Turns(_LONG_CHARACTERS)

    def _all_routes(self, described: Sequence[Resource], version: str, others: Sequence[Route]) -> Sequence[Route]:
        """What every server of Kubernetes answers besides its resources, and what others bring. described: in
        discovery, and explained."""
        health, openapi, release = self._health, OpenAPI(described, version), version_document(version)

        async def healthy(asked: PathRequest) -> Reply:
            return health.answer(asked.path, asked.query)

        async def describe(asked: PathRequest) -> Reply:
            return openapi.answer(asked.request, asked.path, asked.query, self._now())

        async def tell_version(asked: PathRequest) -> Reply:
            return whole(release)

        async def discover(asked: PathRequest) -> Reply:
            return discovery.answer(asked.request, asked.path)

        routes = [Route(name, healthy, below=True) for name in health.names]
        routes.append(Route("openapi", describe, below=True, listed=("/openapi/v2", "/openapi/v3")))
        routes += (Route("version", tell_version), METRICS, *others)
        discovery = Discovery(described, listed(routes))
        return [*routes, *(Route(first, discover, below=True) for first in ("", "api", "apis"))]

    # --- shutdown ---

    def begin_shutdown(self) -> None:
        """/readyz fails and new watches are refused from now on; all else goes on."""
        self._health.begin_shutdown()
        self._watches.begin_shutdown()
        for kind in self._beside_kinds.values():
            kind.end()

    async def shut_down(self, *, grace_s: float) -> None:
        """begin_shutdown, then end every watch cleanly, spread over grace_s; returns when all have ended."""
        self.begin_shutdown()
        await self._watches.end_all(grace_s)

    # --- requests ---

    async def handle(self, request: BaseRequest) -> StreamResponse:
        """The answer to one request; never raises but for a client that is gone, or cancellation."""
        begun = time.perf_counter()
        target = request.raw_path
        if not target.startswith("/"):  # absolute form, as proxies send it
            target = request.rel_url.raw_path_qs
        asked = self._known.get((request.method, target))
        if asked is None:
            if len(target) > _LONG_CHARACTERS:
                await self._long.spend(len(target))
            asked = self._read(request.method, target)
        is_watch = asked.is_watch
        self._accounting.in_flight += not is_watch
        try:
            # Not raised again: its traceback would have frames that have what was asked, which has it, so that all of
            # it would wait for the garbage collector, which seldom comes (server/serve.py).
            refused = asked.refusal
            reply = _refused(request, asked.query, refused) if refused else await self._answer(request, asked)
        except CacheServerError as exc:
            reply = _refused(request, asked.query, from_error(exc))
        except TimeoutError:
            reply = _refused(request, asked.query, timed_out())
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("request failed", extra={"method": request.method, "path": asked.attributes.path})
            reply = _refused(request, asked.query, internal())
        finally:
            self._accounting.in_flight -= not is_watch
        asked.series.answered(reply.status, time.perf_counter() - begun, None if is_watch else reply.size)
        return reply

    def _read(self, method: str, target: str) -> _Asked:
        path, _, text = target.partition("?")
        try:
            check_size(path, text)
            query = parse_query(text)
            attributes = read_attributes(method, path, query)
            check_cost(attributes.label_selector, attributes.field_selector)
        except StatusError as exc:
            nothing = Attributes(method.lower(), "")
            said = exc.with_traceback(None)
            return _Asked(nothing, {}, "", None, False, self._accounting.series(nothing, None), refusal=said)
        resource = self._resources.get(attributes[2:5]) if attributes.resource else None
        series = self._accounting.series(attributes, resource)
        selectors = held_bytes(attributes.label_selector, attributes.field_selector)
        asked = _Asked(attributes, query, text, resource, attributes.verb == "watch", series, selectors)
        self._known.put((method, target), asked, asked.size(target))
        return asked

    async def _answer(self, request: BaseRequest, asked: _Asked) -> Reply | Stream:
        attributes, gate = asked.attributes, self._gate
        identity = None
        if gate is not None and attributes.path not in OPEN_PATHS:
            identity = await gate.identify(request)
        if gate is None or identity is not None:
            authenticated(request)
        if not attributes.resource:
            if gate is not None and identity is not None:
                await gate.authorize(identity, self._paths.right(attributes))
            return await self._beside(request, asked, identity)
        user = identity.user if identity is not None else ""
        exempt = identity is not None and privileged(identity)
        in_flight = self._in_flight_writes if attributes.verb in VERBS else self._in_flight
        in_flight.enter(user, watch=asked.is_watch, exempt=exempt, selectors=asked.selectors)
        try:
            if gate is not None and identity is not None:
                await gate.authorize(identity, attributes)
            if asked.resource is None:
                raise no_such_path()
            call = Call(request, attributes, asked.query, asked.resource, user, identity)
            beside = self._beside_kinds.get(asked.resource.plural)
            answer = self._verbs.answer if beside is None else beside.answer
            if asked.is_watch or "timeout" not in asked.query:
                reply = await answer(call)  # the cache bounds its own waits
            else:
                async with asyncio.timeout(request_timeout_s(asked.query)):
                    reply = await answer(call)
            if isinstance(reply, Reply) and not reply.start(request):
                await reply.rest()  # in flight until it is taken
            return reply
        finally:
            in_flight.leave(user, watch=asked.is_watch, selectors=asked.selectors)

    async def _beside(self, request: BaseRequest, asked: _Asked, identity: Identity | None) -> Reply | Stream:
        """Everything that is not a resource, until the client has taken it. Raises: StatusError 404, 405, 406, 429."""
        who = identity.user if identity is not None else client_of(request)
        exempt = asked.attributes.path in OPEN_PATHS or (identity is not None and privileged(identity))
        self._in_flight_beside.enter(who, watch=False, exempt=exempt)
        try:
            reply = await self._paths.answer(PathRequest(request, asked.attributes.path, asked.text))
            if isinstance(reply, Reply):
                await reply.send(request)
            return reply
        finally:
            self._in_flight_beside.leave(who, watch=False)


def _refused(request: BaseRequest, query: Query, error: StatusError) -> Reply:
    """The Status in the client's encoding; JSON when it accepts none of ours (kube does so too)."""
    if request.writer.output_size > 0:  # half an answer is out: only a broken connection shows it to the client
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the answer broke off") from error
    try:
        encoding = negotiate(request.headers.get("Accept", ""), Answer.LIST).encoding
    except StatusError:
        encoding = Encoding.JSON
    pretty = wants_pretty(query, request.headers.get("User-Agent", ""))
    body = readable(error.status() + b"\n", encoding, pretty=pretty)
    return refusal(error, body, content_type=encoding.value)


def make_server(api: Api, *, secure: bool = False, connections: int = CONNECTIONS) -> Server:
    """An aiohttp server of `api`, with the limits that Kubernetes' clients and its aggregator need.

    secure: for a listener with TLS. connections: open at the same time.
    """
    return bounded_server(api.handle, ConnectionLimits.of(connections), secure=secure)


def bounded_server(
    handle: Callable[[BaseRequest], Awaitable[StreamResponse]],
    limits: ConnectionLimits,
    *,
    secure: bool = False,
) -> Server:
    """An aiohttp server of what answers requests, whose connections are bounded. secure: for a listener with TLS."""
    return (SecureServer if secure else Server)(
        handle,
        limits,
        access_log=None,
        # A watch whose client went away while nothing happens would otherwise live on to its deadline.
        handler_cancellation=True,
        keepalive_timeout=120.0,  # over the aggregator's 90 s: closing earlier races with its reuse
        max_line_size=LINE_BYTES,
        max_field_size=LINE_BYTES,
        max_headers=LINES,
        lingering_time=LINGERING_S,
        read_bufsize=BODY_WAITS,
        auto_decompress=False,  # a small body can become a large one
    )
