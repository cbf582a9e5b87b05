"""SVG by hand: bars of ratios, and curves on logarithmic axes. No dependency, no fonts but the reader's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_WIDTH: Final = 900
_BAR: Final = 22
_LEFT: Final = 360
_PANEL: Final = (290, 200)
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


def bars(title: str, about: Sequence[str], shown: Sequence[Bar]) -> str:
    """Horizontal bars on a logarithmic axis from the power of ten below the least to the one above the most."""
    values = [value for bar in shown for value in (bar.value, bar.aim or bar.value) if value > 0]
    low, high = _decades(values)
    top = 40 + 16 * len(about)
    out = _text(12, 24, title, size=16, weight="bold")
    for number, line in enumerate(about):
        out += _text(12, 44 + 16 * number, line, size=11, colour=_GREY)
    bottom = top + _BAR * len(shown) + 8
    for power in range(low, high + 1):
        x = _along(10.0**power, low, high)
        out += _stroke(x, top, x, bottom, "#dddddd") + _text(
            x, bottom + 14, f"{10.0**power:g}", size=11, anchor="middle"
        )
    for number, bar in enumerate(shown):
        y = top + _BAR * number + 4
        out += _text(_LEFT - 8, y + 12, bar.name, size=11, anchor="end")
        if bar.value > 0:
            end = _along(bar.value, low, high)
            colour = _RED if bar.aim and bar.value < bar.aim else _BLUE
            out += f'<rect x="{_LEFT}" y="{y}" width="{max(end - _LEFT, 1):.1f}" height="{_BAR - 8}" fill="{colour}"/>'
            out += _text(end + 5, y + 12, bar.label or f"{bar.value:g}", size=11)
        if bar.aim:
            x = _along(bar.aim, low, high)
            out += _stroke(x, y - 3, x, y + _BAR - 5, "#000000")
    return _document(_WIDTH, bottom + 24, out)


def lines(title: str, about: Sequence[str], shown: Sequence[Line]) -> str:
    """A panel for each curve, both axes logarithmic, its points marked and named."""
    top = 50 + 16 * len(about)
    out = _text(12, 24, title, size=16, weight="bold")
    for number, line in enumerate(about):
        out += _text(12, 44 + 16 * number, line, size=11, colour=_GREY)
    width, height = _PANEL
    for number, curve in enumerate(shown):
        row, column = divmod(number, _COLUMNS)
        out += f'<g transform="translate({12 + column * (width + 8)},{top + row * (height + _GAP)})">'
        out += _panel(curve, width, height) + "</g>"
    rows = -(-len(shown) // _COLUMNS)
    return _document(_WIDTH, top + rows * (height + _GAP) + 10, out)


def _panel(curve: Line, width: int, height: int) -> str:
    left, right, top, bottom = 46, width - 34, 40, height
    out = _text(0, 12, f"{curve.name}, {curve.unit}", size=12, weight="bold") + _text(0, 28, curve.label, size=11)
    out += f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" fill="none" stroke="#cccccc"/>'
    points = sorted((x, y) for x, y in curve.points.items() if x > 0 and y > 0)
    if not points:
        return out + _text(left + 8, top + 20, "not measured", size=11, colour=_GREY)
    (x_low, x_high), (y_low, y_high) = (_range([point[at] for point in points]) for at in (0, 1))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_low) / (x_high - x_low)
        up = (math.log10(y) - y_low) / (y_high - y_low)
        return left + across * (right - left), bottom - up * (bottom - top)

    placed = [place(x, y) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    out += f'<polyline points="{path}" fill="none" stroke="{_BLUE}" stroke-width="2"/>'
    for (x, y), (at_x, at_y) in zip(points, placed, strict=True):
        out += f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="3" fill="{_BLUE}"/>'
        out += _text(at_x, at_y - 7, f"{y:.3g}", size=10, anchor="middle")
        out += _text(at_x, bottom + 14, f"{x:,.0f}", size=10, anchor="middle")
    return out + _text((left + right) / 2, bottom + 28, curve.x, size=10, anchor="middle", colour=_GREY)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Logarithms of the ends of an axis, with room for the marks."""
    low, high = math.log10(min(values)), math.log10(max(values))
    room = max((high - low) * 0.15, 0.1)
    return low - room, high + room


def _decades(values: Sequence[float]) -> tuple[int, int]:
    if not values:
        return 0, 1
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return min(low, 0), max(high, low + 1)


def _along(value: float, low: int, high: int) -> float:
    return _LEFT + (math.log10(value) - low) / (high - low) * (_WIDTH - _LEFT - 90)


def _stroke(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(
    x: float, y: float, said: str, *, size: int, anchor: str = "start", weight: str = "normal", colour: str = "#222222"
) -> str:
    style = f'font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(said)}</text>'


def _document(width: int, height: float, inside: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:.0f}" font-family="sans-serif">'
    return f'{head}<rect width="100%" height="100%" fill="white"/>{inside}</svg>\n'
