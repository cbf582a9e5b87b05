"""Repositories on a real etcd: what is read into it, one sync at a time or as long as they live, and what a watcher of
etcd sees of that. Knows no server: tests/support/server.py starts those.

async with opened(client, tmp_path, World) as world:
    world.files.package("app", "1.0.0")
    report = await world.sync()               # of the catalog in `files`; `sync(spec)` of another source
    assert await world.objects() == {...}
    ingest = world.ingest()                   # or whole lives: `ingest.put(world.config(), lambda: source)`
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import orjson

from cacheserver.catalogs.workers import Workers
from cacheserver.config import RepositoryConfig
from cacheserver.config.sources import DirectorySource, SourceSpec
from cacheserver.etcd.client import Client, prefix_end
from cacheserver.ingest import Ingest, ServedStatusStore, SyncReport, SyncServices
from cacheserver.ingest.pace import Pace
from cacheserver.ingest.reading import open_for
from cacheserver.ingest.sync import Sync
from cacheserver.model import Digest, Key, Kind, RepositoryKey
from cacheserver.sources import Source
from cacheserver.store.blobs import Blobs
from cacheserver.store.claims import Claim, Session
from cacheserver.store.keys import PREFIX
from cacheserver.store.objects import Store
from tests.support.archive import untar
from tests.support.fbc import catalog
from tests.support.history import History

KEY = RepositoryKey("ns", "repo")


class World:
    """One etcd and the repositories of namespace `ns` on it; `sync` is about the one that is called `repo`."""

    def __init__(self, client: Client, services: SyncServices, home: Path) -> None:
        self.client = client
        self.services = services
        self.store = services.store
        self.blobs = services.blobs
        self.home = home
        self.files = catalog(home / "catalog")
        self.spec: SourceSpec = DirectorySource(self.files.root)
        """What a repository reads unless a test says otherwise."""
        self.claim: Claim | None = None
        self._session: Session | None = None
        self._sources: dict[str, Source] = {}
        self._open = AsyncExitStack()

    async def aclose(self) -> None:
        for source in self._sources.values():
            await source.aclose()
        await self._open.aclose()

    def config(self, name: str = KEY.name, *, interval_s: float = 600, **fields: Any) -> RepositoryConfig:
        return RepositoryConfig(
            RepositoryKey(KEY.namespace, name), **{"source": self.spec, "interval_s": interval_s, **fields}
        )

    # --- one sync at a time ---

    async def sync(self, spec: SourceSpec | None = None, *, anew: bool = False, **changes: Any) -> SyncReport:
        """spec: read instead of `self.spec`; what is opened for one stays open. changes: of the configuration.

        anew: with another copy of what a source keeps between fetches, and no memory of earlier syncs.
        """
        config = replace(self.config(), source=spec or self.spec, **changes)
        if anew:
            if known := self._sources.pop(str(config.source), None):
                await known.aclose()
            await self.store.put_state(await self.hold(), KEY, None)
        source = self._sources.get(str(config.source))
        if source is None:
            cache = self.home / f"cache{len(list(self.home.glob('cache*')))}"
            cache.mkdir()
            source = self.use(open_for(config.source, config.format, cache=cache), config.source)

        async def on_change() -> None: ...

        return await Sync(
            config,
            source,
            self.hold,
            self.services,
            progress=lambda what, done, total: None,
            on_change=on_change,
        ).run()

    def use(self, source: Source, spec: SourceSpec | None = None) -> Source:
        """`source` is what syncs of `spec`, or of `self.spec`, read from now on; closed with the world."""
        self._sources[str(spec or self.spec)] = source
        return source

    async def hold(self) -> Claim:
        """The claim that syncs write under; a test may lose it, and set it to None to have another."""
        if self.claim is None:
            self.claim = await (await self.session()).claim(f"{KEY.namespace}/{KEY.name}")
        return self.claim

    async def session(self) -> Session:
        if self._session is None:
            self._session = await self._open.enter_async_context(self.store.session("test"))
        return self._session

    async def forget_everything(self) -> None:
        """What is served of the repository, and what its last sync saw."""
        for keys in (await self.store.served_keys(KEY)).values():
            for key in keys:
                stored = await self.store.read_object(key)
                assert stored is not None
                await self.store.delete(await self.hold(), stored)
        await self.store.put_state(await self.hold(), KEY, None)

    # --- whole lives ---

    def ingest(self, pace: Pace | None = None) -> Ingest:
        return Ingest(self.services, ServedStatusStore(self.store), pace=pace)

    async def status(self, name: str = KEY.name) -> dict[str, Any]:
        found = await self.store.read_object(Key(Kind.REPOSITORY, KEY.namespace, name))
        status: dict[str, Any] = orjson.loads(found.value)["status"] if found else {"conditions": ()}
        return status

    async def condition(self, kind: str = "Ready", name: str = KEY.name) -> tuple[str, str, str]:
        """(status, reason, message)"""
        for condition in (await self.status(name))["conditions"]:
            if condition["type"] == kind:
                return condition["status"], condition["reason"], condition["message"]
        return "", "", ""

    async def says(self, reason: str, name: str = KEY.name) -> bool:
        return (await self.condition(name=name))[1] == reason

    async def versions(self, name: str = KEY.name) -> Sequence[str]:
        served = await self.store.served_keys(RepositoryKey(KEY.namespace, name))
        return sorted(key.revision for keys in served.values() for key in keys if key.kind is Kind.REVISION)

    # --- what is served ---

    async def objects(self) -> dict[str, dict[str, Any]]:
        """By name; not what was told of them, see changes()."""
        found = {}
        async for page in self.store.read_all():
            for change in page.changes:
                if change.kind is Kind.CHANGE:
                    continue
                assert change.value is not None
                manifest = orjson.loads(change.value)
                found[manifest["metadata"]["name"]] = manifest
        return found

    async def changes(self) -> list[dict[str, Any]]:
        """Every PackageChange, in the order of their names."""
        found = []
        async for page in self.store.read_all():
            found += [orjson.loads(each.value) for each in page.changes if each.kind is Kind.CHANGE and each.value]
        return sorted(found, key=lambda change: str(change["metadata"]["name"]))

    async def told(self) -> list[str]:
        """The summary of every PackageChange, in order."""
        return [change["spec"]["summary"] for change in await self.changes()]

    async def content(self, name: str) -> dict[str, bytes]:
        """The files of a served revision, by path."""
        digest = Digest((await self.objects())[name]["status"]["content"]["digest"])
        return untar(b"".join([piece async for piece in self.blobs.read(digest)]))

    async def events(self, since: int) -> Sequence[tuple[str, str]]:
        """What a watcher from `since` on sees up to now: ("put" or "gone", key below `served/`)."""
        found: list[tuple[str, str]] = []
        end = await self.store.tick()  # a mark that every etcd's watch delivers, trusted progress or not
        async with asyncio.timeout(10), self.store.follow(since) as follower:
            async for changes in follower:
                found += [
                    ("gone" if change.value is None else "put", change.key.decode().split("/served/")[1])
                    for change in changes.changes
                    if change.kind is not Kind.CHANGE
                ]
                if changes.revision >= end:
                    break
        return found

    async def history(self, since: int) -> History:
        """Of packages and revisions, up to now."""
        end = await self.store.current_revision()
        return await History.read(self.client, since, end, ("packages", "packagerevisions"))


W = TypeVar("W", bound=World)


@asynccontextmanager
async def opened(client: Client, home: Path, made: Callable[[Client, SyncServices, Path], W]) -> AsyncIterator[W]:
    """A world on an etcd whose keys of ours are deleted before. made: World, or a test's own kind of it."""
    await client.connect()
    await client.delete(PREFIX, prefix_end(PREFIX))
    store = Store(client)
    await store.open()
    scratch = home / "scratch"
    scratch.mkdir()
    async with Workers(2) as workers:
        world = made(client, SyncServices(store, Blobs(client), workers, scratch), home)
        try:
            yield world
        finally:
            await world.aclose()


@asynccontextmanager
async def running(ingest: Ingest) -> AsyncIterator[None]:
    """All that it ingests goes on until the block ends."""
    task = asyncio.create_task(ingest.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
