"""A certificate authority for one test, made with the openssl command as most are."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

# Python's own checks, which tests' clients have from 3.13 on, want an authority to say so (RFC 5280 section 4.2.1.3).
_SIGNS = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")


class Authority:
    """Signs certificates valid for a day, for 127.0.0.1 and localhost, as server and as client."""

    def __init__(self, directory: Path, *, name: str = "test authority", bare: bool = False) -> None:
        """name: its common name; a directory holds one authority. bare: as people make them by hand, without key
        identifiers and keyUsage in its certificate and in those that it issues."""
        directory.mkdir(parents=True, exist_ok=True)
        self._bare = bare
        self._directory = directory
        self._name = name
        self.certificate = directory / "ca.crt"
        self.key = directory / "ca.key"
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"),
            *("-subj", f"/CN={name}", "-keyout", self.key, "-out", self.certificate),
            *_SIGNS,
        )
        if bare:
            self._strip()

    def _strip(self) -> None:
        request, extensions = self._directory / "ca.csr", self._directory / "ca.extensions"
        extensions.write_text("basicConstraints=CA:TRUE\nsubjectKeyIdentifier=none\nauthorityKeyIdentifier=none\n")
        _openssl("req", "-new", "-key", self.key, "-subj", f"/CN={self._name}", "-out", request)
        _openssl(
            *("x509", "-req", "-in", request, "-signkey", self.key, "-days", "1", "-extfile", extensions),
            *("-out", self.certificate),
        )

    @property
    def pem(self) -> str:
        return self.certificate.read_text()

    def renew(self) -> None:
        """A new certificate for the same key and name, valid for longer; what it signed stays valid."""
        _openssl(
            *("req", "-x509", "-key", self.key, "-days", "2", "-subj", f"/CN={self._name}"),
            *("-out", self.certificate),
            *_SIGNS,
        )

    def issued(self, common_name: str) -> tuple[Path, Path]:
        """What was issued to `common_name` before, or is now."""
        cert, key = self._directory / f"{common_name}.crt", self._directory / f"{common_name}.key"
        return (cert, key) if cert.exists() else self.issue(common_name)

    def issue(
        self,
        common_name: str,
        *,
        organizations: Sequence[str] = (),
        days: int = 1,
        usage: str = "serverAuth,clientAuth",
    ) -> tuple[Path, Path]:
        """Certificate and key of `common_name`, replaced if they were issued before. days: -1 makes one that ended so
        many days ago."""
        cert, key = self._directory / f"{common_name}.crt", self._directory / f"{common_name}.key"
        request, extensions = self._directory / "request.csr", self._directory / "extensions"
        extensions.write_text(
            f"subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage={usage}\n"
            f"authorityKeyIdentifier={'none' if self._bare else 'keyid'}\n"
        )
        subject = "".join(f"/O={organization}" for organization in organizations) + f"/CN={common_name}"
        _openssl(
            *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", subject, "-keyout", key, "-out", request),
        )
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial"),
            *("-days", str(max(days, 1)), "-extfile", extensions, "-out", cert),
        )
        if days < 0:
            self._end(cert, days)
        return cert, key

    def _end(self, cert: Path, days: int) -> None:
        """Dates it back; newer openssl commands (3.6) sign nothing that has ended."""
        signer = serialization.load_pem_private_key(self.key.read_bytes(), None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        issued = x509.load_pem_x509_certificate(cert.read_bytes())
        end = datetime.now(UTC) + timedelta(days=days)
        ended = x509.CertificateBuilder(
            issued.issuer, issued.subject, issued.public_key(), issued.serial_number, end - timedelta(days=1), end
        )
        for extension in issued.extensions:
            ended = ended.add_extension(extension.value, extension.critical)
        cert.write_bytes(ended.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)
