"""Many of one thing at a time, within a bound. No I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sized
from typing import TypeVar

T = TypeVar("T")


async def in_parallel(items: Iterable[T], act: Callable[[T], Awaitable[object]], *, width: int) -> None:
    """`act` on every item, at most `width` at a time. The first error cancels the rest and is raised alone."""
    pending = iter(items)
    if isinstance(items, Sized):
        width = min(width, len(items))

    async def worker() -> None:
        for item in pending:
            await act(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(width):
                group.create_task(worker())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
