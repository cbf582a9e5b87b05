"""From the served objects of a package, as bytes, to an answer about it, as bytes. Pure: made wherever there is time.

Called by api/finding.py, in a thread where the package is large.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import orjson

from cacheserver.model import GROUP, VERSION
from cacheserver.query import drawings
from cacheserver.query.edges import Edge
from cacheserver.query.graph import Graph, described, lay_out
from cacheserver.query.package import Bundle, Package, TooMuchError, read, stranger
from cacheserver.query.selection import WrongQuestionError, chosen, meant, selected, some
from cacheserver.query.upgrades import Alternative, Reason, Upgrades, Way, upgrades
from cacheserver.slotted import slotted

DRAWN: Final[Mapping[str, Callable[[Graph], str]]] = {
    "svg": drawings.svg,
    "dot": drawings.dot,
    "mermaid": drawings.mermaid,
}
"""Forms of a graph beside JSON."""

Json = dict[str, object]


@slotted(frozen=True)
class Asked:
    """A question about upgrades, as it was sent; empty for what was not said. from_version: what `start` is, where the
    package does not have it."""

    start: str
    to: str = ""
    channel: str = ""
    from_version: str = ""


def graph(package: bytes, revisions: Sequence[bytes], form: str) -> bytes:
    """The package's graph; form: `json`, or one of DRAWN. Raises: TooMuchError."""
    manifest = orjson.loads(package)
    found = lay_out(read(manifest, map(orjson.loads, revisions)))
    if form != "json":
        return DRAWN[form](found).encode("utf-8", "replace")
    return _document("PackageGraph", manifest, {"status": described(found)})


def upgrade_paths(package: bytes, revisions: Sequence[bytes], asked: Asked) -> bytes:
    """How to get from one bundle to another. Raises: TooMuchError, WrongQuestionError."""
    manifest = orjson.loads(package)
    found = read(manifest, map(orjson.loads, revisions))
    said = {"from": asked.start, "to": asked.to, "channel": asked.channel, "fromVersion": asked.from_version}
    status = _answer(found, asked)
    spec = {name: text for name, text in said.items() if text}
    return _document("PackageUpgrades", manifest, {"spec": spec, "status": status})


def images(package: bytes, revisions: Sequence[bytes], channel: str, start: str, *, as_text: bool) -> bytes:
    """The images of its bundles, once each, sorted: of those in a channel, from a version on; empty: of all.

    as_text: a line each. Raises: TooMuchError; WrongQuestionError, also where an object does not hold all of them.
    """
    manifest = orjson.loads(package)
    manifests = list(map(orjson.loads, revisions))
    found = read(manifest, manifests)
    if not found.channels:
        raise WrongQuestionError("a KRM package lists no images: they are in its files")
    kept = selected(found, channel, chosen(found, channel, start))
    names = {name for entries in kept.values() for name in entries}
    listed: set[str] = set()
    for each in manifests:
        status = each["status"]
        if each["spec"]["revision"] not in names:
            continue
        if "relatedImages" in status.get("truncated", ()):
            raise WrongQuestionError(
                f"{each['metadata']['name']} has more images than its object holds: read them of its content"
            )
        listed.update(image["image"] for image in status.get("relatedImages", ()))
        listed.update({status.get("image", "")} - {""})
    if as_text:
        return "".join(f"{image}\n" for image in sorted(listed)).encode("utf-8", "replace")
    said = {"channel": channel, "from": start}
    spec = {name: text for name, text in said.items() if text}
    return _document("PackageImages", manifest, {"spec": spec, "status": {"images": sorted(listed)}})


def _document(kind: str, manifest: Mapping[str, Mapping[str, object]], parts: Json) -> bytes:
    metadata = {name: manifest["metadata"].get(name, "") for name in ("name", "namespace", "resourceVersion")}
    return orjson.dumps({"apiVersion": f"{GROUP}/{VERSION}", "kind": kind, "metadata": metadata, **parts})


def _answer(package: Package, asked: Asked) -> Json:
    if not package.channels:
        # By name what there is: KRM packages have no channels, and nothing that says which revision follows which.
        line = [_bundle(bundle) for bundle in list(package.bundles.values())[::-1] if bundle.version is not None]
        message = "a KRM package has no channels and no upgrade edges; it has a line of revisions, the lowest first"
        return {"reason": {"reason": "NoUpgradeEdges", "message": message}, "line": line}
    if asked.channel and asked.channel not in package.channels:
        raise WrongQuestionError(f"no channel of that name; there are {some(package.channels)}")
    start = meant("from", package, asked.start)
    if start is None:
        try:
            start = stranger(asked.start, asked.from_version)
        except ValueError as exc:
            raise WrongQuestionError(f"fromVersion is no version: {exc}") from None
    to = meant("to", package, asked.to) if asked.to else None
    answer = _described(package, upgrades(package, start, to, asked.channel))
    if asked.to and to is None:
        message = f"no bundle of that name or version; there are {some(package.bundles)}"
        answer["path"] = _way(package, Way((), Reason("TargetNotFound", message)))
    return answer


def _described(package: Package, found: Upgrades) -> Json:
    answer: Json = {
        "from": {**_bundle(found.start), "known": found.known},
        "successors": [_step(package, edge) for edge in found.successors],
        "automatic": _way(package, found.automatic),
        "v0": {"channel": found.v0_channel, **_way(package, found.v0)},
    }
    if found.to is not None:
        answer["to"] = _bundle(found.to)
        answer["path"] = _way(package, found.path)
    if found.alternatives:
        answer["alternatives"] = [_alternative(each) for each in found.alternatives]
    if found.bad_ranges:
        answer["badSkipRanges"] = found.bad_ranges
    return answer


def _bundle(bundle: Bundle) -> Json:
    said = {"revision": bundle.object, "deprecation": bundle.deprecation}
    return {"name": bundle.name, "version": bundle.written, **{key: text for key, text in said.items() if text}}


def _step(package: Package, edge: Edge) -> Json:
    ranges: Json = {"skipRanges": edge.ranges} if edge.ranges else {}
    return {**_bundle(package.bundles[edge.to]), "reasons": edge.reasons, "channels": edge.channels, **ranges}


def _way(package: Package, way: Way) -> Json:
    found: Json = {"steps": [_step(package, edge) for edge in way.steps]}
    if way.reason is not None:
        found |= {"reason": way.reason.name, "message": way.reason.message}
    return found


def _alternative(found: Alternative) -> Json:
    channel: Json = {"channel": found.channel} if found.channel else {}
    return {**channel, "to": found.to, "steps": found.steps}


__all__ = ["DRAWN", "Asked", "TooMuchError", "WrongQuestionError", "graph", "upgrade_paths"]
