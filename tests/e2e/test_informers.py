"""Clients that keep a copy: kubernetes-asyncio's Watch, and an informer's list-then-watch that must not list again."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from kubernetes_asyncio import client, watch

from tests.e2e.conftest import StartServer
from tests.support.fbc import catalog
from tests.support.server import Recorder
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

GROUP, VERSION = "cacheserver.dev", "v1alpha1"


async def test_kubernetes_asyncio_watches_and_resumes(start_server: StartServer, tmp_path: Path) -> None:
    files = catalog(tmp_path / "c").package("app", "1.0.0")
    server = start_server("--catalog", f"c={files.root}")
    await eventually(lambda: list(server.names()) == ["c.app"])
    async with client.ApiClient(client.Configuration(host=server.url)) as api:
        objects = client.CustomObjectsApi(api)
        listed = await objects.list_namespaced_custom_object(GROUP, VERSION, "default", "packages")
        position = listed["metadata"]["resourceVersion"]
        seen: list[tuple[str, str]] = []
        for package in ("db", "web"):  # two watches: the second resumes where the first ended
            files.package(package, "1.0.0")
            server.signal(signal.SIGHUP)
            async with asyncio.timeout(10), watch.Watch() as watching:
                stream = watching.stream(
                    objects.list_namespaced_custom_object, GROUP, VERSION, "default", "packages",
                    resource_version=position, timeout_seconds=10,
                )  # fmt: skip
                async for event in stream:
                    seen.append((event["type"], event["object"]["metadata"]["name"]))
                    position = event["object"]["metadata"]["resourceVersion"]
                    break
    assert seen == [("ADDED", "c.db"), ("ADDED", "c.web")]


async def test_an_informer_never_has_to_list_again(start_server: StartServer, tmp_path: Path) -> None:
    """Through catalog changes, a server killed and started, and quiet times: the copy equals a fresh list."""
    files = catalog(tmp_path / "c").package("app", "1.0.0")
    server = start_server("--catalog", f"c={files.root}")
    await eventually(lambda: list(server.names()) == ["c.app"])
    listed = server.list("packages")
    async with Recorder(server, "packages", listed["metadata"]["resourceVersion"]) as recorder:
        for i in range(5):
            files.package(f"p{i}", "1.0.0").package("app", *(f"1.{v}.0" for v in range(i + 2)))
            server.signal(signal.SIGHUP)
            await eventually(lambda i=i: f"c.p{i}" in server.names())  # type: ignore[misc] # bound now, on purpose
            if i == 2:
                server.kill()
                await asyncio.to_thread(server.start)
        files.without("p0")
        server.signal(signal.SIGHUP)
        await eventually(lambda: ("DELETED", "c.p0") in recorder.events)
        await eventually(lambda: recorder.applied_to(listed) == _state(server.list("packages")))


def _state(listed: Any) -> dict[str, Any]:
    return {item["metadata"]["name"]: item for item in listed["items"]}
