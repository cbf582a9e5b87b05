"""SVG by hand: bars of ratios, and curves on logarithmic axes. No dependency, no fonts but the reader's own."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_WIDTH: Final = 900
_BAR: Final = 22
_LEFT: Final = 400
_LINE: Final = 16
_NAME: Final = 64
"""Letters that fit in front of a bar, and, below, above a panel."""
_TITLE: Final = 38
_PANEL: Final = (290, 220)
_GAP: Final = 60
_COLUMNS: Final = 3
_BLUE, _GREY, _RED = "#2166ac", "#888888", "#b2182b"


@dataclass(frozen=True, slots=True)
class Bar:
    """aim: a mark on the bar's axis, 0 for none."""

    name: str
    value: float
    aim: float = 0.0
    label: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """points: x to y, both over 0. label: what is said under the name."""

    name: str
    x: str
    unit: str
    points: Mapping[float, float]
    label: str = ""


def bars(title: str, about: Sequence[str], groups: Mapping[str, Sequence[Bar]], *, origin: float = 0.0) -> str:
    """Horizontal bars, each group under its name on a logarithmic axis of its own.

    They begin at `origin`, those below it go to the left, and all groups have the same axis; at 0 each has its own, and
    they begin at the power of ten below the least.
    """
    top = 40.0 + _LINE * len(about)
    everything = _values([bar for shown in groups.values() for bar in shown])
    out = _head(title, about)
    for name, shown in groups.items():
        if name:
            out += _text(12, top + 14, name, size=12, weight="bold")
            top += 22
        drawn, top = _group(shown, top, origin, _decades([origin, *everything] if origin else _values(shown)))
        out += drawn
    return _document(_WIDTH, top, out)


def _values(shown: Sequence[Bar]) -> list[float]:
    return [value for bar in shown for value in (bar.value, bar.aim) if value > 0]


def _group(shown: Sequence[Bar], top: float, origin: float, decades: tuple[int, int]) -> tuple[str, float]:
    """The bars of one axis below `top`, and where they end."""
    low, high = decades
    bottom = top + _BAR * len(shown) + 4
    out = ""
    for power in range(low, high + 1):
        x, said = _along(10.0**power, low, high), f"{10.0**power:,g}" if power < 0 else f"{10**power:,}"
        colour = "#888888" if origin == 10.0**power else "#dddddd"
        out += _stroke(x, top, x, bottom, colour) + _text(x, bottom + 14, said, size=11, anchor="middle")
    begin = _along(origin, low, high) if origin else float(_LEFT)
    for number, bar in enumerate(shown):
        y = top + _BAR * number + 4
        out += _text(_LEFT - 8, y + 12, _cut(bar.name, _NAME), size=11, anchor="end")
        marks = []
        if bar.value > 0:
            end = _along(bar.value, low, high)
            left, right = min(begin, end), max(begin, end, min(begin, end) + 1)
            colour = _RED if bar.aim and bar.value < bar.aim else _BLUE
            box = f'x="{left:.1f}" y="{y:.1f}" width="{right - left:.1f}" height="{_BAR - 8}"'
            out += f'<rect {box} fill="{colour}"/>'
            marks = [left, right]
        if bar.aim:
            x = _along(bar.aim, low, high)
            out += _stroke(x, y - 3, x, y + _BAR - 5, "#000000")
            marks.append(x)
        if bar.value > 0:  # right of all that is drawn, where it covers nothing
            out += _text(max(marks) + 5, y + 12, bar.label or f"{bar.value:g}", size=11)
    return out, bottom + 30


def lines(title: str, about: Sequence[str], shown: Sequence[Line]) -> str:
    """A panel for each curve, both axes logarithmic, its points marked and named; constant is a level line in each."""
    top = 50 + _LINE * len(about)
    out = _head(title, about)
    width, height = _PANEL
    for number, curve in enumerate(shown):
        row, column = divmod(number, _COLUMNS)
        out += f'<g transform="translate({12 + column * (width + 8)},{top + row * (height + _GAP)})">'
        out += _panel(curve, width, height) + "</g>"
    rows = -(-len(shown) // _COLUMNS)
    return _document(_WIDTH, top + rows * (height + _GAP) + 10, out)


def _panel(curve: Line, width: int, height: int) -> str:
    left, right, top, bottom = 8, width - 24, 54, height
    titles = textwrap.wrap(f"{curve.name}, {curve.unit}", _TITLE, max_lines=2, placeholder="…")
    out = "".join(_text(0, 12 + 15 * at, line, size=12, weight="bold") for at, line in enumerate(titles))
    out += _text(0, 12 + 15 * len(titles), curve.label, size=11)
    out += f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" fill="none" stroke="#cccccc"/>'
    points = sorted((x, y) for x, y in curve.points.items() if x > 0 and y > 0)
    if not points:
        return out + _text(left + 8, top + 20, "not measured", size=11, colour=_GREY)
    (x_low, x_high), (y_low, y_high) = (
        _range([point[at] for point in points], least) for at, least in ((0, 0.1), (1, 1.0))
    )

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_low) / (x_high - x_low)
        up = (math.log10(y) - y_low) / (y_high - y_low)
        return left + across * (right - left), bottom - up * (bottom - top)

    placed = [place(x, y) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    out += f'<polyline points="{path}" fill="none" stroke="{_BLUE}" stroke-width="2"/>'
    for (x, y), (at_x, at_y) in zip(points, placed, strict=True):
        out += f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="3" fill="{_BLUE}"/>'
        out += _text(at_x, at_y - 8, _number(y), size=10, anchor="middle", halo=True)
        out += _text(at_x, bottom + 14, _number(x), size=10, anchor="middle")
    return out + _text((left + right) / 2, bottom + 28, curve.x, size=10, anchor="middle", colour=_GREY)


def _range(values: Sequence[float], least: float) -> tuple[float, float]:
    """Logarithms of the ends of an axis of `least` decades or more, with room for the marks.

    The least keeps noise from filling a panel.
    """
    low, high = math.log10(min(values)), math.log10(max(values))
    room = max((high - low) * 0.15, (least - (high - low)) / 2)
    return low - room, high + room


def _number(value: float) -> str:
    """Three digits that matter, and none of them an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _decades(values: Sequence[float]) -> tuple[int, int]:
    if not values:
        return 0, 1
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return min(low, 0), max(high, low + 1)


def _along(value: float, low: int, high: int) -> float:
    return _LEFT + (math.log10(value) - low) / (high - low) * (_WIDTH - _LEFT - 90)


def _stroke(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _head(title: str, about: Sequence[str]) -> str:
    out = _text(12, 24, title, size=16, weight="bold")
    return out + "".join(_text(12, 44 + _LINE * at, line, size=11, colour=_GREY) for at, line in enumerate(about))


def _text(
    x: float,
    y: float,
    said: str,
    *,
    size: int,
    anchor: str = "start",
    weight: str = "normal",
    colour: str = "#222222",
    halo: bool = False,
) -> str:
    """halo: white around it, to be read upon a line. Drawn as a text of its own: not every viewer knows paint-order."""
    at = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}"'
    around = f'<text {at} fill="white" stroke="white" stroke-width="4">{escape(said)}</text>' if halo else ""
    return f'{around}<text {at} fill="{colour}">{escape(said)}</text>'


def _document(width: int, height: float, inside: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:.0f}" font-family="sans-serif">'
    return f'{head}<rect width="100%" height="100%" fill="white"/>{inside}</svg>\n'
