"""Takes connections: a few a turn of the loop, TLS first, and no more than there is room for.

The loop's own listener is not enough. uvloop's says nothing when the kernel has no file for a connection, and tries
again at once, for ever, with all the CPU there is; and nobody can count or end TLS handshakes under way, for the
connection's protocol hears of its client only behind them. Knows nothing of HTTP; connections.py decides who goes.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from cacheserver.api.http.connections import HANDSHAKE_WITHIN_S, Refusal, place
from cacheserver.turns import Turns

log = logging.getLogger(__name__)

_A_TURN: Final = 16
_HANDSHAKES_A_TURN: Final = 1
"""A handshake is 1 ms: of those who come at once, few wait half way, and others get their turn."""
_UNREAD_BYTES: Final = 32 << 10
"""Of one connection, kept by the kernel: what the loop reads of it in one turn, and decrypts. Linux would let it grow
to 6 MB; a hundred who send as fast as they can then are half a second of everybody's time. Requests have a few KB."""
_PAUSE_S: Final = 1.0
"""Nobody is taken for so long when the kernel refuses: asyncio.constants.ACCEPT_RETRY_DELAY, and net/http's most."""


class Pool(Protocol):
    """All connections of a server (connections.py)."""

    def make_room(self) -> bool:
        """For one connection more. False: there is none."""
        ...

    def begin(self, task: asyncio.Task[None], where: str) -> None:
        """One is being connected until `task` is done."""
        ...

    def refused(self, why: Refusal, more: Mapping[str, object] | None = None) -> None:
        """One was turned away."""
        ...


class Server(Protocol):
    """What takes connections (connection.py)."""

    @property
    def pool(self) -> Pool:
        """Its connections."""
        ...

    def __call__(self) -> asyncio.BaseProtocol:
        """A protocol for one more of them."""
        ...

    def pre_shutdown(self) -> None:
        """Tell all that it ends."""
        ...

    async def shutdown(self, timeout: float | None = None) -> None:
        """End all; those that are answering have so many seconds."""
        ...


class Acceptor:
    """Of one server. open() begins; close() ends it with all connections."""

    def __init__(self, server: Server, tls: ssl.SSLContext | None = None, *, pause_s: float = _PAUSE_S) -> None:
        self._server = server
        self._all = server.pool
        self._tls = tls
        self._handshakes = Turns(_HANDSHAKES_A_TURN)
        self._pause_s = pause_s
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        self._beginning: set[asyncio.Task[None]] = set()

    async def open(self, host: str, port: int, *, backlog: int = 100, both: bool = False) -> None:
        """Listen at every address of `host`; port 0 takes any free one. both: `::` is all addresses of IPv4, too.

        Raises: OSError when one cannot be had.
        """
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, _, _, _, address in dict.fromkeys(found):
                listening = socket.create_server(
                    address[:2],
                    family=family,
                    backlog=backlog,
                    dualstack_ipv6=both and address[0] == "::" and socket.has_dualstack_ipv6(),
                )
                self._sockets.append(listening)
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UNREAD_BYTES)  # of those it accepts, too
                listening.setblocking(False)
        except OSError:
            self._stop()
            raise
        for listening in self._sockets:
            self._loop.add_reader(listening, self._take, listening)

    @property
    def addresses(self) -> Sequence[tuple[str, int]]:
        """Host and port of each socket."""
        return [listening.getsockname()[:2] for listening in self._sockets]

    async def close(self, *, within_s: float = 1.0) -> None:
        """Take nobody any more, and end every connection: those that are answered now within `within_s`."""
        self._stop()
        for task in self._beginning:
            task.cancel()
        await asyncio.gather(*self._beginning, return_exceptions=True)
        self._server.pre_shutdown()
        await self._server.shutdown(within_s)

    def _stop(self) -> None:
        for pause in self._pauses.values():
            pause.cancel()
        self._pauses.clear()
        for listening in self._sockets:
            self._loop.remove_reader(listening)
            listening.close()
        self._sockets.clear()

    # --- one after the other ---

    def _take(self, listening: socket.socket) -> None:
        """Some of those who wait; the loop calls again for the others."""
        for _ in range(_A_TURN):
            try:
                sock, peer = listening.accept()
            except (BlockingIOError, ConnectionError):  # nobody waits, or who waited has left
                return
            except OSError as exc:  # EMFILE, ENFILE, ENOMEM, ENOBUFS: those who wait stay with the kernel
                self._all.refused(Refusal.FILES, {"error": str(exc)})
                self._loop.remove_reader(listening)
                self._pauses[listening] = self._loop.call_later(self._pause_s, self._go_on, listening)
                return
            if self._all.make_room():
                sock.setblocking(False)
                self._begin(sock, place(peer))
            else:
                sock.close()
                self._all.refused(Refusal.FULL)

    def _go_on(self, listening: socket.socket) -> None:
        del self._pauses[listening]
        self._loop.add_reader(listening, self._take, listening)

    def _begin(self, sock: socket.socket, where: str) -> None:
        task = self._loop.create_task(self._connect(sock, where), name="acceptor: connection")
        self._beginning.add(task)
        task.add_done_callback(functools.partial(self._begun, sock))
        self._all.begin(task, where)

    def _begun(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._beginning.discard(task)
        if task.cancelled():  # perhaps before it had handed the socket to anybody
            sock.close()

    async def _connect(self, sock: socket.socket, where: str) -> None:
        """Hand it to a protocol, behind its handshake. One of each address at a time begins it."""
        if self._tls is not None:
            await self._handshakes.spend(1, where)
        within_s = None if self._tls is None else HANDSHAKE_WITHIN_S
        connect = self._loop.connect_accepted_socket
        try:
            await connect(self._server, sock, ssl=self._tls, ssl_handshake_timeout=within_s)
        except ConnectionAbortedError:  # the loop's word for a handshake that took too long
            self._all.refused(Refusal.HANDSHAKE)
        except OSError as exc:  # it left, or it speaks no TLS that we do
            log.debug("a connection ended before it began", extra={"error": str(exc)})
        except Exception:
            log.exception("taking a connection failed")
