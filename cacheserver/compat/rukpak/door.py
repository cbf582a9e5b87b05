"""Makes the objects of rukpak-packageserver's kinds: of a stored Package or Repository, as it is asked for.

Nothing is kept. What a get holds besides, an icon or all bundles of a catalog, is read for it alone, within the budget
of those who read content. Used by the API as any view (api/kinds/resource.py: Gathered).
"""

from __future__ import annotations

import base64
import functools
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

import orjson

from cacheserver.api import content
from cacheserver.api.attributes import Query
from cacheserver.api.content import Blobs
from cacheserver.api.forms import OBJECT
from cacheserver.api.http.budget import READER_BYTES
from cacheserver.api.http.negotiate import Encoding
from cacheserver.api.http.reply import Reply, Stream, whole
from cacheserver.api.kinds.resource import Asking, Projected, Resource, look
from cacheserver.api.readable import readable, send_list
from cacheserver.api.render import Listing
from cacheserver.api.selectors import Must, Selection, Term
from cacheserver.api.status import no_such_path
from cacheserver.cache.snapshot import CellsOf, Entry, Run
from cacheserver.cache.view import Completed
from cacheserver.cache.watchcache import Freshness, Projection, ReadAt, WatchCache
from cacheserver.cache.window import Selector
from cacheserver.compat.rukpak import kinds as declared
from cacheserver.config import Door
from cacheserver.errors import BlobMissingError
from cacheserver.model import ANNOTATION_SHOWN, Digest, Kind, RepositoryKey

Published = Callable[[RepositoryKey], bool]
"""Whether a repository says now that it is shown here."""

_PIECE_BYTES: Final = 64 << 10  # of a list, or of a catalog's bundles, made and sent at a time: 1 to 2 ms
_ICON_MOST: Final = 1 << 20  # of an icon in a Package; the icon subresource of our own kind has larger ones
_COST: Final = 4  # of matching one, beside its selectors
_PUBLISHED: Final = "spec.publish"
_SHOWN: Final = "metadata.shownBy"
"""Among the fields of a stored Repository, and of a Package; only where these kinds are served (projections)."""
_LATEST: Final = ReadAt(Freshness.ANY)

_Fields = Mapping[str, str]
_Spec = Callable[[Mapping[str, Any], Entry], Mapping[str, Any]]


def projections(of_kinds: Mapping[Kind, Projection]) -> Mapping[Kind, Projection]:
    """What the watch cache makes of stored kinds, where these views are served."""
    repositories, packages = of_kinds[Kind.REPOSITORY], of_kinds[Kind.PACKAGE]

    def repository(manifest: Mapping[str, Any], texts: Mapping[str, str]) -> tuple[dict[str, str], CellsOf]:
        fields, cells = repositories(manifest, texts)
        fields[_PUBLISHED] = ",".join(manifest["spec"].get("publish") or ())
        return fields, cells

    def package(manifest: Mapping[str, Any], texts: Mapping[str, str]) -> tuple[dict[str, str], CellsOf]:
        fields, cells = packages(manifest, texts)
        if shown := manifest["metadata"].get("annotations", {}).get(ANNOTATION_SHOWN):
            fields[_SHOWN] = shown
        return fields, cells

    return {**of_kinds, Kind.REPOSITORY: repository, Kind.PACKAGE: package}


def kinds(blobs: Blobs, cache: WatchCache, published: Published, *, standalone: bool) -> Sequence[Resource]:
    """The rows, for Api. In a cluster CatalogSources are the cluster's (sources.py)."""
    version = declared.VERSION if standalone else declared.VERSION_IN_A_CLUSTER
    packages = _View(
        functools.partial(declared.package, version),
        _package,
        "spec.packageName",
        lambda fields: _SHOWN in fields,
        lambda fields: published(_repository(fields)),
    )
    packages.completed = functools.partial(_with_icon, blobs)
    caches = _View(functools.partial(declared.cache, version), _nothing, "metadata.name", _says_so)
    caches.completed = functools.partial(_with_bundles, cache)
    rows = [caches.row, packages.row]
    return [_View(declared.source, _source, "metadata.name", _says_so).row, *rows] if standalone else rows


def _repository(fields: _Fields) -> RepositoryKey:
    return RepositoryKey(fields["metadata.namespace"], fields["spec.repository"])


def _says_so(fields: _Fields) -> bool:
    return Door.RUKPAK.value in fields.get(_PUBLISHED, "").split(",")


_Completed = Callable[[Asking, Entry, Mapping[str, Any]], AsyncGenerator[bytes, None]]
"""What a get holds besides: members of spec as JSON, each with a comma before it."""


class _View:
    """One kind: api.kinds.resource.Gathered."""

    def __init__(
        self,
        row: Callable[[_View], Resource],
        say: Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], Mapping[str, Any]]],
        name: str,
        shows: Callable[[_Fields], bool],
        published: Callable[[_Fields], bool] | None = None,
    ) -> None:
        """say: spec and status for a stored object's. name: the stored field that is its name. shows: whether it says
        so itself, by fields; published: whether its repository says so now, which nobody who watches is told."""
        self._say = say
        self._name = name
        self._shows = shows
        self._published = published or shows
        self.completed: _Completed | None = None
        self._row = row

    @functools.cached_property
    def row(self) -> Resource:
        """The kind, for Api."""
        return self._row(self)

    @functools.cached_property
    def _opening(self) -> bytes:
        row = self.row
        return f'{{"kind":"{row.kind}","apiVersion":"{row.api_version}","metadata":'.encode()

    # --- which objects ---

    def behind(self, namespace: str) -> str:
        """None: each namespace has its own."""
        return ""

    def selector(self, namespace: str, selection: Selection, *, watching: bool = False) -> Selector:
        """Of what is published. To who watches, what is published no more is deleted (ingest/shown.py)."""
        return _Selecting(selection, self._name, self._shows if watching else self._is_shown)

    def _is_shown(self, fields: _Fields) -> bool:
        return self._shows(fields) and self._published(fields)

    def named(self, name: str, query: Query) -> Selection:
        """Of two catalogs with the same package the first one's is meant."""
        return Selection(name, {"metadata.name": name}, (), (Term("metadata.name", Must.BE_ONE_OF, (name,)),))

    def shown(self, namespace: str) -> Projected:
        """The same for each namespace."""

        async def complete(_: Blobs, entries: Sequence[Entry]) -> Completed:
            return Completed([made for entry in entries if (made := self._made(entry)) is not None])

        return Projected(self._made, complete, self._get)

    def weigh(self, entry: Entry) -> int:
        """As much as what is stored."""
        return entry.size

    def _made(self, stored: Entry) -> Entry | None:
        """None: it is not shown."""
        if not self._shows(stored.fields):
            return None
        manifest = orjson.loads(stored.body)
        spec, status = self._say(manifest)
        name, opening = stored.fields[self._name], self._opening
        metadata = orjson.dumps(
            {
                "resourceVersion": str(stored.resource_version),
                "name": name,
                "namespace": stored.name[0],
                # Ours: the uid follows from what it is a view of, so it is as stable.
                "uid": str(uuid.uuid5(uuid.UUID(manifest["metadata"]["uid"]), opening.decode())),
                "creationTimestamp": manifest["metadata"]["creationTimestamp"],
                **({"labels": dict(stored.labels)} if stored.labels else {}),
            }
        )
        inside = b'},"spec":%b,"status":%b}' % (orjson.dumps(spec), orjson.dumps(status))
        return Entry(
            name=(stored.name[0], name),
            resource_version=stored.resource_version,
            body=b"".join((opening, metadata[:-1], inside)),
            metadata_start=len(opening),
            metadata_end=len(opening) + len(metadata) - 1,
            labels=stored.labels,
            fields={"metadata.name": name, "metadata.namespace": stored.name[0]},
            cells=(orjson.dumps(name) + b',"', b'"'),
            created=stored.created,
        )

    # --- one ---

    async def _get(self, asking: Asking, stored: Entry) -> Reply | Stream:
        """Raises: StatusError 429; EtcdError."""
        made = self._made(stored)
        assert made is not None  # it was selected
        for_people = asking.pretty or asking.encoding is Encoding.YAML
        if self.completed is None:
            body = made.body + b"\n"
            if for_people:
                body = readable(body, asking.encoding, pretty=asking.pretty)
            return whole(body, content_type=asking.encoding.media_type, extra=asking.extra)
        head, _, tail = made.body.rpartition(b'},"status":')
        more = self.completed(asking, stored, orjson.loads(stored.body))
        # Indented JSON is YAML too; what is large is not made to look better.
        stream = Stream(asking.request, content_type=asking.encoding.value)
        async with asking.share.hold(READER_BYTES):
            await content.send(stream, _around(head, more, b'},"status":' + tail + b"\n"), asking.extra)
        return stream

    async def icon(self, asking: Asking, entry: Entry) -> Reply:
        """There is none. Raises: StatusError 404."""
        raise no_such_path()

    # --- lists ---

    async def runs(self, namespace: str, runs: Sequence[Run]) -> Sequence[Run]:
        """Made anew each time: who has these clients has a few of them."""
        return [Run(made, None) for run in runs if (made := tuple(self._all(run)))]

    def _all(self, run: Run) -> Iterator[Entry]:
        return (made for entry in run.entries if (made := self._made(entry)) is not None)

    async def send(self, asking: Asking, listing: Listing) -> Stream:
        """A piece at a time."""
        stream = Stream(asking.request, content_type=asking.encoding.value)
        if not (asking.pretty or asking.encoding is Encoding.YAML) or stream.is_head:
            await content.send(stream, self._pieces(listing), asking.extra)
            return stream

        async def make(run: Run) -> Run:
            return Run(tuple(self._all(run)), None)

        assert listing.form is OBJECT
        stream.start(asking.extra)
        await send_list(stream, listing, asking.encoding, 0, make)
        return stream

    async def _pieces(self, listing: Listing) -> AsyncGenerator[bytes, None]:
        separator, gathered = listing.envelope.head, bytearray()
        for run in listing.runs:
            for entry in self._all(run):
                gathered += separator + entry.body
                separator = b","
                if len(gathered) > _PIECE_BYTES:
                    yield bytes(gathered)
                    gathered.clear()
        yield bytes(gathered) + (b"" if separator == b"," else separator) + listing.envelope.tail


class _Selecting:
    """Matches stored objects as `selection` matches what is shown of them; cache/window.py: Selector."""

    everything: Final = False  # what is not published is not meant
    held: Final = 0

    def __init__(self, selection: Selection, name: str, shows: Callable[[_Fields], bool]) -> None:
        self._selection = selection
        self._name = name
        self._shows = shows
        self.cost = selection.cost + _COST
        wanted = selection.required.get("metadata.name")
        self.required: Mapping[str, str] = {} if wanted is None else {name: wanted}

    def matches(self, labels: Mapping[str, str], fields: Mapping[str, str]) -> bool:
        """labels, fields: of a stored object."""
        if not self._shows(fields):
            return False
        if self._selection.everything:
            return True
        as_shown = {"metadata.name": fields[self._name], "metadata.namespace": fields["metadata.namespace"]}
        return self._selection.matches(labels, as_shown)


# --- what each says ---


def _source(repository: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    kept = repository["spec"]["source"]
    [inner] = kept.values()
    image = inner.get("image") or inner.get("url") or inner.get("path") or ""
    polled = look(repository, "status", "lastCheckedAt")
    spec = {"image": image, "pollingInterval": look(repository, "spec", "interval")}
    return spec, {"latestImagePoll": polled} if polled else {}


def _nothing(repository: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return {}, {}


def _package(package: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    status = package.get("status", {})
    spec = {
        "catalogSource": look(package, "spec", "repository"),
        "catalogSourceNamespace": look(package, "metadata", "namespace"),
        "packageName": look(package, "spec", "packageName"),
        "channels": [{"name": each["name"], "head": each.get("head", "")} for each in status.get("channels", ())],
        "defaultChannel": status.get("defaultChannel", ""),
    }
    if provider := status.get("provider"):
        spec["provider"] = provider
    return spec, {}


async def _around(head: bytes, more: AsyncGenerator[bytes, None], tail: bytes) -> AsyncGenerator[bytes, None]:
    yield head
    async with aclosing(more) as pieces:
        async for piece in pieces:
            yield piece
    yield tail


async def _with_icon(
    blobs: Blobs, asking: Asking, stored: Entry, package: Mapping[str, Any]
) -> AsyncGenerator[bytes, None]:
    """Raises: EtcdError."""
    icon = package.get("status", {}).get("icon") or {}
    if not icon or icon.get("size", 0) > _ICON_MOST:
        return
    try:
        async with aclosing(blobs.read(Digest(icon["digest"]))) as source:  # type: ignore[type-var] # a generator
            image = b"".join([piece async for piece in source])
    except BlobMissingError:
        return
    shown = {"base64data": base64.b64encode(image).decode(), "mediatype": icon.get("mediaType", "")}
    yield b',"icon":' + orjson.dumps(shown)


async def _with_bundles(
    cache: WatchCache, asking: Asking, stored: Entry, repository: Mapping[str, Any]
) -> AsyncGenerator[bytes, None]:
    """Of what the cache holds now. Raises: NotReady."""
    namespace, name = stored.name
    of_it = Selection(name, {"spec.repository": name}, (), (Term("spec.repository", Must.BE_ONE_OF, (name,)),))
    page = await cache.list(Kind.REVISION, _LATEST, namespace=namespace, selector=of_it)
    separator, gathered = b'"operators":[', bytearray()
    for run in page.runs:
        for entry in run.entries:
            gathered += separator + _bundle(orjson.loads(entry.body))
            separator = b","
            if len(gathered) > _PIECE_BYTES:
                yield bytes(gathered)
                gathered.clear()
    yield bytes(gathered) + (b"]" if separator == b"," else b"")


def _bundle(revision: Mapping[str, Any]) -> bytes:
    status = revision.get("status", {})
    shown: dict[str, object] = {
        "name": look(revision, "spec", "revision"),
        "package": look(revision, "spec", "packageName"),
        "version": look(revision, "spec", "version"),
        "providedapis": status.get("providedAPIs", []),
        "bundlepath": status.get("image", ""),
    }
    if needed := status.get("requiredAPIs"):
        shown["requiredapis"] = needed
    return orjson.dumps(shown)
