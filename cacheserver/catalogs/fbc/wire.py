"""What is asked of a worker about a file-based catalog, and what it answers: JSON in lines (../wire.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import Any, Final

import orjson

from cacheserver.catalogs.catalog import Finding, Manifests
from cacheserver.catalogs.wire import decode_blob, read_lines, sliced, write_lines
from cacheserver.model import BlobFile
from cacheserver.slotted import slotted


@slotted(frozen=True)
class Part:
    """Some of a file's bytes: the documents that begin in [start, end). Only large YAML files have more than one."""

    path: str
    start: int
    end: int


@slotted(frozen=True)
class Scan:
    """Read documents. known: a file of sha256 digests, 32 bytes each, of documents that need no parsing."""

    root: str
    scratch: str
    known: str
    parts: Sequence[Part]
    write_blobs: bool = True


@slotted(frozen=True)
class Seen:
    """One document of a part. facts: one line of JSON, empty for a known one. document and line count in the part."""

    sha256: str
    package: str
    facts: str
    document: int
    line: int
    kept_at: int = 0
    kept_bytes: int = 0
    """Where it is among the part's lines (raw.py); no bytes where it was not read, or lines are not written."""


@slotted()
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


@slotted(frozen=True)
class Kept:
    """Where the line of a document stands: file in scratch, first byte, bytes."""

    path: str
    at: int
    size: int


@slotted(frozen=True)
class Located:
    """A document of a package: its facts, and where it is in its file. kept: its line, where it is to be read."""

    facts: str
    path: str
    document: int
    line: int
    kept: Kept | None = None


@slotted(frozen=True)
class Bound:
    """The lines of one package, in order; of the documents of no package where it has no name."""

    name: str
    lines: Sequence[Kept]


@slotted(frozen=True)
class Join:
    """Make one blob of the lines of each package. Answered with one Joined each."""

    scratch: str
    packages: Sequence[Bound]


@slotted(frozen=True)
class Joined:
    """The blob; None where it could not be made, for `failed`."""

    name: str
    blob: BlobFile | None
    failed: str = ""


@slotted(frozen=True)
class Group:
    """Every document that names one package. raw: digest of the blob that holds them as they are; empty for none."""

    name: str
    documents: Sequence[Located]
    raw: str = ""


@slotted(frozen=True)
class Assemble:
    """Judge packages and make their records. Answered with one Assembled each, as krm/wire.Assemble is.

    manifests: make these too, with content in scratch.
    """

    namespace: str
    repository: str
    groups: Sequence[Group]
    scratch: str = ""
    manifests: Manifests | None = None


@slotted(frozen=True)
class Select:
    """Which of `files` belong to the catalog, by the ignore files among them."""

    root: str
    files: Sequence[str]
    ignores: Sequence[str]


Job = Scan | Assemble | Select | Join

_JOBS: Final[dict[str, type[Job]]] = {"scan": Scan, "assemble": Assemble, "select": Select, "join": Join}
_NAMES: Final = {kind: name for name, kind in _JOBS.items()}


def encode_job(job: Job) -> bytes:
    """Slow for the loop where a job is large."""
    if isinstance(job, Join):
        lines = [one for package in job.packages for one in sliced(package.lines)]
        return write_lines([[_NAMES[Join], job.scratch, [(one.name, len(one.lines)) for one in job.packages]], *lines])
    if not isinstance(job, Assemble):
        return orjson.dumps([_NAMES[type(job)], job])
    documents = [one for group in job.groups for one in sliced(group.documents)]
    names = [(group.name, group.raw, len(group.documents)) for group in job.groups]
    return write_lines(
        [[_NAMES[Assemble], job.namespace, job.repository, names, job.scratch, job.manifests], *documents]
    )


def decode_job(frame: bytes) -> Job:
    """encode_job's job, in the worker."""
    lines = read_lines(frame)
    name, *written = next(lines)
    if name == "scan":
        return Scan(**{**written[0], "parts": [Part(**part) for part in written[0]["parts"]]})
    if name == "select":
        return Select(**written[0])
    if name == "join":
        scratch, names = written
        kept = (Kept(**one) for line in lines for one in line)
        return Join(scratch, [Bound(package, [next(kept) for _ in range(count)]) for package, count in names])
    namespace, repository, names, scratch, manifests = written
    documents = (_located(document) for line in lines for document in line)
    return Assemble(
        namespace,
        repository,
        [Group(n, [next(documents) for _ in range(count)], raw) for n, raw, count in names],
        scratch,
        Manifests(**manifests) if manifests else None,
    )


def _located(written: dict[str, Any]) -> Located:
    kept = written.pop("kept")
    return Located(**written, kept=Kept(**kept) if kept else None)


def encode_joined(joined: Sequence[Joined]) -> bytes:
    """The answer to Join."""
    return write_lines(joined)


def decode_joined(frame: bytes) -> list[Joined]:
    """The answer to Join, one for each of its packages."""
    return [
        Joined(written["name"], decode_blob(written["blob"]) if written["blob"] else None, written["failed"])
        for written in read_lines(frame)
    ]


def encode_reports(reports: Sequence[Report]) -> bytes:
    """The answer to Scan, one for each of its parts; in lines, so that neither side decodes all of it at once."""
    return write_lines(line for report in reports for line in _report_lines(report))


def _report_lines(report: Report) -> Iterator[object]:
    """What there is once, then what there is many times of: a list of the kind and some items."""
    yield [report.part, report.documents, report.lines, report.unclear]
    for kind in ("seen", "findings", "blobs", "spoilt"):
        for items in sliced(getattr(report, kind)):
            yield [kind, items]


def decode_reports(frame: bytes) -> list[Report]:
    """Slow for the loop where a frame is long; see unhurried()."""
    reports: list[Report] = []
    for first, *rest in read_lines(frame):
        if rest[1:]:
            documents, lines, unclear = rest
            reports.append(Report(Part(**first), documents=documents, lines=lines, unclear=unclear))
        elif first == "seen":
            reports[-1].seen += [Seen(**seen) for seen in rest[0]]
        elif first == "findings":
            reports[-1].findings += [Finding(**finding) for finding in rest[0]]
        elif first == "blobs":
            reports[-1].blobs += [decode_blob(blob) for blob in rest[0]]
        else:
            reports[-1].spoilt += rest[0]
    return reports
