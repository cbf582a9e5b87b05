"""What was made of what clients sent, remembered by it: bounded in bytes, whatever they send. Knows none of it.

Not functools.lru_cache, which counts entries: 260 headers of 64 KiB, and what was parsed of them, took 850 MB for ever.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

ENTRY_BYTES = 400
"""What an entry takes beside what its maker counts: places in two dictionaries, the tuple of a key, short strings."""


class Memo(Generic[K, V]):
    """Two generations: when the young one has half of the bytes it becomes the old one, and what was the old one goes.
    What is asked for stays, being young again. A hit costs one look-up, which an order of last use would double.
    """

    def __init__(self, most_bytes: int) -> None:
        self._half = most_bytes // 2
        self._young: dict[K, tuple[V, int]] = {}
        self._old: dict[K, tuple[V, int]] = {}
        self._young_bytes = 0

    def get(self, key: K) -> V | None:
        """What was put under the key; None where it is not kept any more. Keeps it longer."""
        found = self._young.get(key)
        if found is not None:
            return found[0]
        found = self._old.pop(key, None)
        if found is None:
            return None
        self._keep(key, found)
        return found[0]

    def put(self, key: K, value: V, size: int) -> None:
        """size: bytes that key and value hold together, about; one that would take an eighth alone is not kept."""
        if size <= self._half // 4:
            self._old.pop(key, None)
            self.forget(key)
            self._keep(key, (value, size + ENTRY_BYTES))

    def forget(self, key: K) -> None:
        """Nothing is kept under the key."""
        found = self._young.pop(key, None)
        if found is not None:
            self._young_bytes -= found[1]
        self._old.pop(key, None)

    def clear(self) -> None:
        """Nothing is kept at all."""
        self._young, self._old, self._young_bytes = {}, {}, 0

    def _keep(self, key: K, entry: tuple[V, int]) -> None:
        if self._young_bytes + entry[1] > self._half:
            self._old, self._young, self._young_bytes = self._young, {}, 0
        self._young[key] = entry
        self._young_bytes += entry[1]
