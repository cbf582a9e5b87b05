"""A package's documents as they were written, one blob a package, for views that need more than is served of them.

The blob holds one line of canonical JSON a document, byte for byte what operator-registry writes (alpha/declcfg,
encodeJSON), in the order in which its loader walks: directories by name, part by part, then as they are in a file.
Documents of schemas that nobody knows are among them. Runs in a worker; a line is written when its document is read,
and joined with the others when it is known which packages changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from cacheserver.catalogs.blobs import BlobWriter
from cacheserver.catalogs.documents.document import DocumentError, Object
from cacheserver.catalogs.fbc.wire import Kept, Part
from cacheserver.catalogs.fbc.written import canonical
from cacheserver.model import BlobFile, BlobHead, Digest

MEDIA_TYPE: Final = "application/jsonl"

_PIECE_BYTES: Final = 1 << 20
_ESCAPED: Final = (("\u2028".encode(), b"\\u2028"), ("\u2029".encode(), b"\\u2029"))
"""Go's encoding/json escapes these two also where it escapes no HTML."""


def path_of(scratch: Path, part: Part) -> Path:
    """Where the lines of a part stand."""
    return scratch / f"{hashlib.sha256(part.path.encode()).hexdigest()}-{part.start}.jsonl"


class LineWriter:
    """Writes the lines of one part, in order; makes no file where there is none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._at = 0

    def add(self, document: Object) -> tuple[int, int]:
        """Where the document's line stands: first byte, bytes. Raises: DocumentError, also when the disk is full."""
        line = canonical(document)
        for raw, escaped in _ESCAPED:
            line = line.replace(raw, escaped)
        try:
            if self._file is None:
                self._file = self._path.open("wb")
            self._file.write(line)
        except OSError as exc:
            raise DocumentError("ScratchFailed", f"its content cannot be set aside: {exc.strerror}") from exc
        at, self._at = self._at, self._at + len(line)
        return at, len(line)

    def close(self) -> None:
        """Raises: OSError when the disk is full."""
        if self._file is not None:
            self._file.close()


def join(lines: Sequence[Kept], blobs: BlobWriter) -> BlobFile:
    """The lines as one blob, read twice and never held. Raises: DocumentError when the disk is full, OSError."""
    hashed = hashlib.sha256()
    for piece in _pieces(lines):
        hashed.update(piece)
    head = BlobHead(Digest(f"sha256:{hashed.hexdigest()}"), sum(line.size for line in lines), MEDIA_TYPE)
    return blobs.write(head, _pieces(lines))


def read_line(line: Kept) -> bytes:
    """One document's line. Raises: OSError."""
    return b"".join(_pieces([line]))


def _pieces(lines: Sequence[Kept]) -> Iterator[bytes]:
    path, file = "", None
    try:
        for line in lines:
            if line.path != path:
                if file is not None:
                    file.close()
                path, file = line.path, Path(line.path).open("rb")  # noqa: SIM115 - for as long as lines come from it
            assert file is not None
            file.seek(line.at)
            left = line.size
            while left:
                piece = file.read(min(left, _PIECE_BYTES))
                if not piece:
                    raise OSError(f"{path} is not what was written")
                left -= len(piece)
                yield piece
    finally:
        if file is not None:
            file.close()
