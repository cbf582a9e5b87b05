"""A whole API on a loopback port over fakes: what a client sees, without etcd.

async with api_world() as world:
    world.package("quay", version="1.0.0")
    answer = await world.get("packages", accept=TABLE)
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from yarl import URL

from cacheserver.api import PROJECTIONS, Acceptor, Api, Gate, HealthCheck, Route, make_server
from cacheserver.api.beside import KindBeside
from cacheserver.api.http.connection import Server
from cacheserver.api.kinds.resource import Resource
from cacheserver.cache.watchcache import Projection, WatchCache
from cacheserver.model import ANNOTATION_SHOWN, Digest, Kind
from tests.fakes.blobs import FakeBlobs
from tests.fakes.feed import NOW, FakeFeed, running

BASE = "/apis/cacheserver.dev/v1alpha1"
CREATED = 1767323045
"""FakeFeed's NOW as Unix time: every object's creation."""

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
METADATA = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"

HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
"""RFC 6455, section 1.3, whose answer is ACCEPTED."""

ACCEPTED = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

assert NOW == "2026-01-02T03:04:05Z"


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def names(self) -> list[str]:
        return [item["metadata"]["name"] for item in self.json["items"]]


class Lines:
    """The events of an open watch."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> Any:
        """The next event. Raises EOFError at a clean end."""
        async with asyncio.timeout(5):
            line = await self.response.content.readline()
        if not line:
            raise EOFError
        assert line.endswith(b"\n")
        return orjson.loads(line)

    async def take(self, count: int) -> list[Any]:
        return [await self.next() for _ in range(count)]


class Unzipped(Lines):
    """The events of an open watch with gzip, each of whose chunks has to be understood when it has come."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        super().__init__(response)
        self._inflate = zlib.decompressobj(31)  # of a gzip member: its end is checked
        self._lines: list[bytes] = []

    async def next(self) -> Any:
        """The next event. Raises EOFError at a clean end."""
        while not self._lines:
            chunk, whole = b"", False
            while not whole:
                async with asyncio.timeout(5):
                    part, whole = await self.response.content.readchunk()
                if not part and not whole:
                    assert self._inflate.eof
                    assert not self._inflate.unused_data
                    raise EOFError
                chunk += part
            text = self._inflate.decompress(chunk)
            # What Go waits for before it gives out anything (compress/flate/inflate.go).
            assert (text.endswith(b"}\n") and chunk.endswith(b"\0\0\xff\xff")) or not text
            self._lines = text.splitlines()
        return orjson.loads(self._lines.pop(0))

    async def rest(self) -> int:
        """How many events come until a clean end."""
        count = 0
        while True:
            try:
                await self.next()
            except EOFError:
                return count
            count += 1


class Frames:
    """The events of an open watch over WebSocket: each in a text frame of its own."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.response: aiohttp.ClientResponse = socket._response

    async def next(self) -> Any:
        """The next event. Raises EOFError at a clean end."""
        async with asyncio.timeout(5):
            message = await self._socket.receive()
        if message.type is aiohttp.WSMsgType.CLOSE:
            assert message.data in (1000, 1001)
            raise EOFError
        assert message.type is aiohttp.WSMsgType.TEXT, message
        assert message.data.endswith("}\n")
        return orjson.loads(message.data)

    async def take(self, count: int) -> list[Any]:
        return [await self.next() for _ in range(count)]


class World:
    def __init__(self, feed: FakeFeed, cache: WatchCache, blobs: FakeBlobs) -> None:
        self.feed = feed
        self.cache = cache
        self.blobs = blobs
        self.time = float(CREATED + 300)
        self.url = ""
        self.websocket = False
        """Whether watches are asked for over WebSocket."""
        self.gzip = False
        """Whether they are asked for with gzip."""
        self.api: Api
        self.session: aiohttp.ClientSession
        self.server: Server

    # --- what is served ---

    def package(
        self, package: str, *, namespace: str = "team", repository: str = "r", shown_by: str = "", **status: object
    ) -> int:
        spec = {"repository": repository, "packageName": package, "format": "FBC"}
        labels = {"cacheserver.dev/repository": repository, "cacheserver.dev/package": package}
        return self.feed.put(
            namespace,
            f"{repository}.{package}",
            labels=labels,
            spec=orjson.dumps(spec),
            status=orjson.dumps(status),
            annotations={ANNOTATION_SHOWN: shown_by} if shown_by else {},
        )

    def revision(
        self,
        name: str,
        content: Digest | None = None,
        *,
        lifecycle: str = "Published",
        size: int = 0,
        **status: object,
    ) -> int:
        spec = {"repository": "r", "packageName": "app", "revision": name, "version": name, "lifecycle": lifecycle}
        if content:
            status["content"] = {"digest": content, "size": size, "files": 2}
        return self.feed.put(
            "team", f"r.app.{name}", kind=Kind.REVISION, spec=orjson.dumps(spec), status=orjson.dumps(status)
        )

    async def settled(self) -> None:
        """Until the cache has seen everything."""
        async with asyncio.timeout(5):
            while self.cache.resource_version < self.feed.revision:
                await asyncio.sleep(0)

    @property
    def watches(self) -> int:
        """Open ones, of this API alone: the metrics count those of the process."""
        return self.api._in_flight._now[True]

    # --- what a client does ---

    async def get(
        self,
        path: str,
        *,
        method: str = "GET",
        accept: str | None = "application/json",
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        **parameters: str,
    ) -> Answer:
        """path: from / on, or below the group-version. query: parameters whose names are not Python names."""
        sent = {**({"Accept": accept} if accept is not None else {}), **(headers or {})}
        url = path if path.startswith("/") else f"{BASE}/{path}"
        async with self.session.request(
            method, url, headers=sent, params={**parameters, **(query or {})} or None, allow_redirects=False
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    @property
    def _encoding(self) -> dict[str, str]:
        return {"Accept-Encoding": "gzip"} if self.gzip else {}

    async def asked_to_watch(self, *, accept: str = "*/*", query: Mapping[str, str] | None = None) -> Answer:
        """The answer to a watch of packages that is not let in."""
        headers = {**(HANDSHAKE if self.websocket else {}), **self._encoding}
        return await self.get("packages", accept=accept, headers=headers, query=query, watch="true")

    @asynccontextmanager
    async def watch(
        self, path: str = "packages", *, accept: str = "*/*", **parameters: str
    ) -> AsyncIterator[Lines | Frames]:
        url = path if path.startswith("/") else f"{BASE}/{path}"
        if self.websocket:
            asked = str(URL(url).with_query({"watch": "1", **parameters}))
            async with self.session.ws_connect(asked, headers={"Accept": accept}) as socket:
                yield Frames(socket)
            return
        headers = {"Accept": accept, **self._encoding}
        async with self.session.get(url, headers=headers, params={"watch": "1", **parameters}) as response:
            assert response.status == 200, await response.text()
            assert response.headers.get("Content-Encoding") == ("gzip" if self.gzip else None)
            yield Unzipped(response) if self.gzip else Lines(response)


@asynccontextmanager
async def api_world(
    *,
    checks: Mapping[str, HealthCheck] | None = None,
    routes: Iterable[Route] = (),
    gate: Gate | None = None,
    away: bool = False,
    cache_type: type[WatchCache] = WatchCache,
    max_reads: int = 400,
    max_watches: int = 10_000,
    tls: ssl.SSLContext | None = None,
    beside: Sequence[KindBeside] = (),
    projections: Mapping[Kind, Projection] = PROJECTIONS,
    more: Callable[[FakeBlobs], Sequence[Resource]] = lambda _: (),
) -> AsyncIterator[World]:
    feed, blobs = FakeFeed(), FakeBlobs()
    feed.away = away
    cache = cache_type(feed, projections)
    world = World(feed, cache, blobs)
    world.api = Api(
        cache,
        blobs,
        standalone=True,
        version="1.2.3",
        checks=checks,
        routes=routes,
        gate=gate,
        beside=beside,
        more=more(blobs),
        max_reads=max_reads,
        max_watches=max_watches,
        now=lambda: world.time,
    )
    world.server = make_server(world.api, secure=tls is not None)
    acceptor = Acceptor(world.server, tls, pause_s=0.01)
    await acceptor.open("127.0.0.1", 0)
    world.url = f"http{'s' if tls else ''}://127.0.0.1:{acceptor.addresses[0][1]}"
    try:
        async with (
            running(cache) if not away else nullcontext(),
            aiohttp.ClientSession(
                world.url,
                auto_decompress=False,
                skip_auto_headers=("Accept-Encoding", "User-Agent", "Accept"),
            ) as world.session,
        ):
            yield world
    finally:
        await acceptor.close(within_s=0.1)
