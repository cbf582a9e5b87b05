"""`python -m bench figures`: every run behind docs/figures.md, docs/scaling.md and README's table, in one command.

Each run is a `python -m bench PART` of its own, whose table goes to a log beside its result. One that fails is named,
and the rest goes on; one that has a result of this commit with these options is not made again, so a programme that was
interrupted is taken up by the same command. Runs of a part that is told with its range do not follow one another: what
else the machine does for some minutes shall not weigh on all of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from bench.errors import BenchError
from bench.peers import known, kube
from bench.processes import ROOT
from bench.report import aims, document
from bench.report.table import commit_of_tree

_OLM: Final = (known.OPM, known.PACKAGE_SERVER, known.CATALOGD, known.KUBE_APISERVER)
_CATALOG, _BUNDLE, _BROWSER = "--catalog", "--bundle", "a browser"
_VARIABLES: Final[Mapping[str, str]] = {
    known.OPM: "CACHESERVER_TEST_OPM",
    known.PACKAGE_SERVER: "CACHESERVER_TEST_PACKAGE_SERVER",
}
"""As tests name them: CONTRIBUTING.md."""
_LATE: Final = 6.0
"""Times what a run is expected to take, and it has failed: nothing in it waits for so long."""
_LEAST_S: Final = 600.0
_STOP_WITHIN_S: Final = 30.0
_QUICK_SHARE: Final = 0.4
"""Of a whole run's time that a quick one takes: most of it is starts."""

_DESCRIPTION = """\
Measure everything that docs/figures.md, docs/scaling.md and README's table tell, and write these documents. Begin it on
a machine that does nothing else, in a tree without changes, and leave it alone; it says what runs and for how long.
Interrupted, or with parts that failed, the same command goes on where it was.
"""


@dataclass(frozen=True, slots=True)
class _Part:
    """needs: peers' names and arguments without which the documents have no place for its figures.

    begin_s, round_s: what it takes on two cores beside its rounds, and each of these. more: its own arguments.
    """

    needs: Sequence[str]
    begin_s: float
    round_s: float
    more: Sequence[str] = ()


PARTS: Final[Mapping[str, _Part]] = {
    "compare": _Part((known.KUBE_APISERVER,), 60, 220),
    "finding": _Part((), 40, 40),
    "held": _Part((known.KUBE_APISERVER,), 100, 0),
    "doors": _Part((*_OLM, _CATALOG), 60, 160),
    "olm": _Part((*_OLM, _CATALOG), 20, 80),
    # Its rounds are many, and short: three sizes of three curves.
    "scale": _Part((), 75, 65, ("--seconds", "0.5", "--watch-seconds", "2", "--minutes", "15")),
    "page": _Part((_BROWSER,), 6, 10),
    "catalog": _Part((_CATALOG,), 2, 20),
    "serve": _Part((), 10, 25),
    "watch": _Part((), 10, 40),
    "herd": _Part((), 5, 5),
    "sources": _Part((_CATALOG, _BUNDLE), 10, 40),
    "authoring": _Part((), 0, 150),
    "secured": _Part((known.KUBE_APISERVER,), 20, 60),
}
_TIMES_TOLD: Final = ("compare", "doors", "olm")
"""With their range: they are run several times."""
_BETWEEN: Final = (
    ("finding", "held", "scale", "page", "catalog"),
    ("serve", "watch", "herd", "sources"),
    ("authoring", "secured"),
)


@dataclass(frozen=True, slots=True)
class Run:
    """arguments: of `python -m bench`. expected_s: on two cores. nth: among the runs of its part, from 1."""

    part: str
    nth: int
    arguments: Sequence[str]
    expected_s: float


Options = Callable[[Sequence[str]], Mapping[str, object]]
"""What a run with these arguments writes down as its options. Raises: BenchError."""


def main(argv: Sequence[str], options_of: Options) -> int:
    """Returns the exit code: 0; 1 when a part failed or a document could not be written; 130 when interrupted."""
    given = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is stopped on the way out
    try:
        peers = _peers(given.peer)
        # One etcd for all: that of kube-apiserver's own version where there is one, as every part with it takes.
        beside = peers[known.KUBE_APISERVER].with_name("etcd") if known.KUBE_APISERVER in peers else None
        if given.etcd_binary is None and beside is not None and beside.is_file():
            given.etcd_binary = beside
        runs, left_out = planned(given, peers)
        for part, why in left_out.items():
            _say(f"{part} is left out, its figures stay as they are: {why}")
        if not runs:
            raise BenchError("nothing is left to measure")
        return Programme(given, options_of).carry_out(runs)
    except BenchError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on from here")
        return 130


def planned(given: argparse.Namespace, peers: Mapping[str, Path]) -> tuple[list[Run], dict[str, str]]:
    """Runs in their order, and why a part has none. Raises: BenchError, for a part that is not there."""
    if unknown := sorted(set(given.only) - set(PARTS)):
        raise BenchError(f"--only {unknown[0]}: no such part; there are {', '.join(PARTS)}")
    order = []
    for nth in range(max(given.runs, len(_BETWEEN))):
        order += [(part, nth + 1) for part in _TIMES_TOLD if nth < given.runs]
        order += [(part, 1) for part in (_BETWEEN[nth] if nth < len(_BETWEEN) else ())]
    wanted = [(part, nth) for part, nth in order if not given.only or part in given.only]
    left_out = {part: why for part, _ in wanted if (why := _missing(PARTS[part], given, peers))}
    return [_run(part, nth, given, peers) for part, nth in wanted if part not in left_out], left_out


def _run(part: str, nth: int, given: argparse.Namespace, peers: Mapping[str, Path]) -> Run:
    of = PARTS[part]
    rounds = 1 if part in _TIMES_TOLD else given.rounds
    arguments = [part, "--rounds", str(rounds), *of.more]
    if given.seconds is not None and "--seconds" not in of.more:
        arguments += ["--seconds", str(given.seconds)]
    if given.quick:
        arguments.append("--quick")
    if given.etcd_binary:
        arguments += ["--etcd-binary", str(given.etcd_binary)]
    for name in of.needs:
        if name in peers:
            arguments += ["--peer", f"{name}={peers[name]}"]
        elif name == _CATALOG:
            arguments += [_CATALOG, str(given.catalog)]
        elif name == _BUNDLE:
            arguments += [_BUNDLE, str(given.bundle)]
    expected_s = of.begin_s + of.round_s * rounds
    return Run(part, nth, arguments, expected_s * (_QUICK_SHARE if given.quick else 1))


def _missing(part: _Part, given: argparse.Namespace, peers: Mapping[str, Path]) -> str:
    """What the part needs and does not have, with how to give it; empty where it has all."""
    for name in part.needs:
        if name in known.NAMES and name not in peers:
            variable = _VARIABLES.get(name)
            return f"it needs --peer {name}=PATH" + (f", or {variable}" if variable else "")
        if name == _CATALOG and given.catalog is None:
            return "it needs --catalog DIRECTORY: the documents tell of community v4.20"
        if name == _BUNDLE and given.bundle is None:
            return "it needs --bundle FILE: the documents tell of a git bundle of nephio's catalog"
        if name == _BROWSER and importlib.util.find_spec("playwright") is None:
            return "it needs playwright (pip install playwright)"
        if name == _BROWSER and not (shutil.which("chromium-headless-shell") or shutil.which("chromium")):
            return "it needs chromium-headless-shell or chromium on PATH"
    return ""


def _peers(given: Sequence[str]) -> dict[str, Path]:
    """Those that were named, then those that variables of the tests name. Raises: BenchError."""
    found = {name: Path(path) for name, variable in _VARIABLES.items() if (path := os.environ.get(variable))}
    found |= {name: path.absolute() for name, path in map(known.parse, given)}
    binary = kube.find(found.get(known.KUBE_APISERVER))
    return found if binary is None else {**found, known.KUBE_APISERVER: binary.path}


class Programme:
    """The runs of one command. make: makes one, and returns why it failed; by default in a process of its own."""

    def __init__(
        self, given: argparse.Namespace, options_of: Options, make: Callable[[Run], str] | None = None
    ) -> None:
        self._given = given
        # A quick run answers the same questions of less: it must not lie where documents are made from.
        self._results: Path = given.results / "quick" if given.quick else given.results
        self._options_of = options_of
        self._commit = commit_of_tree()
        self._make = make or self._in_a_process
        self._spent_s = self._expected_s = 0.0

    def carry_out(self, runs: Sequence[Run]) -> int:
        """Make what has no result yet, tell the aims, write the documents; returns the exit code."""
        self._results.mkdir(parents=True, exist_ok=True)
        here = self._there(runs)
        left = [run for run in runs if run.nth > len(here.get(run.part, ()))]
        if len(left) < len(runs):
            _say(f"{len(runs) - len(left)} of {len(runs)} runs have results of {self._commit}: not made again")
        if self._commit.endswith("+changes"):
            _say(f"the tree is not as committed ({self._commit}): what is measured now counts for no later command")
        failed: dict[str, str] = {}
        for at, run in enumerate(left, 1):
            rest_s = sum(each.expected_s for each in left[at - 1 :]) * self._pace()
            about = f"{at} of {len(left)}: {run.part}" + (f", run {run.nth}" if run.part in _TIMES_TOLD else "")
            expected_s = run.expected_s * self._pace()
            _say(f"{about} ... about {_minutes(expected_s)}; all that is left, about {_minutes(rest_s)}")
            began = time.monotonic()
            if why := self._make(run):
                failed[f"{run.part}, run {run.nth}"] = why
                _say(f"{about} FAILED: {why}")
            else:
                self._spent_s += time.monotonic() - began
                self._expected_s += run.expected_s
        return self._told(runs, failed)

    def _pace(self) -> float:
        """What this machine takes, beside what was expected so far."""
        return self._spent_s / self._expected_s if self._expected_s else 1.0

    def _in_a_process(self, run: Run) -> str:
        """Why it failed; empty where it did not."""
        log = self._results / f"{run.part}-{run.nth}.log"
        command = [sys.executable, "-m", "bench", *run.arguments, "--results", str(self._results)]
        within_s = max(_LEAST_S, run.expected_s * _LATE)
        with log.open("wb") as out, subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out) as child:
            try:
                code = child.wait(within_s)
            except subprocess.TimeoutExpired:
                return f"took over {_minutes(within_s)}: {log}"
            finally:
                _stop(child)
        if code:
            return f"exit code {code}: {_why(log)} ({log})"
        return ""

    def _there(self, runs: Sequence[Run]) -> dict[str, list[Mapping[str, Any]]]:
        """Results of this commit with the options of these runs, oldest first."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        for run in {run.part: run for run in runs}.values():
            options = orjson.loads(orjson.dumps(self._options_of(run.arguments)))
            for path in sorted(self._results.glob(f"{run.part}-*.json")):
                result = orjson.loads(path.read_bytes())
                if result["machine"]["commit"] == self._commit and result["options"] == options:
                    found.setdefault(run.part, []).append(result)
        return {} if self._commit.endswith("+changes") else found

    def _told(self, runs: Sequence[Run], failed: Mapping[str, str]) -> int:
        """The aims, the documents, and what failed: in this order, for the end is what one reads."""
        verdicts = []
        for part in dict.fromkeys(run.part for run in runs):
            if results := document.newest(self._results, part):
                verdicts += aims.verdicts(results, part)
        print(aims.summary(verdicts))
        code = 0
        if self._given.quick:
            _say("no document is written from quick runs")
        else:
            try:
                for path in document.write(self._results):
                    _say(f"written {path}")
            except BenchError as exc:
                _say(f"the documents stay as they are: {exc}")
                code = 1
        for name, why in failed.items():
            _say(f"FAILED: {name}: {why}")
        if failed:
            _say("the same command makes these again, and no others")
        return 1 if failed else code


def _why(log: Path) -> str:
    """What a run said last of itself that is not how far it is, else its last line."""
    lines = log.read_text(errors="replace").splitlines()
    said = [line for line in lines if line.startswith("bench: ") and not line.endswith((" ...", "before that:"))]
    return "".join((said or lines)[-1:])


def _stop(child: subprocess.Popen[bytes]) -> None:
    """It stops what it started; what does not end in time dies with it."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            child.kill()


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _say(text: str) -> None:
    print(f"bench: {time.strftime('%H:%M:%S')}: {text}", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(prog="python -m bench figures", description=_DESCRIPTION)
    add = arguments.add_argument
    add("--quick", action="store_true", help="one short round of each part on little data, no documents: does it work?")
    add("--only", nargs="+", default=[], metavar="PART", help=f"some of {', '.join(PARTS)}")
    add("--runs", type=int, default=document.NEWEST, help=f"of {', '.join(_TIMES_TOLD)} (default {document.NEWEST})")
    add("--rounds", type=int, default=2, help="of every other part (default 2)")
    add("--seconds", type=float, help="counted time of a round of requests (default 2)")
    add("--peer", action="append", default=[], metavar="NAME=PATH", help=f"one of {', '.join(known.NAMES)}")
    add("--catalog", type=Path, help="a directory with community v4.20")
    add("--bundle", type=Path, help="a git bundle of nephio's catalog")
    add("--etcd-binary", type=Path, help="default: as for every part")
    add("--results", type=Path, default=ROOT / "bench" / "results", help="where results and logs go (bench/results)")
    return arguments
