"""`make run` in a checkout that nobody has installed: the first command of the README."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.asking import take
from tests.support.etcd import free_ports
from tests.support.server import API
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.e2e


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
async def test_the_examples_are_served_from_a_checkout_that_is_not_installed(tmp_path: Path) -> None:
    checkout, log = tmp_path / "checkout", tmp_path / "log"
    for name in ("cacheserver", "examples"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
    _environment(checkout / ".venv")
    [port] = free_ports(1)
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MAKEFLAGS")}
    with log.open("wb") as output:
        making = subprocess.Popen(
            ["make", "run", "INSTALL=true", f"LISTEN=127.0.0.1:{port}"],
            cwd=checkout,
            env={name: value for name, value in environ.items() if not name.startswith("CACHESERVER_")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def served() -> bool:
        assert making.poll() is None, log.read_text()[-4000:]
        try:
            items = take(f"http://127.0.0.1:{port}{API}/packages").json["items"]
        except OSError:
            return False
        return "example.ledger-operator" in [item["metadata"]["name"] for item in items]

    try:
        await eventually(served, within_s=30)
    except AssertionError:
        raise AssertionError(log.read_text()[-4000:]) from None
    finally:
        os.killpg(making.pid, signal.SIGTERM)
        making.wait(20)


def _environment(venv: Path) -> None:
    """One that has our libraries and not us: a directory of a .pth file is not searched for others (site)."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=60)
    [packages] = (venv / "lib").glob("python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
