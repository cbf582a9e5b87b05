"""A git server that runs in a Pod, with the git and the Python of our image: gitprotocol-http(5) over TLS, one user.

Run by test_node.py, as a file of a ConfigMap, which also holds what its repositories begin with: git bundles.
"""

from __future__ import annotations

import base64
import gzip
import os
import ssl
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOME = Path("/srv")
SEEDS = Path("/seeds")
TLS = Path("/tls")
PORT = 443  # the one that the server's NetworkPolicy lets it reach
WANTED = "Basic " + base64.b64encode(os.environ.get("CREDENTIALS", "").encode()).decode()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        service = query.removeprefix("service=")
        hello = f"# service={service}\n"
        head = f"{len(hello) + 4:04x}{hello}0000".encode()
        if "version=2" in self.headers.get("Git-Protocol", ""):
            head = b""
        self._answer(path.removesuffix("/info/refs"), service, "advertisement", head, "--http-backend-info-refs")

    def do_POST(self) -> None:
        path, _, service = self.path.rpartition("/")
        self._answer(path, service, "result", b"")

    def _answer(self, path: str, service: str, kind: str, head: bytes, *flags: str) -> None:
        body = self._body()
        if self.headers.get("Authorization") != WANTED:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        command = ["git", service.removeprefix("git-"), "--stateless-rpc", *flags, str(HOME / path.strip("/"))]
        environ = {**os.environ, "GIT_PROTOCOL": self.headers.get("Git-Protocol", "")}
        ran = subprocess.run(command, input=body, stdout=subprocess.PIPE, env=environ, check=False)
        self.send_response(200 if ran.returncode == 0 else 500)
        self.send_header("Content-Type", f"application/x-{service}-{kind}")
        self.send_header("Content-Length", str(len(head + ran.stdout)))
        self.end_headers()
        self.wfile.write(head + ran.stdout)

    def _body(self) -> bytes:
        pieces = []
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
        else:
            pieces.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        body = b"".join(pieces)
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body


def main() -> None:
    for seed in SEEDS.glob("*.bundle"):
        repository = HOME / f"{seed.stem}.git"
        if not repository.exists():
            subprocess.run(["git", "clone", "--quiet", "--bare", seed, repository], check=True)
    edge = HOME / "edge.git"
    if not edge.exists():
        subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", edge], check=True)
    server = ThreadingHTTPServer(("", PORT), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "tls.crt", TLS / "tls.key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    main()
