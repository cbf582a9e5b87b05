"""What ingestion keeps on disk, and its bounds: scratch for trees that are read now, and git's copies between syncs.

Knows directories and sizes, nothing of sources. Called by sync.py and runner.py; server/serve.py makes both. Two
processes may share a directory: what one of them uses is locked (flock), and taken away by nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from cacheserver.errors import SourceError, SourceTooLargeError
from cacheserver.model import RepositoryKey

_SCRATCH: Final = "cacheserver-scratch-"
_LOCK: Final = ".lock"
_GONE: Final = ".gone-"
"""In front of what is being removed. No namespace and no repository begins with a dot."""
_USE: Final = ".use"


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory for this process, gone when it ends; those of processes that were killed go first. Blocks."""
    for left in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(left / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            try:
                if _locked(descriptor, fcntl.LOCK_EX):
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(descriptor)
    path = Path(tempfile.mkdtemp(prefix=_SCRATCH))
    descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _locked(descriptor, fcntl.LOCK_EX)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


class ScratchSpace:
    """How many bytes of fetched trees lie on disk: those that are whole, and of those under way what is there already.

    What one under way still brings has its source's own cap.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held: dict[Path, int] = {}
        self._under_way: set[Path] = set()
        self._less = asyncio.Event()  # another one each time it is set: nobody misses it who looks meanwhile

    @property
    def held_bytes(self) -> int:
        """Bytes of all trees that are held."""
        return sum(self._held.values())

    async def begin(self, tree: Path) -> None:
        """Returns when there is room for one more; `tree` counts from then on, until drop(). What takes room ends."""
        while True:
            less = self._less
            if self.held_bytes + await asyncio.to_thread(_sizes, list(self._under_way)) < self._most_bytes:
                break
            await less.wait()
        self._under_way.add(tree)

    async def hold(self, tree: Path) -> None:
        """`tree` is whole: count what lies below it now, until drop()."""
        self._held[tree] = await asyncio.to_thread(_size, tree)
        self._under_way.discard(tree)

    def drop(self, tree: Path) -> None:
        """`tree` is gone, or was never held: whoever waits looks again."""
        self._held.pop(tree, None)
        self._under_way.discard(tree)
        self._less.set()
        self._less = asyncio.Event()


class Mirrors:
    """git's copies of repositories, one directory each below `root`/NAMESPACE, and how many bytes they have in all."""

    def __init__(self, root: Path, most_bytes: int) -> None:
        self._root = root
        self._most_bytes = most_bytes
        self._sizes: Mapping[Path, int] = {}  # when they were looked at last
        self._brought: dict[Path, int] = {}  # by fetches under way; and what of it was there when they were looked at
        self._counted: Mapping[Path, int] = {}
        self._making_room: asyncio.Future[None] | None = None

    def path(self, key: RepositoryKey) -> Path:
        """Where the copies of one repository lie; not made here."""
        return self._root / key.namespace / key.name

    @asynccontextmanager
    async def using(self, key: RepositoryKey) -> AsyncIterator[Callable[[int], None]]:
        """For the time of a sync: nobody takes this copy away, and others that are not in use make room.

        What comes is to be told how many bytes a fetch has brought so far, now and then. Both raise SourceTooLargeError
        when there is no room, for those in use have it all; of several fetches the one that has brought most hears it.
        """
        descriptor = await asyncio.to_thread(self._use, key)
        try:
            os.utime(descriptor)
            await asyncio.to_thread(self._make_room, key)
            try:
                yield functools.partial(self._brings, key)
            finally:
                self._brought.pop(self.path(key), None)
                if self._making_room is not None:
                    await asyncio.shield(self._making_room)
                with contextlib.suppress(SourceTooLargeError):
                    await asyncio.shield(asyncio.to_thread(self._make_room, key))  # It has grown.
        finally:
            os.close(descriptor)

    @asynccontextmanager
    async def asking(self, key: RepositoryKey) -> AsyncIterator[None]:
        """For the time of a question to the remote, which makes no copy: nobody takes the directory away."""
        descriptor = await asyncio.to_thread(self._use, key)
        try:
            yield
        finally:
            os.close(descriptor)

    async def remove(self, key: RepositoryKey) -> bool:
        """Takes a repository's copies away; False where there are none, or another process uses them."""
        return await asyncio.to_thread(self._remove, self.path(key))

    async def keep_only(self, present: Collection[RepositoryKey]) -> int:
        """Takes away the copies of all others, and what a killed process left half removed; returns how many."""
        return await asyncio.to_thread(self._keep_only, {self.path(key) for key in present})

    def _use(self, key: RepositoryKey) -> int:
        path = self.path(key)
        name = path.parent / f".{path.name}{_USE}"
        while True:
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as exc:
                raise SourceError(f"git's copies cannot be kept in {path.parent}: {exc.strerror}") from exc
            # Who removes holds it for a moment, and removes the file as well: then ours is one that nobody sees.
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if _is(descriptor, name):
                return descriptor
            os.close(descriptor)

    def _make_room(self, key: RepositoryKey) -> None:
        brought = dict(self._brought)
        sizes = {path: _size(path) for path in self._all()}
        over = sum(sizes.values()) - self._most_bytes
        for path in sorted(sizes, key=_used_at):
            if over > 0 and self._remove(path):
                over -= sizes.pop(path)
        self._sizes, self._counted = sizes, brought
        if over > 0:
            raise self._full(key)

    def _brings(self, key: RepositoryKey, brought: int) -> None:
        self._brought[self.path(key)] = brought
        grown = sum(size - self._counted.get(path, 0) for path, size in self._brought.items())
        if sum(self._sizes.values()) + grown <= self._most_bytes:
            self._making_room = None
        elif self._making_room is None:  # those that are not in use go first
            self._making_room = asyncio.get_running_loop().run_in_executor(None, self._make_what_room_there_is, key)
        elif self._making_room.done() and brought >= max(self._brought.values()):
            raise self._full(key)

    def _make_what_room_there_is(self, key: RepositoryKey) -> None:
        with contextlib.suppress(SourceTooLargeError):
            self._make_room(key)

    def _full(self, key: RepositoryKey) -> SourceTooLargeError:
        return SourceTooLargeError(
            f"{key.namespace}/{key.name}: git's copies of repositories that are in use have more than "
            f"{self._most_bytes} bytes (cap `mirror_bytes`; --max-mirror-bytes raises it)"
        )

    def _keep_only(self, present: Collection[Path]) -> int:
        for left in self._root.glob(f"*/{_GONE}*"):
            shutil.rmtree(left, ignore_errors=True)
        return sum(self._remove(path) for path in self._all() if path not in present)

    def _all(self) -> list[Path]:
        return [path for path in self._root.glob("*/*") if not path.name.startswith(".") and path.is_dir()]

    def _remove(self, path: Path) -> bool:
        if not path.is_dir():
            return False
        name = path.parent / f".{path.name}{_USE}"
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _locked(descriptor, fcntl.LOCK_EX) or not _is(descriptor, name):
                return False
            with contextlib.suppress(OSError):
                gone = Path(tempfile.mkdtemp(prefix=_GONE, dir=path.parent))
                path.rename(gone / path.name)
                shutil.rmtree(gone, ignore_errors=True)
                name.unlink()
            return not path.exists()
        finally:
            os.close(descriptor)


def _locked(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _used_at(path: Path) -> float:
    try:
        return (path.parent / f".{path.name}{_USE}").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _sizes(directories: Iterable[Path]) -> int:
    return sum(_size(directory) for directory in directories)


def _size(directory: Path) -> int:
    """Bytes of the files below, as they are; what goes meanwhile counts for nothing."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118 - a Path each is ten times the time
    return total
