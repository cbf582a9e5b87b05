"""A laid-out graph as SVG, Mermaid and DOT. Every name comes from a catalog, and is hostile: escaped, and cut.

No script, no link and nothing from elsewhere is written; what a terminal or browser does not show (controls, marks of
direction, lone surrogates) becomes U+FFFD.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from cacheserver.query.edges import REPLACES, SKIP_RANGE, SKIPS
from cacheserver.query.graph import HEADER_HEIGHT, LANE_WIDTH, MARGIN, NEXT, ROW_HEIGHT, Graph, Line

SHOWN_CHARACTERS: Final = 60
"""Of a name in a drawing; the whole, 253 at most (catalogs/summary.py), stands in its title."""
LANE_CHARACTERS: Final = 24

_LETTERS: Final = re.compile(r"[A-Za-z0-9 ._+/:@-]")
_ENTITIES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})
_STYLE: Final = (
    "text{font:12px ui-monospace,monospace;fill:#1f2937}.ver{font-weight:600}.old,.gone{fill:#9ca3af}"
    ".old{text-decoration:line-through}.rail{stroke:#e5e7eb}.dot{fill:#2563eb}.head{fill:#16a34a;r:6px}"
    ".skipped{fill:#fff;stroke:#2563eb;stroke-width:2}.e{fill:none;stroke:#2563eb;stroke-width:1.5}"
    ".skips{stroke:#d97706;stroke-dasharray:4 3;opacity:.6}.skipRange{stroke:#7c3aed;stroke-dasharray:1 3;opacity:.6}"
    "@media(prefers-color-scheme:dark){svg{background:#111827}text{fill:#e5e7eb}.old,.gone{fill:#6b7280}"
    ".rail{stroke:#374151}.skipped{fill:#111827}}"
)
_BULGE: Final = {REPLACES: -9, NEXT: 0, SKIPS: 9, SKIP_RANGE: 13}


def shown(name: str, most: int = SHOWN_CHARACTERS) -> str:
    """A name as it may be shown: one line, visible, cut."""
    clean = "".join("\ufffd" if unicodedata.category(c)[0] == "C" or c in "\u2028\u2029" else c for c in name[:253])
    return clean if len(clean) <= most else clean[: most - 1] + "…"


def svg(graph: Graph) -> str:
    """A picture that needs nothing else; light and dark."""
    return "".join(_svg(graph))


def _svg(graph: Graph) -> Iterator[str]:
    width, height = graph.width, graph.height
    title = f"Upgrade graph of {_xml(graph.package.name)}"
    yield f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    yield f' role="img"><title>{title}</title><style>{_STYLE}</style>\n'
    for lane in graph.lanes:
        words = ", ".join(lane.channels[:2]) + (f" +{len(lane.channels) - 2}" if len(lane.channels) > 2 else "")
        top = HEADER_HEIGHT - 6
        kind = "old" if lane.deprecated else "ver" if lane.is_default else "lane"
        yield f'<line class="rail" x1="{lane.x}" y1="{top}" x2="{lane.x}" y2="{height - MARGIN}"/>'
        yield f'<text class="{kind}" transform="translate({lane.x + 4} {top - 4}) rotate(-60)">'
        yield f"{_xml(words, LANE_CHARACTERS)}<title>{_xml(', '.join(lane.channels[:20]), 1000)}</title></text>\n"
    for line in graph.lines:
        yield _curve(graph, line)
    yield "\n"
    for point in graph.points:
        lane, row = graph.lanes[point.lane], graph.rows[point.row]
        kind = "dot" + " head" * point.is_head + " skipped" * point.skipped
        said = f"{lane.channels[0]}: {row.bundle.name}" + ", head" * point.is_head + ", skipped" * point.skipped
        yield f'<circle class="{kind}" cx="{lane.x}" cy="{row.y}" r="4"><title>{_xml(said, 600)}</title></circle>'
    left = MARGIN + LANE_WIDTH * len(graph.lanes) + 8
    for row in graph.rows:
        kind = "gone" if row.missing else "old" if row.bundle.deprecation else "ver"
        said = ", not in the catalog" if row.missing else ", deprecated" if row.bundle.deprecation else ""
        yield f'\n<text x="{left}" y="{row.y + 4}"><tspan class="{kind}">{_xml(row.bundle.written, 30)}</tspan> '
        yield f"<tspan>{_xml(row.bundle.name, 40)}{said}</tspan><title>{_xml(row.bundle.name, 253)}</title></text>"
    if graph.lanes_left_out:
        yield f'\n<text x="{left}" y="{HEADER_HEIGHT - 20}">and {graph.lanes_left_out} more channels</text>'
    yield "\n</svg>\n"


def _curve(graph: Graph, line: Line) -> str:
    x, start, end = graph.lanes[line.lane].x, graph.rows[line.start].y, graph.rows[line.end].y
    bulge = 0 if line.reason in (REPLACES, NEXT) and abs(end - start) <= ROW_HEIGHT else _BULGE[line.reason]
    said = f"{graph.rows[line.start].bundle.name} to {graph.rows[line.end].bundle.name}: {_words(line)}"
    return (
        f'<path class="e {line.reason}" d="M{x} {start}C{x + bulge} {start} {x + bulge} {end} {x} {end}">'
        f"<title>{_xml(said, 900)}</title></path>"
    )


def _words(line: Line) -> str:
    if line.reason == SKIP_RANGE:
        return f"skipRange {line.skip_range} ({line.held})"
    return line.reason


def _xml(text: str, most: int = SHOWN_CHARACTERS) -> str:
    return shown(text, most).translate(_ENTITIES)


def _nodes(graph: Graph) -> list[dict[int, bool]]:
    """Of each lane the rows that are drawn in it: row -> whether it is in the channel, rather than named by it."""
    found: list[dict[int, bool]] = [{} for _ in graph.lanes]
    for point in graph.points:
        found[point.lane][point.row] = True
    for line in graph.lines:
        found[line.lane].setdefault(line.start, False)
    return found


def _kinds(graph: Graph) -> dict[tuple[int, int], str]:
    kinds: dict[tuple[int, int], str] = {}
    for point in graph.points:
        row = graph.rows[point.row]
        if row.bundle.deprecation or point.skipped or point.is_head:
            kinds[point.lane, point.row] = (
                "deprecated" if row.bundle.deprecation else "skipped" if point.skipped else "head"
            )
    return kinds


def mermaid(graph: Graph) -> str:
    """A Mermaid flowchart: a subgraph for each lane, upgrades upwards."""
    kinds = _kinds(graph)
    out = ["flowchart BT", "classDef head stroke-width:3px", "classDef skipped stroke-dasharray:4"]
    out.append("classDef deprecated opacity:0.5")
    for at, rows in enumerate(_nodes(graph)):
        out.append(f'subgraph l{at}["{_mermaid(", ".join(graph.lanes[at].channels[:8]))}"]')
        for row in sorted(rows):
            kind = f":::{kinds[at, row]}" if (at, row) in kinds else ""
            out.append(f'  l{at}r{row}["{_mermaid(graph.rows[row].bundle.name)}"]{kind}')
        out.append("end")
    out += (
        f'l{line.lane}r{line.start} -- "{_mermaid(_words(line))}" --> l{line.lane}r{line.end}' for line in graph.lines
    )
    return "\n".join(out) + "\n"


def _mermaid(text: str) -> str:
    """Mermaid, Flowchart syntax, "Entity codes to escape characters": everything but letters by its number."""
    return "".join(c if _LETTERS.match(c) or c.isalnum() else f"#{ord(c)};" for c in shown(text))


def dot(graph: Graph) -> str:
    """Graphviz: a cluster for each lane, upgrades upwards."""
    kinds = _kinds(graph)
    styles = {"head": "bold", "skipped": "dashed", "deprecated": "dotted"}
    out = [f"digraph {_dot(graph.package.name)} {{", "rankdir=BT;", "node [shape=box];"]
    for at, rows in enumerate(_nodes(graph)):
        out.append(f"subgraph cluster_{at} {{")
        out.append(f"label={_dot(', '.join(graph.lanes[at].channels[:8]))};")
        for row in sorted(rows):
            kind = f" style={styles[kinds[at, row]]}" if (at, row) in kinds else ""
            out.append(f"l{at}r{row} [label={_dot(graph.rows[row].bundle.name)}{kind}];")
        out.append("}")
    out += (
        f"l{line.lane}r{line.start} -> l{line.lane}r{line.end} [label={_dot(_words(line))}];" for line in graph.lines
    )
    return "\n".join([*out, "}"]) + "\n"


def _dot(text: str) -> str:
    r"""The DOT language, "quoted string": `\"` is the one escape; `\N` and others mean something in labels, as do
    entities (`&...;`)."""
    safe = shown(text).replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
    return f'"{safe}"'
