"""A package with its channels, as the served objects say it: what upgrades and graphs are made of.

Reads decoded Package and PackageRevision objects; of an FBC package no channel is ever cut there (catalogs/bounds.py),
so no content is read. Refuses nothing but size. Called by api.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, Final

from cacheserver.catalogs import semver
from cacheserver.catalogs.fbc.facts import Entry
from cacheserver.slotted import slotted

MOST_BUNDLES: Final = 2_000
"""Of a package that is answered about. The largest known has 140; what is asked costs up to the square of it."""
MOST_ENTRIES: Final = 20_000
"""Of all channels together; 40 channels of 140 have 5,600."""
MOST_EDGES: Final = 1_000_000
"""Looked at for one question: 0.3 s of a thread. 140 bundles whose ranges all hold all others have 19,460 a channel."""

Order = tuple[tuple[object, ...], tuple[object, ...]]


class TooMuchError(Exception):
    """What is asked would cost everybody else their turn; the message says which bound."""


@slotted(frozen=True)
class Bundle:
    """A bundle, or a KRM revision. order: as OLM v1 orders; written: its version; object: its PackageRevision.

    version: None where it has none. deprecation: what its author says of it.
    """

    name: str
    version: semver.Version | None = None
    order: Order = ((), ())
    written: str = ""
    object: str = ""
    deprecation: str = ""


@slotted(frozen=True)
class Channel:
    """entries: by name, from the highest version down. head: the entry that no other replaces or skips."""

    name: str
    entries: Mapping[str, Entry]
    head: str = ""
    deprecated: bool = False


@slotted(frozen=True)
class Package:
    """bundles: by name, from the highest version down; those without a version last."""

    name: str
    format: str
    bundles: Mapping[str, Bundle]
    channels: Mapping[str, Channel] = field(default_factory=dict)
    default_channel: str = ""
    deprecation: str = ""

    def called(self, said: str) -> Sequence[Bundle]:
        """The bundles that `said` means: of that name, else of that PackageRevision, else of that version.

        Versions that differ in their build alone are several.
        """
        if said in self.bundles:
            return [self.bundles[said]]
        found = [bundle for bundle in self.bundles.values() if said in (bundle.object, bundle.written)]
        version = version_of(said.removeprefix("v"))
        if found or version is None:
            return found
        return [bundle for bundle in self.bundles.values() if bundle.version == version]


def stranger(name: str, version: str = "") -> Bundle:
    """What is installed, and no bundle of the package; version: of it, for ranges. Raises: ValueError for no version.

    A name that is a version itself says both.
    """
    found = semver.parse(version) if version else version_of(name.removeprefix("v"))
    return Bundle(name, found, order_of(found), version or (name if found else ""))


def version_of(text: str) -> semver.Version | None:
    """The version that `text` is; None where it is none."""
    try:
        return semver.parse(text)
    except ValueError:
        return None


def version_or_number(written: str) -> semver.Version | None:
    """As version_of; KRM's vN counts as N.0.0 (docs/sources.md)."""
    number = written.removeprefix("v")
    if number.isascii() and number.isdigit() and len(number) < 20:
        return semver.Version(int(number), 0, 0)
    return version_of(written)


def order_of(version: semver.Version | None, release: str = "") -> Order:
    """As OLM v1 compares bundles: the version without its build, then the release; no version is below all.

    operator-registry, alpha/model/versionrelease.go: build metadata that parses as a release is one, and none is below
    any. Numbers rank below words.
    """
    if version is None:
        return (), ()
    text = release or ".".join(version.build)
    try:
        semver.check_release(text)
    except ValueError:
        return version.rank, ()
    return version.rank, tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in text.split("."))


def read(package: Mapping[str, Any], revisions: Iterable[Mapping[str, Any]]) -> Package:
    """The package, from its objects as they are served. Raises: TooMuchError."""
    spec, status = package["spec"], package.get("status", {})
    name = spec["packageName"]
    bundles: dict[str, Bundle] = {}
    places: dict[str, list[tuple[Entry, bool]]] = {}
    entries = 0
    for manifest in revisions:
        bundle = _bundle(name, manifest)
        bundles[bundle.name] = bundle
        for place in manifest["status"].get("channels", ()):
            skips = tuple(place.get("skips", ()))
            entry = Entry(bundle.name, place.get("replaces", ""), skips, place.get("skipRange", ""))
            places.setdefault(place["name"], []).append((entry, place.get("head", False)))
            entries += 1 + len(skips)
        check_size(len(bundles), entries)
    ordered = sorted(bundles.values(), key=lambda bundle: (bundle.order, bundle.name), reverse=True)
    deprecated = {channel["name"] for channel in status.get("channels", ()) if channel.get("deprecated")}
    rank = {bundle.name: at for at, bundle in enumerate(ordered)}
    channels = {
        channel: Channel(
            channel,
            {entry.name: entry for entry, _ in sorted(found, key=lambda pair: rank[pair[0].name])},
            next((entry.name for entry, is_head in found if is_head), ""),
            channel in deprecated,
        )
        for channel, found in sorted(places.items())
    }
    return Package(
        name,
        spec.get("format", ""),
        {bundle.name: bundle for bundle in ordered},
        channels,
        status.get("defaultChannel", ""),
        status.get("deprecation", {}).get("message", ""),
    )


def check_size(bundles: int, entries: int) -> None:
    """Returns when a package of this size is answered about; entries: with their skips. Raises: TooMuchError."""
    for what, found, most in (("bundles", bundles, MOST_BUNDLES), ("entries and skips", entries, MOST_ENTRIES)):
        if found > most:
            raise TooMuchError(f"the package has over {most} {what}, too many to compute its upgrades at a request")


def _bundle(package: str, manifest: Mapping[str, Any]) -> Bundle:
    spec = manifest["spec"]
    name, written = spec["revision"], spec.get("version", "")
    version = version_or_number(written)
    # operator-registry, alpha/model: a bundle with a release is named PACKAGE-vVERSION-RELEASE, and no other so.
    normal = f"{package}-v{written}-"
    release = name.removeprefix(normal) if name.startswith(normal) else ""
    return Bundle(
        name,
        version,
        order_of(version, release),
        written,
        manifest["metadata"]["name"],
        manifest["status"].get("deprecation", {}).get("message", ""),
    )
