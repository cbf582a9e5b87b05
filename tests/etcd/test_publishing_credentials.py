"""Publishing through a real git server behind TLS that asks who pushes (`git http-backend`, Basic authentication), with
credentials from a Secret that somebody changes. Real etcd."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cacheserver.cluster.credentials import Secret, SourceWithSecrets
from cacheserver.config import RepositoryConfig
from cacheserver.config.sources import GitRef, GitSource, RefKind
from cacheserver.errors import SecretNotFoundError
from cacheserver.ingest import Ingest, ServedStatusStore
from cacheserver.ingest.reading import open_for
from cacheserver.publish.git.publisher import Publisher
from cacheserver.sources import Access, Source
from cacheserver.store.authored import Step
from tests.etcd import test_publishing
from tests.etcd.test_publishing import World, eventually
from tests.support import invariants
from tests.support.certificates import Authority
from tests.support.gitserver import GitHTTPS, basic
from tests.support.sshd import SSHServer, sshd_or_skip

pytestmark = pytest.mark.etcd
world = test_publishing.world

RIGHT, WRONG = "r1ght-word", "wr0ng-word"


@dataclass
class Vault:
    """The Secrets of one namespace, read as from the host API."""

    secrets: dict[str, Mapping[str, bytes]]
    changes: int = 0
    read_times: int = 0

    def put(self, name: str, values: Mapping[str, bytes]) -> None:
        self.changes += 1
        self.secrets[name] = values

    async def read(self, namespace: str, name: str) -> Secret:
        self.read_times += 1
        if name not in self.secrets:
            raise SecretNotFoundError(f"there is no Secret {name} in {namespace}")
        return Secret(namespace, name, f"uid/{self.changes}", self.secrets[name])


@dataclass
class Kept:
    """A world whose git is asked with Secrets."""

    world: World
    vault: Vault
    config: RepositoryConfig

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Ingest]:
        desk = self.world.desk
        ingest = Ingest(
            self.world.services,
            ServedStatusStore(self.world.store),
            publisher=Publisher(desk.authored, desk.blobs),
        )

        def opened(access: Access) -> Source:
            return open_for(self.config.source, self.config.format, cache=self.world.home / "cache", access=access)

        ingest.put(self.config, lambda: SourceWithSecrets(self.config, self.vault, opened))
        task = asyncio.create_task(ingest.run())
        try:
            yield ingest
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def condition(self, kind: str) -> tuple[str, str]:
        found = (await self.world.repository())["status"].get("conditions", ())
        return next(((each["status"], each["reason"]) for each in found if each["type"] == kind), ("", ""))


@dataclass
class Guarded(Kept):
    """Behind TLS and a password."""

    server: GitHTTPS

    def password(self, word: str) -> None:
        self.vault.put("login", {"username": b"bot", "password": word.encode()})


@pytest.fixture
async def guarded(world: World, tmp_path: Path) -> AsyncIterator[Guarded]:
    authority = Authority(tmp_path / "ca")
    world.remote.git("config", "http.receivepack", "true")
    world.remote.commit({"x": b"1"})
    with GitHTTPS(world.remote.path.parent, authority.issue("git"), authorization=basic("bot", RIGHT)) as server:
        vault = Vault({"ca": {"ca.crt": authority.certificate.read_bytes()}})
        source = GitSource(f"{server.origin}/remote.git", GitRef(RefKind.BRANCH, "main"))
        config = replace(world.config, source=source, secret="login", ca_secret="ca")
        guarded = Guarded(world, vault, config, server)
        guarded.password(RIGHT)
        yield guarded


async def test_a_package_goes_the_whole_way_over_https_with_a_password(guarded: Guarded) -> None:
    world = guarded.world
    async with guarded.serving():
        await world.desk.create("p", "w1")
        await eventually(lambda: "refs/heads/drafts/p/w1" in invariants.refs(world.remote))
        large = {**world.desk.files("p", "1"), "large": random.Random(1).randbytes(5 << 18)}  # over http.postBuffer
        await world.desk.save("p", "w1", large, saved_ms=2)
        assert (await world.do("p", "w1", Step.PROPOSE))["spec"]["lifecycle"] == "Proposed"
        served = await world.do("p", "w1", Step.APPROVE)
        assert served["spec"]["lifecycle"] == "Published", served["status"]
        assert served["status"]["selfLock"]["git"]["repo"] == f"{guarded.server.origin}/remote.git"
        assert (await world.do("p", "w1", Step.PROPOSE_DELETION))["spec"]["lifecycle"] == "DeletionProposed"
        assert await world.do("p", "w1", Step.DELETE) == {}
    sent = [headers for method, path, headers in guarded.server.seen if path.endswith("/git-receive-pack")]
    assert any("chunked" in headers.get("Transfer-Encoding", "") for headers in sent)


@pytest.mark.parametrize("revoked", ["password", "Secret"])
async def test_an_approval_without_credentials_says_so_and_succeeds_once_they_are_right(
    guarded: Guarded, revoked: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = guarded.world
    async with guarded.serving():
        await world.desk.create("p", "w1")
        assert (await world.do("p", "w1", Step.PROPOSE))["spec"]["lifecycle"] == "Proposed"
        before = invariants.refs(world.remote)
        if revoked == "password":
            guarded.password(WRONG)
        else:
            del guarded.vault.secrets["login"]
        refused = await world.do("p", "w1", Step.APPROVE)
        last = refused["status"]["lastOperation"]
        said = (403, "Forbidden") if revoked == "password" else (503, "ServiceUnavailable")
        assert (last["result"], last["code"], last["reason"]) == ("Failed", *said)
        assert ("credentials" if revoked == "password" else "no Secret login in ns") in last["message"]
        assert refused["spec"]["lifecycle"] == "Proposed"
        assert invariants.refs(world.remote) == before
        reason = "AuthenticationFailed" if revoked == "password" else "SecretNotFound"
        await eventually(lambda: _is(guarded.condition("Pushed"), ("False", reason)))
        guarded.password(RIGHT)
        approved = await world.do("p", "w1", Step.APPROVE)
        assert approved["spec"]["lifecycle"] == "Published", approved["status"]
        await eventually(lambda: _is(guarded.condition("Pushed"), ("True", "Pushed")))
        shown = repr([await world.objects(), await world.repository(), caplog.messages, caplog.records])
    assert WRONG not in shown
    assert RIGHT not in shown
    assert basic("bot", RIGHT).split()[1] not in shown


async def test_a_server_that_lets_us_read_and_not_push_is_told_of(guarded: Guarded) -> None:
    world = guarded.world
    world.remote.git("config", "http.receivepack", "false")
    async with guarded.serving():
        await world.desk.create("p", "w1")
        await eventually(lambda: _is(guarded.condition("Pushed"), ("False", "AuthenticationFailed")))
        refused = await world.do("p", "w1", Step.PROPOSE)
        assert refused["status"]["lastOperation"]["code"] == 403
        pushed = {each["type"]: each["reason"] for each in refused["status"]["conditions"]}["Pushed"]
        assert pushed == "AuthenticationFailed"
        assert await guarded.condition("Ready") == ("True", "Synced")
        world.remote.git("config", "http.receivepack", "true")
        assert (await world.do("p", "w1", Step.PROPOSE))["spec"]["lifecycle"] == "Proposed"


async def test_a_package_goes_the_whole_way_over_ssh_with_the_right_key(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program stands in for ssh, and for sshd: it looks at the key, and runs the command here instead of there."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ssh").write_text(
        '#!/bin/sh\nwhile [ "$1" != -i ]; do shift; done\n'
        'grep -q RIGHT "$2" || { echo "git@host.test: Permission denied (publickey)." >&2; exit 255; }\n'
        'for last; do :; done\neval "$last"\n'
    )
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    world.remote.commit({"x": b"1"})
    vault = Vault({})

    def key(word: str) -> None:
        vault.put("login", {"identity": f"-----KEY {word}-----\n".encode(), "known_hosts": b"host.test ssh-ed25519 A"})

    key("RIGHT")
    source = GitSource(f"ssh://git@host.test{world.remote.path}", GitRef(RefKind.BRANCH, "main"))
    kept = Kept(world, vault, replace(world.config, source=source, secret="login"))
    async with kept.serving():
        await world.desk.create("p", "w1")
        assert (await world.do("p", "w1", Step.PROPOSE))["spec"]["lifecycle"] == "Proposed"
        key("WRONG")
        refused = (await world.do("p", "w1", Step.APPROVE))["status"]["lastOperation"]
        assert (refused["code"], "credentials" in refused["message"]) == (403, True)
        key("RIGHT")
        assert (await world.do("p", "w1", Step.APPROVE))["spec"]["lifecycle"] == "Published"
    invariants.check(world.remote, [("p", "v1", "w1")])


async def test_a_package_goes_the_whole_way_through_a_real_sshd(world: World, tmp_path: Path) -> None:
    world.remote.commit({"x": b"1"})
    with SSHServer(sshd_or_skip(), tmp_path / "sshd") as server:
        vault = Vault({})
        vault.put("login", {"identity": server.identity, "known_hosts": server.known_hosts})
        source = GitSource(server.url(world.remote.path), GitRef(RefKind.BRANCH, "main"))
        kept = Kept(world, vault, replace(world.config, source=source, secret="login"))
        async with kept.serving():
            await world.desk.create("p", "w1")
            assert (await world.do("p", "w1", Step.PROPOSE))["spec"]["lifecycle"] == "Proposed"
            server.forbid()
            refused = (await world.do("p", "w1", Step.APPROVE))["status"]["lastOperation"]
            assert (refused["code"], "credentials" in refused["message"]) == (403, True)
            server.allow()
            assert (await world.do("p", "w1", Step.APPROVE))["spec"]["lifecycle"] == "Published"
    invariants.check(world.remote, [("p", "v1", "w1")])


async def test_the_secret_is_read_for_work_and_not_each_second(guarded: Guarded) -> None:
    world = guarded.world
    async with guarded.serving():
        await eventually(lambda: _is(guarded.condition("Ready"), ("True", "Synced")))
        before = guarded.vault.read_times
        held = await world.desk.create("p", "w1", saved_ms=1)
        await eventually(lambda: "refs/heads/drafts/p/w1" in invariants.refs(world.remote))
        assert held.draft is not None
        assert guarded.vault.read_times - before <= 4  # two Secrets, for a look and for a push at most


async def _is(found: Awaitable[object], wanted: object) -> bool:
    return bool(await found == wanted)
