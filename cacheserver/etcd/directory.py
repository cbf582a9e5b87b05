"""The embedded etcd's directory: private, locked, and with a place short enough for a socket. All of it blocks."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from cacheserver.errors import EtcdStartError
from cacheserver.slotted import slotted

_LOCK_FILE = "cacheserver.lock"
# sizeof(sockaddr_un.sun_path) - 1, see unix(7); less on other systems.
_LONGEST_SOCKET_PATH = 100


@slotted()
class Directory:
    """`path`: absolute, 0700, ours alone until `release`. `run_path`: where sockets go; the same if it is short."""

    path: Path
    run_path: Path
    _lock: int
    _temporary: list[Path]

    def release(self) -> None:
        """Unlocks, and removes what was temporary."""
        os.close(self._lock)
        for path in self._temporary:
            shutil.rmtree(path, ignore_errors=True)


def claim_directory(configured: Path | None, socket_name: str) -> Directory:
    """`configured`, made if need be, or a temporary directory. Raises: EtcdStartError when it is in use or unusable."""
    temporary: list[Path] = []
    try:
        if configured is None:
            path = Path(tempfile.mkdtemp(prefix="cacheserver-etcd-"))
            temporary.append(path)
        else:
            path = configured.resolve()
            if "%" in str(path):  # its log library takes the path for a URL
                raise EtcdStartError(f"etcd data directory {path}: etcd cannot use a path with a percent sign")
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.chmod(0o700)  # etcd's socket has no other guard
        lock = _lock(path)
        run_path = path
        if len(os.fsencode(path / socket_name)) > _LONGEST_SOCKET_PATH:
            run_path = Path(tempfile.mkdtemp(prefix="cacheserver-etcd-"))
            temporary.append(run_path)
    except OSError as exc:
        raise EtcdStartError(f"etcd data directory {exc.filename or configured}: {exc.strerror}") from exc
    return Directory(path, run_path, lock, temporary)


def _lock(path: Path) -> int:
    # etcd waits for ever on its own lock, so a second one would look like a slow start.
    lock = os.open(path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
        os.close(lock)
        by = f"process {holder}" if holder.isdigit() else "another process"
        raise EtcdStartError(
            f"etcd data directory {path} is in use by {by}; stop it, or choose another with --data-dir"
        ) from exc
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock
