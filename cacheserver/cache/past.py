"""States before the present, for pages under way and for lists of an exact resource version.

Those under way are kept for five minutes; any other that the window reaches back to is made by undoing its events.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from cacheserver.cache.kind import CachedKind
from cacheserver.cache.page import rewind
from cacheserver.cache.snapshot import Snapshot
from cacheserver.errors import Expired
from cacheserver.model import Kind
from cacheserver.turns import Turns

_KEPT_SNAPSHOTS: Final = 64
"""Of pages under way; past that the oldest is rebuilt from the window, or is gone."""
_KEPT_S: Final = 300.0
"""Each holds whatever changed since, which is everything after a while: Kubernetes' continue tokens end after as long
(k8s.io/apiserver/pkg/storage/storagebackend: DefaultCompactInterval)."""
_REWIND_WAIT_S: Final = 10.0


class Past:
    """See the module. One for each cache; `len` is how many pages are under way."""

    def __init__(self) -> None:
        # Each shares every segment that did not change since.
        self._kept: OrderedDict[tuple[Kind, int], tuple[Snapshot, float]] = OrderedDict()
        self._rewinding = asyncio.Lock()
        self._last: tuple[tuple[Kind, int, int], Snapshot] | None = None

    def __len__(self) -> int:
        return len(self._kept)

    async def at(
        self, cached: CachedKind, resource_version: int, present: Callable[[], Snapshot], turns: Turns
    ) -> Snapshot:
        """The state of a kind at a version before the present.

        present: makes the state of now. turns: whose work undoing is part of.
        Raises: Expired; TimeoutError when too many others want other versions.
        """
        # One at a time: each takes up to 70 ms of CPU and holds a copy of what changed, and the next may want the same.
        async with asyncio.timeout(_REWIND_WAIT_S), self._rewinding:
            known = self._kept.get((cached.kind, resource_version))
            if known is not None:
                return known[0]
            window = cached.window
            if resource_version < window.floor:
                raise Expired(resource_version, window.floor)
            last, epoch = self._last, window.epoch
            if last is not None and last[0] == (cached.kind, epoch, resource_version):
                return last[1]
            # No await between the two: the events are exactly what lies between that version and this state.
            events, now = window.since(window.index_after(resource_version)), present()
            past = await rewind(now, events, resource_version, turns)
            if window.epoch != epoch:
                raise Expired(resource_version, window.floor)
            self._last = (cached.kind, epoch, resource_version), past
            return past

    def keep(self, kind: Kind, snapshot: Snapshot) -> None:
        """For the pages that follow the one that was just cut of it."""
        key = (kind, snapshot.resource_version)
        self._kept[key] = snapshot, time.monotonic()
        self._kept.move_to_end(key)
        if len(self._kept) > _KEPT_SNAPSHOTS:
            self._kept.popitem(last=False)

    def forget_idle(self, now: float) -> None:
        """Let go of those that nobody asked for in a while, and of the last one made anew. now: monotonic."""
        self._last = None
        while self._kept and next(iter(self._kept.values()))[1] < now - _KEPT_S:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Let go of all: the store is another one."""
        self._kept.clear()
