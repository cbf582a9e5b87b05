"""Reads the body of a request that is about to be carried out: so much, so long, and no more of all of them together.

Nobody else reads a body; what is not read here is thrown away with its connection (connection.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import ClientPayloadError, HttpVersion11
from aiohttp.web_protocol import RequestPayloadError
from aiohttp.web_request import BaseRequest

from cacheserver.api.http.budget import Share
from cacheserver.api.http.connection import Connection
from cacheserver.api.status import StatusError, bad_request

_WITHIN_S: Final = 60.0
"""For all of it. Ours: 16 MiB over 2.2 Mbit/s; a client that sends a byte a second must not keep its place."""
_TIMES: Final = 3
"""Its size that a body takes while it is worked on: as it came, decoded, and on its way into the store."""


@asynccontextmanager
async def read_body(request: BaseRequest, most: int, share: Share) -> AsyncIterator[bytes]:
    """All of it; its bytes are counted while the block runs.

    Raises: StatusError 413 over `most`, 408, 429 where bodies hold too much already, 415 for one that is compressed.
    """
    if request.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise StatusError(415, "UnsupportedMediaType", "a body with a Content-Encoding is not read; send it as it is")
    size = request.content_length
    if size is not None and size > most:
        raise _too_large(most)
    if not request.body_exists:
        yield b""
        return
    async with share.hold(_TIMES * (size if size is not None else most)):
        yield await _read(request, most)


async def _read(request: BaseRequest, most: int) -> bytes:
    connection = request.protocol
    if isinstance(connection, Connection):
        connection.take_body(most)
    waits = request.headers.get("Expect", "").lower() == "100-continue" and request.version >= HttpVersion11
    if waits and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_WITHIN_S):
            while piece := await request.content.readany():
                size += len(piece)
                if size > most:
                    raise _too_large(most)
                pieces.append(piece)
    except TimeoutError:
        why = f"the body did not come within {_WITHIN_S:.0f} s"
        raise StatusError(408, "Timeout", f"Timeout: {why}") from None
    except (ClientPayloadError, RequestPayloadError) as exc:
        raise bad_request("the body ends before it is whole") from exc
    return b"".join(pieces)


def _too_large(most: int) -> StatusError:
    # k8s.io/apimachinery/pkg/api/errors: NewRequestEntityTooLargeError
    return StatusError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {most}")
