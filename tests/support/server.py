"""Whole cacheserver processes for tests, and a small client that sees what any HTTP client would.

A process started here dies with the test run (it is tied to it), and its log is shown when something fails.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Self

import aiohttp

from cacheserver.etcd.supervise import command
from tests.support.asking import take
from tests.support.etcd import free_ports
from tests.support.waiting import until

API = "/apis/cacheserver.dev/v1alpha1"
_READY_WITHIN_S = 30.0
_AGAIN_AFTER_S = 0.05  # a client whose server went


class ServerProcess:
    """`cacheserver serve` on a loopback port. start() waits until it answers; url stays the same over restarts."""

    def __init__(self, directory: Path, *arguments: str, environ: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.arguments = arguments
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.headers: dict[str, str] = {}
        """What every request of a test brings: who asks, where that matters."""
        self._environ = environ or {}
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def spawn(self) -> None:
        """Starts and does not wait."""
        flags = ["serve", "--listen", f"127.0.0.1:{self.port}", *self.arguments]
        with (self.directory / "server.log").open("ab") as log:
            self._child = subprocess.Popen(
                command(sys.executable, ["-m", "cacheserver", *flags]),
                cwd=self.directory,
                env=_environ() | self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self) -> None:
        """Returns once /readyz says ok."""
        self.spawn()
        until(self._ready, within_s=_READY_WITHIN_S, otherwise=lambda: self.log()[-4000:])

    def _ready(self) -> bool:
        assert self.alive, self.log()[-4000:]
        try:
            take(f"{self.url}/readyz", timeout_s=1)
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        assert self._child is not None
        self._child.wait()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = 20) -> int:
        """Its exit code, once it ended by itself."""
        assert self._child is not None
        return self._child.wait(timeout_s)

    def stop(self) -> None:
        """For fixtures: gone afterwards, whatever state it was in."""
        if self._child is not None and self._child.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self._child.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()

    def log(self) -> str:
        return (self.directory / "server.log").read_text(errors="replace")

    def get(self, path: str, **headers: str) -> Any:
        """The JSON of one GET. Raises: RefusedError."""
        return take(f"{self.url}{path}", self.headers | headers).json

    def text(self, path: str) -> Sequence[str]:
        """The lines of one GET of plain text. Raises: RefusedError."""
        return take(f"{self.url}{path}").body.decode().splitlines()

    def list(self, resource: str, query: str = "") -> Any:
        return self.get(f"{API}/{resource}{query}")

    def names(self, resource: str = "packages") -> Sequence[str]:
        return [item["metadata"]["name"] for item in self.list(resource)["items"]]


def _environ() -> dict[str, str]:
    """The test's environment less our own settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CACHESERVER_")}


def run_cli(*arguments: str, cwd: Path, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """One `cacheserver` command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "cacheserver", *arguments],
        cwd=cwd,
        env=_environ(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
    )


async def watch_events(
    session: aiohttp.ClientSession, url: str, resource: str, query: str
) -> AsyncIterator[dict[str, Any]]:
    """The events of one watch until it ends; the caller bounds the time."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
    async with session.get(f"{url}{API}/{resource}?watch=1&{query}", timeout=timeout) as response:
        if response.status in (429, 503):  # starting or stopping: every client tries again
            response.raise_for_status()
        assert response.status == 200, await response.text()
        async for line in response.content:
            yield json.loads(line)


class Recorder:
    """Watches a resource from a version on, in the background of a test; reconnects as an informer would.

    server: may be replaced; the next connection is made there.
    """

    def __init__(self, server: ServerProcess, resource: str, since: str) -> None:
        self.server = server
        self._resource = resource
        self.position = since
        self.events: list[tuple[str, str]] = []
        self.objects: list[dict[str, Any]] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        self._task.cancel()
        try:
            await self._task
        except asyncio.CancelledError:
            pass

    async def _run(self) -> None:
        async with aiohttp.ClientSession(read_bufsize=1 << 22, headers=self.server.headers) as session:
            while True:
                try:
                    query = f"resourceVersion={self.position}&allowWatchBookmarks=true"
                    async with aclosing(watch_events(session, self.server.url, self._resource, query)) as events:  # type: ignore[type-var] # an async generator
                        async for event in events:
                            self._take(event)
                except (aiohttp.ClientError, TimeoutError, OSError):
                    await asyncio.sleep(_AGAIN_AFTER_S)

    def applied_to(self, listed: Any) -> dict[str, Any]:
        """Name -> object: the list that the watch began from with all its events applied, as an informer would.

        The Recorder fails on ERROR, so nothing was listed again; here it fails on an event that does not follow.
        """
        current = {item["metadata"]["name"]: item for item in listed["items"]}
        for (kind, name), item in zip(self.events, self.objects, strict=True):
            if kind == "DELETED":
                del current[name]
            else:
                assert (kind == "ADDED") == (name not in current), "an event that does not follow from the copy"
                current[name] = item
        return current

    def _take(self, event: dict[str, Any]) -> None:
        assert event["type"] != "ERROR", event
        self.position = event["object"]["metadata"]["resourceVersion"]
        if event["type"] != "BOOKMARK":
            self.events.append((event["type"], event["object"]["metadata"]["name"]))
            self.objects.append(event["object"])


def started(server: ServerProcess) -> Iterator[ServerProcess]:
    """For fixtures: the server while the test runs."""
    try:
        server.start()
        yield server
    finally:
        server.stop()
