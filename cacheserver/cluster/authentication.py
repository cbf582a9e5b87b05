"""Who asks, as the host cluster sees it: what its front proxy says, else a client certificate, else a bearer token.

Order and rules: k8s.io/apiserver/pkg/authentication/authenticatorfactory/delegating.go and request/{headerrequest,x509,
bearertoken}. No anonymous user: who shows nothing that holds is nobody. Used by the API through its gate.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import unquote
from weakref import WeakKeyDictionary

from aiohttp.web_request import BaseRequest

from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.cluster.remembered import REVIEWS_A_TURN, Remembered
from cacheserver.cluster.trust import Published, Trust
from cacheserver.errors import KubernetesError
from cacheserver.memo import Memo
from cacheserver.security.handshake import sent_token
from cacheserver.security.identity import Identity
from cacheserver.security.tls import Peer, peer_of
from cacheserver.security.users import of_certificate, with_authenticated
from cacheserver.slotted import slotted
from cacheserver.turns import Turns

log = logging.getLogger(__name__)

KEEP_S: Final = 10.0  # k8s.io/apiserver/pkg/server/options/authentication.go: CacheTTL
_TOKENS_BYTES: Final = 8 << 20  # ours: some 6,000 tokens, good and bad
_USERS_BYTES: Final = 2 << 20  # ours: some 1,000 users that come through the proxy, as their headers read
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9a-fA-F]{2})")

_Headers = tuple[tuple[bytes, bytes], ...]


@slotted(frozen=True)
class _PeerRights:
    """What a trust makes of one connection's certificate.

    proxy_until: Unix time until when it may name users as a front proxy. user_until: until when it is `identity`'s own
    credential. 0: never.
    """

    proxy_until: float
    user_until: float
    identity: Identity


class Authentication:
    """Implements the API's authenticator. Nothing that it reads of a request is read by anybody after it."""

    def __init__(self, published: Published, tokens: Tokens, now: Callable[[], float] = time.time) -> None:
        """now: Unix time."""
        self._published = published
        self._tokens = tokens
        self._now = now
        self._believe(published.trust)

    def _believe(self, trust: Trust) -> None:
        """Forget what followed from another trust."""
        self._trust = trust
        self._headers = ProxyHeaders(trust)
        self._rights: WeakKeyDictionary[Peer, _PeerRights] = WeakKeyDictionary()  # as many as connections

    async def identify(self, request: BaseRequest) -> Identity | None:
        """Who asks; None when no credential of the request holds."""
        if self._trust is not self._published.trust:
            self._believe(self._published.trust)
        peer = peer_of(request.transport)
        if peer is not None:
            now, rights = self._now(), self._rights_of(peer)
            if now < rights.proxy_until:
                proxied = self._headers.identity(request.raw_headers)
                if proxied is not None:
                    return proxied
            if now < rights.user_until:
                return rights.identity
        token = sent_token(request)
        return await self._tokens.identity(token) if token else None

    def _rights_of(self, peer: Peer) -> _PeerRights:
        try:
            return self._rights[peer]
        except KeyError:
            trust = self._trust
            allowed = not trust.allowed_names or peer.common_name in trust.allowed_names
            found = self._rights[peer] = _PeerRights(
                trust.proxy_ca.trusted_until(peer) if allowed else 0.0,
                trust.client_ca.trusted_until(peer) if peer.common_name else 0.0,
                of_certificate(peer),
            )
            return found


class ProxyHeaders:
    """What a front proxy's headers say, by the names that `trust` has for them. Remembers users it has seen."""

    def __init__(self, trust: Trust) -> None:
        self._usernames = _lowered(trust.username_headers)
        self._uids = _lowered(trust.uid_headers)
        self._groups = _lowered(trust.group_headers)
        self._prefixes = _lowered(trust.extra_prefixes)
        self._names = frozenset((*self._usernames, *self._uids, *self._groups))
        self._known = Memo[_Headers, tuple[Identity | None]](_USERS_BYTES)

    def identity(self, headers: Iterable[tuple[bytes, bytes]]) -> Identity | None:
        """None when they name no user."""
        ours = tuple(
            (name, value)
            for written, value in headers
            if (name := written.lower()) in self._names or name.startswith(self._prefixes)
        )
        known = self._known.get(ours)
        if known is None:
            known = (self._parse(ours),)
            self._known.put(ours, known, _size(known) + sum(150 + len(name) + len(value) for name, value in ours))
        return known[0]

    def _parse(self, headers: _Headers) -> Identity | None:
        """k8s.io/apiserver/pkg/authentication/request/headerrequest/requestheader.go."""
        user = _first(headers, self._usernames)
        if not user:
            return None
        groups = [
            value.decode(errors="replace") for name in self._groups for n, value in headers if n == name and value
        ]
        extra: dict[str, list[str]] = {}
        for prefix in self._prefixes:
            for name, value in headers:
                if name.startswith(prefix):
                    key = _unescaped(name[len(prefix) :].decode(errors="replace"))
                    extra.setdefault(key, []).append(value.decode(errors="replace"))
        return Identity(
            user,
            with_authenticated(user, groups),
            _first(headers, self._uids),
            tuple((key, tuple(values)) for key, values in sorted(extra.items())),
            proxied=True,
        )


class Tokens:
    """Bearer tokens, reviewed by the host cluster. An answer, good or bad, holds for 10 s; an error does not."""

    def __init__(self, api: KubeAPI, now: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._key = os.urandom(32)  # so that what is remembered is of no use to who reads our memory
        self._answers: Remembered[bytes, tuple[Identity | None]] = Remembered(
            keep_s=KEEP_S, most_bytes=_TOKENS_BYTES, now=now
        )
        self._turns = Turns(REVIEWS_A_TURN)
        self._failing = False

    async def identity(self, token: str) -> Identity | None:
        """None for a token that is good for nobody, and while kube-apiserver does not answer (k8s: 401 for both)."""
        # Not HMAC by OpenSSL, which gives the interpreter away and has to wait for it again, at each request.
        key = hashlib.blake2b(token.encode(errors="surrogateescape"), key=self._key, digest_size=32).digest()
        known = self._answers.get(key)
        if known is None:
            try:
                known = await self._answers.look_up(key, lambda: self._review(token), _size)
            except KubernetesError as exc:
                if not self._failing:
                    self._failing = True
                    log.warning("tokens cannot be reviewed", extra={"error": str(exc)})
                return None
        return known[0]

    async def close(self) -> None:
        """Cancels reviews under way."""
        await self._answers.close()

    async def _review(self, token: str) -> tuple[Identity | None]:
        await self._turns.spend(1)
        found = await self._api.token_review(token)
        if self._failing:
            self._failing = False
            log.info("tokens are reviewed again")
        if found is None:
            return (None,)
        groups = with_authenticated(found.user, found.groups)
        return (Identity(found.user, groups, found.uid, found.extra),)


def _size(answer: tuple[Identity | None]) -> int:
    """Bytes of one answer and the digest that it is remembered by."""
    return 200 + (answer[0].size if answer[0] is not None else 0)


def _first(headers: _Headers, names: tuple[bytes, ...]) -> str:
    """By the order of names; of a header that comes several times the first one counts (Go: Header.Get)."""
    for name in names:
        value = next((value for found, value in headers if found == name), b"")
        if value:
            return value.decode(errors="replace")
    return ""


def _lowered(names: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(name.lower().encode() for name in names)


def _unescaped(key: str) -> str:
    """Go's url.PathUnescape; a key with a broken escape stays as it is."""
    return key if _BAD_ESCAPE.search(key) else unquote(key)
