"""Packages as discovered into a Catalog: what changed is described by the workers, what did not is counted.

Shared by both kinds of source: directories (directory.py) and git (git.py).

1. What is refused is a revision, not its whole package, where the package has others: one bad old tag must not hide
   every good one, nor a typo on the branch the tags. The revision's last good content stays where it is known.
2. A package with no good revision is rejected: ingest leaves what was served of it before. Porch lists such a revision
   with an error instead; we never served half a package, for either format, and do not begin here.
3. Either way the package is in Catalog.rejected with the reason, so Strict validation refuses the catalog for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Final

from cacheserver.catalogs.catalog import Catalog, Finding, ParsedPackage, Problem
from cacheserver.catalogs.jobs import batched
from cacheserver.catalogs.krm import facts as f
from cacheserver.catalogs.krm import index
from cacheserver.catalogs.krm.facts import Revision
from cacheserver.catalogs.krm.jobs import Jobs
from cacheserver.catalogs.krm.wire import Described, Packed
from cacheserver.catalogs.wire import Assembled
from cacheserver.model import BlobFile, Digest, RepositoryKey
from cacheserver.slotted import slotted

_ASSEMBLE_REVISIONS: Final = 200
"""Of one job: about 10 ms."""


@slotted()
class Gathered:
    """Everything that was discovered and read. packages: name -> good revisions, possibly none.

    trees: key -> facts, of every revision's tree. cause: as Catalog's.
    """

    packages: dict[str, list[Revision]] = field(default_factory=dict)
    trees: dict[str, str] = field(default_factory=dict)
    refused: dict[str, list[Finding]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    blobs: dict[Digest, BlobFile] = field(default_factory=dict)
    cause: Finding | None = None
    ignored_tags: int = 0
    head: str = ""
    changes: Mapping[str, str] = field(default_factory=dict)
    without_package: frozenset[str] = frozenset()
    nothing: str = ""
    """nothing: as Catalog's. head, changes, without_package: as index.Known's."""

    def take(self, package: str, revision: Revision, packed: Packed, where: str, known: index.Known) -> None:
        """A tree's answer, for a revision whose `tree` is its key. where: the package's directory, for people."""
        if packed.refusal:
            problem = packed.refusal
            at = "/".join(filter(None, (where, problem.path)))
            finding = Finding(problem.reason, problem.message, at, line=packed.line, package=package)
            self.refuse(package, finding, known.revision(package, revision.name), known)
            return
        self.packages.setdefault(package, []).append(revision)
        self.trees[revision.tree] = packed.facts or known.trees[revision.tree]
        if packed.blob:
            self.blobs[packed.blob.head.digest] = packed.blob

    def refuse(self, package: str, finding: Finding, last: Revision | None, known: index.Known) -> None:
        """A revision that is not served anew. last: how it was served before; stays, beside others."""
        self.refused.setdefault(package, []).append(finding)
        kept = self.packages.setdefault(package, [])
        if last is not None and last.origin is not f.Origin.LOCAL:
            kept.append(last)
            self.trees[last.tree] = known.trees[last.tree]


async def outcome(gathered: Gathered, repository: RepositoryKey, known: index.Known, jobs: Jobs) -> Catalog:
    """Raises: CatalogError when the pool of workers cannot go on."""
    good = {name: sorted(found, key=lambda r: r.name) for name, found in gathered.packages.items() if found}
    hashes = await asyncio.to_thread(_hashes, repository, good)
    before = {name: package.input_hash for name, package in known.packages.items()}
    unchanged = {name for name, hashed in hashes.items() if before.get(name) == hashed}
    changed = (
        Described(name, [(revision, gathered.trees[revision.tree]) for revision in good[name]])
        for name in sorted(good.keys() - unchanged)
    )
    batches = batched(changed, lambda package: len(package.revisions), _ASSEMBLE_REVISIONS, _ASSEMBLE_REVISIONS)
    assembled: list[Assembled] = await jobs.gather(batches, jobs.assemble)
    rejected: dict[str, Sequence[Finding]] = dict(gathered.refused)
    packages: list[ParsedPackage] = []
    for one in sorted(assembled, key=lambda one: one.name):
        if one.records:
            packages.append(ParsedPackage(one.name, hashes[one.name], one.records))
            gathered.findings += one.findings
        else:
            rejected[one.name] = [*rejected.get(one.name, ()), *one.findings]
            del good[one.name]
    findings = [*gathered.findings, *(finding for found in rejected.values() for finding in found)]
    findings += await asyncio.to_thread(lambda: list(_warnings(good, gathered.trees)))
    digests = {digest for package in packages for record in package.records for digest in record.blobs}
    return Catalog(
        packages=packages,
        unchanged=sorted(unchanged),
        rejected=rejected,
        findings=sorted(findings, key=lambda found: (found.path, found.line)),
        index=await asyncio.to_thread(_index, good, hashes, gathered),
        blobs={digest: blob for digest, blob in gathered.blobs.items() if digest in digests},
        revisions=sum(map(len, good.values())),
        cause=gathered.cause,
        nothing="" if gathered.packages else gathered.nothing,
        ignored_tags=gathered.ignored_tags,
    )


def _hashes(repository: RepositoryKey, packages: Mapping[str, Sequence[Revision]]) -> dict[str, str]:
    return {name: index.input_hash(repository, name, revisions) for name, revisions in packages.items()}


def _index(packages: Mapping[str, Sequence[Revision]], hashes: Mapping[str, str], gathered: Gathered) -> bytes:
    used = {revision.tree for revisions in packages.values() for revision in revisions}
    known = {name: index.KnownPackage(hashes[name], revisions) for name, revisions in packages.items()}
    trees = {key: facts for key, facts in gathered.trees.items() if key in used}
    return index.encode(index.Known(known, trees, gathered.head, gathered.changes, gathered.without_package))


def _warnings(packages: Mapping[str, Sequence[Revision]], trees: Mapping[str, str]) -> Iterator[Finding]:
    """Of every tree that is served, those read long ago included; each once a package, however many tags have it."""
    for name, revisions in packages.items():
        seen: set[Problem] = set()
        for revision in revisions:
            facts = f.decode(trees[revision.tree])
            for problem in facts.warnings:
                if problem not in seen:
                    seen.add(problem)
                    where = f"{revision.lock.ref}:{revision.lock.directory}" if revision.lock else name
                    at = "/".join(filter(None, (where, problem.path)))
                    yield Finding(problem.reason, problem.message, at, package=name, warning=True)
