"""Content that lies beside the objects: a package's icon, a revision's files as a tar or as JSON.

Streams from the store: a few chunks in memory, whatever the size; compression and encoding in a thread.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Final, Protocol

import orjson
from aiohttp import web
from isal import isal_zlib

from cacheserver.api.http import pack
from cacheserver.api.http.budget import READER_BYTES, Budget
from cacheserver.api.http.documents import matches
from cacheserver.api.http.negotiate import choose
from cacheserver.api.http.reply import JSON, NO_CACHE, Reply, Stream, header
from cacheserver.api.kinds.resource import Manifest, look
from cacheserver.api.status import StatusError, not_acceptable, not_found
from cacheserver.archive import TarReader
from cacheserver.errors import BlobMissingError
from cacheserver.model import GROUP, BlobHead, Digest

GZIP: Final = "application/gzip"
TAR: Final = "application/x-tar"
INLINE_BYTES: Final = 128 << 10  # content up to this is encoded on the loop: under 1 ms, a thread's switch costs more

JSON_FILE_BYTES: Final = 15 << 20
"""Of one file that is written as JSON: it is held whole, four times, and all readers share 64 MiB."""

_OFFERED: Final = (GZIP, TAR, JSON)
_IMAGE: Final = re.compile(r"image/[a-z0-9.+-]{1,64}\Z")
_IMAGE_SAFETY: Final = header("X-Content-Type-Options", "nosniff") + header(
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

    async def head(self, digest: Digest) -> BlobHead | None: ...

    def read(self, digest: Digest) -> AsyncIterator[bytes]:
        """Uncompressed bytes in pieces. Raises: BlobMissingError, EtcdError."""
        ...


async def icon(request: web.BaseRequest, blobs: Blobs, manifest: Manifest) -> Reply:
    """The package's icon, or ours. Raises: BlobMissingError, EtcdError."""
    digest = look(manifest, "status", "icon", "digest")
    etag = f'"{digest}"' if digest else _DEFAULT_ICON_ETAG
    extra = _IMAGE_SAFETY + header("ETag", etag)
    if matches(request.headers.get("If-None-Match", ""), etag):
        return Reply(304, content_type="", cache_control=_ICON_CACHE, extra=extra)
    parts, media_type = [_DEFAULT_ICON], "image/svg+xml"
    if digest:
        head = await blobs.head(Digest(digest))
        if head is None:
            raise BlobMissingError(f"the icon {digest} is not in the store")
        # The type comes from a catalog: what is no plain image type is not repeated to a browser.
        media_type = head.media_type if _IMAGE.match(head.media_type) else "application/octet-stream"
        parts = [piece async for piece in blobs.read(head.digest)]
    size = sum(map(len, parts))
    return Reply(200, parts, size, content_type=media_type, cache_control=_ICON_CACHE, extra=extra)


def held_as_json(head: BlobHead) -> int:
    """Bytes that writing its files as JSON takes: the largest one whole, as it is, as text and written.

    Raises: StatusError 406 where that is too much.
    """
    path, size = max(head.files, key=lambda file: file[1], default=("", 0))
    if size > JSON_FILE_BYTES:
        most = JSON_FILE_BYTES >> 20
        said = f"file {path!r} has {size} bytes; over {most} MiB no file comes as JSON: ask its revision's content"
        raise StatusError(406, "NotAcceptable", f"{said} as {GZIP} or {TAR}")
    return READER_BYTES + 4 * size


async def files(request: web.BaseRequest, blobs: Blobs, manifest: Manifest, budget: Budget) -> Reply | Stream:
    """A revision's files: a gzipped tar, a plain one, or JSON `{resources, binaryResources}`, by Accept.

    Immutable for an hour when published, but for branches: a tag can be moved in git, so not for ever.
    Raises: StatusError 404 without content, 406, 429 when readers hold too much; BlobMissingError, EtcdError.
    """
    digest = Digest(look(manifest, "status", "content", "digest"))
    if not digest:
        raise not_found(GROUP, "packagerevisions/content", look(manifest, "metadata", "name"))
    media_type = choose(request.headers.get("Accept", ""), _OFFERED)
    if media_type is None:
        raise not_acceptable(_OFFERED)
    published = look(manifest, "spec", "lifecycle") == "Published"
    branch = look(manifest, "status", "revisionNumber") == "-1"  # docs/api.md, Content: what it holds moves
    cache_control = _PUBLISHED_CACHE if published and not branch else NO_CACHE
    extra = header("ETag", f'"{digest}"') + header("Vary", "Accept") + header("X-Content-Type-Options", "nosniff")
    if matches(request.headers.get("If-None-Match", ""), f'"{digest}"'):
        return Reply(304, content_type="", cache_control=cache_control, extra=extra)
    head = await blobs.head(digest)
    if head is None:
        raise BlobMissingError(f"content {digest} is not in the store")
    stream = Stream(request, content_type=media_type, cache_control=cache_control)
    pieces = {GZIP: _gzipped_tar, TAR: _read, JSON: _json_document}[media_type](blobs, digest)
    async with budget.hold(held_as_json(head) if media_type is JSON else READER_BYTES):
        await send(stream, pieces, extra)
    return stream


async def send(stream: Stream, pieces: AsyncGenerator[bytes, None], extra: bytes = b"") -> None:
    """Write all of it and the clean end. What fails later than the first piece leaves a broken-off answer."""
    async with aclosing(pieces) as source:
        async for piece in source:
            if not stream.started:
                stream.start(extra)
            await stream.write(piece)
    if not stream.started:
        stream.start(extra)
    stream.end()


async def _read(blobs: Blobs, digest: Digest) -> AsyncGenerator[bytes, None]:
    async with aclosing(blobs.read(digest)) as pieces:  # type: ignore[type-var] # a generator, in store and fake
        async for piece in pieces:
            yield piece


def _gzipped_tar(blobs: Blobs, digest: Digest) -> AsyncGenerator[bytes, None]:
    return gzipped(_read(blobs, digest))


async def _json_document(blobs: Blobs, digest: Digest) -> AsyncGenerator[bytes, None]:
    yield b"{"
    async with aclosing(json_files(blobs, digest)) as pieces:
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


async def json_files(blobs: Blobs, digest: Digest) -> AsyncGenerator[bytes, None]:
    """`"resources":{path: text},"binaryResources":{path: base64}`. Reads twice when there are binary files."""
    texts = _FileWriter(binary=False)
    yield b'"resources":{'
    async for piece in _fed(texts, _read(blobs, digest)):
        yield piece
    yield b'},"binaryResources":{'
    if texts.skipped:
        async for piece in _fed(_FileWriter(binary=True), _read(blobs, digest)):
            yield piece
    yield b"}"


async def _fed(writer: _FileWriter, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces) as source:
        async for piece in source:
            written = await _off_the_loop(writer.feed, piece)
            if written:
                yield written


class _FileWriter:
    """Writes one half of a tar's files as JSON members: the UTF-8 ones, or the others. Holds one file at most."""

    def __init__(self, *, binary: bool) -> None:
        self._reader = TarReader()
        self._binary = binary
        self._separator = b""
        self.skipped = 0

    def feed(self, piece: bytes) -> bytes:
        """The JSON members of the files that `piece` completed."""
        out: list[bytes] = []
        for path, content in self._reader.feed(piece):
            value = _text(content)
            if (value is None) != self._binary:
                self.skipped += 1
                continue
            # A path need not be UTF-8 in git; JSON must be.
            name = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            encoded = base64.b64encode(content).decode() if value is None else value
            out += (self._separator, orjson.dumps(name), b":", orjson.dumps(encoded))
            self._separator = b","
        return b"".join(out)


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
