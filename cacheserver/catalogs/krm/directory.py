"""A directory of KRM packages: every directory with a Kptfile is one, with a single revision, `local`.

What a directory source shows as a file is one, links inside its root included (Kubernetes volumes are made of them).
Directories below a package are that package's files, whatever Kptfiles they hold (docs/sources.md; as in Porch,
pkg/externalrepo/git).
"""

from __future__ import annotations

import asyncio
import hashlib
import stat
from dataclasses import field
from pathlib import Path
from typing import Final

from cacheserver.catalogs.catalog import Catalog, Files, Finding, Problem, Progress
from cacheserver.catalogs.jobs import Assignment, batched
from cacheserver.catalogs.krm import index
from cacheserver.catalogs.krm.discover import owner_of, unnameable
from cacheserver.catalogs.krm.facts import KPTFILE, Origin, Revision
from cacheserver.catalogs.krm.jobs import Jobs
from cacheserver.catalogs.krm.outcome import Gathered, outcome
from cacheserver.catalogs.krm.wire import Pack, Packed, Wanted
from cacheserver.catalogs.limits import MIB
from cacheserver.catalogs.summary import there
from cacheserver.slotted import slotted

LOCAL: Final = "local"
"""spec.revision of what a directory holds: it has no history, so it is the one there is. Its number is a branch's, -1:
no version, and never the latest (docs/sources.md)."""

_AND: Final = "+"
"""Between the digest and the warnings in a tree's key."""
_BATCH_BYTES: Final = 2 * MIB
_BATCH_TREES: Final = 64


@slotted()
class _Package:
    """directory: relative to the root, empty for the root itself. files: relative to the root."""

    name: str
    directory: str
    files: list[str] = field(default_factory=list)
    executable: list[str] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    refusal: Problem | None = None
    size: int = 0

    def inside(self, path: str) -> str:
        """`path` relative to the package."""
        return path.removeprefix(f"{self.directory}/") if self.directory else path

    def warned(self) -> str:
        """A hash of the warnings, empty without any."""
        warnings = [(warning.reason, warning.message, warning.path) for warning in self.warnings]
        return hashlib.sha256(repr(warnings).encode()).hexdigest()[:16] if warnings else ""


class Parse:
    """One run. Not to be used twice."""

    def __init__(self, tree: Files, given: Assignment) -> None:
        self._tree = tree
        self._given = given
        self._jobs = Jobs(given)
        self._found = Gathered()

    async def run(self, known: bytes, progress: Progress) -> Catalog:
        """Raises: CatalogError when the pool itself cannot go on."""
        remembered = await asyncio.to_thread(index.decode, known)
        packages = await asyncio.to_thread(self._discover)
        total, done = sum(package.size for package in packages), 0

        async def read(batch: list[_Package]) -> None:
            nonlocal done
            await self._read(batch, remembered)
            done += sum(package.size for package in batch)
            progress("parsing", done, total)

        if not packages:
            self._found.nothing = f"there is no {KPTFILE}; {await asyncio.to_thread(there, self._tree.files)}"
        await self._jobs.each(batched(packages, lambda package: package.size, _BATCH_BYTES, _BATCH_TREES), read)
        return await outcome(self._found, self._given.key, remembered, self._jobs)

    def _discover(self) -> list[_Package]:
        """Packages by directory, the largest first; what the source refused becomes a finding. Blocks."""
        marked = {path.rpartition("/")[0] for path in self._tree.files if path.rpartition("/")[2] == KPTFILE}
        packages: dict[str, _Package] = {}
        for path in self._tree.files:
            directory = owner_of(path, marked)
            if directory is not None:
                # docs/sources.md, Names: a package is its path, which the root has none of.
                package = packages.setdefault(directory, _Package(directory or self._given.key.name, directory))
                size, executable = _size_and_mode(self._tree.root / path)
                package.files.append(path)
                package.size += size
                if executable:
                    package.executable.append(package.inside(path))
        for path, reason in self._tree.refused:
            directory = owner_of(path, marked)
            self._refused(path, reason, packages[directory] if directory is not None else None)
        return sorted(packages.values(), key=lambda package: -package.size)

    def _refused(self, path: str, reason: str, package: _Package | None) -> None:
        """Ours: a link or a pipe is left out with a warning; an unreadable file makes its package incomplete."""
        lost = "cannot be read" in reason
        if package is None:
            finding = Finding("Refused", reason, path, warning=not lost)
            self._found.findings.append(finding)
            if lost and self._found.cause is None:
                self._found.cause = finding
        elif lost:
            package.refusal = Problem("Unreadable", reason, package.inside(path))
        else:
            package.warnings.append(Problem("LeftOut", reason, package.inside(path)))

    async def _read(self, batch: list[_Package], known: index.Known) -> None:
        wanted: list[tuple[_Package, Wanted]] = []
        for package in batch:
            refusal = (
                package.refusal
                or self._oversized(package)
                or unnameable(self._given.key, package.name, LOCAL, self._jobs.limits)
            )
            if refusal:
                self._take(package, Packed(refusal=refusal), known)
                continue
            last = known.revision(package.name, LOCAL)
            digest, _, warned = last.tree.partition(_AND) if last else ("", "", "")
            files = [(package.inside(path), path) for path in package.files]
            recognised = digest if warned == package.warned() else ""
            wanted.append((package, Wanted(package.name, files, recognised, package.warnings, package.executable)))
        if wanted:
            job = Pack(str(self._tree.root), self._given.blobs, [tree for _, tree in wanted])
            for (package, _), packed in zip(wanted, await self._jobs.pack(job), strict=True):
                self._take(package, packed, known)

    def _oversized(self, package: _Package) -> Problem | None:
        limits = self._jobs.limits
        if len(package.files) > limits.package_files:
            return Problem(
                "TooManyFiles", f"{len(package.files)} files; the limit for one revision is {limits.package_files}"
            )
        if package.size > limits.package_bytes:
            return Problem("TooLarge", f"{package.size} bytes; the limit for one revision is {limits.package_bytes}")
        return None

    def _take(self, package: _Package, packed: Packed, known: index.Known) -> None:
        # What was left out is not part of the content, but of the facts; and equal trees mean equal facts.
        revision = Revision(LOCAL, Origin.LOCAL, f"{packed.digest}{_AND}{package.warned()}")
        self._found.take(package.name, revision, packed, package.directory, known)


def _size_and_mode(path: Path) -> tuple[int, bool]:
    """Bytes, and whether its owner may run it, which is what git keeps of a mode."""
    try:
        about = path.stat()
        return about.st_size, bool(about.st_mode & stat.S_IXUSR)
    except OSError:
        return 0, False  # The worker will meet the same, and say so.
