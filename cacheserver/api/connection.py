"""How a connection over TLS is read: into one buffer, then as aiohttp reads any other. Decides nothing.

For a protocol that takes bytes, uvloop makes 256 KiB of them at every read and shrinks them to what came; the C library
maps and unmaps so much (heap.py), which was a third of the CPU of a small answer. Without TLS it has no such habit.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

_BUFFER_BYTES: Final = 64 << 10  # four records of TLS; what is more comes with the next call


class SecureServer(web.Server):
    """An aiohttp server for a listener with TLS."""

    # One for all connections: what was read is copied out before the loop does anything else.
    _buffer: Final = memoryview(bytearray(_BUFFER_BYTES))

    def __call__(self) -> asyncio.BufferedProtocol:  # type: ignore[override] # whoever listens takes any protocol
        return _Connection(super().__call__(), self._buffer)


class _Connection(asyncio.BufferedProtocol):
    """Hands everything to aiohttp's own protocol."""

    def __init__(self, inner: web.RequestHandler, buffer: memoryview) -> None:
        self._inner = inner
        self._buffer = buffer

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._inner.data_received(bytes(self._buffer[:nbytes]))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inner.connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._inner.connection_lost(exc)

    def eof_received(self) -> None:
        self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
