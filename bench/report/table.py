"""What was measured: a table for people, JSON for later; medians over rounds, and the machine they hold for."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

import cacheserver
from bench.processes import ROOT, EtcdBinary
from bench.report import plot
from bench.report.figures import exponent, median

BY_CPU: Final = frozenset({"per_server_cpu_s", "server_us_an_event"})
"""Parts of a sample that say what the answer to a question costs the server."""

_MEASURED: Final = ("cacheserver", "bench/*.py", "pyproject.toml")
"""Documents and their texts are none of it: they are written behind the runs."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one question. parts: what belongs to the figure, by name with its unit (`p99_ms`)."""

    value: float
    unit: str
    parts: Mapping[str, float] = field(default_factory=dict)
    aim: str = ""


@dataclass(frozen=True, slots=True)
class Ratio:
    """One round of two sides. value: over 1 in our favour. second: the same of `part`, 0 without one.

    aim: what the headline should reach, 0 for none. compared: what of the two was held against each other.
    beside: the other side's name.
    """

    value: float
    second: float
    ours: float
    theirs: float
    unit: str
    aim: float
    compared: str
    part: str = ""
    beside: str = ""

    @property
    def headline(self) -> float:
        """The ratio by a second of the servers' CPU where that was counted, for it hangs least on the machine and on
        what else runs there; else the value."""
        return self.second if self.part in BY_CPU else self.value


@dataclass(frozen=True, slots=True)
class Curve:
    """Medians by size. exponent: see figures.exponent. last: the exponent between the two largest sizes alone."""

    name: str
    x: str
    unit: str
    points: Mapping[float, float]
    exponent: float
    last: float


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
        commit=commit_of_tree(),
    )


class Report:
    """Rows in the order in which their questions were first answered."""

    def __init__(self, about: Machine, options: Mapping[str, object]) -> None:
        self._about = about
        self._stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self._options = dict(options)
        self._rows: dict[str, Row] = {}
        self._ratios: dict[str, list[Ratio]] = {}
        self._curves: list[Curve] = []
        self._notes: list[str] = []

    def add(self, question: str, sample: Sample) -> None:
        self._rows.setdefault(question, Row(question)).samples.append(sample)

    def has(self, question: str) -> bool:
        return question in self._rows

    def row(self, question: str) -> Row:
        """Empty when it was not asked."""
        return self._rows.get(question, Row(question))

    def ratio(self, question: str, found: Ratio) -> None:
        self._ratios.setdefault(question, []).append(found)

    def curve(self, name: str, x: str, questions: Mapping[int, str]) -> None:
        """The medians of those questions, as far as they were asked, over their sizes."""
        rows = {float(size): self.row(question) for size, question in questions.items() if self.has(question)}
        points = {size: row.value for size, row in rows.items()}
        if points:
            unit = next(iter(rows.values())).samples[0].unit
            ends = dict(sorted(points.items())[-2:])
            self._curves.append(Curve(name, x, unit, points, exponent(points), exponent(ends)))

    @property
    def ratios(self) -> Mapping[str, Sequence[Ratio]]:
        """Every round of each question that two sides were asked."""
        return self._ratios

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
        said = [self._title(), "", *(line.rstrip() for line in lines)]
        return "\n".join([*said, *self._ratio_lines(), *self._curve_lines(), *_bullets(self._notes)])

    def _curve_lines(self) -> list[str]:
        if not self._curves:
            return []
        lines = ["", "curve | by | points | exponent | between the largest two"]
        for curve in self._curves:
            points = ", ".join(f"{x:,.0f}: {shown(y)}" for x, y in curve.points.items())
            cells = [f"{curve.name} ({curve.unit})", curve.x, points, f"{curve.exponent:.2f}", f"{curve.last:.2f}"]
            lines.append(" | ".join(cells))
        return lines

    def plot(self, directory: Path, name: str) -> list[Path]:
        """SVG files of what can be drawn, ratios and curves each in one; returns them."""
        directory.mkdir(parents=True, exist_ok=True)
        drawn: dict[str, str] = {}
        about = self._title().splitlines()
        if self._ratios:
            note = (
                "median ratio, by the servers' CPU where it was counted, over 1: for cacheserver; the stroke is the aim"
            )
            drawn["ratios"] = plot.bars(
                "cacheserver beside its peers", [*about, note], by_peer(self._ratios), origin=1.0
            )
        if self._curves:
            panels = [
                plot.Line(each.name, each.x, each.unit, each.points, f"exponent {each.exponent:.2f}")
                for each in self._curves
            ]
            drawn["curves"] = plot.lines("how it grows", [*about, "both axes logarithmic"], panels)
        if not drawn:
            drawn["rows"] = self._rates(about)
        paths = []
        for kind, content in drawn.items():
            paths.append(directory / f"{name}-{self._stamp}-{kind}.svg")
            paths[-1].write_text(content, encoding="utf-8")
        return paths

    def _rates(self, about: Sequence[str]) -> str:
        """Every figure as a bar, each unit on an axis of its own."""
        groups: dict[str, list[plot.Bar]] = {}
        for row in self._rows.values():
            groups.setdefault(row.samples[0].unit, []).append(plot.Bar(row.question, row.value, 0.0, shown(row.value)))
        return plot.bars("cacheserver", [*about, "medians of the rounds"], groups)

    def _ratio_lines(self) -> list[str]:
        if not self._ratios:
            return []
        lines = [
            "",
            "ratio (over 1: for cacheserver) | beside | rounds | aim | met | ours | theirs | second ratio | compared",
        ]
        for question, rounds in self._ratios.items():
            first, value = rounds[0], median([each.value for each in rounds])
            headline = median([each.headline for each in rounds])
            cells = [
                f"{question}: {shown(value)}",
                first.beside,
                " ".join(shown(each.value) for each in rounds),
                f"{first.aim:.0f}" if first.aim >= 10 else f"{first.aim:.2g}" if first.aim else "-",
                ("yes" if headline >= first.aim else "NO") if first.aim else "-",
                f"{shown(median([each.ours for each in rounds]))} {first.unit}",
                f"{shown(median([each.theirs for each in rounds]))} {first.unit}",
                f"{shown(median([each.second for each in rounds]))} ({first.part})" if first.part else "-",
                first.compared,
            ]
            lines.append(" | ".join(cells))
        return lines

    def write(self, directory: Path, name: str) -> Path:
        """The same as JSON, every round included; returns the file."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{name}-{self._stamp}.json"
        rows = [{"question": row.question, "median": row.value, "rounds": row.samples} for row in self._rows.values()]
        said = {
            "machine": self._about,
            "options": self._options,
            "notes": self._notes,
            "rows": rows,
            "ratios": self._ratios,
        }
        said["curves"] = [_curve(each) for each in self._curves]
        path.write_bytes(orjson.dumps(said, option=orjson.OPT_INDENT_2) + b"\n")
        return path

    def _title(self) -> str:
        about = self._about
        return (
            f"{about.cpu}, {about.cores} cores, {about.memory_gib} GiB, {about.system}, load {about.load_before}\n"
            f"{about.python}, etcd {about.etcd}, cacheserver {about.cacheserver} at {about.commit}"
        )


def by_peer(ratios: Mapping[str, Sequence[Ratio]]) -> dict[str, list[plot.Bar]]:
    """A bar for each question, the median of its headlines, under the name of who was asked beside us."""
    groups: dict[str, list[plot.Bar]] = {}
    for question, found in ratios.items():
        if value := median([each.headline for each in found]):
            bar = plot.Bar(question, value, found[0].aim, f"{shown(value)}×")
            groups.setdefault(found[0].beside, []).append(bar)
    return groups


def _curve(curve: Curve) -> dict[str, object]:
    """For JSON, whose keys are strings."""
    return {
        "name": curve.name,
        "by": curve.x,
        "unit": curve.unit,
        "points": [[x, y] for x, y in curve.points.items()],
        "exponent": curve.exponent,
        "exponent_between_the_largest_two": curve.last,
    }


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


def commit_of_tree() -> str:
    """The tree's commit, with a plus where what is measured has been changed since; `unknown` outside a checkout."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", *_MEASURED)
        return commit + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "--no-optional-locks", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
