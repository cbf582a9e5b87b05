"""Header blocks of requests into what they ask (RFC 7541; RFC 9113 section 8). One Decoder a connection, for its table.

The library `hpack` reads them; here is what it lets through that a stranger could use, and which are malformed.
Blocks that repeat are read once: Go's and C's clients send 8 bytes for the same call again, which take 22 us to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import hpack

from cacheserver.slotted import slotted

HEADER_BYTES: Final = 8 << 10
"""Of a request's header, packed and unpacked (RFC 9113 section 6.5.2 counts 32 more for each field, so there are 255 of
them at most). As gRPC's own soft limit; real ones have 200. The slowest of it takes 2.5 ms to read."""
_KEPT: Final = 32
_KEPT_BYTES: Final = 64
"""Blocks that are remembered, of a connection, and bytes of one."""
_SIZE_UPDATES: Final = 2
"""At the begin of a block, as many as RFC 7541 section 4.2 knows a use for; 8,192 would take 13 ms."""
_REQUIRED: Final = {b":method", b":scheme", b":path"}
_PSEUDO: Final = _REQUIRED | {b":authority"}
_OF_CONNECTIONS: Final = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}


class BlockError(Exception):
    """A header block that cannot be read, after which no other can be; or one that is too large."""


@slotted(frozen=True)
class Request:
    """What a header says. fields: the others, by name in small letters; of several with one name the first."""

    method: bytes
    path: bytes
    fields: Mapping[bytes, bytes]


class Decoder:
    """Blocks in the order that they came."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=HEADER_BYTES)
        self._known: dict[bytes, Request | None] = {}

    def read(self, block: bytes) -> Request | None:
        """None: it is malformed, and nothing else is wrong (8.1.1). Raises: BlockError."""
        if block in self._known:
            return self._known[block]
        fixed = _is_indexed(block)
        if not fixed:
            self._known.clear()  # what an index means may change with it
            _check_updates(block)
        try:
            found = _request(self._decoder.decode(block, raw=True))
        except hpack.HPACKError as exc:
            raise BlockError(type(exc).__name__) from exc
        if fixed and len(self._known) < _KEPT:
            self._known[block] = found
        return found


def _is_indexed(block: bytes) -> bool:
    """Whether it is short and has nothing but fields from the table, so that it leaves that as it is (7541, 6.1)."""
    return len(block) <= _KEPT_BYTES and all(0x80 < byte < 0xFF for byte in block)


def _check_updates(block: bytes) -> None:
    """Raises: BlockError."""
    at = count = 0
    while at < len(block) and block[at] & 0xE0 == 0x20:  # 7541, 6.3
        count += 1
        if count > _SIZE_UPDATES:
            raise BlockError("the table's size changes too often")
        more = block[at] & 0x1F == 0x1F
        at += 1
        while more and at < len(block):
            more = bool(block[at] & 0x80)
            at += 1


def _request(found: Iterable[tuple[bytes, bytes]]) -> Request | None:
    pseudo: dict[bytes, bytes] = {}
    fields: dict[bytes, bytes] = {}
    for name, value in found:
        if name[:1] == b":":
            if fields or name in pseudo or name not in _PSEUDO:
                return None
            pseudo[name] = value
        elif not name or name != name.lower() or name in _OF_CONNECTIONS or (name == b"te" and value != b"trailers"):
            return None
        else:
            fields.setdefault(name, value)
    if not pseudo.keys() >= _REQUIRED or not pseudo[b":path"]:
        return None
    return Request(pseudo[b":method"], pseudo[b":path"], fields)
