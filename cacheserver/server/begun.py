"""What a server has to serve once its first looks at the sources ended: waited for before anybody is told to try it.

Reads stay answered meanwhile; only the words wait. Called by serve.py where repositories are the server's own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any, Final

import orjson

from cacheserver.cache.freshness import Freshness, ReadAt
from cacheserver.errors import CacheServerError
from cacheserver.ingest.first import FirstLooks
from cacheserver.model import Kind, RepositoryKey
from cacheserver.slotted import slotted

if TYPE_CHECKING:  # `ingest` imports serve.py and does without what serves
    from cacheserver.cache.watchcache import WatchCache

WAIT_S: Final = 60.0
"""A large image over a slow line takes longer: then it is said that it is still being read."""
_STEP_S: Final = 0.1


@slotted(frozen=True)
class Begun:
    """A server that answers. packages, revisions: of its own repositories, as they are served.

    repositories: how many are its own; 0 where others name them. failed: name -> why nothing new was read. reading:
    names of those whose first look goes on.
    """

    url: str
    repositories: int = 0
    packages: int = 0
    revisions: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    reading: Sequence[str] = ()


async def begun(
    url: str, keys: Sequence[RepositoryKey], cache: WatchCache, looks: FirstLooks, *, wait_s: float = WAIT_S
) -> Begun:
    """Once each repository of `keys` has content, from whichever sync, or its first look ended; after wait_s anyhow."""
    with contextlib.suppress(TimeoutError, CacheServerError):
        async with asyncio.timeout(wait_s):
            while any(not _serves(cache, key) for key in looks.coming):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_STEP_S):
                        await looks.all_ended()
            # What the looks wrote is to be in the cache too.
            await cache.get(Kind.REPOSITORY, ("", ""), ReadAt(Freshness.CONSISTENT))
    statuses = {key: _status(cache, key) for key in keys}
    coming = looks.coming
    return Begun(
        url,
        repositories=len(keys),
        packages=sum(status.get("packages", 0) for status in statuses.values()),
        revisions=sum(status.get("revisions", 0) for status in statuses.values()),
        failed={
            key.name: _ready(status).get("message", "")
            for key, status in statuses.items()
            if key not in coming and _ready(status).get("status") == "False"
        },
        reading=tuple(key.name for key in coming if not _serves(cache, key)),
    )


def _status(cache: WatchCache, key: RepositoryKey) -> Mapping[str, Any]:
    entry = cache.held(Kind.REPOSITORY, (key.namespace, key.name))
    return orjson.loads(entry.body).get("status", {}) if entry is not None else {}


def _ready(status: Mapping[str, Any]) -> Mapping[str, str]:
    return next((each for each in status.get("conditions", ()) if each["type"] == "Ready"), {})


def _serves(cache: WatchCache, key: RepositoryKey) -> bool:
    return _ready(_status(cache, key)).get("status") == "True"
