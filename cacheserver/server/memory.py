"""How the C library keeps this process's free memory, and giving it back. Used by the server; without
glibc it does nothing.

Left to itself, glibc keeps what a burst freed: it hands out large blocks from the heap once one of them was freed,
gives each thread a heap of its own, and returns only what lies at a heap's end.
"""

from __future__ import annotations

import asyncio
import ctypes
from typing import Final, NoReturn

_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

# Larger blocks are mapped on their own and go back when freed: uvloop's 256 KiB for each TLS connection among them, of
# which a few pages are used. Answers are written in smaller pieces, which are faster to reuse than to map.
_MAPPED_FROM: Final = 256 << 10
_KEPT_AT_END: Final = 8 << 20  # that the heap's end does not come and go with each request; give_back() takes it too


def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def keep_little() -> None:
    """For the rest of the process. Call before threads start: a thread's heap is chosen at its first allocation."""
    glibc = _glibc()
    if glibc is not None:
        glibc.mallopt(_M_ARENA_MAX, 1)
        glibc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM)
        glibc.mallopt(_M_TRIM_THRESHOLD, _KEPT_AT_END)


async def give_back() -> None:
    """Give back what is free now."""
    glibc = _glibc()
    if glibc is not None:
        await asyncio.to_thread(glibc.malloc_trim, 0)  # without the GIL; 2 to 10 ms for 50 MB, 0.1 ms for nothing


async def keep_giving_back() -> NoReturn:
    """Each second, until cancelled: a burst's memory goes with it. Writing to it again costs 0.1 ms a MB."""
    while True:
        await give_back()
        await asyncio.sleep(1.0)
