"""Text into words to be found by: lower case, without accents, parts of compounds, stems. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

LONGEST_WORD: Final = 40
"""Ours: of a word that is found by; of a longer one its beginning is."""
_SHORTEST_JOINED: Final = 4
_MARKED: Final = 16
"""Letters of a word that it is told from others by where it is misspelled: a trigram is kept for each."""
_DECOMPOSED: Final = 3
"""Letters that one comes to, as a Hangul syllable does; there are some that stand for eighteen."""

_WORD: Final = re.compile(r"[^\W_]+")
_CAMEL: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_UNSPACED: Final = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+)")
"""Kana and ideographs, which are written without spaces (Unicode, chapter 18)."""
_ENDINGS: Final = ("ations", "ation", "ions", "ion", "ings", "ing", "ies", "ied", "ed", "es", "s", "e", "y")
_SHORTEST_STEM: Final = 3
_STOP: Final = """
a an and are as at be by can for from has have in into is it its of on or that the their these this to use used using
via was which will with you your
"""
STOP: Final = frozenset(_STOP.split())


def folded(text: str) -> str:
    """Lower case without accents; compatibility forms as what they stand for (Unicode, normalization form KD), cut to
    _DECOMPOSED times the text."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text)[: _DECOMPOSED * len(text)]
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()


def words(text: str) -> list[str]:
    """Its words in order, folded; of what is written without spaces each two neighbouring characters."""
    found = _WORD.findall(folded(text))
    if not text.isascii():
        found = [part for each in found for part in _parts(each)]
    return [each[:LONGEST_WORD] for each in found]


def _parts(word: str) -> Iterator[str]:
    for at, part in enumerate(_UNSPACED.split(word)):
        if at % 2 and len(part) > 1:
            yield from (left + right for left, right in pairwise(part))
        elif part:
            yield part


def joined(parts: list[str]) -> Iterator[str]:
    """Neighbours as one word, for `argo-cd` is `argocd` to many; none of what is written without spaces."""
    parts = [part for part in parts if part.isascii() or not _UNSPACED.match(part)]
    for left, right in pairwise(parts):
        if len(left) + len(right) >= _SHORTEST_JOINED:
            yield (left + right)[:LONGEST_WORD]
    if len(parts) > 2:
        yield "".join(parts)[:LONGEST_WORD]


def camel(name: str) -> list[str]:
    """`RabbitmqCluster` as rabbitmq and cluster."""
    return [part.lower()[:LONGEST_WORD] for part in _CAMEL.findall(name)]


def stem(word: str) -> str:
    """What most forms of an English word begin with; the word itself where it is short."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST_STEM:
            return word[: -len(ending)]
    return word


def trigrams(word: str) -> set[str]:
    """Of the word behind a mark and, where it is no longer than most, before another: three letters each."""
    marked = f"^{word}$" if len(word) <= _MARKED else f"^{word[:_MARKED]}"
    return {marked[at : at + 3] for at in range(len(marked) - 2)}


def edits(one: str, other: str, most: int) -> int:
    """Letters to insert, delete, replace or swap with their neighbour (optimal string alignment); most + 1 for more."""
    if abs(len(one) - len(other)) > most:
        return most + 1
    before: list[int] = []
    row = list(range(len(other) + 1))
    for at, letter in enumerate(one, 1):
        older, before, row = before, row, [at]
        for to, wanted in enumerate(other, 1):
            cost = min(before[to] + 1, row[to - 1] + 1, before[to - 1] + (letter != wanted))
            if at > 1 and to > 1 and letter == other[to - 2] and one[at - 2] == wanted:
                cost = min(cost, older[to - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return most + 1
    return min(row[-1], most + 1)
