"""Publishing to a git server that dies within pushes, with a process that is killed between its steps. Real etcd."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cacheserver.store.authored import Step
from tests.support import invariants
from tests.support.publishing import Killed, World, world_at

pytestmark = pytest.mark.etcd

SEED = 20261121
DRAFTS = 6
"""Each is a dozen processes of git."""


@pytest.fixture
async def world(etcd_endpoint: str, tmp_path: Path) -> AsyncIterator[World]:
    async with world_at(etcd_endpoint, tmp_path) as world:
        yield world


def dies_within_pushes(world: World) -> None:
    """Every fourth push breaks off before it is done, every fifth when it is done already."""
    for hook, every in (("pre-receive", 4), ("post-receive", 5)):
        count = f"{world.home}/{hook}"
        world.hook(hook, f"echo x >> {count}; [ $(( $(wc -l < {count}) % {every} )) = 0 ] && kill -9 $PPID; exit 0")


@pytest.mark.parametrize("atomic", [True, False])
async def test_after_any_run_of_failures_what_is_published_is_in_git_once(world: World, atomic: bool) -> None:
    chance = random.Random(SEED + atomic)
    print(f"seed {SEED + atomic}")
    world.remote.git("config", "receive.advertiseAtomic", str(atomic).lower())
    world.remote.commit({"other/x": b"1"})
    dies_within_pushes(world)
    published: dict[tuple[str, str], str] = {}
    newest: dict[str, tuple[str, str]] = {}
    for number in range(DRAFTS):
        package, workspace = chance.choice(["a", "sites/b"]), f"w{number}"
        await world.desk.create(package, workspace, str(number), base=newest.get(package, ("", "")))
        for step in (Step.PROPOSE, Step.APPROVE):
            await world.desk.ask(package, workspace, step)
            moment = chance.choice(["looked", "built", "noted", "pushed", "pushed one", "written", "", ""])
            world.seen, world.kill_at = [], (moment, chance.randint(1, 2))
            await _worked(world)
        operation = (await world.desk.authored.read(world.desk.key(package, workspace))).operation
        assert operation is not None, await world.status(package, workspace)
        await world.sync(package, workspace)
        published[package, operation.revision] = workspace
        newest[package] = operation.revision, operation.commit
    tags = {ref for ref in world.refs() if ref.startswith("refs/tags/")}
    assert tags == {f"refs/tags/{package}/{revision}" for package, revision in published}
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
