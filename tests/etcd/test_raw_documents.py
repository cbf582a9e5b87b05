"""The documents of packages in etcd: referred to, left alone, collected, and brought back."""

from __future__ import annotations

import orjson
import pytest

from cacheserver.ingest import Outcome
from cacheserver.model import Digest
from cacheserver.store import blobs as blobs_module
from tests.etcd.test_lost_content import lose
from tests.support.world import KEY, World

pytestmark = pytest.mark.etcd

LOOSE = orjson.dumps({"schema": "example.note", "text": "of no package"})


async def kept(world: World, package: str) -> Digest:
    return Digest((await world.objects())[f"repo.{package}"]["status"]["documents"]["digest"])


async def loose(world: World) -> Digest:
    state = await world.store.read_state(KEY)
    assert state is not None
    return Digest(state.documents)


async def read(world: World, digest: Digest) -> bytes:
    return b"".join([piece async for piece in world.blobs.read(digest)])


async def test_a_changed_package_keeps_other_documents_and_the_others_keep_theirs(world: World) -> None:
    world.files.package("app", "1.0.0").package("db", "2.0.0").file("loose.json", LOOSE)
    await world.sync()
    app, db, others = await kept(world, "app"), await kept(world, "db"), await loose(world)
    assert [orjson.loads(line)["schema"] for line in (await read(world, app)).splitlines()] == [
        "olm.package",
        "olm.channel",
        "olm.bundle",
    ]
    assert await read(world, others) == LOOSE + b"\n"
    world.files.package("app", "1.0.0", "1.1.0")
    await world.sync()
    assert await kept(world, "app") != app
    assert (await kept(world, "db"), await loose(world)) == (db, others)
    assert len((await read(world, await kept(world, "app"))).splitlines()) == 4


async def test_documents_go_when_nothing_refers_to_them_and_stay_as_long_as_something_does(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs_module, "_COLLECT_AFTER_S", 0.0)
    world.files.package("app", "1.0.0").package("db", "2.0.0").file("loose.json", LOOSE)
    await world.sync()
    gone = [await kept(world, "app"), await loose(world)]
    stay = await kept(world, "db")
    for _ in range(2):
        await world.blobs.collect(world.store)
    assert await world.blobs.absent([*gone, stay]) == set()
    world.files.without("app")
    (world.files.root / "loose.json").unlink()
    await world.sync()
    for _ in range(2):
        await world.blobs.collect(world.store)
    assert await world.blobs.absent([*gone, stay]) == set(gone)


@pytest.mark.parametrize("of_the_repository", [False, True])
async def test_documents_that_somebody_deleted_are_brought_back(world: World, of_the_repository: bool) -> None:
    world.files.package("app", "1.0.0").file("loose.json", LOOSE)
    await world.sync()
    digest = await loose(world) if of_the_repository else await kept(world, "app")
    before = await read(world, digest)
    await lose(world, digest)
    found = await world.blobs.collect(world.store)
    assert found.lost == {digest}
    assert await world.store.forget_those_who_miss(found.lost) == [KEY]
    assert (await world.sync()).outcome is Outcome.APPLIED
    assert await read(world, digest) == before


async def test_documents_of_the_repository_that_went_are_stored_by_the_next_change(world: World) -> None:
    world.files.package("app", "1.0.0").file("loose.json", LOOSE)
    await world.sync()
    digest = await loose(world)
    await lose(world, digest)
    world.files.package("app", "1.0.0", "1.1.0")
    await world.sync()
    assert await loose(world) == digest
    assert await read(world, digest) == LOOSE + b"\n"
