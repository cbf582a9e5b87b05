"""Content that somebody deleted from etcd by hand: noticed, and brought back from the source."""

from __future__ import annotations

import pytest

from cacheserver.etcd.client import prefix_end
from cacheserver.ingest import Outcome
from cacheserver.model import Digest
from cacheserver.store.keys import PREFIX
from tests.support.world import KEY, World

pytestmark = pytest.mark.etcd


async def lose(world: World, digest: str) -> None:
    prefix = PREFIX + b"blob/" + digest.removeprefix("sha256:").encode() + b"/"
    assert await world.store._client.delete(prefix, prefix_end(prefix)) >= 2
    world.blobs._heads.clear()


async def content_of(world: World, name: str) -> Digest:
    return Digest((await world.objects())[name]["status"]["content"]["digest"])


async def test_a_missing_index_costs_a_comparison_and_no_sync(world: World) -> None:
    world.files.package("app", "1.0.0").package("db", "2.0.0")
    await world.sync()
    state = await world.store.read_state(KEY)
    assert state is not None
    await lose(world, state.index)
    world.files.package("db", "2.0.0", "2.1.0")
    report = await world.sync()
    assert (report.outcome, report.added) == (Outcome.APPLIED, 1)
    assert (await world.sync()).outcome is Outcome.UNCHANGED


async def test_content_of_a_changed_package_that_is_missing_is_stored_again(world: World) -> None:
    """Of its revision that did not change: known, so its document is not read again unless it has to be."""
    world.files.package("app", "1.0.0")
    await world.sync()
    digest = await content_of(world, "repo.app.1.0.0")
    await lose(world, digest)
    world.files.package("app", "1.0.0", "1.1.0")
    await world.sync()
    assert await world.blobs.head(digest) is not None
    assert b"".join([piece async for piece in world.blobs.read(digest)])


async def test_missing_content_of_a_source_that_does_not_move_is_noticed_and_brought_back(world: World) -> None:
    world.files.package("app", "1.0.0").package("db", "2.0.0")
    await world.sync()
    served, digest = await world.objects(), await content_of(world, "repo.app.1.0.0")
    assert (await world.blobs.collect(world.store)).lost == set()
    await lose(world, digest)
    found = await world.blobs.collect(world.store)
    assert found.lost == {digest}
    assert await world.store.forget_those_who_miss(found.lost) == [KEY]
    since = await world.store.current_revision()
    await world.sync()
    assert (await world.blobs.collect(world.store)).lost == set()
    assert b"".join([piece async for piece in world.blobs.read(digest)])
    assert await world.events(since) == [], "the objects never changed"
    assert await world.objects() == served
