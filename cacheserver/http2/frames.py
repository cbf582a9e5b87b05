"""Frames as they stand on the wire (RFC 9113), and header fields as we write them (RFC 7541): nothing indexed, so that
there is no state to keep in step. Pure; knows neither sockets nor who speaks.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final

# RFC 9113 section 6
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
ACK = END_STREAM = 0x1
END_HEADERS, PADDED, PRIORITIZED = 0x4, 0x8, 0x20
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first (3.4)."""
HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6
"""Settings (6.5.2)."""
NO_ERROR, PROTOCOL_ERROR, _, FLOW_CONTROL_ERROR = range(4)
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 5, 6, 7, 8, 9
ENHANCE_YOUR_CALM: Final = 11
"""Errors (7)."""
WINDOW: Final = (1 << 16) - 1
"""What either side may send at first, as the default is."""
LARGEST_WINDOW: Final = (1 << 31) - 1
LARGEST_FRAME: Final = 16 << 10
"""The default of MAX_FRAME_SIZE, which we leave."""
GRPC_HEAD: Final = 5
"""Before each message of gRPC: not compressed, and the message's length in four bytes."""

_HEAD: Final = struct.Struct(">HBBBI")
_HEAD_BYTES: Final = 9
_SETTING: Final = struct.Struct(">HI")


class FrameTooLargeError(Exception):
    """A frame is larger than we said we take."""


class ProtocolError(Exception):
    """The other side did what it must not, and the connection ends. code: as 7 has it."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


def head(size: int, kind: int, flags: int, stream: int) -> bytes:
    """What stands before a payload of so many bytes."""
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """The frame's bytes."""
    return head(len(payload), kind, flags, stream) + payload


def window_update(stream: int, more: int) -> bytes:
    """That the other side may send so many bytes more; stream 0: on all of them."""
    return frame(WINDOW_UPDATE, 0, stream, more.to_bytes(4, "big"))


def settings(**values: int) -> bytes:
    """A SETTINGS frame, by the settings' names in small letters."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(globals()[name.upper()], to) for name, to in values.items()))


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """(setting, value) of a SETTINGS frame whose size is right."""
    return _SETTING.iter_unpack(payload)


def split(buffer: bytearray, take: Callable[[int, int, int, bytes], bool], most: int) -> bool:
    """Hands (kind, flags, stream, payload) of whole frames to `take` until that says no, `most` of them at most, and
    removes them from the buffer. True: most were taken, and there may be more. Raises: FrameTooLargeError."""
    at, length = 0, len(buffer)
    try:
        for _ in range(most):
            if length - at < _HEAD_BYTES:
                return False
            upper, lower, kind, flags, stream = _HEAD.unpack_from(buffer, at)
            size = upper << 8 | lower
            if size > LARGEST_FRAME:
                raise FrameTooLargeError
            end = at + _HEAD_BYTES + size
            if length < end:
                return False
            payload = bytes(buffer[at + _HEAD_BYTES : end])
            at = end
            if not take(kind, flags, stream & LARGEST_WINDOW, payload):  # 4.1: the first bit is reserved
                return False
        return True
    finally:
        del buffer[:at]


def unpadded(flags: int, payload: bytes) -> bytes:
    """Without what 6.1 lets the other side add. Raises: ProtocolError."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(PROTOCOL_ERROR, "there is more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def string(text: bytes) -> bytes:
    """RFC 7541 section 5.2: a string as it is."""
    size, rest = bytearray(), len(text) - 127
    size.append(min(len(text), 127))
    if rest >= 0:
        while rest > 127:
            size.append(rest & 127 | 128)
            rest >>= 7
        size.append(rest)
    return bytes(size) + text


def field(name: bytes, value: bytes) -> bytes:
    """RFC 7541 section 6.2.2: a header field that is not indexed, under a name of its own."""
    return b"\x00" + string(name) + string(value)


def grpc_message(body: bytes) -> bytes:
    """As it stands in DATA."""
    return b"\0" + len(body).to_bytes(4, "big") + body
