"""Secrets as credentials: which keys count for which source, rotation, absence, and that nothing of them shows."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cacheserver.cluster.credentials import Secret, SourceWithSecrets, access_of, secret_of
from cacheserver.config import RepositoryConfig, parse_source
from cacheserver.errors import (
    SecretForbiddenError,
    SecretInvalidError,
    SecretNotFoundError,
    SourceInvalidError,
    SourceNetworkError,
)
from cacheserver.ingest.reading import open_for
from cacheserver.model import Format, RepositoryKey
from cacheserver.sources import Access, Source, Tree

pytestmark = pytest.mark.processes

HIDDEN = "h1dden-w0rd"
PEM = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
KEY = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{HIDDEN}\n".encode()
OCI = "oci://registry.example.com/team/catalog:v1"
HTTPS = "git+https://git.example.com/a.git"
SSH = "git+ssh://git@git.example.com/a.git"
DOCKER = json.dumps({"auths": {"registry.example.com": {"username": "u", "password": HIDDEN}}}).encode()


def config(source: str, **fields: Any) -> RepositoryConfig:
    return RepositoryConfig(RepositoryKey("team", "c"), parse_source(source, Path("/")), **fields)


def secret(values: Mapping[str, bytes], version: str = "1") -> Secret:
    return Secret("team", "s", version, values)


def access(source: str, given: Secret) -> Access:
    return access_of(config(source), given, None)


def test_a_docker_config_is_for_the_images_of_its_hosts() -> None:
    found = access(OCI, secret({".dockerconfigjson": DOCKER})).registry
    mine = found.for_repository("registry.example.com", "team/catalog")
    assert mine is not None
    assert (mine.username, mine.password) == ("u", HIDDEN)
    assert found.for_repository("elsewhere.example.com", "team/catalog") is None


def test_user_and_password_are_for_the_images_own_host_only() -> None:
    found = access(OCI, secret({"username": b"u", "password": HIDDEN.encode() + b"\n"})).registry
    mine = found.for_repository("registry.example.com", "team/catalog")
    assert mine is not None
    assert mine.password == HIDDEN
    assert found.for_repository("docker.io", "team/catalog") is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"username": b"u", "password": b"p"}, ("u", "p", "")),
        ({"token": b"t"}, ("x-access-token", "t", "")),
        ({"username": b"oauth2", "token": b"t\n"}, ("oauth2", "t", "")),
        ({"bearerToken": b"b"}, ("", "", "b")),
    ],
)
def test_git_over_https_takes_a_password_or_a_token(values: dict[str, bytes], expected: tuple[str, str, str]) -> None:
    git = access(HTTPS, secret(values)).git
    assert (git.username, git.password, git.bearer_token) == expected


@pytest.mark.parametrize("name", ["identity", "ssh-privatekey"])
def test_git_over_ssh_takes_a_key_and_the_hosts_that_are_known(name: str) -> None:
    git = access(SSH, secret({name: KEY, "known_hosts": b"git.example.com ssh-ed25519 AAAA"})).git
    assert (git.ssh_key, git.known_hosts) == (KEY, b"git.example.com ssh-ed25519 AAAA")


def test_an_authority_comes_from_a_secret_of_its_own() -> None:
    assert access_of(config(OCI), None, secret({"ca.crt": PEM})).ca == PEM


@pytest.mark.parametrize(
    ("source", "values", "names"),
    [
        (OCI, {"token": HIDDEN.encode()}, ".dockerconfigjson"),
        (OCI, {".dockerconfigjson": HIDDEN.encode()}, "auths"),
        (OCI, {"username": b"u"}, "password"),
        (HTTPS, {"password": HIDDEN.encode()}, "username"),
        (HTTPS, {"identity": KEY}, "token"),
        (HTTPS, {"username": b"\xff", "password": HIDDEN.encode()}, "username is not text"),
        (SSH, {"identity": KEY}, "known_hosts"),
        (SSH, {"username": b"u", "password": HIDDEN.encode()}, "identity"),
        ("/etc", {"token": HIDDEN.encode()}, "leave secretRef out"),
    ],
)
def test_a_secret_of_no_use_says_what_is_needed_and_nothing_it_holds(
    source: str, values: dict[str, bytes], names: str
) -> None:
    with pytest.raises(SecretInvalidError) as refused:
        access(source, secret(values))
    assert names in str(refused.value)
    assert HIDDEN not in repr(refused.value) + repr(refused.value.__cause__)


def test_an_authority_that_is_no_certificate_is_refused() -> None:
    with pytest.raises(SecretInvalidError, match=r"ca\.crt"):
        access_of(config(OCI), None, secret({"ca.crt": HIDDEN.encode()}))


def test_nothing_that_a_secret_holds_is_in_a_repr() -> None:
    given = secret({"username": b"u", "password": HIDDEN.encode(), "ca.crt": PEM})
    shown = repr(given) + repr(access_of(config(HTTPS), given, given)) + str(given)
    assert HIDDEN not in shown
    assert "AAAA" not in shown


def test_a_secret_made_anew_is_another_version_even_with_the_same_number() -> None:
    def made(uid: str) -> Secret:
        metadata = {"namespace": "team", "name": "s", "uid": uid, "resourceVersion": "5"}
        return secret_of({"metadata": metadata, "data": {"token": base64.b64encode(b"t").decode()}})

    assert made("a").values == made("b").values == {"token": b"t"}
    assert made("a").version != made("b").version


def test_a_secret_that_is_not_base64_is_refused_without_quoting_it() -> None:
    with pytest.raises(SecretInvalidError) as refused:
        secret_of({"metadata": {"namespace": "team", "name": "s"}, "data": {"token": HIDDEN + "!"}})
    assert HIDDEN not in repr(refused.value)


# --- the source that reads them -------------------------------------------------------------------------------------


@dataclass
class Vault:
    """Secrets that a test sets; None is absent, an exception is raised."""

    held: Secret | Exception | None = None
    reads: int = 0

    async def read(self, namespace: str, name: str) -> Secret:
        self.reads += 1
        if isinstance(self.held, Exception):
            raise self.held
        if self.held is None:
            raise SecretNotFoundError(f"there is no Secret {name} in {namespace}")
        return self.held


@dataclass
class Opened:
    """Every source that was opened: with what, and whether it was closed."""

    access: list[Access] = field(default_factory=list)
    closed: list[Access] = field(default_factory=list)

    def __call__(self, access: Access) -> Source:
        self.access.append(access)
        return _Inner(self, access)


class _Inner:
    def __init__(self, owner: Opened, access: Access) -> None:
        self._owner = owner
        self._access = access

    async def probe(self) -> str:
        return f"probed as {self._access.git.username}"

    async def fetch(self, scratch: Path, progress: Any) -> Tree:
        return Tree(scratch, (), f"fetched as {self._access.git.username}")

    async def aclose(self) -> None:
        self._owner.closed.append(self._access)


def user(name: str, version: str) -> Secret:
    return secret({"username": name.encode(), "password": b"p"}, version)


async def test_a_rotated_secret_counts_from_the_next_look_on(tmp_path: Path) -> None:
    vault, opened = Vault(user("old", "1")), Opened()
    source = SourceWithSecrets(config(HTTPS, secret="s"), vault, opened)
    assert [await source.probe(), await source.probe()] == ["probed as old"] * 2
    vault.held = user("new", "2")
    assert await source.probe() == "probed as new"
    assert (await source.fetch(tmp_path, lambda *_: None)).digest == "fetched as new"
    assert [given.git.username for given in opened.access] == ["old", "new"]
    assert [given.git.username for given in opened.closed] == ["old"]
    await source.aclose()
    assert len(opened.closed) == 2


async def test_an_absent_secret_is_named_and_found_once_it_is_there() -> None:
    vault, opened = Vault(), Opened()
    source = SourceWithSecrets(config(HTTPS, secret="s"), vault, opened)
    with pytest.raises(SecretNotFoundError, match="no Secret s in team"):
        await source.probe()
    vault.held = user("u", "1")
    assert await source.probe() == "probed as u"


async def test_a_deleted_secret_is_no_longer_used() -> None:
    vault = Vault(user("u", "1"))
    source = SourceWithSecrets(config(HTTPS, secret="s"), vault, Opened())
    await source.probe()
    vault.held = None
    with pytest.raises(SecretNotFoundError):
        await source.probe()


@pytest.mark.parametrize("held", [None, SecretForbiddenError("the binding went")])
async def test_of_a_repository_that_is_going_it_is_what_its_drafts_are_pushed_with(held: Exception | None) -> None:
    """With a namespace its Secrets go, and the right to read them, in any order."""
    vault, leaving = Vault(user("u", "1")), False
    source = SourceWithSecrets(config(HTTPS, secret="s"), vault, Opened(), lambda: leaving)
    await source.probe()
    vault.held = held
    with pytest.raises((SecretNotFoundError, SecretForbiddenError)):
        await source.probe()
    leaving = True
    assert await source.probe() == "probed as u"


async def test_while_the_host_api_is_away_the_last_credentials_are_used() -> None:
    vault = Vault(SourceNetworkError("away"))
    source = SourceWithSecrets(config(HTTPS, secret="s"), vault, Opened())
    with pytest.raises(SourceNetworkError):
        await source.probe()
    vault.held = user("u", "1")
    await source.probe()
    vault.held = SourceNetworkError("away")
    assert await source.probe() == "probed as u"


async def test_a_repository_without_secrets_reads_none() -> None:
    vault, opened = Vault(), Opened()
    source = SourceWithSecrets(config(HTTPS), vault, opened)
    await source.probe()
    await source.probe()
    assert (vault.reads, opened.access) == (0, [Access()])


async def test_what_is_written_to_has_the_credentials_of_now_and_what_is_only_read_says_so(tmp_path: Path) -> None:
    vault = Vault(user("old", "1"))
    seen: list[Access] = []

    def opened(given: Access) -> Source:
        seen.append(given)
        return open_for(config(HTTPS).source, Format.KRM, cache=tmp_path, access=given)

    source = SourceWithSecrets(config(HTTPS, secret="s"), vault, opened)
    await source.written()
    vault.held = user("new", "2")
    assert (await source.written()).url == HTTPS.removeprefix("git+")
    assert [given.git.username for given in seen] == ["old", "new"]
    vault.held = None
    with pytest.raises(SecretNotFoundError):
        await source.written()
    with pytest.raises(SourceInvalidError, match="only read"):
        await SourceWithSecrets(config(HTTPS), vault, Opened()).written()
