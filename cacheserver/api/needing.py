"""packagerevisions/NAME/dependencies: what a revision needs of others, and who gives it.

Looked for in the revision's own namespace and in those that are asked for, each of which the caller must be allowed to
list: an answer says nothing of others. Candidates come from the cache's indexes and are judged in steps of the event
loop; what there are too many of is said to be unknown, never left out in silence. Called by verbs.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

import orjson

from cacheserver.api.http.reply import JSON, Reply
from cacheserver.api.questions import Question, check, form_of, sent
from cacheserver.api.selectors import Must, Selection, Term
from cacheserver.api.status import bad_request, brief
from cacheserver.cache.index import PROVIDES
from cacheserver.cache.several import Several
from cacheserver.cache.snapshot import Entry, Name
from cacheserver.cache.watchcache import Freshness, ReadAt, WatchCache
from cacheserver.model import GROUP, VERSION, Kind
from cacheserver.query.needs import Api, Found, InPackage, Met, Need, Offer, handles, met, needs, ranked, why_unjudged
from cacheserver.query.package import order_of, version_or_number
from cacheserver.slotted import slotted

MOST_NEEDS: Final = 200
"""Of a revision. Real ones have under ten; the others are counted."""
MOST_NAMES: Final = 10_000
"""That an index gives for one requirement, of all namespaces: 3 ms to choose from."""
MOST_WORK: Final = 200_000
"""Of one question: what is behind it is answered without a look. A name counts 1, a revision that is judged 20, going
through everything 20,000; so 0.2 s at most, in turns."""
_JUDGED_WORK, _SCAN_WORK = 20, 20_000
MOST_JUDGED: Final = 1_000
"""Revisions that are looked at for one requirement: 3 ms to sort."""
MOST_LISTED: Final = 5_000
"""Revisions of an answer: 1 MB. Behind them they are counted."""
MOST_LIMIT: Final = 100
_LIMIT: Final = 10
_MOST_NAMESPACES: Final = 20
_STEP: Final = 32
_CHOSEN: Final = 256
_COST: Final = 50
"""Of a revision that is judged, in the units of turns.py: 10 us, most of it its version."""
TEXT: Final = "text/plain"
_FORMS: Final = {JSON: "json", TEXT: "text"}
_PACKAGE: Final = "spec.packageName"
_FIELDS: Final = ("dependencies", "constraints", "requiredAPIs")
"""Of the status, with what it needs."""
_HEADINGS: Final = ("NEEDS", "MET", "BY")


@slotted()
class _Answered:
    """A requirement. total: revisions that meet it; more: there are others that were not looked at."""

    need: Need
    found: Sequence[Found] = ()
    total: int = 0
    more: bool = False
    why: str = ""

    @property
    def met(self) -> Met:
        """None: nobody can say."""
        if any(each.sure for each in self.found):
            return True
        return None if self.found or self.more or self.why else False


@slotted()
class _Scope:
    """Where is looked: in these namespaces (None: in all), for whom; left: of MOST_WORK."""

    revision: Entry
    namespaces: AbstractSet[str] | None
    user: str
    left: int = MOST_WORK

    def holds(self, name: Name) -> bool:
        """Whether an object of this name may be told of."""
        return self.namespaces is None or name[0] in self.namespaces


class Needing:
    """One per process."""

    def __init__(self, cache: WatchCache) -> None:
        self._cache = cache

    async def answer(self, question: Question, may_list: Callable[[str], Awaitable[None]]) -> Reply:
        """may_list: raises StatusError 403 where the caller may not list the revisions of a namespace; "": of all.

        Raises: StatusError 400, 403, 406.
        """
        check(question.query, ("namespaces", "limit", "format"))
        form, limit = form_of(question.request, question.query, _FORMS), _limit(question)
        revision = question.package
        asked = _namespaces(question.query.get("namespaces", ""))
        if "*" in asked:
            await may_list("")
        else:
            for namespace in dict.fromkeys((revision.name[0], *asked)):
                await may_list(namespace)
        scope = _Scope(revision, None if "*" in asked else {revision.name[0], *asked}, question.user)
        await self._cache.turns.spend(revision.size // 20, question.user)
        manifest = orjson.loads(revision.body)
        found = needs(manifest)
        requirements: list[dict[str, Any]] = []
        listed = 0
        for need in found[:MOST_NEEDS]:
            answered = await self._judged(need, scope)
            requirements.append(_written(answered, min(limit, MOST_LISTED - listed)))
            listed += len(requirements[-1]["satisfiedBy"])
        status = _status(requirements, len(found) - len(requirements), manifest)
        if form == "text":
            return await sent(question, _table(requirements).encode("utf-8", "replace"), TEXT)
        namespace, name = revision.name
        document = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "PackageRevisionDependencies"}
        body = orjson.dumps({**document, "metadata": {"name": name, "namespace": namespace}, "status": status})
        return await sent(question, body, JSON)

    async def _judged(self, need: Need, scope: _Scope) -> _Answered:
        await self._cache.turns.spend(
            _COST + sum(map(len, need.said.values())) // 4, scope.user
        )  # a constraint is parsed
        part = need.part
        leaves, why = handles(part), why_unjudged(part)
        if leaves is None:
            return _Answered(need, why=why or "any revision may meet it: none is looked for")
        entries: dict[Name, Entry] = {}
        more = False
        for leaf in dict.fromkeys(leaves):
            found, beyond = await self._named(leaf, scope)
            room = min(MOST_JUDGED - len(entries), max(scope.left, 0) // _JUDGED_WORK)
            new = [entry for entry in found if entry.name not in entries]
            entries.update((entry.name, entry) for entry in new[:room])
            scope.left -= min(len(new), room) * _JUDGED_WORK
            more |= beyond or len(new) > room
        good: list[Found] = []
        for at, entry in enumerate(entries.values()):
            if not at % _STEP:
                await self._cache.turns.spend(_STEP * _COST, scope.user)
            offer = _offer(entry)
            if (verdict := met(part, offer)) is not False:
                good.append(_found(entry, offer, scope.revision, sure=verdict is True))
        await self._cache.turns.spend(len(good) * _STEP, scope.user)
        return _Answered(need, ranked(good), len(good), more, why)

    async def _named(self, leaf: Api | InPackage, scope: _Scope) -> tuple[Sequence[Entry], bool]:
        """Revisions in the scope that an index has for it and that count; whether there are more of them there."""
        if scope.left <= 0:
            return (), True
        path, value = (PROVIDES, leaf.provided) if isinstance(leaf, Api) else (_PACKAGE, leaf.package)
        names = self._cache.indexed(Kind.REVISION, path, value)
        found: list[Entry] = []
        if names is not None and len(names) <= MOST_NAMES:
            scope.left -= 1 + len(names)
            waiting = iter(tuple(names))  # of this moment: others come and go while this waits for its turns
            while chosen := tuple(itertools.islice(waiting, _CHOSEN)):
                await self._cache.turns.spend(_CHOSEN * 5, scope.user)
                held = (self._cache.held(Kind.REVISION, name) for name in chosen if scope.holds(name))
                found += (entry for entry in held if entry is not None and _counts(entry, scope.revision))
            return found, False
        # So many, perhaps in others' namespaces, that even choosing takes long: all are gone through, in turns.
        scope.left -= _SCAN_WORK
        term = Term(path, Must.BE_ONE_OF, (value,))
        selection = Selection(f"{path}={value}", {path: value}, (), (term,), 3)
        more = False
        for namespace in scope.namespaces or (None,):
            page = await self._cache.list(
                Kind.REVISION, ReadAt(Freshness.ANY), namespace=namespace, selector=selection, limit=MOST_JUDGED
            )
            found += (entry for run in page.runs for entry in run.entries if _counts(entry, scope.revision))
            more |= page.next_after is not None
        return found, more


def _counts(entry: Entry, own: Entry) -> bool:
    """Whether a revision can stand beside `own`: it is published, and no other version of the same package. A bundle
    needs bundles: OLM knows nothing else."""
    fields, mine = entry.fields, own.fields
    if fields.get("spec.lifecycle") in ("Draft", "Proposed"):
        return False
    if mine.get("spec.format") == "FBC" and fields.get("spec.format") != "FBC":
        return False
    same = entry.name[0] == own.name[0] and all(
        fields.get(path) == mine.get(path) for path in ("spec.packageName", "spec.repository")
    )
    return not same or entry.name == own.name


class _Provided:
    """Values that are looked for in their text: a set of 20,000 takes 4 ms to make."""

    __slots__ = ("_text",)

    def __init__(self, text: Several) -> None:
        self._text = text

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and self._text.has(value)


def _offer(entry: Entry) -> Offer:
    provides = entry.fields.get(PROVIDES, "")
    return Offer(
        entry.fields.get(_PACKAGE, ""),
        version_or_number(entry.fields.get("spec.version", "")),
        _Provided(provides) if isinstance(provides, Several) else (),
    )


def _found(entry: Entry, offer: Offer, own: Entry, *, sure: bool) -> Found:
    fields = entry.fields
    repository, written = fields.get("spec.repository", ""), fields.get("spec.version", "")
    near = (entry.name[0], repository) == (own.name[0], own.fields.get("spec.repository", ""))
    # Of what is in quotes every quote is escaped, so this is the member's name, and no text of anybody's.
    deprecated = b'"deprecation":{' in entry.body
    order = order_of(offer.version)
    return Found(*entry.name, repository, offer.package, written, order, deprecated=deprecated, near=near, sure=sure)


def _status(requirements: Sequence[Mapping[str, Any]], left: int, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """left: requirements that were not looked at."""
    missing = sum(each["satisfied"] == "False" for each in requirements)
    status: dict[str, Any] = {"requirements": requirements, "missing": missing}
    if left:
        status["notLookedAt"] = left
    cut = [name for name in manifest["status"].get("truncated") or () if name in _FIELDS]
    return {**status, **({"truncated": cut} if cut else {})}


def _written(one: _Answered, limit: int) -> dict[str, Any]:
    return {
        **one.need.said,
        "satisfied": {True: "True", False: "False", None: "Unknown"}[one.met],
        **({"reason": one.why} if one.why else {}),
        "total": one.total,
        **({"more": True} if one.more else {}),
        "satisfiedBy": [_described(each) for each in one.found[:limit]],
    }


def _described(found: Found) -> dict[str, Any]:
    said: dict[str, Any] = {
        "namespace": found.namespace,
        "name": found.name,
        "repository": found.repository,
        "package": found.package,
        "version": found.written,
    }
    return said | ({"deprecated": True} if found.deprecated else {}) | ({} if found.sure else {"unjudged": True})


def _table(requirements: Sequence[Mapping[str, Any]]) -> str:
    rows = [_HEADINGS, *(_row(each) for each in requirements)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(_HEADINGS) - 1)]
    return "".join(
        "   ".join((*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1])).rstrip() + "\n"
        for row in rows
    )


def _row(one: Mapping[str, Any]) -> tuple[str, str, str]:
    if one["type"] == "api":
        said = Api(one["group"], one["version"], one["kind"]).provided
    elif one["type"] == "package":
        said = f"{one['package']} {one['versionRange']}"
    else:
        said = one["message"] or one["constraint"]
    names = [each["name"] for each in one["satisfiedBy"]]
    beyond = one["total"] - len(names)
    by = ", ".join(names) + (f" and {beyond} more" if beyond > 0 else "")
    return _plain(said), one["satisfied"], _plain(by or one.get("reason", ""))


def _plain(text: str) -> str:
    """One line that no terminal obeys."""
    cut = text if len(text) <= 200 else text[:197] + "..."
    return cut if cut.isprintable() else "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in cut)


def _limit(question: Question) -> int:
    said = question.query.get("limit", "")
    if not said:
        return _LIMIT
    if not (said.isascii() and said.isdigit() and len(said) < 4 and 1 <= int(said) <= MOST_LIMIT):
        raise bad_request(f"limit={brief(said)}: a number from 1 to {MOST_LIMIT}")
    return int(said)


def _namespaces(said: str) -> Sequence[str]:
    found = list(dict.fromkeys(filter(None, said.split(","))))
    if len(found) > _MOST_NAMESPACES:
        raise bad_request(f"{len(found)} namespaces, at most {_MOST_NAMESPACES} are looked in: ask for * or for fewer")
    return found
