"""The verbs of upgrade edges: how to get from one version to another, and what a package's channels look like.

The server decides (docs/finding.md); here it is printed for people.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cacheserver.client.catalog import Catalog
from cacheserver.client.output import Output, plain

_HEAD, _ENTRY, _SKIPPED = "@", "o", "x"
_LEGEND: Final = "@ the channel leads here; o in the channel; x skipped, so OLM v0 never stops there"
_MOST_LANES: Final = 12
_MOST_SOURCES: Final = 3


def graph(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """A package's channels: as a table with a column a channel, or as what draws a picture."""
    name = catalog.package(asked.package)["metadata"]["name"]
    if asked.format != "text":
        sys.stdout.flush()
        sys.stdout.buffer.write(catalog.connection.get(catalog.path("packages", name, "graph", format=asked.format)))
        return 0
    status = catalog.get("packages", name, "graph", format="json")["status"]
    if output.form in ("json", "yaml"):
        output.document(status)
        return 0
    if "lanes" not in status:
        output.say(str((status.get("reason") or {}).get("message", "it has no channels")))
        return 0
    lanes = status["lanes"][:_MOST_LANES]
    marks = {(each["row"], each["lane"]): each for each in status["points"]}
    sources: dict[int, list[str]] = {}
    for edge in status["edges"]:
        sources.setdefault(edge["to"], []).append(_source(edge, status["rows"]))
    columns: list[Any] = [("VERSION", lambda at: _version(status["rows"][at]))]
    columns += [
        (_lane(lane), lambda at, lane_at=lane_at: _mark(marks.get((at, lane_at)))) for lane_at, lane in enumerate(lanes)
    ]
    columns += [
        ("FROM", lambda at: _shortened(sources.get(at, ()))),
        ("DEPRECATED", lambda at: status["rows"][at]["deprecation"]),
    ]
    output.table(range(len(status["rows"])), columns)
    output.say(_LEGEND)
    if left := len(status["lanes"]) - len(lanes) + status.get("lanesLeftOut", 0):
        output.say(f"{left} more channels; --format svg draws all of them")
    return 0


def _lane(lane: Mapping[str, Any]) -> str:
    return ",".join(lane["channels"]) + ("*" if lane.get("default") else "")


def _mark(point: Mapping[str, Any] | None) -> str:
    if point is None:
        return ""
    return _HEAD if point["head"] else _SKIPPED if point["skipped"] else _ENTRY


def _version(row: Mapping[str, Any]) -> str:
    return str(row["version"] or row["name"])


def _source(edge: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    return str(edge["skipRange"]) if edge["reason"] == "skipRange" else _version(rows[edge["from"]])


def _shortened(sources: Sequence[str]) -> str:
    each = list(dict.fromkeys(sources))
    more = f", {len(each) - _MOST_SOURCES} more" if len(each) > _MOST_SOURCES else ""
    return ", ".join(each[:_MOST_SOURCES]) + more


def upgrades(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """The way from one version to another: what can be forced, and what OLM does by itself. Exit code 1 where there is
    none."""
    name = catalog.package(asked.package)["metadata"]["name"]
    query = {"from": asked.before, "to": asked.to, "channel": asked.channel}
    answer = catalog.get("packages", name, "upgrades", **query)
    status = answer["status"]
    # Without a target, what is asked is where one may go: that there is nowhere is an answer.
    code = 1 if asked.to and not (status.get("path") or {}).get("steps") else 0
    if output.form in ("json", "yaml"):
        output.document(answer)
        return code
    if reason := status.get("reason"):
        output.line(_why(reason))
        return 1
    if not status["from"].get("known", True):
        output.say(f"{asked.before} is no bundle of {name}: only what an entry names, or a range holds, leads on")
    if asked.to:
        _told(output, f"shortest way to {asked.to}", status["path"])
    else:
        _told(output, "may go to, best first", {"steps": status.get("successors") or (), "message": "nowhere"})
    _told(output, "OLM v1 by itself", status["automatic"])
    v0 = status["v0"]
    _told(output, f"OLM v0 in channel {v0['channel']}" if v0.get("channel") else "OLM v0", v0)
    for other in status.get("alternatives") or ():
        channel = f" in channel {other['channel']}" if other.get("channel") else ""
        output.line(plain(f"instead: to {other.get('to', asked.to)}{channel}, {other.get('steps', '?')} steps"))
    return code


def _told(output: Output, what: str, way: Mapping[str, Any]) -> None:
    output.line(f"{what}:")
    for step in way.get("steps") or ():
        why = ", ".join([*(r for r in step["reasons"] if r != "skipRange"), *step.get("skipRanges", ())])
        old = " DEPRECATED" if step.get("deprecation") or step.get("deprecated") else ""
        output.line(plain(f"  {_version(step)}  ({why}; {', '.join(step['channels'])}){old}"))
    if not way.get("steps") or way.get("reason"):
        output.line(f"  {_why(way) or 'stays'}")


def _why(way: Mapping[str, Any]) -> str:
    return plain(": ".join(filter(None, (way.get("reason"), way.get("message")))))
