"""The shape's packages as custom resources in a kube-apiserver: made, and changed, through its API.

`python -m bench.peers.crs` reads one job on stdin: Fill creates the objects and prints Filled; Churn changes them,
stamped with the time, and prints Churned (bench.load.fill's); Copy puts what one etcd has into the other, for more
objects than an apiserver takes in minutes, and prints Filled. The manifests are those that bench.load.fill writes; the
apiserver adds what it adds to every object, and managedFields are taken off again: they would make its objects larger
than ours.
"""

from __future__ import annotations

import re
import ssl
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import aiohttp
import orjson

from bench.load import fill
from bench.load.fill import NAMESPACE, Churned, Shape, record
from bench.load.watchers import STAMP_DIGITS
from bench.report.figures import latency, samples
from bench.target import Target
from cacheserver import model
from cacheserver.etcd.client import Client
from cacheserver.etcd.values import Put
from cacheserver.model import Kind, Stored
from cacheserver.store.keys import SERVED, parse_key
from cacheserver.tasks import in_parallel

_WIDTH: Final = 48
_BATCH: Final = 100  # puts a transaction; etcd takes 128, and the packages of a batch are a third of what it takes
_TIMEOUT_S: Final = 60.0
_VERSION: Final = re.compile(rb'"resourceVersion":"([0-9]+)"')
_JSON: Final = {"Content-Type": "application/json"}
_MERGE: Final = {"Content-Type": "application/merge-patch+json"}


@dataclass(frozen=True, slots=True)
class Peer:
    """Where to write, and as whom: files."""

    url: str
    path: str
    ca: str
    certificate: str
    key: str

    @classmethod
    def of(cls, target: Target) -> Self:
        return cls(target.url, target.packages, target.ca, target.certificate, target.key)


@dataclass(frozen=True, slots=True)
class Fill:
    """Job: create all of `shape`."""

    peer: Peer
    shape: Shape


@dataclass(frozen=True, slots=True)
class Filled:
    objects: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Churn:
    """Job: as bench.load.fill's Churn, by PUT of the whole object."""

    peer: Peer
    shape: Shape
    writes: int
    rate: float = 0.0
    width: int = _WIDTH


@dataclass(frozen=True, slots=True)
class Copy:
    """Job: every package and revision of cacheserver's etcd (source) as custom resources into an apiserver's (to).

    The JSON is the same: an apiserver stores a custom resource as it is served, without its resourceVersion.
    """

    source: str
    to: str


def manifest(shape: Shape, number: int) -> dict[str, Any]:
    """The object as a client writes it: what a server decides is left out."""
    made: dict[str, Any] = orjson.loads(model.encode(record(shape, number), previous=None, now="2026-01-02T03:04:05Z"))
    metadata = made["metadata"]
    return made | {
        "metadata": {"name": metadata["name"], "namespace": NAMESPACE, "labels": metadata["labels"]},
    }


class _Writer:
    """Changes objects in turn; one write of an object at a time."""

    def __init__(self, session: aiohttp.ClientSession, peer: Peer, shape: Shape, versions: dict[str, str]) -> None:
        self._session = session
        self._peer = peer
        self._names = sorted(versions)
        self._versions = versions
        wanted = set(versions)
        self._bodies: dict[str, bytes] = {}
        for number in range(shape.packages):
            name = shape.name(number)
            if name in wanted:
                self._bodies[name] = _body(manifest(shape, number))
        self.took = samples()
        self.acknowledged: list[tuple[int, int]] = []

    async def write(self, number: int) -> None:
        name = self._names[number % len(self._names)]
        stamp = time.monotonic_ns()
        body = self._bodies[name].replace(b"0" * STAMP_DIGITS, b"%0*d" % (STAMP_DIGITS, stamp), 1)
        body = body.replace(_VERSION_HERE, self._versions[name].encode(), 1)
        async with self._session.put(f"{self._peer.path}/{name}", data=body, headers=_JSON) as answer:
            content = await answer.read()
            answered = time.monotonic_ns()
            answer.raise_for_status()
        self._versions[name] = _version(content)
        self.took.append((answered - stamp) / 1e9)
        self.acknowledged.append((stamp, answered))


_VERSION_HERE: Final = b"@version@"


def _body(wanted: dict[str, Any]) -> bytes:
    """The object with a place for its resourceVersion: kube-apiserver demands one for a PUT of a custom resource."""
    wanted["metadata"]["resourceVersion"] = _VERSION_HERE.decode()
    return orjson.dumps(wanted)


def _version(content: bytes) -> str:
    found = _VERSION.search(content)
    if found is None:
        raise ValueError(f"no resourceVersion in {content[:200]!r}")
    return found[1].decode()


async def create(job: Fill) -> Filled:
    """Raises: aiohttp.ClientError."""
    began = time.perf_counter()
    async with _session(job.peer) as session:

        async def one(number: int) -> None:
            made = manifest(job.shape, number)
            async with session.post(job.peer.path, data=orjson.dumps(made), headers=_JSON) as answer:
                answer.raise_for_status()
                await answer.read()
            path = f"{job.peer.path}/{made['metadata']['name']}"
            # kubernetes.io, Server-Side Apply, Clearing managedFields; later writes then track none either.
            cleared: dict[str, Any] = {"metadata": {"managedFields": [{}]}}
            async with session.patch(path, data=orjson.dumps(cleared), headers=_MERGE) as answer:
                answer.raise_for_status()
                await answer.read()

        await in_parallel(range(job.shape.packages), one, width=_WIDTH)
    return Filled(job.shape.packages, time.perf_counter() - began)


async def copy(job: Copy) -> Filled:
    """Before the apiserver starts. Raises: EtcdError."""
    began, copied = time.perf_counter(), 0
    async with Client([job.source]) as source, Client([job.to]) as to:

        async def put(some: Sequence[Put]) -> None:
            await to.txn((), some)

        for kind in (Kind.PACKAGE, Kind.REVISION):
            prefix = SERVED + kind.encode() + b"/"
            async for page in source.pages(prefix):
                found = [Stored(parse_key(kind, each.key), each.value, 0) for each in page.key_values]
                puts = [Put(_stored_key(kind, each), each.value) for each in found]
                await in_parallel([puts[at : at + _BATCH] for at in range(0, len(puts), _BATCH)], put, width=8)
                copied += len(puts)
    return Filled(copied, time.perf_counter() - began)


def _stored_key(kind: Kind, stored: Stored) -> bytes:
    """Where an apiserver keeps a custom resource: k8s.io/apiextensions-apiserver, under the default --etcd-prefix."""
    return f"/registry/{model.GROUP}/{kind}/{stored.key.namespace}/{stored.name}".encode()


async def churn(job: Churn) -> Churned:
    """Raises: aiohttp.ClientError; ValueError when the objects are not there (Fill first)."""
    async with _session(job.peer) as session:
        versions = await _versions(session, job)
        writer = _Writer(session, job.peer, job.shape, versions)
        began = time.perf_counter()
        if job.rate:
            late_s = await fill.on_schedule(writer.write, job.writes, job.rate, most=len(versions))
        else:
            late_s = 0.0
            await in_parallel(range(job.writes), writer.write, width=min(job.width, len(versions)))
        seconds = time.perf_counter() - began
    took = latency(writer.took)
    return Churned(job.writes, seconds, took.p50_ms, took.p99_ms, took.max_ms, late_s * 1e3, writer.acknowledged)


async def _versions(session: aiohttp.ClientSession, job: Churn) -> dict[str, str]:
    """Name -> resourceVersion of as many objects as are changed."""
    count = min(job.writes, job.shape.packages)
    async with session.get(f"{job.peer.path}?limit={count}") as answer:
        answer.raise_for_status()
        items: Sequence[Any] = orjson.loads(await answer.read())["items"]
    if len(items) < count:
        raise ValueError(f"{count - len(items)} of {count} objects are not in this apiserver")
    return {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in items}


def _session(peer: Peer) -> aiohttp.ClientSession:
    tls = ssl.create_default_context(cafile=peer.ca)
    tls.load_cert_chain(peer.certificate, peer.key)
    connector = aiohttp.TCPConnector(limit=_WIDTH * 2, ssl=tls)
    return aiohttp.ClientSession(peer.url, connector=connector, timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))


def main() -> None:
    import uvloop

    raw = orjson.loads(sys.stdin.buffer.readline())
    if "source" in raw:
        sys.stdout.buffer.write(orjson.dumps(uvloop.run(copy(Copy(**raw)))) + b"\n")
        return
    shape, peer = Shape(**raw.pop("shape")), Peer(**raw.pop("peer"))
    result: Filled | Churned
    if "writes" in raw:
        result = uvloop.run(churn(Churn(peer=peer, shape=shape, **raw)))
    else:
        result = uvloop.run(create(Fill(peer=peer, shape=shape, **raw)))
    sys.stdout.buffer.write(orjson.dumps(result) + b"\n")


if __name__ == "__main__":
    main()
