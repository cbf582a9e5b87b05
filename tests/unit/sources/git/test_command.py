"""How git is run: what it is told by the process that it is, and not by its arguments."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from cacheserver.children import Child
from cacheserver.priority import NICE
from cacheserver.sources.git.command import Git, Remote

pytestmark = pytest.mark.processes


async def test_git_gives_way_to_the_server(tmp_path: Path) -> None:
    git = Git(Remote("file:///nowhere"), tmp_path)
    assert int(await git.run("-c", "alias.priority=!nice", "priority", timeout_s=20)) >= NICE


async def test_git_runs_where_nobody_has_nice(tmp_path: Path) -> None:
    only_git = tmp_path / "bin"
    only_git.mkdir()
    (only_git / "git").symlink_to(shutil.which("git") or "/usr/bin/git")
    git = Git(Remote("file:///nowhere"), tmp_path, {"PATH": str(only_git)})
    assert (await git.run("--version", timeout_s=20)).startswith(b"git version ")


async def test_who_is_told_twice_to_leave_has_seen_the_end_of_its_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = Git(Remote("file:///nowhere"), tmp_path)
    begun: asyncio.Queue[Child] = asyncio.Queue()
    ends: list[int | None] = []
    close = Child.close

    def noted(child: Child) -> None:
        ends.append(child.returncode)
        close(child)

    monkeypatch.setattr(Child, "close", noted)

    async def hold() -> None:
        async with git.process("-c", "alias.stay=!trap : TERM; cat", "stay") as process:
            await begun.put(process)
            await asyncio.Event().wait()

    holder = asyncio.create_task(hold())
    await begun.get()
    for _ in range(2):
        holder.cancel()
        for _ in range(5):  # it takes the first notice before the second
            await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await holder
    assert ends
    assert None not in ends
