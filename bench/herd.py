"""Many informers that start at the same moment: each asks for the present state as a WatchList and goes on watching.

KEP-3157: watch with sendInitialEvents, ended by a bookmark. What a restarted controller fleet does to a server.
"""

from __future__ import annotations

from bench import processes
from bench.errors import BenchError
from bench.load import watchers
from bench.options import Options
from bench.processes import Etcd
from bench.report.table import Report, Sample
from bench.target import Target

_QUERY = "watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
_LONGEST_S = 240.0
AIM_MB = "under 200 MB"


def measure(options: Options, report: Report, etcd: Etcd) -> None:
    """`informers` of them on a server that has just started, `rounds` times. Raises: BenchError."""
    for _ in range(options.rounds):
        with processes.server(etcd, options.work) as server:
            what = f"{options.informers} informers start at once"
            report.add(what, ask(options, server.target))
            after = server.child.settled_memory()
            report.add(f"RSS after {what}", Sample(after.rss / 1e6, "MB", {"peak_MB": after.peak / 1e6}, AIM_MB))


def ask(options: Options, target: Target) -> Sample:
    """Seconds from the first connect until every one of them has every object and its bookmark. Raises: BenchError."""
    each = options.shape.packages + 1
    job = watchers.Job(
        url=target.url,
        path=f"{target.packages}?{_QUERY}",
        streams=options.informers,
        expect=options.informers * each,
        longest_s=_LONGEST_S,
        headers={**target.headers, **watchers.GZIP},
        ca=target.ca,
        certificate=target.certificate,
        key=target.key,
        cpu_of=target.pids,
        from_start=True,
    )
    with processes.helper("bench.load.watchers", job, options.work) as helper:
        helper.answer(watchers.Ready, within_s=_LONGEST_S)
        done = helper.answer(watchers.Result, within_s=_LONGEST_S + 5)
    if done.ended or done.fewest < each:
        raise BenchError(
            f"{options.informers} informers of {each} events saw {done.fewest} to {done.most} each within "
            f"{_LONGEST_S:.0f} s, {done.ended} ended: {done.last_failure}"
        )
    parts = {
        "events/s": done.events / done.seconds,
        "MB/s": done.bytes / done.seconds / 1e6,
        "server_us_an_event": done.server_cpu_s / done.events * 1e6,
        "client_us_an_event": done.client_cpu_s / done.events * 1e6,
        "server_cores": done.server_cpu_s / done.seconds,
        "client_cores": done.client_cpu_s / done.seconds,
        "machine_cores": done.machine_cpu_s / done.seconds,
    }
    return Sample(done.seconds, "s", parts)
