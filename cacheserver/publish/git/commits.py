"""Commits of packages, made in our copy of a repository and pushed: pure git, no etcd.

Commits are made by one `git fast-import`, without a working copy; equal input gives equal object names, so that a
process that takes over makes again what another had begun. Every ref is pushed with a lease: the remote takes the new
value only where it still has the one that was seen (git-push, --force-with-lease), and by default all or none.
Called by turn.py.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from enum import Enum
from typing import Final

from cacheserver.archive import Part
from cacheserver.errors import SourceError, SourceInvalidError, SourceNetworkError
from cacheserver.publish.git.message import Person
from cacheserver.slotted import slotted
from cacheserver.sources.credentials import scrub
from cacheserver.sources.git.command import Answer
from cacheserver.sources.git.mirror import Copy

_BUILT: Final = "refs/cacheserver/built/"
"""Keeps what was built from git's collection until it was pushed; overwritten each time."""
_PUSH_S: Final = 120.0
"""Of one push: hooks of the remote run within it."""

# git, send-pack.c and transport.c; receive-pack.c of the other side. What says that a ref is not where it was seen.
_STALE: Final = re.compile(
    r"stale info|fetch first|non-fast-forward|already exists|cannot lock ref|failed to update ref|incorrect old value"
    r"|reference already|needs force"
)
# Of a ref that had nothing against it but went down with the others of an atomic push.
_WITH_OTHERS: Final = re.compile(r"atomic (push|transaction) fail|atomic push failure")
_BROKE_OFF: Final = b"remote failed to report status"
_NO_ATOMIC: Final = "does not support --atomic"
_HOOK: Final = re.compile("(?i)hook declined|hook failed|prohibited|protected|denied|not allowed|refus|forbidden")


class AtomicUnsupportedError(SourceError):
    """The server takes no atomic pushes; nothing was pushed."""

    reason = "AtomicUnsupported"


@slotted(frozen=True)
class NewCommit:
    """A commit to be made. parents: object names, or places of earlier commits of the same build; the first one's
    tree is what the commit begins with, and `directory` in it is replaced.

    files: asked once for the package's files, in parts; or tree: the object name of the directory's tree.
    at_s: Unix time of author and committer.
    """

    parents: tuple[str | int, ...]
    directory: str
    message: str
    author: Person
    committer: Person
    at_s: int
    files: Callable[[], AsyncGenerator[Part, None]] | None = None
    tree: str = ""


@slotted(frozen=True)
class Update:
    """A ref by its full name: what it was when it was seen, and what it is to be; empty: not there."""

    ref: str
    old: str
    new: str


class Verdict(Enum):
    """What a server said of one ref of a push."""

    OK = "ok"
    STALE = "stale"
    """The ref is not what it was when it was seen: look again."""
    REFUSED = "refused"
    """By the server's rules: hooks, protected branches, rights."""
    NOT_TRIED = "not tried"
    """It shared the fate of another ref of an atomic push."""


@slotted(frozen=True)
class Result:
    """What came of a ref. text: one line of what the server said, bounded and without credentials."""

    ref: str
    verdict: Verdict
    text: str = ""


# --- build ---


async def build(copy: Copy, commits: Sequence[NewCommit]) -> list[str]:
    """Makes the commits in the copy; returns their object names, in order. Needs the copy's lock.

    Raises: SourceInvalidError for a path that no tree should hold; what `files` raises; SourceError.
    """
    if not commits:
        return []
    # --done: a stream that breaks off makes no commit.
    options = ("--quiet", "--done", "--force", "--date-format=raw")
    printed = await copy.write("fast-import", *options, stdin=_stream(commits))
    made = printed.decode().split()
    if len(made) != len(commits):
        raise SourceError(f"git fast-import made {len(made)} of {len(commits)} commits")
    return made


async def _stream(commits: Sequence[NewCommit]) -> AsyncIterator[bytes]:
    """What git-fast-import(1) reads."""
    for at, commit in enumerate(commits):
        yield _head(at, commit)
        if commit.files is None:
            yield b"M 040000 %b %b\n" % (commit.tree.encode(), _quoted(commit.directory))
            continue
        async with aclosing(commit.files()) as parts:
            async for part in parts:
                if part.at == 0:
                    path = _quoted(f"{commit.directory}/{_checked(part.path)}")
                    mode = b"100755" if part.executable else b"100644"
                    yield b"M %b inline %b\ndata %d\n" % (mode, path, part.size)
                yield part.content
                if part.is_last:
                    yield b"\n"
    for at in range(len(commits)):
        yield b"get-mark :%d\n" % (at + 1)
    yield b"done\n"


def _head(at: int, commit: NewCommit) -> bytes:
    message = commit.message.encode(errors="replace")
    lines = [
        f"commit {_BUILT}{at}\nmark :{at + 1}\n"
        f"author {commit.author} {commit.at_s} +0000\ncommitter {commit.committer} {commit.at_s} +0000\n"
        f"data {len(message)}\n".encode(),
        message,
        b"\n",
    ]
    for verb, parent in zip(("from", *["merge"] * len(commit.parents)), commit.parents, strict=False):
        name = f":{parent + 1}" if isinstance(parent, int) else parent
        lines.append(f"{verb} {name}\n".encode())
    lines.append(b"D %b\n" % _quoted(commit.directory))
    return b"".join(lines)


def _quoted(path: str) -> bytes:
    """As fast-import takes any path: in quotes, as in C."""
    raw = path.encode(errors="surrogateescape")
    return b'"' + raw.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n") + b'"'


def _checked(path: str) -> str:
    """The path of a file in a package. Raises: SourceInvalidError where a checkout of it would leave the package."""
    # A second look: drafts are checked when they are saved. git's own names, in any case (git, path.c, verify_path).
    for part in path.split("/"):
        if part in ("", ".", "..") or part.lower() == ".git" or "\0" in part:
            raise SourceInvalidError(f"{path[:200]!r} is no path of a file in a package")
    return path


# --- push ---


async def push(copy: Copy, updates: Sequence[Update], *, atomic: bool = True) -> dict[str, Result]:
    """Pushes all updates at once, by ref; what was pushed is so in the copy too. Needs the copy's lock.

    atomic: all or none. A ref that is what it is to be already is OK. Where nothing is known of a push that broke off,
    it raises: look again then.
    Raises: AtomicUnsupportedError; SourceError where the server cannot be reached, or does not let us in.
    """
    if not updates:
        return {}
    leases = [f"--force-with-lease={update.ref}:{update.old}" for update in updates]
    options = ("--porcelain", "--no-verify", "--no-follow-tags", "--recurse-submodules=no", "--no-signed")
    wanted = [f"{update.new}:{update.ref}" for update in updates]
    answer = await copy.attempt(
        "push", *options, *(("--atomic",) if atomic else ()), *leases, "--", copy.git.remote.location, *wanted,
        timeout_s=_PUSH_S,
    )  # fmt: skip
    results = _results(answer, copy.git.remote.credentials.secrets())
    if answer.status and _NO_ATOMIC in answer.complaint:
        raise AtomicUnsupportedError(f"{copy.git.remote.url}: the server takes no atomic pushes")
    if results.keys() != {update.ref for update in updates} or _BROKE_OFF in answer.printed:
        raise copy.git.error(answer) if answer.status else SourceNetworkError("git push told of other refs than asked")
    await _note(copy, [update for update in updates if results[update.ref].verdict is Verdict.OK])
    return results


async def _note(copy: Copy, pushed: Sequence[Update]) -> None:
    """So that the sync that follows has nothing to fetch."""
    if not pushed:
        return
    zero = "0" * max(len(update.new or update.old) for update in pushed)
    lines = [f"update {u.ref} {u.new}\n" if u.new else f"update {u.ref} {zero}\n" for u in pushed]
    # Whatever it makes of it: the copy is compared with the remote before it is used.
    await copy.attempt("update-ref", "--stdin", stdin="".join(lines).encode())


def _results(answer: Answer, secrets: tuple[str, ...]) -> dict[str, Result]:
    """Of `git push --porcelain`: FLAG, tab, FROM:TO, tab, what came of it; and of the lines of the server."""
    said = "; ".join(re.findall(r"^remote: *(.*?)\s*$", answer.complaint, re.MULTILINE))
    results: dict[str, Result] = {}
    for line in answer.printed.decode(errors="replace").splitlines():
        flag, _, rest = line.partition("\t")
        names, _, summary = rest.partition("\t")
        if len(flag) != 1 or not names:
            continue
        ref = names.rpartition(":")[2]
        results[ref] = _result(ref, flag, summary, said, secrets)
    return results


def _result(ref: str, flag: str, summary: str, said: str, secrets: tuple[str, ...]) -> Result:
    if flag != "!":
        return Result(ref, Verdict.OK)
    if _WITH_OTHERS.search(summary):
        # A server that could not lock a ref tells of all alike, and of that one in words (receive-pack.c).
        return Result(ref, Verdict.STALE if _STALE.search(said) else Verdict.NOT_TRIED)
    reason = summary.rpartition("(")[2].rstrip(")")
    if _STALE.search(reason) or (_STALE.search(said) and not _HOOK.search(summary)):
        return Result(ref, Verdict.STALE, scrub(reason, secrets))
    return Result(ref, Verdict.REFUSED, scrub(": ".join(filter(None, (reason, said))), secrets))
