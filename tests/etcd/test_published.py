"""What doors show of a repository: what its last finished sync left, and nothing in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import orjson
import pytest
import zstandard

from cacheserver.compat.catalogd.bodies import Bodies
from cacheserver.compat.catalogs import Catalogs, blobs_of
from cacheserver.config import Door, RepositoryConfig, Validation
from cacheserver.config.sources import GitRef, GitSource, RefKind
from cacheserver.errors import BlobMissingError, LeaseLostError, Unavailable
from cacheserver.etcd.client import Client, prefix_end
from cacheserver.ingest import Outcome
from cacheserver.ingest.removal import forget
from cacheserver.model import Digest, Kind, Record, RepositoryKey, Stored
from cacheserver.store import blobs as blobs_module
from cacheserver.store.blobs import Blobs
from cacheserver.store.claims import Claim
from cacheserver.store.journal import Tells, silent
from cacheserver.store.keys import PUBLISHED, ingest_key
from cacheserver.store.objects import Store
from cacheserver.store.published import PublishedCatalog
from tests.etcd.test_lost_content import lose
from tests.support.krm import KRMRepository
from tests.support.waiting import eventually
from tests.support.world import KEY, World

pytestmark = pytest.mark.etcd

LOOSE = orjson.dumps({"schema": "example.note", "text": "of no package"})


async def published(world: World) -> PublishedCatalog:
    found = await world.store.published.read(KEY)
    assert found is not None
    return found


def names(catalog: PublishedCatalog) -> list[str]:
    return [package.name for package in catalog.packages]


async def text(world: World, digest: str) -> bytes:
    return b"".join([piece async for piece in world.blobs.read(Digest(digest))])


class DyingStore(Store):
    """Its process dies when it is to write a package of this name."""

    def __init__(self, client: Client, dies_at: str) -> None:
        super().__init__(client)
        self.dies_at = dies_at

    async def put(self, claim: Claim, record: Record, previous: Stored | None, tells: Tells = silent) -> Stored | None:
        if record.key.kind is Kind.PACKAGE and record.key.package == self.dies_at:
            raise Unavailable("the process died")
        return await super().put(claim, record, previous, tells)


class CountingBlobs(Blobs):
    """Tells which content was read."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.asked: list[Digest] = []

    def read(self, digest: Digest) -> AsyncIterator[bytes]:
        self.asked.append(digest)
        return super().read(digest)


async def cut(world: World, dies_at: str) -> None:
    """A sync that writes some packages and then dies."""
    whole = world.services
    world.services = replace(whole, store=DyingStore(world.client, dies_at))
    with pytest.raises(Unavailable):
        await world.sync()
    world.services = whole


# --- what is written ---


async def test_documents_are_read_back_only_where_this_sync_did_not_parse_them(world: World) -> None:
    blobs = CountingBlobs(world.client)
    world.services = replace(world.services, blobs=blobs)
    world.files.package("db", "2.0.0").package("app", "1.0.0")
    await world.sync()
    assert blobs.asked == []
    await world.client.delete(PUBLISHED, prefix_end(PUBLISHED))
    blobs.asked.clear()
    world.files.package("new", "1.0.0")
    await world.sync()
    documents = {package.name: package.documents for package in (await published(world)).packages}
    assert {documents["db"], documents["app"]} <= {*blobs.asked}
    assert documents["new"] not in blobs.asked


async def test_a_sync_leaves_each_package_with_its_documents_and_those_of_no_package(world: World) -> None:
    world.files.package("db", "2.0.0").package("app", "1.0.0", "1.1.0").file("loose.json", LOOSE)
    await world.sync()
    catalog = await published(world)
    assert names(catalog) == ["app", "db"]
    objects = await world.objects()
    for package in catalog.packages:
        assert package.documents == objects[f"repo.{package.name}"]["status"]["documents"]["digest"]
        documents = await text(world, package.documents)
        assert (package.size, package.count) == (len(documents), len(documents.splitlines()))
    assert [package.count for package in catalog.packages] == [4, 3]
    assert await text(world, catalog.others) == LOOSE + b"\n"


async def test_a_sync_that_changes_nothing_writes_nothing_and_one_that_does_is_later(world: World) -> None:
    world.files.package("app", "1.0.0").package("db", "2.0.0")
    await world.sync()
    first = await published(world)
    (world.files.root / "db").rename(world.files.root / "moved")
    assert (await world.sync()).outcome is Outcome.APPLIED
    assert await published(world) == first
    seen = [first]
    for version in ("1.1.0", "1.2.0", "1.3.0"):  # within a second or two
        world.files.package("app", version)
        await world.sync()
        seen.append(await published(world))
    assert len({each.revision for each in seen}) == 4
    assert [each.changed for each in seen] == sorted({each.changed for each in seen})
    world.files.package("app", "1.0.0")
    await world.sync()
    again = await published(world)
    assert again.revision == first.revision
    assert again.changed > seen[-1].changed


async def test_packages_that_went_are_gone_and_a_repository_without_any_shows_nothing(world: World) -> None:
    world.files.package("app", "1.0.0").package("db", "2.0.0")
    await world.sync()
    world.files.without("app")
    await world.sync()
    assert names(await published(world)) == ["db"]
    world.files.without("db")
    await world.sync(allow_empty=True)
    assert await world.store.published.read(KEY) is None


async def test_a_broken_package_lacks_alone_and_one_that_was_good_stays_as_it_was(world: World) -> None:
    world.files.package("app", "1.0.0").package("db", "2.0.0")
    await world.sync()
    before = await published(world)
    broken = orjson.dumps({"schema": "olm.package", "name": "web", "defaultChannel": "none"})
    world.files.file("web/catalog.json", broken).file("app/more.json", broken.replace(b"web", b"app"))
    assert sorted((await world.sync()).rejected) == ["app", "web"]
    assert await published(world) == before


async def test_a_sync_that_was_cut_short_shows_nothing_and_keeps_what_is_shown(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs_module, "_COLLECT_AFTER_S", 0.0)
    world.files.package("app", "1.0.0").package("db", "2.0.0")
    await world.sync()
    before = await published(world)
    world.files.package("app", "1.1.0").package("db", "2.1.0").package("web", "1.0.0")
    await cut(world, dies_at="web")
    for _ in range(2):
        await world.blobs.collect(world.store)
    assert await published(world) == before
    assert await world.blobs.absent(before.blobs) == set()
    await world.sync()
    after = await published(world)
    assert names(after) == ["app", "db", "web"]
    for _ in range(2):
        await world.blobs.collect(world.store)
    assert await world.blobs.absent(before.blobs) == before.blobs
    assert await world.blobs.absent(after.blobs) == set()


async def test_a_catalog_that_is_refused_behind_a_cut_shows_what_was_shown_before(world: World) -> None:
    world.files.package("app", "1.0.0").package("db", "2.0.0")
    await world.sync()
    before = await published(world)
    world.files.package("app", "1.1.0").package("db", "2.1.0")
    await cut(world, dies_at="db")
    world.files.file("web/catalog.json", b"{")
    for _ in range(2):
        await world.sync(validation=Validation.STRICT)
        assert await published(world) == before


async def test_an_upgrade_shows_what_is_served_of_a_source_that_did_not_change(world: World) -> None:
    world.files.package("app", "1.0.0").file("loose.json", LOOSE)
    await world.sync()
    before = await published(world)
    await as_an_older_release_left_it(world)
    since = await world.store.current_revision()
    assert (await world.sync()).outcome is Outcome.UNCHANGED
    after = await published(world)
    assert replace(after, changed=before.changed) == before
    assert await world.events(since) == []
    revision = await world.store.current_revision()
    assert (await world.sync()).outcome is Outcome.UNCHANGED
    assert await world.store.current_revision() <= revision + 1  # the tick of events()


async def test_an_upgrade_whose_documents_were_lost_reads_the_source_again(world: World) -> None:
    world.files.package("app", "1.0.0")
    await world.sync()
    before = await published(world)
    await as_an_older_release_left_it(world)
    await lose(world, before.packages[0].documents)
    with pytest.raises(BlobMissingError):
        await world.sync()
    assert (await world.sync()).outcome is Outcome.APPLIED
    assert (await published(world)).revision == before.revision
    assert await world.blobs.absent(before.blobs) == set()


async def as_an_older_release_left_it(world: World) -> None:
    await world.client.delete(PUBLISHED + b"ns/repo")
    [state] = (await world.client.range(ingest_key(KEY))).key_values
    said = orjson.loads(state.value)
    del said["published"]
    await world.client.put(ingest_key(KEY), orjson.dumps(said))


async def test_packages_of_resources_are_shown_by_no_door(world: World) -> None:
    repository = KRMRepository(world.home / "repo.git")
    repository.package("a", "1")
    await world.sync(GitSource(repository.url, GitRef(RefKind.BRANCH, "main"), ""))
    assert "repo.a" in await world.objects()
    assert await world.store.published.read(KEY) is None


async def test_a_repository_that_is_removed_is_shown_no_more(world: World) -> None:
    world.files.package("app", "1.0.0")
    await world.sync()
    await forget(KEY, await world.hold(), world.store)
    assert await world.store.published.read(KEY) is None
    assert await world.store.repositories() == []


async def test_who_lost_the_claim_shows_nothing(world: World) -> None:
    world.files.package("app", "1.0.0")
    await world.sync()
    before, claim = await published(world), await world.hold()
    await world.client.delete(claim.key)
    with pytest.raises(LeaseLostError):
        await world.store.published.write(claim, replace(before, changed=before.changed + 1))
    with pytest.raises(LeaseLostError):
        await world.store.published.forget(claim, KEY)
    assert await published(world) == before


# --- what every replica has of it ---


class Replica:
    """What doors of one process read. configs: as its ingestion has them."""

    def __init__(self, world: World, *doors: Door) -> None:
        self.configs: dict[RepositoryKey, RepositoryConfig] = {}
        self.catalogs = Catalogs(world.store.published, world.blobs, self.configs)
        self._config = world.config()
        if doors:
            self.publish(*doors)

    def publish(self, *doors: Door) -> None:
        self.configs[KEY] = replace(self._config, publish=frozenset(doors))
        self.catalogs.note(KEY)

    async def shows(self, holds: Callable[[PublishedCatalog | None], bool]) -> None:
        await eventually(lambda: self.catalogs.known and holds(self.catalogs.get(KEY)))


@asynccontextmanager
async def running(*replicas: Replica) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(replica.catalogs.run()) for replica in replicas]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_every_replica_has_the_same_and_follows_what_changes(world: World) -> None:
    one, two = Replica(world, Door.CATALOG), Replica(world, Door.REGISTRY)
    world.files.package("app", "1.0.0")
    await world.sync()
    async with running(one, two):
        await one.shows(lambda found: found is not None and names(found) == ["app"])
        world.files.package("db", "1.0.0")
        await world.sync()
        latest = await published(world)
        for replica in (one, two):
            await replica.shows(lambda found: found == latest)
        await forget(KEY, await world.hold(), world.store)
        for replica in (one, two):
            await replica.shows(lambda found: found is None)


async def test_documents_are_read_as_lines_as_pieces_and_as_frames_that_join(world: World) -> None:
    world.files.package("app", "1.0.0", "1.1.0").package("db", "1.0.0").file("loose.json", LOOSE)
    await world.sync()
    replica = Replica(world, Door.CATALOG)
    async with running(replica):
        await replica.shows(lambda found: found is not None)
    catalog = replica.catalogs.get(KEY)
    assert catalog is not None
    lines = [await replica.catalogs.lines(catalog, package) for package in catalog.packages]
    assert [len(each) for each in lines] == [4, 3]
    everything = [*lines[0], *lines[1], *await replica.catalogs.other_lines(catalog)]
    bodies = Bodies(replica.catalogs.frames)
    sizes = await bodies.sizes(catalog)
    body = b"".join([piece async for piece in bodies.identity(sizes, 0, sum(size for _, size in sizes))])
    assert body == b"".join(line + b"\n" for line in everything)
    packed = b"".join([piece async for piece in bodies.zstd(catalog)])
    assert zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True).read() == body
    await lose(world, blobs_of(catalog)[1])
    again = b"".join([piece async for piece in bodies.zstd(catalog)])
    assert again == packed, "what was asked for a moment ago is kept"
    anew = Replica(world, Door.CATALOG)
    with pytest.raises(BlobMissingError):
        [piece async for piece in Bodies(anew.catalogs.frames).zstd(catalog)]


async def test_nothing_is_followed_until_a_repository_names_a_door(world: World) -> None:
    world.files.package("app", "1.0.0")
    await world.sync()
    replica = Replica(world)
    async with running(replica):
        replica.publish()
        await asyncio.sleep(0)
        assert not replica.catalogs.known
        assert replica.catalogs.published(Door.CATALOG) == []
        replica.publish(Door.CATALOG)
        await replica.shows(lambda found: found is not None)
    assert replica.catalogs.published(Door.CATALOG) == [KEY]
    assert replica.catalogs.published(Door.REGISTRY) == []


async def test_who_follows_changes_is_told_of_all_and_once_of_each_that_changed_meanwhile(world: World) -> None:
    replica, told = Replica(world, Door.CATALOG), asyncio.Queue[RepositoryKey]()

    async def listen() -> None:
        async for key in replica.catalogs.changes():
            await told.put(key)

    async with running(replica):
        await replica.shows(lambda found: found is None)
        listener = asyncio.create_task(listen())
        assert await told.get() == KEY
        world.files.package("app", "1.0.0")
        await world.sync()
        assert await told.get() == KEY
        assert replica.catalogs.get(KEY) is not None
        for _ in range(5):
            replica.publish()
            replica.publish(Door.CATALOG)
        assert await told.get() == KEY
        await asyncio.sleep(0)
        assert told.empty()
        listener.cancel()
