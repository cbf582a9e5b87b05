"""One server that serves honest people, a tenant who means harm, and meters: memory, what others feel, what is logged.

The server is a process over TLS with a real etcd; who may what, and the Repositories, come from a stand-in of the host
cluster. It runs with the settings that everybody gets, but for the two workers that the figures are told for, and for a
smaller share of the store.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp

from bench.report.figures import family, memory
from tests.fakes.guarded import PKI
from tests.fakes.kube import KubeStandIn
from tests.support.etcd import EtcdProcess, FoundEtcd
from tests.support.fbc import FBCCatalog
from tests.support.gitserver import GitHTTPS
from tests.support.registry import FakeRegistry, Image, Member, directory, image, layer
from tests.support.server import API, ServerProcess
from tests.support.waiting import eventually

CONFIG = "/apis/config.cacheserver.dev/v1alpha1"
HONEST, TENANT = "honest", "tenant"
TOKENS = {"reader": "token-of-reader", "tenant": "token-of-tenant", "nobody": "token-of-nobody"}
PACKAGES, REVISIONS = 40, 5
_SAMPLE_S = 0.1
ASKED_EVERY_S = 0.025 if os.environ.get("CACHESERVER_TEST_HOSTILE") else 0.1
"""Each question. Of 40 a second the 99th percentile is not the slowest; where no times are judged, the machine may be
busy with other tests, and must not be kept so by this one."""
_SHARE = ("--max-repository-bytes", "64Mi", "--max-namespace-bytes", "96Mi")  # less, so that one is filled
_DEADLY_BYTES = 2 << 30  # the machine outlives whatever gets through: the server is killed, and its test says why


class SecureServer(ServerProcess):
    """Speaks TLS; every request of a test is the honest reader's."""

    def __init__(self, directory: Path, pki: PKI, *arguments: str, environ: dict[str, str]) -> None:
        cert, key = pki.server
        tls = ("--tls-cert-file", str(cert), "--tls-key-file", str(key))
        super().__init__(directory, *tls, *arguments, environ=environ)
        self.url = f"https://127.0.0.1:{self.port}"
        self.headers = {"Authorization": f"Bearer {TOKENS['reader']}"}


class Memory:
    """What the server and its children hold, looked at all the time."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self.look()

    def look(self) -> int:
        """Resident bytes now. Pages that processes share count in each."""
        found = memory(family(self._pid)).rss
        self.peak = max(self.peak, found)
        return found

    def _run(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            if self.look() > _DEADLY_BYTES:
                os.kill(self._pid, signal.SIGKILL)
                return


@dataclass
class Felt:
    """What honest clients felt meanwhile: by question its number, seconds, and the statuses that were not 200."""

    answered: Mapping[str, int] = field(default_factory=dict)
    p99_ms: Mapping[str, float] = field(default_factory=dict)
    most_ms: Mapping[str, float] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Measured:
    """An attack's story, complete when its block has ended."""

    name: str
    memory: Memory
    felt: Felt = field(default_factory=Felt)
    seconds: float = 0.0
    logged: str = ""
    """What the server's log said."""
    waited_s: float = 0.0
    """That the server's loop was ready to run and had no processor: what others felt then is the machine's doing."""

    def __str__(self) -> str:
        p99 = ", ".join(f"{question} {ms:.0f} ms" for question, ms in self.felt.p99_ms.items())
        return (
            f"{self.name}: {self.seconds:.1f} s, at most {self.memory.peak >> 20} MiB, p99 of others {p99}, "
            f"refused of others {dict(self.felt.failed)}, log {len(self.logged) >> 10} KiB, "
            f"without a processor {self.waited_s:.1f} s"
        )


@dataclass
class Arena:
    kube: KubeStandIn
    registry: FakeRegistry
    git: GitHTTPS
    server: SecureServer
    pki: PKI
    directory: Path
    told: list[Measured] = field(default_factory=list)

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.pki.serving.certificate)

    @asynccontextmanager
    async def session(self, user: str = "reader") -> AsyncIterator[aiohttp.ClientSession]:
        """A client of this user; empty for nobody at all."""
        headers = {"Authorization": f"Bearer {TOKENS[user]}"} if user else {}
        connector = aiohttp.TCPConnector(ssl=self.tls, limit=0)
        async with aiohttp.ClientSession(self.server.url, headers=headers, connector=connector) as session:
            yield session

    # --- Repositories ---

    def _path(self, name: str, namespace: str) -> str:
        return f"{CONFIG}/namespaces/{namespace}/repositories/{name}"

    async def image(self, name: str, pushed: Image, namespace: str = TENANT, **spec: Any) -> None:
        """A Repository of this image; an existing one is told to look at it now."""
        await self.registry.push(pushed, f"{namespace}/{name}", "v1")
        source = {"oci": {"image": f"{self.registry.host}/{namespace}/{name}:v1", "insecure": True}}
        self._repository(name, namespace, {"source": source, **spec})

    def repository(self, name: str, path: Path, **spec: Any) -> None:
        """A Repository of the tenant's of the git repository at `path`, which lies below the git server's base."""
        source = {"git": {"url": f"{self.git.origin}/{path.relative_to(self.git.base)}"}}
        self._repository(name, TENANT, {"source": source, **spec})

    def _repository(self, name: str, namespace: str, spec: dict[str, Any]) -> None:
        stamp = {"cacheserver.dev/requestedAt": str(time.monotonic_ns())}
        self.kube.put(self._path(name, namespace), {"metadata": {"annotations": stamp}, "spec": spec})

    def remove(self, name: str, namespace: str = TENANT) -> None:
        self.kube.remove(self._path(name, namespace))

    def status(self, name: str, namespace: str = TENANT) -> dict[str, Any]:
        found: dict[str, Any] = self.kube.get(self._path(name, namespace)).get("status", {})
        return found

    def said(self, name: str, namespace: str = TENANT) -> str:
        """Everything that its status tells a person: conditions, rejections and warnings."""
        return json.dumps(self.status(name, namespace))

    def requested(self, name: str, namespace: str = TENANT) -> str:
        """The stamp of the last order to look."""
        stamp: str = self.kube.get(self._path(name, namespace))["metadata"]["annotations"][
            "cacheserver.dev/requestedAt"
        ]
        return stamp

    def ready(self, name: str, namespace: str = TENANT) -> tuple[str, str]:
        """Status and reason of Ready; empty before the first sync has ended."""
        conditions = {c["type"]: (c["status"], c["reason"]) for c in self.status(name, namespace).get("conditions", ())}
        return conditions.get("Ready", ("", ""))

    async def judged(self, name: str, *, within_s: float) -> None:
        """Until the server has said of the tenant's repository how it is: that it was read as asked, or why not."""

        def said() -> bool:
            assert self.server.alive, "the server was killed, or died"
            status, reason = self.ready(name)
            handled = self.status(name).get("lastHandledReconcileAt") == self.requested(name)
            return handled if status == "True" else status == "False" and reason != "Syncing"

        await eventually(said, within_s=within_s)

    async def handled(self, name: str, namespace: str, *, within_s: float = 120) -> None:
        """Until the server has read the repository as it was asked last."""

        def said() -> bool:
            found = self.status(name, namespace)
            return found.get("lastHandledReconcileAt") == self.requested(name, namespace)

        await eventually(said, within_s=within_s)

    async def newest(self, namespace: str) -> int:
        """The highest resourceVersion of the namespace's package revisions."""
        async with self.session() as session, session.get(f"{API}/namespaces/{namespace}/packagerevisions") as answer:
            return max(int(item["metadata"]["resourceVersion"]) for item in (await answer.json())["items"])

    # --- meters ---

    @asynccontextmanager
    async def measured(self, name: str, *, least_s: float = 0.0) -> AsyncIterator[Measured]:
        """Memory, and what an honest client in a process of its own feels, for as long as the block takes.

        least_s: it takes so long at least; of fewer answers the 99th percentile would be the slowest one.
        """
        log = self.server.directory / "server.log"
        with Memory(self.server.pid) as held:
            found = Measured(name, held)
            begun, logged = time.monotonic(), log.stat().st_size
            waited_s = _waited_s(self.server.pid)
            honest = await self.child("tests.hostile.honest", {"every_s": ASKED_EVERY_S})
            try:
                yield found
                await asyncio.sleep(begun + least_s - time.monotonic())
            finally:
                told, _ = await honest.communicate(b"\n")
                found.felt = Felt(**json.loads(told))
                found.seconds = time.monotonic() - begun
                found.waited_s = _waited_s(self.server.pid) - waited_s
                found.logged = log.read_bytes()[logged:].decode(errors="replace")
                self.told.append(found)
                print(found)

    async def child(self, module: str, job: Mapping[str, Any]) -> asyncio.subprocess.Process:
        """`python -m module` with the server's place, and `job`, on its first line of stdin."""
        place = {"url": self.server.url, "ca": str(self.pki.serving.certificate), "tokens": TOKENS}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps({**place, **job}).encode() + b"\n")
        return process

    async def attack(self, what: str, /, *, within_s: float = 120, **job: Any) -> dict[str, Any]:
        """Runs one of tests/hostile/clients.py to its end; what it tells."""
        process = await self.child("tests.hostile.clients", {"attack": what, "job": job})
        try:
            told, _ = await asyncio.wait_for(process.communicate(), within_s)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        assert process.returncode == 0, f"the attacker broke: {process.returncode}"
        found: dict[str, Any] = json.loads(told)
        return found

    # --- whole afterwards ---

    async def whole(self) -> None:
        """Every endpoint answers, a change in the honest catalog reaches a watcher, and no task died."""
        async with self.session() as session:
            for path in ("/livez", "/readyz", "/version", "/apis", "/openapi/v2", "/openapi/v3", "/metrics"):
                async with session.get(path) as answer:
                    assert answer.status == 200, path
            async with session.get(f"{API}/packages") as answer:
                listed = await answer.json()
            names = [item["metadata"]["name"] for item in listed["items"] if item["metadata"]["namespace"] == HONEST]
            assert len(names) == PACKAGES
            async with session.get(f"{API}/namespaces/{HONEST}/packagerevisions/{names[0]}.1.0.0/content") as answer:
                assert (answer.status, len(await answer.read()) > 0) == (200, True)
            since = listed["metadata"]["resourceVersion"]
            path = f"{API}/namespaces/{HONEST}/packagerevisions?watch=1&resourceVersion={since}"
            async with session.get(path) as watching:
                await self.change(str(time.monotonic_ns()), packages=1)
                async with asyncio.timeout(30):
                    await _modified(watching, "good.app-00.1.0.0")

    async def change(self, text: str, packages: int = PACKAGES) -> None:
        """A new honest catalog: the first revision of so many packages says `text`."""
        await self.image("good", honest_image(self.directory / "honest", text, packages), HONEST)


def _waited_s(pid: int) -> float:
    """Seconds that its main thread spent waiting on a run queue (Linux: Documentation/scheduler/sched-stats.rst)."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):  # another system, or it was killed
        return 0.0


async def _modified(watching: aiohttp.ClientResponse, name: str) -> None:
    """Until this object has changed; others may still change because of what went before."""
    while line := await watching.content.readline():
        event = json.loads(line)
        if (event["type"], event["object"]["metadata"]["name"]) == ("MODIFIED", name):
            return
    raise AssertionError("the watch ended")


def honest_image(root: Path, text: str = "as ever", packages: int = 0) -> Image:
    files = FBCCatalog(root)
    versions = [f"1.{minor}.0" for minor in range(REVISIONS)]
    for number in range(PACKAGES):
        files.package(f"app-{number:02}", *versions, descriptions={"1.0.0": text} if number < packages else {})
    found = sorted(path for path in root.rglob("*") if path.is_file())
    members = [Member(f"configs/{path.relative_to(root)}", path.read_bytes()) for path in found]
    return image(layer(directory("configs/"), *members))


@asynccontextmanager
async def open_arena(found: FoundEtcd, directory: Path) -> AsyncIterator[Arena]:
    """The honest catalog is served when it opens."""
    pki = PKI(directory / "pki")
    etcd = EtcdProcess(found, directory, flags=("--auto-compaction-mode=revision", "--auto-compaction-retention=1000"))
    (directory / "git").mkdir()
    (directory / "server").mkdir()
    registry = FakeRegistry()
    await registry.start()
    try:
        await asyncio.to_thread(etcd.start)
        with GitHTTPS(directory / "git", pki.serving.issue("git")) as git:
            async with KubeStandIn(pki.serving) as kube:
                _rights(kube, pki)
                flags = ("--etcd", etcd.endpoint, "--allow-unsupported-etcd", "--workers", "2", *_SHARE)
                cluster = ("--kubernetes", str(kube.kubeconfig(directory)), "--data-dir", str(directory / "data"))
                trusted = {"SSL_CERT_FILE": str(pki.serving.certificate)}
                server = SecureServer(directory / "server", pki, *flags, *cluster, environ=trusted)
                arena = Arena(kube, registry, git, server, pki, directory)
                server.spawn()
                try:
                    await arena.change("as ever")
                    await eventually(lambda: arena.ready("good", HONEST) == ("True", "Synced"), within_s=60)
                    yield arena
                finally:
                    await asyncio.to_thread(server.stop)
    finally:
        etcd.stop()
        await registry.stop()


def _rights(kube: KubeStandIn, pki: PKI) -> None:
    """reader may read everything; tenant its namespace and what everybody may; nobody is known and may nothing."""
    kube.trust(client_ca=pki.client.pem, proxy_ca=pki.proxy.pem)
    for user, token in TOKENS.items():
        kube.token(token, user)
    kube.allow("reader")
    kube.allow("tenant", namespace=TENANT)
    for path in ("/openapi/v2", "/openapi/v3", "/apis/cacheserver.dev/v1alpha1"):
        kube.allow("tenant", path=path)
