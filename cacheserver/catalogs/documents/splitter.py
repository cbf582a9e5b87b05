"""Files into documents: YAML streams at `---` lines, JSON streams between objects. Parses nothing.

Rules: k8s.io/apimachinery util/yaml (YAMLOrJSONDecoder), which OLM's loader reads with.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cacheserver.catalogs.documents.document import DocumentError
from cacheserver.slotted import slotted

View = mmap.mmap | bytes

_NEXT_SEPARATOR = re.compile(rb"\n---")
_BETWEEN_OBJECTS = re.compile(rb"\}[ \t\r]*\n[ \t\r\n]*(?=\{)")
_BLANK = re.compile(rb"[ \t\r\n]*")
_BLANK_TEXT = re.compile(r"[ \t\r\n]*")
_MIB = 1 << 20
_BOM = b"\xef\xbb\xbf"


@slotted()
class Piece:
    """One document as written. line: 1-based, in the part of the file that was asked for.

    error: why the piece cannot be used at all; `raw` is then empty.
    """

    raw: bytes
    line: int
    at: int
    """Where it begins in the file."""
    error: DocumentError | None = None
    next_line: int = 0
    """Of the line behind it."""


@contextmanager
def mapped(path: Path) -> Iterator[View]:
    """The file's bytes without holding them in memory. Raises: OSError."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            yield b""  # an empty file cannot be mapped
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            yield view


def is_json(view: View) -> bool:
    """Whether the first byte that is not a blank is `{`: the sniffing rule of YAMLOrJSONDecoder."""
    start = _first(view, 0)
    return view[start : start + 1] == b"{"


def json_pieces(view: View, limit: int) -> Iterator[Piece]:
    """The documents of a JSON stream, split where a `}` and a `{` are on different lines.

    Exact for valid JSON: no string holds a raw newline and no value a `}` followed by `{`. Objects that share a line
    stay in one piece; see objects().
    """
    at, line = _first(view, 0), 1 + _newlines(view, 0, _first(view, 0))
    while at < len(view):
        found = _BETWEEN_OBJECTS.search(view, at)
        end, following = (found.start() + 1, found.end()) if found else (len(view), len(view))
        piece = _piece(view, at, end, line, limit)
        line += _newlines(view, at, following)
        piece.next_line = line
        yield piece
        at = following


def objects(raw: bytes) -> Iterator[bytes]:
    """The JSON values in `raw`, which one parse refused: `{}{}` on one line. Each byte is looked at once.

    Raises: ValueError, at the first thing that is none; the values before it have been given out by then.
    """
    decoder, whole = json.JSONDecoder(), raw.decode(errors="surrogateescape")  # a bad byte is its own object's fault
    at = 0
    while at < len(whole):
        try:
            _, end = decoder.raw_decode(whole, at)
        except RecursionError:
            raise ValueError("nested too deep") from None
        yield whole[at:end].encode(errors="surrogateescape")
        blank = _BLANK_TEXT.match(whole, end)
        at = blank.end() if blank else end


def yaml_pieces(view: View, start: int, end: int, limit: int) -> Iterator[Piece]:
    """The documents whose separator line begins in [start, end); with start 0 the one before any separator as well.

    So parts of one file can be read side by side. Lines count from the first separator met (from 1 at start 0).
    """
    if start:
        # Not beyond `end`: every part of a file without separators would read it to its end.
        found = _NEXT_SEPARATOR.search(view, start - 1, end + len(b"---") - 1)
        if not found:
            return
        at = found.start() + 1
    else:
        at = _first(view, 0)
        if view[at : at + 3] != b"---":
            at = len(_BOM) if view[:3] == _BOM else 0
    line = 1 + (_newlines(view, 0, at) if not start else 0)
    while at < len(view):
        found = _NEXT_SEPARATOR.search(view, at)
        stop = found.start() + 1 if found else len(view)
        piece = _yaml_piece(view, at, stop, line, limit)
        line += _newlines(view, at, stop)
        piece.next_line = line
        yield piece
        at = stop
        if stop >= end:
            return


def _yaml_piece(view: View, at: int, stop: int, line: int, limit: int) -> Piece:
    """The document at [at, stop), its own separator line cut off."""
    if view[at : at + 3] != b"---":
        return _piece(view, at, stop, line, limit)
    body = view.find(b"\n", at, stop) + 1 or stop
    rest = view[at + 3 : min(body, at + 200)].strip()
    if rest and not rest.startswith(b"#"):
        # apimachinery YAMLReader: only blanks and a comment may follow; `--- a: b` and `----` are errors.
        shown = rest.decode(errors="replace")
        return Piece(b"", line, at, DocumentError("DocumentSeparator", f"invalid document separator: --- {shown}"))
    return _piece(view, body, stop, line + 1, limit)


def _piece(view: View, at: int, stop: int, line: int, limit: int) -> Piece:
    if stop - at > limit:
        return Piece(b"", line, at, DocumentError("DocumentTooLarge", f"{stop - at} bytes; the limit is {limit}"))
    raw = view[at:stop]
    nul = raw.find(b"\0")
    if nul >= 0:
        error = DocumentError("BinaryContent", "a NUL byte: this is not text", line=raw.count(b"\n", 0, nul) + 1)
        return Piece(b"", line, at, error)
    return Piece(raw, line, at)


def _first(view: View, at: int) -> int:
    """Where the first byte stands that is neither a blank nor a byte order mark."""
    if at == 0 and view[:3] == _BOM:
        at = 3
    found = _BLANK.match(view, at)
    return found.end() if found else at


def _newlines(view: View, at: int, stop: int) -> int:
    # By the MiB: a slice of the map is a copy, and a refused document may be as large as its file.
    return sum(view[part : min(part + _MIB, stop)].count(b"\n") for part in range(at, stop, _MIB))
