"""A catalog image in a registry of our own on loopback: only what `cacheserver` asks for, from memory."""

from __future__ import annotations

import hashlib
import io
import socket
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import orjson
from isal import igzip

_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_LABEL: Final = "operators.operatorframework.io.index.configs.v1"


class Registry:
    """Serves one image, `HOST/bench/catalog:v1`, whose /configs are the files last given to `publish`."""

    def __init__(self) -> None:
        self._content: dict[str, tuple[bytes, str]] = {}
        owner = self

        class Handler(_Handler):
            registry = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def image(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}/bench/catalog:v1"

    def publish(self, root: Path) -> None:
        """One gzipped layer with everything below `root`."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            archive.add(root, "configs")
        layer = igzip.compress(out.getvalue(), 1)
        config = orjson.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Labels": {_LABEL: "/configs"}},
                "rootfs": {"type": "layers", "diff_ids": [_digest(out.getvalue())]},
            }
        )
        manifest = orjson.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": _descriptor(config, "application/vnd.oci.image.config.v1+json"),
                "layers": [_descriptor(layer, "application/vnd.oci.image.layer.v1.tar+gzip")],
            }
        )
        blobs = {_digest(blob): (blob, "application/octet-stream") for blob in (config, layer)}
        self._content = {**blobs, "v1": (manifest, _MANIFEST), _digest(manifest): (manifest, _MANIFEST)}

    def found(self, path: str) -> tuple[bytes, str] | None:
        return self._content.get(path.rpartition("/")[2])

    @contextmanager
    def serving(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    registry: Registry
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # header and body together: between two writes Nagle's rule and a late ACK keep a client 40 ms

    def handle(self) -> None:
        # Clients try TLS first. One who greets with it is left at once: it would wait for a line, and we for its end.
        if self.connection.recv(1, socket.MSG_PEEK) != b"\x16":
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        pass

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        found = (b"", "text/plain") if self.path == "/v2/" else self.registry.found(self.path)
        content, media_type = found or (b"", "text/plain")
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Docker-Content-Digest", _digest(content))
        self.end_headers()
        if body:
            self.wfile.write(content)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _descriptor(content: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}
