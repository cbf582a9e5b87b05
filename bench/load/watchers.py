"""N watch streams in one process: counts events by their ends, and takes the delay of those that carry a stamp.

`python -m bench.load.watchers` reads a Job on stdin, prints a Ready line once every stream has its response head, and a
Result once `expect` events have come, on a further line on stdin, or after `longest_s`. Started by processes.Helper.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import orjson
from isal import isal_zlib

from bench.load.http import BUFFER_BYTES, address, requests
from bench.report.figures import CPU, machine_cpu_s

STAMP: Final = b'"stamp":"'
STAMP_DIGITS: Final = 20
"""A stamp is CLOCK_MONOTONIC in nanoseconds, which all processes of a machine share, in exactly so many digits."""

_STAMP_BYTES: Final = len(STAMP) + STAMP_DIGITS
_EVENT_END: Final = b"}\n"
"""JSON holds no raw newline, and the chunked framing puts one behind a digit or another newline, never behind `}`; a
WebSocket's frame does where an event has 32,010 bytes."""

HANDSHAKE: Final[Mapping[str, str]] = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
"""Headers that ask for a watch over WebSocket."""

GZIP: Final[Mapping[str, str]] = {"Accept-Encoding": "gzip"}
"""What Go's clients send with every request."""

_GZIP_HEAD: Final = b"\x1f\x8b\x08\x00"
_GZIP_HEAD_BYTES: Final = 10  # RFC 1952, where it says no more than its first four bytes
_CHUNKS_KNOWN: Final = 1024

_BRACE: Final = _EVENT_END[0]
_MOST_SAMPLES = 2_000_000
_OPENING_AT_ONCE = 100
_CONNECT_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Job:
    """`streams` watches of `path`. Stamps are read on every `sample_every`-th stream, 0 for none; events on all.

    expect: events over all streams after which to stop. certificate, key: files of what we show as client.
    cpu_of: pids whose CPU is read from Ready to the last event; from the first connect with `from_start`.
    """

    url: str
    path: str
    streams: int
    expect: int = 0
    longest_s: float = 60.0
    sample_every: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    ca: str = ""
    certificate: str = ""
    key: str = ""
    cpu_of: Sequence[int] = ()
    from_start: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    """Every stream is open. seconds: from the first connect to the last response head."""

    seconds: float
    client_cpu_s: float
    server_cpu_s: float
    machine_cpu_s: float


@dataclass(frozen=True, slots=True)
class Result:
    """seconds: from the first event (with from_start: the first connect) to the last. fewest, most: events of one
    stream. ended: streams that closed early.

    CPU is counted from Ready to the last event, the machine's from the first one (the writer's start lies between).
    received: (stamp, receipt), both CLOCK_MONOTONIC in nanoseconds.
    """

    events: int
    fewest: int
    most: int
    ended: int
    bytes: int
    seconds: float
    client_cpu_s: float
    server_cpu_s: float
    machine_cpu_s: float
    received: Sequence[tuple[int, int]]
    last_failure: str = ""


class StreamReader:
    """Counts the events of one stream over reads of any size; with `stamps`, appends (stamp, now) to it in pairs."""

    __slots__ = ("_after_brace", "_stamps", "_tail", "events")

    def __init__(self, stamps: array[int] | None) -> None:
        self.events = 0
        self._stamps = stamps
        self._after_brace = False
        self._tail = b""

    def feed(self, buffer: bytearray, at: int, end: int) -> int:
        """Take buffer[at:end]; returns how many events ended in it."""
        if at >= end:
            return 0
        found = _ends(buffer, at, end)
        if self._after_brace and buffer[at] == _EVENT_END[1]:
            found += 1
        self._after_brace = buffer[end - 1] == _EVENT_END[0]
        self.events += found
        if self._stamps is not None:
            self._take_stamps(self._stamps, buffer, at, end)
        return found

    def _take_stamps(self, stamps: array[int], buffer: bytearray, at: int, end: int) -> None:
        now = time.monotonic_ns()
        if self._tail:  # a stamp may lie across two reads; a whole one never fits in the tail
            joint = self._tail + buffer[at : min(at + _STAMP_BYTES - 1, end)]
            found = joint.find(STAMP)
            if 0 <= found <= len(joint) - _STAMP_BYTES:
                _append(stamps, joint[found + len(STAMP) : found + _STAMP_BYTES], now)
        found = buffer.find(STAMP, at, end)
        while 0 <= found <= end - _STAMP_BYTES:
            _append(stamps, bytes(buffer[found + len(STAMP) : found + _STAMP_BYTES]), now)
            found = buffer.find(STAMP, found + _STAMP_BYTES, end)
        new = bytes(buffer[max(at, end - _STAMP_BYTES + 1) : end])
        self._tail = (self._tail + new)[-_STAMP_BYTES + 1 :]


class Chunks:
    """Takes the chunks of a body apart, over reads of any size."""

    __slots__ = ("_head", "_left")

    def __init__(self) -> None:
        self._left = 0  # bytes of a chunk that are still to come, with the two behind it
        self._head = b""

    def feed(self, buffer: bytearray, at: int, end: int) -> Iterator[tuple[bytearray, bool]]:
        """Parts of chunks in buffer[at:end], and whether a chunk ends with it."""
        while at < end:
            if not self._left:
                line = buffer.find(b"\n", at, end)
                behind = line + 1 if line >= 0 else end
                self._head += buffer[at:behind]
                at = behind
                if line >= 0:
                    self._left, self._head = int(self._head, 16) + 2, b""
                continue
            size = min(self._left, end - at)
            before, self._left = self._left, self._left - size
            held = max(min(before - 2, size), 0)
            if held:
                yield buffer[at : at + held], self._left <= 2
            at += size


class Unpacker:
    """The text of a gzip stream, and with it proof that it is one."""

    __slots__ = ("_chunks", "_inflate")

    def __init__(self) -> None:
        self._chunks = Chunks()
        self._inflate = isal_zlib.decompressobj(31)

    def feed(self, buffer: bytearray, at: int, end: int) -> bytearray:
        """What is in buffer[at:end]."""
        return bytearray(b"".join(self._inflate.decompress(part) for part, _ in self._chunks.feed(buffer, at, end)))


class ChunkCounter:
    """Counts the events of a gzip stream whose every chunk can be read by itself, each chunk once for all streams: what
    a crowd of clients spends on inflating would else be the bound on the one machine that they share with the server.
    """

    __slots__ = ("_chunks", "_known", "_part")

    def __init__(self, known: dict[bytes, int]) -> None:
        """known: events of chunks that came before, to any stream; added to."""
        self._known = known
        self._chunks = Chunks()
        self._part = b""

    def feed(self, buffer: bytearray, at: int, end: int) -> int:
        """How many events ended in buffer[at:end]."""
        events = 0
        for part, whole in self._chunks.feed(buffer, at, end):
            self._part += part
            if whole:
                events += self._count(self._part)
                self._part = b""
        return events

    def _count(self, chunk: bytes) -> int:
        count = self._known.get(chunk)
        if count is None:
            if chunk.startswith(_GZIP_HEAD):
                chunk = chunk[_GZIP_HEAD_BYTES:]
            text = isal_zlib.decompressobj(-15).decompress(chunk) if chunk else b""
            count = text.count(_EVENT_END)
            if len(self._known) >= _CHUNKS_KNOWN:
                self._known.clear()
            self._known[chunk] = count
        return count


def _ends(buffer: bytearray, at: int, end: int) -> int:
    """How many events end in buffer[at:end]: its count() of the two bytes, at a fifth of the time of one on 3.4 KB.

    find() of a single byte is memchr; count() is no more than a loop, and took a fifth of the load client's CPU.
    """
    found = 0
    newline = buffer.find(b"\n", at + 1, end)
    while newline >= 0:
        found += buffer[newline - 1] == _BRACE
        newline = buffer.find(b"\n", newline + 1, end)
    return found


def _append(stamps: array[int], digits: bytes, now: int) -> None:
    if len(stamps) < 2 * _MOST_SAMPLES:
        stamps.append(int(digits))
        stamps.append(now)


class _Run:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.buffer = bytearray(BUFFER_BYTES)
        self.view = memoryview(self.buffer)
        self.request = requests(job.url, [job.path], job.headers)[0]
        self.stamps: array[int] = array("q")
        self.chunks: dict[bytes, int] = {}
        self.streams: list[_Stream] = []
        self.open = self.ended = self.events = self.bytes = 0
        self.last_failure = ""
        self.all_open = asyncio.Event()
        self.finished = asyncio.Event()
        self._first_at = self._last_at = self._machine_before_s = 0.0
        if job.from_start:
            self._first_at, self._machine_before_s = time.perf_counter(), machine_cpu_s()
        self._ended_cpu: CPU | None = None

    def opened(self) -> None:
        self.open += 1
        if self.open + self.ended >= self.job.streams:
            self.all_open.set()

    def lost(self, why: str) -> None:
        self.ended += 1
        self.last_failure = why
        if self.open + self.ended >= self.job.streams:
            self.all_open.set()
        if self.all_open.is_set():
            self.finished.set()  # what one stream misses is never made up for

    def took(self, events: int, size: int) -> None:
        self.bytes += size
        if not events:
            return
        self._last_at = time.perf_counter()
        if not self._first_at:
            self._first_at, self._machine_before_s = self._last_at, machine_cpu_s()
        self.events += events
        if self.job.expect and self.events >= self.job.expect and not self.finished.is_set():
            self._ended_cpu = self.cpu()
            self.finished.set()

    def cpu(self) -> CPU:
        return CPU.now(self.job.cpu_of)

    def result(self, before: CPU) -> Result:
        ended = self._ended_cpu or self.cpu()
        used = ended.since(before)
        counts = [stream.reader.events for stream in self.streams] or [0]
        received = list(zip(self.stamps[::2], self.stamps[1::2], strict=True))
        return Result(
            events=self.events,
            fewest=min(counts),
            most=max(counts),
            ended=self.ended,
            bytes=self.bytes,
            seconds=self._last_at - self._first_at,
            client_cpu_s=used.client_s,
            server_cpu_s=used.server_s,
            machine_cpu_s=ended.machine_s - self._machine_before_s,
            received=received,
            last_failure=self.last_failure,
        )


class _Stream(asyncio.BufferedProtocol):
    def __init__(self, run: _Run, *, sampled: bool) -> None:
        self._run = run
        self.reader = StreamReader(run.stamps if sampled else None)
        self.answered = asyncio.Event()
        self._head: bytes | None = b""
        self._unpacker: Unpacker | ChunkCounter | None = None
        self._sampled = sampled
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        self._transport.write(self._run.request)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._run.view

    def buffer_updated(self, nbytes: int) -> None:
        at = 0 if self._head is None else self._take_head(nbytes)
        buffer, unpacker = self._run.buffer, self._unpacker
        if unpacker is None:
            events = self.reader.feed(buffer, at, nbytes)
        elif isinstance(unpacker, ChunkCounter):
            events = unpacker.feed(buffer, at, nbytes)
            self.reader.events += events
        else:
            text = unpacker.feed(buffer, at, nbytes)
            events = self.reader.feed(text, 0, len(text))
        self._run.took(events, nbytes)

    def connection_lost(self, exc: Exception | None) -> None:
        self.answered.set()
        if self._transport is not None:
            self._transport = None
            self._run.lost(f"stream ended: {exc or 'closed by the server'}")

    def close(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def _take_head(self, end: int) -> int:
        """Where the events begin; `end` while the head is not complete."""
        before = len(self._head or b"")
        head = (self._head or b"") + self._run.buffer[:end]
        found = head.find(b"\r\n\r\n")
        if found < 0:
            self._head = head
            return end
        self._head = None
        self.answered.set()
        if head[9:12] not in (b"200", b"101"):
            self.close()
            self._run.lost(head[:300].decode(errors="replace"))
            return end
        if b"\r\ncontent-encoding: gzip\r\n" in head[: found + 2].lower():
            self._unpacker = Unpacker() if self._sampled else ChunkCounter(self._run.chunks)
        self._run.opened()
        return found + 4 - before


async def follow(job: Job, *, ready: asyncio.Queue[Ready], stop: asyncio.Event) -> Result:
    """Run one job; puts the Ready line into `ready` and ends early when `stop` is set.

    Raises: OSError, TimeoutError when the server does not accept all streams.
    """
    host, port, tls = address(job.url, job.ca, job.certificate, job.key)
    loop = asyncio.get_running_loop()
    run = _Run(job)
    began, before = time.perf_counter(), run.cpu()
    turn = asyncio.Semaphore(_OPENING_AT_ONCE)

    async def connect(number: int) -> None:
        stream = _Stream(run, sampled=bool(job.sample_every) and number % job.sample_every == 0)
        run.streams.append(stream)
        # Until the head is there: connections that only the kernel has taken fill the server's queue, and past its end
        # each handshake is tried again after a second, which is not a figure of the server's.
        async with turn:
            await loop.create_connection(lambda: stream, host, port, ssl=tls)
            await stream.answered.wait()

    try:
        async with asyncio.timeout(_CONNECT_WITHIN_S):
            async with asyncio.TaskGroup() as group:
                for number in range(job.streams):
                    group.create_task(connect(number))
            await run.all_open.wait()
        after = run.cpu()
        used = after.since(before)
        ready.put_nowait(Ready(time.perf_counter() - began, used.client_s, used.server_s, used.machine_s))
        waits = [asyncio.ensure_future(event.wait()) for event in (run.finished, stop)]
        await asyncio.wait(waits, timeout=job.longest_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        return run.result(before if job.from_start else after)
    finally:
        for stream in run.streams:
            stream.close()


async def _main(job: Job) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Queue[Ready] = asyncio.Queue()
    stop = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), stop.set)
    async with asyncio.TaskGroup() as group:
        work = group.create_task(follow(job, ready=ready, stop=stop))
        announced = group.create_task(ready.get())
        await asyncio.wait((announced, work), return_when=asyncio.FIRST_COMPLETED)
        if announced.done():
            _say(announced.result())
        announced.cancel()
        result = await work
    loop.remove_reader(sys.stdin.fileno())
    _say(result)


def _say(line: Ready | Result) -> None:
    sys.stdout.buffer.write(orjson.dumps(line) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    import uvloop

    job = Job(**orjson.loads(sys.stdin.buffer.readline()))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(job.streams + 64, hard)), hard))
    uvloop.run(_main(job))


if __name__ == "__main__":
    main()
