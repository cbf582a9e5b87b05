"""Of connections that a test leaves behind, the test itself is told."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings

from tests.support import left

MORE_THAN_SOCKETS_TAKE = bytes(32 << 20)


async def closed_before_it_is_taken(listener: socket.socket, *, waits: bool) -> None:
    """A client closes what nobody has read; the other side hangs up if somebody waits for that."""
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, *listener.getsockname())
    transport.write(MORE_THAN_SOCKETS_TAKE)
    transport.close()
    if waits:
        gone = asyncio.create_task(left.gone())
        await asyncio.sleep(0)
        assert not gone.done()
        listener.close()
        await gone


def test_what_was_closed_and_not_taken_is_told_once_and_warns_nobody_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(closed_before_it_is_taken(listener, waits=False))
    (told,) = left.behind()
    assert told.startswith("<_SelectorSocketTransport closing")
    assert left.behind() == []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        gc.collect()
    assert [each for each in warned if "unclosed" in str(each.message)] == []


def test_who_waits_until_it_is_gone_leaves_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(closed_before_it_is_taken(listener, waits=True))
    assert left.behind() == []
