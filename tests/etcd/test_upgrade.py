"""Packages that take a newer revision of what they were cloned from: over HTTP, with real git and a real etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import invariants
from tests.support.whole import Whole, whole_world

pytestmark = pytest.mark.etcd

DEPLOYMENT = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  replicas: {n}\n"


@pytest.fixture
async def world(etcd_endpoint: str, tmp_path: Path) -> AsyncIterator[Whole]:
    """A blueprint of two versions, and a clone of the first that is published."""
    async with whole_world(etcd_endpoint, tmp_path, ("blueprints", "edge")) as world:
        assert (await world.create("web", "w1", "blueprints")).status == 201
        await world.save("blueprints.web.w1", {"web.yaml": DEPLOYMENT.replace("{n}", "1"), "old.txt": "1"})
        await world.publish("blueprints.web.w1")
        await world.create("web", "w2", "blueprints", source={"copy": {"revision": "blueprints.web.w1"}})
        await world.save("blueprints.web.w2", {"web.yaml": DEPLOYMENT.replace("{n}", "2"), "old.txt": None})
        await world.publish("blueprints.web.w2")
        clone = await world.create("site", "w1", source={"clone": {"revision": "blueprints.web.w1"}})
        assert clone.status == 201, clone.body
        await world.publish("edge.site.w1")
        yield world


async def upgrade(world: Whole, workspace: str = "w2", package: str = "site", **how: str) -> Any:
    given = {"to": "blueprints.web.w2", "strategy": "fast-forward", **how}
    return await world.create(package, workspace, source={"upgrade": {k: v for k, v in given.items() if v}})


async def texts(world: Whole, name: str) -> dict[str, str]:
    found: dict[str, str] = (await world.resources(name))["spec"]["resources"]
    return found


async def test_a_clone_that_nobody_changed_is_brought_forward_and_published(world: Whole) -> None:
    answer = await upgrade(world)
    assert answer.status == 201, answer.body
    assert answer.json["status"]["base"]["revision"] == "v1"
    files = await texts(world, "edge.site.w2")
    assert "replicas: 2" in files["web.yaml"]
    assert "old.txt" not in files
    lock = yaml.safe_load(files["Kptfile"])["upstreamLock"]["git"]
    assert (lock["ref"], lock["commit"]) == ("web/v2", world.refs("blueprints")["refs/tags/web/v2"])
    published = await world.publish("edge.site.w2")
    assert published["spec"]["revision"] == "v2"
    message = world.remotes["edge"].git("log", "-1", "--format=%B", "site/v2^2")
    assert '"type":"upgrade"' in message
    invariants.check(world.remotes["edge"], [("site", "v1", "w1"), ("site", "v2", "w2")])


async def test_changes_of_the_clone_are_named_or_given_up(world: Whole) -> None:
    await world.create("site", "own", source={"copy": {"revision": "edge.site.w1"}})
    await world.save("edge.site.own", {"mine.txt": "1"})
    await world.publish("edge.site.own")
    refused = await upgrade(world)
    assert (refused.status, refused.json["details"]["causes"][0]["field"]) == (422, "spec.source.upgrade.strategy")
    assert "modified: mine.txt;" in refused.json["message"]
    forced = await upgrade(world, strategy="force-delete-replace")
    assert forced.status == 201, forced.body
    assert "mine.txt" not in await texts(world, "edge.site.w2")


@pytest.mark.parametrize(
    ("how", "field", "said"),
    [
        ({"strategy": "resource-merge"}, "strategy", "is not supported yet; fast-forward, force-delete-replace are"),
        ({"strategy": "copy-merge"}, "strategy", "is not supported yet"),
        ({"strategy": "whatever"}, "strategy", "must be one of fast-forward, force-delete-replace"),
        ({"strategy": ""}, "strategy", "Required value"),
        ({"to": ""}, "to", "Required value"),
        ({"to": "blueprints.web.w9"}, "to", "there is no such package revision"),
        ({"to": "blueprints.web.main"}, "to", "and moves"),
        ({"from": "edge.site.w9"}, "from", "there is no such package revision"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_field(
    world: Whole, how: dict[str, str], field: str, said: str
) -> None:
    before = world.refs()
    refused = await upgrade(world, **how)
    assert refused.status == 422, refused.body
    assert [each["field"] for each in refused.json["details"]["causes"]] == [f"spec.source.upgrade.{field}"]
    assert said in refused.json["message"]
    assert (await world.ask("GET", "packagerevisions/edge.site.w2")).status == 404
    assert world.refs() == before


async def test_what_was_not_cloned_or_is_not_there_is_not_upgraded(world: Whole) -> None:
    absent = await upgrade(world, package="none")
    assert (absent.status, "no published revision" in absent.json["message"]) == (422, True)
    await world.create("plain")
    await world.publish("edge.plain.w1")
    plain = await upgrade(world, package="plain")
    assert (plain.status, "is served by no Repository" in plain.json["message"]) == (422, True)
    assert (await upgrade(world, package="plain", strategy="force-delete-replace")).status == 201


async def test_what_somebody_was_cloned_from_is_deleted_only_when_he_moved_on(world: Whole) -> None:
    assert (await world.move("DeletionProposed", "blueprints.web.w1")).status == 200
    before = world.refs("blueprints")
    for query in ({"dryRun": "All"}, {}):
        refused = await world.ask("DELETE", "packagerevisions/blueprints.web.w1", **query)  # type: ignore[arg-type]
        assert (refused.status, refused.json["reason"]) == (403, "Forbidden")
        assert "edge.site.w1 was cloned from it" in refused.json["message"]
    assert world.refs("blueprints") == before
    assert (await world.move("DeletionProposed", "edge.site.w1")).status == 200
    assert (await world.ask("DELETE", "packagerevisions/edge.site.w1")).status == 200
    assert (await world.ask("DELETE", "packagerevisions/blueprints.web.w1")).status == 200
    assert "refs/tags/web/v1" not in world.refs("blueprints")
