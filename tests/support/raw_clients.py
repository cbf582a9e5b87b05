"""Clients that no library is: raw connections which send what they like, read as slowly as they like, or not at all.

They come from an address of their own (127.0.0.2, which Linux has on loopback), so that a limit by client can tell
them from a test's honest clients.

async with raw_clients(server) as clients:
    await clients.send(200, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

ADDRESS = "127.0.0.2"
_SMALL_BUFFER = 4096  # the kernel keeps little for a slow reader, so that the server has to


@dataclass
class RawClient:
    """One connection. Nothing is read until read() is called."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def pause(self) -> None:
        """Takes nothing more off its socket; some was read ahead."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined] # a socket's transport reads, too

    async def send(self, text: str | bytes) -> None:
        self.writer.write(text.encode("latin-1") if isinstance(text, str) else text)
        await self.writer.drain()

    async def status(self, *, within_s: float = 20) -> int:
        """Of the next answer's first line; 0 when the server closed instead."""
        try:
            async with asyncio.timeout(within_s):
                line = await self.reader.readline()
        except ConnectionError:
            return 0
        return int(line.split()[1]) if line else 0

    async def rest(self, *, within_s: float = 20) -> bytes:
        """What comes until the server closes; TimeoutError when it does not."""
        try:
            async with asyncio.timeout(within_s):
                return await self.reader.read()
        except ConnectionError:
            return b""

    @property
    def refused(self) -> bool:
        """The server has closed, and all that it sent was read."""
        return self.reader.at_eof()


@dataclass
class RawClients:
    """Strangers from one address, until the block ends. tls: their context, where the server speaks TLS."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    address: str = ADDRESS
    everybody: list[RawClient] = field(default_factory=list)

    async def connect(self, count: int = 1) -> Sequence[RawClient]:
        return [await self._one() for _ in range(count)]

    async def send(self, count: int, text: str | bytes, *, paused: bool = False) -> Sequence[RawClient]:
        """`count` new ones that each send this. paused: and then read nothing."""
        found = await self.connect(count)
        for one in found:
            if paused:
                one.pause()
            await one.send(text)
        return found

    async def _one(self) -> RawClient:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
        sock.setblocking(False)
        sock.bind((self.address, 0))
        await asyncio.get_running_loop().sock_connect(sock, (self.host, self.port))
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=self.tls, server_hostname=self.host if self.tls else None, limit=_SMALL_BUFFER
        )
        self.everybody.append(RawClient(reader, writer))
        return self.everybody[-1]

    def leave(self) -> None:
        """All at once, without a goodbye."""
        for each in self.everybody:
            each.writer.transport.abort()
        self.everybody.clear()


@asynccontextmanager
async def raw_clients(url: str, tls: ssl.SSLContext | None = None, address: str = ADDRESS) -> AsyncIterator[RawClients]:
    """Clients before the server at `url`."""
    where = urlsplit(url)
    assert where.hostname is not None
    assert where.port is not None
    clients = RawClients(where.hostname, where.port, tls, address)
    try:
        yield clients
    finally:
        clients.leave()
