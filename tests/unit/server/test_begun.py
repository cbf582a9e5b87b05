"""What is said of a server that starts waits for something to see, and says what there is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest

from cacheserver.cache.watchcache import WatchCache
from cacheserver.ingest.first import FirstLooks
from cacheserver.model import Kind, RepositoryKey
from cacheserver.server.begun import Begun, begun
from tests.fakes.feed import PROJECTIONS, FakeFeed, running

A, B = RepositoryKey("default", "a"), RepositoryKey("default", "b")
URL = "http://127.0.0.1:8001"


@pytest.fixture
def feed() -> FakeFeed:
    return FakeFeed()


@pytest.fixture
async def cache(feed: FakeFeed) -> AsyncIterator[WatchCache]:
    async with running(WatchCache(feed, PROJECTIONS)) as cache:
        yield cache


def publish(feed: FakeFeed, key: RepositoryKey, ready: str, message: str = "", **counts: int) -> None:
    status = {"conditions": [{"type": "Ready", "status": ready, "message": message}], **counts}
    feed.put(key.namespace, key.name, kind=Kind.REPOSITORY, status=orjson.dumps(status))


async def test_nothing_is_said_before_each_first_look_ended(feed: FakeFeed, cache: WatchCache) -> None:
    looks = FirstLooks([A, B])
    waiting = asyncio.create_task(begun(URL, [A, B], cache, looks))
    publish(feed, A, "True", packages=5, revisions=15)
    looks.ended(A)
    await asyncio.wait([waiting], timeout=0)
    assert not waiting.done()
    publish(feed, B, "False", "nobody home")
    looks.ended(B)
    assert await waiting == Begun(URL, 2, 5, 15, {"b": "nobody home"})


async def test_content_of_an_earlier_run_is_not_waited_for(feed: FakeFeed, cache: WatchCache) -> None:
    publish(feed, A, "True", packages=5, revisions=15)
    assert await begun(URL, [A], cache, FirstLooks([A])) == Begun(URL, 1, 5, 15)


async def test_a_failure_of_an_earlier_run_is_not_told_of_this_one(feed: FakeFeed, cache: WatchCache) -> None:
    publish(feed, A, "False", "nobody was home yesterday")
    looks = FirstLooks([A])
    waiting = asyncio.create_task(begun(URL, [A], cache, looks))
    await asyncio.wait([waiting], timeout=0)
    publish(feed, A, "True", packages=1, revisions=1)
    looks.ended(A)
    assert await waiting == Begun(URL, 1, 1, 1)


async def test_what_takes_too_long_is_told_as_still_being_read(feed: FakeFeed, cache: WatchCache) -> None:
    publish(feed, A, "True", packages=5, revisions=15)
    looks = FirstLooks([A, B])
    looks.ended(A)
    assert await begun(URL, [A, B], cache, looks, wait_s=0) == Begun(URL, 2, 5, 15, reading=("b",))


async def test_a_server_without_repositories_of_its_own_waits_for_nothing(cache: WatchCache) -> None:
    assert await begun(URL, [], cache, FirstLooks()) == Begun(URL)


def test_only_the_first_look_is_watched_and_by_its_name() -> None:
    seen: list[tuple[str, int, int]] = []
    looks = FirstLooks([A], lambda *said: seen.append(said))
    first = looks.progress(A)
    first("read", 1, 2)
    looks.ended(A)
    looks.progress(A)("read", 2, 2)
    looks.progress(B)("read", 2, 2)
    assert seen == [("a: read", 1, 2)]
