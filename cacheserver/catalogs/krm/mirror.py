"""What reading KRM packages asks of a git repository: the shapes that sources.GitMirror has. Only protocols."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol, runtime_checkable

HEADS = "refs/heads/"
TAGS = "refs/tags/"


class Ref(Protocol):
    """A branch or tag. commit: tags peeled."""

    @property
    def commit(self) -> str: ...


class Entry(Protocol):
    """A file, link or submodule (by mode) below a directory; path relative to it with `/`."""

    @property
    def path(self) -> str: ...

    @property
    def mode(self) -> int: ...

    @property
    def oid(self) -> str: ...


class Listing(Protocol):
    """Everything below a directory, sorted by path; refused: (path, reason) of names that no tree should hold."""

    @property
    def entries(self) -> Sequence[Entry]: ...

    @property
    def refused(self) -> Sequence[tuple[str, str]]: ...


class Object(Protocol):
    """content: None where `size` exceeds what was asked for. kind: commit, tree, blob or tag."""

    @property
    def oid(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def content(self) -> bytes | None: ...


class Mirror(Protocol):
    """A repository's branches and tags as of one moment. branch: the one that packages without a tag come from."""

    @property
    def branch(self) -> str: ...

    @property
    def refs(self) -> Mapping[str, Ref]:
        """By full name."""
        ...

    async def ls_tree(self, commit: str, directory: str = "") -> Listing:
        """Raises: SourceNotFoundError (no such directory), SourceTooLargeError, SourceInvalidError."""
        ...

    async def holds(self, commit: str, directory: str, name: str, without_package: set[str]) -> bool:
        """Whether a regular file `name` lies at or below a directory. without_package: trees known to hold none, added
        to.

        Raises: as `ls_tree`."""
        ...

    def cat_file(self, oids: Sequence[str], *, most_bytes: int | None = None) -> AsyncGenerator[Object, None]:
        """Objects in the order asked, one in memory at a time."""
        ...

    async def aclose(self) -> None: ...


@runtime_checkable
class Refs(Protocol):
    """A tree of a source that stands for a whole git repository: read through its mirror, not from its files.

    url: of the remote, for locks. directory: where packages begin, relative with `/`, empty for the root.
    """

    @property
    def mirror(self) -> Mirror: ...

    @property
    def url(self) -> str: ...

    @property
    def directory(self) -> str: ...
