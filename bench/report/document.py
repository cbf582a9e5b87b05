"""docs/figures.md, docs/scaling.md and README's table: texts with places, and the newest runs' figures put into them.

A place is `{{part ~ question}}` for the median of all rounds, `{{part ~ question ~ name}}` for what belongs to the
figure (`p99_ms`), and of what two sides were asked `ours`, `theirs`, `ratio` (by the clock), `cpu` (Ratio.headline) or
`range` (the least and the most of the headline over all rounds) in place of a name. `{{machine ~ name}}` is of the
runs. A line `{{beside part ~ question = said ~ ...}}` becomes a table's rows.

Of questions that differ by a size, `#` in them: `{{curve part ~ sizes ~ question @ part of it = said ~ ...}}` becomes
rows of figures with their exponent and that of the last step, and `{{line part ~ question ~ x}}` is the straight line
through the two largest sizes at x, or with `+x` what it rises by. A question may go on behind what is named of it.
A place with `#` in its question is of the largest size, and tells that size with `~ size`.

Figures are kept in docs/figures/figures.jsonl, so that a test can tell whether the documents say what was measured.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson

from bench.errors import BenchError
from bench.processes import ROOT
from bench.report import plot
from bench.report.figures import exponent, median
from bench.report.table import BY_CPU, Ratio, by_peer

_Each = TypeVar("_Each")

NEWEST: Final = 3
"""Runs of a part that are taken together."""
_FIGURES: Final = ROOT / "docs" / "figures" / "figures.jsonl"
_TEXT: Final = Path(__file__).with_name("figures.txt")
_TABLE: Final = Path(__file__).with_name("readme.txt")
_GROWTH: Final = Path(__file__).with_name("scaling.txt")
_BEGIN, _END = "<!-- figures -->\n", "<!-- end of figures -->\n"
_UNITS_OF_CPU: Final = ("us", "a CPU s")
_PLACE: Final = re.compile(r"\{\{([^{}]+)\}\}")
_PICTURES: Final[Mapping[str, tuple[str, Sequence[str]]]] = {
    "beside-kube-apiserver": ("cacheserver beside kube-apiserver", ["compare"]),
    "beside-olm": ("cacheserver beside OLM's programs", ["olm"]),
    "doors": ("doors beside the programs that they stand in for", ["doors"]),
}


@dataclass(slots=True)
class Part:
    """All rounds of the newest runs of one part. rows: values, and lists by part's name, of each question."""

    runs: list[Mapping[str, Any]] = field(default_factory=list)
    rows: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    ratios: dict[str, list[Ratio]] = field(default_factory=dict)

    def add(self, run: Mapping[str, Any]) -> None:
        """run: as Report.write wrote it."""
        self.runs.append({"machine": run["machine"], "rounds": run["options"]["rounds"]})
        for row in run["rows"]:
            kept = self.rows.setdefault(row["question"], {})
            for sample in row["rounds"]:
                for name, value in {"": sample["value"], **sample["parts"]}.items():
                    kept.setdefault(name, []).append(round(value, 6))
        for question, rounds in run["ratios"].items():
            self.ratios.setdefault(question, []).extend(Ratio(**each) for each in rounds)


Figures = dict[str, Part]


def write(results: Path) -> list[Path]:
    """Gather what lies in `results`, fill the documents, draw the pictures; returns what was written.

    A part that was not run keeps the figures of its last runs. Raises: BenchError, for a place without a figure.
    """
    figures = kept()
    figures.update(gathered(results))
    written = {path: text(figures) for path, text in documents().items()}
    _FIGURES.write_bytes(_packed(figures))
    for path, content in written.items():
        path.write_text(content, encoding="utf-8")
    return [_FIGURES, *written, *_drawn(figures)]


def documents() -> Mapping[Path, Callable[[Figures], str]]:
    """Every document with figures, and what its text is with some."""
    return {
        ROOT / "docs/figures.md": lambda figures: filled(_TEXT.read_text(encoding="utf-8"), figures),
        ROOT / "docs/scaling.md": lambda figures: filled(_GROWTH.read_text(encoding="utf-8"), figures),
        ROOT / "README.md": _readme,
    }


def _readme(figures: Figures) -> str:
    before, begin, rest = (ROOT / "README.md").read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise BenchError(f"README.md has no place for figures: {_BEGIN.strip()} and {_END.strip()}")
    return before + begin + filled(_TABLE.read_text(encoding="utf-8"), figures) + end + after


def gathered(results: Path) -> Figures:
    """The newest runs of each part in a directory."""
    found: Figures = {}
    for part in sorted({path.name.rpartition("-")[0] for path in results.glob("*-*.json")}):
        for run in newest(results, part):
            found.setdefault(part, Part()).add(run)
    return found


def newest(results: Path, part: str) -> list[Mapping[str, Any]]:
    """The newest runs of a part as Report.write wrote them, oldest first: NEWEST at most, all of the last one's commit
    and options, for others' rounds answer another question."""
    runs = [orjson.loads(path.read_bytes()) for path in sorted(results.glob(f"{part}-*.json"))[-NEWEST:]]
    return [
        run
        for run in runs
        if run["machine"]["commit"] == runs[-1]["machine"]["commit"] and run["options"] == runs[-1]["options"]
    ]


def kept() -> Figures:
    """What docs/figures/figures.jsonl holds; nothing without one."""
    figures: Figures = {}
    for line in _FIGURES.read_bytes().splitlines() if _FIGURES.exists() else ():
        found = orjson.loads(line)
        part = figures.setdefault(found["part"], Part())
        if "run" in found:
            part.runs.append(found["run"])
        elif "row" in found:
            part.rows[found["question"]] = found["row"]
        else:
            part.ratios[found["question"]] = [Ratio(**each) for each in found["ratios"]]
    return figures


def _packed(figures: Figures) -> bytes:
    """A line for each run and each question, so that a change is read as one."""
    lines: list[Mapping[str, Any]] = []
    for part, of in sorted(figures.items()):
        lines += ({"part": part, "run": run} for run in of.runs)
        lines += ({"part": part, "question": question, "row": row} for question, row in of.rows.items())
        lines += ({"part": part, "question": question, "ratios": each} for question, each in of.ratios.items())
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


def filled(text: str, figures: Figures) -> str:
    """The text with every place filled. Raises: BenchError, naming the place and what there is like it."""

    def put(place: re.Match[str]) -> str:
        kind, _, rest = place[1].partition(" ")
        if kind == "beside":
            return "\n".join(_beside(_words(rest), figures))
        if kind == "curve":
            return "\n".join(_rows_of_curves(_words(rest), figures))
        if kind == "line":
            return _on_line(_words(rest), figures)
        return _figure(_words(place[1]), figures)

    return _PLACE.sub(put, text)


def _words(place: str) -> list[str]:
    return [word.strip() for word in place.split("~")]


def _beside(words: Sequence[str], figures: Figures) -> Iterable[str]:
    part, *questions = words
    for each in questions:
        question, _, name = (word.strip() for word in each.partition(" = "))
        first = _found(part, question, _part(part, figures).ratios)[0]
        ours, theirs, ratio, cpu, spread = (
            _figure([part, question, what], figures) for what in ("ours", "theirs", "ratio", "cpu", "range")
        )
        by_cpu = f"**{cpu}** ({spread})" if first.part in BY_CPU or first.unit in _UNITS_OF_CPU else ""
        by_clock = ratio if by_cpu else f"**{ratio}** ({spread})"
        yield f"| {name or question} | {ours} {first.unit} | {theirs} {first.unit} | {by_clock} | {by_cpu} |"


def _rows_of_curves(words: Sequence[str], figures: Figures) -> Iterable[str]:
    part, sizes, *curves = words
    for each in curves:
        named, _, name = (word.strip() for word in each.partition(" = "))
        question, _, what = (word.strip() for word in named.partition(" @ "))
        points = _points(part, question, what, figures)
        for size in sizes.split():
            _found(f"{part}: {question}", size, {f"{x:g}": x for x in points})
        slope, last = (f"{round(exponent(of), 2) + 0.0:.2f}" for of in (points, dict(sorted(points.items())[-2:])))
        yield f"| {name} | {' | '.join(said(y) for y in points.values())} | {slope} | {last} |"


def _on_line(words: Sequence[str], figures: Figures) -> str:
    part, question, at = words
    (x1, y1), (x2, y2) = sorted(_points(part, question, "", figures).items())[-2:]
    rise, x = (y2 - y1) / (x2 - x1), float(at.lstrip("+").replace(",", ""))
    return said(rise * x if at.startswith("+") else y2 + rise * (x - x2))


def _points(part: str, question: str, what: str, figures: Figures) -> dict[float, float]:
    """Medians by size, the least first."""
    before, _, after = question.partition("#")
    asked = re.compile(rf"{re.escape(before)}([\d,]+){re.escape(after)}(?:, .*)?")
    rows = _part(part, figures).rows
    points = {
        float(read[1].replace(",", "")): median(_found(part, what, rows[each]))
        for each in rows
        if (read := asked.fullmatch(each))
    }
    return dict(sorted(points.items())) or _found(part, question, {})


def _figure(words: Sequence[str], figures: Figures) -> str:
    part, question, *more = words
    if part == "machine":
        return ", ".join(dict.fromkeys(str(run["machine"][question]) for of in figures.values() for run in of.runs))
    what = more[0] if more else ""
    of = _part(part, figures)
    if "#" in question:
        points = _points(part, question, "" if what == "size" else what, figures)
        return said(max(points)) if what == "size" else said(points[max(points)])
    if what in ("ours", "theirs", "ratio", "cpu", "range"):
        rounds = _found(part, question, of.ratios)
        if what == "range":
            found = sorted(each.headline for each in rounds)
            return f"{said(found[0])} to {said(found[-1])}"
        attribute = {"ratio": "value", "cpu": "headline"}.get(what, what)
        return said(median([getattr(each, attribute) for each in rounds]))
    return said(median(_found(part, what, _found(part, question, of.rows))))


def _part(name: str, figures: Figures) -> Part:
    return _found("the runs", name, figures)


def _found(where: str, name: str, among: Mapping[str, _Each]) -> _Each:
    if name in among:
        return among[name]
    near = difflib.get_close_matches(name, among, 3, 0.3)
    raise BenchError(f"no figure {name!r} in {where}: run it again, or name one of {', '.join(map(repr, near))}")


def said(value: float) -> str:
    """Two digits that matter, three from a hundred on, thousands with commas."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        digits = len(str(int(abs(value)))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.2g}" if abs(value) < 10 else f"{value:.0f}"


def _drawn(figures: Figures) -> Iterable[Path]:
    for name, (title, parts) in _PICTURES.items():
        found = {
            question: rounds for part in parts if part in figures for question, rounds in figures[part].ratios.items()
        }
        if found:
            about = "ratios by the servers' CPU where it was counted, over 1: for cacheserver; the stroke is the aim"
            path = _FIGURES.with_name(f"{name}.svg")
            path.write_text(plot.bars(title, [about], by_peer(found), origin=1.0), encoding="utf-8")
            yield path
    path = _FIGURES.with_name("growth.svg")
    path.write_text(_growth(figures), encoding="utf-8")
    yield path


def _growth(figures: Figures) -> str:
    """The curves of the rows in scaling.txt, in their order."""
    panels = []
    for place in _PLACE.findall(_GROWTH.read_text(encoding="utf-8")):
        kind, _, rest = place.partition(" ")
        if kind == "curve":
            part, _, *curves = _words(rest)
            for each in curves:
                named, _, name = (word.strip() for word in each.partition(" = "))
                question, _, what = (word.strip() for word in named.partition(" @ "))
                points = _points(part, question, what, figures)
                title, _, unit = name.rpartition(", ")
                x = next(word for word in ("revisions", "watchers", "processes") if word in question)
                panels.append(plot.Line(title, x, unit, points, f"exponent {exponent(points):.2f}"))
    return plot.lines("how it grows", ["python -m bench scale; both axes logarithmic"], panels)
