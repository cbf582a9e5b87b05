"""The commands of examples/systemd and examples/compose, run as they are there but for ports and directories."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from cacheserver.etcd.supervise import command
from tests.support.asking import ask
from tests.support.etcd import FoundEtcd, free_ports
from tests.support.examples import CONFIGS, EXAMPLES, compose, unit
from tests.support.server import API
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

Start = Callable[..., None]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Runs a command until the test is over; its output goes to `log` in the test's directory."""
    children: list[subprocess.Popen[bytes]] = []
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CACHESERVER_")}

    def run(program: str, arguments: Sequence[str]) -> None:
        with (tmp_path / "log").open("ab") as log:
            children.append(
                subprocess.Popen(
                    command(program, arguments),
                    cwd=tmp_path,
                    env=environ,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                )
            )

    try:
        yield run
    finally:
        for child in reversed(children):
            child.terminate()
            child.wait(20)


@pytest.fixture
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """/etc/cacheserver of the example, after the commands of its README that make a certificate and a token."""
    name: str = request.param
    directory = tmp_path / "etc"
    directory.mkdir()
    shutil.copy(CONFIGS[name], directory)
    readme = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    [made] = re.findall(r"```sh\n(umask [^`]+)```", readme)
    subprocess.run(["bash", "-ec", made], cwd=directory, check=True, capture_output=True, timeout=30)
    return directory


async def _serves(port: int, directory: Path, log: Path) -> None:
    """With the token that was made, and not without."""
    context = ssl.create_default_context(cafile=directory / "tls.crt")
    token = (directory / "tokens.csv").read_text().partition(",")[0]
    assert (directory / "tokens.csv").stat().st_mode & 0o007 == 0

    def status(**headers: str) -> int:
        try:
            answer = ask(f"https://localhost:{port}{API}/packages", headers, timeout_s=5, context=context)
        except OSError:
            return 0
        return answer.status if answer.status != 200 or b"ledger-operator" in answer.body else 0

    try:
        await eventually(lambda: status(Authorization=f"Bearer {token}") == 200, within_s=30)
    except AssertionError:
        raise AssertionError(log.read_text()[-4000:]) from None
    assert status() == 401
    assert token not in log.read_text()


@pytest.mark.parametrize("directory", ["systemd"], indirect=True)
async def test_the_units_command_serves(directory: Path, start: Start, tmp_path: Path, etcd_binary: FoundEtcd) -> None:
    _, *arguments = shlex.split(unit()["ExecStart"][0].replace("/etc/cacheserver", str(directory)))
    [port] = free_ports(1)
    here = (
        "--listen",
        f"127.0.0.1:{port}",
        "--data-dir",
        str(tmp_path / "data"),
        "--etcd-binary",
        str(etcd_binary.path),
    )
    catalog = ("--catalog", f"example={EXAMPLES / 'catalogs'}")  # instead of one on the network
    start(sys.executable, ["-m", "cacheserver", *arguments, *here, *catalog])
    await _serves(port, directory, tmp_path / "log")


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    text = (EXAMPLES / "systemd" / "cacheserver.service").read_text(encoding="utf-8")
    (tmp_path / "cacheserver.service").write_text(text.replace("/opt/cacheserver/bin/cacheserver", "/bin/sh"))
    found = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", str(tmp_path / "cacheserver.service")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


@pytest.mark.parametrize("directory", ["compose"], indirect=True)
async def test_the_commands_of_the_compose_file_serve(
    directory: Path, start: Start, tmp_path: Path, etcd_binary: FoundEtcd
) -> None:
    services = compose()["services"]
    client, peer, port = free_ports(3)
    etcd = " ".join(services["etcd"]["command"]).replace("0.0.0.0:2379", f"127.0.0.1:{client}")
    etcd = etcd.replace("etcd:2379", f"127.0.0.1:{client}").replace("/var/lib/etcd", str(tmp_path / "etcd"))
    peers = f"http://127.0.0.1:{peer}"
    members = (
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=etcd={peers}",
    )
    start(str(etcd_binary.path), [*shlex.split(etcd)[1:], *members])
    server = " ".join(services["cacheserver"]["command"]).replace("/etc/cacheserver", str(directory))
    here = (
        "--listen",
        f"127.0.0.1:{port}",
        "--etcd",
        f"http://127.0.0.1:{client}",
        "--data-dir",
        str(tmp_path / "data"),
    )
    catalog = ("--catalog", f"example={EXAMPLES / 'catalogs'}", "--allow-unsupported-etcd")
    start(sys.executable, ["-m", "cacheserver", *shlex.split(server), *here, *catalog])
    await _serves(port, directory, tmp_path / "log")
    _, _, *check = services["cacheserver"]["healthcheck"]["test"]
    healthy = [argument.replace("127.0.0.1:8443", f"127.0.0.1:{port}") for argument in check]
    assert healthy != check
    subprocess.run([sys.executable, *healthy], check=True, timeout=20)
