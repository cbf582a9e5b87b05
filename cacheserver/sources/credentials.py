"""Who we are to a registry or a git server. Values only: read from Secrets or files by the caller, never shown.

Every field that is secret stays out of repr, and `scrub` takes them out of whatever a remote or a program says.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import field
from typing import Final

import orjson

from cacheserver.errors import SourceAuthenticationError
from cacheserver.slotted import slotted

_MAX_CONFIG_BYTES: Final = 1 << 20  # Kubernetes: a Secret holds at most 1 MiB.
_DOCKER_HUB: Final = ("docker.io", "index.docker.io", "registry-1.docker.io")
_URL_USER: Final = re.compile(r"(?<=://)[^/\s@]*@")
_AUTHORIZATION: Final = re.compile(r"(?i)\b(basic|bearer)\s+[A-Za-z0-9+/=._~-]{6,}")


@slotted(frozen=True)
class RegistryCredentials:
    """A user and password, or an identity token that the token service takes in their place."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


@slotted(frozen=True)
class DockerConfig:
    """What a docker config JSON (`kubernetes.io/dockerconfigjson`) says; find credentials with `for_repository`.

    helpers: it also names credential helpers, which are programs and never run; say so when a login fails.
    """

    entries: Mapping[str, RegistryCredentials] = field(default_factory=dict, repr=False)
    helpers: bool = False

    @classmethod
    def parse(cls, content: bytes) -> DockerConfig:
        """Raises: SourceAuthenticationError for what is not a docker config; the message holds nothing of it."""
        if len(content) > _MAX_CONFIG_BYTES:
            raise SourceAuthenticationError("the docker config is larger than 1 MiB; is it the right file?")
        try:
            config = orjson.loads(content)
            auths = config.get("auths") or {}
            entries = {_key(name): _entry(entry) for name, entry in auths.items() if entry}
        except (ValueError, AttributeError, TypeError):
            # No cause: it may quote the secret.
            message = "the docker config is not JSON with `auths`; it needs the form of ~/.docker/config.json"
            raise SourceAuthenticationError(message) from None
        return cls(entries, bool(config.get("credsStore") or config.get("credHelpers")))

    def for_repository(self, host: str, repository: str) -> RegistryCredentials | None:
        """The entry whose key fits longest (containers-auth.json(5)): `host/a/b`, then `host/a`, then `host`."""
        hosts = _DOCKER_HUB if host in _DOCKER_HUB else (host,)
        parts = repository.split("/")
        for count in range(len(parts), -1, -1):
            for name in hosts:
                found = self.entries.get("/".join((name, *parts[:count])))
                if found is not None:
                    return found
        return None


def _key(name: str) -> str:
    # Old keys are URLs: `https://index.docker.io/v1/`, `https://quay.io`.
    without_scheme = re.sub(r"^https?://", "", name).rstrip("/")
    return re.sub(r"/v[12]$", "", without_scheme)


def _entry(entry: Mapping[str, str]) -> RegistryCredentials:
    username, password = str(entry.get("username", "")), str(entry.get("password", ""))
    if encoded := entry.get("auth"):
        try:
            decoded = base64.b64decode("".join(encoded.split()), validate=True).decode().rstrip("\0")
        except (binascii.Error, UnicodeDecodeError):
            raise ValueError from None
        username, _, password = decoded.partition(":")
    token = str(entry.get("identitytoken", ""))
    return RegistryCredentials(username, password, token)


@slotted(frozen=True)
class GitCredentials:
    """What a git server wants to see; give what applies.

    Over https: `bearer_token`, or username and password (most tokens are given as a password). Over ssh: `ssh_key`
    (private, PEM) and `known_hosts`, without which no host is trusted.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    bearer_token: str = field(default="", repr=False)
    ssh_key: bytes = field(default=b"", repr=False)
    known_hosts: bytes = field(default=b"", repr=False)

    def secrets(self) -> tuple[str, ...]:
        """What `scrub` must take out of anything shown."""
        basic = base64.b64encode(f"{self.username}:{self.password}".encode()).decode() if self.password else ""
        return tuple(secret for secret in (self.password, self.bearer_token, basic) if secret)


def scrub(text: str, secrets: tuple[str, ...] = ()) -> str:
    """`text` as one line of at most 500 characters, without `secrets`, users in URLs or authorization values."""
    for secret in secrets:
        text = text.replace(secret, "***")
    text = _AUTHORIZATION.sub(r"\1 ***", _URL_USER.sub("", text))
    text = "".join(char if char.isprintable() else " " for char in text)
    text = " ".join(text.split())
    return text if len(text) <= 500 else text[:500] + "..."
