"""Authentication and authorization without a cluster: users of a file of tokens or of client certificates, of whom the
groups in --readers may read, those in --authors write packages, those in --approvers decide on them, and those in
--validators say how they are.

As kube-apiserver with --client-ca-file and --token-auth-file: a certificate first, then a token; no anonymous user; no
header names a user.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final
from weakref import WeakKeyDictionary

from aiohttp.web_request import BaseRequest

from cacheserver.security.authorities import Bundle
from cacheserver.security.handshake import sent_token
from cacheserver.security.identity import Attributes, Identity, Verdict
from cacheserver.security.tls import Peer, peer_of
from cacheserver.security.tokenfile import Tokens
from cacheserver.security.users import of_certificate
from cacheserver.slotted import slotted

_READS: Final = frozenset(("get", "list", "watch", "head"))
_NOBODY: Final = Verdict(allowed=False, reason="not a member of a group that may read here (--readers)")
_READ_ONLY: Final = Verdict(allowed=False, reason="only reading is allowed here")
_ALLOWED: Final = Verdict(allowed=True)
_AUTHORED: Final = frozenset(
    ("packagerevisions", "packagerevisions/files", "packagerevisions/rebase", "packagerevisionresources")
)
_DECISION: Final = "packagerevisions/approval"
_PATCHED: Final = frozenset(("patch", "update"))
"""Of packagerevisions, for approvers too, as in the cluster role of that name: kubectl knows no approval."""
_VALIDATED: Final = frozenset(("packagerevisions/status",))
_APPROVE: Final = "approve"  # the verb on a Repository (api/writing/rights.py): every approver has it, of every one


@slotted(frozen=True)
class Groups:
    """Whose members may what, in every namespace; who may write may read, too.

    system:authenticated is everybody who has a credential that holds.
    """

    readers: Sequence[str] = ()
    authors: Sequence[str] = ()
    approvers: Sequence[str] = ()
    validators: Sequence[str] = ()


class FileAuthentication:
    """Implements the API's authenticator. What it knows is replaced while it runs: by `trust` and `know`."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        """now: Unix time. Knows nobody yet."""
        self._now = now
        self._tokens = Tokens({})
        self._bundle = Bundle()
        self._certified: WeakKeyDictionary[Peer, tuple[float, Identity]] = WeakKeyDictionary()  # one a connection

    def know(self, tokens: Tokens) -> None:
        """From now on these tokens count, and no others."""
        self._tokens = tokens

    def trust(self, bundle: Bundle) -> None:
        """From now on client certificates of these authorities count, and no others, whenever the handshake was."""
        self._bundle = bundle
        self._certified = WeakKeyDictionary()

    async def identify(self, request: BaseRequest) -> Identity | None:
        """Who asks; None when no credential of the request holds."""
        peer = peer_of(request.transport)
        if peer is not None and peer.common_name:
            until, identity = self._standing(peer)
            if self._now() < until:
                return identity
        token = sent_token(request)
        return self._tokens.identity(token) if token else None

    def _standing(self, peer: Peer) -> tuple[float, Identity]:
        found = self._certified.get(peer)
        if found is None:
            found = self._certified[peer] = (self._bundle.trusted_until(peer), of_certificate(peer))
        return found


class GroupsAccess:
    """Implements the API's authorizer: what somebody may is said by groups, the same for every namespace."""

    def __init__(self, groups: Groups) -> None:
        self._readers = frozenset((*groups.readers, *groups.authors, *groups.approvers, *groups.validators))
        self._approvers = frozenset(groups.approvers)
        self._writers = {
            "--authors": (_AUTHORED, frozenset(groups.authors), "make and change packages"),
            "--approvers": (frozenset((_DECISION,)), self._approvers, "decide on what was proposed"),
            "--validators": (_VALIDATED, frozenset(groups.validators), "write conditions"),
        }

    async def review(self, identity: Identity, attributes: Attributes) -> Verdict:
        """At once. A refusal names the setting that would allow it."""
        if self._readers.isdisjoint(identity.groups):
            return _NOBODY
        if attributes.verb in _READS:
            return _ALLOWED
        asked = "/".join(filter(None, (attributes.resource, attributes.subresource)))
        if attributes.verb == _APPROVE:
            asked = _DECISION
        if (
            asked == "packagerevisions"
            and attributes.verb in _PATCHED
            and not self._approvers.isdisjoint(identity.groups)
        ):
            return _ALLOWED
        for flag, (resources, groups, what) in self._writers.items():
            if asked in resources:
                if groups.isdisjoint(identity.groups):
                    return Verdict(allowed=False, reason=f"not a member of a group that may {what} here ({flag})")
                return _ALLOWED
        return _READ_ONLY
