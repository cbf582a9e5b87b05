"""A server's side of one connection of HTTP/2 (RFC 9113), in plain text: its streams, and its end.

Made for clients that nobody knows: whatever one sends has a bound, in bytes, in streams, in time, and in what it makes
us do for nothing (patience.py). What comes is incoming.py's, what goes outgoing.py's. Knows nothing of gRPC, nor of
other connections; who has made it says when to look() at the clock, and when to leave().
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from typing import Final, Protocol, cast

from cacheserver.http2 import frames as f
from cacheserver.http2.frames import ProtocolError
from cacheserver.http2.incoming import Incoming
from cacheserver.http2.outgoing import Outgoing
from cacheserver.http2.patience import A_CALL, Patience
from cacheserver.http2.requests import HEADER_BYTES, Request
from cacheserver.http2.stream import ASK_WITHIN_S, STREAM_WINDOW, Answerer, Stream
from cacheserver.turns import Pace

STREAMS: Final = 100
"""Of a connection, as in grpc-go; more wait at the client. One that was given up counts until its task has ended."""
BEGIN_WITHIN_S: Final = 10.0
"""For a client to say that it speaks HTTP/2."""
PART_WITHIN_S: Final = 10.0
"""For a frame, or a header in several, to be complete."""
UNTAKEN_WITHIN_S: Final = 60.0
"""Nothing of what was sent is taken: as over HTTP/1."""
LEAVE_WITHIN_S: Final = 30.0
"""For calls that were asked before leave() to end. ListBundles of a large catalog takes a client a second or two."""
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
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._begun_at = self._loop.time()
        self._over = self._entered = False
        self._patience = Patience(self._begun_at)
        self._incoming = Incoming(self, pace, self._patience, self._begun_at)
        self._outgoing = Outgoing(_SETTINGS, self._patience, self._end)
        self._received = f.WINDOW  # that the client may still send
        self._returned = 0  # that it was not told of yet
        # streams
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._places = 0
        # its end
        self._leaving_since = 0.0
        self._last_taken: int | None = None  # once the client knows
        self._bye_since = 0.0

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        self._incoming.begin(self._transport)
        self._outgoing.begin(self._transport)
        self._entered = self._home.entered(self)
        if not self._entered:
            self.abort()
            return
        self.idle_since = self._begun_at
        self._outgoing.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whichever side."""
        self._stop()
        self._transport = None
        self._lose()
        if self._entered:
            self._home.left(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of frames, split anywhere."""
        if not self._over:
            self._incoming.feed(data)

    def eof_received(self) -> bool:
        """The client says no more; and wants no answers, since none of gRPC's does so before."""
        return False

    def pause_writing(self) -> None:
        """The kernel takes no more."""
        self._outgoing.full_since = self._loop.time()

    def resume_writing(self) -> None:
        """It does again."""
        self._outgoing.full_since = 0.0
        for stream in [*self._streams.values()]:
            if not stream.unsent:
                stream.drained()
        self._outgoing.pump()
        self._incoming.hear()
        self._incoming.listen()

    # --- for who has made it ---

    def look(self, now: float) -> None:
        """End what is late."""
        if self._over:
            if self._bye_since and now - self._bye_since >= _GOODBYE_WITHIN_S:
                self.abort()
            return
        came = self._incoming
        late = (
            ("it did not say in time that it speaks HTTP/2", BEGIN_WITHIN_S, 0.0 if came.settled else self._begun_at),
            ("a frame or header was not complete in time", PART_WITHIN_S, came.part_since),
            ("nothing was taken in time", UNTAKEN_WITHIN_S, self._outgoing.full_since),
        )
        for why, within_s, since in late:
            if since and now - since >= within_s:
                self._home.complain(self, why)
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
        self._outgoing.flush()

    def abort(self) -> None:
        """It is over, whatever is under way."""
        self._over = True
        self._outgoing.stop()
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
        return self._outgoing.full_since != 0.0

    @property
    def streams(self) -> int:
        """How many have a place."""
        return self._places

    def has(self, stream: Stream) -> bool:
        """Whether it is open."""
        return not self._over and stream.id in self._streams

    def fits(self, size: int) -> bool:
        """Whether so many bytes can be sent at once."""
        return self._outgoing.fits(size)

    def say(self, frame: bytes) -> None:
        """To be sent with the next flush."""
        self._outgoing.say(frame)

    def push(self, stream: Stream) -> None:
        """It has something to be sent, or its end."""
        if self.has(stream):
            self._outgoing.push(stream)

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
            self._outgoing.flush_soon()

    def reset(self, stream: Stream, code: int) -> None:
        """RST_STREAM."""
        if self.has(stream):
            self.say(f.frame(f.RST_STREAM, 0, stream.id, code.to_bytes(4, "big")))
            self._forget(stream)
            self._outgoing.flush_soon()

    def free(self, stream: Stream) -> None:
        """No task answers it any more."""
        if stream.id not in self._streams:
            self._leave_place()

    # --- what its client says (incoming.Receiver) ---

    @property
    def listens(self) -> bool:
        """Whether what it says is worked on now."""
        return not self._over and not self._outgoing.full_since

    def replying(self) -> AbstractContextManager[None]:
        """While the block runs, what is answered gathers."""
        return self._outgoing.held()

    def said_settings(self, payload: bytes) -> None:
        """Raises: ProtocolError."""
        going = self._outgoing
        initial = going.initial
        for name, value in f.read_settings(payload):
            if name == f.INITIAL_WINDOW_SIZE:
                initial = value
                if value > f.LARGEST_WINDOW:
                    raise ProtocolError(f.FLOW_CONTROL_ERROR, "a window is too large")
            elif name == f.MAX_FRAME_SIZE:
                going.largest = value
                if not f.LARGEST_FRAME <= value < 1 << 24:
                    raise ProtocolError(f.PROTOCOL_ERROR, "frames have no such size")
            elif name == f.ENABLE_PUSH and value > 1:
                raise ProtocolError(f.PROTOCOL_ERROR, "push is on or off")
        going.begin_with(initial, self._streams.values())
        self.say(f.frame(f.SETTINGS, f.ACK, 0))

    def said_ping(self, payload: bytes) -> None:
        """It is answered."""
        self.say(f.frame(f.PING, f.ACK, 0, payload))

    def heard_ping(self, payload: bytes) -> None:
        """It has seen what was said before it."""
        if payload == _LEAVING:
            self._take_no_more()

    def said_header(self, number: int, request: Request | None, *, ended: bool) -> None:
        """Raises: ProtocolError."""
        if number <= self._last:
            stream = self._streams.get(number)
            if stream is None:
                return  # trailers of what is answered already
            if stream.ended or not ended:
                raise ProtocolError(f.PROTOCOL_ERROR, "a second header is no end")
            self._ended(stream)
            return
        self._last = number
        if self._last_taken is not None:
            return  # 6.8: the client hears that nobody answers it
        if request is None or self._places >= STREAMS:
            code = f.PROTOCOL_ERROR if request is None else f.REFUSED_STREAM
            self._waste(A_CALL)
            self.say(f.frame(f.RST_STREAM, 0, number, code.to_bytes(4, "big")))
            return
        stream = Stream(self, number, request, self._outgoing.initial, self._incoming.now)
        self._streams[number] = stream
        self._places += 1
        self.idle_since = 0.0
        stream.ended = ended
        stream.answerer = self._home.opened(stream)
        if stream.ended and self.has(stream):
            stream.answerer.arrived()

    def said_data(self, number: int, flags: int, payload: bytes) -> None:
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
        body = f.unpadded(flags, payload)
        if len(body) < size:
            self.give_back(size - len(body), stream)
        stream.received += body
        if flags & f.END_STREAM:
            self._ended(stream)
        elif body and stream.answerer is not None:
            stream.answerer.arrived()

    def said_window(self, number: int, more: int) -> None:
        """Raises: ProtocolError."""
        if not number:
            self._outgoing.grow(more)
            return
        self._known(number)
        stream = self._streams.get(number)
        if stream is not None and not self._outgoing.grow_stream(stream, more):
            self._waste(A_CALL)
            self.reset(stream, f.FLOW_CONTROL_ERROR if more else f.PROTOCOL_ERROR)

    def said_reset(self, number: int) -> None:
        """Raises: ProtocolError."""
        self._known(number)
        stream = self._streams.get(number)
        if stream is not None:
            self._waste(A_CALL)  # CVE-2023-44487
            self._forget(stream)

    def refuse(self, code: int, why: str) -> None:
        """It did what it must not (5.4.1)."""
        self._home.complain(self, why)
        if self._incoming.greeted:
            self.say(_goaway(self._last, code))
        self._outgoing.flush()
        self._stop()
        self._lose()
        if self._transport is not None:
            self._bye_since = self._loop.time()
            self._transport.close()

    def _ended(self, stream: Stream) -> None:
        stream.ended = True
        if stream.answerer is not None:
            stream.answerer.arrived()

    def _known(self, number: int) -> None:
        """Raises: ProtocolError, where nobody has asked anything yet on a stream."""
        if not number % 2 or number > self._last:
            raise ProtocolError(f.PROTOCOL_ERROR, "a frame of a stream that was not begun")

    def _waste(self, cost: int) -> None:
        """Raises: ProtocolError."""
        if not self._patience.spend(cost):
            raise ProtocolError(f.ENHANCE_YOUR_CALM, "it asks and gives up again")

    # --- its end, and that of streams ---

    def _end(self, stream: Stream) -> None:
        """All of the answer was sent but its end."""
        self.say(stream.trailing())
        if not stream.ended:  # 8.1: the rest of the question is not wanted
            self.say(f.frame(f.RST_STREAM, 0, stream.id, f.NO_ERROR.to_bytes(4, "big")))
        self._patience.earn(A_CALL)
        stream.answerer = None
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        del self._streams[stream.id]
        self._outgoing.forget(stream)
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
        for stream in streams:
            self._outgoing.forget(stream)
            if not stream.busy:
                self._leave_place()
            stream.lost()

    def _take_no_more(self) -> None:
        if self._last_taken is None and self._leaving_since:
            self._last_taken = self._last
            self.say(_goaway(self._last, f.NO_ERROR))
            self._bid_farewell()
            self._outgoing.flush_soon()

    def _bid_farewell(self) -> None:
        """Once everything is answered: our side is closed, and the client's when it has taken that. Closed at once, the
        kernel would throw away what is on its way to a client that says one more word."""
        if self._last_taken is not None and not self._streams and not self._bye_since and self._transport is not None:
            self._bye_since = self._loop.time()
            self._loop.call_soon(self._half_close)

    def _half_close(self) -> None:
        if self._transport is not None and not self._over:
            self._outgoing.flush()
            self._stop()  # what the client says yet is thrown away
            self._transport.write_eof()

    def _stop(self) -> None:
        """Nothing is heard any more, and nothing said."""
        self._over = True
        self._incoming.stop()
        self._outgoing.stop()


def _goaway(last: int, code: int) -> bytes:
    return f.frame(f.GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big"))


_SETTINGS: Final = f.settings(max_concurrent_streams=STREAMS, max_header_list_size=HEADER_BYTES)
"""What is said first."""
