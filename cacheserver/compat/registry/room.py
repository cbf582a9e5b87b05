"""What all clients of the registry may take up, in calls, in bytes that they have not taken, and in turns of the loop;
and the answers that were asked for last, ready. One for all listeners of a process."""

from __future__ import annotations

import asyncio
from collections import Counter
from time import monotonic
from typing import Final

from cacheserver.memo import Memo
from cacheserver.turns import Pace, Turns

CALLS: Final = 512
"""Under way in a process at the same time. OLM has a dozen for each catalog while it reads one."""
CALLS_EACH: Final = 128
"""Of these, of one address: a client in Go asks a hundred at once over one connection (http2.connection.STREAMS)."""
HELD_BYTES: Final = 64 << 20
"""Of answers that clients have not taken: as all readers of content may hold (api/http/budget.py)."""
HELD_BYTES_EACH: Final = 16 << 20
READY_BYTES: Final = 16 << 20
"""Of answers that are kept as they are sent. OLM's package-server asks for the head of each channel, and so does its
next replica, or another cluster's: 85 of community v4.20, with 4.6 MB, of which each takes 0.7 ms to unpack."""
READY_S: Final = 60.0
"""Nobody asks anything for so long: they are let go."""

_ROOM_S: Final = 10.0
_LOOK_S: Final = 0.02
"""Between two looks whether there is room: who waits stands behind clients who do not read."""
_BATCHES_A_TURN: Final = 4
"""Of all calls together: 0.3 ms each, 1 ms where a large block is unpacked."""
_FRAMES_TURN_S: Final = 0.002
"""A turn of the loop for what all clients say."""


Key = tuple[int, bytes, bytes]
"""(revision's serial, method, question)"""


class BusyError(Exception):
    """There is no room for a call, or for its answer."""


class Room:
    """See the module. pace: for what comes. turns: for what is sent."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        self.all_calls = 0
        self.all_held = 0
        self.pace = Pace(_FRAMES_TURN_S)
        self.turns = Turns(_BATCHES_A_TURN)
        self.ready: Memo[Key, bytes] = Memo(READY_BYTES)
        self._asked_at = 0.0

    def enter(self, who: str) -> None:
        """A call begins. Raises: BusyError."""
        if self.all_calls >= CALLS or self.calls[who] >= CALLS_EACH:
            raise BusyError(f"too many calls at the same time: {CALLS_EACH} of one client, {CALLS} of all")
        self.calls[who] += 1
        self.all_calls += 1

    def leave(self, who: str) -> None:
        """As many times as enter()."""
        self.all_calls -= 1
        _take(self.calls, who, 1)

    async def hold(self, who: str, size: int, *, wait_s: float = _ROOM_S) -> None:
        """Waits a while for room. A client's only answer fits whatever its size. Raises: BusyError."""
        until = monotonic() + wait_s
        while self.all_held + size > HELD_BYTES or (who in self.held and self.held[who] + size > HELD_BYTES_EACH):
            if monotonic() >= until:
                raise BusyError(f"answers that were not taken hold {HELD_BYTES_EACH} bytes of one client, or all bytes")
            await asyncio.sleep(_LOOK_S)
        self.held[who] += size
        self.all_held += size

    def give_back(self, who: str, size: int) -> None:
        """What hold() took."""
        self.all_held -= size
        _take(self.held, who, size)

    def keep(self, key: Key, answer: bytes) -> None:
        """Have it ready."""
        self._asked_at = monotonic()
        self.ready.put(key, answer, len(answer) + len(key[2]))

    def ask(self, key: Key) -> bytes | None:
        """The answer, if it is ready."""
        found = self.ready.get(key)
        if found is not None:
            self._asked_at = monotonic()
        return found

    def look(self, now: float) -> bool:
        """Let go of what nobody asks for, as of `now`, on the monotonic clock. True: there is something yet."""
        if self._asked_at and now - self._asked_at >= READY_S:
            self._asked_at = 0.0
            self.ready.clear()
        return self._asked_at != 0.0


def _take(counted: Counter[str], who: str, size: int) -> None:
    counted[who] -= size
    if counted[who] <= 0:
        del counted[who]
