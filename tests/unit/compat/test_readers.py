"""Who has to go where readers of a catalog find no room: who takes nothing, of the client that has most of these."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest
from aiohttp import web

from cacheserver.api.http.budget import Budget
from cacheserver.api.status import StatusError
from cacheserver.compat.catalogd.readers import Reader, Readers

_LONG = 1000.0
"""Seconds that nobody of these has taken nothing for, but who is said to."""


@dataclass
class Transport:
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def abort(self) -> None:
        self.ended.set()


@dataclass
class Protocol:
    peername: tuple[str, int]


@dataclass
class Request:
    """As much of one as a reader is known by."""

    protocol: Protocol
    transport: Transport = field(default_factory=Transport)


@dataclass
class Sat:
    """A reader that has its place until it is ended."""

    reader: Reader
    transport: Transport

    def stall(self, longer: float = 0.0) -> None:
        self.reader.since -= 2 * _LONG + longer


class World:
    def __init__(self, stack: AsyncExitStack, readers: Readers) -> None:
        self._stack = stack
        self._readers = readers
        self._seats: list[asyncio.Task[None]] = []

    async def sit(self, address: str) -> Sat:
        request = Request(Protocol((address, 1)))
        found: asyncio.Future[Reader] = asyncio.get_running_loop().create_future()

        async def hold() -> None:
            try:
                async with self._readers.place(cast("web.BaseRequest", request), 10) as reader:
                    found.set_result(reader)
                    await request.transport.ended.wait()
            except StatusError as exc:
                found.set_exception(exc)

        seat = asyncio.create_task(hold())
        self._stack.callback(seat.cancel)
        return Sat(await found, request.transport)


@asynccontextmanager
async def seats(most: int, each: int) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(stack, Readers(Budget(most * 10, each=each * 10, wait_s=0.01), slow_s=_LONG))


async def test_of_those_who_take_nothing_one_of_who_has_most_goes() -> None:
    async with seats(4, 4) as world:
        alone, *many = [await world.sit(address) for address in ("10.0.0.1", "10.0.0.2", "10.0.0.2", "10.0.0.2")]
        alone.stall(longer=10)
        for each in many:
            each.stall()
        await world.sit("10.0.0.3")
        assert [each.transport.ended.is_set() for each in (alone, *many)].count(True) == 1
        assert not alone.transport.ended.is_set()


async def test_who_has_its_whole_share_makes_nobody_else_go() -> None:
    async with seats(10, 2) as world:
        other = await world.sit("10.0.0.1")
        other.stall()
        mine = [await world.sit("10.0.0.2") for _ in range(2)]
        with pytest.raises(StatusError, match="your readers"):
            await world.sit("10.0.0.2")
        assert not other.transport.ended.is_set()
        mine[1].stall()
        await world.sit("10.0.0.2")
        assert [each.transport.ended.is_set() for each in (other, *mine)] == [False, False, True]


async def test_nobody_goes_who_takes_what_it_is_sent() -> None:
    async with seats(1, 1) as world:
        quick = await world.sit("10.0.0.1")
        with pytest.raises(StatusError):
            await world.sit("10.0.0.2")
        assert not quick.transport.ended.is_set()
