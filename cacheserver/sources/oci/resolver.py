"""Looks up names of registries, so that names whose servers never answer hold up no others.

A lookup takes a thread until the system gives up, which can be half a minute, and uvloop has four of them. Whoever has
a thousand images at names like that would keep everybody's sources, and the host API, waiting for hours. Called by
registry.py, for every registry of a process.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final
from weakref import WeakKeyDictionary

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from cacheserver.turns import Places

_AT_ONCE: Final = 3
"""One less than libuv's threads (UV_THREADPOOL_SIZE), of which one is left for the host API's name."""
_OF_ONE_DOMAIN: Final = 2
_LABELS: Final = 2
"""Of a name, from its end: about what one owner has. Where it has more (co.uk) neighbours take turns, too."""


class Resolver(AbstractResolver):
    """One for each event loop, see `shared`. Those who ask for the same name at the same time share one lookup."""

    def __init__(self, system: AbstractResolver | None = None) -> None:
        self._system = system or ThreadedResolver()
        self._places = Places(_AT_ONCE, _OF_ONE_DOMAIN)
        self._asked: dict[tuple[str, int, int], asyncio.Task[list[ResolveResult]]] = {}  # connections bound them

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """As the system says. Raises: OSError."""
        about = (host, port, family)
        looking = self._asked.get(about)
        if looking is None:
            # A task of its own: the thread is taken until the lookup ends, whoever stops waiting for it.
            looking = self._asked[about] = asyncio.create_task(self._look_up(host, port, family), name="look up a name")
            looking.add_done_callback(lambda done: self._over(about, done))
        return await asyncio.shield(looking)

    async def _look_up(self, host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
        async with self._places.place(".".join(host.lower().rstrip(".").split(".")[-_LABELS:])):
            return await self._system.resolve(host, port, family)

    def _over(self, about: tuple[str, int, int], done: asyncio.Task[list[ResolveResult]]) -> None:
        del self._asked[about]
        if not done.cancelled():
            done.exception()  # told to who still waits; else nobody wants to know

    async def close(self) -> None:
        """Nothing: it is everybody's."""


_shared: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Resolver]] = WeakKeyDictionary()


def shared() -> Resolver:
    """The one of the running loop."""
    loop = asyncio.get_running_loop()
    if loop not in _shared:
        _shared[loop] = Resolver()
    return _shared[loop]
