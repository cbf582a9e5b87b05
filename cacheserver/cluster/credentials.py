"""Secrets that Repositories name, as credentials for their sources. Read when a source is asked, never watched.

Asks the host API before each look at the source, so that a rotated Secret counts from the next look on, and a missing
one is found as soon as it is there. While the host API is away, what was read last is used. Nothing here puts a
Secret's content into a message, a log line or a repr. Called by the Repository controller.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.config import GitSource, OCISource, RepositoryConfig
from cacheserver.errors import (
    KubernetesError,
    SecretForbiddenError,
    SecretInvalidError,
    SecretNotFoundError,
    SourceAuthenticationError,
    SourceError,
    SourceInvalidError,
    SourceNetworkError,
)
from cacheserver.slotted import slotted
from cacheserver.sources import (
    Access,
    DockerConfig,
    GitCredentials,
    Progress,
    RegistryCredentials,
    Source,
    Tree,
    Written,
)

if TYPE_CHECKING:
    from cacheserver.sources.git.source import GitRefsSource

# Keys, by kubernetes.io's types of Secrets; `identity`, `known_hosts`, `bearerToken` and `ca.crt` as Flux names them.
_DOCKER_CONFIG: Final = ".dockerconfigjson"
_USERNAME: Final = "username"
_PASSWORD: Final = "password"  # noqa: S105 - a key's name
_TOKEN: Final = "token"  # noqa: S105 - a key's name
_BEARER: Final = "bearerToken"
_SSH_KEYS: Final = ("identity", "ssh-privatekey")
_KNOWN_HOSTS: Final = "known_hosts"
_CA: Final = "ca.crt"

# GitHub's word for it; GitLab, Gitea and Bitbucket take any user beside a token.
_TOKEN_USER: Final = "x-access-token"  # noqa: S105 - a user's name


@slotted(frozen=True)
class Secret:
    """One Secret as read. `version` changes with its content, and when it was deleted and made anew."""

    namespace: str
    name: str
    version: str
    values: Mapping[str, bytes] = field(repr=False)

    def __str__(self) -> str:
        return f"the Secret {self.name} in {self.namespace}"

    def text(self, key: str) -> str:
        """The value as text, a newline at its end left out (`kubectl create secret --from-file`); empty without it.

        Raises: SecretInvalidError for what is not UTF-8.
        """
        try:
            return self.values.get(key, b"").decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            # No cause: it quotes the value.
            raise SecretInvalidError(f"{self}: {key} is not text") from None


class Secrets:
    """The host API's Secrets: one get for each read, nothing kept."""

    def __init__(self, api: KubeAPI) -> None:
        self._api = api

    async def read(self, namespace: str, name: str) -> Secret:
        """As SecretReader. Raises: as there."""
        try:
            return secret_of(await self._api.get(f"/api/v1/namespaces/{namespace}/secrets/{name}"))
        except KubernetesError as exc:
            if exc.code == 404:
                raise SecretNotFoundError(f"there is no Secret {name} in {namespace}") from exc
            if exc.code == 403:
                raise SecretForbiddenError(
                    f"the server may not read the Secret {name} in {namespace}; let it: kubectl -n {namespace} create "
                    "rolebinding cacheserver-secrets --clusterrole=cacheserver:secrets "
                    "--serviceaccount=cacheserver:cacheserver"
                ) from exc
            raise SourceNetworkError(f"the Secret {name} in {namespace} could not be read: {exc}") from exc


class SecretReader(Protocol):
    """Reads one Secret by name."""

    async def read(self, namespace: str, name: str) -> Secret:
        """As it is now.

        Raises: SecretNotFoundError, SecretForbiddenError, SecretInvalidError; SourceNetworkError without an answer.
        """
        ...


def secret_of(manifest: Mapping[str, Any]) -> Secret:
    """A v1 Secret as the host API returns it. Raises: SecretInvalidError for what is not base64."""
    metadata = manifest.get("metadata") or {}
    namespace, name = str(metadata.get("namespace", "")), str(metadata.get("name", ""))
    try:
        values = {key: base64.b64decode(value, validate=True) for key, value in (manifest.get("data") or {}).items()}
    except (binascii.Error, TypeError, ValueError):
        raise SecretInvalidError(f"the Secret {name} in {namespace}: its data is not base64") from None
    version = f"{metadata.get('uid', '')}/{metadata.get('resourceVersion', '')}"
    return Secret(namespace, name, version, values)


def access_of(config: RepositoryConfig, secret: Secret | None, authority: Secret | None) -> Access:
    """What the Secrets of a Repository give to its source. Raises: SecretInvalidError that names the keys needed."""
    ca = _authority(authority) if authority else b""
    if secret is None:
        return Access(ca=ca)
    match config.source:
        case OCISource(image):
            return Access(registry=_registry(secret, image), ca=ca)
        case GitSource(url):
            return Access(git=_git(secret, url), ca=ca)
        case _:
            raise SecretInvalidError(f"{secret}: this kind of source takes no credentials; leave secretRef out")


def _authority(secret: Secret) -> bytes:
    pem = secret.values.get(_CA, b"")
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise SecretInvalidError(f"{secret}: holds no PEM certificate under {_CA}, which caSecretRef needs")
    return pem


def _registry(secret: Secret, image: str) -> DockerConfig:
    if _DOCKER_CONFIG in secret.values:
        try:
            return DockerConfig.parse(secret.values[_DOCKER_CONFIG])
        except SourceAuthenticationError as exc:
            raise SecretInvalidError(f"{secret}: {exc}") from None
    username, password = secret.text(_USERNAME), secret.text(_PASSWORD)
    if not username or not password:
        raise SecretInvalidError(
            f"{secret}: an image needs {_DOCKER_CONFIG} (type kubernetes.io/dockerconfigjson), or {_USERNAME} and "
            f"{_PASSWORD}"
        )
    # Under the image's own host: no redirect and no token service elsewhere gets to see them.
    return DockerConfig({image.partition("/")[0]: RegistryCredentials(username, password)})


def _git(secret: Secret, url: str) -> GitCredentials:
    if urlsplit(url).scheme == "ssh":
        return _ssh(secret)
    username, password = secret.text(_USERNAME), secret.text(_PASSWORD)
    bearer, token = secret.text(_BEARER), secret.text(_TOKEN)
    if bearer:
        return GitCredentials(bearer_token=bearer)
    if token:
        return GitCredentials(username=username or _TOKEN_USER, password=token)
    if not username or not password:
        raise SecretInvalidError(
            f"{secret}: git over https needs {_USERNAME} and {_PASSWORD}, or {_TOKEN} (sent as a password), or "
            f"{_BEARER}"
        )
    return GitCredentials(username=username, password=password)


def _ssh(secret: Secret) -> GitCredentials:
    key = next((secret.values[name] for name in _SSH_KEYS if secret.values.get(name)), b"")
    known_hosts = secret.values.get(_KNOWN_HOSTS, b"")
    if not key or not known_hosts:
        raise SecretInvalidError(
            f"{secret}: git over ssh needs a private key under {_SSH_KEYS[0]} or {_SSH_KEYS[1]}, and {_KNOWN_HOSTS} "
            "(as ssh-keyscan prints them), without which no host is trusted"
        )
    return GitCredentials(ssh_key=key, known_hosts=known_hosts)


OpenWith = Callable[[Access], Source]
"""Opens the Repository's source with these credentials. Raises: SourceInvalidError."""


class SourceWithSecrets:
    """A Source that reads its Secrets before each look, and is opened anew when they changed."""

    def __init__(
        self,
        config: RepositoryConfig,
        secrets: SecretReader,
        open_with: OpenWith,
        leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        """leaving: whether the Repository is being deleted: its Secret may be gone before it, or the right to read it,
        with the namespace, and what was read last is used for what is still to be pushed."""
        self._config = config
        self._leaving = leaving
        self._secrets = secrets
        self._open_with = open_with
        self._inner: Source | None = None
        self._versions = ""

    async def probe(self) -> str:
        """Raises: SourceError, those of Secrets among them."""
        return await (await self._current()).probe()

    async def fetch(self, scratch: Path, progress: Progress) -> Tree:
        """With the credentials of the probe before it."""
        inner = self._inner or await self._current()
        return await inner.fetch(scratch, progress)

    async def written(self) -> GitRefsSource:
        """As sources.Written. Raises: also SourceInvalidError where the source is one that is only read."""
        inner = await self._current()
        if not isinstance(inner, Written):
            raise SourceInvalidError(f"{self._config.source} is only read: packages are written to a branch of git")
        return await inner.written()

    async def aclose(self) -> None:
        """Closes the source that is open; it is opened again when it is needed."""
        inner, self._inner = self._inner, None
        if inner is not None:
            await inner.aclose()

    async def _current(self) -> Source:
        try:
            secret, authority = await self._read(self._config.secret), await self._read(self._config.ca_secret)
        except SourceNetworkError:
            if self._inner is None:
                raise
            return self._inner  # the host API is away; the source may well be there
        except (SecretNotFoundError, SecretForbiddenError):
            if self._inner is None or not self._leaving():
                raise
            return self._inner
        versions = " ".join(read.version if read else "-" for read in (secret, authority))
        if self._inner is None or versions != self._versions:
            access = access_of(self._config, secret, authority)
            await self.aclose()
            self._inner, self._versions = self._open_with(access), versions
        return self._inner

    async def _read(self, name: str) -> Secret | None:
        return await self._secrets.read(self._config.key.namespace, name) if name else None


class RefusedSource:
    """In the place of a source that cannot be opened, so that its Repository's status says why. Asks nobody."""

    def __init__(self, error: SourceError) -> None:
        self._error = error

    async def probe(self) -> str:
        """Raises: the error, always."""
        raise self._error

    async def fetch(self, scratch: Path, progress: Progress) -> Tree:
        """Raises: the error, always."""
        raise self._error

    async def aclose(self) -> None:
        """Nothing is open."""
