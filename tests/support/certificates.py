"""A certificate authority for one test, made with the openssl command."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Authority:
    """Signs certificates valid for a day, for 127.0.0.1 and localhost, as server and as client."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.certificate = directory / "ca.crt"
        self._key = directory / "ca.key"
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"),
            *("-subj", "/CN=test authority", "-keyout", self._key, "-out", self.certificate),
        )

    def issue(self, common_name: str) -> tuple[Path, Path]:
        """Certificate and key of `common_name`, replaced if they were issued before."""
        cert, key = self._directory / f"{common_name}.crt", self._directory / f"{common_name}.key"
        request, extensions = self._directory / "request.csr", self._directory / "extensions"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n")
        _openssl(
            *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN={common_name}", "-keyout", key, "-out", request),
        )
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial"),
            *("-days", "1", "-extfile", extensions, "-out", cert),
        )
        return cert, key


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)
