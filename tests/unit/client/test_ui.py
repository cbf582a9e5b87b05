"""The proxy of `kubectl cacheserver ui` by itself: what is answered when the server behind it fails halfway, what is
refused, and who is heard. All of it with a server and kubectl: tests/e2e/test_client_ui.py."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cacheserver.client.ui import Server, user_of

PACKAGES = "/apis/cacheserver.dev/v1alpha1/packages"
WITHIN_S = 20

Respond = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def _served(server: ThreadingHTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Proxied:
    """A proxy in front of what `respond` answers. opened: its connections there. cookie: of who came in."""

    def __init__(self, respond: Respond) -> None:
        self.opened: list[http.client.HTTPConnection] = []

        class Upstream(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                respond(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the parent's name
                pass

        self.upstream = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
        self.upstream.daemon_threads = True
        self.server = Server(0, self._open, "", {}, may_write=False)
        self.cookie = f"{self.server.cookie}={self.server.session}"

    def _open(self) -> http.client.HTTPConnection:
        self.opened.append(http.client.HTTPConnection("127.0.0.1", self.upstream.server_address[1], timeout=WITHIN_S))
        return self.opened[-1]

    @contextmanager
    def get(self, path: str = PACKAGES) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=WITHIN_S)
        try:
            connection.request("GET", path, headers={"Cookie": self.cookie})
            with connection.getresponse() as answer:
                yield answer
        finally:
            connection.close()

    def said(self, request: bytes) -> bytes:
        """All that is answered to these bytes, until the connection is closed."""
        with socket.create_connection(("127.0.0.1", self.server.port), WITHIN_S) as client:
            client.sendall(request)
            return b"".join(iter(lambda: client.recv(1 << 16), b""))


@pytest.fixture
def proxied(request: pytest.FixtureRequest) -> Iterator[Proxied]:
    found = Proxied(request.param)
    with _served(found.upstream), _served(found.server):
        yield found


def _half(asked: BaseHTTPRequestHandler) -> None:
    asked.send_response(200)
    asked.send_header("Content-Length", "1000")
    asked.end_headers()
    asked.wfile.write(b"x" * 500)
    asked.close_connection = True


@pytest.mark.parametrize("proxied", [_half], indirect=True)
def test_half_an_answer_is_not_shown_as_a_whole_one(proxied: Proxied) -> None:
    with proxied.get() as answer, pytest.raises(http.client.IncompleteRead):
        answer.read()


_ASKED_ON = threading.Event()


def _in_two(asked: BaseHTTPRequestHandler) -> None:
    asked.send_response(200)
    asked.send_header("Transfer-Encoding", "chunked")
    asked.end_headers()
    asked.wfile.write(b"5\r\nfirst\r\n")
    _ASKED_ON.wait(WITHIN_S)
    asked.wfile.write(b"4\r\nlast\r\n0\r\n\r\n")


@pytest.mark.parametrize("proxied", [_in_two], indirect=True)
def test_a_watch_may_be_silent_for_longer_than_connecting_may_take(proxied: Proxied) -> None:
    """The server's bookmarks come once in a minute, give or take a tenth."""
    with proxied.get() as answer:
        assert answer.read1() == b"first"
        [behind] = proxied.opened
        waits_s = behind.sock.gettimeout()
        _ASKED_ON.set()
        assert answer.read() == b"last"
    assert waits_s is None or waits_s > 120


def _whole(asked: BaseHTTPRequestHandler) -> None:
    asked.send_response(200)
    asked.send_header("Content-Length", "2")
    asked.end_headers()
    asked.wfile.write(b"{}")


@pytest.mark.parametrize("proxied", [_whole], indirect=True)
def test_what_is_no_length_or_no_path_is_refused_in_words(proxied: Proxied) -> None:
    head = f"Host: 127.0.0.1:{proxied.server.port}\r\nCookie: {proxied.cookie}\r\nConnection: close\r\n".encode()
    for lines, status in (
        (b"Content-Length: \xb2\r\n", b"413"),
        (b"Content-Length: " + b"9" * 5000 + b"\r\n", b"413"),
        (b"Content-Length: 0\r\nContent-Length: 7\r\n", b"413"),
        (b"Transfer-Encoding: chunked\r\n", b"413"),
        (b"", b"200"),
    ):
        said = proxied.said(b"GET " + PACKAGES.encode() + b" HTTP/1.1\r\n" + head + lines + b"\r\n")
        assert said.split(b" ", 2)[1:2] == [status], lines[:40]
    said = proxied.said(b"GET " + PACKAGES.encode() + b"?search=\xfc HTTP/1.1\r\n" + head + b"\r\n")
    assert said.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("proxied", [_whole], indirect=True)
def test_a_body_that_nobody_reads_is_not_taken_for_the_next_request(proxied: Proxied) -> None:
    host = f"Host: 127.0.0.1:{proxied.server.port}\r\n".encode()
    inner = b"GET /ui/ HTTP/1.1\r\n" + host + f"Cookie: {proxied.cookie}\r\n\r\n".encode()
    said = proxied.said(b"POST /ui/ HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n" + inner)
    assert said.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("proxied", [_whole], indirect=True)
def test_to_look_at_the_address_does_not_use_it_up(proxied: Proxied) -> None:
    path = proxied.server.invitation.partition(str(proxied.server.port))[2]
    host = f"Host: 127.0.0.1:{proxied.server.port}\r\nConnection: close\r\n\r\n"
    looked, came = (proxied.said(f"{method} {path} HTTP/1.1\r\n{host}".encode()) for method in ("HEAD", "GET"))
    assert (looked[9:12], came[9:12]) == (b"401", b"303")


def test_the_system_says_whose_a_connection_is(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert user_of(client.getsockname(), port) in (os.getuid(), None)
        with socket.socket(socket.AF_INET6) as client:  # as a browser may, that knows IPv6 alone
            client.connect(("::ffff:127.0.0.1", port))
            assert user_of(("127.0.0.1", client.getsockname()[1]), port) in (os.getuid(), None)
    table = tmp_path / "tcp"
    row = "0100007F:D431 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 1 1 0 20 4 30 10 -1"
    table.write_text(f"  sl  local_address rem_address\n   0: {row}\n", encoding="ascii")
    assert user_of(("127.0.0.1", 0xD431), 0x1F90, (str(table),)) == 1001
    assert user_of(("127.0.0.1", 0xD432), 0x1F90, (str(table),)) is None
    closed = row.replace(" 01 ", " 05 ").replace(" 1001        0 1 ", "    0        0 0 ")
    table.write_text(f"   0: {closed}\n", encoding="ascii")
    assert user_of(("127.0.0.1", 0xD431), 0x1F90, (str(table),)) == -1, "asked and gone, whoever it was: not root"
    assert user_of(("127.0.0.1", 0xD431), 0x1F90, (str(tmp_path / "none"),)) is None
