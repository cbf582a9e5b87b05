"""Which packages a file that cannot be read may speak of. They are held: what was served of them stays as it is, whole.

Pure; called by fbc.py with what the scan found. A package of which half the documents can be read still looks good (a
channel less, no deprecations), so its own rules cannot notice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from typing import Final

from cacheserver.catalogs.catalog import Finding
from cacheserver.catalogs.fbc.index import Known
from cacheserver.catalogs.summary import LONGEST_NAME, clip
from cacheserver.slotted import slotted

REASON: Final = "HeldBack"

_SUFFIXES: Final = (".yaml", ".yml", ".json")
"""Ours: every file is parsed, as OLM's loader does, but a README that nobody ignored speaks of no package."""
_UNREAD: Final = frozenset({"Unreadable", "FileTooLarge", "WorkerCrashed", "TooManyDocuments"})
"""Reasons that say nothing of what a file holds."""
_ROOT: Final = ""
_LONGEST_CAUSE: Final = 300


@slotted()
class Damage:
    """What is wrong with one file, or with a directory that cannot be listed.

    cause: the first finding. packages: those that its refused documents name.
    unclear: something in it could not be read so far that its package is known.
    everything: no package is certain any more (an ignore file says what every other file is).
    """

    cause: Finding
    packages: set[str] = field(default_factory=set)
    unclear: bool = False
    everything: bool = False


def held(damages: Mapping[str, Damage], here: Mapping[str, Iterable[str]], known: Known) -> dict[str, Finding]:
    """Package -> why it is held. All of it is linear in documents and damaged files.

    damages: by path. here: package -> paths of its readable documents.

    A refused document speaks of the package that it names; else of those that its file spoke of, now or when it was
    last read; and of every package whose directory the file lies in, where nobody knows the file. A package's directory
    is the one that holds all its documents, or bears its name. A package that was never served is held by its directory
    in any case: what is missing of it may be in a file that is known for others.
    """
    if not damages:
        return {}
    found: dict[str, Finding] = {}
    documents = [(package, path) for package, some in here.items() for path in some]
    before = [(package, path) for package, _, path in known.documents.values()]
    familiar = _spoken(damages, before, found)
    spoken = _spoken(damages, documents, found)
    wide: dict[str, Finding] = {}
    narrow: dict[str, Finding] = {}
    for path, damage in damages.items():
        found.update((package, damage.cause) for package in damage.packages - found.keys())
        if damage.everything or (damage.unclear and (path in familiar or path in spoken or _is_catalog(damage.cause))):
            for directory in [*_above(path), _ROOT]:
                (narrow if path in familiar else wide).setdefault(directory, damage.cause)
    names_wide, names_narrow = _last_parts(wide), _last_parts(narrow)
    everything = next((damage.cause for damage in damages.values() if damage.everything), None)
    for package, directory in _directories([*documents, *before]).items():
        cause = everything or wide.get(directory) or names_wide.get(package)
        if cause is None and package not in known.packages:
            cause = narrow.get(directory) or names_narrow.get(package)
        if cause is not None:
            found.setdefault(package, cause)
    return {package: _finding(package, cause) for package, cause in found.items()}


def _spoken(damages: Mapping[str, Damage], documents: Iterable[tuple[str, str]], found: dict[str, Finding]) -> set[str]:
    """The unclear ones among the damaged paths that the documents are in or below; their packages go to `found`."""
    unclear = {path: damage.cause for path, damage in damages.items() if damage.unclear}
    places: set[str] = set()
    for package, path in documents if unclear else ():
        for place in (path, *_above(path)):
            if place in unclear:
                places.add(place)
                if package:
                    found.setdefault(package, unclear[place])
    return places


def _is_catalog(cause: Finding) -> bool:
    """Whether a file in which nothing could be read may be one of a catalog."""
    unread = cause.reason in _UNREAD or "cannot be read" in cause.message
    return unread or cause.path.lower().endswith(_SUFFIXES)


def _directories(documents: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Package -> the deepest directory that holds all its documents."""
    found: dict[str, str] = {}
    for package, path in documents:
        if not package:
            continue
        directory = path.rpartition("/")[0]
        common = found.setdefault(package, directory)
        while common and common != directory and not directory.startswith(f"{common}/"):
            common = common.rpartition("/")[0]
        found[package] = common
    return found


def _above(path: str) -> Iterator[str]:
    """The directories above, the root apart."""
    while path := path.rpartition("/")[0]:
        yield path


def _last_parts(directories: Mapping[str, Finding]) -> dict[str, Finding]:
    return {directory.rpartition("/")[2]: cause for directory, cause in directories.items() if directory}


def _finding(package: str, cause: Finding) -> Finding:
    place = f"{cause.path}:{cause.line}" if cause.line else cause.path
    message = (
        f"package {clip(package, LONGEST_NAME)!r} is held back, what was served of it stays: {clip(place, 200)} may "
        f"speak of it and cannot be read whole: {clip(cause.message, _LONGEST_CAUSE)}; mend that file, or list it in "
        ".indexignore if it is no catalog"
    )
    return Finding(REASON, message, cause.path, cause.document, cause.line, package)
