"""The doctor tries pushes on real git servers, which may refuse them, and leaves nothing there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cacheserver.cli import pushes
from cacheserver.cli.main import main
from cacheserver.cluster.credentials import Secret, SourceWithSecrets
from cacheserver.config import RepositoryConfig
from cacheserver.config.sources import GitRef, GitSource, RefKind
from cacheserver.errors import SecretForbiddenError
from cacheserver.model import Format, RepositoryKey
from cacheserver.sources import Access, Limits, Source
from tests.support.certificates import Authority
from tests.support.gitserver import GitHTTPS, GitRepository, basic

pytestmark = pytest.mark.processes


class Keeper:
    """Gives every Repository the same password, and the authority of the git server."""

    def __init__(self, password: str, authority: Path) -> None:
        self._password = password
        self._authority = authority

    async def read(self, namespace: str, name: str) -> Secret:
        if name == "forbidden":
            raise SecretForbiddenError(f"the server may not read the Secret {name} in {namespace}")
        values = {"ca.crt": self._authority.read_bytes()} if name == "ca" else {"username": b"bot"}
        return Secret(namespace, name, "1", {**values, "password": self._password.encode()})


@pytest.fixture
def git(tmp_path: Path) -> GitRepository:
    git = GitRepository(tmp_path / "served" / "edge.git")
    git.commit({"README.md": b"hello"})
    git.git("config", "http.receivepack", "true")
    return git


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def served(git: GitRepository, authority: Authority) -> Iterator[GitHTTPS]:
    with GitHTTPS(git.path.parent, authority.issue("git"), authorization=basic("bot", "s3cret")) as served:
        yield served


def config(url: str, **fields: object) -> RepositoryConfig:
    source = GitSource(url, GitRef(RefKind.BRANCH, "main"), "")
    return RepositoryConfig(RepositoryKey("team", "edge"), source, format=Format.KRM, writable=True, **fields)  # type: ignore[arg-type]


async def tried(config: RepositoryConfig, password: str, authority: Authority) -> pushes.Tried:
    keeper = Keeper(password, authority.certificate)

    def make(config: RepositoryConfig, opened: Callable[[Access | None], Source]) -> Source:
        return SourceWithSecrets(config, keeper, opened)

    [found] = await pushes.try_all([config], Limits(), make)
    return found


def everything(git: GitRepository) -> tuple[str, str]:
    return git.git("for-each-ref"), git.git("count-objects", "-v")


async def test_a_server_that_takes_pushes_is_found_so_and_gets_none(
    git: GitRepository, served: GitHTTPS, authority: Authority
) -> None:
    before = everything(git)
    found = await tried(config(f"{served.origin}/edge.git", secret="bot", ca_secret="ca"), "s3cret", authority)
    assert found.wrong == ""
    assert any("git-receive-pack" in path for _, path, _ in served.seen), "it was asked whether it takes pushes"
    assert not any(method == "POST" and "git-receive-pack" in path for method, path, _ in served.seen)
    assert everything(git) == before


async def test_a_repository_that_is_empty_is_tried_too(tmp_path: Path) -> None:
    git = GitRepository(tmp_path / "empty.git")
    [found] = await pushes.try_all([config(git.url)], Limits())
    assert found.wrong == ""
    assert git.git("for-each-ref") == ""


async def test_a_server_that_takes_no_pushes_is_named_with_what_to_do(
    git: GitRepository, served: GitHTTPS, authority: Authority
) -> None:
    """It lets everybody with the password read."""
    git.git("config", "http.receivepack", "false")
    found = await tried(config(f"{served.origin}/edge.git", secret="bot", ca_secret="ca"), "s3cret", authority)
    assert found.wrong.startswith("AuthenticationFailed: ")
    assert "s3cret" not in found.wrong
    assert "let the account of the Secret bot push to the branch, drafts/" in found.remedy


async def test_other_credentials_are_wanted(served: GitHTTPS, authority: Authority) -> None:
    found = await tried(config(f"{served.origin}/edge.git", secret="bot", ca_secret="ca"), "0ther", authority)
    assert found.wrong.startswith("AuthenticationFailed: ")
    assert "0ther" not in found.wrong


async def test_a_secret_that_may_not_be_read_gets_the_role_named(served: GitHTTPS, authority: Authority) -> None:
    found = await tried(config(f"{served.origin}/edge.git", secret="forbidden"), "", authority)
    assert "SecretForbidden" in found.wrong
    assert "cacheserver:secrets" in found.remedy


async def test_what_is_only_read_or_suspended_is_not_tried(tmp_path: Path) -> None:
    nowhere = config(f"file://{tmp_path}/nowhere", suspend=True)
    assert await pushes.try_all([nowhere], Limits()) == []


def test_the_command_tries_repositories_of_manifests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git = GitRepository(tmp_path / "edge.git")
    for name, path in (("edge", git.path), ("gone", tmp_path / "gone.git")):
        (tmp_path / f"{name}.yaml").write_text(
            "apiVersion: config.cacheserver.dev/v1alpha1\nkind: Repository\n"
            f"metadata: {{name: {name}}}\n"
            f"spec: {{source: {{git: {{url: {path}, ref: {{branch: main}}}}}}, format: KRM, access: ReadWrite}}\n"
        )
    assert main(["doctor", "--repositories", str(tmp_path / "edge.yaml")], environ={}) == 0
    assert "git lets us push to 1" in capsys.readouterr().out
    assert main(["doctor", "--repositories", str(tmp_path / "gone.yaml")], environ={}) == 1
    said = capsys.readouterr().out
    assert "push to default/gone" in said
    assert "SourceNotFound" in said
