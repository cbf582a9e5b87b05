"""How git is run: what it is told by the process that it is, and not by its arguments."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

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
