"""YAML documents that have most of their text in common, as versions of a package do: each block of it is read once.

A document in block style is cut where a line begins with a plain key, or an item, in the column of its mapping or list.
Each piece is read by goyaml.py as a document of its own, and what it holds is remembered by its bytes. Nothing is read
by rules of ours: whatever a cut may have separated is then no document, and the whole is read as if nothing had been
tried. Runs in a worker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Final

from cacheserver.catalogs.documents import gorules, goyaml
from cacheserver.catalogs.documents.document import JSON, Object
from cacheserver.catalogs.limits import ParseLimits

_SMALLEST: Final = 2048
"""Of a document, and of a piece that is cut further: below, cutting costs more than libyaml does."""
_DEEPEST: Final = 10
"""Cuts within each other; each looks at all bytes of its piece."""
_PIECE_BYTES: Final = 256
"""Of a document's text for each piece that libyaml is asked about: that takes 20 us, as reading 300 bytes does. Where
pieces are smaller the document is read whole, so that none costs much more than twice what it would."""
_MOST_BYTES: Final = 4 << 20
_MOST_CONTAINERS: Final = 50_000
"""Of what is remembered, of one file: real ones hold at most 2 MiB of different text."""
_OPENS: Final = re.compile(rb"( *)([A-Za-z][A-Za-z0-9_./-]{0,127}):\n( *)(- )?(?=[A-Za-z])")
"""A key with nothing on its line, and in the next one a mapping's first key or a list's first item."""


class Blocks:
    """Reads the documents of one file. What it returns may share parts, so nobody changes it.

    smallest, piece_bytes: for tests.
    """

    def __init__(self, limits: ParseLimits, *, smallest: int = _SMALLEST, piece_bytes: int = _PIECE_BYTES) -> None:
        self._limits = limits
        self._smallest = smallest
        self._piece_bytes = piece_bytes
        self._left = 0
        self._known: dict[tuple[int, bytes], tuple[JSON, int]] = {}
        self._bytes = self._containers = 0

    def load(self, raw: bytes) -> goyaml.Loaded:
        """As goyaml.load, with the same value and the same errors."""
        if len(raw) >= self._smallest and raw[:1].isalpha():
            self._left = len(raw) // self._piece_bytes
            try:
                value, containers = self._mapping(raw, 0, 0)
            except goyaml.NotAloneError:
                pass
            else:
                if containers <= self._limits.containers:
                    return goyaml.Loaded(value)
        return goyaml.load(raw, self._limits)

    # Why pieces read alone are the whole. libyaml's scanner (scanner.c) knows of what is before a token: whether it is
    # within [] or {} or quotes, which end in the piece or make it no document; the columns of what is open, of which
    # it looks at the innermost alone, and that one begins in the piece; anchors and directives, which are refused
    # here. The end of a piece ends a scalar as the line behind does, which begins in the column of the piece itself.
    # A line left of that column ends the mapping or list, and more behind it is no document.

    def _mapping(self, text: bytes, column: int, depth: int) -> tuple[Object, int]:
        """Of keys in this column; and how many mappings and lists there are. Raises: NotAloneError."""
        into: Object = {}
        containers = 1
        for piece in _cut(text, column, b"[A-Za-z]"):
            value, found = self._piece(piece, depth)
            if not isinstance(value, dict) or not into.keys().isdisjoint(value):
                raise goyaml.NotAloneError("it is not what was cut")
            into.update(value)
            containers += found - 1
        return into, containers

    def _list(self, text: bytes, column: int, depth: int) -> tuple[list[JSON], int]:
        """As _mapping, of items in this column."""
        into: list[JSON] = []
        containers = 1
        for piece in _cut(text, column, b"- "):
            if len(piece) >= self._smallest and depth < _DEEPEST and piece[column + 2 : column + 3].isalpha():
                # A mapping that begins on the line of its item begins in the column of its key.
                one, found = self._mapping(b" " * (column + 2) + piece[column + 2 :], column + 2, depth + 1)
                into.append(one)
                containers += found
                continue
            some, found = self._piece(piece, depth)
            if not isinstance(some, list):
                raise goyaml.NotAloneError("it is not what was cut")
            into += some
            containers += found - 1
        return into, containers

    def _piece(self, piece: bytes, depth: int) -> tuple[JSON, int]:
        """Some of a mapping or list that is nested so deep, as one of its own."""
        if (known := self._known.get((depth, piece))) is not None:
            return known
        if depth < _DEEPEST and len(piece) >= self._smallest and (opens := _OPENS.match(piece)):
            before, key, indent, item = opens.groups()
            name, column = key.decode(), len(indent)
            if name not in gorules.WORDS and column + (item is not None) > len(before):
                rest = piece[opens.start(3) :]
                inner, found = (self._list if item else self._mapping)(rest, column, depth + 1)
                return {name: inner}, found + 1
        self._left -= 1
        if self._left < 0:
            raise goyaml.NotAloneError("the pieces are too small")
        read = goyaml.load_piece(piece, self._limits, depth)
        self._remember(depth, piece, read)
        return read

    def _remember(self, depth: int, piece: bytes, read: tuple[JSON, int]) -> None:
        self._bytes += len(piece)
        self._containers += read[1]
        if self._bytes > _MOST_BYTES or self._containers > _MOST_CONTAINERS:
            self._known.clear()
            self._bytes, self._containers = len(piece), read[1]
        self._known[depth, piece] = read


def _cut(text: bytes, column: int, begins: bytes) -> Iterator[bytes]:
    """From each line that begins so in this column to the next one; the first line is one."""
    at = 0
    for found in _line(column, begins).finditer(text):
        yield text[at : found.start() + 1]
        at = found.start() + 1
    yield text[at:]


@cache
def _line(column: int, begins: bytes) -> re.Pattern[bytes]:
    return re.compile(b"\n" + b" " * column + begins)
