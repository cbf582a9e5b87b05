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
from cacheserver.api.questions import Question, check, form_of, sent, too_much
from cacheserver.api.selectors import Must, Selection, Term
from cacheserver.api.status import bad_request, not_acceptable
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

_GRAPHS: Final = {JSON: "json", "image/svg+xml": "svg", "text/vnd.graphviz": "dot", "text/vnd.mermaid": "mermaid"}
_IMAGE_LISTS: Final = {JSON: "json", "text/plain": "text"}
_TYPES: Final = {form: media_type for media_type, form in (_GRAPHS | _IMAGE_LISTS).items()}
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
        check(question.query, ("format",))
        form = form_of(question.request, question.query, _GRAPHS)
        body = await self._made(question, lambda package, found: answers.graph(package, found, form))
        return await sent(question, body, _TYPES[form])

    async def _images(self, question: Question) -> Reply:
        query = question.query
        check(query, ("channel", "from", "format"))
        form = form_of(question.request, query, _IMAGE_LISTS)
        channel, start = query.get("channel", ""), query.get("from", "")
        body = await self._made(
            question, lambda package, found: answers.images(package, found, channel, start, as_text=form == "text")
        )
        return await sent(question, body, _TYPES[form])

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
