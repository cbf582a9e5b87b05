"""The worker's part of KRM packages: a tree's files into its content and facts, and revisions into records.

Content is the canonical tar (archive.py) of every file of the package, those of nested packages included, byte for
byte. Called by the worker process, asked by jobs.py; whatever is wrong with a package is in the answer, nothing is
raised for it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from cacheserver.archive import tar_stream
from cacheserver.catalogs import bounds
from cacheserver.catalogs.blobs import BlobWriter, writer
from cacheserver.catalogs.catalog import Finding, Problem
from cacheserver.catalogs.documents.document import DocumentError
from cacheserver.catalogs.krm import crds, kptfile, project, uses
from cacheserver.catalogs.krm import facts as f
from cacheserver.catalogs.krm.wire import Assemble, Described, Pack, Packed, Wanted, decode_job, encode_packed
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.catalogs.summary import LONGEST_NAME, clip
from cacheserver.catalogs.wire import Assembled, encode_assembled
from cacheserver.model import BlobHead, Digest, RepositoryKey

_MEDIA_TYPE: Final = "application/x-tar"
_CUT: Final = "{}: too long for one object and cut there (status.truncated); all of it is in the Kptfile"
_MOST_CUTS: Final = 50
"""Ours: warnings of one package."""


def answer(frame: bytes, limits: ParseLimits) -> bytes:
    """The answer to a job of wire.py."""
    job = decode_job(frame)
    if isinstance(job, Pack):
        return encode_packed(pack(job, limits))
    return encode_assembled(assemble(job, limits))


def assemble(job: Assemble, limits: ParseLimits = bounds.DEFAULT) -> list[Assembled]:
    """The records of each package, in order; none and a finding where one is too large to be served."""
    return [_assembled(package, RepositoryKey(job.namespace, job.repository), limits) for package in job.packages]


def _assembled(package: Described, repository: RepositoryKey, limits: ParseLimits) -> Assembled:
    revisions = [(revision, f.decode(facts)) for revision, facts in package.revisions]
    known = {name for _, facts in revisions for name in facts.cut}  # given with each tree
    try:
        records = project.records(repository, package.name, revisions, limits)
        findings = [
            Finding(
                "Truncated", f"{record.key.name}: {_CUT.format(', '.join(fields))}", package=package.name, warning=True
            )
            for record in records
            if (fields := sorted({*bounds.truncated(record)} - known))
        ]
        return Assembled(package.name, records, findings[:_MOST_CUTS])
    except bounds.BoundError as exc:
        return Assembled(package.name, (), [Finding(exc.reason, str(exc), package.name, package=package.name)])


def pack(job: Pack, limits: ParseLimits) -> list[Packed]:
    """One answer for each tree, in order."""
    blobs = writer(Path(job.scratch)) if job.scratch else None
    return [_packed(wanted, Path(job.root), blobs, limits) for wanted in job.trees]


def _packed(wanted: Wanted, root: Path, blobs: BlobWriter | None, limits: ParseLimits) -> Packed:
    try:
        contents = _read(wanted, root, limits)
        bounds.check_files([(path, len(content)) for path, content in contents], limits)
        executable = frozenset(wanted.executable)
        hashed, size = hashlib.sha256(), 0
        for piece in tar_stream(contents, executable):
            hashed.update(piece)
            size += len(piece)
        digest = f"sha256:{hashed.hexdigest()}"
        if digest == wanted.known:
            return Packed(digest)
        facts = _facts(dict(contents)[f.KPTFILE], wanted, (digest, size, len(contents)), limits)
        facts = _with_kinds(facts, contents, limits)
        below = [content for path, content in contents if path.endswith(f"/{f.KPTFILE}")]
        if not facts.pipeline and any(kptfile.has_pipeline(content, limits) for content in below):
            facts = replace(facts, pipeline=True)
        files = tuple((path, len(content)) for path, content in contents)
        head = BlobHead(Digest(digest), size, _MEDIA_TYPE, files)
        blob = blobs.write(head, tar_stream(contents, executable)) if blobs else None
    except DocumentError as exc:
        path = getattr(exc, "path", f.KPTFILE)
        return Packed(refusal=Problem(exc.reason, str(exc), path), line=exc.line)
    except bounds.BoundError as exc:
        return Packed(refusal=Problem(exc.reason, str(exc)))
    except MemoryError:
        return Packed(refusal=Problem("TooLarge", "does not fit into the worker's memory"))
    return Packed(digest, f.encode(facts), blob)


def _with_kinds(facts: f.Facts, contents: Sequence[tuple[str, bytes]], limits: ParseLimits) -> f.Facts:
    found, complete = crds.provided(contents, limits)
    cutter = bounds.Cutter(limits)
    provided = bounds.checked_apis(found)
    required = cutter.items("requiredAPIs", uses.required(contents, frozenset(found)))
    cut = {*facts.cut, *cutter.cut, *(() if complete else (bounds.PROVIDED,))}
    return replace(facts, provided=provided, required=required, cut=tuple(sorted(cut)))


class _FileError(DocumentError):
    """A file other than the Kptfile, or all of them, cannot be used."""

    def __init__(self, reason: str, message: str, path: str) -> None:
        super().__init__(reason, message)
        self.path = path


def _read(wanted: Wanted, root: Path, limits: ParseLimits) -> list[tuple[str, bytes]]:
    """Every file with its content. Raises: DocumentError when one cannot be read, or all are too large."""
    contents: list[tuple[str, bytes]] = []
    room = limits.package_bytes
    for path, file in wanted.files:
        try:
            content = _content(root / file, room)
        except OSError as exc:
            raise _FileError("Unreadable", f"cannot be read: {exc.strerror}", path) from exc
        room -= len(content)
        if room < 0:
            message = f"the package's files have more than {limits.package_bytes} bytes, the limit for one revision"
            raise _FileError("TooLarge", message, "")
        contents.append((path, content))
    return contents


def _content(path: Path, room: int) -> bytes:
    """At most `room` + 1 bytes. NONBLOCK: a pipe swapped in since the source looked must not hang us."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(0, "no regular file")
        # Not room + 1 at once: that much is reserved for the smallest file before its end is met.
        content = file.read(min(about.st_size, room) + 1)
        if about.st_size < len(content) <= room:
            content += file.read(room + 1 - len(content))  # it has grown since
        return content


def _facts(raw: bytes, wanted: Wanted, content: tuple[str, int, int], limits: ParseLimits) -> f.Facts:
    said = kptfile.read(raw, limits)
    warnings = list(wanted.warnings)
    if said.cut:
        warnings.append(Problem("Truncated", _CUT.format(", ".join(said.cut)), f.KPTFILE))
    if said.duplicate_keys:
        key, line = said.duplicate_keys[0]
        more = f" and {len(said.duplicate_keys) - 1} more" if len(said.duplicate_keys) > 1 else ""
        warnings.append(
            Problem(
                "DuplicateKey",
                f"line {line}: duplicate key {clip(key, LONGEST_NAME)!r}{more}; the last one counts",
                f.KPTFILE,
            )
        )
    return f.Facts(
        content=content,
        display_name=said.display_name,
        summary=said.summary,
        keywords=said.keywords,
        labels=said.labels,
        conditions=said.conditions,
        readiness_gates=said.readiness_gates,
        upstream_lock=said.upstream_lock,
        pipeline=said.pipeline,
        warnings=tuple(warnings),
        cut=said.cut,
    )
