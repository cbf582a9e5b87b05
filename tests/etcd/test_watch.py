"""What a watch promises: every event once, whole revisions, progress, and a named end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cacheserver.errors import Compacted, Unavailable
from cacheserver.etcd.client import Client, Delete, Put, Watch, WatchBatch, WatchEvent
from cacheserver.etcd.version import progress_trusted
from tests.conftest import StartEtcd
from tests.support.etcd import EtcdProcess

pytestmark = pytest.mark.etcd


async def take(watch: Watch, count: int, *, within_s: float = 15.0) -> list[WatchEvent]:
    """The next `count` events or more."""
    events: list[WatchEvent] = []
    async with asyncio.timeout(within_s):
        async for batch in watch:
            events += batch.events
            if len(events) >= count:
                break
    return events


async def batches_with_events(watch: Watch) -> AsyncIterator[WatchBatch]:
    async for batch in watch:
        if batch.events:
            yield batch


def needs_progress(etcd: EtcdProcess) -> None:
    if not progress_trusted(etcd.version):
        pytest.skip(f"etcd {etcd.version} sends progress ahead of events (before 3.5.13)")


async def test_puts_and_deletes_arrive_in_order_with_their_revisions(etcd_client: Client, prefix: bytes) -> None:
    start = (await etcd_client.range(prefix)).revision + 1
    async with etcd_client.watch(prefix, start_revision=start) as watch:
        created = await etcd_client.put(prefix + b"a", b"1")
        await etcd_client.put(b"/elsewhere", b"")
        await etcd_client.delete(prefix + b"a")
        put, delete = await take(watch, 2)
    assert put == WatchEvent(prefix + b"a", b"1", created, created)
    assert (delete.key, delete.value, delete.mod_revision > created) == (prefix + b"a", None, True)


async def test_an_empty_value_is_a_put(etcd_client: Client, prefix: bytes) -> None:
    start = (await etcd_client.range(prefix)).revision + 1
    async with etcd_client.watch(prefix, start_revision=start) as watch:
        await etcd_client.put(prefix + b"a", b"")
        [event] = await take(watch, 1)
    assert event.value == b""


async def test_a_watch_resumes_without_loss_or_repetition(etcd_client: Client, prefix: bytes) -> None:
    start = (await etcd_client.range(prefix)).revision + 1
    for number in range(10):
        await etcd_client.put(prefix + b"%d" % number, b"")
    seen: list[bytes] = []
    revision = start - 1
    for upto in (3, 6, 10):
        async with etcd_client.watch(prefix, start_revision=revision + 1) as watch:
            async for batch in batches_with_events(watch):
                wanted = [event for event in batch.events if len(seen) < upto]
                # A real consumer takes whole batches; stopping inside one shows that any revision will do to resume.
                for event in wanted[: upto - len(seen)]:
                    seen.append(event.key)
                    revision = event.mod_revision
                if len(seen) == upto:
                    break
    assert seen == [prefix + b"%d" % number for number in range(10)]


async def test_a_watch_does_not_deliver_the_revision_before_its_start(etcd_client: Client, prefix: bytes) -> None:
    before = await etcd_client.put(prefix + b"before", b"")
    async with etcd_client.watch(prefix, start_revision=before + 1) as watch:
        await etcd_client.put(prefix + b"after", b"")
        assert [event.key for event in await take(watch, 1)] == [prefix + b"after"]


async def test_a_revision_is_never_split(etcd_client: Client, prefix: bytes) -> None:
    """1.4 MB a transaction; etcd fragments a response from about 2 MB on, here while it replays ten of them."""
    start = (await etcd_client.range(prefix)).revision + 1
    for number in range(10):
        await etcd_client.txn([], [Put(prefix + b"%d/%d" % (number, part), b"x" * 200_000) for part in range(7)])
    whole: dict[int, int] = {}
    async with etcd_client.watch(prefix, start_revision=start) as watch:
        async for batch in batches_with_events(watch):
            for event in batch.events:
                whole[event.mod_revision] = whole.get(event.mod_revision, 0) + 1
            assert set(whole.values()) == {7}
            assert batch.revision >= batch.events[-1].mod_revision
            if len(whole) == 10:
                break


async def test_a_slow_reader_loses_nothing(etcd_client: Client, prefix: bytes) -> None:
    start = (await etcd_client.range(prefix)).revision + 1
    puts = [[Put(prefix + b"%05d" % (first + n), b"x" * 300) for n in range(100)] for first in range(0, 40_000, 100)]
    async with etcd_client.watch(prefix, start_revision=start) as watch:
        for operations in puts:  # 40,000 events: more than the watch holds ready for a reader that does not read
            await etcd_client.txn([], operations)
        events = await take(watch, 40_000)
    assert [event.key for event in events] == [put.key for operations in puts for put in operations]


async def test_an_idle_watch_hears_from_etcd_every_second(
    etcd_process: EtcdProcess, etcd_client: Client, prefix: bytes
) -> None:
    needs_progress(etcd_process)
    now = await etcd_client.put(b"/elsewhere", b"")
    async with etcd_client.watch(prefix, start_revision=now + 1) as watch, asyncio.timeout(5):
        assert watch.progress_trusted
        assert etcd_client.progress_trusted
        async for batch in watch:
            assert batch.events == []
            if batch.revision >= now:
                break


async def test_requested_progress_tells_of_writes_elsewhere(
    etcd_process: EtcdProcess, etcd_client: Client, prefix: bytes
) -> None:
    needs_progress(etcd_process)
    now = (await etcd_client.range(prefix)).revision
    async with etcd_client.watch(prefix, start_revision=now + 1) as watch:
        elsewhere = await etcd_client.put(b"/elsewhere", b"")
        await watch.request_progress()
        async with asyncio.timeout(5):
            async for batch in watch:
                if batch.revision >= elsewhere:
                    break
                await watch.request_progress()


async def test_progress_never_runs_ahead_of_events(etcd_client: Client, prefix: bytes) -> None:
    """On every version: a batch's revision promises that all events up to it have come."""
    start = (await etcd_client.range(prefix)).revision + 1
    writes = 300

    async def write() -> None:
        for number in range(writes):
            await etcd_client.put(prefix + b"%d" % number, b"")

    async with etcd_client.watch(prefix, start_revision=start) as watch, asyncio.TaskGroup() as group:
        group.create_task(write())
        promised = seen = 0
        async for batch in watch:
            assert all(event.mod_revision > promised for event in batch.events)
            promised = batch.revision
            seen += len(batch.events)
            if seen == writes:
                break
            await watch.request_progress()


async def test_a_compacted_start_is_reported_with_the_revision_that_is_left(start_etcd: StartEtcd) -> None:
    async with Client([start_etcd().endpoint]) as client:
        revisions = [await client.put(b"a", b"") for _ in range(10)]
        await client.compact(revisions[-3])
        async with client.watch(b"a", start_revision=2) as watch:
            with pytest.raises(Compacted) as caught:
                await take(watch, 1)
        assert caught.value.compact_revision == revisions[-3]
        with pytest.raises(Compacted):
            await client.range(b"a", revision=2)
        with pytest.raises(Compacted):
            await client.compact(2)


@pytest.mark.parametrize("distance", [0, 1])
async def test_the_compact_revision_itself_can_still_be_watched(start_etcd: StartEtcd, distance: int) -> None:
    async with Client([start_etcd().endpoint]) as client:
        revisions = [await client.put(b"a%d" % number, b"") for number in range(10)]
        await client.compact(revisions[-3])
        left = revisions[-3 + distance :]
        async with client.watch(b"a", start_revision=left[0]) as watch:
            events = await take(watch, len(left))
        assert [event.mod_revision for event in events] == left


async def test_a_compaction_does_not_disturb_a_watch_that_is_up_to_date(start_etcd: StartEtcd) -> None:
    async with Client([start_etcd().endpoint]) as client:
        revision = await client.put(b"a", b"1")
        async with client.watch(b"a", start_revision=revision + 1) as watch:
            revision = await client.put(b"a", b"2")
            await take(watch, 1)
            await client.compact(revision)
            await client.put(b"a", b"3")
            assert [event.value for event in await take(watch, 1)] == [b"3"]


async def test_many_watches_share_a_client(etcd_client: Client, prefix: bytes) -> None:
    start = (await etcd_client.range(prefix)).revision + 1

    async def one() -> list[WatchEvent]:
        async with etcd_client.watch(prefix, start_revision=start) as watch:
            return await take(watch, 2)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one()) for _ in range(20)]
        await etcd_client.txn([], [Put(prefix + b"a", b""), Put(prefix + b"b", b"")])
        await etcd_client.txn([], [Delete(prefix + b"a")])
    assert all(len(task.result()) >= 2 for task in tasks)


async def test_closing_the_client_ends_its_watches(etcd_endpoint: str, prefix: bytes) -> None:
    async with Client([etcd_endpoint]) as client:
        opened = client.watch(prefix, start_revision=1)
        watch = await opened.__aenter__()
    with pytest.raises(Unavailable):
        await take(watch, 1)
    await opened.__aexit__(None, None, None)


async def test_a_start_before_the_first_revision_is_a_programming_error(etcd_client: Client) -> None:
    with pytest.raises(ValueError, match="start_revision"):
        etcd_client.watch(b"a", start_revision=0)
