"""After an upgrade that makes other objects of the same source: all of them are made anew, in front of watchers.

Two releases are two values of SyncServices.release; what the older one made is written into etcd by hand.
"""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from cacheserver.config import Validation
from cacheserver.ingest import Outcome
from cacheserver.model import Key, Kind, Record
from tests.support.world import KEY, World

pytestmark = pytest.mark.etcd


async def made_by_an_older_release(world: World, package: str, revision: str) -> None:
    """The revision as a release would have served it that knew no labels and another status."""
    assert world.claim is not None
    key = Key(Kind.REVISION, KEY.namespace, KEY.name, package, revision)
    served = await world.store.read_object(key)
    assert served is not None
    manifest = orjson.loads(served.value)
    old = Record(key, {}, orjson.dumps(manifest["spec"]), b'{"old":true}')
    assert await world.store.put(world.claim, old, served) is not None


async def test_another_release_rewrites_what_it_makes_otherwise_and_nothing_else(world: World) -> None:
    """The source is a digest that never moves: nothing but the release is new."""
    world.files.package("app", "1.0.0", "1.1.0").package("db", "2.0.0")
    world.services = replace(world.services, release="1")
    await world.sync()
    right = await world.objects()
    await made_by_an_older_release(world, "app", "1.1.0")
    since = await world.store.current_revision()
    assert (await world.sync()).outcome is Outcome.UNCHANGED
    world.services = replace(world.services, release="2")
    report = await world.sync()
    assert (report.outcome, report.changed, report.added, report.deleted) == (Outcome.APPLIED, 1, 0, 0)
    assert await world.events(since) == [("put", "packagerevisions/ns/repo/app/1.1.0")]
    assert await world.objects() == right
    assert (await world.sync()).outcome is Outcome.UNCHANGED


async def test_a_refused_catalog_is_compared_whole_once_it_is_right_under_another_release(world: World) -> None:
    """What is known of a refused catalog is what the older release knew: it tells nothing of what is to be made."""
    world.files.package("app", "1.0.0").package("db", "2.0.0")
    world.services = replace(world.services, release="1")
    await world.sync(validation=Validation.STRICT)
    right = await world.objects()
    await made_by_an_older_release(world, "app", "1.0.0")
    world.services = replace(world.services, release="2")
    world.files.package("bad", "not-a-version")
    assert (await world.sync(validation=Validation.STRICT)).outcome is Outcome.HELD
    world.files.without("bad")
    assert (await world.sync(validation=Validation.STRICT)).changed == 1
    assert await world.objects() == right
