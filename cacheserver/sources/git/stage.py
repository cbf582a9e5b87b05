"""Puts git objects where workers can read them: each batch of trees in a directory of its own.

One object in memory at a time; a package over its limit is not read to its end.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Final

from cacheserver.catalogs.catalog import Problem
from cacheserver.catalogs.krm.discover import Files
from cacheserver.catalogs.krm.packages import Staged
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.sources.git.source import GitMirror

_FLUSH_BYTES: Final = 4 << 20
_FLUSH_FILES: Final = 256


@asynccontextmanager
async def staged(
    mirror: GitMirror, trees: Sequence[Files], scratch: Path, limits: ParseLimits
) -> AsyncIterator[Staged]:
    """As catalogs.krm.packages.Packages.staged."""
    root = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=scratch, prefix="batch-"))
    try:
        batch = _Batch(mirror, root, limits)
        refusals = [await batch.add(files) for files in trees]
        await batch.flush()
        yield Staged(root, refusals)
    finally:
        await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)


class _Batch:
    """The objects of some trees in `root`, each once, under their object names."""

    def __init__(self, mirror: GitMirror, root: Path, limits: ParseLimits) -> None:
        self._mirror = mirror
        self._root = root
        self._limits = limits
        self._sizes: dict[str, int] = {}
        self._waiting: list[tuple[str, bytes]] = []
        self._waiting_bytes = 0

    async def add(self, files: Files) -> Problem | None:
        """Reads what is not here yet. Returns why the package cannot be used, if it cannot."""
        most_bytes, most_files = self._limits.package_bytes, self._limits.package_files
        if files.count > most_files:
            return Problem("TooManyFiles", f"{files.count} files; the limit for one revision is {most_files}")
        copies, held_bytes = await asyncio.to_thread(self._missing, files)
        left = most_bytes - held_bytes
        async with aclosing(self._mirror.cat_file(list(copies), most_bytes=most_bytes)) as objects:
            async for found in objects:
                left -= found.size * copies[found.oid]
                if left < 0 or found.content is None:
                    message = f"its files have more than {most_bytes} bytes, the limit for one revision"
                    return Problem("TooLarge", message)
                if found.kind != "blob":
                    path = next(path for path, oid in files.entries() if oid == found.oid)
                    return Problem("Unreadable", f"is said to be a file, and is a {found.kind}", path)
                self._sizes[found.oid] = found.size
                self._waiting.append((found.oid, found.content))
                self._waiting_bytes += found.size
                if self._waiting_bytes > _FLUSH_BYTES or len(self._waiting) >= _FLUSH_FILES:
                    await self.flush()
        if left < 0:
            return Problem("TooLarge", f"more than {most_bytes} bytes, the limit for one revision")
        return None

    def _missing(self, files: Files) -> tuple[dict[str, int], int]:
        """What is not here yet, and how often it is wanted; bytes of what is, as often."""
        wanted = Counter(oid for _, oid in files.entries())
        held_bytes = sum(self._sizes[oid] * times for oid, times in wanted.items() if oid in self._sizes)
        return {oid: times for oid, times in wanted.items() if oid not in self._sizes}, held_bytes

    async def flush(self) -> None:
        """Writes what is held in memory."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0

        def write() -> None:
            for oid, content in waiting:
                (self._root / oid).write_bytes(content)

        if waiting:
            await asyncio.to_thread(write)
