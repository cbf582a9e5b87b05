"""Waits for something to become true, with a limit; the tests' only way to wait for another process."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

_POLL_INTERVAL_S = 0.02


async def eventually(holds: Callable[[], bool | Awaitable[bool]], *, within_s: float = 10.0) -> None:
    """Returns once `holds()` is true; AssertionError after within_s."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + within_s
    while True:
        answer = holds()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        assert loop.time() < give_up_at, f"not true within {within_s} s: {_told(holds)}"
        await asyncio.sleep(_POLL_INTERVAL_S)


def until(holds: Callable[[], bool], *, within_s: float, otherwise: Callable[[], str] = str) -> None:
    """`eventually` for who has no loop, or may hold it. otherwise: told when time runs out, such as a log's end."""
    give_up_at = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < give_up_at, f"not true within {within_s} s: {otherwise()}"
        time.sleep(_POLL_INTERVAL_S)


def _told(holds: Callable[[], object]) -> str:
    try:
        return inspect.getsource(holds).strip()
    except (OSError, TypeError):  # a partial has no source
        return repr(holds)
