"""The write side: saves, proposals and approvals, alone and many at once, beside the same steps by plain git commands;
and what readers feel while others save.

The remote is a bare repository on this machine: what is measured is cacheserver and git, not a network.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import processes
from bench.errors import BenchError
from bench.load import authors, http, krm
from bench.options import Options
from bench.processes import Server
from bench.report.figures import latency
from bench.report.table import Report, Sample

_SAVERS = 32
_AT_ONCE = 20
_MANY = 100
_ALONE = 8
_READ_CONNECTIONS = 4
_REPOSITORY = """\
apiVersion: config.cacheserver.dev/v1alpha1
kind: Repository
metadata: {{name: edge}}
spec:
  source: {{git: {{url: "file://{path}", ref: {{branch: main}}}}}}
  format: KRM
  access: ReadWrite
"""


@dataclass(frozen=True, slots=True)
class _Bench:
    """Two replicas that write to one repository."""

    options: Options
    report: Report
    servers: Sequence[Server]

    def ask(self, kind: str, packages: Sequence[str], **job: object) -> authors.Result:
        """Raises: BenchError where anything was refused."""
        pids = [pid for server in self.servers for pid in server.target.pids]
        asked = authors.Job(self.servers[0].url, kind, packages, cpu_of=pids, **job)  # type: ignore[arg-type]  # by name
        done = processes.ask("bench.load.authors", asked, authors.Result, self.options.work)
        if done.failures:
            raise BenchError(f"{kind}: {done.failures} of {done.requests} failed: {done.last_failure}")
        return done


def measure(options: Options, report: Report) -> None:
    """Every question, `rounds` times, each on an empty etcd and an empty repository. Raises: BenchError."""
    for number in range(options.rounds):
        home = options.work / f"authoring-{number}"
        home.mkdir()
        with _serving(options, report, home) as bench:
            _saves(bench)
            _decisions(bench)
            _drafts(bench)
        _plainly(home / "plain", report)
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _serving(options: Options, report: Report, home: Path) -> Iterator[_Bench]:
    remote = krm.Repository(home / "edge.git")
    manifest = home / "repository.yaml"
    manifest.write_text(_REPOSITORY.format(path=remote.path))
    flags = [f"--repositories={manifest}", "--max-drafts=5000"]
    with (
        processes.etcd(options.etcd, options.work) as etcd,
        processes.server(etcd, options.work, [*flags, f"--data-dir={home / 'a'}"]) as one,
        processes.server(etcd, options.work, [*flags, f"--data-dir={home / 'b'}"]) as other,
    ):
        yield _Bench(options, report, [one, other])


# --- saves -----------------------------------------------------------------------------------------------------------


def _saves(bench: _Bench) -> None:
    options, report = bench.options, bench.report
    packages = [f"s{number}" for number in range(_SAVERS)]
    made = bench.ask("create", packages, connections=8)
    report.add("create a draft of 10 files", Sample(made.p50_ms, "ms", _parts(made)))
    alone = bench.ask("save", packages[:1], seconds=options.seconds)
    report.add("p50 of a save of 10 files, alone", Sample(alone.p50_ms, "ms", _parts(alone), "under 10 ms"))
    many = bench.ask("save", packages, connections=_SAVERS, seconds=options.seconds)
    what = f"saves of {_SAVERS} drafts at once"
    report.add(what, Sample(many.requests / many.seconds, "saves/s", _parts(many), "500/s, p99 under 50 ms"))
    seen = bench.ask("seen", packages[:1], seconds=options.seconds, other=bench.servers[1].url)
    report.add("p99 until the other replica says so", Sample(seen.p99_ms, "ms", _parts(seen), "under 50 ms"))
    _readers(bench, packages)


def _readers(bench: _Bench, packages: Sequence[str]) -> None:
    """GETs of the replica that takes the saves."""
    idle = _read(bench, packages)
    rate = 500.0
    saved: list[authors.Result] = []

    def save() -> None:
        seconds = bench.options.seconds + 2.5
        saved.append(bench.ask("save", packages, connections=_SAVERS, seconds=seconds, rate=rate))

    saving = threading.Thread(target=save)
    saving.start()
    try:
        time.sleep(1.0)
        busy = _read(bench, packages)
    finally:
        saving.join()
    if not saved:
        raise BenchError("saves meanwhile failed")
    parts = {
        "idle_p99_ms": idle.p99_ms,
        "p50_ms": busy.p50_ms,
        "idle_p50_ms": idle.p50_ms,
        "GETs/s": busy.requests / busy.seconds,
        "idle_GETs/s": idle.requests / idle.seconds,
        "saves/s": saved[0].requests / saved[0].seconds,
    }
    bench.report.add(f"p99 of GET while {rate:.0f} saves/s are asked for", Sample(busy.p99_ms, "ms", parts))


def _read(bench: _Bench, packages: Sequence[str]) -> http.Result:
    paths = [f"{authors.BASE}/packagerevisions/edge.{package}.w1" for package in packages]
    job = http.Job(bench.servers[0].url, paths, _READ_CONNECTIONS, bench.options.seconds)
    done = processes.ask("bench.load.http", job, http.Result, bench.options.work)
    if done.failures or not done.requests:
        raise BenchError(f"{done.failures} of {done.requests} failed: {done.last_failure}")
    return done


# --- proposals and approvals -----------------------------------------------------------------------------------------


def _decisions(bench: _Bench) -> None:
    report = bench.report
    alone = [f"a{number}" for number in range(_ALONE)]
    bench.ask("create", alone, connections=8)
    proposed = bench.ask("move", alone, lifecycle="Proposed")
    report.add("propose, alone", Sample(proposed.p50_ms, "ms", _parts(proposed), "under 300 ms"))
    approved = bench.ask("move", alone, lifecycle="Published")
    report.add("approve, alone", Sample(approved.p50_ms, "ms", _parts(approved), "under 500 ms"))
    for count, aim in ((_AT_ONCE, "under 2.5 s"), (_MANY, "under 10 s")):
        packages = [f"m{count}-{number}" for number in range(count)]
        bench.ask("create", packages, connections=8)
        for step, lifecycle in (("propose", "Proposed"), ("approve", "Published")):
            done = bench.ask("move", packages, lifecycle=lifecycle, connections=count)
            wanted = aim if step == "approve" else ""
            report.add(f"{step} {count} packages at once", Sample(done.seconds, "s", _parts(done), wanted))


def _drafts(bench: _Bench) -> None:
    """What 2,000 open drafts cost a save."""
    count = bench.options.open_drafts
    packages = [f"d{number}" for number in range(count)]
    made = bench.ask("create", packages, connections=_SAVERS)
    bench.report.add(f"create {count:,} drafts", Sample(made.seconds, "s", _parts(made)))
    alone = bench.ask("save", packages[:1], seconds=bench.options.seconds)
    what = f"p50 of a save, {count:,} drafts open"
    bench.report.add(what, Sample(alone.p50_ms, "ms", _parts(alone), "as without them"))


def _parts(done: authors.Result) -> dict[str, float]:
    return {
        "p50_ms": done.p50_ms,
        "p99_ms": done.p99_ms,
        "max_ms": done.max_ms,
        "server_ms_each": done.server_cpu_s / max(done.requests, 1) * 1e3,
        "server_cores": done.server_cpu_s / max(done.seconds, 1e-6),
        "machine_cores": done.machine_cpu_s / max(done.seconds, 1e-6),
    }


# --- the same by git -------------------------------------------------------------------------------------------------


def _plainly(home: Path, report: Report) -> None:
    """As a careful person with a clone does it: commit and push for a save, merge, tag and push for an approval."""
    remote = krm.Repository(home / "remote.git")
    remote.commit({"README": b"x\n"})
    clone = home / "clone"
    _git(home, "clone", "--quiet", str(remote.path), str(clone))
    took: dict[str, list[float]] = {"save": [], "propose": [], "approve": []}
    for number in range(_ALONE):
        package = f"p{number}"
        began = time.perf_counter()
        _git(clone, "checkout", "--quiet", "-b", f"drafts/{package}/w1", "origin/main")
        for path, text in authors.files(package, number).items():
            (clone / package).mkdir(exist_ok=True)
            (clone / package / path).write_text(text)
        _git(clone, "add", package)
        _git(clone, "commit", "--quiet", "-m", "save")
        _git(clone, "push", "--quiet", "origin", f"drafts/{package}/w1")
        took["save"].append(time.perf_counter() - began)
        began = time.perf_counter()
        names = f"drafts/{package}/w1:refs/heads/proposed/{package}/w1", f":refs/heads/drafts/{package}/w1"
        _git(clone, "push", "--quiet", "--atomic", "origin", *names)
        took["propose"].append(time.perf_counter() - began)
        began = time.perf_counter()
        _git(clone, "fetch", "--quiet", "origin")
        _git(clone, "checkout", "--quiet", "-B", "main", "origin/main")
        _git(clone, "merge", "--quiet", "--no-ff", "-m", "approve", f"origin/proposed/{package}/w1")
        _git(clone, "tag", f"{package}/v1")
        refs = "main", f"refs/tags/{package}/v1", f":refs/heads/proposed/{package}/w1"
        _git(clone, "push", "--quiet", "--atomic", "origin", *refs)
        took["approve"].append(time.perf_counter() - began)
    for step, seconds in took.items():
        found = latency(seconds)
        report.add(f"plain git: {step}", Sample(found.p50_ms, "ms", {"max_ms": found.max_ms}))


def _git(directory: Path, *arguments: str) -> None:
    ran = subprocess.run(["git", *arguments], cwd=directory, env=krm.ENVIRONMENT, capture_output=True, check=False)
    if ran.returncode:
        raise BenchError(f"git {arguments[0]}: {ran.stderr.decode()}")
