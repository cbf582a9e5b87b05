"""What this machine can carry at all: a server that does nothing but write ready bytes to its watchers, over TLS.

The bound of fan-out: no event is made, no etcd followed, no request understood; what is left is uvloop's transport,
OpenSSL and the kernel. `python -m bench.load.bare` reads a Job on stdin and prints Listening; it begins to write when
another line has come, and ends with its stdin.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import orjson

from bench import processes
from bench.errors import BenchError
from bench.load import watchers
from bench.options import Options
from bench.processes import Identity
from bench.report.table import Sample
from cacheserver.api.watching.channel import PAUSE_MOST_S, PAUSE_S
from cacheserver.cache.window import TAKE_BYTES

_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_UNSENT_BYTES = 64 << 10  # as cacheserver's streams
_A_TURN = 64
_LONGEST_S = 60.0
_PACED_S = 3.0


@dataclass(frozen=True, slots=True)
class Job:
    """`pieces` writes to each of `streams`, of `events` events of `event_bytes` each. certificate, key: files.

    every_s: between the beginnings of two writes to the same; 0: as fast as they are taken.
    """

    certificate: str
    key: str
    streams: int
    pieces: int
    events: int
    event_bytes: int
    every_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Listening:
    port: int
    pid: int


def burst(options: Options, shows: tuple[str, str], client: Identity) -> Sample:
    """Events a second that reach all watchers, written as many at a time as cacheserver writes in a burst.

    shows: certificate and key of the server. Raises: BenchError.
    """
    at_once = max(1, TAKE_BYTES // options.shape.object_bytes)
    return _measure(options, shows, client, at_once, max(1, round(options.peer_burst / at_once)), 0.0)


def paced(options: Options, shows: tuple[str, str], client: Identity, rate: float) -> Sample:
    """The same at `rate` writes a second, of which as many go out together as cacheserver gathers meanwhile."""
    gathered_s = 1.25 * min(options.watchers * PAUSE_S, PAUSE_MOST_S)  # a quarter: while the last ones are told
    at_once = max(1, round(rate * gathered_s))
    return _measure(options, shows, client, at_once, max(1, round(_PACED_S * rate / at_once)), at_once / rate)


def _measure(
    options: Options, shows: tuple[str, str], client: Identity, at_once: int, pieces: int, every_s: float
) -> Sample:
    job = Job(*shows, options.watchers, pieces, at_once, options.shape.object_bytes, every_s)
    expect = options.watchers * pieces * at_once
    with processes.helper("bench.load.bare", job, options.work) as server:
        found = server.answer(Listening, within_s=20)
        asks = watchers.Job(
            url=f"https://127.0.0.1:{found.port}",
            path="/",
            streams=options.watchers,
            expect=expect,
            longest_s=_LONGEST_S,
            ca=str(client.authority),
            certificate=str(client.certificate),
            key=str(client.key),
            cpu_of=[found.pid],
        )
        with processes.helper("bench.load.watchers", asks, options.work) as load:
            load.answer(watchers.Ready, within_s=60)
            server.tell(b"write")
            done = load.answer(watchers.Result, within_s=_LONGEST_S + 5)
    if done.events != expect:
        raise BenchError(f"bare writes: {done.events} of {expect} events came: {done.last_failure}")
    parts = {
        "events_a_write": float(at_once),
        "server_us_an_event": done.server_cpu_s / done.events * 1e6,
        "client_us_an_event": done.client_cpu_s / done.events * 1e6,
        "server_cores": done.server_cpu_s / done.seconds,
        "client_cores": done.client_cpu_s / done.seconds,
        "machine_cores": done.machine_cpu_s / done.seconds,
    }
    return Sample(done.events / done.seconds, "events/s", parts)


class _Watcher(asyncio.Protocol):
    def __init__(self, others: list[_Watcher], resumed: asyncio.Event, pieces: int) -> None:
        self.left = pieces
        self.paused = False
        self._others = others
        self._resumed = resumed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=_UNSENT_BYTES)

    def data_received(self, data: bytes) -> None:
        self.transport.write(_HEAD)
        self._others.append(self)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._resumed.set()


async def _serve(job: Job) -> None:
    loop = asyncio.get_running_loop()
    asked: list[_Watcher] = []
    resumed = asyncio.Event()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(job.certificate, job.key)
    made = await loop.create_server(lambda: _Watcher(asked, resumed, job.pieces), "127.0.0.1", 0, ssl=tls, backlog=4096)
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    port = made.sockets[0].getsockname()[1]
    sys.stdout.buffer.write(orjson.dumps(Listening(port, os.getpid())) + b"\n")
    sys.stdout.buffer.flush()
    if await lines.readline():
        await _write(asked, _piece(job), resumed, job.every_s)
        await lines.read()


def _piece(job: Job) -> bytes:
    around = b'{"type":"MODIFIED","object":{""}}\n'
    event = around.replace(b'""', b'"' + b"x" * max(0, job.event_bytes - len(around)) + b'"')
    body = event * job.events
    return b"%x\r\n%b\r\n" % (len(body), body)


async def _write(to: list[_Watcher], piece: bytes, resumed: asyncio.Event, every_s: float = 0.0) -> None:
    loop = asyncio.get_running_loop()
    while waiting := [each for each in to if each.left]:
        begun = loop.time()
        resumed.clear()
        ready = [each for each in waiting if not each.paused]
        for number, each in enumerate(ready):
            each.transport.write(piece)
            each.left -= 1
            if number % _A_TURN == 0:
                await asyncio.sleep(0)
        if not ready:
            await resumed.wait()
        await asyncio.sleep(max(0.0, begun + every_s - loop.time()))


def main() -> None:
    import uvloop

    job = Job(**orjson.loads(sys.stdin.buffer.readline()))
    with suppress(KeyboardInterrupt):
        uvloop.run(_serve(job))


if __name__ == "__main__":
    main()
