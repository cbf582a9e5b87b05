"""Clients who mean harm, in a process of their own and from an address of their own. Each is bounded in count and time.

`python -m tests.hostile.clients` reads the server's place, an attack's name and its arguments as one line of stdin,
and prints what came of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from tests.support.raw_clients import ADDRESS, RawClient, RawClients, raw_clients
from tests.support.server import API

Told = dict[str, Any]
_ANSWER_S: Final = 20.0
_OPENING_AT_ONCE: Final = 64
"""Under the server's cap on handshakes: those beyond it would be turned away, and attack nothing."""
_TAIL_BYTES: Final = 64
_VERSION: Final = re.compile(rb'"resourceVersion":"([0-9]+)"')


@dataclass(frozen=True)
class Enemy:
    url: str
    ca: str
    tokens: Mapping[str, str]

    def clients(self) -> AbstractAsyncContextManager[RawClients]:
        return raw_clients(self.url, ssl.create_default_context(cafile=self.ca))

    def head(self, target: str, user: str, *lines: str, method: str = "GET") -> str:
        """A request of this user's, of nobody's if empty."""
        who = (f"Authorization: Bearer {self.tokens[user]}",) if user else ()
        return "\r\n".join((f"{method} {target} HTTP/1.1", "Host: x", *who, *lines, "", ""))


async def _each(clients: RawClients, count: int, act: Callable[[RawClient, int], Awaitable[None]]) -> Counter[str]:
    """`count` clients at once, fewer handshakes; what became of those whose connection broke."""
    broken: Counter[str] = Counter()
    opening = asyncio.Semaphore(_OPENING_AT_ONCE)

    async def one(number: int) -> None:
        try:
            async with opening:
                [client] = await clients.connect()
            await act(client, number)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as exc:
            broken[type(exc).__name__] += 1

    await asyncio.gather(*(one(number) for number in range(count)))
    return broken


async def _answer(client: RawClient) -> tuple[int, bytes]:
    """Status and body of the next answer, which says its length; (0, b"") when the server closed."""
    async with asyncio.timeout(_ANSWER_S):
        head = await client.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        body = await client.reader.readexactly(int(length[1]) if length else 0)
    return int(head.split(maxsplit=2)[1]), body


async def unread_pipelines(
    enemy: Enemy, *, user: str, target: str, connections: int, requests: int, hold_s: float
) -> Told:
    """Asks and asks and reads nothing."""
    piece = enemy.head(target, user, "Accept: application/json").encode() * 100
    sent = 0
    async with enemy.clients() as clients:

        async def ask(client: RawClient, _: int) -> None:
            nonlocal sent
            client.pause()
            with suppress(TimeoutError):  # the server has stopped reading, which is all that it has to do
                async with asyncio.timeout(hold_s):
                    for _ in range(requests // 100):
                        await client.send(piece)
                        sent += len(piece)

        broken = await _each(clients, connections, ask)
        await asyncio.sleep(hold_s)
    return {"sent": sent, "broken": broken}


async def distinct_headers(enemy: Enemy, *, user: str, name: str, count: int, size: int, target: str) -> Told:
    """A header that is another, and as long, at each request."""
    statuses: Counter[int] = Counter()
    longest = 0

    async def ask(client: RawClient, number: int) -> None:
        nonlocal longest
        for at in range(number, count, 8):
            value = (
                f"application/json;x={at:06}".ljust(size, "y") if name != "Authorization" else f"Bearer {at:0{size}}"
            )
            await client.send(enemy.head(target, user, f"{name}: {value}"))
            status, body = await _answer(client)
            statuses[status] += 1
            longest = max(longest, len(body) if status >= 400 else 0)

    async with enemy.clients() as clients:
        broken = await _each(clients, 8, ask)
    return {"statuses": statuses, "broken": broken, "longest_refusal": longest}


async def header_flood(enemy: Enemy, *, connections: int, lines: int, size: int, hold_s: float) -> Told:
    """Header lines without end: as many as allowed, as long as allowed, and never the blank one."""
    line = ("x-%06d: ".ljust(size, "z") + "\r\n").replace("%06d", "000000").encode()
    statuses: Counter[int] = Counter()

    async def ask(client: RawClient, _: int) -> None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(hold_s):
                await client.send("GET /livez HTTP/1.1\r\nHost: x\r\n")
                for _ in range(lines):
                    await client.send(line)
        with suppress(TimeoutError):
            statuses[await client.status(within_s=hold_s)] += 1

    async with enemy.clients() as clients:
        broken = await _each(clients, connections, ask)
    return {"statuses": statuses, "broken": broken}


async def huge_selectors(enemy: Enemy, *, user: str, count: int, each: int, terms: int, kind: str) -> Told:
    """Selectors of as many terms as a request line holds."""
    selector = quote(",".join(["a"] * terms) if kind == "label" else ",".join(["metadata.name=a"] * (terms // 8)))
    target = f"{API}/namespaces/tenant/packages?{kind}Selector={selector.replace('%2C', ',')}"
    statuses: Counter[int] = Counter()
    longest, said = 0, ""

    async def ask(client: RawClient, _: int) -> None:
        nonlocal longest, said
        for _ in range(each):
            await client.send(enemy.head(target, user))
            status, body = await _answer(client)
            statuses[status] += 1
            if status >= 400:
                longest, said = max(longest, len(body)), body[:2000].decode(errors="replace")

    async with enemy.clients() as clients:
        broken = await _each(clients, count, ask)
    return {"statuses": statuses, "broken": broken, "longest_refusal": longest, "said": said}


async def distinct_watches(enemy: Enemy, *, user: str, count: int, namespace: str, hold_s: float, read: bool) -> Told:
    """Watches of which no two select alike. read: they take what they are told; else they take nothing."""
    statuses: Counter[int] = Counter()
    taken = 0

    async def watch(client: RawClient, number: int) -> None:
        nonlocal taken
        target = f"{API}/namespaces/{namespace}/packagerevisions?watch=1&resourceVersion=0"
        await client.send(enemy.head(f"{target}&labelSelector=x!=v{number}", user))
        statuses[await client.status()] += 1
        if not read:
            client.pause()
            await asyncio.sleep(hold_s)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(hold_s):
                while piece := await client.reader.read(1 << 16):
                    taken += len(piece)

    async with enemy.clients() as clients:
        broken = await _each(clients, count, watch)
    return {"statuses": statuses, "broken": broken, "taken": taken}


async def stopped_watches(enemy: Enemy, *, user: str, count: int, namespace: str, within_s: float) -> Told:
    """Watches in a process that its parent stops and wakes: what became of each.

    Prints `open` when all are; the next line on stdin is the resourceVersion that they are to come to.
    """
    target = f"{API}/namespaces/{namespace}/packagerevisions?watch=1&resourceVersion=0"
    ends: Counter[str] = Counter()
    awaited = asyncio.get_running_loop().create_future()

    async def come_to_it(client: RawClient) -> str:
        seen, tail = 0, b""
        while piece := await client.reader.read(1 << 16):
            tail = tail[-_TAIL_BYTES:] + piece
            if b'"code":410' in tail:
                return "expired"
            seen = max(seen, *(int(version) for version in _VERSION.findall(tail)), 0)
            if awaited.done() and seen >= awaited.result():
                return "all"
        return "ended"

    async def watch(client: RawClient) -> None:
        try:
            async with asyncio.timeout(within_s):
                ends[await come_to_it(client)] += 1
        except ConnectionError:
            ends["ended"] += 1
        except TimeoutError:
            ends["lost"] += 1

    async with enemy.clients() as clients:
        for _ in range(count):
            (client,) = await clients.send(1, enemy.head(target, user))
            ends[f"answered {await client.status()}"] += 1
        watching = [asyncio.create_task(watch(client)) for client in clients.everybody]
        print("open", flush=True)
        awaited.set_result(int(await asyncio.to_thread(sys.stdin.readline)))
        await asyncio.gather(*watching)
    return ends


async def malformed(enemy: Enemy, *, count: int, connections: int) -> Told:
    """What is not HTTP, again and again, over TLS as all else; with long lines for whoever logs them."""
    garbage: Sequence[bytes] = (
        b"\x00\x01\x02" * 100 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET " + b"a" * 30_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"bad header " * 2000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET x:/\x1b[31mred HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    statuses: Counter[int] = Counter()

    async def ask(_: RawClient, number: int) -> None:
        for at in range(number, count, connections):
            async with enemy.clients() as own:
                [client] = await own.send(1, garbage[at % len(garbage)])
                statuses[await client.status()] += 1

    async with enemy.clients() as clients:
        broken = await _each(clients, connections, ask)
    return {"statuses": statuses, "broken": broken}


async def stalled_readers(enemy: Enemy, *, user: str, target: str, readers: int, accept: str, hold_s: float) -> Told:
    """Readers that take the first line of a long answer, and nothing more."""
    statuses: Counter[int] = Counter()

    async def ask(client: RawClient, _: int) -> None:
        await client.send(enemy.head(target, user, f"Accept: {accept}"))
        statuses[await client.status()] += 1
        client.pause()
        await asyncio.sleep(hold_s)

    async with enemy.clients() as clients:
        broken = await _each(clients, readers, ask)
    return {"statuses": statuses, "broken": broken}


async def slow_bodies(enemy: Enemy, *, user: str, connections: int, hold_s: float) -> Told:
    """Bodies that nobody asked for, endless, in chunks and of a great length."""
    statuses: Counter[int] = Counter()
    piece = b"8000\r\n" + bytes(0x8000) + b"\r\n"

    async def ask(client: RawClient, number: int) -> None:
        framing = "Transfer-Encoding: chunked" if number % 2 else "Content-Length: 99999999999"
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(hold_s):
                await client.send(enemy.head(f"{API}/packages", user, framing, method="POST"))
                while not client.writer.is_closing():
                    await client.send(piece)
                    await asyncio.sleep(0)  # what is sent to a server that has gone never waits
        with suppress(TimeoutError):
            statuses[await client.status(within_s=5)] += 1

    async with enemy.clients() as clients:
        broken = await _each(clients, connections, ask)
    return {"statuses": statuses, "broken": broken}


async def talkers(enemy: Enemy, *, user: str, watches: int, frames: str, hold_s: float) -> Told:
    """Watches over WebSocket whose clients talk as fast as they can, each in the largest pieces that are let pass."""
    statuses: Counter[int] = Counter()
    ends: Counter[str] = Counter()
    mask = bytes(4)
    ping, message = b"\x89\xfd" + mask + bytes(125), b"\x82\xfe\xff\xff" + mask + bytes(0xFFFF)
    said = {"pings": ping * 200, "messages": message, "specks": (b"\x8a\x80" + mask) * 250}[frames]
    upgrade = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    path = f"{API}/namespaces/tenant/packages?watch=1"

    async def talk(client: RawClient, _: int) -> None:
        await client.send(enemy.head(path, user, *upgrade))
        statuses[await client.status()] += 1
        try:
            async with asyncio.timeout(hold_s):
                while not client.writer.is_closing():
                    await client.send(said)
                    await asyncio.sleep(0)
        except TimeoutError:
            ends["it was heard to the end"] += 1
        except OSError:
            ends["it was ended"] += 1

    async with enemy.clients() as clients:
        broken = await _each(clients, watches, talk)
    return {"statuses": statuses, "ends": ends, "broken": broken}


def _half_a_hello(size: int) -> bytes:
    """A handshake's first message without its end, in records of 16 KiB; 128 KiB is the most that OpenSSL takes."""
    message = b"\x01\x01\xff\xff\x03\x03" + bytes(size)
    parts = [message[at : at + (16 << 10)] for at in range(0, size, 16 << 10)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


async def unfinished_handshakes(enemy: Enemy, *, connections: int, hello: int, hold_s: float) -> Told:
    """Connections that never say who they are; every other sends `hello` bytes of its first message."""
    place = urlsplit(enemy.url)
    held, refused, begin = [], 0, _half_a_hello(hello)
    for number in range(connections):
        try:
            async with asyncio.timeout(5):
                _, writer = await asyncio.open_connection(place.hostname, place.port, local_addr=(ADDRESS, 0))
            writer.write(begin if number % 2 else b"")
            held.append(writer)
        except (OSError, TimeoutError):
            refused += 1
    await asyncio.sleep(hold_s)
    for writer in held:
        writer.transport.abort()
    return {"held": len(held), "refused": refused}


_ATTACKS: Mapping[str, Callable[..., Awaitable[Told]]] = {
    attack.__name__: attack
    for attack in (
        unread_pipelines,
        distinct_headers,
        header_flood,
        huge_selectors,
        distinct_watches,
        stopped_watches,
        malformed,
        stalled_readers,
        slow_bodies,
        talkers,
        unfinished_handshakes,
    )
}


def _give_way() -> None:
    """An attacker has a machine of its own: the processor here is the server's and the honest ones'."""
    os.nice(10)
    # Linux shares the processor among sessions first, and niceness counts within one alone (sched(7): the autogroup).
    with suppress(OSError):
        os.setsid()
        Path("/proc/self/autogroup").write_text("10")


async def _main(place: Mapping[str, Any]) -> Told:
    _give_way()
    enemy = Enemy(place["url"], place["ca"], place["tokens"])
    return await _ATTACKS[place["attack"]](enemy, **place["job"])


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_main(json.loads(sys.stdin.readline())))))
