"""Random writes to a real etcd, two servers on it, many watchers that filter, break off, resume, dawdle, plain, with
gzip or over WebSocket: nobody misses, repeats or reorders anything, judged by etcd's own history.

Seconds in the suite; minutes on demand: WATCH_SECONDS=120 WATCH_SEEDS=1,2,3 pytest tests/e2e/test_watch_correctness.py
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import uuid
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from cacheserver.catalogs.workers import Workers
from cacheserver.config import RepositoryConfig
from cacheserver.config.sources import DirectorySource as DirectorySpec
from cacheserver.etcd.client import Client, prefix_end
from cacheserver.ingest import SyncServices
from cacheserver.ingest.sync import Sync
from cacheserver.model import Key, Kind, Record, RepositoryKey, Stored
from cacheserver.sources import DirectorySource
from cacheserver.store.blobs import Blobs
from cacheserver.store.claims import Claim
from cacheserver.store.keys import PREFIX
from cacheserver.store.objects import Store
from tests.e2e.conftest import StartServer
from tests.support.fbc import catalog
from tests.support.history import History, Match, Seen
from tests.support.server import API, ServerProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

SECONDS = float(os.environ.get("WATCH_SECONDS", "2"))
SEEDS = [int(seed) for seed in os.environ.get("WATCH_SEEDS", "1,2").split(",")]
WATCHERS = 24

SELECTORS: Sequence[tuple[str, Match]] = [
    ("", lambda ns, name, labels: True),
    ("labelSelector=x%3D1", lambda ns, name, labels: labels.get("x") == "1"),
    ("labelSelector=x%21%3D1", lambda ns, name, labels: labels.get("x") != "1"),
    ("labelSelector=x+in+%280%2C2%29", lambda ns, name, labels: labels.get("x") in ("0", "2")),
    ("labelSelector=y", lambda ns, name, labels: "y" in labels),
    ("labelSelector=%21y%2Cx%3D0", lambda ns, name, labels: "y" not in labels and labels.get("x") == "0"),
    ("fieldSelector=metadata.name%3Dr.p3", lambda ns, name, labels: name == "r.p3"),
    ("fieldSelector=metadata.namespace%3Da", lambda ns, name, labels: ns == "a"),
]

VIEW = "packagerevisionresources"

REVISION_SELECTORS: Sequence[tuple[str, Match]] = [
    ("", lambda ns, name, labels: True),
    ("labelSelector=cacheserver.dev/latest%3Dtrue", lambda ns, name, labels: "cacheserver.dev/latest" in labels),
    ("labelSelector=%21cacheserver.dev/latest", lambda ns, name, labels: "cacheserver.dev/latest" not in labels),
    ("fieldSelector=metadata.name%3Dr.app.1.1.0", lambda ns, name, labels: name == "r.app.1.1.0"),
]


@dataclass
class Stream:
    """What one watcher saw without having to list again: from `since` on, over any number of connections."""

    since: int
    events: list[Seen] = field(default_factory=list)


@dataclass
class Watcher:
    """One client. `habit`: how it misbehaves."""

    seed: int | str
    urls: Sequence[str]
    resource: str = "packages"
    api: str = API
    selectors: Sequence[tuple[str, Match]] = tuple(SELECTORS)
    namespaces: Sequence[str | None] = (None, None, "a")
    streams: list[Stream] = field(default_factory=list)
    position: int = 0
    bookmarks: int = 0
    hurry: bool = False
    """The writing is over: take what is left without dawdling."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.query, self.match = self.random.choice(self.selectors)
        self.namespace = self.random.choice(self.namespaces)
        self.habit = self.random.choice(["steady", "breaks off", "breaks off", "dawdles", "initial"])
        self.way = self.random.choice(["chunks", "gzip", "websocket"])

    def selects(self, namespace: str, name: str, labels: Any) -> bool:
        return (self.namespace is None or namespace == self.namespace) and self.match(namespace, name, labels)

    @property
    def path(self) -> str:
        return (
            f"{self.api}/namespaces/{self.namespace}/{self.resource}"
            if self.namespace
            else f"{self.api}/{self.resource}"
        )

    async def run(self, start: int) -> None:
        self.streams.append(Stream(start))
        self.position = start
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with aiohttp.ClientSession(read_bufsize=1 << 20, timeout=timeout, auto_decompress=False) as session:
            while True:
                try:
                    if self.habit == "initial" and self.random.random() < 0.3:
                        await self._start_over(session)
                    await self._watch(session)
                except (aiohttp.ClientError, OSError):
                    await asyncio.sleep(0.02)

    async def _watch(self, session: aiohttp.ClientSession) -> None:
        url = self.random.choice(self.urls)
        query = f"watch=1&resourceVersion={self.position}&allowWatchBookmarks=true&{self.query}"
        if self.random.random() < 0.3:
            query += "&timeoutSeconds=1"
        leave_after = self.random.randrange(1, 60) if self.habit == "breaks off" else 1 << 60
        async with aclosing(self._events(session, f"{url}{self.path}?{query}")) as events:
            async for event in events:
                if not self._take(event):
                    return
                leave_after -= 1
                if leave_after <= 0:
                    return
                if self.habit == "dawdles" and not self.hurry and self.random.random() < 0.05:
                    await asyncio.sleep(self.random.random() * 0.3)

    async def _events(self, session: aiohttp.ClientSession, url: str) -> AsyncGenerator[dict[str, Any], None]:
        """Raises: ClientError, also when the server starts or stops: every client tries again then."""
        if self.way == "websocket":
            try:
                async with session.ws_connect(url) as socket:
                    async for message in socket:
                        assert message.data.endswith("}\n")
                        yield orjson.loads(message.data)  # one a frame, or this fails
            except aiohttp.WSServerHandshakeError as exc:
                if exc.status not in (429, 503):
                    raise AssertionError(url) from exc
                raise
            return
        async with session.get(
            url, headers={"Accept-Encoding": "gzip" if self.way == "gzip" else "identity"}
        ) as response:
            if response.status in (429, 503):
                response.raise_for_status()
            assert response.status == 200, await response.text()
            if self.way == "gzip":
                async with aclosing(_unzipped(response)) as lines:
                    async for line in lines:
                        yield orjson.loads(line)
                return
            async for line in response.content:
                yield orjson.loads(line)

    def _take(self, event: dict[str, Any]) -> bool:
        """False when the stream is over: 410."""
        if event["type"] == "ERROR":
            assert event["object"]["code"] == 410, event
            self.streams.append(Stream(self.position))  # _start_over replaces it by a list
            self.habit = "initial"
            return False
        revision = int(event["object"]["metadata"]["resourceVersion"])
        assert revision >= self.position, "went back in time"
        if event["type"] == "BOOKMARK":
            self.bookmarks += 1
        else:
            assert revision > self.position, "the same version twice, or something older than a bookmark"
            self.streams[-1].events.append(Seen(event["type"], revision, event["object"]))
        self.position = revision
        return True

    async def _start_over(self, session: aiohttp.ClientSession) -> None:
        """As an informer's WatchList: the state as ADDED events, the closing bookmark, then what follows."""
        query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        initial: list[Seen] = []
        url = f"{self.random.choice(self.urls)}{self.path}?{query}&{self.query}"
        async with aclosing(self._events(session, url)) as events:
            async for event in events:
                metadata = event["object"]["metadata"]
                if event["type"] == "BOOKMARK":
                    self.position = int(metadata["resourceVersion"])
                    break
                initial.append(Seen(event["type"], int(metadata["resourceVersion"]), event["object"]))
        assert all(seen.type == "ADDED" for seen in initial)
        self.streams.append(Stream(self.position))
        self.initials.append((self.position, initial))

    initials: list[tuple[int, list[Seen]]] = field(default_factory=list)

    def judge(self, history: History, end: int) -> None:
        """Everything delivered is what the history gives: no gap, no repetition, no other order, no other content."""
        for stream, after in zip(self.streams, [*self.streams[1:], None], strict=True):
            expected = history.events(self.selects, stream.since)
            if after is not None:
                expected = expected[: len(stream.events)]  # broken off by starting over: a prefix
            assert stream.events == expected, f"{self.habit}, {self.query!r}, {self.namespace}"
        for revision, initial in self.initials:
            state = history.state(self.selects, revision)
            assert [s.manifest for s in initial] == [state[name] for name in sorted(state)]


async def _unzipped(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """Lines of a gzip stream. One that ends without an error has to be a whole member."""
    inflate = zlib.decompressobj(31)
    begun = b""
    async for chunk in response.content.iter_any():
        *lines, begun = (begun + inflate.decompress(chunk)).split(b"\n")
        for line in lines:
            yield line
    assert inflate.eof
    assert not begun


async def write_at_random(store: Store, seed: int, seconds: float) -> int:
    """Puts and deletes of 40 packages in two namespaces for so long; returns the last revision written."""
    chance = random.Random(seed)
    last = 0
    served: dict[Key, Stored] = {}
    until = asyncio.get_running_loop().time() + seconds
    async with store.session("writer") as session:
        claim = await session.claim("ns/r")
        while asyncio.get_running_loop().time() < until:
            namespace, package = chance.choice("ab"), f"p{chance.randrange(20)}"
            key = Key(Kind.PACKAGE, namespace, "r", package)
            if key in served and chance.random() < 0.25:
                await store.delete(claim, served.pop(key))
                last = await store.current_revision()
                continue
            labels = {"x": str(chance.randrange(3))} | ({"y": "1"} if chance.random() < 0.5 else {})
            status = orjson.dumps({"displayName": str(chance.random())})
            spec = b'{"repository":"r","packageName":"%b","format":"FBC"}' % package.encode()
            stored = await store.put(claim, Record(key, labels, spec, status), served.get(key))
            if stored is not None:
                served[key] = stored
                last = stored.mod_revision
            if chance.random() < 0.02:
                await asyncio.sleep(chance.random() * 0.05)
    return last


async def ingest_at_random(store: Store, blobs: Blobs, directory: Path, seed: int, rounds: int) -> int:
    """Catalogs of two packages, so many, each read by a sync: versions come, go and are corrected, bundles are renamed
    under their version and take each other's names. Returns the last revision written."""
    chance = random.Random(seed)
    present: dict[str, tuple[list[str], dict[str, str]]] = {}
    files, scratch = catalog(directory / "catalog"), directory / "scratch"
    scratch.mkdir()
    config = RepositoryConfig(RepositoryKey("a", "r"), DirectorySpec(files.root), allow_empty=True)
    async with store.session("writer") as session, Workers(1) as workers:
        claim = await session.claim("a/r")

        async def hold() -> Claim:
            return claim

        async def on_change() -> None: ...

        rooms, source = SyncServices(store, blobs, workers, scratch), DirectorySource(files.root)
        for number in range(rounds):
            for package in ("app", "db"):
                if package in present and chance.random() < 0.4:  # what the content and the metadata do not say
                    versions, bundles = present[package]
                    files.package(package, *versions, bundles=bundles, skip_range=f"<1.0.{number}")
                    continue
                versions = chance.sample([f"1.{i}.0" for i in range(4)], chance.randrange(1, 4))
                called = chance.sample([f"{package}.{letter}" for letter in "abcd"], len(versions))
                if chance.random() < 0.1 and package in present:
                    del present[package]
                    files.without(package)
                else:
                    present[package] = versions, dict(zip(versions, called, strict=True))
                    files.package(package, *versions, bundles=present[package][1])
            await Sync(config, source, hold, rooms, progress=lambda *_: None, on_change=on_change).run()
    return await store.current_revision()


@pytest.mark.parametrize("seed", SEEDS)
async def test_renamed_bundles_and_corrected_versions_reach_every_watcher_and_outlive_a_restart(
    seed: int, start_server: StartServer, etcd_endpoint: str, tmp_path: Path
) -> None:
    async with empty_store(etcd_endpoint) as (client, store):
        start = await store.current_revision()
        servers = two_servers(start_server, etcd_endpoint)
        urls = [server.url for server in servers]
        watchers, viewers = (
            [
                Watcher(seed * 1000 + first + i, urls, resource, API, REVISION_SELECTORS, (None, "a"))
                for i in range(WATCHERS)
            ]
            for first, resource in ((0, "packagerevisions"), (500, VIEW))
        )
        tasks = [asyncio.create_task(watcher.run(start)) for watcher in (*watchers, *viewers)]
        rounds = int(SECONDS * 10)
        writing = asyncio.create_task(ingest_at_random(store, Blobs(client), tmp_path, seed, rounds))
        await eventually(lambda: any(s.events for watcher in watchers for s in watcher.streams) or writing.done())
        servers[0].kill()
        await asyncio.to_thread(servers[0].start)
        last = await writing
        history = await History.read(client, start, last, ("packagerevisions",))
        viewed = history.viewed(functools.partial(files_of, await _files(Blobs(client), history)))
        await until_drained(watchers, tasks, history, last, (viewers, viewed))
        kinds = ("packagerevisions", VIEW)
        listed = [[server.list(kind)["items"] for kind in kinds] for server in servers]
        servers[1].kill()
        await asyncio.to_thread(servers[1].start)
        listed.append([servers[1].list(kind)["items"] for kind in kinds])
    for watcher in watchers:
        watcher.judge(history, last)
    for viewer in viewers:
        viewer.judge(viewed, last)
    assert any(step.unseen for step in viewed.steps), "nothing changed that the view does not show"
    states = [each.state(SELECTORS[0][1], last) for each in (history, viewed)]
    assert listed == [[[state[name] for name in sorted(state)] for state in states]] * 3


async def _files(blobs: Blobs, history: History) -> dict[str, list[dict[str, Any]]]:
    """What content has which files, by digest, as lists tell them."""
    found: dict[str, list[dict[str, Any]]] = {}
    for manifest in (manifest for step in history.steps for manifest in (step.old, step.new) if manifest is not None):
        digest = manifest["status"]["content"]["digest"]
        if digest not in found:
            head = await blobs.head(digest)
            assert head is not None
            found[digest] = [{"path": path, "size": size} for path, size in head.files]
    return found


def files_of(files: Mapping[str, list[dict[str, Any]]], revision: dict[str, Any]) -> dict[str, Any]:
    """PackageRevisionResources as lists have it; written down apart from the code that makes it."""
    metadata, spec = revision["metadata"], revision["spec"]
    digest = revision["status"]["content"]["digest"]
    return {
        "apiVersion": revision["apiVersion"],
        "kind": "PackageRevisionResources",
        "metadata": {**metadata, "uid": str(uuid.uuid5(uuid.UUID(metadata["uid"]), VIEW))},
        "spec": {name: spec[name] for name in ("packageName", "repository", "revision")},
        "status": {"digest": digest, "files": files[digest]},
    }


@asynccontextmanager
async def empty_store(endpoint: str) -> AsyncIterator[tuple[Client, Store]]:
    async with Client([endpoint]) as client:
        await client.connect()
        await client.delete(PREFIX, prefix_end(PREFIX))
        store = Store(client)
        await store.open()
        yield client, store


def two_servers(start_server: StartServer, endpoint: str, *flags: str) -> list[ServerProcess]:
    return [start_server("--etcd", endpoint, "--allow-unsupported-etcd", *flags) for _ in range(2)]


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_watcher_sees_exactly_the_history(seed: int, start_server: StartServer, etcd_endpoint: str) -> None:
    async with empty_store(etcd_endpoint) as (client, store):
        start = await store.current_revision()
        servers = two_servers(start_server, etcd_endpoint)
        urls = [server.url for server in servers]
        watchers = [Watcher(seed * 1000 + i, urls) for i in range(WATCHERS)]
        tasks = [asyncio.create_task(watcher.run(start)) for watcher in watchers]
        last = await write_at_random(store, seed, SECONDS)
        history = await History.read(client, start, last)
        await until_drained(watchers, tasks, history, last)
    assert len(history.steps) > 100
    for watcher in watchers:
        watcher.judge(history, last)


async def until_drained(
    watchers: Sequence[Watcher],
    tasks: Sequence[asyncio.Task[None]],
    history: History,
    last: int,
    *others: tuple[Sequence[Watcher], History],
) -> None:
    """Every watcher has had its last event; then they stop. others: those that are judged by another history."""
    judged = [(w, each) for group, each in ((watchers, history), *others) for w in group]

    def drained() -> bool:
        for task in tasks:
            if task.done():
                task.result()  # an assertion of the watcher's own
        return all(len(w.streams[-1].events) >= len(h.events(w.selects, w.streams[-1].since)) for w, h in judged)

    for watcher, _ in judged:
        watcher.hurry = True
    try:
        await eventually(drained, within_s=15 + 2 * SECONDS)
    except AssertionError:
        pass  # judged with the history at hand, which says what is missing
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_server_killed_and_started_again_loses_nothing_for_those_who_resume(
    start_server: StartServer, etcd_endpoint: str
) -> None:
    async with empty_store(etcd_endpoint) as (client, store):
        start = await store.current_revision()
        server, other = two_servers(start_server, etcd_endpoint)
        watchers = [Watcher(i, [server.url, other.url]) for i in range(8)]
        tasks = [asyncio.create_task(watcher.run(start)) for watcher in watchers]
        writing = asyncio.create_task(write_at_random(store, 7, 3))
        for _ in range(2):
            server.kill()
            await asyncio.to_thread(server.start)
        last = await writing
        history = await History.read(client, start, last)
        await until_drained(watchers, tasks, history, last)
    for watcher in watchers:
        watcher.judge(history, last)


async def test_a_list_on_one_server_is_continued_by_a_watch_on_the_other(
    start_server: StartServer, etcd_endpoint: str
) -> None:
    async with empty_store(etcd_endpoint) as (client, store):
        start = await store.current_revision()
        one, other = two_servers(start_server, etcd_endpoint)
        writing = asyncio.create_task(write_at_random(store, 3, 2))
        joined: list[tuple[int, list[dict[str, Any]], Watcher, asyncio.Task[None]]] = []

        async def moved_on(revision: int) -> bool:
            return writing.done() or await store.current_revision() >= revision

        async with aiohttp.ClientSession() as session:
            while not writing.done():
                async with session.get(f"{one.url}{API}/packages") as response:
                    page = await response.json()
                revision = int(page["metadata"]["resourceVersion"])
                watcher = Watcher(0, [other.url])
                watcher.query, watcher.match, watcher.namespace, watcher.habit = "", SELECTORS[0][1], None, "steady"
                task = asyncio.create_task(watcher.run(revision))
                joined.append((revision, page["items"], watcher, task))
                await eventually(lambda at=revision: moved_on(at + 10))  # type: ignore[misc]  # bound at once
        last = await writing
        history = await History.read(client, start, last)
        await until_drained([w for *_, w, _ in joined], [t for *_, t in joined], history, last)
    assert len(joined) > 5
    for revision, items, watcher, _ in joined:
        state = history.state(SELECTORS[0][1], revision)
        assert items == [state[name] for name in sorted(state)]
        watcher.judge(history, last)
