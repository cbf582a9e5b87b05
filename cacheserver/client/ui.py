"""The page on this machine, with the rights of whoever started it: `kubectl cacheserver ui`.

A proxy with somebody's rights on a port that every page in his browser can try. So (each refused before all that
follows): the Host must be ours, which no other site's name can be; a cookie, given once for the secret in the address
that was opened; for what changes anything, our own Origin, and --write; and only paths that the page asks for. What a
browser sends of who it is goes no further; the user's credentials are kubectl's, and never reach the page. Other users
of the machine are not heard at all, where the system says who connects: the secret stands for a moment in the list of
processes, which all of them read, where a browser is begun with it.
"""

from __future__ import annotations

import contextlib
import hmac
import http.client
import os
import re
import secrets
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import webbrowser
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Final, NoReturn
from urllib.parse import unquote

from cacheserver.client.catalog import Catalog
from cacheserver.client.connection import ClientError, Direct, Kubectl
from cacheserver.client.output import Output
from cacheserver.web.policy import FOLDERS, HEADERS, INDEX, TYPES

_PATHS: Final = re.compile(r"/apis/(?:config\.)?cacheserver\.dev/v1alpha1/[A-Za-z0-9/._%~+@-]*\Z")
_REVIEWS: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_SEARCHES: Final = re.compile(r"/apis/cacheserver\.dev/v1alpha1/(?:namespaces/[a-z0-9.-]+/)?packagesearches\Z")
"""Created to be answered: nothing is kept of them."""
_SENT_ON: Final = ("Accept", "Content-Type", "If-None-Match")
_GIVEN_BACK: Final = ("Content-Type", "ETag", "Cache-Control", "Warning", "Retry-After", "Content-Disposition")
_READING: Final = ("GET", "HEAD")
_BODY_BYTES: Final = 8 << 20
_DIGITS: Final = 10
_PIECE: Final = 64 << 10
_CONNECTIONS: Final = 64
"""Ours: a browser opens six to a host; all else waits in the kernel."""
_QUIET_S: Final = 30.0
_ANSWER_S: Final = 600.0
_PROXY_WITHIN_S: Final = 15.0
_SAID_BYTES: Final = 4 << 10
_SOCKETS: Final = ("/proc/net/tcp", "/proc/net/tcp6")
_ROOT: Final = 0

Upstream = Callable[[], http.client.HTTPConnection]
"""A new connection to where the API is."""


def ui(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """Serves the page until ^C, and opens it in a browser."""
    # What is begun below has the user's rights and must not outlive a closed terminal. What nohup ignores stays so.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _leave)
    with contextlib.ExitStack() as stack:
        upstream, prefix, headers = _upstream(catalog, stack)
        server = Server(int(asked.port or 0), upstream, prefix, headers, may_write=asked.write)
        stack.callback(server.server_close)
        output.line(server.invitation)
        if not asked.write:
            output.say("It only reads; --write opens its buttons. ^C ends it.")
        if not asked.no_browser:
            threading.Thread(target=webbrowser.open, args=(server.invitation,), daemon=True).start()
        sys.stdout.flush()
        server.serve_forever()
    return 0


def _leave(number: int, _frame: object) -> NoReturn:
    """Ends as by ^C, with the exit code of a shell's child that a signal ended."""
    raise SystemExit(128 + number)


def _upstream(catalog: Catalog, stack: contextlib.ExitStack) -> tuple[Upstream, str, Mapping[str, str]]:
    """Where the API is, what stands before its paths, and headers for it. Raises: ClientError."""
    connection = catalog.connection
    if isinstance(connection, Direct):
        return connection.open, connection.prefix, connection.headers
    assert isinstance(connection, Kubectl)
    path = stack.enter_context(_kubectl_proxy(connection))
    return lambda: _UnixConnection(path), "", {}


@contextlib.contextmanager
def _kubectl_proxy(kubectl: Kubectl) -> Iterator[str]:
    """The socket of a kubectl proxy, in a directory that is the user's alone; never a TCP port."""
    with tempfile.TemporaryDirectory(prefix="kubectl-cacheserver-") as directory:
        path = str(Path(directory) / "s")
        command = [kubectl.command, "proxy", f"--unix-socket={path}", *kubectl.flags]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        said = bytearray()
        # It has a line for each request that broke off, and would stop for good with nobody to read them.
        hears = threading.Thread(target=_hear, args=(process, said), daemon=True)
        hears.start()
        try:
            until = time.monotonic() + _PROXY_WITHIN_S
            while not Path(path).exists():
                if process.poll() is not None or time.monotonic() > until:
                    process.kill()
                    hears.join(1)
                    why = said.decode(errors="replace").strip()
                    raise ClientError(f"kubectl proxy did not start: {why or 'it says nothing'}")
                time.sleep(0.02)
            yield path
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def _hear(process: subprocess.Popen[bytes], said: bytearray) -> None:
    """All that it says, of which the begin is kept."""
    assert process.stderr is not None
    with process.stderr as stream:
        while piece := stream.read1(_SAID_BYTES):  # type: ignore[attr-defined] # a BufferedReader
            said += piece[: _SAID_BYTES - len(said)]


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """Raises: OSError."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def user_of(client: tuple[str, int], port: int, tables: Sequence[str] = _SOCKETS) -> int | None:
    """Whose the socket is that is connected to us from this address and port of the machine; -1 of one that its owner
    has closed, which the system says to be root's; None where it does not tell (Linux does: proc(5), /proc/net/tcp)."""
    four = f"{struct.unpack('=I', socket.inet_aton(client[0]))[0]:08X}"
    there, here = f"{client[1]:04X}", f"{port:04X}"
    mapped = "0" * 16 + f"{struct.unpack('=I', bytes((0, 0, 0xFF, 0xFF)))[0]:08X}"  # IPv4 as IPv6 has it
    for table in tables:
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        for words in (line.split() for line in lines if f":{there} " in line):
            if words[1] in (f"{four}:{there}", f"{mapped}{four}:{there}") and words[2].endswith(f":{here}"):
                return int(words[7]) if words[9] != "0" else -1
    return None


class Server(ThreadingHTTPServer):
    """See the module. Listens on 127.0.0.1 alone, on a port that nobody knows before."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, port: int, upstream: Upstream, prefix: str, headers: Mapping[str, str], *, may_write: bool
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.upstream, self.prefix, self.headers, self.may_write = upstream, prefix, headers, may_write
        self.port = self.server_address[1]
        self.hosts = (f"127.0.0.1:{self.port}", f"localhost:{self.port}")
        # Cookies do not tell ports apart.
        self.cookie = f"cacheserver-{self.port}"
        self.session = secrets.token_urlsafe(32)
        self._once = secrets.token_urlsafe(32)
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(_CONNECTIONS)
        self.files = _files()

    @property
    def invitation(self) -> str:
        """The address to open; it lets one browser in, once."""
        return f"http://127.0.0.1:{self.port}/begin?secret={self._once}"

    def take(self, secret: str) -> bool:
        """Whether it is the secret, which then is none any more."""
        with self._lock:
            if not self._once or not hmac.compare_digest(secret.encode(), self._once.encode()):
                return False
            self._once = ""
            return True

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether it is this user who connects, or root, who may be him anyway."""
        return user_of(client_address, self.port) in (None, _ROOT, os.getuid())

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread, of which there are so many."""
        if not self._room.acquire(timeout=_QUIET_S):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Gives its place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went is nothing to speak of."""


def _files() -> Mapping[str, tuple[str, bytes]]:
    """Path below /ui/ -> type and content."""
    root = files("cacheserver.web") / "static"
    found: dict[str, tuple[str, bytes]] = {}
    for folder in FOLDERS:
        for each in (root / folder if folder else root).iterdir():
            kind = each.name.rpartition(".")[2]
            if each.is_file() and kind in TYPES:
                found[folder + each.name] = TYPES[kind], each.read_bytes()
    return found


def _asked_by_the_page(path: str) -> bool:
    """Whether it is one of ours, also for who decodes it once more on the way."""
    decoded = unquote(path)
    return bool(_PATHS.match(path)) and "%" not in decoded and not {".", ".."} & set(decoded.split("/"))


def _length(said: Sequence[str]) -> int | None:
    """What the headers say, which is said once; None where that is no number."""
    [*others, last] = said
    return int(last) if not others and last.isascii() and last.isdigit() and len(last) <= _DIGITS else None


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout: ClassVar[float] = _QUIET_S
    # An answer is several writes: the second would wait 40 ms for the browser to say that it has the first.
    disable_nagle_algorithm: ClassVar[bool] = True
    server_version = "kubectl-cacheserver"
    sys_version = ""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the parent's name
        """Addresses hold the secret: none is logged."""

    def do_GET(self) -> None:
        """Also of the other methods: one gate for all."""
        self._counted = False
        path, _, query = self.path.partition("?")
        if self.headers.get_all("Host") not in [[host] for host in self.server.hosts]:
            self._refuse(403, "this is no name of this page: open the address that `kubectl cacheserver ui` printed")
        elif self.command == "GET" and path == "/begin":
            self._begin(query)
        elif not self._known():
            self._refuse(401, "open the address that `kubectl cacheserver ui` printed; it opens one browser, once")
        elif self.command not in _READING and not self._own():
            self._refuse(403, "a request from another page")
        elif path == "/" or path == "/ui":
            self._answer(307, {"Location": "/ui/"})
        elif path.startswith("/ui/"):
            self._file(path.removeprefix("/ui/") or INDEX)
        elif self.command == "POST" and (path == _REVIEWS or _SEARCHES.match(path)):
            self._forward()
        elif not _asked_by_the_page(path):
            self._refuse(404, "the page asks for nothing like this")
        elif self.command not in _READING and not self.server.may_write:
            self._refuse(403, "started to read alone: `kubectl cacheserver ui --write` opens the buttons")
        else:
            self._forward()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815  the parent looks for these names

    def _known(self) -> bool:
        """Whether our cookie is among those of all ports; http.cookies reads none of them where one is odd."""
        ours = f"{self.server.cookie}={self.server.session}".encode()
        sent = ";".join(self.headers.get_all("Cookie", ())).split(";")
        return any(hmac.compare_digest(each.strip().encode("latin-1", "replace"), ours) for each in sent)

    def _own(self) -> bool:
        """Whether a browser says that our own page asks; all of them send both with what changes something."""
        origins = [f"http://{host}" for host in self.server.hosts]
        return (
            self.headers.get("Origin") in origins and self.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
        )

    def _begin(self, query: str) -> None:
        if self._known():
            self._answer(303, {"Location": "/ui/"})
        elif self.server.take(query.removeprefix("secret=")):
            cookie = f"{self.server.cookie}={self.server.session}; HttpOnly; SameSite=Strict; Path=/"
            self._answer(303, {"Location": "/ui/", "Set-Cookie": cookie})
        else:
            self._refuse(401, "this address was used before: start `kubectl cacheserver ui` again")

    def _file(self, path: str) -> None:
        found = self.server.files.get(path)
        if found is None:
            self._refuse(404, "there is no such file")
        else:
            self._answer(200, {"Content-Type": found[0]}, found[1])

    def _forward(self) -> None:
        length = _length(self.headers.get_all("Content-Length", ["0"]))
        if "Transfer-Encoding" in self.headers or length is None or length > _BODY_BYTES:
            self._refuse(413, f"a body is told with its length, up to {_BODY_BYTES >> 20} MiB")
            return
        if not self.path.isascii():
            self._refuse(400, "a path is written in ASCII")
            return
        body = self.rfile.read(length) or None
        self._counted = True
        sent = {name: text for name in _SENT_ON if (text := self.headers.get(name))} | dict(self.server.headers)
        connection = self.server.upstream()
        try:
            connection.connect()
            connection.sock.settimeout(_ANSWER_S)  # a watch may be silent for longer than connecting may take
            connection.request(self.command, self.server.prefix + self.path, body, sent)
            self._relay(connection.getresponse())
        except (OSError, http.client.HTTPException) as exc:
            if not self.wfile.closed and not self._started:
                self._refuse(502, f"the server gave no answer: {exc}")
            self.close_connection = True
        finally:
            connection.close()

    _started = False

    def _relay(self, answer: http.client.HTTPResponse) -> None:
        self._started = True
        self.send_response(answer.status)
        for name in _GIVEN_BACK:
            if text := answer.headers.get(name):
                self.send_header(name, text)
        bare = self.command == "HEAD" or answer.status in (204, 304)
        self.send_header("X-Content-Type-Options", "nosniff")
        # An icon or a file of a catalog, opened as a page of its own, is nothing that runs.
        self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
        if not bare:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.connection.settimeout(_ANSWER_S)
        while not bare and (piece := answer.read1(_PIECE)):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if not bare and answer.length:
            raise http.client.IncompleteRead(b"", answer.length)  # which read1 takes for the end
        if not bare:
            self.wfile.write(b"0\r\n\r\n")
        self.connection.settimeout(_QUIET_S)
        self._started = False

    def _refuse(self, status: int, why: str) -> None:
        self._answer(status, {"Content-Type": "text/plain; charset=utf-8"}, f"{why}\n".encode())

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        bodied = self.headers.get_all("Content-Length", ["0"]) != ["0"] or "Transfer-Encoding" in self.headers
        if bodied and not self._counted:
            self.close_connection = True  # a body that nobody read is not the next request
        self.send_response(status)
        for name, text in {**HEADERS, "Cache-Control": "no-store", **headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, text)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
