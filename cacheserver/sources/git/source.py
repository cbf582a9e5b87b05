"""Catalogs and packages in git: one tree at one ref (GitSource), or all branches and tags of packages (GitRefsSource).

Both ask the remote for its refs first, and fetch into a bare copy on disk only what has moved. Files come out of the
object store; there is no working copy, and no code of the remote's runs.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import tempfile
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Final

from cacheserver.config.sources import GitRef, RefKind
from cacheserver.errors import SourceInvalidError, SourceNotFoundError, SourceTooLargeError
from cacheserver.sources.git.command import Git, Remote
from cacheserver.sources.git.complaints import MirrorDamagedError
from cacheserver.sources.git.mirror import Copy, Ref, RemoteRefs, ask_refs
from cacheserver.sources.git.objects import GITLINK, SYMLINK, GitObject, ObjectReader, TreeEntry, TreeListing
from cacheserver.sources.staging import Directory, File, Link, Refused, Staging
from cacheserver.sources.threads import run_stoppable
from cacheserver.sources.tree import Limits, Progress, Tally, Tree

# Staged files are below a part that no git name can be: so absolute links, and those that climb too far, lead out.
_BASE: Final = ("\0",)
_LINK_BYTES: Final = 4096  # PATH_MAX
_SMALL_BYTES: Final = 1 << 20
_BATCH_BYTES: Final = 4 << 20  # Contents held between two writes.
_BATCH_FILES: Final = 256
# Ours: a listing a tag. 5 times 200,000 entries are 2,500 new revisions of 400 files in one sync.
_LISTED_TIMES: Final = 5
_HEADS: Final = "refs/heads/"
_TAGS: Final = "refs/tags/"
_ALL: Final = (f"+{_HEADS}*:{_HEADS}*", f"+{_TAGS}*:{_TAGS}*")

# Porch, pkg/git/ref.go: branches that hold packages in other states of their life.
_LIFECYCLE_HEADS: Final = tuple(f"{_HEADS}{name}/" for name in ("drafts", "proposed", "deletionProposed"))


class GitSource:
    """A Source over one ref of a repository. cache: a directory of the repository's own that lasts between fetches.

    ref: None is the remote's HEAD. directory: relative with `/`, empty for all.
    Digest: `git:COMMIT`, with `#DIRECTORY` where there is one.
    """

    def __init__(
        self, remote: Remote, ref: GitRef | None, directory: str, cache: Path, limits: Limits | None = None
    ) -> None:
        self._remote = remote
        self._ref = ref
        self._directory = directory.strip("/")
        self._limits = limits or Limits()
        self._git = Git(remote, cache, limits=self._limits)
        self._cache = cache
        self._copy = Copy(self._git, cache, "shallow.git", self._limits)

    async def probe(self) -> str:
        """One `git ls-remote`; nothing at all for a commit. Raises: SourceNotFoundError (no such ref), SourceError."""
        await _make_private(self._cache)
        return self._digest((await self._resolve())[1])

    async def fetch(self, scratch: Path, progress: Progress) -> Tree:
        """The directory's files in `scratch`/tree; history is not fetched.

        Links are treated as in a directory source; submodules are refused by name. Raises: SourceError.
        """
        await _make_private(self._cache)
        return await self._copy.mended(lambda: self._read(scratch, progress))

    async def files(self, *, most_files: int, most_bytes: int) -> tuple[str, list[tuple[str, bytes, bool]]]:
        """The commit, and of each file in the directory: path, content, and whether it can be run.

        Raises: SourceInvalidError for links, submodules and names that no tree should hold; SourceError.
        """
        await _make_private(self._cache)
        return await self._copy.mended(lambda: self._files(most_files, most_bytes))

    async def _files(self, most_files: int, most_bytes: int) -> tuple[str, list[tuple[str, bytes, bool]]]:
        commit = await self._sync(_no_progress)
        reader = ObjectReader(self._git, self._copy.path)
        where = f"{self._remote.url} at {commit[:12]}"
        try:
            listing = await reader.tree(commit, self._directory, self._limits)
            odd = [path for path, _ in listing.refused]
            odd += [entry.path for entry in listing.entries if entry.mode in (SYMLINK, GITLINK)]
            if odd:
                raise SourceInvalidError(f"{where}: {odd[0]!r} is a link, a submodule, or no name for a file")
            if len(listing.entries) > most_files:
                raise SourceTooLargeError(f"{where}: {len(listing.entries)} files, a package has {most_files} at most")
            found: list[tuple[str, bytes, bool]] = []
            left = most_bytes
            async with aclosing(reader.read([each.oid for each in listing.entries], most_bytes=left)) as objects:
                at = 0
                async for each in objects:
                    left -= each.size
                    if each.content is None or left < 0:
                        raise SourceTooLargeError(f"{where}: a package has {most_bytes} bytes at most")
                    entry = listing.entries[at]
                    found.append((entry.path, each.content, bool(entry.mode & 0o100)))
                    at += 1
            return commit, found
        finally:
            await reader.aclose()

    async def aclose(self) -> None:
        """Nothing is open between fetches."""

    async def _resolve(self) -> tuple[str, str, str]:
        """(ref or commit to ask for, its commit, object format) as the remote has it now."""
        ref = self._ref
        if ref is not None and ref.kind is RefKind.COMMIT:
            return ref.name, ref.name, "sha256" if len(ref.name) == 64 else "sha1"
        remote = await ask_refs(self._git, self._limits, head=ref is None)
        for name in _candidates(ref, remote):
            if commit := remote.commit(name):
                return name, commit, remote.object_format
        wanted = f"no {ref.kind} {ref.name!r}" if ref else "no branch at all, or a HEAD that points nowhere"
        if ref is not None and ref.kind is RefKind.NAME:
            wanted = f"neither a branch nor a tag {ref.name!r}"
        raise SourceNotFoundError(f"{self._remote.url} has {wanted}; check the name, or push it")

    async def _sync(self, progress: Progress) -> str:
        """Brings the commit here, if it is not; returns it."""
        name, expected, object_format = await self._resolve()
        await self._copy.prepare(object_format)
        if await self._copy.commit_of(expected):
            return expected
        location = self._remote.location
        # A name of ours for each ref asked for: repositories that share the copy do not undo each other's.
        ours = f"refs/cacheserver/{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:40]}"
        try:
            await self._copy.fetch("--depth=1", "--", location, f"+{name}:{ours}", progress=progress)
        except (SourceNotFoundError, SourceInvalidError) as exc:
            if isinstance(exc, MirrorDamagedError) or name != expected:
                raise
            # A server may give single commits only to those who come by way of a ref.
            await self._copy.fetch("--", location, *_ALL, progress=progress)
            ours = expected
        commit = await self._copy.commit_of(ours)
        if not commit:
            raise SourceInvalidError(f"{self._remote.url}: {name} leads to no commit")
        return commit

    async def _read(self, scratch: Path, progress: Progress) -> Tree:
        commit = await self._sync(progress)
        reader = ObjectReader(self._git, self._copy.path)
        try:
            listing = await reader.tree(commit, self._directory, self._limits)
            return await _checked_out(reader, listing, scratch, self._limits, self._digest(commit), progress)
        finally:
            await reader.aclose()

    def _digest(self, commit: str) -> str:
        return f"git:{commit}" + (f"#{self._directory}" if self._directory else "")


class GitMirror:
    """A repository's branches and tags as of one sync, and a way to read what they hold. `aclose` when done.

    path: the bare repository. refs: full name (`refs/tags/x/v1`) -> Ref, only those that lead to a commit.
    branch: the one that packages without a tag come from. digest: of the refs that matter, as `probe` gives it.
    """

    def __init__(self, copy: Copy, limits: Limits, branch: str, refs: Mapping[str, Ref], digest: str) -> None:
        self.path = copy.path
        self.branch = branch
        self.refs = {name: ref for name, ref in refs.items() if ref.commit}
        self.digest = digest
        self._copy = copy
        self._limits = limits
        self._reader = ObjectReader(copy.git, copy.path)
        self._together = Tally(limits, times=_LISTED_TIMES)

    async def ls_tree(self, commit: str, directory: str = "", *, trees: set[str] | None = None) -> TreeListing:
        """All files below a directory of a commit, links and submodules as entries; trees: as ObjectReader.tree.

        Raises: SourceNotFoundError, SourceTooLargeError (also when all listings together exceed it),
        MirrorDamagedError (the next sync makes the copy anew).
        """
        async with self._copy.noting_damage():
            return await self._reader.tree(commit, directory, self._limits, together=self._together, trees=trees)

    async def holds(self, commit: str, directory: str, name: str, without: set[str]) -> bool:
        """Whether a regular file `name` lies at or below a directory of a commit; as ObjectReader.holds."""
        async with self._copy.noting_damage():
            return await self._reader.holds(commit, directory, name, self._limits, without)

    async def check_out(self, listing: TreeListing, scratch: Path, progress: Progress) -> Tree:
        """The files of a listing in `scratch`/tree, as GitSource.fetch puts them there. Raises: SourceError."""
        async with self._copy.noting_damage():
            return await _checked_out(self._reader, listing, scratch, self._limits, self.digest, progress)

    async def cat_file(self, oids: Sequence[str], *, most_bytes: int | None = None) -> AsyncGenerator[GitObject, None]:
        """Objects of any kind in the order asked, one in memory at a time; those over `most_bytes` (`file_bytes`
        by default) without content. Wrap in aclosing if you may leave early. Raises: MirrorDamagedError."""
        limit = self._limits.file_bytes if most_bytes is None else most_bytes
        async with self._copy.noting_damage(), aclosing(self._reader.read(oids, most_bytes=limit)) as objects:
            async for found in objects:
                yield found

    async def history(self, commit: str, directory: str = "", *, most: int = 1000) -> tuple[str, ...]:
        """Commits that changed a directory, newest first; their text is `cat_file`'s to give."""
        path = ("--", f":(literal){directory}") if directory else ()
        return tuple(await self._copy.history(commit, path, most))

    async def aclose(self) -> None:
        """Ends the process that reads; the copy on disk stays."""
        await self._reader.aclose()


class GitRefsSource:
    """All branches and tags of a repository, for package formats that live in many refs at once.

    branch: empty for the remote's default branch. directory enters the digest only: with it, another tree is meant.
    """

    def __init__(self, remote: Remote, branch: str, directory: str, cache: Path, limits: Limits | None = None) -> None:
        self._remote = remote
        self._branch = branch
        self._directory = directory.strip("/")
        self._limits = limits or Limits()
        self._git = Git(remote, cache, limits=self._limits)
        self._cache = cache
        self._copy = Copy(self._git, cache, "mirror.git", self._limits)

    async def probe(self) -> str:
        """One `git ls-remote`: `refs:` and a SHA-256 of the tags, the branch, and the drafts' branches."""
        await _make_private(self._cache)
        return self._digest(await self._ask())

    async def sync(self, progress: Progress) -> GitMirror:
        """The mirror, brought up to the remote: objects are fetched only when a ref has moved; lost refs are pruned.

        Raises: SourceNotFoundError (no such branch), SourceError. A repository without any ref is an empty mirror.
        """
        await _make_private(self._cache)
        return await self._copy.mended(lambda: self._sync(progress))

    async def written(self) -> GitRefsSource:
        """As sources.Written."""
        return self

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Copy]:
        """The copy, for whoever pushes from it; nobody else is at it meanwhile. Raises: as Copy.locked."""
        await _make_private(self._cache)
        async with self._copy.locked(), self._copy.noting_damage():
            yield self._copy

    async def prepared(self) -> RemoteRefs:
        """What the remote has now, and a copy of its kind, into which nothing is fetched. Within writing().

        Raises: as probe.
        """
        remote = await self._ask()
        await self._copy.prepare(remote.object_format)
        return remote

    async def look(self) -> RemoteRefs:
        """What the remote has now, all of it in the copy. Within writing(). Raises: as sync."""
        remote, refs = await self._brought(_no_progress)
        oids = _shown(refs)
        peeled = {f"{name}^{{}}": ref.commit for name, ref in refs.items() if ref.tag_object and name in oids}
        return RemoteRefs({**oids, **peeled}, self._branch_of(remote))

    @property
    def branch(self) -> str:
        """That packages come from, as it was named; empty for the remote's default."""
        return self._branch

    @property
    def url(self) -> str:
        """Of the remote, without credentials."""
        return self._git.remote.url

    async def aclose(self) -> None:
        """Nothing is open between syncs; mirrors are closed by who asked for them."""

    async def _ask(self) -> RemoteRefs:
        remote = await ask_refs(self._git, self._limits, head=not self._branch)
        branch = self._branch_of(remote)
        # A repository that was empty has drafts before the first of them is published, and so makes its branch.
        if branch not in remote.oids and not all(name.startswith(_LIFECYCLE_HEADS) for name in remote.oids):
            shown = branch.removeprefix(_HEADS) or "HEAD"
            raise SourceNotFoundError(f"{self._remote.url} has no branch {shown!r}; check the name, or push it")
        return remote

    async def _brought(self, progress: Progress) -> tuple[RemoteRefs, Mapping[str, Ref]]:
        """What the remote showed, and what the copy has since."""
        remote = await self._ask()
        await self._copy.prepare(remote.object_format)
        refs = await self._copy.refs()
        if _shown(refs) != {name: oid for name, oid in remote.oids.items() if _mirrored(name)}:
            await self._copy.fetch("--prune", "--", self._remote.location, *_ALL, progress=progress)
            refs = await self._copy.refs()
        return remote, refs

    async def _sync(self, progress: Progress) -> GitMirror:
        remote, refs = await self._brought(progress)
        branch = self._branch_of(remote)
        here = RemoteRefs(_shown(refs), branch)
        return GitMirror(self._copy, self._limits, branch.removeprefix(_HEADS), refs, self._digest(here))

    def _branch_of(self, remote: RemoteRefs) -> str:
        return f"{_HEADS}{self._branch}" if self._branch else remote.head

    def _digest(self, remote: RemoteRefs) -> str:
        branch = self._branch_of(remote)
        hasher = hashlib.sha256(f"{branch}\0{self._directory}\0".encode(errors="surrogateescape"))
        for name in sorted(remote.oids):
            if name == branch or (_mirrored(name) and name.startswith((_TAGS, *_LIFECYCLE_HEADS))):
                hasher.update(f"{name}\0{remote.oids[name]}\0".encode(errors="surrogateescape"))
        return f"refs:{hasher.hexdigest()}"


def _no_progress(what: str, done: int, total: int) -> None:
    """Nobody watches."""


def _candidates(ref: GitRef | None, remote: RemoteRefs) -> Sequence[str]:
    match ref:
        case None:
            return (remote.head, "HEAD") if remote.head else ("HEAD",)
        case GitRef(kind=RefKind.BRANCH):
            return (f"{_HEADS}{ref.name}",)
        case GitRef(kind=RefKind.TAG):
            return (f"{_TAGS}{ref.name}",)
        case _:
            return (f"{_HEADS}{ref.name}", f"{_TAGS}{ref.name}")


def _mirrored(name: str) -> bool:
    return name.startswith((_HEADS, _TAGS)) and not name.endswith("^{}")


def _shown(refs: Mapping[str, Ref]) -> dict[str, str]:
    return {name: ref.tag_object or ref.commit for name, ref in refs.items() if _mirrored(name)}


async def _checked_out(
    reader: ObjectReader, listing: TreeListing, scratch: Path, limits: Limits, digest: str, progress: Progress
) -> Tree:
    contents = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=scratch, prefix="contents-"))
    staging = Staging(contents, limits)
    top = Directory()
    await _stage(reader, listing, top.directory(_BASE), staging, progress)
    place = functools.partial(staging.place, top, _BASE, scratch / "tree", digest)
    return await run_stoppable(threading.Event(), place)


async def _stage(
    reader: ObjectReader, listing: TreeListing, base: Directory, staging: Staging, progress: Progress
) -> None:
    """Puts a listing's contents on disk, small ones many at a time, and its names into `base`."""
    for path, reason in listing.refused:
        base.children[path] = Refused(reason)  # Shown, not made: what is a `/` in it is part of the message only.
    wanted = [entry for entry in listing.entries if entry.mode != GITLINK]
    for entry in listing.entries:
        if entry.mode == GITLINK:
            base.put(entry.path.split("/"), Refused("is a submodule"))
    large: list[tuple[TreeEntry, File]] = []
    small: list[tuple[Path, bytes]] = []
    waiting_bytes = 0
    async with aclosing(reader.read([entry.oid for entry in wanted], most_bytes=_SMALL_BYTES)) as objects:
        done = 0
        async for found in objects:
            entry = wanted[done]
            done += 1
            parts = entry.path.split("/")
            staging.count(parts)
            progress("unpack", done, len(wanted))
            if found.kind != "blob":
                base.put(parts, Refused(f"is said to be a file, and is a {found.kind}"))
            elif entry.mode == SYMLINK:
                base.put(parts, _link(found))
            else:
                file = staging.reserve(entry.path, found.size)
                base.put(parts, file)
                if found.content is None:
                    large.append((entry, file))
                    continue
                small.append((staging.path(file), found.content))
                waiting_bytes += found.size
                if waiting_bytes > _BATCH_BYTES or len(small) >= _BATCH_FILES:
                    await _write_all(small)
                    waiting_bytes = 0
    await _write_all(small)
    for entry, file in large:
        await reader.copy(entry.oid, functools.partial(_append, staging.path(file)))


def _link(found: GitObject) -> Link | Refused:
    if found.content is None or found.size > _LINK_BYTES:
        return Refused("link to a name that is too long")
    try:
        return Link(found.content.decode())
    except UnicodeDecodeError:
        return Refused("link's target is not UTF-8")


async def _write_all(files: list[tuple[Path, bytes]]) -> None:
    """Writes and forgets them."""

    def write() -> None:
        for path, content in files:
            path.write_bytes(content)

    await run_stoppable(threading.Event(), write)
    files.clear()


async def _append(path: Path, piece: bytes) -> None:
    def append() -> None:
        with path.open("ab") as file:
            file.write(piece)

    await run_stoppable(threading.Event(), append)


async def _make_private(cache: Path) -> None:
    await asyncio.to_thread(functools.partial(cache.mkdir, mode=0o700, parents=True, exist_ok=True))
