"""Finds packages by words: an index of what their objects say, and a ranked answer within one scope of namespaces.

What lies outside of the scope is not counted, not even in how rare a word is or whether it is known: an answer tells
nothing of it. Text is indexed once a package, as its object has it. Pure: whoever searches is given the work in steps,
and takes breaks between them; what changes meanwhile is found or not.
"""

from __future__ import annotations

import heapq
import math
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import lru_cache
from itertools import chain, islice
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, TypeVar

from cacheserver.query.vocabulary import TRIED, Vocabulary
from cacheserver.query.words import LONGEST_WORD, STOP, camel, folded, joined, words
from cacheserver.slotted import slotted

TEXT_CHARACTERS: Final = 512
"""Of a query; longer ones are refused by whoever asks. People type 30."""
QUERY_WORDS: Final = 8
"""Different ones of a query that count; the first ones."""
_KINDS: Final = 300
_KEYWORDS: Final = 200
_CHARACTERS: Final = 1_024
"""Of one text; real ones stay under 200 (catalogs/summary.py)."""
DOCUMENT_CHARACTERS: Final = 16_384
"""Of all texts of a package, the heaviest first; of other alphabets a third of it. Real ones have 1,500. They are taken
without a break, in 7 ms at most."""
MOST_WORDS: Final = 400
"""Of a package, the heaviest: real ones have 20 to 150. A new word takes 10 us, and it is put in without a break."""
WORDS_MOST: Final = 150_000
"""Of all packages together: 100 MB as people write, 400 of the worst. 5,000 packages have 75,000. Behind that a package
is found by words that others have as well, and by its name, whatever that is."""
MOST_HITS: Final = 1_000
"""That are ranked; all are counted."""
_CHUNK: Final = 2_048
"""Entries that are looked at without a break: 0.3 ms."""

NAME, DISPLAY, KIND, KEYWORD, PROVIDER, SUMMARY = 8, 6, 5, 4, 2, 1
"""Weights of where a word stands."""
FIELDS: Final = {
    NAME: "name",
    DISPLAY: "displayName",
    KIND: "providedAPIs",
    KEYWORD: "keywords",
    PROVIDER: "provider",
    SUMMARY: "summary",
}
FACET_VALUES: Final = 50
"""Of a facet; a page shows ten."""
_EXACT, _PREFIX, _STEM, _ONE_EDIT, _TWO_EDITS = 1.0, 0.6, 0.8, 0.5, 0.25
_SAME_NAME: Final = 100.0
_DEPRECATED: Final = 0.6
_COMMON_SHARE: Final = 4
"""A word in more than this part of all packages finds none by itself."""

_RANKED_CHUNK: Final = 256
"""Hits that are ranked without a break: 0.5 ms."""
_T = TypeVar("_T")

PackageName = tuple[str, str]
"""(namespace, name) of a Package."""


@slotted(frozen=True)
class Facts:
    """What a package is filtered and counted by."""

    name: PackageName
    package: str
    repository: str = ""
    format: str = ""
    provider: str = ""
    latest: str = ""
    categories: tuple[str, ...] = ()
    deprecated: bool = False
    names: frozenset[str] = frozenset()
    """The package's and its display name, as one word each."""


@slotted(frozen=True)
class _Document:
    """terms: of each word its place among all words, times 16, plus its weight."""

    facts: Facts
    terms: array[int]


@slotted(frozen=True)
class Hit:
    """A package that was found. matched: the fields that made it, the heaviest first."""

    facts: Facts
    score: float
    matched: tuple[str, ...] = ()


@slotted(frozen=True)
class Found:
    """The best hits first, MOST_HITS at most. total: of all; facets: how many hits have each value of each."""

    hits: Sequence[Hit] = ()
    total: int = 0
    facets: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


Steps = Generator[int, None, Found]
"""A search under way: yields the entries that it looks at next, some 4,000 at most; 1,000 take 0.15 ms."""
Filter = Callable[[Facts], bool]
Chosen = Mapping[str, frozenset[str]]
"""Values of facets, by their name: a package has to have one of each. Facets are FACETS."""
NOTHING_CHOSEN: Final[Chosen] = MappingProxyType({})
_Scores = dict[int, tuple[float, int]]
"""Of each package its score and, as bits, the weights of what matched."""


def document_words(manifest: Mapping[str, Any]) -> tuple[Facts, dict[str, int]]:
    """Facts of a Package object, and its words with their weights."""
    spec, status, metadata = manifest["spec"], manifest.get("status", {}), manifest["metadata"]
    weights: dict[str, int] = {}
    left = DOCUMENT_CHARACTERS

    def read(text: str) -> str:
        nonlocal left
        taken = text[: min(_CHARACTERS, left)]
        left = max(left - (len(taken) if taken.isascii() else 3 * len(taken)), 0)
        return taken

    def add(weight: int, found: Iterable[str]) -> None:
        for word in found:
            if word not in STOP and weights.get(word, 0) < weight and (word in weights or len(weights) < MOST_WORDS):
                weights[word] = weight

    def add_text(weight: int, text: str) -> None:
        parts = words(read(text))
        add(weight, (*parts, *joined(parts)))

    name, display = spec.get("packageName", ""), status.get("displayName", "")
    for weight, text in ((NAME, name), (DISPLAY, display)):
        add_text(weight, text)
        add(weight - 1, (part for word in text[:_CHARACTERS].split() for part in camel(word)))
    for keyword in (status.get("keywords") or ())[:_KEYWORDS]:
        add_text(KEYWORD, keyword)
    for api in (status.get("providedAPIs") or ())[:_KINDS]:
        kind = read(str(api.get("kind", "")))
        add(KIND, (folded(kind)[:LONGEST_WORD],))
        add(KIND - 1, camel(kind))
        # All of it, for people paste an apiVersion; what most packages have finds none by itself.
        add(PROVIDER, words(read(f"{api.get('group', '')} {api.get('version', '')}")))
    provider = status.get("provider", {}).get("name", "")
    for text in (provider, *(status.get("categories") or ())[:_KEYWORDS]):
        add_text(PROVIDER, text)
    add(SUMMARY, words(read(status.get("summary", ""))))
    facts = Facts(
        (metadata["namespace"], metadata["name"]),
        name,
        spec.get("repository", ""),
        spec.get("format", ""),
        provider,
        status.get("latest", {}).get("version", ""),
        tuple((status.get("categories") or ())[:_KEYWORDS]),
        bool(status.get("deprecation")),
        frozenset("".join(words(text)) for text in (name, name.rpartition("/")[2], display[:_CHARACTERS]) if text),
    )
    return facts, weights


class SearchIndex:
    """See the module. One for all namespaces. most_words: different ones that it has."""

    def __init__(self, most_words: int = WORDS_MOST) -> None:
        self._words = Vocabulary()
        self._most_words = most_words
        self._postings: dict[int, array[int]] = {}
        self._documents: dict[int, _Document] = {}
        self._namespaces: dict[int, str] = {}
        self._ids: dict[PackageName, int] = {}
        self._in_namespace: Counter[str] = Counter()
        self._next = 0

    def __len__(self) -> int:
        """How many packages it has."""
        return len(self._documents)

    def put(self, manifest: Mapping[str, Any]) -> None:
        """A Package as it is now, in the place of what it was."""
        facts, weights = document_words(manifest)
        identity, self._next = self._next, self._next + 1
        terms = array("Q", self._terms(weights))
        for term in terms:
            # Identities only rise, so every array is sorted.
            self._postings.setdefault(term >> 4, array("Q")).append(identity << 4 | term & 15)
        self.remove(facts.name)  # behind what it has now: words that it had before stay
        self._documents[identity] = _Document(facts, terms)
        self._namespaces[identity] = facts.name[0]
        self._ids[facts.name] = identity
        self._in_namespace[facts.name[0]] += 1

    def _terms(self, weights: Mapping[str, int]) -> Iterator[int]:
        known = self._words.places
        for word, weight in weights.items():
            if weight >= NAME - 1 or word in known or len(known) < self._most_words:
                yield self._words.place(word) << 4 | weight

    def remove(self, name: PackageName) -> None:
        """It is gone; nothing happens where it never was."""
        identity = self._ids.pop(name, None)
        if identity is None:
            return
        del self._namespaces[identity]
        for term in self._documents.pop(identity).terms:
            at = term >> 4
            postings = self._postings[at]
            postings.pop(bisect_left(postings, identity << 4))
            if not postings:
                del self._postings[at]
                self._words.remove(at)
        self._in_namespace[name[0]] -= 1
        if not self._in_namespace[name[0]]:
            del self._in_namespace[name[0]]

    def search(
        self,
        text: str,
        namespace: str | None = None,
        keep: Filter | None = None,
        *,
        chosen: Chosen = NOTHING_CHOSEN,
        facets: bool = False,
        by_name: bool = False,
        most: int = MOST_HITS,
    ) -> Steps:
        """Packages that have the words, best first; of an empty text all, by name.

        namespace: the scope; None: all. keep: what else they must be; what it leaves out is not counted. facets:
        whether they are counted, which is a third of the work: each as if none of its own values were chosen, for
        whoever would choose another one. by_name: in that order. most: hits that are wanted.
        """
        said = words(text)
        if said:
            asked = list(dict.fromkeys(word for word in said if word not in STOP) or dict.fromkeys(said))[:QUERY_WORDS]
            scores = yield from self._scored(asked, namespace)
            one = "".join(said)[:LONGEST_WORD]
            if len(said) > 1:
                for identity, found in (yield from self._scored([one], namespace)).items():
                    if found[0] > scores.get(identity, _NOTHING)[0]:
                        scores[identity] = found
        else:
            one, scores = "", {}
            for some in _chunks([i for i, where in self._namespaces.items() if namespace in (None, where)]):
                yield len(some)
                scores.update(dict.fromkeys(some, _NOTHING))
        return (yield from self._ranked(scores, one, keep, chosen, most, facets=facets, by_name=by_name))

    def _ranked(
        self, scores: _Scores, one: str, keep: Filter | None, chosen: Chosen, most: int, *, facets: bool, by_name: bool
    ) -> Steps:
        """one: the whole query as one word."""
        runs: list[list[tuple[float, int, str, PackageName, int]]] = []
        kept: list[Facts] = []
        but: dict[str, list[Facts]] = {name: [] for name in chosen}  # what this facet alone leaves out
        for some in _chunks(list(scores), _RANKED_CHUNK):
            yield 8 * len(some)
            hits = []
            for identity in some:
                document = self._documents.get(identity)
                if document is None or (keep is not None and not keep(document.facts)):
                    continue
                facts = document.facts
                if chosen and (missed := _missed(facts, chosen)):
                    if len(missed) == 1:
                        but[missed[0]].append(facts)
                    continue
                kept.append(facts)
                if by_name:
                    hits.append((0.0, 0, facts.package, facts.name, identity))
                else:
                    score = _total(facts, scores[identity][0], one)
                    hits.append((-score, len(facts.package), facts.package, facts.name, identity))
            hits.sort()
            runs.append(hits)
        yield 4 * min(most, MOST_HITS)
        best = list(islice(heapq.merge(*runs), min(most, MOST_HITS)))
        counts = (yield from _facets(kept, but)) if facets else {}
        yield 4 * len(best)
        found = [
            Hit(
                document.facts,
                round(_total(document.facts, scores[identity][0], one), 4),
                _matched(scores[identity][1]),
            )
            for _, _, _, _, identity in best
            if (document := self._documents.get(identity)) is not None
        ]
        return Found(found, len(kept), counts)

    def _scored(self, asked: Sequence[str], namespace: str | None) -> Generator[int, None, _Scores]:
        total = self._in_namespace[namespace] if namespace is not None else len(self._documents)
        rare: list[_Scores] = []
        common: list[_Scores] = []
        for word in asked:
            found = yield from self._matching(word, namespace, total)
            is_common = len(found) * _COMMON_SHARE > total > 2 * _COMMON_SHARE
            (common if is_common and len(asked) > 1 else rare).append(found)
        if not rare:
            rare, common = common, []
        if len(rare) == 1 and not common:
            return rare[0]
        needed = len(rare) if len(rare) < 3 else math.ceil(len(rare) * 2 / 3)
        sums: dict[int, tuple[float, int, int]] = {}
        for found in rare:
            yield len(found)
            for identity, (score, fields) in found.items():
                had, count, matched = sums.get(identity, (0.0, 0, 0))
                sums[identity] = (had + score, count + 1, matched | fields)
        for found in common:  # they find nothing by themselves
            yield len(found)
            for identity in sums.keys() & found.keys():
                had, count, matched = sums[identity]
                sums[identity] = (had + found[identity][0], count, matched | found[identity][1])
        return {
            identity: (score * (count / len(rare)) ** 2, matched)
            for identity, (score, count, matched) in sums.items()
            if count >= needed
        }

    def _matching(self, word: str, namespace: str | None, total: int) -> Generator[int, None, _Scores]:
        """Packages that have the word in some form: exactly, its beginning, its stem; else misspelled.

        Whether there is an exact one is asked of the scope alone: else an answer would tell of what lies outside.
        """
        best: _Scores = {}
        exact = self._words.places.get(word)
        if exact is not None:
            yield from self._add(best, exact, _EXACT, namespace, total)
        if len(best) * _COMMON_SHARE > total:
            return best
        for at in self._words.beginning(word):
            yield from self._add(best, at, _PREFIX, namespace, total)
        for at in self._words.of_stem(word):
            if at != exact:
                yield from self._add(best, at, _STEM, namespace, total)
        if not best:
            yield TRIED // 4
            for apart, at in self._words.like(word):
                yield from self._add(best, at, _ONE_EDIT if apart == 1 else _TWO_EDITS, namespace, total)
        return best

    def _add(
        self, best: _Scores, at: int, quality: float, namespace: str | None, total: int
    ) -> Generator[int, None, None]:
        """The packages of one word. total: how many there are in the scope."""
        postings: Sequence[int] = self._postings.get(at, ())
        where = self._namespaces
        if namespace is not None and total < len(where):
            inside: list[int] = []
            for some in _chunks(postings):
                yield len(some)
                inside += (each for each in some if where.get(each >> 4) == namespace)
            postings = inside
        if not postings:
            return
        rarity = math.log(1 + total / len(postings)) * quality
        worth = [(rarity * weight, 1 << weight) for weight in range(16)]
        if not best:  # a package stands once among those of a word
            for some in _chunks(postings):
                yield len(some) // 2
                best.update({each >> 4: worth[each & 15] for each in some})
            return
        for some in _chunks(postings):
            yield len(some)
            for each in some:
                identity, new = each >> 4, worth[each & 15]
                old = best.get(identity)
                if old is not None:
                    new = max(new[0], old[0]), new[1] | old[1]
                best[identity] = new


_NOTHING: Final = (0.0, 0)


def _chunks(found: Sequence[_T], size: int = _CHUNK) -> Iterator[Sequence[_T]]:
    return (found[at : at + size] for at in range(0, len(found), size))


def _total(facts: Facts, score: float, one: str) -> float:
    if one and one in facts.names:
        score += _SAME_NAME
    return score * _DEPRECATED if facts.deprecated else score


@lru_cache(maxsize=512)
def _matched(fields: int) -> tuple[str, ...]:
    """Names of what the bits say, the heaviest first; of a part of a compound that of the compound."""
    weights = (weight for weight in range(NAME, 0, -1) if fields >> weight & 1)
    return tuple(dict.fromkeys(FIELDS.get(weight) or FIELDS[weight + 1] for weight in weights))


def _missed(facts: Facts, chosen: Chosen) -> list[str]:
    """The facets of which it has no value that is chosen."""
    return [name for name, values in chosen.items() if values.isdisjoint(FACETS[name](facts))]


def _facets(
    kept: Sequence[Facts], but: Mapping[str, Sequence[Facts]]
) -> Generator[int, None, dict[str, dict[str, int]]]:
    """How many have each value of each facet: the most first, FACET_VALUES of each; none is no value."""
    found: dict[str, dict[str, int]] = {}
    for name, values in FACETS.items():
        counts: Counter[str] = Counter()
        single = _SINGLE.get(name)
        for some in chain(_chunks(kept), _chunks(but.get(name, ()))):
            yield len(some)
            counts.update(map(single, some) if single else chain.from_iterable(map(values, some)))
        del counts[""]
        most: list[tuple[str, int]] = []
        for pairs in _chunks(list(counts.items())):  # there may be as many as there are packages
            yield len(pairs)
            most = heapq.nsmallest(FACET_VALUES, chain(most, pairs), key=lambda pair: (-pair[1], pair[0]))
        if most:
            found[name] = dict(most)
    return found


FACETS: Final[Mapping[str, Callable[[Facts], Sequence[str]]]] = {
    "namespace": lambda facts: (facts.name[0],),
    "repository": lambda facts: (facts.repository,),
    "format": lambda facts: (facts.format,),
    "provider": lambda facts: (facts.provider,),
    "category": lambda facts: facts.categories,
    "deprecated": lambda facts: ("true" if facts.deprecated else "false",),
}
_SINGLE: Final[Mapping[str, Callable[[Facts], str]]] = {
    "repository": attrgetter("repository"),
    "format": attrgetter("format"),
    "provider": attrgetter("provider"),
}
"""Of those that have one value, the value itself, which is counted in half the time."""


def at_once(steps: Steps) -> Found:
    """The result without a break, for who has the time."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Found = end.value
            return found
