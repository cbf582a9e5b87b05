"""The API over fakes as it is in a cluster: TLS, and a gate that asks a stand-in of the host cluster. Fake time.

async with guarded_world(pki) as world:
    world.kube.allow("alice", resource="packages")
    answer = await world.get(proxied="alice")
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from cacheserver.api import ReviewingGate
from cacheserver.api.app import make_server
from cacheserver.cluster.authentication import Authentication, Tokens
from cacheserver.cluster.authorization import Authorization
from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.cluster.trust import Published, Trust
from cacheserver.security.tls import ServingTLS
from tests.fakes.api import BASE, Answer, World, api_world
from tests.fakes.kube import KubeStandIn
from tests.support.certificates import Authority
from tests.support.waiting import eventually

PACKAGES = f"{BASE}/namespaces/team/packages"

Pair = tuple[Path, Path]


class PKI:
    """Authorities as a cluster has them, and the certificates that most tests show."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.serving = Authority(directory / "serving", name="serving")
        self.client = Authority(directory / "client", name="kubernetes")
        self.proxy = Authority(directory / "proxy", name="front-proxy-ca")
        self.stranger = Authority(directory / "stranger", name="kubernetes")
        self.front_proxy = self.proxy.issue("front-proxy")
        self.server = self.serving.issue("server")
        self.bob = self.client.issue("bob", organizations=("devs", "ops"))


class Clock:
    """Unix time and monotonic time at once. Starts now, because certificates do."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class Guarded:
    world: World
    kube: KubeStandIn
    published: Published
    tls: ServingTLS
    clock: Clock
    pki: PKI
    url: str

    @asynccontextmanager
    async def client(self, certificate: Pair | None = None) -> AsyncIterator[aiohttp.ClientSession]:
        """A client that keeps its connection."""
        async with client_of(self.url, self.pki, certificate) as session:
            yield session

    async def get(
        self,
        path: str = PACKAGES,
        *,
        certificate: Pair | None = None,
        token: str = "",
        proxied: str = "",
        groups: str = "",
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
    ) -> Answer:
        """One request on a connection of its own. proxied: a user that the front proxy speaks for."""
        sent = dict(headers or {})
        if token:
            sent["Authorization"] = f"Bearer {token}"
        if proxied:
            certificate = certificate or self.pki.front_proxy
            sent["X-Remote-User"] = proxied
        if groups:
            sent["X-Remote-Group"] = groups
        async with self.client(certificate) as session:
            return await ask(session, path, sent, method)

    async def believed(self, proxy: Authority) -> None:
        """Returns once `proxy`'s certificates are believed."""
        pair = proxy.issue("front-proxy")

        async def is_believed() -> bool:
            try:
                return (await self.get("/version", certificate=pair, proxied="anybody")).status == 200
            except aiohttp.ClientError:  # not even the handshake lets it in yet
                return False

        await eventually(is_believed)


@asynccontextmanager
async def client_of(url: str, pki: PKI, certificate: Pair | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    """A client with one connection, which it keeps."""
    context = ssl.create_default_context(cafile=pki.serving.certificate)
    if certificate is not None:
        context.load_cert_chain(*certificate)
    connector = aiohttp.TCPConnector(ssl=context, limit=1)
    async with aiohttp.ClientSession(url, connector=connector) as session:
        yield session


async def ask(
    session: aiohttp.ClientSession, path: str = PACKAGES, headers: Mapping[str, str] | None = None, method: str = "GET"
) -> Answer:
    async with session.request(method, path, headers=headers) as response:
        return Answer(response.status, response.headers, await response.read())


@asynccontextmanager
async def guarded_world(pki: PKI, *, max_reads: int = 400) -> AsyncIterator[Guarded]:
    """Trusts pki's client and proxy CAs. One package `r.a` is served in namespace `team`."""
    clock = Clock(time.time())
    tls = ServingTLS(*pki.server, ask_clients=True, now=clock)
    await tls.load()
    async with KubeStandIn(pki.serving) as kube, KubeAPI(kube.kubeconfig(pki.directory)) as api:
        kube.trust(client_ca=pki.client.pem, proxy_ca=pki.proxy.pem)

        async def take(trust: Trust) -> None:
            await tls.trust(trust.client_cas)

        published = Published(api, take, first_pause_s=0.01)
        tokens, authorization = Tokens(api, clock), Authorization(api, clock)
        gate = ReviewingGate(Authentication(published, tokens, clock), authorization)
        following = asyncio.create_task(published.run())
        async with api_world(gate=gate, max_reads=max_reads) as world:
            world.package("a")
            await world.settled()
            server = make_server(world.api, secure=True)
            loop = asyncio.get_running_loop()
            listener = await loop.create_server(server, "127.0.0.1", 0, ssl=tls.context)
            url = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
            try:
                await eventually(lambda: published.check() is None)
                yield Guarded(world, kube, published, tls, clock, pki, url)
            finally:
                listener.close()
                await server.shutdown(0.1)
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
                await tokens.close()
                await authorization.close()
