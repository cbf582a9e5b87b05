"""How a credential names its user: what kube-apiserver makes of a client certificate, an Authorization header, a user.

Shared by those who ask a cluster and those who read files. Judges no credential.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cacheserver.security.identity import Identity
from cacheserver.security.tls import Peer

AUTHENTICATED: Final = "system:authenticated"
UNAUTHENTICATED: Final = "system:unauthenticated"
ANONYMOUS: Final = "system:anonymous"
"""k8s.io/apiserver/pkg/authentication/user: AllAuthenticated, AllUnauthenticated, Anonymous."""

_CREDENTIAL_ID: Final = "authentication.kubernetes.io/credential-id"


def bearer_token(header: str) -> str:
    """The token of an Authorization header; empty when it holds none.

    k8s.io/apiserver/pkg/authentication/request/bearertoken: what follows the second word is ignored.
    """
    words = header.strip().split(" ", 2)
    return words[1] if len(words) > 1 and words[0].lower() == "bearer" else ""


def of_certificate(peer: Peer) -> Identity:
    """CN is the user, every O a group. k8s.io/apiserver/pkg/authentication/request/x509: CommonNameUserConversion."""
    extra = ((_CREDENTIAL_ID, (f"X509SHA256={peer.fingerprint}",)),)
    return Identity(peer.common_name, with_authenticated(peer.common_name, peer.organizations), "", extra)


def with_authenticated(user: str, groups: Iterable[str]) -> tuple[str, ...]:
    """The groups, and system:authenticated behind them. k8s.io/apiserver/pkg/authentication/group."""
    groups = tuple(groups)
    if user == ANONYMOUS or AUTHENTICATED in groups or UNAUTHENTICATED in groups:
        return groups
    return (*groups, AUTHENTICATED)
