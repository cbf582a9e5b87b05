"""A watch over WebSocket (RFC 6455), as kube-apiserver has it: a text frame an event, a close frame at the end.

What goes out is bytes as on any stream; a frame's header before each event is all that is added (reply.framed). What
comes in is counted and thrown away, for a watch hears nothing but goodbye: no byte of it is parsed as HTTP.
Rules of the handshake and of ends: k8s.io/apiserver/pkg/endpoints/handlers/watch.go (HandleWS),
golang.org/x/net/websocket.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
from contextlib import suppress
from enum import IntEnum
from typing import Final
from urllib.parse import urlsplit

from aiohttp import HttpVersion11
from aiohttp.web_request import BaseRequest

from cacheserver.api.http.connection import Connection
from cacheserver.api.http.negotiate import accepts_gzip
from cacheserver.api.http.reply import Framing, Gzipped, Stream, audit_id
from cacheserver.api.status import StatusError, bad_request, brief
from cacheserver.security.handshake import asks_for_websocket, sent_token, subprotocols
from cacheserver.security.identity import Identity
from cacheserver.slotted import slotted

MESSAGE_BYTES: Final = 64 << 10
"""Of a message that a client sends, though nobody reads it; x/net/websocket takes 32 MB."""

FRAMES: Final = 64
"""That come in one read of a connection (64 KiB), small ones, at 2 us each; who pings once a second sends so many in a
minute."""

GOODBYE_S: Final = 1.0
"""For the client to answer a close frame; a connection that is closed before may lose what it has not read yet."""

FAREWELL_S: Final = 0.5
"""For who said what it may not, to take the close frame; what it goes on to say is not read (connection.py)."""

_CONTROL_MOST: Final = 125  # RFC 6455, section 5.5
_MAGIC: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
_KEY_BYTES: Final = 16
_VERSION: Final = "13"
_SUBPROTOCOL: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}\Z")  # a token of HTTP
_LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "::1"))


class Close(IntEnum):
    """Why a conversation ends (RFC 6455, section 7.4.1)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    POLICY = 1008
    TOO_BIG = 1009


class _Opcode(IntEnum):
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


_OPCODES: Final = frozenset(_Opcode)
_LAST: Final = 0x80  # of a message's frames
_RESERVED: Final = 0x70  # for extensions, of which we agree to none
_CONTROL: Final = 0x08
_MASKED: Final = 0x80


@slotted(frozen=True)
class Handshake:
    """What is answered to one. subprotocol: empty when the client offers none."""

    accept: str
    subprotocol: str


def stream_for(request: BaseRequest, identity: Identity | None) -> Stream:
    """What a watch is written to, as the request asks for it; compressed for whom lists would be, too.

    Pages of other sites may watch where the client showed a credential that a browser does not send by itself, or came
    through one who asks for that. identity: None where nobody asks who it is.

    Raises: StatusError 400, 403.
    """
    if not asks_for_websocket(request):
        gzip = request.version >= HttpVersion11 and accepts_gzip(request.headers.get("Accept-Encoding", ""))
        return Gzipped(request) if gzip else Stream(request)
    if identity is None or not (identity.proxied or sent_token(request)):
        _check_page(request)
    return WebSocket(request, _handshake(request))


def _handshake(request: BaseRequest) -> Handshake:
    """Raises: StatusError 400."""
    headers = request.headers
    if headers.get("Sec-WebSocket-Version") != _VERSION:
        raise _VersionError()
    keys = headers.getall("Sec-WebSocket-Key", [])
    try:
        well = len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        well = False
    if not well:
        raise bad_request("Sec-WebSocket-Key has to be there once, and has to be 16 bytes in base64")
    connection = request.protocol
    if not isinstance(connection, Connection) or not connection.upgradable or _has_body(request):
        raise bad_request("a WebSocket's handshake has no body")
    offered = subprotocols(request)
    if not offered and "Sec-WebSocket-Protocol" in headers:
        raise bad_request("offer a subprotocol beside the token: one has to be answered, and tokens never are")
    chosen = offered[0] if offered else ""
    if chosen and not _SUBPROTOCOL.match(chosen):
        raise bad_request(f"Sec-WebSocket-Protocol: {brief(chosen)!r} is no name of a subprotocol")
    # Not for secrets: RFC 6455, section 4.2.2.
    digest = hashlib.sha1(keys[0].encode() + _MAGIC, usedforsecurity=False).digest()
    return Handshake(base64.b64encode(digest).decode(), chosen)


def _has_body(request: BaseRequest) -> bool:
    return "Transfer-Encoding" in request.headers or request.headers.get("Content-Length", "0") != "0"


def _check_page(request: BaseRequest) -> None:
    """Raises: StatusError 403.

    A browser lets any page open a WebSocket anywhere and read it, with the browser's own client certificate (RFC 6455,
    section 10.2); other answers of ours it keeps from pages of other sites.
    """
    origin = request.headers.get("Origin")
    if origin is None:
        return
    try:
        page = urlsplit(origin).hostname
        ours = urlsplit(f"//{request.headers.get('Host', '')}").hostname
    except ValueError:
        page = ours = None
    if page is None or (page not in _LOOPBACK and page != ours):
        why = (
            f"a page of {brief(origin)!r} (header Origin) may not watch here: its browser asks without a token; "
            "send one, or ask from a page of this host or of localhost"
        )
        raise StatusError(403, "Forbidden", why, details={})


class _VersionError(StatusError):
    """The handshake is of another version than the RFC's."""

    def __init__(self) -> None:
        super().__init__(400, "BadRequest", "Sec-WebSocket-Version has to be 13 (RFC 6455)")

    def headers(self) -> bytes:
        """Extra header lines: the version that we speak (RFC 6455, section 4.4)."""
        return b"Sec-WebSocket-Version: 13\r\n"


class Incoming:
    """Frames that a client sends. Keeps a frame's header and what a control frame says: 139 bytes at most.

    aiohttp takes it for its own reader of WebSockets (web_protocol.py: set_parser), and parses no more HTTP.
    """

    __slots__ = ("_fragmented", "_held", "_message", "_need", "_skip", "close", "ping", "said_goodbye")

    def __init__(self) -> None:
        self._held = bytearray()
        self._need = 2
        self._skip = 0  # bytes of a payload that are still to come
        self._message = 0  # bytes of the message so far
        self._fragmented = False
        self.ping: bytes | None = None
        """The mask and the words of the last ping, while it is not answered (section 5.5.3: the last is enough)."""
        self.said_goodbye = False
        self.close = 0
        """What to end with: the client's word, or what it did wrong. 0: it goes on."""

    def feed(self, data: bytes) -> None:
        """Take what came; nothing more once it is to end."""
        at, end, frames = 0, len(data), 0
        held = self._held
        while at < end and not self.close:
            if self._skip:
                size = min(self._skip, end - at)
                self._skip -= size
                at += size
                continue
            size = min(self._need - len(held), end - at)
            held += data[at : at + size]
            at += size
            if len(held) == self._need and not self._grow():
                self._whole()
                del held[:]
                self._need = 2
                frames += 1
                if frames > FRAMES:
                    self.close = self.close or Close.POLICY

    def _grow(self) -> bool:
        """Whether more of the header, or of a control frame, has to be there; `_need` says how much."""
        held = self._held
        first, second = held[0], held[1]
        size = second & 0x7F
        if len(held) == 2:  # the part that every frame has
            opcode = first & 0x0F
            wrong = bool(first & _RESERVED) or opcode not in _OPCODES or not second & _MASKED
            if opcode & _CONTROL:
                wrong = wrong or not first & _LAST or size > _CONTROL_MOST
            else:
                wrong = wrong or (opcode == _Opcode.CONTINUATION) != self._fragmented
            if wrong:
                self.close = Close.PROTOCOL_ERROR
                return True
        need = 2 + {126: 2, 127: 8}.get(size, 0) + 4
        if first & _CONTROL:
            need += size
        self._need = need
        return len(held) < need

    def _whole(self) -> None:
        """A control frame is there, or the header of another one."""
        held = self._held
        first, size = held[0], held[1] & 0x7F
        if first & _CONTROL:
            if first & 0x0F == _Opcode.PING:
                self.ping = bytes(held[2:])
            elif first & 0x0F == _Opcode.CLOSE:
                self.said_goodbye = True
                self.close = _answer_to(unmasked(held[2:]))
            return
        if size > _CONTROL_MOST:
            size = int.from_bytes(held[2:-4], "big")
        self._skip = size
        self._message = size if not self._fragmented else self._message + size
        self._fragmented = not first & _LAST
        if self._message > MESSAGE_BYTES:
            self.close = Close.TOO_BIG


def unmasked(said: bytes | bytearray) -> bytes:
    """What is behind a mask of four bytes (RFC 6455, section 5.3)."""
    size = len(said) - 4
    key = (said[:4] * (size // 4 + 1))[:size]
    return (int.from_bytes(said[4:], "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


def _answer_to(said: bytes) -> int:
    """The code to end with when a client's close frame says this (RFC 6455, sections 5.5.1 and 7.4)."""
    if not said:
        return Close.NORMAL
    code = int.from_bytes(said[:2], "big")
    known = 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999  # the RFC's ranges
    return code if len(said) >= 2 and known else Close.PROTOCOL_ERROR


class WebSocket(Stream):
    """A stream whose pieces are frames. Its connection serves no request behind it."""

    def __init__(self, request: BaseRequest, handshake: Handshake) -> None:
        super().__init__(request)
        self._status = 101
        self.framing = Framing.FRAMES
        self._handshake = handshake
        self._incoming = Incoming()
        self._gone = asyncio.Event()  # the client has nothing more to say
        self._ended = False

    @property
    def keep_alive(self) -> bool:
        """False: the connection ends with the conversation."""
        return False

    def start(self, extra: bytes = b"") -> None:
        """Send the handshake's answer, and hear frames from now on. Raises ConnectionResetError as every write does."""
        self.started = True
        chosen = self._handshake.subprotocol
        head = b"%b%b%b%b%b\r\n" % (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
            f"Sec-WebSocket-Accept: {self._handshake.accept}\r\n".encode(),
            f"Sec-WebSocket-Protocol: {chosen}\r\n".encode() if chosen else b"",
            audit_id(self._request),
            extra,
        )
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client went away")
        transport.write(head)
        self._request.writer.output_size = 1
        assert isinstance(self._protocol, Connection)
        self._protocol.converse(self)

    # --- what the client says ---

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """What came, from aiohttp's connection. Never asks it to close: the stream's owner does."""
        if self._incoming.close:
            return False, b""
        self._incoming.feed(data)
        self.answer()
        if self._incoming.close:
            if not self._ended:
                self._close(self._incoming.close)
                self.leave()
            self._gone.set()
            assert isinstance(self._protocol, Connection)
            self._protocol.hear_no_more()
        return False, b""

    def feed_eof(self) -> None:
        """The connection is gone."""
        self._gone.set()

    def answer(self) -> None:
        """Answer the last ping, if the client takes what it is sent; else once it does."""
        ping, transport = self._incoming.ping, self._protocol.transport
        if ping is None or self._ended or transport is None or self._protocol.writing_paused:
            return
        self._incoming.ping = None
        said = unmasked(ping)
        transport.write(bytes((_LAST | _Opcode.PONG, len(said))) + said)

    # --- the end ---

    def end(self, *, going_away: bool = False) -> None:
        """A close frame, unless there was one; nothing happens when the client has gone."""
        if not self._ended:
            self._close(Close.GOING_AWAY if going_away else Close.NORMAL)

    def _close(self, code: int) -> None:
        self._ended = True
        transport = self._protocol.transport
        if transport is not None and not transport.is_closing():
            transport.write(bytes((_LAST | _Opcode.CLOSE, 2)) + code.to_bytes(2, "big"))

    async def write_eof(self, data: bytes = b"") -> None:
        """Wait a moment for the client's goodbye. Called by aiohttp when the handler has returned this."""
        if self._incoming.close and not self._incoming.said_goodbye:
            await asyncio.sleep(FAREWELL_S)
        elif self._incoming.close:
            await asyncio.sleep(0)  # the loop writes what there is
            await asyncio.sleep(0)
        elif self.started:
            with suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await self._gone.wait()
