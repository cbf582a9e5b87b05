"""One watch on one stream: reads ahead into a bounded buffer, hands out whole revisions, notices a dead server.

Two tasks, owned by the open watch: `_read` takes responses off the stream, `_check_liveness` asks for a sign of life
every second. An etcd that is about to stop says so (GOAWAY) and waits for its streams, so the stream ends there. Never
resumes by itself: the caller knows what it has applied and opens a new watch from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from time import perf_counter

from cacheserver import metrics
from cacheserver.errors import Compacted, EtcdError, EtcdPermissionDenied, Unavailable
from cacheserver.etcd import etcd_pb2 as pb
from cacheserver.etcd import wire
from cacheserver.etcd.address import Metadata
from cacheserver.etcd.endpoint import Endpoint
from cacheserver.etcd.stream import Stream, open_stream
from cacheserver.etcd.transport import REQUIRE_LEADER, Transport
from cacheserver.etcd.values import WatchBatch, WatchEvent

# A progress request a second costs 0.4 ms and two of them unanswered mean two to three seconds of silence.
LIVENESS_INTERVAL_S = 1.0
_UNANSWERED_LIMIT = 2
# What a slow reader may have waiting here. Full: we stop reading the stream, and HTTP/2 holds etcd back, which keeps
# the rest on its side and sends it later (its "unsynced watchers").
_BUFFER_EVENTS = 16_384
_BUFFER_BYTES = 16 << 20

_PROGRESS = pb.WatchRequest(progress_request=pb.WatchProgressRequest())


class Watch:
    """One watch on one stream. Iterating yields batches until the stream ends, which is always an error.

    Raises from the iterator, after the batches that came before: Compacted (start revision gone), Unavailable (stream
    broken, or no sign of life for 3 s), EtcdPermissionDenied. An empty batch about once a second says that etcd lives;
    its revision is progress when `progress_trusted`, else only that of the last event.
    """

    def __init__(
        self,
        transport: Transport,
        endpoint: Endpoint,
        stream: Stream,
        create: pb.WatchCreateRequest,
        begun: Sequence[pb.WatchResponse],
    ) -> None:
        """begun: what came with etcd's word that the watch is there."""
        self._transport = transport
        self._endpoint = endpoint
        self._stream = stream
        self._create = create
        self._begun = begun
        self._recreated = False
        self._writing = asyncio.Lock()  # one at a time is allowed
        self.progress_trusted = endpoint.progress_trusted
        self._fragments: list[WatchEvent] = []
        self._events: list[WatchEvent] = []
        self._buffered_bytes = 0
        self._last_event_revision = create.start_revision - 1
        self._revision = 0
        self._fresh = False  # something to deliver, if only progress
        self._failure: EtcdError | None = None
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._unanswered = 0
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin reading. Called once, by `open_watch`."""
        self._transport.open_streams.add(self._stream.cancel)
        self._tasks = [
            asyncio.create_task(self._read(), name="etcd watch reader"),
            asyncio.create_task(self._check_liveness(), name="etcd watch liveness"),
        ]

    async def close(self) -> None:
        """Ends the stream and its tasks."""
        self._transport.open_streams.discard(self._stream.cancel)
        self._stream.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __aiter__(self) -> AsyncIterator[WatchBatch]:
        return self

    async def __anext__(self) -> WatchBatch:
        while not self._fresh:
            if self._failure is not None:
                raise self._failure
            self._arrived.clear()
            # No limit of its own: _check_liveness sets _failure and wakes us when the server goes quiet.
            await self._arrived.wait()
        events, self._events = self._events, []
        self._buffered_bytes = 0
        self._fresh = False
        self._taken.set()
        return WatchBatch(events, self._revision)

    async def request_progress(self) -> None:
        """Ask etcd to say how far this watch is; the answer arrives as a batch, if `progress_trusted`.

        etcd drops the question while it still catches up for this watch (the first 100 ms, as a rule): ask again.
        Raises: Unavailable.
        """
        try:
            await self._write(_PROGRESS)
        except TimeoutError as exc:
            raise Unavailable(f"etcd watch at {self._endpoint.address.url}: the stream takes no request") from exc

    async def _write(self, request: pb.WatchRequest) -> None:
        async with asyncio.timeout(_UNANSWERED_LIMIT * LIVENESS_INTERVAL_S), self._writing:
            await self._stream.write(request)

    async def _read(self) -> None:
        try:
            responses = self._begun
            while True:
                for response in responses:
                    await self._take(response)
                while self._full():
                    self._taken.clear()
                    # No limit: the consumer decides; closing the watch cancels us.
                    await self._taken.wait()
                    self._unanswered = 0  # answers may be waiting behind what we did not read
                responses = await self._stream.read()
                self._unanswered = 0
        except EtcdError as exc:
            await self._fail(exc)
        finally:
            self._over()

    async def _take(self, response: pb.WatchResponse) -> None:
        if response.canceled:
            if response.compact_revision == self._create.start_revision and not self._recreated:
                # Only the revision before ours is gone (see _create); ours is still there.
                self._recreated = True
                await self._write(pb.WatchRequest(create_request=self._create))
                return
            raise cancelled(response, self._endpoint.address.url)
        if response.events:
            self._take_events(response)
        elif self.progress_trusted and not response.created:
            # Before 3.5.13 progress can overtake events; such a revision must not be handed on.
            self._revision = max(self._revision, response.header.revision)
            self._fresh = True
            self._arrived.set()

    def _take_events(self, response: pb.WatchResponse) -> None:
        self._fragments.extend(wire.watch_events(response))
        self._buffered_bytes += response.ByteSize()
        if response.fragment:  # the rest of this revision follows
            return
        events, self._fragments = self._fragments, []
        if events[0].mod_revision <= self._last_event_revision:
            # The revision before ours, asked for on purpose (see _create), and repeats of etcd < 3.5.8.
            events = [event for event in events if event.mod_revision > self._last_event_revision]
            if not events:
                return
        self._last_event_revision = events[-1].mod_revision
        self._revision = max(self._revision, self._last_event_revision)
        self._events.extend(events)
        self._fresh = True
        self._arrived.set()

    async def _check_liveness(self) -> None:
        """Counts ticks, not time: a stalled loop of ours is late for one tick, whatever its length."""
        try:
            while True:
                await asyncio.sleep(LIVENESS_INTERVAL_S)
                if self._unanswered >= _UNANSWERED_LIMIT and not self._full():
                    raise self._unavailable("no sign of life for 3 s")
                self._unanswered += 1
                if self.progress_trusted:
                    await self.request_progress()
                else:
                    # 3.5.8 to 3.5.12 leave an idle watch without an answer, so ask the server, not the stream.
                    await self._transport.probe(self._endpoint, _UNANSWERED_LIMIT * LIVENESS_INTERVAL_S)
                    self._stream.tick()
                    self._unanswered = 0
                    self._fresh = True  # a sign of life for the consumer: a batch of nothing new
                    self._arrived.set()
        except EtcdError as exc:
            await self._fail(exc)
        finally:
            self._over()

    def _over(self) -> None:
        """Whatever ended a task, a client closed under us included: the consumer must not wait for ever."""
        if self._failure is None:
            self._failure = self._unavailable("closed")
        self._arrived.set()

    def _full(self) -> bool:
        return len(self._events) >= _BUFFER_EVENTS or self._buffered_bytes >= _BUFFER_BYTES

    def _unavailable(self, reason: str) -> Unavailable:
        return Unavailable(f"etcd watch at {self._endpoint.address.url}: {reason}")

    async def _fail(self, failure: EtcdError) -> None:
        if self._failure is None:
            self._failure = failure
            metrics.etcd_errors.labels("watch", type(failure).__name__).inc()
        self._stream.cancel()
        if isinstance(failure, Unavailable):
            self._transport.leave(self._endpoint)


def cancelled(response: pb.WatchResponse, url: str) -> EtcdError:
    """Why etcd ended a watch. A compaction comes with an empty reason and its revision (measured)."""
    if response.compact_revision:
        return Compacted(
            f"etcd watch at {url}: compacted at {response.compact_revision}",
            compact_revision=response.compact_revision,
        )
    reason = response.cancel_reason
    if "permission denied" in reason or "invalid auth token" in reason or "user name is empty" in reason:
        return EtcdPermissionDenied(f"etcd watch at {url}: {reason}")
    return Unavailable(f"etcd watch at {url}: {reason or 'cancelled by the server'}")


async def open_watch(
    transport: Transport, key: bytes, range_end: bytes, start_revision: int, deadline_s: float
) -> Watch:
    """A started watch that etcd has confirmed. Raises: Unavailable, EtcdPermissionDenied.

    A start revision that is gone is reported by the watch's iterator, as etcd does.
    """
    create = pb.WatchCreateRequest(key=key, range_end=range_end, fragment=True, start_revision=start_revision)

    async def attempt(endpoint: Endpoint, timeout: float) -> Watch:
        if not endpoint.probed:
            await transport.probe(endpoint, timeout)
        metadata = await transport.metadata(timeout)
        try:
            return await _create(transport, endpoint, create, metadata, timeout)
        except EtcdPermissionDenied:
            # Before 3.5.2 an outdated token is reported as a denied permission, so a fresh one is worth a try.
            renewed = await transport.renew(metadata, timeout)
            return await _create(transport, endpoint, create, renewed, timeout)

    began = perf_counter()
    try:
        watch = await transport.anywhere(attempt, deadline_s)
    except EtcdError as exc:
        metrics.etcd_errors.labels("watch", type(exc).__name__).inc()
        raise
    finally:
        wire.WATCH.observe(perf_counter() - began)  # until confirmed, not its whole life
    watch.start()
    return watch


async def _create(
    transport: Transport, endpoint: Endpoint, create: pb.WatchCreateRequest, metadata: Metadata, timeout: float
) -> Watch:
    # One revision early, and the surplus dropped: a watch whose start lies in the future gets no answer to progress
    # requests until something is written (etcd #20229, in 3.5.22 and later), and start is current + 1 as a rule.
    early = pb.WatchCreateRequest()
    early.CopyFrom(create)
    early.start_revision = max(create.start_revision - 1, 1)
    # A member cut off from the others must end the watch, not answer progress requests for ever.
    with_leader = metadata if REQUIRE_LEADER[0] in metadata else metadata + REQUIRE_LEADER
    url = endpoint.address.url
    try:
        first = pb.WatchRequest(create_request=early)
        # etcd says that a watch is there before it says anything of it.
        stream, (created, *more) = await open_stream(
            endpoint.address, with_leader, transport.certificates, first, timeout
        )
    except TimeoutError as exc:
        raise Unavailable(f"etcd watch at {url}: not confirmed within the deadline") from exc
    if created.canceled:
        stream.cancel()
        raise cancelled(created, url)
    transport.cluster_id = created.header.cluster_id
    return Watch(transport, endpoint, stream, create, more)
