"""Reads commits, trees and blobs of a bare repository through one `git cat-file --batch`. Checks nothing out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cacheserver.errors import SourceError, SourceInvalidError, SourceNotFoundError
from cacheserver.sources.git_command import Git
from cacheserver.sources.git_errors import MirrorDamagedError
from cacheserver.sources.tree import Limits

_AHEAD: Final = 200  # Questions written before their answers are read: 200 object names fit any pipe, so none blocks.
_READ_BYTES: Final = 1 << 18
_ANSWER_S: Final = 120.0  # One piece of an answer from a local process; longer means a disk that hangs.
_TREE_BYTES: Final = 32 << 20
_PARSE_IN_THREAD_BYTES: Final = 64 << 10
_NAME: Final = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?\Z")

_MODE: Final = re.compile(rb"[0-7]{1,7}\Z")

GITLINK: Final = 0o160000
SYMLINK: Final = 0o120000
TREE: Final = 0o040000


@dataclass(frozen=True, slots=True)
class GitObject:
    """content: None where `size` exceeds what the caller takes. kind: commit, tree, blob or tag."""

    oid: str
    kind: str
    size: int
    content: bytes | None


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """A file, link (mode 0o120000) or submodule (0o160000) below a directory; path relative to it with `/`."""

    path: str
    mode: int
    oid: str


@dataclass(frozen=True, slots=True)
class TreeListing:
    """entries sorted bytewise by path; refused: (path, reason) of names that no tree should hold."""

    entries: tuple[TreeEntry, ...]
    refused: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    mode: int
    oid: str
    refusal: str = ""


Sink = Callable[[bytes], Awaitable[None]]


class ObjectReader:
    """One process, one question at a time; concurrent callers wait for each other. `aclose` when done."""

    def __init__(self, git: Git, repository: Path) -> None:
        self._git = git
        self._repository = repository
        self._lock = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._process: asyncio.subprocess.Process | None = None

    async def read(self, oids: Sequence[str], *, most_bytes: int) -> AsyncGenerator[GitObject, None]:
        """The objects in the order asked. Larger ones come without content.

        Raises: MirrorDamagedError for one that is missing or unreadable. Wrap in aclosing if you may leave early.
        """
        for oid in oids:
            if not _NAME.match(oid):
                raise SourceInvalidError(f"{oid[:100]!r} is no object name")
        async with self._lock:
            whole = False
            try:
                for start in range(0, len(oids), _AHEAD):
                    some = oids[start : start + _AHEAD]
                    await self._ask(some)
                    for oid in some:
                        kind, size = await self._header(oid)
                        if size > most_bytes:
                            await self._content(size, None)
                            yield GitObject(oid, kind, size, None)
                        else:
                            pieces: list[bytes] = []
                            await self._content(size, _appender(pieces))
                            yield GitObject(oid, kind, size, b"".join(pieces))
                whole = True
            finally:
                if not whole:
                    await self._end()  # Answers that nobody read stand in the pipe.

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

    async def tree(self, commit: str, directory: str, limits: Limits) -> TreeListing:
        """Everything below a directory of a commit, submodules and links as entries of their own.

        Raises: SourceNotFoundError (no such directory), SourceTooLargeError naming its cap, MirrorDamagedError.
        """
        entries: list[TreeEntry] = []
        refused: list[tuple[str, str]] = []
        levels: list[tuple[tuple[str, ...], str]] = [((), await self._root(commit, directory))]
        known: dict[str, list[_Row]] = {}
        seen = 0
        while levels:
            await self._parse_all([oid for _, oid in levels if oid not in known], known)
            below: list[tuple[tuple[str, ...], str]] = []
            for parents, oid in levels:
                for row in known[oid]:
                    path = "/".join((*parents, row.name))
                    seen += 1
                    if seen > limits.files:
                        raise limits.error("files", path[:300])
                    if len(parents) >= limits.depth:
                        raise limits.error("depth", path[:300])
                    if row.refusal:
                        refused.append((path, row.refusal))
                    elif row.mode == TREE:
                        below.append(((*parents, row.name), row.oid))
                    else:
                        entries.append(TreeEntry(path, row.mode, row.oid))
            levels = below
        entries.sort(key=lambda entry: entry.path.encode())
        refused.sort(key=lambda pair: pair[0].encode())
        return TreeListing(tuple(entries), tuple(refused))

    async def aclose(self) -> None:
        async with self._lock:
            await self._end()

    async def _root(self, commit: str, directory: str) -> str:
        """The tree's object name: commit, its tree, then one tree for each part of `directory`."""
        found = await self._one(commit)
        first = (found.content or b"").split(b"\n", 1)[0]
        if found.kind != "commit" or not first.startswith(b"tree "):
            raise SourceInvalidError(f"{commit} is no commit but a {found.kind}")
        oid = first[5:].decode()
        for part in filter(None, directory.split("/")):
            rows = {row.name: row for row in await self._parse(oid)}
            row = rows.get(part)
            if row is None or row.mode != TREE or row.refusal:
                raise SourceNotFoundError(f"commit {commit[:12]} has no directory {directory!r}; check its spelling")
            oid = row.oid
        return oid

    async def _one(self, oid: str) -> GitObject:
        (found,) = [found async for found in self.read([oid], most_bytes=_TREE_BYTES)]
        return found

    async def _parse(self, oid: str) -> list[_Row]:
        known: dict[str, list[_Row]] = {}
        await self._parse_all([oid], known)
        return known[oid]

    async def _parse_all(self, oids: Sequence[str], known: dict[str, list[_Row]]) -> None:
        async with aclosing(self.read(list(dict.fromkeys(oids)), most_bytes=_TREE_BYTES)) as trees:
            async for found in trees:
                if found.content is None or found.kind != "tree":
                    raise SourceInvalidError(f"{found.oid} is no readable tree ({found.kind}, {found.size} bytes)")
                if found.size > _PARSE_IN_THREAD_BYTES:
                    known[found.oid] = await asyncio.to_thread(_rows, found.content, len(found.oid) // 2)
                else:
                    known[found.oid] = _rows(found.content, len(found.oid) // 2)

    async def _ask(self, oids: Sequence[str]) -> None:
        if self._process is None:
            running = self._git.process("--git-dir", str(self._repository), "cat-file", "--batch", complaints=False)
            self._process = await self._stack.enter_async_context(running)
        assert self._process.stdin is not None
        if self._process.stdin.is_closing():  # uvloop: a write would be an error of another kind.
            raise MirrorDamagedError(f"{self._repository}: git cat-file has ended")
        try:
            self._process.stdin.write("".join(f"{oid}\n" for oid in oids).encode())
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError) as exc:
            raise MirrorDamagedError(f"{self._repository}: git cat-file has ended") from exc

    async def _header(self, oid: str) -> tuple[str, int]:
        stream = self._stdout()
        try:
            parts = (await self._in_time(stream.readline())).split()
        except ValueError:
            parts = []  # asyncio's word for a line longer than the stream's limit
        if len(parts) != 3 or parts[0] != oid.encode() or not parts[2].isdigit():
            raise MirrorDamagedError(f"{self._repository}: object {oid} cannot be read")
        return parts[1].decode(), int(parts[2])

    async def _content(self, size: int, sink: Sink | None) -> None:
        stream = self._stdout()
        try:
            while size:
                piece = await self._in_time(stream.read(min(size, _READ_BYTES)))
                if not piece:
                    raise MirrorDamagedError(f"{self._repository}: git cat-file has ended within an object")
                size -= len(piece)
                if sink is not None:
                    await sink(piece)
            await stream.readexactly(1)
        except asyncio.IncompleteReadError as exc:
            raise MirrorDamagedError(f"{self._repository}: git cat-file has ended within an object") from exc

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


def _appender(pieces: list[bytes]) -> Sink:
    async def append(piece: bytes) -> None:
        pieces.append(piece)

    return append


def _rows(content: bytes, name_bytes: int) -> list[_Row]:
    """A tree object: `MODE NAME`, a NUL, the raw object name; again and again (git, tree-walk.c)."""
    rows: list[_Row] = []
    at = 0
    while at < len(content):
        space = content.find(b" ", at)
        end = content.find(b"\0", space)
        if space < 0 or end < 0 or end + name_bytes > len(content) or not _MODE.match(content[at:space]):
            raise MirrorDamagedError("a tree object that cannot be read")
        mode, name = int(content[at:space], 8), content[space + 1 : end]
        oid = content[end + 1 : end + 1 + name_bytes].hex()
        rows.append(_Row(name.decode(errors="backslashreplace"), mode, oid, _refusal(name)))
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
