"""One FBC catalog, from files to records: plans, deals out to workers, puts together. Parses nothing on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Final

import orjson

from cacheserver.catalogs.catalog import Catalog, Files, Finding, ParsedPackage, Progress
from cacheserver.catalogs.documents import splitter
from cacheserver.catalogs.fbc import PACKAGE, ignore, index
from cacheserver.catalogs.fbc.held import Damage, held
from cacheserver.catalogs.fbc.jobs import Jobs
from cacheserver.catalogs.fbc.keep import Documents, Lines, of_other_schemas, write_digests
from cacheserver.catalogs.fbc.wire import Group, Joined, Located, Part, Report, Scan, Select
from cacheserver.catalogs.jobs import Assignment, batched
from cacheserver.catalogs.limits import MIB
from cacheserver.catalogs.summary import LONGEST_NAME, clip, first_of, there
from cacheserver.catalogs.wire import Assembled
from cacheserver.errors import CatalogError
from cacheserver.model import BlobFile, Digest
from cacheserver.slotted import slotted

_BATCH_BYTES: Final = 512 * 1024
"""Small files share a job until then: a round trip costs 0.3 ms."""
_BATCH_FILES: Final = 64
_PART_BYTES: Final = 4 * MIB
"""Larger YAML files are read in parts, by several workers: 0.2 s each."""
_ASSEMBLE_BYTES: Final = 128 * 1024
_ASSEMBLE_PACKAGES: Final = 1024
"""Of one job: real packages have 30 KB of facts."""
_MOST_FINDINGS: Final = 10_000
"""Ours: who mends these will see the others."""
_SCHEMAS_SHOWN: Final = 5
_TEMPLATE: Final = "olm.template."
"""https://olm.operatorframework.io/docs/reference/catalog-templates: basic and semver templates."""


@slotted()
class _Gathered:
    """Everything the scan found. documents: package -> (sha256, where it is)."""

    documents: dict[str, list[tuple[str, Located]]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    blobs: dict[str, BlobFile] = field(default_factory=dict)
    damages: dict[str, Damage] = field(default_factory=dict)

    def damaged(self, cause: Finding, *, everything: bool = False) -> None:
        """A file that was not read, or not to its end."""
        self.findings.append(cause)
        self.damages[cause.path] = Damage(cause, unclear=True, everything=everything)

    def take(self, report: Report, findings: Sequence[Finding]) -> None:
        """A part's findings, and what its refused documents may speak of."""
        self.findings += findings
        if report.spoilt or report.unclear:
            unnamed = Finding("Unreadable", "a document cannot be used", report.part.path)
            cause = next((found for found in findings if not found.warning), unnamed)
            damage = self.damages.setdefault(report.part.path, Damage(cause))
            damage.packages.update(report.spoilt)
            damage.unclear |= report.unclear


def _rules(path: str) -> bool:
    """Whether it is an ignore file that counts."""
    return path.rpartition("/")[2] == ignore.FILE and not ignore.hidden(path)


@slotted(frozen=True)
class _Due:
    """What is to be assembled, and what is known of the others. cause: as Catalog's, None where all files were read.

    changed: all documents of packages that changed. others: documents of no package. hashes: of the documents of each
    package, held ones apart.
    """

    changed: Documents
    others: Sequence[tuple[str, Located]]
    hashes: Mapping[str, str]
    unchanged: Collection[str]
    rejected: dict[str, Sequence[Finding]]
    cause: Finding | None


class Parse:
    """One run. Not to be used twice."""

    def __init__(self, tree: Files, given: Assignment) -> None:
        self._tree = tree
        self._given = given
        self._jobs = Jobs(given)
        self._found = _Gathered()
        self._measures: dict[Digest, tuple[int, int]] = {}
        self._lines = Lines(self._jobs, tree.root, given.scratch) if given.write_blobs else None

    async def run(self, known: bytes, progress: Progress) -> Catalog:
        """Raises: CatalogError when the pool itself cannot go on."""
        remembered = await asyncio.to_thread(index.decode, known)
        digests = ""
        if remembered.documents:
            digests = await asyncio.to_thread(write_digests, self._given.scratch / "known", remembered.documents)
        parts = await asyncio.to_thread(_plan, self._tree.root, await self._select(), self._found)
        await self._scan(parts, digests, remembered, progress)
        return await self._judge(remembered)

    async def _select(self) -> Sequence[str]:
        """The files that are catalog, by the ignore files among them; what the source refused becomes a finding."""
        refused = dict(self._tree.refused)
        paths = [*self._tree.files, *refused]
        ignores = [path for path in self._tree.files if _rules(path)]
        if not ignores:
            paths = await asyncio.to_thread(ignore.kept, paths, {})
        else:
            answer = await self._jobs.select(Select(str(self._tree.root), paths, ignores))
            if isinstance(answer, str):
                self._found.damaged(Finding("InvalidIgnoreFile", answer, ignores[0]), everything=True)
                answer = [path for path in paths if path not in ignores]
            paths = answer
        kept = set(paths)
        for path, reason in refused.items():
            unread = _rules(path)
            if unread or path in kept:
                self._found.damaged(Finding("Refused", reason, path), everything=unread)
        return [path for path in paths if path not in refused]

    async def _scan(self, batches: list[list[Part]], digests: str, known: index.Known, progress: Progress) -> None:
        total = sum(part.end - part.start for batch in batches for part in batch)
        done = documents = 0

        async def one(batch: list[Part]) -> list[Report]:
            nonlocal done, documents
            root, scratch = str(self._tree.root), str(self._given.scratch)
            reports = await self._jobs.scan(Scan(root, scratch, digests, batch, self._given.write_blobs))
            documents += sum(report.documents for report in reports)
            if documents > self._jobs.limits.documents:
                # As a whole: nobody can say which of the documents are too many, and each costs memory here.
                raise CatalogError(f"more than {self._jobs.limits.documents} documents in one catalog")
            done += sum(part.end - part.start for part in batch)
            progress("parsing", done, total)
            return reports

        reports = await self._jobs.gather(batches, one)
        reports.sort(key=lambda report: (report.part.path, report.part.start))
        await asyncio.to_thread(self._place, reports, known)

    def _place(self, reports: Iterable[Report], known: index.Known) -> None:
        """Documents under their packages. What was counted within a part is counted within its file from here on."""
        documents = lines = 0
        path = ""
        for report in reports:
            if report.part.path != path:
                path, documents, lines = report.part.path, 0, 0
            findings = [
                replace(
                    found,
                    document=found.document and found.document + documents,
                    line=found.line and found.line + lines,
                )
                for found in report.findings
            ]
            self._found.take(report, findings)
            for seen in report.seen:
                package, facts = (seen.package, seen.facts) if seen.facts else known.documents[seen.sha256][:2]
                located = Located(facts, path, seen.document + documents, seen.line + lines)
                self._found.documents.setdefault(package, []).append((seen.sha256, located))
                if not seen.facts:
                    self._say_again(known, seen.sha256, located, of_package=False)
            if self._lines is not None:
                self._lines.take(report)
            for blob in report.blobs:
                self._found.blobs[blob.head.digest] = blob
            documents += report.documents
            lines += report.lines

    def _say_again(self, known: index.Known, sha256: str, located: Located, *, of_package: bool) -> None:
        """The warnings about a document that was not read, or judged, again; where it is now."""
        for found in known.warnings.get(sha256, ()):
            if bool(found.package) == of_package:
                at = replace(found, path=located.path, document=located.document, line=located.line + found.line)
                self._found.findings.append(at)

    def _warnings(self, documents: Iterable[tuple[str, Located]]) -> dict[str, list[Finding]]:
        """Those about any of the documents, as the index keeps them."""
        warnings = [found for found in self._found.findings if found.warning][: index.MOST_WARNINGS]
        places = {(at.path, at.document): (sha256, at.line) for sha256, at in documents} if warnings else {}
        kept: dict[str, list[Finding]] = {}
        for found in warnings:
            if place := places.get((found.path, found.document)):
                sha256, line = place
                kept.setdefault(sha256, []).append(replace(found, path="", document=0, line=found.line - line))
        return kept

    async def _judge(self, known: index.Known) -> Catalog:
        """Packages that changed are assembled, the others are counted. What goes over all of them, in threads."""
        due = await asyncio.to_thread(self._due, known)
        raw = await self._raw(due.changed, known, due.rejected)
        others = await self._others(due.others, known, unreadable=due.cause is not None)
        batches = await asyncio.to_thread(self._groups, due.changed.keys() - due.rejected.keys(), raw)
        assembled: list[Assembled] = await self._jobs.gather(batches, self._jobs.assemble)
        return await asyncio.to_thread(self._catalog, due, assembled, known, others)

    def _due(self, known: index.Known) -> _Due:
        # A document that could not be read may have belonged to any package, or been one.
        cause = min((found for found in self._found.findings if not found.warning), key=_place_of, default=None)
        rejected: dict[str, Sequence[Finding]] = {name: [why] for name, why in sorted(self._held(known).items())}
        self._found.findings += [why for [why] in rejected.values()]
        shared, others = of_other_schemas(self._found.documents)
        hashes = self._hashes(rejected, shared)
        unchanged = {name for name, found in hashes.items() if known.packages.get(name, ("", 0))[0] == found}
        changed = {name: [*self._found.documents[name], *shared.get(name, ())] for name in hashes.keys() - unchanged}
        return _Due(changed, others, hashes, unchanged, rejected, cause)

    def _catalog(
        self, due: _Due, assembled: Sequence[Assembled], known: index.Known, others: tuple[str, str]
    ) -> Catalog:
        rejected, hashes = due.rejected, due.hashes
        good = {name: known.packages[name] for name in due.unchanged}
        for name in due.unchanged if known.warnings else ():
            for sha256, located in self._found.documents[name]:
                self._say_again(known, sha256, located, of_package=True)
        packages: list[ParsedPackage] = []
        for one in sorted(assembled, key=lambda one: one.name):
            self._found.findings += one.findings
            self._found.blobs.update((blob.head.digest, blob) for blob in one.blobs)
            if one.records:
                packages.append(ParsedPackage(one.name, hashes[one.name], one.records))
                good[one.name] = (hashes[one.name], len(one.records) - 1)
            else:
                rejected[one.name] = one.findings
        digests = [digest for package in packages for record in package.records for digest in record.blobs]
        empty = not (packages or due.unchanged or rejected)
        documents = Digest(others[1]) if others[1] else None
        if documents is not None:
            digests.append(documents)
        return Catalog(
            packages=packages,
            unchanged=sorted(due.unchanged),
            rejected=rejected,
            cause=due.cause,
            nothing=_nothing(self._tree.files, self._found.documents) if empty else "",
            findings=_told(self._found.findings),
            index=self._index(good, known, rejected, others),
            blobs={digest: self._found.blobs[digest] for digest in digests if digest in self._found.blobs},
            measures=self._measures,
            documents=documents,
            revisions=sum(revisions for _, revisions in good.values()),
        )

    def _groups(self, names: Iterable[str], raw: Mapping[str, str]) -> list[list[Group]]:
        """Packages in jobs of about _ASSEMBLE_BYTES of facts, with the lines of their documents where these are read
        again."""
        lines = self._lines if self._given.manifests is not None else None

        def located(sha256: str, at: Located) -> Located:
            return at if lines is None else replace(at, kept=lines.of(sha256))

        found = self._found.documents
        groups = (Group(name, [located(*each) for each in found[name]], raw.get(name, "")) for name in sorted(names))
        return list(batched(groups, _facts_bytes, _ASSEMBLE_BYTES, _ASSEMBLE_PACKAGES))

    async def _raw(
        self, changed: Documents, known: index.Known, rejected: dict[str, Sequence[Finding]]
    ) -> Mapping[str, str]:
        """Package -> digest of the blob of its documents; who has none is rejected."""
        return await asyncio.to_thread(self._taken, await self._joined(changed, known), changed, rejected)

    def _taken(
        self, made: Mapping[str, Joined], changed: Documents, rejected: dict[str, Sequence[Finding]]
    ) -> Mapping[str, str]:
        raw: dict[str, str] = {}
        for name, joined in sorted(made.items()):
            if joined.blob is not None:
                raw[name] = self._keep(joined.blob)
                self._measures[joined.blob.head.digest] = joined.blob.head.size, len(changed[name])
                continue
            first = self._found.documents[name][0][1]
            message = f"package {clip(name, LONGEST_NAME)!r}: {joined.failed}"
            why = Finding("DocumentsNotKept", message, first.path, first.document, first.line, name)
            rejected[name] = [why]
            self._found.findings.append(why)
        return raw

    async def _others(
        self, documents: Sequence[tuple[str, Located]], known: index.Known, *, unreadable: bool
    ) -> tuple[str, str]:
        """Input hash and blob of the documents of no package, or empty; as they were while a file is unreadable."""
        if unreadable and all(known.others):
            return known.others
        hashed = (sha256 for sha256, _ in documents)
        found = await asyncio.to_thread(index.input_hash, self._given.key, hashed) if documents else ""
        if found == known.others[0]:
            return known.others
        for joined in (await self._joined({"": documents} if documents else {}, known)).values():
            if joined.blob is not None:
                return found, self._keep(joined.blob)
            first = documents[0][1]
            message = f"documents of no package are not kept: {joined.failed}"
            self._found.findings.append(Finding("DocumentsNotKept", message, first.path, warning=True))
        return "", ""

    async def _joined(self, wanted: Documents, known: index.Known) -> Mapping[str, Joined]:
        if self._lines is None or not wanted:
            return {}
        if missing := await asyncio.to_thread(self._lines.missing, wanted):
            parts = await asyncio.to_thread(_plan, self._tree.root, sorted(missing), _Gathered())
            await self._lines.read_again(parts, wanted, known.documents)
        return await self._lines.blobs(wanted)

    def _keep(self, blob: BlobFile) -> str:
        self._found.blobs[blob.head.digest] = blob
        return blob.head.digest

    def _held(self, known: index.Known) -> dict[str, Finding]:
        here = {name: [located.path for _, located in documents] for name, documents in self._found.documents.items()}
        return held(self._found.damages, here, known)

    def _hashes(self, without: Collection[str], shared: Documents) -> dict[str, str]:
        return {
            name: index.input_hash(self._given.key, (sha256 for sha256, _ in (*documents, *shared.get(name, ()))))
            for name, documents in self._found.documents.items()
            if name and name not in without
        }

    def _index(
        self,
        good: Mapping[str, tuple[str, int]],
        known: index.Known,
        rejected: Collection[str],
        others: tuple[str, str],
    ) -> bytes:
        """Of a package that is not good now: as it was when it was, which is what is served of it."""
        documents = {
            name: [(sha256, located.facts, located.path) for sha256, located in found]
            for name, found in self._found.documents.items()
            if not name or name in good
        }
        here = (each for name, found in self._found.documents.items() if not name or name in good for each in found)
        warnings: dict[str, Sequence[Finding]] = {**self._warnings(here)}
        kept = {name: known.packages[name] for name in rejected if name in known.packages}
        for sha256, (name, facts, path) in known.documents.items():
            if name in kept:
                documents.setdefault(name, []).append((sha256, facts, path))
                warnings.setdefault(sha256, known.warnings.get(sha256, ()))
        return index.encode({**good, **kept}, documents, warnings, others)


def _nothing(files: Sequence[str], documents: Mapping[str, Sequence[tuple[str, Located]]]) -> str:
    """As Catalog.nothing."""
    schemas = sorted({orjson.loads(at.facts)[1]["schema"] for _, at in documents.get("", ())})
    said = f"there is no document of schema {PACKAGE}; {there(files)}"
    if schemas:
        said += f". The schemas in them are {first_of(schemas, _SCHEMAS_SHOWN)}"
    if any(schema.startswith(_TEMPLATE) for schema in schemas):
        said += ": a template, of which `opm alpha render-template` makes a catalog"
    if any(path.rpartition("/")[2] == "Kptfile" for path in files):
        said += ". A Kptfile is there: format KRM reads those"
    return said


def _place_of(finding: Finding) -> tuple[str, int, int]:
    return finding.path, finding.document, finding.line


def _told(findings: list[Finding]) -> list[Finding]:
    """In order of path and document; with very many, the last of them are only counted."""
    ordered = sorted(findings, key=_place_of)
    if len(ordered) > _MOST_FINDINGS:
        ordered[_MOST_FINDINGS:] = [Finding("MoreFindings", f"{len(ordered) - _MOST_FINDINGS} more are not listed")]
    return ordered


def _plan(root: Path, paths: Sequence[str], found: _Gathered) -> list[list[Part]]:
    """Jobs, the largest first so that all workers end together. Files that cannot be read become findings."""
    parts: list[Part] = []
    for path in paths:
        try:
            parts += _parts(root, path)
        except OSError as exc:
            found.damaged(Finding("Unreadable", f"cannot be read: {exc.strerror}", path))
    parts.sort(key=lambda part: part.start - part.end)
    return list(batched(parts, lambda part: part.end - part.start, _BATCH_BYTES, _BATCH_FILES))


def _parts(root: Path, path: str) -> list[Part]:
    size = (root / path).stat().st_size
    if size > 2 * _PART_BYTES:
        with splitter.mapped(root / path) as view:
            # JSON is 10 times as fast, and its documents cannot be found from the middle.
            if not splitter.is_json(view):
                return [Part(path, at, min(at + _PART_BYTES, size)) for at in range(0, size, _PART_BYTES)]
    return [Part(path, 0, size)]


def _facts_bytes(group: Group) -> int:
    return sum(len(located.facts) for located in group.documents)
