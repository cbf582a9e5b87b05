"""The bound of fan-out writes what it was asked to write, whatever its watchers take."""

from __future__ import annotations

import asyncio
from typing import Any

from bench.load import bare

PIECE = bare._piece(bare.Job("", "", streams=2, pieces=3, events=4, event_bytes=100))


class Transport:
    """Pauses after every second write, as a full socket does, until the test's loop comes round."""

    def __init__(self, watcher: bare._Watcher) -> None:
        self.written = b""
        self._watcher = watcher
        self._writes = 0

    def set_write_buffer_limits(self, high: int) -> None:
        assert high > 0

    def write(self, data: bytes) -> None:
        self.written += data
        self._writes += 1
        if self._writes % 2 == 0:
            self._watcher.pause_writing()
            asyncio.get_running_loop().call_later(0.001, self._watcher.resume_writing)


def test_a_piece_is_one_chunk_of_events_of_the_size_asked_for() -> None:
    size, _, body = PIECE.partition(b"\r\n")
    events = body.removesuffix(b"\r\n").splitlines(keepends=True)
    assert int(size, 16) == 400
    assert [len(event) for event in events] == [100] * 4


async def test_every_watcher_gets_every_piece_though_it_pauses() -> None:
    asked: list[bare._Watcher] = []
    resumed = asyncio.Event()
    transports = []
    for _ in range(2):
        watcher = bare._Watcher(asked, resumed, pieces=3)
        transport: Any = Transport(watcher)
        transports.append(transport)
        watcher.connection_made(transport)
        watcher.data_received(b"GET / HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(5):
        await bare._write(asked, PIECE, resumed)
    assert [transport.written.count(PIECE) for transport in transports] == [3, 3]
