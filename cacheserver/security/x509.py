"""Reads a certificate's subject, public key and dates from its DER (X.509, RFC 5280). And makes the TLS context of the
connections that we open.

Verifies nothing itself: OpenSSL has verified every chain that comes here.
Python's own ssl module decodes only the peer's certificate, and needs a connection for that.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cacheserver.slotted import slotted

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0

Authority = bytes
"""Digest of subject and public key. A CA that is renewed with its old key keeps it, and what it signed holds."""


@slotted(frozen=True)
class Certificate:
    """Times are Unix times."""

    authority: Authority
    not_before: float
    not_after: float


def outgoing_context(*, ca_file: str | Path | None = None, ca_pem: str | None = None) -> ssl.SSLContext:
    """For connections that we make: verifies name, chain and dates, and accepts whatever curl accepts.

    ca_file, ca_pem: certificates to trust (PEM); neither: the system's. These take tens of milliseconds: in a thread.
    Raises: OSError (ssl.SSLError among them) when they cannot be used.

    Python 3.13 began to demand by itself (VERIFY_X509_STRICT) that certificates name their keys and what these are for,
    as RFC 5280 has it. curl, kubectl and Go do not, and authorities that people made by hand, or years ago, lack both.
    As with these, any certificate that is trusted ends a chain, a root or not (curl sets X509_V_FLAG_PARTIAL_CHAIN).
    """
    context = ssl.create_default_context(cafile=ca_file, cadata=ca_pem)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def pem_blocks(pem: str) -> Sequence[str]:
    """Each certificate's own lines."""
    return _PEM.findall(pem)


def parse_bundle(pem: str) -> Sequence[Certificate]:
    """All certificates of a PEM text, in its order; what is between them is skipped. Raises: ValueError."""
    return [parse(ssl.PEM_cert_to_DER_cert(block)) for block in pem_blocks(pem)]


def parse(der: bytes) -> Certificate:
    """RFC 5280 section 4.1. Raises: ValueError."""
    _, start, _ = _element(der, 0, _SEQUENCE)
    _, at, _ = _element(der, start, _SEQUENCE)
    tag, _, end = _element(der, at)
    if tag == _VERSION:
        _, _, end = _element(der, end)  # serialNumber
    _, _, end = _element(der, end, _SEQUENCE)  # signature
    _, _, end = _element(der, end, _SEQUENCE)  # issuer
    _, validity, subject = _element(der, end, _SEQUENCE)
    _, _, key = _element(der, subject, _SEQUENCE)
    _, _, after_key = _element(der, key, _SEQUENCE)
    not_before, at = _time(der, validity)
    not_after, _ = _time(der, at)
    return Certificate(hashlib.sha256(der[subject:after_key]).digest(), not_before, not_after)


def _element(der: bytes, at: int, expected: int | None = None) -> tuple[int, int, int]:
    """(tag, where its content starts, where the next element starts)."""
    header = der[at : at + 2]
    if len(header) < 2 or (expected is not None and header[0] != expected):
        raise ValueError(f"no certificate: unexpected element at byte {at}")
    start, length = at + 2, header[1]
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(der[start : start + count], "big")
        start += count
    if start + length > len(der):
        raise ValueError(f"no certificate: it ends within the element at byte {at}")
    return header[0], start, start + length


def _time(der: bytes, at: int) -> tuple[float, int]:
    """(Unix time, where the next element starts)."""
    tag, start, end = _element(der, at)
    text = der[start:end].decode("ascii")
    if tag == _UTC_TIME:  # RFC 5280 section 4.1.2.5.1: 50 to 99 are of the last century
        text = ("19" if text >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError(f"no certificate: no time at byte {at}")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp(), end
