"""A directory as a source: what is listed, what is refused by name, and when a file is read again."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from cacheserver.errors import SourceError, SourceInvalidError, SourceNotFoundError, SourceTooLargeError
from cacheserver.sources import DirectorySource, Limits, Tree


def ignore(_what: str, _done: int, _total: int) -> None: ...


async def fetch(path: Path, limits: Limits | None = None) -> Tree:
    return await DirectorySource(path, limits).fetch(path / "unused", ignore)


def write(root: Path, path: str, content: str = "schema: x\n") -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


async def test_files_come_sorted_bytewise_and_relative(tmp_path: Path) -> None:
    for path in ("b/z.yaml", "b.yaml", "B.yaml", "b/a/é.yaml", "a.json", ".indexignore"):
        write(tmp_path, path)
    tree = await fetch(tmp_path)
    assert tree.files == (".indexignore", "B.yaml", "a.json", "b.yaml", "b/a/é.yaml", "b/z.yaml")
    assert tree.refused == ()
    assert tree.root == tmp_path


async def test_an_empty_directory_is_an_empty_tree(tmp_path: Path) -> None:
    assert (await fetch(tmp_path)).files == ()


async def test_the_digest_is_of_paths_and_content_only(tmp_path: Path) -> None:
    write(tmp_path, "one/a.yaml", "1")
    write(tmp_path, "two/a.yaml", "1")
    os.utime(tmp_path / "two/a.yaml", ns=(1, 1))
    write(tmp_path, "three/b.yaml", "1")
    write(tmp_path, "four/a.yaml", "2")
    one, two, three, four = [(await fetch(tmp_path / name)).digest for name in ("one", "two", "three", "four")]
    assert one == two
    assert len({one, three, four}) == 3


async def test_probe_and_fetch_agree_and_follow_a_change(tmp_path: Path) -> None:
    source = DirectorySource(tmp_path)
    file = write(tmp_path, "a.yaml", "1")
    before = await source.probe()
    assert (await source.fetch(tmp_path, ignore)).digest == before
    file.write_text("2")
    assert await source.probe() != before
    file.write_text("1")
    assert await source.probe() == before


async def test_an_unmoved_old_file_is_not_opened_again(tmp_path: Path) -> None:
    source = DirectorySource(tmp_path)
    write(tmp_path, "a.yaml", "1")
    # The stamp must be older than a clock tick before the first reading, or it is not believed.
    clock = time.time_ns() + 10_000_000_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: clock)
        before = await source.probe()
    opened: list[str] = []
    real_open = os.open

    def spy(path: str, flags: int, mode: int = 0o777) -> int:
        opened.append(path)
        return real_open(path, flags, mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", spy)
        assert await source.probe() == before
        write(tmp_path, "b.yaml", "1")
        assert await source.probe() != before
    assert opened == [str(tmp_path / "b.yaml")]


async def test_links_inside_are_followed_and_others_refused_by_name(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root, "real/a.yaml")
    write(tmp_path, "secret.yaml")
    (root / "alias.yaml").symlink_to("real/a.yaml")
    (root / "out.yaml").symlink_to("../secret.yaml")
    (root / "etc.yaml").symlink_to("/etc/passwd")
    (root / "loop.yaml").symlink_to("loop.yaml")
    (root / "nowhere.yaml").symlink_to("absent")
    (root / "up").symlink_to("..")
    (root / "self").symlink_to(".")
    (root / "dir").symlink_to("real")
    tree = await fetch(root)
    assert tree.files == ("alias.yaml", "real/a.yaml")
    assert dict(tree.refused) == {
        "dir": "link to a directory; its files are read at real",
        "etc.yaml": "link leads out of the source's root",
        "loop.yaml": "link loops",
        "nowhere.yaml": "link leads nowhere",
        "out.yaml": "link leads out of the source's root",
        "self": "link to a directory; its files are read at .",
        "up": "link leads out of the source's root",
    }


def config_map(root: Path, stamp: str) -> None:
    """The layout that kubelet's atomic writer makes."""
    write(root, f"..{stamp}/catalog.yaml", stamp)
    write(root, f"..{stamp}/sub/more.yaml", stamp)
    link = root / "..data_tmp"
    link.symlink_to(f"..{stamp}")
    link.rename(root / "..data")
    for name in ("catalog.yaml", "sub"):
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"..data/{name}")


async def test_a_config_map_volume_is_read_once(tmp_path: Path) -> None:
    config_map(tmp_path / "mount", "2026_11_20")
    write(tmp_path, "plain.yaml")
    source = DirectorySource(tmp_path)
    tree = await source.fetch(tmp_path, ignore)
    assert tree.files == ("mount/catalog.yaml", "mount/sub/more.yaml", "plain.yaml")
    assert tree.refused == ()
    config_map(tmp_path / "mount", "2026_11_21")
    assert await source.probe() != tree.digest


async def test_a_linked_root_is_followed(tmp_path: Path) -> None:
    write(tmp_path, "real/a.yaml")
    (tmp_path / "root").symlink_to("real")
    tree = await fetch(tmp_path / "root")
    assert tree.files == ("a.yaml",)
    assert tree.root == tmp_path / "real"


async def test_what_is_no_file_is_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / os.fsdecode(b"\xff.yaml")).write_text("x")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        tree = await fetch(tmp_path)
    assert tree.files == ()
    assert dict(tree.refused) == {"pipe": "is a pipe", "s": "is a socket", "\\xff.yaml": "name is not UTF-8"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
async def test_an_unreadable_file_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml").chmod(0)
    assert dict((await fetch(tmp_path)).refused) == {"a.yaml": "cannot be read: permission denied"}


async def test_a_working_copys_repository_is_skipped(tmp_path: Path) -> None:
    write(tmp_path, ".git/config")
    write(tmp_path, "a.yaml")
    write(tmp_path, "sub/.git", "gitdir: elsewhere")
    tree = await fetch(tmp_path)
    assert tree.files == ("a.yaml",)
    assert tree.refused == ()


@pytest.mark.parametrize(
    ("limits", "cap"),
    [
        (Limits(files=3), "files"),
        (Limits(file_bytes=5), "file_bytes"),
        (Limits(total_bytes=10), "total_bytes"),
        (Limits(depth=2), "depth"),
    ],
)
async def test_a_cap_is_named(tmp_path: Path, limits: Limits, cap: str) -> None:
    write(tmp_path, "a/b/c.yaml", "123456")
    write(tmp_path, "d.yaml", "123456")
    with pytest.raises(SourceTooLargeError, match=f"cap `{cap}`"):
        await fetch(tmp_path, limits)


async def test_a_missing_directory_and_a_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="does not exist"):
        await fetch(tmp_path / "absent")
    with pytest.raises(SourceInvalidError, match="not a directory"):
        await fetch(write(tmp_path, "a.yaml"))


async def test_a_directory_that_never_holds_still_is_an_error_not_a_mixture(tmp_path: Path) -> None:
    file = write(tmp_path, "a.yaml", "0")
    writes = 0

    def rewrite(_what: str, _done: int, _total: int) -> None:
        nonlocal writes
        writes += 1
        file.write_text("x" * writes)

    source = DirectorySource(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        real_fstat = os.fstat

        def moving(descriptor: int) -> os.stat_result:
            rewrite("", 0, 0)
            return real_fstat(descriptor)

        patch.setattr(os, "fstat", moving)
        with pytest.raises(SourceError, match="keeps changing"):
            await source.probe()
    assert (await source.probe()).startswith("sha256:")
