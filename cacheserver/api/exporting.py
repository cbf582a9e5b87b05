"""packages/NAME/export?channel=&from=: a valid catalog of a part of a package, streamed.

The package's documents are read twice from the store, a batch of lines at a time: first to see what there is, then to
write what stays. So what cannot be exported is refused before the first byte, and nothing is held but a batch. Called
by finding.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final, TypeVar

import orjson

from cacheserver.api.content import Blobs, send
from cacheserver.api.http.budget import READER_BYTES
from cacheserver.api.http.reply import JSON, Stream, header
from cacheserver.api.kinds.resource import look
from cacheserver.api.questions import Question, check, form_of, too_much
from cacheserver.api.readable import to_yaml
from cacheserver.api.status import bad_request
from cacheserver.errors import BlobMissingError
from cacheserver.model import Digest
from cacheserver.query.export import MOST_BYTES, MOST_LINE_BYTES, Documents, Plan
from cacheserver.query.package import TooMuchError
from cacheserver.query.selection import WrongQuestionError
from cacheserver.turns import Places

JSON_LINES: Final = "application/jsonl"
YAML: Final = "application/yaml"
_FORMS: Final = {JSON_LINES: "json", JSON: "json", YAML: "yaml"}
"""Who takes JSON alone gets it a line each as well: clients of Kubernetes say so of whatever they read."""
_BATCH_BYTES: Final = 128 << 10
"""Of documents, read and written at once: 2 ms as JSON, 150 ms of a thread as YAML."""
_TIMES: Final = 3
"""The size of the largest document that it takes: as it came, read, and as it goes."""

T = TypeVar("T")


class Exporting:
    """One per process. threads: where documents are worked on, one batch at a time."""

    def __init__(self, blobs: Blobs, threads: Places) -> None:
        self._blobs = blobs
        self._threads = threads

    async def export(self, question: Question, start: str) -> Stream:
        """The answer, which has been sent. start: the name of the bundle that `from` means, or what it says.

        Raises: StatusError 400, 406, 429; BlobMissingError, EtcdError.
        """
        form = _form(question)
        manifest = orjson.loads(question.package.body)
        digest = Digest(look(manifest, "status", "documents", "digest"))
        if not digest:
            raise bad_request("an export is a catalog of operators (FBC), and this package is of another format")
        head = await self._blobs.head(digest)
        if head is None:
            raise BlobMissingError(f"documents {digest} are not in the store")
        if head.size > MOST_BYTES:
            raise too_much(f"the package's documents have {head.size} bytes, at most {MOST_BYTES} are exported")
        async with question.share.hold(READER_BYTES + _TIMES * min(head.size, MOST_LINE_BYTES)):
            try:
                plan = await self._plan(question, digest, start)
            except (TooMuchError, WrongQuestionError) as exc:
                raise bad_request(str(exc)) from None
            stream = Stream(question.request, content_type=form)
            extra = question.extra + header("Vary", "Accept") + header("X-Content-Type-Options", "nosniff")
            await send(stream, self._written(question, digest, plan, form), extra)
        return stream

    async def _plan(self, question: Question, digest: Digest, start: str) -> Plan:
        documents = Documents()
        async with aclosing(self._batches(digest)) as batches:
            async for lines in batches:
                await self._work(question, partial(documents.add, lines))
        return await self._work(question, partial(documents.plan, question.query.get("channel", ""), start))

    async def _written(self, question: Question, digest: Digest, plan: Plan, form: str) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._batches(digest)) as batches:
            async for lines in batches:
                made = await self._work(question, partial(_made, plan, lines, form))
                if made:
                    yield made

    async def _batches(self, digest: Digest) -> AsyncGenerator[Sequence[bytes], None]:
        """Whole lines, with their ends. Raises: TooMuchError for a line over MOST_LINE_BYTES."""
        left: list[bytes] = []
        size = 0
        async with aclosing(_read(self._blobs, digest)) as pieces:
            async for piece in pieces:
                left.append(piece)
                size += len(piece)
                if size < _BATCH_BYTES or b"\n" not in piece:
                    if size > MOST_LINE_BYTES:
                        raise TooMuchError(f"a document has over {MOST_LINE_BYTES} bytes: take it from its source")
                    continue
                whole, end, rest = b"".join(left).rpartition(b"\n")
                yield (whole + end).splitlines(keepends=True)
                left, size = [rest], len(rest)
        if size:
            yield b"".join(left).splitlines(keepends=True)

    async def _work(self, question: Question, work: Callable[[], T]) -> T:
        async with self._threads.place(question.user):
            return await asyncio.to_thread(work)


async def _read(blobs: Blobs, digest: Digest) -> AsyncGenerator[bytes, None]:
    async with aclosing(blobs.read(digest)) as pieces:  # type: ignore[type-var] # a generator, in store and fake
        async for piece in pieces:
            yield piece


def _form(question: Question) -> str:
    check(question.query, ("channel", "from", "format"))
    return YAML if form_of(question.request, question.query, _FORMS) == "yaml" else JSON_LINES


def _made(plan: Plan, read: Sequence[bytes], form: str) -> bytes:
    lines = plan.written(read)
    if form == JSON_LINES:
        return b"".join(lines)
    return b"".join(part for line in lines for part in (b"---\n", to_yaml(line)))
