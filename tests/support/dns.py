"""A name server on loopback that says of every name the address that the test chose, and counts who asks."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import cast

_ADDRESS, _CLASS_IN = 1, 1  # RFC 1035 sections 3.2.2 and 3.2.4
_HEAD = 12


class NameServer(asyncio.DatagramProtocol):
    """`address` is what it says from now on; `questions`, how often it was asked for one."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.questions = 0
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, peer: tuple[str | object, int]) -> None:
        """RFC 1035 section 4.1: the question again, and the one record where an address is asked for."""
        end = _HEAD
        while data[end]:
            end += data[end] + 1
        (kind,) = struct.unpack_from(">H", data, end + 1)
        record = b""
        if kind == _ADDRESS:
            self.questions += 1
            record = struct.pack(">HHHIH", 0xC00C, _ADDRESS, _CLASS_IN, 0, 4) + IPv4Address(self.address).packed
        assert self._transport is not None
        head = data[:2] + struct.pack(">HHHHH", 0x8580, 1, 1 if record else 0, 0, 0)
        self._transport.sendto(head + data[_HEAD : end + 5] + record, peer)


@asynccontextmanager
async def name_server(address: str) -> AsyncIterator[NameServer]:
    """One that runs until the block ends."""
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(address), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server
    finally:
        transport.close()
