"""Reads everything anew, beside what is served meanwhile: a few objects at a time, and what cannot be read by name.

Knows neither the store nor who reads. Called by watchcache.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from cacheserver.cache.index import Indexes
from cacheserver.cache.snapshot import Entry, Name, State

log = logging.getLogger(__name__)

_TOLD: Final = 10
_TOLD_LETTERS: Final = 300
_NEVER: Final = 1 << 30  # collections of the generation before


class Filling:
    """Objects of a kind that are read anew, beside those that are served meanwhile: put in some at a time, so that
    nobody waits for 100,000 of them."""

    def __init__(self) -> None:
        self.state = State()
        self.by_name: dict[Name, Entry] = {}
        self.indexes = Indexes()
        self.shadowed: dict[Name, dict[bytes, Entry]] = {}

    def take(self, entries: Sequence[Entry]) -> None:
        """Some more, in any order, soonest where it is that of names. Of those with one name the latest is served."""
        by_name = self.by_name
        fresh: dict[Name, Entry] = {}
        for entry in entries:
            name = entry.name
            if name in by_name:
                self._also(by_name[name], entry)
            elif name in fresh:
                self._take(fresh)
                fresh = {}
                self._also(by_name[name], entry)
            else:
                fresh[name] = entry
        self._take(fresh)

    def _take(self, fresh: Mapping[Name, Entry]) -> None:
        self.by_name.update(fresh)
        self.state.extend(fresh.values())
        self.indexes.extend(fresh.values())

    def _also(self, served: Entry, entry: Entry) -> None:
        """Another key has the name as well."""
        old, new = sorted((served, entry), key=lambda entry: entry.resource_version)
        self.shadowed.setdefault(new.name, {})[old.key] = old
        if new is entry:
            self.by_name[new.name] = new
            self.state.put(new)
            self.indexes.replace(old, new)


class Refused:
    """What cannot be read of one page or batch, named in the log: a few of them, for there may be 100,000."""

    def __init__(self) -> None:
        self._many = 0

    def add(self, key: bytes, why: Exception) -> None:
        """key: where the store keeps it."""
        self._many += 1
        if self._many <= _TOLD:
            shown = {"key": key.decode(errors="replace"), "error": f"{type(why).__name__}: {why}"[:_TOLD_LETTERS]}
            log.error(
                "an object in etcd cannot be read and is not served; docs/troubleshooting.md has its remedy",
                extra=shown,
            )

    def tell(self) -> None:
        """How many there were beside those that were named."""
        if self._many > _TOLD:
            log.error("more objects in etcd cannot be read and are not served", extra={"objects": self._many - _TOLD})


@contextmanager
def never_collected(*, beside: bool = False) -> Iterator[None]:
    """What is made meanwhile has no cycles and stays for long: the collector, which would go through all of it again
    and again (a sixth of the time of a start), never does. Where it fails nothing is kept from the collector: while
    etcd is away it is tried again and again, and what others leave would pile up.

    beside: others are served meanwhile. What they leave is collected before, and young: or it would be kept for good.
    """
    collects, thresholds = gc.isenabled(), gc.get_threshold()
    if beside:
        gc.collect()
        # The older generations have what is made meanwhile in them: a walk of theirs holds the loop for 0.3 s.
        gc.set_threshold(thresholds[0], _NEVER, _NEVER)
    else:
        gc.disable()
    try:
        yield
        if beside:
            gc.collect(0)
        gc.freeze()
    finally:
        gc.set_threshold(*thresholds)
        if collects:
            gc.enable()
