"""An etcd that an older release wrote becomes one of this release's layout, in front of readers, whatever is killed.

fixtures/layout1.json: every key that the release of layout 1 wrote for a catalog of a renamed bundle and two releases.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from cacheserver.catalogs.workers import Workers
from cacheserver.errors import ConfigError, NoSpace
from cacheserver.etcd.client import Client, prefix_end
from cacheserver.ingest import Ingest, ServedStatusStore, SyncServices
from cacheserver.model import Key, Kind, RepositoryKey, Stored
from cacheserver.store.blobs import Blobs
from cacheserver.store.keys import PREFIX
from cacheserver.store.migrate import LAYOUT_VERSION, Migrated
from cacheserver.store.objects import Store

pytestmark = pytest.mark.etcd

FIXTURE = Path(__file__).parent.parent / "fixtures" / "layout1.json"
REPOSITORY = RepositoryKey("ns", "repo")
REVISIONS = {("lamp", "1.0.0"), ("lamp", "1.1.0"), ("socket", "1.0.0/1"), ("socket", "1.0.0/2")}
LAYOUT = PREFIX + b"layout"
SERVED_LAMP = PREFIX + b"served/packagerevisions/ns/repo/lamp/"


class KilledError(Exception):
    pass


class MortalClient(Client):
    """Dies with the n-th transaction from now: before etcd has it, or behind it."""

    lives: int | None = None
    answered = False
    full = False

    async def txn(self, *args: Any, **named: Any) -> Any:
        if self.full:
            raise NoSpace("etcdserver: mvcc: database space exceeded")
        if self.lives == 0 and not self.answered:
            raise KilledError
        answer = await super().txn(*args, **named)
        if self.lives == 0:
            raise KilledError
        if self.lives is not None:
            self.lives -= 1
        return answer


@pytest.fixture
async def client(etcd_endpoint: str) -> AsyncIterator[MortalClient]:
    async with MortalClient([etcd_endpoint]) as client:
        await client.connect()
        yield client


@pytest.fixture
async def store(client: MortalClient) -> Store:
    await written_by_layout_1(client)
    store = Store(client)
    await store.open()
    return store


async def written_by_layout_1(client: MortalClient) -> None:
    client.lives = None
    await client.delete(PREFIX, prefix_end(PREFIX))
    for entry in orjson.loads(FIXTURE.read_bytes()):
        value = entry["text"].encode() if "text" in entry else base64.b64decode(entry["base64"])
        await client.put(entry["key"].encode(), value)


async def migrate(store: Store, *, patience_s: float = 20) -> Migrated:
    async with store.session("test") as session:
        return await store.migrate(session, patience_s=patience_s)


async def served(store: Store) -> dict[Key, Stored]:
    packages = await store.served_keys(REPOSITORY)
    return {key: stored for name in packages for key, stored in (await store.read_package(REPOSITORY, name)).items()}


async def revisions(store: Store) -> set[tuple[str, str]]:
    return {(key.package, key.revision) for key in await served(store) if key.kind is Kind.REVISION}


async def layout(client: Client) -> bytes:
    return (await client.range(LAYOUT)).key_values[0].value


async def names_at(store: Store, revision: int) -> Sequence[str]:
    values = [change.value async for page in store.read_all(revision) for change in page.changes]
    return sorted(orjson.loads(value)["metadata"]["name"] for value in values if value)


async def test_every_revision_moves_to_the_key_of_its_name_and_nothing_else_changes(
    store: Store, client: MortalClient
) -> None:
    before = {stored.name: stored for stored in (await served(store)).values()}
    assert await revisions(store) & REVISIONS == set()
    state = await store.read_state(REPOSITORY)
    assert (await migrate(store)).moved == 4
    after = await served(store)
    assert {(key.package, key.revision) for key in after if key.kind is Kind.REVISION} == REVISIONS
    assert all(key.name == stored.name for key, stored in after.items())
    assert {stored.name: stored.value for stored in after.values()} == {n: s.value for n, s in before.items()}
    assert await store.read_state(REPOSITORY) == state
    assert await layout(client) == b"%d" % LAYOUT_VERSION


async def test_readers_see_every_name_once_at_every_moment(store: Store) -> None:
    start = await store.current_revision()
    names = await names_at(store, start)
    assert len(names) == 6
    await migrate(store)
    for revision in range(start, await store.current_revision() + 1):
        assert await names_at(store, revision) == names


async def test_a_second_start_has_nothing_to_do(store: Store) -> None:
    await migrate(store)
    revision = await store.current_revision()
    assert await migrate(store) == Migrated()
    # A lease is not a key: nothing at all was written.
    assert await store.current_revision() == revision


@pytest.mark.parametrize("answered", [False, True], ids=["unsent", "unanswered"])
async def test_killed_at_any_step_it_is_finished_by_the_next_start(
    store: Store, client: MortalClient, answered: bool
) -> None:
    steps, killed = 0, True
    client.answered = answered
    while killed:
        await written_by_layout_1(client)
        client.lives = steps
        try:
            async with store.session("killed") as session:
                await store.migrate(session, patience_s=20)
            killed = False
        except KilledError:
            client.lives = None
            await store.drop_claims()
            names = await names_at(store, 0)
            assert len(names) == 6
            await migrate(store)
        finally:
            client.lives = None
        assert await revisions(store) == REVISIONS
        assert await layout(client) == b"%d" % LAYOUT_VERSION
        steps += 1
    assert steps > 8


async def test_what_another_process_ingests_stays_until_it_lets_go(store: Store, client: MortalClient) -> None:
    async with store.session("older release") as other:
        await other.claim("ns/repo")
        assert await migrate(store, patience_s=0.2) == Migrated(0, [REPOSITORY])
        assert await layout(client) == b"1"
    assert (await migrate(store)).moved == 4
    assert await layout(client) == b"%d" % LAYOUT_VERSION


async def test_of_two_objects_of_one_name_the_newest_stays(store: Store, client: Client) -> None:
    """A bundle was renamed, and a server of the older release died before it deleted what had the former name."""
    bright = (await served(store))[Key(Kind.REVISION, "ns", "repo", "lamp", "bright")]
    newer = bright.value.replace(b"as ever", b"newer").replace(b'"revision":"bright"', b'"revision":"dim"')
    await client.put(SERVED_LAMP + b"dim", newer)
    assert (await migrate(store)).moved == 5
    assert await revisions(store) == REVISIONS
    assert (await served(store))[Key(Kind.REVISION, "ns", "repo", "lamp", "1.0.0")].value == newer


async def test_bundles_named_after_each_others_versions_end_under_their_own(store: Store, client: Client) -> None:
    """Two cannot change places in one transaction: one gives way until the next sync, and none has a wrong key."""
    here = await served(store)
    for old, other in (("bright", b"1.1.0"), ("lamp.v1.1.0", b"1.0.0")):
        stored = here[Key(Kind.REVISION, "ns", "repo", "lamp", old)]
        await client.delete(SERVED_LAMP + old.encode())
        await client.put(SERVED_LAMP + other, stored.value)
    await migrate(store)
    after = await served(store)
    assert all(key.name == stored.name for key, stored in after.items())
    assert len(after) == len(here) - 1


async def test_ingestion_migrates_before_it_syncs_and_a_full_etcd_keeps_nobody_from_it(
    store: Store, client: MortalClient, tmp_path: Path
) -> None:
    async with Workers(1) as workers:
        ingest = Ingest(SyncServices(store, Blobs(client), workers, tmp_path), ServedStatusStore(store))
        client.full = True
        await ingest.once(progress=lambda *_: None, on_report=lambda _: None, on_error=lambda *_: None)
        assert await layout(client) == b"1"
        client.full = False
        await ingest.once(progress=lambda *_: None, on_report=lambda _: None, on_error=lambda *_: None)
    assert await layout(client) == b"%d" % LAYOUT_VERSION
    assert await revisions(store) == REVISIONS


async def test_a_newer_layout_is_refused_by_name(store: Store, client: Client) -> None:
    await client.put(LAYOUT, b"3")
    with pytest.raises(ConfigError, match=r"layout 3, and this release of cacheserver reads 1 to 2: run the release"):
        await store.open()


async def test_an_empty_etcd_gets_this_layout(client: MortalClient) -> None:
    await client.delete(PREFIX, prefix_end(PREFIX))
    store = Store(client)
    await store.open()
    assert await layout(client) == b"%d" % LAYOUT_VERSION
    assert await migrate(store) == Migrated()
