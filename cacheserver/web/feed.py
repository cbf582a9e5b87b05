"""What is new, for feed readers: /feeds/NAMESPACE[/REPOSITORY].atom (RFC 4287), from the PackageChanges in memory.

Who may list packagechanges of the namespace may read it. The newest of them alone; an unchanged feed is a 304. What it
says comes from catalogs: all of it is escaped text, in which nothing that XML cannot hold is left.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import orjson

from cacheserver.api.http import pack
from cacheserver.api.http.documents import Document, matches
from cacheserver.api.http.reply import Reply, Stream
from cacheserver.api.kinds.change import PACKAGE_CHANGE, types
from cacheserver.api.paths import PathRequest, Route
from cacheserver.api.selectors import EVERYTHING, Must, Selection, Term
from cacheserver.api.status import no_such_path
from cacheserver.cache.snapshot import Entry
from cacheserver.cache.watchcache import Freshness, ReadAt, WatchCache
from cacheserver.memo import Memo
from cacheserver.model import GROUP, Kind, uid_of
from cacheserver.names import REPOSITORY_NAME
from cacheserver.security.identity import Attributes

FIRST: Final = "feeds"
ENTRIES: Final = 100
"""Ours: a feed reader asks every hour or so, and what it has not seen by then it lists (docs/finding.md)."""
_MEMO_BYTES: Final = 4 << 20
"""Of ready feeds: some 40 of them."""
_TYPE: Final = "application/atom+xml; charset=utf-8"
_PATH: Final = re.compile(r"/feeds/([^/]+?)(?:/([^/]+))?\.atom\Z")
# XML 1.0, sections 2.4 and 3.3.3; the standard library's own writer brings a parser of 0.3 MB.
_ENTITIES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_IN_ATTRIBUTES: Final = _ENTITIES | str.maketrans({'"': "&quot;", "\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})
_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""XML 1.0, section 2.2: what is no Char."""


class Feed:
    """See the module. One a process."""

    def __init__(self, cache: WatchCache) -> None:
        self._cache = cache
        self._made = Memo[tuple[str, str], tuple[str, Document]](_MEMO_BYTES)

    @property
    def route(self) -> Route:
        """For the API's table of paths."""
        return Route(FIRST, self._answer, below=True, listed=(), right=right)

    async def _answer(self, asked: PathRequest) -> Reply | Stream:
        named = _named(asked.path)
        if named is None:
            raise no_such_path()
        namespace, repository = named
        page = await self._cache.newest(
            Kind.CHANGE,
            ReadAt(Freshness.ANY),
            namespace=namespace,
            selector=_of(repository),
            limit=ENTRIES,
        )
        newest = [entry for run in page.runs for entry in run.entries]
        mark = hashlib.sha256("\n".join(entry.name[1] for entry in newest).encode()).hexdigest()
        kept = self._made.get(named)
        if kept is None or kept[0] != mark:
            if matches(asked.request.headers.get("If-None-Match", ""), f'"{mark}"'):
                return Document(b"", f'"{mark}"', _TYPE, b"").reply(asked.request)
            body = b"".join(_feed(namespace, repository, newest))
            made = Document(body, f'"{mark}"', _TYPE, b"".join(pack.member(pack.pack([body]))))
            kept = (mark, made)
            self._made.put(named, kept, len(body) + len(made.gzipped))
        return kept[1].reply(asked.request)


def right(attributes: Attributes) -> Attributes:
    """What one has to be allowed for a feed: to list the changes that it is made of."""
    named = _named(attributes.path)
    if named is None:
        return attributes
    return Attributes("list", attributes.path, GROUP, PACKAGE_CHANGE.version, PACKAGE_CHANGE.plural, namespace=named[0])


def _of(repository: str) -> Selection:
    """Its changes; empty: all. The cache looks through them in turns: a namespace may have 100,000."""
    term = Term("spec.repository", Must.BE_ONE_OF, (repository,))
    return Selection(repository, {term.key: repository}, (), (term,), 3) if repository else EVERYTHING


def _named(path: str) -> tuple[str, str] | None:
    found = _PATH.match(path)
    if found is None or not all(REPOSITORY_NAME.match(each) for each in found.groups() if each is not None):
        return None
    return found[1], found[2] or ""


def _feed(namespace: str, repository: str, entries: list[Entry]) -> Iterator[bytes]:
    where = f"{namespace}/{repository}" if repository else namespace
    up = "../.." if repository else ".."
    manifests = [orjson.loads(entry.body) for entry in entries]
    # RFC 4287, 4.2.15: of an empty feed nothing ever changed, and it has to say when.
    updated = manifests[0]["metadata"]["creationTimestamp"] if manifests else "1970-01-01T00:00:00Z"
    last = quote(f"{repository or namespace}.atom")
    head = (
        '<?xml version="1.0" encoding="utf-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">\n'
        f"<id>urn:uuid:{uid_of(Kind.CHANGE, namespace, repository or '.', 'feed')}</id>\n"
        f"<title>{_text(f'Packages of {where}')}</title>\n<updated>{updated}</updated>\n"
        f'<author><name>cacheserver</name></author>\n<link rel="self" href={_attribute(last)}/>\n'
        f'<link rel="alternate" type="text/html" href={_attribute(f"{up}/ui/#/changes")}/>\n'
    )
    yield head.encode()
    for manifest in manifests:
        yield _entry(manifest, up).encode()
    yield b"</feed>\n"


def _entry(manifest: Mapping[str, Any], up: str) -> str:
    metadata, spec = manifest["metadata"], manifest["spec"]
    about = f"{spec['repository']}/{spec['packageName']}" if "packageName" in spec else spec["repository"]
    categories = "".join(f"<category term={_attribute(each)}/>" for each in types(manifest))
    page = f"{up}/ui/#/changes"
    if spec.get("object", {}).get("kind") == "Package":
        page = f"{up}/ui/#/package/{quote(metadata['namespace'])}/{quote(spec['object']['name'])}"
    title = f"{about}: {spec['summary']}"
    return (
        f"<entry><id>urn:uuid:{metadata['uid']}</id><title>{_text(title)}</title>"
        f"<updated>{metadata['creationTimestamp']}</updated>{categories}"
        f"<link href={_attribute(page)}/><content>{_text(spec['summary'])}</content></entry>\n"
    )


def _text(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text).translate(_ENTITIES)


def _attribute(text: str) -> str:
    return '"' + _NOT_XML.sub("\ufffd", text).translate(_IN_ATTRIBUTES) + '"'
