"""How cost grows: with revisions served, with watchers, with serving processes. Each curve gets its exponent.

An exponent is the slope of a straight line through the logarithms: 1 is linear, 0 constant, 2 quadratic. Steps for
which the minutes that the run may take no longer suffice are left out, and named in the report.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

from bench import processes, serve, watch
from bench.errors import BenchError
from bench.load import fill, http
from bench.options import Options
from bench.processes import Etcd, Server
from bench.report.figures import memory
from bench.report.table import Report, Sample
from bench.serve import Question
from bench.target import NAMESPACED, until_indexed

REVISIONS_A_PACKAGE = 20
"""Of community v4.20: 803 revisions in 37 packages."""

_MEASURED = 10_000
_EVENTS = 200_000
"""Of one fan-out, however many watchers share them."""
_PACED_EVENTS_S = 10_000.0
_READY_WITHIN_S = 300.0
_CLIENT_READY_S = 1.0
"""For each client, beside twice that for all: until they are connected and warm."""
_CLOCKS_AGREE = 1.1
"""CPU is told in steps of 10 ms, and a busy machine ends a count a moment late."""
_REVISIONS = f"{NAMESPACED}/packagerevisions"


class _Budget:
    def __init__(self, report: Report, minutes: float) -> None:
        self._report = report
        self._until = time.monotonic() + minutes * 60

    def allows(self, step: str, seconds: float) -> bool:
        """Whether `seconds` are left; notes what is left out when they are not."""
        if time.monotonic() + seconds < self._until:
            return True
        self._report.note(f"left out, the minutes of --minutes were used up: {step}")
        return False


def measure(options: Options, report: Report) -> None:
    """All three curves. Raises: BenchError."""
    budget = _Budget(report, options.scale_minutes)
    for count in options.scale_revisions:
        if budget.allows(f"{count:,} revisions", 20 + count / 1000):
            _revisions(count, options, report)
    if budget.allows("watchers and processes", 60):
        with serve.filled(options, report) as etcd:
            _watchers(etcd, options, report, budget)
            _processes(etcd, options, report, budget)
    _fit(options, report)


def per_ten_thousand(options: Options, report: Report) -> None:
    """What 10,000 revisions with their packages add to a server that has started. Raises: BenchError."""
    packages = _MEASURED // REVISIONS_A_PACKAGE
    shape = dataclasses.replace(options.shape, packages=packages, revisions=REVISIONS_A_PACKAGE)
    with processes.etcd(options.etcd, options.work) as empty, processes.etcd(options.etcd, options.work) as full:
        processes.ask("bench.load.fill", fill.Fill(full.endpoint, shape), fill.Filled, options.work)
        for _ in range(options.rounds):
            held = []
            for etcd in (empty, full):
                with processes.server(etcd, options.work) as server:
                    held.append(server.child.memory().rss / 1e6)
            parts = {"empty_MB": held[0], "full_MB": held[1]}
            report.add(f"memory of {_MEASURED:,} revisions", Sample(held[1] - held[0], "MB", parts))


# --- revisions ---


def _revisions(count: int, options: Options, report: Report) -> None:
    packages = max(1, count // REVISIONS_A_PACKAGE)
    shape = dataclasses.replace(options.shape, packages=packages, revisions=REVISIONS_A_PACKAGE)
    with processes.etcd(options.etcd, options.work) as etcd:
        done = processes.ask(
            "bench.load.fill", fill.Fill(etcd.endpoint, shape), fill.Filled, options.work, within_s=900
        )
        at = f"at {count:,} revisions"
        report.add(f"fill etcd {at}", Sample(done.seconds, "s", {"objects/s": done.objects / done.seconds}))
        held = etcd.child.memory()
        database = Sample(_database(etcd) / 1e6, "MB", {"etcd_RSS_MB": held.rss / 1e6})
        report.add(f"etcd's database {at}", database)
        for _ in range(options.rounds):
            with processes.server(etcd, options.work, within_s=_READY_WITHIN_S) as server:
                _reads(server, shape, at, options, report)


def _reads(server: Server, shape: fill.Shape, at: str, options: Options, report: Report) -> None:
    loaded = server.child.memory()
    report.add(f"start to ready {at}", Sample(server.ready_s, "s", {"server_cpu_s": server.child.cpu_s()}))
    report.add(f"RSS at start {at}", Sample(loaded.rss / 1e6, "MB", {"peak_MB": loaded.peak / 1e6}))
    target = server.target
    until_indexed(target)
    step = max(1, shape.packages // 1000)
    gets = [f"{_REVISIONS}/{shape.revision_name(number, 1)}" for number in range(0, shape.packages, step)]
    name, repository = (
        f"cacheserver.dev/package={shape.package(1)}",
        f"cacheserver.dev/repository={shape.repository(1)}",
    )
    one, everywhere = (f"{_REVISIONS}?labelSelector={quote(each)}" for each in (f"{name},{repository}", name))
    for question in (
        Question(f"GET a revision {at}", gets, "req/s", connections=options.connections, alternatives=True),
        Question(f"LIST revisions of one package by label {at}", [one], "lists/s", connections=1),
        Question(f"LIST revisions of one name in all repositories {at}", [everywhere], "lists/s", connections=1),
        Question(f"LIST all revisions gzip {at}", [_REVISIONS], "lists/s", "", {"Accept-Encoding": "gzip"}, 1),
        Question(f"LIST all revisions identity {at}", [_REVISIONS], "lists/s", connections=1),
    ):
        sample = serve.ask(question, target, options)
        report.add(question.name, sample)
        if question.unit == "lists/s":
            report.add(f"time of {question.name}", Sample(sample.parts["p50_ms"], "ms"))
    after = server.child.settled_memory()
    report.add(f"RSS after reads {at}", Sample(after.rss / 1e6, "MB", {"peak_MB": after.peak / 1e6}))


def _database(etcd: Etcd) -> int:
    """Bytes of etcd's database file."""
    files: Sequence[Path] = list(etcd.child.directory.glob("member/member/snap/db"))
    return sum(path.stat().st_size for path in files)


# --- watchers ---


def _watchers(etcd: Etcd, options: Options, report: Report, budget: _Budget) -> None:
    write = watch.into_etcd(options, etcd)
    for count in options.scale_watchers:
        if not budget.allows(f"{count:,} watchers", 30 + count / 200):
            continue
        at = f"at {count:,} watchers"
        for _ in range(options.rounds):
            with processes.server(etcd, options.work, [f"--max-watches={count + 100}"]) as server:
                before = server.child.memory()
                writes = max(10, min(_EVENTS // count, options.shape.packages))
                burst = watch.run(watch.Load(count, writes), options, write, server.target, settle_s=120)
                sample = watch.throughput(burst)
                report.add(f"fan-out {at}", dataclasses.replace(sample, aim=""))
                report.add(f"CPU an event {at}", Sample(sample.parts["server_us_an_event"], "us"))
                report.add(f"time to open all {at}", Sample(burst.ready.seconds, "s"))
                rate = min(options.write_rate, _PACED_EVENTS_S / count)
                paced = watch.Load(count, max(5, round(rate * options.watch_seconds)), rate)
                outcome = watch.run(paced, options, write, server.target, settle_s=120)
                watch.delays(report, f"{count:,} watchers, {rate:.0f} writes/s", outcome, aim="")
                peak = server.child.memory().peak - before.rss
                report.add(f"memory a watcher {at}", Sample(peak / count / 1e3, "kB"))


# --- processes ---


def _processes(etcd: Etcd, options: Options, report: Report, budget: _Budget) -> None:
    for count in options.scale_processes:
        if not budget.allows(f"{count} processes", 30):
            continue
        for _ in range(options.rounds):
            with ExitStack() as stack:
                servers = [stack.enter_context(processes.server(etcd, options.work)) for _ in range(count)]
                report.add(f"GET over {count} processes", _together(servers, "GET", options))
                report.add(f"LIST gzip over {count} processes", _together(servers, "LIST gzip", options))
                held = sum(memory([server.child.pid]).rss for server in servers)
                report.add(f"RSS of {count} processes", Sample(held / 1e6, "MB"))


def _together(servers: Sequence[Server], name: str, options: Options) -> Sample:
    """The same question to each of them at the same time, by a client of its own; the sum. Raises: BenchError."""
    with ExitStack() as stack:
        helpers = []
        # One counted time for all: sums over times that differ would count more than the machine can do.
        begin_at = time.monotonic() + _CLIENT_READY_S * (2 + len(servers))
        for server in servers:
            target = server.target
            (question,) = (each for each in serve.questions(options, target) if each.name == name)
            job = http.Job(
                target.url,
                question.paths,
                question.connections,
                options.seconds,
                headers=question.headers,
                cpu_of=target.pids,
                begin_at=begin_at,
            )
            helpers.append(stack.enter_context(processes.helper("bench.load.http", job, options.work)))
        done = [helper.answer(http.Result, within_s=120) for helper in helpers]
    return summed(name, done, os.cpu_count() or 1)


def summed(name: str, done: Sequence[http.Result], cores: int) -> Sample:
    """What clients counted at the same time, as one. Raises: BenchError when any failed, or their times differed."""
    for each in done:
        if each.failures or not each.requests:
            raise BenchError(f"{name}: {each.failures} of {each.requests} failed: {each.last_failure}")
    parts = {
        "server_cores": sum(each.server_cpu_s / each.seconds for each in done),
        "client_cores": sum(each.client_cpu_s / each.seconds for each in done),
        "machine_cores": max(each.machine_cpu_s / each.seconds for each in done),
        "per_server_cpu_s": sum(each.requests for each in done) / max(sum(each.server_cpu_s for each in done), 0.01),
    }
    used = parts["server_cores"] + parts["client_cores"]
    if used > cores * _CLOCKS_AGREE:
        raise BenchError(f"{name}: {used:.2f} cores' work on {cores}: the clients did not count at the same time")
    return Sample(sum(each.requests / each.seconds for each in done), "req/s", parts)


# --- curves ---


def _fit(options: Options, report: Report) -> None:
    by_revisions = (
        "start to ready",
        "RSS at start",
        "RSS after reads",
        "etcd's database",
        "fill etcd",
        "time of LIST all revisions identity",
        "time of LIST all revisions gzip",
        "time of LIST revisions of one package by label",
        "time of LIST revisions of one name in all repositories",
        "GET a revision",
    )
    for what in by_revisions:
        report.curve(what, "revisions", {count: f"{what} at {count:,} revisions" for count in options.scale_revisions})
    for name in ("fan-out", "CPU an event", "time to open all", "memory a watcher"):
        # Where each name of a row is `name at N watchers`.
        report.curve(name, "watchers", {count: f"{name} at {count:,} watchers" for count in options.scale_watchers})
    for name in ("GET over", "LIST gzip over", "RSS of"):
        report.curve(
            f"{name} processes", "processes", {count: f"{name} {count} processes" for count in options.scale_processes}
        )
