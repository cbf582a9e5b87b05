"""What every source hands over: a confined tree of files, the caps it kept to, and the contract of a source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cacheserver.errors import SourceTooLargeError


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps on what one fetch may bring; each refusal is a SourceTooLargeError that names the cap."""

    total_bytes: int = 4 << 30
    file_bytes: int = 256 << 20
    files: int = 200_000
    """Entries of any kind, directories and links included."""
    depth: int = 64

    def error(self, cap: str, where: str) -> SourceTooLargeError:
        """The refusal when `cap`, a field's name, is exceeded at `where`."""
        most, unit, setting = {
            "total_bytes": (self.total_bytes, "bytes in all", "; --max-source-bytes raises it"),
            "file_bytes": (self.file_bytes, "bytes in one file", "; --max-file-bytes raises it"),
            "files": (self.files, "entries", "; --max-files raises it"),
            "depth": (self.depth, "directories deep", ""),
        }[cap]
        return SourceTooLargeError(f"{where}: more than {most} {unit} (cap `{cap}`{setting})")


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
