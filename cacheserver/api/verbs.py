"""get and list of resources and their subresources: from a request to what the cache is asked, and to the answer.

What changes something is in writing/writes.py.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Final

import orjson
from aiohttp.web_request import BaseRequest

from cacheserver.api import content, forms, readable
from cacheserver.api.asked import BODY_BYTES, read_spec
from cacheserver.api.asked import Asking as SearchAsking
from cacheserver.api.attributes import Attributes, Query
from cacheserver.api.auth import Gate
from cacheserver.api.comparing import Comparing, Pair
from cacheserver.api.content import Blobs
from cacheserver.api.finding import Finding
from cacheserver.api.forms import Shape
from cacheserver.api.http.body import read_body
from cacheserver.api.http.budget import Budget, Share
from cacheserver.api.http.connection import client_of
from cacheserver.api.http.negotiate import (
    Accepted,
    Answer,
    Encoding,
    accepts_gzip,
    form_of,
    negotiate,
    wants_pretty,
)
from cacheserver.api.http.reply import Reply, Stream, served_from_memory, whole
from cacheserver.api.http.websocket import stream_for
from cacheserver.api.kinds.change import PACKAGE_CHANGE
from cacheserver.api.kinds.package import PACKAGE
from cacheserver.api.kinds.resource import Asking, Gathered, Resource
from cacheserver.api.meant import meant
from cacheserver.api.needing import Needing
from cacheserver.api.options import (
    CONSISTENT,
    ListRequest,
    encode_token,
    fresh_token,
    get_freshness,
    list_request,
    watch_request,
)
from cacheserver.api.questions import Question
from cacheserver.api.render import Listing, Renderer
from cacheserver.api.searching import Searching
from cacheserver.api.status import (
    StatusError,
    bad_request,
    brief,
    expired,
    expired_page,
    method_not_allowed,
    no_such_path,
    not_acceptable,
    not_found,
    unsupported_media_type,
)
from cacheserver.api.views import Views
from cacheserver.api.watching.watch import Watches
from cacheserver.api.writing.decode import as_object, decode, media_type, strictness, write_options
from cacheserver.api.writing.writes import VERBS as WRITES
from cacheserver.api.writing.writes import Writes, warned
from cacheserver.cache.snapshot import Entry, Run
from cacheserver.cache.watchcache import Freshness, Page, WatchCache
from cacheserver.errors import Expired, TooNew
from cacheserver.model import Kind
from cacheserver.query.search import MOST_HITS
from cacheserver.security.identity import Identity
from cacheserver.slotted import slotted

_READ_METHODS = "GET, HEAD"
NEWEST: Final = "newest"
"""What `order` may say."""
SEARCH_LIMIT: Final = 100
"""Packages that a search lists where no `limit` is given; 1,000 at most are ranked."""
_MATCHED: Final = 32  # objects between two turns; each costs 50 us with the longest selector
_PATCH_TYPES = ("application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml")


@slotted()
class Call:
    """One request for a resource. user: empty where nobody asks who it is."""

    request: BaseRequest
    attributes: Attributes
    query: Query
    resource: Resource
    user: str
    identity: Identity | None = None


class Verbs:
    """Answers every verb of every resource. One per process."""

    def __init__(
        self,
        cache: WatchCache,
        blobs: Blobs,
        views: Views,
        renderer: Renderer,
        watches: Watches,
        now: Callable[[], float],
        writes: Writes | None = None,
        gate: Gate | None = None,
    ) -> None:
        """now: seconds since the epoch. writes: None where nothing is written. gate: for what is asked besides."""
        self._cache = cache
        self._blobs = blobs
        self._views = views
        self._budget = Budget()
        self._renderer = renderer
        self._watches = watches
        self._now = now
        self._writes = writes
        self._finding = Finding(cache, blobs)
        self._comparing = Comparing(cache, blobs)
        self._needing = Needing(cache)
        self._searching = Searching(cache)
        self._search_answers = SearchAsking(cache, self._searching)
        self._gate = gate

    def answer(self, call: Call) -> Awaitable[Reply | Stream]:
        """Raises, also when awaited: StatusError, NotReady, TooNew, Expired, BlobMissingError, EtcdError."""
        attributes, resource = call.attributes, call.resource
        verb = attributes.verb
        if attributes.subresource:
            subresource = resource.subresource(attributes.subresource)
            if subresource is None:
                raise no_such_path()
            if verb not in subresource.verbs or not attributes.namespace:
                raise self._refuse(call)
            if verb == "get":
                return self._get(call) if subresource.whole else self._subresource(call)
        if resource.virtual and verb == "create" and not attributes.subresource:
            return self._answer_search(call)
        if verb in WRITES and verb in resource.verbs_of(attributes.subresource) and self._writes is not None:
            return self._writes.answer(call)
        if attributes.subresource:
            raise self._refuse(call)
        if verb == "get" and verb in resource.verbs:
            return self._get(call)
        if verb == "list" and verb in resource.verbs:
            return self._list(call)
        if verb == "watch" and verb in resource.verbs:
            return self._watch(call)
        raise self._refuse(call)

    def _refuse(self, call: Call) -> StatusError:
        """405, or 415 for a patch of a type that no custom resource takes (k8s: the type is looked at first)."""
        attributes, resource = call.attributes, call.resource
        if attributes.verb == "patch":
            sent = call.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if sent not in _PATCH_TYPES:
                return unsupported_media_type(_PATCH_TYPES)
        verb = attributes.verb if attributes.verb in ("watch", *WRITES) else ""
        return method_not_allowed(resource.group, resource.plural, verb, _READ_METHODS, resource.instead)

    # --- one object ---

    async def _entry(self, call: Call) -> Entry:
        """Raises: StatusError 400, 404."""
        attributes, resource = call.attributes, call.resource
        name = attributes.name
        if not attributes.namespace:
            raise no_such_path()  # objects are not served below the all-namespaces path
        if "%" in name or name in (".", ".."):  # k8s.io/apimachinery/pkg/api/validate/content/path.go
            problem = "may not contain '%'" if "%" in name else f"may not be '{name}'"
            raise bad_request(f'Name parameter invalid: "{brief(name)}": {problem}')
        if "export" in call.query:
            raise bad_request("the export parameter, deprecated since v1.14, is no longer supported")
        if resource.gathered is not None:
            return await self._gathered_entry(call, resource.gathered)
        entry = await self._cache.get(resource.source, (attributes.namespace, name), get_freshness(call.query))
        if entry is None:
            hint = meant(self._cache, resource.source, attributes.namespace, resource.plural, name)
            raise not_found(resource.group, resource.plural, name, hint)
        return entry

    async def _gathered_entry(self, call: Call, gathered: Gathered) -> Entry:
        """The first of those with the name, those of the namespace itself first. Raises: StatusError 400, 404."""
        attributes, resource = call.attributes, call.resource
        # What clients write into resourceVersion for a part of an object is a mark of theirs, and no version.
        at = CONSISTENT if attributes.subresource else get_freshness(call.query)
        page = await self._cache.list(
            resource.source,
            at,
            namespace=attributes.namespace,
            selector=gathered.selector(attributes.namespace, gathered.named(attributes.name, call.query)),
            limit=0,
            behind=gathered.behind(attributes.namespace),
        )
        for run in page.runs:
            return run.entries[0]
        raise not_found(resource.group, resource.plural, attributes.name)

    async def _get(self, call: Call) -> Reply | Stream:
        resource, headers = call.resource, call.request.headers
        accepted = negotiate(headers.get("Accept", ""), Answer.OBJECT)
        form = form_of(accepted, call.query)
        entry = await self._entry(call)
        extra = self._staleness(stale=self._cache.away)
        pretty = wants_pretty(call.query, headers.get("User-Agent", ""), accepted=accepted.pretty)
        namespace = call.attributes.namespace
        if (view := resource.gathered.shown(namespace) if resource.gathered else resource.view) is not None:
            if form.shape is Shape.OBJECT:
                return await view.get(self._asking(call, accepted.encoding, pretty=pretty, extra=extra), entry)
            made = view.make(entry)
            if made is None:
                raise not_found(resource.group, resource.plural, call.attributes.name)
            entry = made
        body = forms.one(resource, form, entry, int(self._now()))
        if pretty or accepted.encoding is Encoding.YAML:
            body = readable.readable(body, accepted.encoding, pretty=pretty)
        return whole(body, content_type=accepted.encoding.media_type, extra=extra)

    async def _subresource(self, call: Call) -> Reply | Stream:
        entry = await self._entry(call)
        if (gathered := call.resource.gathered) is not None:
            return await gathered.icon(self._asking(call, Encoding.JSON, pretty=False, extra=b""), entry)
        found = self._finding.answer(call.attributes.subresource)
        who, extra = call.user or client_of(call.request), self._staleness(stale=self._cache.away)
        if call.attributes.subresource == "diff":
            may_read = functools.partial(self._may_read_content, call)
            return await self._comparing.diff(
                Pair(call.request, call.query, entry, self._share(call), who, extra, may_read)
            )
        if call.attributes.subresource == "dependencies":
            question = Question(call.request, call.query, entry, self._share(call), who, extra)
            return await self._needing.answer(question, functools.partial(self._may_list, call))
        if found is not None:
            return await found(Question(call.request, call.query, entry, self._share(call), who, extra))
        manifest = orjson.loads(entry.body)
        answer = content.icon if call.attributes.subresource == "icon" else content.files
        return await answer(call.request, self._blobs, manifest, self._share(call))

    def _asking(self, call: Call, encoding: Encoding, *, pretty: bool, extra: bytes) -> Asking:
        return Asking(call.request, self._blobs, self._share(call), encoding, pretty, extra)

    async def _may_read_content(self, call: Call, name: str) -> None:
        """Raises: StatusError 403 where the caller may not read the content of the revision of this name."""
        if self._gate is not None and call.identity is not None:
            asked = call.attributes._replace(subresource="content", name=name)
            await self._gate.authorize(call.identity, asked)

    async def _may_list(self, call: Call, namespace: str) -> None:
        """Raises: StatusError 403 where the caller may not list the kind in the namespace; "": in all."""
        if self._gate is not None and call.identity is not None:
            asked = call.attributes._replace(verb="list", subresource="", name="", namespace=namespace)
            await self._gate.authorize(call.identity, asked)

    def _share(self, call: Call) -> Share:
        return self._budget.share(call.user or client_of(call.request))

    # --- lists ---

    async def _list(self, call: Call) -> Reply | Stream:
        resource, namespace, headers = call.resource, call.attributes.namespace, call.request.headers
        accepted = negotiate(headers.get("Accept", ""), Answer.LIST)
        form = form_of(accepted, call.query)
        gathered = resource.gathered
        behind = gathered.behind(namespace) if gathered is not None else ""
        wanted = list_request(call.query, resource.all_selectable, namespace, behind)
        if "search" in call.query:
            page = await self._ranked(call, wanted)
        elif "order" in call.query:
            page = await self._newest(call, wanted)
        else:
            page = await self._page(call, wanted, behind)
        extra, runs = self._staleness(stale=page.stale), page.runs
        if gathered is not None:
            runs = runs if form.shape is Shape.OBJECT else await gathered.runs(namespace, runs)
        elif (view := self._views.of(resource, form, namespace)) is not None:
            runs = await view.runs(runs)
        in_order = not {"search", "order"} & call.query.keys()
        token = ""
        if page.next_after:
            token = encode_token(page.resource_version, page.next_after) if in_order else fresh_token(page.next_after)
        envelope = forms.list_envelope(resource, form, page.resource_version, token, page.remaining)
        whole_list = wanted.selection.everything and not token and wanted.after is None and in_order
        listing = Listing(resource, namespace, form, runs, envelope, whole_list)
        pretty = wants_pretty(call.query, headers.get("User-Agent", ""), accepted=accepted.pretty)
        if gathered is not None and form.shape is Shape.OBJECT:
            return await gathered.send(self._asking(call, accepted.encoding, pretty=pretty, extra=extra), listing)
        if (pretty or accepted.encoding is Encoding.YAML) and call.request.method != "HEAD":
            return await self._readable_list(call, listing, accepted, extra)
        gzip = accepts_gzip(headers.get("Accept-Encoding", ""))
        return await self._renderer.reply(listing, gzip=gzip, extra=extra)

    async def _newest(self, call: Call, wanted: ListRequest) -> Page:
        """What is named after its time, the newest first, as it is now: what comes meanwhile stands before the first
        page, and what goes is the oldest, so no page needs the state of the one before.

        Raises: StatusError 400 for other kinds and orders; NotReady, TooNew, StoreSlow.
        """
        if call.resource is not PACKAGE_CHANGE:
            raise bad_request(
                f"{call.resource.plural} have one order, that of names: order={NEWEST} is for packagechanges"
            )
        if call.query["order"] != NEWEST:
            raise bad_request(f'order "{brief(call.query["order"])}" is not known: leave it out, or ask for {NEWEST}')
        if wanted.at.freshness is Freshness.EXACT:
            raise bad_request(
                f"order={NEWEST} has no past: give no exact resourceVersion, and only tokens that came with this order"
            )
        return await self._cache.newest(
            call.resource.source,
            wanted.at,
            namespace=call.attributes.namespace or None,
            selector=wanted.selection,
            limit=wanted.limit,
            before=wanted.after,
        )

    async def _ranked(self, call: Call, wanted: ListRequest) -> Page:
        """Packages that have the words of `search`, the best first, and are selected; as they are now.

        Raises: StatusError 400 with what a ranked list cannot have, and for other kinds; NotReady.
        """
        if call.resource is not PACKAGE:
            raise bad_request(f"{call.resource.plural} are not searched: search packages, and select their revisions")
        if wanted.paged or wanted.at.freshness is Freshness.EXACT:
            raise bad_request("a search has no pages and no past: continue and an exact version are not taken with it")
        await self._cache.reach(wanted.at)
        namespace, most = call.attributes.namespace or None, wanted.limit or SEARCH_LIMIT
        client = call.user or client_of(call.request)
        asked = most if wanted.selection.everything else MOST_HITS
        found = await self._searching.search(call.query["search"], namespace, most=asked, client=client)
        entries: list[Entry] = []
        for at, hit in enumerate(found.hits):
            if not at % _MATCHED:
                await self._cache.turns.spend(_MATCHED * wanted.selection.cost, client)
            entry = self._cache.held(Kind.PACKAGE, hit.facts.name)
            if entry is not None and wanted.selection.matches(entry.labels, entry.fields):
                entries.append(entry)
            if len(entries) == most:
                break
        runs = [Run(tuple(entries), None)] if entries else []
        return Page(runs, self._cache.resource_version, stale=self._cache.away)

    async def _answer_search(self, call: Call) -> Reply:
        """A PackageSearch with its status. Raises: StatusError 400, 403, 413, 415, 422; NotReady, TooNew, StoreSlow."""
        attributes, headers = call.attributes, call.request.headers
        accepted = negotiate(headers.get("Accept", ""), Answer.OBJECT)
        if accepted.shape is not Shape.OBJECT:
            raise not_acceptable([each.value for each in Encoding])
        if self._gate is not None and call.identity is not None:
            listing = attributes._replace(verb="list", resource=PACKAGE.plural, name="")
            await self._gate.authorize(call.identity, listing)
        options = write_options(call.query, "CreateOptions")
        async with read_body(call.request, BODY_BYTES, self._share(call)) as raw:
            decoded = await decode(raw, media_type(headers.get("Content-Type", "")))
        wanted = as_object(decoded.value, call.resource)
        warnings = strictness(decoded, wanted, call.resource, options.validation)
        asked = read_spec(wanted.get("spec") or {})
        await self._cache.reach(CONSISTENT)
        client = call.user or client_of(call.request)
        status = await self._search_answers.answer(asked, attributes.namespace or None, client)
        metadata = {
            **(wanted.get("metadata") or {}),
            **({"namespace": attributes.namespace} if attributes.namespace else {}),
        }
        body = orjson.dumps({**wanted, "metadata": metadata, "status": status})
        pretty = wants_pretty(call.query, headers.get("User-Agent", ""), accepted=accepted.pretty)
        if pretty or accepted.encoding is Encoding.YAML:
            body = await asyncio.to_thread(readable.readable, body, accepted.encoding, pretty=pretty)
        extra = self._staleness(stale=self._cache.away) + warned(warnings)
        return whole(body, status=201, content_type=accepted.encoding.media_type, extra=extra)

    async def _page(self, call: Call, wanted: ListRequest, behind: str) -> Page:
        """Raises: StatusError 410 with a fresh token where there is one to give, or to a token of another etcd."""
        gathered, selection = call.resource.gathered, wanted.selection
        try:
            return await self._cache.list(
                call.resource.source,
                wanted.at,
                namespace=call.attributes.namespace or None,
                selector=gathered.selector(call.attributes.namespace, selection) if gathered else selection,
                limit=wanted.limit,
                after=wanted.after,
                behind=behind,
            )
        except (Expired, TooNew) as exc:
            if isinstance(exc, TooNew) and not (exc.unknown and wanted.paged):
                raise
            if wanted.after is not None:
                raise expired_page(fresh_token(wanted.after)) from None
            raise expired() from None

    def _staleness(self, *, stale: bool) -> bytes:
        """A header line for an answer that may be old, since the store is away."""
        return served_from_memory(self._cache.stale_for_s) if stale else b""

    async def _readable_list(self, call: Call, listing: Listing, accepted: Accepted, extra: bytes) -> Stream:
        stream = Stream(call.request, content_type=accepted.encoding.value)
        stream.start(extra)
        await readable.send_list(stream, listing, accepted.encoding, int(self._now()))
        return stream

    # --- watch ---

    async def _watch(self, call: Call) -> Stream:
        if "search" in call.query:
            raise bad_request(
                "a search cannot be watched: watch with a selector, and search anew when something changed"
            )
        if "order" in call.query:
            raise bad_request("a watch has one order, that in which things happen: leave out order")
        accepted = negotiate(call.request.headers.get("Accept", ""), Answer.WATCH)
        form = form_of(accepted, call.query)
        wanted = watch_request(call.query, call.resource.all_selectable)
        namespace = call.attributes.namespace
        stream = stream_for(call.request, call.identity)
        return await self._watches.serve(stream, call.resource, namespace, wanted, form)
