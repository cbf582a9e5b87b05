"""Of connections that a test leaves behind, the test itself is told."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import threading
import warnings
from pathlib import Path

import pytest

from tests.support import left
from tests.support.certificates import Authority

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


async def never_closed(listener: socket.socket) -> None:
    await asyncio.get_running_loop().create_connection(asyncio.Protocol, *listener.getsockname())


async def closed_over_tls(listener: socket.socket, trusted: ssl.SSLContext) -> None:
    """The other side answers the handshake, and then nothing more."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, *listener.getsockname(), ssl=trusted)
    transport.close()


def warned_of() -> list[str]:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        gc.collect()
    return [str(each.message) for each in warned if "unclosed" in str(each.message)]


def test_what_nobody_closed_is_told_once_and_warns_nobody_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(never_closed(listener))
    (told,) = left.behind()
    assert told.startswith("<_SelectorSocketTransport ")
    assert left.behind() == []
    assert warned_of() == []


def test_what_was_closed_and_not_taken_is_no_fault_and_warns_nobody_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(closed_before_it_is_taken(listener, waits=False))
    assert left.behind() == []
    assert warned_of() == []


@pytest.mark.processes
def test_what_was_closed_over_tls_is_no_fault_though_the_other_side_never_says_goodbye(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def silent() -> None:
            held.append(serving.wrap_socket(listener.accept()[0], server_side=True))

        held: list[ssl.SSLSocket] = []
        other = threading.Thread(target=silent)
        other.start()
        asyncio.run(closed_over_tls(listener, ssl.create_default_context(cafile=authority.certificate)))
        other.join()
        assert left.behind() == []
        held.pop().close()
    assert warned_of() == []


def test_who_waits_until_it_is_gone_leaves_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(closed_before_it_is_taken(listener, waits=True))
    assert left.behind() == []
