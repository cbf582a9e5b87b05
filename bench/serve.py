"""Reads of packages that are in etcd already: GET, LIST in every form, start to ready, resident memory.

Each round starts the server anew, so start and memory are measured as often as everything else, and no question always
comes after the same history.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import quote

from bench import processes
from bench.errors import BenchError
from bench.load import fill, http
from bench.options import Options
from bench.processes import Server
from bench.report.table import Report, Sample
from bench.target import TABLE, Target, fetch, list_metadata, until_indexed

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Question:
    """One way of reading. paths: the requests that answer it once together, unless `alternatives`, then any of them."""

    name: str
    paths: Sequence[str]
    unit: str
    aim: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    connections: int = 4
    alternatives: bool = False

    @property
    def requests(self) -> int:
        """Requests an answer."""
        return 1 if self.alternatives else len(self.paths)


@contextmanager
def filled(options: Options, report: Report) -> Iterator[processes.Etcd]:
    """An etcd that holds the shape's packages."""
    with processes.etcd(options.etcd, options.work) as etcd:
        done = processes.ask("bench.load.fill", fill.Fill(etcd.endpoint, options.shape), fill.Filled, options.work)
        rate = Sample(done.objects / done.seconds, "objects/s", {"objects": done.objects})
        report.add("fill etcd through the store, one process", rate)
        yield etcd


def measure(options: Options, report: Report, etcd: processes.Etcd) -> None:
    """Every read question, `rounds` times. Raises: BenchError."""
    for _ in range(options.rounds):
        with processes.server(etcd, options.work) as server:
            started(server, report, f"{options.shape.packages} packages")
            until_indexed(server.target)
            target = server.target
            for question in questions(options, target):
                report.add(question.name, ask(question, target, options))
            after = server.child.settled_memory()
            report.add(
                "RSS after all reads", Sample(after.rss / 1e6, "MB", {"peak_MB": after.peak / 1e6}, "under 200 MB")
            )


def started(server: Server, report: Report, what: str) -> None:
    """Start to ready, and the memory it took."""
    report.add(
        f"start to ready, {what}", Sample(server.ready_s, "s", {"server_cpu_s": server.child.cpu_s()}, "under 2 s")
    )
    alone, all_ = server.child.memory(), server.child.family_memory()
    parts = {"peak_MB": alone.peak / 1e6, "with_children_MB": all_.rss / 1e6}
    report.add(f"RSS at start, {what}", Sample(alone.rss / 1e6, "MB", parts))


def questions(options: Options, target: Target) -> list[Question]:
    shape = options.shape
    packages = target.packages
    step = max(1, shape.packages // 1000)
    gets = [f"{packages}/{shape.name(number)}" for number in range(0, shape.packages, step)]
    selected = [
        f"{packages}?labelSelector={quote(f'cacheserver.dev/{key}={value}')}"
        for key, value in (("repository", shape.repository(1)), ("package", shape.package(1)))
    ]
    everything = shape.packages == fill.Shape().packages and shape.object_bytes == fill.Shape().object_bytes

    def aim(text: str) -> str:
        return text if everything else ""

    return [
        Question("GET", gets, "req/s", aim("15,000/s"), connections=options.connections, alternatives=True),
        Question(
            "GET, resourceVersion=0",
            [f"{path}?resourceVersion=0" for path in gets],
            "req/s",
            aim("15,000/s"),
            connections=options.connections,
            alternatives=True,
        ),
        Question("LIST identity", [packages], "lists/s", aim("50/s")),
        Question("LIST gzip", [packages], "lists/s", aim("200/s"), {"Accept-Encoding": "gzip"}),
        Question("LIST Table", [packages], "lists/s", "", {"Accept": TABLE}),
        Question("LIST Table gzip", [packages], "lists/s", "", {"Accept": TABLE, "Accept-Encoding": "gzip"}),
        Question(f"LIST in pages of {_PAGE}", pages(target, f"{packages}?limit={_PAGE}"), "lists/s", connections=1),
        Question("LIST of one repository by label", selected[:1], "lists/s", connections=8),
        Question("LIST of one package by label", selected[1:], "lists/s", connections=8),
    ]


def ask(question: Question, target: Target, options: Options) -> Sample:
    """One round of one question. Raises: BenchError when any answer is not 200."""
    job = http.Job(
        target.url,
        question.paths,
        question.connections,
        options.seconds,
        headers={**target.headers, **question.headers},
        ca=target.ca,
        certificate=target.certificate,
        key=target.key,
        cpu_of=target.pids,
    )
    done = processes.ask("bench.load.http", job, http.Result, options.work)
    return answered(question.name, done, question.unit, aim=question.aim, requests=question.requests)


def answered(name: str, done: http.Result, unit: str, *, aim: str = "", requests: int = 1) -> Sample:
    """What a load maker counted; `requests` of them to an answer. Raises: BenchError when any failed."""
    if done.failures or not done.requests:
        raise BenchError(f"{name}: {done.failures} of {done.requests} failed: {done.last_failure}")
    answers = done.requests / requests
    parts = {
        "per_server_cpu_s": answers / max(done.server_cpu_s, 0.01),
        "server_us_each": done.server_cpu_s / answers * 1e6,
        "client_us_each": done.client_cpu_s / answers * 1e6,
        "p50_ms": done.p50_ms,
        "p99_ms": done.p99_ms,
        "max_ms": done.max_ms,
        "MB/s": done.body_bytes / done.seconds / 1e6,
        "kB_each": done.body_bytes / answers / 1e3,
        "server_cores": done.server_cpu_s / done.seconds,
        "client_cores": done.client_cpu_s / done.seconds,
        "machine_cores": done.machine_cpu_s / done.seconds,
    }
    return Sample(answers / done.seconds, unit, parts, aim)


def pages(target: Target, first: str) -> list[str]:
    """Paths of every page of a list, in order, as a client would find them."""
    paths = [first]
    while True:
        following = list_metadata(fetch(target, paths[-1])).get("continue")
        if not following:
            return paths
        paths.append(f"{first}&continue={quote(following)}")
