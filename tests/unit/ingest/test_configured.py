"""What a configuration had and has no more: told once it is known, kept until it is settled, and never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cacheserver.ingest.configured import Configured
from cacheserver.model import RepositoryKey

A, B, C = (RepositoryKey("ns", name) for name in "abc")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "catalogs.json"


async def test_what_was_taken_out_is_told_until_it_is_settled(path: Path) -> None:
    assert await Configured(path, "e").begin([A, B]) == []
    assert await Configured(path, "e").begin([A]) == [B]
    again = Configured(path, "e")
    assert await again.begin([A]) == [B], "the process died before it was forgotten"
    await again.settled(B)
    assert await Configured(path, "e").begin([A]) == []


async def test_what_came_back_is_not_told(path: Path) -> None:
    await Configured(path, "e").begin([A, B])
    await Configured(path, "e").begin([A])
    assert await Configured(path, "e").begin([A, B]) == []


async def test_each_etcd_has_its_own_roll(path: Path) -> None:
    await Configured(path, "one").begin([A])
    assert await Configured(path, "two").begin([B]) == []
    assert await Configured(path, "one").begin([C]) == [A]


async def test_a_server_without_catalogs_forgets_nothing(path: Path) -> None:
    await Configured(path, "e").begin([A])
    assert await Configured(path, "e").begin([]) == []
    assert await Configured(path, "e").begin([B]) == [A]


async def test_an_unreadable_roll_forgets_nothing(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"{")
    assert await Configured(path, "e").begin([A]) == []
    assert await Configured(path, "e").begin([B]) == [A]


async def test_a_data_directory_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert await Configured(tmp_path / "file" / "catalogs.json", "e").begin([A]) == []
