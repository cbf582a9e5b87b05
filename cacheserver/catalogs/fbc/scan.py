"""Files into facts and blobs, document by document; runs in a worker. A document that cannot be used is a finding."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from cacheserver.catalogs.blobs import writer
from cacheserver.catalogs.catalog import Finding
from cacheserver.catalogs.documents import gorules, goyaml, splitter
from cacheserver.catalogs.documents.document import DocumentError, as_object
from cacheserver.catalogs.documents.repeated import Blocks
from cacheserver.catalogs.documents.splitter import Piece
from cacheserver.catalogs.fbc import facts as f
from cacheserver.catalogs.fbc.raw import LineWriter, path_of
from cacheserver.catalogs.fbc.read import Blob, read
from cacheserver.catalogs.fbc.wire import Part, Report, Seen
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.catalogs.summary import LONGEST_MESSAGE, LONGEST_NAME, clip
from cacheserver.model import BlobHead, Digest

Load = Callable[[bytes], goyaml.Loaded]

_OF_THE_TEXT: Final = frozenset({"JSONSyntax", "InvalidUTF8"})
"""Reasons that may be those of one of several objects on a line."""


def scan(part: Part, root: Path, known: frozenset[bytes], scratch: Path | None, limits: ParseLimits) -> Report:
    """What the part holds. Whatever is wrong with the file is among the findings; nothing is raised for it.

    known: sha256 of documents that need no parsing. scratch: for content and for documents' lines (raw.py); None writes
    none.
    """
    report = Report(part)
    reader = _Reader(report, known, scratch, limits)
    try:
        size = (root / part.path).stat().st_size
        if size > limits.file_bytes:
            if part.start == 0:
                message = f"{size} bytes; the limit for a file is {limits.file_bytes}"
                report.findings.append(Finding("FileTooLarge", message, part.path))
                report.unclear = True
            return report
        with splitter.mapped(root / part.path) as view:
            if part.start == 0 and splitter.is_json(view):
                reader.json_stream(view)
            else:
                reader.yaml_stream(view, part.start, part.end)
        reader.close()
    except OSError as exc:
        report.findings.append(Finding("Unreadable", f"cannot be read: {exc.strerror}", part.path))
        report.unclear = True
    return report


class _TooManyDocumentsError(Exception):
    """The rest of the file is not read."""


class _Reader:
    """Turns the pieces of one part into its report."""

    def __init__(self, report: Report, known: frozenset[bytes], scratch: Path | None, limits: ParseLimits) -> None:
        self._report = report
        self._known = known
        self._blobs = writer(scratch) if scratch else None
        self._lines = LineWriter(path_of(scratch, report.part)) if scratch else None
        self._limits = limits
        self._blocks = Blocks(limits)
        self._untold = self._untold_warnings = 0

    def close(self) -> None:
        """Raises: OSError when the disk is full."""
        if self._lines:
            self._lines.close()

    def json_stream(self, view: splitter.View) -> None:
        """A stream that begins as JSON turns into YAML where the second document at the latest is not JSON (as in
        apimachinery's YAMLOrJSONDecoder): `{a: b}` is YAML."""
        for piece in splitter.json_pieces(view, self._limits.document_bytes):
            try:
                self._read(piece, self._load_json)
            except _TooManyDocumentsError:
                break
            except DocumentError as exc:
                if exc.reason == "JSONSyntax" and self._report.documents <= 2 and self._is_yaml(piece):
                    self._report.documents -= 1
                    self.yaml_stream(view[piece.at :], 0, len(view), line=piece.line)
                    return
                self._refuse(piece, exc)
        self._tell_untold()

    def yaml_stream(self, view: splitter.View, start: int, end: int, *, line: int = 1) -> None:
        for piece in splitter.yaml_pieces(view, start, end, self._limits.document_bytes):
            piece.line += line - 1
            self._report.lines = piece.next_line - 1
            try:
                self._read(piece, self._load_yaml)
            except _TooManyDocumentsError:
                break
            except DocumentError as exc:
                self._refuse(piece, exc)
        self._tell_untold()

    def _read(self, piece: Piece, load: Load) -> None:
        """Adds the piece's documents. Raises: DocumentError for one that cannot be used."""
        if not piece.error and not piece.raw.strip():
            return
        if self._report.documents >= self._limits.documents:
            message = f"more than {self._limits.documents} documents; the rest of the file is not read"
            self._report.findings.append(Finding("TooManyDocuments", message, self._report.part.path, line=piece.line))
            self._report.unclear = True
            raise _TooManyDocumentsError
        self._report.documents += 1
        if piece.error:
            raise piece.error
        digest = hashlib.sha256(piece.raw)
        if digest.digest() in self._known:
            self._seen(piece, digest.hexdigest(), "", "")
            return
        try:
            try:
                self._document(piece, digest.hexdigest(), load(piece.raw))
            except DocumentError as exc:
                objects = _objects(piece.raw) if load == self._load_json and exc.reason in _OF_THE_TEXT else ()
                if len(objects) < 2:
                    raise
                self._several(piece, objects)
        except MemoryError:
            raise DocumentError("TooLarge", "does not fit into the worker's memory") from None

    def _several(self, piece: Piece, objects: Sequence[bytes]) -> None:
        """The objects of one piece, which share a line; each is good or bad for itself. They are never known, and so
        parsed each time: none has the digest of the piece."""
        digest, line, at, end = hashlib.sha256(piece.raw), piece.line, 0, 0
        for number, raw in enumerate(objects):
            self._report.documents += number > 0
            digest.update(b"\n%d" % number)
            begins = piece.raw.index(raw, end)
            line += piece.raw.count(b"\n", at, begins)
            at, end = begins, begins + len(raw)
            one = Piece(raw, line, piece.at + begins)
            try:
                self._document(one, digest.hexdigest(), self._load_json(raw))
            except DocumentError as exc:
                self._refuse(one, exc)

    def _document(self, piece: Piece, sha256: str, loaded: goyaml.Loaded) -> None:
        if isinstance(loaded.value, goyaml.Nothing):
            self._report.documents -= 1
            return
        facts, blob = read(loaded.value, self._limits)
        package = f.package_of(facts.subject)
        if not package and not isinstance(facts.subject, f.Other):
            what = "name" if isinstance(facts.subject, f.Package) else "package"
            raise DocumentError("MissingPackage", f"{what} must be set: it says which package the document belongs to")
        if len(package) > LONGEST_NAME:
            shown = clip(package, LONGEST_NAME)
            message = f"the package's name has {len(package)} characters; the limit is {LONGEST_NAME}: {shown!r}"
            raise DocumentError("NameTooLong", message, package=shown)
        if loaded.duplicates:
            key, line = loaded.duplicates[0]
            more = f" and {len(loaded.duplicates) - 1} more" if len(loaded.duplicates) > 1 else ""
            message = f"duplicate key {key!r}{more}; the last one counts"
            self._add(Finding("DuplicateKey", message, line=piece.line + line - 1, warning=True))
        if blob and self._blobs:
            try:
                self._report.blobs.append(self._blobs.write(_head(blob), blob.content))
            except DocumentError as exc:
                exc.package = package
                raise
        at, size = self._lines.add(as_object(loaded.value, "") or {}) if self._lines else (0, 0)
        self._seen(piece, sha256, package, f.encode(facts), at, size)

    def _seen(self, piece: Piece, sha256: str, package: str, facts: str, at: int = 0, size: int = 0) -> None:
        self._report.seen.append(Seen(sha256, package, facts, self._report.documents, piece.line, at, size))

    def _refuse(self, piece: Piece, error: DocumentError) -> None:
        if error.package:
            self._report.spoilt.append(clip(error.package, LONGEST_NAME))
        else:
            self._report.unclear = True
        line = piece.line + max(error.line - 1, 0)
        self._add(Finding(error.reason, str(error), line=line))

    def _add(self, finding: Finding) -> None:
        if len(self._report.findings) >= self._limits.findings:
            self._untold += not finding.warning
            self._untold_warnings += finding.warning
            return
        part, documents = self._report.part, self._report.documents
        self._report.findings.append(
            replace(finding, message=clip(finding.message, LONGEST_MESSAGE), path=part.path, document=documents)
        )

    def _tell_untold(self) -> None:
        for count, warning in ((self._untold, False), (self._untold_warnings, True)):
            if count:
                message = f"{count} more {'warnings' if warning else 'findings'} in this file are not listed"
                self._report.findings.append(Finding("MoreFindings", message, self._report.part.path, warning=warning))

    def _load_yaml(self, raw: bytes) -> goyaml.Loaded:
        return self._blocks.load(raw)

    def _load_json(self, raw: bytes) -> goyaml.Loaded:
        """Duplicate keys: the last one wins, untold."""
        return goyaml.Loaded(gorules.from_json(raw, self._limits))

    def _is_yaml(self, piece: Piece) -> bool:
        try:
            return isinstance(goyaml.load(piece.raw.partition(b"\n---")[0], self._limits).value, dict)
        except DocumentError:
            return False


def _objects(raw: bytes) -> Sequence[bytes]:
    """The JSON values in `raw`; none where anything else is between them."""
    try:
        return list(splitter.objects(raw))
    except ValueError:
        return ()


def _head(blob: Blob) -> BlobHead:
    return BlobHead(Digest(blob.digest), len(blob.content), blob.media_type, blob.files)
