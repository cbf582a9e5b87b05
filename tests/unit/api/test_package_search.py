"""PackageSearch: created to be answered; only what may be listed is found, and whatever is wrong is named."""

from __future__ import annotations

from typing import Any

import aiohttp
import orjson
import pytest

from cacheserver.api import Identity
from cacheserver.api.attributes import Attributes
from cacheserver.api.status import forbidden
from tests.fakes.api import BASE, Answer, World, api_world

MONITOR = {"group": "monitoring.coreos.com", "version": "v1", "kind": "ServiceMonitor"}


@pytest.fixture
async def shelf(world: World) -> World:
    fill(world)
    await world.settled()
    return world


def fill(world: World) -> None:
    world.package("argo-cd", displayName="Argo CD", keywords=["gitops"], latest={"version": "2.1.0"})
    world.package("ledger", summary="works with gitops", providedAPIs=[MONITOR], latest={"version": "1.4.1"})
    world.package("lamp", repository="s", keywords=["gitops"], deprecation={"message": "dark"})
    world.package("vault", namespace="other", keywords=["gitops", "hidden"])


async def search(world: World, namespace: str = "", /, *, again: str = "", **spec: Any) -> Answer:
    """again: continue of the answer before."""
    spec |= {"continue": again} if again else {}
    body = {"apiVersion": "cacheserver.dev/v1alpha1", "kind": "PackageSearch", "spec": spec}
    path = f"{BASE}/namespaces/{namespace}/packagesearches" if namespace else f"{BASE}/packagesearches"
    sent = {"Content-Type": "application/json", "Accept": "application/json"}
    async with world.session.post(path, data=orjson.dumps(body), headers=sent) as response:
        return Answer(response.status, response.headers, await response.read())


def names(answer: Answer) -> list[str]:
    return [result["package"] for result in answer.json["status"]["results"]]


async def test_a_search_is_answered_with_results_facets_and_why_each_was_found(shelf: World) -> None:
    answer = await search(shelf, "team", text="gitops")
    assert (answer.status, answer.json["kind"], answer.json["spec"]) == (201, "PackageSearch", {"text": "gitops"})
    status = answer.json["status"]
    assert names(answer) == ["argo-cd", "lamp", "ledger"]
    first = status["results"][0]
    assert first.pop("score") > status["results"][1]["score"] > 0
    assert first == {
        "namespace": "team",
        "name": "r.argo-cd",
        "repository": "r",
        "package": "argo-cd",
        "format": "FBC",
        "displayName": "Argo CD",
        "summary": "",
        "latest": "2.1.0",
        "deprecated": False,
        "matched": ["keywords"],
    }
    facets = {facet["name"]: facet["values"] for facet in status["facets"]}
    assert facets["repository"] == [{"value": "r", "count": 2}, {"value": "s", "count": 1}]
    assert status["total"] == 3


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, ["lamp", "ledger", "argo-cd"]),
        ({"sort": "name"}, ["argo-cd", "lamp", "ledger"]),
        ({"text": "gitops", "deprecated": False}, ["argo-cd", "ledger"]),
        ({"deprecated": True}, ["lamp"]),
        ({"repositories": ["s", "t"]}, ["lamp"]),
        ({"provides": ["ServiceMonitor.monitoring.coreos.com"]}, ["ledger"]),
        ({"provides": ["ServiceMonitor.monitoring.coreos.com", "Other.io"]}, []),
        ({"versionRange": ">=2.0.0"}, ["argo-cd"]),
        ({"format": "KRM"}, []),
        ({"text": "hidden"}, []),
    ],
)
async def test_all_of_the_spec_has_to_hold(shelf: World, spec: dict[str, Any], expected: list[str]) -> None:
    assert names(await search(shelf, "team", **spec)) == expected


async def test_there_is_more_behind_what_is_shown(shelf: World) -> None:
    first = await search(shelf, text="gitops", limit=3)
    assert (len(names(first)), first.json["status"]["total"], first.json["status"]["continue"]) == (3, 4, "3")
    rest = await search(shelf, text="gitops", limit=3, again="3")
    assert sorted(names(first) + names(rest)) == ["argo-cd", "lamp", "ledger", "vault"]
    assert "continue" not in rest.json["status"]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"text": 7}, "spec.text"),
        ({"text": "x" * 8_000}, "spec.text"),
        ({"provides": "Pod"}, "spec.provides"),
        ({"provides": ["x"] * 1_000}, "spec.provides"),
        ({"repositories": [None]}, "spec.repositories"),
        ({"format": "RPM"}, "spec.format"),
        ({"versionRange": "new"}, "spec.versionRange"),
        ({"deprecated": "yes"}, "spec.deprecated"),
        ({"sort": "stars"}, "spec.sort"),
        ({"limit": 101}, "spec.limit"),
        ({"limit": True}, "spec.limit"),
        ({"continue": "-1"}, "spec.continue"),
        ({"continue": "9" * 500}, "spec.continue"),
    ],
)
async def test_what_is_wrong_is_named(shelf: World, spec: dict[str, Any], field: str) -> None:
    answer = await search(shelf, "team", **spec)
    assert answer.status == 422
    assert [cause["field"] for cause in answer.json["details"]["causes"]] == [field]


async def test_a_field_that_nobody_knows_is_warned_of(shelf: World) -> None:
    answer = await search(shelf, "team", txt="gitops")
    assert 'unknown field \\"spec.txt\\"' in answer.headers["Warning"]


async def test_nothing_is_kept_and_nothing_listed(shelf: World) -> None:
    await search(shelf, "team", text="x")
    for path in ("packagesearches", "namespaces/team/packagesearches", "namespaces/team/packagesearches/x"):
        assert (await shelf.get(path)).status == 405
    assert (await shelf.get("packagesearches", watch="1")).status == 405
    assert (await shelf.get("packages")).status == 200


class OnlyTeam:
    """Somebody who may create searches everywhere, and list packages in `team` alone."""

    async def identify(self, request: aiohttp.web.BaseRequest) -> Identity:
        return Identity("jane")

    async def authorize(self, identity: Identity, attributes: Attributes) -> None:
        if attributes.resource == "packages" and attributes.namespace != "team":
            raise forbidden("jane", attributes)


async def test_who_may_not_list_packages_may_not_search_them() -> None:
    async with api_world(gate=OnlyTeam()) as world:
        fill(world)
        await world.settled()
        assert names(await search(world, "team", text="gitops")) == ["argo-cd", "lamp", "ledger"]
        for namespace in ("", "other"):
            answer = await search(world, namespace, text="gitops")
            assert answer.status == 403
            assert b"vault" not in answer.body
        assert (await world.get("packages", search="gitops")).status == 403
        counted = await search(world, "team")
        assert b"hidden" not in counted.body
        assert b"other" not in counted.body


async def test_each_facet_is_counted_as_if_none_of_its_values_were_chosen(shelf: World) -> None:
    shelf.package("harbor", repository="s", keywords=["gitops"], provider={"name": "ACME"}, categories=["Registry"])
    shelf.package("quay", keywords=["gitops"], provider={"name": "Other"}, categories=["Registry", "Security"])
    await shelf.settled()
    answer = await search(shelf, text="gitops", categories=["Registry"], providers=["ACME", "Nobody"])
    assert names(answer) == ["harbor"]
    status = answer.json["status"]
    facets = {facet["name"]: {each["value"]: each["count"] for each in facet["values"]} for facet in status["facets"]}
    assert status["total"] == 1
    assert facets["provider"] == {"ACME": 1, "Other": 1}  # of what has the category
    assert facets["category"] == {"Registry": 1}  # of what has the provider
    assert facets["repository"] == {"s": 1}


async def test_namespaces_are_chosen_among_those_that_are_searched(shelf: World) -> None:
    answer = await search(shelf, text="gitops", namespaces=["other"])
    assert names(answer) == ["vault"]
    facets = {facet["name"]: facet["values"] for facet in answer.json["status"]["facets"]}
    assert facets["namespace"] == [{"value": "team", "count": 3}, {"value": "other", "count": 1}]
    assert names(await search(shelf, "team", text="gitops", namespaces=["other"])) == []
