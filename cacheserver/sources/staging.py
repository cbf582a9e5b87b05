"""Files on their way into a Tree: names live in memory, contents lie flat on disk under numbers, until `place`.

So no name, link or hard link from outside ever meets the file system while content comes in: `place` alone makes paths,
below one empty directory, from parts that were checked, and resolves links among the staged names only.
Blocks; called in a thread by the OCI and git sources. Not shared between threads.
"""

from __future__ import annotations

import errno
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import field
from pathlib import Path
from typing import Final

from cacheserver.slotted import slotted
from cacheserver.sources.tree import Limits, Tally, Tree

_LINK_HOPS: Final = 40  # Linux: MAXSYMLINKS.
_LINK_STEPS: Final = 256  # Ours: parts walked for one link, over all hops; real ones take under 20.
_LEADS_OUT: Final = "link leads out of the source's root"
_UNPLACEABLE: Final = {errno.ENAMETOOLONG: "name is too long", errno.EINVAL: "name is not allowed here"}


@slotted(frozen=True)
class File:
    """One content, perhaps under several names. number: of its file in the staging area; a Path each would be 400 B."""

    number: int
    size: int


@slotted(frozen=True)
class Link:
    """A symbolic link that is not followed yet. target: as written."""

    target: str


@slotted(frozen=True)
class Refused:
    """An entry that stays out; it still hides what an earlier layer had under its name."""

    reason: str


@slotted()
class Directory:
    """Names and what they lead to."""

    children: dict[str, Node] = field(default_factory=dict)

    def put(self, parts: Sequence[str], node: Node) -> None:
        """Places `node`; whatever stands in the way of it or of a directory above it is replaced."""
        parent = self.directory(parts[:-1])
        if isinstance(node, Directory) and isinstance(parent.children.get(parts[-1]), Directory):
            return
        parent.children[parts[-1]] = node

    def directory(self, parts: Sequence[str]) -> Directory:
        """The directory at `parts`, made where absent, with those above it."""
        at = self
        for part in parts:
            child = at.children.get(part)
            if not isinstance(child, Directory):
                child = at.children[part] = Directory()
            at = child
        return at

    def missing(self, parts: Sequence[str]) -> int:
        """How many directories `put` at `parts` would make."""
        at = self
        for depth, part in enumerate(parts[:-1], start=1):
            child = at.children.get(part)
            if not isinstance(child, Directory):
                return len(parts) - depth
            at = child
        return 0

    def find(self, parts: Sequence[str]) -> Node | None:
        """What lies at this path below it; None where nothing does, or a part on the way is not a directory."""
        at: Node | None = self
        for part in parts:
            if not isinstance(at, Directory):
                return None
            at = at.children.get(part)
        return at

    def remove(self, parts: Sequence[str]) -> None:
        """Takes away what is there, if anything; no parts: everything."""
        if not parts:
            self.children.clear()
            return
        parent = self.find(parts[:-1])
        if isinstance(parent, Directory):
            parent.children.pop(parts[-1], None)

    def merge(self, upper: Directory) -> None:
        """Lays `upper` over this; its entries win, directories on both sides become one."""
        for name, node in upper.children.items():
            mine = self.children.get(name)
            if isinstance(node, Directory) and isinstance(mine, Directory):
                mine.merge(node)
            else:
                self.children[name] = node


Node = Directory | File | Link | Refused


class Staging:
    """Takes contents within the caps, then places a staged directory's files. `area`: empty, and the caller's."""

    def __init__(self, area: Path, limits: Limits) -> None:
        self._area = area
        self.limits = limits
        self._tally = Tally(limits)
        self._contents = 0
        self._total_bytes = 0

    def count(self, parts: Sequence[str], *, directories: int = 0, target: str = "") -> None:
        """Counts one entry. directories: that are made for it; target: of a link, held as its name is.

        Raises: SourceTooLargeError naming `files`, `depth` or the cap on a name, a path, or all paths.
        """
        sizes = [len(part.encode()) for part in parts]
        path_bytes = sum(sizes) + len(sizes) - 1
        self._tally.add(max(sizes), path_bytes, len(sizes), "/".join(parts[:8]), entries=1 + directories)
        if target:
            length = len(target.encode())
            self._tally.add(0, length, 0, f"{'/'.join(parts[:8])}, a link", entries=0)

    def reserve(self, name: str, size: int) -> File:
        """Where a content of `size` bytes will lie; writing it is the caller's. `name` is for messages.

        Raises: SourceTooLargeError naming `file_bytes` or `total_bytes`.
        """
        if size > self.limits.file_bytes:
            raise self.limits.error("file_bytes", f"{name} ({size} bytes)")
        self._total_bytes += size
        self._check_total(name)
        self._contents += 1
        return File(self._contents, size)

    def path(self, file: File) -> Path:
        """Where the content of `file` lies."""
        return self._area / str(file.number)

    def store(self, name: str, size: int, chunks: Iterable[bytes]) -> File:
        """`size` bytes kept as a content. Raises: as `reserve`, before anything is written."""
        file = self.reserve(name, size)
        with self.path(file).open("xb") as out:
            for chunk in chunks:
                out.write(chunk)
        return file

    def place(self, top: Directory, base: Sequence[str], into: Path, digest: str) -> Tree:
        """Makes the files of `top` below `base` real, in the new directory `into`, which becomes the Tree's root.

        Links to a file below `base` become that file; links out, dangling, in a loop, or to a directory are refused.
        Raises: SourceTooLargeError when several names for one content exceed `total_bytes`.
        """
        into.mkdir()
        files: list[str] = []
        refused: list[tuple[str, str]] = []
        self._total_bytes = 0
        for parts, node in _walk(top, base):
            path = "/".join(parts)
            found = _resolved(top, base, parts, node) if isinstance(node, Link) else node
            if isinstance(found, File):
                self._total_bytes += found.size
                self._check_total(path)
                found = _materialise(found, self.path(found), into.joinpath(*parts))
            if isinstance(found, Refused):
                refused.append((path, found.reason))
            else:
                files.append(path)
        files.sort(key=str.encode)
        refused.sort(key=lambda pair: pair[0].encode())
        return Tree(into, tuple(files), digest, tuple(refused))

    def _check_total(self, name: str) -> None:
        if self._total_bytes > self.limits.total_bytes:
            raise self.limits.error("total_bytes", name)


def _walk(top: Directory, base: Sequence[str]) -> Iterator[tuple[list[str], File | Link | Refused]]:
    start = top.find(base)
    assert isinstance(start, Directory), "the caller has looked"
    pending: list[tuple[list[str], Directory]] = [([], start)]
    while pending:
        parts, directory = pending.pop()
        for name, node in directory.children.items():
            if isinstance(node, Directory):
                pending.append(([*parts, name], node))
            else:
                yield [*parts, name], node


def _materialise(file: File, content: Path, path: Path) -> File | Refused:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.hardlink_to(content)
        except OSError as exc:
            # EMLINK: 65,000 names for one file on ext4. EPERM, ENOTSUP: a file system without hard links.
            if exc.errno not in (errno.EMLINK, errno.EPERM, errno.ENOTSUP):
                raise
            shutil.copyfile(content, path)
    except OSError as exc:
        if exc.errno not in _UNPLACEABLE:
            raise
        return Refused(_UNPLACEABLE[exc.errno])
    return file


def _resolved(top: Directory, base: Sequence[str], parts: Sequence[str], link: Link) -> File | Refused:
    """The file that a link at `base`/`parts` leads to, or why there is none. `top` is `/`, as in the image's root."""
    at = [*base, *parts[:-1]]
    pending: deque[str] = deque()
    target, hops, steps = link.target, 1, 0
    while True:
        steps += target.count("/") + 1
        if hops > _LINK_HOPS or steps > _LINK_STEPS:
            return Refused("link loops")
        pending.extendleft(reversed(target.split("/")))
        if target.startswith("/"):
            at.clear()
        node = _follow(top, at, pending)
        if not isinstance(node, Link):
            break
        target, hops = node.target, hops + 1
    if tuple(at[: len(base)]) != tuple(base):
        return Refused(_LEADS_OUT)
    if isinstance(node, File):
        return node
    if isinstance(node, Directory):
        return Refused(f"link to a directory; its files are read at {'/'.join(at[len(base) :]) or '.'}")
    return Refused("link leads nowhere")


def _follow(top: Directory, at: list[str], pending: deque[str]) -> Node | None:
    """Takes parts off `pending` and walks `at` along, to the end or to the first link; `at` then is beside it."""
    nodes: list[Node] = [top]
    for part in at:
        parent = nodes[-1]
        assert isinstance(parent, Directory), "at is made of directories"
        nodes.append(parent.children[part])
    while pending:
        part = pending.popleft()
        if part in ("", "."):
            continue
        if part == "..":
            if at:
                at.pop()
                nodes.pop()
            continue
        parent = nodes[-1]
        node = parent.children.get(part) if isinstance(parent, Directory) else None
        if isinstance(node, Link):
            return node
        at.append(part)
        if node is None:
            return None
        nodes.append(node)
    return nodes[-1]


def checked_parts(path: str) -> tuple[str, ...] | None:
    """The parts of a path from outside, `.` and empty ones dropped; None if it climbs above its root or holds a NUL."""
    parts: list[str] = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            if not parts:
                return None
            parts.pop()
            continue
        if "\0" in part:
            return None
        parts.append(part)
    return tuple(parts)
