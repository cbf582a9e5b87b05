"""Where catalogs come from: a directory, an OCI image, a git repository. Bytes and a digest; no idea what they mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps on what one fetch may bring; each refusal is a SourceTooLargeError that names the cap."""

    total_bytes: int = 4 << 30
    file_bytes: int = 256 << 20
    files: int = 200_000
    depth: int = 64


@dataclass(frozen=True, slots=True)
class Tree:
    """What a fetch brought: a directory of regular files, already confined and capped.

    root: files below it are read by catalogs; symbolic links that leave it have been refused by name in `refused`.
    files: paths relative to root with `/`, sorted bytewise.
    digest: of the content; equal digests mean equal bytes.
    """

    root: Path
    files: tuple[str, ...]
    digest: str
    refused: tuple[tuple[str, str], ...] = ()
    """(path, reason) of entries left out: a link out of the root, a socket, an unreadable file."""


Progress = Callable[[str, int, int], None]
"""Called with (what, done, total); total 0 while unknown. Cheap, may be called often."""


class Source(Protocol):
    """One place that a repository's content comes from."""

    async def probe(self) -> str:
        """The digest of what is there now, as cheaply as the source allows. Raises: SourceError."""
        ...

    async def fetch(self, scratch: Path, progress: Progress) -> Tree:
        """The content, complete, as of one digest. `scratch` is empty, private, and removed by the caller afterwards.

        Raises: SourceError; the previous content stays whatever it was.
        """
        ...

    async def aclose(self) -> None: ...
