"""Calls to one of several endpoints: sticky, moving on when one fails; tokens and rotated certificates renewed.

Decides which failed attempts are repeated: reads always, writes only when the first try certainly did nothing.
Used by `client`, `watch` and `lease`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic, perf_counter
from typing import Generic, TypeVar

from cacheserver import metrics
from cacheserver.errors import ConfigError, EtcdError, EtcdPermissionDenied, Unavailable
from cacheserver.etcd import etcd_pb2 as pb
from cacheserver.etcd.address import Certificates, Metadata, parse_address
from cacheserver.etcd.endpoint import Endpoint
from cacheserver.etcd.faults import Fault, classify, error_of
from cacheserver.etcd.values import TLSFiles
from cacheserver.etcd.version import parse_version, progress_trusted
from cacheserver.etcd.wire import AUTHENTICATE, STATUS, Method, Request, Response
from cacheserver.http2.grpc import CallError

log = logging.getLogger(__name__)

T = TypeVar("T")

# A member that knows no leader refuses before it does anything (etcd clientv3: WithRequireLeader).
REQUIRE_LEADER: Metadata = (("hasleader", "true"),)

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5
_LOG_INTERVAL_S = 30.0


class Transport:
    """Open between `open` and `close`. Every method that sends takes a deadline."""

    def __init__(self, urls: Sequence[str], tls: TLSFiles | None, user: str | None, password: str | None) -> None:
        if not urls:
            raise ConfigError("no etcd endpoint given")
        if (user is None) != (password is None):
            raise ConfigError("etcd user and password go together")
        self._addresses = [parse_address(url) for url in urls]
        if tls is not None and not any(address.secure for address in self._addresses):
            raise ConfigError("etcd TLS files are given, but no endpoint is https://")
        self.certificates = Certificates(tls)
        self._logged_at = float("-inf")
        self._user, self._password = user, password
        # Where there is another member to ask, one that knows no leader shall refuse at once rather than hang. Costs a
        # call 2 us of 60 (measured), so a lone endpoint goes without.
        self._base: Metadata = REQUIRE_LEADER if len(urls) > 1 else ()
        # None: a token is needed and there is none yet.
        self._metadata: Metadata | None = self._base if user is None else None
        self._renewing = asyncio.Lock()
        self._endpoints: list[Endpoint] = []
        self._index = 0
        self.open_streams: set[Callable[[], object]] = set()  # what cancels each
        self.cluster_id = 0  # of the last answer that was looked at; kept here because everybody who calls sees some

    async def open(self) -> None:
        """Connects to nothing yet. Raises: ConfigError when a TLS file cannot be read."""
        if any(address.secure for address in self._addresses):
            await self.certificates.open()
        self._endpoints = [Endpoint(address, self.certificates) for address in self._addresses]

    async def close(self) -> None:
        """Cancels open streams and closes the connections."""
        for cancel in list(self.open_streams):
            cancel()
        for endpoint in self._endpoints:
            await endpoint.close()

    @property
    def current(self) -> Endpoint:
        """The endpoint that is called first."""
        return self._endpoints[self._index]

    async def call(
        self, method: Method[Request, Response], request: Request, *, deadline_s: float, repeatable: bool
    ) -> Response:
        """The answer, from whichever endpoint gave it, within deadline_s.

        repeatable: doing it twice does no harm, so it may be tried again after a failure that left its fate unknown.
        Raises: EtcdError.
        """
        started = perf_counter()
        endpoint, metadata = self._endpoints[self._index], self._metadata
        try:
            if metadata is None and method.with_token:
                metadata = await self.renew(None, deadline_s)
            # A hung endpoint must leave time to ask another.
            timeout = deadline_s / 2 if repeatable and len(self._endpoints) > 1 else deadline_s
            return await endpoint.call(method, request, timeout, metadata or ())
        except CallError as failure:
            attempts = _Attempts(self, method, started + deadline_s, repeatable=repeatable)
            return await attempts.after(failure, endpoint, request, metadata)
        finally:
            method.observe(perf_counter() - started)

    async def metadata(self, deadline_s: float) -> Metadata:
        """What a stream must carry; authenticates if need be. Raises: EtcdError."""
        return self._metadata if self._metadata is not None else await self.renew(None, deadline_s)

    async def renew(self, refused: Metadata | None, deadline_s: float) -> Metadata:
        """A token other than the one in `refused`; nothing when no user is configured. Raises: EtcdError."""
        async with self._renewing:
            if self._metadata is not None and self._metadata is not refused:
                return self._metadata  # somebody else renewed it while we waited
            if self._user is None or self._password is None:
                return self._base
            request = pb.AuthenticateRequest(name=self._user, password=self._password)
            try:
                response = await self.call(AUTHENTICATE, request, deadline_s=deadline_s, repeatable=True)
            except EtcdError as exc:
                if "authentication is not enabled" not in str(exc):
                    raise
                log.warning("etcd has authentication off, user ignored")
                self._metadata = self._base
            else:
                self._metadata = (*self._base, ("token", response.token))
            return self._metadata

    async def probe(self, endpoint: Endpoint, deadline_s: float) -> None:
        """Asks this endpoint and no other whether it lives; keeps what it says of itself. Raises: Unavailable."""
        try:
            response = await endpoint.call(STATUS, pb.StatusRequest(), deadline_s, await self.metadata(deadline_s))
        except CallError as exc:
            error = error_of(exc, operation="status", endpoint=endpoint.address.url)
            if isinstance(error, Unavailable):
                raise error from exc
            # It answered, if only to refuse. Those that give their version to root alone (3.5.28 and later, 3.6.0 and
            # later: etcd #21663) are all new enough to be believed.
            endpoint.progress_trusted = isinstance(error, EtcdPermissionDenied)
        else:
            self.cluster_id = response.header.cluster_id
            endpoint.version = parse_version(response.version)
            endpoint.progress_trusted = progress_trusted(endpoint.version)
        endpoint.probed = True

    async def anywhere(self, attempt: Callable[[Endpoint, float], Awaitable[T]], deadline_s: float) -> T:
        """What `attempt(endpoint, timeout)` returns, moving to the next endpoint while it raises Unavailable.

        For what must know its endpoint, such as a stream. Raises: what `attempt` raised last.
        """
        give_up_at = perf_counter() + deadline_s
        pause_s = _FIRST_PAUSE_S
        while True:
            endpoint = self.current
            left_s = give_up_at - perf_counter()
            try:
                return await attempt(endpoint, left_s / 2 if len(self._endpoints) > 1 else left_s)
            except Unavailable:
                self.leave(endpoint)
                if give_up_at - perf_counter() <= pause_s:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def leave(self, endpoint: Endpoint) -> None:
        """The endpoint failed: use the next one from now on."""
        endpoint.forget()
        if endpoint is self._endpoints[self._index] and len(self._endpoints) > 1:
            self._index = (self._index + 1) % len(self._endpoints)
            # With all of them down every caller passes here several times a second.
            if monotonic() - self._logged_at > _LOG_INTERVAL_S:
                self._logged_at = monotonic()
                log.warning(
                    "etcd endpoint failed", extra={"endpoint": endpoint.address.url, "next": self.current.address.url}
                )


class _Attempts(Generic[Request, Response]):
    """What follows a failed first attempt: the slow path, kept off the fast one."""

    def __init__(
        self, transport: Transport, method: Method[Request, Response], give_up_at: float, *, repeatable: bool
    ) -> None:
        self._transport = transport
        self._method = method
        self._give_up_at = give_up_at
        self._repeatable = repeatable
        self._pause_s = _FIRST_PAUSE_S
        self._renewed = False

    async def after(
        self, failure: CallError, endpoint: Endpoint, request: Request, metadata: Metadata | None
    ) -> Response:
        while True:
            metadata = await self._prepare(failure, endpoint, metadata)
            endpoint = self._transport.current
            left_s = self._give_up_at - perf_counter()
            try:
                return await endpoint.call(self._method, request, left_s, metadata or ())
            except CallError as again:
                failure = again

    async def _prepare(self, failure: CallError, endpoint: Endpoint, metadata: Metadata | None) -> Metadata | None:
        """Returns when another attempt makes sense, with the metadata for it; raises when none does."""
        fault = classify(failure)
        left_s = self._give_up_at - perf_counter()
        if fault is Fault.TOKEN and self._method.with_token and not self._renewed and left_s > 0:
            self._renewed = True
            return await self._transport.renew(metadata, left_s)
        if fault in (Fault.NOT_SENT, Fault.AMBIGUOUS):
            self._transport.leave(endpoint)
        again = fault in (Fault.NOT_SENT, Fault.BUSY) or (fault is Fault.AMBIGUOUS and self._repeatable)
        if not again or left_s <= self._pause_s:
            error = error_of(failure, operation=self._method.operation, endpoint=endpoint.address.url)
            metrics.etcd_errors.labels(self._method.operation, type(error).__name__).inc()
            raise error from failure
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
        return metadata
