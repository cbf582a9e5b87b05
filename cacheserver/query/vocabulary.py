"""Which words an index has, and which of them a word of a query stands for: begun, inflected, or misspelled. Pure.

Knows nothing of who has a word. Called by search.py.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections import Counter
from typing import Final

from cacheserver.query.words import edits, stem, trigrams

EXPANSIONS: Final = 200
"""Words that one word of a query stands for: those that begin with it, first those that fewest begin with."""
TRIED: Final = 20_000
"""Words that are compared by their trigrams for a misspelled one."""
_SHORTEST_MISSPELLED, _ONE_EDIT_UP_TO = 4, 7


class Vocabulary:
    """All words of an index: by their beginning, their stem and their letters. A word that nobody has goes."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self.texts: dict[int, str] = {}
        self._next = 0
        self._sorted: list[str] = []
        self._stems: dict[str, list[int]] = {}
        self._grams: dict[str, array[int]] = {}

    def place(self, word: str) -> int:
        """Its place, a new one where it is new: places only rise, so all that is kept of them is sorted."""
        at = self.places.get(word)
        if at is None:
            at, self._next = self._next, self._next + 1
            self.places[word], self.texts[at] = at, word
            insort(self._sorted, word)
            self._stems.setdefault(stem(word), []).append(at)
            for gram in trigrams(word):
                self._grams.setdefault(gram, array("Q")).append(at)
        return at

    def remove(self, at: int) -> None:
        """Nobody has it any more."""
        word = self.texts.pop(at)
        del self.places[word]
        del self._sorted[bisect_left(self._sorted, word)]
        same = self._stems[stem(word)]
        del same[bisect_left(same, at)]
        if not same:
            del self._stems[stem(word)]
        for gram in trigrams(word):
            places = self._grams[gram]
            places.pop(bisect_left(places, at))
            if not places:
                del self._grams[gram]

    def beginning(self, word: str) -> list[int]:
        """Those that begin with it, itself left out: the first EXPANSIONS in the order of the alphabet."""
        at = bisect_left(self._sorted, word)
        found: list[str] = []
        for each in self._sorted[at : at + EXPANSIONS]:
            if not each.startswith(word):
                break
            if each != word:
                found.append(each)
        return [self.places[each] for each in found]

    def of_stem(self, word: str) -> list[int]:
        """Those with its stem."""
        return self._stems.get(stem(word), [])[:EXPANSIONS]

    def like(self, word: str) -> list[tuple[int, int]]:
        """(edits, place) of those one edit away, or two for longer ones."""
        if len(word) < _SHORTEST_MISSPELLED:
            return []
        most = 1 if len(word) <= _ONE_EDIT_UP_TO else 2
        wanted = trigrams(word)
        shared: Counter[int] = Counter()
        left = TRIED
        for gram in sorted(wanted, key=lambda gram: len(self._grams.get(gram, ()))):
            places = self._grams.get(gram, ())
            left -= len(places)
            if left < 0:
                break
            shared.update(places)
        enough = max(len(wanted) - 4 * most, 1)  # an edit changes three trigrams at most, a swap four
        likely = [at for at, count in shared.most_common(EXPANSIONS) if count >= enough]
        found = ((edits(word, self.texts[at], most), at) for at in likely)
        return [(apart, at) for apart, at in found if apart <= most]
