"""What doors know of published catalogs: as etcd has it, also of what happened while etcd was away."""

from __future__ import annotations

from cacheserver.config import Door
from cacheserver.model import RepositoryKey
from tests.fakes.published import NAMESPACE, lines, published
from tests.support.waiting import eventually

KEPT, GONE, NEW = (RepositoryKey(NAMESPACE, name) for name in ("kept", "gone", "new"))


def documents(name: str, text: str = "") -> dict[str, list[dict[str, str]]]:
    return {name: [{"schema": "olm.package", "name": name, "text": text}]}


async def test_what_changed_or_went_while_etcd_was_away_is_known_and_told() -> None:
    async with published() as world:
        for key in (KEPT, GONE):
            world.publish(key.name, documents(key.name))
        await world.settled()
        assert None not in (world.catalogs.get(KEPT), world.catalogs.get(GONE))
        changes = world.catalogs.changes()
        assert {await anext(changes), await anext(changes)} == {KEPT, GONE}
        world.records.break_off()
        await eventually(lambda: not world.records.followed)
        world.records.forget(GONE)
        world.publish("kept", documents("kept", "another"))
        world.publish("new", documents("new"))
        await eventually(lambda: world.catalogs.get(GONE) is None)
        await world.settled()
        assert {await anext(changes) for _ in range(3)} == {KEPT, GONE, NEW}
        found = world.catalogs.get(KEPT)
        assert found is not None
        assert (
            await world.catalogs.lines(found, found.packages[0])
            == lines(documents("kept", "another")["kept"]).splitlines()
        )


async def test_a_catalog_of_thousands_of_packages_is_decoded_before_anybody_asks() -> None:
    async with published() as world:
        many = {name: documents(name)[name] for name in (f"package-{at}" for at in range(3000))}
        world.open(KEPT, Door.CATALOG)
        large = world.publish("kept", many)
        small = world.publish("new", documents("new"))
        await eventually(lambda: world.catalogs.known)
        await eventually(lambda: NEW in world.catalogs._values)
        assert world.catalogs._decoded == {KEPT: large}
        assert (world.catalogs.get(KEPT), world.catalogs.get(NEW)) == (large, small)
