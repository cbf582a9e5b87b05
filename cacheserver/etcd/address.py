"""Where an endpoint of etcd is, and the certificates that connections to it take."""

from __future__ import annotations

import asyncio
import logging
import ssl
from urllib.parse import urlsplit

from cacheserver.errors import ConfigError
from cacheserver.etcd.values import TLSFiles
from cacheserver.security.x509 import outgoing_context
from cacheserver.slotted import slotted

log = logging.getLogger(__name__)

Metadata = tuple[tuple[str, str], ...]
"""gRPC's, of a call; sent as headers."""
_PORT = 2379


@slotted(frozen=True)
class Address:
    """`url` as configured and fit for a log line. path: of a unix socket; else host and port are said."""

    url: str
    host: str = "localhost"
    port: int = _PORT
    path: str = ""
    secure: bool = False

    @property
    def authority(self) -> str:
        """As a request names it (RFC 9113 section 8.3.1)."""
        if self.path:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(url: str) -> Address:
    """Accepts http://host:port, https://host:port and unix:/absolute/path.

    Raises: ConfigError, never repeating a URL that holds a password.
    """
    if url.startswith("unix:"):
        path = url.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise ConfigError(f"etcd endpoint {url!r}: a unix socket needs an absolute path, unix:/path")
        return Address(url, path=path)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError("an etcd endpoint is not a URL; write http://host:port or https://host:port") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"etcd endpoint at {parts.hostname}: give user and password apart from the URL")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.rstrip("/") or parts.query:
        raise ConfigError(f"etcd endpoint {url!r}: write http://host:port, https://host:port or unix:/path")
    return Address(url.rstrip("/"), parts.hostname, port or _PORT, secure=parts.scheme == "https")


class Certificates:
    """The TLS files as they are when a connection is made, for they are rotated under a process that stays."""

    def __init__(self, files: TLSFiles | None) -> None:
        """Raises: ConfigError."""
        self._files = files or TLSFiles()
        if (self._files.cert is None) != (self._files.key is None):
            raise ConfigError("etcd TLS: a client certificate needs both its file and its key's file")
        self._last: ssl.SSLContext | None = None
        self._unread = False

    async def open(self) -> None:
        """See that they are there, and of use. Raises: ConfigError."""
        try:
            await asyncio.to_thread(self._look)
            await self.context()
        except OSError as exc:
            raise ConfigError(f"etcd TLS file {exc.filename or ''}: {exc.strerror or exc}") from exc

    async def context(self) -> ssl.SSLContext:
        """For one connection. As long as the files cannot be read, that of the last time, for a rotation is not one
        step. Raises: OSError (ssl.SSLError among them) where they never could."""
        try:
            self._last = await asyncio.to_thread(self._load)
        except OSError as exc:
            if self._last is None:
                raise
            if not self._unread:
                log.warning("etcd TLS files cannot be read, keeping the old ones", extra={"error": str(exc)})
            self._unread = True
            return self._last
        self._unread = False
        return self._last

    def _look(self) -> None:
        """OpenSSL's errors do not say which file it is. Raises: OSError."""
        for path in (self._files.ca, self._files.cert, self._files.key):
            if path is not None:
                path.open("rb").close()

    def _load(self) -> ssl.SSLContext:
        context = outgoing_context(ca_file=self._files.ca)
        if self._files.cert is not None:
            context.load_cert_chain(self._files.cert, self._files.key)
        context.set_alpn_protocols(["h2"])
        return context
