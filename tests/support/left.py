"""Connections that a test leaves behind: told at its own end (tests/conftest.py). Otherwise the collector of garbage
blames whichever test it runs in.

A transport that was closed while the other side had not taken everything stays until it has, or hangs up, and one over
TLS until the other side has said goodbye: whoever closed it did all that he can, so that is no fault. `gone` waits for
these where a test is about that.
"""

from __future__ import annotations

import asyncio
import socket
from asyncio import selector_events, sslproto
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from tests.support.waiting import eventually

_held: WeakKeyDictionary[asyncio.BaseTransport, tuple[asyncio.AbstractEventLoop, socket.socket]] = WeakKeyDictionary()
"""Every transport of a socket that is in memory -> its loop and its socket, which is closed when the transport is."""


def watch() -> None:
    """From now on, in this process; once. asyncio tells of no transport, so it is asked where it makes one."""
    kind: Any = selector_events._SelectorTransport  # type: ignore[attr-defined] # asyncio's own
    made = kind.__init__

    def init(self: Any, loop: asyncio.AbstractEventLoop, sock: socket.socket, *arguments: Any, **named: Any) -> None:
        made(self, loop, sock, *arguments, **named)
        _held[self] = (loop, sock)

    kind.__init__ = init


def behind() -> Sequence[str]:
    """What nobody closed, nor can any more, its loop being closed. It is closed here with the rest, and told once."""
    found = [(each, sock) for each, (loop, sock) in list(_held.items()) if loop.is_closed() and sock.fileno() != -1]
    said = [repr(each) for each, _ in found if not _was_closed(each)]
    for each, sock in found:
        sock.close()
        vars(each)["_sock"] = None  # it would still warn
    return said


def _was_closed(transport: Any) -> bool:
    """Over TLS it is another one that was closed, and this one follows when the other side has said goodbye."""
    over = transport.get_protocol()
    if isinstance(over, sslproto.SSLProtocol):
        transport = over._app_transport
    return transport is None or transport.is_closing()


async def gone() -> None:
    """Returns once what was closed on this loop has gone: all of it was taken, or the other side hung up."""
    loop = asyncio.get_running_loop()

    def closing() -> list[asyncio.BaseTransport]:
        mine = [each for each, (its, sock) in list(_held.items()) if its is loop and sock.fileno() != -1]
        return [each for each in mine if each.is_closing()]

    await eventually(lambda: not closing(), within_s=60)
