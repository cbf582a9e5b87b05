"""What was measured: a table for people, JSON for later; medians over rounds, and the machine they hold for."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

import cacheserver
from bench.figures import median
from bench.processes import ROOT, EtcdBinary


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one question. parts: what belongs to the figure, by name with its unit (`p99_ms`)."""

    value: float
    unit: str
    parts: Mapping[str, float] = field(default_factory=dict)
    aim: str = ""


@dataclass(slots=True)
class Row:
    """All rounds of one question."""

    question: str
    samples: list[Sample] = field(default_factory=list)

    @property
    def value(self) -> float:
        return median([sample.value for sample in self.samples])

    def part(self, name: str) -> float:
        """Median over the rounds that have it."""
        return median([sample.parts[name] for sample in self.samples if name in sample.parts])


@dataclass(frozen=True, slots=True)
class Machine:
    """What the figures hold for."""

    cpu: str
    cores: int
    load_before: float
    """Load average of the minute before the run: over about 0.5, others were at work."""
    memory_gib: float
    system: str
    python: str
    etcd: str
    cacheserver: str
    commit: str


def machine(etcd: EtcdBinary) -> Machine:
    """This one, with the versions of what is measured on it."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    total = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return Machine(
        cpu=model or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        load_before=round(os.getloadavg()[0], 2),
        memory_gib=round(total / (1 << 20), 1),
        system=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        etcd=f"{etcd.version} ({etcd.origin})",
        cacheserver=cacheserver.__version__,
        commit=_commit(),
    )


class Report:
    """Rows in the order in which their questions were first answered."""

    def __init__(self, about: Machine, options: Mapping[str, object]) -> None:
        self._about = about
        self._options = dict(options)
        self._rows: dict[str, Row] = {}
        self._notes: list[str] = []

    def add(self, question: str, sample: Sample) -> None:
        self._rows.setdefault(question, Row(question)).samples.append(sample)

    def note(self, text: str) -> None:
        """Something the reader of the table must know; said once."""
        if text not in self._notes:
            self._notes.append(text)

    def table(self) -> str:
        """Plain text, one line a question."""
        head = ("question", "median", "unit", "rounds", "aim", "and")
        body = [
            (
                row.question,
                shown(row.value),
                row.samples[0].unit,
                " ".join(shown(sample.value) for sample in row.samples),
                row.samples[0].aim,
                _parts(row),
            )
            for row in self._rows.values()
        ]
        widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (head, *body)
        ]
        return "\n".join([self._title(), "", *(line.rstrip() for line in lines), *_bullets(self._notes)])

    def write(self, directory: Path, name: str) -> Path:
        """The same as JSON, every round included; returns the file."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
        rows = [{"question": row.question, "median": row.value, "rounds": row.samples} for row in self._rows.values()]
        said = {"machine": self._about, "options": self._options, "notes": self._notes, "rows": rows}
        path.write_bytes(orjson.dumps(said, option=orjson.OPT_INDENT_2) + b"\n")
        return path

    def _title(self) -> str:
        about = self._about
        return (
            f"{about.cpu}, {about.cores} cores, {about.memory_gib} GiB, {about.system}, load {about.load_before}\n"
            f"{about.python}, etcd {about.etcd}, cacheserver {about.cacheserver} at {about.commit}"
        )


def shown(value: float) -> str:
    """Three digits that matter, thousands kept whole."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _parts(row: Row) -> str:
    names = dict.fromkeys(name for sample in row.samples for name in sample.parts)
    return ", ".join(f"{name} {shown(row.part(name))}" for name in names)


def _bullets(notes: Sequence[str]) -> list[str]:
    return ["", *(f"- {note}" for note in notes)] if notes else []


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _commit() -> str:
    """The tree's commit, with a plus where it has been changed since; `unknown` outside a checkout."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "--no-optional-locks", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
