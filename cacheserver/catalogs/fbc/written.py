"""A document written again: indented for people who compare, or as one line. Pure, runs in a worker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import orjson

from cacheserver.catalogs.documents.document import JSON, DocumentError, Object
from cacheserver.catalogs.limits import ParseLimits

_INDENT: Final = 2
_TIMES: Final = 2
"""How much larger than the largest document an indented one may be: blanks add half to real ones."""


def canonical(document: JSON) -> bytes:
    """One line as declcfg re-encodes it: keys sorted, numbers as Go prints them. Raises: DocumentError."""
    return _dumps(document, orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def indented(document: Object, limits: ParseLimits) -> bytes:
    """As canonical, by two spaces a level, so that `diff` shows what changed. Raises: DocumentError, as
    canonical, and TooLarge.

    Blanks of a document that nests 200 levels can be 200 times its text: counted before they are written.
    """
    size, most = len(canonical(document)), _TIMES * limits.document_bytes
    # A line is a byte of the text at least, and gets a line break, a space behind its colon and its indent. So what is
    # under 80 kB, as most are, fits however it nests: looking at each member took a quarter of reading a bundle.
    if size * (2 + _INDENT * (limits.depth + 1)) > most and (size := size + _blanks(document)) > most:
        raise DocumentError("TooLarge", f"{size} bytes when it is indented; the limit is {most}: nest it less")
    return _dumps(document, orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE | orjson.OPT_INDENT_2)


def _dumps(document: JSON, options: int) -> bytes:
    try:
        return orjson.dumps(document, option=options)
    except orjson.JSONEncodeError as exc:
        raise DocumentError("TooDeep", f"cannot be written as JSON: {exc}") from exc


def _blanks(document: Object) -> int:
    """Line breaks and spaces that indenting adds: each member on a line of its own, a space behind each colon."""
    level: list[Iterable[JSON]] = [document.values()] if document else []
    found = count = len(document)
    indent = 0
    while level:
        indent += _INDENT
        found += count * (1 + indent) + len(level) * (1 + indent - _INDENT)
        below: list[Iterable[JSON]] = []
        count = 0
        for members in level:
            for member in members:
                if isinstance(member, dict) and member:
                    below.append(member.values())
                    count += len(member)
                    found += len(member)
                elif isinstance(member, list) and member:
                    below.append(member)
                    count += len(member)
        level = below
    return found
