"""gRPC's words over HTTP/2 (grpc.io, "gRPC over HTTP2"): codes, and what an answer's headers say of how a call ended.

Pure. A server's answers are in compat/registry/calls.py, a client's questions in etcd/calls.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

import hpack


class Code(IntEnum):
    """google.rpc.Code."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class CallError(Exception):
    """A call ended otherwise than with an answer. sent: whether it may have been done; False: it certainly was not."""

    def __init__(self, code: Code, details: str, *, sent: bool = True) -> None:
        super().__init__(details or code.name)
        self.code = code
        self.details = details
        self.sent = sent


HEADER_BYTES: Final = 64 << 10
"""Of an answer's header, packed and unpacked. Real ones have 100; an error's words are in it."""

# gRPC's doc/http-grpc-status-mapping.md: what a proxy says that knows no gRPC.
_OF_HTTP: Final = {
    b"400": Code.INTERNAL,
    b"401": Code.UNAUTHENTICATED,
    b"403": Code.PERMISSION_DENIED,
    b"404": Code.UNIMPLEMENTED,
    b"429": Code.UNAVAILABLE,
    b"502": Code.UNAVAILABLE,
    b"503": Code.UNAVAILABLE,
    b"504": Code.UNAVAILABLE,
}


def ending(header: bytes, trailers: bytes) -> tuple[Code, str]:
    """How a call ended, by the blocks that came before its messages and behind them; one of them is empty where nothing
    else came. The blocks are of a connection without a table of headers, so each is read for itself.
    """
    try:
        fields = _fields(trailers or header)
        said = fields.get(b"grpc-status")
        if said == b"0":
            return Code.OK, ""
        if said is None:
            status = _fields(header).get(b":status", b"")
            code = _OF_HTTP.get(status, Code.UNKNOWN)
            return code, f"no gRPC answer, but HTTP {status.decode(errors='replace') or 'without a status'}"
        code = Code(int(said)) if said in _KNOWN else Code.UNKNOWN
        return code, unquote(fields.get(b"grpc-message", b"").decode(errors="replace"))
    except hpack.HPACKError as exc:
        return Code.INTERNAL, f"the answer's header cannot be read: {type(exc).__name__}"


_KNOWN: Final = frozenset(str(code.value).encode() for code in Code)


@lru_cache(maxsize=16)  # nearly all calls end with the same bytes, which take 20 us to read
def _fields(block: bytes) -> Mapping[bytes, bytes]:
    """Raises: hpack.HPACKError."""
    decoder = hpack.Decoder(max_header_list_size=HEADER_BYTES)
    decoder.header_table_size = decoder.max_allowed_table_size = 0
    return {bytes(name): bytes(value) for name, value in decoder.decode(block, raw=True)}
