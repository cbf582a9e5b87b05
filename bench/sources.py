"""Ingest from every kind of source: cold, unchanged, one change; memory of a large catalog; reads meanwhile.

Servers of images and git are ours or git's own, on loopback: what is measured is cacheserver, not a network.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench import processes
from bench.catalog import copy_catalog, first_change
from bench.errors import BenchError
from bench.load import http, krm
from bench.load.images import Registry
from bench.options import Options
from bench.processes import Etcd
from bench.report.table import Report, Sample
from bench.target import API, fetch

_NAME = "bench"
_READ_CONNECTIONS = 4
_BUNDLE_IMAGE = re.compile(rb"^(image: \S*)[0-9a-f]$", re.MULTILINE)
_READ_EVERY = "GET of a package"


@dataclass(frozen=True, slots=True)
class Place:
    """A source and a way to change one thing there."""

    what: str
    source: dict[str, object]
    change: Callable[[], None]


def measure(options: Options, report: Report) -> None:
    """Every question, `rounds` times, each on an empty etcd. Raises: BenchError."""
    catalog = copy_catalog(options, report, "sources-catalog")
    large = _large(catalog, options, report)
    packages = options.work / "packages.git"
    _packages(packages, options, report)
    for number in range(options.rounds):
        with _places(catalog, packages, options.work / f"round{number}") as places:
            for place in places:
                _three(place, options, report)
        _memory(large, options, report)
        _readers(large, options, report)


# --- the three ingests of each kind ----------------------------------------------------------------------------------


@contextmanager
def _places(catalog: Path, packages: Path, home: Path) -> Iterator[list[Place]]:
    """Every kind of source with the same catalog, each a copy of its own."""
    directory, image = home / "directory", home / "image"
    for copy in (directory, image):
        shutil.copytree(catalog, copy)
    fbc_git = krm.Repository(home / "fbc.git")
    fbc_git.commit({str(p.relative_to(catalog)): p.read_bytes() for p in catalog.rglob("*") if p.is_file()})
    krm_git = home / "krm.git"
    shutil.copytree(packages, krm_git)
    registry = Registry()
    registry.publish(image)

    def change_image() -> None:
        first_change(image)
        registry.publish(image)

    def change_git() -> None:
        path, content = first_change(home / "directory", write=False)
        fbc_git.commit({str(path.relative_to(directory)): content})

    with registry.serving():
        yield [
            Place("directory", {"directory": {"path": str(directory)}}, lambda: _ignored(first_change(directory))),
            Place("image in a registry", {"oci": {"image": registry.image, "insecure": True}}, change_image),
            Place("FBC in git", _git(fbc_git.path), change_git),
            Place("KRM in git", _git(krm_git), lambda: _push(krm.Repository(krm_git))),
        ]


def _ignored(_result: object) -> None: ...


def _git(path: Path) -> dict[str, object]:
    return {"git": {"url": f"file://{path}", "ref": {"branch": "main"}}}


def _three(place: Place, options: Options, report: Report) -> None:
    manifest = options.work / "repository.json"
    manifest.write_bytes(
        orjson.dumps(
            {
                "apiVersion": "config.cacheserver.dev/v1alpha1",
                "kind": "Repository",
                "metadata": {"name": _NAME},
                "spec": {"source": place.source},
            }
        )
    )
    state = options.work / "state"
    shutil.rmtree(state, ignore_errors=True)
    with processes.etcd(options.etcd, options.work) as etcd:
        flags = [*processes.etcd_flags(etcd), f"--repositories={manifest}", f"--data-dir={state}"]
        for what, aim in (("cold", "under 3 s"), ("unchanged", "under 0.5 s"), ("one change", "")):
            if what == "one change":
                place.change()
            done = processes.run("ingest", processes.cacheserver("ingest", *flags), options.work)
            parts = {"cpu_s": done.cpu_s, **_written(done.output, what)}
            report.add(f"ingest {place.what}, {what}", Sample(done.seconds, "s", parts, aim))


def _written(output: str, what: str) -> dict[str, float]:
    """Objects written, from ingest's table. Raises: BenchError when it is not what it must be."""
    header, row, *_ = output.splitlines()
    counts = dict(zip(header.split(), row.split(), strict=True))
    written = sum(int(counts[name]) for name in ("ADDED", "CHANGED", "DELETED"))
    if (written == 0) != (what == "unchanged") or (what == "one change" and written > 10):
        raise BenchError(f"{what}: {written} objects written:\n{output}")
    return {"written": written}


def _packages(path: Path, options: Options, report: Report) -> None:
    if options.bundle is None:
        krm.write(krm.Shape(seed=options.shape.seed), path)
        report.note("the KRM packages: generated, 77 packages, most of them tagged")
        return
    done = subprocess.run(["git", "clone", "--quiet", "--mirror", options.bundle, path], check=False)
    if done.returncode:
        raise BenchError(f"{options.bundle}: is not a git bundle that can be cloned")
    report.note(f"the KRM packages: {options.bundle.name} at main")


def _push(repository: krm.Repository) -> None:
    """One changed file in the last package of the branch."""
    names = repository.git("ls-tree", "-r", "--name-only", "main").splitlines()
    base = next(name for name in reversed(names) if name.endswith("/Kptfile")).removesuffix("Kptfile")
    repository.commit({f"{base}bench.yaml": b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: changed\n"})


# --- a large catalog -------------------------------------------------------------------------------------------------


def _large(catalog: Path, options: Options, report: Report) -> Path:
    """`catalog` again and again, its packages renamed, until it has large_bytes of YAML."""
    target = options.work / "large"
    pairs = [(path, path.read_bytes()) for path in sorted(catalog.rglob("*")) if path.is_file()]
    size = count = 0
    while size < options.large_bytes:
        count += 1
        for path, content in pairs:
            if size >= options.large_bytes:
                break
            copied = renamed(content, count)
            into = target / f"copy{count}" / path.relative_to(catalog)
            into.parent.mkdir(parents=True, exist_ok=True)
            into.write_bytes(copied)
            size += len(copied)
    report.note(f"the large catalog: {size / 1e6:.1f} MB, the catalog {count} times with renamed packages")
    return target


def renamed(content: bytes, number: int) -> bytes:
    """A file of one package under another name, as all that refers to it, bundles too. Raises: BenchError."""
    found = re.search(rb'^package: "?([a-z0-9.-]+)|"package": ?"([a-z0-9.-]+)"', content, re.MULTILINE)
    if found is None:
        raise BenchError("a file of the catalog names no package; give --catalog one with a file a package")
    name = found[1] or found[2]
    pattern = rb"(?<![A-Za-z0-9.-])" + re.escape(name) + rb"(?![A-Za-z0-9-])"
    return re.sub(pattern, name + b"-copy%d" % number, content)


def _memory(large: Path, options: Options, report: Report) -> None:
    """Peak of all processes of one cold ingest, summed over what each holds of its own (proportional set size)."""
    with processes.etcd(options.etcd, options.work) as etcd:
        arguments = processes.cacheserver("ingest", *_flags(etcd, large, options))
        held = processes.held("ingest-large", arguments, options.work)
    parts = {"sum_of_RSS_MB": held.rss / 1e6, "processes": held.processes, "seconds": held.seconds}
    report.add("peak memory of ingest, large catalog", Sample(held.pss / 1e6, "MB", parts, "under 250 MB"))


def _flags(etcd: Etcd, catalog: Path, options: Options) -> list[str]:
    state = options.work / "state-large"
    return [*processes.etcd_flags(etcd), f"--catalog={_NAME}={catalog}", f"--data-dir={state}"]


# --- readers meanwhile -----------------------------------------------------------------------------------------------


def _readers(large: Path, options: Options, report: Report) -> None:
    """p99 of GET and LIST of packages while the same server ingests the large catalog again, and while it idles."""
    tree = options.work / "readers"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(large, tree)
    manifest = f"{API}/namespaces/default/packages"
    with processes.etcd(options.etcd, options.work) as etcd:
        flags = _flags(etcd, tree, options)
        with processes.server(etcd, options.work, flags[len(processes.etcd_flags(etcd)) :]) as server:
            count = sum(1 for path in tree.rglob("*") if path.is_file())
            server.child.until(lambda: _synced(server), what="done with its first ingest", within_s=120)
            names = re.findall(rb'"name":"(bench\.[^"]+)"', fetch(server.target, manifest))
            gets = [f"{manifest}/{name.decode()}" for name in dict.fromkeys(names)][: min(count, 200)]
            questions = {"GET a package": gets, "LIST packages": [manifest]}
            # First without, then with: after a busy round the server has still something to finish.
            idle = {what: _asked(server, paths, options, options.seconds) for what, paths in questions.items()}
            for what, paths in questions.items():
                busy, ingests = _asked_while_ingesting(server, paths, tree, options)
                parts = {
                    "idle_p99_ms": idle[what].p99_ms,
                    "idle_p50_ms": idle[what].p50_ms,
                    "p50_ms": busy.p50_ms,
                    "max_ms": busy.max_ms,
                    "kB_each": busy.body_bytes / busy.requests / 1e3,
                    "requests": busy.requests,
                    "ingests": ingests,
                }
                report.add(f"p99 of {what} during ingest", Sample(busy.p99_ms, "ms", parts))


def _synced(server: processes.Server) -> bool:
    return b'"lastSyncedAt"' in fetch(server.target, "/apis/config.cacheserver.dev/v1alpha1/repositories")


def _asked(server: processes.Server, paths: list[str], options: Options, seconds: float) -> http.Result:
    job = http.Job(server.url, paths, _READ_CONNECTIONS, seconds)
    done = processes.ask("bench.load.http", job, http.Result, options.work)
    if done.failures or not done.requests:
        raise BenchError(f"{done.failures} of {done.requests} failed: {done.last_failure}")
    return done


def _asked_while_ingesting(
    server: processes.Server, paths: list[str], tree: Path, options: Options
) -> tuple[http.Result, int]:
    """Every bundle changes again and again, and the server is told, for as long as the questions last."""
    done = threading.Event()
    rounds = 0

    def ingest() -> None:
        nonlocal rounds
        while not done.is_set():
            rounds += 1
            for path in sorted(tree.rglob("*")):
                if path.is_file():
                    path.write_bytes(_BUNDLE_IMAGE.sub(rb"\g<1>%x" % (rounds % 16), path.read_bytes()))
            server.child.popen.send_signal(signal.SIGHUP)
            done.wait(2.0)

    thread = threading.Thread(target=ingest)
    thread.start()
    try:
        time.sleep(0.5)
        return _asked(server, paths, options, max(options.seconds * 2, 4.0)), rounds
    finally:
        done.set()
        thread.join()
