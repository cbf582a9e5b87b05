"""A crowd of watchers told by one task: whatever each of them does, it gets every event once, in order."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from cacheserver.api.forms import OBJECT
from cacheserver.api.http.accounting import Accounting
from cacheserver.api.kinds.package import PACKAGE
from cacheserver.api.selectors import Selection
from cacheserver.api.watching.channel import Channel, Shared
from cacheserver.cache.watchcache import Freshness, ReadAt, Watch, WatchCache
from cacheserver.errors import Expired
from cacheserver.model import Kind
from tests.fakes.feed import PROJECTIONS, FakeFeed, running
from tests.support.watchers import Client

ANY = ReadAt(Freshness.ANY)
EVERYTHING = Selection()


class Crowd:
    """A cache, and one channel of it."""

    def __init__(self, feed: FakeFeed, cache: WatchCache) -> None:
        self.feed = feed
        self.cache = cache

    async def cursor(self, since: int | None = None) -> Watch:
        return await self.cache.watch(Kind.PACKAGE, since=since, initial=None, namespace=None, selector=EVERYTHING)

    async def open(self) -> Channel:
        meters, shared = Accounting().watches(PACKAGE), Shared(self.cache.turns, lambda: 0.0)
        return Channel(PACKAGE, OBJECT, meters, shared, await self.cursor())

    def write(self, count: int = 1) -> None:
        for _ in range(count):
            self.feed.put("team", f"p{self.feed.revision % 7}")


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    feed = FakeFeed()
    async with running(WatchCache(feed, PROJECTIONS, window_events=5_000)) as cache:
        yield Crowd(feed, cache)


@contextlib.asynccontextmanager
async def at_work(*tasks: asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_keeps_up_is_told_by_the_channel_alone(crowd: Crowd) -> None:
    channel = await crowd.open()
    clients = [Client(channel, await crowd.cursor()) for _ in range(3)]
    async with at_work(asyncio.create_task(channel.run()), *(asyncio.create_task(each.run()) for each in clients)):
        await asyncio.sleep(0)
        crowd.write(150)
        for client in clients:
            await client.has(150)
    versions = list(range(crowd.feed.revision - 149, crowd.feed.revision + 1))
    assert [client.versions for client in clients] == [versions] * 3
    assert [client.alone for client in clients] == [0, 0, 0]


async def test_one_that_does_not_take_what_it_is_told_is_let_go_and_misses_nothing(crowd: Crowd) -> None:
    channel = await crowd.open()
    slow, quick = [Client(channel, await crowd.cursor()) for _ in range(2)]
    slow.takes = False
    async with at_work(*(asyncio.create_task(run) for run in (channel.run(), slow.run(), quick.run()))):
        await asyncio.sleep(0)
        for count in range(1, 6):
            crowd.write()
            await quick.has(count)
            await slow.has(count)
    assert slow.got == quick.got


async def test_one_that_comes_from_the_past_catches_up_and_follows(crowd: Crowd) -> None:
    since = crowd.cache.resource_version
    crowd.write(100)
    while crowd.cache.resource_version < since + 100:
        await asyncio.sleep(0)
    channel = await crowd.open()
    late = Client(channel, await crowd.cursor(since))
    async with at_work(*(asyncio.create_task(run) for run in (channel.run(), late.run()))):
        await late.has(100)
        alone = late.alone
        crowd.write(10)
        await late.has(110)
    assert late.versions == list(range(since + 1, since + 111))
    assert late.alone == alone


async def test_one_that_begins_in_the_future_is_told_nothing_before(crowd: Crowd) -> None:
    channel = await crowd.open()
    future = crowd.cache.resource_version + 3
    client = Client(channel, await crowd.cursor(future))
    async with at_work(*(asyncio.create_task(run) for run in (channel.run(), client.run()))):
        for _ in range(6):
            crowd.write()
            await crowd.cache.list(Kind.PACKAGE, ReadAt(Freshness.CONSISTENT), selector=EVERYTHING)
        await client.has(3)
    assert client.versions == [future + 1, future + 2, future + 3]


async def test_one_that_begins_in_the_future_is_sent_nothing_before_by_a_channel_that_lags(crowd: Crowd) -> None:
    """The cache has come as far, and the channel has not taken those events yet: they are not for who begins behind."""
    channel = await crowd.open()
    future = crowd.cache.resource_version + 3
    watch = await crowd.cursor(future)
    crowd.write(3)
    while crowd.cache.resource_version < future:
        await asyncio.sleep(0)
    client = Client(channel, watch)
    async with at_work(asyncio.create_task(client.run())):
        await asyncio.sleep(0)
        async with at_work(asyncio.create_task(channel.run())):
            crowd.write(2)
            await client.has(2)
    assert client.versions == [future + 1, future + 2]


async def test_a_rebuilt_cache_lets_everybody_go_and_tells_who_begins_anew(crowd: Crowd) -> None:
    channel = await crowd.open()
    old = Client(channel, await crowd.cursor())
    following = asyncio.create_task(old.run())
    async with at_work(asyncio.create_task(channel.run()), following):
        await asyncio.sleep(0)
        crowd.feed.replace_cluster()
        crowd.write()
        with pytest.raises(Expired):
            async with asyncio.timeout(5):
                await following
        new = Client(channel, await crowd.cursor())
        async with at_work(asyncio.create_task(new.run())):
            crowd.write(3)
            await new.has(3)
    assert new.alone == 0


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_watchers_do_each_gets_every_event_once_in_order(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("cacheserver.api.watching.channel._TURN_WATCHERS", 3)  # so that much happens between two turns
    choose, first = random.Random(seed), crowd.cache.resource_version
    channel = await crowd.open()
    clients: list[Client] = []
    begun: list[int] = []
    running_: list[asyncio.Task[None]] = []
    telling = asyncio.create_task(channel.run())
    try:
        for _ in range(60):
            does = choose.randrange(6)
            if does == 0 and len(clients) < 40:
                since = max(crowd.cache.resource_version - choose.randrange(100), first)
                begun.append(since)
                clients.append(Client(channel, await crowd.cursor(since)))
                running_.append(asyncio.create_task(clients[-1].run()))
            elif does == 1 and clients:
                client = choose.choice(clients)
                client.takes = not client.takes
            elif does == 2 and clients:  # as for a bookmark
                choose.choice(clients).let_go()
            else:
                crowd.write(choose.randrange(90))
            for _ in range(choose.randrange(8)):
                await asyncio.sleep(0)
        crowd.write()
        for client, since in zip(clients, begun, strict=True):
            await client.has(crowd.feed.revision - since)
    finally:
        async with at_work(telling, *running_):
            pass
    for client, since in zip(clients, begun, strict=True):
        assert client.versions == list(range(since + 1, crowd.feed.revision + 1))
