"""Git repositories as sources: read as one tree (FBC), or as all branches and tags (KRM packages). Decides which.

Called by whoever opens sources for ingest: the server, and the command line's `validate`.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cacheserver.catalogs import format_of
from cacheserver.config import sources as spec
from cacheserver.errors import SourceNotFoundError
from cacheserver.model import Format
from cacheserver.sources import (
    Access,
    Limits,
    Progress,
    Source,
    Tree,
    open_refs,
    open_source,
)

if TYPE_CHECKING:
    from cacheserver.sources.git.source import GitRefsSource

_ONE_TREE: Final = (spec.RefKind.TAG, spec.RefKind.COMMIT)


def open_for(
    source: spec.SourceSpec,
    format: Format | None,  # noqa: A002 - the field's name in the API
    *,
    cache: Path | None = None,
    limits: Limits | None = None,
    access: Access | None = None,
) -> Source:
    """As sources.open_source, but a git repository of KRM packages is read in all its branches and tags.

    format: None decides at each fetch by content: a Kptfile on the branch or at a tag means KRM. A source that names
    a tag or a commit is one tree, whatever its format. Raises: SourceInvalidError, as open_source and open_refs.
    """
    if not isinstance(source, spec.GitSource) or format is Format.FBC or cache is None:
        return open_source(source, cache=cache, limits=limits, access=access)
    one_tree = open_source(source, cache=cache, limits=limits, access=access)
    if source.ref is not None and source.ref.kind in _ONE_TREE:
        return one_tree
    refs = open_refs(source, cache, limits=limits, access=access)
    return _Packages(source, refs, one_tree if format is None else None)


class _Packages:
    """A Source over branches and tags. otherwise: what to read where no package is found; None reads refs always."""

    def __init__(self, source: spec.GitSource, refs: GitRefsSource, otherwise: Source | None) -> None:
        self._source = source
        self.refs = refs
        self._otherwise = otherwise

    async def written(self) -> GitRefsSource:
        """As sources.Written."""
        return self.refs

    async def probe(self) -> str:
        """Of the refs that matter; of one tree where `@NAME` (command line) is a tag. Raises: SourceError."""
        try:
            return await self.refs.probe()
        except SourceNotFoundError:
            if not self._may_be_tag():
                raise
            assert self._otherwise is not None
            return await self._otherwise.probe()

    async def fetch(self, scratch: Path, progress: Progress) -> Tree:
        """A PackagesTree, or an ordinary one under the same digest."""
        from cacheserver.sources.git.branch import Branch  # noqa: PLC0415 - who reads no git does without
        from cacheserver.sources.git.packages import PackagesTree  # noqa: PLC0415 - likewise

        directory = self._source.directory.strip("/")
        try:
            mirror = await self.refs.sync(progress)
        except SourceNotFoundError:
            if not self._may_be_tag():
                raise
            assert self._otherwise is not None
            return await self._otherwise.fetch(scratch, progress)
        tree = PackagesTree(
            root=scratch, files=(), digest=mirror.digest, mirror=mirror, url=self._source.url,
            directory=directory, branch=Branch(mirror, directory),
        )  # fmt: skip
        async with contextlib.AsyncExitStack() as unless_taken:
            unless_taken.push_async_callback(tree.aclose)
            declared = Format.KRM if self._otherwise is None or not mirror.refs else None
            if await format_of(tree, declared) is not Format.KRM:
                return replace(await tree.branch.check_out(scratch, progress), format=Format.FBC)
            unless_taken.pop_all()
            return tree

    async def aclose(self) -> None:
        await self.refs.aclose()
        if self._otherwise is not None:
            await self._otherwise.aclose()

    def _may_be_tag(self) -> bool:
        ref = self._source.ref
        return self._otherwise is not None and ref is not None and ref.kind is spec.RefKind.NAME
