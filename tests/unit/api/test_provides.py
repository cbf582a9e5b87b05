"""Who provides a kind, and who is in a channel: selected in lists, and watched while it changes."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from cacheserver.catalogs import bounds
from cacheserver.model import Kind
from tests.fakes.api import World

MONITOR = {"group": "monitoring.coreos.com", "version": "v1", "kind": "ServiceMonitor"}
RULE = {"group": "monitoring.coreos.com", "version": "v1beta1", "kind": "Rule"}
POD = {"group": "", "version": "v1", "kind": "Pod"}


@pytest.fixture
async def providers(world: World) -> World:
    world.package("one", providedAPIs=[MONITOR, RULE], channels=[{"name": "stable"}, {"name": "fast"}])
    world.package("two", providedAPIs=[MONITOR], channels=[{"name": "stable"}])
    world.package("three", providedAPIs=[POD])
    world.package("none")
    await world.settled()
    return world


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("status.provides=ServiceMonitor.monitoring.coreos.com", ["r.one", "r.two"]),
        ("status.provides=ServiceMonitor.v1.monitoring.coreos.com", ["r.one", "r.two"]),
        ("status.provides=ServiceMonitor.v2.monitoring.coreos.com", []),
        ("status.provides=Rule.monitoring.coreos.com,status.provides=ServiceMonitor.monitoring.coreos.com", ["r.one"]),
        ("status.provides!=ServiceMonitor.monitoring.coreos.com", ["r.none", "r.three"]),
        ("status.provides=Pod", ["r.three"]),
        ("status.provides=Pod.v1", ["r.three"]),
        ("status.provides=", ["r.none"]),
        ("status.channels=stable", ["r.one", "r.two"]),
        ("status.channels=stable,status.channels!=fast", ["r.two"]),
        ("status.channels=stable\\,fast", []),
        ("status.provides=Rule.monitoring.coreos.com\nServiceMonitor.monitoring.coreos.com", []),
    ],
)
async def test_packages_are_selected_by_any_of_their_values(
    providers: World, selector: str, expected: list[str]
) -> None:
    assert (await providers.get("packages", fieldSelector=selector)).names == expected


async def test_revisions_are_selected_by_what_they_provide_and_where_they_are(world: World) -> None:
    world.revision("1.0.0", providedAPIs=[MONITOR], channels=[{"name": "stable"}])
    world.revision("2.0.0", providedAPIs=[MONITOR, RULE], channels=[{"name": "fast"}])
    await world.settled()
    selector = "status.provides=ServiceMonitor.monitoring.coreos.com,status.channels=fast"
    assert (await world.get("packagerevisions", fieldSelector=selector)).names == ["r.app.2.0.0"]
    refused = await world.get("packagerevisionresources", fieldSelector=selector)
    assert refused.status == 400


def many(extra: str) -> dict[str, Any]:
    """The status of what provides 10,000 kinds, as it is stored: by `extra` and after all others in every order."""
    kinds = [*(f"Kind{at:05}" for at in range(9_999)), extra]
    apis = [{"group": "z.example.com", "version": "v1", "kind": kind} for kind in kinds]
    return bounds.fitted({"providedAPIs": apis}, ("providedAPIs",), (), bounds.DEFAULT)


async def test_what_is_cut_is_found_by_all_that_it_provides(world: World) -> None:
    last = "status.provides=Zebra.z.example.com"
    status = many("Zebra")
    assert status["truncated"] == ["providedAPIs"]
    assert "Zebra" not in str(status["providedAPIs"])
    assert len(orjson.dumps(status)) < bounds.DEFAULT.record_bytes
    for name, each in (("huge", status), ("other", many("Other"))):  # alike but for what was cut
        world.package(name, **each)
    world.revision("1.0.0", **many("Other"))
    world.revision("2.0.0", **status)
    needy = {"packageName": "needy", "repository": "r", "revision": "1.0.0", "lifecycle": "Published"}
    wanted = {"requiredAPIs": [{"group": "z.example.com", "version": "v1", "kind": "Zebra"}]}
    world.feed.put("team", "r.needy.1.0.0", kind=Kind.REVISION, spec=orjson.dumps(needy), status=orjson.dumps(wanted))
    await world.settled()
    assert (await world.get("packages", fieldSelector=last)).names == ["r.huge"]
    assert (await world.get("packages", fieldSelector="status.provides=Kind09998.z.example.com")).names == [
        "r.huge",
        "r.other",
    ]
    assert (await world.get("packagerevisions", fieldSelector=last)).names == ["r.app.2.0.0"]
    answer = await world.get("namespaces/team/packagerevisions/r.needy.1.0.0/dependencies")
    (requirement,) = answer.json["status"]["requirements"]
    assert [each["name"] for each in requirement["satisfiedBy"]] == ["r.app.2.0.0"]


async def test_a_watch_sees_who_begins_and_ceases_to_provide(providers: World) -> None:
    selector = "status.provides=Rule.monitoring.coreos.com"
    version = (await providers.get("packages")).json["metadata"]["resourceVersion"]
    async with providers.watch(fieldSelector=selector, resourceVersion=version) as lines:
        providers.package("none", providedAPIs=[RULE])
        providers.package("two", providedAPIs=[MONITOR, POD])
        providers.package("one", providedAPIs=[MONITOR])
        providers.package("none", providedAPIs=[RULE, POD])
        providers.feed.delete("team", "r.none")
        events = [(event["type"], event["object"]["metadata"]["name"]) for event in await lines.take(4)]
    assert events == [
        ("ADDED", "r.none"),
        ("DELETED", "r.one"),
        ("MODIFIED", "r.none"),
        ("DELETED", "r.none"),
    ]


async def test_a_selector_of_256_kinds_is_answered(providers: World) -> None:
    terms = ",".join(f"status.provides!=K{at}.io" for at in range(255))
    answer = await providers.get("packages", fieldSelector=f"{terms},status.provides=Pod")
    assert answer.names == ["r.three"]
