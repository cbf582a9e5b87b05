"""Where the blocks of a zstd frame end, so that it can be unpacked in bounded steps. Unpacks nothing itself.

A few bytes can stand for 128 KiB, and a whole chunk of them for gigabytes; the library gives all of it at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from typing import Final

BLOCK_BYTES: Final = 128 << 10
"""Most that one block unpacks to (RFC 8878, section 3.1.1.2.4)."""

_MAGIC: Final = 0xFD2FB528
_CONTENT_SIZE: Final = (0, 2, 4, 8)  # bytes of the field, by its flag
_DICTIONARY: Final = (0, 1, 2, 4)
_RLE, _RESERVED = 1, 3


class _At(Enum):
    START = auto()
    FRAME = auto()
    BLOCK = auto()
    BODY = auto()
    CHECKSUM = auto()
    END = auto()


class Blocks:
    """Cuts one frame, fed in any pieces, behind each of its blocks."""

    def __init__(self) -> None:
        self._at = _At.START
        self._left = 5  # bytes of what is read now
        self._head = bytearray()
        self._last = self._checksum = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """All of `data` in parts, none with more than one block's end. Raises: ValueError when this is not a frame."""
        begin = at = 0
        while at < len(data):
            if self._at is _At.END:
                raise ValueError("there is something behind the frame")
            end = min(at + self._left, len(data))
            if self._at is not _At.BODY:
                self._head += data[at:end]
            self._left -= end - at
            at = end
            if self._left == 0 and self._next():
                yield data[begin:at]
                begin = at
        if begin < at:
            yield data[begin:]

    def _next(self) -> bool:
        """What is read now is complete: go on to the next. True behind a block that holds something."""
        head, self._head = int.from_bytes(self._head, "little"), bytearray()
        match self._at:
            case _At.START:
                self._frame(head & 0xFFFFFFFF, head >> 32)
            case _At.FRAME:
                self._go(_At.BLOCK, 3)
            case _At.BLOCK:
                kind, size = head >> 1 & 3, head >> 3
                if kind == _RESERVED or size > BLOCK_BYTES:
                    raise ValueError("a block of no known kind or size")
                self._last = bool(head & 1)
                self._go(_At.BODY, 1 if kind == _RLE else size)
                if not self._left:
                    self._behind_block()
            case _At.BODY:
                self._behind_block()
                return True
            case _:
                self._go(_At.END, 0)
        return False

    def _frame(self, magic: int, descriptor: int) -> None:
        """RFC 8878, section 3.1.1.1."""
        if magic != _MAGIC:
            raise ValueError("this is not a zstd frame")
        single = descriptor >> 5 & 1
        self._checksum = bool(descriptor >> 2 & 1)
        flag = descriptor >> 6
        rest = (1 - single) + _DICTIONARY[descriptor & 3] + (_CONTENT_SIZE[flag] or single)
        if rest:
            self._go(_At.FRAME, rest)
        else:
            self._go(_At.BLOCK, 3)

    def _behind_block(self) -> None:
        if not self._last:
            self._go(_At.BLOCK, 3)
        elif self._checksum:
            self._go(_At.CHECKSUM, 4)
        else:
            self._go(_At.END, 0)

    def _go(self, to: _At, left: int) -> None:
        self._at, self._left = to, left
