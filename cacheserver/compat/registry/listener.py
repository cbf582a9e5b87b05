"""One repository's port: a gRPC server for what is answered now, and for a moment the one of before.

OLM's clients read a catalog anew when their connection becomes ready, and at no other time but every half hour or so.
So a change has to end connections: a second server begins on the port (SO_REUSEPORT), then the first says goodbye to
its clients (GOAWAY) and ends when their calls have. They find the port open at every moment (steering.py).

gRPC ends calls that arrive while it says goodbye; so it waits for a moment without calls, if there is one soon.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from dataclasses import dataclass
from typing import Final

import grpc.aio

from cacheserver.compat.registry import steering
from cacheserver.compat.registry.content import Content
from cacheserver.compat.registry.servicer import Room, Services
from cacheserver.config import Address

log = logging.getLogger(__name__)

GRACE_S: Final = 30.0
"""For calls of before to end. ListBundles of a large catalog takes a client a second or two."""
MOST_LEAVING: Final = 2
"""Servers that are on their way out; each keeps what it answers. With one more the oldest ends at once."""
MAX_CONCURRENT_STREAMS: Final = 100
"""Of a connection, as in grpc-go; more wait at the client."""
_ARRIVED_S: Final = 0.3
"""For connections that were made before all went to the next server: to be taken, and to ask."""
_QUIET_MOST_S: Final = 2.0
"""For a moment without calls. OLM's package server asks 122 questions of community v4.20, one after the other."""
_CONNECTIONS: Final = 256
"""Of a port; OLM has two. Each costs gRPC 30 KB and more."""
_REQUEST_BYTES: Final = 64 << 10
"""The largest question has three names."""
_HEADER_BYTES: Final = 16 << 10
_HANDSHAKE_MS: Final = 10_000
"""For a connection to speak HTTP/2; gRPC's own is two minutes, in which 256 that say nothing keep a port closed."""
_KEEPALIVE_MS: Final = 60_000
"""A peer that is gone without a word is noticed, and its calls end."""

_OPTIONS: Final = (
    ("grpc.so_reuseport", 1),
    ("grpc.max_concurrent_streams", MAX_CONCURRENT_STREAMS),
    ("grpc.max_allowed_incoming_connections", _CONNECTIONS),
    ("grpc.max_receive_message_length", _REQUEST_BYTES),
    ("grpc.max_metadata_size", _HEADER_BYTES),
    ("grpc.absolute_max_metadata_size", _HEADER_BYTES),
    ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", 20_000),
)


@dataclass(frozen=True, slots=True)
class _Server:
    """A server, and what counts its calls."""

    server: grpc.aio.Server
    services: Services


class Listener:
    """See the module. Not open until show(). address: port 0 lets the system choose, once."""

    def __init__(self, address: Address, room: Room) -> None:
        # For gRPC, localhost is two addresses, of which each has a port.
        self.address = Address("127.0.0.1", address.port) if address.host == "localhost" else address
        self._room = room
        self._server: _Server | None = None
        self._leaving: deque[tuple[grpc.aio.Server, asyncio.Task[None]]] = deque()

    @property
    def open(self) -> bool:
        """Whether clients can connect."""
        return self._server is not None

    async def show(self, content: Content) -> None:
        """Answer with this from now on. Raises: OSError when the port cannot be had."""
        if self._server is None:
            self._alone()
        others = await asyncio.to_thread(steering.listening, self.address.port)
        server, services = grpc.aio.server(options=_OPTIONS), Services(content, self._room)
        server.add_generic_rpc_handlers((services,))
        try:
            port = server.add_insecure_port(str(self.address))
        except RuntimeError as exc:
            raise OSError(f"{self.address}: {exc}") from exc
        await server.start()
        self.address = Address(self.address.host, port)
        before, self._server = self._server, _Server(server, services)
        # With the first server this says where the sockets of a second will be, so it has all clients from its start.
        await asyncio.to_thread(steering.steer, port, others or await asyncio.to_thread(steering.listening, port))
        if before is not None:
            await before.services.quiet(least_s=_ARRIVED_S, most_s=_QUIET_MOST_S)
            await self._let_go(before.server)

    async def close(self, grace_s: float = 0.0) -> None:
        """End: nobody connects any more, and calls have the grace to end."""
        server, self._server = self._server, None
        leaving = [one for one, _ in self._leaving]
        await asyncio.gather(*(one.stop(grace_s) for one in (*leaving, *([server.server] if server else []))))
        await asyncio.gather(*(task for _, task in self._leaving))
        self._leaving.clear()

    def _alone(self) -> None:
        """Two processes that listen with SO_REUSEPORT share the clients, and neither is told: so ask the kernel once
        without it. Raises: OSError."""
        if not self.address.port:
            return
        family = socket.AF_INET6 if ":" in self.address.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # What a server of before left in TIME_WAIT is no other server.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((self.address.host, self.address.port))

    async def _let_go(self, server: grpc.aio.Server) -> None:
        while self._leaving and (self._leaving[0][1].done() or len(self._leaving) >= MOST_LEAVING):
            oldest, task = self._leaving.popleft()
            await oldest.stop(0)
            await task
        task = asyncio.create_task(server.stop(GRACE_S), name="registry: a server's last calls")
        self._leaving.append((server, task))
