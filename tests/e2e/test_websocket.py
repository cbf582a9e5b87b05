"""Watches over WebSocket: on a whole server, and through a real kube-apiserver's aggregation (KUBEBUILDER_ASSETS).

That they deliver what is written: test_watch_correctness.py, half of whose watchers come over WebSocket.
"""

from __future__ import annotations

import asyncio
import base64
import signal
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from bench.report.figures import memory
from tests.e2e.conftest import StartServer
from tests.e2e.test_kube_apiserver import (
    Cluster,
    Server,
    cluster,
    image_of,
    kube,
    namespace,
    oci,
    off_the_loop,
    registry,
    repository,
    server,
)
from tests.support.certificates import Authority
from tests.support.fbc import catalog
from tests.support.registry import FakeRegistry
from tests.support.server import API
from tests.support.waiting import eventually

__all__ = ["cluster", "kube", "namespace", "registry", "server"]  # fixtures

pytestmark = pytest.mark.e2e

TOKEN = "a-token-of-more-than-sixteen"
ELSEWHERE = "https://elsewhere.example"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
FRAMES, FRAME_BYTES = 200, 60_000
MB = 1 << 20


def as_subprotocols(token: str) -> Sequence[str]:
    """As browsers send it."""
    text = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
    return f"base64url.bearer.authorization.k8s.io.{text}", "base64.binary.k8s.io"


async def event_of(socket: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    """The next one: a frame of text, whole."""
    async with asyncio.timeout(20):
        message = await socket.receive()
    assert message.type is aiohttp.WSMsgType.TEXT, message
    assert message.data.endswith("}\n")
    event: dict[str, Any] = orjson.loads(message.data)
    return event


async def test_a_server_with_files_of_access_serves_pages_that_show_a_token(
    start_server: StartServer, tmp_path: Path
) -> None:
    """Over TLS. A page of another site gets nothing by the browser's certificate; what clients say is not kept."""
    serving = Authority(tmp_path / "serving", name="serving")
    clients = Authority(tmp_path / "clients", name="clients")
    certificate, key = serving.issue("server")
    tokens = tmp_path / "tokens.csv"
    tokens.touch(0o600)
    tokens.write_text(f"{TOKEN},reader,1,visitors\n")
    files = catalog(tmp_path / "c").package("app", "1.0.0")
    started = start_server(
        *("--catalog", f"c={files.root}", "--shutdown-grace", "1s", "--readers", "visitors"),
        *("--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
        *("--token-auth-file", str(tokens), "--client-ca-file", str(clients.certificate)),
        wait=False,
    )
    started.spawn()
    nobody = ssl.create_default_context(cafile=serving.certificate)
    bob = ssl.create_default_context(cafile=serving.certificate)
    bob.load_cert_chain(*clients.issue("bob", organizations=("visitors",)))
    offered, path = as_subprotocols(TOKEN), f"{API}/packages?watch=1"
    async with aiohttp.ClientSession(f"https://127.0.0.1:{started.port}") as session:

        async def is_up() -> bool:
            try:
                async with session.get(f"{API}/packages", ssl=bob) as answer:
                    return answer.status == 200 and len((await answer.json())["items"]) == 1
            except aiohttp.ClientError:
                return False

        await eventually(is_up, within_s=60)
        for how, status in (
            ({"ssl": nobody}, 401),
            ({"ssl": nobody, "protocols": as_subprotocols(TOKEN + "x")}, 401),
            ({"ssl": bob, "origin": ELSEWHERE}, 403),
        ):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(path, **how)
            assert refused.value.status == status
        async with (
            session.ws_connect(path, ssl=bob) as certified,
            session.ws_connect(path, ssl=nobody, origin=ELSEWHERE, protocols=offered) as page,
            session.ws_connect(path, ssl=nobody, protocols=offered, headers={"Accept": TABLE}) as rows,
        ):
            assert page.protocol == "base64.binary.k8s.io"
            assert await event_of(certified) == await event_of(page)
            assert (await event_of(rows))["object"]["kind"] == "Table"
            before = memory([started.pid]).rss
            for _ in range(FRAMES):
                await page.send_bytes(bytes(FRAME_BYTES))
            files.package("app", "1.0.0", "1.1.0")
            started.signal(signal.SIGHUP)
            changed = await event_of(certified)
            assert (changed["type"], changed) == ("MODIFIED", await event_of(page))
            assert memory([started.pid]).rss - before < FRAMES * FRAME_BYTES / 2
            started.signal(signal.SIGTERM)
            async with asyncio.timeout(20):
                assert [(await each.receive()).data for each in (certified, page)] == [1001, 1001]
    assert "Traceback" not in started.log()


async def test_kube_apiserver_proxies_it_and_ours_is_as_its_own(
    server: Server, cluster: Cluster, namespace: str, registry: FakeRegistry, tmp_path: Path
) -> None:
    """With a token as browsers send it, which kube-apiserver takes, and the rights that it then asks for."""
    await registry.push(image_of(tmp_path / "catalog", "1.0.0"), "team/catalog", "v1")
    await off_the_loop(cluster.admin.apply, repository(namespace, "ours", oci(registry), interval="10s"))
    ready = ("wait", "crepo/ours", "--for=condition=Ready", "--timeout=30s")
    await off_the_loop(cluster.admin.run, "-n", namespace, *ready)
    context = ssl.create_default_context(cafile=cluster.kube.certificates.authority("server"))
    ours = f"{cluster.kube.url}{API}/namespaces/{namespace}/packages?watch=1&timeoutSeconds=5"
    its = f"{cluster.kube.url}/apis/config.cacheserver.dev/v1alpha1/namespaces/{namespace}/repositories?watch=1"
    reader = as_subprotocols("token-of-reader")
    cluster.user("reader")
    async with aiohttp.ClientSession() as session:

        def connected(url: str, offered: Sequence[str]) -> Any:
            return session.ws_connect(url, ssl=context, protocols=offered, origin="http://localhost")

        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await connected(ours, as_subprotocols("token-of-limited"))
        assert refused.value.status == 403
        async with connected(ours, reader) as one, connected(its, reader) as other:
            assert one.protocol == other.protocol == "base64.binary.k8s.io"
            events = [await event_of(each) for each in (one, other)]
            assert [(event["type"], event["object"]["kind"]) for event in events] == [
                ("ADDED", "Package"),
                ("ADDED", "Repository"),
            ]
            await one.ping(b"there?")
            async with asyncio.timeout(20):
                assert (await one.receive()).data == 1000  # its five seconds are over
