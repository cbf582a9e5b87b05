"""What a revision needs of others, and whether another revision gives it. Pure.

Read from a served PackageRevision. A requirement is met by one revision alone, as OLM v0 resolves it: of a constraint
all parts are asked of the same bundle (operator-lifecycle-manager, pkg/controller/registry/resolver/resolver.go:
predicateConverter; cache/predicates.go). Rules in CEL are named and not judged. Called by api/needing.py.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from cacheserver.catalogs import semver
from cacheserver.query.package import Order
from cacheserver.slotted import slotted

MOST_PARTS: Final = 100
"""Of a constraint, all that it nests counted. Those of OLM's own examples have five."""
MOST_DEPTH: Final = 20

Met = bool | None
"""None: nobody can say, for it is a rule in CEL, or nothing that is known."""


@slotted(frozen=True)
class Offer:
    """A revision that may meet a requirement. provides: has what status.provides has."""

    package: str
    version: semver.Version | None
    provides: Container[str]


@slotted(frozen=True)
class Api:
    """Provides this kind."""

    group: str
    version: str
    kind: str

    @property
    def provided(self) -> str:
        """As status.provides has it."""
        return ".".join(filter(None, (self.kind, self.version, self.group)))


@slotted(frozen=True)
class InPackage:
    """Is a version of this package. versions: None for a range that is none; nothing is in it."""

    package: str
    versions: semver.Range | None


@slotted(frozen=True)
class All:
    """Meets every part."""

    parts: tuple[Part, ...]


@slotted(frozen=True)
class AnyOf:
    """Meets a part; with `none`: meets no part."""

    parts: tuple[Part, ...]
    none: bool = False


@slotted(frozen=True)
class Unjudged:
    """Nobody can say. why: what it is."""

    why: str


Part = Api | InPackage | All | AnyOf | Unjudged


def met(part: Part, offer: Offer) -> Met:
    """Whether the revision meets it."""
    if isinstance(part, Api):
        return part.provided in offer.provides
    if isinstance(part, InPackage):
        if offer.package != part.package or part.versions is None or offer.version is None:
            return False
        return part.versions.holds(offer.version)
    if isinstance(part, Unjudged):
        return None
    found = [met(each, offer) for each in part.parts]
    if isinstance(part, All):
        return False if False in found else None if None in found else True
    if True in found:
        return not part.none
    return None if None in found else part.none


@slotted(frozen=True)
class Need:
    """One requirement. said: as it is answered: its type, and what its author wrote."""

    said: Mapping[str, Any]

    @property
    def part(self) -> Part:
        """What it asks; made anew each time, in 0.3 ms at most."""
        said = self.said
        if said["type"] == "package":
            return _in_package(said["package"], said["versionRange"])
        if said["type"] == "constraint":
            return _part(orjson.loads(said["constraint"]), _Room())
        return Api(said["group"], said["version"], said["kind"])


def needs(manifest: Mapping[str, Any]) -> list[Need]:
    """All of a PackageRevision, each once: packages, then constraints, then kinds."""
    status = manifest.get("status") or {}
    found: dict[tuple[str, ...], Need] = {}
    for said in _said(status):
        found.setdefault((*said.values(),), Need(said))
    return list(found.values())


def _said(status: Mapping[str, Any]) -> Iterator[Mapping[str, str]]:
    for each in status.get("dependencies") or ():
        yield {"type": "package", "package": each.get("package", ""), "versionRange": each.get("versionRange", "")}
    for text in status.get("constraints") or ():
        yield {"type": "constraint", "constraint": text, "message": _message(text)}
    for each in status.get("requiredAPIs") or ():
        yield {"type": "api", **{name: each.get(name) or "" for name in ("group", "version", "kind")}}


class _Room:
    """Parts that a constraint may still have."""

    def __init__(self) -> None:
        self.left = MOST_PARTS


def _message(text: str) -> str:
    written = orjson.loads(text) if "failureMessage" in text else None
    message = written.get("failureMessage") if isinstance(written, dict) else None
    return message if isinstance(message, str) else ""


def _part(written: Any, room: _Room, depth: int = 0) -> Part:
    """operator-framework/api, pkg/constraints/constraint.go: Constraint; the first member that is set counts."""
    room.left -= 1
    if room.left < 0 or depth > MOST_DEPTH:
        return Unjudged(f"it has over {MOST_PARTS} parts, or nests deeper than {MOST_DEPTH}")
    if isinstance(written, dict):
        members = {name: each for name, each in written.items() if isinstance(each, dict)}
        if "gvk" in members:
            return Api(*(str(members["gvk"].get(name) or "") for name in ("group", "version", "kind")))
        if "package" in members:
            return _in_package(*(str(members["package"].get(name) or "") for name in ("packageName", "versionRange")))
        for name in ("all", "any", "not"):
            if name in members:
                below = members[name].get("constraints")
                some = below[: max(room.left, 0) + 1] if isinstance(below, list) else ()
                parts = tuple(_part(each, room, depth + 1) for each in some)
                return All(parts) if name == "all" else AnyOf(parts, none=name == "not")
        if "cel" in members:
            return Unjudged("it has a rule in CEL, which is not judged here")
    return Unjudged("it is of no type that is known")


def _in_package(package: str, written: str) -> InPackage:
    try:
        return InPackage(package, semver.parse_range(written))
    except ValueError:
        return InPackage(package, None)


def handles(part: Part) -> Sequence[Api | InPackage] | None:
    """Leaves of which whoever meets `part` meets one: by them it can be looked up. None: anybody may meet it."""
    if isinstance(part, Api | InPackage):
        return [part]
    if isinstance(part, All):
        found = [some for each in part.parts if (some := handles(each)) is not None]
        return min(found, key=lambda some: (len(some), isinstance(some[0], Api) if some else False), default=None)
    if isinstance(part, AnyOf) and not part.none:
        joined: list[Api | InPackage] = []
        for each in part.parts:
            some = handles(each)
            if some is None:
                return None
            joined += some
        return joined
    return None


def why_unjudged(part: Part) -> str:
    """What nobody can say of it; empty where everything is judged."""
    if isinstance(part, Unjudged):
        return part.why
    if isinstance(part, All | AnyOf):
        return next(filter(None, map(why_unjudged, part.parts)), "")
    return ""


@slotted(frozen=True)
class Found:
    """A revision that meets a requirement. order: as OLM v1 compares versions. near: of the same repository.

    sure: False where a rule was not judged.
    """

    namespace: str
    name: str
    repository: str
    package: str
    written: str
    order: Order
    deprecated: bool
    near: bool
    sure: bool


def ranked(found: Sequence[Found]) -> list[Found]:
    """The best first: of each package its best, then of each its second. Best: not deprecated, the highest version.

    Among packages: judged ones, not deprecated ones, those of the same repository, by name.
    """
    by_package: dict[tuple[str, str, str], list[Found]] = {}
    for each in found:
        by_package.setdefault((each.namespace, each.repository, each.package), []).append(each)
    places: list[tuple[tuple[object, ...], Found]] = []
    for some in by_package.values():
        some.sort(key=lambda each: (not each.deprecated, each.order, each.name), reverse=True)
        places += (
            ((at, not each.sure, each.deprecated, not each.near, each.package, each.namespace, each.name), each)
            for at, each in enumerate(some)
        )
    places.sort(key=lambda place: place[0])
    return [each for _, each in places]
