"""Serves the page's files. Read and compressed once, at the first request; nothing but them is ever read."""

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
from cacheserver.web.policy import FOLDERS, HEADERS, INDEX, TYPES

FIRST: Final = "ui"
_EXTRA: Final = b"".join(header(name, value) for name, value in HEADERS.items())
_GZIP_ABOVE: Final = 512


@cache
def documents() -> Mapping[str, Document]:
    """Path below /ui/ -> what is served there."""
    found: dict[str, Document] = {}
    root = files("cacheserver.web") / "static"
    for folder in FOLDERS:
        for each in (root / folder if folder else root).iterdir():
            kind = each.name.rpartition(".")[2]
            if each.is_file() and kind in TYPES:
                found[folder + each.name] = _document(each.read_bytes(), TYPES[kind])
    return found


def _document(body: bytes, content_type: str) -> Document:
    packed = b"".join(pack.member(pack.pack([body]))) if len(body) > _GZIP_ABOVE else b""
    return Document(body, f'"{hashlib.sha256(body).hexdigest()}"', content_type, packed)


async def _answer(asked: PathRequest) -> Reply | Stream:
    path = asked.path.removeprefix(f"/{FIRST}").removeprefix("/")
    if not path and not asked.path.endswith("/"):
        # Relative, since a proxy may have put anything before it; 307, for it may be another one tomorrow.
        return Reply(307, content_type="", cache_control=NO_CACHE, extra=header("Location", f"{FIRST}/") + _EXTRA)
    found = documents().get(path or INDEX)
    if found is None:
        raise no_such_path()
    return found.reply(asked.request, extra=_EXTRA)


ROUTE: Final = Route(FIRST, _answer, below=True, listed=())
