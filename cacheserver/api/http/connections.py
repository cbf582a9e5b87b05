"""All connections of a server together: what they may hold, how long, and who has to go when it is too much.

One connection holds little (connection.py); ten thousand do not. Whoever has not shown who it is goes first.
Nothing here waits; a look around every few seconds ends what is late.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import socket
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final, Generic, Protocol, TypeVar

from cacheserver import metrics
from cacheserver.slotted import slotted
from cacheserver.turns import Pace

log = logging.getLogger(__name__)

CONNECTIONS: Final = 12_500
"""Open at the same time, unless the server's settings say more or less: all watches, all requests, and as many more."""

HEADER_WITHIN_S: Final = 32.0
"""For a header to be complete, from its first byte, or from the connection's begin for the first one.

k8s.io/apiserver/pkg/server/secure_serving.go: ReadHeaderTimeout."""

HANDSHAKE_WITHIN_S: Final = 10.0
"""For a TLS handshake. Kubernetes' clients give up after as long (k8s.io/client-go/transport/cache.go)."""

LARGE_BYTES: Final = 16 << 10
"""A header over this counts as large: it is kept as long as its request, and a watch lasts."""

CLOSE_WITHIN_S: Final = 60.0
"""For a client to take what a closed connection still has for it."""

_READ_ON_EVERY_S: Final = 0.002
"""One of those who were put off reads on each so often: 16 to 32 MB/s for all together, some 5% of a core."""
_PARTINGS_TURN_S: Final = 0.001
"""Of one turn, for ends of connections: some 40. Each wakes a task, which takes as long; 2,500 watchers of one process
that ends were 0.3 s in which nobody was answered."""
_LOOK_EVERY_S: Final = 5.0
_LOG_EVERY_S: Final = 10.0  # lines of log about the same


@slotted(frozen=True)
class ConnectionLimits:
    """What all connections together may hold.

    connections: open at the same time; who waits longest for its client's next request makes room for a new one.
    handshakes: of TLS, that are under way; one holds 70 KB, and 650 KB where its first message is as long as OpenSSL
    takes. 1,000 a second, each there and back 100 ms later, are 100.
    unauthenticated: clients that have not shown who they are; one that means well asks as soon as it is connected.
    unfinished_bytes: of headers that are not complete. large_bytes: of large ones whose requests are being answered.
    Headers hold about three times their bytes: as they came, as text, and by name.
    """

    connections: int = CONNECTIONS
    handshakes: int = 256
    unauthenticated: int = 1024
    unfinished_bytes: int = 16 << 20
    large_bytes: int = 32 << 20

    @classmethod
    def of(cls, connections: int) -> ConnectionLimits:
        """So many connections, most of them for who has shown who it is."""
        most = cls()
        handshakes, unauthenticated = (
            min(most.handshakes, connections // 8),
            min(most.unauthenticated, connections // 4),
        )
        return cls(connections, max(1, handshakes), max(1, unauthenticated))


class Refusal(Enum):
    """Why a connection, or a request, is turned away; the name is the metric's label, the value is for the log."""

    HEADER = "it has more than 256 KiB"
    LARGE = "it has more than 16 KiB, and there is no room for another such one; send less, or try again later"
    UNFINISHED = "headers that are not complete hold too much"
    LATE = "its header was not complete within 32 s"
    UNAUTHENTICATED = "too many connections have not shown who they are"
    UNTAKEN = "it did not take within 60 s what a closed connection had for it"
    MALFORMED = "it is not a request of HTTP/1"
    HANDSHAKE = "its TLS handshake was not complete within 10 s"
    HANDSHAKES = "too many TLS handshakes are not complete"
    IDLE = "it waited longest for a next request, and there are too many connections"
    FULL = "too many connections are open, and all are in use"
    FILES = "no more files can be open"
    HTTP2 = "it does over HTTP/2 what no client does that means well"


class Member(Protocol):
    """A connection, as Connections knows it (connection.py)."""

    since: float
    large: int
    unauthenticated: str
    transport: asyncio.Transport | None

    @property
    def idle_until(self) -> float:
        """When it ends unless its client asks; 0 while it does anything else."""
        ...

    def read_on(self) -> None:
        """Take what the client sent meanwhile: some 64 KiB."""
        ...


def place(peer: Any) -> str:
    """Where a socket's peer is, as far as places are counted: an IPv4 address, or the network of an IPv6 one.

    Who has one IPv6 address has the 2^64 beside it (RFC 4291, section 2.5.1).
    """
    if not peer:
        return "?"
    address = str(peer[0])
    if ":" not in address or "." in address:  # IPv4, also as IPv6 writes it
        return address
    network = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])[:8]
    return socket.inet_ntop(socket.AF_INET6, network + bytes(8)) + "/64"


_One = TypeVar("_One")


class _Places(Generic[_One]):
    """Who is here from which place, each in the order of coming."""

    def __init__(self) -> None:
        self._by_place: dict[str, dict[_One, None]] = {}
        self.count = 0

    def add(self, one: _One, where: str) -> None:
        self._by_place.setdefault(where, {})[one] = None
        self.count += 1

    def remove(self, one: _One, where: str) -> None:
        """Nothing happens when it went before."""
        known = self._by_place.get(where, {})
        if one in known:
            del known[one]
            self.count -= 1
            if not known:
                del self._by_place[where]

    def first_of_most(self) -> tuple[_One, str]:
        """The oldest from the place that has most: many from one place push out each other, and nobody else."""
        where, known = max(self._by_place.items(), key=lambda item: len(item[1]))
        return next(iter(known)), where


class Connections:
    """One per server."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, connections: Mapping[Any, asyncio.Transport], limits: ConnectionLimits
    ) -> None:
        """connections: all that are open, kept up to date by the owner."""
        self.limits = limits
        self._loop = loop
        self._connections = connections
        # In the order of their `since`, which is the order of the clock.
        self._unfinished: dict[Member, int] = {}
        self._unfinished_bytes = 0
        self._large_bytes = 0
        self._unauthenticated = _Places[Member]()
        self._handshakes = _Places[asyncio.Task[None]]()
        self._going: set[Member] = set()  # turned away, and still counted in _connections
        self._closing: dict[asyncio.Transport, float] = {}
        self._put_off: dict[Member, None] = {}
        self._reading_on: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._partings = Pace(_PARTINGS_TURN_S)
        self._refusals = Refusals(loop)

    # --- a connection's life ---

    def enter(self, connection: Member) -> None:
        """A new one: not yet authenticated, whose first header is awaited from now on."""
        transport = connection.transport
        peer = transport.get_extra_info("peername") if transport is not None else None
        connection.unauthenticated = place(peer)
        self._unauthenticated.add(connection, connection.unauthenticated)
        if self._unauthenticated.count > self.limits.unauthenticated:
            self._turn_away(self._unauthenticated.first_of_most()[0], Refusal.UNAUTHENTICATED)
        self._await_header(connection, 0)
        if self._timer is None:
            self._timer = self._loop.call_later(_LOOK_EVERY_S, self._look_around)

    def leave(self, connection: Member) -> None:
        """Count nothing of it any more. Once is enough, twice does no harm."""
        self._going.discard(connection)
        self._put_off.pop(connection, None)
        self._forget_header(connection)
        self._large_bytes -= connection.large
        connection.large = 0
        if connection.unauthenticated:
            self.authenticated(connection)

    def part(self, end: Callable[[], None]) -> None:
        """Call `end`, which wakes whoever answers on a connection that is gone: at once, unless many go together."""

        def some(_late: Callable[[], bool]) -> bool:
            end()
            return False

        self._partings.work(some)

    def authenticated(self, connection: Member) -> None:
        """Its client has shown who it is."""
        where, connection.unauthenticated = connection.unauthenticated, ""
        self._unauthenticated.remove(connection, where)

    # --- before that ---

    def make_room(self) -> bool:
        """For one connection more. False: there is none, and all that are open are in use."""
        count = len(self._connections) - len(self._going) + self._handshakes.count
        if count < self.limits.connections:
            return True
        idle = [
            one for one in self._connections if one.idle_until and not one.unauthenticated and one not in self._going
        ]
        # Some at once: each time all have to be looked at.
        for one in heapq.nsmallest(len(idle) // 16 + 1, idle, key=lambda one: one.idle_until):
            self._turn_away(one, Refusal.IDLE)
        return bool(idle)

    def begin(self, task: asyncio.Task[None], where: str) -> None:
        """One is being connected until `task` is done, its TLS handshake first; too many, and the task is cancelled."""
        handshakes = self._handshakes
        handshakes.add(task, where)
        task.add_done_callback(lambda done: handshakes.remove(done, where))
        if handshakes.count > self.limits.handshakes:
            oldest, place_of_most = handshakes.first_of_most()
            handshakes.remove(oldest, place_of_most)
            oldest.cancel()
            self.refused(Refusal.HANDSHAKES)

    # --- who sends much ---

    def put_off(self, connection: Member) -> None:
        """It sent more than requests have, and reads on when those before it have: else a hundred of them, who send as
        fast as they can, are all that the loop reads."""
        self._put_off[connection] = None
        if self._reading_on is None:
            self._reading_on = self._loop.call_later(_READ_ON_EVERY_S, self._read_on)

    def is_put_off(self, connection: Member) -> bool:
        """Whether it waits for its turn to read on."""
        return connection in self._put_off

    def read_now(self, connection: Member) -> None:
        """What it sends is wanted: it waits for nobody's turn."""
        if connection in self._put_off:
            del self._put_off[connection]
            connection.read_on()

    def _read_on(self) -> None:
        self._reading_on = None
        first = next(iter(self._put_off), None)
        if first is not None:
            del self._put_off[first]
            self._reading_on = self._loop.call_later(_READ_ON_EVERY_S, self._read_on)
            first.read_on()

    # --- headers ---

    def grow(self, connection: Member, size: int) -> None:
        """Some bytes more of a header that is not complete."""
        self._await_header(connection, size)
        while self._unfinished_bytes > self.limits.unfinished_bytes:
            # Who takes longest, among those who hold something: a client that means well sends its header at once.
            self._turn_away(next(one for one, held in self._unfinished.items() if held), Refusal.UNFINISHED)

    def complete(self, connection: Member, size: int) -> bool:
        """A header of about `size` bytes came whole. False: it is large, and there is no room for it."""
        self._forget_header(connection)
        large = size if size > LARGE_BYTES else 0
        if large and self._large_bytes - connection.large + large > self.limits.large_bytes:
            return False
        self._large_bytes += large - connection.large
        connection.large = large
        return True

    def heard(self, connection: Member) -> None:
        """What it sends from now on is no header."""
        self._forget_header(connection)

    def _await_header(self, connection: Member, size: int) -> None:
        if not connection.since:
            connection.since = self._loop.time()
        self._unfinished[connection] = self._unfinished.get(connection, 0) + size
        self._unfinished_bytes += size

    def _forget_header(self, connection: Member) -> None:
        connection.since = 0.0
        self._unfinished_bytes -= self._unfinished.pop(connection, 0)

    # --- turning away ---

    def refused(self, why: Refusal, more: Mapping[str, object] | None = None) -> None:
        """As Refusals.refused()."""
        self._refusals.refused(why, more)

    def malformed(self, client: str | None, reason: str) -> None:
        """Somebody sent what is not a request. reason: a line of ours, with few of the client's bytes."""
        self._refusals.refused(Refusal.MALFORMED, {"reason": reason, "client": client})

    def _turn_away(self, connection: Member, why: Refusal) -> None:
        """End it without an answer. It leaves at once, and its socket in the loop's next turn."""
        self.leave(connection)
        self._going.add(connection)
        self.refused(why)
        if connection.transport is not None:
            connection.transport.abort()

    # --- now and then ---

    def _look_around(self) -> None:
        self._timer = None
        self.look(self._loop.time())
        if self._connections:
            self._timer = self._loop.call_later(_LOOK_EVERY_S, self._look_around)

    def look(self, now: float) -> None:
        """End what is late as of `now`, on the loop's clock; about 1 ms for 10,000 connections."""
        for connection in list(self._unfinished):
            if now - connection.since < HEADER_WITHIN_S:
                break
            self._turn_away(connection, Refusal.LATE)
        before = self._closing
        self._closing = {t: before.get(t, now) for t in self._connections.values() if t.is_closing()}
        for transport, since in self._closing.items():
            if since < now and not transport.get_write_buffer_size():
                transport.abort()  # it has all there was: what comes yet is no goodbye
            elif now - since >= CLOSE_WITHIN_S:
                self.refused(Refusal.UNTAKEN)
                transport.abort()

    def close(self) -> None:
        """No more looking around."""
        for timer in (self._timer, self._reading_on):
            if timer is not None:
                timer.cancel()
        self._timer = self._reading_on = None


class Refusals:
    """Who was turned away, of one server."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._logged: dict[Refusal, _Logged] = {}

    def refused(self, why: Refusal, more: Mapping[str, object] | None = None) -> None:
        """Count it, and log it now and then. more: further fields of the log line."""
        metrics.connections_refused.labels(why.name.lower()).inc()
        further = self._logged.setdefault(why, _Logged()).due(self._loop.time())
        if further is not None:
            log.warning("a client was turned away", extra={"reason": why.value, **(more or {}), "more": further})


class _Logged:
    """When something was logged last, and how often it happened since."""

    def __init__(self) -> None:
        self._next = float("-inf")
        self._more = 0

    def due(self, now: float) -> int | None:
        """How many were not logged since the last line; None where it is not yet time for another."""
        if now < self._next:
            self._more += 1
            return None
        more, self._more = self._more, 0
        self._next = now + _LOG_EVERY_S
        return more
