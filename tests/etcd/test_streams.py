"""Watches on a real etcd are read directly, whatever guards it; where that fails, through grpc.aio, said once."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cacheserver.etcd.client import Client, TLSFiles
from cacheserver.etcd.stream import WINDOW_BYTES
from tests.conftest import StartEtcd
from tests.etcd.test_secured import PASSWORD, enable_users
from tests.support.certificates import Authority
from tests.support.etcd import ServerTLS

pytestmark = pytest.mark.etcd

_OURS = b"\0\4" + WINDOW_BYTES.to_bytes(4, "big")
"""Among the settings that the direct way begins with (RFC 9113 section 6.5.1)."""


@asynccontextmanager
async def grpc_only(etcd: str) -> AsyncIterator[str]:
    """An endpoint in front of etcd that ends each connection on which a watch is spoken directly."""
    place = urlsplit(etcd)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes = b"") -> None:
        try:
            writer.write(first)
            while piece := await reader.read(1 << 16):
                writer.write(piece)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(1 << 16)
        if _OURS in first:
            writer.close()
            return
        there = await asyncio.open_connection(place.hostname, place.port)
        await asyncio.gather(pump(reader, there[1], first), pump(there[0], writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def watched(client: Client, key: bytes) -> bool:
    """Whether a watch is told of a write."""
    start = await client.put(key, b"before") + 1
    async with client.watch(key, start_revision=start) as watch, asyncio.timeout(20):
        await client.put(key, b"now")
        async for batch in watch:
            if batch.events:
                return [event.value for event in batch.events] == [b"now"]
    return False


def warned(caplog: pytest.LogCaptureFixture) -> int:
    return sum("watch cannot be read in the quick way" in record.message for record in caplog.records)


async def test_where_the_direct_way_is_closed_the_ordinary_one_is_taken_and_told_once(
    etcd_endpoint: str, prefix: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with grpc_only(etcd_endpoint) as url, Client([url]) as client:
        assert await watched(client, prefix)
        assert await watched(client, prefix)
    assert warned(caplog) == 1


async def test_a_token_and_a_client_certificate_open_the_direct_way(
    start_etcd: StartEtcd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make certificates with")
    caplog.set_level(logging.INFO)
    process = start_etcd()
    enable_users(process)
    async with Client([process.endpoint], user="cache", password=PASSWORD) as client:
        assert await watched(client, b"/cache/a")
    authority = Authority(tmp_path / "authority")
    process = start_etcd(tls=ServerTLS(authority.certificate, *authority.issue("etcd")))
    tls = TLSFiles(authority.certificate, *authority.issue("cache"))
    async with Client([process.endpoint], tls=tls) as client:
        assert await watched(client, b"a")
    assert warned(caplog) == 0
