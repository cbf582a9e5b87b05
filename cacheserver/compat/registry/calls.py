"""gRPC on a stream of HTTP/2 (grpc.io, "gRPC over HTTP2"): what is asked, in which words it is refused, and how an
answer is sent. Codes and words are those of grpc-go, as the reference speaks it (internal/transport/http2_server.go,
server.go). Answers stand in servicer.py.

A call whose answer is ready is answered at once; any other is a task, under the bounds of Room. Who does not take its
answer is let go wherever it stops.
"""

from __future__ import annotations

import asyncio
import logging
import re
import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final

from google.protobuf.message import DecodeError

from cacheserver import metrics
from cacheserver.compat.registry.content import Batch, InvalidError, NotFoundError, quoted
from cacheserver.compat.registry.room import BusyError, Key, Room
from cacheserver.http2.frames import GRPC_HEAD, field, string
from cacheserver.http2.grpc import Code
from cacheserver.http2.requests import Request
from cacheserver.http2.stream import GoneError, Stream
from cacheserver.slotted import slotted

log = logging.getLogger(__name__)

STALL_S: Final = 60.0
"""A client has so long to take 64 KiB of an answer, and to ask the next question on a stream."""
REQUEST_BYTES: Final = 32 << 10
"""The largest question has three names. One stream of a connection can have one of them, and others wait."""

_PIECE: Final = 64 << 10
_KEPT_BYTES: Final = 1 << 20
"""Of an answer that is kept ready."""
_TEXT: Final = 1 << 10
"""Characters of a status: percent-encoded, it is sent in one frame whatever they are."""
_QUOTED: Final = 256
"""Bytes of what was asked, in a status."""
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")

# A client may have no table of headers: that we use none has to be said at the begin of a block (RFC 7541, 4.2).
_NO_TABLE: Final = b"\x20"
_CONTENT_TYPE: Final = b"\x0f\x10" + string(b"application/grpc")
_HEADER: Final = _NO_TABLE + b"\x88" + _CONTENT_TYPE  # :status 200
_GRPC_HEAD: Final = struct.Struct(">BI")
_OK: Final = field(b"grpc-status", b"0")


Fields = Mapping[bytes, bytes]


@slotted(frozen=True)
class Method:
    """answer: to one question, with what its header says. answers: to many. ready: an answer of one batch is kept."""

    name: str
    answer: Callable[[bytes, Fields], AsyncIterator[Batch]] | None = None
    answers: Callable[[AsyncIterator[bytes]], AsyncIterator[Batch]] | None = None
    ready: bool = False


@slotted(frozen=True)
class Methods:
    """What is answered by whom, of one revision. serial: another for each."""

    serial: int
    by_path: Mapping[bytes, Method]


class _RefusedError(Exception):
    """The call ends with this. status: of HTTP."""

    def __init__(self, code: Code, text: str, status: int = 200, more: bytes = b"") -> None:
        super().__init__(text)
        self.code = code
        self.status = status
        self.more = more


class _StalledError(Exception):
    """The client did not take what was sent."""


class Call:
    """One stream, from its header to its end. tasks: where those that answer are, until they are done."""

    def __init__(self, stream: Stream, methods: Methods, room: Room, who: str, tasks: set[asyncio.Task[None]]) -> None:
        self._stream = stream
        self._methods = methods
        self._room = room
        self._who = who
        self._tasks = tasks
        self._task: asyncio.Task[None] | None = None
        self._more = asyncio.Event()
        self._until: float | None = None
        self._over = False
        self._method = Method("unknown")
        try:
            self._method = self._find(stream.request)
        except _RefusedError as exc:
            self._refuse(exc)

    # --- said by the stream ---

    def arrived(self) -> None:
        """Something more of the question, or all of it."""
        if self._over:
            return
        try:
            if self._method.answers is not None:
                self._more.set()
                if self._task is None:
                    self._begin(self._method.answers(self._questions()))
            elif self._stream.ended:
                self._answer()
            elif len(self._stream.received) >= GRPC_HEAD:
                self._check_size()
        except _RefusedError as exc:
            self._refuse(exc)

    def gone(self) -> None:
        """Nobody wants the answer any more."""
        if self._task is not None:
            self._task.cancel()
        self._over = True

    def late(self) -> None:
        """The question did not come in time."""
        if self._task is None and not self._over:
            self._refuse(_RefusedError(Code.DEADLINE_EXCEEDED, f"nothing was asked for {STALL_S:g} s"))

    # --- what is asked ---

    def _find(self, request: Request) -> Method:
        """Raises: _RefusedError."""
        if request.method != b"POST":
            said = f"Received a HEADERS frame with :method {_quoted(request.method)} which should be POST"
            raise _RefusedError(Code.INTERNAL, said, 405)
        kind = request.fields.get(b"content-type", b"")
        if kind.partition(b";")[0].partition(b"+")[0].strip().lower() != b"application/grpc":
            raise _RefusedError(Code.INVALID_ARGUMENT, f"invalid gRPC request content-type {_quoted(kind)}", 415)
        if (timeout := request.fields.get(b"grpc-timeout")) is not None:
            if (found := _TIMEOUT.fullmatch(timeout)) is None:
                raise _RefusedError(Code.INTERNAL, f"malformed grpc-timeout: {_quoted(timeout)}", 400)
            self._until = asyncio.get_running_loop().time() + int(found[1]) * _UNITS[found[2]]
        method = self._methods.by_path.get(request.path)
        if method is None:
            raise _RefusedError(Code.UNIMPLEMENTED, self._unknown(request.path))
        packed = request.fields.get(b"grpc-encoding", b"identity")
        if packed != b"identity":
            said = f"grpc: Decompressor is not installed for grpc-encoding {_quoted(packed)}"
            raise _RefusedError(Code.UNIMPLEMENTED, said, more=field(b"grpc-accept-encoding", b"identity"))
        return method

    def _unknown(self, path: bytes) -> str:
        service, _, method = path.removeprefix(b"/").rpartition(b"/")
        if not service:
            return f"malformed method name: {_quoted(path)}"
        if any(known.startswith(b"/" + service + b"/") for known in self._methods.by_path):
            return f"unknown method {_text(method)} for service {_text(service)}"
        return f"unknown service {_text(service)}"

    def _check_size(self) -> int:
        """Of the message that comes. Raises: _RefusedError."""
        received = self._stream.received
        if received[0]:
            said = f"grpc: received unexpected payload format {received[0]}"
            if received[0] == 1:
                said = "grpc: compressed flag set with identity or empty encoding"
            raise _RefusedError(Code.INTERNAL, said)
        size = int.from_bytes(received[1:GRPC_HEAD], "big")
        if size > REQUEST_BYTES:
            said = f"grpc: received message larger than max ({size} vs. {REQUEST_BYTES})"
            raise _RefusedError(Code.RESOURCE_EXHAUSTED, said)
        return size

    def _message(self) -> bytes | None:
        """The next question; None: there is none that is whole. Raises: _RefusedError."""
        received = self._stream.received
        if len(received) < GRPC_HEAD or len(received) < GRPC_HEAD + self._check_size():
            if received and self._stream.ended:
                raise _RefusedError(Code.INTERNAL, "unexpected EOF")
            return None
        return self._stream.take(GRPC_HEAD + self._check_size())[GRPC_HEAD:]

    async def _questions(self) -> AsyncIterator[bytes]:
        """Raises: TimeoutError, _RefusedError."""
        while True:
            asked = self._message()
            if asked is not None:
                yield asked
            elif self._stream.ended:
                return
            else:
                self._more.clear()
                async with asyncio.timeout(STALL_S):
                    await self._more.wait()

    # --- what is answered ---

    def _answer(self) -> None:
        """Raises: _RefusedError."""
        asked, method = self._message(), self._method
        if asked is None or self._stream.received or method.answer is None:
            raise _RefusedError(Code.INTERNAL, "cardinality violation: one question is asked in this call")
        key = (self._methods.serial, self._stream.request.path, asked)
        ready = self._room.ask(key) if method.ready else None
        if ready is None:
            self._begin(method.answer(asked, self._stream.request.fields), key if method.ready else None)
        elif self._stream.fits(len(ready)):
            self._over = True
            _counted(method.name, Code.OK)
            self._stream.finish(_HEADER, ready, _OK)
        else:
            self._begin(_nothing(), ready=ready)

    def _begin(self, batches: AsyncIterator[Batch], key: Key | None = None, ready: bytes = b"") -> None:
        """ready: sent behind the batches. Raises: _RefusedError."""
        try:
            self._room.enter(self._who)
        except BusyError as exc:
            raise _RefusedError(Code.RESOURCE_EXHAUSTED, str(exc)) from exc
        self._stream.busy = True
        self._task = asyncio.get_running_loop().create_task(self._run(batches, key, ready), name="registry: a call")
        self._tasks.add(self._task)
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.leave(self._who)
        self._stream.freed()
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.error("a call of the registry failed", exc_info=fault, extra={"method": self._method.name})
            self._end(Code.INTERNAL, "a fault of the server")

    async def _run(self, batches: AsyncIterator[Batch], key: Key | None, ready: bytes) -> None:
        limit = asyncio.timeout_at(self._until)
        try:
            async with limit:
                await self._send_all(batches, key, ready)
        except NotFoundError as exc:
            self._end(Code.UNKNOWN, str(exc))
        except InvalidError as exc:
            self._end(Code.INVALID_ARGUMENT, str(exc))
        except DecodeError:
            self._end(Code.INTERNAL, "the request is not of this method's type")
        except BusyError as exc:
            self._end(Code.RESOURCE_EXHAUSTED, str(exc))
        except _RefusedError as exc:
            self._end(exc.code, str(exc))
        except _StalledError:
            self._end(Code.DEADLINE_EXCEEDED, f"nothing was taken for {STALL_S:g} s")
        except TimeoutError:
            said = "context deadline exceeded" if limit.expired() else f"nothing was asked for {STALL_S:g} s"
            self._end(Code.DEADLINE_EXCEEDED, said)
        except GoneError:
            _counted(self._method.name, Code.CANCELLED)
        except asyncio.CancelledError:
            _counted(self._method.name, Code.CANCELLED)
            raise

    async def _send_all(self, batches: AsyncIterator[Batch], key: Key | None, ready: bytes) -> None:
        """Raises: what answering does; BusyError, _StalledError, GoneError."""
        whole = Batch((), 0)  # an answer to be kept is sent with its end, if it is all that there is
        async with aclosing(batches):  # type: ignore[type-var] # all are generators
            while True:
                await self._room.turns.spend(1, self._who)
                batch = await anext(batches, None)
                if batch is None:
                    break
                if key is not None and not whole.messages:
                    whole = batch
                    continue
                if whole.messages:
                    await self._send(_framed(whole.messages), whole.size)
                    key, whole = None, Batch((), 0)
                await self._send(_framed(batch.messages), batch.size)
        framed = ready or _framed(whole.messages)
        if key is not None and len(framed) <= _KEPT_BYTES:
            self._room.keep(key, framed)
        if not self._stream.fits(len(framed)):
            await self._send(framed, max(whole.size, len(framed)))
            framed = b""
        _counted(self._method.name, Code.OK)
        self._stream.finish(_HEADER, framed, _OK)

    async def _send(self, framed: bytes, size: int) -> None:
        """size: bytes that are in memory until it is taken. Raises: BusyError, _StalledError, GoneError."""
        await self._room.hold(self._who, size)
        try:
            for at in range(0, len(framed), _PIECE):
                async with asyncio.timeout(STALL_S):
                    await self._stream.send(_HEADER, memoryview(framed)[at : at + _PIECE])
        except TimeoutError:
            raise _StalledError from None
        finally:
            self._room.give_back(self._who, size)

    def _refuse(self, why: _RefusedError) -> None:
        self._over = True
        self._end(why.code, str(why), why.status, why.more)

    def _end(self, code: Code, text: str, status: int = 200, more: bytes = b"") -> None:
        """With an error. What was not sent yet is not sent any more."""
        _counted(self._method.name, code)
        said = field(b"grpc-status", b"%d" % code) + field(b"grpc-message", _percent(text)) + more
        self._stream.fail(said if self._stream.said else _header(status) + said)


async def _nothing() -> AsyncIterator[Batch]:
    nothing: tuple[Batch, ...] = ()
    for batch in nothing:
        yield batch


def _framed(messages: Sequence[bytes]) -> bytes:
    return b"".join([part for each in messages for part in (_GRPC_HEAD.pack(0, len(each)), each)])


def _header(status: int) -> bytes:
    """Of an answer that is nothing but its end; RFC 7541, 6.2.2 and appendix A: 8 is :status."""
    return _HEADER if status == 200 else _NO_TABLE + b"\x08" + string(b"%d" % status) + _CONTENT_TYPE


def _counted(method: str, code: Code) -> None:
    metrics.registry_calls.labels(method, code.name).inc()


def _text(written: bytes) -> str:
    return written[:_QUOTED].decode(errors="replace")


def _quoted(written: bytes) -> str:
    return quoted(_text(written))


def _percent(text: str) -> bytes:
    """grpc.io, "gRPC over HTTP2": Percent-Byte-Encoded."""
    return b"".join(
        bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in text[:_TEXT].encode(errors="replace")
    )
