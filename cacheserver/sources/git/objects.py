"""Reads commits, trees and blobs of a bare repository through one `git cat-file --batch`. Checks nothing out."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import re
import stat
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import field
from pathlib import Path
from typing import IO, Final, TypeVar

from cacheserver import children
from cacheserver.errors import SourceError, SourceInvalidError, SourceNotFoundError
from cacheserver.slotted import slotted
from cacheserver.sources.git.command import Git
from cacheserver.sources.git.complaints import MirrorDamagedError, exceeded
from cacheserver.sources.tree import Limits, Tally

_AHEAD: Final = 200  # Questions written before their answers are read: 200 object names fit any pipe, so none blocks.
_READ_BYTES: Final = 1 << 18
_ANSWER_S: Final = 120.0  # One piece of an answer from a local process; longer means a disk that hangs.
_TREE_BYTES: Final = 32 << 20
_ROWS_ON_LOOP: Final = 2000  # About 2 ms.
_JOINED_ON_LOOP_BYTES: Final = 1 << 20  # About 1 ms; below it a join keeps the interpreter in a thread as well.
_BYTES_A_ROW: Final = 32  # At least: mode, name, NUL and object name.
_SHOWN: Final = 64
_ENDING_S: Final = 5.0  # A git that printed nonsense may live on.
_COMPLAINT_BYTES: Final = 16 << 10
_NAME: Final = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?\Z")

_MODE: Final = re.compile(rb"[0-7]{1,7}\Z")

GITLINK: Final = 0o160000
SYMLINK: Final = 0o120000
TREE: Final = 0o040000


@slotted(frozen=True)
class GitObject:
    """content: None where `size` exceeds what the caller takes. kind: commit, tree, blob or tag."""

    oid: str
    kind: str
    size: int
    content: bytes | None


@slotted(frozen=True)
class TreeEntry:
    """A file, link (mode 0o120000) or submodule (0o160000) below a directory; path relative to it with `/`."""

    path: str
    mode: int
    oid: str


@slotted(frozen=True)
class TreeListing:
    """entries sorted bytewise by path; refused: (path, reason) of names that no tree should hold."""

    entries: tuple[TreeEntry, ...]
    refused: tuple[tuple[str, str], ...]


@slotted(frozen=True)
class _Row:
    """name_bytes: of the name as it is in the tree."""

    name: str
    name_bytes: int
    mode: int
    oid: str
    refusal: str = ""


@slotted(frozen=True)
class _Above:
    """A directory whose tree is still to be read; `path` ends with a slash unless it is the first."""

    path: str
    path_bytes: int
    depth: int
    oid: str


@slotted()
class _Listing:
    """A directory's entries as they are found, level by level; nothing is made of a name before it is counted."""

    tallies: Sequence[Tally]
    entries: list[TreeEntry] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)

    def level(self, levels: Sequence[_Above], known: Mapping[str, Sequence[_Row]]) -> list[_Above]:
        """Takes one level; returns the next. Raises: SourceTooLargeError."""
        below: list[_Above] = []
        for above in levels:
            for row in known[above.oid]:
                path_bytes = above.path_bytes + row.name_bytes
                for tally in self.tallies:
                    tally.add(row.name_bytes, path_bytes, above.depth + 1, above.path or row.name)
                path = above.path + row.name
                if row.refusal:
                    self.refused.append((path, row.refusal))
                elif row.mode == TREE:
                    below.append(_Above(f"{path}/", path_bytes + 1, above.depth + 1, row.oid))
                else:
                    self.entries.append(TreeEntry(path, row.mode, row.oid))
        return below

    def sorted(self) -> TreeListing:
        self.entries.sort(key=lambda entry: entry.path.encode())
        self.refused.sort(key=lambda pair: pair[0].encode())
        return TreeListing(tuple(self.entries), tuple(self.refused))


T = TypeVar("T")
Sink = Callable[[bytes], Awaitable[None]]


class ObjectReader:
    """One process, one question at a time; concurrent callers wait for each other. `aclose` when done."""

    def __init__(self, git: Git, repository: Path) -> None:
        self._git = git
        self._repository = repository
        self._lock = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._process: children.Child | None = None
        self._complaints: IO[bytes] = io.BytesIO()

    async def read(self, oids: Sequence[str], *, most_bytes: int) -> AsyncGenerator[GitObject, None]:
        """The objects in the order asked. Larger ones come without content.

        Raises: MirrorDamagedError for one that is missing or unreadable. Wrap in aclosing if you may leave early.
        """
        for oid in oids:
            if not _NAME.match(oid):
                raise SourceInvalidError(f"{oid[:100]!r} is not an object name")
        async with self._lock:
            whole = False
            try:
                for start in range(0, len(oids), _AHEAD):
                    some = oids[start : start + _AHEAD]
                    await self._ask(some)
                    for oid in some:
                        kind, size = await self._header(oid)
                        if size > most_bytes:
                            # Before its content is read past: who refuses it leaves, and git makes no more of it.
                            yield GitObject(oid, kind, size, None)
                            await self._content(size, None)
                        else:
                            pieces: list[bytes] = []
                            await self._content(size, _appender(pieces))
                            yield GitObject(oid, kind, size, await _joined(pieces, size))
                whole = True
            finally:
                if not whole:
                    await self._end()  # Answers that nobody read are in the pipe.

    async def copy(self, oid: str, sink: Sink) -> None:
        """One object in pieces. Raises: MirrorDamagedError."""
        async with self._lock:
            whole = False
            try:
                await self._ask([oid])
                _, size = await self._header(oid)
                await self._content(size, sink)
                whole = True
            finally:
                if not whole:
                    await self._end()

    async def tree(
        self,
        commit: str,
        directory: str,
        limits: Limits,
        *,
        together: Tally | None = None,
        trees: set[str] | None = None,
    ) -> TreeListing:
        """Everything below a directory of a commit, submodules and links as entries of their own.

        together: counts this listing and others, of other commits. trees: takes the names of all trees that were read.
        Raises: SourceNotFoundError (no such directory), SourceTooLargeError naming its cap, MirrorDamagedError.
        """
        if together:
            together.check(
                directory
            )  # before anything is read: of a thousand tags, all behind the one that was too much
        found = _Listing([Tally(limits), together] if together else [Tally(limits)])
        levels = [_Above("", 0, 0, await self._root(commit, directory, limits))]
        known: dict[str, list[_Row]] = {}
        while levels:
            # The trees of one level together hold no more than is allowed: each will be counted once at least.
            await self._parse_all([one.oid for one in levels if one.oid not in known], known, limits)
            levels = await _aside(
                sum(len(known[one.oid]) for one in levels), functools.partial(found.level, levels, known)
            )
        if trees is not None:
            trees.update(known)
        return await _aside(len(found.entries), found.sorted)

    async def holds(self, commit: str, directory: str, name: str, limits: Limits, without: set[str]) -> bool:
        """Whether a regular file of that name lies at or below a directory of a commit.

        without: trees known to hold none, which this adds to: each is read once, however often it is named, and
        those of other commits count. Raises: as `tree`.
        """
        pending = [await self._root(commit, directory, limits)]
        for _ in range(limits.depth):
            known: dict[str, list[_Row]] = {}
            await self._parse_all([oid for oid in pending if oid not in without], known, limits)
            rows = [row for some in known.values() for row in some]
            if any(row.name == name and stat.S_ISREG(row.mode) for row in rows):
                return True
            without.update(known)
            if len(without) > limits.files:
                raise limits.error("files", f"trees of commit {commit[:12]}")
            pending = [row.oid for row in rows if row.mode == TREE and not row.refusal]
        return False

    async def aclose(self) -> None:
        """Ends the process, once nobody reads."""
        async with self._lock:
            await self._end()

    async def _root(self, commit: str, directory: str, limits: Limits) -> str:
        """The tree's object name: commit, its tree, then one tree for each part of `directory`."""
        found = await self._one(commit)
        first = (found.content or b"").split(b"\n", 1)[0]
        if found.kind != "commit" or not first.startswith(b"tree "):
            raise SourceInvalidError(f"{commit} is not a commit but a {found.kind}")
        oid = first[5:].decode()
        for part in filter(None, directory.split("/")):
            rows = {row.name: row for row in await self._parse(oid, limits)}
            row = rows.get(part)
            if row is None or row.mode != TREE or row.refusal:
                raise SourceNotFoundError(f"commit {commit[:12]} has no directory {directory!r}; check its spelling")
            oid = row.oid
        return oid

    async def _one(self, oid: str) -> GitObject:
        (found,) = [found async for found in self.read([oid], most_bytes=_TREE_BYTES)]
        return found

    async def _parse(self, oid: str, limits: Limits) -> list[_Row]:
        known: dict[str, list[_Row]] = {}
        await self._parse_all([oid], known, limits)
        return known[oid]

    async def _parse_all(self, oids: Sequence[str], known: dict[str, list[_Row]], limits: Limits) -> None:
        """Reads what is asked into `known`. Raises: SourceTooLargeError when all in `known` exceeds `files`."""
        left = limits.files - sum(len(rows) for rows in known.values())
        async with aclosing(self.read(list(dict.fromkeys(oids)), most_bytes=_TREE_BYTES)) as trees:
            async for found in trees:
                if found.content is None or found.kind != "tree":
                    raise SourceInvalidError(f"{found.oid} is not a readable tree ({found.kind}, {found.size} bytes)")
                read = functools.partial(_rows, found.content, len(found.oid) // 2, most=left, limits=limits)
                known[found.oid] = await _aside(found.size // _BYTES_A_ROW, read)
                left -= len(known[found.oid])

    async def _ask(self, oids: Sequence[str]) -> None:
        if self._process is None:
            self._complaints = self._stack.enter_context(await asyncio.to_thread(tempfile.TemporaryFile))
            where = ("--git-dir", str(self._repository))
            running = self._git.process(*where, "cat-file", "--batch", complaints=self._complaints.fileno())
            self._process = await self._stack.enter_async_context(running)
        assert self._process.stdin is not None
        if self._process.stdin.is_closing():  # uvloop: a write would be an error of another kind.
            raise await self._broken("git cat-file has ended")
        try:
            self._process.stdin.write("".join(f"{oid}\n" for oid in oids).encode())
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError) as exc:
            raise await self._broken("git cat-file has ended") from exc

    async def _header(self, oid: str) -> tuple[str, int]:
        stream = self._stdout()
        try:
            parts = (await self._in_time(stream.readline())).split()
        except ValueError:
            parts = []  # asyncio's word for a line longer than the stream's limit
        if len(parts) != 3 or parts[0] != oid.encode() or not parts[2].isdigit():
            raise await self._broken(f"object {oid} cannot be read")
        return parts[1].decode(), int(parts[2])

    async def _content(self, size: int, sink: Sink | None) -> None:
        stream = self._stdout()
        try:
            while size:
                piece = await self._in_time(stream.read(min(size, _READ_BYTES)))
                if not piece:
                    raise await self._broken("git cat-file has ended within an object")
                size -= len(piece)
                if sink is not None:
                    await sink(piece)
            await stream.readexactly(1)
        except asyncio.IncompleteReadError as exc:
            raise await self._broken("git cat-file has ended within an object") from exc

    async def _broken(self, what: str) -> SourceError:
        """Why there is no answer: the copy is damaged, or git met one of its limits."""
        process = self._process
        assert process is not None
        status = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ENDING_S):
                status = await process.wait()
        complaint = await asyncio.to_thread(_written, self._complaints) if status else ""
        if cap := exceeded(complaint, status):
            return self._git.limits.error(cap, f"{self._git.remote.url}: git cat-file")
        return MirrorDamagedError(f"{self._repository}: {what}")

    async def _in_time(self, answer: Awaitable[bytes]) -> bytes:
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await answer
        except TimeoutError as exc:
            raise SourceError(f"{self._repository}: git cat-file gave no answer for {_ANSWER_S:.0f} s") from exc

    def _stdout(self) -> asyncio.StreamReader:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout

    async def _end(self) -> None:
        self._process = None
        await self._stack.aclose()


def _written(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(_COMPLAINT_BYTES).decode(errors="replace")


def _appender(pieces: list[bytes]) -> Sink:
    async def append(piece: bytes) -> None:
        pieces.append(piece)

    return append


async def _joined(pieces: list[bytes], size: int) -> bytes:
    """Of 60 MiB 54 ms of new pages; a thread lets go of the interpreter for that."""
    return await asyncio.to_thread(b"".join, pieces) if size > _JOINED_ON_LOOP_BYTES else b"".join(pieces)


async def _aside(rows: int, call: Callable[[], T]) -> T:
    """What `call` returns; of many rows, from a thread."""
    return await asyncio.to_thread(call) if rows > _ROWS_ON_LOOP else call()


def _rows(content: bytes, name_bytes: int, *, most: int, limits: Limits) -> list[_Row]:
    """A tree object: `MODE NAME`, a NUL, the raw object name; again and again (git, tree-walk.c).

    most: rows that are left of `files`. Raises: SourceTooLargeError, MirrorDamagedError.
    """
    rows: list[_Row] = []
    at = 0
    while at < len(content):
        space = content.find(b" ", at)
        end = content.find(b"\0", space)
        if space < 0 or end < 0 or end + name_bytes > len(content) or not _MODE.match(content[at:space]):
            raise MirrorDamagedError("a tree object that cannot be read")
        mode, name = int(content[at:space], 8), content[space + 1 : end]
        if len(rows) >= most:
            raise limits.error("files", "one directory of git")
        if len(name) > limits.name_bytes:
            raise limits.error("name_bytes", name[:_SHOWN].decode(errors="backslashreplace"))
        oid = content[end + 1 : end + 1 + name_bytes].hex()
        rows.append(_Row(name.decode(errors="backslashreplace"), len(name), mode, oid, _refusal(name)))
        at = end + 1 + name_bytes
    return rows


def _refusal(name: bytes) -> str:
    # git fsck: fullPathname, hasDot, hasDotdot, hasDotgit, emptyName. A checkout refuses them; so do we.
    if name in (b"", b".", b"..") or b"/" in name or name.lower() == b".git":
        return "name is not allowed in a tree"
    try:
        name.decode()
    except UnicodeDecodeError:
        return "name is not UTF-8"
    return ""
