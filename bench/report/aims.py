"""Which aims the runs met: those beside ratios, and those in words beside figures (`under 10 ms`, `15,000/s`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.report.figures import median
from bench.report.table import Ratio, shown

_CLAUSE: Final = re.compile(r"(?P<p99>p99 )?(?P<under>under )?(?P<number>[\d.,]*\d)(?P<rest>/s| or more| \w+)")
_PARTS_OF_UNITS: Final[Mapping[str, str]] = {"kB": "kB", "us": "server_us_an_event"}
"""What belongs to a figure and has an aim of its own behind a comma."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """met: None where the aim's words leave it to the reader."""

    part: str
    question: str
    reached: str
    aim: str
    met: bool | None


def verdicts(runs: Sequence[Mapping[str, Any]], part: str) -> list[Verdict]:
    """Of every question with an aim, by the medians over all rounds. runs: of one part, as Report.write wrote them."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    ratios: dict[str, list[Ratio]] = {}
    for run in runs:
        for row in run["rows"]:
            rows.setdefault(row["question"], []).extend(row["rounds"])
        for question, rounds in run["ratios"].items():
            ratios.setdefault(question, []).extend(Ratio(**each) for each in rounds)
    return [*_of_ratios(part, ratios), *_of_rows(part, rows)]


def _of_ratios(part: str, ratios: Mapping[str, Sequence[Ratio]]) -> Iterable[Verdict]:
    for question, rounds in ratios.items():
        if aim := rounds[0].aim:
            reached = median([each.headline for each in rounds])
            yield Verdict(part, question, f"{shown(reached)} times", f"{aim:g} times", reached >= aim)


def _of_rows(part: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterable[Verdict]:
    for question, rounds in rows.items():
        if aim := rounds[0]["aim"]:
            names = dict.fromkeys(name for each in rounds for name in each["parts"])
            parts = {name: median([each["parts"][name] for each in rounds if name in each["parts"]]) for name in names}
            value, unit = median([each["value"] for each in rounds]), rounds[0]["unit"]
            said = [
                f"{shown(value)} {unit}",
                *(f"{name} {shown(parts[name])}" for name in _named(aim) if name in parts),
            ]
            yield Verdict(part, question, ", ".join(said), aim, met(aim, value, parts))


def met(aim: str, value: float, parts: Mapping[str, float]) -> bool | None:
    """Whether a figure reaches every clause of an aim; None where one cannot be told."""
    found = [_clause(each, value, parts) for each in aim.split(", ")]
    if False in found:
        return False
    return None if None in found else True


def _clause(clause: str, value: float, parts: Mapping[str, float]) -> bool | None:
    read = _CLAUSE.fullmatch(clause)
    if read is None:
        return None
    number, rest = float(read["number"].replace(",", "")), read["rest"].strip()
    if read["p99"]:
        return parts["p99_ms"] < number if "p99_ms" in parts else None
    if read["under"]:
        return value < number
    if rest in ("/s", "or more"):
        return value >= number
    part = _PARTS_OF_UNITS.get(rest, "")
    return parts[part] < number if part in parts else None


def _named(aim: str) -> Iterable[str]:
    """Parts that an aim's clauses speak of."""
    for clause in aim.split(", "):
        read = _CLAUSE.fullmatch(clause)
        if read is not None and read["p99"]:
            yield "p99_ms"
        elif read is not None and not read["under"] and read["rest"].strip() in _PARTS_OF_UNITS:
            yield _PARTS_OF_UNITS[read["rest"].strip()]


def summary(found: Iterable[Verdict]) -> str:
    """Missed first, then what the reader judges, then met; a line each."""
    lines: list[str] = []
    judged = list(found)
    for said, wanted in (("missed", False), ("to be judged", None), ("met", True)):
        some = [each for each in judged if each.met is wanted]
        lines.append(f"aims {said}: {len(some)}")
        lines += (f"  {each.part}: {each.question}: {each.reached} (aim: {each.aim})" for each in some)
    return "\n".join(lines)
