"""Searches over 5,000 packages with 100,000 revisions: how long each takes, what the index holds, what readers feel.

Questions are made of the objects' own words: names and their beginnings, misspelled ones, kinds of words that few and
that all have, up to five at once. One client asks, one after the other, as somebody types.
"""

from __future__ import annotations

import dataclasses
import http.client
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote, urlsplit

import orjson

from bench import processes
from bench.errors import BenchError
from bench.load import fill, words
from bench.options import Options
from bench.report.figures import Latency, latency, samples
from bench.report.table import Report, Sample
from bench.scale import REVISIONS_A_PACKAGE
from bench.target import NAMESPACED, Target, fetch

_ASKED: Final = 600
_AIM: Final = "p99 under 20 ms"
_FILL_WITHIN_S: Final = 900.0
_PACKAGE: Final = "cacheserver.dev/package"


def measure(options: Options, report: Report) -> None:
    """Raises: BenchError."""
    shape = dataclasses.replace(options.shape, revisions=REVISIONS_A_PACKAGE)
    with processes.etcd(options.etcd, options.work) as etcd:
        job = fill.Fill(etcd.endpoint, shape)
        processes.ask("bench.load.fill", job, fill.Filled, options.work, within_s=_FILL_WITHIN_S)
        report.note(f"{shape.packages:,} packages, {shape.packages * shape.revisions:,} revisions")
        for _ in range(options.rounds):
            with processes.server(etcd, options.work) as server:
                _round(server, shape, report)


def _round(server: processes.Server, shape: fill.Shape, report: Report) -> None:
    target = server.target
    _until_indexed(target)
    held = server.child.settled_memory()
    report.add("RSS, everything indexed", Sample(held.rss / 1e6, "MB", {"peak_MB": held.peak / 1e6}))
    asked = questions(shape)
    label = quote(f"{_PACKAGE}={shape.package(1)}")
    kinds: dict[str, Callable[[_Client, int], None]] = {
        "PackageSearch": lambda client, at: client.search(asked[at % len(asked)]),
        "packages?search=": lambda client, at: client.get(f"packages?limit=20&search={quote(asked[at % len(asked)])}"),
        "who provides a kind": lambda client, at: client.get(f"packagerevisions?fieldSelector={_provides(shape, at)}"),
        "a plain LIST of one package": lambda client, at: client.get(f"packages?labelSelector={label}"),
    }
    for name, ask in kinds.items():
        cpu_s = server.child.cpu_s()
        with _reader(target, shape) as felt:
            took = _asked(target, ask)
        parts = {
            "p99_ms": took.p99_ms,
            "max_ms": took.max_ms,
            "server_us_each": (server.child.cpu_s() - cpu_s) / _ASKED * 1e6,
            "reader_p99_ms": felt[0].p99_ms,
            "reader_max_ms": felt[0].max_ms,
        }
        report.add(f"{name}, and a GET beside it", Sample(took.p50_ms, "ms", parts, _AIM if "earch" in name else ""))


def questions(shape: fill.Shape) -> Sequence[str]:
    """Every kind in equal parts; the same for the same shape."""
    rng = random.Random(f"{shape.seed}/questions")
    found: list[str] = []
    for _ in range(30):
        name = shape.package(rng.randrange(shape.packages))
        at = rng.randrange(2, 6)
        said = words.sentences(rng, 60).lower().strip(". ").split()
        found += [
            name,
            name[: rng.randrange(1, 5)],
            name[:at] + name[at + 1 :],
            rng.choice(said),
            " ".join(said[:2]),
            " ".join(said[:5]),
        ]
    return found


def _provides(shape: fill.Shape, at: int) -> str:
    record = fill.revision_record(shape, at % shape.packages, 1)
    api = orjson.loads(record.status)["providedAPIs"][0]
    return quote(f"status.provides={api['kind']}.{api['group']}")


def _asked(target: Target, ask: Callable[[_Client, int], None]) -> Latency:
    client, took = _Client(target), samples()
    for at in range(_ASKED):
        began = time.perf_counter()
        ask(client, at)
        took.append(time.perf_counter() - began)
    return latency(took)


class _Client:
    """One connection that is kept."""

    def __init__(self, target: Target) -> None:
        url = urlsplit(target.url)
        self._connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)

    def search(self, text: str) -> Any:
        spec = {"apiVersion": "cacheserver.dev/v1alpha1", "kind": "PackageSearch", "spec": {"text": text}}
        return self._send("POST", "packagesearches", orjson.dumps(spec))

    def get(self, path: str) -> Any:
        return self._send("GET", path, None)

    def _send(self, method: str, path: str, body: bytes | None) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        self._connection.request(method, f"{NAMESPACED}/{path}", body, headers)
        answer = self._connection.getresponse()
        said = answer.read()
        if answer.status not in (200, 201):
            raise BenchError(f"{method} {path}: {answer.status} {said[:300]!r}")
        return said


@contextmanager
def _reader(target: Target, shape: fill.Shape) -> Iterator[list[Latency]]:
    """GETs from memory, one after the other, meanwhile: what they take at most is how long the loop was held."""
    client, took, over, told = _Client(target), samples(), threading.Event(), list[Latency]()

    def read() -> None:
        while not over.wait(0.001):
            began = time.perf_counter()
            client.get(f"packages/{shape.name(1)}?resourceVersion=0")
            took.append(time.perf_counter() - began)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield told
    finally:
        over.set()
        thread.join()
        told.append(latency(took))


def _until_indexed(target: Target) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            fetch(target, f"{NAMESPACED}/packages?limit=1&search=operator")
            return
        except BenchError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)
