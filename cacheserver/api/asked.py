"""Creates of PackageSearch: the spec of a body into a search, and what was found into a status. Called by verbs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, Final

import orjson

from cacheserver.api.kinds.resource import look
from cacheserver.api.kinds.search import PACKAGE_SEARCH
from cacheserver.api.searching import Searching
from cacheserver.api.status import Cause, brief, invalid
from cacheserver.cache.index import PROVIDES
from cacheserver.cache.several import Several
from cacheserver.cache.watchcache import WatchCache
from cacheserver.catalogs import semver
from cacheserver.model import Kind
from cacheserver.query.package import version_of
from cacheserver.query.search import MOST_HITS, Chosen, Facts, Filter, Found, Hit
from cacheserver.slotted import slotted

BODY_BYTES: Final = 64 << 10
DEFAULT_LIMIT, MOST_LIMIT = 20, 100
_MOST_VALUES: Final = 64
"""Of a list in the spec."""
_LONGEST: Final = 512
_LISTS: Final = {
    "namespaces": "namespace",
    "repositories": "repository",
    "providers": "provider",
    "categories": "category",
}
"""Fields of the spec, and the facets that they choose values of."""
_BYTES_A_COST: Final = 20
"""Of an object that a result is made of, in the units of turns.py: 0.01 us a byte."""


@slotted(frozen=True)
class Asked:
    """A spec that is right. versions: None: any."""

    text: str = ""
    chosen: Chosen = field(default_factory=dict)
    provides: frozenset[str] = frozenset()
    versions: semver.Range | None = None
    by_name: bool = False
    limit: int = DEFAULT_LIMIT
    after: int = 0


def read_spec(spec: Mapping[str, Any]) -> Asked:
    """Raises: StatusError 422 that names every field that is wrong. What is not known has been warned of."""
    wrong: list[Cause] = []

    def refuse(name: str, why: str) -> None:
        wrong.append(Cause("FieldValueInvalid", f"Invalid value: {brief(repr(spec.get(name)))}: {why}", f"spec.{name}"))

    def said(name: str, allowed: Sequence[str] = ()) -> str:
        found = spec.get(name)
        if found is None:
            return ""
        if not isinstance(found, str) or len(found) > _LONGEST:
            refuse(name, f"must be a text of at most {_LONGEST} characters")
            return ""
        if found and allowed and found not in allowed:
            refuse(name, f"must be one of {', '.join(allowed)}")
        return found

    def listed(name: str) -> frozenset[str]:
        found = spec.get(name)
        if found is None:
            return frozenset()
        if not isinstance(found, list) or len(found) > _MOST_VALUES or not all(isinstance(one, str) for one in found):
            refuse(name, f"must be a list of at most {_MOST_VALUES} texts")
            return frozenset()
        return frozenset(found)

    versions, limit, after, deprecated = None, spec.get("limit"), said("continue"), spec.get("deprecated")
    if written := said("versionRange"):
        try:
            versions = semver.parse_range(written)
        except ValueError as exc:
            refuse("versionRange", str(exc))
    if limit is not None and (type(limit) is not int or not 0 <= limit <= MOST_LIMIT):
        refuse("limit", f"must be a number up to {MOST_LIMIT}")
        limit = None
    if after and not (after.isascii() and after.isdigit() and int(after) < MOST_HITS):
        refuse("continue", "must be what an answer gave out")
        after = ""
    if deprecated is not None and not isinstance(deprecated, bool):
        refuse("deprecated", "must be true or false")
    catalog_format = said("format", ("FBC", "KRM"))
    chosen = {
        **{facet: listed(name) for name, facet in _LISTS.items()},
        "format": frozenset([catalog_format] if catalog_format else []),
        "deprecated": frozenset([] if deprecated is None else ["true" if deprecated else "false"]),
    }
    asked = Asked(
        said("text"),
        {facet: values for facet, values in chosen.items() if values},
        listed("provides"),
        versions,
        said("sort", ("score", "name")) == "name",
        limit or DEFAULT_LIMIT,
        int(after or 0),
    )
    if wrong:
        raise invalid(PACKAGE_SEARCH.kind, PACKAGE_SEARCH.group, wrong)
    return asked


class Asking:
    """Answers PackageSearches. One per process."""

    def __init__(self, cache: WatchCache, searching: Searching) -> None:
        self._cache = cache
        self._searching = searching

    async def answer(self, asked: Asked, namespace: str | None, client: str) -> dict[str, object]:
        """The status. namespace: the scope; None: all. Raises: StatusError 400, NotReady."""
        end = min(asked.after + asked.limit, MOST_HITS)
        found = await self._searching.search(
            asked.text,
            namespace,
            self._filter(asked),
            chosen=asked.chosen,
            facets=True,
            by_name=asked.by_name,
            most=end,
            client=client,
        )
        results = [await self._result(hit, client) for hit in found.hits[asked.after : end]]
        status: dict[str, object] = {"total": found.total, "results": results, "facets": _facets(found)}
        if end < min(found.total, MOST_HITS):
            status["continue"] = str(end)
        return status

    def _filter(self, asked: Asked) -> Filter | None:
        wanted: list[Callable[[Facts], bool]] = []
        if asked.provides:
            wanted.append(lambda facts: self._provides(facts, asked.provides))
        if (versions := asked.versions) is not None:
            wanted.append(lambda facts: (found := version_of(facts.latest)) is not None and versions.holds(found))
        return (lambda facts: all(holds(facts) for holds in wanted)) if wanted else None

    def _provides(self, facts: Facts, kinds: frozenset[str]) -> bool:
        entry = self._cache.held(Kind.PACKAGE, facts.name)
        provided = entry.fields.get(PROVIDES, "") if entry is not None else ""
        return isinstance(provided, Several) and all(map(provided.has, kinds))

    async def _result(self, hit: Hit, client: str) -> dict[str, object]:
        facts = hit.facts
        entry = self._cache.held(Kind.PACKAGE, facts.name)
        manifest: Mapping[str, Any] = {}
        if entry is not None:
            await self._cache.turns.spend(entry.size // _BYTES_A_COST, client)
            manifest = orjson.loads(entry.body)
        return {
            "namespace": facts.name[0],
            "name": facts.name[1],
            "repository": facts.repository,
            "package": facts.package,
            "format": facts.format,
            "displayName": look(manifest, "status", "displayName"),
            "summary": look(manifest, "status", "summary"),
            "latest": facts.latest or look(manifest, "status", "latest", "revision"),
            "deprecated": facts.deprecated,
            "matched": hit.matched,
            "score": round(hit.score * 100),
        }


def _facets(found: Found) -> list[dict[str, object]]:
    return [
        {"name": name, "values": [{"value": value, "count": count} for value, count in values.items()]}
        for name, values in found.facets.items()
    ]
