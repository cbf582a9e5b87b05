"""What every source hands over: a confined tree of files, the caps it kept to, and the contract of a source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from cacheserver.errors import SourceTooLargeError
from cacheserver.model import Format
from cacheserver.slotted import slotted

_SHOWN: Final = 200
"""Characters of a path in a refusal: the message is in a status."""


@slotted(frozen=True)
class Limits:
    """Caps on what one fetch may bring; each refusal is a SourceTooLargeError that names the cap."""

    total_bytes: int = 4 << 30
    file_bytes: int = 256 << 20
    files: int = 200_000
    """Entries of any kind, directories and links included."""
    depth: int = 64
    name_bytes: int = 255
    """Of one part of a path: what file systems take (NAME_MAX)."""
    path_bytes: int = 4096
    """Of one path, and of what a link names: PATH_MAX."""
    names_bytes: int = 32 << 20
    """Of all paths: they are held in memory, and trees that are shared repeat them for nothing. Real sources of
    60,000 files have 5 MB."""
    refs: int = 50_000
    """Branches and tags of a git repository. 500 packages of 100 revisions."""
    git_memory_bytes: int = 256 << 20
    """Address space of each process of git. A delta of a few bytes asks for any amount; the largest files that hosts of
    repositories take, 100 MB, need two and a half times their size."""
    git_cpu_s: int = 300
    """CPU time of each process of git. Indexing a million objects takes a minute."""

    def error(self, cap: str, where: str) -> SourceTooLargeError:
        """The refusal when `cap`, a field's name, is exceeded at `where`, of which it shows 200 characters."""
        most, unit, setting = {
            "total_bytes": (self.total_bytes, "bytes in all", "; --max-source-bytes raises it"),
            "file_bytes": (self.file_bytes, "bytes in one file", "; --max-file-bytes raises it"),
            "files": (self.files, "entries", "; --max-files raises it"),
            "depth": (self.depth, "directories deep", ""),
            "name_bytes": (self.name_bytes, "bytes in one name", ""),
            "path_bytes": (self.path_bytes, "bytes in one path", ""),
            "refs": (self.refs, "branches and tags", "; --max-refs raises it"),
            "git_memory_bytes": (
                self.git_memory_bytes,
                "bytes of memory for one process of git",
                "; --git-memory raises it",
            ),
            "git_cpu_s": (self.git_cpu_s, "seconds of CPU for one process of git", "; --git-cpu-time raises it"),
            "names_bytes": (self.names_bytes, "bytes in all paths together", "; --max-names-bytes raises it"),
        }[cap]
        shown = where if len(where) <= _SHOWN else f"{where[:_SHOWN]}..."
        return SourceTooLargeError(f"{shown}: more than {most} {unit} (cap `{cap}`{setting})")


@slotted()
class Tally:
    """What the names of a source come to: counted before a path is made of them.

    times: of so many sources at once, for `entries`; the trees of a git repository's refs share one tally.
    """

    limits: Limits
    times: int = 1
    entries: int = 0
    names_bytes: int = 0

    def add(self, name_bytes: int, path_bytes: int, depth: int, where: str, *, entries: int = 1) -> None:
        """One more entry. path_bytes: of the whole path; depth: its parts; where: what a message shows.

        entries: with the directories that it brings along. Raises: SourceTooLargeError.
        """
        limits = self.limits
        self.entries += entries
        self.names_bytes += path_bytes
        if depth > limits.depth:
            raise limits.error("depth", where)
        if name_bytes > limits.name_bytes:
            raise limits.error("name_bytes", where)
        if path_bytes > limits.path_bytes:
            raise limits.error("path_bytes", where)
        self.check(where)

    def check(self, where: str) -> None:
        """Raises: SourceTooLargeError where there is too much already, which nothing that comes makes less."""
        if self.entries > self.limits.files * self.times:
            raise self.limits.error("files", where)
        if self.names_bytes > self.limits.names_bytes:
            raise self.limits.error("names_bytes", where)


@slotted(frozen=True)
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
    format: Format | None = None
    """What it has to be read as, where that was decided to fetch it; None where it was not."""

    async def aclose(self) -> None:
        """Lets go of what it is read from, if anything; whoever fetched it calls this, also where nothing was read."""


Progress = Callable[[str, int, int], None]
"""Called with (what, done, total); total 0 while unknown. Cheap, may be called often. What it raises ends the fetch."""
FETCHING: Final = "fetch"
"""What: bytes that a fetch has brought into git's copy."""


class Source(Protocol):
    """One place that a repository's content comes from."""

    async def probe(self) -> str:
        """The digest of what is there now, as cheaply as the source allows. Raises: SourceError."""
        ...

    async def fetch(self, scratch: Path, progress: Progress) -> Tree:
        """The content, complete, as of one digest; the caller closes it.

        scratch: empty, private, and removed by the caller afterwards.

        Raises: SourceError; the previous content stays whatever it was.
        """
        ...

    async def aclose(self) -> None:
        """Lets go of what is kept open between fetches; the source is not used again."""
        ...
