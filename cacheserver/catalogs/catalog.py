"""What goes into a parse and what comes out of it. Pure data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Protocol

from cacheserver.model import BlobFile, Digest, Format, Record
from cacheserver.slotted import slotted

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total bytes). Cheap, may be called often."""


class Files(Protocol):
    """The content to parse: what a source's fetch brings (sources.Tree)."""

    @property
    def root(self) -> Path:
        """Where they are."""
        ...

    @property
    def files(self) -> tuple[str, ...]:
        """Regular files, relative to root with `/`, sorted; confined to root and capped by the source."""
        ...

    @property
    def refused(self) -> tuple[tuple[str, str], ...]:
        """(path, reason) of entries that the source left out."""
        ...

    @property
    def format(self) -> Format | None:
        """Decided already, where it had to be known to fetch the files; else None."""
        ...


@slotted(frozen=True)
class Manifests:
    """PackageManifests are wanted of the packages (FBC), and what they say of the catalog: its names for people, and
    labels that all of them have."""

    display_name: str = ""
    publisher: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@slotted(frozen=True)
class Problem:
    """What is wrong with something whose place is known from elsewhere: a document, or a tree of a package's files.

    reason, message: as Finding's. path: of a file in the package (KRM), empty where it is about all of them.
    """

    reason: str
    message: str
    path: str = ""


@slotted(frozen=True)
class Finding:
    """Why something was rejected or looked at twice, for people: file, document and line where known."""

    reason: str
    """CamelCase, stable: `DuplicateBundle`, `NoChannelHead`, `YAMLSyntax`, `TooLarge`..."""
    message: str
    path: str = ""
    document: int = 0
    """1-based index of the document in its file; 0 when the finding is about the file."""
    line: int = 0
    package: str = ""
    warning: bool = False
    """True: shown, but nothing is refused for it."""


@slotted(frozen=True)
class ParsedPackage:
    """One package that is good. `records`: revisions first, the package itself last.

    input_hash: over everything it was made from; equal hashes mean equal records.
    """

    name: str
    input_hash: str
    records: Sequence[Record]


@slotted(frozen=True)
class Catalog:
    """The outcome of one parse.

    packages: good ones that changed since `known`, sorted by name.
    unchanged: names of good packages whose input_hash is the one in `known`; not parsed again.
    rejected: package name -> its findings (at least one is not a warning).
    cause: the first finding about a file that could not be read, so that packages may be missing through no wish of the
    author; what is rejected may follow from it.
    findings: everything found, rejections and warnings, in order of path and document.
    index: opaque bytes to hand in as `known` next time (it covers the good packages only).
    blobs: digest -> file in scratch: icons, and packages' files as a tar (archive.py). Those of `packages` only.
    """

    packages: Sequence[ParsedPackage]
    unchanged: Sequence[str]
    rejected: Mapping[str, Sequence[Finding]]
    findings: Sequence[Finding]
    index: bytes
    blobs: Mapping[Digest, BlobFile] = field(default_factory=dict)
    measures: Mapping[Digest, tuple[int, int]] = field(default_factory=dict)
    """FBC: of the blobs with documents of the packages that changed, the bytes unpacked and how many documents."""
    documents: Digest | None = None
    """FBC: the blob with the documents of no package, if there are any; in `blobs` unless it is the one of `known`."""
    revisions: int = 0
    """Revisions of all good packages, the unchanged ones included."""
    cause: Finding | None = None
    nothing: str = ""
    """Where there is no package at all, good or not: what was looked for, and what is there instead, for people."""
    ignored_tags: int = 0
    """Tags of a git repository that name no package; the first of them are among the warnings (KRM)."""

    @property
    def unreadable(self) -> bool:
        """Whether some file could not be read."""
        return self.cause is not None
