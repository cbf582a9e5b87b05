"""What a whole server does when connections are too many: for the files it may open, or for their TLS handshakes."""

from __future__ import annotations

import http.client
import resource
import socket
from pathlib import Path

import pytest

from tests.e2e.conftest import StartServer
from tests.support.fbc import catalog
from tests.support.raw_clients import ADDRESS
from tests.support.server import ServerProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e


class Kept:
    """A client that keeps its connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self._connection.connect()

    def get(self, path: str) -> tuple[int, str]:
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        return answer.status, answer.read().decode()

    def refused(self, reason: str) -> float:
        """Connections that were refused for this reason, by the metrics."""
        begin = f'cacheserver_connections_refused_total{{reason="{reason}"}} '
        lines = self.get("/metrics")[1].splitlines()
        return next((float(line.removeprefix(begin)) for line in lines if line.startswith(begin)), 0.0)

    def close(self) -> None:
        self._connection.close()


def _knocks(port: int, count: int) -> list[socket.socket]:
    """Connections that the kernel takes, whether or not the server does."""
    return [socket.create_connection(("127.0.0.1", port), source_address=(ADDRESS, 0)) for _ in range(count)]


def _answers(port: int) -> bool:
    """Whether one who comes anew is answered."""
    try:
        kept = Kept(port)
        status, _ = kept.get("/livez")
        kept.close()
    except (OSError, http.client.HTTPException):
        return False
    return status == 200


async def test_a_server_out_of_files_serves_who_is_connected_and_takes_connections_again(
    start_server: StartServer, tmp_path: Path
) -> None:
    """The event loop's own listener says nothing, and takes all the CPU there is."""
    server: ServerProcess = start_server("--catalog", f"c={catalog(tmp_path / 'c').package('app', '1.0.0').root}")
    kept = Kept(server.port)
    # The catalog is read: what its sync has to open is not what this is about.
    await eventually(lambda: '"Synced"' in kept.get("/apis/config.cacheserver.dev/v1alpha1/repositories")[1])
    assert kept.refused("files") == 0
    limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    held = _knocks(server.port, 20)
    try:
        await eventually(lambda: kept.refused("files") > 0)
        assert kept.get("/livez") == (200, "ok")
        assert kept.refused("files") < 10  # it pauses
        assert server.log().count("no more files can be open") == 1
    finally:
        for sock in held:
            sock.close()
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
    await eventually(lambda: _answers(server.port))
    kept.close()
    assert "Traceback" not in server.log()
