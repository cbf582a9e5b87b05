"""Documents that never change while the process runs: built once as bytes, served with ETag, 304 and gzip."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
from aiohttp.web_request import BaseRequest

from cacheserver.api.http import pack
from cacheserver.api.http.negotiate import accepts_gzip
from cacheserver.api.http.reply import JSON, NO_CACHE, Reply, header
from cacheserver.slotted import slotted

_TAGS_CHARACTERS = 4096  # of If-None-Match: some 30 tags of ours
_GZIP_ABOVE = 4 << 10  # bytes; ours: made once, so worth it for less than a list


@slotted(frozen=True)
class Document:
    """etag: quoted upper-case hex of the body's sha512, as kube's. gzipped: empty for a small body."""

    body: bytes
    etag: str
    content_type: str
    gzipped: bytes

    @property
    def hash(self) -> str:
        """The ETag without its quotes: /openapi/v3 names a document by it, `?hash=`."""
        return self.etag.strip('"')

    def reply(self, request: BaseRequest, *, cache_control: str = NO_CACHE, extra: bytes = b"") -> Reply:
        """200 or, when If-None-Match names this ETag, 304."""
        extra += header("ETag", self.etag) + header("Vary", "Accept, Accept-Encoding")
        if matches(request.headers.get("If-None-Match", ""), self.etag):
            return Reply(304, content_type="", cache_control=cache_control, extra=extra)
        body = self.body
        if self.gzipped and accepts_gzip(request.headers.get("Accept-Encoding", "")):
            body, extra = self.gzipped, extra + header("Content-Encoding", "gzip")
        return Reply(200, (body,), len(body), content_type=self.content_type, cache_control=cache_control, extra=extra)


def matches(if_none_match: str, etag: str) -> bool:
    """RFC 9110, 13.1.2: weak comparison with a list of tags, or `*`. A list longer than anybody's matches nothing."""
    if len(if_none_match) > _TAGS_CHARACTERS:
        return False
    tags = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
    return any(tag in (etag, "*") for tag in tags)


def document(content: Any, *, content_type: str = JSON, parameters: str = "") -> Document:
    """content: anything that JSON can hold. parameters: behind the content type."""
    body = orjson.dumps(content) + b"\n"
    etag = f'"{hashlib.sha512(body).hexdigest().upper()}"'
    gzipped = b"".join(pack.member(pack.pack([body]))) if len(body) > _GZIP_ABOVE else b""
    return Document(body, etag, content_type + parameters, gzipped)
