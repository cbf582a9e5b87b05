"""Authors from a process of their own: they create drafts of ten files, save them, and move them on in their life.

Started by processes.Helper; `python -m bench.load.authors` reads a Job on stdin and prints a Result.
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from bench.report.figures import CPU, latency, samples

BASE = "/apis/cacheserver.dev/v1alpha1/namespaces/default"
FILES = 10
_FILE_BYTES = 1200
_MERGE = "application/merge-patch+json"
_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Job:
    """kind: what to do with the drafts of `packages` in `repository`, over so many connections.

    create: make each, with ten files. save: replace all files of each in turn for so many seconds, one changed, at a
    rate (0: as fast as it goes). seen: the same one after the other, and when `other` sends the event. move: ask for
    `lifecycle`, each once.
    """

    url: str
    kind: str
    packages: Sequence[str]
    repository: str = "edge"
    lifecycle: str = ""
    connections: int = 1
    seconds: float = 2.0
    rate: float = 0.0
    other: str = ""
    cpu_of: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """failures: answered with other than 200 or 201. seconds: from the first request to the last answer."""

    requests: int
    failures: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    client_cpu_s: float
    server_cpu_s: float
    machine_cpu_s: float
    last_failure: str = ""


def files(package: str, number: int = 0) -> dict[str, str]:
    """Ten of them, one of which says the number."""
    kptfile = f"apiVersion: kpt.dev/v1\nkind: Kptfile\nmetadata:\n  name: {package.rpartition('/')[2]}\n"
    text = "x" * _FILE_BYTES
    made = {
        f"c{at}.yaml": f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c{at}\ndata:\n  text: {text}\n"
        for at in range(FILES - 2)
    }
    return {"Kptfile": kptfile, "number.yaml": f"number: {number}\n", **made}


class _Run:
    def __init__(self, job: Job, session: aiohttp.ClientSession) -> None:
        self.job = job
        self.session = session
        self.took: array[float] = samples()
        self.failures = 0
        self.last_failure = ""
        self.number = 0

    def name(self, package: str) -> str:
        return f"{self.job.repository}.{package.replace('/', '.')}.w1"

    async def ask(self, method: str, path: str, body: object, media: str = "application/json") -> Any:
        """The answer; None where it was refused. Its time counts."""
        began = time.perf_counter()
        headers = {"Content-Type": media}
        url = f"{self.job.url}{BASE}/{path}"
        async with self.session.request(method, url, data=orjson.dumps(body), headers=headers) as answer:
            raw = await answer.read()
        self.took.append(time.perf_counter() - began)
        if answer.status not in (200, 201):
            self.failures += 1
            self.last_failure = f"{answer.status} {raw[:300].decode(errors='replace')}"
            return None
        return orjson.loads(raw)

    async def create(self, package: str) -> None:
        spec = {"repository": self.job.repository, "packageName": package, "workspaceName": "w1"}
        body = {"apiVersion": "cacheserver.dev/v1alpha1", "kind": "PackageRevision", "metadata": {}, "spec": spec}
        if await self.ask("POST", "packagerevisions", body) is not None:
            await self.save(package)

    async def save(self, package: str) -> Any:
        """All files, as by kubectl replace; one writer a draft, so no version is asked for before."""
        self.number += 1
        change = {"spec": {"resources": files(package, self.number)}}
        return await self.ask("PATCH", f"packagerevisionresources/{self.name(package)}", change, _MERGE)

    async def move(self, package: str) -> None:
        change = {"spec": {"lifecycle": self.job.lifecycle}}
        await self.ask("PATCH", f"packagerevisions/{self.name(package)}", change, _MERGE)

    async def each(self, do: Callable[[str], Awaitable[object]]) -> None:
        left = list(reversed(self.job.packages))

        async def one() -> None:
            while left:
                await do(left.pop())

        await asyncio.gather(*(one() for _ in range(self.job.connections)))

    async def saves(self) -> None:
        job, began = self.job, time.perf_counter()
        due = 0

        async def one(at: int) -> None:
            nonlocal due
            mine = job.packages[at :: job.connections]
            for turn in range(1 << 60):
                if job.rate:
                    due += 1
                    await asyncio.sleep(max(0.0, began + due / job.rate - time.perf_counter()))
                if time.perf_counter() - began >= job.seconds:
                    return
                await self.save(mine[turn % len(mine)])

        await asyncio.gather(*(one(at) for at in range(job.connections)))

    async def seen(self) -> None:
        """From the answer at one replica to the event at the other."""
        came: dict[str, float] = {}
        arrived, ready = asyncio.Event(), asyncio.Event()

        async def watch() -> None:
            url = f"{self.job.other}{BASE}/packagerevisions?watch=1&allowWatchBookmarks=true&sendInitialEvents=true"
            async with self.session.get(f"{url}&resourceVersionMatch=NotOlderThan") as answer:
                async for line in answer.content:
                    event = orjson.loads(line)
                    if event["type"] == "BOOKMARK":
                        ready.set()
                    came[event["object"]["metadata"]["resourceVersion"]] = time.perf_counter()
                    arrived.set()

        watching = asyncio.create_task(watch())
        delays: array[float] = samples()
        try:
            await asyncio.wait_for(ready.wait(), _WITHIN_S)
            until, at = time.perf_counter() + self.job.seconds, 0
            while time.perf_counter() < until:
                answer = await self.save(self.job.packages[at % len(self.job.packages)])
                answered, at = time.perf_counter(), at + 1
                if answer is None:
                    continue
                version = answer["metadata"]["resourceVersion"]
                while version not in came:
                    arrived.clear()
                    await asyncio.wait_for(arrived.wait(), _WITHIN_S)
                delays.append(max(0.0, came[version] - answered))
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        self.took = delays


async def drive(job: Job) -> Result:
    """Run one job."""
    timeout = aiohttp.ClientTimeout(_WITHIN_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector, read_bufsize=1 << 20) as session:
        run = _Run(job, session)
        before, began = CPU.now(job.cpu_of), time.perf_counter()
        match job.kind:
            case "create":
                await run.each(run.create)
            case "move":
                await run.each(run.move)
            case "save":
                await run.saves()
            case _:
                await run.seen()
        seconds, used = time.perf_counter() - began, CPU.now(job.cpu_of).since(before)
    took = latency(run.took)
    return Result(
        took.count, run.failures, seconds, took.p50_ms, took.p99_ms, took.max_ms, used.client_s, used.server_s,
        used.machine_s, run.last_failure,
    )  # fmt: skip


def main() -> None:
    import uvloop

    job = Job(**orjson.loads(sys.stdin.buffer.readline()))
    sys.stdout.buffer.write(orjson.dumps(uvloop.run(drive(job))) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
