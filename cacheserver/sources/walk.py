"""Lists the regular files below a local directory, confined and capped. Opens no file; blocks: call it in a thread.

Symbolic links: to a file inside, followed; out of the directory, dangling or in a loop, refused by name; to a directory
inside, refused by name (its files are read where they are), except where a Kubernetes volume hides the real directory.
A `.git` entry is skipped: a working copy's repository is never catalog content.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import field

from cacheserver.errors import SourceError, SourceInvalidError, SourceNotFoundError
from cacheserver.slotted import slotted
from cacheserver.sources.tree import Limits, Tally

# Kubernetes, pkg/volume/util/atomic_writer.go: a ConfigMap or Secret volume holds `..<timestamp>/` with the files,
# `..data` linked to it, and one link a file (or top directory) through `..data`. Names of users never begin with `..`.
_VOLUME_LINK = "..data"
_VOLUME_RESERVED = ".."

_KINDS = {stat.S_IFSOCK: "a socket", stat.S_IFIFO: "a pipe", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}


@slotted(frozen=True)
class Stamp:
    """What the file system says of one file. Equal stamps: unchanged, but for writes within one clock tick."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, found: os.stat_result) -> Stamp:
        """The stamp of a file by what stat says."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)


@slotted(frozen=True)
class Entry:
    """One regular file: `path` relative to the root with `/`; `real` absolute, with every link resolved."""

    path: str
    real: str
    stamp: Stamp


@slotted(frozen=True)
class Listing:
    """Entries sorted by path, bytewise; refused (path, reason) likewise."""

    root: str
    entries: tuple[Entry, ...]
    refused: tuple[tuple[str, str], ...]


def walk(root: str | os.PathLike[str], limits: Limits) -> Listing:
    """Every regular file below `root`, which may itself be a link; `Listing.root` is where it leads.

    Raises: SourceNotFoundError, SourceInvalidError (not a directory), SourceTooLargeError, SourceError (unreadable).
    """
    try:
        real_root = os.path.realpath(root, strict=True)
        if not stat.S_ISDIR(os.stat(real_root).st_mode):  # noqa: PTH116
            raise SourceInvalidError(f"{os.fspath(root)} is not a directory; name the directory that holds the catalog")
    except FileNotFoundError as exc:
        raise SourceNotFoundError(f"{os.fspath(root)} does not exist; check the path") from exc
    except OSError as exc:
        raise SourceError(f"{os.fspath(root)} cannot be read: {exc.strerror}") from exc
    return _Walk(real_root, limits).run()


@slotted()
class _Walk:
    root: str
    limits: Limits
    entries: list[Entry] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    total_bytes: int = 0
    tally: Tally = field(init=False)
    pending: list[tuple[str, str]] = field(default_factory=list)
    """(path relative to the root, real directory) still to be listed."""
    visited: set[str] = field(default_factory=set)
    """Real directories listed: each once, so links cannot multiply them."""

    def run(self) -> Listing:
        self.tally = Tally(self.limits)
        self.pending.append(("", self.root))
        self.visited.add(self.root)
        while self.pending:
            path, real = self.pending.pop()
            self._directory(path, real)
        self.entries.sort(key=lambda entry: entry.path.encode())
        self.refused.sort(key=lambda pair: pair[0].encode())
        return Listing(self.root, tuple(self.entries), tuple(self.refused))

    def _directory(self, path: str, real: str) -> None:
        try:
            with os.scandir(real) as found:
                names = {entry.name: entry for entry in self._counted(found, path)}
        except OSError as exc:
            if not path:
                raise SourceError(f"{self.root} cannot be listed: {exc.strerror}") from exc
            self.refused.append((path, f"directory cannot be read: {exc.strerror}"))
            return
        volume = _VOLUME_LINK in names and names[_VOLUME_LINK].is_symlink()
        for name, entry in names.items():
            if name == ".git" or (volume and name.startswith(_VOLUME_RESERVED)):
                continue
            self._entry(f"{path}/{name}" if path else name, entry)

    def _counted(self, found: Iterable[os.DirEntry[str]], path: str) -> Iterable[os.DirEntry[str]]:
        above, depth = len(os.fsencode(path)) + 1 if path else 0, path.count("/") + 2 if path else 1
        for entry in found:
            name_bytes = len(os.fsencode(entry.name))
            self.tally.add(name_bytes, above + name_bytes, depth, f"{path}/{entry.name}" if path else entry.name)
            yield entry

    def _entry(self, path: str, entry: os.DirEntry[str]) -> None:
        try:
            path.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(path).decode(errors="backslashreplace")
            self.refused.append((shown, "name is not UTF-8"))
            return
        try:
            if entry.is_symlink():
                self._link(path, entry.path)
            elif entry.is_dir():
                self._descend(path, entry.path)
            else:
                self._file(path, entry.path, entry.stat(follow_symlinks=False))
        except FileNotFoundError:
            pass  # Gone since the directory was listed: a walk that began now would not see it either.
        except OSError as exc:
            self.refused.append((path, f"cannot be read: {exc.strerror}"))

    def _descend(self, path: str, real: str) -> None:
        if real in self.visited:
            self.refused.append((path, "directory was read already under another name"))
            return
        self.visited.add(real)
        self.pending.append((path, real))

    def _link(self, path: str, link: str) -> None:
        try:
            real = os.path.realpath(link, strict=True)
        except FileNotFoundError:
            self.refused.append((path, "link leads nowhere"))
            return
        except OSError as exc:
            reason = "link loops" if exc.errno == errno.ELOOP else f"link cannot be followed: {exc.strerror}"
            self.refused.append((path, reason))
            return
        inside = os.path.relpath(real, self.root)
        if inside == ".." or inside.startswith("../"):
            self.refused.append((path, "link leads out of the source's root"))
            return
        found = os.stat(real)  # noqa: PTH116
        if not stat.S_ISDIR(found.st_mode):
            self._file(path, real, found)
        elif any(part.startswith(_VOLUME_RESERVED) for part in inside.split("/")):
            self._descend(path, real)
        else:
            self.refused.append((path, f"link to a directory; its files are read at {inside}"))

    def _file(self, path: str, real: str, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            self.refused.append((path, f"is {_KINDS.get(stat.S_IFMT(found.st_mode), 'no regular file')}"))
            return
        if found.st_size > self.limits.file_bytes:
            raise self.limits.error("file_bytes", f"{path} ({found.st_size} bytes)")
        self.total_bytes += found.st_size
        if self.total_bytes > self.limits.total_bytes:
            raise self.limits.error("total_bytes", f"{self.root} at {path}")
        self.entries.append(Entry(path, real, Stamp.of(found)))
