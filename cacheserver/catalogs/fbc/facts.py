"""What is kept of one FBC document: compact, JSON, enough to validate and to project its package without the document.

Written by read.py in a worker, kept in the catalog's index, read back by rules.py and project.py.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, Final

import orjson

from cacheserver.catalogs import fbc
from cacheserver.catalogs.catalog import Problem
from cacheserver.slotted import slotted

PACKAGE: Final = fbc.PACKAGE
CHANNEL: Final = "olm.channel"
BUNDLE: Final = "olm.bundle"
DEPRECATIONS: Final = "olm.deprecations"


@slotted(frozen=True)
class Package:
    """An olm.package document. summary: of its description (catalogs/summary.py)."""

    name: str
    default_channel: str = ""
    summary: str = ""
    icon: tuple[str, str, int] | None = None
    """(media type, digest, bytes)"""


@slotted(frozen=True)
class Entry:
    """A node of a channel: the bundle `name`, and the upgrade edges that lead to it."""

    name: str
    replaces: str = ""
    skips: tuple[str, ...] = ()
    skip_range: str = ""


@slotted(frozen=True)
class Channel:
    """An olm.channel document."""

    package: str
    name: str
    entries: tuple[Entry, ...] = ()


@slotted(frozen=True)
class About:
    """What a bundle's CSV says for people."""

    display_name: str = ""
    summary: str = ""
    provider_name: str = ""
    provider_url: str = ""
    keywords: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    min_kube_version: str = ""


@slotted(frozen=True)
class Bundle:
    """content: (digest, bytes, number of files) of its tar. versions: of each olm.package property found."""

    package: str
    name: str
    image: str = ""
    inline: bool = False
    """Carries its manifests as olm.bundle.object."""
    versions: tuple[tuple[str, str, str], ...] = ()
    """(packageName, version, release) of each olm.package property; a good bundle has one."""
    provided: tuple[tuple[str, str, str], ...] = ()
    required: tuple[tuple[str, str, str], ...] = ()
    """(group, version, kind)"""
    dependencies: tuple[tuple[str, str], ...] = ()
    """(package, version range)"""
    constraints: tuple[str, ...] = ()
    """Values of olm.constraint, each as JSON"""
    related_images: tuple[tuple[str, str], ...] = ()
    """(name, image), as relatedImages has them"""
    about: About = field(default_factory=About)
    content: tuple[str, int, int] = ("", 0, 0)
    cut: tuple[str, ...] = ()
    """Fields, as they are served, that are longer than what is here (bounds.Cutter)."""


@slotted(frozen=True)
class Deprecation:
    """One entry of olm.deprecations: schema and name say what is deprecated; name is empty for the package itself."""

    schema: str
    name: str
    message: str


@slotted(frozen=True)
class Deprecations:
    """An olm.deprecations document."""

    package: str
    entries: tuple[Deprecation, ...] = ()


@slotted(frozen=True)
class Other:
    """A document of a schema that is not ours: no error, and no part of any package."""

    package: str
    schema: str


Subject = Package | Channel | Bundle | Deprecations | Other


@slotted(frozen=True)
class Facts:
    """One document's. problems reject its package; warnings are shown and reject nothing."""

    subject: Subject
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def package_of(subject: Subject) -> str:
    """The package that the document speaks of; empty when it names none, or is of another schema."""
    if isinstance(subject, Package):
        return subject.name
    return "" if isinstance(subject, Other) else subject.package


_KINDS: Final[dict[str, type[Subject]]] = {
    "package": Package,
    "channel": Channel,
    "bundle": Bundle,
    "deprecations": Deprecations,
    "other": Other,
}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}


def encode(facts: Facts) -> str:
    """One line of JSON."""
    problems, warnings = ([(one.reason, one.message) for one in some] for some in (facts.problems, facts.warnings))
    return orjson.dumps([_NAMES[type(facts.subject)], facts.subject, problems, warnings]).decode()


def decode(line: str) -> Facts:
    """What encode() was given."""
    kind, written, problems, warnings = orjson.loads(line)
    return Facts(
        _subject(kind, written),
        tuple(Problem(reason, message) for reason, message in problems),
        tuple(Problem(reason, message) for reason, message in warnings),
    )


def _subject(kind: str, written: dict[str, Any]) -> Subject:
    fields: dict[str, Any] = {name: _tuples(value) for name, value in written.items()}
    if kind == "channel":
        fields["entries"] = tuple(Entry(**_all_tuples(entry)) for entry in written["entries"])
    elif kind == "deprecations":
        fields["entries"] = tuple(Deprecation(**entry) for entry in written["entries"])
    elif kind == "bundle":
        fields["about"] = About(**_all_tuples(written["about"]))
    return _KINDS[kind](**fields)


def _all_tuples(written: dict[str, Any]) -> dict[str, Any]:
    return {name: _tuples(value) for name, value in written.items()}


def _tuples(value: Any) -> Any:
    """JSON lists back as tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
