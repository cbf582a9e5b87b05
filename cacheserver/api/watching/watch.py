"""Watches: each a cursor into the cache's window, fed by its resource's channel as long as it keeps up (channel.py).

A client that does not keep up catches up alone; when it falls off the window it gets 410.
Protocol: k8s.io/apiserver/pkg/endpoints/handlers/watch.go and pkg/storage/cacher.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from typing import Final

from cacheserver.api.forms import Form, error_frame
from cacheserver.api.http.accounting import Accounting, WatchMeters
from cacheserver.api.http.reply import Stream, served_from_memory
from cacheserver.api.kinds.resource import Resource
from cacheserver.api.options import WatchRequest
from cacheserver.api.selectors import Selection
from cacheserver.api.status import from_error, shutting_down
from cacheserver.api.views import Views
from cacheserver.api.watching.audience import Audience
from cacheserver.api.watching.channel import Batch, Channel, Shared
from cacheserver.cache.watchcache import Event, Page, Watch, WatchCache
from cacheserver.errors import Expired, StoreSlow, TooNew
from cacheserver.slotted import slotted

_SHORTEST_S: Final = 1800.0  # kube: --min-request-timeout; a watch without a timeout gets once to twice this
_BOOKMARK_S: Final = 60.0  # kube: bookmarkFrequency
_BEFORE_END_S: Final = 2.0  # kube: a last bookmark so long before the deadline


_ChannelKey = tuple[str, Form, str]


@slotted()
class _Open:
    channel: Channel
    task: asyncio.Task[None]
    users: int = 0


class Watches:
    """All watches of this process. Bounded by the connections that the server accepts."""

    def __init__(self, cache: WatchCache, views: Views, accounting: Accounting, now: Callable[[], float]) -> None:
        """now: seconds since the epoch."""
        self._cache = cache
        self._views = views
        self._accounting = accounting
        self._now = now
        self._channels: dict[_ChannelKey, _Open] = {}
        self._shared = Shared(cache.turns, now)
        self._deadlines: dict[Stream, asyncio.Timeout] = {}
        self._none_left = asyncio.Event()
        self._stopping = False

    async def serve(
        self,
        stream: Stream,
        resource: Resource,
        namespace: str,
        wanted: WatchRequest,
        form: Form,
    ) -> Stream:
        """Run one watch to its end, written to `stream`, which is returned.

        Raises: StatusError 503 when stopping; NotReady, EtcdError; all before anything was sent.
        """
        if self._stopping:
            raise shutting_down()
        meters = self._accounting.watches(resource)
        gathered = resource.gathered
        try:
            watch = await self._cache.watch(
                resource.source,
                since=wanted.since,
                initial=wanted.initial,
                namespace=namespace or None,
                selector=gathered.selector(namespace, wanted.selection, watching=True)
                if gathered
                else wanted.selection,
                view=self._views.of(resource, form, namespace),
                behind=gathered.behind(namespace) if gathered else "",
            )
        except (Expired, StoreSlow, TooNew) as exc:  # kube sends these inside the stream, clients expect them there
            stream.start()
            await stream.write(error_frame(from_error(exc).status()))
            stream.end()
            return stream
        extra = served_from_memory(self._cache.stale_for_s) if self._cache.away else b""
        meters.running.inc()
        meters.watchers.inc()
        try:
            with self._joined(resource, namespace, wanted.selection, form, stream, watch) as (channel, audience):
                await self._run(stream, watch, channel, audience, wanted, meters, extra)
        finally:
            meters.running.dec()
            meters.watchers.dec()
        return stream

    @contextmanager
    def _joined(
        self, resource: Resource, namespace: str, selection: Selection, form: Form, stream: Stream, watch: Watch
    ) -> Iterator[tuple[Channel, Audience]]:
        """The channel that all watches of a resource and form share; it runs as long as one of them does.

        Where objects are shown in other namespaces, those of one namespace share it.
        """
        key = (resource.full_name, form, namespace if resource.gathered is not None else "")
        open_ = self._channels.get(key)
        if open_ is None:
            meters = self._accounting.watches(resource)
            channel = Channel(resource, form, meters, self._shared, watch.from_now())
            task = asyncio.create_task(channel.run(), name=f"channel: {resource.plural}")
            open_ = self._channels[key] = _Open(channel, task)
        open_.users += 1
        audience = open_.channel.join(namespace, selection, stream.framing)
        try:
            yield open_.channel, audience
        finally:
            open_.channel.quit(audience)
            open_.users -= 1
            if not open_.users:
                open_.task.cancel()
                del self._channels[key]
                if (view := self._views.of(resource, form, namespace)) is not None:
                    view.forget()

    async def _run(
        self,
        stream: Stream,
        watch: Watch,
        channel: Channel,
        audience: Audience,
        wanted: WatchRequest,
        meters: WatchMeters,
        extra: bytes,
    ) -> None:
        # Not for secrets: spreads the reconnects of many clients.
        timeout_s = wanted.timeout_s or random.uniform(_SHORTEST_S, 2 * _SHORTEST_S)  # noqa: S311
        session = _Session(stream, watch, channel, audience, meters, self._now, timeout_s, bookmarks=wanted.bookmarks)
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                self._deadlines[stream] = deadline
                stream.leave = functools.partial(bring_forward, deadline, 0.0)
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
            stream.leave = _nothing
            self._deadlines.pop(stream, None)
            if not self._deadlines:
                self._none_left.set()
        stream.end(going_away=self._stopping)

    def begin_shutdown(self) -> None:
        """Refuse new watches."""
        self._stopping = True

    async def end_all(self, grace_s: float) -> None:
        """End every watch cleanly, evenly spread over the grace, so that clients do not all reconnect at once."""
        self.begin_shutdown()
        deadlines = list(self._deadlines.values())
        begun = asyncio.get_running_loop().time()
        for i, deadline in enumerate(deadlines):
            bring_forward(deadline, begun + grace_s * i / len(deadlines))
        if deadlines:
            self._none_left.clear()
            try:
                async with asyncio.timeout(grace_s + 1):
                    await self._none_left.wait()
            except TimeoutError:
                pass  # a client that takes nothing any more; closing the listener ends it


def bring_forward(deadline: asyncio.Timeout, when: float) -> None:
    """when: on the loop's clock; what is past is now. Nothing happens to one that is over."""
    with suppress(RuntimeError):  # asyncio's word for that; `expired` is not said of one that its block left by itself
        deadline.reschedule(when)


def _nothing() -> None:
    """Nobody waits for the client any more."""


class _Session:
    """One watch while it runs; a Follower of its channel."""

    def __init__(
        self,
        stream: Stream,
        watch: Watch,
        channel: Channel,
        audience: Audience,
        meters: WatchMeters,
        now: Callable[[], float],
        timeout_s: float,
        *,
        bookmarks: bool,
    ) -> None:
        self.watch = watch
        self._stream = stream
        self._channel = channel
        self._audience = audience
        self._meters = meters
        self._now = now
        self._bookmarks = bookmarks
        self._ends = time.monotonic() + timeout_s
        self._columns = channel.framer.has_columns  # still owed to a Table client
        self._sent = watch.position
        self._next_bookmark = self._bookmark_time()
        self._following: asyncio.Future[None] | None = None

    async def run(self, *, end_bookmark: bool) -> None:
        """Until cancelled by the deadline. Raises: Expired, ConnectionError."""
        watch = self.watch
        if watch.initial is not None:
            await self._send_initial(watch.initial)
            if end_bookmark:
                await self._bookmark(watch.initial.resource_version, ends_initial=True)
            watch.initial = None  # lets go of a whole state
        await watch.begun()
        while True:
            wait_s = max(self._next_bookmark - time.monotonic(), 0.001) if self._bookmarks else _SHORTEST_S
            # A client that is owed columns is served alone: its first event is another one than everybody's.
            if not self._columns and self._channel.follow(self, self._audience):
                await self._follow(wait_s)
            else:
                await self._send(await watch.next(timeout_s=wait_s))
            if self._bookmarks and time.monotonic() >= self._next_bookmark:
                await self._send(await watch.next(timeout_s=0))  # moves its position, too
                self._next_bookmark = self._bookmark_time()
                if watch.position > self._sent:
                    await self._bookmark(watch.position, ends_initial=False)

    # --- as a follower ---

    def deliver(self, batch: Batch) -> bool:
        self._sent = batch.last
        return self._stream.write_now(batch.framed)

    def let_go(self) -> None:
        if self._following is not None and not self._following.done():
            self._following.set_result(None)

    async def _follow(self, at_most_s: float) -> None:
        """Until let go of, or for about so long."""
        loop = asyncio.get_running_loop()
        self._following = loop.create_future()
        timer = loop.call_later(at_most_s, self.let_go)
        try:
            await self._following
        finally:
            timer.cancel()
            self._channel.leave(self, self._audience)
        await self._stream.drain()

    # --- alone ---

    async def _send(self, events: Sequence[Event]) -> None:
        if not events:
            return
        batch = await self._channel.batch(self._audience, events, columns=self._columns)
        if batch.count:
            await self._channel.alone.spend(len(batch.framed.data) + batch.packed)
            self._columns = False
            self._sent = batch.last
            self._meters.events.inc(batch.count)
            self._meters.sent_bytes.inc(len(batch.framed.data))
            await self._stream.send(batch.framed)

    async def _send_initial(self, page: Page) -> None:
        """Synthetic ADDED events of the present state, in the order of lists."""
        channel, framing = self._channel, self._stream.framing
        parts = channel.beginnings.parts(self.watch, page, channel.framer, framing, int(self._now()))
        async with aclosing(parts):
            async for part, count in parts:
                self._columns = False
                self._meters.initial.inc(count)
                taken = self._stream.write_now(part)
                del part  # of who takes nothing, the transport has what is left
                if not taken:
                    await self._stream.drain()

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
