"""packagerevisions/NAME/diff?from=OTHER: what changed between the files of two revisions of a namespace.

Both contents are read whole, so they are bounded, and counted in the readers' budget; lines are compared in a thread,
one question at a time. Called by verbs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import orjson
from aiohttp.web_request import BaseRequest

from cacheserver.api.attributes import Query
from cacheserver.api.content import Blobs
from cacheserver.api.http.budget import Share
from cacheserver.api.http.negotiate import Encoding, wants_pretty
from cacheserver.api.http.reply import JSON, Reply, header
from cacheserver.api.kinds.resource import look
from cacheserver.api.questions import form_of
from cacheserver.api.readable import readable
from cacheserver.api.status import bad_request, brief, not_found
from cacheserver.archive import TarReader
from cacheserver.cache.snapshot import Entry
from cacheserver.cache.watchcache import Freshness, ReadAt, WatchCache
from cacheserver.errors import BlobMissingError
from cacheserver.model import GROUP, VERSION, Digest, Kind
from cacheserver.query import diff
from cacheserver.slotted import slotted
from cacheserver.turns import Places

MOST_BYTES: Final = 4 << 20
"""Of the files of both revisions together. Real packages have some 100 KiB."""
_TIMES: Final = 4
"""Their size that they take while they are compared: as they came, in lines, and in the answer."""
DIFF: Final = "text/x-diff"
_FORMS: Final = {JSON: "json", DIFF: "diff"}
_KNOWN: Final = ("from", "format", "pretty", "resourceVersion", "timeout")


@slotted(frozen=True)
class Pair:
    """A request for a difference. may_read: whether the content of a revision of that name; raises StatusError 403."""

    request: BaseRequest
    query: Query
    revision: Entry
    share: Share
    user: str
    extra: bytes
    may_read: Callable[[str], Awaitable[None]]


class Comparing:
    """One per process."""

    def __init__(self, cache: WatchCache, blobs: Blobs) -> None:
        self._cache = cache
        self._blobs = blobs
        self._threads = Places(1)

    async def diff(self, pair: Pair) -> Reply:
        """The answer, which has been sent. Raises: StatusError 400, 403, 404, 406, 429; BlobMissingError, EtcdError."""
        form = _form(pair)
        name = pair.query.get("from", "")
        if not name:
            raise bad_request("say what to compare with: ?from=NAME of another PackageRevision of the namespace")
        await pair.may_read(name)
        other = await self._cache.get(Kind.REVISION, (pair.revision.name[0], name), ReadAt(Freshness.ANY))
        if other is None:
            raise not_found(GROUP, "packagerevisions", brief(name))
        manifests = [orjson.loads(entry.body) for entry in (other, pair.revision)]
        digests = [look(manifest, "status", "content", "digest") for manifest in manifests]
        if digests[0] == digests[1]:
            return await _sent(pair, _written(pair, name, [], form), form)
        heads = [await self._blobs.head(Digest(digest)) if digest else None for digest in digests]
        for digest, head in zip(digests, heads, strict=True):
            if digest and head is None:
                raise BlobMissingError(f"content {digest} is not in the store")
        size = sum(head.size for head in heads if head is not None)
        if size > MOST_BYTES:
            raise bad_request(
                f"the files of both have {size} bytes, at most {MOST_BYTES} are compared here: read both by their "
                "subresource content, and compare them there"
            )
        async with pair.share.hold(_TIMES * size):
            old, new = [await self._files(head.digest) if head is not None else {} for head in heads]
            async with self._threads.place(pair.user):
                body = await asyncio.to_thread(lambda: _written(pair, name, diff.changes(old, new), form))
            return await _sent(pair, body, form)

    async def _files(self, digest: Digest) -> Mapping[str, bytes]:
        reader, found = TarReader(), dict[str, list[bytes]]()
        async for piece in self._blobs.read(digest):
            for part in reader.feed(piece):
                path = part.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                found.setdefault(path, []).append(part.content)
        return {path: b"".join(parts) for path, parts in found.items()}


def _form(pair: Pair) -> str:
    for name in pair.query:
        if name not in _KNOWN:
            raise bad_request(f"no parameter {brief(name)!r} is known here: there are from and format")
    return form_of(pair.request, pair.query, _FORMS)


def _written(pair: Pair, name: str, found: list[diff.Change], form: str) -> bytes:
    if form == "diff":
        return "".join(diff.unified(found)).encode("utf-8", "replace")
    files = [
        {
            "path": change.path,
            "change": change.what,
            "binary": change.binary,
            "added": change.added,
            "removed": change.removed,
            "diff": "".join(change.lines),
        }
        for change in found
    ]
    namespace, to = pair.revision.name
    document = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "PackageRevisionDiff",
        "metadata": {"name": to, "namespace": namespace},
        "spec": {"from": name},
        "status": {"files": files},
    }
    return orjson.dumps(document)


async def _sent(pair: Pair, body: bytes, form: str) -> Reply:
    small = len(body) <= 64 << 10
    if form == "json" and small and wants_pretty(pair.query, pair.request.headers.get("User-Agent", "")):
        body = readable(body, Encoding.JSON, pretty=True)
    content_type = JSON if form == "json" else f"{DIFF}; charset=utf-8"
    extra = pair.extra + header("Vary", "Accept") + header("X-Content-Type-Options", "nosniff")
    reply = Reply(200, (body,), len(body), content_type=content_type, extra=extra)
    await reply.send(pair.request)
    return reply
