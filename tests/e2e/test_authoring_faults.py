"""Whole servers that write to git, and what goes wrong around them: a holder that stands still before its push, etcd
that is wiped or loses its leader, remotes that are slow, fail, or take no atomic pushes."""

from __future__ import annotations

import asyncio
import functools
import os
import random
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cacheserver.etcd.client import prefix_end
from cacheserver.store.keys import PREFIX
from tests.conftest import StartEtcd
from tests.e2e.conftest import StartServer, opened
from tests.e2e.test_etcd_faults import leader_of, three_members
from tests.support import invariants
from tests.support.arena import PACKAGES, Arena
from tests.support.authors import MERGE, Author, Http
from tests.support.certificates import Authority
from tests.support.etcd import EtcdProcess, FoundEtcd
from tests.support.gitserver import GitHTTPS
from tests.support.ledger import Ledger
from tests.support.server import ServerProcess
from tests.support.trouble import Trouble
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

STEPS = int(os.environ.get("AUTHORS_STEPS", "50"))
SEED = int(os.environ.get("AUTHORS_SEEDS", "1").split(",")[0])
DELAY_S = 2.0 if "AUTHORS_STEPS" in os.environ else 0.05
"""Of each answer of a slow remote."""


class Client:
    """One author who means it: every step is to be done."""

    def __init__(self, session: aiohttp.ClientSession, ledger: Ledger, *urls: str) -> None:
        self.http = Http(session, urls)
        self.ledger = ledger
        self.chance = random.Random(0)

    async def create(self, package: str, workspace: str = "w1", repository: str = "edge") -> str:
        spec = {"repository": repository, "packageName": package, "workspaceName": workspace}
        body = {"apiVersion": "cacheserver.dev/v1alpha1", "kind": "PackageRevision", "metadata": {}, "spec": spec}
        reply = await self.http.ask(self.chance, "POST", "packagerevisions", body)
        assert reply.status == 201, reply
        return self.ledger.answered(reply.json).name

    async def move(self, name: str, lifecycle: str) -> int:
        change = {"spec": {"lifecycle": lifecycle}}
        return (await self.http.ask(self.chance, "PATCH", f"packagerevisions/{name}", change, media=MERGE)).status

    async def lifecycle(self, name: str) -> str:
        return str((await self.http.get(self.chance, f"packagerevisions/{name}"))["spec"]["lifecycle"])


class Stall:
    """Holds up the first push that comes with its commands, once armed, until it is let go."""

    def __init__(self) -> None:
        self.armed = threading.Event()
        self.reached = threading.Event()
        self.go = threading.Event()

    def __call__(self, path: str) -> tuple[int, Mapping[str, str]] | None:
        if self.armed.is_set() and path.endswith("/git-receive-pack"):
            self.armed.clear()
            self.reached.set()
            self.go.wait(120)
        return None


async def test_a_holder_that_stood_still_before_its_push_changes_nothing_when_it_wakes(
    start_etcd: StartEtcd, start_server: StartServer, tmp_path: Path
) -> None:
    """Its git has sent the push already; the other replica finishes the approval, and publishes another package."""
    etcd = await asyncio.to_thread(start_etcd)
    authority = Authority(tmp_path / "pki")
    stall = Stall()
    with GitHTTPS(tmp_path / "git", authority.issued("127.0.0.1")) as remote:
        remote.intercept = stall
        urls = {name: f"{remote.origin}/{name}.git" for name in PACKAGES}
        environ = {"SSL_CERT_FILE": str(authority.certificate)}
        async with (
            opened(etcd.endpoint, start_server, tmp_path, urls=urls, environ=environ) as arena,
            aiohttp.ClientSession() as session,
        ):
            trouble = Trouble(arena.servers, etcd, list(arena.remotes.values()), random.Random(0))
            holder = await trouble.holder()
            assert holder is not None
            (other,) = (server for server in arena.servers if server is not holder)
            client = Client(session, arena.ledger, other.url)
            names = [await client.create(package) for package in ("p", "q")]
            for name in names:
                assert await client.move(name, "Proposed") == 200
            stall.armed.set()
            approving = asyncio.create_task(client.move(names[0], "Published"))
            await eventually(stall.reached.is_set, within_s=60)
            holder.signal(signal.SIGSTOP)
            try:
                assert await approving in (200, 504)
                await eventually(lambda: _is(client, names[0], "Published"), within_s=30)
                assert await client.move(names[1], "Published") == 200
                before = invariants.refs(arena.remotes["edge"])
                stall.go.set()  # the late push arrives while its sender still sleeps
                await eventually(lambda: len(remote.answered) > 0 and remote.answered[-1].endswith("receive-pack"))
            finally:
                stall.go.set()
                holder.signal(signal.SIGCONT)
            assert invariants.refs(arena.remotes["edge"]) == before
            await eventually(lambda: arena.served(holder) == arena.served(other), within_s=30)
            arena.judge()
            assert invariants.refs(arena.remotes["edge"]) == before
            assert {ref for ref in before if ref.startswith("refs/tags/")} == {"refs/tags/p/v1", "refs/tags/q/v1"}


async def _is(client: Client, name: str, lifecycle: str) -> bool:
    return await client.lifecycle(name) == lifecycle


async def test_what_git_has_comes_back_with_names_and_numbers_into_an_empty_etcd(
    start_etcd: StartEtcd, start_server: StartServer, tmp_path: Path
) -> None:
    etcd = await asyncio.to_thread(start_etcd)
    async with opened(etcd.endpoint, start_server, tmp_path) as arena:
        async with aiohttp.ClientSession() as session:
            client = Client(session, arena.ledger, arena.servers[0].url)
            await arena.write(STEPS, SEED)
            # Behind the random steps, which may move whatever there is.
            first, second, _ = [await client.create(f"sites/end-{number}") for number in range(3)]
            for name, lifecycle in ((first, "Proposed"), (first, "Published"), (second, "Proposed")):
                assert await client.move(name, lifecycle) == 200
        await arena.settled()
        before = arena.served(arena.servers[0])
        refs = {name: invariants.refs(remote) for name, remote in arena.remotes.items()}
        for server in arena.servers:
            server.kill()
        await arena.client.delete(PREFIX, prefix_end(PREFIX))
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in arena.servers))
        for server in arena.servers:
            await eventually(functools.partial(_serves, arena, server, before), within_s=60)
        assert {name: invariants.refs(remote) for name, remote in arena.remotes.items()} == refs
        assert {item["spec"]["lifecycle"] for item in before.values()} >= {"Published", "Proposed", "Draft"}


def _serves(arena: Arena, server: ServerProcess, before: Mapping[str, Any]) -> bool:
    try:
        return _identities(arena.served(server)) == _identities(before)
    except OSError:
        return False  # it begins


def _identities(served: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """What git alone says of a revision."""
    return {
        name: (
            item["metadata"]["uid"],
            item["spec"]["lifecycle"],
            item["spec"]["revision"],
            item["spec"]["workspaceName"],
            item["status"]["content"]["digest"],
        )
        for name, item in served.items()
    }


async def test_saves_that_were_answered_survive_the_loss_of_etcds_leader(
    etcd_binary: FoundEtcd, start_server: StartServer, tmp_path: Path
) -> None:
    members = three_members(etcd_binary, tmp_path)
    try:
        for member in members:
            member.spawn()
        for member in members:
            await member.ready()
        endpoints = ",".join(member.endpoint for member in members)
        async with (
            opened(endpoints, start_server, tmp_path) as arena,
            aiohttp.ClientSession() as session,
        ):
            client = Client(session, arena.ledger, *(server.url for server in arena.servers))
            names = [await client.create(f"p{number}") for number in range(10)]
            left = list(range(100))

            async def save(number: int) -> None:
                author = Author(number, SEED, client.http, arena.ledger, PACKAGES)
                while left:
                    left.pop()
                    manifest = await client.http.get(author.chance, f"packagerevisions/{names[number]}")
                    await author.save_one(manifest)

            saving = [asyncio.create_task(save(number)) for number in range(10)]
            for at, hurt in ((70, "kill"), (30, "pause")):
                await eventually(functools.partial(_down_to, left, at), within_s=60)
                leader = await leader_of(members)
                leader.kill() if hurt == "kill" else leader.pause()
                await eventually(functools.partial(_leads, members, leader), within_s=30)
                if hurt == "kill":
                    leader.spawn()
                    await leader.ready()
                else:
                    leader.resume()
            await asyncio.gather(*saving)
            print(arena.ledger.table())
            kept = sum(len(life.kept) for life in arena.ledger.lives.values())
            assert kept >= 50, "most were not answered"
            for server in arena.servers:
                await eventually(functools.partial(_has, arena, server, 10), within_s=30)
            await arena.settled()
            arena.judge()
    finally:
        for member in members:
            member.stop()


def _has(arena: Arena, server: ServerProcess, count: int) -> bool:
    try:
        return len(arena.served(server)) == count
    except OSError:
        return False  # a new leader is awaited


def _down_to(left: Sequence[int], most: int) -> bool:
    return len(left) <= most


async def _leads(members: Sequence[EtcdProcess], lost: EtcdProcess) -> bool:
    """Whether somebody else does by now."""
    try:
        return await leader_of([member for member in members if member is not lost]) is not lost
    except AssertionError:
        return False


async def test_a_remote_that_takes_no_atomic_pushes_is_never_wrong(
    start_etcd: StartEtcd, start_server: StartServer, tmp_path: Path
) -> None:
    etcd = await asyncio.to_thread(start_etcd)
    async with opened(etcd.endpoint, start_server, tmp_path) as arena:
        for remote in arena.remotes.values():
            remote.git("config", "receive.advertiseAtomic", "false")
        await arena.write(STEPS, SEED)
        await arena.settled()
        print(arena.ledger.table())
        arena.judge()
        log = "".join(server.log() for server in arena.servers)
        assert "takes no atomic pushes" in log


async def test_a_remote_that_is_slow_and_fails_each_fifth_time_is_never_wrong(
    start_etcd: StartEtcd, start_server: StartServer, tmp_path: Path
) -> None:
    etcd = await asyncio.to_thread(start_etcd)
    authority = Authority(tmp_path / "pki")
    chance, failing = random.Random(SEED), threading.Event()

    def flaky(_path: str) -> tuple[int, Mapping[str, str]] | None:
        threading.Event().wait(DELAY_S)
        return (503, {}) if failing.is_set() and chance.random() < 0.2 else None

    with GitHTTPS(tmp_path / "git", authority.issued("127.0.0.1")) as remote:
        remote.intercept = flaky
        urls = {name: f"{remote.origin}/{name}.git" for name in PACKAGES}
        environ = {"SSL_CERT_FILE": str(authority.certificate)}
        async with opened(etcd.endpoint, start_server, tmp_path, urls=urls, environ=environ) as arena:
            failing.set()
            await arena.write(STEPS, SEED)
            failing.clear()
            await arena.settled(within_s=300)
            print(arena.ledger.table())
            arena.judge()
