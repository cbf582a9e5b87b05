"""What packages say of doors that show them one by one follows spec.publish, whether their source answers or not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from cacheserver.config import Door
from cacheserver.errors import LeaseLostError, NoSpace, SourceNetworkError
from cacheserver.model import ANNOTATION_SHOWN, Key, Kind, Record, Stored
from cacheserver.store.claims import Claim
from cacheserver.store.journal import Tells, silent
from cacheserver.store.keys import IngestState
from cacheserver.store.objects import Store
from tests.etcd.test_life import files
from tests.fakes.source import FakeSource
from tests.support.waiting import eventually
from tests.support.world import KEY, World, running

pytestmark = pytest.mark.etcd

BOTH = frozenset((Door.RUKPAK, Door.PACKAGE_MANIFEST))
REPOSITORY = Key(Kind.REPOSITORY, KEY.namespace, KEY.name)


async def shown(world: World) -> dict[str, tuple[str, bool]]:
    """Of each package: what its annotation says, and whether it has a manifest."""
    found: dict[str, tuple[str, bool]] = {}
    async for page in world.store.packages(KEY):
        for stored in page:
            manifest: dict[str, Any] = orjson.loads(stored.value)
            mark = manifest["metadata"].get("annotations", {}).get(ANNOTATION_SHOWN, "")
            found[stored.key.package] = mark, "manifest" in manifest["status"]
    return found


async def state(world: World) -> IngestState:
    found = await world.store.read_state(KEY)
    assert found is not None
    return found


@pytest.mark.parametrize("suspend", [False, True], ids=["source away", "suspended"])
async def test_what_is_published_no_more_is_told_without_its_source(world: World, suspend: bool) -> None:
    source, ingest = FakeSource(files("1.0.0")), world.ingest()
    ingest.put(world.config(publish=BOTH), lambda: source)
    async with running(ingest):
        await eventually(lambda: world.says("Synced"), within_s=60)
        assert await shown(world) == {"app": ("Rukpak", True)}
        source.error = SourceNetworkError("away")
        since = await world.store.current_revision()
        ingest.put(world.config(suspend=suspend), lambda: source)

        async def told() -> bool:
            return await shown(world) == {"app": ("", False)}

        await eventually(told, within_s=60)
        packages = [change for change in await world.events(since + 1) if change[1].startswith("packages/")]
        assert packages == [("put", f"packages/{KEY.namespace}/{KEY.name}/app")]
        # Published again before the source was read anew: its manifests are made again.
        source.error = None
        ingest.put(world.config(publish=BOTH), lambda: source)

        async def back() -> bool:
            return await shown(world) == {"app": ("Rukpak", True)}

        await eventually(back, within_s=60)


async def test_a_sync_writes_the_mark_and_one_that_finds_all_in_step_writes_nothing(world: World) -> None:
    world.files.package("app", "1.0.0").package("db", "1.0.0")
    await world.sync(publish=frozenset((Door.RUKPAK,)))
    assert await shown(world) == {"app": ("Rukpak", False), "db": ("Rukpak", False)}
    since = await world.store.current_revision()
    await world.sync(publish=frozenset((Door.RUKPAK,)))
    assert await world.store.current_revision() == since
    world.files.package("app", "1.0.0", "1.1.0")
    await world.sync(publish=frozenset((Door.RUKPAK,)))
    assert (await shown(world))["app"] == ("Rukpak", False)
    assert ("put", f"packages/{KEY.namespace}/{KEY.name}/db") not in await world.events(since + 1)


async def test_what_an_older_release_left_is_marked_without_a_fetch(world: World) -> None:
    """Its memory says nothing of doors, and neither do its packages."""
    world.files.package("app", "1.0.0")
    await world.sync()
    await world.store.put_state(await world.hold(), KEY, replace(await state(world), shown=""))
    report = await world.sync(publish=frozenset((Door.RUKPAK,)))
    assert report.outcome.value == "unchanged"
    assert await shown(world) == {"app": ("Rukpak", False)}
    assert (await state(world)).shown == "Rukpak"


class Dying(Store):
    """Its process dies when it is to write this package."""

    def __init__(self, world: World, package: str, error: Exception) -> None:
        super().__init__(world.client)
        self._package = package
        self._error = error

    async def put(self, claim: Claim, record: Record, previous: Stored | None, tells: Tells = silent) -> Stored | None:
        if record.key.package == self._package and record.key.kind is Kind.PACKAGE:
            raise self._error
        return await super().put(claim, record, previous, tells)


@pytest.mark.parametrize("error", [LeaseLostError("lost"), NoSpace("full")], ids=["killed", "full"])
async def test_cut_short_it_is_done_again(world: World, error: Exception) -> None:
    world.files.package("app", "1.0.0").package("db", "1.0.0").package("web", "1.0.0")
    await world.sync(publish=BOTH)
    whole = world.services
    world.services = replace(whole, store=Dying(world, "db", error))
    with pytest.raises(type(error)):
        await world.sync()
    assert await shown(world) != dict.fromkeys(("app", "db", "web"), ("", False))
    world.services = whole
    await world.sync()
    assert await shown(world) == dict.fromkeys(("app", "db", "web"), ("", False))
    await world.sync(publish=BOTH)
    assert {mark for mark, _ in (await shown(world)).values()} == {"Rukpak"}


async def test_in_a_cluster_a_repository_is_here_while_views_of_it_are_shown(world: World) -> None:
    world.files.package("app", "1.0.0")
    world.services = replace(world.services, from_cluster=True)
    await world.sync()
    assert await world.store.read_object(REPOSITORY) is None
    await world.sync(publish=frozenset((Door.RUKPAK,)))
    found = await world.store.read_object(REPOSITORY)
    assert found is not None
    assert orjson.loads(found.value)["spec"]["publish"] == ["Rukpak"]
    since = await world.store.current_revision()
    await world.sync(publish=frozenset((Door.RUKPAK,)))
    assert await world.store.current_revision() == since
    await world.sync()
    assert await world.store.read_object(REPOSITORY) is None
