"""What is cached of one kind: its objects by name, their order, indexes, recent events, and who waits for the next one.

Of two keys that carry one name the one written last is served; the other is remembered until it goes or wins again.
Knows nothing of the store; watchcache.py fills it and reads it, past.py and watches read it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import field
from typing import Final, NoReturn, Protocol

from cacheserver.cache.filling import Filling
from cacheserver.cache.index import Indexes
from cacheserver.cache.snapshot import Entry, Name, Run, State
from cacheserver.cache.window import Selector, Window, restamped
from cacheserver.memo import Memo
from cacheserver.model import Kind
from cacheserver.slotted import slotted

ANSWERS_BYTES: Final = 2 << 20
"""Of what lists of a kind found, without the objects: everything of 40,000 objects takes an eighth of it, which is the
most that is kept of one."""


@slotted()
class Waiters:
    """Futures of tasks that wait for something to happen here. Each task owns one at most, so callers bound it."""

    futures: dict[asyncio.Future[None], float] = field(default_factory=dict)

    async def wait(self, timeout_s: float) -> None:
        """Until wake(), or about timeout_s (checked once a second by the cache's clock)."""
        future = asyncio.get_running_loop().create_future()
        self.futures[future] = time.monotonic() + timeout_s
        try:
            await future
        finally:
            self.futures.pop(future, None)

    def wake(self, *, due_before: float | None = None) -> None:
        """End the waits that are due before a moment (monotonic), or all of them."""
        for future, due in list(self.futures.items()):
            if (due_before is None or due <= due_before) and not future.done():
                future.set_result(None)


class Listener(Protocol):
    """Who keeps something of a kind's objects in step with them. It is told while the cache changes: it only notes."""

    def loaded(self, entries: Sequence[Entry]) -> None:
        """Everything is read anew: these are all."""
        ...

    def replaced(self, name: Name, entry: Entry | None) -> None:
        """The object is this one now, or (None) gone."""
        ...

    async def run(self) -> NoReturn:
        """Its own work, until cancelled, between that of others."""
        ...


class Answers:
    """What was found in one state of a kind, by who asked and where. Whoever changes the state makes new ones."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: Memo[tuple[str | None, int, str], tuple[Selector, Sequence[Run]]] | None = None

    def get(self, namespace: str | None, selector: Selector, behind: str) -> Sequence[Run] | None:
        """None: not known any more."""
        known = None if self._found is None else self._found.get((namespace, id(selector), behind))
        return None if known is None else known[1]

    def put(self, namespace: str | None, selector: Selector, behind: str, runs: Sequence[Run]) -> None:
        """Keep it, where the selector is asked again."""
        if not selector.held:
            return
        if self._found is None:
            self._found = Memo(ANSWERS_BYTES)
        entries = sum(len(run.entries) for run in runs if run.segment is None)
        # With the selector, so that while this is kept no other has its id.
        size = selector.held + 100 * len(runs) + 8 * entries
        self._found.put((namespace, id(selector), behind), (selector, runs), size)


class CachedKind:
    """See the module. max_events, max_bytes: of the window."""

    def __init__(self, kind: Kind, max_events: int, max_bytes: int) -> None:
        self.kind = kind
        self.state = State()
        self.by_name: dict[Name, Entry] = {}
        self.indexes = Indexes()
        # Entries of keys whose name another key has by now. Nearly always empty: one key, one name.
        self.shadowed: dict[Name, dict[bytes, Entry]] = {}
        self.window = Window(max_events, max_bytes)
        self.watchers = Waiters()
        self.listeners: list[Listener] = []
        self.answers = Answers()
        """Of the state as it is now."""

    def begin(self, filled: Filling, floor: int) -> None:
        """Serve what was read anew, as of revision `floor`."""
        self.state, self.by_name, self.indexes = filled.state, filled.by_name, filled.indexes
        self.shadowed = filled.shadowed
        self.answers = Answers()
        self.window.reset(floor)
        entries = list(self.by_name.values()) if self.listeners else ()
        for listener in self.listeners:
            listener.loaded(entries)

    def written(self, entry: Entry) -> Entry | None:
        """Its key has this entry now, and is the owner of its name; returns what was served under the name."""
        old = self.by_name.get(entry.name)
        self._shadow(old, entry)
        return self.replace(entry.name, entry)

    def gone(self, key: bytes, name: Name, revision: int) -> tuple[Entry | None, Entry | None] | None:
        """`key` no longer carries `name`: (what was served, what is served now); None when it was not the owner.

        Where another key still carries the name, the latest of these is its owner now.
        """
        old, others = self.by_name.get(name), self.shadowed.get(name, {})
        if old is None or old.key != key:
            others.pop(key, None)
            if not others:
                self.shadowed.pop(name, None)
            return None
        if not others:
            return self.replace(name, None), None
        next_one = others.pop(max(others, key=lambda key: others[key].resource_version))
        if not others:
            del self.shadowed[name]
        new = restamped(next_one, revision)
        return self.replace(name, new), new

    def _shadow(self, old: Entry | None, new: Entry) -> None:
        if old is not None and not old.has_key_of(new):
            others = self.shadowed.setdefault(new.name, {})
            others[old.key] = old
            others.pop(new.key, None)

    def replace(self, name: Name, entry: Entry | None) -> Entry | None:
        """Put or (None) remove; returns what was there."""
        self.answers = Answers()  # also where it has none yet: whoever looks for one now puts it there later
        old = self.by_name.get(name)
        self.indexes.replace(old, entry)
        if old is not None:
            old.replaced()
        if entry is not None:
            self.state.put(entry)
            self.by_name[name] = entry
        elif old is not None:
            self.state.remove(name)
            del self.by_name[name]
        for listener in self.listeners:
            listener.replaced(name, entry)
        return old
