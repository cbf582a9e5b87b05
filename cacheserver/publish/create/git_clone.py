"""Packages of git repositories that are no Repositories here, as the beginning of a draft: fetched, then forgotten.

Whatever holds for a Repository's source holds here: which URLs there may be, git's limits, the Secrets. Called by
origin.py, for who has the right to make Repositories; so nobody reaches a host by it that he could not reach anyway.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from cacheserver.catalogs.krm.facts import KPTFILE
from cacheserver.config import RepositoryConfig
from cacheserver.config.sources import GitRef, GitSource, RefKind, git_source
from cacheserver.errors import (
    RefusedError,
    SecretForbiddenError,
    SecretInvalidError,
    SecretNotFoundError,
    SourceAuthenticationError,
    SourceError,
    SourceNetworkError,
    SourceNotFoundError,
    SourceRateLimitedError,
)
from cacheserver.model import Key, RepositoryKey
from cacheserver.publish import package, refusals
from cacheserver.publish.create import tasks
from cacheserver.publish.package import File
from cacheserver.slotted import slotted
from cacheserver.sources import Access, Limits
from cacheserver.turns import Places

FIELD: Final = "spec.source.clone.git"
_AT_ONCE: Final = 4
"""Fetches of one process: each may take as much of the disk as a source's."""
_OF_ONE: Final = 2
"""Of one user among them: a server that is slow on purpose holds a place for as long as a fetch may take."""
_WITHIN_S: Final = 25.0
"""As an operation's (author.py). What takes longer is a Repository's to fetch."""
_COMMIT: Final = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64})\Z")
_INSTEAD: Final = "make it a Repository, and clone a revision of it"

AccessOf = Callable[[RepositoryConfig], Awaitable[Access]]
"""Who we are to the source of a Repository that names these Secrets. Raises: SourceError."""


@slotted(frozen=True)
class Asked:
    """ref: branch, tag or commit. directory: from the root of the repository. secret, ca_secret: names, or empty."""

    url: str
    ref: str
    directory: str = ""
    secret: str = ""
    ca_secret: str = ""


@slotted(frozen=True)
class GitClone(tasks.Clone):
    """A clone of what lies in git and is served by nobody."""

    def task(self) -> dict[str, Any]:
        """As Porch has it: api/porch/v1alpha1, Task."""
        git = {name: self.origin[name] for name in ("repo", "ref", "directory")}
        return {"type": "clone", "clone": {"upstreamRef": {"type": "git", "git": git}}}


class GitClones:
    """One per process."""

    def __init__(
        self,
        scratch: Path,
        limits: Limits,
        access: AccessOf,
        *,
        is_local: Callable[[str], bool],
        within_s: float = _WITHIN_S,
    ) -> None:
        """limits: of each fetch. is_local: whether a file:// URL is one that the operator named as a source."""
        self._scratch = scratch
        self._limits = limits
        self._access = access
        self._is_local = is_local
        self._within_s = within_s
        self._places = Places(_AT_ONCE, _OF_ONE)

    async def read(
        self, key: Key, asked: Asked, most: package.Limits, user: str
    ) -> tuple[Mapping[str, str], dict[str, File]]:
        """Where it lies (Lock's fields), and its files. user: who asks; the others' fetches do not wait for all of his.

        Raises: RefusedError: 422 with the field; 503 where the server is away; 504 where it takes too long.
        """
        source = self._source(key, asked)
        try:
            async with asyncio.timeout(self._within_s), self._places.place(user):
                commit, files = await self._fetched(key, asked, source, most)
        except TimeoutError:
            why = f"Timeout: {asked.url} is not fetched within {self._within_s:.0f} s; {_INSTEAD}"
            raise RefusedError(504, "Timeout", why, kind=refusals.REVISIONS, name=key.name) from None
        except SourceError as exc:
            raise _refused(key, asked, exc) from exc
        if KPTFILE not in files:
            why = f"there is no {KPTFILE} in it at {asked.ref}"
            raise refusals.wrong(key.name, f"{FIELD}.directory", asked.directory, why)
        return {"repo": asked.url, "directory": source.directory, "ref": asked.ref, "commit": commit}, files

    def _source(self, key: Key, asked: Asked) -> GitSource:
        kind = RefKind.COMMIT if _COMMIT.match(asked.ref) else RefKind.NAME
        try:
            source = git_source(asked.url, GitRef(kind, asked.ref), asked.directory)
        except ValueError as exc:
            field = "ref" if "accepts for a branch" in str(exc) else "directory" if "inside the" in str(exc) else "url"
            raise refusals.invalid(key.name, [refusals.bad(f"{FIELD}.{field}", "", str(exc))]) from exc
        if source.url.startswith("file:") and not self._is_local(source.url):
            why = (
                "is on the server's own machine, of which only what is a Repository's source is read, and in no cluster"
            )
            raise refusals.wrong(key.name, f"{FIELD}.url", asked.url, why)
        return source

    async def _fetched(
        self, key: Key, asked: Asked, source: GitSource, most: package.Limits
    ) -> tuple[str, dict[str, File]]:
        # Imported here, as in sources.open_source: git costs a start that writes nothing a tenth of its time.
        from cacheserver.sources.git.command import Remote  # noqa: PLC0415
        from cacheserver.sources.git.source import GitSource as Opened  # noqa: PLC0415

        config = RepositoryConfig(
            RepositoryKey(key.namespace, key.repository), source, secret=asked.secret, ca_secret=asked.ca_secret
        )
        access = await self._access(config)
        place = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=self._scratch, prefix="clone-"))
        try:
            remote = Remote(source.url, access.git, access.ca)
            opened = Opened(remote, source.ref, source.directory, place, self._limits)
            commit, found = await opened.files(most_files=most.files, most_bytes=most.size)
            return commit, {path: File(content, executable) for path, content, executable in found}
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, place, ignore_errors=True))


def _refused(key: Key, asked: Asked, error: SourceError) -> RefusedError:
    if isinstance(error, SourceNetworkError | SourceRateLimitedError):
        why = f"{asked.url} cannot be asked now: {error}"
        return RefusedError(503, "ServiceUnavailable", why, kind=refusals.REVISIONS, name=key.name, retry_after_s=5)
    if isinstance(error, SecretNotFoundError | SecretForbiddenError | SecretInvalidError):
        return refusals.wrong(key.name, f"{FIELD}.secretRef", asked.secret, str(error))
    if isinstance(error, SourceAuthenticationError):
        why = f"{error}; name a secretRef with credentials, or {_INSTEAD}"
        return refusals.wrong(key.name, f"{FIELD}.secretRef", asked.secret, why)
    if isinstance(error, SourceNotFoundError):
        said = str(error)
        if "no directory" in said:
            return refusals.wrong(key.name, f"{FIELD}.directory", asked.directory, said)
        if repr(asked.ref) in said or "no such branch, tag or commit" in said:
            return refusals.wrong(key.name, f"{FIELD}.ref", asked.ref, said)
    if "leads to no commit" in str(error):
        return refusals.wrong(key.name, f"{FIELD}.ref", asked.ref, "the remote has no such branch, tag or commit")
    return refusals.wrong(key.name, f"{FIELD}.url", asked.url, str(error))
