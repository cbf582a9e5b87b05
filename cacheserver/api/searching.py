"""Keeps the index of packages in step with the cache, and searches it in steps between other work.

Filled as objects enter the cache, a package at a time; a search waits a moment until it has all of them. Holds no
objects, so what was found is looked up again. Called by verbs.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Hashable, Sequence
from typing import Final, NoReturn

import orjson

from cacheserver.api.status import bad_request
from cacheserver.cache.snapshot import Entry, Name
from cacheserver.cache.watchcache import WatchCache
from cacheserver.errors import NotReady
from cacheserver.model import Kind
from cacheserver.query.search import (
    MOST_HITS,
    NOTHING_CHOSEN,
    TEXT_CHARACTERS,
    Chosen,
    Filter,
    Found,
    SearchIndex,
    Steps,
)
from cacheserver.turns import TURN_COST

log = logging.getLogger(__name__)

_WAIT_S: Final = 3.0
"""For the index to have what the cache has, as long as a read waits for a revision (cache/freshness.py)."""
_TURN: Final = 2_048
"""Entries that are looked at in one turn: 0.4 ms."""
_COST: Final = 2
"""Of an entry, in the units of turns.py: 0.3 us."""
_COST_A_BYTE: Final = 2
"""Of a package that is put in: 0.4 us, and so three to eight packages a turn. Its words are bounded, so is the cost."""


class Searching:
    """One per process. As a listener of the cache it is told of every package."""

    def __init__(self, cache: WatchCache) -> None:
        self._cache = cache
        self._index = SearchIndex()
        self._pending: dict[Name, Entry | None] = {}  # at most one of each package that is cached
        self._wake = asyncio.Event()
        self._whole = asyncio.Event()
        self._was_whole = False  # since everything was read
        cache.listen(Kind.PACKAGE, self)

    # --- what the cache tells ---

    def loaded(self, entries: Sequence[Entry]) -> None:
        """Begin anew with these."""
        self._index = SearchIndex()
        self._pending = {entry.name: entry for entry in entries}
        self._was_whole = False
        self._changed()

    def replaced(self, name: Name, entry: Entry | None) -> None:
        """A package is another one now, or (None) gone."""
        self._pending[name] = entry
        self._changed()

    def _changed(self) -> None:
        self._whole.clear()
        self._wake.set()

    async def run(self) -> NoReturn:
        """Take in what changed, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                name = next(iter(self._pending))
                entry = self._pending[name]
                await self._cache.turns.spend(min(entry.size * _COST_A_BYTE, TURN_COST) if entry is not None else 1_000)
                # Others may have put something else there in the meantime: what is there now counts.
                if name in self._pending:
                    self._take(name, self._pending.pop(name))
            self._whole.set()
            if not self._was_whole:
                # As all else that is read at a start (cache/filling.py): to walk it takes 9 ms. Others are served by
                # now, and what they left is not to stay for good.
                gc.collect()
                gc.freeze()
            self._was_whole = True

    def _take(self, name: Name, entry: Entry | None) -> None:
        if entry is not None:
            try:
                self._index.put(orjson.loads(entry.body))
                return
            except Exception:
                # The edge of one package: of another release, or of a defect of ours. Reads and watches stand on the
                # task that this runs in.
                log.exception("a package is not found by its words", extra={"namespace": name[0], "package": name[1]})
        self._index.remove(name)

    # --- searches ---

    async def search(
        self,
        text: str,
        namespace: str | None,
        keep: Filter | None = None,
        *,
        chosen: Chosen = NOTHING_CHOSEN,
        facets: bool = False,
        by_name: bool = False,
        most: int = MOST_HITS,
        client: Hashable = None,
    ) -> Found:
        """See SearchIndex.search. client: whose turns it takes.

        Raises: StatusError 400 for a text that is longer than anybody's; NotReady while the index is being made.
        """
        if len(text) > TEXT_CHARACTERS:
            raise bad_request(f"search has {len(text)} characters, at most {TEXT_CHARACTERS} are read")
        try:
            async with asyncio.timeout(_WAIT_S):
                await self._whole.wait()
        except TimeoutError:
            if not self._was_whole:  # else changes come without end, and what there is of them will do
                raise NotReady("the index of packages is being made; try again in a moment") from None
        steps = self._index.search(text, namespace, keep, chosen=chosen, facets=facets, by_name=by_name, most=most)
        return await self._driven(steps, client)

    async def _driven(self, steps: Steps, client: Hashable) -> Found:
        # Before the work: of a thousand small searches who pay behind it, or never, all would be done in one turn.
        await self._cache.turns.spend(_TURN * _COST, client)
        paid = _TURN
        while True:
            try:
                paid -= next(steps)
            except StopIteration as end:
                found: Found = end.value
                return found
            if paid <= 0:
                await self._cache.turns.spend((_TURN - paid) * _COST, client)
                paid = _TURN
