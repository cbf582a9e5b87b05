"""A catalog in a local directory, read in place: nothing is copied, nothing below it is ever written.

The digest is of what was read. Files that change while being read are noticed by their stamps (size, times, inode) and
read once more; a directory that never holds still is an error of this attempt, not a mixture.

What stays open: a catalog parses the files after `fetch` has returned, so it may meet newer bytes than the digest
names. A caller that must know asks `probe` again after parsing; the next poll sees the new digest in any case.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import stat
import threading
import time
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from cacheserver.errors import SourceError
from cacheserver.slotted import slotted
from cacheserver.sources.threads import from_thread, run_stoppable
from cacheserver.sources.tree import Limits, Progress, Tree
from cacheserver.sources.walk import Entry, Listing, Stamp, walk

_ATTEMPTS = 2
_CHUNK_BYTES = 1 << 20

# Ours, as git's "racy" index entries: a write within the file system's clock tick after a read leaves the stamp as it
# was. 2 s covers FAT and NFS; such young files are hashed again instead of believed.
_YOUNG_NS = 2_000_000_000


@slotted(frozen=True)
class _Hashed:
    """A file's SHA-256 and the stamp it had; `at_ns`: wall clock before it was opened."""

    stamp: Stamp
    digest: bytes
    at_ns: int

    def holds_for(self, stamp: Stamp) -> bool:
        return stamp == self.stamp and max(stamp.mtime_ns, stamp.ctime_ns) < self.at_ns - _YOUNG_NS


class _ChangedError(Exception):
    """A file is not what the walk saw."""


class _StoppedError(Exception):
    """The caller has gone; nobody waits for the result."""


@slotted()
class _Reading:
    """One pass over the files, in a thread: what it hashed, and what it could not read."""

    known: Mapping[str, _Hashed]
    stop: threading.Event
    progress: Progress
    hashed: dict[str, _Hashed] = field(default_factory=dict)
    refused: list[tuple[str, str]] = field(default_factory=list)
    done_bytes: int = 0

    def read(self, listing: Listing) -> None:
        total = sum(entry.stamp.size for entry in listing.entries)
        for entry in listing.entries:
            known = self.known.get(entry.path)
            try:
                fresh = known if known is not None and known.holds_for(entry.stamp) else self._hash(entry)
            except PermissionError:
                self.refused.append((entry.path, "cannot be read: permission denied"))
                continue
            except OSError as exc:
                raise _ChangedError(f"{entry.path}: {exc.strerror}") from exc
            self.hashed[entry.path] = fresh
            self.done_bytes += entry.stamp.size
            self.progress("read", self.done_bytes, total)

    def _hash(self, entry: Entry) -> _Hashed:
        at_ns = time.time_ns()
        hasher = hashlib.sha256()
        # NOFOLLOW: `real` has no link left unless someone swapped one in. NONBLOCK: a pipe swapped in must not hang us.
        descriptor = os.open(entry.real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or Stamp.of(found) != entry.stamp:
                raise _ChangedError(entry.path)
            left = entry.stamp.size
            while chunk := file.read(_CHUNK_BYTES):
                if self.stop.is_set():
                    raise _StoppedError
                hasher.update(chunk)
                left -= len(chunk)
            if left != 0 or Stamp.of(os.fstat(descriptor)) != entry.stamp:
                raise _ChangedError(entry.path)
        return _Hashed(entry.stamp, hasher.digest(), at_ns)


class DirectorySource:
    """A Source over a local directory. `probe` opens only files whose stamp moved since the last probe or fetch.

    Digest: `sha256:`, of every path, size and content, and of every refusal, so that a new refusal is news too.
    """

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        self._path = path
        self._limits = limits or Limits()
        self._known: Mapping[str, _Hashed] = {}
        self._lock = asyncio.Lock()

    async def probe(self) -> str:
        """Raises: SourceNotFoundError, SourceInvalidError (no directory), SourceTooLargeError, SourceError."""
        return (await self._scan(lambda _what, _done, _total: None)).digest

    async def fetch(self, scratch: Path, progress: Progress) -> Tree:
        """`root` is the directory itself (where its links lead); `scratch` stays empty. Errors as `probe`."""
        return await self._scan(progress)

    async def aclose(self) -> None:
        """Forgets the hashes of files that did not change."""
        self._known = {}

    async def _scan(self, progress: Progress) -> Tree:
        report = from_thread(progress)
        stop = threading.Event()
        async with self._lock:
            read = functools.partial(_read, self._path, self._limits, self._known, report, stop)
            tree, self._known = await run_stoppable(stop, read)
        return tree


def _read(
    path: Path, limits: Limits, known: Mapping[str, _Hashed], progress: Progress, stop: threading.Event
) -> tuple[Tree, Mapping[str, _Hashed]]:
    changed = ""
    for _ in range(_ATTEMPTS):
        listing = walk(path, limits)
        reading = _Reading(known, stop, progress)
        try:
            reading.read(listing)
        except _ChangedError as exc:
            changed = str(exc)
            continue
        # The race: a file added, removed or rewritten behind us. Equal stamps before and after say there was none.
        if walk(path, limits) == listing:
            refused = tuple(sorted((*listing.refused, *reading.refused), key=lambda pair: pair[0].encode()))
            files = tuple(reading.hashed)
            return Tree(Path(listing.root), files, _digest(reading.hashed, refused), refused), reading.hashed
        changed = "the list of files"
    raise SourceError(f"{path} keeps changing while it is read ({changed}); it is read again at the next poll")


def _digest(hashed: Mapping[str, _Hashed], refused: tuple[tuple[str, str], ...]) -> str:
    # Every part has a length or a fixed size in front of it: no two listings give the same bytes.
    hasher = hashlib.sha256(b"cacheserver directory 1\n")
    for path, file in hashed.items():
        name = path.encode()
        hasher.update(b"f%d:%b%d:%b" % (len(name), name, file.stamp.size, file.digest))
    for path, reason in refused:
        name, why = path.encode(), reason.encode()
        hasher.update(b"r%d:%b%d:%b" % (len(name), name, len(why), why))
    return f"sha256:{hasher.hexdigest()}"
