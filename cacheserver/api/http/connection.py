"""One client's connection: how it is read, and what one connection may hold. What all of them hold: connections.py.

aiohttp's own protocol parses and answers; this stands around it, because what it bounds (a header line, their number,
32 requests that wait) multiplies, and because it logs whatever a client sends. Decides nothing of requests.

Danger: it looks at a few names that aiohttp keeps to itself (`_messages`, `_request_count`, `_request_in_progress`,
`_waiter`, `_handler_waiter`, `_buffer_paused`, `_resume_transport_reading`, `_next_keepalive_close_time`).
tests/unit/api/http/test_hostile_wire.py and test_shutdown.py say what has to hold when aiohttp changes.
"""

from __future__ import annotations

import asyncio
import functools
from http import HTTPStatus
from typing import Any, Final, Protocol

from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.http_parser import HttpRequestParserPy, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import StreamResponse
from aiohttp.web_server import Server as BaseServer

from cacheserver.api.http.connections import LARGE_BYTES, ConnectionLimits, Connections, Refusal, place
from cacheserver.api.http.reply import UNSENT_BYTES, Reply
from cacheserver.api.status import StatusError, bad_request, header_too_large, internal
from cacheserver.errors import ConfigError

LINE_BYTES: Final = 64 << 10
"""The request line, and any header line: tokens and OIDC's groups have a few KB."""

LINES: Final = 512
"""Header lines: every group of a user is one of its own, when kube-apiserver asks for it."""

HEADER_BYTES: Final = 256 << 10
"""All of a request's header. Go's servers, kube-apiserver among them, take 1 MB (net/http: DefaultMaxHeaderBytes); what
it hands on was in one certificate or token, and 512 groups of 500 bytes fit. A read more may come until it is seen."""

BODY_BYTES: Final = 512 << 10
"""Parsed of a body that nobody asked for (body.py): what is more is thrown away until the answer's lingering is over.
Reading pauses before that, at twice BODY_WAITS and a read, so that a body that is asked for later loses nothing."""

BODY_WAITS: Final = 64 << 10
"""aiohttp's read_bufsize: reading goes on below so much of a body that waits to be taken."""

LINGERING_S: Final = 1.0
"""A refused body is read so long behind the answer, so that the client gets to see it; then the connection ends."""

_receive: Final = RequestHandler.data_received
_TOO_LARGE: Final = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
_NO_REQUEST: Final = Exception("no request")
_QUIET_BYTES: Final = 128  # of one read of a conversation: a control frame. Who sends more reads on in turn
_READ_BYTES: Final = 64 << 10  # four records of TLS; what is more comes with the next call
_FAREWELL_S: Final = 0.5  # Go's net/http: rstAvoidanceDelay
_REASON_MOST: Final = 100  # characters of what is wrong with a request: they may be the client's


def require_compiled_parser() -> None:
    """Raises: ConfigError where aiohttp reads requests in Python.

    That parser takes seven of the requests that two readers may end in different places (RFC 9112, section 11.2) which
    the compiled one refuses; tests/unit/api/test_smuggling.py has all of them.
    """
    if HttpRequestParser is HttpRequestParserPy:
        raise ConfigError(
            "aiohttp runs without its compiled parts here, and would let requests through that a proxy in front reads"
            " otherwise (request smuggling): unset AIOHTTP_NO_EXTENSIONS if it is set, else install a wheel with"
            " `pip install --force-reinstall --only-binary aiohttp aiohttp`"
        )


class Conversation(Protocol):
    """What goes on in another protocol behind a request that asked for one; aiohttp knows the first two."""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """What came from the client."""
        ...

    def feed_eof(self) -> None:
        """The connection is gone."""
        ...

    def answer(self) -> None:
        """The client takes what it is sent again."""
        ...


class Connection(RequestHandler):
    """A connection as the server and the API know it."""

    __slots__ = (
        "_all",
        "_awaited",
        "_body",
        "_body_most",
        "_body_wanted",
        "_conversation",
        "_deaf",
        "_unfinished",
        "large",
        "since",
        "unauthenticated",
    )

    def __init__(self, manager: Server, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self._all = manager.pool
        self._unfinished = 0  # bytes of the header that is not complete yet, or of a body
        self._conversation: Conversation | None = None
        self._body: StreamReader | None = None  # of the last request, while it is not complete
        self._body_most = BODY_BYTES
        self._body_wanted = False  # somebody takes it
        self._deaf = False  # nothing more is parsed; the connection ends with the next answer
        self.since = 0.0
        """Begin of an unfinished header on the loop's clock; 0: there is none."""
        self.large = 0
        """Bytes of the header of the request being answered, where they are many."""
        self.unauthenticated = ""
        """The address of a client that has not shown who it is."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: counted from here on, and bounded in what it may hold unsent."""
        super().connection_made(transport)
        assert self.transport is not None
        # The limit is 512 KiB over TLS by default, and every connection may fill it; the other way 256 KiB.
        self.transport.set_write_buffer_limits(high=UNSENT_BYTES)
        if hasattr(self.transport, "set_read_buffer_limits"):
            self.transport.set_read_buffer_limits(high=_READ_BYTES)
        self._all.enter(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """asyncio: nothing of it is counted any more."""
        self._all.leave(self)
        self._all.part(functools.partial(super().connection_lost, exc))

    @property
    def idle_until(self) -> float:
        """On the loop's clock; 0 unless all that was asked is answered and nothing more was begun."""
        return 0.0 if self._waiter is None or self._messages or self.since else self._next_keepalive_close_time

    async def start(self) -> None:
        """As aiohttp's. One of which nothing is parsed any more, or whose client is in the midst of a body, ends
        without the goodbye of TLS: uvloop waits 30 s for the client's, and meanwhile reads whatever is sent instead."""
        transport = self.transport
        try:
            await super().start()
        finally:
            unfinished = self._body is not None and not self._body.is_eof()
            if (self._deaf or unfinished) and transport is not None:
                transport.abort()

    # --- what comes in ---

    def data_received(self, data: bytes) -> None:
        """asyncio: takes what came; nothing more once the connection is turned away, as one that begins too much is."""
        if self._deaf:
            self._put_off()
            return
        if self._conversation is not None:
            self._conversation.feed_data(data)
            if len(data) > _QUIET_BYTES:
                self._put_off()
            return
        known = self._request_count
        _receive(self, data)
        if self._request_count != known:
            self._complete(self._unfinished + len(data))
        elif data:
            self._unfinished += len(data)
            self._incomplete(len(data))

    def _complete(self, size: int) -> None:
        """The header of a request, or of several, has come; of `size` bytes, with what came behind it."""
        self._unfinished, self._body_most, self._body_wanted = 0, BODY_BYTES, False
        messages = self._messages
        message, payload = messages[-1]
        if payload is not EMPTY_PAYLOAD:
            size -= payload.total_bytes  # what came of its body already
        if (self.since or self.large or size > LARGE_BYTES) and not self._all.complete(self, size):
            messages.clear()
            self.refuse(Refusal.LARGE)
            return
        if payload is EMPTY_PAYLOAD:
            self._body = None
            if isinstance(message, _ErrInfo):
                self._malformed(message.exc)
        else:
            self._body = None if payload.is_eof() else payload
        if self._request_in_progress or len(messages) > 1:
            self._hold()

    def _incomplete(self, size: int) -> None:
        """Some bytes of a header, or of a body, and the end of neither."""
        body = self._body
        if body is None:
            if self._unfinished > HEADER_BYTES:
                self.refuse(Refusal.HEADER)
            else:
                self._all.grow(self, size)
                if self._unfinished > LARGE_BYTES and not self._deaf:
                    self._put_off()
        elif body.is_eof():
            self._body = None
            self._unfinished = 0
        elif self._unfinished > self._body_most:
            self.hear_no_more()
        elif not self._body_wanted and self._unfinished > LARGE_BYTES:
            self._put_off()

    def hear_no_more(self) -> None:
        """Nothing more is parsed; the connection ends with the next answer."""
        self._deaf = True
        self._put_off()

    def _put_off(self) -> None:
        """Read nothing until it is our turn among all who send as much. What comes is read, though nobody wants it:
        many clients look for an answer only when all is sent."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
            self._all.put_off(self)

    def _resume_transport_reading(self) -> None:
        # aiohttp, when what waited of a body was taken: that is no reason to be read before others.
        if not self._all.is_put_off(self):
            super()._resume_transport_reading()

    def read_on(self) -> None:
        """As Member.read_on; not where reading is held for another reason, for whoever holds it ends that."""
        held = self._buffer_paused or self._reading_paused
        if self.transport is not None and not self.transport.is_closing() and not held:
            self.transport.resume_reading()

    # --- another protocol ---

    @property
    def upgradable(self) -> bool:
        """Whether the last request asked for another protocol, and nothing behind it was read as a request."""
        return self._upgraded and self._conversation is None

    def converse(self, conversation: Conversation) -> None:
        """What comes from now on, and came behind the request that is being answered, is not HTTP. It stays so: the
        answer to that request is the connection's last."""
        self._all.heard(self)  # no header is awaited any more
        self._unfinished = 0
        self._conversation = conversation
        self.set_parser(conversation)  # type: ignore[arg-type] # aiohttp asks nothing else of its own reader

    def resume_writing(self) -> None:
        """asyncio: the client takes what it is sent again."""
        super().resume_writing()
        if self._conversation is not None:
            self._conversation.answer()

    # --- the body ---

    def take_body(self, most: int) -> None:
        """Somebody reads the body of the request that is being answered, as it comes, and ends at `most` bytes."""
        self._body_most, self._body_wanted = most + BODY_BYTES, True
        if not self._deaf:
            self._all.read_now(self)

    def _malformed(self, exc: BaseException) -> None:
        """What came last is not a request; its answer is all that is kept of it."""
        self.hear_no_more()
        # Its traceback leads to a frame that leads to it, and both to all that was read: megabytes, until the garbage
        # collector comes by, which on a server that holds much is seldom (server/serve.py).
        exc.__traceback__ = None
        reason = _reason(exc)
        self._all.malformed(str(self.peername[0]) if self.peername else "?", reason)
        status = HTTPStatus.BAD_REQUEST
        if isinstance(exc, LineTooLong):
            status, reason = _TOO_LARGE, f"a line of it has more than {LINE_BYTES >> 10} KiB"
        elif reason.startswith("Too many headers"):
            status, reason = _TOO_LARGE, f"it has more than {LINES} lines"
        self._messages[-1] = (_ErrInfo(status, _NO_REQUEST, reason), EMPTY_PAYLOAD)

    def refuse(self, why: Refusal) -> None:
        """Answer, behind what is being answered, that the header is too much; nothing more is read."""
        self.hear_no_more()
        self._all.refused(why)
        self._messages.append((_ErrInfo(_TOO_LARGE, _NO_REQUEST, why.value), EMPTY_PAYLOAD))
        self._request_count += 1
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._hold()

    # --- requests that wait for the one before ---

    def _hold(self) -> None:
        """Read nothing more while a request waits: those of one read are all that a connection holds."""
        waits = len(self._messages) > (not self._request_in_progress)
        if waits and not self._buffer_paused:
            self._pause_reading_for_buffer()

    def _resume_reading_if_drained(self) -> None:
        # aiohttp asks at every request that it takes, as long as reading is held.
        if self._messages and not self._upgraded:
            return
        super()._resume_reading_if_drained()
        self._hold()

    # --- the end of the server ---

    @property
    def _handler_waiter(self) -> asyncio.Future[None] | None:
        """What a shutdown waits for; None where it waits no more.

        aiohttp sets its result at the end of a request also when the wait for it just ran out, which is an error: a
        traceback for each of thousands of watches that end in the same turn of the loop.
        """
        awaited = self._awaited
        return None if awaited is None or awaited.done() else awaited

    @_handler_waiter.setter
    def _handler_waiter(self, awaited: asyncio.Future[None] | None) -> None:
        self._awaited = awaited

    # --- what is not a request ---

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        """The answer to what is not a request; the connection ends behind it.

        aiohttp's would log a traceback with the client's bytes for each, and say which software this is.
        Raises: ConnectionError when there is nobody to answer.
        """
        if exc is _NO_REQUEST:
            too_large = status == _TOO_LARGE
            said = message or ""
            return Farewell(
                header_too_large(said) if too_large else bad_request(f"this is not a request of HTTP/1: {said}")
            )
        if isinstance(exc, ConnectionError):  # it left, or takes nothing
            raise exc
        if request.writer.output_size > 0:
            raise ConnectionError("half an answer is out already") from exc
        self.logger.error("answering failed", exc_info=exc)  # the API catches its own: a defect here
        return Farewell(internal())


class Farewell(Reply):
    """A refusal behind which the connection ends, with a moment for the client to take it.

    Closing with bytes unread makes the kernel reset the connection, so that the client loses the answer.
    """

    def __init__(self, error: StatusError) -> None:
        body = error.status() + b"\n"
        super().__init__(error.code, (body,), len(body), extra=error.headers())

    @property
    def keep_alive(self) -> bool:
        """False: the connection ends with this answer."""
        return False

    async def write_eof(self, data: bytes = b"") -> None:
        """Ends the answer, and waits a moment, so that the client reads it before the connection is gone."""
        await super().write_eof(data)
        await asyncio.sleep(_FAREWELL_S)


class Server(BaseServer):
    """An aiohttp server whose connections are bounded."""

    def __init__(self, handler: Any, limits: ConnectionLimits, **kwargs: Any) -> None:
        """handler: of a request. limits: of all connections together. kwargs: of the protocol."""
        super().__init__(handler, **kwargs)
        self.pool = Connections(self._loop, self._connections, limits)

    def __call__(self) -> RequestHandler:
        """A protocol for one more connection."""
        return Connection(self, loop=self._loop, **self._kwargs)

    async def shutdown(self, timeout: float | None = None) -> None:
        """aiohttp: ends all connections; those that are answering have `timeout` seconds."""
        self.pool.close()
        await super().shutdown(timeout)

    def _make_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> BaseRequest:
        if message.upgrade:
            # aiohttp loses what came behind a request that asks for another protocol. Whether that is spoken or not
            # (websocket.py), its answer is the last one, and the client asks the rest again (RFC 9112, section 9.3.2).
            message = message._replace(should_close=True)
        return BaseRequest(message, payload, protocol, writer, task, self._loop)


class SecureServer(Server):
    """For a listener with TLS."""

    # One for all connections: what was read is copied out before the loop does anything else.
    _buffer: Final = memoryview(bytearray(_READ_BYTES))

    def __call__(self) -> asyncio.BufferedProtocol:  # type: ignore[override] # whoever listens takes any protocol
        """As Server's, reading into the buffer of all."""
        return _Buffered(super().__call__(), self._buffer)


class _Buffered(asyncio.BufferedProtocol):
    """Reads into one buffer, and hands everything to the connection.

    For a protocol that takes bytes, uvloop makes 256 KiB of them at every read and shrinks them to what came; the C
    library maps and unmaps so much (server/memory.py), which was a third of the CPU of a small answer. Without TLS it
    has no such habit.
    """

    def __init__(self, inner: RequestHandler, buffer: memoryview) -> None:
        self._inner = inner
        self._buffer = buffer

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._inner.data_received(bytes(self._buffer[:nbytes]))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inner.connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._inner.connection_lost(exc)

    def eof_received(self) -> None:
        self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


def client_of(request: BaseRequest) -> str:
    """Where it comes from, for counting by client where nobody asks who a client is."""
    return place(request.protocol.peername)


def authenticated(request: BaseRequest) -> None:
    """Whoever sent this has shown who it is."""
    connection = request.protocol
    if isinstance(connection, Connection) and connection.unauthenticated:
        connection._all.authenticated(connection)


def _reason(exc: BaseException | None) -> str:
    """What is wrong, in a line: the first of aiohttp's, behind which it repeats what was sent."""
    text = exc.message if isinstance(exc, BadHttpMessage) else str(exc)
    return text.strip().partition("\n")[0].rstrip(":").strip()[:_REASON_MOST]
