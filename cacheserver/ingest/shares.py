"""Places to work, shared fairly: no namespace has all of them, and who is slow ends up among the slow.

A repository that takes long moves to one of a few further places, and begins there the next time; so those who are slow
wait for each other and for nobody else, and nobody else waits for them. Used by sync.py for each of its steps.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import field

from cacheserver.model import RepositoryKey
from cacheserver.slotted import slotted

SLOW_AFTER_S = 20.0
"""Ours: the largest public catalogs are read in 10 s; who takes longer is slow, not large. For so long
three of a namespace can hold up its others, once: the next time they begin among the slow."""
_SLOW_KEPT = 4096
"""Slow repositories remembered; past that the longest known is taken for well, and shows again that it is not."""


@slotted(eq=False)
class _Turn:
    """One who works or waits. slow: in, or waiting for, one of the places of the slow."""

    key: RepositoryKey
    slow: bool
    begun: asyncio.Event = field(default_factory=asyncio.Event)


class Shares:
    """See the module. places: of those who are well. slow_places: further ones. Not more than places + slow_places work
    at the same time. A namespace has three quarters of the places at most, so one who comes from another finds one."""

    def __init__(self, places: int, slow_places: int, *, slow_after_s: float = SLOW_AFTER_S) -> None:
        self._free = {False: places, True: slow_places}
        self._most = max(1, places * 3 // 4)
        self._slow_after_s = slow_after_s
        self._working: Counter[str] = Counter()  # of those who are well, by namespace
        self._waiting: dict[bool, deque[_Turn]] = {False: deque(), True: deque()}
        self._slow: OrderedDict[RepositoryKey, None] = OrderedDict()

    @asynccontextmanager
    async def turn(self, key: RepositoryKey) -> AsyncIterator[Callable[[], None]]:
        """A place while the block runs; waits for it, first come first served among those who may have one.

        What it gives is called when the work is done and the place is kept for another reason: that counts for nobody.
        """
        turn = _Turn(key, slow=key in self._slow)
        self._waiting[turn.slow].append(turn)
        self._fill()
        try:
            await turn.begun.wait()
        except asyncio.CancelledError:
            self._give_up(turn)
            raise
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._slow_after_s, self._is_slow, turn)

        def done() -> None:
            if not timer.cancelled() and timer.when() > loop.time():
                self._slow.pop(key, None)
            timer.cancel()

        try:
            yield done
        finally:
            done()
            self._leave(turn)

    def _is_slow(self, turn: _Turn) -> None:
        """It took long: the next time it begins among the slow, and goes there now if there is room."""
        self._slow[turn.key] = None
        self._slow.move_to_end(turn.key)
        if len(self._slow) > _SLOW_KEPT:
            self._slow.popitem(last=False)
        if not turn.slow and self._free[True]:
            self._leave(turn)
            turn.slow = True
            self._free[True] -= 1
            self._fill()

    def _give_up(self, turn: _Turn) -> None:
        if turn.begun.is_set():
            self._leave(turn)
        else:
            self._waiting[turn.slow].remove(turn)

    def _leave(self, turn: _Turn) -> None:
        self._free[turn.slow] += 1
        if not turn.slow:
            self._working[turn.key.namespace] -= 1
        self._fill()

    def _fill(self) -> None:
        """Let begin who may: of the well the first whose namespace has not its share."""
        while self._free[True] and self._waiting[True]:
            self._free[True] -= 1
            self._waiting[True].popleft().begun.set()
        while self._free[False]:
            may = (turn for turn in self._waiting[False] if self._working[turn.key.namespace] < self._most)
            turn = next(may, None)
            if turn is None:
                return
            self._waiting[False].remove(turn)
            self._free[False] -= 1
            self._working[turn.key.namespace] += 1
            turn.begun.set()
