"""Where in a git repository KRM packages are, as its refs and trees say (docs/sources.md): Porch's algorithm
(nephio-project/porch, pkg/externalrepo/git). Pure; reads nothing.

    branch                              every topmost directory with a Kptfile: revision named after the branch
    tag PATH/REVISION                   a published revision
    branch drafts/PATH/WORKSPACE        a draft;  proposed/PATH/WORKSPACE: a proposed one
    branch deletionProposed/PATH/NAME   marks the published revision NAME of PATH
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Final, Protocol

from cacheserver.catalogs import bounds
from cacheserver.catalogs.catalog import Problem
from cacheserver.catalogs.krm.facts import KPTFILE, Origin
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.model import Key, Kind, RepositoryKey
from cacheserver.slotted import slotted

HEADS: Final = "refs/heads/"
TAGS: Final = "refs/tags/"
# Porch, pkg/git/ref.go.
_DRAFTS: Final = {f"{HEADS}drafts/": Origin.DRAFT, f"{HEADS}proposed/": Origin.PROPOSED}
_DELETIONS: Final = f"{HEADS}deletionProposed/"
_PRECEDENCE: Final = tuple(Origin)
_RUNS: Final = "*"
"""Before an object name: the file is executable."""
_MOST_LEFT_OUT: Final = 20
"""Listed for one tree; the rest is counted."""


class Ref(Protocol):
    """A branch or tag. commit: tags peeled."""

    @property
    def commit(self) -> str:
        """Its object name."""
        ...


class Entry(Protocol):
    """A file, link or submodule (by mode) below a directory; path relative to it with `/`."""

    @property
    def path(self) -> str:
        """Below the directory that was listed."""
        ...

    @property
    def mode(self) -> int:
        """git's: type and permissions in one number."""
        ...

    @property
    def oid(self) -> str:
        """The object's name."""
        ...


class Listing(Protocol):
    """Everything below a directory, sorted by path; refused: (path, reason) of names that no tree should hold."""

    @property
    def entries(self) -> Sequence[Entry]:
        """All that git can check out."""
        ...

    @property
    def refused(self) -> Sequence[tuple[str, str]]:
        """All that it would refuse."""
        ...


@slotted(frozen=True)
class Place:
    """One revision of a package, before its files are known. directory: from the repository's root; ref: short."""

    package: str
    directory: str
    name: str
    origin: Origin
    commit: str
    ref: str


@slotted()
class Named:
    """What the names of refs say. ignored: (short ref, why) of tags that name no package; ignored_drafts: likewise of
    drafts.

    deletions: (directory, revision) proposed for deletion.
    """

    places: list[Place] = field(default_factory=list)
    deletions: set[tuple[str, str]] = field(default_factory=set)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    ignored_drafts: list[tuple[str, str]] = field(default_factory=list)


@slotted(frozen=True)
class Files:
    """A package's files in git. key: equal ones mean equal Facts. packed: see `entries` (of an executable file with a
    mark before its object name); a sync holds all that are new at the same time, and tuples of strings would be four
    times the bytes. count: how many files."""

    directory: str
    packed: bytes
    warnings: list[Problem]
    key: str
    count: int

    def entries(self) -> list[tuple[str, str]]:
        """(path in the package, object name), made anew at each call. Of 10,000 files 5 ms: not for the loop."""
        flat = self.packed.decode().split("\0")
        return [(path, oid.removeprefix(_RUNS)) for path, oid in zip(flat[0:-1:2], flat[1::2], strict=True)]

    def executable(self) -> list[str]:
        """Paths of the files that are, made anew at each call. Not for the loop either."""
        if _RUNS not in self.packed.decode():
            return []
        flat = self.packed.decode().split("\0")
        return [path for path, oid in zip(flat[0:-1:2], flat[1::2], strict=True) if oid.startswith(_RUNS)]


def unnameable(key: RepositoryKey, package: str, revision: str, limits: ParseLimits) -> Problem | None:
    """Why a revision cannot have a key in the store, if it cannot: git allows longer names."""
    try:
        bounds.check_key(Key(Kind.REVISION, key.namespace, key.name, package, revision), limits)
    except bounds.BoundError as exc:
        return Problem(exc.reason, str(exc))
    return None


def by_name(refs: Mapping[str, Ref], directory: str, root_name: str) -> Named:
    """Tags and drafts at or below `directory`. root_name: of the package that is `directory` itself."""
    named = Named()
    for full, ref in sorted(refs.items()):
        try:
            full.encode()
        except UnicodeEncodeError:
            continue  # No directory has such a name: ls_tree refuses what is not UTF-8.
        kind = next((prefix for prefix in (TAGS, *_DRAFTS, _DELETIONS) if full.startswith(prefix)), "")
        if not kind:
            continue
        short = full.removeprefix(TAGS).removeprefix(HEADS)
        path, slash, last = full.removeprefix(kind).rpartition("/")
        if not slash:
            _without_path(short, kind, directory, named)
        elif (package := package_name(path, directory, root_name)) is None:
            continue
        elif kind == _DELETIONS:
            named.deletions.add((path, last))
        else:
            origin = _DRAFTS.get(kind, Origin.TAG)
            named.places.append(Place(package, path, last, origin, ref.commit, short))
    return named


def _without_path(short: str, kind: str, directory: str, named: Named) -> None:
    if kind in _DRAFTS:
        named.ignored_drafts.append((short, "names no workspace: a draft's branch is drafts/PATH/WORKSPACE"))
    elif kind == TAGS and not directory:
        named.ignored.append((short, "has no slash: a package's tag is PATH/REVISION"))


def package_name(path: str, directory: str, root_name: str) -> str | None:
    """The package's name by its path in the repository; None when it is not at or below `directory`.

    docs/sources.md, Names: the path relative to the source's root. Ours, for the root itself: the repository's name.
    """
    if path == directory:
        return root_name
    if not directory:
        return path
    return path.removeprefix(f"{directory}/") if path.startswith(f"{directory}/") else None


def on_branch(listing: Listing, directory: str) -> tuple[list[Files], list[tuple[str, str]]]:
    """Every topmost directory with a regular Kptfile, by path; and (path, why) of Kptfiles that make no package.

    directory: what the listing is of.
    """
    marked: set[str] = set()
    odd: list[tuple[str, str]] = []
    for entry in listing.entries:
        parent, _, name = entry.path.rpartition("/")
        if name == KPTFILE and stat.S_ISREG(entry.mode):
            marked.add(parent)
        elif name == KPTFILE:
            odd.append((entry.path, f"Kptfile is {_what(entry)}, so its directory is not a package"))
    inside: dict[str, tuple[list[Entry], list[tuple[str, str]]]] = {}
    for entry in listing.entries:
        if (owner := owner_of(entry.path, marked)) is not None:
            inside.setdefault(owner, ([], []))[0].append(entry)
    for path, reason in listing.refused:
        if (owner := owner_of(path, marked)) is not None:
            inside.setdefault(owner, ([], []))[1].append((path, reason))
    found = [
        _files("/".join(filter(None, (directory, owner))), len(owner) + 1 if owner else 0, entries, refused)
        for owner, (entries, refused) in inside.items()
    ]
    return found, [(path, why) for path, why in odd if owner_of(path, marked) is None]


def at_top(listing: Listing, directory: str) -> Files | None:
    """The package that the listing is of; None when it holds no regular Kptfile."""
    if not any(entry.path == KPTFILE and stat.S_ISREG(entry.mode) for entry in listing.entries):
        return None
    return _files(directory, 0, listing.entries, listing.refused)


def owner_of(path: str, marked: set[str]) -> str | None:
    """The topmost of the directories `marked` that `path` lies in; None when it lies in none."""
    if "" in marked:
        return ""
    at = path.find("/")
    while at >= 0:
        if path[:at] in marked:
            return path[:at]
        at = path.find("/", at + 1)
    return None


def without_rivals(places: Iterable[Place]) -> tuple[list[Place], list[tuple[Place, str]]]:
    """Places, one for each package and revision, and those left out with the reason. Order: Origin's, then by name."""
    kept: dict[tuple[str, str], Place] = {}
    directories: dict[str, str] = {}
    left_out: list[tuple[Place, str]] = []
    # The root first (it has the shortest path): its name is the repository's, which some directory may have as well.
    ordered = sorted(places, key=lambda place: (len(place.directory), _PRECEDENCE.index(place.origin), place.ref))
    for place in ordered:
        other = kept.setdefault((place.package, place.name), place)
        if directories.setdefault(place.package, place.directory) != place.directory:
            left_out.append((place, f"the package at the root is called {place.package} already"))
            if other is place:
                del kept[place.package, place.name]
        elif other is not place:
            left_out.append((place, f"{other.origin} {other.ref} is this revision of {place.package} already"))
    return list(kept.values()), left_out


def _files(directory: str, cut: int, entries: Sequence[Entry], refused: Sequence[tuple[str, str]]) -> Files:
    """Regular files; the rest is left out, with a warning. cut: characters of each path before the package's part."""
    regular = [(entry.path[cut:], _marked(entry)) for entry in entries if stat.S_ISREG(entry.mode)]
    others = [(entry.path[cut:], f"is {_what(entry)}") for entry in entries if not stat.S_ISREG(entry.mode)]
    others += [(path[cut:], reason) for path, reason in refused]
    warnings = [Problem("LeftOut", why, path) for path, why in others[:_MOST_LEFT_OUT]]
    if len(others) > _MOST_LEFT_OUT:
        warnings.append(Problem("LeftOut", f"{len(others) - _MOST_LEFT_OUT} more entries are not files"))
    packed = "".join(f"{path}\0{oid}\0" for path, oid in regular).encode()
    hashed = hashlib.sha256()
    # A NUL is in no name, and object names have one length: no two packages give the same bytes.
    for path, oid in regular:
        hashed.update(f"{oid}{path}\0".encode())
    for path, why in others:
        hashed.update(f"\0{path}\0{why}\0".encode())
    return Files(directory, packed, warnings, hashed.hexdigest(), len(regular))


def _marked(entry: Entry) -> str:
    return f"{_RUNS}{entry.oid}" if entry.mode & stat.S_IXUSR else entry.oid


def _what(entry: Entry) -> str:
    if stat.S_ISLNK(entry.mode):
        return "a symbolic link"
    return "a submodule" if stat.S_IFMT(entry.mode) == 0o160000 else "of an unknown kind"
