"""Git repositories built for tests, and real git servers on loopback: `git daemon`, and `git http-backend` over TLS."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

_ENVIRONMENT = {
    "PATH": os.environ.get("PATH", os.defpath),
    "HOME": "/nonexistent",
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "Test",
    "GIT_AUTHOR_EMAIL": "test@example.com",
    "GIT_COMMITTER_NAME": "Test",
    "GIT_COMMITTER_EMAIL": "test@example.com",
    "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
}


class GitRepository:
    """A bare repository that tests write to. File modes: 100644, or as given in `modes` (120000 for a link)."""

    def __init__(self, path: Path, *, object_format: str = "sha1") -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--bare", "-b", "main", f"--object-format={object_format}")

    @property
    def url(self) -> str:
        return f"file://{self.path}"

    def git(self, *arguments: str, stdin: bytes = b"") -> str:
        command = ["git", "--git-dir", str(self.path), *arguments]
        ran = subprocess.run(command, input=stdin, capture_output=True, env=_ENVIRONMENT, timeout=60, check=False)
        assert ran.returncode == 0, ran.stderr.decode()
        return ran.stdout.decode().strip()

    def commit(
        self,
        files: Mapping[str, bytes],
        *,
        branch: str = "main",
        modes: Mapping[str, str] | None = None,
        message: str = "m",
    ) -> str:
        """A commit on `branch` whose tree is exactly `files`; its name."""
        lines = []
        for path, content in files.items():
            mode = (modes or {}).get(path, "100644")
            oid = content.decode() if mode == "160000" else self.git("hash-object", "-w", "--stdin", stdin=content)
            lines.append(f"{mode} {oid}\t{path}")
        index = self.path / "test-index"
        index.unlink(missing_ok=True)
        with_index = {**_ENVIRONMENT, "GIT_INDEX_FILE": str(index), "GIT_DIR": str(self.path)}
        listed = "".join(f"{line}\n" for line in lines).encode()
        fill = ["git", "update-index", "--add", "--index-info"]
        subprocess.run(fill, input=listed, capture_output=True, env=with_index, timeout=60, check=True)
        wrote = subprocess.run(["git", "write-tree"], capture_output=True, env=with_index, timeout=60, check=True)
        return self.commit_tree(wrote.stdout.decode().strip(), branch=branch, message=message)

    def commit_tree(self, tree: str, *, branch: str = "main", message: str = "m") -> str:
        ref = f"refs/heads/{branch}"
        parent = self.git("for-each-ref", "--format=%(objectname)", ref)
        oid = self.git("commit-tree", tree, *(("-p", parent) if parent else ()), "-m", message)
        self.git("update-ref", ref, oid)
        return oid

    def raw_tree(self, *entries: tuple[str, bytes, str]) -> str:
        """A tree of (mode, name, object) that git itself would refuse to make."""
        content = b"".join(mode.encode() + b" " + name + b"\0" + bytes.fromhex(oid) for mode, name, oid in entries)
        return self.git("hash-object", "-t", "tree", "--literally", "-w", "--stdin", stdin=content)

    def hook(self, name: str, script: str) -> Path:
        """A hook of the server (githooks(5)): the lines of a shell. Takes the place of one that is there, at once."""
        path = self.path / "hooks" / name
        path.parent.mkdir(exist_ok=True)
        made = path.with_suffix(".new")
        made.write_text(f"#!/bin/sh\n{script}\n")
        made.chmod(0o755)
        return made.rename(path)

    def tag(self, name: str, target: str = "main", *, annotated: bool = False) -> None:
        self.git("tag", "--force", *(("-a", "-m", "tagged") if annotated else ()), name, target)


class GitDaemon:
    """`git daemon` for every repository below `base`."""

    def __init__(self, base: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._command = [
            "git", "daemon", f"--base-path={base}", "--export-all", "--listen=127.0.0.1", f"--port={self._port}",
            "--reuseaddr", "--informative-errors", str(base),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, name: str) -> str:
        return f"git://127.0.0.1:{self._port}/{name}"

    def listening(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "git daemon has ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, env=_ENVIRONMENT, stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, kind: object, error: object, where: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(timeout=10)


class GitHTTPS:
    """`git http-backend` below `base` behind TLS. authorization: what must be sent, empty for nothing.

    intercept: may answer (status, headers) in the backend's place. seen: (method, path, headers) in order. answered:
    paths, when the backend was done with them.
    """

    def __init__(self, base: Path, certificate: tuple[Path, Path], *, authorization: str = "") -> None:
        self.base = base
        self.authorization = authorization
        self.intercept: Callable[[str], tuple[int, Mapping[str, str]] | None] = lambda _path: None
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.answered: list[str] = []
        owner = self

        class Handler(_Backend):
            server_owner = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        # Handshakes happen in the threads, so that one client that does not shake hands stops nobody.
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def origin(self) -> str:
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, where: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class _Backend(BaseHTTPRequestHandler):
    """CGI by hand (RFC 3875): one `git http-backend` a request."""

    server_owner: GitHTTPS
    protocol_version = "HTTP/1.0"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            pass  # A client that distrusts us hangs up within the handshake.

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        owner = self.server_owner
        owner.seen.append((self.command, self.path, dict(self.headers)))
        answer = owner.intercept(self.path)
        if answer is None and owner.authorization and self.headers.get("Authorization") != owner.authorization:
            answer = 401, {"WWW-Authenticate": 'Basic realm="git"'}
        if answer is not None:
            self.send_response(answer[0])
            for key, value in answer[1].items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        body = self._body()
        environment = _ENVIRONMENT | {
            "GIT_PROJECT_ROOT": str(owner.base), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path, "QUERY_STRING": query,
            "REQUEST_METHOD": self.command, "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""), "REMOTE_ADDR": "127.0.0.1",
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }  # fmt: skip
        ran = subprocess.run(
            ["git", "http-backend"], input=body, capture_output=True, env=environment, timeout=60, check=False
        )
        owner.answered.append(self.path)
        head, _, content = ran.stdout.partition(b"\r\n\r\n")
        headers = [line.split(": ", 1) for line in head.decode().split("\r\n")]
        status = next((int(value.split()[0]) for key, value in headers if key == "Status"), 200)
        self.send_response(status)
        for key, value in headers:
            if key != "Status":
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)
