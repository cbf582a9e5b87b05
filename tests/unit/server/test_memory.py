"""What a burst freed goes back to the system, though something small that was made in between stays."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from cacheserver.server import memory

_BYTES = 4000
_COUNT = 10_000


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
async def test_what_was_freed_between_things_that_stay_is_given_back() -> None:
    burst = [bytes(_BYTES) for _ in range(_COUNT)]
    kept = burst[::50]
    del burst
    before = _resident()
    await memory.give_back()
    assert before - _resident() > _COUNT * _BYTES * 0.5
    assert len(kept) == _COUNT // 50
