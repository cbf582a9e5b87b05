"""What is asked of a worker about KRM packages, and what it answers: JSON, in the frames of frame.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from cacheserver.catalogs.catalog import Problem
from cacheserver.catalogs.krm.facts import Revision, decode_revision
from cacheserver.catalogs.wire import decode_blob
from cacheserver.model import BlobFile
from cacheserver.slotted import slotted

_PACK: Final = "krm.pack"  # both begin as frame.KRM says
_ASSEMBLE: Final = "krm.assemble"


@slotted(frozen=True)
class Wanted:
    """One tree of a package to read. name: of the package, for messages.

    files: (path in the package, file below the job's root), sorted by path, a Kptfile among them.
    executable: paths of those that are.
    known: digest of the content that needs no more than being recognised; empty for none.
    warnings: what is to be remembered with the tree.
    """

    name: str
    files: Sequence[tuple[str, str]]
    known: str = ""
    warnings: Sequence[Problem] = ()
    executable: Sequence[str] = ()


@slotted(frozen=True)
class Pack:
    """Read trees and make their content. scratch: where blobs go; empty writes none."""

    root: str
    scratch: str
    trees: Sequence[Wanted]


@slotted(frozen=True)
class Packed:
    """The answer for one tree: either facts (empty for known content), or why it is refused as (problem, line)."""

    digest: str = ""
    facts: str = ""
    blob: BlobFile | None = None
    refusal: Problem | None = None
    line: int = 0


@slotted(frozen=True)
class Described:
    """A package: its revisions, each with the facts of its tree."""

    name: str
    revisions: Sequence[tuple[Revision, str]]


@slotted(frozen=True)
class Assemble:
    """Make the records of packages. Answered with one Assembled each, as fbc/wire.Assemble is."""

    namespace: str
    repository: str
    packages: Sequence[Described]


def encode_job(job: Pack | Assemble) -> bytes:
    """As one JSON document: of paths and facts, never of content."""
    return orjson.dumps([_PACK if isinstance(job, Pack) else _ASSEMBLE, job])


def decode_job(frame: bytes) -> Pack | Assemble:
    """encode_job's job, in the worker."""
    name, written = orjson.loads(frame)
    if name == _PACK:
        trees = [
            Wanted(t["name"], _pairs(t["files"]), t["known"], [Problem(**w) for w in t["warnings"]], t["executable"])
            for t in written["trees"]
        ]
        return Pack(written["root"], written["scratch"], trees)
    packages = [
        Described(p["name"], [(decode_revision(revision), facts) for revision, facts in p["revisions"]])
        for p in written["packages"]
    ]
    return Assemble(written["namespace"], written["repository"], packages)


def encode_packed(packed: Sequence[Packed]) -> bytes:
    """The answer to Pack."""
    return orjson.dumps(packed, default=str)


def decode_packed(frame: bytes) -> list[Packed]:
    """The answer to Pack, one for each of its trees."""
    return [
        Packed(
            digest=written["digest"],
            facts=written["facts"],
            blob=decode_blob(written["blob"]) if written["blob"] else None,
            refusal=Problem(**written["refusal"]) if written["refusal"] else None,
            line=written["line"],
        )
        for written in orjson.loads(frame)
    ]


def _pairs(written: list[Any]) -> list[Any]:
    return [(first, second) for first, second in written]
