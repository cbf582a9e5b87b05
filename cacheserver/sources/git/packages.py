"""A git repository as a source of KRM packages: finds them in its branches and tags, and gets their files for a parse.

What a name, a tree or a commit means for packages, catalogs/krm says (discover.py); what is read of git is here alone.
A tag or draft that stands where it stood is not listed again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Final

from cacheserver.catalogs.catalog import Finding, Problem
from cacheserver.catalogs.krm import discover
from cacheserver.catalogs.krm.discover import Files, Place
from cacheserver.catalogs.krm.facts import KPTFILE, Lock, Origin, Revision
from cacheserver.catalogs.krm.index import Known
from cacheserver.catalogs.krm.packages import IGNORED_TAG, Candidate, Discovery, Staged
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.catalogs.summary import counted, first_of, there
from cacheserver.errors import SourceInvalidError, SourceNotFoundError, SourceTooLargeError
from cacheserver.model import RepositoryKey
from cacheserver.slotted import slotted
from cacheserver.sources.git.branch import Branch
from cacheserver.sources.git.commits import Commits
from cacheserver.sources.git.source import GitMirror
from cacheserver.sources.git.stage import staged
from cacheserver.sources.tree import Tree

_MOST_WARNINGS: Final = 50
"""Warnings of one kind; the rest is counted. Repositories with thousands of release tags exist."""

_NAMED: Final = 5


@slotted(frozen=True, kw_only=True)
class PackagesTree(Tree):
    """A whole repository: no file on disk, but packages to be found and read (catalogs.krm.packages.Packages).

    mirror: closed with this. url: of the remote, for locks. directory: where packages begin, empty for the root.
    branch: of the mirror and the directory.
    """

    mirror: GitMirror
    url: str
    directory: str
    branch: Branch

    async def discover(self, key: RepositoryKey, known: Known, limits: ParseLimits) -> Discovery:
        """As Packages.discover."""
        return await _Search(self, key, known, limits).run()

    def staged(self, trees: Sequence[Files], scratch: Path, limits: ParseLimits) -> AbstractAsyncContextManager[Staged]:
        """As Packages.staged."""
        return staged(self.mirror, trees, scratch, limits)

    async def holds_packages(self) -> bool:
        """Whether there is any: a Kptfile on the branch, or where a tag or draft says. Raises: SourceError."""
        with contextlib.suppress(SourceNotFoundError):
            if await self.branch.packages():
                return True
        named = await asyncio.to_thread(discover.by_name, self.mirror.refs, self.directory, "")
        without = set(self.branch.trees)
        for commit, path in dict.fromkeys((place.commit, place.directory) for place in named.places):
            with contextlib.suppress(SourceNotFoundError):
                if await self.mirror.holds(commit, path, KPTFILE, without):
                    self.branch.forget_files()
                    return True
        return False

    async def aclose(self) -> None:
        """Ends git's process."""
        await self.mirror.aclose()


class _Search:
    """One discovery. Not to be used twice."""

    def __init__(self, tree: PackagesTree, key: RepositoryKey, known: Known, limits: ParseLimits) -> None:
        self._mirror = tree.mirror
        self._on_branch = tree.branch
        self._url = tree.url
        self._directory = tree.directory
        self._key = key
        self._known = known
        self._limits = limits
        self._commits = Commits(tree.mirror)
        self._found = Discovery()
        self._nothing = ""

    async def run(self) -> Discovery:
        """Raises: SourceError."""
        named = await asyncio.to_thread(discover.by_name, self._mirror.refs, self._directory, self._key.name)
        branch = await self._branch()
        places, rivals = discover.without_rivals([*named.places, *branch])
        self._warn("DuplicateRevision", [(place.ref, why, place.package) for place, why in rivals])
        candidates: list[Candidate] = []
        fresh: list[tuple[Place, Files]] = []
        for place in places:
            if (problem := discover.unnameable(self._key, place.package, place.name, self._limits)) is not None:
                self._found.refused.append((place, problem))
            elif place in branch:
                fresh.append((place, branch[place]))
            elif (known := self._stands(place)) is not None:
                candidates.append(Candidate(place, known))
            elif (files := await self._files(place, named)) is not None:
                fresh.append((place, files))
        candidates += await self._dated(fresh, {place.directory for place in branch})
        self._found.ignored_tags = len(named.ignored)
        self._warn(IGNORED_TAG, [(ref, why, "") for ref, why in named.ignored])
        self._warn("IgnoredDraft", [(ref, why, "") for ref, why in named.ignored_drafts])
        self._found.candidates = [self._marked(candidate, named.deletions) for candidate in candidates]
        if not candidates and not self._found.refused:
            self._found.nothing = f"{self._nothing}{_in_vain(named)}"
        return self._found

    async def _branch(self) -> dict[Place, Files]:
        """What the branch holds; nothing where the repository is empty, or the branch has no such directory."""
        branch, within = self._on_branch, f" in {self._directory!r}" if self._directory else ""
        self._found.head = branch.commit
        try:
            packages = await branch.packages()
        except SourceNotFoundError:
            why = f"the branch has no directory {self._directory!r}: only tags and drafts are served"
            self._warn("NoDirectory", [(branch.name, why, "")])
            there_is = await self._at_root(branch.commit)
            self._nothing = f"branch {branch.name!r} has no directory {self._directory!r}; {there_is}"
            return {}
        self._nothing = "the repository has no branch yet"
        if branch.commit and not packages:
            there_is = await asyncio.to_thread(there, branch.paths())
            self._nothing = f"branch {branch.name!r} has no {KPTFILE}{within}; {there_is}"
        branch.forget_files()
        self._warn("OddKptfile", [(f"{branch.name}:{path}", why, "") for path, why in branch.odd])
        found: dict[Place, Files] = {}
        for files in packages:
            package = discover.package_name(files.directory, self._directory, self._key.name)
            assert package is not None, "the listing is of our directory"
            found[Place(package, files.directory, branch.name, Origin.BRANCH, branch.commit, branch.name)] = files
        return found

    async def _at_root(self, commit: str) -> str:
        """What the branch holds, as far as it can be listed."""
        try:
            listing = await self._mirror.ls_tree(commit)
        except SourceTooLargeError:
            return "it has too many files to list"
        return await asyncio.to_thread(there, [entry.path for entry in listing.entries])

    def _stands(self, place: Place) -> Revision | None:
        """The revision as known, when its ref leads where it led: the same commit holds the same files."""
        known = self._known.revision(place.package, place.name)
        if (
            known is None
            or known.origin is not place.origin
            or known.lock is None
            or known.tree not in self._known.trees
        ):
            return None
        return known if known.lock == self._lock(place, place.commit) else None

    async def _files(self, place: Place, named: discover.Named) -> Files | None:
        """A tag's or draft's files; None where there is no package, which is noted in `named`."""
        without_package = f"{place.commit} {place.directory}"
        files: Files | None = None
        if without_package not in self._known.without_package:
            try:
                listing = await self._mirror.ls_tree(place.commit, place.directory)
                files = await asyncio.to_thread(discover.at_top, listing, place.directory)
            except SourceNotFoundError:
                pass
            except (SourceTooLargeError, SourceInvalidError) as exc:
                if type(exc) not in (SourceTooLargeError, SourceInvalidError):
                    raise  # A narrower one speaks of our copy, not of this commit.
                self._found.refused.append((place, Problem(type(exc).reason, str(exc))))
                await asyncio.sleep(0)  # refused unread: of thousands in a row none would let the loop go on
                return None
        if files is None:
            self._found.without_package.add(without_package)
            into = named.ignored if place.origin is Origin.TAG else named.ignored_drafts
            into.append((place.ref, f"there is no {KPTFILE} in {place.directory} at that commit"))
        return files

    async def _dated(self, fresh: Sequence[tuple[Place, Files]], on_branch: set[str]) -> list[Candidate]:
        """Revisions of places, each with its commit, author and workspace."""
        await self._commits.load(place.commit for place, _ in fresh)
        changes: dict[str, str] = {}
        if on_branch:
            known = {self._known.head: self._known.changes}
            changes = await self._commits.last_changes(self._found.head, on_branch, known)
        self._found.changes = changes
        candidates = []
        for place, files in fresh:
            commit_oid = place.commit
            if place.origin is Origin.BRANCH:
                # Not the branch's head: each push would change every package of the branch (ARCHITECTURE.md, decision
                # 21).
                commit_oid = changes[place.directory]
            revision = Revision(
                place.name, place.origin, files.key, workspace=place.name, lock=self._lock(place, commit_oid)
            )
            candidates.append(Candidate(place, await self._published(place, revision, commit_oid), files))
        return candidates

    async def _published(self, place: Place, revision: Revision, commit_oid: str) -> Revision:
        """With workspace and publication, as far as the commit says (docs/sources.md; Porch's
        pkg/externalrepo/git/commit.go, its lines kpt:).

        Porch looks back for the newest commit that it annotated for the package; ours looks at the one that the
        revision is: Porch tags the commit that it annotates, and a search costs a walk of the history for each tag.
        """
        commit = await self._commits.commit(commit_oid)
        if commit.bad:
            message = f"commit {commit_oid[:12]} has a line kpt: that is {commit.bad[0]}; it is ignored"
            self._warn("InvalidAnnotation", [(place.ref, message, place.package)])
        annotated = commit.annotated((place.directory, place.package))
        match place.origin:
            case Origin.TAG:
                workspace, number = annotated or ("", "")
                # Of another revision where somebody put a tag of his own on a commit that was made for one.
                own = workspace and number == place.name.removeprefix("v")
                return replace(
                    revision,
                    workspace=workspace if own else place.name,
                    nonce=commit.nonce,
                    published_at=commit.authored_at,
                    published_by=commit.author,
                )
            case Origin.BRANCH if annotated is not None:
                return replace(revision, published_at=commit.authored_at, published_by=commit.author)
            case Origin.BRANCH:
                return revision
            case _:
                return replace(revision, nonce=commit.nonce)  # A draft has not been published yet.

    def _lock(self, place: Place, commit: str) -> Lock:
        """Ours: the directory from the repository's root, not from the source's, so that kpt finds it there."""
        return Lock(self._url, place.directory, place.ref, commit)

    def _marked(self, candidate: Candidate, deletions: set[tuple[str, str]]) -> Candidate:
        """Says whether it is proposed for deletion: the flag comes and goes while the revision stands still."""
        place = candidate.place
        flag = place.origin in (Origin.TAG, Origin.BRANCH) and (place.directory, place.name) in deletions
        return replace(candidate, revision=replace(candidate.revision, deletion_proposed=flag))

    def _warn(self, reason: str, warnings: Sequence[tuple[str, str, str]]) -> None:
        """warnings: (ref, message, package)."""
        for ref, message, package in warnings[:_MOST_WARNINGS]:
            self._found.findings.append(Finding(reason, message, ref, package=package, warning=True))
        if len(warnings) > _MOST_WARNINGS:
            message = f"{len(warnings) - _MOST_WARNINGS} more of this kind are not listed"
            self._found.findings.append(Finding(reason, message, warning=True))


def _in_vain(named: discover.Named) -> str:
    """Of tags and drafts that name no package: how many, and the first of them."""
    said = ""
    for what, ignored in (("tag", named.ignored), ("draft", named.ignored_drafts)):
        if ignored:
            names = first_of([ref for ref, _ in ignored], _NAMED)
            one = len(ignored) == 1
            said += f"; {counted(len(ignored), what)} {'names' if one else 'name'} no directory with one: {names}"
    return said
