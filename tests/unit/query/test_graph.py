"""The layout of upgrade graphs, and its pictures of packages whose names are attacks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from xml.etree import ElementTree

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.catalogs import semver
from cacheserver.catalogs.fbc.facts import Entry
from cacheserver.query.drawings import dot, mermaid, shown, svg
from cacheserver.query.graph import MOST_LANES, Graph, described, lay_out
from cacheserver.query.package import Bundle, Channel, Package, order_of


def bundle(name: str, version: str, deprecation: str = "") -> Bundle:
    parsed = semver.parse(version)
    return Bundle(name, parsed, order_of(parsed), version, f"r.app.{version}", deprecation)


def package(channels: Sequence[Channel], *bundles: Bundle, default: str = "stable") -> Package:
    ordered = sorted(bundles, key=lambda each: each.order, reverse=True)
    return Package("app", "FBC", {b.name: b for b in ordered}, {c.name: c for c in channels}, default)


def channel(name: str, *entries: Entry, head: str = "") -> Channel:
    return Channel(name, {entry.name: entry for entry in entries}, head or (entries[0].name if entries else ""))


def small() -> Graph:
    entries = (Entry("c", "b", ("a", "nothing"), "<1.2.0"), Entry("b", "a"), Entry("a", "gone"))
    bundles = bundle("a", "1.0.0"), bundle("b", "1.1.0", "do not"), bundle("c", "1.2.0")
    return lay_out(package([channel("stable", *entries), channel("alias", *entries)], *bundles))


def large(bundles: int = 140, channels: int = 40) -> Graph:
    found = [bundle(f"app.v1.{at}.0", f"1.{at}.0") for at in range(bundles)]
    made = []
    for at in range(channels):
        entries = [
            Entry(f"app.v1.{n}.0", f"app.v1.{n - 1}.0", (), f"<1.{n}.0 >=1.{at}.0") for n in range(bundles - 1, -1, -1)
        ]
        made.append(channel(f"stable-{at}", *entries))
    return lay_out(package(made, *found))


def test_rows_go_from_the_newest_down_and_what_is_not_there_stands_below_who_replaces_it() -> None:
    graph = small()
    assert [(row.bundle.name, row.missing) for row in graph.rows] == [
        ("c", False),
        ("b", False),
        ("a", False),
        ("gone", True),
    ]
    assert all(upper.y < lower.y for upper, lower in pairwise(graph.rows))


def test_channels_with_the_same_entries_share_a_lane() -> None:
    graph = small()
    assert [lane.channels for lane in graph.lanes] == [("stable", "alias")]
    assert [(point.row, point.is_head, point.skipped) for point in graph.points] == [
        (0, True, False),
        (1, False, False),
        (2, False, True),
    ]


def test_every_edge_is_there_once_and_a_range_says_how_many_it_holds() -> None:
    graph = small()
    assert [(line.start, line.end, line.reason, line.held) for line in graph.lines] == [
        (1, 0, "replaces", 0),
        (2, 0, "skips", 0),
        (2, 0, "skipRange", 2),
        (2, 1, "replaces", 0),
        (3, 2, "replaces", 0),
    ]
    assert graph.skips_of_nothing == 1


def test_140_bundles_in_40_channels_have_a_place_of_their_own() -> None:
    graph = large()
    places = {(graph.lanes[point.lane].x, graph.rows[point.row].y) for point in graph.points}
    assert len(places) == len(graph.points) == 5_600
    assert (graph.width, graph.height) < (2_000, 4_000)
    assert len({lane.x for lane in graph.lanes}) == 40
    assert len(graph.lines) < 3 * 5_600
    assert len(svg(graph)) < 4_000_000


def test_channels_beyond_the_bound_are_counted() -> None:
    found = [channel(f"c{at:04}", Entry("a", "", (f"x{at}",))) for at in range(MOST_LANES + 7)]
    graph = lay_out(package(found, bundle("a", "1.0.0")))
    assert (len(graph.lanes), graph.lanes_left_out) == (MOST_LANES, 7)
    assert "and 7 more channels" in svg(graph)


def test_krm_revisions_are_a_line() -> None:
    revisions = [bundle("v1", "1.0.0"), bundle("v2", "2.0.0"), Bundle("draft")]
    graph = lay_out(Package("app", "KRM", {b.name: b for b in (revisions[1], revisions[0], revisions[2])}))
    assert [lane.channels for lane in graph.lanes] == [("revisions",)]
    assert [(line.start, line.end, line.reason) for line in graph.lines] == [(1, 0, "next")]


def test_json_carries_the_coordinates() -> None:
    graph = small()
    said = orjson.loads(orjson.dumps(described(graph)))
    assert [row["y"] for row in said["rows"]] == [row.y for row in graph.rows]
    assert said["lanes"][0]["x"] == graph.lanes[0].x
    assert said["edges"][2] == {
        "lane": 0,
        "from": 2,
        "to": 0,
        "reason": "skipRange",
        "skipRange": "<1.2.0",
        "held": 2,
    }


# --- hostile names ---

HOSTILE = [
    '"><script>alert(1)</script>',
    "</title></svg><img src=x onerror=alert(1)>",
    "a\x00b\x1b[31m",
    "\u202eevil\u2066",
    "\ud800",
    '"];}\n}digraph x{',
    "\\",
    '\\"',
    "a\\",
    "]]>&entity;&#x0;",
    "end\nsubgraph x\nclick a href javascript:alert(1)",
    'x"]:::head',
    "#quot;",
    "`**bold**`",
    "é" * 253,
    "<" * 253,
]


def named(name: str) -> Graph:
    entries = (Entry(name, name + "0", (name + "1",), "<9.0.0"), Entry(name + "1"))
    found = channel(name, *entries, head=name)
    bundles = bundle(name, "2.0.0", name), bundle(name + "1", "1.0.0")
    graph = package([found], *bundles, default=name)
    return lay_out(Package(name, "FBC", graph.bundles, graph.channels, name, name))


@pytest.mark.parametrize("name", HOSTILE)
def test_an_svg_of_hostile_names_is_well_formed_and_inert(name: str) -> None:
    _inert(svg(named(name)))


@given(st.text(st.characters(), min_size=1, max_size=40))
def test_any_name_makes_a_well_formed_picture(name: str) -> None:
    graph = named(name)
    _inert(svg(graph))
    for draw, allowed in ((dot, _DOT), (mermaid, _MERMAID)):
        assert [line for line in draw(graph).splitlines() if not allowed.fullmatch(line)] == []


def _inert(text: str) -> None:
    root = ElementTree.fromstring(text)
    elements = {element.tag.partition("}")[2] for element in root.iter()}
    assert elements <= {"svg", "title", "style", "line", "text", "tspan", "circle", "path"}
    attributes = {attribute for element in root.iter() for attribute in element.attrib}
    assert not {a for a in attributes if a.startswith("on") or "href" in a or a in ("style", "src")}
    assert text.encode()


_QUOTED = r'"(?:[^"\\\x00-\x1f]|\\["\\])*"'
_DOT = re.compile(
    rf"digraph {_QUOTED} {{|rankdir=BT;|node \[shape=box\];|subgraph cluster_\d+ {{|label={_QUOTED};|}}"
    rf"|l\d+r\d+ \[label={_QUOTED}( style=\w+)?\];|l\d+r\d+ -> l\d+r\d+ \[label={_QUOTED}\];"
)
_LABEL = r'"(?:[\w ./:@+-]|\w|#\d+;)*"'
_MERMAID = re.compile(
    rf"flowchart BT|classDef .*|subgraph l\d+\[{_LABEL}\]|  l\d+r\d+\[{_LABEL}\](:::\w+)?|end"
    rf"|l\d+r\d+ -- {_LABEL} --> l\d+r\d+"
)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize(("draw", "allowed"), [(dot, _DOT), (mermaid, _MERMAID)])
def test_hostile_names_stay_inside_their_quotes(
    draw: Callable[[Graph], str], allowed: re.Pattern[str], name: str
) -> None:
    assert [line for line in draw(named(name)).splitlines() if not allowed.fullmatch(line)] == []


def test_what_is_not_visible_is_shown_as_such() -> None:
    assert shown("a\u202eb\x07c\nd\u2028") == "a\ufffdb\ufffdc\ufffdd\ufffd"
    assert shown("x" * 100) == "x" * 59 + "…"
