"""Commits of a git repository, read one by one: who published a package, from which workspace, and when it changed.

Porch writes one line `kpt:{json}` into the message of each commit that it makes for a package
(porch, pkg/git/annotation.go).
"""

from __future__ import annotations

import asyncio
import heapq
import re
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import field
from typing import Final

import orjson

from cacheserver.catalogs.summary import LONGEST_NAME, clip
from cacheserver.slotted import slotted
from cacheserver.sources.git.source import GitMirror

_ANNOTATION: Final = b"kpt:"
_NONCE: Final = re.compile(rb"^Cacheserver-Nonce: ([0-9a-f]{16})$", re.MULTILINE)
"""Ours (docs/sources.md, Names): a trailer of commits that were made for a draft of this server."""
_MOST_ANNOTATIONS: Final = 64
_COMMIT_BYTES: Final = 1 << 20
_TREE_BYTES: Final = 32 << 20
_PARSE_IN_THREAD_BYTES: Final = 64 << 10
_TREES_KEPT: Final = 4096
_ROWS_KEPT: Final = 200_000
"""Ours: entries of trees remembered, 40 MB; a tree of more than that is not looked into."""
_COMMITS_KEPT_BYTES: Final = 16 << 20
"""Ours: of commits remembered, by what was kept of their text; one that is forgotten is read again."""
_COMMIT_COST: Final = 400
_MOST_PARENTS: Final = 64
"""Ours: of one commit. Linux's largest merge has 66; 1 MB of text could name 20,000."""
_MOST_COMMITS: Final = 20_000
"""Ours: so far back a branch is searched for the commit that last changed a package, parents looked at included; about
20 s."""
_LONGEST_PATH: Final = 4096
_LAST_SECOND: Final = 253_402_300_799  # of the year 9999: RFC 3339 has four digits
_DIRECTORY: Final = 0o40000

_Path = tuple[str, ...]
_Rows = Mapping[str, tuple[int, str]]
"""Name -> (mode, object name)."""


@slotted(frozen=True)
class Commit:
    """authored_at: RFC 3339 in UTC, empty when no time. annotations: (package, workspace, revision). bad: those
    unreadable. nonce: of the revision that it was made for; empty where it was made for none of ours."""

    tree: str
    parents: tuple[str, ...]
    committed_s: int = 0
    author: str = ""
    authored_at: str = ""
    annotations: tuple[tuple[str, str, str], ...] = ()
    bad: tuple[str, ...] = ()
    nonce: str = ""

    def annotated(self, packages: Iterable[str]) -> tuple[str, str] | None:
        """(workspace, revision without a leading v) of the last annotation for a package of these names, if any."""
        wanted = set(packages)
        found = (said for said in reversed(self.annotations) if said[0] in wanted)
        return next(((workspace, revision.removeprefix("v")) for _, workspace, revision in found), None)


def parse(raw: bytes) -> Commit:
    """A commit object's content; what is not there or not readable stays empty."""
    head, _, message = raw.partition(b"\n\n")
    tree, author, authored_s, committed_s = "", "", -1, 0
    parents: list[str] = []
    for line in head.split(b"\n"):
        name, _, value = line.partition(b" ")
        if name == b"tree":
            tree = value.decode("ascii", "replace")
        elif name == b"parent" and len(parents) < _MOST_PARENTS:
            parents.append(value.decode("ascii", "replace"))
        elif name == b"author":
            author, authored_s = _person(value)
        elif name == b"committer":
            committed_s = max(_person(value)[1], 0)
    annotations: list[tuple[str, str, str]] = []
    bad: list[str] = []
    for line in message.split(b"\n"):
        if line.startswith(_ANNOTATION) and len(annotations) + len(bad) < _MOST_ANNOTATIONS:
            _annotation(line.removeprefix(_ANNOTATION), annotations, bad)
    nonce = _NONCE.search(message)
    return Commit(
        tree,
        tuple(parents),
        committed_s,
        author,
        _stamp(authored_s),
        tuple(annotations),
        tuple(bad),
        nonce[1].decode() if nonce else "",
    )


def _person(value: bytes) -> tuple[str, int]:
    """(e-mail, seconds) of `NAME <EMAIL> SECONDS ZONE`; -1 without a time."""
    left, _, times = value.rpartition(b">")
    email = left.rpartition(b"<")[2].decode("utf-8", "replace")
    seconds = times.split()[:1]
    fits = seconds and seconds[0].isdigit() and len(seconds[0]) <= 12
    return clip(email, LONGEST_NAME), int(seconds[0]) if fits else -1


def _stamp(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)) if 0 <= seconds <= _LAST_SECOND else ""


def _annotation(written: bytes, good: list[tuple[str, str, str]], bad: list[str]) -> None:
    try:
        said = orjson.loads(written)
    except orjson.JSONDecodeError as exc:
        bad.append(f"not JSON: {exc}")
        return
    package = said.get("package", "") if isinstance(said, dict) else None
    workspace = said.get("workspaceName", "") if isinstance(said, dict) else None
    revision = said.get("revision", "") if isinstance(said, dict) else None
    if not isinstance(package, str) or not isinstance(workspace, str):
        bad.append("not an object with the strings package and workspaceName")
    elif package and len(package) <= _LONGEST_PATH and len(workspace) <= LONGEST_NAME:
        number = revision if isinstance(revision, str) and len(revision) <= LONGEST_NAME else ""
        good.append((package.strip("/"), workspace, number))


@slotted()
class Commits:
    """Reads a mirror's commits and trees, each once while it is remembered. Object names come from the mirror's refs.

    Raises, everywhere: SourceError from the mirror.
    """

    mirror: GitMirror
    _commits: OrderedDict[str, Commit] = field(default_factory=OrderedDict)
    _commits_bytes: int = 0
    _trees: OrderedDict[str, _Rows] = field(default_factory=OrderedDict)
    _rows_kept: int = 0

    async def load(self, oids: Iterable[str]) -> None:
        """Reads what is not known yet, all at once; as many are remembered as there is room for."""
        wanted = [oid for oid in dict.fromkeys(oids) if oid not in self._commits]
        async with aclosing(self.mirror.cat_file(wanted, most_bytes=_COMMIT_BYTES)) as found:
            async for one in found:
                self._keep(one.oid, parse(one.content or b""))

    async def commit(self, oid: str) -> Commit:
        """One commit, read if it was not yet. Raises: MirrorDamagedError, SourceError."""
        if oid not in self._commits:
            await self.load([oid])
        self._commits.move_to_end(oid)
        return self._commits[oid]

    def _keep(self, oid: str, commit: Commit) -> None:
        self._commits[oid] = commit
        self._commits_bytes += _cost(commit)
        while self._commits_bytes > _COMMITS_KEPT_BYTES and len(self._commits) > 1:
            self._commits_bytes -= _cost(self._commits.popitem(last=False)[1])

    async def last_changes(
        self, head: str, directories: Iterable[str], known: Mapping[str, Mapping[str, str]]
    ) -> dict[str, str]:
        """Directory -> the newest commit that changed it, as `git log -1 -- DIRECTORY` finds it from `head`.

        A merge that equals one of its parents changed nothing: that parent is followed, the first if there are several
        (git-log, History Simplification). known: commit -> earlier answers for it, which need no search.
        """
        found: dict[str, str] = {}
        waiting: dict[str, set[str]] = {head: set(directories)}
        queue = [(-(await self.commit(head)).committed_s, head)]
        looked_at = 0
        while looked_at < _MOST_COMMITS:
            if not queue:
                return found
            _, oid = heapq.heappop(queue)
            left = waiting.pop(oid, set())
            answers = known.get(oid, {})
            found.update((directory, answers[directory]) for directory in left if directory in answers)
            left -= answers.keys()
            if not left:
                continue
            commit = await self.commit(oid)
            looked_at += 1 + max(len(commit.parents) - 1, 0)
            for parent in dict.fromkeys(commit.parents):
                before = await self.commit(parent)
                changed = await self._differing(
                    commit.tree, before.tree, [tuple(filter(None, d.split("/"))) for d in left]
                )
                same = left - {"/".join(path) for path in changed}
                if same:
                    if parent not in waiting:
                        heapq.heappush(queue, (-before.committed_s, parent))
                    waiting.setdefault(parent, set()).update(same)
                    left -= same
            found.update(dict.fromkeys(left, oid))
        for oid, left in waiting.items():
            found.update(dict.fromkeys(left, oid))
        return found

    async def _differing(self, tree: str, other: str, paths: Sequence[_Path], at: int = 0) -> list[_Path]:
        """The paths, all the same in their first `at` parts, that lead to something else in the two trees."""
        if tree == other:
            return []
        changed = [path for path in paths if len(path) == at]
        below: dict[str, list[_Path]] = {}
        for path in paths:
            if len(path) > at:
                below.setdefault(path[at], []).append(path)
        if not below:
            return changed
        here, there = await self._rows(tree), await self._rows(other)
        for name, some in below.items():
            mine, theirs = here.get(name), there.get(name)
            if mine == theirs:
                continue
            if mine and theirs and mine[0] == theirs[0] == _DIRECTORY:
                changed += await self._differing(mine[1], theirs[1], some, at + 1)
            else:
                changed += some
        return changed

    async def _rows(self, oid: str) -> _Rows:
        if oid in self._trees:
            self._trees.move_to_end(oid)
            return self._trees[oid]
        async with aclosing(self.mirror.cat_file([oid], most_bytes=_TREE_BYTES)) as found:
            (content,) = [one.content async for one in found]
        raw, name_bytes = content or b"", len(oid) // 2
        if len(raw) > _PARSE_IN_THREAD_BYTES:
            rows = await asyncio.to_thread(_parse_tree, raw, name_bytes)
        else:
            rows = _parse_tree(raw, name_bytes)
        if len(rows) > _ROWS_KEPT:
            rows = {}
        self._trees[oid] = rows
        self._rows_kept += len(rows)
        while self._rows_kept > _ROWS_KEPT or len(self._trees) > _TREES_KEPT:
            self._rows_kept -= len(self._trees.popitem(last=False)[1])
        return rows


def _cost(commit: Commit) -> int:
    """Bytes that a commit holds, about."""
    said = sum(sum(map(len, annotation)) + 220 for annotation in commit.annotations)
    return _COMMIT_COST + 90 * len(commit.parents) + said + sum(map(len, commit.bad))


def _parse_tree(content: bytes, name_bytes: int) -> _Rows:
    """A tree object: `MODE NAME`, a NUL, the raw object name; again and again (git, tree-walk.c). What is broken ends
    it: such a tree was refused when it was listed."""
    rows: dict[str, tuple[int, str]] = {}
    at = 0
    while (end := content.find(b"\0", at)) >= 0 and len(rows) <= _ROWS_KEPT:
        mode, _, name = content[at:end].partition(b" ")
        at = end + 1 + name_bytes
        if mode and not mode.strip(b"01234567"):
            rows[name.decode(errors="surrogateescape")] = (int(mode, 8), content[end + 1 : at].hex())
    return rows
