"""cacheserver and kube-apiserver side by side: the same objects, the same clients, TLS on both, round by round in turn.

Both run all the time, each on an etcd of its own; only the one that is asked works. A ratio is taken within a round, so
that what else the machine does weighs on both, and the median of the rounds is told. Over 1 is in cacheserver's favour.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench import herd, processes, serve, watch
from bench.errors import BenchError
from bench.load import bare
from bench.options import Options
from bench.peers import crs, kube
from bench.peers.kube import Kube
from bench.processes import Server
from bench.report.figures import CPU
from bench.report.table import Ratio, Report, Sample
from bench.serve import Question
from bench.target import Target, fetch

OURS = "cacheserver"
_RATES = (5.0, 10.0, 20.0, 40.0, 57.0, 80.0, 113.0, 160.0, 226.0)
"""Of writes, tried one after the other."""
_PACED_S = 4.0
_CLOCK_TICK_S = 0.01
"""Less CPU than this cannot be told from none: see figures.cpu_s."""

_COMPARED: Mapping[str, str] = {
    "GET": "most recent; the peer reads etcd each time, we ask etcd for its revision and answer from memory",
    "GET, resourceVersion=0": "from memory on both sides",
    "LIST identity": "most recent, all objects in one answer, uncompressed; both from memory",
    "LIST gzip": "the same, Accept-Encoding: gzip; the peer compresses each answer anew (level 1), we keep the pieces",
    "LIST in pages of 500": "all pages one after the other on one connection",
    "LIST of one repository by label": "a tenth of the objects; the peer has no index by label",
    "LIST of one package by label": "as many objects as there are repositories; the peer has no index by label",
}
_LONG = ("LIST identity", "LIST gzip", "LIST in pages of 500")
_AIMS: Mapping[str, float] = {
    "GET": 8,
    "LIST identity": 40,
    "LIST gzip": 160,
    "LIST of one package by label": 20,
}
"""By a second of the servers' CPU, as those of informers and fan-out: see Ratio.headline."""
_FAN_OUT_AIM, _EVENT_CPU_AIM, _MEMORY_AIM, _HERD_AIM = 8.0, 5.0, 10.0, 30.0


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two servers."""

    name: str
    target: Target
    write: watch.Write


def measure(options: Options, report: Report, binary: kube.Binary) -> None:
    """Every question that both can answer, `rounds` times. Raises: BenchError."""
    report.note(f"the peer: {binary.version}, no flags that change its limits, audit off, RBAC, no aggregation layer")
    report.note(
        "both: TLS 1.3, P-256 certificates, a client certificate of system:masters (neither server's limits on "
        "requests in flight hold it back), an etcd without TLS of the same binary; server CPU and RSS are of the API "
        "process alone"
    )
    report.note(
        "not compared: writes (cacheserver takes none through its API; ingestion writes into etcd), Table, content, "
        "protobuf and CBOR (kube-apiserver has them, for custom resources only CBOR), admission, schema validation"
    )
    with kube.running(binary, options) as peer:
        made = kube.filled(peer, options)
        report.add("fill through kube-apiserver, create and clear managedFields", _rate(made))
        with serve.filled(options, report) as etcd, peer.restarted() as peer:
            flags = peer.cacheserver_flags(options.work)
            with processes.server(etcd, options.work, flags, peer.client) as server:
                ours = Side(OURS, server.target, watch.into_etcd(options, etcd))
                theirs = Side("kube-apiserver", peer.target, _through(peer, options))
                _loaded((ours, theirs), server, peer, options, report)
                steady = _steady(theirs, options, report)
                for number in range(options.rounds):
                    report.note(f"load average when round {number + 1} began: {os.getloadavg()[0]:.2f}, ours included")
                    # The first in a round is the second in the next.
                    _round((ours, theirs) if number % 2 == 0 else (theirs, ours), steady, server, peer, options, report)


def _rate(made: crs.Filled) -> Sample:
    return Sample(made.objects / made.seconds, "objects/s", {"objects": made.objects})


def _through(peer: Kube, options: Options) -> watch.Write:
    def write(load: watch.Load) -> watch.Churned:
        job = crs.Churn(crs.Peer.of(peer.target), options.shape, load.writes, load.rate)
        return processes.ask("bench.peers.crs", job, watch.Churned, options.work)

    return write


def _loaded(sides: Sequence[Side], server: Server, peer: Kube, options: Options, report: Report) -> None:
    """Once: afterwards both are warm."""
    for side in sides:
        fetch(side.target, f"{side.target.packages}?resourceVersion=0")
    name = f"RSS, {options.shape.packages} objects loaded"
    _memory(name, "after one list of everything, nothing else asked yet", server, peer, report)


def _round(sides: Sequence[Side], steady: float, server: Server, peer: Kube, options: Options, report: Report) -> None:
    asked = {side.name: {each.name: each for each in _questions(options, side.target)} for side in sides}
    for name in asked[OURS]:
        # Long enough that the peer, too, answers many: it takes most of a second for one list.
        patient = dataclasses.replace(options, seconds=options.seconds * (3 if name in _LONG else 1))
        samples = {side.name: serve.ask(asked[side.name][name], side.target, patient) for side in sides}
        add(report, name, samples, "per_server_cpu_s", aim=_AIMS.get(name, 0.0), compared=_COMPARED[name])
    _informers(sides, options, report)
    _fan_out(sides, options, report, steady)
    _bounds(steady, peer, options, report)
    _memory("RSS after every question of a round", "the API process alone, caches warm", server, peer, report)


def _questions(options: Options, target: Target) -> list[Question]:
    return [dataclasses.replace(each, aim="") for each in serve.questions(options, target) if each.name in _COMPARED]


def _informers(sides: Sequence[Side], options: Options, report: Report) -> None:
    name = f"{options.informers} informers start at once"
    samples = {side.name: herd.ask(options, side.target) for side in sides}
    compared = "WatchList: seconds until every informer has every object and its bookmark"
    add(report, name, samples, "server_us_an_event", aim=_HERD_AIM, compared=compared, less=True)


def _fan_out(sides: Sequence[Side], options: Options, report: Report, steady: float) -> None:
    """steady: writes a second that the peer delivers whole."""
    count = options.watchers
    (ours,) = (side for side in sides if side.name == OURS)
    theirs = next(side for side in sides if side is not ours)
    load, delivered = _delivered(theirs, options, steady, report)
    alone = {side.name: _writes_alone(side, load) for side in sides}
    paced = {OURS: watch.run(load, options, ours.write, ours.target), theirs.name: delivered}
    burst = watch.run(watch.Load(count, options.peer_burst), options, ours.write, ours.target)
    rates = {name: dataclasses.replace(watch.throughput(outcome), aim="") for name, outcome in paced.items()}
    rates[OURS] = dataclasses.replace(watch.throughput(burst), aim="")
    add(
        report,
        f"fan-out to {count} watchers, events/s",
        rates,
        "server_us_an_event",
        aim=_FAN_OUT_AIM,
        compared=f"ours: a burst of {options.peer_burst} writes, delivered whole; the peer's: the highest rate of "
        "writes tried that it delivers whole (watchers that fall behind it closes, in a burst all of them)",
    )
    for part, aim, said in (
        ("", _EVENT_CPU_AIM, "the same writes a second; all CPU of the API process, the peer's takes the PUTs too"),
        (", less the writes' own", 0.0, "the same less the CPU of as many writes without a watcher"),
    ):
        cpu: dict[str, Sample] = {}
        for name, outcome in paced.items():
            used = outcome.watched.server_cpu_s - (alone[name] * load.writes if aim == 0.0 else 0.0)
            least = _CLOCK_TICK_S / outcome.watched.events
            cpu[name] = Sample(max(used / outcome.watched.events, least) * 1e6, "us", {"us_a_write": alone[name] * 1e6})
        name = f"CPU an event at {count} watchers{part}"
        add(report, name, cpu, "", aim=aim, compared=said, less=True)


def _bounds(steady: float, peer: Kube, options: Options, report: Report) -> None:
    """What the machine can carry, whatever a server does."""
    certificate, key = peer.certificates.server()
    shows = str(certificate), str(key)
    what = f"{options.watchers} watchers · bound: bare writes of ready bytes, TLS"
    report.add(f"fan-out to {what}", bare.burst(options, shows, peer.client))
    sample = bare.paced(options, shows, peer.client, steady)
    parts = {part: sample.parts[part] for part in ("events_a_write", "client_us_an_event", "machine_cores")}
    report.add(
        f"CPU an event at {what}, {steady:.0f} writes/s", Sample(sample.parts["server_us_an_event"], "us", parts)
    )


def _steady(side: Side, options: Options, report: Report) -> float:
    """The highest of a few rates of writes whose every event reaches every watcher. Raises: BenchError if none does."""
    reached = 0.0
    for rate in _RATES:
        try:
            watch.run(_paced(rate, options), options, side.write, side.target)
        except BenchError as exc:
            report.note(f"{side.name} at {rate:.0f} writes/s to {options.watchers} watchers: {exc}")
            break
        reached = rate
    if not reached:
        raise BenchError(f"{side.name} does not deliver {_RATES[0]:.0f} writes/s to {options.watchers} watchers")
    return reached


def _delivered(side: Side, options: Options, steady: float, report: Report) -> tuple[watch.Load, watch.Outcome]:
    """At `steady`, or the half or quarter of it when a watcher is closed all the same. Raises: BenchError."""
    for rate in (steady, steady / 2):
        try:
            return _paced(rate, options), watch.run(_paced(rate, options), options, side.write, side.target)
        except BenchError as exc:
            report.note(f"{side.name} at {rate:.0f} writes/s to {options.watchers} watchers, once: {exc}")
    load = _paced(steady / 4, options)
    return load, watch.run(load, options, side.write, side.target)


def _paced(rate: float, options: Options) -> watch.Load:
    return watch.Load(options.watchers, max(10, round(rate * _PACED_S)), rate)


def _writes_alone(side: Side, load: watch.Load) -> float:
    """The server's CPU seconds for one write when nobody watches."""
    before = CPU.now(side.target.pids)
    side.write(dataclasses.replace(load, watchers=0))
    return CPU.now(side.target.pids).since(before).server_s / load.writes


def _memory(name: str, compared: str, server: Server, peer: Kube, report: Report) -> None:
    found = {OURS: server.child.settled_memory(), "kube-apiserver": peer.child.memory()}
    samples = {side: Sample(memory.rss / 1e6, "MB", {"peak_MB": memory.peak / 1e6}) for side, memory in found.items()}
    add(report, name, samples, "peak_MB", aim=_MEMORY_AIM, compared=compared, less=True)


def add(
    report: Report,
    name: str,
    samples: Mapping[str, Sample],
    part: str,
    *,
    aim: float,
    compared: str,
    less: bool = False,
) -> None:
    """A row for each side, and what one is to the other. part: of the samples, for a second ratio beside the figure's;
    of CPU for requests, of peak for memory."""
    for side, sample in samples.items():
        report.add(f"{name} · {side}", sample)
    (other,) = (side for side in samples if side != OURS)
    ours, theirs = samples[OURS], samples[other]
    value = theirs.value / ours.value if less else ours.value / theirs.value
    second = 0.0
    if part:
        mine, its = ours.parts[part], theirs.parts[part]
        second = mine / its if part == "per_server_cpu_s" else its / mine
    if value <= 0:
        raise BenchError(f"{name}: no figure to compare")
    report.ratio(name, Ratio(value, second, ours.value, theirs.value, ours.unit, aim, compared, part, other))
