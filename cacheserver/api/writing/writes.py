"""Verbs that change something: from a request to what the author is asked, and to the answer.

Kubernetes' semantics of create, update, patch, delete and deletecollection (k8s.io/apiserver/pkg/endpoints/handlers).
What is right and what is not, the author says (cacheserver.publish); here is only HTTP.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import orjson

from cacheserver.api import forms
from cacheserver.api.attributes import file_path
from cacheserver.api.auth import Gate
from cacheserver.api.content import Blobs
from cacheserver.api.forms import Shape
from cacheserver.api.http.body import read_body
from cacheserver.api.http.budget import Budget, Share
from cacheserver.api.http.connection import client_of
from cacheserver.api.http.negotiate import Accepted, Answer, Encoding, form_of, negotiate, wants_pretty
from cacheserver.api.http.reply import JSON, Reply, Stream, warning, whole
from cacheserver.api.kinds.contents import PACKAGE_REVISION_RESOURCES
from cacheserver.api.kinds.resource import Asking
from cacheserver.api.kinds.revision import PACKAGE_REVISION
from cacheserver.api.options import CONSISTENT, list_request
from cacheserver.api.readable import readable
from cacheserver.api.status import (
    Cause,
    StatusError,
    bad_request,
    brief,
    invalid,
    no_such_path,
    not_found,
    unavailable,
)
from cacheserver.api.writing import files as filing
from cacheserver.api.writing import patch
from cacheserver.api.writing.decode import (
    JSON_PATCH,
    MERGE_PATCH,
    PATCHES,
    Decoded,
    WriteOptions,
    as_object,
    decode,
    media_type,
    strictness,
    write_options,
)
from cacheserver.api.writing.rights import APPROVAL, STATUS, who
from cacheserver.cache.watchcache import WatchCache
from cacheserver.errors import CacheServerError, RefusedError
from cacheserver.model import GROUP, Key, Kind
from cacheserver.publish import changes, refusals
from cacheserver.publish.author import Author, Who, Written
from cacheserver.publish.preconditions import Preconditions
from cacheserver.publish.status import tell
from cacheserver.store.keys import parse_key
from cacheserver.tasks import in_parallel

if TYPE_CHECKING:
    from cacheserver.api.verbs import Call

VERBS: Final = ("create", "update", "patch", "delete", "deletecollection")

OBJECT_BYTES: Final = 3 << 20
"""k8s.io/apiserver/pkg/server/config.go: MaxRequestBodyBytes."""
_OPTIONS_BYTES: Final = 64 << 10  # of DeleteOptions
_TIMES_AS_JSON: Final = 2
"""Bytes of JSON for one of a package: base64 takes 4/3, and real text 1.1."""
BODIES_BYTES: Final = 192 << 20
"""Held by all bodies that are worked on, three times their size each (body.py); half of it by one client."""
_DELETED_AT_ONCE: Final = 16
_CLEANERS: Final = frozenset(
    ("system:serviceaccount:kube-system:namespace-controller", "system:kube-controller-manager")
)
"""Who empties a namespace that is going. Nothing of ours is deleted for it: with the namespace go its Repositories, and
with these their objects; git is not touched by either."""


class Writes:
    """One per process."""

    def __init__(
        self,
        author: Author,
        cache: WatchCache,
        blobs: Blobs,
        gate: Gate | None,
        nobody: str,
        now: Callable[[], float],
    ) -> None:
        self._author = author
        self._cache = cache
        self._blobs = blobs
        self._gate = gate
        self._nobody = nobody
        self._now = now
        self._budget = Budget(BODIES_BYTES, each=BODIES_BYTES // 2)

    async def answer(self, call: Call) -> Reply | Stream:
        """Raises: StatusError, and any CacheServerError."""
        self._check_origin(call)
        attributes = call.attributes
        if not attributes.namespace:
            raise no_such_path()
        resource, verb = call.resource, attributes.verb
        if resource is PACKAGE_REVISION_RESOURCES:
            return await self._write_files(call)
        match attributes.subresource, verb:
            case "", "create":
                return await self._create(call)
            case (("" | "approval" | "status"), ("update" | "patch")):
                return await self._update(call)
            case "rebase", "create":
                return await self._rebase(call)
            case "", "delete":
                return await self._delete(call)
            case "", "deletecollection":
                return await self._delete_all(call)
            case "files", ("update" | "delete"):
                return await self._write_file(call)
        raise no_such_path()

    def _check_origin(self, call: Call) -> None:
        """No web page writes here but the one at /ui/. Raises: StatusError 403.

        A browser sends Origin with every request that changes something (fetch, section 3.2). Our own page's is where
        it was asked for; anybody could point a name of his own at us and say the same, so only an address, or
        localhost, is believed there. Where nobody is asked who he is, such a page's other requests are refused by Host.
        """
        request = call.request
        origin, host = request.headers.get("Origin"), request.headers.get("Host", "")
        if origin and not (origin in (f"http://{host}", f"https://{host}") and _names_this_machine(host)):
            why = "writes from web pages (header Origin) are taken from /ui/ alone, opened by address or localhost"
            raise StatusError(403, "Forbidden", why, details={})
        if self._gate is not None:
            return
        here = request.transport.get_extra_info("sockname") if request.transport is not None else None
        if here and _is_loopback(str(here[0])) and not _names_this_machine(request.headers.get("Host", "")):
            why = f"the header Host says {brief(request.headers.get('Host', ''))!r}; ask for localhost, or its address"
            raise StatusError(403, "Forbidden", why, details={})

    # --- objects ---

    async def _create(self, call: Call) -> Reply | Stream:
        options = write_options(call.query, "CreateOptions")
        async with read_body(call.request, OBJECT_BYTES, self._share(call)) as raw:
            decoded = await decode(raw, media_type(call.request.headers.get("Content-Type", "")))
        wanted = as_object(decoded.value, call.resource)
        warnings = strictness(decoded, wanted, call.resource, options.validation)
        if (wanted.get("metadata") or {}).get("generateName"):
            warnings = (*warnings, "metadata.generateName: has no effect, the name follows from the spec")
        written = await self._author.create(
            call.attributes.namespace, wanted, self._who(call, ""), dry_run=options.dry_run
        )
        return await self._object(call, written, warnings)

    async def _update(self, call: Call) -> Reply | Stream:
        is_put, approval = call.attributes.verb == "update", call.attributes.subresource == APPROVAL
        options = write_options(call.query, "UpdateOptions" if is_put else "PatchOptions")
        async with read_body(call.request, OBJECT_BYTES, self._share(call)) as raw:
            media = self._media(call)
            decoded = await decode(raw, JSON if media in PATCHES else media)
        warnings: tuple[str, ...] = ()

        def revise(manifest: dict[str, Any]) -> Mapping[str, Any]:
            nonlocal warnings
            wanted = _applied(manifest, decoded.value, media) if media in PATCHES else decoded.value
            wanted = as_object(wanted, call.resource)
            if is_put and not (wanted.get("metadata") or {}).get("name"):
                raise invalid_name(call.attributes.name)
            is_status = call.attributes.subresource == STATUS
            warnings = strictness(decoded, wanted, call.resource, options.validation, status=is_status)
            return wanted

        key, author = await self._key(call), self._who(call, call.attributes.name)
        if call.attributes.subresource == STATUS:
            alone = media == MERGE_PATCH
            written = await tell(
                self._author, key, revise, author, must_name_version=is_put, alone=alone, dry_run=options.dry_run
            )
        else:
            written = await self._author.update(
                key, revise, author, must_name_version=is_put, approval=approval, dry_run=options.dry_run
            )
        return await self._object(call, written, (*warnings, *written.warnings))

    async def _rebase(self, call: Call) -> Reply | Stream:
        """The body may be empty, or an object whose metadata says which one is meant."""
        options = write_options(call.query, "CreateOptions")
        async with read_body(call.request, OBJECT_BYTES, self._share(call)) as raw:
            media = call.request.headers.get("Content-Type", "")
            decoded = await decode(raw, media_type(media)) if raw else Decoded({})
        given = decoded.value if decoded.value is not None else {}
        if not isinstance(given, dict):
            raise bad_request("the body of a rebase is empty, or the object that is meant")
        key = await self._key(call)
        metadata = changes.mapping(given, "metadata", key.name)
        preconditions = Preconditions(str(metadata.get("uid") or ""), str(metadata.get("resourceVersion") or ""))
        written = await self._author.rebase(key, self._who(call, key.name), preconditions, dry_run=options.dry_run)
        return await self._object(call, written, ())

    def _media(self, call: Call) -> str:
        """Raises: StatusError 415 that names what is taken."""
        sent = call.request.headers.get("Content-Type", "")
        return media_type(sent, PATCHES) if call.attributes.verb == "patch" else media_type(sent)

    # --- deletion ---

    async def _delete(self, call: Call) -> Reply | Stream:
        dry_run, preconditions = await self._delete_options(call)
        written = await self._author.delete(
            await self._key(call), self._who(call, call.attributes.name), preconditions, dry_run=dry_run
        )
        if not written.gone:
            return await self._object(call, written, ())
        metadata = orjson.loads(written.stored.value)["metadata"]
        details = {"name": metadata["name"], "group": GROUP, "kind": call.resource.plural, "uid": metadata["uid"]}
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        return self._whole(call, orjson.dumps(body) + b"\n", ())

    async def _delete_options(self, call: Call) -> tuple[bool, Preconditions]:
        """From body and query. Raises: StatusError."""
        async with read_body(call.request, _OPTIONS_BYTES, self._share(call)) as raw:
            decoded = Decoded({})
            if raw:
                decoded = await decode(raw, media_type(call.request.headers.get("Content-Type", "")))
        given = decoded.value if decoded.value is not None else {}
        if not isinstance(given, dict) or given.get("kind", "DeleteOptions") != "DeleteOptions":
            raise bad_request("the body of a deletion is DeleteOptions")
        dry_run = given.get("dryRun") or []
        if not isinstance(dry_run, list) or any(one != "All" for one in dry_run):
            said = 'Unsupported value: supported values: "All"'
            raise invalid("DeleteOptions", "meta.k8s.io", [Cause("FieldValueNotSupported", said, "dryRun")])
        options = write_options(call.query, "DeleteOptions")
        policy = given.get("propagationPolicy") or call.query.get("propagationPolicy") or "Background"
        if policy not in ("Background", "Foreground", "Orphan"):
            said = f'Unsupported value: "{brief(str(policy))}": supported values: "Background", "Foreground", "Orphan"'
            raise invalid("DeleteOptions", "meta.k8s.io", [Cause("FieldValueNotSupported", said, "propagationPolicy")])
        wanted = given.get("preconditions") or {}
        if not isinstance(wanted, dict):
            raise bad_request("preconditions must be an object")
        preconditions = Preconditions(str(wanted.get("uid") or ""), str(wanted.get("resourceVersion") or ""))
        return bool(dry_run) or options.dry_run, preconditions

    async def _delete_all(self, call: Call) -> Reply | Stream:
        """One after the other, a few at a time; what is refused is told when all the others are gone."""
        dry_run, preconditions = await self._delete_options(call)
        wanted = list_request(call.query, call.resource.all_selectable, call.attributes.namespace)
        gone: list[bytes] = []
        failures: list[CacheServerError] = []
        if call.user not in _CLEANERS:
            page = await self._cache.list(
                call.resource.source, wanted.at, namespace=call.attributes.namespace, selector=wanted.selection
            )
            keys = [parse_key(Kind.REVISION, entry.key) for run in page.runs for entry in run.entries]

            async def delete(key: Key) -> None:
                try:
                    written = await self._author.delete(key, self._who(call, key.name), preconditions, dry_run=dry_run)
                    gone.append(self._cache.entry(written.stored).body)
                except RefusedError as exc:
                    if exc.code != 404:
                        failures.append(exc)

            await in_parallel(keys, delete, width=_DELETED_AT_ONCE)
        if failures:
            raise failures[0]
        envelope = forms.list_envelope(call.resource, forms.OBJECT, self._cache.resource_version, "", None)
        return self._whole(call, b"".join((envelope.head, b",".join(gone), envelope.tail)), ())

    # --- files ---

    async def _write_files(self, call: Call) -> Reply | Stream:
        """PackageRevisionResources: all files at once."""
        attributes = call.attributes
        if attributes.subresource or attributes.verb not in ("update", "patch"):
            raise no_such_path()
        is_put = attributes.verb == "update"
        options = write_options(call.query, "UpdateOptions" if is_put else "PatchOptions")
        media = self._media(call)
        key = await self._key(call)
        most = _TIMES_AS_JSON * self._author.limits.size + OBJECT_BYTES
        async with read_body(call.request, most, self._share(call)) as raw:
            decoded = await decode(raw, JSON if media in PATCHES else media)
            del raw
            filer = filing.Filer(call.resource, key, decoded, media, options.validation)
            if not is_put:
                return await self._patch_files(call, filer, options)
            wanted = as_object(decoded.value, call.resource)
            at = filer.version(wanted)
            if not at:
                why = "must be specified for an update"
                raise refusals.wrong(key.name, "metadata.resourceVersion", "", why, call.resource.kind)
            written = await self._author.save(
                key, filer.replaced, self._who(call, key.name), at=at, dry_run=options.dry_run
            )
            return await self._files(call, written, filer, options)

    async def _patch_files(self, call: Call, filer: filing.Filer, options: WriteOptions) -> Reply | Stream:
        written = await self._author.save(
            filer.key, filer.patched, self._who(call, filer.key.name), dry_run=options.dry_run
        )
        return await self._files(call, written, filer, options)

    async def _files(self, call: Call, written: Written, filer: filing.Filer, options: WriteOptions) -> Reply | Stream:
        """The object with its files."""
        view = call.resource.view
        assert view is not None
        entry = self._cache.entry(written.stored)
        accepted = negotiate(call.request.headers.get("Accept", ""), Answer.OBJECT)
        form = form_of(accepted, call.query)
        pretty = self._pretty(call, accepted)
        # Small ones are shown as they were sent: reading them again costs a save a third of its time.
        if form.shape is not Shape.OBJECT or options.dry_run or filer.small:
            made = view.make(entry)
            assert made is not None  # all that can be written is shown
            body = forms.one(call.resource, form, made, int(self._now()))
            if form.shape is Shape.OBJECT:
                body = filer.shown(body) if filer.small else await asyncio.to_thread(filer.shown, body)
            return await self._encoded(body, accepted.encoding, pretty=pretty, extra=warned(filer.warnings))
        extra = warned(filer.warnings)
        asking = Asking(call.request, self._blobs, self._share(call), accepted.encoding, pretty, extra)
        return await view.get(asking, entry)

    async def _write_file(self, call: Call) -> Reply | Stream:
        """PUT and DELETE of one file, any bytes."""
        path = file_path(call.attributes)
        options = write_options(call.query, "UpdateOptions")
        key = await self._key(call)
        async with read_body(call.request, self._author.limits.size, self._share(call)) as raw:
            content = raw if call.attributes.verb == "update" else None
            mode = filing.mode(call.query)
            condition = call.request.headers.get("If-Match", "")
            one = filing.OneFile(key.name, path, content, mode, condition)
            written = await self._author.save(
                key, one.revised, self._who(call, key.name), field="files", dry_run=options.dry_run
            )
        return await self._object(call, written, ())

    # --- what all share ---

    def _share(self, call: Call) -> Share:
        return self._budget.share(call.user or client_of(call.request))

    def _who(self, call: Call, name: str) -> Who:
        return who(call, self._gate, self._nobody, name)

    async def _key(self, call: Call) -> Key:
        """Where the revision of this name is kept. Raises: StatusError 404."""
        attributes = call.attributes
        name = (attributes.namespace, attributes.name)
        entry = await self._cache.get(Kind.REVISION, name, CONSISTENT)
        if entry is None:
            if self._cache.away:
                raise unavailable("etcd has not been heard from for a while, and this object is not in memory")
            raise not_found(call.resource.group, call.resource.plural, attributes.name)
        return parse_key(Kind.REVISION, entry.key)

    async def _object(self, call: Call, written: Written, warnings: Sequence[str]) -> Reply:
        """A PackageRevision as the client wants it: the object, its metadata, or a Table."""
        accepted = negotiate(call.request.headers.get("Accept", ""), Answer.OBJECT)
        form = form_of(accepted, call.query)
        body = forms.one(PACKAGE_REVISION, form, self._cache.entry(written.stored), int(self._now()))
        pretty = self._pretty(call, accepted)
        status = 201 if written.created else 200
        return await self._encoded(body, accepted.encoding, pretty=pretty, extra=warned(warnings), status=status)

    def _pretty(self, call: Call, accepted: Accepted) -> bool:
        return wants_pretty(call.query, call.request.headers.get("User-Agent", ""), accepted=accepted.pretty)

    async def _encoded(
        self, body: bytes, encoding: Encoding, *, pretty: bool, extra: bytes, status: int = 200
    ) -> Reply:
        if pretty or encoding is Encoding.YAML:
            body = await asyncio.to_thread(readable, body, encoding, pretty=pretty)
        return Reply(status, [body], len(body), content_type=encoding.media_type, extra=extra)

    def _whole(self, call: Call, body: bytes, warnings: Sequence[str]) -> Reply:
        accepted = negotiate(call.request.headers.get("Accept", ""), Answer.LIST)
        if self._pretty(call, accepted) or accepted.encoding is Encoding.YAML:
            body = readable(body, accepted.encoding, pretty=self._pretty(call, accepted))
        return whole(body, content_type=accepted.encoding.media_type, extra=warned(warnings))


def invalid_name(name: str) -> StatusError:
    """400 for a body that does not say what it is called."""
    why = "name must be provided"  # k8s.io/apiserver/pkg/endpoints/handlers/rest.go: checkName
    return bad_request(f"the name of the object ({brief(name)}) is not in its metadata: {why}")


def _applied(manifest: Mapping[str, Any], change: Any, media: str) -> Any:
    return patch.patched(manifest, change) if media == JSON_PATCH else patch.merged(manifest, change)


def warned(texts: Sequence[str]) -> bytes:
    """Header lines that say them to the client. RFC 7234, section 5.5: the text is a quoted string."""
    lines = []
    for text in texts[:20]:
        plain = "".join(c if " " <= c <= "~" else "?" for c in text[:400])
        lines.append(warning(plain.replace("\\", "\\\\").replace('"', '\\"')))
    return b"".join(lines)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _names_this_machine(host: str) -> bool:
    """Whether a Host header names an address, or localhost."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    name = name.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
