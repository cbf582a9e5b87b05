"""What is remembered of a parsed catalog, so that the next parse reads only what changed. Opaque outside this package.

zstd over lines: a heading with the version, then for each good package `P name input_hash revisions`, followed by its
documents, `D sha256 facts`, behind the file that they stand in, `F path` with the path as a JSON string. `W sha256` and
a finding as JSON: a warning about that document, said again while nobody reads it anew. Documents of no package of ours
are under the name `-`; `O input_hash digest` names the blob of those that name none that is here. A package that was
held or rejected stays as it was when it was good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Final

import orjson
import zstandard

from cacheserver.catalogs.catalog import Finding
from cacheserver.catalogs.fbc import FORMAT_VERSION
from cacheserver.model import RepositoryKey
from cacheserver.slotted import slotted

_HEADING: Final = f"cacheserver fbc {FORMAT_VERSION} with warnings".encode()
MOST_WARNINGS: Final = 2_000
"""Ours: kept of one catalog; each has up to 1 KiB."""
_FILE: Final = b"F "
_NO_PACKAGE: Final = "-"  # no package name: rules.py wants a letter or digit at both ends


@slotted(frozen=True)
class Known:
    """documents: sha256 in hex -> (package, facts, path). packages: name -> (input hash, revisions).

    warnings: by the document's sha256; their lines count from its first one, path and document are not known. One that
    names a package came from what judges packages, the others from who reads documents.
    others: input hash and blob of the documents of no package; empty where there are none.
    """

    documents: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    packages: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    warnings: Mapping[str, Sequence[Finding]] = field(default_factory=dict)
    others: tuple[str, str] = ("", "")


def input_hash(repository: RepositoryKey, documents: Iterable[str]) -> str:
    """Over all that a package's records are made from: format, repository, digests of its documents in any order."""
    hashed = hashlib.sha256(f"{FORMAT_VERSION}\0{repository.namespace}\0{repository.name}".encode())
    for sha256 in sorted(documents):
        hashed.update(bytes.fromhex(sha256))
    return hashed.hexdigest()


def decode(index: bytes) -> Known:
    """What encode() was given; nothing known when it is empty, damaged, or of another version. Slow for the loop."""
    try:
        lines = zstandard.ZstdDecompressor().decompress(index).split(b"\n") if index else []
    except zstandard.ZstdError:
        return Known()
    if not lines or lines[0] != _HEADING:
        return Known()
    documents: dict[str, tuple[str, str, str]] = {}
    packages: dict[str, tuple[str, int]] = {}
    warnings: dict[str, list[Finding]] = {}
    package = path = ""
    others = ("", "")
    for line in lines[1:]:
        if line.startswith(_FILE):
            path = orjson.loads(line.removeprefix(_FILE))
            continue
        kind, first, rest = line.decode().split(" ", 2)
        if kind == "O":
            others = (first, rest)
            continue
        if kind == "P":
            package = "" if first == _NO_PACKAGE else first
            found, revisions = rest.split(" ")
            if package:
                packages[package] = (found, int(revisions))
        elif kind == "W":
            warnings.setdefault(first, []).append(Finding(**orjson.loads(rest)))
        else:
            documents[first] = (package, rest, path)
    return Known(documents, packages, warnings, others)


def encode(
    packages: Mapping[str, tuple[str, int]],
    documents: Mapping[str, Sequence[tuple[str, str, str]]],
    warnings: Mapping[str, Sequence[Finding]],
    others: tuple[str, str] = ("", ""),
) -> bytes:
    """packages, warnings, others: as Known's. documents: package (empty for none) -> (sha256, facts, path).

    Slow for the loop.
    """
    lines = [_HEADING]
    if all(others):
        lines.append(f"O {others[0]} {others[1]}".encode())
    for package in sorted(documents):
        found, revisions = packages.get(package, ("-", 0))
        lines.append(f"P {package or _NO_PACKAGE} {found} {revisions}".encode())
        path = None
        for sha256, facts, at in sorted(documents[package], key=lambda document: (document[2], document[0])):
            if at != path:
                path = at
                lines.append(_FILE + orjson.dumps(at))
            lines.append(f"D {sha256} {facts}".encode())
            lines += [b"W %b %b" % (sha256.encode(), orjson.dumps(warning)) for warning in warnings.get(sha256, ())]
    return zstandard.ZstdCompressor(level=3, write_content_size=True).compress(b"\n".join(lines))
