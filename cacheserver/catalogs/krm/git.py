"""KRM packages of a git repository: what its source discovered, less what is known, read and put together.

A tree of files whose key is known is neither read nor parsed again. What is wrong with one revision stays with it
(outcome.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from cacheserver.catalogs.catalog import Catalog, Finding, Progress
from cacheserver.catalogs.jobs import Assignment, batched
from cacheserver.catalogs.krm import index
from cacheserver.catalogs.krm.discover import Files, Place
from cacheserver.catalogs.krm.jobs import Jobs
from cacheserver.catalogs.krm.outcome import Gathered, outcome
from cacheserver.catalogs.krm.packages import Candidate, Discovery, Packages
from cacheserver.catalogs.krm.wire import Pack, Packed, Wanted

_BATCH_TREES: Final = 16
"""Of one job: about 1 MB of real packages, on disk until it is done."""
_BATCH_FILES: Final = 20_000
"""Of one job with more than one tree: each name is 200 bytes here, 200 in the job, and 400 in its worker."""


class Parse:
    """One run. Not to be used twice."""

    def __init__(self, packages: Packages, given: Assignment) -> None:
        self._packages = packages
        self._given = given
        self._jobs = Jobs(given)
        self._known = index.Known()
        self._found = Gathered()

    async def run(self, known: bytes, progress: Progress) -> Catalog:
        """Raises: SourceError from the source, CatalogError when the pool itself cannot go on."""
        self._known = await asyncio.to_thread(index.decode, known)
        discovery = await self._packages.discover(self._given.key, self._known, self._jobs.limits)
        self._take(discovery)
        await self._read(discovery.candidates, progress)
        return await outcome(self._found, self._given.key, self._known, self._jobs)

    def _take(self, discovery: Discovery) -> None:
        found = self._found
        found.findings += discovery.findings
        found.ignored_tags, found.head, found.nothing = discovery.ignored_tags, discovery.head, discovery.nothing
        found.changes, found.without_package = discovery.changes, frozenset(discovery.without_package)
        for place, why in discovery.refused:
            finding = Finding(why.reason, why.message, _where(place), package=place.package)
            found.refuse(place.package, finding, self._known.revision(place.package, place.name), self._known)

    async def _read(self, candidates: Sequence[Candidate], progress: Progress) -> None:
        """Every tree that is not known, once, however many revisions have it."""
        waiting: dict[str, list[Candidate]] = {}
        for candidate in candidates:
            tree = candidate.revision.tree
            if tree in self._known.trees:
                self._found.packages.setdefault(candidate.place.package, []).append(candidate.revision)
                self._found.trees[tree] = self._known.trees[tree]
            else:
                waiting.setdefault(tree, []).append(candidate)
        done = 0

        async def read(trees: list[list[Candidate]]) -> None:
            nonlocal done
            wanted = [(some[0].place.package, some[0].files) for some in trees]
            packed = await self._pack([(name, files) for name, files in wanted if files is not None])
            for some, answer in zip(trees, packed, strict=True):
                for one in some:
                    self._found.take(one.place.package, one.revision, answer, _where(one.place), self._known)
            done += len(trees)
            progress("parsing", done, len(waiting))

        # By package: neighbours share most of their files, which are read once a batch.
        ordered = sorted(waiting.values(), key=lambda some: (some[0].place.package, some[0].place.name))
        await self._jobs.each(batched(ordered, _files, _BATCH_FILES, _BATCH_TREES), read)

    async def _pack(self, trees: Sequence[tuple[str, Files]]) -> list[Packed]:
        """The content and facts of packages' files, in order. Raises: SourceError, CatalogError."""
        async with self._packages.staged(
            [files for _, files in trees], self._given.scratch, self._jobs.limits
        ) as staged:
            good = [tree for tree, refusal in zip(trees, staged.refusals, strict=True) if refusal is None]
            wanted = await asyncio.to_thread(_wanted, good)
            packed = iter(await self._jobs.pack(Pack(str(staged.root), self._given.blobs, wanted)) if wanted else ())
            return [Packed(refusal=refusal) if refusal else next(packed) for refusal in staged.refusals]


def _files(some: Sequence[Candidate]) -> int:
    """Files of the tree that the candidates share."""
    files = some[0].files
    return files.count if files is not None else 0


def _wanted(trees: Sequence[tuple[str, Files]]) -> list[Wanted]:
    return [
        Wanted(name, files.entries(), warnings=files.warnings, executable=files.executable()) for name, files in trees
    ]


def _where(place: Place) -> str:
    """As git writes it: REF:PATH."""
    return f"{place.ref}:{place.directory}"
