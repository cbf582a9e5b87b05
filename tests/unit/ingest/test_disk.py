"""What ingestion keeps on disk: bounded, and given back when its owner goes, also when it was killed."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import pytest

from cacheserver.errors import SourceTooLargeError
from cacheserver.ingest.disk import Mirrors, ScratchSpace, scratch_directory
from cacheserver.model import RepositoryKey
from tests.support.waiting import eventually

ONE, TWO, THREE = (RepositoryKey("ns", name) for name in ("one", "two", "three"))


def fill(mirrors: Mirrors, key: RepositoryKey, size: int) -> Path:
    objects = mirrors.path(key) / "mirror.git" / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    (objects / "pack").write_bytes(bytes(size))
    return mirrors.path(key)


async def use(mirrors: Mirrors, key: RepositoryKey, size: int, at: int) -> Path:
    """One sync that leaves a copy of `size` bytes, `at` seconds after the epoch."""
    async with mirrors.using(key):
        path = fill(mirrors, key, size)
    use_file = path.parent / f".{path.name}.use"
    if use_file.exists():
        os.utime(use_file, (at, at))
    return path


async def test_a_repository_that_went_leaves_no_copy_behind(tmp_path: Path) -> None:
    mirrors = Mirrors(tmp_path, 1000)
    path = await use(mirrors, ONE, 10, at=1)
    assert await mirrors.remove(ONE)
    assert not path.exists()
    assert list(tmp_path.glob("*/*")) == []
    assert not await mirrors.remove(ONE)


async def test_the_copy_that_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    mirrors = Mirrors(tmp_path, 1000)
    one = await use(mirrors, ONE, 400, at=2)
    two = await use(mirrors, TWO, 400, at=1)
    three = await use(mirrors, THREE, 400, at=3)
    assert (one.exists(), two.exists(), three.exists()) == (True, False, True)


async def test_a_copy_in_use_stays_and_the_one_that_finds_no_room_is_refused_by_name(tmp_path: Path) -> None:
    mirrors, other_process = Mirrors(tmp_path, 1000), Mirrors(tmp_path, 1000)
    async with mirrors.using(ONE):
        path = fill(mirrors, ONE, 2000)
        with pytest.raises(SourceTooLargeError, match=r"ns/two.*--max-mirror-bytes raises it"):
            async with other_process.using(TWO):
                pass
        assert not await other_process.remove(ONE)
        assert await other_process.keep_only([]) == 0
        assert path.exists()
    async with other_process.using(TWO):
        pass
    assert not path.exists()


async def test_what_fetches_under_way_bring_counts_and_the_one_that_brought_most_is_refused(tmp_path: Path) -> None:
    mirrors, said = Mirrors(tmp_path, 1000), list[str]()
    unused = await use(mirrors, THREE, 300, at=1)
    async with mirrors.using(ONE) as one, mirrors.using(TWO) as two:
        fill(mirrors, ONE, 400)
        one(400)
        two(250)
        assert unused.exists()
        fill(mirrors, TWO, 350)
        two(350)
        await eventually(lambda: not unused.exists(), within_s=20)
        one(400)
        two(350)
        fill(mirrors, ONE, 700)
        one(700)

        def refused() -> bool:
            two(350)
            try:
                one(700)
            except SourceTooLargeError as error:
                said.append(str(error))
            return bool(said)

        await eventually(refused, within_s=20)
    assert "ns/one" in said[0]
    assert "--max-mirror-bytes raises it" in said[0]


async def test_at_start_the_copies_of_repositories_that_are_gone_go(tmp_path: Path) -> None:
    mirrors = Mirrors(tmp_path, 1000)
    one, two = await use(mirrors, ONE, 10, at=1), await use(mirrors, TWO, 10, at=1)
    (tmp_path / "ns" / ".gone-killed").mkdir()
    assert await mirrors.keep_only([TWO]) == 1
    assert (one.exists(), two.exists()) == (False, True)
    assert not (tmp_path / "ns" / ".gone-killed").exists()


async def test_a_tree_waits_until_there_is_room_in_scratch(tmp_path: Path) -> None:
    space = ScratchSpace(100)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(bytes(150))
    await space.begin(tmp_path / "a")
    await space.hold(tmp_path / "a")
    assert space.held_bytes == 150
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(space.begin(tmp_path / "b"), 0.05)
    waiting = asyncio.create_task(space.begin(tmp_path / "b"))
    space.drop(tmp_path / "a")
    await waiting


async def test_what_a_fetch_under_way_has_brought_counts(tmp_path: Path) -> None:
    space = ScratchSpace(100)
    (tmp_path / "a").mkdir()
    await space.begin(tmp_path / "a")
    (tmp_path / "a" / "half").write_bytes(bytes(150))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(space.begin(tmp_path / "b"), 0.05)
    waiting = asyncio.create_task(space.begin(tmp_path / "b"))
    space.drop(tmp_path / "a")  # it failed
    await waiting


def test_scratch_of_a_killed_process_goes_and_that_of_a_living_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = tmp_path / "cacheserver-scratch-killed"
    killed.mkdir()
    (killed / ".lock").touch()
    with scratch_directory() as living:
        assert not killed.exists()
        with scratch_directory() as other:
            assert living.exists()
            assert other != living
    assert list(tmp_path.iterdir()) == []
