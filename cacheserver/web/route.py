"""Serves the page's files. Read and compressed once, at the first request; nothing but them is ever read.

Every answer has a Content-Security-Policy under which nothing runs or loads but these files: catalogs are hostile, and
so is whatever they say of themselves (w3.org/TR/CSP3; w3.org/TR/trusted-types).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final

from cacheserver.api.http import pack
from cacheserver.api.http.documents import Document
from cacheserver.api.http.reply import NO_CACHE, Reply, Stream, header
from cacheserver.api.paths import PathRequest, Route
from cacheserver.api.status import no_such_path

FIRST: Final = "ui"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify"
)
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_EXTRA: Final = b"".join(header(name, value) for name, value in HEADERS.items())
_TYPES: Final[Mapping[str, str]] = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
_INDEX: Final = "index.html"
_GZIP_ABOVE: Final = 512


@cache
def documents() -> Mapping[str, Document]:
    """Path below /ui/ -> what is served there."""
    found: dict[str, Document] = {}
    root = files("cacheserver.web") / "static"
    for folder in ("", "vendor/"):
        for each in (root / folder if folder else root).iterdir():
            kind = each.name.rpartition(".")[2]
            if each.is_file() and kind in _TYPES:
                found[folder + each.name] = _document(each.read_bytes(), _TYPES[kind])
    return found


def _document(body: bytes, content_type: str) -> Document:
    packed = b"".join(pack.member(pack.pack([body]))) if len(body) > _GZIP_ABOVE else b""
    return Document(body, f'"{hashlib.sha256(body).hexdigest()}"', content_type, packed)


async def _answer(asked: PathRequest) -> Reply | Stream:
    path = asked.path.removeprefix(f"/{FIRST}").removeprefix("/")
    if not path and not asked.path.endswith("/"):
        # Relative, since a proxy may have put anything before it; 307, for it may be another one tomorrow.
        return Reply(307, content_type="", cache_control=NO_CACHE, extra=header("Location", f"{FIRST}/") + _EXTRA)
    found = documents().get(path or _INDEX)
    if found is None:
        raise no_such_path()
    return found.reply(asked.request, extra=_EXTRA)


ROUTE: Final = Route(FIRST, _answer, below=True, listed=())
