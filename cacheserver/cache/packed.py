"""Neighbours' bodies packed together, and which of them are unpacked just now. Knows no objects, and not who packs.

Versions of a package say nearly the same: 32 of them take a tenth of their bytes, and are unpacked in 20 us.
"""

from __future__ import annotations

import threading
from array import array
from collections import deque
from collections.abc import Sequence
from typing import Final

import zstandard

_LEVEL: Final = 1  # packs neighbours as well as 3 (10.0 and 9.9 times for 16 of 1.5 kB), in half the time
_WORTH: Final = 2  # times smaller, or it is not worth unpacking


class Group:
    """Some bodies, in order. What they are never changes, so whoever has one may read it, in any thread, at any time.

    Made by pack().
    """

    __slots__ = ("_ends", "_packed", "_unpacked", "asked", "text")

    def __init__(self, packed: bytes, ends: array[int], unpacked: Unpacked) -> None:
        self._packed = packed
        self._ends = ends  # of each body; and a 0 before the first
        self._unpacked = unpacked
        self.text: bytes | None = None
        """All of them, while they are unpacked. Set by Unpacked alone."""
        self.asked = False
        """Somebody read one since Unpacked looked last."""

    def size(self, nth: int) -> int:
        """Bytes of a body."""
        return self._ends[nth + 1] - self._ends[nth]

    def body(self, nth: int) -> bytes:
        """One of them."""
        text = self.text
        if text is None:
            text = _unpack(self._packed)
            self._unpacked.put(self, text)
        else:
            self.asked = True
        return text[self._ends[nth] : self._ends[nth + 1]]


class Unpacked:
    """Groups that were read lately, and their bytes: `most` together. Whom nobody asked again goes first (CLOCK).

    Reading one of them costs as much as a dict, and those that are read often stay: hot objects are never unpacked
    twice. May be used in any thread.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._groups: deque[tuple[Group, int]] = deque()
        self._lock = threading.Lock()
        self.bytes = 0

    def put(self, group: Group, text: bytes) -> None:
        """The group has just been unpacked to this."""
        with self._lock:
            if group.text is not None:  # by another thread, at the same time
                return
            group.text, group.asked = text, False
            self._groups.append((group, len(text)))
            self.bytes += len(text)
            while self.bytes > self._most:
                self._go_round()

    def forget_idle(self) -> None:
        """Let go of all that nobody has asked for since the last time."""
        with self._lock:
            for _ in range(len(self._groups)):
                self._go_round()

    def _go_round(self) -> None:
        """The oldest goes, or stays once more."""
        group, size = self._groups.popleft()
        if group.asked:
            group.asked = False
            self._groups.append((group, size))
        else:
            group.text = None
            self.bytes -= size


def pack(bodies: Sequence[bytes], unpacked: Unpacked) -> Group | None:
    """A group of them; None: it is not worth it. Most of it without the GIL."""
    ends = array("I", (0,))
    for body in bodies:
        ends.append(ends[-1] + len(body))
    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(b"".join(bodies))
    if len(packed) * _WORTH > ends[-1]:
        return None
    # A copy: what zstandard gives has the room that it began with, which is more than all the bodies had.
    return Group(bytes(memoryview(packed)), ends, unpacked)


class _Mine(threading.local):
    """A decompressor is used by one thread at a time (zstandard, ZstdDecompressor)."""

    def __init__(self) -> None:
        self.unpack = zstandard.ZstdDecompressor().decompress


_mine: Final = _Mine()


def _unpack(packed: bytes) -> bytes:
    return _mine.unpack(packed)
