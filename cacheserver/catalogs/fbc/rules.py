"""Whether the documents of one package make a good package: operator-registry's rules, isolated to the package.

Source of every rule: operator-registry alpha/declcfg/validate.go unless said otherwise. All of it is linear in the
number of entries and skips: real channels have entries with more than 90 skips each.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

from cacheserver.catalogs import semver
from cacheserver.catalogs.catalog import Finding
from cacheserver.catalogs.fbc import facts as f
from cacheserver.catalogs.summary import LONGEST_MESSAGE, LONGEST_NAME, clip
from cacheserver.slotted import slotted

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
_LISTED = 10
_MOST_FINDINGS = 50  # Ours: for one package; who mends these will see the others


_Subject = TypeVar("_Subject", f.Package, f.Channel, f.Bundle, f.Deprecations)


@slotted(frozen=True)
class Placed:
    """The facts of one document, and where it is: path, 1-based document and line."""

    facts: f.Facts
    path: str
    document: int
    line: int


@slotted(frozen=True)
class Bundle:
    """A good bundle: what its document says, and its version."""

    said: f.Bundle
    version: semver.Version
    release: str

    @property
    def written(self) -> str:
        """The version as the document writes it."""
        return self.said.versions[0][1]


@slotted(frozen=True)
class Channel:
    """A channel of a good package. head: the entry that no other replaces."""

    said: f.Channel
    head: str


@slotted(frozen=True)
class Package:
    """A good package: channels by name, bundles from the lowest version up."""

    said: f.Package
    channels: Sequence[Channel]
    bundles: Sequence[Bundle]
    deprecations: Sequence[f.Deprecation]


class _Check:
    """Collects findings for one package; a finding names the document that it is about."""

    def __init__(self, name: str, documents: Sequence[Placed]) -> None:
        self.name = name
        self.documents = documents
        self.findings: list[Finding] = []
        self.good = True

    def of(self, kind: type[_Subject]) -> list[tuple[_Subject, Placed]]:
        """The documents of that kind, in order: what each says, and where it is."""
        found = ((placed.facts.subject, placed) for placed in self.documents)
        return [(subject, placed) for subject, placed in found if isinstance(subject, kind)]

    def refuse(self, reason: str, message: str, placed: Placed) -> None:
        self._add(reason, message, placed, warning=False)

    def warn(self, reason: str, message: str, placed: Placed) -> None:
        self._add(reason, message, placed, warning=True)

    def _add(self, reason: str, message: str, placed: Placed, *, warning: bool) -> None:
        self.good = self.good and warning
        if len(self.findings) < _MOST_FINDINGS:
            message = clip(f"package {clip(self.name, LONGEST_NAME)!r}: {message}", LONGEST_MESSAGE)
            self.findings.append(
                Finding(reason, message, placed.path, placed.document, placed.line, self.name, warning=warning)
            )


def check(name: str, documents: Sequence[Placed]) -> tuple[Package | None, list[Finding]]:
    """The package if it is good, and every finding; None comes with at least one finding that is not a warning."""
    checked = _Check(name, documents)
    for placed in documents:
        for problem in placed.facts.problems:
            checked.refuse(problem.reason, f"{_title(placed.facts.subject)}: {problem.message}", placed)
    for placed in documents:
        for problem in placed.facts.warnings:
            checked.warn(problem.reason, f"{_title(placed.facts.subject)}: {problem.message}", placed)
    packages = checked.of(f.Package)
    if not packages:
        for placed in documents[:_LISTED]:
            checked.refuse("UnknownPackage", f"unknown package for {_title(placed.facts.subject)}", placed)
        return None, checked.findings
    for _, placed in packages[1:]:
        checked.refuse("DuplicatePackage", "duplicate package", placed)
    said, package = packages[0]
    if not _LABEL.match(name):
        checked.refuse(
            "InvalidPackageName", "the name is not a DNS-1123 label (a-z, 0-9, -; no dots; at most 63)", package
        )
    if not checked.good:
        # What follows compares documents; with one of them broken it would only repeat that in other words.
        return None, checked.findings
    channels = _channels(checked, said, package)
    bundles = _bundles(checked)
    _match(checked)
    deprecations = _deprecations(checked)
    if not checked.good:
        return None, checked.findings
    return Package(said, channels, bundles, deprecations), checked.findings


def _title(subject: f.Subject) -> str:
    if isinstance(subject, f.Package):
        return "package"
    if isinstance(subject, f.Channel | f.Bundle):
        return f"{type(subject).__name__.lower()} {clip(subject.name, LONGEST_NAME)!r}"
    return "deprecations"


def _channels(checked: _Check, said: f.Package, package: Placed) -> list[Channel]:
    good: list[Channel] = []
    names: set[str] = set()
    for channel, placed in checked.of(f.Channel):
        if not channel.name:
            checked.refuse("ChannelWithoutName", "channel with no name", placed)
        elif channel.name in names:
            checked.refuse("DuplicateChannel", f"duplicate {_title(channel)}", placed)
        elif len(channel.name) > LONGEST_NAME:
            checked.refuse("NameTooLong", f"{_title(channel)}: longer than {LONGEST_NAME} characters", placed)
        else:
            head = _graph(checked, channel, placed)
            if head is not None:
                good.append(Channel(channel, head))
        names.add(channel.name)
    if not names:
        checked.refuse("NoChannel", "must contain at least one channel", package)
    elif not said.default_channel:
        checked.refuse("NoDefaultChannel", "default channel must be set", package)
    elif said.default_channel not in names:
        message = f"default channel {clip(said.default_channel, LONGEST_NAME)!r} not found in channels list"
        checked.refuse("UnknownDefaultChannel", message, package)
    return sorted(good, key=lambda channel: channel.said.name)


def _graph(checked: _Check, channel: f.Channel, placed: Placed) -> str | None:
    """The channel's head when its upgrade graph is sound (declcfg validateChannelGraph)."""
    where = _title(channel)
    entries: dict[str, f.Entry] = {}
    for entry in channel.entries:
        if not entry.name or len(entry.name) > LONGEST_NAME:
            checked.refuse("InvalidEntry", f"{where}: an entry needs a name of 1 to {LONGEST_NAME} characters", placed)
            return None
        if entry.name in entries:
            checked.refuse("DuplicateEntry", f"{where}: duplicate entry {entry.name!r}", placed)
            return None
        entries[entry.name] = entry
        _edges(checked, entry, where, placed)
    if not entries:
        checked.refuse("EmptyChannel", f"{where}: channel must contain at least one bundle", placed)
        return None
    skipped = {skip for entry in channel.entries for skip in entry.skips}
    incoming = skipped | {entry.replaces for entry in channel.entries}
    heads = sorted(name for name in entries if name not in incoming)
    if not heads:
        checked.refuse("NoChannelHead", f"{where}: no channel head found in graph", placed)
        return None
    if len(heads) > 1:
        checked.refuse(
            "SeveralChannelHeads", f"{where}: multiple channel heads found in graph: {_listed(heads)}", placed
        )
        return None
    chain = _chain(entries, heads[0], skipped)
    if chain[-1] in chain[:-1]:
        cycle = " -> ".join(chain[chain.index(chain[-1]) :][: 2 * _LISTED])
        checked.refuse("Cycle", f"{where}: detected cycle in replaces chain of upgrade graph: {cycle}", placed)
        return None
    stranded = sorted(entries.keys() - set(chain) - skipped)
    if stranded:
        message = f"{where}: channel contains one or more stranded bundles: {_listed(stranded)}"
        checked.refuse("StrandedBundles", message, placed)
        return None
    return heads[0]


def _chain(entries: dict[str, f.Entry], head: str, skipped: set[str]) -> list[str]:
    """The replaces chain from `head`: ends before a skipped entry, at one that is not in the channel (the tail may
    replace such a one), or with the first name that comes twice."""
    chain, seen = [head], {head}
    while chain[-1] in entries:
        replaces = entries[chain[-1]].replaces
        if not replaces or replaces in skipped:
            break
        chain.append(replaces)
        if replaces in seen:
            break
        seen.add(replaces)
    return chain


def _edges(checked: _Check, entry: f.Entry, where: str, placed: Placed) -> None:
    for at, skip in enumerate(entry.skips):
        if not skip:
            checked.refuse("EmptySkip", f"{where}: entry {entry.name!r}: skip[{at}] is empty", placed)
    if any(len(edge) > LONGEST_NAME for edge in (entry.replaces, entry.skip_range, *entry.skips)):
        message = f"{where}: entry {entry.name!r}: an edge is longer than {LONGEST_NAME} characters"
        checked.refuse("NameTooLong", message, placed)
    elif entry.skip_range:
        try:
            semver.check_range(entry.skip_range)
        except ValueError as exc:
            message = f"{where}: entry {entry.name!r}: invalid skipRange {entry.skip_range!r}: {exc}"
            checked.refuse("InvalidSkipRange", message, placed)


def _bundles(checked: _Check) -> list[Bundle]:
    good: list[Bundle] = []
    names: set[str] = set()
    versions: dict[str, list[tuple[str, Placed]]] = {}
    for said, placed in checked.of(f.Bundle):
        where = _title(said)
        if not said.name or len(said.name) > LONGEST_NAME:
            checked.refuse("InvalidBundleName", f"a bundle needs a name of 1 to {LONGEST_NAME} characters", placed)
            continue
        if said.name in names:
            checked.refuse("DuplicateBundle", f"duplicate bundle {said.name!r}", placed)
            continue
        names.add(said.name)
        if not said.image and not said.inline:
            checked.refuse("NoImage", f"{where}: bundle image must be set", placed)
        bundle = _versioned(checked, said, placed)
        if bundle:
            good.append(bundle)
            full = f"{bundle.version}-{bundle.release}" if bundle.release else str(bundle.version)
            versions.setdefault(full, []).append((said.name, placed))
    for full, found in sorted(versions.items()):
        if len(found) > 1:
            same = _listed(sorted(name for name, _ in found))
            checked.refuse(
                "DuplicateVersions", f"duplicate versions found in bundles: {{{full}: [{same}]}}", found[-1][1]
            )
    return sorted(good, key=lambda bundle: (bundle.version, bundle.version.build, bundle.release, bundle.said.name))


def _versioned(checked: _Check, said: f.Bundle, placed: Placed) -> Bundle | None:
    where = _title(said)
    if len(said.versions) != 1:
        count = len(said.versions)
        checked.refuse("PackageProperty", f"{where}: must have exactly 1 olm.package property, found {count}", placed)
        return None
    package, written, release = said.versions[0]
    if package != checked.name:
        message = f"{where}: olm.package property names package {clip(package, LONGEST_NAME)!r}"
        checked.refuse("PackageMismatch", message, placed)
        return None
    try:
        if len(written) > LONGEST_NAME:
            raise ValueError(f"longer than {LONGEST_NAME} characters")
        version = semver.parse(written)
    except ValueError as exc:
        checked.refuse(
            "InvalidVersion", f"{where}: error parsing version {clip(written, LONGEST_NAME)!r}: {exc}", placed
        )
        return None
    if release:
        try:
            semver.check_release(release)
        except ValueError as exc:
            checked.refuse("InvalidRelease", f"{where}: invalid release {clip(release, 40)!r}: {exc}", placed)
            return None
        wanted = f"{checked.name}-v{version}-{release}"
        if version.build:
            checked.refuse("ReleaseWithBuild", f"{where}: build metadata in a version with a release", placed)
        elif said.name != wanted:
            checked.refuse("BundleName", f"{where}: name does not match normalized name {wanted!r}", placed)
    return Bundle(said, version, release)


def _match(checked: _Check) -> None:
    """Every bundle in some channel, every entry a bundle."""
    bundles = {bundle.name: placed for bundle, placed in checked.of(f.Bundle)}
    missing: dict[str, Placed] = {}
    entries: set[str] = set()
    for channel, placed in checked.of(f.Channel):
        for entry in channel.entries:
            entries.add(entry.name)
            if entry.name not in bundles:
                missing.setdefault(entry.name, placed)
    if missing:
        where = next(iter(missing.values()))
        message = f"no olm.bundle documents found for olm.channel entries [{_listed(sorted(missing))}]"
        checked.refuse("EntryWithoutBundle", message, where)
    for name, placed in bundles.items():
        if name not in entries:
            checked.refuse("BundleWithoutChannel", f"bundle {name!r} not found in any channel entries", placed)


def _deprecations(checked: _Check) -> list[f.Deprecation]:
    documents = checked.of(f.Deprecations)
    for _, placed in documents[1:]:
        checked.refuse("SeveralDeprecations", "expected a maximum of one olm.deprecations document", placed)
    if not documents:
        return []
    said, placed = documents[0]
    known = {
        f.CHANNEL: {channel.name for channel, _ in checked.of(f.Channel)},
        f.BUNDLE: {bundle.name for bundle, _ in checked.of(f.Bundle)},
    }
    counts = Counter((entry.schema, entry.name) for entry in said.entries)
    for at, entry in enumerate(said.entries):
        wrong = _deprecation_error(entry, known)
        if not wrong and counts[entry.schema, entry.name] > 1:
            wrong = f"duplicate deprecation of {entry.schema} {clip(entry.name, LONGEST_NAME)!r}"
        if wrong:
            checked.refuse("InvalidDeprecation", f"deprecation entry [{at}]: {wrong}", placed)
    return list(said.entries)


def _deprecation_error(entry: f.Deprecation, known: dict[str, set[str]]) -> str:
    shown = clip(entry.name, LONGEST_NAME)
    if not entry.schema:
        return "reference schema must be set"
    if not entry.message:
        return "message must be set"
    if entry.schema == f.PACKAGE:
        return f"package name must be empty for a deprecated package (specified {shown!r})" if entry.name else ""
    if entry.schema not in known:
        return f"object schema unknown: {clip(entry.schema, LONGEST_NAME)!r}"
    what = entry.schema.removeprefix("olm.")
    return "" if entry.name in known[entry.schema] else f"cannot deprecate {what} {shown!r}: {what} not found"


def _listed(names: Iterable[str]) -> str:
    """The first ten, and how many more."""
    found = list(names)
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return ", ".join(clip(name, LONGEST_NAME) for name in found[:_LISTED]) + more
