"""Certificates that no tool would make: every byte of subject and validity as a test says it, signed all the same."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.certificates import Authority

_SEQUENCE, _SET, _INTEGER, _BITS, _OID, _UTF8, _UTC, _GENERALIZED = 0x30, 0x31, 2, 3, 6, 12, 0x17, 0x18
_COMMON_NAME: Final = bytes.fromhex("550403")
_ORGANIZATION: Final = bytes.fromhex("55040a")
_ECDSA_WITH_SHA256: Final = bytes.fromhex("2a8648ce3d040302")

LONG_AGO: Final = (_UTC, b"250101000000Z")
IN_FIFTY_YEARS: Final = (_GENERALIZED, b"20750101000000Z")
YEAR_ZERO: Final = (_GENERALIZED, b"00000101000000Z")
"""Taken by OpenSSL, which knows such a year; Python's datetime does not."""


def common_name(value: bytes, *, tag: int = _UTF8) -> bytes:
    return _attribute(_COMMON_NAME, value, tag)


def organization(value: bytes) -> bytes:
    return _attribute(_ORGANIZATION, value, _UTF8)


def issue_odd(
    authority: Authority,
    directory: Path,
    subject: Iterable[bytes],
    *,
    not_before: tuple[int, bytes] = LONG_AGO,
    not_after: tuple[int, bytes] = IN_FIFTY_YEARS,
) -> tuple[Path, Path]:
    """Certificate and key. subject: attributes, see above. Times: tag and text."""
    issuer = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    signer = serialization.load_pem_private_key(authority.key.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    algorithm = _der(_SEQUENCE, _der(_OID, _ECDSA_WITH_SHA256))
    validity = _der(_SEQUENCE, _der(*not_before) + _der(*not_after))
    name = _der(_SEQUENCE, b"".join(subject))
    serial = _der(_INTEGER, b"\x2a")
    told = _der(_SEQUENCE, serial + algorithm + issuer.subject.public_bytes() + validity + name + public)
    signature = _der(_BITS, b"\0" + signer.sign(told, ec.ECDSA(hashes.SHA256())))
    certificate = ssl.DER_cert_to_PEM_cert(_der(_SEQUENCE, told + algorithm + signature))
    paths = directory / "odd.crt", directory / "odd.key"
    paths[0].write_text(certificate)
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


def _attribute(oid: bytes, value: bytes, tag: int) -> bytes:
    return _der(_SET, _der(_SEQUENCE, _der(_OID, oid) + _der(tag, value)))


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    written = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(written))) + written + content
