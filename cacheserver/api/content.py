"""Content that lies beside the objects: a package's icon, a revision's files as a tar or as JSON.

Streams from the store: a few chunks in memory, whatever the size; compression and encoding in a thread.
"""

from __future__ import annotations

import asyncio
import base64
import codecs
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from typing import Final, Protocol

import orjson
from aiohttp.web_request import BaseRequest
from isal import isal_zlib

from cacheserver.api.http import pack
from cacheserver.api.http.budget import READER_BYTES, Share
from cacheserver.api.http.documents import matches
from cacheserver.api.http.negotiate import choose
from cacheserver.api.http.reply import JSON, NO_CACHE, Reply, Stream, header
from cacheserver.api.kinds.resource import Manifest, look
from cacheserver.api.status import not_acceptable, not_found
from cacheserver.archive import WHOLE_BYTES, Part, TarReader
from cacheserver.errors import BlobMissingError
from cacheserver.model import GROUP, BlobHead, Digest

GZIP: Final = "application/gzip"
TAR: Final = "application/x-tar"
INLINE_BYTES: Final = 128 << 10  # content up to this is encoded on the loop: under 1 ms, a thread's switch costs more

JSON_READER_BYTES: Final = 2 * READER_BYTES
"""Of a reader of JSON: a byte can take six there (RFC 8259, section 7)."""

_OFFERED: Final = (GZIP, TAR, JSON)
_IMAGE: Final = re.compile(r"image/[a-z0-9.+-]{1,64}\Z")
IMAGE_SAFETY: Final = header("X-Content-Type-Options", "nosniff") + header(
    "Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox"
)  # an SVG may hold scripts; its author is not trusted
_ICON_CACHE: Final = "private, max-age=300"
_PUBLISHED_CACHE: Final = "private, max-age=3600, immutable"
_DEFAULT_ICON: Final = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64" fill="none" stroke="#6b7280" stroke-width="4" '
    b'stroke-linejoin="round"><path d="M8 20 32 8l24 12v24L32 56 8 44z"/><path d="M8 20l24 12 24-12M32 32v24"/></svg>\n'
)
_DEFAULT_ICON_ETAG: Final = '"default-1"'


class Blobs(Protocol):
    """Content by digest (cacheserver.store.blobs)."""

    async def head(self, digest: Digest) -> BlobHead | None:
        """Size and media type of content; None where there is none. Raises: EtcdError."""
        ...

    def read(self, digest: Digest) -> AsyncIterator[bytes]:
        """Uncompressed bytes in pieces. Raises: BlobMissingError, EtcdError."""
        ...


async def icon(request: BaseRequest, blobs: Blobs, manifest: Manifest, share: Share) -> Reply:
    """The package's icon, or ours. Raises: StatusError 429 when readers hold too much; BlobMissingError, EtcdError."""
    digest = look(manifest, "status", "icon", "digest")
    etag = f'"{digest}"' if digest else _DEFAULT_ICON_ETAG
    extra = IMAGE_SAFETY + header("ETag", etag)
    if matches(request.headers.get("If-None-Match", ""), etag):
        return Reply(304, content_type="", cache_control=_ICON_CACHE, extra=extra)
    if not digest:
        size = len(_DEFAULT_ICON)
        return Reply(200, [_DEFAULT_ICON], size, content_type="image/svg+xml", cache_control=_ICON_CACHE, extra=extra)
    head = await blobs.head(Digest(digest))
    if head is None:
        raise BlobMissingError(f"the icon {digest} is not in the store")
    # The type comes from a catalog: what is not a plain image type is not repeated to a browser.
    media_type = head.media_type if _IMAGE.match(head.media_type) else "application/octet-stream"
    async with share.hold(head.size + min(head.size, READER_BYTES)):  # it is whole in memory until it is taken
        parts = [piece async for piece in blobs.read(head.digest)]
        size = sum(map(len, parts))
        reply = Reply(200, parts, size, content_type=media_type, cache_control=_ICON_CACHE, extra=extra)
        await reply.send(request)
    return reply


async def files(request: BaseRequest, blobs: Blobs, manifest: Manifest, share: Share) -> Reply | Stream:
    """A revision's files: a gzipped tar, a plain one, or JSON `{resources, binaryResources, executables}`, by Accept.

    Immutable for an hour when published, but for branches: a tag can be moved in git, so not for ever.
    Raises: StatusError 404 without content, 406 for other types, 429 when readers hold too much; BlobMissingError,
    EtcdError.
    """
    digest = Digest(look(manifest, "status", "content", "digest"))
    if not digest:
        raise not_found(GROUP, "packagerevisions/content", look(manifest, "metadata", "name"))
    media_type = choose(request.headers.get("Accept", ""), _OFFERED)
    if media_type is None:
        raise not_acceptable(_OFFERED)
    published = look(manifest, "spec", "lifecycle") == "Published"
    cache_control = _PUBLISHED_CACHE if published and not _moves(manifest) else NO_CACHE
    extra = header("ETag", f'"{digest}"') + header("Vary", "Accept") + header("X-Content-Type-Options", "nosniff")
    if matches(request.headers.get("If-None-Match", ""), f'"{digest}"'):
        return Reply(304, content_type="", cache_control=cache_control, extra=extra)
    head = await blobs.head(digest)
    if head is None:
        raise BlobMissingError(f"content {digest} is not in the store")
    stream = Stream(request, content_type=media_type, cache_control=cache_control)
    pieces = {GZIP: _gzipped_tar, TAR: _read, JSON: _json_document}[media_type](blobs, head)
    async with share.hold(JSON_READER_BYTES if media_type is JSON else READER_BYTES):
        await send(stream, pieces, extra)
    return stream


def _moves(manifest: Manifest) -> bool:
    """Whether what a revision holds changes in daily use: that of a branch or directory does. Of a tag, the ref is
    PATH/REVISION, a branch's is the revision's own name (docs/sources.md)."""
    tagged = look(manifest, "status", "selfLock", "git", "ref").endswith(f"/{look(manifest, 'spec', 'revision')}")
    return look(manifest, "status", "revisionNumber") == "-1" and not tagged


async def send(stream: Stream, pieces: AsyncGenerator[bytes, None], extra: bytes = b"") -> None:
    """Write all of it and the clean end. What fails later than the first piece leaves a broken-off answer.

    Nothing is read for a HEAD request.
    """
    if not stream.is_head:
        async with aclosing(pieces) as source:
            async for piece in source:
                if not stream.started:
                    stream.start(extra)
                await stream.write(piece)
    if not stream.started:
        stream.start(extra)
    stream.end()


async def _read(blobs: Blobs, head: BlobHead) -> AsyncGenerator[bytes, None]:
    async with aclosing(blobs.read(head.digest)) as pieces:  # type: ignore[type-var] # a generator, in store and fake
        async for piece in pieces:
            yield piece


def _gzipped_tar(blobs: Blobs, head: BlobHead) -> AsyncGenerator[bytes, None]:
    return gzipped(_read(blobs, head))


async def _json_document(blobs: Blobs, head: BlobHead) -> AsyncGenerator[bytes, None]:
    yield b"{"
    async with aclosing(json_files(blobs, head)) as pieces:
        async for piece in pieces:
            yield piece
    yield b"}\n"


async def gzipped(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The gzip of it all, compressed in a thread."""
    compressor = isal_zlib.compressobj(pack.LEVEL, isal_zlib.DEFLATED, 31)
    async with aclosing(pieces) as source:
        async for piece in source:
            packed = await _off_the_loop(compressor.compress, piece)
            if packed:
                yield packed
    yield compressor.flush()


async def json_files(blobs: Blobs, head: BlobHead) -> AsyncGenerator[bytes, None]:
    """`"resources":{path: text},"binaryResources":{path: base64},"executables":[path]`.

    Read once more when there are binary files, and before all else when there are large ones: whether one is text is
    known at its end.
    """
    kinds = _LargeKinds()
    if any(size > WHOLE_BYTES for _, size in head.files):
        async with aclosing(_read(blobs, head)) as source:
            async for piece in source:
                kinds.feed(piece)
    texts = _FileWriter(kinds.binary, binary=False)
    yield b'"resources":{'
    async for piece in _fed(texts, _read(blobs, head)):
        yield piece
    yield b'},"binaryResources":{'
    if texts.skipped:
        async for piece in _fed(_FileWriter(kinds.binary, binary=True), _read(blobs, head)):
            yield piece
    yield b'},"executables":' + orjson.dumps(texts.executables)


async def _fed(writer: _FileWriter, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces) as source:
        async for piece in source:
            written = await _off_the_loop(writer.feed, piece)
            if written:
                yield written


class _LargeKinds:
    """Finds out which of a tar's files are not text, piece by piece."""

    def __init__(self) -> None:
        self._reader = TarReader()
        self._decoder = _utf8()
        self.binary: set[str] = set()

    def feed(self, piece: bytes) -> None:
        for part in self._reader.feed(piece):
            if part.size <= WHOLE_BYTES or part.path in self.binary:
                continue
            if part.at == 0:
                self._decoder = _utf8()
            try:
                self._decoder.decode(part.content, final=part.is_last)
            except UnicodeDecodeError:
                self.binary.add(part.path)


class _FileWriter:
    """Writes one half of a tar's files as JSON members: the UTF-8 ones, or the others."""

    def __init__(self, large_binaries: AbstractSet[str], *, binary: bool) -> None:
        """large_binaries: of the files that come in parts."""
        self._reader = TarReader()
        self._large_binaries = large_binaries
        self._binary = binary
        self._separator = b""
        self._decoder = _utf8()
        self._left_over = b""  # of a large binary file: base64 takes three bytes at a time
        self.skipped = 0
        self.executables: list[str] = []
        """Of both halves, as far as was read; their names are held by the content's head as well."""

    def feed(self, piece: bytes) -> bytes:
        """JSON of what `piece` brought."""
        out: list[bytes] = []
        for part in self._reader.feed(piece):
            text = _text(part.content) if part.size <= WHOLE_BYTES else None
            binary = text is None if part.size <= WHOLE_BYTES else part.path in self._large_binaries
            # A path need not be UTF-8 in git; JSON must be.
            name = part.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if part.at == 0 else ""
            if name and part.executable:
                self.executables.append(name)
            if binary != self._binary:
                self.skipped += 1
                continue
            if part.at == 0:
                out += (self._separator, orjson.dumps(name), b":")
                self._separator = b","
            if part.size <= WHOLE_BYTES:
                out.append(orjson.dumps(base64.b64encode(part.content).decode() if text is None else text))
            else:
                out += self._large(part)
        return b"".join(out)

    def _large(self, part: Part) -> Iterator[bytes]:
        if part.at == 0:
            self._decoder, self._left_over = _utf8(), b""
            yield b'"'
        if self._binary:
            content = self._left_over + part.content
            whole = len(content) if part.is_last else len(content) // 3 * 3
            self._left_over = content[whole:]
            yield base64.b64encode(content[:whole])
        else:
            # Every character is written by itself, so parts of a text are written as the text is.
            yield orjson.dumps(self._decoder.decode(part.content, final=part.is_last))[1:-1]
        if part.is_last:
            yield b'"'


_utf8: Final = codecs.getincrementaldecoder("utf-8")


def _text(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


async def _off_the_loop(act: Callable[[bytes], bytes], piece: bytes) -> bytes:
    """act(piece), in a thread unless it is small."""
    if len(piece) <= INLINE_BYTES:
        return act(piece)
    return await asyncio.to_thread(act, piece)
