"""Served objects straight into etcd, and writes that change them: what the API's measures stand on.

`python -m bench.load.fill` reads one job on stdin: Fill writes packages through cacheserver.store.objects and prints
Filled; Churn changes them, stamped with the time, and prints Churned. Deterministic: a seed makes the same objects
everywhere.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import orjson

from bench.load import words
from bench.load.watchers import STAMP_DIGITS
from bench.report.figures import latency, samples
from cacheserver import model, names
from cacheserver.etcd.client import Client
from cacheserver.model import Key, Kind, Record, Stored
from cacheserver.store.claims import Claim
from cacheserver.store.objects import PIPELINE, Store
from cacheserver.tasks import in_parallel

NAMESPACE = "default"
_NOW = "2026-01-02T03:04:05Z"
_MOST_IN_FLIGHT = 512


@dataclass(frozen=True, slots=True)
class Shape:
    """`packages` objects of about `object_bytes` each as served, spread evenly over `repositories`; `revisions` of
    each, of about `revision_bytes`.

    Package names repeat in every repository, so that a label on one finds `repositories` objects.
    """

    packages: int = 5000
    repositories: int = 10
    object_bytes: int = 3400
    revisions: int = 0
    revision_bytes: int = 1600
    seed: int = 1

    def repository(self, number: int) -> str:
        return f"bench-{number % self.repositories:02}"

    def package(self, number: int) -> str:
        index = number // self.repositories
        return f"{words.name(random.Random(f'{self.seed}/name/{index}'))}-{index:04}"

    def key(self, number: int) -> Key:
        return Key(Kind.PACKAGE, NAMESPACE, self.repository(number), self.package(number))

    def name(self, number: int) -> str:
        return names.package_name(self.repository(number), self.package(number))

    def revision_name(self, number: int, revision: int) -> str:
        version = words.semantic_version(revision)
        return names.revision_name(self.repository(number), self.package(number), version)


@dataclass(frozen=True, slots=True)
class Fill:
    """Job: write all of `shape`."""

    endpoint: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Filled:
    objects: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Forget:
    """Job: drop what the last syncs noted, as if each had broken off before its last write. The objects stay."""

    endpoint: str


@dataclass(frozen=True, slots=True)
class Forgotten:
    repositories: int


@dataclass(frozen=True, slots=True)
class Churn:
    """Job: `writes` changes, each of another object while there are some.

    rate: writes a second, started on time whether or not earlier ones are done; 0: as many as `width` in flight give.
    """

    endpoint: str
    shape: Shape
    writes: int
    rate: float = 0.0
    width: int = 64


@dataclass(frozen=True, slots=True)
class Churned:
    """late_ms: how far behind its schedule the writer was at most. acknowledged: (stamp, answer), both monotonic ns.

    The latencies are etcd's: from a write's begin to its answer.
    """

    writes: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    late_ms: float
    acknowledged: Sequence[tuple[int, int]]


def record(shape: Shape, number: int, *, stamp: int = 0) -> Record:
    """Package `number` of `shape`, `stamp` in front of its status. Length does not depend on the stamp."""
    rng = random.Random(f"{shape.seed}/{number}")
    key = shape.key(number)
    labels = {
        model.LABEL_REPOSITORY: key.repository,
        model.LABEL_PACKAGE: key.package,
        model.LABEL_FORMAT: str(model.Format.FBC),
    }
    spec = orjson.dumps({"repository": key.repository, "packageName": key.package, "format": str(model.Format.FBC)})
    status = {"stamp": f"{stamp:0{STAMP_DIGITS}}", **_status(rng, key.package)}
    made = Record(key, labels, spec, orjson.dumps({**status, "channels": [], "summary": ""}))
    room = shape.object_bytes - len(model.with_resource_version(Kind.PACKAGE, _served(made), 10**6))
    channels, room = _channels(rng, key.package, room)
    status["channels"] = channels
    status["summary"] = words.sentences(rng, max(0, room)).replace("\n", " ")  # in JSON a newline would be two bytes
    return dataclasses.replace(made, status=orjson.dumps(status))


def revision_record(shape: Shape, number: int, revision: int) -> Record:
    """Revision `revision` of package `number`; the APIs it provides fill it up, as they do in real catalogs.

    They are those of the package's other revisions, some more or fewer.
    """
    rng, kinds = random.Random(f"{shape.seed}/{number}/{revision}"), random.Random(f"{shape.seed}/{number}/kinds")
    package, version = shape.package(number), words.semantic_version(revision)
    key = Key(Kind.REVISION, NAMESPACE, shape.repository(number), package, version)
    labels = {
        model.LABEL_REPOSITORY: key.repository,
        model.LABEL_PACKAGE: package,
        model.LABEL_FORMAT: str(model.Format.FBC),
        model.LABEL_LIFECYCLE: "Published",
    }
    spec = {
        "repository": key.repository,
        "packageName": package,
        "revision": f"{package}.v{version}",
        "version": version,
        "lifecycle": "Published",
        "format": str(model.Format.FBC),
    }
    apis: list[dict[str, str]] = []
    status = {
        "channels": [{"name": "stable"}],
        "image": f"quay.io/bench/{package}-bundle@sha256:{words.hexadecimal(rng)}",
        "content": {"digest": f"sha256:{words.hexadecimal(rng)}", "size": rng.randint(4_000, 40_000), "files": 3},
        "providedAPIs": apis,
    }
    made = Record(key, labels, orjson.dumps(spec), orjson.dumps(status))
    room = shape.revision_bytes - len(model.with_resource_version(Kind.REVISION, _served(made), 10**6))
    while room > 100:
        apis.append({"group": f"{package}.example.com", "version": "v1", "kind": words.name(kinds).title()})
        room -= len(orjson.dumps(apis[-1])) + 1
    return dataclasses.replace(made, status=orjson.dumps(status))


def _served(made: Record) -> bytes:
    return model.encode(made, previous=None, now=_NOW)


def _status(rng: random.Random, package: str) -> dict[str, Any]:
    """What a package's status says beside its channels, in shapes and sizes like a catalog's."""
    at = rng.randint(1, 90)
    version = words.semantic_version(at)
    return {
        "displayName": " ".join(part.capitalize() for part in package.split("-")[:2]),
        "provider": {"name": words.name(rng).title(), "url": f"https://{words.name(rng, 1)}.example.com"},
        "keywords": [words.name(rng, 1) for _ in range(rng.randint(0, 8))],
        "defaultChannel": "stable",
        "latest": {"revision": f"{package}.v{version}", "version": version},
        "revisions": at,
        "icon": {"mediaType": "image/svg+xml", "digest": f"sha256:{words.hexadecimal(rng)}", "size": 5949},
    }


def _channels(rng: random.Random, package: str, room: int) -> tuple[list[dict[str, object]], int]:
    """Channels for about `room` bytes, and what is left of it: 150 to 300 for a summary.

    Channels are what makes a Package as big as that in real catalogs.
    """
    channels: list[dict[str, object]] = []
    at = rng.randint(0, 20)
    while room > 300:
        at += rng.randint(1, 9)
        version = words.semantic_version(at)
        name = f"{rng.choice(('stable', 'fast', 'candidate', 'alpha'))}-{version.rpartition('.')[0]}"
        made: dict[str, object] = {"name": name, "head": f"{package}.v{version}", "headVersion": version}
        made["revisions"] = rng.randint(1, 30)
        channels.append(made)
        room -= len(orjson.dumps(made)) + 1
    return channels, room + bool(channels)


async def fill(job: Fill) -> Filled:
    """Raises: EtcdError."""
    began = time.perf_counter()
    async with AsyncExitStack() as stack:
        store, claims = await _open(stack, job.endpoint, job.shape)

        async def write(at: int) -> None:
            # A package's revisions, then the package, as ingestion does it.
            number, revision = divmod(at, job.shape.revisions + 1)
            package = revision == job.shape.revisions
            made = record(job.shape, number) if package else revision_record(job.shape, number, revision)
            await store.put(claims[job.shape.repository(number)], made, None)

        objects = job.shape.packages * (job.shape.revisions + 1)
        await in_parallel(range(objects), write, width=PIPELINE)
    return Filled(objects, time.perf_counter() - began)


async def forget(job: Forget) -> Forgotten:
    """Raises: EtcdError."""
    async with Client([job.endpoint]) as client:
        store = Store(client)
        await store.open()
        found = await store.repositories()
        async with store.session("bench") as session:
            for repository in found:
                claim = await session.claim(f"{repository.namespace}/{repository.name}")
                await store.put_state(claim, repository, None)
    return Forgotten(len(found))


class _Writer:
    """Changes objects in turn; one write of an object at a time."""

    def __init__(self, store: Store, claims: Mapping[str, Claim], shape: Shape, stored: Sequence[Stored]) -> None:
        self._store = store
        self._claims = claims
        self._shape = shape
        self._stored = list(stored)
        # Made before the clock runs: only the writes themselves are timed.
        self._records = [record(shape, number) for number in range(len(stored))]
        self.took = samples()
        self.acknowledged: list[tuple[int, int]] = []

    async def write(self, number: int) -> None:
        index = number % len(self._stored)
        plain = self._records[index]
        stamp = time.monotonic_ns()
        status = plain.status.replace(b"0" * STAMP_DIGITS, b"%0*d" % (STAMP_DIGITS, stamp), 1)
        claim = self._claims[self._shape.repository(index)]
        written = await self._store.put(claim, dataclasses.replace(plain, status=status), self._stored[index])
        answered = time.monotonic_ns()
        if written is not None:
            self._stored[index] = written
        self.took.append((answered - stamp) / 1e9)
        self.acknowledged.append((stamp, answered))


async def churn(job: Churn) -> Churned:
    """Raises: EtcdError; ValueError when the objects are not there (Fill first)."""
    async with AsyncExitStack() as stack:
        store, claims = await _open(stack, job.endpoint, job.shape)
        count = min(job.writes, job.shape.packages)
        found: list[Stored | None] = [None] * count

        async def read(number: int) -> None:
            found[number] = await store.read_object(job.shape.key(number))

        await in_parallel(range(count), read, width=PIPELINE)
        stored = [each for each in found if each is not None]
        if len(stored) < count:
            raise ValueError(f"{count - len(stored)} of {count} objects are not in this etcd")
        writer = _Writer(store, claims, job.shape, stored)
        began = time.perf_counter()
        if job.rate:
            most = min(_MOST_IN_FLIGHT, job.shape.packages)
            late_s = await on_schedule(writer.write, job.writes, job.rate, most=most)
        else:
            late_s = 0.0
            await in_parallel(range(job.writes), writer.write, width=min(job.width, count))
        seconds = time.perf_counter() - began
    took = latency(writer.took)
    return Churned(job.writes, seconds, took.p50_ms, took.p99_ms, took.max_ms, late_s * 1e3, writer.acknowledged)


async def on_schedule(write: Callable[[int], Awaitable[None]], writes: int, rate: float, *, most: int) -> float:
    """An open loop: a slow answer delays no other write. Returns the most seconds a write began late.

    most: writes under way at the same time.
    """
    began, late_s = time.perf_counter(), 0.0
    turn = asyncio.Semaphore(most)

    async def one(number: int) -> None:
        try:
            await write(number)
        finally:
            turn.release()

    async with asyncio.TaskGroup() as group:
        for number in range(writes):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await turn.acquire()
            late_s = max(late_s, time.perf_counter() - due)
            group.create_task(one(number))
    return late_s


async def _open(stack: AsyncExitStack, endpoint: str, shape: Shape) -> tuple[Store, Mapping[str, Claim]]:
    """A store and a claim on each of the shape's repositories, held until the stack closes."""
    client = await stack.enter_async_context(Client([endpoint]))
    store = Store(client)
    await store.open()
    session = await stack.enter_async_context(store.session("bench"))
    claims: dict[str, Claim] = {}
    for number in range(shape.repositories):
        repository = shape.repository(number)
        claims[repository] = await session.claim(f"{NAMESPACE}/{repository}")
    return store, claims


def main() -> None:
    import uvloop

    raw = orjson.loads(sys.stdin.buffer.readline())
    if "shape" not in raw:
        sys.stdout.buffer.write(orjson.dumps(uvloop.run(forget(Forget(**raw)))) + b"\n")
        return
    shape = Shape(**raw.pop("shape"))
    result: Filled | Churned
    if "writes" in raw:
        result = uvloop.run(churn(Churn(shape=shape, **raw)))
    else:
        result = uvloop.run(fill(Fill(shape=shape, **raw)))
    sys.stdout.buffer.write(orjson.dumps(result) + b"\n")


if __name__ == "__main__":
    main()
