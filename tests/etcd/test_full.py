"""A full etcd: what goes on, what waits, what is said, and that all of it recovers once somebody makes room.

Real etcd with a small quota, freed by the documented remedy. With a server around it: tests/e2e/test_etcd_faults.py.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cacheserver.errors import NoSpace
from cacheserver.etcd.client import Client, prefix_end
from cacheserver.etcd.version import Version
from cacheserver.ingest import Ingest, ServedStatusStore
from cacheserver.ingest.space import Space
from cacheserver.model import RepositoryKey
from cacheserver.store.objects import Store
from tests.conftest import StartEtcd
from tests.etcd.test_life import SOURCE, files
from tests.fakes.source import FakeSource
from tests.support.etcd import EtcdProcess
from tests.support.waiting import eventually
from tests.support.world import World, opened, running

pytestmark = pytest.mark.etcd

JUNK = b"/junk/"
_FENCED_DELETES = Version(3, 5, 7)
"""etcd #14884: before, a full etcd refuses every transaction; now, those that put."""


@pytest.fixture
def etcd(start_etcd: StartEtcd) -> EtcdProcess:
    return start_etcd("--quota-backend-bytes=3000000")


@pytest.fixture
async def client(etcd: EtcdProcess) -> AsyncIterator[Client]:
    async with Client([etcd.endpoint]) as client:
        yield client


@pytest.fixture
async def world(client: Client, tmp_path: Path) -> AsyncIterator[World]:
    async with opened(client, tmp_path, World) as world:
        world.spec = SOURCE
        yield world


def ingest(world: World) -> Ingest:
    return Ingest(world.services, ServedStatusStore(world.store), space=Space(ask_every_s=0.05))


async def fill(client: Client) -> None:
    """Until etcd raises its alarm."""
    with pytest.raises(NoSpace):
        await _put_junk(client)


async def _put_junk(client: Client) -> None:
    for number in range(100):
        await client.put(JUNK + b"%d" % number, b"x" * 400_000)


async def make_room(client: Client) -> None:
    """What README's troubleshooting tells to do: delete, compact, defragment, disarm."""
    await client.delete(JUNK, prefix_end(JUNK))
    await client.compact((await client.range(b"x")).revision, physical=True)
    await client.defragment()
    for alarm in await client.alarms():
        await client.disarm(alarm)


async def test_an_opened_store_is_opened_again_by_a_full_etcd(world: World, client: Client) -> None:
    await fill(client)
    await Store(client).open()


async def test_a_claim_that_is_held_needs_no_space(world: World, client: Client) -> None:
    async with world.store.session("a") as session:
        claim = await session.claim("ns/repo")
        await fill(client)
        assert await session.claim("ns/repo") == claim
        assert await world.store.holds(claim)
        with pytest.raises(NoSpace, match="compact, defragment, then disarm"):
            await session.claim("ns/other")


async def test_while_etcd_is_full_removed_repositories_go_and_new_ones_wait_for_room(
    world: World, client: Client, etcd: EtcdProcess
) -> None:
    at_work, old, new = ingest(world), FakeSource(files("1.0.0")), FakeSource(files("2.0.0"))
    at_work.put(world.config("old"), lambda: old)
    async with running(at_work):
        await eventually(lambda: world.says("Synced", "old"))
        lease = await _leases(client)
        await fill(client)
        at_work.put(world.config("new"), lambda: new)
        at_work.remove(RepositoryKey("ns", "old"))
        if etcd.version >= _FENCED_DELETES:
            await eventually(lambda: _gone(world, "old"))
        await eventually(lambda: at_work.space.trouble is not None)
        assert await _leases(client) == lease, "the lease outlives what was refused"
        await make_room(client)
        await eventually(lambda: world.says("Synced", "new"), within_s=20)
        await eventually(lambda: _gone(world, "old"))
        assert at_work.space.trouble is None
        assert await _leases(client) == lease


async def test_while_etcd_is_full_packages_that_went_are_deleted_and_those_that_came_wait(
    world: World, client: Client, etcd: EtcdProcess
) -> None:
    if etcd.version < _FENCED_DELETES:
        pytest.skip("this etcd refuses every transaction when it is full")
    source, at_work = FakeSource({**files("1.0.0"), **_other("gone")}), ingest(world)
    at_work.put(world.config(), lambda: source)
    async with running(at_work):
        await eventually(lambda: world.says("Synced"))
        await fill(client)
        source.files = {**files("1.0.0"), **_other("came")}
        at_work.request_sync()
        await eventually(lambda: _packages_are(world, {"app"}))
        await make_room(client)
        await eventually(lambda: _packages_are(world, {"app", "came"}), within_s=20)
        await eventually(lambda: world.says("Synced"))


async def test_an_ingestion_that_begins_on_a_full_etcd_goes_on_when_there_is_room(world: World, client: Client) -> None:
    source, at_work = FakeSource(files("1.0.0")), ingest(world)
    await fill(client)
    at_work.put(world.config(), lambda: source)
    async with running(at_work):
        await eventually(lambda: at_work.space.trouble is not None)
        await make_room(client)
        await eventually(lambda: world.says("Synced"), within_s=20)
        assert at_work.space.trouble is None


async def test_after_a_restart_on_a_full_etcd_removed_repositories_go_but_not_those_that_somebody_holds(
    world: World, client: Client, etcd: EtcdProcess
) -> None:
    """No lease is granted, and so no claim: deletes are fenced by there being none."""
    if etcd.version < _FENCED_DELETES:
        pytest.skip("this etcd refuses every transaction when it is full")
    before = ingest(world)
    for name in ("old", "held"):
        before.put(world.config(name), lambda: FakeSource(files("1.0.0")))
    async with running(before):
        await eventually(lambda: world.says("Synced", "old"))
        await eventually(lambda: world.says("Synced", "held"))
    async with world.store.session("another") as another:
        held = await another.claim("ns/held")
        await fill(client)
        after, forgotten = ingest(world), set[str]()

        async def done(name: str) -> None:
            forgotten.add(name)

        for name in ("held", "old"):
            after.put(world.config(name), lambda: FakeSource(files("1.0.0")))
            after.remove(RepositoryKey("ns", name), done=functools.partial(done, name))
        async with running(after):
            await eventually(lambda: _gone(world, "old"))
            assert not await _gone(world, "held")
            assert forgotten == set(), "the rest waits for a claim"
            await make_room(client)
            await eventually(lambda: forgotten == {"old"}, within_s=30)
            await another.release(held)
            await eventually(lambda: _gone(world, "held"), within_s=20)
            await eventually(lambda: forgotten == {"old", "held"})


async def test_after_a_restart_on_a_full_etcd_packages_that_went_are_deleted_and_nothing_is_put(
    world: World, client: Client, etcd: EtcdProcess
) -> None:
    """As above: no lease, no claim. Nothing goes of one that somebody holds, nor of a source that is empty by now."""
    if etcd.version < _FENCED_DELETES:
        pytest.skip("this etcd refuses every transaction when it is full")
    before, names = ingest(world), ("repo", "held", "empty")
    sources = {name: FakeSource({**files("1.0.0"), **_other("gone")}) for name in names}
    for name, source in sources.items():
        before.put(world.config(name), functools.partial(_same, source))
    async with running(before):
        for name in names:
            await eventually(functools.partial(world.says, "Synced", name))
    async with world.store.session("another") as another:
        held = await another.claim("ns/held")
        await fill(client)
        after = ingest(world)
        for name, source in sources.items():
            source.files = {**files("1.0.0"), **_other("came")} if name != "empty" else {}
            after.put(world.config(name), functools.partial(_same, source))
        async with running(after):
            await eventually(lambda: _packages_are(world, {"app"}))
            await eventually(lambda: sources["empty"].fetched > 1)
            revision = (await client.range(b"x")).revision
            assert await _packages_are(world, {"app", "gone"}, "held")
            assert await _packages_are(world, {"app", "gone"}, "empty")
            fetched = sources["repo"].fetched
            after._shrinking.begin(after._tracked)  # as at each try to get a lease
            await eventually(lambda: after._shrinking.idle)
            assert sources["repo"].fetched == fetched, "a source is read once in its interval"
            assert (await client.range(b"x")).revision == revision
            await make_room(client)
            await eventually(lambda: _packages_are(world, {"app", "came"}), within_s=30)
            assert await _packages_are(world, {"app", "gone"}, "held")
            await another.release(held)
            await eventually(lambda: _packages_are(world, {"app", "came"}, "held"), within_s=20)


async def test_a_suspended_repository_whose_status_finds_no_space_stops_nobody(world: World, client: Client) -> None:
    source, at_work = FakeSource(files("1.0.0")), ingest(world)
    at_work.put(world.config(), lambda: source)
    async with running(at_work):
        await eventually(lambda: world.says("Synced"))
        lease = await _leases(client)
        await fill(client)
        at_work.put(world.config(suspend=True), lambda: source)
        await eventually(lambda: at_work.space.trouble is not None)
        await make_room(client)
        await eventually(lambda: world.says("Suspended"), within_s=20)
        assert await _leases(client) == lease


async def _leases(client: Client) -> set[int]:
    """Of the claims there are."""
    found = await client.range(b"/cacheserver/v1/claim/", prefix_end(b"/cacheserver/v1/claim/"))
    return {kv.lease for kv in found.key_values}


async def _gone(world: World, name: str) -> bool:
    return RepositoryKey("ns", name) not in await world.store.repositories()


async def _packages_are(world: World, expected: set[str], name: str = "repo") -> bool:
    return set(await world.store.served_keys(RepositoryKey("ns", name))) == expected


def _same(source: FakeSource) -> FakeSource:
    return source


def _other(package: str) -> dict[str, bytes]:
    """A catalog of one package of that name."""
    return {f"{package}/catalog.json": files("1.0.0")["app/catalog.json"].replace(b'"app', b'"' + package.encode())}
