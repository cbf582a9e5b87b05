"""What every source promises who reads it, kept by a directory and by git. The fake: tests/unit/test_fakes.py."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from cacheserver.config.sources import GitRef, GitSource, RefKind
from cacheserver.sources import DirectorySource, Source, open_source
from tests.support.contracts import SourceContract
from tests.support.gitserver import GitRepository


class DirectorySide:
    def __init__(self, root: Path) -> None:
        self._root = root
        self.source = DirectorySource(root)

    async def write(self, files: Mapping[str, bytes]) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        for path, content in files.items():
            (self._root / path).parent.mkdir(parents=True, exist_ok=True)
            (self._root / path).write_bytes(content)

    async def break_off(self) -> None:
        self._root.rename(self._root.with_suffix(".away"))

    async def mend(self) -> None:
        self._root.with_suffix(".away").rename(self._root)


class GitSide:
    def __init__(self, home: Path) -> None:
        self._repository = GitRepository(home / "repo.git")
        spec = GitSource(self._repository.url, GitRef(RefKind.BRANCH, "main"))
        self.source: Source = open_source(spec, cache=home / "cache")

    async def write(self, files: Mapping[str, bytes]) -> None:
        self._repository.commit(files)

    async def break_off(self) -> None:
        self._repository.path.rename(self._repository.path.with_suffix(".away"))

    async def mend(self) -> None:
        self._repository.path.with_suffix(".away").rename(self._repository.path)


class TestDirectory(SourceContract):
    @pytest.fixture
    async def side(self, tmp_path: Path) -> DirectorySide:
        return DirectorySide(tmp_path / "root")


@pytest.mark.processes
class TestGit(SourceContract):
    @pytest.fixture
    async def side(self, tmp_path: Path) -> AsyncIterator[GitSide]:
        (tmp_path / "git" / "cache").mkdir(parents=True)
        side = GitSide(tmp_path / "git")
        yield side
        await side.source.aclose()
