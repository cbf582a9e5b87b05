"""A package's upgrade graph, laid out: a row for each bundle, newest on top, a lane for each channel.

The one layout for everybody: JSON carries the coordinates, and SVG, Mermaid and DOT are written from it (drawings.py).
Channels with the same entries share a lane. Linear in entries and skips: a skipRange is one edge, from the lowest
version that it holds, with how many it holds; which ones, `upgrades` says. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Final

from cacheserver.query.edges import REPLACES, SKIP_RANGE, SKIPS, Edges, sorted_channel
from cacheserver.query.package import Bundle, Channel, Package
from cacheserver.slotted import slotted

MOST_LANES: Final = 200
"""Ours: 40 channels are the most that is known; the others are counted."""
LANE_WIDTH: Final = 28
ROW_HEIGHT: Final = 24
HEADER_HEIGHT: Final = 150
"""For the names of channels, which stand aslant."""
MARGIN: Final = 20
LABEL_WIDTH: Final = 460
NEXT: Final = "next"
"""What leads from a KRM revision to the one behind it: no edge that anybody follows by himself, but their order."""
LINE: Final = "revisions"


@slotted(frozen=True)
class Row:
    """A bundle, or (missing) a name that an entry replaces and no bundle has. y: of its middle."""

    bundle: Bundle
    y: int
    missing: bool = False


@slotted(frozen=True)
class Lane:
    """Channels with the same entries; x: of its middle. broken: why OLM v0 takes nothing of them, where it does not."""

    channels: tuple[str, ...]
    x: int
    is_default: bool = False
    deprecated: bool = False
    broken: str = ""


@slotted(frozen=True)
class Point:
    """A bundle in a lane, both by their place. skipped: OLM v0 never chooses it."""

    lane: int
    row: int
    is_head: bool = False
    skipped: bool = False


@slotted(frozen=True)
class Line:
    """An edge in a lane, from row `start` up (or down) to row `end`. held: of a range, how many bundles it holds."""

    lane: int
    start: int
    end: int
    reason: str
    skip_range: str = ""
    held: int = 0


@slotted(frozen=True)
class Graph:
    """The layout. skips_of_nothing: skips of names that are no bundle; they are not drawn."""

    package: Package
    rows: tuple[Row, ...]
    lanes: tuple[Lane, ...]
    points: tuple[Point, ...]
    lines: tuple[Line, ...]
    lanes_left_out: int = 0
    skips_of_nothing: int = 0

    @property
    def width(self) -> int:
        """Of the whole drawing, in pixels."""
        return 2 * MARGIN + LANE_WIDTH * len(self.lanes) + LABEL_WIDTH

    @property
    def height(self) -> int:
        """Of the whole drawing, in pixels."""
        return HEADER_HEIGHT + ROW_HEIGHT * len(self.rows) + MARGIN


def lay_out(package: Package) -> Graph:
    """The graph of a package, or the line of its revisions where it has no channels. Raises: TooMuchError."""
    shared = _shared(package)
    shown = shared[:MOST_LANES]
    rows = _rows(package, shown)
    place = {row.bundle.name: at for at, row in enumerate(rows)}
    edges = Edges(package, package.channels.values())
    lanes, points, lines, unknown = list[Lane](), list[Point](), list[Line](), 0
    for at, channels in enumerate(shown):
        first, order = channels[0], sorted_channel(channels[0])
        is_default = any(channel.name == package.default_channel for channel in channels)
        old = all(channel.deprecated for channel in channels)
        lanes.append(Lane(tuple(channel.name for channel in channels), _x(at), is_default, old, order.broken))
        for entry in first.entries.values():
            row = place[entry.name]
            points.append(Point(at, row, entry.name == first.head, entry.name in order.skipped))
            if entry.replaces:
                lines.append(Line(at, place[entry.replaces], row, REPLACES))
            known = [place[skip] for skip in dict.fromkeys(entry.skips) if skip in package.bundles]
            unknown += len(set(entry.skips)) - len(known)
            lines += (Line(at, skip, row, SKIPS) for skip in known)
            lowest, held = edges.lowest_held(entry.skip_range, entry.name) if entry.skip_range else ("", 0)
            if held:
                lines.append(Line(at, place[lowest], row, SKIP_RANGE, entry.skip_range, held))
    if not package.channels:
        _line_up(rows, lanes, points, lines)
    return Graph(package, rows, tuple(lanes), tuple(points), tuple(lines), len(shared) - len(shown), unknown)


def _x(lane: int) -> int:
    return MARGIN + LANE_WIDTH * lane + LANE_WIDTH // 2


def _shared(package: Package) -> list[list[Channel]]:
    """Channels with the same entries together: first the default one's, then from the highest head down."""
    same: dict[tuple[object, ...], list[Channel]] = {}
    for channel in package.channels.values():
        same.setdefault(tuple(channel.entries.values()), []).append(channel)
    rank = {name: at for at, name in enumerate(package.bundles)}

    def place(channels: list[Channel]) -> tuple[bool, int, str]:
        is_default = any(channel.name == package.default_channel for channel in channels)
        return (not is_default, rank.get(channels[0].head, len(rank)), channels[0].name)

    return sorted(same.values(), key=place)


def _rows(package: Package, shown: list[list[Channel]]) -> tuple[Row, ...]:
    """From the highest version down; what is replaced and not there, right below the lowest that replaces it."""
    missing: dict[str, str] = {}
    rank = {name: at for at, name in enumerate(package.bundles)}
    for channels in shown:
        for entry in channels[0].entries.values():
            gone = entry.replaces
            if gone and gone not in rank and rank[entry.name] >= rank.get(missing.get(gone, ""), 0):
                missing[gone] = entry.name
    below: dict[str, list[str]] = {}
    for gone, above in missing.items():
        below.setdefault(above, []).append(gone)
    found: list[tuple[Bundle, bool]] = []
    for bundle in package.bundles.values():
        found.append((bundle, False))
        found += ((Bundle(gone), True) for gone in below.get(bundle.name, ()))
    first = HEADER_HEIGHT + ROW_HEIGHT // 2
    return tuple(Row(bundle, first + ROW_HEIGHT * at, gone) for at, (bundle, gone) in enumerate(found))


def _line_up(rows: tuple[Row, ...], lanes: list[Lane], points: list[Point], lines: list[Line]) -> None:
    lanes.append(Lane((LINE,), _x(0)))
    versions = [at for at, row in enumerate(rows) if row.bundle.version is not None]
    points += (Point(0, at, at == 0 and bool(versions)) for at in range(len(rows)))
    lines += (Line(0, older, newer, NEXT) for newer, older in pairwise(versions))


def described(graph: Graph) -> Mapping[str, object]:
    """The layout as JSON has it (docs/finding.md). Names are as the catalog writes them: whoever shows them escapes."""
    package = graph.package
    return {
        "package": package.name,
        "format": package.format,
        "defaultChannel": package.default_channel,
        "deprecated": bool(package.deprecation),
        "width": graph.width,
        "height": graph.height,
        "rows": [
            {
                "name": row.bundle.name,
                "version": row.bundle.written,
                "revision": row.bundle.object,
                "y": row.y,
                "deprecation": row.bundle.deprecation,
                "missing": row.missing,
            }
            for row in graph.rows
        ],
        "lanes": [
            {
                "channels": lane.channels,
                "x": lane.x,
                "default": lane.is_default,
                "deprecated": lane.deprecated,
                "broken": lane.broken,
            }
            for lane in graph.lanes
        ],
        "points": [
            {"lane": point.lane, "row": point.row, "head": point.is_head, "skipped": point.skipped}
            for point in graph.points
        ],
        "edges": [
            {
                "lane": line.lane,
                "from": line.start,
                "to": line.end,
                "reason": line.reason,
                "skipRange": line.skip_range,
                "held": line.held,
            }
            for line in graph.lines
        ],
        "lanesLeftOut": graph.lanes_left_out,
        "skipsOfNothing": graph.skips_of_nothing,
    }
