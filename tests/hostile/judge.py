"""What must be true after every attack: others were served, memory was bounded and is given back, nothing is broken."""

from __future__ import annotations

import asyncio
from typing import Final

from tests.hostile.arena import Arena, Measured, Memory
from tests.hostile.conftest import WHOLE
from tests.support.waiting import eventually

MOST_RESIDENT: Final = 400 << 20
"""Of the server and its children together, at any moment."""

AFTERWARDS: Final = 260 << 20
"""What is left a while after an attack: the server, its two workers, and what a cache may keep."""

MOST_P99_MS: Final = 50.0

STARVED_S: Final = 3.0
"""Without a processor, of the part that runs among all other tests."""


async def judge(arena: Arena, measured: Measured) -> None:
    """Raises AssertionError that says what an attack got through."""
    felt = measured.felt
    assert measured.memory.peak < MOST_RESIDENT, f"{measured.memory.peak >> 20} MiB at most"
    # A 504: etcd was not heard of for 3 s. Where the machine gave us no processor for as long, no attacker did it.
    starved = not WHOLE and measured.waited_s >= STARVED_S
    failed = {what: times for what, times in felt.failed.items() if not (starved and what.endswith(" 504"))}
    assert not failed, f"others were refused: {failed}"
    assert all(felt.answered.get(question) for question in ("GET", "LIST", "livez"))
    assert "Traceback" not in measured.logged
    if WHOLE:
        slow = {question: ms for question, ms in felt.p99_ms.items() if ms >= MOST_P99_MS}
        assert not slow, f"p99 of others: {slow}"
    held = Memory(arena.server.pid)
    await eventually(lambda: asyncio.to_thread(lambda: held.look() < AFTERWARDS), within_s=30)
    await arena.whole()
