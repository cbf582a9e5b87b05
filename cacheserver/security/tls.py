"""TLS for the listener: certificate, key and the CAs of client certificates, taken over as they change, while
connections and requests go on.

Also says who is at the other end of a connection; what that peer may do is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
import time
from asyncio import BaseTransport
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

from cacheserver import metrics
from cacheserver.errors import ConfigError
from cacheserver.security.x509 import Authority, parse, parse_bundle
from cacheserver.slotted import slotted

log = logging.getLogger(__name__)

_POLL_INTERVAL_S: Final = 5.0  # ours: kube-apiserver looks every 60 s and listens to inotify; reading 5 KB is cheap


@slotted(frozen=True)
class ChainCertificate:
    """One certificate of a peer's verified chain. until: Unix time when the first below it in the chain ends."""

    authority: Authority
    until: float


@slotted(frozen=True, eq=False, weakref_slot=True)
class Peer:
    """Who showed a certificate that leads to one of the CAs trusted at the handshake. Which CA is in `chain`.

    One a connection, and gone with it; equal to itself alone. fingerprint: SHA-256 of the certificate, in hexadecimal.
    """

    common_name: str
    organizations: tuple[str, ...]
    fingerprint: str
    chain: tuple[ChainCertificate, ...]


_peers: WeakKeyDictionary[ssl.SSLObject, Peer | None] = WeakKeyDictionary()


def peer_of(transport: BaseTransport | None) -> Peer | None:
    """Who is at the other end; None on plain HTTP, without a certificate, or with one that cannot be read.

    Remembered with the connection, so what cannot be read is logged once for each.
    """
    connection = None if transport is None else transport.get_extra_info("ssl_object")
    if connection is None:
        return None
    try:
        return _peers[connection]
    except KeyError:
        found = _peers[connection] = _peer(connection)
        return found


def _peer(connection: ssl.SSLObject) -> Peer | None:
    try:
        return _read_peer(connection)
    except (OSError, ValueError) as exc:
        # OpenSSL verifies signatures and times, and takes what nobody can spell: a begin in the year 0, a name that is
        # half a character. Its owner chose that, so it is not a defect of ours, and no reason to believe anything else.
        _tell_unreadable(exc)
        return None


_TELL_EVERY_S: Final = 10.0
_unreadable_told = float("-inf")


def _tell_unreadable(why: Exception) -> None:
    """A line now and then, however many connections there are."""
    global _unreadable_told  # noqa: PLW0603 - the log is one for the process, too
    if time.monotonic() - _unreadable_told >= _TELL_EVERY_S:
        _unreadable_told = time.monotonic()
        log.warning("a client certificate cannot be read, and stands for nobody", extra={"error": str(why)[:200]})


def _read_peer(connection: ssl.SSLObject) -> Peer | None:
    """Raises: OSError (ssl.SSLError), ValueError."""
    decoded = connection.getpeercert()
    chain = _verified_chain(connection)
    if not decoded or not chain:
        return None
    # Go: crypto/x509/pkix/pkix.go, FillFromRDNSequence: the last CN counts, every O
    subject: Any = decoded.get("subject", ())  # typeshed knows less of its shape
    names = [attribute for relative in subject for attribute in relative]
    common_name = next((value for name, value in reversed(names) if name == "commonName"), "")
    organizations = tuple(value for name, value in names if name == "organizationName")
    return Peer(common_name, organizations, hashlib.sha256(chain[0]).hexdigest(), tuple(_chain(chain)))


def _chain(chain: list[bytes]) -> Iterator[ChainCertificate]:
    until = float("inf")
    for der in chain:  # the peer's own certificate too: as in Go, it may itself be in the bundle of CAs
        certificate = parse(der)
        yield ChainCertificate(certificate.authority, until)
        until = min(until, certificate.not_after)


def _verified_chain(connection: ssl.SSLObject) -> list[bytes]:
    """DER, the peer's own certificate first; empty without one, and on a resumed session, which verifies nothing."""
    if hasattr(connection, "get_verified_chain"):  # Python 3.13 and later
        public: list[bytes] = connection.get_verified_chain()
        return public
    # Python 3.11 and 3.12 have it under this name only; pip (truststore) relies on its like too.
    inner: Any = connection._sslobj  # type: ignore[attr-defined] # see above
    if connection.version() is None:
        return []
    chain = inner.get_verified_chain() or ()
    return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in chain]


class ServingTLS:
    """The listener's TLS. load() first, then listen with `context` and keep run() running.

    A new pair of files, and new CAs, count for the next handshake. A pair that cannot be used leaves the old one.
    """

    def __init__(
        self, certificate: Path, key: Path, *, ask_clients: bool, now: Callable[[], float] = time.time
    ) -> None:
        """ask_clients: let clients show a certificate. One that leads to none of trust()'s CAs fails the handshake."""
        self._certificate = certificate
        self._key = key
        self._now = now
        self._ask_clients = ask_clients
        self._client_cas = ""
        self._seen: tuple[bytes, bytes] | None = None
        self._failing = False
        self._changing = asyncio.Lock()
        self._expires = 0.0
        self.context = self._empty()
        self._current = self.context
        # OpenSSL calls it in every handshake, named server or not: the way to a new context without a new listener.
        self.context.sni_callback = self._hand_over

    async def load(self) -> None:
        """Raises: ConfigError when the pair cannot be used."""
        try:
            await self._take(await asyncio.to_thread(self._read))
        except (OSError, ValueError) as exc:
            raise ConfigError(f"serving certificate {self._certificate} with key {self._key}: {exc}") from exc

    async def run(self) -> None:
        """Takes the files over as they change; symbolic links that are swapped, as kubelet does it, too."""
        while True:
            await asyncio.sleep(_POLL_INTERVAL_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Look at the files now."""
        try:
            files = await asyncio.to_thread(self._read)
            if files == self._seen:
                return
            await self._take(files)
        except (OSError, ValueError) as exc:
            metrics.certificate_loads.labels("failed").inc()
            if not self._failing:
                self._failing = True
                log.warning("serving certificate cannot be used, keeping the old one", extra={"error": str(exc)})
        else:
            self._failing = False
            log.info("serving certificate changed", extra={"expires": int(self._expires)})

    async def trust(self, client_cas: str) -> None:
        """From now on verify client certificates by these CAs (PEM), and no others. Raises: OSError, ValueError."""
        async with self._changing:
            try:
                self._current = await asyncio.to_thread(self._build, client_cas)
            except (OSError, ValueError) as exc:
                # The files are of no use just now. Adding the CAs to the context in use is enough to let new clients
                # in; the CAs that went are trusted for the handshake only: who may what is decided by the new bundle.
                log.warning("serving certificate cannot be read, adding CAs to the old one", extra={"error": str(exc)})
                if client_cas:
                    self._current.load_verify_locations(cadata=client_cas)
            self._client_cas = client_cas

    def check(self) -> str | None:
        """For readyz: None while the certificate holds."""
        if self._now() < self._expires:
            return None
        return f"the serving certificate {self._certificate} has expired: replace it, it is read again within seconds"

    def _read(self) -> tuple[bytes, bytes]:
        return self._certificate.read_bytes(), self._key.read_bytes()

    async def _take(self, files: tuple[bytes, bytes]) -> None:
        async with self._changing:
            found = parse_bundle(files[0].decode("ascii", "replace"))
            if not found:
                raise ValueError("holds no certificate (PEM)")
            self._current = await asyncio.to_thread(self._build, self._client_cas)
            # What was read before it was loaded: files that changed in between differ at the next look.
            self._seen = files
            self._expires = found[0].not_after
        metrics.certificate_expires.set(self._expires)
        metrics.certificate_loads.labels("loaded").inc()

    def _build(self, client_cas: str) -> ssl.SSLContext:
        """Raises: OSError (ssl.SSLError too), ValueError."""
        context = self._empty()
        context.load_cert_chain(self._certificate, self._key)
        if client_cas:
            context.load_verify_locations(cadata=client_cas)
        return context

    def _empty(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # A resumed session is not verified again: there would be no chain to see which CA it leads to.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        if self._ask_clients:
            context.verify_mode = ssl.CERT_OPTIONAL
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # Go: every certificate of a pool is a root
        return context

    def _hand_over(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current
