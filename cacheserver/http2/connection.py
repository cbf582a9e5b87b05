"""A server's side of one connection of HTTP/2 (RFC 9113), in plain text: frames into streams, and answers into frames.

Made for clients that nobody knows: whatever one sends has a bound, in bytes, in streams, in time, and in what it makes
us do for nothing (_Patience). Work is done when Pace has time for it. Knows nothing of gRPC, nor of other connections;
who has made it says when to look() at the clock, and when to leave().
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol, cast

from cacheserver.http2 import frames as f
from cacheserver.http2.frames import ProtocolError
from cacheserver.http2.requests import HEADER_BYTES, BlockError, Decoder
from cacheserver.http2.stream import ASK_WITHIN_S, STREAM_WINDOW, Answerer, Stream
from cacheserver.turns import Pace

log = logging.getLogger(__name__)

STREAMS: Final = 100
"""Of a connection, as in grpc-go; more wait at the client. One that was given up counts until its task has ended."""
UNSENT_BYTES: Final = 128 << 10
"""That the kernel did not take yet. Over it nothing is sent, and nothing read: who takes nothing is not heard."""
UNREAD_BYTES: Final = 64 << 10
"""Of frames that wait for their turn, or for the rest of them. Then nothing is read."""
BEGIN_WITHIN_S: Final = 10.0
"""For a client to say that it speaks HTTP/2."""
PART_WITHIN_S: Final = 10.0
"""For a frame, or a header in several, to be complete."""
UNTAKEN_WITHIN_S: Final = 60.0
"""Nothing of what was sent is taken: as over HTTP/1."""
LEAVE_WITHIN_S: Final = 30.0
"""For calls that were asked before leave() to end. ListBundles of a large catalog takes a client a second or two."""
PATIENCE: Final = 2000
"""Frames that lead to nothing. Each costs one, a call that the client gives up again 8. A call that is answered is
worth 8, a KiB that is sent 1, a second 100: clients send two frames for a call, and three for 64 KiB."""
_A_SECOND: Final = 100
_A_CALL: Final = 8
_SETTINGS_MOST: Final = 64
"""In a frame; there are some ten."""
_PIECE: Final = 64 << 10
_ROUND: Final = 1 << 20
"""Sent before others have their turn."""
_FRAMES_A_STEP: Final = 8
_GOODBYE_WITHIN_S: Final = 5.0
"""For the client to close its side, or to say that it has seen that we are leaving."""
_LEAVING: Final = b"leaving\0"  # of the PING behind the first GOAWAY


class Home(Protocol):
    """Who has made a connection."""

    def entered(self, connection: Connection) -> bool:
        """A new one; False: there is no room for it."""
        ...

    def left(self, connection: Connection) -> None:
        """It is closed."""
        ...

    def opened(self, stream: Stream) -> Answerer:
        """Something is asked. Later words to the Answerer are of what came behind the header."""
        ...

    def complain(self, connection: Connection, why: str) -> None:
        """It is ended, for its client did what it must not."""
        ...


class Connection(asyncio.Protocol):
    """where: whom it is counted to; Home sets it."""

    def __init__(self, home: Home, pace: Pace) -> None:
        self.where = ""
        self.idle_since = 0.0  # 0: something is asked
        self.leavings = 0  # how often leave() was said
        self._home = home
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._now = self._begun_at = self._loop.time()
        self._greeted = self._settled = False
        self._over = self._entered = False
        # what comes
        self._buffer = bytearray()
        self._waiting = self._deaf = False
        self._part_since = 0.0
        self._decoder = Decoder()
        self._block: bytearray | None = None
        self._block_stream = self._block_flags = 0
        self._received = f.WINDOW  # that the client may still send
        self._returned = 0  # that it was not told of yet
        self._patience = _Patience(self._now)
        # streams
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._places = 0
        # what goes
        self._out: list[bytes | memoryview] = [_SETTINGS]
        self._out_bytes = 0
        self._window = self._initial = f.WINDOW
        self._largest = f.LARGEST_FRAME
        self._ready: dict[Stream, None] = {}
        self._pumping = False
        self._full_since = 0.0
        # its end
        self._leaving_since = 0.0
        self._last_taken: int | None = None  # once the client knows
        self._bye_since = 0.0

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        self._transport.set_write_buffer_limits(high=UNSENT_BYTES)
        self._entered = self._home.entered(self)
        if not self._entered:
            self.abort()
            return
        self.idle_since = self._now
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whichever side."""
        self._over, self._transport = True, None
        self._buffer.clear()
        self._lose()
        if self._entered:
            self._home.left(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of frames, split anywhere."""
        if self._over:
            return
        self._buffer += data
        self._hear()

    def eof_received(self) -> bool:
        """The client says no more; and wants no answers, since none of gRPC's does so before."""
        return False

    def pause_writing(self) -> None:
        """The kernel takes no more."""
        self._full_since = self._loop.time()

    def resume_writing(self) -> None:
        """It does again."""
        self._full_since = 0.0
        for stream in [*self._streams.values()]:
            if not stream.unsent:
                stream.drained()
        self._pump()
        self._hear()
        self._listen()

    # --- for who has made it ---

    def look(self, now: float) -> None:
        """End what is late."""
        self._now = now
        if self._over:
            if self._bye_since and now - self._bye_since >= _GOODBYE_WITHIN_S:
                self.abort()
            return
        late = (
            ("it did not say in time that it speaks HTTP/2", BEGIN_WITHIN_S, 0.0 if self._settled else self._begun_at),
            ("a frame or header was not complete in time", PART_WITHIN_S, self._part_since),
            ("nothing was taken in time", UNTAKEN_WITHIN_S, self._full_since),
        )
        for why, within_s, since in late:
            if since and now - since >= within_s:
                self._complain(why)
                self.abort()
                return
        self._patience.rest(now)
        left_s = now - self._leaving_since if self._leaving_since else 0.0
        if left_s >= LEAVE_WITHIN_S:
            self.abort()
        elif left_s >= _GOODBYE_WITHIN_S:
            self._take_no_more()
        for stream in [*self._streams.values()]:
            if not stream.busy and now - stream.since >= ASK_WITHIN_S and stream.answerer is not None:
                stream.answerer.late()

    def leave(self) -> None:
        """Tell the client that it has to connect anew (6.8): what it has asked until it knows of that is answered."""
        self.leavings += 1
        if self._leaving_since or self._over:
            return
        self._leaving_since = self._loop.time()
        self.say(_goaway(f.LARGEST_WINDOW, f.NO_ERROR))
        self.say(f.frame(f.PING, 0, 0, _LEAVING))
        self._flush()

    def abort(self) -> None:
        """It is over, whatever is under way."""
        self._over = True
        if self._transport is not None:
            self._transport.abort()

    # --- for its streams ---

    @property
    def transport(self) -> asyncio.Transport | None:
        """None: it is closed."""
        return self._transport

    @property
    def full(self) -> bool:
        """Whether the kernel takes no more."""
        return self._full_since != 0.0

    @property
    def streams(self) -> int:
        """How many have a place."""
        return self._places

    def has(self, stream: Stream) -> bool:
        """Whether it is open."""
        return not self._over and stream.id in self._streams

    def fits(self, size: int) -> bool:
        """Whether so many bytes can be sent at once."""
        free = not self._full_since and not self._ready and self._out_bytes <= _PIECE
        return free and size <= self._window and not self._over

    def say(self, frame: bytes) -> None:
        """To be sent with the next flush."""
        self._out.append(frame)
        self._out_bytes += len(frame)

    def push(self, stream: Stream) -> None:
        """It has something to be sent, or its end."""
        if not self.has(stream):
            return
        if stream.unsent and self.fits(len(stream.unsent)):
            self._send_piece(stream, len(stream.unsent))
        self._may_send(stream)
        if not stream.unsent and stream.tail:
            self._end(stream)
        self._pump()

    def give_back(self, size: int, stream: Stream | None = None) -> None:
        """The client may send as much more, on the stream if that goes on, and on all of them."""
        if stream is not None and not stream.ended and self.has(stream):
            stream.window_here += size
            self.say(f.window_update(stream.id, size))
        self._returned += size
        if self._returned >= STREAM_WINDOW // 4:
            self.say(f.window_update(0, self._returned))
            self._received += self._returned
            self._returned = 0
            self._flush_soon()

    def reset(self, stream: Stream, code: int) -> None:
        """RST_STREAM."""
        if self.has(stream):
            self.say(f.frame(f.RST_STREAM, 0, stream.id, code.to_bytes(4, "big")))
            self._forget(stream)
            self._flush_soon()

    def free(self, stream: Stream) -> None:
        """No task answers it any more."""
        if stream.id not in self._streams:
            self._leave_place()

    # --- what comes ---

    def _hear(self) -> None:
        """Have what came worked on, unless it is already."""
        if not self._waiting and self._buffer and not self._full_since:
            self._waiting = True
            self._pace.work(self._work, self.where)
        if not self._deaf and len(self._buffer) >= UNREAD_BYTES and self._transport is not None:
            self._deaf = True
            self._transport.pause_reading()

    def _work(self, late: Callable[[], bool]) -> bool:
        """Some frames. True: there are more, and no time."""
        self._now = self._loop.time()
        try:
            more = self._read(late)
        except ProtocolError as exc:
            self._refuse(exc.code, str(exc))
            more = False
        except Exception:
            log.exception("a connection of HTTP/2 ends for a fault of ours")
            self.abort()
            more = False
        self._waiting = more
        self._listen()
        return more

    def _listen(self) -> None:
        """Read on, if there is nothing left of what was read."""
        idle = not self._waiting and not self._full_since and not self._over
        if self._deaf and idle and self._transport is not None:
            self._deaf = False
            self._transport.resume_reading()

    def _read(self, late: Callable[[], bool]) -> bool:
        """Raises: ProtocolError."""
        if not self._greeted and not self._greet():
            return False
        more, self._pumping = True, True
        try:
            while more and not self._over and not self._full_since:
                size = len(self._buffer)
                try:
                    more = f.split(self._buffer, self._take, _FRAMES_A_STEP)
                except f.FrameTooLargeError:
                    raise ProtocolError(f.FRAME_SIZE_ERROR, "a frame is too large") from None
                if len(self._buffer) != size and self._block is None:
                    self._part_since = 0.0
                if self._out_bytes > _PIECE:
                    self._pump()
                if more and late():
                    return not self._over and not self._full_since
        finally:
            self._pumping = False
            self._pump()
        if not self._buffer and self._block is None:
            self._part_since = 0.0
        elif not self._part_since:
            self._part_since = self._now
        return False

    def _greet(self) -> bool:
        """Whether it has said the preface, which is no frame. Raises: ProtocolError."""
        if not f.PREFACE.startswith(self._buffer[: len(f.PREFACE)]):
            raise ProtocolError(f.PROTOCOL_ERROR, "it does not speak HTTP/2")
        if len(self._buffer) < len(f.PREFACE):
            return False
        del self._buffer[: len(f.PREFACE)]
        self._greeted = True
        return True

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> bool:
        """One frame. False: no more now. Raises: ProtocolError."""
        if not self._patience.spend(1):
            raise ProtocolError(f.ENHANCE_YOUR_CALM, "it sends frames that lead to nothing")
        if not self._settled and (kind != f.SETTINGS or flags & f.ACK):
            raise ProtocolError(f.PROTOCOL_ERROR, "its first frame is not SETTINGS")
        if self._block is not None and (kind != f.CONTINUATION or stream != self._block_stream):
            raise ProtocolError(f.PROTOCOL_ERROR, "a header is not complete")
        if kind == f.HEADERS:
            self._take_headers(flags, stream, payload)
        elif kind == f.DATA:
            self._take_data(flags, stream, payload)
        elif kind == f.WINDOW_UPDATE:
            self._take_window(stream, payload)
        elif kind == f.CONTINUATION:
            self._take_continuation(flags, payload)
        elif kind == f.RST_STREAM:
            self._take_reset(stream, payload)
        elif kind == f.PRIORITY:  # 5.3.2: of no use any more
            if not stream or len(payload) != 5:
                raise ProtocolError(f.PROTOCOL_ERROR if not stream else f.FRAME_SIZE_ERROR, "PRIORITY is wrong")
        elif kind in (f.SETTINGS, f.PING, f.GOAWAY):
            if stream:
                raise ProtocolError(f.PROTOCOL_ERROR, "a frame of the connection names a stream")
            self._take_common(kind, flags, payload)
        elif kind == f.PUSH_PROMISE:
            raise ProtocolError(f.PROTOCOL_ERROR, "a client pushes nothing")
        return not self._over and not self._full_since

    def _take_common(self, kind: int, flags: int, payload: bytes) -> None:
        """Raises: ProtocolError."""
        if kind == f.SETTINGS:
            if len(payload) % 6 or (flags & f.ACK and payload):
                raise ProtocolError(f.FRAME_SIZE_ERROR, "SETTINGS has no such size")
            if not flags & f.ACK:
                self._set(payload)
        elif kind == f.PING:
            if len(payload) != 8:
                raise ProtocolError(f.FRAME_SIZE_ERROR, "PING has 8 bytes")
            if not flags & f.ACK:
                self.say(f.frame(f.PING, f.ACK, 0, payload))
            elif payload == _LEAVING:
                self._take_no_more()
        # GOAWAY of a client: it asks nothing more, and closes the connection when it is answered.

    def _set(self, payload: bytes) -> None:
        """Raises: ProtocolError."""
        if len(payload) > 6 * _SETTINGS_MOST:
            raise ProtocolError(f.ENHANCE_YOUR_CALM, "it has too many settings")
        self._settled = True
        initial = self._initial
        for name, value in f.read_settings(payload):
            if name == f.INITIAL_WINDOW_SIZE:
                initial = value
                if value > f.LARGEST_WINDOW:
                    raise ProtocolError(f.FLOW_CONTROL_ERROR, "a window is too large")
            elif name == f.MAX_FRAME_SIZE:
                self._largest = value
                if not f.LARGEST_FRAME <= value < 1 << 24:
                    raise ProtocolError(f.PROTOCOL_ERROR, "frames have no such size")
            elif name == f.ENABLE_PUSH and value > 1:
                raise ProtocolError(f.PROTOCOL_ERROR, "push is on or off")
        # 6.9.2: the window of open streams changes with it, and may become negative.
        for stream in self._streams.values() if initial != self._initial else ():
            stream.window += initial - self._initial
            if stream.window > f.LARGEST_WINDOW:
                raise ProtocolError(f.FLOW_CONTROL_ERROR, "a window is too large")
            self._may_send(stream)
        self._initial = initial
        self.say(f.frame(f.SETTINGS, f.ACK, 0))

    def _take_headers(self, flags: int, stream: int, payload: bytes) -> None:
        """Raises: ProtocolError."""
        if not stream % 2:
            raise ProtocolError(f.PROTOCOL_ERROR, "clients have streams of odd numbers")
        block = _unpadded(flags, payload)
        if flags & f.PRIORITIZED:
            if len(block) < 5:
                raise ProtocolError(f.FRAME_SIZE_ERROR, "HEADERS is too short for its priority")
            block = block[5:]
        if len(block) > HEADER_BYTES:
            raise ProtocolError(f.ENHANCE_YOUR_CALM, "a header is too large")
        if flags & f.END_HEADERS:
            self._take_block(flags, stream, block)
        else:
            self._block, self._block_stream, self._block_flags = bytearray(block), stream, flags

    def _take_continuation(self, flags: int, payload: bytes) -> None:
        """Raises: ProtocolError."""
        if self._block is None:
            raise ProtocolError(f.PROTOCOL_ERROR, "CONTINUATION of nothing")
        # An empty one is nothing but work for us (CVE-2024-27316).
        if len(self._block) + len(payload) > HEADER_BYTES or not (payload or flags & f.END_HEADERS):
            raise ProtocolError(f.ENHANCE_YOUR_CALM, "a header is too large, or in too many parts")
        self._block += payload
        if flags & f.END_HEADERS:
            block, self._block = bytes(self._block), None
            self._take_block(self._block_flags, self._block_stream, block)

    def _take_block(self, flags: int, number: int, block: bytes) -> None:
        """Raises: ProtocolError."""
        try:
            request = self._decoder.read(block)  # also of what is not answered: the table is of all
        except BlockError as exc:
            raise ProtocolError(f.COMPRESSION_ERROR, f"a header cannot be read: {exc}") from None
        if number <= self._last:
            stream = self._streams.get(number)
            if stream is None:
                return  # trailers of what is answered already
            if stream.ended or not flags & f.END_STREAM:
                raise ProtocolError(f.PROTOCOL_ERROR, "a second header is no end")
            self._ended(stream)
            return
        self._last = number
        if self._last_taken is not None:
            return  # 6.8: the client hears that nobody answers it
        if request is None or self._places >= STREAMS:
            code = f.PROTOCOL_ERROR if request is None else f.REFUSED_STREAM
            self._waste(_A_CALL)
            self.say(f.frame(f.RST_STREAM, 0, number, code.to_bytes(4, "big")))
            return
        stream = Stream(self, number, request, self._initial, self._now)
        self._streams[number] = stream
        self._places += 1
        self.idle_since = 0.0
        stream.ended = bool(flags & f.END_STREAM)
        stream.answerer = self._home.opened(stream)
        if stream.ended and self.has(stream):
            stream.answerer.arrived()

    def _take_data(self, flags: int, number: int, payload: bytes) -> None:
        """Raises: ProtocolError."""
        size = len(payload)
        self._received -= size
        if self._received < 0:
            raise ProtocolError(f.FLOW_CONTROL_ERROR, "more came than it may send")
        stream = self._streams.get(number)
        if stream is None or stream.ended:
            if not number or number > self._last or stream is not None:
                raise ProtocolError(f.STREAM_CLOSED if stream else f.PROTOCOL_ERROR, "DATA of no stream")
            self.give_back(size)  # sent before it knew that this was answered
            return
        stream.window_here -= size
        if stream.window_here < 0:
            raise ProtocolError(f.FLOW_CONTROL_ERROR, "more came than it may send")
        body = _unpadded(flags, payload)
        if len(body) < size:
            self.give_back(size - len(body), stream)
        stream.received += body
        if flags & f.END_STREAM:
            self._ended(stream)
        elif body and stream.answerer is not None:
            stream.answerer.arrived()

    def _ended(self, stream: Stream) -> None:
        stream.ended = True
        if stream.answerer is not None:
            stream.answerer.arrived()

    def _take_window(self, number: int, payload: bytes) -> None:
        """Raises: ProtocolError."""
        if len(payload) != 4:
            raise ProtocolError(f.FRAME_SIZE_ERROR, "WINDOW_UPDATE has 4 bytes")
        more = int.from_bytes(payload, "big") & f.LARGEST_WINDOW
        if not number:
            self._window += more
            if not more or self._window > f.LARGEST_WINDOW:
                code = f.FLOW_CONTROL_ERROR if more else f.PROTOCOL_ERROR
                raise ProtocolError(code, "the window grows by nothing, or too far")
            return
        self._known(number)
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.window += more
        if not more or stream.window > f.LARGEST_WINDOW:
            self._waste(_A_CALL)
            self.reset(stream, f.FLOW_CONTROL_ERROR if more else f.PROTOCOL_ERROR)
        else:
            self._may_send(stream)

    def _take_reset(self, number: int, payload: bytes) -> None:
        """Raises: ProtocolError."""
        if len(payload) != 4:
            raise ProtocolError(f.FRAME_SIZE_ERROR, "RST_STREAM has 4 bytes")
        self._known(number)
        stream = self._streams.get(number)
        if stream is not None:
            self._waste(_A_CALL)  # CVE-2023-44487
            self._forget(stream)

    def _known(self, number: int) -> None:
        """Raises: ProtocolError, where nobody has asked anything yet on a stream."""
        if not number % 2 or number > self._last:
            raise ProtocolError(f.PROTOCOL_ERROR, "a frame of a stream that was not begun")

    def _waste(self, cost: int) -> None:
        """Raises: ProtocolError."""
        if not self._patience.spend(cost):
            raise ProtocolError(f.ENHANCE_YOUR_CALM, "it asks and gives up again")

    # --- what goes ---

    def _may_send(self, stream: Stream) -> None:
        if stream.unsent and stream.window > 0:
            self._ready[stream] = None
        else:
            self._ready.pop(stream, None)

    def _pump(self) -> None:
        """Send what the windows and the kernel take: a piece of each stream in turn."""
        if self._over or self._pumping:
            return
        sent, self._pumping = 0, True
        try:
            while self._ready and self._window > 0 and not self._full_since and sent < _ROUND:
                stream = next(iter(self._ready))
                del self._ready[stream]
                sent += self._send_piece(stream, _PIECE)
                if stream.unsent:
                    self._may_send(stream)
                elif stream.tail:
                    self._end(stream)
                else:
                    stream.drained()
                if self._out_bytes >= _PIECE:
                    self._flush()
        finally:
            self._pumping = False
        self._flush()
        if sent >= _ROUND and self._ready:
            self._loop.call_soon(self._pump)

    def _send_piece(self, stream: Stream, most: int) -> int:
        size = max(0, min(len(stream.unsent), stream.window, self._window, most))
        out, unsent, largest = self._out, stream.unsent, self._largest
        for at in range(0, size, largest):
            part = unsent[at : min(at + largest, size)]
            out.append(f.head(len(part), f.DATA, 0, stream.id))
            out.append(part)
        stream.unsent = unsent[size:]
        stream.window -= size
        self._window -= size
        self._out_bytes += size
        self._patience.earn(size >> 10)
        return size

    def _end(self, stream: Stream) -> None:
        """All of the answer was sent but its end."""
        self.say(stream.trailing())
        if not stream.ended:  # 8.1: the rest of the question is not wanted
            self.say(f.frame(f.RST_STREAM, 0, stream.id, f.NO_ERROR.to_bytes(4, "big")))
        self._patience.earn(_A_CALL)
        stream.answerer = None
        self._forget(stream)

    def _flush_soon(self) -> None:
        """Now, unless it is done behind what is being done."""
        if not self._pumping:
            self._flush()

    def _flush(self) -> None:
        if self._out and self._transport is not None and not self._over:
            out, self._out, self._out_bytes = self._out, [], 0
            self._transport.write(b"".join(out))

    # --- its end, and that of streams ---

    def _forget(self, stream: Stream) -> None:
        del self._streams[stream.id]
        self._ready.pop(stream, None)
        if stream.received:
            self.give_back(len(stream.received))
            stream.received.clear()
        if not stream.busy:
            self._leave_place()
        stream.lost()
        self._bid_farewell()

    def _leave_place(self) -> None:
        self._places -= 1
        if not self._places:
            self.idle_since = self._loop.time()

    def _lose(self) -> None:
        """All streams, since nobody is there to take an answer."""
        streams, self._streams = [*self._streams.values()], {}
        self._ready.clear()
        for stream in streams:
            if not stream.busy:
                self._leave_place()
            stream.lost()

    def _take_no_more(self) -> None:
        if self._last_taken is None and self._leaving_since:
            self._last_taken = self._last
            self.say(_goaway(self._last, f.NO_ERROR))
            self._bid_farewell()
            self._flush_soon()

    def _bid_farewell(self) -> None:
        """Once everything is answered: our side is closed, and the client's when it has taken that. Closed at once, the
        kernel would throw away what is on its way to a client that says one more word."""
        if self._last_taken is not None and not self._streams and not self._bye_since and self._transport is not None:
            self._bye_since = self._loop.time()
            self._loop.call_soon(self._half_close)

    def _half_close(self) -> None:
        if self._transport is not None and not self._over:
            self._flush()
            self._over = True  # what the client says yet is thrown away
            self._buffer.clear()
            self._transport.write_eof()

    def _refuse(self, code: int, why: str) -> None:
        """The client did what it must not (5.4.1)."""
        self._complain(why)
        if self._greeted:
            self.say(_goaway(self._last, code))
        self._flush()
        self._over = True
        self._buffer.clear()
        self._lose()
        if self._transport is not None:
            self._bye_since = self._loop.time()
            self._transport.close()

    def _complain(self, why: str) -> None:
        self._home.complain(self, why)


class _Patience:
    """What a client may make us do for nothing."""

    def __init__(self, now: float) -> None:
        self._left = float(PATIENCE)
        self._at = now

    def spend(self, cost: int) -> bool:
        """False: there is none left."""
        self._left -= cost
        return self._left >= 0

    def earn(self, worth: float) -> None:
        """Something was to some use."""
        self._left = min(self._left + worth, PATIENCE)

    def rest(self, now: float) -> None:
        """Time has gone by."""
        self.earn((now - self._at) * _A_SECOND)
        self._at = now


def _unpadded(flags: int, payload: bytes) -> bytes:
    """Without what 6.1 lets a client add. Raises: ProtocolError."""
    if not flags & f.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(f.PROTOCOL_ERROR, "there is more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def _goaway(last: int, code: int) -> bytes:
    return f.frame(f.GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big"))


_SETTINGS: Final = f.settings(max_concurrent_streams=STREAMS, max_header_list_size=HEADER_BYTES)
"""What is said first."""
