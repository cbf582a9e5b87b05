"""File work beside the loop: a thread that reports progress, and that ends soon after its caller has left."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from cacheserver.sources.tree import Progress

T = TypeVar("T")

_REPORT_INTERVAL_S: Final = 0.05


def from_thread(progress: Progress) -> Progress:
    """`progress` for a worker thread: runs on the loop that calls this, 20 times a second at most, and at the end."""
    loop = asyncio.get_running_loop()
    last_s = 0.0

    def report(what: str, done: int, total: int) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= _REPORT_INTERVAL_S or done == total:
            last_s = now_s
            loop.call_soon_threadsafe(progress, what, done, total)

    return report


async def run_stoppable(stop: threading.Event, call: Callable[[], T]) -> T:
    """What `call` returns, from a thread. Cancelled, it sets `stop`, which `call` must look at, and waits for its end:
    nothing writes below a scratch directory that its owner is about to remove."""
    work = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([work])  # Bounded by one read of the thread's; its outcome interests nobody.
        if not work.cancelled():
            work.exception()
        raise


def first_error(group: ExceptionGroup) -> Exception:
    """The failure that ended a task group; the others were cut off by it, or came to the same end."""
    found: Exception = group
    while isinstance(found, ExceptionGroup):
        found = found.exceptions[0]
    return found
