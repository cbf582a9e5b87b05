"""The worker's part of file-based catalogs: scans files, assembles packages, says which files an ignore file leaves.

A job's bytes in, the answer's out. Called by the worker process, which imports this with its first such job; asked by
jobs.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import orjson

from cacheserver.catalogs import bounds
from cacheserver.catalogs.blobs import writer
from cacheserver.catalogs.catalog import Finding
from cacheserver.catalogs.documents.document import DocumentError
from cacheserver.catalogs.fbc import facts, ignore, project, rules
from cacheserver.catalogs.fbc import manifest as manifests
from cacheserver.catalogs.fbc.raw import join, read_line
from cacheserver.catalogs.fbc.scan import scan
from cacheserver.catalogs.fbc.wire import (
    Assemble,
    Group,
    Join,
    Joined,
    Scan,
    Select,
    decode_job,
    encode_joined,
    encode_reports,
)
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.catalogs.wire import Assembled, encode_assembled
from cacheserver.model import BlobFile, Record, RepositoryKey

_MOST_CUTS: Final = 50
"""Ours: warnings of one package, as its other findings (rules.py)."""


def answer(frame: bytes, limits: ParseLimits) -> bytes:
    """The answer to a job of wire.py."""
    job = decode_job(frame)
    if isinstance(job, Scan):
        known = _known(job.known) if job.known else frozenset()
        root, scratch = Path(job.root), Path(job.scratch) if job.write_blobs else None
        return encode_reports([scan(part, root, known, scratch, limits) for part in job.parts])
    if isinstance(job, Join):
        return encode_joined(_join(job))
    if isinstance(job, Assemble):
        return encode_assembled(_assemble(job, limits))
    return orjson.dumps(_select(job))


@lru_cache(maxsize=4)
def _known(path: str) -> frozenset[bytes]:
    """The digests in the file; it is written once, before its first job."""
    digests = Path(path).read_bytes()
    return frozenset(digests[at : at + 32] for at in range(0, len(digests), 32))


def _join(job: Join) -> list[Joined]:
    content = writer(Path(job.scratch))
    made: list[Joined] = []
    for package in job.packages:
        try:
            made.append(Joined(package.name, join(package.lines, content)))
        except (DocumentError, OSError) as exc:
            made.append(Joined(package.name, None, str(exc)))
    return made


def _assemble(job: Assemble, limits: ParseLimits) -> list[Assembled]:
    repository = RepositoryKey(job.namespace, job.repository)
    content = writer(Path(job.scratch)) if job.manifests is not None else None
    made: list[Assembled] = []
    for group in job.groups:
        placed = [rules.Placed(facts.decode(d.facts), d.path, d.document, d.line) for d in group.documents]
        package, findings = rules.check(group.name, placed)
        records: list[Record] = []
        blobs: list[BlobFile] = []
        if package is not None:
            try:
                manifest = _manifest(job, group, package, placed, findings, limits)
                records = project.records(repository, package, limits, raw=group.raw, manifest=manifest)
                findings += _cuts(group.name, records, placed)
                blobs = [content.write(*each) for each in manifest.content] if manifest and content else []
            except bounds.BoundError as exc:
                findings.append(_of_package(exc.reason, str(exc), group.name, placed[0], warning=False))
            except DocumentError as exc:
                records = []
                findings.append(_of_package(exc.reason, str(exc), group.name, placed[0], warning=False))
        made.append(Assembled(group.name, records, findings, blobs))
    return made


def _manifest(
    job: Assemble,
    group: Group,
    package: rules.Package,
    placed: Sequence[rules.Placed],
    findings: list[Finding],
    limits: ParseLimits,
) -> manifests.Manifest | None:
    """None where none is wanted, or there is nothing to show; with a warning where it is too large, or not whole.

    Raises: DocumentError.
    """
    if job.manifests is None:
        return None
    kept = {_title(one.facts.subject): at.kept for one, at in zip(placed, group.documents, strict=True)}

    def line(schema: str, name: str) -> bytes:
        where = kept.get((schema, name))
        if where is None:
            raise OSError(f"the line of {schema} {name} is not there")
        return read_line(where)

    try:
        made = manifests.make(package, job.manifests, line, limits)
    except manifests.TooLargeError as exc:
        findings.append(_of_package("ManifestTooLarge", str(exc), group.name, placed[0], warning=True))
        return None
    except OSError as exc:
        raise DocumentError("ScratchFailed", f"its documents cannot be read again: {exc}") from exc
    if made is not None and made.left_out:
        said = f"{made.left_out} labels of its PackageManifest are left out: {manifests.LABELS_BYTES} bytes are taken"
        findings.append(_of_package("ManifestLabels", said, group.name, placed[0], warning=True))
    return made


def _title(subject: facts.Subject) -> tuple[str, str]:
    """(schema, name) of the documents that a manifest is made of."""
    if isinstance(subject, facts.Package):
        return facts.PACKAGE, subject.name
    return (facts.BUNDLE, subject.name) if isinstance(subject, facts.Bundle) else ("", "")


def _cuts(package: str, records: Sequence[Record], placed: Sequence[rules.Placed]) -> list[Finding]:
    """A warning for each object that is not whole, at the bundle that it is made from."""
    cut = [(record, fields) for record in records if (fields := bounds.truncated(record))][:_MOST_CUTS]
    bundles: dict[str, rules.Placed] = {}
    for one in placed if cut else ():
        if isinstance(one.facts.subject, facts.Bundle):
            _, version, release = one.facts.subject.versions[0]
            bundles[f"{version}/{release}" if release else version] = one  # as project.py names the revision
    return [
        _of_package(
            "Truncated",
            f"{record.key.revision or 'its object'}: {', '.join(fields)} are too long for one object and cut there "
            "(status.truncated); all of it is in the revision's content",
            package,
            bundles.get(record.key.revision, placed[0]),
            warning=True,
        )
        for record, fields in cut
    ]


def _of_package(reason: str, message: str, package: str, placed: rules.Placed, *, warning: bool) -> Finding:
    text = f"package {package!r}: {message}"
    return Finding(reason, text, placed.path, placed.document, placed.line, package, warning=warning)


def _select(job: Select) -> list[str] | str:
    """The files that are kept; a string is the reason why the ignore files cannot be used."""
    try:
        texts = {path: (Path(job.root) / path).read_text("utf-8", "replace") for path in job.ignores}
        return ignore.kept(job.files, texts)
    except (OSError, ValueError) as exc:
        return str(exc)
