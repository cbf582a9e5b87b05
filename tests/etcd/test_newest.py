"""The newest revision, asked on a connection of its own, on a real etcd: never behind a write that was acknowledged."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from cacheserver.errors import EtcdPermissionDenied, Unavailable
from cacheserver.etcd.client import Client, TLSFiles
from tests.conftest import StartEtcd
from tests.etcd.test_secured import PASSWORD, client_of, enable_users
from tests.support.certificates import Authority
from tests.support.etcd import ServerTLS

pytestmark = pytest.mark.etcd


async def test_it_is_never_behind_an_acknowledged_write(etcd_endpoint: str, prefix: bytes) -> None:
    async with Client([etcd_endpoint]) as client:

        async def write(number: int) -> None:
            for _ in range(20):
                revision = await client.put(prefix + b"%d" % number, b"")
                assert await client.newest_revision(prefix) >= revision

        await client.newest_revision(prefix)
        await asyncio.gather(*map(write, range(8)))
        newest = await client.newest_revision(prefix)
        assert newest == (await client.put(prefix, b"")) - 1
        assert client.cluster_id != 0


async def test_a_user_asks_with_a_token_and_is_denied_what_it_may_not(start_etcd: StartEtcd) -> None:
    process = start_etcd()
    enable_users(process)
    async with Client([process.endpoint], user="cache", password=PASSWORD) as client:
        revision = await client.put(b"/cache/a", b"1")
        assert await client.newest_revision(b"/cache/a") == revision
    async with client_of(process) as client:
        with pytest.raises(EtcdPermissionDenied):
            await client.newest_revision(b"/other")


async def test_tls_and_a_client_certificate_open_it(start_etcd: StartEtcd, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make certificates with")
    authority = Authority(tmp_path / "authority")
    process = start_etcd(tls=ServerTLS(authority.certificate, *authority.issue("etcd")))
    tls = TLSFiles(authority.certificate, *authority.issue("cache"))
    async with Client([process.endpoint], tls=tls) as client:
        assert await client.newest_revision(b"a") == await client.put(b"a", b"") - 1


async def test_an_etcd_that_comes_back_is_asked_again_though_its_token_is_forgotten(start_etcd: StartEtcd) -> None:
    process = start_etcd()
    enable_users(process)
    async with Client([process.endpoint], user="cache", password=PASSWORD) as client:
        await client.newest_revision(b"/cache/a")
        process.kill()
        with pytest.raises(Unavailable):
            await client.newest_revision(b"/cache/a")
        process.spawn()
        await process.ready()
        revision = await client.put(b"/cache/a", b"1")
        assert await client.newest_revision(b"/cache/a") == revision


async def test_a_hung_etcd_is_unavailable_within_the_deadline(start_etcd: StartEtcd) -> None:
    process = start_etcd()
    async with Client([process.endpoint], deadline_s=1.0) as client:
        await client.newest_revision(b"a")
        process.pause()
        with pytest.raises(Unavailable):
            async with asyncio.timeout(30):  # it would hang for ever; on a busy machine a second can be many
                await client.newest_revision(b"a")
        process.resume()
