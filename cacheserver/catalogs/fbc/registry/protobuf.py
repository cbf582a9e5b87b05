"""Strings and messages as protobuf writes them (protobuf.dev, "Encoding"): all that a bundle is made of.

By hand, since parts of a message can be written apart and joined, and a worker needs no library for it.
"""

from __future__ import annotations

from typing import Final

_LENGTH_DELIMITED: Final = 2


def message(number: int, content: bytes) -> bytes:
    """A field that holds a message, a string, or bytes."""
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(content)) + content


def string(number: int, text: str, *, always: bool = False) -> bytes:
    """A field that holds text. always: also where it is empty, as in a list; elsewhere an empty one is left out."""
    return message(number, text.encode()) if text or always else b""


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    written = bytearray()
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
