"""Watches: each a cursor into the cache's window. Woken, it takes all that is new and writes it once.

Frames are encoded once an event and form; watchers that want the same share the joined bytes too. A client that does
not keep up falls off the window and is told 410. Protocol: k8s.io/apiserver/pkg/endpoints/handlers/watch.go and
pkg/storage/cacher.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from cacheserver.api.accounting import Accounting, WatchMeters
from cacheserver.api.forms import Form, Framer, error_frame
from cacheserver.api.options import WatchRequest
from cacheserver.api.query import Selection
from cacheserver.api.reply import Stream
from cacheserver.api.resource import Resource
from cacheserver.api.status import from_error, shutting_down
from cacheserver.errors import Expired, TooNew
from cacheserver.watchcache import Event, Page, Watch, WatchCache

_SHORTEST_S: Final = 1800.0  # kube: --min-request-timeout; a watch without a timeout gets once to twice this
_BOOKMARK_S: Final = 60.0  # kube: bookmarkFrequency
_BEFORE_END_S: Final = 2.0  # kube: a last bookmark so long before the deadline
_INITIAL_BYTES: Final = 256 << 10  # of initial events joined in one turn of the loop
_EVENTS_AT_ONCE: Final = 64  # joined for one write: what a stalled client holds in memory, about 100 KB
_BATCHES_KEPT: Final = 8  # joined batches a channel remembers: watchers woken together ask for the same one
_TELL_S: Final = 30e-6  # about twice what it takes to wake one watcher and write to it
_PAUSE_MOST_S: Final = 0.05
_FRAMES_KEPT_BELOW: Final = 1 << 20  # bytes; a larger batch is not remembered


@dataclass(frozen=True, slots=True)
class _Batch:
    """Frames of some events, joined and framed as one HTTP chunk. last: resource version of the last one, 0: empty."""

    chunk: bytes
    count: int
    last: int


_EMPTY: Final = _Batch(b"", 0, 0)


class _Channel:
    """What all watchers of one resource, namespace, selection and form get. Shared by them, dropped with the last."""

    def __init__(self, resource: Resource, namespace: str, selection: Selection, form: Form) -> None:
        self.framer = Framer(resource, form)
        self.users = 0
        self._namespace = namespace or None
        self._selection = selection
        self._form = form
        self._batches: OrderedDict[tuple[Event, Event, bool], _Batch] = OrderedDict()
        self._over = asyncio.Event()
        self._over.set()

    async def pause(self) -> None:
        """After a delivery: let events gather for about as long as telling every watcher took.

        So a single event goes out at once, while under load a crowd of watchers takes several with each write:
        measured with 500 of them and 400 events/s, 7.0 us of CPU an event without, 2.3 with. Few watchers do not wait.
        """
        pause_s = min(self.users * _TELL_S, _PAUSE_MOST_S)
        if pause_s < 0.001:
            return
        if self._over.is_set():
            self._over.clear()
            asyncio.get_running_loop().call_later(pause_s, self._over.set)
        await self._over.wait()

    def batch(self, events: Sequence[Event], now: float, frame: Callable[[bytes], bytes], *, columns: bool) -> _Batch:
        """columns: the first event sent carries a Table's columns."""
        # Not by resource version: after the store was replaced, the same versions can mean other events.
        key = (events[0], events[-1], columns)
        known = self._batches.get(key)
        if known is not None:
            return known
        made = self._make(events, int(now), frame, columns=columns)
        if len(made.chunk) < _FRAMES_KEPT_BELOW:
            self._batches[key] = made
            if len(self._batches) > _BATCHES_KEPT:
                self._batches.popitem(last=False)
        return made

    def _make(self, events: Sequence[Event], now: int, frame: Callable[[bytes], bytes], *, columns: bool) -> _Batch:
        frames: list[bytes] = []
        last = 0
        for event in events:
            seen = event.seen_by(self._namespace, self._selection)
            if seen is None:
                continue
            type_, entry = seen
            last = event.resource_version
            if columns and not frames:
                frames.append(self.framer.frame(type_.value, entry, now, columns=True))
                continue
            key = (self._form, type_.value)
            ready = event.frames.get(key)
            if ready is None:
                ready = event.frames[key] = self.framer.frame(type_.value, entry, now)
            frames.append(ready)
        return _Batch(frame(b"".join(frames)), len(frames), last) if frames else _EMPTY


_ChannelKey = tuple[str, str, str, Form, bool]


class Watches:
    """All watches of this process. Bounded by the connections that the server accepts."""

    def __init__(self, cache: WatchCache, accounting: Accounting, now: Callable[[], float]) -> None:
        """now: seconds since the epoch."""
        self._cache = cache
        self._accounting = accounting
        self._now = now
        self._channels: dict[_ChannelKey, _Channel] = {}
        self._deadlines: dict[Stream, asyncio.Timeout] = {}
        self._none_left = asyncio.Event()
        self._stopping = False

    async def serve(
        self,
        request: web.BaseRequest,
        resource: Resource,
        namespace: str,
        wanted: WatchRequest,
        form: Form,
        extra: bytes,
    ) -> Stream:
        """Run one watch to its end. Raises: StatusError 503 when stopping; NotReady; before anything was sent."""
        if self._stopping:
            raise shutting_down()
        stream = Stream(request)
        meters = self._accounting.watches(resource)
        try:
            watch = await self._cache.watch(
                resource.source,
                since=wanted.since,
                initial=wanted.initial,
                namespace=namespace or None,
                selector=wanted.selection,
            )
        except (Expired, TooNew) as exc:  # kube tells these inside the stream, clients expect them there
            stream.start(extra)
            await stream.write(error_frame(from_error(exc).status()))
            stream.end()
            return stream
        key = (resource.plural, namespace, wanted.selection.text, form, stream.chunked_body)
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = _Channel(resource, namespace, wanted.selection, form)
        channel.users += 1
        meters.running.inc()
        meters.watchers.inc()
        try:
            await self._run(stream, watch, channel, wanted, meters, extra)
        finally:
            meters.running.dec()
            meters.watchers.dec()
            channel.users -= 1
            if not channel.users:
                del self._channels[key]
        return stream

    async def _run(
        self, stream: Stream, watch: Watch, channel: _Channel, wanted: WatchRequest, meters: WatchMeters, extra: bytes
    ) -> None:
        # Not for secrets: spreads the reconnects of many clients.
        timeout_s = wanted.timeout_s or random.uniform(_SHORTEST_S, 2 * _SHORTEST_S)  # noqa: S311
        session = _Session(stream, watch, channel, meters, self._now, timeout_s, bookmarks=wanted.bookmarks)
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                self._deadlines[stream] = deadline
                stream.start(extra)
                await session.run(end_bookmark=wanted.end_bookmark)
        except TimeoutError:
            pass  # the deadline, or a shutdown's share of the grace: both end cleanly
        except Expired as exc:
            meters.terminated.inc()
            await stream.write(error_frame(from_error(exc).status()))
        except ConnectionError:
            return  # the client left, which is how most watches end
        finally:
            self._deadlines.pop(stream, None)
            if not self._deadlines:
                self._none_left.set()
        stream.end()

    def begin_shutdown(self) -> None:
        """Refuse new watches."""
        self._stopping = True

    async def end_all(self, grace_s: float) -> None:
        """End every watch cleanly, evenly spread over the grace, so that clients do not all reconnect at once."""
        self.begin_shutdown()
        deadlines = list(self._deadlines.values())
        begun = asyncio.get_running_loop().time()
        for i, deadline in enumerate(deadlines):
            deadline.reschedule(begun + grace_s * i / len(deadlines))
        if deadlines:
            self._none_left.clear()
            try:
                async with asyncio.timeout(grace_s + 1):
                    await self._none_left.wait()
            except TimeoutError:
                pass  # a client that takes nothing any more; closing the listener ends it


class _Session:
    """One watch while it runs."""

    def __init__(
        self,
        stream: Stream,
        watch: Watch,
        channel: _Channel,
        meters: WatchMeters,
        now: Callable[[], float],
        timeout_s: float,
        *,
        bookmarks: bool,
    ) -> None:
        self._stream = stream
        self._watch = watch
        self._channel = channel
        self._meters = meters
        self._now = now
        self._bookmarks = bookmarks
        self._ends = time.monotonic() + timeout_s
        self._columns = channel.framer.has_columns  # still owed to a Table client
        self._sent = watch.position
        self._next_bookmark = self._bookmark_time()

    async def run(self, *, end_bookmark: bool) -> None:
        """Until cancelled by the deadline. Raises: Expired, ConnectionError."""
        if self._watch.initial is not None:
            await self._send_initial(self._watch.initial)
            if end_bookmark:
                await self._bookmark(self._watch.initial.resource_version, ends_initial=True)
            self._watch.initial = None  # lets go of a whole state
        watch, channel, stream, now = self._watch, self._channel, self._stream, self._now
        while True:
            wait_s = max(self._next_bookmark - time.monotonic(), 0.001) if self._bookmarks else _SHORTEST_S
            events = await watch.next(timeout_s=wait_s)
            sent = 0
            for at in range(0, len(events), _EVENTS_AT_ONCE):
                batch = channel.batch(events[at : at + _EVENTS_AT_ONCE], now(), stream.frame, columns=self._columns)
                if batch.count:
                    self._columns = False
                    self._sent = batch.last
                    sent += batch.count
                    await stream.send(batch.chunk)
                    self._meters.sent_bytes.inc(len(batch.chunk))
            if sent:
                self._meters.events.inc(sent)
                await channel.pause()
            if self._bookmarks and time.monotonic() >= self._next_bookmark:
                self._next_bookmark = self._bookmark_time()
                if watch.position > self._sent:
                    await self._bookmark(watch.position, ends_initial=False)

    async def _send_initial(self, page: Page) -> None:
        """Synthetic ADDED events of the present state, in the order of lists."""
        frame, now = self._channel.framer.frame, int(self._now())
        gathered: list[bytes] = []
        size = count = 0
        for run in page.runs:
            for entry in run.entries:
                gathered.append(frame("ADDED", entry, now, columns=self._columns))
                self._columns = False
                size += len(gathered[-1])
                count += 1
            if size >= _INITIAL_BYTES:
                await self._stream.write(b"".join(gathered))
                await asyncio.sleep(0)
                gathered, size = [], 0
        await self._stream.write(b"".join(gathered))
        self._meters.initial.inc(count)

    async def _bookmark(self, resource_version: int, *, ends_initial: bool) -> None:
        framer = self._channel.framer
        frame = framer.bookmark(resource_version, ends_initial=ends_initial, columns=self._columns)
        self._columns = False
        self._sent = resource_version
        await self._stream.write(frame)

    def _bookmark_time(self) -> float:
        now = time.monotonic()
        due = now + _BOOKMARK_S * random.uniform(0.9, 1.1)  # noqa: S311 # spreads work, hides nothing
        before_end = self._ends - _BEFORE_END_S
        return before_end if now < before_end < due else due
