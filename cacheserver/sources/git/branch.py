"""The branch that packages come from, listed once: for the question which format it has, and for whoever reads it then.

One of each PackagesTree (packages.py). Where the branch holds packages their names are kept, else its files' until they
are checked out or not wanted: a sync that waits for its turn holds one of the two, never both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

from cacheserver.catalogs.krm import discover
from cacheserver.catalogs.krm.discover import HEADS, Files
from cacheserver.errors import SourceInvalidError
from cacheserver.sources.git.objects import TreeListing
from cacheserver.sources.git.source import GitMirror
from cacheserver.sources.tree import Progress, Tree


class Branch:
    """See the module. directory: where packages begin, without slashes around it; empty for the root."""

    def __init__(self, mirror: GitMirror, directory: str) -> None:
        ref = mirror.refs.get(f"{HEADS}{mirror.branch}")
        self.name = mirror.branch
        self.commit = ref.commit if ref is not None else ""
        """Empty where the repository has no such branch, as one without any commit."""
        self.odd: Sequence[tuple[str, str]] = ()
        """(path, why) of Kptfiles that make no package; known from packages() on."""
        self.trees: set[str] = set()
        """git's names of all trees at or below `directory`, if none of them holds a package; known from then on."""
        self._mirror = mirror
        self._directory = directory
        self._packages: Sequence[Files] | None = None
        self._listing: TreeListing | None = None

    async def packages(self) -> Sequence[Files]:
        """Every package on the branch, by path. Raises: SourceNotFoundError (no such directory), SourceError."""
        if self._packages is None and self.commit:
            listing = await self._mirror.ls_tree(self.commit, self._directory, trees=self.trees)
            self._packages, self.odd = await asyncio.to_thread(discover.on_branch, listing, self._directory)
            self._listing = listing
            if self._packages:
                self.forget_files()
        return self._packages or ()

    async def check_out(self, scratch: Path, progress: Progress) -> Tree:
        """The files of a branch without packages, in `scratch`/tree. Raises: as packages()."""
        await self.packages()
        if not self.commit:
            raise SourceInvalidError(f"branch {self.name!r} leads to no commit")
        assert self._listing is not None, "asked once, of a branch that holds no package"
        return await self._mirror.check_out(self._listing, scratch, progress)

    def paths(self) -> Iterator[str]:
        """Of its files, where it holds no package, until forget_files()."""
        return (entry.path for entry in (self._listing.entries if self._listing is not None else ()))

    def forget_files(self) -> None:
        """Nobody will check them out."""
        self._listing = None
        self.trees.clear()
