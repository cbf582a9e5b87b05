"""Catalog text for people: one line of a description. Lists are whole, as far as a record holds them (bounds.py)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

SUMMARY_CHARACTERS: Final = 200  # ours: a line of a terminal or a tile; docs/reference/kinds.md
LONGEST_NAME: Final = 253
"""Of a name that is served or in a message; and of one that a finding shows."""
LONGEST_TEXT: Final = 4096
"""Ours: of one text of a summary (a name, a URL). Real ones stay under 100."""
LONGEST_MESSAGE: Final = 1024
"""Ours: of a finding's message. What it quotes comes from the catalog, and may be as long as a document."""

_TOP_SHOWN: Final = 10

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


def counted(count: int, one: str, many: str = "") -> str:
    """`1 package`, `2 packages`. many: where an s at the end is not enough."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def first_of(names: Sequence[str], most: int, *, of: int = 0) -> str:
    """The first `most` of the names, and how many more there are. of: how many there are, where `names` are fewer."""
    more = max(of, len(names)) - len(names[:most])
    return ", ".join(names[:most]) + (f" and {more} more" if more and names else "")


def there(paths: Iterable[str]) -> str:
    """What lies at the top of a tree with these files: `there are 3 files, in: docs/, README.md`."""
    names: set[str] = set()
    count = 0
    for path in paths:
        top, below, _ = path.partition("/")
        names.add(f"{clip(top, 63)}{below}")
        count += 1
    if not count:
        return "there is no file at all"
    return f"there {'is' if count == 1 else 'are'} {counted(count, 'file')}, in: {first_of(sorted(names), _TOP_SHOWN)}"
