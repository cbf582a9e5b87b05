"""Documents of a catalog by schema, package and name: which package's blob they are in, and where in it.

Where each document of a blob stands is read once and kept; then a question reads only blobs that hold an answer. A
question that names its package, or an olm.package, looks at that package's blob alone. Empty stands for any.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

from cacheserver.compat.catalogd.bodies import batches
from cacheserver.compat.catalogd.readers import Reader
from cacheserver.compat.catalogd.said import said
from cacheserver.compat.frames import Frames
from cacheserver.memo import Memo
from cacheserver.model import Digest
from cacheserver.slotted import slotted
from cacheserver.store.published import PublishedCatalog
from cacheserver.turns import Places

INDEX_BYTES: Final = 8 << 20
"""Ours: of some 30,000 documents; the community's catalog has 925. What is not kept is read for each question."""
ANSWERS_BYTES: Final = 8 << 20
"""Of answers that were given last: clients ask the same few questions, and what answers them is in all packages."""
_ANSWER_BYTES: Final = 256 << 10
_QUESTION_BYTES: Final = 500
_PIECE_BYTES: Final = 128 << 10
_PLACE_BYTES: Final = 240
_READS_AT_ONCE: Final = 2
"""Blobs that are read for where their documents stand, at the same time."""
_INLINE_PLACES: Final = 2000
"""Looked through on the loop: 0.5 ms. The largest real package has some 200 documents."""
_PACKAGE: Final = "olm.package"


@slotted(frozen=True)
class Question:
    """Documents of which all three are equal; empty: any."""

    schema: str = ""
    package: str = ""
    name: str = ""

    @property
    def all(self) -> bool:
        """Whether every document is wanted."""
        return not (self.schema or self.package or self.name)


class _Place(NamedTuple):
    """Of a document in its blob: what it says of itself, first byte, the one behind its line break."""

    schema: str
    package: str
    name: str
    first: int
    behind: int


class Metas:
    """See the module. Safe to share between tasks."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._places = Memo[Digest, Sequence[_Place]](INDEX_BYTES)
        self._answers = Memo[tuple[Digest, Question], bytes](ANSWERS_BYTES)
        self._reading = Places(_READS_AT_ONCE)

    async def answer(
        self, catalog: PublishedCatalog, question: Question, reader: Reader
    ) -> AsyncGenerator[bytes, None]:
        """The lines that answer it, in the catalog's order, in pieces of 128 KiB at most.

        reader: who asks; clients are served in rounds. Raises: BlobMissingError, EtcdError.
        """
        asked = (catalog.revision, question)
        if (known := self._answers.get(asked)) is not None:
            for at in range(0, len(known), _PIECE_BYTES):
                yield known[at : at + _PIECE_BYTES]
            return
        said: list[bytes] = []
        size = 0
        async with aclosing(self._read(catalog, question, reader)) as pieces:
            async for piece in pieces:
                size += len(piece)
                if size <= _ANSWER_BYTES:
                    said.append(piece)
                yield piece
        if size <= _ANSWER_BYTES:
            self._answers.put(asked, b"".join(said), size + _QUESTION_BYTES + _length(question))

    async def _read(self, catalog: PublishedCatalog, question: Question, reader: Reader) -> AsyncGenerator[bytes, None]:
        for digest in _candidates(catalog, question):
            places = await self._where(digest, reader.client)
            await reader.turn(len(places) * _PLACE_BYTES)
            look = functools.partial(_runs, places, question)
            wanted = look() if len(places) <= _INLINE_PLACES else await asyncio.to_thread(look)
            if wanted:
                async with aclosing(_cut(self._frames.read(digest), wanted)) as pieces:
                    async for piece in pieces:
                        yield piece

    async def _where(self, digest: Digest, client: str) -> Sequence[_Place]:
        if (known := self._places.get(digest)) is not None:
            return known
        async with self._reading.place(client):
            if (known := self._places.get(digest)) is not None:
                return known
            found: list[_Place] = []
            begun: list[bytes] = []  # of a document that is not whole yet
            async with aclosing(batches(self._frames.read(digest))) as texts:
                async for text in texts:
                    begun.append(text)
                    if b"\n" in text:
                        begun = [await asyncio.to_thread(_read, begun, found)]
            self._places.put(digest, found, sum(_PLACE_BYTES + len(each.name) for each in found))
            return found


def _length(question: Question) -> int:
    return 4 * (len(question.schema) + len(question.package) + len(question.name))


def _candidates(catalog: PublishedCatalog, question: Question) -> Sequence[Digest]:
    """Blobs that may hold an answer.

    A document that names a package of the catalog is in that package's blob, and an olm.package in the one that it
    names (catalogs/fbc/parse.py). One that names a package which is not there is among those of no package.
    """
    named = question.name if question.schema == _PACKAGE else question.package
    mine = [package.documents for package in catalog.packages if not named or package.name == named]
    others = [Digest(catalog.others)] if catalog.others and not (named and mine) else []  # as in all
    return [*mine, *others]


def _read(texts: Sequence[bytes], found: list[_Place]) -> bytes:
    """Adds where the documents in `texts` stand, behind the last one found; returns the beginning of the next."""
    text, begin = b"".join(texts), 0
    at = found[-1].behind if found else 0
    while (end := text.find(b"\n", begin) + 1) > 0:
        schema, package, name = said(text[begin : end - 1])
        found.append(_Place(schema, package, name, at + begin, at + end))
        begin = end
    return text[begin:]


def _runs(places: Sequence[_Place], question: Question) -> Sequence[tuple[int, int]]:
    """What is wanted of a blob, in order, documents that follow each other as one."""
    runs: list[tuple[int, int]] = []
    for place in places:
        if (
            question.schema in ("", place.schema)
            and question.package in ("", place.package)
            and question.name in ("", place.name)
        ):
            if runs and runs[-1][1] == place.first:
                runs[-1] = (runs[-1][0], place.behind)
            else:
                runs.append((place.first, place.behind))
    return runs


async def _cut(pieces: AsyncGenerator[bytes, None], runs: Sequence[tuple[int, int]]) -> AsyncGenerator[bytes, None]:
    """The bytes of the runs, which are in order."""
    at, index = 0, 0
    async with aclosing(pieces) as source:
        async for piece in source:
            end = at + len(piece)
            while index < len(runs) and runs[index][0] < end:
                first, behind = runs[index]
                yield piece[max(first - at, 0) : min(behind, end) - at]
                if behind > end:
                    break
                index += 1
            at = end
            if index == len(runs):
                return
