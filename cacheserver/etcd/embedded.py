"""An etcd of our own as a child process: found, locked, started, watched, restarted, stopped. For a laptop or one node.

Reached through a unix socket in a private directory: no port, no other user. It cannot outlive us (`supervise`), and
what it stores can be rebuilt from the catalogs. One task, owned by the open EmbeddedEtcd, waits for the child's death.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from cacheserver import children
from cacheserver.errors import EtcdError, EtcdStartError, Unavailable
from cacheserver.etcd.binary import Binary, distributed_binary, find_binary
from cacheserver.etcd.client import Client
from cacheserver.etcd.directory import Directory, claim_directory
from cacheserver.etcd.supervise import command
from cacheserver.etcd.version import Version, check_supported

log = logging.getLogger(__name__)

# Replaying a large log takes seconds (3.5 s for 2 GB, measured), a loaded laptop some more.
START_DEADLINE_S = 60.0
_STOP_DEADLINE_S = 10.0
_FIRST_RESTART_PAUSE_S = 0.1
_LONGEST_RESTART_PAUSE_S = 10.0
# A child that lived this long was healthy; its crash starts the back-off anew.
_HEALTHY_AFTER_S = 60.0
# etcd makes the socket of `unix://host:port` as a file of that name in its working directory. This form works on
# 3.5.1 as well, where unix:///absolute/path does not.
_CLIENT_SOCKET = "localhost:1"
_PEER_SOCKET = "localhost:2"
_LOG_FILE = "etcd.log"
_STDERR_FILE = "etcd.stderr"
_LOG_TAIL_BYTES = 2_000
_SOCKET_POLL_S = 0.02


def etcd_flags(version: Version, directory: Path) -> list[str]:
    """The embedded member's flags; etcd's working directory must be where the sockets shall be."""
    flags = [
        "--name=cacheserver",
        f"--data-dir={directory / 'member'}",
        f"--listen-client-urls=unix://{_CLIENT_SOCKET}",
        f"--listen-peer-urls=unix://{_PEER_SOCKET}",
        # Nobody reads these, but etcd insists on host:port.
        f"--advertise-client-urls=http://{_CLIENT_SOCKET}",
        f"--initial-advertise-peer-urls=http://{_PEER_SOCKET}",
        f"--initial-cluster=cacheserver=http://{_PEER_SOCKET}",
        # The cluster's id is made of this and the URLs, once, at the first start. Without it a wiped data directory
        # comes back under its old id, with revisions that went backwards.
        f"--initial-cluster-token={uuid.uuid4().hex}",
        # A lone member waits for nobody: up to 1.8 s of election timeout saved at each start (measured).
        "--heartbeat-interval=50",
        "--election-timeout=250",
        # The default of 2 GiB is less than a few large catalogs with their history; 8 GiB is etcd's advised most.
        "--quota-backend-bytes=8589934592",
        # Watchers resume from the last hour; older history only costs space.
        "--auto-compaction-mode=periodic",
        "--auto-compaction-retention=1h",
        # Entries kept in memory for slow followers, of which there are none; 3.5's 100,000 cost gigabytes.
        "--snapshot-count=1000",
        "--enable-grpc-gateway=false",  # we speak gRPC; the JSON gateway is a second connection, and another way in
        "--logger=zap",
        "--log-level=warn",
    ]
    if version >= Version(3, 5, 0):
        flags += [
            f"--log-outputs={directory / _LOG_FILE}",
            "--enable-log-rotation",
            '--log-rotation-config-json={"maxsize": 10, "maxbackups": 1}',
        ]
    if version >= Version(3, 6, 0):
        flags.append("--snapshot-catchup-entries=500")
    return flags


class EmbeddedEtcd:
    """A running etcd while the block runs. data_dir None: a temporary directory, gone afterwards.

    The directory is made private (0700) and locked: a second one on it gets EtcdStartError. A crashed etcd is
    restarted for ever, with back-off; meanwhile clients get Unavailable.
    """

    def __init__(
        self, data_dir: Path | None, binary: Path | None = None, *, stop_deadline_s: float = _STOP_DEADLINE_S
    ) -> None:
        self._stop_deadline_s = stop_deadline_s
        self._configured_dir = data_dir
        self._configured_binary = binary
        self._stack = AsyncExitStack()
        self._binary: Binary | None = None
        self._directory: Directory | None = None
        self._child: children.Child | None = None

    @property
    def endpoint(self) -> str:
        """For Client: unix:/path."""
        return f"unix:{self._claimed.run_path / _CLIENT_SOCKET}"

    @property
    def version(self) -> Version:
        """What the binary said of itself. Only while the block runs."""
        return self._found.version

    @property
    def pid(self) -> int | None:
        """Of the child that runs now; None between a crash and the restart."""
        return self._child.pid if self._child is not None and self._child.returncode is None else None

    @property
    def _claimed(self) -> Directory:
        assert self._directory is not None, "not entered"
        return self._directory

    @property
    def _found(self) -> Binary:
        assert self._binary is not None, "not entered"
        return self._binary

    async def __aenter__(self) -> Self:
        """Returns once etcd answers a read. Raises: EtcdStartError with the end of etcd's log."""
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """SIGTERM, then SIGKILL after stop_deadline_s; returns when the child is gone."""
        await self._stack.aclose()

    async def _start(self) -> None:
        self._binary = binary = await find_binary(self._configured_binary)
        warning = check_supported(binary.version, embedded=True)
        # The one that our own extra installs nobody chose, and a cache that can be rebuilt is what it is there for.
        if warning is not None and binary.path != distributed_binary():
            log.warning(warning, extra={"binary": str(binary.path)})
        self._directory = directory = await asyncio.to_thread(claim_directory, self._configured_dir, _CLIENT_SOCKET)
        self._stack.push_async_callback(asyncio.to_thread, directory.release)
        self._stack.push_async_callback(self._stop_child)
        await self._start_child()
        log.info(
            "etcd started",
            extra={"version": str(binary.version), "binary": binary.origin, "directory": str(directory.path)},
        )
        guard = asyncio.create_task(self._guard(), name="embedded etcd")
        self._stack.push_async_callback(_end, guard)

    async def _guard(self) -> None:
        """Restarts a child that died. The first failure and the recovery are logged, the tries between are not."""
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_RESTART_PAUSE_S
        while True:
            assert self._child is not None
            started_at = loop.time()
            code = await self._child.wait()
            if loop.time() - started_at > _HEALTHY_AFTER_S:
                pause_s = _FIRST_RESTART_PAUSE_S
            tail = await asyncio.to_thread(_log_tail, self._claimed.path)
            log.error("etcd died, restarting", extra={"exit_code": code, "log": tail})
            while True:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_RESTART_PAUSE_S)
                try:
                    await self._start_child()
                    break
                except EtcdError as exc:
                    log.debug("etcd did not come back", extra={"error": str(exc)})
            log.info("etcd restarted")

    async def _start_child(self) -> None:
        """A child that answers reads; none is left behind otherwise. Raises: EtcdStartError."""
        directory, binary = self._claimed, self._found
        # A stale socket would be taken for the new one's.
        stderr = await asyncio.to_thread(_clear, directory)
        # etcd takes ETCD_* as flags, and ETCD_CONFIG_FILE instead of all flags; those were meant for another etcd.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
        try:
            # On the loop's own thread, which lives as long as we do (see supervise.command).
            self._child = await children.start(
                *command(str(binary.path), etcd_flags(binary.version, directory.path)),
                directory=directory.run_path,
                environment=environment,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                new_session=True,  # Ctrl-C is for us; we stop etcd last
                here=True,
            )
        except OSError as exc:
            raise EtcdStartError(f"etcd {binary.path}: {exc.strerror}") from exc
        finally:
            os.close(stderr)
        try:
            await self._wait_healthy(self._child)
        except BaseException:
            await self._stop_child()
            raise

    async def _wait_healthy(self, child: children.Child) -> None:
        # A connection proves nothing: etcd listens about a second before it serves.
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + START_DEADLINE_S
        socket = self._claimed.run_path / _CLIENT_SOCKET
        async with Client([self.endpoint]) as client:
            while loop.time() < give_up_at:
                if child.returncode is not None:
                    tail = await asyncio.to_thread(_log_tail, self._claimed.path)
                    raise EtcdStartError(f"etcd {self.version} ended with exit code {child.returncode}: {tail}")
                if not await asyncio.to_thread(socket.exists):
                    await asyncio.sleep(_SOCKET_POLL_S)
                    continue
                try:
                    await client.range(b"\0", deadline_s=1.0)
                    return
                except Unavailable:
                    continue
        tail = await asyncio.to_thread(_log_tail, self._claimed.path)
        raise EtcdStartError(f"etcd {self.version} did not answer within {START_DEADLINE_S:.0f} s: {tail}")

    async def _stop_child(self) -> None:
        child = self._child
        if child is None or child.returncode is not None:
            return
        child.terminate()
        try:
            async with asyncio.timeout(self._stop_deadline_s):
                await child.wait()
        except TimeoutError:
            log.warning("etcd did not stop, killing it", extra={"pid": child.pid})
        finally:
            if child.returncode is None:  # also when we are cancelled: it must not stay
                child.kill()
        await child.wait()  # no limit: nothing survives SIGKILL


def _clear(directory: Directory) -> int:
    """Removes stale sockets; a file descriptor for what etcd writes outside its log (panics, usage)."""
    for name in (_CLIENT_SOCKET, _PEER_SOCKET):
        (directory.run_path / name).unlink(missing_ok=True)
    return os.open(directory.path / _STDERR_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def _log_tail(directory: Path) -> str:
    """The end of what etcd wrote, stderr last; empty when it wrote nothing."""
    parts = []
    for name in (_LOG_FILE, _STDERR_FILE):
        try:
            parts.append((directory / name).read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip())
        except OSError:
            continue  # not written: nothing to show
    return "\n".join(part for part in parts if part)


async def _end(task: asyncio.Task[None]) -> None:
    """Cancels and waits; an error that ended the task before is raised here, by its owner."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
