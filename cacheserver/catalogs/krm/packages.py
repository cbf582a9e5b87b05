"""What the source of a git repository hands over to a parse of its KRM packages. Git itself is read there alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from cacheserver.catalogs.catalog import Finding, Problem
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.model import RepositoryKey
from cacheserver.slotted import slotted

if TYPE_CHECKING:  # whoever reads a file-based catalog asks whether it is one of these, and needs no more
    from cacheserver.catalogs.krm.discover import Files, Place
    from cacheserver.catalogs.krm.facts import Revision
    from cacheserver.catalogs.krm.index import Known

IGNORED_TAG: Final = "IgnoredTag"
"""Reason of the findings about tags that name no package; each has the tag for its path."""


@slotted(frozen=True)
class Candidate:
    """A revision whose tree is known by key. files: None where its facts are known."""

    place: Place
    revision: Revision
    files: Files | None = None


@slotted()
class Discovery:
    """What there is in a repository's branches and tags, before any file is read.

    refused: places of revisions that cannot be served, each with the reason. findings: warnings.
    head, changes, without_package: as index.Known's. nothing: as Catalog's.
    """

    candidates: list[Candidate] = field(default_factory=list)
    refused: list[tuple[Place, Problem]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    ignored_tags: int = 0
    head: str = ""
    changes: Mapping[str, str] = field(default_factory=dict)
    without_package: set[str] = field(default_factory=set)
    nothing: str = ""


@slotted(frozen=True)
class Staged:
    """Files of some trees on disk: each below `root` under its object name. refusals: one for each tree, None: good."""

    root: Path
    refusals: Sequence[Problem | None]


@runtime_checkable
class Packages(Protocol):
    """A git repository of KRM packages, as of one moment."""

    async def holds_packages(self) -> bool:
        """Whether there is any. Raises: SourceError."""
        ...

    async def discover(self, key: RepositoryKey, known: Known, limits: ParseLimits) -> Discovery:
        """Where packages are. known: what need not be looked at again. Raises: SourceError."""
        ...

    def staged(self, trees: Sequence[Files], scratch: Path, limits: ParseLimits) -> AbstractAsyncContextManager[Staged]:
        """The files of `trees`, in a directory of their own below `scratch` that is gone afterwards.

        Raises: SourceError."""
        ...
