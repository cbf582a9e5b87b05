"""The ConfigMap that kube-apiserver publishes for its extension servers, followed as it changes: the CAs of client
certificates, and the front proxy's CAs, names and headers.

ConfigMap: k8s.io/kubernetes/pkg/controlplane/controller/clusterauthenticationtrust.
Rules: k8s.io/apiserver/pkg/authentication/request/headerrequest.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import field
from typing import Final

import orjson

from cacheserver.cluster.follow import FIRST_PAUSE_S, Listed, follow
from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.security.authorities import Bundle
from cacheserver.slotted import slotted

log = logging.getLogger(__name__)

NAMESPACE: Final = "kube-system"
NAME: Final = "extension-apiserver-authentication"
_PATH: Final = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
_ROLE: Final = "extension-apiserver-authentication-reader"


@slotted(frozen=True)
class Trust:
    """What the ConfigMap says. allowed_names: common names of proxies; empty allows any. Header names as written."""

    client_ca: Bundle = field(default_factory=Bundle)
    proxy_ca: Bundle = field(default_factory=Bundle)
    allowed_names: frozenset[str] = frozenset()
    username_headers: tuple[str, ...] = ()
    uid_headers: tuple[str, ...] = ()
    group_headers: tuple[str, ...] = ()
    extra_prefixes: tuple[str, ...] = ()

    @property
    def client_cas(self) -> str:
        """Every CA whose client certificates may pass the handshake (PEM)."""
        return self.client_ca.pem + self.proxy_ca.pem

    def __bool__(self) -> bool:
        return bool(len(self.client_ca) or len(self.proxy_ca))


NOBODY: Final = Trust()


def parse_trust(data: Mapping[str, str]) -> Trust:
    """data: the ConfigMap's. A key that is missing turns off what it is for. Raises: ValueError that names the key."""
    return Trust(
        client_ca=_bundle(data, "client-ca-file"),
        proxy_ca=_bundle(data, "requestheader-client-ca-file"),
        allowed_names=frozenset(_names(data, "requestheader-allowed-names")),
        username_headers=_names(data, "requestheader-username-headers"),
        uid_headers=_names(data, "requestheader-uid-headers"),  # since Kubernetes 1.33
        group_headers=_names(data, "requestheader-group-headers"),
        extra_prefixes=_names(data, "requestheader-extra-headers-prefix"),
    )


def _bundle(data: Mapping[str, str], key: str) -> Bundle:
    try:
        return Bundle(data.get(key, ""))
    except ValueError as exc:
        raise ValueError(f"{key}: {exc}") from exc


def _names(data: Mapping[str, str], key: str) -> tuple[str, ...]:
    """A JSON array in a string."""
    text = data.get(key, "")
    try:
        names = orjson.loads(text) if text else []
    except ValueError as exc:
        raise ValueError(f"{key}: no JSON") from exc
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{key}: no list of strings")
    return tuple(name for name in names if name)


class Published:
    """The trust that is published now; NOBODY until it was read. A ConfigMap of no use leaves what was believed."""

    def __init__(
        self,
        api: KubeAPI,
        on_change: Callable[[Trust], Awaitable[None]],
        *,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        """on_change: called with each new trust, and done before it counts. first_pause_s: after a failed call."""
        self._api = api
        self._on_change = on_change
        self._first_pause_s = first_pause_s
        self._read = False
        self.trust = NOBODY

    async def run(self) -> None:
        """Follows the ConfigMap until cancelled."""
        # By name: that is all that the role extension-apiserver-authentication-reader allows.
        query = {"fieldSelector": f"metadata.name={NAME}"}
        async with aclosing(follow(self._api, _PATH, query, first_pause_s=self._first_pause_s)) as news:
            async for new in news:
                if isinstance(new, Listed):
                    await self._take(new.objects[0].get("data") or {} if new.objects else {})
                elif not new.deleted:
                    await self._take(new.object.get("data") or {})
                # Deleted: kube-apiserver writes it again within a minute; what it said holds meanwhile.

    def check(self) -> str | None:
        """For readyz: None once it was read, with whatever it holds."""
        if self._read:
            return None
        return (
            f"ConfigMap {NAMESPACE}/{NAME} has not been read yet. If it stays so, look whether our service account has"
            f" the role {_ROLE} in {NAMESPACE}; the log names the cause"
        )

    async def _take(self, data: Mapping[str, str]) -> None:
        try:
            trust = parse_trust(data)
            await self._on_change(trust)
        except (OSError, ValueError) as exc:
            log.error("the host cluster's authentication ConfigMap is of no use", extra={"error": str(exc)})
            return
        if not len(trust.proxy_ca):
            log.warning(
                "kube-apiserver publishes no request-header CA, so nothing it proxies is let in;"
                " it needs --requestheader-client-ca-file",
            )
        self.trust = trust
        self._read = True
        log.info(
            "trust taken from the host cluster",
            extra={"client_cas": len(trust.client_ca), "proxy_cas": len(trust.proxy_ca)},
        )
