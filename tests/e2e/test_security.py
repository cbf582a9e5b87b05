"""A whole server as it is in a cluster: HTTPS, and a host cluster that says who may what (a stand-in of ours).

The wire checks of ../shared/conformance run over it with three users; skipped where the checks are not there.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.fakes.guarded import PKI, Pair
from tests.fakes.kube import KubeStandIn
from tests.support.asking import ask
from tests.support.certificates import Authority
from tests.support.etcd import FoundEtcd
from tests.support.server import API, ServerProcess, run_cli
from tests.support.waiting import eventually

CONFORMANCE = Path(
    os.environ.get("CACHESERVER_CONFORMANCE", Path(__file__).resolve().parents[3] / "shared" / "conformance")
)
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "catalogs"
FORGED = {"X-Remote-User": "admin", "X-Remote-Group": "system:masters"}
ALICE = {"X-Remote-User": "alice"}
TELL = {"Authorization": "Bearer admin-token"}
LIST = f"{API}/packages"

pytestmark = pytest.mark.e2e


class SecureServer(ServerProcess):
    """`cacheserver serve` over HTTPS. Its certificate's files lie in its directory."""

    def __init__(self, directory: Path, pki: PKI, *arguments: str) -> None:
        cert, key = directory / "tls.crt", directory / "tls.key"
        tls = ("--tls-cert-file", str(cert), "--tls-key-file", str(key))
        super().__init__(directory, *tls, *arguments)
        self.url = f"https://127.0.0.1:{self.port}"
        self._pki = pki
        self._files = (cert, key)
        self.certify(pki.server)

    def certify(self, pair: Pair) -> None:
        """Puts other files in place, one after the other, as careless people do."""
        for source, target in zip(pair, self._files, strict=True):
            shutil.copy(source, target)

    def context(self, certificate: Pair | None = None, *, verify: bool = True) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._pki.serving.certificate)
        if not verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if certificate is not None:
            context.load_cert_chain(*certificate)
        return context

    def start(self) -> None:
        """Starts and does not wait: that is for the test, whose loop serves the host cluster."""
        self.spawn()

    def health(self, path: str = "/readyz") -> tuple[int, str]:
        """Status and body; (0, "") while nobody answers."""
        try:
            answer = ask(f"{self.url}{path}", timeout_s=5, context=self.context(verify=False))
        except OSError:
            return 0, ""
        return answer.status, answer.body.decode()

    async def ready(self) -> None:
        try:
            await eventually(lambda: asyncio.to_thread(lambda: self.health()[0] == 200), within_s=30)
        except AssertionError:
            raise AssertionError(self.log()[-4000:]) from None

    @asynccontextmanager
    async def client(self, certificate: Pair | None = None) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.TCPConnector(ssl=self.context(certificate))
        async with aiohttp.ClientSession(self.url, connector=connector) as session:
            yield session


@dataclass
class Cluster:
    kube: KubeStandIn
    pki: PKI
    start: Callable[..., SecureServer]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> PKI:
    return PKI(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def cluster(pki: PKI, tmp_path: Path, etcd_binary: FoundEtcd) -> AsyncIterator[Cluster]:
    """`cluster.start(*flags)`: a server that takes the host cluster's word. Users by token: admin, limited."""
    servers: list[SecureServer] = []
    async with KubeStandIn(pki.serving) as kube:
        kube.trust(client_ca=pki.client.pem, proxy_ca=pki.proxy.pem)
        kube.token("admin-token", "admin", "system:masters")
        kube.token("limited-token", "limited")
        kube.allow("alice", resource="packages")

        def start(*flags: str) -> SecureServer:
            directory = tmp_path / f"server-{len(servers)}"
            directory.mkdir()
            own = ("--data-dir", str(directory / "data"), "--etcd-binary", str(etcd_binary.path))
            catalog = () if "--catalog" in flags else ("--catalog", f"example={EXAMPLES}")
            server = SecureServer(
                directory, pki, *own, "--kubernetes", str(kube.kubeconfig(tmp_path)), *catalog, *flags
            )
            servers.append(server)
            server.start()
            return server

        try:
            yield Cluster(kube, pki, start)
        finally:
            for server in servers:
                await asyncio.to_thread(server.stop)


async def _status(session: aiohttp.ClientSession, path: str = LIST, **headers: str) -> int:
    async with session.get(path, headers=headers) as response:
        await response.read()
        return response.status


# --- who may what ---


@pytest.mark.skipif(not (CONFORMANCE / "run.py").exists(), reason=f"no conformance checks at {CONFORMANCE}")
async def test_a_secured_server_answers_as_kube_apiserver_does(cluster: Cluster, tmp_path: Path) -> None:
    """Every profile of the standalone server, over HTTPS and with tokens; and the profile `security`."""
    server = cluster.start("--catalog", f"chk={CONFORMANCE / 'seed'}", "--namespace", "chk")
    await server.ready()
    target: dict[str, Any] = yaml.safe_load((CONFORMANCE / "target-cacheserver.yaml").read_text(encoding="utf-8"))
    target["server"] = server.url
    target["skip"]["wat-027"] = "watches are compressed for whom lists are, and kube-apiserver compresses none"
    target["profiles"].append("security")
    tokens = {"admin": "admin-token", "limited": "limited-token", "bad": "no-such-token"}
    target["users"] = {user: {"Authorization": f"Bearer {token}"} for user, token in tokens.items()}
    path = tmp_path / "target.yaml"
    path.write_text(yaml.safe_dump(target), encoding="utf-8")
    async with server.client() as session:

        async def all_there() -> bool:
            async with session.get(f"{API}/namespaces/chk/packages", headers=TELL) as response:
                return len((await response.json())["items"]) == 6

        await eventually(all_there, within_s=30)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "run.py", "checks.yaml", str(path)),
        cwd=CONFORMANCE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await asyncio.wait_for(process.communicate(), 300)
    assert process.returncode == 0, told.decode()


async def test_forged_headers_grant_nothing(cluster: Cluster) -> None:
    server = cluster.start()
    await server.ready()
    for certificate, headers, status in (
        (None, FORGED, 401),
        (cluster.pki.bob, FORGED, 403),
        (cluster.pki.proxy.issue("other-proxy"), FORGED, 401),
        (None, {**FORGED, "Authorization": "Bearer limited-token"}, 403),
        (cluster.pki.front_proxy, {}, 401),
        (cluster.pki.front_proxy, ALICE, 200),
    ):
        async with server.client(certificate) as session:
            assert await _status(session, **headers) == status


# --- certificates that change ---


async def test_no_request_fails_while_the_request_header_ca_rotates(cluster: Cluster, tmp_path: Path) -> None:
    """Over connections that stay and over new ones, and with a watch that lives through it."""
    server = cluster.start()
    await server.ready()
    old, new = cluster.pki.proxy, Authority(tmp_path / "new", name="front-proxy-ca")
    pair = cluster.pki.front_proxy
    statuses: list[int] = []
    stop = asyncio.Event()

    async def new_connections() -> None:
        while not stop.is_set():
            async with server.client(pair) as session:
                statuses.append(await _status(session, **ALICE))

    async def one_connection() -> None:
        """As the aggregator: it moves to its new certificate when it has one."""
        while not stop.is_set():
            mine = pair
            async with server.client(mine) as session:
                while mine is pair and not stop.is_set():
                    statuses.append(await _status(session, **ALICE))

    async def believes(authority: Authority) -> bool:
        try:
            async with server.client(authority.issued("front-proxy")) as session:
                return await _status(session, "/version", **ALICE) == 200
        except aiohttp.ClientError:
            return False

    async def forgot(authority: Authority) -> bool:
        return not await believes(authority)

    async with server.client(pair) as watching, watching.get(f"{LIST}?watch=1", headers=ALICE) as watch:
        going = [asyncio.create_task(work()) for work in (new_connections, one_connection)]
        cluster.kube.trust(proxy_ca=old.pem + new.pem)
        await eventually(lambda: believes(new))
        pair = new.issued("front-proxy")
        seen = len(statuses)
        await eventually(lambda: len(statuses) > seen + 20)
        cluster.kube.trust(proxy_ca=new.pem)
        await eventually(lambda: forgot(old))
        seen = len(statuses)
        await eventually(lambda: len(statuses) > seen + 20)
        stop.set()
        await asyncio.gather(*going)
        assert not watch.content.at_eof()
    assert set(statuses) == {200}


async def test_a_rotated_serving_certificate_is_shown_and_ends_nothing(cluster: Cluster) -> None:
    server = cluster.start()
    await server.ready()
    renewed = cluster.pki.serving.issue("renewed")
    async with server.client(cluster.pki.front_proxy) as session:
        async with session.get(f"{LIST}?watch=1", headers=ALICE) as watch:
            await watch.content.readline()
            server.certify(renewed)

            async def is_shown() -> bool:
                return await asyncio.to_thread(_shown, server) == ssl.PEM_cert_to_DER_cert(renewed[0].read_text())

            await eventually(is_shown, within_s=15)
            assert not watch.content.at_eof()
        assert await _status(session, **ALICE) == 200
    assert "serving certificate changed" in server.log()


def _shown(server: SecureServer) -> bytes:
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", server.port)))


async def test_an_expired_serving_certificate_is_told_until_it_is_replaced(cluster: Cluster) -> None:
    server = cluster.start()
    await server.ready()
    server.certify(cluster.pki.serving.issue("late", days=-1))
    await eventually(lambda: asyncio.to_thread(lambda: server.health()[0] == 500), within_s=15)
    assert server.health("/livez")[0] == 200
    assert "[-]serving-certificate failed" in server.health("/readyz?verbose")[1]
    server.certify(cluster.pki.server)
    await server.ready()


# --- the host cluster goes and comes ---


async def test_a_server_waits_for_its_host_cluster_to_say_whom_to_believe(cluster: Cluster) -> None:
    cluster.kube.refuse(403, "configmaps is forbidden")
    server = cluster.start()
    await eventually(lambda: asyncio.to_thread(lambda: server.health("/livez")[0] == 200), within_s=30)
    assert "[-]host-cluster-trust failed" in server.health("/readyz?verbose")[1]
    cluster.kube.refuse(0)
    await server.ready()


async def test_what_was_reviewed_holds_while_the_host_cluster_is_away(cluster: Cluster) -> None:
    server = cluster.start()
    await server.ready()
    async with server.client() as session:
        assert await _status(session, Authorization="Bearer admin-token") == 200
        cluster.kube.refuse(403)
        assert await _status(session, Authorization="Bearer admin-token") == 200
        assert await _status(session, Authorization="Bearer limited-token") == 401
    assert server.health()[0] == 200


def test_a_kubeconfig_that_is_not_there_ends_the_start(tmp_path: Path, etcd_binary: FoundEtcd) -> None:
    missing = str(tmp_path / "none")
    flags = ("--etcd-binary", str(etcd_binary.path), "--data-dir", str(tmp_path / "data"))
    ran = run_cli("serve", "--catalog", f"example={EXAMPLES}", "--kubernetes", missing, *flags, cwd=tmp_path)
    assert ran.returncode == 2
    assert missing in ran.stderr


def test_a_certificate_that_is_not_there_ends_the_start(tmp_path: Path, etcd_binary: FoundEtcd, pki: PKI) -> None:
    flags = ("--etcd-binary", str(etcd_binary.path), "--data-dir", str(tmp_path / "data"))
    tls = ("--tls-cert-file", str(tmp_path / "none"), "--tls-key-file", str(pki.server[1]))
    ran = run_cli("serve", "--catalog", f"example={EXAMPLES}", *tls, *flags, cwd=tmp_path)
    assert ran.returncode == 2
    assert json.dumps(str(tmp_path / "none"))[1:-1] in ran.stderr
