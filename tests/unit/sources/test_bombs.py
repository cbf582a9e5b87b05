"""Sources made to exhaust whoever reads them, each in a process under a limit: refused by a named cap, little used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cacheserver.model import Format
from cacheserver.sources import Limits
from tests.support import bombs
from tests.support.fetching import outcome
from tests.support.gitserver import GitDaemon
from tests.support.registry import Image, write_layout
from tests.support.waiting import eventually

pytestmark = pytest.mark.processes

_MOST_BYTES = 300 * bombs.MIB
"""Of the whole process, of which 60 MB are the program."""


def _git(bare: bombs.Bare) -> str:
    return f"git+file://{bare.path}"


@pytest.mark.parametrize(
    ("kind", "build", "cap"),
    [
        (Format.FBC, bombs.deep_names, "cap `path_bytes`"),
        (Format.KRM, bombs.deep_names, "cap `path_bytes`"),
        (Format.FBC, lambda path: bombs.deep_names(path, levels=20, name_bytes=150), "cap `names_bytes`"),
        (Format.FBC, bombs.shared_trees, "cap `files`; --max-files raises it"),
        (Format.KRM, bombs.shared_trees, "cap `files`; --max-files raises it"),
        (Format.FBC, bombs.wide_tree, "cap `files`"),
        (Format.KRM, bombs.wide_tree, "cap `files`"),
        (Format.KRM, bombs.many_refs, "cap `refs`; --max-refs raises it"),
        (Format.KRM, lambda path: bombs.many_refs(path, count=3, name_bytes=60_000), "bytes in one path"),
        (Format.KRM, lambda path: bombs.many_refs(path, count=3, name_bytes=300), "bytes in one name"),
    ],
)
def test_a_git_repository_that_multiplies_names_is_refused_by_its_cap(
    tmp_path: Path, kind: Format, build: Callable[[Path], bombs.Bare], cap: str
) -> None:
    told = outcome(_git(build(tmp_path / "remote")), kind, tmp_path / "scratch")
    assert told.refusal.startswith("SourceTooLargeError: "), told
    assert cap in told.refusal
    assert told.peak_bytes < _MOST_BYTES
    assert len(told.refusal) < 600


def test_many_tags_over_large_trees_are_refused_one_by_one_and_the_first_are_read(tmp_path: Path) -> None:
    remote = bombs.tagged_trees(tmp_path / "remote", tags=100)
    told = outcome(_git(remote), Format.KRM, tmp_path / "scratch", limits=Limits(names_bytes=4 * bombs.MIB))
    assert told.refusal == ""
    assert any("cap `names_bytes`" in message for message in told.refused), told
    assert told.peak_bytes < _MOST_BYTES


def test_of_a_thousand_tags_over_one_large_directory_few_are_listed(tmp_path: Path) -> None:
    """Each lists the same 9,000 names: without a bound on all of them 9 million paths of 105 bytes."""
    remote = bombs.tagged_trees(tmp_path / "remote")
    told = outcome(_git(remote), Format.KRM, tmp_path / "scratch")
    assert told.refusal == ""
    assert any("cap `names_bytes`; --max-names-bytes raises it" in message for message in told.refused), told
    assert told.peak_bytes < 200 * bombs.MIB


def test_a_history_of_merges_of_thousands_is_walked_in_bounded_memory(tmp_path: Path) -> None:
    told = outcome(_git(bombs.octopus(tmp_path / "remote")), Format.KRM, tmp_path / "scratch")
    assert told.refusal == ""
    assert told.packages == 1
    assert told.peak_bytes < _MOST_BYTES


@pytest.mark.parametrize(
    ("image", "cap"),
    [
        (bombs.long_names, "cap `path_bytes`"),
        (lambda: bombs.long_names(entries=20_000, name_bytes=4000), "cap `names_bytes`; --max-names-bytes raises it"),
        (bombs.long_links, "cap `path_bytes`"),
        (lambda: bombs.long_links(entries=20_000, target_bytes=4000), "cap `names_bytes`; --max-names-bytes raises it"),
        (bombs.dense_config, "values"),
        (bombs.many_pax_records, "records"),
        (lambda: bombs.zeros(unpacked_bytes=300 * bombs.MIB), "cap `file_bytes`"),
    ],
)
def test_an_image_that_multiplies_names_is_refused_by_its_cap(
    tmp_path: Path, image: Callable[[], Image], cap: str
) -> None:
    write_layout(tmp_path / "layout", {"": image()})
    told = outcome(f"oci-layout:{tmp_path / 'layout'}", Format.FBC, tmp_path / "scratch")
    assert cap in told.refusal, told
    assert told.peak_bytes < _MOST_BYTES
    assert len(told.refusal) < 600


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[GitDaemon]:
    """A server of its own, so that only what we do with a pack is under our limits."""
    with GitDaemon(tmp_path) as running:
        asyncio.run(eventually(running.listening))
        yield running


def test_a_delta_that_needs_more_memory_than_git_gets_is_refused(tmp_path: Path, daemon: GitDaemon) -> None:
    # git-config, core.bigFileThreshold: a file of 512 MiB would reach us whole, and is then written as it comes.
    bombs.delta_bomb(tmp_path / "remote", unpacked_bytes=480 * bombs.MIB)
    told = outcome(daemon.url("remote"), Format.FBC, tmp_path / "scratch", address_space=8192 * bombs.MIB)
    assert "cap `git_memory_bytes`; --git-memory raises it" in told.refusal, told
    assert told.peak_bytes < _MOST_BYTES
    assert told.git_peak_bytes < _MOST_BYTES


def test_what_git_writes_and_how_long_it_works_are_capped(tmp_path: Path, daemon: GitDaemon) -> None:
    bombs.wide_tree(tmp_path / "wide")
    bombs.delta_bomb(tmp_path / "delta")
    written = outcome(daemon.url("wide"), Format.FBC, tmp_path / "written", limits=Limits(total_bytes=4096))
    assert "cap `total_bytes`; --max-source-bytes raises it" in written.refusal, written
    slow = Limits(git_cpu_s=1, git_memory_bytes=4096 * bombs.MIB)
    worked = outcome(daemon.url("delta"), Format.FBC, tmp_path / "worked", limits=slow, address_space=8192 * bombs.MIB)
    assert "cap `git_cpu_s`; --git-cpu-time raises it" in worked.refusal, worked


def test_a_file_of_zeros_is_refused_by_its_cap_and_not_unpacked(tmp_path: Path, daemon: GitDaemon) -> None:
    bombs.zlib_bomb(tmp_path / "remote", unpacked_bytes=520 * bombs.MIB)
    told = outcome(daemon.url("remote"), Format.FBC, tmp_path / "scratch")
    assert "cap `file_bytes`" in told.refusal, told
    assert told.peak_bytes < _MOST_BYTES
    assert told.git_peak_bytes < _MOST_BYTES
