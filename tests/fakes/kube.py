"""A small stand-in of a host cluster's API, over real HTTP or HTTPS on loopback, for tests without a kube-apiserver.

Keeps any objects (get, list, watch, create, update, patch, status, delete) and reviews tokens and access by simple
rules. Says no like kube-apiserver; validates nothing. Faults: see `refuse`, `deny`, `hang`, `forget`, `hang_up`.

async with KubeStandIn(authority) as kube:
    kube.token("t0", "alice", "devs")
    kube.allow("devs", verbs=("get", "list"), resource="packages", namespace="team")
    kube.put("/api/v1/namespaces/team/secrets/key", {"data": {...}})
    settings = kube.kubeconfig(tmp_path)
"""

from __future__ import annotations

import asyncio
import copy
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

from aiohttp import web

from tests.support.certificates import Authority

Object = dict[str, Any]

SERVICE_TOKEN = "service-account-token"  # who shows it is the program under test
TRUST = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
_TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_DISCOVERY = ("/api", "/apis", "/openapi", "/version", "/healthz", "/livez", "/readyz")


class Place(NamedTuple):
    """A collection, or an object in one. root: /api/v1 or /apis/GROUP/VERSION. namespace empty: all, or none."""

    root: str
    plural: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""


@dataclass(frozen=True)
class User:
    name: str
    groups: tuple[str, ...] = ()
    extra: Mapping[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Rule:
    """Empty means any, but for `subject`: a user's or a group's name."""

    subject: str
    verbs: Collection[str] = ()
    resource: str = ""
    namespace: str = ""
    path: str = ""

    def allows(self, spec: Mapping[str, Any]) -> bool:
        if self.subject not in (spec.get("user"), *spec.get("groups", ())):
            return False
        if self.path:
            asked = spec.get("nonResourceAttributes", {})
            return asked.get("path") == self.path and (not self.verbs or asked["verb"] in self.verbs)
        asked = spec.get("resourceAttributes")
        if asked is None:
            return not self.resource
        part = f"/{asked['subresource']}" if "subresource" in asked else ""
        return (
            (not self.verbs or asked["verb"] in self.verbs)
            and self.resource in ("", asked["resource"] + part)
            and self.namespace in ("", asked.get("namespace", ""))
        )


class KubeStandIn:
    """Serves inside `async with`. The event loop must run while it is asked: block in a thread, not in the test."""

    def __init__(self, authority: Authority | None = None) -> None:
        """authority: signs its certificate; None: plain HTTP, where a client reads the system's CAs first, 25 ms."""
        self._authority = authority
        self._runner: web.ServerRunner | None = None
        self._version = 1
        self._oldest = 0
        self._objects: dict[Place, Object] = {}
        self._history: list[tuple[int, str, Place, Object]] = []
        self._watches: set[asyncio.Event] = set()
        self._cut = 0
        self._refusal: tuple[int, str] | None = None
        self._denied: dict[str, int] = {}
        self._held: asyncio.Event | None = None
        self._tokens: dict[str, User] = {}
        self.rules: list[Rule] = [Rule("system:authenticated", ("get",), path=path) for path in _DISCOVERY]
        self.url = ""
        self.calls: Counter[str] = Counter()
        """By `METHOD path`; watches as `WATCH path`."""
        self.reviewed_tokens: list[str] = []
        self.reviewed: list[Object] = []
        """Specs of the SubjectAccessReviews, in the order they came."""

    async def __aenter__(self) -> Self:
        context: ssl.SSLContext | None = None
        if self._authority is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self._authority.issued("kubernetes"))
        self._runner = web.ServerRunner(
            web.Server(self._serve, access_log=None, handler_cancellation=True), shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"{'http' if context is None else 'https'}://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._runner is not None
        self.hang_up()
        self.let_go()
        await self._runner.cleanup()

    def kubeconfig(self, directory: Path) -> Path:
        """A kubeconfig for the program under test."""
        cluster: Object = {"server": self.url}
        if self._authority is not None:
            cluster["certificate-authority"] = str(self._authority.certificate)
        path = directory / "kubeconfig"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": SERVICE_TOKEN}}],
        }
        path.write_text(json.dumps(content))
        return path

    # --- what is so ---

    def token(self, token: str, user: str, *groups: str, extra: Mapping[str, list[str]] | None = None) -> None:
        self._tokens[token] = User(user, (*groups, "system:authenticated"), extra or {})

    def revoke(self, token: str) -> None:
        del self._tokens[token]

    def allow(
        self, subject: str, *, verbs: Collection[str] = (), resource: str = "", namespace: str = "", path: str = ""
    ) -> None:
        """See Rule."""
        self.rules.append(Rule(subject, verbs, resource, namespace, path))

    def trust(self, *, client_ca: str = "", proxy_ca: str = "", names: Iterable[str] = ("front-proxy",)) -> None:
        """Publish what a kube-apiserver publishes for extension servers; empty CAs are left out."""
        data = {
            "requestheader-allowed-names": json.dumps(list(names)),
            "requestheader-username-headers": '["X-Remote-User"]',
            "requestheader-uid-headers": '["X-Remote-Uid"]',
            "requestheader-group-headers": '["X-Remote-Group"]',
            "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
        }
        data |= {"client-ca-file": client_ca} if client_ca else {}
        data |= {"requestheader-client-ca-file": proxy_ca} if proxy_ca else {}
        self.put(TRUST, {"apiVersion": "v1", "kind": "ConfigMap", "data": data})

    def put(self, path: str, new: Object) -> Object:
        """Create or replace, as somebody else would; the object as it is then."""
        place = parse_place(path)
        old = self._objects.get(place)
        return self._write(place, old, new, keep_status="status" not in new)

    def get(self, path: str) -> Object:
        """Raises KeyError."""
        return copy.deepcopy(self._objects[parse_place(path)])

    def remove(self, path: str) -> None:
        """At once, finalizers or not. Raises KeyError."""
        self._erase(parse_place(path))

    def objects(self, path: str) -> list[Object]:
        return [copy.deepcopy(found) for _, found in self._under(parse_place(path))]

    # --- faults ---

    def refuse(self, code: int, message: str = "the stand-in was told so") -> None:
        """Answer everything with this code from now on; 0 ends it."""
        self._refusal = (code, message) if code else None

    def deny(self, path: str, code: int = 403) -> None:
        """Answer this path, and what lies below it, with this code from now on; 0 ends it."""
        self._denied[path] = code

    def hang(self) -> None:
        """Answer nothing from now on, until let_go()."""
        self._held = asyncio.Event()

    def let_go(self) -> None:
        if self._held is not None:
            self._held.set()
            self._held = None

    def forget(self) -> None:
        """Compaction: watches from before now get 410."""
        self._oldest = self._version
        self._history.clear()

    def hang_up(self) -> None:
        """End every open watch."""
        self._cut += 1
        for watch in self._watches:
            watch.set()

    # --- serving ---

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        watching = request.query.get("watch") in ("true", "1")
        self.calls[f"{'WATCH' if watching else request.method} {request.path}"] += 1
        if self._held is not None:
            await self._held.wait()
        if self._refusal is not None:
            return _no(*self._refusal)
        for path, code in self._denied.items():
            if code and (request.path == path or request.path.startswith(f"{path}/")):
                return _no(code, f"{path} is denied")
        if request.headers.get("Authorization") != f"Bearer {SERVICE_TOKEN}":
            return _no(401, "Unauthorized")
        body = await request.json() if request.can_read_body else {}
        if request.path == _TOKEN_REVIEWS:
            return web.json_response(self._review_token(body), status=201)
        if request.path == _ACCESS_REVIEWS:
            return web.json_response(self._review_access(body), status=201)
        try:
            place = parse_place(request.path)
        except ValueError:
            return _no(404, "the server could not find the requested resource")
        if watching:
            return await self._watch(request, place)
        return self._answer(request, place, body)

    def _review_token(self, review: Object) -> Object:
        token = review["spec"]["token"]
        self.reviewed_tokens.append(token)
        user = self._tokens.get(token)
        if user is None:
            return {**review, "status": {"user": {}, "error": "[invalid bearer token]"}}
        about = {"username": user.name, "uid": f"uid-{user.name}", "groups": user.groups, "extra": dict(user.extra)}
        return {**review, "status": {"authenticated": True, "user": about}}

    def _review_access(self, review: Object) -> Object:
        spec = review["spec"]
        self.reviewed.append(spec)
        return {**review, "status": {"allowed": any(rule.allows(spec) for rule in self.rules)}}

    def _answer(self, request: web.BaseRequest, place: Place, body: Object) -> web.StreamResponse:
        if not place.name:
            return self._create(place, body) if request.method == "POST" else self._list(request, place)
        whole = place._replace(subresource="")
        old = self._objects.get(whole)
        if old is None:
            return _no(404, f'{place.plural} "{place.name}" not found')
        sent = (body.get("metadata") or {}).get("resourceVersion", "")
        if sent not in ("", old["metadata"]["resourceVersion"]):
            return _no(409, f"Operation cannot be fulfilled on {place.plural}: the object has been modified")
        if request.method == "GET":
            return web.json_response(old)
        if request.method == "DELETE":
            return self._delete(whole, old)
        new = merged(old, body) if request.method == "PATCH" else body
        if place.subresource == "status":
            new = {**old, "status": new.get("status", {})}
        return web.json_response(self._write(whole, old, new, keep_status=not place.subresource))

    def _create(self, place: Place, body: Object) -> web.StreamResponse:
        metadata = body.setdefault("metadata", {})
        name = metadata.get("name") or f"{metadata.get('generateName', '')}{self._version}"
        at = place._replace(name=name)
        if at in self._objects:
            return _no(409, f'{place.plural} "{name}" already exists')
        return web.json_response(self._write(at, None, body, keep_status=True), status=201)

    def _list(self, request: web.BaseRequest, place: Place) -> web.StreamResponse:
        items = [found for at, found in self._under(place) if _selected(request.query, at, found)]
        start, limit = int(request.query.get("continue") or 0), int(request.query.get("limit") or 0)
        metadata = {"resourceVersion": str(self._version)}
        if limit and start + limit < len(items):  # pages of a list that changes meanwhile are not as of one version
            metadata["continue"] = str(start + limit)
        items = items[start : start + limit if limit else None]
        return web.json_response({"kind": "List", "metadata": metadata, "items": items})

    def _delete(self, place: Place, old: Object) -> web.StreamResponse:
        if old["metadata"].get("finalizers"):
            gone = merged(old, {"metadata": {"deletionTimestamp": _now()}})
            return web.json_response(self._write(place, old, gone, keep_status=True))
        self._erase(place)
        return web.json_response(old)

    async def _watch(self, request: web.BaseRequest, place: Place) -> web.StreamResponse:
        since = int(request.query.get("resourceVersion") or 0)
        response = web.StreamResponse()
        await response.prepare(request)
        if since < self._oldest:
            expired = {"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410, "message": "too old"}
            await _send(response, "ERROR", expired)
            return response
        cut = self._cut
        async with self._woken() as woken:
            while cut == self._cut:
                woken.clear()
                news, behind, since = list(self._history), since, max(since, self._version)
                for version, kind, at, found in news:
                    if version > behind and _inside(at, place) and _selected(request.query, at, found):
                        await _send(response, kind, found)
                await woken.wait()
        return response

    @asynccontextmanager
    async def _woken(self) -> AsyncIterator[asyncio.Event]:
        woken = asyncio.Event()
        self._watches.add(woken)
        try:
            yield woken
        finally:
            self._watches.discard(woken)

    # --- the store ---

    def _under(self, place: Place) -> list[tuple[Place, Object]]:
        return [(at, found) for at, found in sorted(self._objects.items()) if _inside(at, place)]

    def _write(self, place: Place, old: Object | None, new: Object, *, keep_status: bool) -> Object:
        new = copy.deepcopy(new)
        if old is None:
            first = {"uid": f"uid-{self._version}", "creationTimestamp": _now(), "generation": 1}
        else:
            first = {key: old["metadata"][key] for key in ("uid", "creationTimestamp")}
            first["generation"] = old["metadata"]["generation"] + (new.get("spec") != old.get("spec"))
            if keep_status and "status" in old:
                new["status"] = old["status"]
        own = {"namespace": place.namespace} if place.namespace else {}
        new["metadata"] = {**new.get("metadata", {}), **first, **own, "name": place.name}
        if "deletionTimestamp" in new["metadata"] and not new["metadata"].get("finalizers"):
            self._objects[place] = new
            return self._erase(place)
        self._version += 1
        new["metadata"]["resourceVersion"] = str(self._version)
        self._objects[place] = new
        self._tell("ADDED" if old is None else "MODIFIED", place, new)
        return copy.deepcopy(new)

    def _erase(self, place: Place) -> Object:
        gone = self._objects.pop(place)
        self._version += 1
        gone = merged(gone, {"metadata": {"resourceVersion": str(self._version)}})
        self._tell("DELETED", place, gone)
        return gone

    def _tell(self, kind: str, place: Place, found: Object) -> None:
        self._history.append((self._version, kind, place, copy.deepcopy(found)))
        for watch in self._watches:
            watch.set()


def parse_place(path: str) -> Place:
    """Raises ValueError for a path that is not a resource."""
    parts = path.strip("/").split("/")
    depth = 2 if parts[0] == "api" else 3
    root, rest = "/" + "/".join(parts[:depth]), parts[depth:]
    if not rest or parts[0] not in ("api", "apis"):
        raise ValueError(path)
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    return Place(root, rest[0], namespace, *rest[1:3])


def merged(old: Object, patch: Object) -> Object:
    """RFC 7386."""
    new = copy.deepcopy(old)
    for key, value in patch.items():
        if value is None:
            new.pop(key, None)
        elif isinstance(value, dict):
            known = new.get(key)
            new[key] = merged(known if isinstance(known, dict) else {}, value)
        else:
            new[key] = value
    return new


def _inside(at: Place, place: Place) -> bool:
    same = (at.root, at.plural) == (place.root, place.plural)
    return same and place.namespace in ("", at.namespace) and place.name in ("", at.name)


def _selected(query: Mapping[str, str], at: Place, found: Object) -> bool:
    """Equality only."""
    labels = found["metadata"].get("labels", {})
    fields = {"metadata.name": at.name, "metadata.namespace": at.namespace}
    return all(
        known.get(term.split("=")[0]) == term.split("=")[-1]
        for text, known in ((query.get("fieldSelector"), fields), (query.get("labelSelector"), labels))
        for term in (text.split(",") if text else ())
    )


async def _send(response: web.StreamResponse, kind: str, found: Object) -> None:
    await response.write(json.dumps({"type": kind, "object": found}).encode() + b"\n")


def _no(code: int, message: str) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}
    return web.json_response(body, status=code)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
