"""The host cluster's API: a connection with its credentials kept fresh, and the few calls we make. Of
kubernetes_asyncio only configuration and transport are used (library.py): its models cost milliseconds an object.

Objects go in and come out as JSON; who calls turns them into values of its own at once. Retries reviews, nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple, Self, TypeVar
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
import yaml

import cacheserver
from cacheserver import metrics
from cacheserver.cluster.library import load
from cacheserver.errors import ConfigError, KubernetesError, KubernetesExpired, KubernetesUnavailable
from cacheserver.meters import Counter
from cacheserver.security.identity import Identity, Verdict

log = logging.getLogger(__name__)

T = TypeVar("T")

Object = dict[str, Any]  # the wire: JSON as kube-apiserver sends it
Query = Mapping[str, str]

CALL_S: Final = 10.0  # k8s.io/apiserver/pkg/server/options/authentication.go: tokenRequestTimeout; authorization alike
MERGE_PATCH: Final = "application/merge-patch+json"
JSON: Final = "application/json"

_LOOK_UP_S: Final = 30.0  # k8s.io/apiserver/pkg/authentication/token/cache: sharedLookupTimeout
_TRIES: Final = 5  # k8s.io/apiserver/pkg/util/webhook: 500 ms, then half as much again each time, jitter 0.2
_FIRST_PAUSE_S: Final = 0.5
_WATCH_SILENCE_S: Final = 330.0  # ours: longer than a watch of WATCH_S lasts; a connection that died is noticed by it
WATCH_S: Final = 300  # ours: what a watch asks for as its own end; load balancers cut at about that
_RENEW_S: Final = 60.0  # ours: kubelet writes a Pod's files about so often
_LINE_BYTES: Final = 2 << 20  # as kubernetes_asyncio has it: an event is a line, and as large as etcd takes one
_ANSWER_BYTES: Final = 64 << 20  # ours: of one answer held in memory; 64 times what etcd takes as one object


class WatchEvent(NamedTuple):
    """type: ADDED, MODIFIED, DELETED or BOOKMARK. resource_version: the object's."""

    type: str
    object: Object
    resource_version: str


class KubeAPI:
    """Open inside `async with`. Every method raises KubernetesUnavailable without an answer, KubernetesError for a no.

    Calls share a pool of 100 connections, watches included: a call that finds none free waits within its own limit.
    """

    def __init__(self, kubeconfig: Path | None, now: Callable[[], float] = monotonic) -> None:
        """kubeconfig: its current context; None: the service account of the Pod that we run in."""
        self._kubeconfig = kubeconfig
        self._now = now
        self._configuration: Any = None  # kubernetes_asyncio's, which is not typed
        self._client: Any = None  # its RESTClientObject, made from that configuration
        self._no_credentials: type[Exception] = ConfigError  # what kubernetes_asyncio raises for them
        self._loaded_at = 0.0
        self._refused = False

    async def __aenter__(self) -> Self:
        """Raises: ConfigError when the credentials cannot be read, or kubernetes_asyncio is not installed."""
        self._configuration, self._client = await self._load()
        return self

    async def _load(self) -> tuple[Any, Any]:
        """The configuration with credentials as they are now, and a client. Raises: see __aenter__."""
        self._loaded_at = self._now()
        try:
            library = await asyncio.to_thread(load)
        except ImportError as exc:
            raise ConfigError(
                "--kubernetes needs the package kubernetes-asyncio: pip install 'cacheserver[cluster]'"
            ) from exc
        config, configuration = library.config, library.Configuration()
        try:
            if self._kubeconfig is None:
                config.load_incluster_config(client_configuration=configuration)
            else:
                await config.load_kube_config(
                    config_file=str(self._kubeconfig), client_configuration=configuration, persist_config=False
                )
            configuration.disable_strict_ssl_verification = True  # as kubectl and Go's clients: x509.outgoing_context
            self._no_credentials = config.ConfigException
            client = library.RestClient(configuration)
            if _is_direct(configuration.host):
                _look_for_no_proxy(client)
            return configuration, client
        except (config.ConfigException, OSError, ValueError, yaml.YAMLError) as exc:
            raise ConfigError(f"--kubernetes {self._kubeconfig or 'in-cluster'}: {exc}") from exc
        except (AttributeError, KeyError, TypeError) as exc:  # how the library meets YAML of another shape
            raise ConfigError(f"--kubernetes {self._kubeconfig}: this is not a kubeconfig") from exc

    async def __aexit__(self, *exc: object) -> None:
        await self._client.close()

    async def _renew(self) -> None:
        """After a refusal, at most once a minute: the kubeconfig, a certificate or the CA may have been replaced. Calls
        under way break off, and are repeated by whoever needs them."""
        if self._now() - self._loaded_at < _RENEW_S:
            return
        self._refused = False
        try:
            old, (self._configuration, self._client) = self._client, await self._load()
        except ConfigError as exc:
            log.warning("credentials for kube-apiserver cannot be read again", extra={"error": str(exc)})
            return
        await old.close()

    # --- objects ---

    async def get(self, path: str, query: Query | None = None) -> Object:
        """An object or a list."""
        return await self._call("GET", path, query=query)

    async def create(self, path: str, body: Object, query: Query | None = None) -> Object:
        """The object as it was created, or a review with its answer. path: of the collection."""
        return await self._call("POST", path, query=query, body=body)

    async def patch(
        self, path: str, body: Object, query: Query | None = None, *, content_type: str = MERGE_PATCH
    ) -> Object:
        """The object as it is then."""
        return await self._call("PATCH", path, query=query, body=body, content_type=content_type)

    async def delete(self, path: str, query: Query | None = None, *, body: Object | None = None) -> Object:
        """The object as it was, or a Status. body: DeleteOptions."""
        return await self._call("DELETE", path, query=query, body=body)

    async def watch(self, path: str, since: str, query: Query | None = None) -> AsyncGenerator[WatchEvent, None]:
        """Events behind the resource version `since`, bookmarks among them, until the server ends it (about WATCH_S).

        Close it: `async with aclosing(...)`. Raises KubernetesExpired when `since` is too old.
        """
        asked = {"timeoutSeconds": str(WATCH_S), "allowWatchBookmarks": "true", **(query or {})}
        asked |= {"watch": "true", "resourceVersion": since}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CALL_S, sock_read=_WATCH_SILENCE_S)
        async with self._answer("GET", path, asked, None, JSON, timeout) as answer:
            await _check(answer, f"watch {path}")
            async for line in answer.content:
                if not line.endswith(b"\n"):
                    raise KubernetesUnavailable(f"watch {path}: the stream broke off", code=0)
                yield _event(line, f"watch {path}")

    # --- reviews ---

    async def token_review(self, token: str) -> Identity | None:
        """Whose token it is; None for one that is good for nobody. Retries within 30 s."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        review = await _persistently(
            lambda: self.create("/apis/authentication.k8s.io/v1/tokenreviews", body), metrics.token_reviews.labels
        )
        status = review.get("status") or {}
        user = status.get("user") or {}
        if not status.get("authenticated") or not user.get("username"):
            return None
        extra = sorted((user.get("extra") or {}).items())
        return Identity(
            user["username"],
            tuple(user.get("groups") or ()),
            user.get("uid") or "",
            tuple((key, tuple(values)) for key, values in extra),
        )

    async def subject_access_review(self, spec: Object) -> Verdict:
        """spec: a SubjectAccessReview's. Retries within 30 s."""
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        review = await _persistently(
            lambda: self.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", body),
            metrics.access_reviews.labels,
        )
        status = review.get("status") or {}
        # k8s.io/apiserver/plugin/pkg/authorizer/webhook: allowed and denied at once is not an answer to act on
        return Verdict(bool(status.get("allowed")) and not status.get("denied"), status.get("reason") or "")

    # --- the wire ---

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Object | None = None,
        content_type: str = JSON,
    ) -> Object:
        timeout = aiohttp.ClientTimeout(total=CALL_S)
        async with self._answer(method, path, query or {}, body, content_type, timeout) as answer:
            await _check(answer, f"{method} {path}")
            found = orjson.loads(await _body(answer))
            if not isinstance(found, dict):
                raise KubernetesError(f"{method} {path}: the answer is not an object", code=answer.status)
            return found

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        query: Query,
        body: Object | None,
        content_type: str,
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, whatever its status. Failures to get or read one, while the caller holds it too, are translated.

        Credentials are asked for anew each time: a Pod's token is read again each minute, a plugin's when it expires.
        """
        if self._refused:
            await self._renew()
        configuration = self._configuration
        try:
            headers = {"Accept": JSON, "Content-Type": content_type, "User-Agent": _USER_AGENT}
            for auth in (await configuration.auth_settings()).values():
                headers[auth["key"]] = auth["value"]
            answer: aiohttp.ClientResponse = await self._client.request(
                method,
                configuration.host + quote(path, safe="/:"),
                query_params=query,
                headers=headers,
                body=body,
                _preload_content=False,
                _request_timeout=timeout,
            )
            self._refused |= answer.status == HTTPStatus.UNAUTHORIZED
            async with answer:
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, self._no_credentials) as exc:
            self._refused |= isinstance(exc, aiohttp.ClientSSLError | self._no_credentials)
            reason = str(exc) or type(exc).__name__
            raise KubernetesUnavailable(f"{method} {path}: no answer from kube-apiserver: {reason}", code=0) from exc


def _is_direct(server: str) -> bool:
    """Whether the environment names no proxy on the way to it (HTTPS_PROXY, NO_PROXY)."""
    there = urlsplit(server)
    proxies = getproxies()
    return there.scheme not in proxies or bool(proxy_bypass(there.hostname or ""))


def _look_for_no_proxy(client: Any) -> None:
    """client: the library's. As it comes, its session looks into the environment and for ~/.netrc with each request,
    in a thread: 0.6 ms of CPU, more than a review takes otherwise."""
    found: aiohttp.ClientSession = client.pool_manager
    client.pool_manager = aiohttp.ClientSession(connector=found.connector, read_bufsize=_LINE_BYTES)
    found.detach()


_USER_AGENT: Final = f"cacheserver/{cacheserver.__version__}"


def _event(line: bytes, call: str) -> WatchEvent:
    event = orjson.loads(line)
    try:
        if event["type"] == "ERROR":
            raise _error(event["object"].get("code", 500), event["object"].get("message", ""), call)
        return WatchEvent(event["type"], event["object"], event["object"]["metadata"]["resourceVersion"])
    except (KeyError, TypeError) as exc:
        raise KubernetesUnavailable(f"{call}: no event: {line[:200]!r}", code=0) from exc


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    content = await answer.content.read(_ANSWER_BYTES)
    while not answer.content.at_eof() and len(content) <= _ANSWER_BYTES:
        content += await answer.content.read(_ANSWER_BYTES)
    if len(content) > _ANSWER_BYTES:
        raise KubernetesError(f"{answer.url.path}: an answer of more than {_ANSWER_BYTES} bytes", code=answer.status)
    return content


async def _check(answer: aiohttp.ClientResponse, call: str) -> None:
    if answer.status < 400:
        return
    content = await answer.content.read(1 << 20)
    try:
        message = orjson.loads(content).get("message", "")
    except (ValueError, AttributeError):
        message = content[:200].decode(errors="replace")
    raise _error(answer.status, message, call)


def _error(code: int, message: str, call: str) -> KubernetesError:
    text = f"{call}: kube-apiserver says {code}: {message}"
    if code == 410:
        return KubernetesExpired(text, code=code)
    # k8s.io/apiserver/pkg/util/webhook: DefaultShouldRetry
    if code == 429 or code >= 500:
        return KubernetesUnavailable(text, code=code)
    return KubernetesError(text, code=code)


async def _persistently(attempt: Callable[[], Awaitable[T]], count: Callable[[str], Counter]) -> T:
    """What `attempt` returns, tried up to five times while kube-apiserver is unavailable. Counts each by its code."""
    pause_s = _FIRST_PAUSE_S
    try:
        async with asyncio.timeout(_LOOK_UP_S):
            for left in reversed(range(_TRIES)):
                try:
                    answer = await attempt()
                except KubernetesError as exc:
                    count(str(exc.code or "<error>")).inc()
                    if not left or not isinstance(exc, KubernetesUnavailable):
                        raise
                else:
                    count("201").inc()
                    return answer
                await asyncio.sleep(pause_s * random.uniform(1.0, 1.2))  # noqa: S311  spreads calls, guards nothing
                pause_s *= 1.5
    except TimeoutError as exc:
        raise KubernetesUnavailable(f"no review from kube-apiserver within {_LOOK_UP_S:.0f} s", code=0) from exc
    raise AssertionError("the last attempt returns or raises")
