"""Requests to catalogd's HTTP API, and their answers: codes, words and headers as catalogd's clients know them.

    GET /catalogs/NAME/api/v1/all                                     every document of the catalog
    GET /catalogs/NAME/api/v1/metas[?schema=..&package=..&name=..]    those of which all that is named is equal

NAME: a repository of the chosen namespace by its name, another one as `name.namespace`. Only repositories whose
spec.publish names Catalog are there. Nobody is asked who he is. Called by the server's listener for catalogs, and by
the API for paths below /catalogs.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Final
from urllib.parse import unquote

import zstandard
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import StreamResponse

from cacheserver import metrics
from cacheserver.api.content import gzipped
from cacheserver.api.http.budget import READER_BYTES
from cacheserver.api.http.reply import TEXT, Reply, Stream
from cacheserver.api.paths import PathRequest
from cacheserver.api.status import StatusError
from cacheserver.compat.catalogd import conditions
from cacheserver.compat.catalogd.bodies import CATALOG_BYTES, Bodies, batches
from cacheserver.compat.catalogd.conditions import Encoding, Unsatisfiable, Verdict, Version
from cacheserver.compat.catalogd.metas import Metas, Question
from cacheserver.compat.catalogd.readers import Reader, Readers
from cacheserver.compat.catalogs import Catalogs
from cacheserver.config import Door
from cacheserver.errors import BlobMissingError, EtcdError
from cacheserver.model import RepositoryKey
from cacheserver.store.published import PublishedCatalog

log = logging.getLogger(__name__)

_JSONL: Final = "application/jsonl"
_CACHE: Final = "no-cache"  # ours: ask each time, with the ETag; catalogd says nothing
_TEXT_SAFETY: Final = (("X-Content-Type-Options", "nosniff"),)  # Go: net/http.Error
_VARY: Final = ("Vary", "Accept-Encoding")

_PACK_FROM_BYTES: Final = 1024
"""Smaller bodies are sent as they are (klauspost/compress, gzhttp: DefaultMinSize)."""
_ANSWER_WITHIN_S: Final = 300.0
"""For a client to take an answer, as catalogd's write timeout (internal/catalogd/serverutil/serverutil.go): who takes a
byte now and then is never stalled for long, and would hold a place for ever."""
_PACKED_READER_BYTES: Final = 256 << 10
"""Of who reads what is packed: a piece, and its transport's."""
_WINDOW_BYTES: Final = 2 << 20
"""That unpacking a frame remembers at most (store/blobs.py); not more than the frame stands for."""
_COALESCE_BYTES: Final = 64 << 10

_PATH: Final = re.compile(r"/catalogs/([^/]+)/api/v1/(all|metas)\Z")
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_NAME_CHARACTERS: Final = 253
_KEYS: Final = frozenset(("schema", "package", "name"))
URL_CHARACTERS: Final = 4096
"""Of a path with its query: names have 253, percent-encoded three times that. To read 64 KiB takes 40 ms."""
_READS: Final = ("GET", "HEAD")

_TOO_LONG: Final = "must be no more than 253 characters"
_NO_NAME: Final = (  # k8s.io/apimachinery/pkg/util/validation: IsDNS1123Subdomain
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)


class _Refused(Exception):  # noqa: N818 - never leaves this file
    """An answer of one line of text. more: header lines beside it."""

    def __init__(self, code: int, text: str, more: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(text)
        self.code, self.text, self.more = code, text, more


class Catalogd:
    """See the module. One a process: its listeners share what readers may hold."""

    def __init__(
        self,
        catalogs: Catalogs,
        *,
        namespace: str,
        complete: Callable[[], bool] = lambda: True,
        readers: Readers | None = None,
    ) -> None:
        """namespace: whose repositories go by their name alone. complete: whether all repositories are known."""
        self._catalogs = catalogs
        self._namespace = namespace
        self._complete = complete
        self._readers = readers or Readers()
        self._bodies = Bodies(catalogs.frames)
        self._metas = Metas(catalogs.frames)
        self._sent = metrics.door_bytes.labels(Door.CATALOG)

    async def handle(self, request: BaseRequest) -> StreamResponse:
        """The answer to one request; never raises but for a client that is gone, or cancellation."""
        begun = time.perf_counter()
        target = request.raw_path
        if not target.startswith("/"):  # absolute form, as proxies send it
            target = request.rel_url.raw_path_qs
        path, _, query = target.partition("?")
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                reply = await self._answer(request, path, query)
                if isinstance(reply, Reply):
                    await reply.send(request)
        except _Refused as refused:
            reply = _text(request, refused)
        except StatusError as exc:
            later = (("Retry-After", str(exc.retry_after_s)),) if exc.retry_after_s else ()
            reply = _text(request, _Refused(exc.code, f"{exc.code} {exc}", later))
        except (BlobMissingError, EtcdError) as exc:
            log.warning("a catalog cannot be read", extra={"path": path[:256], "error": str(exc)})
            reply = _text(request, _later("the documents of the catalog cannot be read now", 5))
        except TimeoutError:
            reply = _text(request, _later("the answer took too long", 5))
        metrics.door_seconds.labels(Door.CATALOG, str(reply.status)).observe(time.perf_counter() - begun)
        return reply

    async def route(self, asked: PathRequest) -> Reply | Stream:
        """As handle, for the API's table of paths."""
        reply = await self.handle(asked.request)
        assert isinstance(reply, Reply | Stream)
        return reply

    # --- which ---

    async def _answer(self, request: BaseRequest, path: str, query: str) -> Reply | Stream:
        if (size := len(path) + len(query)) > URL_CHARACTERS:
            raise _Refused(414, f"the URL has {size} characters, at most {URL_CHARACTERS} are read")
        if (cleaned := conditions.clean(path)) != path:
            return _reply(307, "", [("Location", cleaned + (f"?{query}" if query else ""))])
        found = _PATH.match(path)
        if found is None:
            raise _Refused(404, "404 page not found")
        if request.method not in _READS:
            raise _Refused(405, "Method Not Allowed")
        question = Question()
        if found[2] == "metas":
            said = conditions.parse_query(query)
            if said.keys() - _KEYS:
                raise _Refused(400, "400 Bad Request")
            question = Question(*(said.get(key, "") for key in ("schema", "package", "name")))
        catalog = self._named(unquote(found[1]))
        version = self._version(catalog, question)
        verdict = conditions.judge(request.headers, version)
        if verdict is not Verdict.SEND:
            return _reply(verdict.value, "", _about(version, Encoding.IDENTITY))
        if question.all:
            return await self._all(request, catalog, version, ranges=found[2] == "all")
        return await self._some(request, catalog, version, question)

    def _named(self, name: str) -> PublishedCatalog:
        """The published catalog of this name. Raises: _Refused."""
        if len(name) > _NAME_CHARACTERS or _NAME.match(name) is None:
            wrong = [_TOO_LONG] if len(name) > _NAME_CHARACTERS else []
            wrong += [_NO_NAME] if _NAME.match(name[:4096]) is None else []
            raise _Refused(400, f"invalid catalog name: {', '.join(wrong)}")
        repository, dot, namespace = name.partition(".")
        if dot and namespace == self._namespace:
            raise _no_catalog()  # it has one name
        key = RepositoryKey(namespace or self._namespace, repository)
        # Clients forget a catalog that is not there; so nobody hears that before it is known which there are.
        if not self._catalogs.is_published(key, Door.CATALOG):
            raise _no_catalog() if self._complete() else _later("repositories are being read from the cluster", 1)
        catalog = self._catalogs.get(key)
        if catalog is None:
            raise _no_catalog() if self._catalogs.known else _later("catalogs are being read from etcd", 1)
        return catalog

    def _version(self, catalog: PublishedCatalog, question: Question) -> Version:
        tag = catalog.revision.removeprefix("sha256:")
        if not question.all:
            asked = "\0".join((question.schema, question.package, question.name)).encode("utf-8", "surrogateescape")
            tag += "-" + hashlib.sha256(asked).hexdigest()[:16]
        return Version(tag, catalog.changed, self._catalogs.since(catalog.key))

    # --- what ---

    async def _all(
        self, request: BaseRequest, catalog: PublishedCatalog, version: Version, *, ranges: bool
    ) -> Reply | Stream:
        """The whole catalog, or a part of it."""
        sizes = await self._bodies.sizes(catalog)
        size = sum(each for _, each in sizes)
        if size > CATALOG_BYTES:
            most = f"the catalog has {size} bytes, at most {CATALOG_BYTES} are shown: publish it in parts"
            raise _Refused(500, f"500 Internal Server Error: {most}")
        part = self._part(request, version, size) if ranges else None
        accepted = conditions.encoding_for(request.headers.get("Accept-Encoding", ""))
        asks_ranges = ranges and "Range" in request.headers  # of what is packed there are none
        encoding = Encoding.IDENTITY if asks_ranges or size < _PACK_FROM_BYTES else accepted
        about = _about(version, encoding)
        if encoding is not Encoding.IDENTITY:
            pieces = self._bodies.zstd(catalog) if encoding is Encoding.ZSTD else self._bodies.gzip(sizes)
            async with self._readers.place(request, _PACKED_READER_BYTES) as reader:
                return await self._send(_stream(request), about, pieces, reader)
        first, behind = part or (0, size)
        if ranges:
            about.append(("Accept-Ranges", "bytes"))
        if part:
            about.append(("Content-Range", f"bytes {first}-{behind - 1}/{size}"))
        stream = _stream(request, status=206 if part else 200, length=behind - first if ranges else None)
        async with self._readers.place(request, _identity_bytes(each for _, each in sizes)) as reader:
            return await self._send(stream, about, self._bodies.identity(sizes, first, behind), reader)

    def _part(self, request: BaseRequest, version: Version, size: int) -> tuple[int, int] | None:
        """Raises: _Refused."""
        try:
            return conditions.one_range(request.headers, version, size)
        except Unsatisfiable as exc:
            raise _Refused(416, str(exc), (("Content-Range", f"bytes */{size}"),)) from None

    async def _some(
        self, request: BaseRequest, catalog: PublishedCatalog, version: Version, question: Question
    ) -> Stream:
        """What answers a question; packed for who asks, since nobody may ask it again."""
        encoding = conditions.encoding_for(request.headers.get("Accept-Encoding", ""))
        holds = _identity_bytes(package.size for package in catalog.packages)
        async with (
            self._readers.place(request, holds) as reader,
            aclosing(self._metas.answer(catalog, question, reader)) as found,
        ):
            beginning = await _begin(found)
            pieces = _behind(beginning, found)
            if sum(map(len, beginning)) < _PACK_FROM_BYTES:
                encoding = Encoding.IDENTITY
            elif encoding is Encoding.GZIP:
                pieces = gzipped(batches(pieces))
            elif encoding is Encoding.ZSTD:
                pieces = _zstd(batches(pieces))
            return await self._send(_stream(request), _about(version, encoding), pieces, reader)

    async def _send(
        self,
        stream: Stream,
        about: Sequence[tuple[str, str]],
        pieces: AsyncGenerator[bytes, None],
        reader: Reader,
    ) -> Stream:
        """All of it, in chunks of some 64 KiB, and the clean end. Nothing is read for a HEAD request; `pieces` is
        closed."""
        extra = conditions.header_lines(about)
        async with aclosing(pieces) as source:
            if not stream.is_head:
                async for gathered in _gathered(source):
                    if not stream.started:
                        stream.start(extra)
                    size = sum(map(len, gathered))
                    await reader.turn(size)
                    await stream.write(*gathered)
                    reader.took()
                    self._sent.inc(size)
        if not stream.started:
            stream.start(extra)
        stream.end()
        return stream


def _stream(request: BaseRequest, *, status: int = 200, length: int | None = None) -> Stream:
    return Stream(request, content_type=_JSONL, cache_control=_CACHE, status=status, length=length)


def _about(version: Version, encoding: Encoding) -> list[tuple[str, str]]:
    """Headers that say what a body is made of."""
    lines = [("ETag", version.etag(encoding)), ("Last-Modified", version.last_modified), _VARY]
    return lines if encoding is Encoding.IDENTITY else [*lines, ("Content-Encoding", encoding.value)]


def _identity_bytes(sizes: Iterable[int]) -> int:
    """That a reader of unpacked documents holds."""
    return READER_BYTES + min(max(sizes, default=0), _WINDOW_BYTES)


async def _gathered(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[Sequence[bytes], None]:
    """Small pieces together: a write each would be a call of the kernel each."""
    waiting: list[bytes] = []
    size = 0
    async for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _COALESCE_BYTES:
            yield waiting
            waiting, size = [], 0
    if waiting:
        yield waiting


async def _begin(pieces: AsyncGenerator[bytes, None]) -> Sequence[bytes]:
    """The first pieces, until it is known whether packing them is worth it."""
    found: list[bytes] = []
    size = 0
    async for piece in pieces:
        found.append(piece)
        size += len(piece)
        if size >= _PACK_FROM_BYTES:
            break
    return found


async def _behind(first: Sequence[bytes], rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest):
        for piece in first:
            yield piece
        async for piece in rest:
            yield piece


async def _zstd(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """One frame of it all, compressed in a thread."""
    compressor = zstandard.ZstdCompressor(level=1).compressobj()
    async with aclosing(pieces) as source:
        async for piece in source:
            if packed := await asyncio.to_thread(compressor.compress, piece):
                yield packed
    yield compressor.flush()


def _no_catalog() -> _Refused:
    return _Refused(404, "404 Not Found")


def _later(why: str, seconds: int) -> _Refused:
    return _Refused(503, f"503 Service Unavailable: {why}", (("Retry-After", str(seconds)),))


def _text(request: BaseRequest, refused: _Refused) -> Reply:
    """Raises: ConnectionResetError where half an answer is out already: only a broken connection shows it."""
    if request.writer.output_size > 0:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the answer broke off")
    return _reply(refused.code, f"{refused.text}\n", [*_TEXT_SAFETY, *refused.more])


def _reply(code: int, text: str, lines: Sequence[tuple[str, str]]) -> Reply:
    body = text.encode()
    extra = conditions.header_lines(lines)
    return Reply(code, (body,), len(body), content_type=TEXT if body else "", cache_control=_CACHE, extra=extra)
