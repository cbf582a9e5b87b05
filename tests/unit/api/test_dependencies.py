"""packagerevisions/NAME/dependencies: what is needed, who gives it, and nothing of what the caller may not list."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import orjson
import pytest

from cacheserver.api import Identity
from cacheserver.api.attributes import Attributes
from cacheserver.api.needing import MOST_JUDGED, MOST_NAMES, MOST_NEEDS, MOST_WORK
from cacheserver.api.status import forbidden
from cacheserver.model import Kind
from tests.fakes.api import World, api_world

THING = {"group": "g.io", "version": "v1", "kind": "Thing"}
MISSING = {"group": "g.io", "version": "v2", "kind": "Thing"}
NEEDY = "namespaces/team/packagerevisions/r.needy.1.0.0/dependencies"


def put(
    world: World,
    package: str,
    version: str,
    *,
    namespace: str = "team",
    repository: str = "r",
    lifecycle: str = "Published",
    of: str = "FBC",
    **status: object,
) -> None:
    spec = {"repository": repository, "packageName": package, "revision": version, "version": version}
    spec |= {"lifecycle": lifecycle, "format": of}
    name = f"{repository}.{package}.{version}"
    world.feed.put(namespace, name, kind=Kind.REVISION, spec=orjson.dumps(spec), status=orjson.dumps(status))


def fill(world: World) -> None:
    constraint = {
        "failureMessage": "a fresh giver",
        "all": {"constraints": [{"gvk": THING}, {"cel": {"rule": "true"}}]},
    }
    put(
        world,
        "needy",
        "1.0.0",
        requiredAPIs=[THING, MISSING],
        dependencies=[
            {"package": "giver", "versionRange": ">=1.1.0 <3.0.0"},
            {"package": "needy", "versionRange": "x"},
        ],
        constraints=[json.dumps(constraint), json.dumps({"not": {"constraints": [{"gvk": THING}]}})],
    )
    put(world, "needy", "2.0.0", providedAPIs=[THING])  # another version of itself cannot stand beside it
    for version in ("1.0.0", "1.1.0", "2.0.0"):
        put(world, "giver", version, providedAPIs=[THING])
    put(world, "giver", "2.1.0", providedAPIs=[THING], deprecation={"message": "do not"})
    put(world, "giver", "3.0.0", providedAPIs=[THING], lifecycle="Draft")
    put(world, "other", "9.0.0", repository="s", providedAPIs=[THING])
    put(world, "manifests", "v1", providedAPIs=[THING], of="KRM")
    put(world, "secret", "1.0.0", namespace="private", providedAPIs=[THING, MISSING])


@pytest.fixture
async def app(world: World) -> World:
    fill(world)
    await world.settled()
    return world


def names(requirement: Any) -> list[str]:
    return [each["name"] for each in requirement["satisfiedBy"]]


async def asked(world: World, path: str = NEEDY, **query: str) -> list[Any]:
    answer = await world.get(path, query=query)
    assert answer.status == 200, answer.body
    found: list[Any] = answer.json["status"]["requirements"]
    return found


async def test_each_requirement_names_who_meets_it_the_best_first(app: World) -> None:
    answer = (await app.get(NEEDY)).json
    assert (answer["kind"], answer["metadata"]) == (
        "PackageRevisionDependencies",
        {"name": "r.needy.1.0.0", "namespace": "team"},
    )
    package, itself, constraint, negation, thing, missing = answer["status"]["requirements"]
    assert (package["package"], package["satisfied"]) == ("giver", "True")
    assert names(package) == ["r.giver.2.0.0", "r.giver.1.1.0", "r.giver.2.1.0"]
    assert package["satisfiedBy"][2]["deprecated"] is True
    assert (itself["satisfied"], itself["total"]) == ("False", 0)
    assert (constraint["satisfied"], constraint["message"]) == ("Unknown", "a fresh giver")
    assert "CEL" in constraint["reason"]
    assert all(each["unjudged"] for each in constraint["satisfiedBy"])
    assert (negation["satisfied"], negation["satisfiedBy"]) == ("Unknown", [])
    # Of the same repository first, then of each package its second.
    assert names(thing) == ["r.giver.2.0.0", "s.other.9.0.0", "r.giver.1.1.0", "r.giver.1.0.0", "r.giver.2.1.0"]
    assert (missing["version"], missing["satisfied"], missing["satisfiedBy"]) == ("v2", "False", [])
    assert answer["status"]["missing"] == 2


async def test_a_limit_cuts_the_list_and_not_the_count(app: World) -> None:
    package = (await asked(app, limit="1"))[0]
    assert (names(package), package["total"]) == (["r.giver.2.0.0"], 3)


async def test_other_namespaces_are_looked_in_when_they_are_named(app: World) -> None:
    for said in ("private", "elsewhere,private", "*"):
        missing = (await asked(app, namespaces=said))[-1]
        assert (missing["satisfied"], [each["namespace"] for each in missing["satisfiedBy"]]) == ("True", ["private"])


async def test_a_table_is_for_people(app: World) -> None:
    put(app, "odd", "1.0.0", dependencies=[{"package": "a\x1b[31m", "versionRange": ">=1.0.0"}])
    await app.settled()
    answer = await app.get(NEEDY, query={"format": "text", "limit": "1"})
    lines = answer.body.decode().splitlines()
    assert lines[0].split() == ["NEEDS", "MET", "BY"]
    assert lines[1].split() == ["giver", ">=1.1.0", "<3.0.0", "True", "r.giver.2.0.0", "and", "2", "more"]
    assert lines[-1].split() == ["Thing.v2.g.io", "False"]
    assert (await app.get(NEEDY, accept="text/plain", query={"limit": "1"})).body == answer.body
    odd = await app.get("namespaces/team/packagerevisions/r.odd.1.0.0/dependencies", query={"format": "text"})
    assert b"\x1b" not in odd.body


async def test_a_krm_package_takes_kinds_from_whoever_has_them(app: World) -> None:
    put(app, "site", "v1", of="KRM", requiredAPIs=[THING])
    await app.settled()
    (thing,) = await asked(app, "namespaces/team/packagerevisions/r.site.v1/dependencies", limit="100")
    assert "r.manifests.v1" in names(thing)
    assert "r.giver.2.0.0" in names(thing)


async def test_who_needs_nothing_is_told_so(app: World) -> None:
    answer = await app.get("namespaces/team/packagerevisions/r.giver.1.0.0/dependencies")
    assert answer.json["status"] == {"requirements": [], "missing": 0}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"limit": "0"}, "1 to 100"),
        ({"limit": "101"}, "1 to 100"),
        ({"limit": "٣"}, "1 to 100"),
        ({"format": "svg"}, "json, text"),
        ({"namespace": "a"}, "'namespace'"),
        ({"namespaces": ",".join(f"n{at}" for at in range(30))}, "at most 20"),
    ],
)
async def test_what_cannot_be_meant_is_refused_by_name(app: World, query: dict[str, str], said: str) -> None:
    answer = await app.get(NEEDY, query=query)
    assert (answer.status, said in answer.json["message"]) == (400, True), answer.body


async def test_what_there_is_too_much_of_is_counted(world: World) -> None:
    many = [{"package": f"p{at}", "versionRange": ">=1.0.0"} for at in range(5_000)]
    put(world, "needy", "1.0.0", dependencies=many, truncated=["dependencies", "relatedImages"])
    await world.settled()
    status = (await world.get(NEEDY)).json["status"]
    assert len(status["requirements"]) == status["missing"] == MOST_NEEDS
    assert (status["notLookedAt"], status["truncated"]) == (5_000 - MOST_NEEDS, ["dependencies"])


async def test_a_crowd_elsewhere_neither_hides_nor_shows_through(world: World) -> None:
    for at in range(MOST_NAMES + 1):
        put(world, "crowd", f"1.{at}.0", namespace="a", providedAPIs=[THING])
    put(world, "needy", "1.0.0", requiredAPIs=[THING])
    put(world, "giver", "1.0.0", providedAPIs=[THING])
    await world.settled()
    (thing,) = await asked(world)
    assert (names(thing), thing["total"], "more" in thing) == (["r.giver.1.0.0"], 1, False)
    (thing,) = await asked(world, namespaces="*")
    assert (len(names(thing)), thing["total"], thing["more"]) == (10, MOST_JUDGED, True)


async def test_one_question_does_so_much_and_no_more(world: World) -> None:
    """Of a hostile catalog: everything asks for everything, in constraints of many parts."""
    for at in range(1_000):
        put(world, "crowd", f"1.{at}.0", providedAPIs=[THING])
    ranges = [{"package": "crowd", "versionRange": f">=1.0.0 <2.0.{at}"} for at in range(MOST_NEEDS)]
    put(world, "needy", "1.0.0", dependencies=ranges)
    await world.settled()
    found = await asked(world)
    judged = sum(each["total"] for each in found)
    assert MOST_WORK // 40 < judged <= MOST_WORK // 20
    assert found[0]["satisfied"] == "True"
    assert (found[-1]["satisfied"], found[-1]["more"]) == ("Unknown", True)


class OnlyTeam:
    """Somebody who may see what is in the namespace `team`, or (listing=False) get it and list nothing."""

    def __init__(self, *, listing: bool = True) -> None:
        self._listing = listing

    async def identify(self, request: aiohttp.web.BaseRequest) -> Identity:
        return Identity("jane")

    async def authorize(self, identity: Identity, attributes: Attributes) -> None:
        if attributes.namespace != "team" or (attributes.verb == "list" and not self._listing):
            raise forbidden("jane", attributes)


async def test_who_may_not_list_a_namespace_learns_nothing_of_it() -> None:
    async with api_world(gate=OnlyTeam()) as world:
        fill(world)
        await world.settled()
        assert (await asked(world))[-1]["satisfied"] == "False"
        for said in ("private", "*", "team,private"):
            answer = await world.get(NEEDY, namespaces=said)
            assert answer.status == 403
            assert 'list resource "packagerevisions"' in answer.json["message"]
    async with api_world(gate=OnlyTeam(listing=False)) as world:
        fill(world)
        await world.settled()
        assert (await world.get(NEEDY)).status == 403
