"""One etcd endpoint: its address, its one channel, its calls. Retries nothing; `transport` decides what comes next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast
from urllib.parse import quote, urlsplit

import grpc
import grpc.aio

from cacheserver.errors import ConfigError
from cacheserver.etcd.version import Version
from cacheserver.etcd.wire import Method, Request, Response, Shape

Metadata = tuple[tuple[str, str], ...]
StreamCall: TypeAlias = "grpc.aio.StreamStreamCall[Request, Response]"

_OPTIONS: list[tuple[str, int]] = [
    # Ours: no limit, because the store pages by bytes; gRPC's 4 MiB would refuse a page of large values.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Default back-off grows to two minutes; etcd restarts in about a second. `min` limits one attempt to connect, such
    # as one to the address of a pod that is gone, which nobody refuses.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A replaced pod has another address. A name is looked up again after each failed attempt to connect, by default at
    # most every 30 s (gRPC: GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS), which is how long it then took to be found.
    ("grpc.dns_min_time_between_resolutions_ms", 500),
    # A peer that vanished without a FIN. etcd drops clients that ping more often than every 5 s
    # (--grpc-keepalive-min-time). keepalive alone did not notice a stopped etcd; ping_timeout did.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    # Two clients in one process, or a replaced channel, must not share a connection.
    ("grpc.use_local_subchannel_pool", 1),
    # Ours: an http_proxy meant for catalog sources must not get etcd's traffic.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    # We retry ourselves, knowing which calls may be repeated.
    ("grpc.enable_retries", 0),
]


@dataclass(frozen=True, slots=True)
class Address:
    """`url` as configured and fit for a log line; `target` as gRPC wants it."""

    url: str
    target: str
    secure: bool


def parse_address(url: str) -> Address:
    """Accepts http://host:port, https://host:port and unix:/absolute/path.

    Raises: ConfigError, never repeating a URL that holds a password.
    """
    if url.startswith("unix:"):
        path = url.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise ConfigError(f"etcd endpoint {url!r}: a unix socket needs an absolute path, unix:/path")
        return Address(url, f"unix:{quote(path)}", secure=False)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError("an etcd endpoint is not a URL; write http://host:port or https://host:port") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"etcd endpoint at {parts.hostname}: give user and password apart from the URL")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.rstrip("/") or parts.query:
        raise ConfigError(f"etcd endpoint {url!r}: write http://host:port, https://host:port or unix:/path")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Address(url.rstrip("/"), f"dns:///{host}:{port or 2379}", secure=parts.scheme == "https")


class Endpoint:
    """Holds one channel, and what `Transport.probe` found out about the member behind it."""

    def __init__(self, address: Address, credentials: grpc.ChannelCredentials | None) -> None:
        self.address = address
        self.probed = False
        self.version: Version | None = None  # None also when only root may ask for it
        self.progress_trusted = False
        self.indirect = False  # its last watch could be read through grpc.aio alone, see stream.py
        self._retired: list[grpc.aio.Channel] = []
        self._unary: dict[str, object] = {}
        self._channel = self._open(credentials)

    def _open(self, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
        if self.address.secure:
            return grpc.aio.secure_channel(
                self.address.target, credentials or grpc.ssl_channel_credentials(), options=_OPTIONS
            )
        return grpc.aio.insecure_channel(self.address.target, options=_OPTIONS)

    def forget(self) -> None:
        """It failed; it may come back upgraded, or as another member."""
        self.probed, self.version, self.progress_trusted = False, None, False

    def reopen(self, credentials: grpc.ChannelCredentials) -> None:
        """Connect anew with other certificates. Calls under way stay on the old channel until `close`."""
        # Closing it here would cancel those calls, and grpc.aio reports that as the caller's own cancellation.
        self._retired.append(self._channel)
        self._unary.clear()
        self._channel = self._open(credentials)

    async def call(
        self, method: Method[Request, Response], request: Request, timeout: float, metadata: Metadata
    ) -> Response:
        """One attempt. Raises: grpc.aio.AioRpcError."""
        if method.shape is Shape.EXCHANGE:
            return await self._exchange(method, request, timeout, metadata)
        stub = self._unary.get(method.path)
        if stub is None:
            stub = self._unary[method.path] = self._channel.unary_unary(
                method.path, request_serializer=method.serialize, response_deserializer=method.parse
            )
        callable_ = cast("grpc.aio.UnaryUnaryMultiCallable[Request, Response]", stub)
        return await callable_(request, timeout=timeout, metadata=metadata)

    async def _exchange(
        self, method: Method[Request, Response], request: Request, timeout: float, metadata: Metadata
    ) -> Response:
        stream = self.stream(method, metadata, timeout=timeout)
        try:
            await stream.write(request)
            await stream.done_writing()
            response = await stream.read()
        finally:
            stream.cancel()
        if response is grpc.aio.EOF:
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "stream ended without an answer"
            )
        return cast("Response", response)

    def stream(
        self, method: Method[Request, Response], metadata: Metadata, *, timeout: float | None = None
    ) -> StreamCall[Request, Response]:
        """A stream both ways. timeout: seconds for the whole of it; None for a watch, which has liveness of its own."""
        stub = self._channel.stream_stream(
            method.path, request_serializer=method.serialize, response_deserializer=method.parse
        )
        return stub(timeout=timeout, metadata=metadata)

    def stays(self) -> Callable[[], bool]:
        """What is read from the present connection: that it is there, and that the member takes more questions on it.

        A stream outlives that: an etcd that was asked to stop says so (GOAWAY) and waits for it, seven seconds by
        default (etcd: stopServers in server/embed/etcd.go), and so does whoever stops it.
        """
        # To be asked again and again: grpc.aio's wait for a change stays with the channel when it is cancelled.
        channel = self._channel
        return lambda: channel.get_state() is grpc.ChannelConnectivity.READY

    async def close(self) -> None:
        """Closes the channel, and those that it replaced."""
        for channel in (*self._retired, self._channel):
            await channel.close()
