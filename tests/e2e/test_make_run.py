"""`make run` in a checkout that nobody has installed: the first command of the README, and how it makes a package."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support.asking import take
from tests.support.etcd import free_ports
from tests.support.pages import Command, Shell, alike, commands, section
from tests.support.server import API
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES: Final = 10
"""From nothing to a package in git."""

pytestmark = pytest.mark.e2e


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
needs_kubectl = pytest.mark.skipif(not shutil.which("kubectl"), reason="NO KUBECTL FOUND: put one on PATH")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Of what running needs, installed nowhere."""
    checkout = tmp_path / "checkout"
    for name in ("cacheserver", "examples"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
    _environment(checkout / ".venv")
    return checkout


@asynccontextmanager
async def typed(command: str, checkout: Path, log: Path, wanted: str) -> AsyncIterator[int]:
    """The port that a command line of the README serves at, once it serves the object of this name."""
    [port] = free_ports(1)
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MAKEFLAGS")}
    environ = {name: value for name, value in environ.items() if not name.startswith(("CACHESERVER_", "GIT_"))}
    with log.open("wb") as output:
        making = subprocess.Popen(
            ["bash", "-c", command],
            cwd=checkout,
            env={**environ, "MAKEFLAGS": "INSTALL=true", "LISTEN": f"127.0.0.1:{port}"},
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
        return wanted in [item["metadata"]["name"] for item in items]

    try:
        try:
            await eventually(served, within_s=30)
        except AssertionError:
            raise AssertionError(log.read_text()[-4000:]) from None
        yield port
    finally:
        os.killpg(making.pid, signal.SIGTERM)
        making.wait(20)


@needs_make
async def test_the_examples_are_served_from_a_checkout_that_is_not_installed(checkout: Path, tmp_path: Path) -> None:
    async with typed("make run", checkout, tmp_path / "log", "example.ledger-operator"):
        pass


@needs_make
@needs_kubectl
async def test_a_package_is_made_on_a_laptop_by_what_the_readme_says(checkout: Path, tmp_path: Path) -> None:
    readme = ROOT / "README.md"
    lines = section(readme, "## Make a package")
    text = "\n".join(readme.read_text(encoding="utf-8").splitlines()[lines.start - 1 : lines.stop - 1])
    [block] = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    *prepare, serve = block.splitlines()
    asked = [command for command in commands(readme) if command.line in lines]
    assert len(prepare) + 1 + len(asked) <= MOST_LINES
    shell = Shell(checkout)
    for line in prepare:
        assert shell.run(Command(0, line, ())) == []
    async with typed(serve, checkout, tmp_path / "log", "blueprints.site") as port:
        shell = Shell(checkout, f"127.0.0.1:{port}")

        def operation() -> str:
            url = f"http://127.0.0.1:{port}{API}/namespaces/default/packagerevisions/edge.berlin.first"
            return str(take(url).json["status"].get("operation", ""))

        for command in asked:
            said = shell.run(command)
            if any("still being carried out" in line for line in said):  # a machine that is busy: as the answer says
                await eventually(lambda: not operation(), within_s=60)
                continue
            assert alike(said, command.output), f"README.md:{command.line}: {command.text} prints now\n{said}"


def _environment(venv: Path) -> None:
    """One that has our libraries and not us: a directory of a .pth file is not searched for others (site)."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=60)
    [packages] = (venv / "lib").glob("python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
