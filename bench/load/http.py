"""HTTP/1.1 load from a process of its own: N keep-alive connections, one request outstanding on each.

Bodies are read into one buffer and counted, never kept or decoded. What came back is not judged here beyond its status;
the tests do that. Started by processes.Helper; `python -m bench.load.http` reads a Job on stdin and prints a Result.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import orjson

from bench.report.figures import CPU, Latency, latency, samples

BUFFER_BYTES = 1 << 20
"""Read at once, by whichever connection is readable: big bodies cost few calls. Shared, for nothing in it is kept."""

_CONNECT_WITHIN_S = 30.0
_HEAD_END = b"\r\n\r\n"
_LINE_END = b"\r\n"


@dataclass(frozen=True, slots=True)
class Job:
    """What to ask: `paths` in turn, over `connections`, counted for `seconds` after `warm_up_s`.

    url: scheme, host and port. ca: file that the server's certificate must lead to (https). headers: for each request,
    a bearer token among them. certificate, key: files of what we show as client; empty: nothing.
    cpu_of: pids whose CPU is read at both ends of the counted time. begin_at: CLOCK_MONOTONIC seconds when counting
    begins, so that jobs in several processes count the same time; 0: after `warm_up_s`. Past already: an error.
    """

    url: str
    paths: Sequence[str]
    connections: int = 16
    seconds: float = 2.0
    warm_up_s: float = 0.3
    headers: Mapping[str, str] = field(default_factory=dict)
    ca: str = ""
    certificate: str = ""
    key: str = ""
    cpu_of: Sequence[int] = ()
    begin_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """Of the counted time. body_bytes: as sent (compressed ones compressed). failures: other than 200, or broken.

    CPU seconds are those used meanwhile by this process, by `cpu_of`, and by the whole machine.
    """

    requests: int
    failures: int
    body_bytes: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    client_cpu_s: float
    server_cpu_s: float
    machine_cpu_s: float
    last_failure: str = ""


class ResponseReader:
    """Finds the end of each response in what one connection receives; knows Content-Length and chunked, no more."""

    __slots__ = ("_in_head", "_last", "_left", "_partial", "body_bytes", "status")

    def __init__(self) -> None:
        self.status = 0
        self.body_bytes = 0
        self._partial = b""
        self.reset()

    def reset(self) -> None:
        """Expect the next response."""
        self._in_head = True
        self._last = False
        self._left = 0
        self.body_bytes = 0

    def feed(self, buffer: bytearray, end: int) -> bool:
        """True when buffer[:end] completes the response. Raises ValueError for what is no such response."""
        at = 0
        while True:
            if self._left:
                step = min(self._left, end - at)
                self._left -= step
                at += step
                if self._left:
                    return False
            elif at < end and not self._last:
                at = self._text(buffer, at, end)
            if self._last and not self._left:
                if at != end:
                    raise ValueError(f"{end - at} bytes behind the end of a response")
                return True
            if at == end and not self._left:
                return False

    def _text(self, buffer: bytearray, at: int, end: int) -> int:
        """Take a head or a chunk's size line, maybe over several reads; returns where the rest begins."""
        mark = _HEAD_END if self._in_head else _LINE_END
        if not self._partial and (found := buffer.find(mark, at, end)) >= 0:
            self._understand(bytes(buffer[at:found]))
            return found + len(mark)
        before = len(self._partial)
        self._partial += buffer[at:end]
        found = self._partial.find(mark)
        if found < 0:
            return end
        text, self._partial = self._partial[:found], b""
        self._understand(text)
        return at + found + len(mark) - before

    def _understand(self, text: bytes) -> None:
        if not self._in_head:
            size = int(text.partition(b";")[0], 16)
            self.body_bytes += size
            self._last = size == 0
            self._left = size + len(_LINE_END)
            return
        if not text.startswith(b"HTTP/1.1 "):
            raise ValueError(f"not an HTTP/1.1 response: {text[:40]!r}")
        self._in_head = False
        self.status = int(text[9:12])
        fields = text.lower()
        length = fields.find(b"\r\ncontent-length:")
        if length >= 0:
            self._left = self.body_bytes = int(fields[length + 17 :].partition(b"\r\n")[0])
            self._last = True
        elif b"\r\ntransfer-encoding: chunked" not in fields:
            raise ValueError("a response with neither Content-Length nor chunks")


class _Run:
    """What all connections of one job share."""

    def __init__(self, job: Job) -> None:
        self.buffer = bytearray(BUFFER_BYTES)
        self.view = memoryview(self.buffer)
        self.running = True
        self._requests: Iterator[bytes] = itertools.cycle(requests(job.url, job.paths, job.headers))
        self._cpu_of = job.cpu_of
        self.failures = 0  # those of the warm-up count too: one makes the whole round worthless
        self.last_failure = ""
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self.latencies = samples()
        self.body_bytes = 0
        self._before = CPU.now(self._cpu_of)
        self._began = time.perf_counter()

    def next_request(self) -> bytes:
        return next(self._requests)

    def completed(self, elapsed_s: float, status: int, body_bytes: int) -> None:
        if status == 200:
            self.latencies.append(elapsed_s)
            self.body_bytes += body_bytes
        else:
            self.failed(f"status {status}")

    def failed(self, why: str) -> None:
        self.failures += 1
        self.last_failure = why

    def result(self) -> Result:
        """Counted up to now."""
        seconds = time.perf_counter() - self._began
        used = CPU.now(self._cpu_of).since(self._before)
        self.running = False
        of: Latency = latency(self.latencies)
        return Result(
            requests=of.count,
            failures=self.failures,
            body_bytes=self.body_bytes,
            seconds=seconds,
            p50_ms=of.p50_ms,
            p99_ms=of.p99_ms,
            max_ms=of.max_ms,
            client_cpu_s=used.client_s,
            server_cpu_s=used.server_s,
            machine_cpu_s=used.machine_s,
            last_failure=self.last_failure,
        )


class _Connection(asyncio.BufferedProtocol):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._reader = ResponseReader()
        self._transport: asyncio.Transport | None = None
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        self._ask()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._run.view

    def buffer_updated(self, nbytes: int) -> None:
        run, reader = self._run, self._reader
        try:
            if not reader.feed(run.buffer, nbytes):
                return
        except ValueError as exc:
            self._broken(str(exc))
            return
        run.completed(time.perf_counter() - self._sent_at, reader.status, reader.body_bytes)
        reader.reset()
        if run.running:
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._run.running and self._transport is not None:
            self._run.failed(f"connection lost: {exc or 'closed by the server'}")
        self._transport = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _ask(self) -> None:
        if self._transport is not None:
            self._sent_at = time.perf_counter()
            self._transport.write(self._run.next_request())

    def _broken(self, why: str) -> None:
        self._run.failed(why)
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()


def requests(url: str, paths: Sequence[str], headers: Mapping[str, str]) -> list[bytes]:
    """A GET of each path, ready to be written."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"Host": urlsplit(url).netloc, **headers}.items())
    return [f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode() for path in paths]


def address(url: str, ca: str, certificate: str = "", key: str = "") -> tuple[str, int, ssl.SSLContext | None]:
    """Host, port and TLS (None for http) of a server's URL. certificate, key: files; what we show, if anything."""
    parts = urlsplit(url)
    tls = ssl.create_default_context(cafile=ca or None) if parts.scheme == "https" else None
    if tls is not None and certificate:
        tls.load_cert_chain(certificate, key)
    return parts.hostname or "", parts.port or (443 if tls else 80), tls


async def drive(job: Job) -> Result:
    """Run one job. Raises: OSError, TimeoutError when the server does not accept."""
    host, port, tls = address(job.url, job.ca, job.certificate, job.key)
    loop = asyncio.get_running_loop()
    run = _Run(job)
    made: list[_Connection] = []

    async def connect() -> None:
        _, connection = await loop.create_connection(lambda: _Connection(run), host, port, ssl=tls)
        made.append(connection)

    try:
        async with asyncio.timeout(_CONNECT_WITHIN_S), asyncio.TaskGroup() as group:
            for _ in range(job.connections):
                group.create_task(connect())
        wait_s = job.begin_at - time.monotonic() if job.begin_at else job.warm_up_s
        if wait_s < 0:
            raise TimeoutError(f"the counted time began {-wait_s:.1f} s ago")
        await asyncio.sleep(wait_s)
        run.begin()
        await asyncio.sleep(job.seconds)
        return run.result()
    finally:
        run.running = False
        for connection in made:
            connection.close()


def main() -> None:
    import uvloop

    job = Job(**orjson.loads(sys.stdin.buffer.readline()))
    sys.stdout.buffer.write(orjson.dumps(uvloop.run(drive(job))) + b"\n")


if __name__ == "__main__":
    main()
