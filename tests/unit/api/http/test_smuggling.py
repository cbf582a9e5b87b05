"""Requests whose end two readers may see in different places: refused, the connection closed, nothing behind them read.

A proxy before us that reads such a request otherwise would let one client's bytes become another client's request
(RFC 9112 section 11.2). Each case is followed by a whole second request, which must never be answered.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.fakes.api import BASE, World

FIRST = f"{BASE}/namespaces/team/packages/r.a"
SECOND = f"GET {BASE}/namespaces/team/packages/r.b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
OPENING = f"GET {FIRST} HTTP/1.1\r\nHost: x\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"
EMPTY_BODY = "0\r\n\r\n"
LENGTH = len(SECOND)


def _lines(*lines: str, body: str = "") -> str:
    return OPENING + "".join(f"{line}\r\n" for line in lines) + "\r\n" + body


def _chunks(body: str) -> str:
    return f"{OPENING}{CHUNKED}\r\n{body}"


AMBIGUOUS: Mapping[str, str] = {
    # RFC 9112 section 6.3: a message with both is an attempt, or a broken sender
    "a length, then chunked": _lines("Content-Length: 5", "Transfer-Encoding: chunked", body=EMPTY_BODY),
    "chunked, then a length": _lines("Transfer-Encoding: chunked", f"Content-Length: {LENGTH + 5}", body=EMPTY_BODY),
    "two lengths": _lines("Content-Length: 0", f"Content-Length: {LENGTH}"),
    "the same length twice": _lines(f"Content-Length: {LENGTH}", f"Content-Length: {LENGTH}"),
    "a list of lengths": _lines(f"Content-Length: {LENGTH}, {LENGTH}"),
    "a length with a sign": _lines(f"Content-Length: +{LENGTH}"),
    "a negative length": _lines("Content-Length: -1"),
    "a length in hexadecimal": _lines("Content-Length: 0x10"),
    "a length as Python writes it": _lines(f"Content-Length: {LENGTH // 10}_{LENGTH % 10}"),
    "a length in other digits": _lines("Content-Length: \u00b2"),
    "an empty length": _lines("Content-Length: "),
    "a length over 64 bits": _lines("Content-Length: 99999999999999999999999"),
    # section 5.1: no space before the colon
    "a space before a length's colon": _lines(f"Content-Length : {LENGTH}"),
    "a space before chunked's colon": _lines("Transfer-Encoding : chunked", body=EMPTY_BODY),
    # section 5.2: a folded line
    "a folded line that says chunked": _lines("X: a", " Transfer-Encoding: chunked", body=EMPTY_BODY),
    "chunked on a folded line": _lines("Transfer-Encoding:", " chunked", body=EMPTY_BODY),
    "a folded length": _lines("Content-Length: 1", f" {LENGTH}"),
    "a first header that is folded": f"GET {FIRST} HTTP/1.1\r\n Host: x\r\n\r\n",
    # section 2.2: lines end in CRLF
    "lines that end in LF": _lines().replace("\r\n", "\n"),
    "LF inside a header": _lines(f"X: a\nContent-Length: {LENGTH}"),
    "CR inside a header": _lines("X: a\rTransfer-Encoding: chunked", "Content-Length: 0"),
    "an empty line of LF": OPENING + "X: a\n\n",
    "NUL in a header": _lines("X: a\0b"),
    # section 6.1: the last coding is chunked, once, or the length is unknown
    "identity": _lines("Transfer-Encoding: identity", f"Content-Length: {LENGTH}"),
    "identity alone": _lines("Transfer-Encoding: identity"),
    "a coding nobody knows": _lines("Transfer-Encoding: xchunked", f"Content-Length: {LENGTH}"),
    "identity after chunked": _lines("Transfer-Encoding: chunked, identity", body=EMPTY_BODY),
    "chunked twice in a line": _lines("Transfer-Encoding: chunked, chunked", body=EMPTY_BODY),
    "chunked in two lines": _lines("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=EMPTY_BODY),
    "chunked and identity in two": _lines("Transfer-Encoding: chunked", "Transfer-Encoding: identity", body=EMPTY_BODY),
    "chunked behind a vertical tab": _lines("Transfer-Encoding: \x0bchunked", body=EMPTY_BODY),
    "chunked in quotes": _lines('Transfer-Encoding: "chunked"', body=EMPTY_BODY),
    # section 7.1: chunk sizes are hexadecimal digits and nothing else
    "a negative chunk": _chunks("-1\r\n\r\n"),
    "a chunk's size with 0x": _chunks("0x5\r\nhello\r\n0\r\n\r\n"),
    "a chunk's size with a sign": _chunks("+5\r\nhello\r\n0\r\n\r\n"),
    "a chunk's size as Python writes it": _chunks("1_0\r\n" + "a" * 16 + "\r\n0\r\n\r\n"),
    "a chunk's size with a space": _chunks("5 \r\nhello\r\n0\r\n\r\n"),
    "a chunk over 64 bits": _chunks("10000000000000005\r\nhello\r\n0\r\n\r\n"),
    "no chunk size": _chunks("\r\nhello\r\n0\r\n\r\n"),
    "a chunk's size that ends in LF": _chunks("5\nhello\r\n0\r\n\r\n"),
    "a chunk that ends in LF": _chunks("5\r\nhello\n0\r\n\r\n"),
    "a chunk that goes on": _chunks("2\r\nhello\r\n0\r\n\r\n"),
    "a chunk that ends in other bytes": _chunks("5\r\nhelloXX0\r\n\r\n"),
    "an extension that ends in LF": _chunks("5;a=b\nhello\r\n0\r\n\r\n"),
    "an extension with CR": _chunks("5;a\rb\r\nhello\r\n0\r\n\r\n"),
    "a last chunk that ends in LF": _chunks("0\n\n"),
    "a length among the trailers": _chunks(f"0\r\nContent-Length: {LENGTH}\r\n\r\n"),
    # section 3: the request line
    "another major version": f"GET {FIRST} HTTP/2.0\r\nHost: x\r\n\r\n",
    "no version": f"GET {FIRST}\r\n\r\n",
    "HTTP/2's preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tabs in the request line": f"GET\t{FIRST}\tHTTP/1.1\r\nHost: x\r\n\r\n",
    "a space in the target": f"GET /x {FIRST} HTTP/1.1\r\nHost: x\r\n\r\n",
    "NUL in the target": f"GET {FIRST}\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method in lower case": f"get {FIRST} HTTP/1.1\r\nHost: x\r\n\r\n",
    # section 3.2, and 5.1 for names
    "no host": f"GET {FIRST} HTTP/1.1\r\n\r\n",
    "two hosts": _lines("Host: y"),
    "a space in a name": _lines("X Y: a"),
    "a header without a colon": _lines("XY"),
    "a header without a name": _lines(": a"),
}


async def _exchange(world: World, request: str) -> bytes:
    """All that the server answers until it closes the connection; fails when it does not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(world.url.rpartition(":")[2]))
    writer.write(request.encode("latin-1"))
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


def _statuses(answers: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answers)]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("case", AMBIGUOUS)
async def test_an_ambiguous_request_is_refused_and_nothing_behind_it_answered(six: World, case: str) -> None:
    answers = await _exchange(six, AMBIGUOUS[case] + SECOND)
    assert _statuses(answers) == [400]
    assert b'"name":"r.' not in answers


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "OPTIONS"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_is_never_read_as_a_request(six: World, method: str, chunked: bool) -> None:
    """Whatever is answered to it: the answer behind it is of what is behind the body."""
    inner = SECOND.replace("r.b", "r.c")
    framing = CHUNKED if chunked else f"Content-Length: {len(inner)}\r\n"
    body = f"{len(inner):x}\r\n{inner}\r\n{EMPTY_BODY}" if chunked else inner
    request = f"{method} {FIRST} HTTP/1.1\r\nHost: x\r\n{framing}\r\n{body}"
    answers = await _exchange(six, request + SECOND)
    assert _statuses(answers) == ([200, 200] if method == "GET" else [405, 200])
    assert b'"name":"r.b"' in answers
    assert b'"name":"r.c"' not in answers


@pytest.mark.processes
def test_a_parser_that_lets_such_requests_pass_is_not_served_with(tmp_path: Path) -> None:
    """Without its compiled parts aiohttp reads requests in Python, and seven of the cases above get through."""
    found = subprocess.run(
        [sys.executable, "-m", "cacheserver", "serve", "--catalog", "here=.", "--listen", "127.0.0.1:0"],
        env={**os.environ, "AIOHTTP_NO_EXTENSIONS": "1", "XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert found.returncode == 2
    assert "unset AIOHTTP_NO_EXTENSIONS" in found.stderr
    assert "pip install" in found.stderr
    assert not (tmp_path / "cacheserver").exists()  # no etcd was started for it
