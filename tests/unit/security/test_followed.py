"""A file that says whom to let in: read again as it changes, whole or not at all, and only if it is safe to trust."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from cacheserver import metrics
from cacheserver.errors import ConfigError
from cacheserver.security.followed import FollowedFile

FLAG = "--some-file"


class Taker:
    """What was taken, in order; `parse` refuses whatever holds `bad`."""

    def __init__(self, path: Path, *, secret: bool = False) -> None:
        self.taken: list[str] = []
        self.file = FollowedFile(path, FLAG, self._parse, self._take, most_bytes=100, secret=secret)

    def _parse(self, content: bytes) -> str:
        if b"bad" in content:
            raise ValueError("line 1: no good")
        return content.decode()

    async def _take(self, text: str) -> None:
        self.taken.append(text)

    async def looks(self, count: int) -> None:
        for _ in range(count):
            await self.file.look()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("one")
    path.chmod(0o600)
    return path


def _failures() -> float:
    labels = {"setting": FLAG, "outcome": "failed"}
    return metrics.registry().get_sample_value("cacheserver_access_file_loads_total", labels) or 0.0


async def test_a_changed_file_counts_once_two_looks_saw_the_same(path: Path) -> None:
    taker = Taker(path)
    await taker.file.load()
    await taker.looks(2)
    assert taker.taken == ["one"]
    path.write_text("tw")  # half of it
    await taker.looks(1)
    path.write_text("two")
    await taker.looks(1)
    assert taker.taken == ["one"]
    await taker.looks(2)
    assert taker.taken == ["one", "two"]


async def test_links_that_are_swapped_are_followed(tmp_path: Path, path: Path) -> None:
    """As kubelet changes the files of a Secret."""
    link = tmp_path / "link"
    link.symlink_to(path)
    taker = Taker(link)
    await taker.file.load()
    other = tmp_path / "other"
    other.write_text("two")
    fresh = tmp_path / "fresh"
    fresh.symlink_to(other)
    fresh.rename(link)
    await taker.looks(2)
    assert taker.taken == ["one", "two"]


async def test_a_file_of_no_use_leaves_what_counted_and_is_said_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taker = Taker(path)
    await taker.file.load()
    before = _failures()
    path.write_text("bad and secret")
    await taker.looks(4)
    assert taker.taken == ["one"]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.__dict__["error"] for record in errors] == ["line 1: no good"]
    assert "secret" not in str([record.__dict__ for record in caplog.records])
    assert _failures() == before + 3  # the first look only saw that something changed
    path.write_text("two")
    await taker.looks(2)
    assert taker.taken == ["one", "two"]


async def test_a_file_that_went_or_came_back_as_it_was_changes_nothing(path: Path) -> None:
    taker = Taker(path)
    await taker.file.load()
    path.unlink()
    await taker.looks(3)
    path.write_text("one")
    await taker.looks(3)
    assert set(taker.taken) == {"one"}


def _become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.chmod(0o602), "every user of this machine may write it"),
        (lambda path: path.write_text("x" * 101), "more than"),
        (lambda path: (path.unlink(), path.mkdir()), "regular file|directory"),
        (_become_a_pipe, "not a regular file"),
        (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "not a regular file"),
        (lambda path: (path.unlink(), path.symlink_to(path)), "symbolic links"),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_text("bad"), "line 1: no good"),
    ],
    ids=["others may write", "large", "directory", "pipe", "device", "loop", "missing", "content"],
)
async def test_a_file_that_cannot_be_trusted_is_refused_by_name(path: Path, spoil: object, said: str) -> None:
    assert callable(spoil)
    taker, started = Taker(path), Taker(path)
    await started.file.load()
    spoil(path)
    with pytest.raises(ConfigError, match=f"--some-file {path}.*({said})") as caught:
        await taker.file.load()
    assert caught.value.__cause__ is None
    await started.looks(3)
    assert (taker.taken, started.taken) == ([], ["one"])


async def test_a_secret_that_everybody_may_read_is_warned_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.chmod(0o644)
    await Taker(path, secret=False).file.load()
    assert not caplog.records
    await Taker(path, secret=True).file.load()
    assert ["chmod o-r" in record.getMessage() for record in caplog.records] == [True]
