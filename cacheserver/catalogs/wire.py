"""What the pool and its workers say to each other: dataclasses, as JSON in frames (frame.py).

What can be long is written in lines of some hundred items: reading one takes all of Python's threads a millisecond, and
a frame of 30,000 documents at once would take them, the loop's among them, for 50.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

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


LINE_ITEMS: Final = 500
"""Of one kind, in one line of a frame."""
_SHORT_BYTES: Final = 32 << 10
"""A frame that is read at once: 300 documents, under 1 ms. Longer ones are for a thread."""

_T = TypeVar("_T")


async def unhurried(decode: Callable[[bytes], _T], frame: bytes) -> _T:
    """What `decode` makes of a frame, without holding up the loop."""
    return decode(frame) if len(frame) <= _SHORT_BYTES else await asyncio.to_thread(decode, frame)


def encode_job(job: Job) -> bytes:
    """Slow for the loop where a job is large."""
    if not isinstance(job, Assemble):
        return orjson.dumps([_NAMES[type(job)], job])
    documents = [one for group in job.groups for one in _sliced(group.documents)]
    names = [(group.name, len(group.documents)) for group in job.groups]
    return _lines([[_NAMES[Assemble], job.namespace, job.repository, names], *documents])


def _sliced(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    return (items[at : at + LINE_ITEMS] for at in range(0, len(items), LINE_ITEMS))


def _lines(items: Iterable[object]) -> bytes:
    # default: of what is sent, only paths are foreign to JSON. No line of JSON holds a line break.
    return b"\n".join(orjson.dumps(item, default=str) for item in items)


def _read_lines(frame: bytes) -> Iterator[Any]:
    """As _lines, one at a time."""
    at = 0
    while at <= len(frame):
        end = frame.find(b"\n", at)
        end = end if end >= 0 else len(frame)
        if end > at:
            yield orjson.loads(memoryview(frame)[at:end])
        at = end + 1


def decode_job(frame: bytes) -> Job:
    lines = _read_lines(frame)
    name, *written = next(lines)
    if name == "scan":
        return Scan(**{**written[0], "parts": [Part(**part) for part in written[0]["parts"]]})
    if name == "select":
        return Select(**written[0])
    namespace, repository, names = written
    documents = (Located(**document) for line in lines for document in line)
    return Assemble(namespace, repository, [Group(n, [next(documents) for _ in range(count)]) for n, count in names])


def encode_reports(reports: Sequence[Report]) -> bytes:
    return _lines(line for report in reports for line in _report_lines(report))


def _report_lines(report: Report) -> Iterator[object]:
    """What there is once, then what there is many times of: a list of the kind and some items."""
    yield [report.part, report.documents, report.lines, report.unclear]
    for kind in ("seen", "findings", "blobs", "spoilt"):
        for items in _sliced(getattr(report, kind)):
            yield [kind, items]


def decode_reports(frame: bytes) -> list[Report]:
    """Slow for the loop where a frame is long; see unhurried()."""
    reports: list[Report] = []
    for first, *rest in _read_lines(frame):
        if rest[1:]:
            documents, lines, unclear = rest
            reports.append(Report(Part(**first), documents=documents, lines=lines, unclear=unclear))
        elif first == "seen":
            reports[-1].seen += [Seen(**seen) for seen in rest[0]]
        elif first == "findings":
            reports[-1].findings += [Finding(**finding) for finding in rest[0]]
        elif first == "blobs":
            reports[-1].blobs += [_blob(blob) for blob in rest[0]]
        else:
            reports[-1].spoilt += rest[0]
    return reports


def _blob(written: dict[str, Any]) -> BlobFile:
    head = written["head"]
    files = tuple((path, size) for path, size in head["files"])
    return BlobFile(BlobHead(Digest(head["digest"]), head["size"], head["media_type"], files), Path(written["path"]))


def encode_assembled(packages: Sequence[Assembled]) -> bytes:
    """Spec and status travel as strings: the parent needs their bytes, not their fields."""
    return _lines(line for package in packages for line in _package_lines(package))


def _package_lines(package: Assembled) -> Iterator[object]:
    yield [package.name]
    for findings in _sliced(package.findings):
        yield [None, findings]
    for record in package.records:
        key = record.key
        yield [key.kind, key.revision, record.labels, record.spec.decode(), record.status.decode(), record.blobs]


def decode_assembled(frame: bytes, namespace: str, repository: str) -> list[Assembled]:
    """Slow for the loop where a frame is long; see unhurried()."""
    found: list[Assembled] = []
    records: list[Record] = []
    findings: list[Finding] = []
    for first, *rest in _read_lines(frame):
        if not rest:
            records, findings = [], []
            found.append(Assembled(first, records, findings))
        elif first is None:
            findings += [Finding(**finding) for finding in rest[0]]
        else:
            revision, labels, spec, status, blobs = rest
            records.append(
                Record(
                    key=Key(Kind(first), namespace, repository, found[-1].name, revision),
                    labels=labels,
                    spec=spec.encode(),
                    status=status.encode(),
                    blobs=tuple(Digest(digest) for digest in blobs),
                )
            )
    return found
