"""The doctor's look at repositories that are written to: does git take what is pushed, with the credentials there are?

Nothing is pushed (publish/git/trial.py). Called by doctor.py.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cacheserver.config import RepositoryConfig
from cacheserver.errors import SourceError
from cacheserver.ingest.reading import open_for
from cacheserver.publish.git.trial import may_push
from cacheserver.slotted import slotted
from cacheserver.sources import Access, Limits, Source, Written

MOST: Final = 50
"""Repositories that are tried: the doctor is run by people, and a server that does not answer takes a minute."""
_AT_ONCE: Final = 4
_WITHIN_S: Final = 60.0

Open = Callable[[RepositoryConfig, Callable[[Access | None], Source]], Source]
"""Makes the source of a repository, with its Secrets read where it has any."""


@slotted(frozen=True)
class Tried:
    """wrong: what is in the way of a push, empty for nothing. remedy: what to do about it."""

    namespace: str
    name: str
    wrong: str = ""
    remedy: str = ""


def plainly(config: RepositoryConfig, opened: Callable[[Access | None], Source]) -> Source:
    """An Open for repositories without Secrets."""
    del config
    return opened(None)


async def try_all(configs: Sequence[RepositoryConfig], limits: Limits, make: Open = plainly) -> Sequence[Tried]:
    """One for each that can be written to, in order; past MOST they are not tried, and left out."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def each(config: RepositoryConfig) -> Tried:
        async with places:
            return await _try(config, limits, make)

    wanted = [config for config in configs if config.writable and not config.suspend][:MOST]
    return await asyncio.gather(*map(each, wanted))


async def _try(config: RepositoryConfig, limits: Limits, make: Open) -> Tried:
    key = config.key
    try:
        with tempfile.TemporaryDirectory(prefix="cacheserver-doctor-") as scratch:

            def opened(access: Access | None) -> Source:
                return open_for(config.source, config.format, cache=Path(scratch), limits=limits, access=access)

            source = make(config, opened)
            assert isinstance(source, Written), "it is writable"
            async with asyncio.timeout(_WITHIN_S):
                await may_push(await source.written())
    except SourceError as exc:
        return Tried(key.namespace, key.name, f"{exc.reason}: {exc}", _remedy(config, exc))
    except TimeoutError:
        why = f"{config.source} does not answer within {_WITHIN_S:.0f} s"
        return Tried(key.namespace, key.name, why, "the network between, or the git server")
    return Tried(key.namespace, key.name)


def _remedy(config: RepositoryConfig, error: SourceError) -> str:
    branch = "the branch, drafts/, proposed/, deletionProposed/ and tags"
    if error.reason == "AuthenticationFailed":
        whose = f"the account of the Secret {config.secret}" if config.secret else "the server's user"
        lacking = "" if config.secret or str(config.source).startswith("git+file") else "; name one with spec.secretRef"
        return f"let {whose} push to {branch}{lacking}, or say spec.access: ReadOnly"
    if error.reason == "SecretForbidden":
        return "bind the role cacheserver:secrets in its namespace (docs/cluster.md)"
    if error.reason in ("SecretNotFound", "SecretInvalid"):
        return f"make the Secret {config.secret} as docs/cluster.md says"
    return "docs/troubleshooting.md, State of a repository"
