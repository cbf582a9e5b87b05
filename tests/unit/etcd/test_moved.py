"""An etcd that comes back under another address, as a pod does that was replaced: its name is asked for each time that
a connection is made; and one of whose addresses not all answer."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from cacheserver.etcd.address import Address, Certificates
from cacheserver.etcd.calls import Line
from cacheserver.http2.grpc import CallError
from tests.fakes.frames import SETTINGS, Etcd, answer, frame, playing
from tests.support.waiting import eventually


async def answering(etcd: Etcd) -> None:
    await etcd.begun()
    etcd.say(frame(SETTINGS, 0, 0))
    while True:
        etcd.say(answer(await etcd.question(), b"here"))


class Names:
    """What the loop is told of etcd.test, in place of the machine's resolver."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
        self.addresses = addresses
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self._look_up)

    async def _look_up(self, host: str, port: int, **_: Any) -> list[Any]:
        assert host == "etcd.test"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.addresses]


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


async def test_a_replaced_etcd_is_found_at_its_new_address_once_the_name_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = Names(monkeypatch, "127.0.0.2")
    async with playing(answering, "127.0.0.2") as (url, _):
        line = Line(Address("http://etcd.test", "etcd.test", port_of(url)), Certificates(None))
        assert await line.call("/path", b"", (), 5) == b"here"
        connection = line._connection
    assert connection is not None
    connection.close()  # its other side has gone
    async with playing(answering, "127.0.0.3", port_of(url)):
        with pytest.raises(CallError):
            await line.call("/path", b"", (), 5)
        names.addresses = ("127.0.0.3",)

        async def answers() -> bool:
            try:
                return await line.call("/path", b"", (), 5) == b"here"
            except CallError:  # between two tries to connect all are told what the last one met
                return False

        await eventually(answers)
        await line.close()


async def test_of_several_addresses_one_that_answers_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, "127.0.0.2", "127.0.0.3")
    async with playing(answering, "127.0.0.3") as (url, _):
        line = Line(Address("http://etcd.test", "etcd.test", port_of(url)), Certificates(None))
        assert await line.call("/path", b"", (), 5) == b"here"
        await line.close()
