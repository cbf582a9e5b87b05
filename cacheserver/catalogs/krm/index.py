"""What is remembered of a catalog of KRM packages, so that the next parse reads only what changed. Opaque outside.

zstd over JSON. Covers good packages only, as the index of FBC does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Final

import orjson
import zstandard

from cacheserver.catalogs.krm import FORMAT_VERSION
from cacheserver.catalogs.krm.facts import Revision, decode_revision
from cacheserver.model import RepositoryKey
from cacheserver.slotted import slotted

_HEADING: Final = f"cacheserver krm {FORMAT_VERSION}"


@slotted(frozen=True)
class KnownPackage:
    """by_name: the revisions again. A package may have a tag a day for years, and each is asked for by name."""

    input_hash: str
    revisions: Sequence[Revision]
    by_name: Mapping[str, Revision] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {revision.name: revision for revision in self.revisions})


@slotted(frozen=True)
class Known:
    """packages: by name. trees: key -> facts, of every tree that a package refers to.

    head: the branch's commit (git). changes: directory -> commit that last changed it, as seen from head.
    without_package: `COMMIT DIRECTORY` where a tag or draft looked for a package in vain.
    """

    packages: Mapping[str, KnownPackage] = field(default_factory=dict)
    trees: Mapping[str, str] = field(default_factory=dict)
    head: str = ""
    changes: Mapping[str, str] = field(default_factory=dict)
    without_package: frozenset[str] = frozenset()

    def revision(self, package: str, name: str) -> Revision | None:
        """The revision as it was the last time, if there was one."""
        known = self.packages.get(package)
        return known.by_name.get(name) if known else None


def input_hash(repository: RepositoryKey, package: str, revisions: Sequence[Revision]) -> str:
    """Over all that a package's records are made from: format, repository, revisions in any order, their trees."""
    about = [FORMAT_VERSION, repository.namespace, repository.name, package, sorted(revisions, key=lambda r: r.name)]
    return hashlib.sha256(orjson.dumps(about)).hexdigest()


def decode(index: bytes) -> Known:
    """What encode() was given; nothing known when it is empty, damaged, or of another version. Slow for the loop."""
    try:
        written = orjson.loads(zstandard.ZstdDecompressor().decompress(index)) if index else {}
    except (zstandard.ZstdError, orjson.JSONDecodeError):
        return Known()
    if not isinstance(written, dict) or written.get("heading") != _HEADING:
        return Known()
    packages = {
        name: KnownPackage(hashed, [decode_revision(revision) for revision in revisions])
        for name, (hashed, revisions) in written["packages"].items()
    }
    return Known(
        packages, written["trees"], written["head"], written["changes"], frozenset(written.get("without_package", ()))
    )


def encode(known: Known) -> bytes:
    """Slow for the loop."""
    packages = {name: (package.input_hash, package.revisions) for name, package in known.packages.items()}
    written = {
        "heading": _HEADING,
        "packages": packages,
        "trees": known.trees,
        "head": known.head,
        "changes": known.changes,
        "without_package": sorted(known.without_package),
    }
    return zstandard.ZstdCompressor(level=3, write_content_size=True).compress(
        orjson.dumps(written, option=orjson.OPT_SORT_KEYS)
    )
