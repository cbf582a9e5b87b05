"""opm beside cacheserver, on the same catalogs: reading one, keeping it, serving it.

`opm validate` is the reference loader, operator-registry's declcfg and model, in a program that users have. Served
catalogs are asked over gRPC without TLS there, over HTTP without TLS here.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench import compare, processes, serve
from bench.compare import OURS
from bench.errors import BenchError
from bench.load import fbc, http, rpc
from bench.load.fbc import Syntax
from bench.options import Options
from bench.peers.known import OPM
from bench.processes import Child, Etcd, Finished, Server
from bench.report.table import Report, Sample
from bench.serve import Question
from bench.target import NAMESPACED, fetch

REPOSITORY = "bench"
_AIMS: Mapping[Syntax, float] = {Syntax.YAML: 1 / 1.5, Syntax.JSON: 1.0}
"""Of the reference loader's wall time for ours."""
_INGEST_AIM = 1 / 3
_MEMORY_AIM = 1.0
_RPC = "/api.Registry/"
_LISTS = 4


@dataclass(frozen=True, slots=True)
class Catalog:
    """A file-based catalog on disk, which nobody changes."""

    name: str
    path: Path
    syntax: Syntax


@dataclass(frozen=True, slots=True)
class Registry:
    """`opm serve` at work. ready_s: from its start until it accepts, which it does once the catalog is loaded."""

    child: Child
    address: str
    ready_s: float


def measure(options: Options, report: Report, binary: Path) -> None:
    """Every question, `rounds` times, the sides in turn. Raises: BenchError."""
    report.note(f"opm: {version(binary)}; its pprof endpoint off, a cache directory of its own")
    report.note(
        "not compared with opm serve: WATCH, TLS, compression, several catalogs in one process (it has none); "
        "content, as it hands out whole bundles, we hand out summaries and each bundle's content on request"
    )
    found = catalogs(options, report)
    for number in range(options.rounds):
        _alone(binary, number, options, report)
        for catalog in found:
            _read(catalog, binary, number, options, report)
            _memory(catalog, binary, options, report)
    for catalog in found[:1]:
        _serve(catalog, binary, options, report)


def version(binary: Path) -> str:
    """Raises: BenchError when it does not run."""
    try:
        said = subprocess.run([binary, "version"], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as exc:
        raise BenchError(f"opm {binary} does not run: {exc}") from exc
    found = re.search(r'OpmVersion:"([^"]+)"', said.stdout)
    return found[1] if found else said.stdout.strip()


def catalogs(options: Options, report: Report) -> list[Catalog]:
    """Those given, else one generated in both syntaxes. The first is the one to serve. Raises: BenchError."""
    given = [*([options.catalog] if options.catalog else ()), *options.more_catalogs]
    if not given:
        for syntax in Syntax:
            path = options.work / f"generated-{syntax}"
            if not path.exists():
                fbc.write(dataclasses.replace(options.generated, syntax=syntax), path)
            given.append(path)
    found = []
    for path in given:
        files = [each for each in path.rglob("*") if each.is_file()]
        syntax = Syntax.JSON if any(each.suffix == ".json" for each in files) else Syntax.YAML
        name = "-".join(path.parts[-2:]) if path.name == "catalog" else path.name
        size = sum(each.stat().st_size for each in files)
        report.note(f"the catalog {name}: {len(files)} files, {size / 1e6:.2f} MB of {syntax.upper()}")
        found.append(Catalog(name, path, syntax))
    return found


# --- reading and keeping ---------------------------------------------------------------------------------------------


def _alone(binary: Path, number: int, options: Options, report: Report) -> None:
    """What each command costs before it does anything: most of the time of a small catalog."""
    commands = {OURS: processes.cacheserver("version"), OPM: [str(binary), "version"]}
    done = _in_turn(commands, number, options)
    samples = {side: Sample(each.seconds, "s", {"cpu_s": each.cpu_s}) for side, each in done.items()}
    compare.add(
        report, "the command alone", samples, "cpu_s", aim=0, compared="version: Python's start, opm's", less=True
    )


def _in_turn(commands: Mapping[str, Sequence[str]], number: int, options: Options) -> dict[str, Finished]:
    """Each run to its end; the first in a round is the second in the next."""
    turn = sorted(commands, reverse=number % 2 == 1)
    return {side: processes.run(side, commands[side], options.work) for side in turn}


def _read(catalog: Catalog, binary: Path, number: int, options: Options, report: Report) -> None:
    cache = _empty(options.work / "opm-cache")
    with processes.etcd(options.etcd, options.work) as etcd:
        keep = _ingest(catalog, etcd)
        theirs = _cache_only(binary, catalog, cache)
        steps = {
            "validate": {OURS: _validate(catalog), OPM: [str(binary), "validate", str(catalog.path)]},
            "keep, cold": {OURS: keep, OPM: theirs},
            "keep, unchanged": {OURS: keep, OPM: theirs},
        }
        done = {step: _in_turn(commands, number, options) for step, commands in steps.items()}
    loaded = "the peer loads and checks it in memory; ours includes the start of Python"
    stored = "its cache on disk (opm serve --cache-only) against objects and content in an etcd that syncs each write"
    rows = (
        ("validate", done["validate"], _AIMS[catalog.syntax], f"opm validate: {loaded}"),
        (
            "cold ingest, opm only loads",
            {OURS: done["keep, cold"][OURS], OPM: done["validate"][OPM]},
            _INGEST_AIM,
            f"ours writes into etcd; opm validate: {loaded}",
        ),
        ("cold ingest", done["keep, cold"], 0.0, stored),
        ("ingest, unchanged", done["keep, unchanged"], 0.0, f"the same again: {stored}"),
    )
    for name, sides, aim, compared in rows:
        samples = {side: Sample(each.seconds, "s", {"cpu_s": each.cpu_s}) for side, each in sides.items()}
        compare.add(report, f"{name}, {catalog.name}", samples, "cpu_s", aim=aim, compared=compared, less=True)


def _memory(catalog: Catalog, binary: Path, options: Options, report: Report) -> None:
    """In runs of their own: looking at memory all the time costs time."""
    theirs = processes.held(OPM, [str(binary), "validate", str(catalog.path)], options.work)
    with processes.etcd(options.etcd, options.work) as etcd:
        commands = {"validate": _validate(catalog), "cold ingest, opm only loads": _ingest(catalog, etcd)}
        for name, command in commands.items():
            sides = {OURS: processes.held(OURS, command, options.work), OPM: theirs}
            samples = {
                side: Sample(held.largest / 1e6, "MB", {"all_MB": held.pss / 1e6, "processes": held.processes})
                for side, held in sides.items()
            }
            compare.add(
                report,
                f"peak memory of {name}, {catalog.name}",
                samples,
                "all_MB",
                aim=_MEMORY_AIM,
                compared="resident, of the largest process; all_MB: of all of them, shared pages shared out",
                less=True,
            )


def _validate(catalog: Catalog) -> list[str]:
    return processes.cacheserver("validate", str(catalog.path))


def _ingest(catalog: Catalog, etcd: Etcd) -> list[str]:
    return processes.cacheserver("ingest", *processes.etcd_flags(etcd), f"--catalog={REPOSITORY}={catalog.path}")


def _cache_only(binary: Path, catalog: Catalog, cache: Path) -> list[str]:
    return [str(binary), "serve", str(catalog.path), "--cache-only", *_flags(cache)]


def _flags(cache: Path) -> list[str]:
    return [f"--cache-dir={cache}", "--pprof-addr=", f"--termination-log={cache.parent / 'termination-log'}"]


def _empty(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    return directory


# --- serving ---------------------------------------------------------------------------------------------------------


@contextmanager
def kept(catalog: Catalog, options: Options) -> Iterator[Etcd]:
    """An etcd that holds the catalog."""
    with processes.etcd(options.etcd, options.work) as etcd:
        processes.run("ingest", _ingest(catalog, etcd), options.work)
        yield etcd


def cached(catalog: Catalog, binary: Path, options: Options) -> Path:
    """A cache directory that holds it: what opm serve starts from in a catalog image."""
    cache = _empty(options.work / "opm-serve-cache")
    processes.run(OPM, _cache_only(binary, catalog, cache), options.work)
    return cache


@contextmanager
def registry(catalog: Catalog, binary: Path, cache: Path, options: Options) -> Iterator[Registry]:
    """`opm serve` from a filled cache, ready. It listens on every address: it has no option for that."""
    port = processes.free_port()
    arguments = [str(binary), "serve", str(catalog.path), f"--port={port}", *_flags(cache)]
    with processes.running(Child("opm-serve", arguments, options.work)) as child:
        ready_s = child.until(lambda: _accepts(port), what="ready")
        yield Registry(child, f"127.0.0.1:{port}", ready_s)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _serve(catalog: Catalog, binary: Path, options: Options, report: Report) -> None:
    cache = cached(catalog, binary, options)
    with kept(catalog, options) as etcd:
        for _ in range(options.rounds):
            with processes.server(etcd, options.work) as ours, registry(catalog, binary, cache, options) as theirs:
                _started(catalog, ours, theirs, report)
                _ask(catalog, ours, theirs, options, report)
                compared = "the server process alone, after all these questions; in ours the objects are in memory, in "
                memory(report, f"RSS after reads, {catalog.name}", ours, (OPM, theirs.child), f"{compared}opm on disk")


def _started(catalog: Catalog, ours: Server, theirs: Registry, report: Report) -> None:
    samples = {
        OURS: Sample(ours.ready_s, "s", {"cpu_s": ours.child.cpu_s()}),
        OPM: Sample(theirs.ready_s, "s", {"cpu_s": theirs.child.cpu_s()}),
    }
    compared = "to /readyz from a filled etcd; opm: to accepting from a filled cache, whose digest it checks"
    compare.add(report, f"start to ready, {catalog.name}", samples, "cpu_s", aim=0, compared=compared, less=True)
    compared = "the server process alone, just started"
    memory(report, f"RSS at start, {catalog.name}", ours, (OPM, theirs.child), compared)


def memory(report: Report, name: str, ours: Server, theirs: tuple[str, Child], compared: str) -> None:
    """A row of resident bytes."""
    samples = {
        side: Sample(held.rss / 1e6, "MB", {"peak_MB": held.peak / 1e6})
        for side, held in ((OURS, ours.child.settled_memory()), (theirs[0], theirs[1].memory()))
    }
    compare.add(report, name, samples, "peak_MB", aim=0, compared=compared, less=True)


def packages(server: Server) -> Mapping[str, str]:
    """Name in its catalog -> name as served, of every package."""
    items = orjson.loads(fetch(server.target, f"{NAMESPACED}/packages"))["items"]
    return {item["spec"]["packageName"]: item["metadata"]["name"] for item in items}


def _ask(catalog: Catalog, ours: Server, theirs: Registry, options: Options, report: Report) -> None:
    names = packages(ours)
    gets = [f"{NAMESPACED}/packages/{name}" for name in names.values()]
    rows: Sequence[tuple[Question, str, list[bytes], str]] = (
        (
            Question("GET a package", gets, "", connections=options.connections, alternatives=True),
            "GetPackage",
            [rpc.text(1, name) for name in names],
            "opm: name, channels and their heads; ours: the same and display data",
        ),
        (
            Question("LIST packages", [f"{NAMESPACED}/packages"], "", connections=_LISTS),
            "ListPackages",
            [b""],
            "opm: a stream of names, nothing else; ours: every package whole",
        ),
        (
            Question("LIST all revisions", [f"{NAMESPACED}/packagerevisions"], "", connections=_LISTS),
            "ListBundles",
            [b""],
            "opm: a stream of whole bundles, once for each channel that has them; ours: every revision's summary",
        ),
    )
    for question, method, requests, compared in rows:
        job = rpc.Job(
            theirs.address,
            f"{_RPC}{method}",
            [each.hex() for each in requests],
            method.startswith("List"),
            question.connections,
            options.seconds,
            cpu_of=theirs.child.pids,
        )
        done = processes.ask("bench.load.rpc", job, http.Result, options.work)
        samples = {
            OURS: _per_cpu(serve.ask(question, ours.target, options)),
            OPM: _per_cpu(serve.answered(method, done, "")),
        }
        name = f"{question.name}, {catalog.name}, by the server's CPU"
        compare.add(report, name, samples, "", aim=0, compared=f"{compared}; kB_each says how much")


def _per_cpu(sample: Sample) -> Sample:
    """By the server's CPU and not by time: the gRPC client is slower than both servers."""
    parts = {"answers/s": sample.value, **sample.parts}
    return Sample(parts.pop("per_server_cpu_s"), "a CPU s", parts)
