"""A whole server of packages in one process: the API over HTTP, ingest and publisher, on a real etcd and real git.

async with whole_world(etcd_endpoint, tmp_path) as world:
    await world.create("app")                      # as tests.support.writing
    await world.publish()
    assert "refs/tags/app/v1" in world.refs()
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from cacheserver.api import PROJECTIONS, Acceptor, Api, Shelf, make_server
from cacheserver.cache.watchcache import WatchCache
from cacheserver.catalogs.workers import Workers
from cacheserver.config import RepositoryConfig
from cacheserver.config.sources import GitRef, GitSource, RefKind
from cacheserver.etcd.client import Client, prefix_end
from cacheserver.ingest import Ingest, ServedStatusStore, SyncServices
from cacheserver.ingest.reading import open_for
from cacheserver.model import Format, RepositoryKey
from cacheserver.publish.author import Author
from cacheserver.publish.content import Content
from cacheserver.publish.create.git_clone import GitClones
from cacheserver.publish.git.publisher import Publisher
from cacheserver.publish.package import Limits
from cacheserver.sources import Access
from cacheserver.sources import Limits as SourceLimits
from cacheserver.store.authored import Authored
from cacheserver.store.blobs import Blobs
from cacheserver.store.keys import PREFIX
from cacheserver.store.objects import Store
from tests.fakes.api import Answer
from tests.fakes.feed import running as caching
from tests.support import invariants
from tests.support.gitserver import GitRepository
from tests.support.waiting import eventually
from tests.support.world import running
from tests.support.writing import World

_SLOW_S = 60.0
"""Several processes of git for each step, on a machine that is busy."""


@dataclass
class Whole(World):
    """remotes: the git repository behind each Repository."""

    remotes: dict[str, GitRepository] = None  # type: ignore[assignment]  # behind fields with defaults
    ingest: Ingest = None  # type: ignore[assignment]

    def refs(self, repository: str = "edge") -> dict[str, str]:
        return invariants.refs(self.remotes[repository])

    def sync(self) -> None:
        """Look at every source now."""
        self.ingest.request_sync()

    async def until(self, holds: Callable[[Any], bool], name: str = "edge.app.w1") -> Any:
        """The object, once it is there and `holds` of it."""
        found: Any = None

        async def there() -> bool:
            nonlocal found
            answer = await self.ask("GET", f"packagerevisions/{name}")
            found = answer.json
            return answer.status == 200 and holds(found)

        await eventually(there, within_s=_SLOW_S)
        return found

    async def gone(self, name: str) -> None:
        async def none() -> bool:
            return (await self.ask("GET", f"packagerevisions/{name}")).status == 404

        await eventually(none, within_s=_SLOW_S)

    async def rebase(self, name: str, body: object = None, *, dry_run: bool = False) -> Answer:
        path = f"packagerevisions/{name}/rebase"
        return await (self.ask("POST", path, body, dryRun="All") if dry_run else self.ask("POST", path, body))


async def _no_secrets(config: RepositoryConfig) -> Access:
    return Access()


@asynccontextmanager
async def whole_world(
    etcd_endpoint: str, home: Path, repositories: Sequence[str] = ("edge",), *, object_format: str = "sha1"
) -> AsyncIterator[Whole]:
    """Empty git repositories, all of which can be written to; drafts are pushed at once."""
    async with Client([etcd_endpoint]) as client, Workers(2) as workers:
        await client.connect()
        await client.delete(PREFIX, prefix_end(PREFIX))
        store, blobs, authored = Store(client), Blobs(client), Authored(client)
        await store.open()
        scratch = home / "scratch"
        scratch.mkdir()
        ingest = Ingest(
            SyncServices(store, blobs, workers, scratch),
            ServedStatusStore(store),
            publisher=Publisher(authored, blobs),
        )
        remotes = {}
        for name in repositories:
            remotes[name] = GitRepository(home / f"{name}.git", object_format=object_format)
            source = GitSource(remotes[name].url, GitRef(RefKind.BRANCH, "main"))
            key = RepositoryKey("team", name)
            config = RepositoryConfig(
                key, source, Format.KRM, deployment=name == "edge", writable=True, push_after_s=0.1
            )
            ingest.put(config, functools.partial(open_for, source, Format.KRM, cache=home / f"cache-{name}"))
        cache = WatchCache(store, PROJECTIONS)
        content = Content(blobs, workers, scratch, Limits())
        clones = GitClones(
            scratch,
            SourceLimits(),
            _no_secrets,
            is_local=lambda url: url in {each.url for each in remotes.values()},
            within_s=_SLOW_S,
        )
        author = Author(authored, content, Shelf(cache), ingest.repositories, answer_within_s=_SLOW_S, clones=clones)
        api = Api(cache, blobs, standalone=True, version="1.2.3", author=author)
        acceptor = Acceptor(make_server(api), None, pause_s=0.01)
        await acceptor.open("127.0.0.1", 0)
        url = f"http://127.0.0.1:{acceptor.addresses[0][1]}"
        try:
            async with (
                caching(cache),
                aiohttp.ClientSession(url, skip_auto_headers=("User-Agent",)) as session,
                running(ingest),
            ):
                yield Whole(client, authored, blobs, cache, author, {}, session, remotes=remotes, ingest=ingest)
        finally:
            await acceptor.close(within_s=0.1)
