"""PackageManifests from the word that publishes them to the objects in etcd: made, changed and taken back by syncs."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from cacheserver.config import Door, RepositoryConfig
from cacheserver.model import ANNOTATION_DISPLAY_NAME, Digest, Key, Kind
from tests.etcd.test_life import files
from tests.fakes.source import FakeSource
from tests.support.waiting import eventually
from tests.support.world import World, running

pytestmark = pytest.mark.etcd

PUBLISHED = frozenset({Door.PACKAGE_MANIFEST})


async def manifest(world: World, config: RepositoryConfig) -> dict[str, Any] | None:
    """`status.manifest` of the one package; None where it has none, or is not there yet."""
    stored = await world.store.read_object(Key(Kind.PACKAGE, config.key.namespace, config.key.name, "app"))
    found: dict[str, Any] | None = orjson.loads(stored.value)["status"].get("manifest") if stored else None
    return found


async def test_manifests_come_and_go_with_the_word_that_publishes_them(world: World) -> None:
    source, ingest = FakeSource(files("1.0.0")), world.ingest()
    plain = world.config()
    named = world.config(publish=PUBLISHED, annotations={ANNOTATION_DISPLAY_NAME: "Shop"})
    ingest.put(plain, lambda: source)
    async with running(ingest):
        await eventually(lambda: world.says("Synced"))
        assert await manifest(world, plain) is None
        ingest.put(named, lambda: source)

        async def shown() -> bool:
            return (await manifest(world, plain) or {}).get("displayName") == "Shop"

        await eventually(shown)
        made = await manifest(world, plain)
        assert made is not None
        content = b"".join([piece async for piece in world.blobs.read(Digest(made["digest"]))])
        assert [each["currentCSV"] for each in orjson.loads(b"{" + content)["channels"]] == ["app.v1.0.0"]
        assert made["digest"] in await world.store.referenced_blobs()

        source.files = files("1.0.0", "1.1.0")
        ingest.request_sync()

        async def changed() -> bool:
            return bool((await manifest(world, plain) or made)["digest"] != made["digest"])

        await eventually(changed)
        ingest.put(plain, lambda: source)

        async def gone() -> bool:
            return await manifest(world, plain) is None

        await eventually(gone)


async def test_an_unchanged_catalog_is_read_once_for_its_manifests(world: World) -> None:
    source, ingest = FakeSource(files("1.0.0")), world.ingest()
    ingest.put(config := world.config(publish=PUBLISHED, interval_s=0.02), lambda: source)
    async with running(ingest):
        await eventually(lambda: world.says("Synced"))
        assert await manifest(world, config) is not None
        fetched, since, asked = source.fetched, await world.store.current_revision(), source.asked
        await eventually(lambda: source.asked > asked + 3)
        assert source.fetched == fetched
        assert await world.store.current_revision() == since
