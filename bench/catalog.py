"""A catalog from its files to a watcher: validate, ingest (cold, unchanged, one change), and serving it."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import orjson

from bench import processes, serve
from bench.errors import BenchError
from bench.load import fbc, fill, watchers
from bench.options import Options
from bench.processes import Etcd, Finished
from bench.report.table import Report, Sample
from bench.serve import Question
from bench.target import API, NAMESPACED, Target, fetch, list_version

_NAME = "bench"
_CHANGE_WITHIN_S = 30.0


def measure(options: Options, report: Report) -> None:
    """Every question, `rounds` times, each round on an empty etcd. Raises: BenchError."""
    catalog = copy_catalog(options, report, "catalog")
    for _ in range(options.rounds):
        report.add("validate", _command(_run("validate", [str(catalog)], options), "under 1.5 s"))
        _memory(catalog, options, report)
        with processes.etcd(options.etcd, options.work) as etcd:
            with processes.server(etcd, options.work):
                # The server follows etcd meanwhile, as it does in a cluster.
                report.add("ingest, cold", _command(_ingest(catalog, etcd, options), "under 3 s"))
                report.add("ingest, unchanged", _command(_ingest(catalog, etcd, options), "under 0.3 s"))
                first_change(catalog)
                report.add("ingest, one changed bundle", _command(_ingest(catalog, etcd, options), ""))
                processes.ask("bench.load.fill", fill.Forget(etcd.endpoint), fill.Forgotten, options.work)
                # As after a crash before the last write, or with another version of the settings: all of it is compared
                # with what etcd holds, and nothing is written.
                report.add("ingest, replay of what is there", _command(_ingest(catalog, etcd, options), ""))
            with processes.server(etcd, options.work) as server:
                serve.started(server, report, "the catalog")
                target = server.target
                for question in _questions(target, options):
                    report.add(question.name, serve.ask(question, target, options))
                after = server.child.settled_memory()
                report.add(
                    "RSS after reads of the catalog",
                    Sample(after.rss / 1e6, "MB", {"peak_MB": after.peak / 1e6}, "under 120 MB"),
                )
            _one_change(catalog, etcd, options, report)


def copy_catalog(options: Options, report: Report, name: str) -> Path:
    """The catalog to ingest, in a place of that name where it may be changed."""
    target = options.work / name
    if options.catalog is not None:
        shutil.copytree(options.catalog, target)
        said = "as given"
    else:
        fbc.write(options.generated, target)
        said = f"generated from seed {options.generated.seed}"
    files = [path for path in target.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    report.note(f"the catalog: {said}, {len(files)} files, {size / 1e6:.1f} MB")
    return target


def _run(command: str, arguments: list[str], options: Options) -> Finished:
    return processes.run(command, processes.cacheserver(command, *arguments), options.work)


def _ingest(catalog: Path, etcd: Etcd, options: Options) -> Finished:
    return _run("ingest", [*processes.etcd_flags(etcd), f"--catalog={_NAME}={catalog}"], options)


def _command(done: Finished, aim: str) -> Sample:
    return Sample(done.seconds, "s", {"cpu_s": done.cpu_s}, aim)


def _memory(catalog: Path, options: Options, report: Report) -> None:
    """Of what the largest process held, in runs of their own: looking at it all the time costs time."""
    with processes.etcd(options.etcd, options.work) as etcd:
        flags = [*processes.etcd_flags(etcd), f"--catalog={_NAME}={catalog}"]
        for name, command in (("validate", ["validate", str(catalog)]), ("ingest, cold", ["ingest", *flags])):
            held = processes.held(command[0], processes.cacheserver(*command), options.work)
            parts = {"all_MB": held.pss / 1e6, "processes": held.processes}
            report.add(f"peak memory of a process, {name}", Sample(held.largest / 1e6, "MB", parts))


def _questions(target: Target, options: Options) -> list[Question]:
    names = _names(fetch(target, f"{NAMESPACED}/packagerevisions"))
    gets = [f"{NAMESPACED}/packagerevisions/{name}" for name in names[:1000]]
    return [
        Question("GET a revision", gets, "req/s", connections=options.connections, alternatives=True),
        Question(
            "content download, gzipped tar",
            [f"{path}/content" for path in gets],
            "downloads/s",
            "",
            {"Accept": "application/gzip"},
            connections=8,
            alternatives=True,
        ),
        Question("LIST packages", [f"{API}/packages"], "lists/s"),
        Question("LIST packagerevisions", [f"{API}/packagerevisions"], "lists/s"),
        Question("LIST packagerevisions gzip", [f"{API}/packagerevisions"], "lists/s", "", {"Accept-Encoding": "gzip"}),
    ]


def _names(body: bytes) -> list[str]:
    return [str(item["metadata"]["name"]) for item in orjson.loads(body)["items"]]


def _one_change(catalog: Path, etcd: Etcd, options: Options, report: Report) -> None:
    """A server that ingests by itself: how long from a changed file and SIGHUP to the event at a watcher."""
    path = f"{API}/packagerevisions"
    with processes.server(etcd, options.work, [f"--catalog={_NAME}={catalog}"]) as server:
        # Its first look must be over, or SIGHUP would only join it.
        _until_claimed(server)
        version = list_version(server.target, path)
        job = watchers.Job(
            server.url, f"{path}?watch=true&resourceVersion={version}", 1, expect=1, longest_s=_CHANGE_WITHIN_S
        )
        with processes.helper("bench.load.watchers", job, options.work) as helper:
            helper.answer(watchers.Ready, within_s=30)
            before = server.child.cpu_s()
            began = time.perf_counter()
            first_change(catalog)
            server.child.popen.send_signal(signal.SIGHUP)
            seen = helper.answer(watchers.Result, within_s=_CHANGE_WITHIN_S + 5)
            seconds = time.perf_counter() - began
        if seen.events != 1:
            raise BenchError(f"one bundle changed and {seen.events} events came within {_CHANGE_WITHIN_S} s")
        parts = {"server_cpu_s": server.child.cpu_s() - before}
        report.add("one changed bundle, from SIGHUP to the event", Sample(seconds, "s", parts, "under 1 s"))
        held = server.child.memory()
        parts = {"peak_MB": held.peak / 1e6, "with_children_MB": server.child.family_memory().rss / 1e6}
        report.add("RSS of a server that ingests the catalog", Sample(held.rss / 1e6, "MB", parts, "under 120 MB"))


def _until_claimed(server: processes.Server) -> None:
    """Until the server has looked at the catalog once: its Repository says when it did."""
    path, target = "/apis/config.cacheserver.dev/v1alpha1/repositories", server.target
    server.child.until(lambda: b'"lastCheckedAt"' in fetch(target, path), what="done with its first look")


def first_change(catalog: Path, *, write: bool = True) -> tuple[Path, bytes]:
    """The first file with a bundle and its content with one bundle changed, written there. Raises: BenchError."""
    for path in sorted(catalog.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            try:
                made = fbc.changed(content)
            except ValueError:
                continue  # no bundle in it
            if write:
                path.write_bytes(made)
            return path, made
    raise BenchError(f"{catalog}: no bundle to change")
