"""gRPC's calls of one message each way, many at the same time over one connection of HTTP/2, on the event loop.

50 us of CPU a call, where grpc.aio took 200, and 400 on a busy loop, since its thread and the loop wait for each
other's interpreter lock. Retries nothing, but says of each failure whether the call was certainly not done.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final

from cacheserver.etcd import http2
from cacheserver.etcd.address import Address, Certificates, Metadata
from cacheserver.http2 import frames
from cacheserver.http2.frames import GRPC_HEAD, frame
from cacheserver.http2.grpc import HEADER_BYTES, CallError, Code, ending

CONNECT_WITHIN_S: Final = 2.0
"""For a connection to be made and etcd's first word on it, such as to the address of a pod that is gone, which nobody
refuses. Another endpoint, or a later try, is worth more than waiting longer."""
_AGAIN_AFTER_S: Final = 0.05
"""Between two tries to connect: until then everybody is told what the last one met."""

_RETURNED: Final = 1 << 20
_WHOLE: Final = frames.END_HEADERS | frames.PADDED | frames.PRIORITIZED
_LAST_NUMBER: Final = frames.LARGEST_WINDOW - 2  # RFC 9113 section 5.1.1: then a new connection
# An answer of any size may come, for the store pages by bytes, and it is wanted whole: held back by TCP alone.
_PREFACE: Final = http2.preface(stream_window=frames.LARGEST_WINDOW, window=frames.LARGEST_WINDOW)


class Line:
    """Calls to one address, over one connection at a time, made when it is needed. close() it, for good."""

    def __init__(
        self, address: Address, certificates: Certificates, *, connect_within_s: float = CONNECT_WITHIN_S
    ) -> None:
        self._address = address
        self._certificates = certificates
        self._connect_within_s = connect_within_s
        self._connection: Calls | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._failure: CallError | None = None  # of the last try to connect
        self._failed_at = float("-inf")
        self._blocks: dict[str, tuple[Metadata, bytes]] = {}  # by the method's path: there are a dozen
        self._closed = False

    async def call(self, path: str, message: bytes, metadata: Metadata, timeout_s: float) -> bytes:
        """The answer's message. Raises: CallError."""
        known = self._blocks.get(path)
        if known is None or known[0] is not metadata:
            known = self._blocks[path] = metadata, http2.headers(self._address, path, metadata)
        connection = self._connection
        if connection is None or not connection.usable:
            give_up_at = monotonic() + timeout_s
            try:
                async with asyncio.timeout(timeout_s):
                    connection = await self._connected()
            except TimeoutError:
                raise CallError(Code.UNAVAILABLE, "not connected within the deadline", sent=False) from None
            timeout_s = give_up_at - monotonic()
        return await connection.ask(known[1], frames.grpc_message(message), timeout_s)

    async def close(self) -> None:
        """Ends the connection, also one that is just being made."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._connection is not None:
            self._connection.close()

    async def _connected(self) -> Calls:
        """The connection that all who wait get, or why there is none. Raises: CallError."""
        loop = asyncio.get_running_loop()
        if self._connecting is None:
            if self._closed:
                raise CallError(Code.UNAVAILABLE, "closed", sent=False)
            if self._failure is None or loop.time() - self._failed_at >= _AGAIN_AFTER_S:
                self._connecting = asyncio.create_task(self._connect(), name="etcd connection")
                self._connecting.add_done_callback(self._tried)
        if self._connecting is not None:
            await asyncio.wait([self._connecting])  # who gives up does not end it for the others
        connection = self._connection
        if connection is None or not connection.usable:
            why = self._failure or CallError(Code.UNAVAILABLE, "closed")
            raise CallError(why.code, why.details, sent=False) from why
        return connection

    async def _connect(self) -> None:
        self._connection, connection = None, None
        try:
            async with asyncio.timeout(self._connect_within_s):
                connection = await http2.connect(Calls, self._address, self._certificates)
                await connection.begun
        except (OSError, ValueError, RuntimeError, CallError) as exc:  # TimeoutError is an OSError
            why = "nothing came in time" if isinstance(exc, TimeoutError) else str(exc)
            self._failure = CallError(Code.UNAVAILABLE, f"cannot connect: {why or type(exc).__name__}", sent=False)
            self._failed_at = asyncio.get_running_loop().time()
        else:
            self._connection, self._failure, connection = connection, None, None
        finally:
            if connection is not None:
                connection.close()

    def _tried(self, _: asyncio.Task[None]) -> None:
        self._connecting = None


_NOTHING: Final = memoryview(b"")


class _Call:
    """One call: what came of its answer, and what of its question is not sent yet."""

    __slots__ = ("answer", "body", "header", "number", "trailers", "unsent", "window")

    def __init__(self, number: int, window: int) -> None:
        self.number = number
        self.window = window  # that etcd takes of it
        self.unsent = _NOTHING
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.header = self.trailers = b""
        self.body = bytearray()

    def fail(self, code: Code, details: str, *, sent: bool = True) -> None:
        """sent: False also where etcd has not got all of the question, for then it did nothing."""
        if not self.answer.done():
            self.answer.set_exception(CallError(code, details, sent=sent and not self.unsent))

    def finish(self) -> None:
        """All of the answer has come."""
        code, details = ending(self.header, self.trailers)
        with memoryview(self.body) as body:  # of 4 MB, a page, a slice would be one copy more
            message = bytes(body[GRPC_HEAD:])
        if code is not Code.OK:
            self.fail(code, details)
        elif len(self.body) < GRPC_HEAD or int.from_bytes(self.body[1:GRPC_HEAD], "big") != len(message):
            self.fail(Code.INTERNAL, "an answer that is not one message")
        elif self.body[0]:
            self.fail(Code.INTERNAL, "an answer that is compressed")
        elif not self.answer.done():
            self.answer.set_result(message)


class Calls(http2.Connection):
    """begun: until etcd has said its settings, so that whatever cannot speak with us at all is found before anything is
    asked."""

    def __init__(self) -> None:
        super().__init__(_PREFACE)
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._why = ""
        self._number = -1
        self._calls: dict[int, _Call] = {}
        self._most = frames.LARGEST_WINDOW  # that etcd takes at the same time
        self._room = asyncio.Event()
        self._waiting = 0  # for it
        self._paused = False
        self._window = self._initial = frames.WINDOW  # that we may send: on the connection, on a new stream
        self._sending: dict[int, _Call] = {}
        self._received = 0  # that etcd was not told of yet
        self._block: tuple[int, int, bytearray] | None = None  # of which stream, its flags, a header's first parts

    async def ask(self, block: bytes, body: bytes, timeout_s: float) -> bytes:
        """The answer's message. Waits while etcd takes no more. Raises: CallError."""
        if self._paused or len(self._calls) >= self._most:
            timeout_s = await self._wait_for_room(timeout_s)
        if not self.usable:
            raise CallError(Code.UNAVAILABLE, self._why or "the connection is going", sent=False)
        self._number += 2
        number = self._number
        self.usable = number < _LAST_NUMBER
        call = self._calls[number] = _Call(number, self._initial)
        begin, size = frame(frames.HEADERS, frames.END_HEADERS, number, block), len(body)
        if size <= min(self._window, self._initial, frames.LARGEST_FRAME):  # nearly all of them
            self._window -= size
            call.window -= size
            self._say(begin + frame(frames.DATA, frames.END_STREAM, number, body))
        else:
            call.unsent = memoryview(body)
            self._sending[number] = call
            self._say(begin)
            self._send_on()
        # asyncio.timeout() would take 5 us more, a tenth of the call.
        late = asyncio.get_running_loop().call_later(timeout_s, self._give_up, call, self.heard)
        try:
            return await call.answer
        finally:
            late.cancel()
            if self._calls.pop(number, None) is not None:  # whoever asked gave up
                self._sending.pop(number, None)
                self._say(frame(frames.RST_STREAM, 0, number, frames.CANCEL.to_bytes(4, "big")))
            if self._waiting:
                self._room.set()
            if not self.usable:
                self._part()

    async def _wait_for_room(self, timeout_s: float) -> float:
        """How much of the time is left. Raises: CallError."""
        give_up_at = monotonic() + timeout_s
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                while self.usable and (self._paused or len(self._calls) >= self._most):
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            raise CallError(Code.UNAVAILABLE, "etcd took no more calls within the deadline", sent=False) from None
        finally:
            self._waiting -= 1
        return give_up_at - monotonic()

    def _give_up(self, call: _Call, heard: int) -> None:
        """There was no answer in time. Where nothing else came either, the other side may have gone without a word."""
        call.fail(Code.DEADLINE_EXCEEDED, "no answer within the deadline")
        if self.heard == heard:
            self._retire()

    def _retire(self) -> None:
        """No new calls; it is closed once those under way have ended."""
        self.usable = False
        self._room.set()
        self._part()

    def _part(self) -> None:
        if not self.usable and not self._calls:
            self._end(self._why or "the connection is going")

    # --- asyncio.Protocol ---

    def pause_writing(self) -> None:
        """The kernel takes no more."""
        self._paused = True

    def resume_writing(self) -> None:
        """It does again."""
        self._paused = False
        self._send_on()

    # --- what goes ---

    def _some_of(self, call: _Call) -> bytes:
        """Frames with as much of its question as etcd takes."""
        pieces: list[bytes | memoryview] = []
        left = max(0, min(len(call.unsent), call.window, self._window))
        self._window -= left
        call.window -= left
        while left:
            size = min(left, frames.LARGEST_FRAME)
            piece, call.unsent = call.unsent[:size], call.unsent[size:]
            left -= size
            flags = 0 if call.unsent else frames.END_STREAM
            pieces += (frames.head(size, frames.DATA, flags, call.number), piece)
        return b"".join(pieces)

    def _send_on(self) -> None:
        """What waited for room, in the order in which it was asked."""
        for call in [*self._sending.values()]:
            if self._paused or self._window <= 0:
                break
            self._say(self._some_of(call))
            if not call.unsent:
                del self._sending[call.number]
        self._room.set()

    # --- what comes ---

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None and (kind != frames.CONTINUATION or stream != self._block[0]):
            self._end("a header is not complete")
        elif kind == frames.DATA:
            self._take_data(flags, stream, payload)
        elif kind == frames.HEADERS and flags & _WHOLE == frames.END_HEADERS:
            self._headed(flags, stream, payload)
        elif kind in (frames.HEADERS, frames.CONTINUATION):
            self._take_parts(kind, flags, stream, payload)
        elif kind == frames.RST_STREAM:
            code = int.from_bytes(payload, "big")
            self._fail(stream, f"etcd ended the stream (HTTP/2 error {code})", sent=code != frames.REFUSED_STREAM)
        elif kind == frames.WINDOW_UPDATE:
            self._more_room(stream, int.from_bytes(payload, "big") & frames.LARGEST_WINDOW)
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            self._set(payload)
            super()._take(kind, flags, stream, payload)
        elif kind == frames.GOAWAY:
            self._leave(int.from_bytes(payload[:4], "big") & frames.LARGEST_WINDOW)
        else:
            super()._take(kind, flags, stream, payload)

    def _take_data(self, flags: int, stream: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received >= _RETURNED:
            self._say(frames.window_update(0, self._received))
            self._received = 0
        call = self._calls.get(stream)
        if flags & frames.PADDED:
            self._end("padding was not expected")
        elif call is not None:  # else asked by somebody who gave up
            call.body += payload
            if flags & frames.END_STREAM:
                self._finish(call)

    def _take_parts(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """A header that does not stand in one frame alone."""
        if kind == frames.HEADERS and flags & (frames.PADDED | frames.PRIORITIZED):
            self._end("padding was not expected")
            return
        _, begun, block = self._block or (stream, flags, bytearray())
        block += payload
        if len(block) > HEADER_BYTES:
            self._end("a header is too large")
        elif flags & frames.END_HEADERS:
            self._block = None
            self._headed(begun, stream, bytes(block))
        else:
            self._block = stream, begun, block

    def _headed(self, flags: int, stream: int, block: bytes) -> None:
        call = self._calls.get(stream)
        if call is None:
            return
        if call.header:
            call.trailers = block
        else:
            call.header = block
        if flags & frames.END_STREAM:
            self._finish(call)

    def _finish(self, call: _Call) -> None:
        del self._calls[call.number]
        self._sending.pop(call.number, None)
        call.finish()

    def _fail(self, stream: int, why: str, *, sent: bool) -> None:
        call = self._calls.pop(stream, None)
        if call is not None:
            self._sending.pop(stream, None)
            call.fail(Code.UNAVAILABLE, why, sent=sent)

    def _more_room(self, stream: int, more: int) -> None:
        if stream == 0:
            self._window += more
        elif stream in self._calls:
            self._calls[stream].window += more
        self._send_on()

    def _set(self, settings: bytes) -> None:
        """RFC 9113 section 6.9.2: a new initial window changes that of streams that are open, too."""
        for name, value in frames.read_settings(settings):
            if name == frames.INITIAL_WINDOW_SIZE:
                for call in self._calls.values():
                    call.window += value - self._initial
                self._initial = value
            elif name == frames.MAX_CONCURRENT_STREAMS:
                self._most = value
        self._send_on()
        if not self.begun.done():
            self.begun.set_result(None)

    def _leave(self, last: int) -> None:
        """etcd takes no more streams behind that one (6.8), and answers those before."""
        self._why = self._why or "etcd closes the connection"
        for number in [number for number in self._calls if number > last]:
            self._fail(number, self._why, sent=False)
        if not self.begun.done():
            self._end(self._why)
        else:
            self._retire()

    def _end(self, why: str) -> None:
        self._why = self._why or why
        super()._end(why)
        if not self.begun.done():
            self.begun.set_exception(CallError(Code.UNAVAILABLE, self._why, sent=False))
            self.begun.exception()  # nobody may be waiting any more
        for stream in [*self._calls]:
            self._fail(stream, self._why, sent=True)
        self._room.set()
