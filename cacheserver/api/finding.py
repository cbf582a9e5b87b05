"""Upgrade paths, graphs, images and exports of a package, made of its revisions as they are in memory.

What is large is made in a thread, one at a time, in rounds of clients; what is too large is refused by name. Called by
verbs for subresources of packages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from cacheserver.api.content import Blobs
from cacheserver.api.exporting import Exporting
from cacheserver.api.http.negotiate import choose
from cacheserver.api.http.reply import JSON, Reply, Stream
from cacheserver.api.questions import Question, check, sent, too_much
from cacheserver.api.selectors import Must, Selection, Term
from cacheserver.api.status import bad_request, brief, not_acceptable
from cacheserver.cache.snapshot import Entry
from cacheserver.cache.watchcache import Freshness, ReadAt, WatchCache
from cacheserver.model import Kind
from cacheserver.query import answers
from cacheserver.query.package import MOST_BUNDLES
from cacheserver.turns import Places

INLINE_BYTES: Final = 16 << 10
"""Of a package's revisions; with up to this many an answer takes 0.5 ms, 4 where all channels and ranges are about all
bundles, and a thread's switch is not worth it."""
MOST_BYTES: Final = 32 << 20
"""Of a package's revisions that are read for an answer. 140 bundles in 40 channels each have 1 MB."""

_FORMS: Final = {
    "json": JSON,
    "svg": "image/svg+xml",
    "dot": "text/vnd.graphviz",
    "mermaid": "text/vnd.mermaid",
    "text": "text/plain",
}
_GRAPHS: Final = ("json", "svg", "dot", "mermaid")
GRAPH_TYPES: Final = tuple(_FORMS[form] for form in _GRAPHS)
IMAGE_LIST_TYPES: Final = (_FORMS["json"], _FORMS["text"])
_OF_PACKAGE: Final = ("spec.packageName", "spec.repository")
_UPGRADES: Final = ("from", "to", "channel", "fromVersion")

Work = Callable[[bytes, Sequence[bytes]], bytes]


class Finding:
    """Answers about packages. One per process."""

    def __init__(self, cache: WatchCache, blobs: Blobs) -> None:
        self._cache = cache
        self._threads = Places(1)  # one, so that the loop waits for one other thread at most
        self._exporting = Exporting(blobs, self._threads)
        self._answers: dict[str, Callable[[Question], Awaitable[Reply | Stream]]] = {
            "export": self._export,
            "upgrades": self._upgrades,
            "graph": self._graph,
            "images": self._images,
        }

    def answer(self, subresource: str) -> Callable[[Question], Awaitable[Reply | Stream]] | None:
        """Who answers a subresource of packages; None: nobody here. The answer has been sent when it is there.

        It raises: StatusError 400 for what cannot be meant or is too large, 406, 429; NotReady, TooNew, StoreSlow;
        BlobMissingError, EtcdError.
        """
        return self._answers.get(subresource)

    async def _upgrades(self, question: Question) -> Reply:
        query = question.query
        check(query, _UPGRADES)
        if not query.get("from"):
            raise bad_request("say what is installed: ?from=BUNDLE or ?from=VERSION, and &to= where it is to lead")
        if choose(question.request.headers.get("Accept", ""), (JSON,)) is None:
            raise not_acceptable((JSON,))
        asked = answers.Asked(*(query.get(name, "") for name in _UPGRADES))
        body = await self._made(question, lambda package, found: answers.upgrade_paths(package, found, asked))
        return await sent(question, body, JSON)

    async def _graph(self, question: Question) -> Reply:
        query = question.query
        check(query, ("format",))
        form = query.get("format", "")
        if form and form not in _GRAPHS:
            raise bad_request(f"format={brief(form)}: there are {', '.join(_GRAPHS)}")
        if not form:
            media_type = choose(question.request.headers.get("Accept", ""), GRAPH_TYPES)
            if media_type is None:
                raise not_acceptable(GRAPH_TYPES)
            form = next(name for name, each in _FORMS.items() if each == media_type)
        body = await self._made(question, lambda package, found: answers.graph(package, found, form))
        return await sent(question, body, _FORMS[form])

    async def _images(self, question: Question) -> Reply:
        query = question.query
        check(query, ("channel", "from", "format"))
        form = query.get("format", "")
        if form and form not in ("json", "text"):
            raise bad_request(f"format={brief(form)}: there are json, text")
        media_type = choose(question.request.headers.get("Accept", ""), IMAGE_LIST_TYPES)
        if not form and media_type is None:
            raise not_acceptable(IMAGE_LIST_TYPES)
        as_text = form == "text" or (not form and media_type == _FORMS["text"])
        channel, start = query.get("channel", ""), query.get("from", "")
        body = await self._made(
            question, lambda package, found: answers.images(package, found, channel, start, as_text=as_text)
        )
        return await sent(question, body, _FORMS["text" if as_text else "json"])

    async def _export(self, question: Question) -> Stream:
        """Documents know bundles, and no names of objects here."""
        start = question.query.get("from", "")
        entry = self._cache.held(Kind.REVISION, (question.package.name[0], start)) if start else None
        if entry is not None and all(entry.fields[path] == question.package.fields[path] for path in _OF_PACKAGE):
            start = entry.fields["spec.revision"]
        return await self._exporting.export(question, start)

    async def _made(self, question: Question, work: Work) -> bytes:
        package = question.package
        entries = await self._revisions(package)
        size = sum(entry.size for entry in entries)
        if len(entries) > MOST_BUNDLES or size > MOST_BYTES:
            raise too_much(
                f"the package has {len(entries)} revisions of {size} bytes, at most {MOST_BUNDLES} of {MOST_BYTES} "
                "are computed with"
            )
        bodies = [entry.body for entry in entries]
        try:
            if size <= INLINE_BYTES:
                await self._cache.turns.spend(size, question.user)  # 0.2 us a byte, as a unit of matching
                return work(package.body, bodies)
            async with self._threads.place(question.user):
                return await asyncio.to_thread(work, package.body, bodies)
        except answers.TooMuchError as exc:
            raise too_much(str(exc)) from None
        except answers.WrongQuestionError as exc:
            raise bad_request(str(exc)) from None

    async def _revisions(self, package: Entry) -> list[Entry]:
        """All of the package, as they are now."""
        wanted = {path: package.fields.get(path, "") for path in _OF_PACKAGE}
        terms = tuple(Term(path, Must.BE_ONE_OF, (text,)) for path, text in wanted.items())
        selection = Selection("", wanted, (), terms, 4)
        page = await self._cache.list(
            Kind.REVISION, ReadAt(Freshness.ANY), namespace=package.name[0], selector=selection
        )
        return [entry for run in page.runs for entry in run.entries]
