"""Watches of packages while they change: events delivered a second, CPU an event, delay from write to client."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from bench import processes
from bench.errors import BenchError
from bench.load import fill, watchers
from bench.options import Options
from bench.processes import Etcd
from bench.report.figures import latency
from bench.report.table import Report, Sample
from bench.target import Target, list_version

_SAMPLED_STREAMS = 50
_EVENTS = 200_000
"""Of one fan-out, however many watchers share them."""
_SETTLE_S = 30.0


@dataclass(frozen=True, slots=True)
class Load:
    """So many watchers, with gzip as Go's clients ask for it, without, or over WebSocket, and writes at a rate (0: as
    fast as they go)."""

    watchers: int
    writes: int
    rate: float = 0.0
    websocket: bool = False
    gzip: bool = True


Churned = fill.Churned
Write = Callable[[Load], Churned]
"""Makes the writes of a load and returns when all are answered."""


@dataclass(frozen=True, slots=True)
class Outcome:
    ready: watchers.Ready
    watched: watchers.Result
    churned: fill.Churned


def into_etcd(options: Options, etcd: Etcd) -> Write:
    """Writes as ingestion makes them."""

    def write(load: Load) -> fill.Churned:
        churn = fill.Churn(etcd.endpoint, options.shape, load.writes, load.rate)
        return processes.ask("bench.load.fill", churn, fill.Churned, options.work)

    return write


def measure(options: Options, report: Report, etcd: Etcd) -> None:
    """Fan-out in a burst, fan-out and delay at a steady rate, memory afterwards; `rounds` times. Raises: BenchError."""
    report.note(
        "a delay lies between two figures: from the write's begin (etcd's own time included) and from etcd's answer to "
        "the writer (which takes a moment to arrive, so it is a little too small)"
    )
    steady = _paced(options.latency_watchers, options.write_rate, options)
    write = into_etcd(options, etcd)
    for _ in range(options.rounds):
        with processes.server(etcd, options.work, [f"--max-watches={max(options.fan_out) + 1000}"]) as server:
            target = server.target
            for count in options.fan_out:
                spread = Load(count, max(10, min(_EVENTS // count, options.burst)))
                what = f"fan-out to {count:,} watchers, a burst of {spread.writes} writes"
                report.add(what, dataclasses.replace(throughput(run(spread, options, write, target)), aim=""))
            burst = run(Load(options.watchers, options.burst), options, write, target)
            report.add(f"fan-out to {options.watchers} watchers, a burst of {options.burst} writes", throughput(burst))
            plain = run(Load(options.watchers, options.burst, gzip=False), options, write, target)
            what = f"fan-out to {options.watchers} watchers without gzip, a burst of {options.burst} writes"
            report.add(what, throughput(plain))
            over = run(Load(options.watchers, options.burst, websocket=True), options, write, target)
            what = f"fan-out to {options.watchers} watchers over WebSocket, a burst of {options.burst} writes"
            report.add(what, throughput(over))
            paced = run(_paced(options.watchers, 2 * options.write_rate, options), options, write, target)
            rate = f"{2 * options.write_rate:.0f} writes/s"
            report.add(f"fan-out to {options.watchers} watchers, {rate}", throughput(paced))
            outcome = run(steady, options, write, target)
            delays(report, f"{steady.watchers} watchers, {steady.rate:.0f} writes/s", outcome)
            after = server.child.settled_memory()
            report.add(
                "RSS after all watches", Sample(after.rss / 1e6, "MB", {"peak_MB": after.peak / 1e6}, "under 200 MB")
            )


def run(wanted: Load, options: Options, write: Write, target: Target, *, settle_s: float = _SETTLE_S) -> Outcome:
    """Open the streams, write, wait for every event at every watcher. Raises: BenchError if one is missing."""
    job = watchers.Job(
        url=target.url,
        path=f"{target.packages}?watch=true&resourceVersion={list_version(target, target.packages)}",
        streams=wanted.watchers,
        expect=wanted.watchers * wanted.writes,
        longest_s=(wanted.writes / wanted.rate if wanted.rate else 0) + settle_s,
        sample_every=max(1, wanted.watchers // _SAMPLED_STREAMS),
        headers={
            **target.headers,
            **(watchers.HANDSHAKE if wanted.websocket else watchers.GZIP if wanted.gzip else {}),
        },
        ca=target.ca,
        certificate=target.certificate,
        key=target.key,
        cpu_of=target.pids,
    )
    with processes.helper("bench.load.watchers", job, options.work) as helper:
        ready = helper.answer(watchers.Ready, within_s=120)
        churned = write(wanted)
        watched = helper.answer(watchers.Result, within_s=job.longest_s)
    if watched.ended or watched.fewest != wanted.writes or watched.most != wanted.writes:
        raise BenchError(
            f"{wanted.watchers} watchers of {wanted.writes} writes saw {watched.fewest} to {watched.most} each, "
            f"{watched.ended} ended: {watched.last_failure}"
        )
    return Outcome(ready, watched, churned)


def _paced(count: int, rate: float, options: Options) -> Load:
    return Load(count, round(rate * options.watch_seconds), rate)


def throughput(outcome: Outcome) -> Sample:
    watched = outcome.watched
    seconds = max(watched.seconds, 1e-6)
    parts = {
        **_cpu(watched),
        "bytes_an_event": watched.bytes / watched.events,
        "writes/s": outcome.churned.writes / outcome.churned.seconds,
        "MB/s": watched.bytes / seconds / 1e6,
        "open_all_s": outcome.ready.seconds,
    }
    return Sample(watched.events / seconds, "events/s", parts, "100,000/s, 6 us")


def delays(report: Report, what: str, outcome: Outcome, *, aim: str = "under 50 ms") -> None:
    """The delay of every sampled event from two beginnings; see the note in measure()."""
    acknowledged = dict(outcome.churned.acknowledged)
    watched = outcome.watched
    from_begin = latency([(received - stamp) / 1e9 for stamp, received in watched.received])
    from_answer = latency(
        [max(0, received - acknowledged[stamp]) / 1e9 for stamp, received in watched.received if stamp in acknowledged]
    )
    parts = {
        "p50_ms": from_begin.p50_ms,
        "max_ms": from_begin.max_ms,
        "samples": from_begin.count,
        "etcd_put_p50_ms": outcome.churned.p50_ms,
        "etcd_put_p99_ms": outcome.churned.p99_ms,
        "writer_late_ms": outcome.churned.late_ms,
        **_cpu(watched),
    }
    report.add(f"p99 delay from the write's begin, {what}", Sample(from_begin.p99_ms, "ms", parts, aim))
    parts = {"p50_ms": from_answer.p50_ms, "max_ms": from_answer.max_ms}
    report.add(f"p99 delay from etcd's answer, {what}", Sample(from_answer.p99_ms, "ms", parts, aim))


def _cpu(watched: watchers.Result) -> dict[str, float]:
    seconds = max(watched.seconds, 1e-6)
    return {
        "server_us_an_event": watched.server_cpu_s / watched.events * 1e6,
        "client_us_an_event": watched.client_cpu_s / watched.events * 1e6,
        "server_cores": watched.server_cpu_s / seconds,
        "client_cores": watched.client_cpu_s / seconds,
        "machine_cores": watched.machine_cpu_s / seconds,
    }
