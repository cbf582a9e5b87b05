"""One repository's port: connections of HTTP/2, for what is answered now.

OLM's clients read a catalog anew when their connection becomes ready, and at no other time but every half hour or so.
So a change has to end connections: from then on new content is answered, and whoever is connected is told to connect
anew (GOAWAY). What he asks until he has heard that is answered yet; then the connection ends.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Mapping
from time import monotonic
from typing import Final

from cacheserver.api import Acceptor
from cacheserver.api.http.connections import Refusal, Refusals, place
from cacheserver.compat.registry.calls import Call, Methods
from cacheserver.compat.registry.content import Content
from cacheserver.compat.registry.room import Room
from cacheserver.compat.registry.servicer import methods_of
from cacheserver.config import Address
from cacheserver.http2.connection import Connection
from cacheserver.http2.stream import Stream

log = logging.getLogger(__name__)

CONNECTIONS: Final = 256
"""Of a port; OLM has two."""
CONNECTIONS_EACH: Final = 64
"""Of one address. With one more, its own that has asked nothing for longest ends, or the new one does."""
MOST_LEAVING: Final = 2
"""Changes for which a connection may stay that was told to go: its calls keep what they answer."""
_LOOK_EVERY_S: Final = 5.0
_KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
)
"""A peer that is gone without a word is noticed, and its calls end; by the kernel, which asks who is silent."""


class Listener:
    """See the module. Not open until show(). address: port 0 lets the system choose, once."""

    def __init__(self, address: Address, room: Room) -> None:
        # localhost is two addresses, of which each would have a port.
        self.address = Address("127.0.0.1", address.port) if address.host == "localhost" else address
        self._room = room
        self._server: _Server | None = None
        self._acceptor: Acceptor | None = None

    @property
    def open(self) -> bool:
        """Whether clients can connect."""
        return self._acceptor is not None

    @property
    def connections(self) -> int:
        """How many there are, those that are leaving too."""
        return len(self._server.open) if self._server is not None else 0

    async def show(self, content: Content) -> None:
        """Answer with this from now on. Raises: OSError when the port cannot be had."""
        methods = methods_of(content)
        if self._server is not None:
            self._server.show(methods)
            return
        server = _Server(methods, self._room)
        acceptor = Acceptor(server)
        await acceptor.open(self.address.host, self.address.port, both=True)
        self.address = Address(self.address.host, acceptor.addresses[0][1])
        self._server, self._acceptor = server, acceptor

    async def close(self, grace_s: float = 0.0) -> None:
        """End: nobody connects any more, and calls have the grace to end."""
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is not None:
            await acceptor.close(within_s=grace_s)
            self._server = None


class _Server:
    """All connections of a port: what an Acceptor hands them to, and whom they ask. open: in the order of coming."""

    def __init__(self, methods: Methods, room: Room) -> None:
        self.open: dict[Connection, None] = {}
        self._methods = methods
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._refusals = Refusals(self._loop)
        self._count: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._empty = asyncio.Event()

    def show(self, methods: Methods) -> None:
        """Answer with these from now on, and have everybody connect anew."""
        self._methods = methods
        for each in [*self.open]:
            each.leave()
            if each.leavings > MOST_LEAVING:
                each.abort()

    # --- said by the Acceptor ---

    @property
    def pool(self) -> _Server:
        """This."""
        return self

    def __call__(self) -> Connection:
        """A protocol for one more connection."""
        return Connection(self, self._room.pace)

    def make_room(self) -> bool:
        """For one connection more: of the address that has most, the one ends that has asked nothing for longest."""
        if len(self.open) < CONNECTIONS:
            return True
        return self._end_idle(self._count.most_common(1)[0][0])

    def begin(self, task: asyncio.Task[None], where: str) -> None:
        """One is being connected; without a handshake that takes a turn of the loop."""

    def refused(self, why: Refusal, more: Mapping[str, object] | None = None) -> None:
        """As Refusals.refused()."""
        self._refusals.refused(why, more)

    def pre_shutdown(self) -> None:
        """Have everybody go."""
        self._closed = True
        for each in [*self.open]:
            each.leave()

    async def shutdown(self, timeout: float | None = None) -> None:
        """End all: calls have so many seconds."""
        try:
            if self.open and timeout:
                async with asyncio.timeout(timeout):
                    await self._empty.wait()
        except TimeoutError:
            pass
        for each in [*self.open]:
            each.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()

    # --- said by connections ---

    def entered(self, connection: Connection) -> bool:
        """A new one; False: there is no room for it."""
        transport = connection.transport
        if transport is None or self._closed:
            return False
        where = place(transport.get_extra_info("peername"))
        if self._count[where] >= CONNECTIONS_EACH and not self._end_idle(where):
            self.refused(Refusal.FULL, {"client": where})
            return False
        connection.where = where
        self._count[where] += 1
        self.open[connection] = None
        self._empty.clear()
        for option in _KEEPALIVE:
            transport.get_extra_info("socket").setsockopt(*option)
        if self._timer is None:
            self._timer = self._loop.call_later(_LOOK_EVERY_S, self._look)
        return True

    def left(self, connection: Connection) -> None:
        """It is closed. Once is enough, twice does no harm."""
        if connection in self.open:
            del self.open[connection]
            self._count[connection.where] -= 1
            if not self._count[connection.where]:
                del self._count[connection.where]
            if not self.open:
                self._empty.set()

    def opened(self, stream: Stream) -> Call:
        """Something is asked."""
        return Call(stream, self._methods, self._room, stream.where, self._tasks)

    def complain(self, connection: Connection, why: str) -> None:
        """It is ended for what its client did."""
        self.refused(Refusal.HTTP2, {"client": connection.where, "error": why})

    # --- of itself ---

    def _end_idle(self, where: str) -> bool:
        """Of the address's connections. False: all are in use."""
        idle = [one for one in self.open if one.where == where and one.idle_since]
        if not idle:
            return False
        oldest = min(idle, key=lambda one: one.idle_since)
        self.left(oldest)
        oldest.abort()
        self.refused(Refusal.IDLE, {"client": where})
        return True

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        for each in [*self.open]:
            each.look(now)
        if self._room.look(monotonic()) or self.open:
            self._timer = self._loop.call_later(_LOOK_EVERY_S, self._look)
