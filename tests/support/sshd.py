"""A real sshd on loopback, for git over ssh: one user, whoever runs the tests, and one key that may be taken away.

CACHESERVER_TEST_SSHD names the program where it is not at /usr/sbin/sshd (Debian: openssh-server).
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

import pytest

_PRIVSEP = Path("/run/sshd")  # sshd(8): FILES; it must exist where sshd is run by root
_STARTS_WITHIN_S = 20.0


def sshd_or_skip() -> str:
    """The program; skips the test where there is none, or where it could not run."""
    found = os.environ.get("CACHESERVER_TEST_SSHD") or shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None or shutil.which("ssh") is None:
        pytest.skip("there is no sshd: install openssh-server, or name one by CACHESERVER_TEST_SSHD")
    if os.getuid() == 0:
        _PRIVSEP.mkdir(mode=0o755, exist_ok=True)
    return found


class SSHServer:
    """with SSHServer(sshd_or_skip(), tmp_path) as server: server.url(path), server.identity, server.known_hosts."""

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory
        directory.mkdir()
        for name in ("host", "user"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)], check=True, timeout=60
            )
        self._allowed = directory / "authorized_keys"
        self.allow()

    @property
    def identity(self) -> bytes:
        """The user's private key."""
        return (self._directory / "user").read_bytes()

    @property
    def known_hosts(self) -> bytes:
        kind, key, *_ = (self._directory / "host.pub").read_text().split()
        return f"[127.0.0.1]:{self.port} {kind} {key}\n".encode()

    def url(self, path: Path) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{path}"

    def allow(self) -> None:
        self._allowed.write_bytes((self._directory / "user.pub").read_bytes())

    def forbid(self) -> None:
        """Nobody's key is good for anything any more; connections that there are go on."""
        self._allowed.write_bytes(b"")

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        settings = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": self._directory / "host",
            "AuthorizedKeysFile": self._allowed,
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
        }
        config = self._directory / "sshd_config"
        config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen([self._program, "-D", "-e", "-f", str(config)], stderr=log)
        ends = time.monotonic() + _STARTS_WITHIN_S
        while time.monotonic() < ends and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
        self.__exit__()
        pytest.fail(f"sshd did not start: {(self._directory / 'log').read_text()}")

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
