"""A Service in front of replicas, as kube-proxy is one: each new connection goes to whichever replica accepts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Self

_PIECE = 1 << 16


class Service:
    """Serves inside `async with`, on loopback; address: HOST:PORT."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = list(ports)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            for port in list(self._ports):
                try:
                    behind = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    self._ports.append(self._ports.pop(0))  # the next is asked first from now on
                    continue
                await asyncio.gather(_pass(reader, behind[1]), _pass(behind[0], writer))
                return
        finally:
            writer.close()
            self._tasks.discard(task)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
