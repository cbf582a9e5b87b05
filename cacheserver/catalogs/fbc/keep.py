"""Which documents go into which package's blob (raw.py): the side of the process that deals out the work.

Documents are read once, and their lines set aside; of those that were known, and were not read, the lines are fetched
from their files where another document of their package changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import orjson

from cacheserver.catalogs.fbc.jobs import Jobs
from cacheserver.catalogs.fbc.raw import path_of
from cacheserver.catalogs.fbc.wire import Bound, Joined, Kept, Located, Part, Report, Scan
from cacheserver.catalogs.jobs import batched

Documents = Mapping[str, Sequence[tuple[str, Located]]]
"""Package -> (sha256, where it is) of its documents; of no package under the empty name."""

_JOIN_BYTES: Final = 4 << 20
_JOIN_PACKAGES: Final = 256


def write_digests(path: Path, documents: Iterable[str]) -> str:
    """A file of sha256 digests, as wire.Scan.known names one; returns its path."""
    path.write_bytes(b"".join(bytes.fromhex(sha256) for sha256 in documents))
    return str(path)


def of_other_schemas(documents: Documents) -> tuple[Documents, Sequence[tuple[str, Located]]]:
    """Documents of unknown schemas by the package that they name, as far as it is here; and the rest of them. Slow for
    the loop."""
    shared: dict[str, list[tuple[str, Located]]] = {}
    rest: list[tuple[str, Located]] = []
    for sha256, located in documents.get("", ()):
        package = orjson.loads(located.facts)[1]["package"]
        (shared.setdefault(package, []) if package and package in documents else rest).append((sha256, located))
    return shared, rest


class Lines:
    """Where the lines of all documents stand that this parse has read."""

    def __init__(self, jobs: Jobs, root: Path, scratch: Path) -> None:
        self._jobs = jobs
        self._root = root
        self._scratch = scratch
        self._found: dict[str, Kept] = {}

    def take(self, report: Report, scratch: Path | None = None) -> None:
        """Remember where the lines of a part stand. Slow for the loop."""
        path = str(path_of(scratch or self._scratch, report.part))
        for seen in report.seen:
            if seen.kept_bytes:
                self._found[seen.sha256] = Kept(path, seen.kept_at, seen.kept_bytes)

    def of(self, sha256: str) -> Kept | None:
        """Where the line of a document stands; None where it was not read."""
        return self._found.get(sha256)

    def missing(self, wanted: Documents) -> set[str]:
        """Paths of files with documents whose lines are still to be read. Slow for the loop."""
        return {located.path for some in wanted.values() for sha256, located in some if sha256 not in self._found}

    async def read_again(self, parts: Iterable[Sequence[Part]], wanted: Documents, known: Iterable[str]) -> None:
        """The lines that are missing, from `parts`. known: sha256 of all documents that were not read."""
        scratch = self._scratch / "again"
        await asyncio.to_thread(scratch.mkdir, exist_ok=True)

        def others() -> str:
            reading = {sha256 for some in wanted.values() for sha256, _ in some}
            return write_digests(scratch / "known", (sha256 for sha256 in known if sha256 not in reading))

        digests = await asyncio.to_thread(others)

        async def one(batch: Sequence[Part]) -> list[Report]:
            return await self._jobs.scan(Scan(str(self._root), str(scratch), digests, batch))

        for report in await self._jobs.gather(parts, one):
            await asyncio.to_thread(self.take, report, scratch)

    async def blobs(self, wanted: Documents) -> dict[str, Joined]:
        """Package -> its blob, or why there is none. Raises: CatalogError when the pool cannot go on."""
        batches, refused = await asyncio.to_thread(self._bound, wanted)

        async def join(some: Sequence[Bound]) -> list[Joined]:
            return await self._jobs.join(str(self._scratch), some)

        made = await self._jobs.gather(batches, join)
        return await asyncio.to_thread(lambda: {one.name: one for one in (*made, *refused)})

    def _bound(self, wanted: Documents) -> tuple[Sequence[Sequence[Bound]], Sequence[Joined]]:
        """What is to be joined, in jobs, and what cannot be."""
        made: list[Bound] = []
        refused: list[Joined] = []
        most = self._jobs.limits.package_bytes
        for name, documents in wanted.items():
            # OLM's loader walks: entries of a directory by name, so paths compare part by part.
            ordered = sorted(documents, key=lambda each: (each[1].path.split("/"), each[1].document))
            if any(sha256 not in self._found for sha256, _ in ordered):
                refused.append(Joined(name, None, "a document changed while it was read"))
                continue
            one = Bound(name, [self._found[sha256] for sha256, _ in ordered])
            size = _size(one)
            if size > most:
                refused.append(Joined(name, None, f"its documents come to {size} bytes; the limit is {most}"))
            else:
                made.append(one)
        return list(batched(made, _size, _JOIN_BYTES, _JOIN_PACKAGES)), refused


def _size(bound: Bound) -> int:
    return sum(line.size for line in bound.lines)
