"""PackageRevisionResources: a view of package revisions and their content; nothing of it is stored.

A list and a watch carry paths, sizes and digest; a get streams the files.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

import orjson

from cacheserver.api.content import JSON_READER_BYTES, Blobs, gzipped, json_files, send
from cacheserver.api.http.negotiate import Encoding, accepts_gzip
from cacheserver.api.http.reply import GZIPPED, Reply, Stream, whole
from cacheserver.api.kinds.fields import PACKAGE_COLUMN, READ, content_size
from cacheserver.api.kinds.resource import (
    Asking,
    Column,
    Manifest,
    Projected,
    Resource,
    look,
    look_number,
    name_column,
    number,
    record,
    records,
    text,
    text_map,
    texts,
)
from cacheserver.api.kinds.revision import PACKAGE_REVISION
from cacheserver.api.readable import readable
from cacheserver.api.render import GZIP_ABOVE
from cacheserver.cache.snapshot import Entry
from cacheserver.cache.view import Completed
from cacheserver.errors import BlobMissingError
from cacheserver.model import GROUP, VERSION, BlobHead, Digest, Kind
from cacheserver.slotted import slotted

_READABLE_MOST = 1 << 20  # bytes of content; more is sent as compact JSON (which is YAML too) as it comes
_READABLE_TIMES = 8  # its size: as JSON, as objects, and written again
_HEADS_AT_ONCE = 32
_FILES_A_TURN = 4096  # shown in one turn of the loop, or 64 entries: about 2 ms

_PLURAL: Final = "packagerevisionresources"
_OPEN: Final = f'{{"apiVersion":"{GROUP}/{VERSION}","kind":"PackageRevisionResources","metadata":'.encode()


@slotted(frozen=True)
class _Parts:
    """One object without its files. spec lacks its closing brace."""

    metadata: bytes
    spec: bytes
    digest: str
    manifest: Manifest


def _parts(revision: Entry) -> _Parts:
    manifest = orjson.loads(revision.body)
    metadata = dict(manifest["metadata"])
    # Ours: the uid follows from the revision's, so it is as stable.
    metadata["uid"] = str(uuid.uuid5(uuid.UUID(metadata["uid"]), _PLURAL))
    spec = {name: look(manifest, "spec", name) for name in ("packageName", "repository", "revision")}
    digest = look(manifest, "status", "content", "digest")
    return _Parts(orjson.dumps(metadata), orjson.dumps(spec)[:-1], digest, manifest)


def _made(revision: Entry) -> Entry:
    """The entry of this kind that goes with a revision's, without the files."""
    return _entry(revision, None)


def _entry(revision: Entry, head: BlobHead | None) -> Entry:
    """head: of the content, for a list's paths and sizes."""
    parts = _parts(revision)
    status: dict[str, object] = {"digest": parts.digest}
    if head is not None:
        status["files"] = [{"path": path, "size": size} for path, size in head.files]
    return Entry(
        name=revision.name,
        resource_version=revision.resource_version,
        body=b"".join((_OPEN, parts.metadata, b',"spec":', parts.spec, b'},"status":', orjson.dumps(status), b"}")),
        metadata_start=len(_OPEN),
        metadata_end=len(_OPEN) + len(parts.metadata) - 1,
        labels=revision.labels,
        fields={path: revision.fields.get(path, "") for path in PACKAGE_REVISION_RESOURCES.all_selectable},
        cells=PACKAGE_REVISION_RESOURCES.cells(parts.manifest),
        created=revision.created,
    )


async def _with_files(blobs: Blobs, revisions: Sequence[Entry]) -> Completed:
    """Entries with paths and sizes; without them, for now, where the content is not in the store."""
    heads = await _heads(blobs, revisions)
    made: list[Entry] = []
    owed = 0
    for revision, head in zip(revisions, heads, strict=True):
        made.append(_entry(revision, head))
        owed += _FILES_A_TURN // 64 + (len(head.files) if head is not None else 0)
        if owed >= _FILES_A_TURN:
            owed = 0
            await asyncio.sleep(0)
    return Completed(made, lasting=None not in heads)


async def _heads(blobs: Blobs, revisions: Sequence[Entry]) -> list[BlobHead | None]:
    """Of each revision's content, in order; None where there is none."""
    gate = asyncio.Semaphore(_HEADS_AT_ONCE)

    async def one(revision: Entry) -> BlobHead | None:
        digest = _parts(revision).digest
        if not digest:
            return None
        async with gate:
            return await blobs.head(Digest(digest))

    return list(await asyncio.gather(*map(one, revisions)))


async def _get(asking: Asking, revision: Entry) -> Reply | Stream:
    """The object with its files.

    Raises: StatusError 429 when readers hold too much; BlobMissingError, EtcdError.
    """
    parts, blobs = _parts(revision), asking.blobs
    head = await blobs.head(Digest(parts.digest)) if parts.digest else None
    if parts.digest and head is None:
        raise BlobMissingError(f"content {parts.digest} of {revision.name[1]} is not in the store")
    for_people = asking.pretty or asking.encoding is Encoding.YAML
    async with asking.share.hold(_held(head, readable=for_people) if head is not None else 0):
        return await _answer(asking, _document(blobs, parts, head), head)


def _held(head: BlobHead, *, readable: bool) -> int:
    """Bytes that an answer with this content holds at most."""
    return JSON_READER_BYTES + (_READABLE_TIMES * head.size if readable and head.size <= _READABLE_MOST else 0)


async def _answer(asking: Asking, pieces: AsyncGenerator[bytes, None], head: BlobHead | None) -> Reply | Stream:
    encoding, extra = asking.encoding, asking.extra
    if (asking.pretty or encoding is Encoding.YAML) and (head is None or head.size <= _READABLE_MOST):
        body = b"".join([piece async for piece in pieces])
        body = await asyncio.to_thread(readable, body, encoding, pretty=asking.pretty)
        reply = whole(body, content_type=encoding.value, extra=extra)
        await reply.send(asking.request)
        return reply
    stream = Stream(asking.request, content_type=encoding.value)
    if head is not None and head.size > GZIP_ABOVE and accepts_gzip(asking.request.headers.get("Accept-Encoding", "")):
        extra += GZIPPED
        pieces = gzipped(pieces)
    await send(stream, pieces, extra)
    return stream


async def _document(blobs: Blobs, parts: _Parts, head: BlobHead | None) -> AsyncGenerator[bytes, None]:
    yield b"".join((_OPEN, parts.metadata, b',"spec":', parts.spec, b","))
    if head is None:
        yield b'"resources":{},"binaryResources":{},"executables":[]'
    else:
        async with aclosing(json_files(blobs, head)) as pieces:
            async for piece in pieces:
                yield piece
    yield b'},"status":' + orjson.dumps({"digest": parts.digest}) + b"}\n"


PACKAGE_REVISION_RESOURCES: Final = Resource(
    kind="PackageRevisionResources",
    plural=_PLURAL,
    short_names=("cpkgres",),
    group=GROUP,
    description="The files of a package revision. A get carries them; lists and watches their paths, sizes and digest.",
    verbs=(*READ, "patch", "update"),
    source=Kind.REVISION,
    view=Projected(_made, _with_files, _get),
    selectable=tuple(path for path in PACKAGE_REVISION.selectable if path.startswith("spec.")),
    columns=(
        name_column(),
        PACKAGE_COLUMN,
        Column("Version", "Its version; empty where there is none (KRM).", lambda m: look(m, "spec", "version")),
        Column("Files", "How many files there are.", lambda m: look_number(m, "status", "content", "files"), "integer"),
        Column("Size", "Size of the files together.", content_size),
        Column("Age", "Time since the revision was first seen.", None),
    ),
    spec=record(
        "spec",
        "The revision and, in a get, its files.",
        text("packageName", "Name of the package in its repository (KRM: its path)."),
        text("repository", "Name of the Repository that it comes from."),
        text("revision", "The revision, as in PackageRevision.spec.revision."),
        text_map("resources", "Path to content of every file that is UTF-8 text; in a get only, and in an update."),
        text_map("binaryResources", "Path to base64 content of every other file; in a get only, and in an update."),
        texts(
            "executables",
            "Paths of the files that can be run; in a get only, and in an update: without it each stays as it is.",
        ),
    ),
    status=record(
        "status",
        "The files, without their content.",
        text("digest", "sha256 of the canonical tar of the files."),
        records(
            "files",
            "The files, sorted by path; in lists and watches only.",
            text("path", "Path relative to the package's root."),
            number("size", "Bytes."),
        ),
    ),
)
