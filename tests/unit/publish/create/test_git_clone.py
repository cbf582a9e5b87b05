"""Fetches of URLs to begin drafts with: who has slow ones does not hold up the others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cacheserver.config import RepositoryConfig
from cacheserver.errors import RefusedError, SourceNetworkError
from cacheserver.model import Key, Kind
from cacheserver.publish.create.git_clone import Asked, GitClones
from cacheserver.publish.package import Limits as Most
from cacheserver.sources import Access, Limits
from tests.support.waiting import eventually

KEY = Key(Kind.REVISION, "team", "edge", "p", "w1")


async def test_slow_fetches_of_one_user_leave_places_to_others(tmp_path: Path) -> None:
    under_way: list[str] = []
    never = asyncio.Event()

    async def access(config: RepositoryConfig) -> Access:
        under_way.append(config.secret)
        if config.secret == "slow":
            await never.wait()
        raise SourceNetworkError("x", "it was reached")

    clones = GitClones(tmp_path, Limits(), access, is_local=lambda _: False)
    slow = [
        asyncio.create_task(clones.read(KEY, Asked("https://h/r.git", "main", secret="slow"), Most(), "much"))
        for _ in range(8)
    ]
    try:
        await eventually(lambda: len(under_way) >= 2)
        for user in ("one", "other"):
            with pytest.raises(RefusedError, match="it was reached"):
                await asyncio.wait_for(clones.read(KEY, Asked("https://h/r.git", "main", secret=user), Most(), user), 5)
        assert under_way == ["slow", "slow", "one", "other"]
    finally:
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
