"""Serves PackageManifests: of a namespace and of the global one, whole objects made while they are sent.

Nothing is held but what is worth remembering, within bounds; what is read is a blob a package, once for all who want it
soon after. Used by the API as any view (api/kinds/resource.py: Gathered).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Final

import zstandard

from cacheserver.api import content
from cacheserver.api.attributes import Query
from cacheserver.api.content import INLINE_BYTES, Blobs
from cacheserver.api.http import pack
from cacheserver.api.http.budget import Share
from cacheserver.api.http.negotiate import Encoding, accepts_gzip
from cacheserver.api.http.pack import Packed
from cacheserver.api.http.reply import GZIPPED, Reply, Stream, whole
from cacheserver.api.kinds.resource import Asking, Projected, Resource
from cacheserver.api.readable import readable, send_list
from cacheserver.api.render import GZIP_ABOVE, Listing
from cacheserver.api.selectors import Must, Selection, Term
from cacheserver.api.status import StatusError
from cacheserver.cache.snapshot import Entry, Run, Segment
from cacheserver.cache.view import Completed
from cacheserver.cache.watchcache import Projection
from cacheserver.cache.window import Selector
from cacheserver.compat.packagemanifests.kind import resource
from cacheserver.compat.packagemanifests.shown import About, Published, Selecting, projection, shown, without_channels
from cacheserver.errors import BlobMissingError
from cacheserver.memo import Memo
from cacheserver.model import Digest, Kind, RepositoryKey

BLOBS_BYTES: Final = 16 << 20
"""Of blobs that were read, packed: 4 KB each, so those of some 4,000 packages."""
PIECES_BYTES: Final = 16 << 20
"""Of ready pieces of lists, plain or packed: all of community v4.20 in ten namespaces."""
ROWS_BYTES: Final = 8 << 20
"""Of metadata and cells, with what lists make of them."""

_PIECE_BYTES: Final = 256 << 10  # of a list, made and sent at a time; one object more than that is a piece by itself
_READER_BYTES: Final = 2 * _PIECE_BYTES
_OBJECT_BYTES: Final = 1500  # of an object beside its blob, about
_ROW_BYTES: Final = 3000
_READS_AT_ONCE: Final = 16
_PATIENCE: Final = 10  # times 3 s that a list waits for its place among readers: it holds little, and many come at once
_READABLE_TIMES: Final = 8


def projections(of_kinds: Mapping[Kind, Projection]) -> Mapping[Kind, Projection]:
    """What the watch cache makes of stored kinds, where manifests are served."""
    return {**of_kinds, Kind.PACKAGE: projection(of_kinds[Kind.PACKAGE])}


def _anybody(_: RepositoryKey) -> bool:
    return True


class PackageManifests:
    """One per process: api.kinds.resource.Gathered."""

    def __init__(self, blobs: Blobs, published: Published, global_namespace: str = "") -> None:
        """published: whether a repository says so. global_namespace: its packages are shown in all; empty: none."""
        self._blobs = blobs
        self._published = published
        self._global = global_namespace
        self._packed = Memo[Digest, bytes](BLOBS_BYTES)
        self._pieces = Memo[tuple[str, bool, tuple[Entry, ...]], bytes | Packed](PIECES_BYTES)
        self._rows = Memo[tuple[str, tuple[Entry, ...]], Segment](ROWS_BYTES)
        self._reading = asyncio.Semaphore(_READS_AT_ONCE)
        self._making = asyncio.Lock()
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._decompressor = zstandard.ZstdDecompressor()

    @property
    def row(self) -> Resource:
        """The kind, for Api."""
        return resource(self)

    # --- which objects ---

    def behind(self, namespace: str) -> str:
        """The global namespace, where another one was asked for."""
        return self._global if namespace and namespace != self._global else ""

    def selector(self, namespace: str, selection: Selection, *, watching: bool = False) -> Selector:
        """Of what is published. To who watches, what is published no more is deleted (ingest/shown.py)."""
        return Selecting(namespace, selection, _anybody if watching else self._published)

    def named(self, name: str, query: Query) -> Selection:
        """`catalog` chooses among several (the OpenShift console sends it with a request for an icon)."""
        required = {"metadata.name": name}
        labels: tuple[Term, ...] = ()
        if catalog := query.get("catalog"):
            required["catalog"] = catalog
            labels = (Term("catalog", Must.BE_ONE_OF, (catalog,)),)
        fields = (Term("metadata.name", Must.BE_ONE_OF, (name,)),)
        return Selection(f"{name}\0{catalog or ''}", required, labels, fields)

    def shown(self, namespace: str) -> Projected:
        """As they are stored, published or not: who watches is told of what is not published any more by its sync."""

        def make(package: Entry) -> Entry | None:
            if namespace and package.name[0] not in (namespace, self._global):
                return None
            return shown(package, namespace)

        async def complete(_: Blobs, packages: Sequence[Entry]) -> Completed:
            return await self._whole(namespace, packages)

        return Projected(make, complete, functools.partial(self._get, namespace))

    def weigh(self, entry: Entry) -> int:
        """By what the Package says of its blob."""
        return _weight(entry)

    # --- whole objects ---

    async def _whole(self, namespace: str, packages: Sequence[Entry]) -> Completed:
        """One for each; without its channels where its blob is gone, as that of an older state may be. Raises:
        EtcdError."""

        async def one(package: Entry) -> tuple[Entry | None, bool]:
            about = About.of(package.fields)
            inside = await self._inside(about.digest) if about is not None else None
            return shown(package, namespace, inside or without_channels(package)), inside is not None

        made = await asyncio.gather(*map(one, packages))
        return Completed([entry for entry, _ in made if entry is not None], lasting=all(there for _, there in made))

    async def _inside(self, digest: Digest) -> bytes | None:
        """A blob; None where it is not in the store. Raises: EtcdError."""
        packed = self._packed.get(digest)
        if packed is None:
            async with self._reading:
                packed = self._packed.get(digest)
                if packed is None:
                    try:
                        async with aclosing(self._blobs.read(digest)) as source:  # type: ignore[type-var] # a generator
                            read = b"".join([piece async for piece in source])
                    except BlobMissingError:
                        return None
                    packed = await _off_the_loop(self._compressor.compress, zstandard.ZstdCompressor, read)
                    self._packed.put(digest, packed, len(packed))
                    return read
        return self._decompressor.decompress(packed)

    async def _get(self, namespace: str, asking: Asking, package: Entry) -> Reply:
        """Raises: StatusError 429; BlobMissingError, EtcdError."""
        about = About.of(package.fields)
        assert about is not None  # it was selected
        for_people = asking.pretty or asking.encoding is Encoding.YAML
        async with asking.share.hold((_READABLE_TIMES if for_people else 2) * about.size):
            inside = await self._inside(about.digest)
            found = shown(package, namespace, inside) if inside is not None else None
            if found is None:
                raise BlobMissingError(f"content {about.digest} of {package.name[1]} is not in the store")
            body = found.body + b"\n"
            if for_people:
                body = await asyncio.to_thread(readable, body, asking.encoding, pretty=asking.pretty)
            reply = whole(body, content_type=asking.encoding.value, extra=asking.extra)
            await reply.send(asking.request)
            return reply

    async def icon(self, asking: Asking, entry: Entry) -> Reply:
        """As that of a Package is sent: nobody's script runs, and no type is guessed."""
        about = About.of(entry.fields)
        digest = about.icon if about is not None else ""
        manifest = {"status": {"icon": {"digest": digest} if digest else {}}}
        return await content.icon(asking.request, asking.blobs, manifest, asking.share)

    # --- lists ---

    async def runs(self, namespace: str, runs: Sequence[Run]) -> Sequence[Run]:
        """Remembered by what they are made of, so that a list that comes again finds its rows."""
        made: list[Run] = []
        for run in runs:
            known = self._rows.get((namespace, run.entries))
            if known is None:
                entries = (shown(package, namespace) for package in run.entries)
                known = Segment(tuple(entry for entry in entries if entry is not None))
                self._rows.put((namespace, run.entries), known, _ROW_BYTES * len(run.entries))
                await asyncio.sleep(0)
            if known.entries:
                made.append(Run(known.entries, known))
        return made

    async def send(self, asking: Asking, listing: Listing) -> Stream:
        """A piece at a time. Raises: StatusError 429, EtcdError."""
        stream = Stream(asking.request, content_type=asking.encoding.value)
        parts = [part for run in listing.runs for part in _parts(run.entries)]
        largest = max((size for _, size in parts), default=0)
        async with _place(asking.share, max(_READER_BYTES, 2 * largest)):
            if asking.pretty or asking.encoding is Encoding.YAML:
                await self._send_readable(stream, asking, listing, [part for part, _ in parts])
                return stream
            gzip = sum(size for _, size in parts) > GZIP_ABOVE and accepts_gzip(
                asking.request.headers.get("Accept-Encoding", "")
            )
            made = self._made(listing.namespace, [part for part, _ in parts], gzip=gzip)
            texts = _gzip(listing, made) if gzip else _plain(listing, made)
            await content.send(stream, texts, asking.extra + (GZIPPED if gzip else b""))
        return stream

    async def _made(
        self, namespace: str, parts: Sequence[tuple[Entry, ...]], *, gzip: bool
    ) -> AsyncGenerator[bytes | Packed, None]:
        """Ready items of each part, joined by commas."""
        for part in parts:
            yield self._pieces.get((namespace, gzip, part)) or await self._piece(namespace, part, gzip=gzip)
            await asyncio.sleep(0)

    async def _piece(self, namespace: str, part: tuple[Entry, ...], *, gzip: bool) -> bytes | Packed:
        """Made once for all who come for it meanwhile: of a crowd that begins together, each list is one more look-up,
        also where its pieces are more than are remembered. Held up by the store alone, never by a client."""
        key = (namespace, gzip, part)
        async with self._making:
            known = self._pieces.get(key)
            if known is not None:
                return known
            made = await self._whole(namespace, part)
            text = b",".join([entry.body for entry in made.entries])
            piece = (await asyncio.to_thread(pack.pack, [text]))[0] if gzip else text
            if made.lasting:
                size = len(piece.deflated) if isinstance(piece, Packed) else len(piece)
                self._pieces.put(key, piece, size + 100 * len(part))
            return piece

    async def _send_readable(
        self, stream: Stream, asking: Asking, listing: Listing, parts: Sequence[tuple[Entry, ...]]
    ) -> None:
        """Indented JSON, which is YAML too: nobody waits for a list of these in YAML's own form."""

        async def make(run: Run) -> Run:
            return Run(tuple((await self._whole(listing.namespace, run.entries)).entries), None)

        stream.start(asking.extra)
        if stream.is_head:
            stream.end()
            return
        listing = Listing(
            listing.resource,
            listing.namespace,
            listing.form,
            [Run(part, None) for part in parts],
            listing.envelope,
            listing.whole,
        )
        await send_list(stream, listing, asking.encoding, 0, make)


def _parts(packages: Sequence[Entry]) -> Iterator[tuple[tuple[Entry, ...], int]]:
    """Neighbours of about _PIECE_BYTES, and how many bytes they have, about."""
    part: list[Entry] = []
    gathered = 0
    for package in packages:
        size = _weight(package)
        if part and gathered + size > _PIECE_BYTES:
            yield tuple(part), gathered
            part, gathered = [], 0
        part.append(package)
        gathered += size
    if part:
        yield tuple(part), gathered


def _weight(package: Entry) -> int:
    about = About.of(package.fields)
    return about.size + _OBJECT_BYTES if about is not None else 0


async def _plain(listing: Listing, made: AsyncIterator[bytes | Packed]) -> AsyncGenerator[bytes, None]:
    separator = listing.envelope.head
    async for piece in made:
        assert isinstance(piece, bytes)
        yield separator
        yield piece
        separator = b","
    yield listing.envelope.tail if separator == b"," else separator + listing.envelope.tail


async def _gzip(listing: Listing, made: AsyncIterator[bytes | Packed]) -> AsyncGenerator[bytes, None]:
    member = pack.Member()

    def added(piece: Packed) -> bytes:
        member.add(piece.crc, piece.size)
        return piece.deflated

    yield member.begin()
    separator = pack.stored(listing.envelope.head)
    async for piece in made:
        assert isinstance(piece, Packed)
        yield added(separator)
        yield added(piece)
        separator = pack.COMMA
    if separator is not pack.COMMA:
        yield added(separator)
    yield added(pack.stored(listing.envelope.tail))
    yield member.end()


@asynccontextmanager
async def _place(share: Share, size: int) -> AsyncIterator[None]:
    """Have `size` bytes among all who read content. Raises: StatusError 429 without room for half a minute."""
    async with AsyncExitStack() as held:
        for _ in range(_PATIENCE - 1):
            try:
                await held.enter_async_context(share.hold(size))
            except StatusError:
                continue
            break
        else:
            await held.enter_async_context(share.hold(size))
        yield


async def _off_the_loop(
    act: Callable[[bytes], bytes], other: Callable[[], zstandard.ZstdCompressor], text: bytes
) -> bytes:
    """Compressed; in a thread, by a compressor of its own, where it is large."""
    if len(text) <= INLINE_BYTES:
        return act(text)
    return await asyncio.to_thread(lambda: other().compress(text))
