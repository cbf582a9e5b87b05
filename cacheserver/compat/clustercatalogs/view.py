"""ClusterCatalogs of a server of one's own: one of each repository that is published, to be read and watched.

So that clients of OLM v1 find catalogs without a cluster. Nothing of it is stored: versions are those of this process,
in order also over a restart (they begin at the clock), and who comes with one of another process lists again. In a
cluster the kind is kube-apiserver's (controller.py). Called by the API, for requests of the kind.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, NoReturn, Protocol

import orjson

from cacheserver.api import forms
from cacheserver.api.http.negotiate import Answer, Encoding, form_of, negotiate, wants_pretty
from cacheserver.api.http.reply import Reply, Stream, whole
from cacheserver.api.http.websocket import stream_for
from cacheserver.api.kinds.fields import CONDITIONS, READ
from cacheserver.api.kinds.resource import (
    Column,
    Manifest,
    Resource,
    look,
    name_column,
    number,
    record,
    seconds_of,
    text,
)
from cacheserver.api.kinds.resource import time as time_field
from cacheserver.api.options import WatchRequest, list_request, watch_request
from cacheserver.api.readable import readable
from cacheserver.api.selectors import Selection
from cacheserver.api.status import StatusError, expired, from_error, method_not_allowed, no_such_path, not_found
from cacheserver.api.status import shutting_down as stopping
from cacheserver.api.verbs import Call
from cacheserver.api.watching.watch import bring_forward
from cacheserver.cache.freshness import Freshness
from cacheserver.cache.snapshot import Entry
from cacheserver.cache.watchcache import Watch
from cacheserver.cache.window import restamped
from cacheserver.compat.clustercatalogs.controller import LABEL
from cacheserver.compat.clustercatalogs.status import Facts, wanted
from cacheserver.compat.clustercatalogs.wanted import KIND, OLM
from cacheserver.config import Door, OCISource, RepositoryConfig
from cacheserver.errors import CacheServerError, Expired
from cacheserver.model import GROUP, Kind, RepositoryKey
from cacheserver.slotted import slotted
from cacheserver.store.published import PublishedCatalog

PRIORITY: Final = f"{GROUP}/priority"
"""Annotation of a Repository: spec.priority of its ClusterCatalog, where clients find one package in several."""
_PRIORITIES: Final = range(-(2**31), 2**31)
_EVENTS: Final = 1000
"""Kept for watches to resume from; a few for each content that changes."""
_SHORTEST_S: Final = 1800.0  # kube: --min-request-timeout, as in watching/watch.py
_BOOKMARK_S: Final = 60.0
_AGAIN_S: Final = 1.0
_OPEN: Final = f'{{"apiVersion":"{OLM}/v1","kind":"{KIND}","metadata":'.encode()


def _serving(manifest: Manifest) -> str:
    conditions: Sequence[Mapping[str, str]] = manifest.get("status", {}).get("conditions") or ()
    return next((each["status"] for each in conditions if each["type"] == "Serving"), "")


CLUSTER_CATALOG: Final = Resource(
    kind=KIND,
    plural="clustercatalogs",
    short_names=(),
    group=OLM,
    version="v1",
    namespaced=False,
    categories=(),
    description="A catalog for clients of OLM v1: where it is served, and which content.",
    verbs=READ,
    instead="it is made of a repository that is published: change spec.publish of that",
    source=Kind.REPOSITORY,
    selectable=(),
    columns=(
        name_column(),
        Column("LastUnpacked", "When its content came.", lambda m: look(m, "status", "lastUnpacked"), "date"),
        Column("Serving", "Whether it is served.", _serving),
        Column("Age", "Time since its repository was made.", None),
    ),
    spec=record(
        "spec",
        "What it is made of.",
        record(
            "source",
            "Where it is read.",
            text("type", "Image, always."),
            record("image", "The image.", text("ref", "Its name; of a catalog that is none, one that stands for it.")),
        ),
        number("priority", "Of two catalogs with the same package, the one with the higher counts."),
        text("availabilityMode", "Available, always."),
    ),
    status=record(
        "status",
        "What is served, and where.",
        CONDITIONS,
        record(
            "resolvedSource",
            "The content that is served.",
            text("type", "Image, always."),
            record("image", "The content.", text("ref", "Names it, by its digest.")),
        ),
        record("urls", "Where it is served.", text("base", "The URL in front of /api/v1/all.")),
        time_field("lastUnpacked", "When this content came."),
    ),
)


class Contents(Protocol):
    """What is served of repositories (compat/catalogs.py)."""

    @property
    def known(self) -> bool:
        """Whether get() can be believed when it says that there is nothing."""
        ...

    def get(self, key: RepositoryKey) -> PublishedCatalog | None:
        """What the last finished sync left."""
        ...

    def changes(self) -> AsyncIterator[RepositoryKey]:
        """A key each time get() says another thing, or its configuration changed; first those that there are."""
        ...


@slotted(frozen=True)
class _Event:
    version: int
    old: Entry | None
    new: Entry | None


class ClusterCatalogView:
    """See the module. Call run() (for ever)."""

    def __init__(
        self,
        contents: Contents,
        configs: Mapping[RepositoryKey, RepositoryConfig],
        base: Callable[[RepositoryKey], str],
        named: Callable[[RepositoryKey], str],
        served: Callable[[RepositoryKey], Entry | None],
        watch: Callable[[], Awaitable[Watch]],
        now: Callable[[], float] = time.time,
    ) -> None:
        """base: the URL below which a repository's catalog is served. named: what its ClusterCatalog is called. served:
        the Repository object, as it is in memory; watch: of all of them, from now on. now: Unix time."""
        self.resource = CLUSTER_CATALOG
        self._contents = contents
        self._configs = configs
        self._base = base
        self._named = named
        self._served = served
        self._watch_repositories = watch
        self._now = now
        self._shown: dict[str, tuple[Entry, dict[str, Any]]] = {}
        self._version = self._floor = int(now() * 1000)
        self._events: deque[_Event] = deque(maxlen=_EVENTS)
        self._moved = asyncio.Event()
        self._ended = False

    # --- keeping in step ---

    async def run(self) -> NoReturn:
        """Follow what is served, and how syncs went, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._heed(), name="clustercatalogs: contents")
            group.create_task(self._follow(), name="clustercatalogs: repositories")
        raise AssertionError("neither ends")

    async def _heed(self) -> None:
        async with aclosing(self._contents.changes()) as keys:  # type: ignore[type-var]  # a generator, there and in fakes
            async for key in keys:
                self.look(key)

    async def _follow(self) -> None:
        """What happens while the cache is read anew is seen with the next change."""
        while True:
            try:
                watch = await self._watch_repositories()
                for key in self._configs:
                    self.look(key)
                while True:
                    for event in await watch.next(timeout_s=_BOOKMARK_S):
                        self.look(RepositoryKey(*event.name))
            except CacheServerError:
                await asyncio.sleep(_AGAIN_S)

    def look(self, key: RepositoryKey) -> None:
        """Whether the ClusterCatalog of a repository is another by now. Returns at once."""
        name = self._named(key)
        known = self._shown.get(name)
        config = self._configs.get(key)
        published = self._contents.get(key)
        if config is None or Door.CATALOG not in config.publish or (published is None and not self._contents.known):
            if known is not None and (config is None or Door.CATALOG not in config.publish):
                self._replace(name, known[0], None, {})
            return
        before = known[1] if known is not None else {}
        found = self._made(key, name, config, published, before)
        if known is None or found != before:
            self._replace(name, known[0] if known is not None else None, self._version + 1, found)

    def _replace(self, name: str, old: Entry | None, version: int | None, manifest: dict[str, Any]) -> None:
        new = _entry(manifest, version) if version is not None else None
        self._version += 1
        if len(self._events) == _EVENTS:
            self._floor = self._events[0].version
        self._events.append(_Event(self._version, old, new))
        if new is None:
            del self._shown[name]
        else:
            self._shown[name] = new, manifest
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _made(
        self,
        key: RepositoryKey,
        name: str,
        config: RepositoryConfig,
        published: PublishedCatalog | None,
        before: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The object without its version. before: as it was."""
        entry = self._served(key)
        repository = orjson.loads(entry.body) if entry is not None else None
        source = config.source
        image = source.image if isinstance(source, OCISource) else f"{GROUP}/{key.namespace}/{key.name}:published"
        first = entry.created if entry is not None else published.changed if published is not None else int(self._now())
        created = before["metadata"]["creationTimestamp"] if before else _stamp(first)
        metadata = {
            "name": name,
            "uid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{OLM}/{key.namespace}/{key.name}")),
            "generation": 1,
            "creationTimestamp": created,
            "labels": {**config.labels, LABEL: name},
        }
        spec = {
            "source": {"type": "Image", "image": {"ref": image}},
            "priority": _priority(config.annotations.get(PRIORITY, "")),
            "availabilityMode": "Available",
        }
        bare: dict[str, Any] = {"metadata": metadata, "spec": spec, "status": before.get("status", {})}
        facts = Facts(key, repository, published, self._contents.known, self._base(key))
        return {**bare, "status": wanted(bare, facts, self._now())}

    # --- requests ---

    async def answer(self, call: Call) -> Reply | Stream:
        """As KindBeside.answer."""
        attributes = call.attributes
        if attributes.namespace or attributes.subresource:
            raise no_such_path()
        match attributes.verb:
            case "get":
                return self._get(call)
            case "list":
                return self._list(call)
            case "watch":
                return await self._watch(call)
        raise method_not_allowed(OLM, self.resource.plural, attributes.verb, "GET, HEAD", self.resource.instead)

    def end(self) -> None:
        """As KindBeside.end."""
        self._ended = True
        self._moved.set()

    def _get(self, call: Call) -> Reply:
        found = self._shown.get(call.attributes.name)
        if found is None:
            raise not_found(OLM, self.resource.plural, call.attributes.name)
        accepted = negotiate(call.request.headers.get("Accept", ""), Answer.OBJECT)
        body = forms.one(self.resource, form_of(accepted, call.query), found[0], int(self._now()))
        return _reply(call, body, accepted.encoding, pretty=accepted.pretty)

    def _list(self, call: Call) -> Reply:
        """Whole, whatever the limit: there are as many as repositories that are published."""
        accepted = negotiate(call.request.headers.get("Accept", ""), Answer.LIST)
        form = form_of(accepted, call.query)
        asked = list_request(call.query, self.resource.all_selectable, "")
        at = asked.at.resource_version
        if asked.paged or at > self._version or (asked.at.freshness is Freshness.EXACT and at != self._version):
            raise expired()
        make, now = forms.item_maker(self.resource, form), int(self._now())
        items = [make(entry, now)[0] for entry in self._selected(asked.selection)]
        envelope = forms.list_envelope(self.resource, form, self._version, "", None)
        body = b"".join((envelope.head, b",".join(items), envelope.tail))
        return _reply(call, body, accepted.encoding, pretty=accepted.pretty)

    def _selected(self, selection: Selection) -> list[Entry]:
        entries = [entry for _, (entry, _) in sorted(self._shown.items())]
        return [entry for entry in entries if selection.matches(entry.labels, entry.fields)]

    async def _watch(self, call: Call) -> Stream:
        if self._ended:
            raise stopping()
        accepted = negotiate(call.request.headers.get("Accept", ""), Answer.WATCH)
        asked = watch_request(call.query, self.resource.all_selectable)
        framer = forms.Framer(self.resource, form_of(accepted, call.query))
        stream = stream_for(call.request, call.identity)
        timeout_s = asked.timeout_s or random.uniform(_SHORTEST_S, 2 * _SHORTEST_S)  # noqa: S311 # spreads reconnects
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                stream.leave = functools.partial(bring_forward, deadline, 0.0)
                stream.start()
                await self._feed(stream, framer, asked)
        except TimeoutError:
            pass
        except StatusError as exc:  # Kubernetes' clients expect it inside the stream
            await stream.write(forms.error_frame(exc.status()))
        except ConnectionError:
            return stream  # the client left, which is how most watches end
        stream.end(going_away=self._ended)
        return stream

    async def _feed(self, stream: Stream, framer: forms.Framer, asked: WatchRequest) -> None:
        """Events until the server stops. Raises: StatusError 410; ConnectionError."""
        at, columns = self._version if asked.since is None else asked.since, True
        if asked.since is None and asked.initial is not None:
            for entry in self._selected(asked.selection):
                await stream.write(framer.frame("ADDED", entry, int(self._now()), columns=columns))
                columns = False
            if asked.end_bookmark:
                await stream.write(framer.bookmark(at, ends_initial=True, columns=columns))
        while not self._ended:
            if not self._floor <= at <= self._version:
                raise from_error(Expired(at, self._floor))
            moved = self._moved
            for event in [event for event in self._events if event.version > at]:
                if (frame := self._frame(framer, event, asked.selection, columns=columns)) is not None:
                    await stream.write(frame)
                    columns = False
                at = event.version
            if at < self._version:
                continue  # more came while the client took these
            try:
                async with asyncio.timeout(_BOOKMARK_S):
                    await moved.wait()
            except TimeoutError:
                if asked.bookmarks:
                    await stream.write(framer.bookmark(at, ends_initial=False))

    def _frame(self, framer: forms.Framer, event: _Event, selection: Selection, *, columns: bool) -> bytes | None:
        """None where nothing of it is selected."""
        old, new = (
            entry if entry is not None and selection.matches(entry.labels, entry.fields) else None
            for entry in (event.old, event.new)
        )
        now = int(self._now())
        if new is not None:
            return framer.frame("ADDED" if old is None else "MODIFIED", new, now, columns=columns)
        if old is not None:
            return framer.frame("DELETED", restamped(old, event.version), now, columns=columns)
        return None


def _entry(manifest: Mapping[str, Any], version: int) -> Entry:
    metadata = orjson.dumps({"resourceVersion": str(version), **manifest["metadata"]})
    fields, cells = CLUSTER_CATALOG.projection(manifest, {})
    rest = b'"spec":%b,"status":%b}' % (orjson.dumps(manifest["spec"]), orjson.dumps(manifest["status"]))
    return Entry(
        name=("", manifest["metadata"]["name"]),
        resource_version=version,
        body=b"%b%b,%b" % (_OPEN, metadata, rest),
        metadata_start=len(_OPEN),
        metadata_end=len(_OPEN) + len(metadata) - 1,
        labels=manifest["metadata"].get("labels") or {},
        fields=fields,
        cells=cells,
        created=seconds_of(manifest["metadata"]["creationTimestamp"]),
    )


def _reply(call: Call, body: bytes, encoding: Encoding, *, pretty: bool) -> Reply:
    pretty = wants_pretty(call.query, call.request.headers.get("User-Agent", ""), accepted=pretty)
    if pretty or encoding is Encoding.YAML:
        body = readable(body, encoding, pretty=pretty)
    return whole(body, content_type=encoding.media_type)


def _priority(text: str) -> int:
    """0 for what is none."""
    digits = text.removeprefix("-")
    number = int(text) if digits.isascii() and digits.isdigit() and len(digits) <= 10 else 0
    return number if number in _PRIORITIES else 0


def _stamp(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
