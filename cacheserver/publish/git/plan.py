"""What an operation has to do in git, as the repository stands: commits to be made and refs to be moved, or why not.

Nothing is moved here. Several plans are made one upon the other, so that one push carries them all: each approval's
commit is the parent of the next one's. Called by turn.py, under the copy's lock.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import field, replace
from datetime import datetime
from typing import Final

from cacheserver.archive import Part
from cacheserver.catalogs import semver
from cacheserver.model import Digest
from cacheserver.publish import versions
from cacheserver.publish.git import message
from cacheserver.publish.git.commits import NewCommit, Update
from cacheserver.publish.git.message import Person
from cacheserver.publish.git.refs import HEADS, TAGS, check_ref
from cacheserver.publish.outcome import ACCEPT_BASE, OVERWRITE, Failure, Object, taken_apart
from cacheserver.slotted import slotted
from cacheserver.sources.git.mirror import Copy, RemoteRefs
from cacheserver.store.authored import Draft, Held, Operation, Step

_NUMBER: Final = re.compile(r"v([0-9]{1,9})\Z")
_HISTORY: Final = 50
"""Commits of a package's directory that are asked for its numbers and for who changed it last."""

FilesOf = Callable[[Digest], Callable[[], AsyncGenerator[Part, None]]]
"""The files of a draft, by the digest of its content."""

Rank = tuple[semver.Version, bool]


def draft_branch(directory: str, workspace: str) -> str:
    """Short name of a draft's branch (docs/sources.md)."""
    return f"drafts/{directory}/{workspace}"


def proposed_branch(directory: str, workspace: str) -> str:
    """As draft_branch, of one that is proposed."""
    return f"proposed/{directory}/{workspace}"


def deletion_branch(directory: str, revision: str) -> str:
    """Short name of the branch that marks a revision proposed for deletion."""
    return f"deletionProposed/{directory}/{revision}"


@slotted()
class View:
    """A repository's refs as they were seen, and the main branch as the plans so far would leave it.

    main: its full name. head: object name, place of a commit of `commits`, or empty. packages: directories that a plan
    publishes already.
    """

    main: str
    oids: Mapping[str, str]
    head: str | int
    tags: Mapping[str, Mapping[str, str]]
    below: frozenset[str]
    commits: list[NewCommit] = field(default_factory=list)
    packages: set[str] = field(default_factory=set)

    @classmethod
    async def of(cls, seen: RemoteRefs) -> View:
        """tags: directory -> name -> commit. below: every name that some ref lies under."""

        def read() -> tuple[dict[str, dict[str, str]], frozenset[str]]:
            tags: dict[str, dict[str, str]] = {}
            below: set[str] = set()
            for name in seen.oids:
                if not name.endswith("^{}"):
                    directory, _, last = name.rpartition("/")
                    if name.startswith(TAGS):
                        tags.setdefault(directory.removeprefix(TAGS), {})[last] = seen.commit(name)
                    while directory not in below:
                        below.add(directory)
                        directory = directory.rpartition("/")[0]
            return tags, frozenset(below)

        tags, below = await asyncio.to_thread(read)
        return cls(seen.head, seen.oids, seen.oids.get(seen.head, ""), tags, below)

    def head_of(self, branch: str) -> str:
        """Commit of a branch by its short name; empty: there is none."""
        return self.oids.get(f"{HEADS}{branch}", "")

    def problem(self, ref: str) -> str:
        """Why a ref of this full name cannot be made; empty: it can."""
        if bad := check_ref(ref):
            return f"{ref} cannot be made: {bad}"
        above = ref.rpartition("/")[0]
        while above:
            if above in self.oids:
                return f"{ref} cannot be made beside {above}: git keeps refs as files"
            above = above.rpartition("/")[0]
        return (
            f"{ref} cannot be made: there are refs below it, and git keeps refs as files" if ref in self.below else ""
        )


@slotted(frozen=True)
class Move:
    """As commits.Update; new: an object name, the place of a commit of the view, or empty."""

    ref: str
    old: str
    new: str | int


@slotted(frozen=True)
class Plan:
    """What is to be pushed for one revision; no move: git is as it is to be already.

    draft: its record if this succeeds (commit: where the branch is then; its digest and branch), None: untouched.
    made: where the draft's new commit is in the view, None: there is none. revision, commit: of an approval.
    """

    held: Held
    moves: tuple[Move, ...] = ()
    draft: Draft | None = None
    made: int | None = None
    revision: str = ""
    commit: str | int = ""

    def updates(self, made: Sequence[str]) -> list[Update]:
        """made: object names of the view's commits."""
        return [Update(m.ref, m.old, made[m.new] if isinstance(m.new, int) else m.new) for m in self.moves]


class RefusedPlan(Exception):  # noqa: N818  it is an answer
    """The operation cannot be done as git stands."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Later(Exception):  # noqa: N818
    """Not in the same push as what is planned already."""


@slotted(frozen=True)
class People:
    """author: of commits that no user is known of; committer: of all."""

    author: str
    committer: Person


def invalid(message: str) -> RefusedPlan:
    """422, which no repetition cures."""
    return RefusedPlan(Failure(422, "Invalid", message))


def diverged(draft: Draft, found: str) -> RefusedPlan:
    """Its branch is not where we left it. found: where it is, empty where it is gone."""
    return invalid(
        f"Diverged: the branch {draft.branch} is at {found[:12] or 'no commit'}, and we left it at "
        f"{draft.commit[:12]}: somebody else moved it. Both are kept; save it with the annotation "
        f"{OVERWRITE}: {found or 'none'} to take ours, or delete the draft"
    )


class Planner:
    """Plans of one look at a repository."""

    def __init__(self, copy: Copy, view: View, people: People, files_of: FilesOf) -> None:
        self._copy = copy
        self.view = view
        self._people = people
        self._files_of = files_of
        self._known: dict[str, str] = {}
        self._said: list[str] = []

    async def look_ahead(self, waiting: Sequence[tuple[Held, int]]) -> None:
        """Ask git at once what `plan` would ask of it for each approval: two processes, and not two for each.

        waiting: with the highest number that is noted of the package. Raises: SourceError.
        """
        drafts = [
            (held.draft, highest)
            for held, highest in waiting
            if held.draft is not None and held.operation is not None and held.operation.step is Step.APPROVE
        ]
        tags = self.view.tags
        await self._trees([name for draft, _ in drafts for name in self._of_base(draft, tags.get(draft.directory, {}))])
        unnumbered = {draft.directory for draft, highest in drafts if not highest}
        if len(unnumbered) > 1:
            said = await self._history(*sorted(unnumbered))
            # Where there is more, one package could hide another's: each is asked for by itself.
            self._said = said if len(said) < _HISTORY * len(unnumbered) else []

    async def plan(self, held: Held, highest: int) -> Plan:
        """Of the revision's operation. highest: the highest number that is noted of its package.

        Raises: RefusedPlan, Later; SourceError.
        """
        operation = held.operation
        assert operation is not None
        assert held.served is not None
        served = await taken_apart(held)
        match operation.step:
            case Step.PROPOSE:
                return self._propose(held, served, operation)
            case Step.REJECT:
                return self._reject(held, served, operation)
            case Step.APPROVE:
                return await self._approve(held, served, operation, highest)
            case Step.DELETE if held.draft is not None:
                return self._drop(held, held.draft, served)
            case _:
                return self._published(held, served, operation.step)

    # --- drafts ---

    def flush(self, held: Held, served: Object, trailers: Sequence[tuple[str, str]] = ()) -> Plan:
        """Bring a draft's content to its branch. Raises: RefusedPlan where somebody else moved that."""
        draft = held.draft
        assert draft is not None
        branch = draft.branch or draft_branch(draft.directory, served.workspace)
        draft, found = self._recovered(held, replace(draft, branch=branch), served)
        if draft.commit and draft.digest == served.digest:
            return Plan(held, draft=draft)
        if not found and (problem := self.view.problem(f"{HEADS}{branch}")):
            raise invalid(problem)
        made = self._commit(draft, served, trailers, parent=found)
        return Plan(held, (Move(f"{HEADS}{branch}", found, made),), replace(draft, digest=served.digest), made)

    def _recovered(self, held: Held, draft: Draft, served: Object) -> tuple[Draft, str]:
        """The record as git has it, and the commit that its branch is at. Raises: RefusedPlan."""
        found = self.view.head_of(draft.branch)
        if found and found == draft.pushing:  # our own push, of which nobody heard any more
            draft = replace(draft, commit=draft.pushing, digest=draft.pushing_digest)
        elif found != draft.commit:
            if served.annotation(OVERWRITE) != (found or "none"):
                raise diverged(draft, found)
            draft = replace(draft, commit=found, digest="")
        return replace(draft, pushing="", pushing_digest=""), found

    def _commit(self, draft: Draft, served: Object, trailers: Sequence[tuple[str, str]], *, parent: str) -> int:
        """Its place in the view."""
        view, first = self.view, not parent
        head = view.oids.get(view.main, "")
        base = parent or head
        author = draft.authors[-1] if draft.authors else draft.created_by
        text = message.draft(
            draft.directory, served.workspace, draft.task, [(message.NONCE, draft.nonce), *trailers], first=first
        )
        view.commits.append(
            NewCommit(
                (base,) if base else (), draft.directory, text, Person.of(author, self._people.author),
                self._people.committer, draft.saved_ms // 1000, files=self._files_of(served.digest),
            )
        )  # fmt: skip
        return len(view.commits) - 1

    def _propose(self, held: Held, served: Object, operation: Operation) -> Plan:
        draft = held.draft
        if draft is None:
            raise invalid("there is no draft to propose")
        there = proposed_branch(draft.directory, served.workspace)
        by = [(message.OPERATION, operation.id), ("Proposed-by", operation.user)]
        if draft.branch == there or self.view.head_of(there) in {draft.commit, draft.pushing} - {""}:
            flushed = self.flush(_with_draft(held, replace(draft, branch=there)), served, by)
            return replace(flushed, held=held, draft=_proposed(flushed.draft, operation.user))
        flushed = self.flush(held, served, by)
        assert flushed.draft is not None
        if self.view.head_of(there):
            raise invalid(f"there is a branch {there} already, which is not of this draft: delete it in git")
        if problem := self.view.problem(f"{HEADS}{there}"):
            raise invalid(problem)
        commit = flushed.draft.commit if flushed.made is None else flushed.made
        here = flushed.draft.branch
        moves = [Move(f"{HEADS}{there}", "", commit)]
        if old := self.view.head_of(here):
            moves.append(Move(f"{HEADS}{here}", old, ""))
        return Plan(held, tuple(moves), _proposed(replace(flushed.draft, branch=there), operation.user), flushed.made)

    def _reject(self, held: Held, served: Object, operation: Operation) -> Plan:
        draft = held.draft
        if draft is None:
            raise invalid("there is no draft to reject")
        there = draft_branch(draft.directory, served.workspace)
        # Who rejects what he wrote himself forgets nobody: he could approve it once somebody else has proposed it.
        authors = draft.authors if operation.user in draft.authors else ()
        after = replace(draft, branch=there, proposed_by="", authors=authors, pushing="", pushing_digest="")
        if draft.branch == there or (not self.view.head_of(draft.branch) and self.view.head_of(there) == draft.commit):
            return Plan(held, draft=after)
        if (found := self.view.head_of(draft.branch)) != draft.commit:
            raise diverged(draft, found)
        if problem := "" if self.view.head_of(there) else self.view.problem(f"{HEADS}{there}"):
            raise invalid(problem)
        old = self.view.head_of(there)
        if old and old != draft.commit:
            raise invalid(f"there is a branch {there} already, which is not of this draft: delete it in git")
        moves = (Move(f"{HEADS}{there}", old, draft.commit), Move(f"{HEADS}{draft.branch}", found, ""))
        return Plan(held, moves, after)

    def _drop(self, held: Held, draft: Draft, served: Object) -> Plan:
        """What somebody else put on the branch stays: it is not ours to delete."""
        places = {draft.branch, *(make(draft.directory, served.workspace) for make in (draft_branch, proposed_branch))}
        ours = {draft.commit, draft.pushing} - {""}
        found = [(f"{HEADS}{branch}", self.view.head_of(branch)) for branch in sorted(places - {""})]
        return Plan(held, tuple(Move(ref, commit, "") for ref, commit in found if commit in ours))

    # --- approval ---

    async def _approve(self, held: Held, served: Object, operation: Operation, highest: int) -> Plan:
        draft, view = held.draft, self.view
        if draft is None:
            return Plan(held)  # The sync has seen it published.
        tags = view.tags.get(draft.directory, {})
        branch = f"{HEADS}{draft.branch}"
        if operation.commit:
            drop = (Move(branch, draft.commit, ""),) if view.oids.get(branch) == draft.commit else ()
            if tags.get(operation.revision) == operation.commit:
                return Plan(held, drop, revision=operation.revision, commit=operation.commit)
            if operation.revision not in tags and await self._on_main(operation.commit):
                # Of a server that takes no atomic pushes: only the branch was moved.
                tag = Move(f"{TAGS}{draft.directory}/{operation.revision}", "", operation.commit)
                return Plan(held, (tag, *drop), revision=operation.revision, commit=operation.commit)
        if draft.directory in view.packages:
            raise Later
        if served.lifecycle != "Proposed":
            raise invalid(
                f"cannot approve a package revision that is {served.lifecycle}; only Proposed can be approved"
            )
        if (found := view.oids.get(branch, "")) != draft.commit or not found:
            raise diverged(draft, found)
        tree = await self._check_base(draft, served, tags)
        revision = await self._revision(draft, operation, tags, highest)
        ref = f"{TAGS}{draft.directory}/{revision}"
        if problem := view.problem(ref):
            raise invalid(problem)
        view.commits.append(self._merge(draft, served, operation, revision, tree))
        view.head = len(view.commits) - 1
        view.packages.add(draft.directory)
        moves = (Move(ref, "", view.head), Move(branch, found, ""))
        return Plan(held, moves, revision=revision, commit=view.head)

    def _merge(self, draft: Draft, served: Object, operation: Operation, revision: str, tree: str) -> NewCommit:
        trailers = [
            (message.NONCE, draft.nonce), (message.OPERATION, operation.id),
            ("Proposed-by", draft.proposed_by), ("Approved-by", operation.user),
        ]  # fmt: skip
        text = message.approval(draft.directory, served.workspace, revision, trailers)
        parents = (self.view.head, draft.commit) if self.view.head != "" else (draft.commit,)
        author = Person.of(operation.user, self._people.author)
        at_s = int(datetime.fromisoformat(operation.at).timestamp())
        return NewCommit(parents, draft.directory, text, author, self._people.committer, at_s, tree=tree)

    async def _on_main(self, commit: str) -> bool:
        head = self.view.oids.get(self.view.main, "")
        if not head or not await self._copy.commit_of(commit):
            return False
        return (await self._copy.attempt("merge-base", "--is-ancestor", commit, head)).status == 0

    async def _check_base(self, draft: Draft, served: Object, tags: Mapping[str, str]) -> str:
        """The tree that is to be published. Raises: RefusedPlan where that would undo what others published."""
        accepted = served.annotation(ACCEPT_BASE)
        ranked, newest = self._newest(draft, tags)
        known = _rank(draft.base_revision)
        behind = bool(newest) and (known is None or max(ranked)[0] > known)
        moved = newest == draft.base_revision != "" and tags[newest] != draft.base
        if (behind or moved) and accepted not in (newest, newest.removeprefix("v")):
            raise invalid(
                f"Outdated: {newest} was published since this draft began from {draft.base_revision or 'nothing'}; "
                f"rebase it, or accept that it replaces {newest} with the annotation {ACCEPT_BASE}: {newest}"
            )
        head = self.view.oids.get(self.view.main, "")
        tree, on_main, published, rebased = await self._trees(self._of_base(draft, tags))
        if not tree:
            raise invalid(f"there is no {draft.directory} in the commit {draft.commit[:12]} of its branch")
        changed = head and on_main and on_main not in (published, tree, rebased) and accepted != on_main[:12]
        if changed and not message.speaks_of((await self._history(draft.directory))[0], draft.directory):
            raise invalid(
                f"Outdated: {draft.directory} was changed on {self.view.main.removeprefix(HEADS)} by hand since it was "
                f"last published; rebase the draft, or replace what is there with the annotation {ACCEPT_BASE}: "
                f"{on_main[:12]}"
            )
        return tree

    def _newest(self, draft: Draft, tags: Mapping[str, str]) -> tuple[list[tuple[Rank, str]], str]:
        """Published revisions of the package that stay, and the newest of these; empty for none."""
        going = {name for name in tags if self.view.head_of(deletion_branch(draft.directory, name))} - {
            draft.base_revision
        }
        ranked = [(rank, name) for name in tags if name not in going and (rank := _rank(name)) is not None]
        return ranked, max(ranked, default=(None, ""))[1]

    def _of_base(self, draft: Draft, tags: Mapping[str, str]) -> list[str]:
        """The package's tree in the draft, on the branch, in the newest revision, and in what it was rebased on."""
        head, (_, newest) = self.view.oids.get(self.view.main, ""), self._newest(draft, tags)
        others = (head, tags.get(newest), draft.rebased)
        return [f"{commit or draft.commit}:{draft.directory}" for commit in (draft.commit, *others)]

    async def _trees(self, names: Sequence[str]) -> list[str]:
        if unknown := [name for name in names if name not in self._known]:
            self._known.update(zip(unknown, await self._copy.objects(unknown), strict=True))
        return [self._known[name] for name in names]

    async def _revision(self, draft: Draft, operation: Operation, tags: Mapping[str, str], highest: int) -> str:
        if operation.version:
            return await self._named(draft, operation.version, tags)
        numbers = [int(found[1]) for name in tags if (found := _NUMBER.match(name))]
        if not highest:  # etcd knows of none: it was made anew, or this is the first
            said = self._said or await self._history(draft.directory)
            numbers += message.numbers(said, draft.directory)
        return f"v{1 + max([highest, *numbers])}"

    async def _named(self, draft: Draft, version: str, tags: Mapping[str, str]) -> str:
        """The name of a revision whose version was named. Raises: RefusedPlan where it, or a higher one, was there."""
        revision = versions.shown(version)
        if why := versions.wrong_with(version) or versions.not_above(version, tags):
            raise invalid(f"the version {revision} {why}")
        # By its text, not by what changed in the directory: a copy that changed nothing is published as well.
        naming = (f'--grep="revision":"{version.removeprefix("v")}"', "--fixed-strings")
        said = message.revisions(await self._messages(*naming), draft.directory)
        if version.removeprefix("v") in said:
            raise invalid(f"the version {revision} was published before, and is never used again: name another")
        return revision

    async def _history(self, *directories: str) -> list[str]:
        """Messages of the commits on main that changed one of the directories, newest first."""
        paths = ("--", *(f":(literal){directory}" for directory in directories))
        return await self._messages(path=paths, most=_HISTORY * len(directories))

    async def _messages(self, *choice: str, path: Sequence[str] = (), most: int = _HISTORY) -> list[str]:
        """Of commits on main, newest first. choice: options of git-log(1)."""
        head = self.view.oids.get(self.view.main, "")
        if not head:
            return []
        options = ("--first-parent", f"--max-count={most}", "--format=%B%x00", *choice)
        said = await self._copy.read("log", *options, "--end-of-options", head, *path)
        return [part.strip("\n") for part in said.decode(errors="replace").split("\0")]

    # --- what is published ---

    def _published(self, held: Held, served: Object, step: Step) -> Plan:
        lock, view = served.lock, self.view
        directory, revision = lock.get("directory", ""), served.revision
        if not directory or not revision:
            raise invalid("it has no tag in git, so it cannot be deleted through one")
        tag, marker = f"{TAGS}{directory}/{revision}", f"{HEADS}{deletion_branch(directory, revision)}"
        commit, old = view.tags.get(directory, {}).get(revision, ""), view.oids.get(marker, "")
        drop = (Move(marker, old, ""),) if old else ()
        if not commit:
            return Plan(held, drop)  # gone already: the sync sees it
        if lock.get("commit") and commit != lock["commit"]:
            raise invalid(f"the tag {directory}/{revision} was moved in git; read it again, and decide then")
        match step:
            case Step.PROPOSE_DELETION:
                if old:
                    return Plan(held)
                if problem := view.problem(marker):
                    raise invalid(problem)
                return Plan(held, (Move(marker, "", commit),))
            case Step.KEEP:
                return Plan(held, drop)
            case Step.DELETE:
                return Plan(held, (Move(tag, view.oids[tag], ""), *drop), revision=revision)
            case _:
                raise invalid(f"{step} is for drafts, and this is published")


def _with_draft(held: Held, draft: Draft) -> Held:
    return replace(held, draft=draft)


def _proposed(draft: Draft | None, user: str) -> Draft | None:
    return None if draft is None else replace(draft, proposed_by=user)


def _rank(name: str) -> Rank | None:
    """As catalogs/krm/project.py compares revisions; None for what is no version."""
    if found := re.match(r"v?([0-9]{1,18})\Z", name):
        return semver.Version(int(found[1]), 0, 0), False
    try:
        return semver.parse(name.removeprefix("v")), True
    except ValueError:
        return None


def is_behind(newest: str, base: str) -> bool:
    """Whether a draft of the revision `base`, empty for none, is overtaken by `newest`."""
    here, known = _rank(newest), _rank(base)
    return here is not None and (known is None or here > known)


def number_of(revision: str) -> int:
    """N of vN; 0 for anything else."""
    found = _NUMBER.match(revision)
    return int(found[1]) if found else 0
