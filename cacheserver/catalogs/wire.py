"""What the pool and its workers say to each other: dataclasses, as JSON in frames (frame.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from cacheserver.catalogs.catalog import Finding
from cacheserver.model import BlobFile, BlobHead, Digest, Key, Kind, Record


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a file's bytes: the documents that begin in [start, end). Only large YAML files have more than one."""

    path: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Scan:
    """Read documents. known: a file of sha256 digests, 32 bytes each, of documents that need no parsing."""

    root: str
    scratch: str
    known: str
    parts: Sequence[Part]
    write_blobs: bool = True


@dataclass(frozen=True, slots=True)
class Seen:
    """One document of a part. facts: one line of JSON, empty for a known one. document and line count in the part."""

    sha256: str
    package: str
    facts: str
    document: int
    line: int


@dataclass(slots=True)
class Report:
    """What a part held. findings count document and line in the part, as Seen does."""

    part: Part
    seen: list[Seen] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    blobs: list[BlobFile] = field(default_factory=list)
    documents: int = 0
    lines: int = 0
    spoilt: list[str] = field(default_factory=list)
    """Packages that refused documents name."""
    unclear: bool = False
    """A document that cannot be used does not say of which package it is, or the part was not read to its end."""


@dataclass(frozen=True, slots=True)
class Located:
    """A document of a package: its facts, and where it stands in its file."""

    facts: str
    path: str
    document: int
    line: int


@dataclass(frozen=True, slots=True)
class Group:
    """Every document that names one package."""

    name: str
    documents: Sequence[Located]


@dataclass(frozen=True, slots=True)
class Assemble:
    """Judge packages and make their records."""

    namespace: str
    repository: str
    groups: Sequence[Group]


@dataclass(frozen=True, slots=True)
class Assembled:
    """A package's records, none when it is rejected, and all findings about it."""

    name: str
    records: Sequence[Record]
    findings: Sequence[Finding]


@dataclass(frozen=True, slots=True)
class Select:
    """Which of `files` are no catalog by the ignore files among them."""

    root: str
    files: Sequence[str]
    ignores: Sequence[str]


Job = Scan | Assemble | Select

_JOBS: Final[dict[str, type[Job]]] = {"scan": Scan, "assemble": Assemble, "select": Select}
_NAMES: Final = {kind: name for name, kind in _JOBS.items()}


def encode_job(job: Job) -> bytes:
    return orjson.dumps([_NAMES[type(job)], job])


def decode_job(frame: bytes) -> Job:
    name, written = orjson.loads(frame)
    if name == "scan":
        return Scan(**{**written, "parts": [Part(**part) for part in written["parts"]]})
    if name == "assemble":
        groups = [Group(g["name"], [Located(**document) for document in g["documents"]]) for g in written["groups"]]
        return Assemble(written["namespace"], written["repository"], groups)
    return Select(**written)


def encode_reports(reports: Sequence[Report]) -> bytes:
    # default: of what a report holds, only paths are foreign to JSON.
    return orjson.dumps(reports, default=str)


def decode_reports(frame: bytes) -> list[Report]:
    return [
        Report(
            part=Part(**written["part"]),
            seen=[Seen(**seen) for seen in written["seen"]],
            findings=[Finding(**finding) for finding in written["findings"]],
            blobs=[_blob(blob) for blob in written["blobs"]],
            documents=written["documents"],
            lines=written["lines"],
            spoilt=written["spoilt"],
            unclear=written["unclear"],
        )
        for written in orjson.loads(frame)
    ]


def _blob(written: dict[str, Any]) -> BlobFile:
    head = written["head"]
    files = tuple((path, size) for path, size in head["files"])
    return BlobFile(BlobHead(Digest(head["digest"]), head["size"], head["media_type"], files), Path(written["path"]))


def encode_assembled(packages: Sequence[Assembled]) -> bytes:
    """Spec and status travel as strings: the parent needs their bytes, not their fields."""
    return orjson.dumps(
        [
            [
                package.name,
                [
                    [
                        record.key.kind,
                        record.key.revision,
                        record.labels,
                        record.spec.decode(),
                        record.status.decode(),
                        record.blobs,
                    ]
                    for record in package.records
                ],
                package.findings,
            ]
            for package in packages
        ]
    )


def decode_assembled(frame: bytes, namespace: str, repository: str) -> list[Assembled]:
    found: list[Assembled] = []
    for name, written, findings in orjson.loads(frame):
        records = [
            Record(
                key=Key(Kind(kind), namespace, repository, name, revision),
                labels=labels,
                spec=spec.encode(),
                status=status.encode(),
                blobs=tuple(Digest(digest) for digest in blobs),
            )
            for kind, revision, labels, spec, status, blobs in written
        ]
        found.append(Assembled(name, records, [Finding(**finding) for finding in findings]))
    return found
