"""The seam for authentication and authorization: who asks, and may they. Without a gate everybody may everything.

The API calls the gate once a request, before it looks at the resource: forbidden takes precedence over not found.
What every server of Kubernetes allows without asking anybody is here; all else is the authorizer's to say.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

from aiohttp.web_request import BaseRequest

from cacheserver.api.status import bad_request, brief, forbidden, internal_error, unauthorized
from cacheserver.errors import KubernetesError
from cacheserver.security.identity import Attributes, Identity, Verdict

__all__ = ["OPEN_PATHS", "Authenticator", "Authorizer", "Gate", "Identity", "ReviewingGate", "privileged"]

log = logging.getLogger(__name__)

OPEN_PATHS: Final = frozenset(("/healthz", "/livez", "/readyz"))
"""Open to everybody and without a look at credentials: probes have none, and must not depend on the host cluster.

k8s.io/apiserver/pkg/server/options/authorization.go: AlwaysAllowPaths. Just these; a single check's path gives reasons.
Ours: /version is not among them, which kube-apiserver opens to anonymous users; nobody without credentials needs ours.
"""

_MASTERS: Final = "system:masters"  # k8s.io/apiserver/pkg/authentication/user: SystemPrivilegedGroup
_DISCOVERY: Final = frozenset(("api", "apis", "openapi", "version"))
_IMPERSONATION: Final = b"impersonate-"
"""k8s.io/apiserver/pkg/endpoints/filters/impersonation: -User, -Group, -Uid and -Extra-KEY, in any case."""


class Gate(Protocol):
    """What every request passes before it is answered: first who asks, then whether they may."""

    async def identify(self, request: BaseRequest) -> Identity:
        """Raises: StatusError 401."""
        ...

    async def authorize(self, identity: Identity, attributes: Attributes) -> None:
        """Raises: StatusError 403."""
        ...


class Authenticator(Protocol):
    """Who holds a credential: files (server/access.py), or the host cluster (cluster/authentication.py)."""

    async def identify(self, request: BaseRequest) -> Identity | None:
        """Who asks; None when no credential of the request holds."""
        ...


class Authorizer(Protocol):
    """What somebody may do: files (server/access.py), or the host cluster (cluster/authorization.py)."""

    async def review(self, identity: Identity, attributes: Attributes) -> Verdict:
        """Raises: KubernetesError when there is no verdict."""
        ...


def privileged(identity: Identity) -> bool:
    """May everything, and is never refused for too many requests (429)."""
    return _MASTERS in identity.groups


class ReviewingGate:
    """A Gate that asks an authenticator and an authorizer, and answers as kube-apiserver does."""

    def __init__(self, authenticator: Authenticator, authorizer: Authorizer) -> None:
        self._authenticator = authenticator
        self._authorizer = authorizer

    async def identify(self, request: BaseRequest) -> Identity:
        """Raises: StatusError 401; 400 for impersonation, which kube-apiserver does before it asks us."""
        for name, _ in request.raw_headers:
            if name[: len(_IMPERSONATION)].lower() == _IMPERSONATION:
                said = brief(name.decode(errors="replace"))
                raise bad_request(f"{said}: impersonation is not supported here; ask through kube-apiserver")
        identity = await self._authenticator.identify(request)
        if identity is None:
            raise unauthorized()
        return identity

    async def authorize(self, identity: Identity, attributes: Attributes) -> None:
        """Raises: StatusError 403; 500 when nobody can say."""
        if privileged(identity) or (identity.proxied and _is_discovery(attributes)):
            return
        try:
            verdict = await self._authorizer.review(identity, attributes)
        except KubernetesError as exc:
            log.warning("access cannot be reviewed", extra={"user": identity.user, "error": str(exc)})
            raise internal_error("the host cluster did not review this request; try again in a moment") from exc
        if not verdict.allowed:
            raise forbidden(identity.user, attributes, verdict.reason)


def _is_discovery(attributes: Attributes) -> bool:
    """What the aggregator reads as users that are in no group, so RBAC's system:discovery would not let them.

    k8s.io/kube-aggregator/pkg/controllers/openapi: system:aggregator; pkg/apiserver/handler_discovery.go:
    system:kube-aggregator.
    """
    if attributes.resource or attributes.verb not in ("get", "head"):
        return False
    return attributes.path.strip("/").partition("/")[0] in _DISCOVERY
