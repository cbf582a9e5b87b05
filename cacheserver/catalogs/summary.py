"""Catalog text cut to what a served summary may hold (about 2 KB an object). The content keeps everything, uncut."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

SUMMARY_CHARACTERS: Final = 200  # api.md, Package.status.summary
MOST_KEYWORDS: Final = 12
MOST_CATEGORIES: Final = 8
MOST_APIS: Final = 32
MOST_DEPENDENCIES: Final = 16
MOST_SKIPS: Final = 128
MOST_CHANNELS: Final = 32
LONGEST_NAME: Final = 253
LONGEST_WORD: Final = 63
LONGEST_MESSAGE: Final = 1024
"""Ours, all of them: real data stays below (90 skips an entry, 24 channels a package, 40 APIs a bundle at most)."""

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


def words(found: Iterable[str], most: int) -> tuple[str, ...]:
    """The first `most` different non-empty words, in order, each cut to 63 characters."""
    kept = dict.fromkeys(clip(word.strip(), LONGEST_WORD) for word in found if word.strip())
    return tuple(kept)[:most]
