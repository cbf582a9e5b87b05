"""The wire checks of ../shared/conformance, taken from a real kube-apiserver, against a whole server.

test_security.py asks them of a secured one. Both are skipped where there are none.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.fakes.api import api_world
from tests.support.asking import take
from tests.support.waiting import until

CONFORMANCE = Path(
    os.environ.get("CACHESERVER_CONFORMANCE", Path(__file__).resolve().parents[3] / "shared" / "conformance")
)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not (CONFORMANCE / "run.py").exists(), reason=f"no conformance checks at {CONFORMANCE}"),
]


def _target(tmp_path: Path, server: str) -> Path:
    """The target file with the server's address put in."""
    target = yaml.safe_load((CONFORMANCE / "target-cacheserver.yaml").read_text(encoding="utf-8"))
    target["server"] = server
    target["skip"]["wat-027"] = "watches are compressed for whom lists are, and kube-apiserver compresses none"
    path = tmp_path / "target.yaml"
    path.write_text(yaml.safe_dump(target), encoding="utf-8")
    return path


def _check(tmp_path: Path, server: str) -> str:
    """Runs every check; the report of those that failed, empty when none did."""
    command = [sys.executable, "run.py", "checks.yaml", str(_target(tmp_path, server))]
    run = subprocess.run(command, cwd=CONFORMANCE, capture_output=True, text=True, timeout=300, check=False)
    return "" if run.returncode == 0 else run.stdout + run.stderr


async def test_a_bookmark_comes_before_the_end_when_something_moved() -> None:
    async with api_world() as world:
        world.package("a")
        await world.settled()
        async with world.watch(
            resourceVersion="11", timeoutSeconds="3", allowWatchBookmarks="true", labelSelector="no=such"
        ) as lines:
            version = str(world.package("b"))
            bookmark = await lines.next()
            with pytest.raises(EOFError):
                await lines.next()
    assert bookmark["type"] == "BOOKMARK"
    assert bookmark["object"]["metadata"] == {"resourceVersion": version}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def _server(tmp_path: Path) -> Iterator[str]:
    """A server of the seed, as a user would start it."""
    server = f"127.0.0.1:{_free_port()}"
    command = [sys.executable, "-m", "cacheserver", "serve", "--catalog", f"chk={CONFORMANCE / 'seed'}"]
    command += ["--namespace", "chk", "--listen", server, "--data-dir", str(tmp_path / "data")]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield f"http://{server}"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _packages(server: str) -> int:
    """How many are served; 0 while there is no answer."""
    url = f"{server}/apis/cacheserver.dev/v1alpha1/namespaces/chk/packages"
    try:
        return len(take(url, timeout_s=5).json["items"])
    except OSError:
        return 0


def test_a_whole_server_answers_as_kube_apiserver_does(tmp_path: Path, etcd_binary: object) -> None:
    with _server(tmp_path) as server:
        log = tmp_path / "log"
        until(lambda: _packages(server) >= 6, within_s=30, otherwise=lambda: log.read_text(encoding="utf-8"))
        failures = _check(tmp_path, server)
    assert not failures, failures
