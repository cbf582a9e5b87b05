"""What a document says it is: its schema, package and name, of a line of canonical JSON. Pure; runs in a thread.

A document of 16 MiB with all the objects that it may have (catalogs/limits.py) takes orjson 0.2 s, in which no other
thread has its turn, whatever thread it runs in. So a large one is walked through, in steps that each take microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import orjson

_DECODED_BYTES: Final = 512 << 10
"""Of a line that is decoded as a whole: 8 ms at most. The largest bundle of 7,831 real ones has 1.05 MB."""
_LONGEST_BYTES: Final = 64 << 10
"""Of a value, as it is written, that anybody could ask for: request lines are shorter (api/http)."""
_KEYS: Final = (b'"schema"', b'"package"', b'"name"')
_STRUCTURE: Final = re.compile(rb'["\[\]{}]')
_INSIDE: Final = re.compile(rb'(?:[^"\\]+|\\.)*+', re.DOTALL)
_STEP_BYTES: Final = 64 << 10
"""Looked at in one call, which no other thread can interrupt: 1 ms. An escape that is cut is taken with the next."""
_QUOTE, _COLON = b'":'
_OPENING: Final = b"[{"


def said(line: bytes) -> tuple[str, str, str]:
    """schema, package, name; empty for what is not there, is no text, or is longer than what anybody can ask for."""
    if len(line) <= _DECODED_BYTES:
        document = orjson.loads(line)
        values = [document.get(key) for key in ("schema", "package", "name")]
    else:
        found = {key: orjson.loads(value) for key, value in _texts(line) if len(value) <= _LONGEST_BYTES}
        values = [found.get(key) for key in _KEYS]
    schema, package, name = (value if isinstance(value, str) else "" for value in values)
    return schema, package, name


def _texts(line: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Members of the object whose values are texts, of those that are looked for: key and value as they are written."""
    depth, at = 0, 0
    while at < len(line):
        found = _STRUCTURE.search(line, at, at + _STEP_BYTES)
        if found is None:
            at += _STEP_BYTES
            continue
        start, at = found.span()
        if line[start] != _QUOTE:
            depth += 1 if line[start] in _OPENING else -1
            continue
        at = _behind_text(line, at)
        # A text before a colon is a key.
        if depth == 1 and line[at] == _COLON and (key := line[start:at]) in _KEYS and line[at + 1] == _QUOTE:
            start, at = at + 1, _behind_text(line, at + 2)
            yield key, line[start:at]


def _behind_text(line: bytes, at: int) -> int:
    """The place behind the quote that ends a text, which goes on at `at`."""
    while True:
        found = _INSIDE.match(line, at, at + _STEP_BYTES)
        at = found.end() if found is not None else at
        if line[at] == _QUOTE:
            return at + 1
