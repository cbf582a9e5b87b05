"""What clients see when etcd is killed, hangs, or comes back: errors in time, and nothing lost by those who resume."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from cacheserver.errors import Unavailable
from cacheserver.etcd.client import Client, TLSFiles, Watch
from cacheserver.etcd.version import Version
from tests.conftest import StartEtcd
from tests.support.certificates import Authority
from tests.support.etcd import ServerTLS
from tests.support.waiting import eventually

pytestmark = pytest.mark.etcd


async def drain(watch: Watch) -> None:
    async for _ in watch:
        pass


async def test_a_caller_that_resumes_sees_every_write_once_over_kill_and_restart(start_etcd: StartEtcd) -> None:
    process = start_etcd()
    # A lone etcd before 3.5.5 acknowledges a write before it has written it (etcd #14370): let that one finish.
    end = process.kill if process.version >= Version(3, 5, 5) else process.terminate
    acknowledged: list[bytes] = []
    seen: list[bytes] = []
    goal = 300

    async def write(client: Client) -> None:
        for number in itertools.count():
            key = b"/w/%s%05d" % (b"end" if len(acknowledged) >= goal else b"", number)
            try:
                await client.put(key, b"")
            except Unavailable:
                continue  # fate unknown; the next key is another one
            if key.startswith(b"/w/end"):
                return
            acknowledged.append(key)

    async def follow(client: Client) -> None:
        revision = 1
        while True:
            try:
                async with client.watch(b"/w/", start_revision=revision + 1) as watch:
                    async for batch in watch:
                        seen.extend(event.key for event in batch.events)
                        revision = batch.revision
                        if any(event.key.startswith(b"/w/end") for event in batch.events):
                            return
            except Unavailable:
                continue

    async with Client([process.endpoint]) as client, asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(write(client))
        group.create_task(follow(client))
        await eventually(lambda: len(acknowledged) > goal // 3)
        end()
        process.spawn()
        await eventually(lambda: len(acknowledged) > goal * 2 // 3)
        end()
        process.spawn()
    assert set(acknowledged) - set(seen) == set()
    assert len(seen) == len(set(seen))


async def test_a_hung_etcd_ends_the_watch_in_about_three_seconds(start_etcd: StartEtcd) -> None:
    process = start_etcd()
    loop = asyncio.get_running_loop()
    async with Client([process.endpoint]) as client, client.watch(b"a", start_revision=1) as watch:
        process.pause()
        began = loop.time()
        with pytest.raises(Unavailable):
            await drain(watch)
        assert loop.time() - began < 4
        process.resume()


async def test_a_hung_etcd_costs_a_call_its_deadline_and_no_more(start_etcd: StartEtcd) -> None:
    process = start_etcd()
    loop = asyncio.get_running_loop()
    async with Client([process.endpoint], deadline_s=0.5) as client:
        await client.put(b"a", b"1")
        process.pause()
        for call in (lambda: client.put(b"a", b"2"), lambda: client.range(b"a"), lambda: client.keep_alive_once(1)):
            began = loop.time()
            with pytest.raises(Unavailable):
                await call()
            assert loop.time() - began < 1.5
        process.resume()
        assert (await client.range(b"a", deadline_s=5)).count == 1


async def test_a_killed_etcd_ends_the_watch_at_once(start_etcd: StartEtcd) -> None:
    process = start_etcd()
    async with Client([process.endpoint]) as client, client.watch(b"a", start_revision=1) as watch:
        await client.put(b"a", b"1")
        process.kill()
        async with asyncio.timeout(1):
            with pytest.raises(Unavailable):
                await drain(watch)


async def test_a_read_waits_out_a_restart_within_its_deadline(start_etcd: StartEtcd) -> None:
    process = start_etcd()
    async with Client([process.endpoint]) as client:
        await client.put(b"a", b"1")
        process.kill()
        process.spawn()
        assert (await client.range(b"a", deadline_s=15)).count == 1


async def test_another_cluster_at_the_same_address_has_another_id(start_etcd: StartEtcd) -> None:
    one, two = start_etcd(), start_etcd()
    async with Client([one.endpoint, two.endpoint]) as client:
        await client.range(b"a")
        before = client.cluster_id
        one.kill()
        await client.range(b"a")
        assert client.cluster_id not in (0, before)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
async def test_an_etcd_that_stops_does_not_wait_for_the_watch(
    start_etcd: StartEtcd, tmp_path: Path, secure: bool
) -> None:
    authority = Authority(tmp_path / "authority") if secure else None
    tls = ServerTLS(authority.certificate, *authority.issue("etcd")) if authority else None
    process = start_etcd(tls=tls)
    files = TLSFiles(authority.certificate, *authority.issue("cache")) if authority else None
    async with Client([process.endpoint], tls=files) as client, client.watch(b"a", start_revision=1) as watch:
        await client.newest_revision(b"a")
        end = asyncio.create_task(asyncio.to_thread(process.terminate))
        # etcd that waits gives streams five seconds, and two election timeouts. One that does not (3.5.1, as a rule)
        # says that it goes, and goes: which is seen first is chance.
        async with asyncio.timeout(4):
            with pytest.raises(Unavailable):
                await drain(watch)
            await end
