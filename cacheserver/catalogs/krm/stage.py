"""Puts git objects where workers can read them: each batch of trees in a directory of its own, gone with its answer.

One object in memory at a time, one batch a queue on disk; a package over its limit is not read to its end.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final

from cacheserver.catalogs.catalog import Problem
from cacheserver.catalogs.krm.discover import Files
from cacheserver.catalogs.krm.jobs import Jobs
from cacheserver.catalogs.krm.mirror import Mirror
from cacheserver.catalogs.krm.wire import Pack, Packed, Wanted

_FLUSH_BYTES: Final = 4 << 20
_FLUSH_FILES: Final = 256


class Stage:
    """scratch: exists; batches live below it. write_blobs: False makes facts only."""

    def __init__(self, mirror: Mirror, jobs: Jobs, scratch: Path, *, write_blobs: bool) -> None:
        self._mirror = mirror
        self._jobs = jobs
        self._scratch = scratch
        self._blobs = str(scratch) if write_blobs else ""
        self._batches = 0

    async def pack(self, trees: Sequence[tuple[str, Files]]) -> list[Packed]:
        """The content and facts of packages' files, in order. Raises: SourceError, CatalogError."""
        self._batches += 1
        batch = _Batch(self._mirror, self._scratch / f"batch-{self._batches}", self._jobs.limits.package_bytes)
        await asyncio.to_thread(batch.root.mkdir)
        try:
            answers: list[Packed | None] = []
            wanted: list[Wanted] = []
            for name, files in trees:
                entries = files.entries
                refusal = self._too_many(entries) or await batch.add(entries)
                answers.append(Packed(refusal=refusal) if refusal else None)
                if refusal is None:
                    wanted.append(Wanted(name, entries, warnings=files.warnings))
            await batch.flush()
            packed = iter(await self._jobs.pack(Pack(str(batch.root), self._blobs, wanted)) if wanted else ())
            return [answer or next(packed) for answer in answers]
        finally:
            await asyncio.to_thread(shutil.rmtree, batch.root, ignore_errors=True)

    def _too_many(self, entries: Sequence[tuple[str, str]]) -> Problem | None:
        most = self._jobs.limits.package_files
        if len(entries) > most:
            return Problem("TooManyFiles", f"{len(entries)} files; the limit for one revision is {most}")
        return None


class _Batch:
    """The objects of some trees in `root`, each once, under their object names."""

    def __init__(self, mirror: Mirror, root: Path, most_bytes: int) -> None:
        self.root = root
        self._mirror = mirror
        self._most_bytes = most_bytes
        self._sizes: dict[str, int] = {}
        self._waiting: list[tuple[str, bytes]] = []
        self._waiting_bytes = 0

    async def add(self, entries: Sequence[tuple[str, str]]) -> Problem | None:
        """Reads what is not here yet. Returns why the package cannot be used, if it cannot."""
        oids = dict.fromkeys(oid for _, oid in entries)
        left = self._most_bytes - sum(self._sizes.get(oid, 0) for _, oid in entries)
        copies = {oid: 0 for oid in oids if oid not in self._sizes}
        for _, oid in entries:
            if oid in copies:
                copies[oid] += 1
        async with aclosing(self._mirror.cat_file(list(copies), most_bytes=self._most_bytes)) as objects:
            async for found in objects:
                left -= found.size * copies[found.oid]
                if left < 0 or found.content is None:
                    message = f"its files have more than {self._most_bytes} bytes, the limit for one revision"
                    return Problem("TooLarge", message)
                if found.kind != "blob":
                    path = next(path for path, oid in entries if oid == found.oid)
                    return Problem("Unreadable", f"is said to be a file, and is a {found.kind}", path)
                self._sizes[found.oid] = found.size
                self._waiting.append((found.oid, found.content))
                self._waiting_bytes += found.size
                if self._waiting_bytes > _FLUSH_BYTES or len(self._waiting) >= _FLUSH_FILES:
                    await self.flush()
        if left < 0:
            return Problem("TooLarge", f"more than {self._most_bytes} bytes, the limit for one revision")
        return None

    async def flush(self) -> None:
        """Writes what is held in memory."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0

        def write() -> None:
            for oid, content in waiting:
                (self.root / oid).write_bytes(content)

        if waiting:
            await asyncio.to_thread(write)
