"""What a lease promises: kept while held, gone at once when let go, and never believed in for too long."""

from __future__ import annotations

import asyncio

import pytest

from cacheserver.errors import LeaseLostError
from cacheserver.etcd.client import Client
from tests.conftest import StartEtcd
from tests.support.waiting import eventually

pytestmark = pytest.mark.etcd


async def test_a_held_lease_outlives_its_ttl_and_leaving_deletes_its_keys(etcd_client: Client, prefix: bytes) -> None:
    loop = asyncio.get_running_loop()
    async with etcd_client.lease(1) as lease:
        await etcd_client.put(prefix, b"claim", lease=lease.id)
        began = loop.time()
        await eventually(lambda: loop.time() - began > 2 * lease.ttl_s)
        assert not lease.lost
        assert 0 < lease.remaining_s <= lease.ttl_s
        assert (await etcd_client.range(prefix)).count == 1
    assert (await etcd_client.range(prefix)).count == 0


async def test_a_lease_nobody_keeps_expires(etcd_client: Client, prefix: bytes) -> None:
    lease = await etcd_client.grant(1)
    await etcd_client.put(prefix, b"claim", lease=lease)
    assert await etcd_client.keep_alive_once(lease) > 0

    async def gone() -> bool:
        return (await etcd_client.range(prefix)).count == 0

    await eventually(gone)
    with pytest.raises(LeaseLostError):
        await etcd_client.keep_alive_once(lease)
    await etcd_client.revoke(lease)  # fine: it is gone


async def test_a_revoked_lease_tells_its_holder(etcd_client: Client) -> None:
    async with etcd_client.lease(1) as lease:
        await etcd_client.revoke(lease.id)
        async with asyncio.timeout(5):
            await lease.wait_lost()
        assert lease.lost


async def test_the_holder_stops_believing_before_etcd_does_when_etcd_hangs(start_etcd: StartEtcd) -> None:
    process = start_etcd()
    loop = asyncio.get_running_loop()
    async with Client([process.endpoint]) as client, client.lease(1) as lease:
        process.pause()
        began = loop.time()
        async with asyncio.timeout(5):
            await lease.wait_lost()
        assert loop.time() - began <= lease.ttl_s + 0.5
        process.resume()


async def test_a_lease_survives_a_restart_of_etcd(start_etcd: StartEtcd) -> None:
    process = start_etcd()
    async with Client([process.endpoint]) as client, client.lease(3) as lease:
        await client.put(b"claim", b"", lease=lease.id)
        process.kill()
        process.spawn()
        await process.ready()
        before = lease.remaining_s
        await eventually(lambda: lease.remaining_s > before)  # renewed
        assert (await client.range(b"claim")).count == 1
        assert not lease.lost
