"""gRPC load from a process of its own, for peers that speak it: N channels, one call outstanding on each.

Messages are bytes on both sides: requests come encoded, answers are counted and never decoded. Started by
processes.Helper; `python -m bench.load.rpc` reads a Job on stdin and prints bench.load.http's Result.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio
import orjson

from bench.load.http import Result
from bench.report.figures import CPU, latency, samples

_OPTIONS: Final = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
"""Messages of any size; and a connection for each channel, which channels to one address would else share."""


@dataclass(frozen=True, slots=True)
class Job:
    """Call `method` ("/package.Service/Method") with `requests`, in hexadecimal, in turn; counted as bench.load.http
    does.

    stream: the answer is many messages; it is complete, and counted once, when the last has come.
    """

    address: str
    method: str
    requests: Sequence[str]
    stream: bool = False
    connections: int = 1
    seconds: float = 2.0
    warm_up_s: float = 0.3
    cpu_of: Sequence[int] = ()


def text(number: int, value: str) -> bytes:
    """A message of one string: field `number`, under 16 (protobuf.dev, Encoding)."""
    raw = value.encode()
    size, length = len(raw), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes((number << 3 | 2,)) + bytes(length) + bytes((size,)) + raw


class _Count:
    def __init__(self) -> None:
        self.took = samples()
        self.bytes = 0
        self.failures = 0
        self.last_failure = ""


async def drive(job: Job) -> Result:
    """Run one job. A call that fails is counted, and its channel calls again."""
    requests = itertools.cycle([bytes.fromhex(each) for each in job.requests])
    count = _Count()
    callers = [asyncio.create_task(_call_on(job, requests, count)) for _ in range(job.connections)]
    try:
        await asyncio.sleep(job.warm_up_s)
        count.took, count.bytes = samples(), 0
        before, began = CPU.now(job.cpu_of), time.perf_counter()
        await asyncio.sleep(job.seconds)
        seconds, used = time.perf_counter() - began, CPU.now(job.cpu_of).since(before)
        took = latency(count.took)
    finally:
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    return Result(
        took.count,
        count.failures,
        count.bytes,
        seconds,
        took.p50_ms,
        took.p99_ms,
        took.max_ms,
        used.client_s,
        used.server_s,
        used.machine_s,
        count.last_failure,
    )


async def _call_on(job: Job, requests: Iterator[bytes], count: _Count) -> None:
    async with grpc.aio.insecure_channel(job.address, options=_OPTIONS) as channel:
        # Without serializers messages are the bytes that they are.
        unary: Any = channel.unary_unary(job.method)
        stream: Any = channel.unary_stream(job.method)
        while True:
            began, size = time.perf_counter(), 0
            try:
                if job.stream:
                    async for message in stream(next(requests)):
                        size += len(message)
                else:
                    size = len(await unary(next(requests)))
            except grpc.aio.AioRpcError as exc:
                count.failures += 1
                count.last_failure = f"{exc.code().name}: {exc.details()}"
                await asyncio.sleep(0.01)  # a server that refuses at once is not to be hammered
                continue
            count.took.append(time.perf_counter() - began)
            count.bytes += size


def main() -> None:
    import uvloop

    job = Job(**orjson.loads(sys.stdin.buffer.readline()))
    sys.stdout.buffer.write(orjson.dumps(uvloop.run(drive(job))) + b"\n")


if __name__ == "__main__":
    main()
