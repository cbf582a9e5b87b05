"""Whether a git server lets us push, found out without pushing anything: `git push --dry-run` asks, and sends nothing.

What a server decides only when something comes (rules of single branches, hooks) is not seen by this.
Called by the doctor.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from cacheserver.archive import Part
from cacheserver.errors import SourceAuthenticationError
from cacheserver.publish.git import commits
from cacheserver.publish.git.commits import NewCommit
from cacheserver.publish.git.message import AUTHOR, COMMITTER, Person
from cacheserver.publish.git.refs import HEADS
from cacheserver.sources.git.source import GitRefsSource

BRANCH: Final = f"{HEADS}drafts/cacheserver-doctor/never-pushed"
"""What the question is about: a name like those of drafts, that nobody has."""
_ASK_S: Final = 30.0


async def may_push(remote: GitRefsSource) -> None:
    """Returns where the server would take a push with these credentials.

    remote: with a cache of its own, of which nothing is needed but a commit without files. Reads no content.
    Raises: SourceError that says what is in the way.
    """
    _check_directory(remote.url)
    async with remote.writing() as copy:
        await remote.prepared()
        people = Person.of(AUTHOR), Person.of(COMMITTER)
        [commit] = await commits.build(copy, [NewCommit((), "doctor", "never pushed", *people, 0, files=_no_files)])
        options = ("--dry-run", "--porcelain", "--no-verify", "--no-signed")
        answer = await copy.attempt(
            "push", *options, "--", copy.git.remote.location, f"{commit}:{BRANCH}", timeout_s=_ASK_S
        )
        if answer.status:
            raise copy.git.error(answer)


def _check_directory(url: str) -> None:
    """Of a repository on this machine git asks nobody. Raises: SourceAuthenticationError where we may not write."""
    parts = urlsplit(url)
    if parts.scheme != "file":
        return
    path = Path(unquote(parts.path))
    for place in (path / "objects", path / "refs"):
        if place.is_dir() and not os.access(place, os.W_OK):
            raise SourceAuthenticationError(f"{url}: the user that the server runs as may not write {place}")


async def _no_files() -> AsyncGenerator[Part, None]:
    nothing: tuple[Part, ...] = ()
    for part in nothing:
        yield part
