"""What the client promises about keys, transactions and errors, on a real etcd."""

from __future__ import annotations

import asyncio
import socket
from contextlib import aclosing
from typing import Any

import pytest

from cacheserver.errors import (
    Compacted,
    ConfigError,
    EtcdError,
    FutureRevision,
    LeaseLostError,
    NoSpace,
    Unavailable,
)
from cacheserver.etcd.client import AlarmKind, Client, Compare, Delete, Get, Put, RangeResult, prefix_end
from cacheserver.metrics import registry
from tests.conftest import StartEtcd
from tests.support.waiting import eventually

pytestmark = pytest.mark.etcd


async def fill(client: Client) -> None:
    for number in range(100):
        await client.put(b"/%d" % number, b"x" * 500_000)


async def test_a_put_is_read_back_with_its_revisions(etcd_client: Client, prefix: bytes) -> None:
    first = await etcd_client.put(prefix + b"a", b"1")
    second = await etcd_client.put(prefix + b"a", b"2")
    answer = await etcd_client.range(prefix + b"a")
    [kv] = answer.key_values
    assert (kv.value, kv.create_revision, kv.mod_revision) == (b"2", first, second)
    assert (answer.count, answer.more, answer.revision) == (1, False, second)


async def test_a_range_is_bounded_filtered_and_counted(etcd_client: Client, prefix: bytes) -> None:
    for name in (b"a", b"b", b"c"):
        await etcd_client.put(prefix + name, name)
    some = await etcd_client.range(prefix, prefix_end(prefix), limit=2)
    assert [kv.key for kv in some.key_values] == [prefix + b"a", prefix + b"b"]
    assert (some.count, some.more) == (3, True)
    keys = await etcd_client.range(prefix, prefix_end(prefix), keys_only=True)
    assert [kv.value for kv in keys.key_values] == [b"", b"", b""]
    counted = await etcd_client.range(prefix, prefix_end(prefix), count_only=True)
    assert (counted.count, list(counted.key_values)) == (3, [])


async def test_a_range_at_an_old_revision_shows_that_time(etcd_client: Client, prefix: bytes) -> None:
    old = await etcd_client.put(prefix + b"a", b"old")
    await etcd_client.put(prefix + b"a", b"new")
    [kv] = (await etcd_client.range(prefix + b"a", revision=old)).key_values
    assert kv.value == b"old"


async def test_a_future_revision_is_refused_by_name(etcd_client: Client, prefix: bytes) -> None:
    now = (await etcd_client.range(prefix)).revision
    with pytest.raises(FutureRevision):
        await etcd_client.range(prefix, revision=now + 1_000_000)


@pytest.mark.parametrize("ahead", [False, True])
async def test_pages_are_bounded_by_bytes_and_agree_on_one_revision(
    etcd_client: Client, prefix: bytes, ahead: bool
) -> None:
    for number in range(400):
        await etcd_client.put(prefix + b"%04d" % number, b"x" * 10_000)
    pages = []
    async for page in etcd_client.pages(prefix, page_bytes=200_000, ahead=ahead):
        pages.append(page)
        if len(pages) == 1:  # neither a later write nor a deletion may show in the pages that follow
            await etcd_client.put(prefix + b"9999", b"late")
            await etcd_client.delete(prefix + b"0399")
    keys = [kv.key for page in pages for kv in page.key_values]
    assert keys == [prefix + b"%04d" % number for number in range(400)]
    assert len({page.revision for page in pages}) == 1
    # The first page is a guess of 128 keys; the others know what a key weighs.
    assert all(sum(len(kv.value) for kv in page.key_values) <= 200_000 for page in pages[1:])


async def test_a_page_is_on_its_way_while_the_one_before_is_worked_on_and_not_when_nobody_wants_it(
    etcd_client: Client, prefix: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(300):
        await etcd_client.put(prefix + b"%04d" % number, b"")
    asked, ask = list[bytes](), Client.range

    async def counted(client: Client, key: bytes, *args: Any, **kwargs: Any) -> RangeResult:
        asked.append(key)
        if len(asked) > 1:
            await asyncio.Event().wait()
        return await ask(client, key, *args, **kwargs)

    monkeypatch.setattr(Client, "range", counted)
    async with aclosing(etcd_client.pages(prefix, ahead=True)) as pages:
        first = await anext(pages)
        await eventually(lambda: asked == [prefix, first.key_values[-1].key + b"\0"])
        under_way = [task for task in asyncio.all_tasks() if task.get_name() == "etcd: next page"]
        assert len(under_way) == 1
    assert under_way[0].cancelled()


async def test_pages_of_nothing_are_one_empty_page_with_a_revision(etcd_client: Client, prefix: bytes) -> None:
    pages = [page async for page in etcd_client.pages(prefix)]
    assert [len(page.key_values) for page in pages] == [0]
    assert pages[0].revision > 0


async def test_pages_of_a_prefix_leave_its_neighbours_out(etcd_client: Client, prefix: bytes) -> None:
    await etcd_client.put(prefix + b"a/1", b"")
    await etcd_client.put(prefix + b"ab", b"")
    keys = [kv.key async for page in etcd_client.pages(prefix + b"a/") for kv in page.key_values]
    assert keys == [prefix + b"a/1"]


async def test_delete_says_how_many_keys_went(etcd_client: Client, prefix: bytes) -> None:
    await etcd_client.put(prefix + b"a", b"")
    await etcd_client.put(prefix + b"b", b"")
    assert await etcd_client.delete(prefix + b"missing") == 0
    assert await etcd_client.delete(prefix, prefix_end(prefix)) == 2


async def test_a_fence_lets_the_holder_write_and_nobody_else(etcd_client: Client, prefix: bytes) -> None:
    fence = await etcd_client.put(prefix + b"fence", b"")
    held = Compare(prefix + b"fence", "create_revision", fence)
    assert (await etcd_client.txn([held], [Put(prefix + b"a", b"1")])).succeeded
    await etcd_client.delete(prefix + b"fence")
    await etcd_client.put(prefix + b"fence", b"")  # somebody else's now
    refused = await etcd_client.txn([held], [Put(prefix + b"a", b"2")], [Get(prefix + b"a")])
    assert not refused.succeeded
    assert [kv.value for kv in refused.ranges[0].key_values] == [b"1"]


async def test_a_missing_key_has_revision_zero_so_creation_is_a_compare(etcd_client: Client, prefix: bytes) -> None:
    absent = Compare(prefix + b"a", "mod_revision", 0)
    assert (await etcd_client.txn([absent], [Put(prefix + b"a", b"1")])).succeeded
    assert not (await etcd_client.txn([absent], [Put(prefix + b"a", b"2")])).succeeded


async def test_values_and_leases_can_be_compared(etcd_client: Client, prefix: bytes) -> None:
    lease = await etcd_client.grant(60)
    await etcd_client.put(prefix + b"a", b"1", lease=lease)
    same = [Compare(prefix + b"a", "value", b"1"), Compare(prefix + b"a", "lease", lease)]
    assert (await etcd_client.txn(same, [])).succeeded
    assert not (await etcd_client.txn([Compare(prefix + b"a", "value", b"2")], [])).succeeded
    await etcd_client.revoke(lease)


async def test_all_writes_of_a_transaction_share_its_revision(etcd_client: Client, prefix: bytes) -> None:
    await etcd_client.put(prefix + b"gone", b"")
    done = await etcd_client.txn(
        [],
        [Put(prefix + b"a", b""), Delete(prefix + b"gone"), Put(prefix + b"b", b""), Get(prefix, prefix_end(prefix))],
    )
    found = done.ranges[0].key_values
    assert [kv.key for kv in found] == [prefix + b"a", prefix + b"b"]
    assert {kv.mod_revision for kv in found} == {done.revision}


async def test_a_comparison_of_the_wrong_type_is_a_programming_error(etcd_client: Client) -> None:
    with pytest.raises(TypeError, match="mod_revision"):
        await etcd_client.txn([Compare(b"a", "mod_revision", b"1")], [])


@pytest.mark.parametrize("size", [2 << 20, 200])
async def test_what_etcd_finds_too_large_is_an_error_not_an_outage(
    etcd_client: Client, prefix: bytes, size: int
) -> None:
    operations = [Put(prefix, b"x" * size)] if size > 1000 else [Put(prefix + b"%d" % n, b"") for n in range(size)]
    with pytest.raises(EtcdError, match=r"too large|larger than max|too many operations") as caught:
        await etcd_client.txn([], operations)
    assert not isinstance(caught.value, Unavailable)


async def test_a_put_under_a_lease_that_is_gone_says_so(etcd_client: Client, prefix: bytes) -> None:
    with pytest.raises(LeaseLostError):
        await etcd_client.put(prefix, b"", lease=12345)


async def test_a_closed_port_is_unavailable_within_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with Client([f"http://127.0.0.1:{port}"], deadline_s=0.5) as client:
        with pytest.raises(Unavailable, match=str(port)):
            await client.range(b"a")
        with pytest.raises(Unavailable):
            await client.connect()
        with pytest.raises(Unavailable):
            async with client.watch(b"a", start_revision=1):
                pass
    assert loop.time() - began < 5


async def test_reads_and_writes_move_on_from_an_endpoint_that_is_down(etcd_endpoint: str, prefix: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        down = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with Client([down, etcd_endpoint]) as client:
        await client.put(prefix, b"1")  # a refused connection has certainly not written
        assert (await client.range(prefix)).count == 1
        async with client.watch(prefix, start_revision=1):
            assert client.server_version is not None


async def test_a_read_moves_on_from_an_endpoint_that_hangs(etcd_endpoint: str, prefix: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts, by the kernel, and says nothing
        silent = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with Client([silent, etcd_endpoint], deadline_s=2.0) as client:
            assert (await client.range(prefix)).count == 0
            assert await client.connect() is not None


async def test_connect_learns_version_and_cluster(etcd_endpoint: str, etcd_client: Client) -> None:
    assert etcd_client.server_version is None
    version = await etcd_client.connect()
    status = await etcd_client.status()
    assert (str(version), status.leader) == (status.version, status.member_id)
    assert etcd_client.cluster_id != 0
    assert status.db_size >= status.db_size_in_use > 0


async def test_a_password_in_an_endpoint_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        Client(["https://someone:hunter2@etcd.example:2379"])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["etcd:2379", "ftp://etcd:2379", "unix:relative", "http://", "http://a:b:c"])
def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError):
        Client([endpoint])


async def test_calls_and_failures_are_counted(etcd_client: Client, prefix: bytes) -> None:
    def seen(name: str, **labels: str) -> float:
        return registry().get_sample_value(name, labels) or 0.0

    calls = seen("etcd_request_duration_seconds_count", operation="put")
    errors = seen("cacheserver_etcd_errors_total", operation="put", error="LeaseLostError")
    await etcd_client.put(prefix, b"")
    with pytest.raises(LeaseLostError):
        await etcd_client.put(prefix, b"", lease=12345)
    assert seen("etcd_request_duration_seconds_count", operation="put") == calls + 2
    assert seen("cacheserver_etcd_errors_total", operation="put", error="LeaseLostError") == errors + 1


@pytest.mark.parametrize("ahead", [False, True])
async def test_pages_report_a_compaction_under_way(start_etcd: StartEtcd, ahead: bool) -> None:
    async with Client([start_etcd().endpoint]) as client:
        for number in range(300):
            await client.put(b"/%04d" % number, b"x" * 1000)
        pages = client.pages(b"/", page_bytes=50_000, ahead=ahead)
        await anext(pages)
        revision = await client.put(b"other", b"")
        await client.compact(revision, physical=True)
        with pytest.raises(Compacted):
            async for _ in pages:
                pass


async def test_a_full_etcd_says_no_space_still_reads_and_recovers(start_etcd: StartEtcd) -> None:
    async with Client([start_etcd("--quota-backend-bytes=2000000").endpoint]) as client:
        with pytest.raises(NoSpace):
            await fill(client)
        [alarm] = await client.alarms()
        assert alarm.kind is AlarmKind.NOSPACE
        assert alarm.member_id != 0
        assert (await client.range(b"/0")).count == 1
        await client.delete(b"/", prefix_end(b"/"))
        await client.compact((await client.range(b"/")).revision, physical=True)
        await client.defragment()
        await client.disarm(alarm)
        assert await client.alarms() == []
        await client.put(b"/0", b"again")
