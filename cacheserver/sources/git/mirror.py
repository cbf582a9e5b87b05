"""Our bare copy of a remote repository, on disk between syncs: one writer at a time, made anew when it is damaged.

A killed git leaves locks and half-written packs; whoever holds our own lock knows that they are nobody's and removes
them. The lock is inherited by git, so a git that outlives a killed server keeps it until it ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

from cacheserver.errors import SourceError, SourceTooLargeError
from cacheserver.slotted import slotted
from cacheserver.sources.git.command import Answer, Git
from cacheserver.sources.git.complaints import MirrorDamagedError, ObjectFormatError
from cacheserver.sources.threads import first_error
from cacheserver.sources.tree import FETCHING, Limits, Progress

_ASK_S: Final = 60.0
_REF_LINE_BYTES: Final = 640  # Of one ref in a list, 320 and as much for a tag's peeled name: real ones take under 150.
_LOCAL_S: Final = 120.0
_FETCH_S: Final = 3600.0
_LOCK_S: Final = 120.0
_LOCK_POLL_S: Final = 0.1
_WATCH_S: Final = 0.25

T = TypeVar("T")


@slotted(frozen=True)
class Ref:
    """What a name stands for. commit: tags peeled. tag_object: an annotated tag's own object, empty for plain names."""

    commit: str
    tag_object: str = ""


class Copy:
    """The bare repository in `directory`/`name`; `directory` is created, private, and may hold other copies."""

    def __init__(self, git: Git, directory: Path, name: str, limits: Limits) -> None:
        self.git = git
        self.path = directory / name
        self._limits = limits
        self._lock_path = directory / f"{name}.lock"
        self._damaged = directory / f"{name}.damaged"
        self._format = directory / f"{name}.format"
        self._descriptor = -1

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Only one process, and one task, at a time. Raises: SourceError when another keeps it for two minutes."""
        descriptor = await asyncio.to_thread(self._open_lock)
        try:
            try:
                async with asyncio.timeout(_LOCK_S):
                    while not _lock(descriptor):  # noqa: ASYNC110  # the other process has no event to wait for
                        await asyncio.sleep(_LOCK_POLL_S)
            except TimeoutError as exc:
                raise SourceError(f"{self.path} is in use by another process; give each server its own cache") from exc
            self._descriptor = descriptor
            yield
        finally:
            self._descriptor = -1
            os.close(descriptor)

    async def mended(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` returns, which has the lock; where it finds the copy damaged, it is done once more on a new one.

        Raises: as `locked` and `work`; SourceInvalidError when the second copy is damaged too: so is the remote.
        """
        try:
            async with self.locked(), self.noting_damage():
                return await work()
        except MirrorDamagedError:
            try:
                async with self.locked(), self.noting_damage():
                    return await work()
            except MirrorDamagedError as exc:
                raise exc.of_remote() from exc

    @asynccontextmanager
    async def noting_damage(self) -> AsyncIterator[None]:
        """What is found damaged within is made anew by the next `prepare`. Raises: MirrorDamagedError, as it came."""
        try:
            yield
        except MirrorDamagedError as exc:
            await asyncio.to_thread(self._note_damage, exc)
            raise

    async def prepare(self, object_format: str) -> None:
        """An existing, clean, bare repository; a damaged one is replaced by an empty one. Needs the lock.

        object_format: empty where nobody knows it, of an empty remote: then sha1, until a push says that it is not.
        """
        if not await asyncio.to_thread(self._clean):
            chosen = object_format or await asyncio.to_thread(self._guessed)
            options = ("--quiet", "--bare", "--template=", f"--object-format={chosen}")
            await self._git("init", *options, timeout_s=_LOCAL_S)

    async def fetch(self, *arguments: str, progress: Progress) -> None:
        """`git fetch` with `arguments`, watched: SourceTooLargeError as soon as objects exceed `total_bytes`."""
        options = ("--quiet", "--force", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head")
        before = await asyncio.to_thread(_objects_bytes, self.path)
        try:
            async with asyncio.TaskGroup() as tg:
                watching = tg.create_task(self._watch(before, progress), name="git fetch size")
                await self._git("fetch", *options, *arguments, timeout_s=_FETCH_S)
                watching.cancel()
        except ExceptionGroup as group:
            raise first_error(group) from group

    async def history(self, commit: str, path: Sequence[str], most: int) -> Sequence[str]:
        """Commits that changed `path` (all, if empty), newest first, at most `most`."""
        listed = await self._read("rev-list", f"--max-count={most}", "--end-of-options", commit, *path)
        return listed.decode().split()

    async def commit_of(self, name: str) -> str:
        """The commit that a ref of the copy, or an object name, leads to; empty when it is not here."""
        found = await self._read("cat-file", "--batch-check", stdin=f"{name}^{{commit}}\n".encode())
        parts = found.split()
        return parts[0].decode() if len(parts) == 3 and parts[1] == b"commit" else ""

    async def objects(self, names: Sequence[str]) -> Sequence[str]:
        """What each name (`COMMIT:PATH`, say) stands for, in order; empty where it is not here. No name has a line
        break."""
        if not names:
            return []
        found = await self._read("cat-file", "--batch-check", stdin="".join(f"{name}\n" for name in names).encode())
        rows = [line.split() for line in found.decode(errors="replace").splitlines()]
        return [row[0] if len(row) == 3 and row[1] != "ambiguous" else "" for row in rows]

    async def read(self, *arguments: str) -> bytes:
        """What a command that only reads our copy prints. Raises: MirrorDamagedError, SourceTooLargeError."""
        return await self._read(*arguments)

    async def write(self, *arguments: str, stdin: bytes | AsyncIterator[bytes]) -> bytes:
        """What a command that writes to our copy alone prints. Needs the lock. Raises: as Git.run."""
        return await self._git(*arguments, timeout_s=_LOCAL_S, stdin=stdin)

    async def attempt(self, *arguments: str, timeout_s: float = _LOCAL_S, stdin: bytes = b"") -> Answer:
        """As Git.attempt, in our copy. Needs the lock."""
        where = ("--git-dir", str(self.path))
        return await self.git.attempt(*where, *arguments, timeout_s=timeout_s, stdin=stdin, pass_fds=self._inherit())

    async def refs(self) -> Mapping[str, Ref]:
        """Every ref of the copy by full name, sorted. A name for what is not a commit has an empty `commit`."""
        listed = await self._read("for-each-ref", "--format=%(objectname) %(objecttype) %(refname)")
        rows = [line.split(" ", 2) for line in listed.decode(errors="surrogateescape").splitlines()]
        peeled = await self._peeled([oid for oid, kind, _ in rows if kind == "tag"])
        return {name: Ref(oid) if kind == "commit" else Ref(peeled.get(oid, ""), oid) for oid, kind, name in rows}

    async def _peeled(self, tags: Sequence[str]) -> Mapping[str, str]:
        """Tag object -> commit. Tags of tags are followed to the end, as for-each-ref does only from git 2.45 on."""
        if not tags:
            return {}
        asked = "".join(f"{oid}^{{commit}}\n" for oid in tags).encode()
        answers = await self._read("cat-file", "--batch-check", stdin=asked)
        rows = [answer.split() for answer in answers.splitlines()]
        return {tag: row[0].decode() for tag, row in zip(tags, rows, strict=True) if len(row) == 3}

    async def _read(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """What a command that only reads our copy prints. Raises: MirrorDamagedError whatever it complains of, but
        SourceTooLargeError."""
        try:
            return await self._git(*arguments, timeout_s=_LOCAL_S, stdin=stdin)
        except SourceTooLargeError:
            raise  # Of git's limits: the copy is as the remote has it, and would come out the same.
        except SourceError as exc:
            raise MirrorDamagedError(str(exc)) from exc

    async def _git(self, *arguments: str, timeout_s: float, stdin: bytes | AsyncIterator[bytes] = b"") -> bytes:
        where = ("--git-dir", str(self.path))
        return await self.git.run(*where, *arguments, timeout_s=timeout_s, stdin=stdin, pass_fds=self._inherit())

    def _inherit(self) -> Sequence[int]:
        return (self._descriptor,) if self._descriptor >= 0 else ()

    def _open_lock(self) -> int:
        self._lock_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _clean(self) -> bool:
        """Whether a usable repository is there; what a killed git left is removed, a damaged one as a whole."""
        if self._damaged.exists() or not (self.path / "HEAD").is_file() or not (self.path / "objects").is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
            self._damaged.unlink(missing_ok=True)
            return False
        for left in (
            *self.path.rglob("*.lock"),
            *self.path.glob("objects/**/tmp_*"),
            *self.path.glob("gc.pid"),
            *self.path.glob("fast_import_crash_*"),
        ):
            left.unlink(missing_ok=True)
        return True

    def _note_damage(self, damage: MirrorDamagedError) -> None:
        if isinstance(damage, ObjectFormatError):
            config = self.path / "config"
            is_sha256 = config.exists() and "objectformat = sha256" in config.read_text(errors="replace").lower()
            self._format.write_text("sha1" if is_sha256 else "sha256")
        self._damaged.touch()

    def _guessed(self) -> str:
        found = self._format.read_text() if self._format.exists() else ""
        return found if found in ("sha1", "sha256") else "sha1"

    async def _watch(self, before: int, progress: Progress) -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            size = await asyncio.to_thread(_objects_bytes, self.path)
            progress(FETCHING, max(size - before, 0), 0)
            if size > self._limits.total_bytes:
                raise self._limits.error("total_bytes", f"{self.git.remote.url}: objects of the repository")


@slotted(frozen=True)
class RemoteRefs:
    """What the remote shows: full name -> object name, tags' peeled ones under `NAME^{}`; head: where HEAD points."""

    oids: Mapping[str, str]
    head: str

    @property
    def object_format(self) -> str:
        """The hash of the remote's object names, as `git init --object-format` takes it; empty where there are none."""
        if not self.oids:
            return ""
        return "sha256" if any(len(oid) == 64 for oid in self.oids.values()) else "sha1"

    def commit(self, ref: str) -> str:
        """What a full name leads to, tags peeled; empty where the remote has no such ref."""
        return self.oids.get(f"{ref}^{{}}") or self.oids.get(ref, "")


async def ask_refs(git: Git, limits: Limits, *, head: bool) -> RemoteRefs:
    """The cheap question: heads and tags of the remote, with `head` its HEAD too. Raises: SourceTooLargeError (`refs`,
    and the caps on names), other SourceError."""
    # With HEAD the server lists all it has, pull requests too; git prints what these patterns match.
    selection, patterns = (
        (("--symref",), ("HEAD", "refs/heads/*", "refs/tags/*")) if head else (("--heads", "--tags"), ())
    )
    most_bytes = limits.refs * _REF_LINE_BYTES
    asked = ("ls-remote", *selection, "--", git.remote.location, *patterns)
    try:
        listed = await git.run(*asked, timeout_s=_ASK_S, most_bytes=most_bytes)
    except MirrorDamagedError as exc:
        raise exc.of_remote() from exc  # nothing of ours is read here
    return await asyncio.to_thread(_read_refs, listed, limits, git.remote.url)


def _read_refs(listed: bytes, limits: Limits, url: str) -> RemoteRefs:
    oids: dict[str, str] = {}
    head, count = "", 0
    for raw in io.BytesIO(listed):
        left, _, name = raw.rstrip(b"\n").decode(errors="surrogateescape").partition("\t")
        if left.startswith("ref: ") and name == "HEAD":
            head = left.removeprefix("ref: ")
        elif name:
            count += not name.endswith("^{}")
            if count > limits.refs:
                raise limits.error("refs", url)
            _check_name(name, limits, url)
            oids[name] = left
    return RemoteRefs(oids, head)


def _check_name(name: str, limits: Limits, url: str) -> None:
    """Ours: git keeps a ref as a file, beside which it makes one called NAME.lock. Raises: SourceTooLargeError."""
    where = f"{url}: {name[:64].encode(errors='backslashreplace').decode()}"
    if len(name) > limits.path_bytes // 4:
        raise limits.error("path_bytes", where)
    if any(len(part.encode(errors="surrogateescape")) > limits.name_bytes - len(".lock") for part in name.split("/")):
        raise limits.error("name_bytes", where)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _objects_bytes(repository: Path) -> int:
    total = 0
    for parent, _, names in os.walk(repository / "objects"):
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_size
            except FileNotFoundError:
                continue  # git renames and removes meanwhile.
    return total
