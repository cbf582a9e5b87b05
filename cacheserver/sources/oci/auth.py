"""How a registry wants to be asked: WWW-Authenticate challenges, basic authentication, bearer tokens.

Distribution's token authentication specification (docs/spec/auth/token.md, oauth.md). Anonymous first: credentials
leave only after a challenge, and only to the registry or the token service that it names. Knows no blobs, no manifests.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import field
from typing import Final

import aiohttp
import orjson
from yarl import URL

from cacheserver.errors import SourceAuthenticationError, SourceError, SourceNetworkError, SourceRateLimitedError
from cacheserver.slotted import slotted
from cacheserver.sources.credentials import DockerConfig, RegistryCredentials, scrub
from cacheserver.sources.oci.reference import ImageReference
from cacheserver.sources.oci.retry import retry_after_s

_MAX_TOKEN_BYTES: Final = 1 << 20
# RFC 9110 11.6.1: `Scheme key=value, key="quoted", Scheme ...`.
_PART: Final = re.compile(r"""([\w!#$%&'*+.^`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))|([A-Za-z]+)(?=\s|,|\Z)""")


@slotted(frozen=True)
class Challenge:
    """One way that a server would be asked in (RFC 9110, 11.6.1)."""

    scheme: str
    parameters: dict[str, str]


def read_challenges(headers: Sequence[str]) -> list[Challenge]:
    """Every challenge of a 401's WWW-Authenticate headers, schemes in lower case."""
    found: list[Challenge] = []
    for header in headers:
        for key, quoted, plain, scheme in _PART.findall(header):
            if scheme:
                found.append(Challenge(scheme.lower(), {}))
            elif found:
                found[-1].parameters[key.lower()] = plain or re.sub(r"\\(.)", r"\1", quoted)
    return found


@slotted()
class Authorizer:
    """Keeps the Authorization header that the registry accepts; `answer` makes a new one for each challenge.

    plain_http: a token service without TLS is accepted too.
    """

    reference: ImageReference
    config: DockerConfig
    plain_http: bool
    header: str = field(default="", repr=False)

    async def answer(self, session: aiohttp.ClientSession, challenges: Sequence[Challenge]) -> None:
        """Raises: SourceAuthenticationError, SourceNetworkError, SourceRateLimitedError."""
        credentials = self.config.for_repository(self.reference.host, self.reference.repository)
        for challenge in challenges:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                token = await self._token(session, challenge, credentials)
                self.header = f"Bearer {token}"
                return
        if not any(challenge.scheme == "basic" for challenge in challenges):
            raise SourceAuthenticationError(f"{self.reference.host} asks for an authentication that is not supported")
        if credentials is None or not credentials.username:
            raise self.refused("asks for a user and password")
        self.header = _basic(credentials)

    def refused(self, what: str) -> SourceAuthenticationError:
        """The error for a registry that will not let us in: what it did, and what to do about it."""
        if self.config.for_repository(self.reference.host, self.reference.repository) is not None:
            remedy = "check the credentials for it"
        elif self.config.helpers:
            remedy = (
                "the docker config names a credential helper for it, which is not run; write user and password there"
            )
        else:
            remedy = "give credentials for it, or check the name"
        return SourceAuthenticationError(f"{self.reference}: {self.reference.host} {what}; {remedy}")

    async def _token(
        self, session: aiohttp.ClientSession, challenge: Challenge, credentials: RegistryCredentials | None
    ) -> str:
        realm = self._realm(challenge.parameters["realm"])
        # Ours: the scope that we need, not what the challenge asks for: a token good for more would be a gift.
        fields = {"scope": f"repository:{self.reference.repository}:pull"}
        if "service" in challenge.parameters:
            fields["service"] = challenge.parameters["service"]
        headers = {"Accept": "application/json"}
        try:
            if credentials is not None and credentials.identity_token:
                fields |= {
                    "grant_type": "refresh_token",
                    "refresh_token": credentials.identity_token,
                    "client_id": "cacheserver",
                }
                request = session.post(realm, data=fields, headers=headers, allow_redirects=False)
            else:
                if credentials is not None and credentials.username:
                    headers["Authorization"] = _basic(credentials)
                request = session.get(realm.update_query(fields), headers=headers, allow_redirects=False)
            async with request as response:
                return await self._read_token(response)
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise SourceNetworkError(
                f"the token service {realm.host} of {self.reference.host} cannot be reached: {scrub(str(exc))}"
            ) from exc

    def _realm(self, text: str) -> URL:
        try:
            realm = URL(text)
        except ValueError as exc:
            raise SourceError(f"{self.reference.host} names a token service that is not a URL") from exc
        if realm.host is None or realm.scheme not in ("https", "http"):
            raise SourceError(f"{self.reference.host} names a token service that is not a URL")
        if realm.scheme == "http" and not self.plain_http:
            raise SourceAuthenticationError(
                f"{self.reference.host} names a token service without TLS; nothing is sent there"
            )
        return realm

    async def _read_token(self, response: aiohttp.ClientResponse) -> str:
        if response.status in (400, 401, 403):
            raise self.refused(f"gives no token (its token service answered {response.status})")
        if response.status == 429:
            wait_s = retry_after_s(response.headers)
            raise SourceRateLimitedError(
                f"the token service of {self.reference.host} asks us to wait", retry_after_s=wait_s
            )
        if response.status != 200:
            raise SourceNetworkError(f"the token service of {self.reference.host} answered {response.status}")
        content = await response.content.read(_MAX_TOKEN_BYTES)
        try:
            fields = orjson.loads(content)
            token = fields.get("token") or fields.get("access_token")
        except (ValueError, AttributeError):
            token = None  # No cause: it may quote the token.
        # RFC 6750 2.1: what a bearer token is made of; anything else could break out of the header.
        if not isinstance(token, str) or not re.fullmatch(r"[\w.~+/=-]+", token, re.ASCII):
            raise SourceError(f"the token service of {self.reference.host} answered without a token") from None
        return token


def _basic(credentials: RegistryCredentials) -> str:
    pair = f"{credentials.username}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"
