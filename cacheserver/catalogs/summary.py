"""Catalog text for people: one line of a description. Lists are whole, as far as a record holds them (bounds.py)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

SUMMARY_CHARACTERS: Final = 200  # ours: a line of a terminal or a tile; docs/reference/kinds.md
LONGEST_NAME: Final = 253
"""Of a name that is served or in a message; and of one that a finding shows."""
LONGEST_TEXT: Final = 4096
"""Ours: of one text of a summary (a name, a URL). Real ones stay under 100."""
LONGEST_MESSAGE: Final = 1024
"""Ours: of a finding's message. What it quotes comes from the catalog, and may be as long as a document."""

_SPACE = re.compile(r"\s+")
_MARKDOWN = re.compile(r"^[#*>\s]+")


def clip(text: str, most: int) -> str:
    """`text` with at most `most` characters, the last one an ellipsis when something was cut."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def summarise(description: str) -> str:
    """The first paragraph as one line, without leading Markdown marks, cut between words."""
    # Bounded first: descriptions of 100 KB exist, and one line of 200 characters is wanted.
    paragraphs = (paragraph for paragraph in description[:8192].split("\n\n") if not _is_heading(paragraph))
    line = _SPACE.sub(" ", _MARKDOWN.sub("", next(paragraphs, ""))).strip()
    if len(line) <= SUMMARY_CHARACTERS:
        return line
    cut = line[: SUMMARY_CHARACTERS - 1]
    return (cut.rpartition(" ")[0] or cut).rstrip(" ,;:.") + "…"


def _is_heading(paragraph: str) -> bool:
    bare = paragraph.strip()
    return not bare or (bare.startswith("#") and "\n" not in bare)


def words(found: Iterable[str]) -> list[str]:
    """The different non-empty words, in order."""
    return list(dict.fromkeys(word.strip() for word in found if word.strip()))
