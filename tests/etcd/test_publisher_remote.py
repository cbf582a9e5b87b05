"""Publishing to git servers as they are: with credentials, slow, failing now and then, and without atomic pushes."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from cacheserver.sources import GitCredentials
from cacheserver.sources.git.command import Remote
from cacheserver.store.authored import Step
from tests.support import invariants
from tests.support.certificates import Authority
from tests.support.gitserver import GitHTTPS, basic
from tests.support.publishing import Killed, World, world_at

pytestmark = pytest.mark.etcd

SEED = 20261121
STEPS = 60
"""Each is processes of git; CACHESERVER_TEST_HOSTILE runs many more through the API."""


@pytest.fixture
async def world(etcd_endpoint: str, tmp_path: Path) -> AsyncIterator[World]:
    async with world_at(etcd_endpoint, tmp_path) as world:
        world.remote.git("config", "http.receivepack", "true")
        (tmp_path / "pki").mkdir()
        authority = Authority(tmp_path / "pki")
        with GitHTTPS(tmp_path / "served", authority.issue("git"), authorization=basic("bot", "hunter2")) as server:
            credentials = GitCredentials("bot", "hunter2")
            ca = authority.certificate.read_bytes()
            world.reach = Remote(f"{server.origin}/remote.git", credentials, ca)
            world.server = server
            yield world


async def test_credentials_that_were_taken_back_are_told_of_and_the_same_approval_succeeds_later(world: World) -> None:
    await world.desk.create("p", "w1")
    await world.do("p", "w1", Step.PROPOSE)
    assert world.server is not None
    world.server.authorization = basic("bot", "another")
    status = await world.do("p", "w1", Step.APPROVE)
    assert status["lastOperation"]["code"] == 403
    assert "hunter2" not in str(status)
    assert world.refs().keys() == {"refs/heads/proposed/p/w1"}
    world.server.authorization = basic("bot", "hunter2")
    await world.do("p", "w1", Step.APPROVE)
    invariants.check(world.remote, [("p", "v1", "w1")])


async def test_who_may_read_and_not_push_changes_nothing(world: World) -> None:
    await world.desk.create("p", "w1")
    await world.do("p", "w1", Step.PROPOSE)
    assert world.server is not None

    def read_only(path: str) -> tuple[int, Mapping[str, str]] | None:
        return (403, {}) if "receive-pack" in path else None

    world.server.intercept = read_only
    status = await world.do("p", "w1", Step.APPROVE)
    assert status["lastOperation"]["code"] == 403
    assert world.refs().keys() == {"refs/heads/proposed/p/w1"}


@pytest.mark.parametrize("atomic", [True, False])
async def test_after_any_run_of_failures_what_is_published_is_in_git_once(world: World, atomic: bool) -> None:
    """Every fifth request fails, a push is answered with an error though it was done, and the process is killed."""
    chance = random.Random(SEED + atomic)
    print(f"seed {SEED + atomic}")
    world.remote.git("config", "receive.advertiseAtomic", str(atomic).lower())
    world.remote.commit({"other/x": b"1"})
    assert world.server is not None

    def unreliable(path: str) -> tuple[int, Mapping[str, str]] | None:
        return (503, {}) if chance.random() < 0.2 else None

    world.server.intercept = unreliable
    packages = ["a", "b", "sites/c"]
    published: dict[tuple[str, str], str] = {}
    newest: dict[str, tuple[str, str]] = {}
    for number in range(STEPS):
        package = chance.choice(packages)
        workspace = f"w{number}"
        base = newest.get(package, ("", ""))
        await world.desk.create(package, workspace, str(number), base=base, saved_ms=1)
        world.seen, world.kill_at = [], ("", 0)
        for step in (Step.PROPOSE, Step.APPROVE):
            if (await world.object(package, workspace)).get("spec", {}).get("lifecycle") == "Published":
                break
            await world.desk.ask(package, workspace, step)
            if chance.random() < 0.3:
                moment = chance.choice(["looked", "built", "noted", "pushed", "pushed one", "written"])
                world.seen, world.kill_at = [], (moment, chance.randint(1, 2))
            await _worked(world)
        held = await world.desk.authored.read(world.desk.key(package, workspace))
        if held.operation is not None and held.operation.step is Step.APPROVE and held.operation.commit:
            revision = held.operation.revision
            if world.refs().get(f"refs/tags/{package}/{revision}") == held.operation.commit:
                await world.sync(package, workspace)
                published[package, revision] = workspace
                newest[package] = revision, held.operation.commit
        if number >= STEPS - 1 or len(published) >= 12:
            break
    assert published
    world.server.intercept = lambda _path: None
    tags = [ref for ref in world.refs() if ref.startswith("refs/tags/")]
    assert sorted(tags) == sorted(f"refs/tags/{package}/{revision}" for package, revision in published)
    invariants.check(
        world.remote,
        [(package, revision, workspace) for (package, revision), workspace in published.items()],
        {
            (package, revision): world.desk.files(package, workspace.removeprefix("w"))
            for (package, revision), workspace in published.items()
        },
    )


async def _worked(world: World) -> None:
    """Until nothing is under way but what waits for a sync; another process goes on where one was killed."""
    for _ in range(40):
        work = None
        try:
            work = await world.work()
        except* Killed:
            world.again()
        operations = await world.desk.authored.operations(world.config.key)
        if work is not None and work.error is None and len(operations) == len(work.waiting):
            return
    raise AssertionError("it does not come to an end")
