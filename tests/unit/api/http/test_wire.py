"""Bytes on the wire where HTTP clients would hide them: old HTTP, pipelining, clients that break off."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.api import BASE, World

pytestmark = pytest.mark.processes


async def _talk(world: World, request: str) -> bytes:
    """All that comes back until the server closes the connection."""
    port = int(world.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.replace("\n", "\r\n").encode())
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    return answer


async def test_http_1_0_gets_plain_bytes_and_a_closed_connection(six: World) -> None:
    listed = await _talk(six, f"GET {BASE}/packages HTTP/1.0\n\n")
    assert b"Connection: close\r\n" in listed
    assert b"chunked" not in listed
    watched = await _talk(six, f"GET {BASE}/packages?watch=1&timeoutSeconds=1 HTTP/1.0\n\n")
    head, _, body = watched.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body.count(b'{"type":"ADDED"') == body.count(b"\n") == 6


async def test_pipelined_requests_are_answered_in_order(six: World) -> None:
    one = f"GET {BASE}/namespaces/team/packages/r.a HTTP/1.1\nHost: x\n\n"
    last = f"GET {BASE}/namespaces/team/packages/r.b HTTP/1.1\nHost: x\nConnection: close\n\n"
    answer = await _talk(six, one + last)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert answer.index(b'"name":"r.a"') < answer.index(b'"name":"r.b"')


async def test_an_absolute_target_is_understood(six: World) -> None:
    answer = await _talk(six, "GET http://example.org/version HTTP/1.1\nHost: example.org\nConnection: close\n\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_every_complete_answer_says_its_length(six: World) -> None:
    for target in ("/version", "/nope", f"{BASE}/packages", "/healthz"):
        head, _, body = (await _talk(six, f"GET {target} HTTP/1.1\nHost: x\nConnection: close\n\n")).partition(
            b"\r\n\r\n"
        )
        assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"
        assert b"\r\nDate: " in head
        assert b"\r\nAudit-Id: " in head


async def test_a_client_that_breaks_off_a_long_answer_harms_nobody(world: World) -> None:
    for i in range(400):
        world.package(f"p{i}", summary="x" * 20_000)
    await world.settled()
    port = int(world.url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {BASE}/packages HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await writer.drain()
    writer.transport.abort()
    assert len((await world.get("packages")).json["items"]) == 400
