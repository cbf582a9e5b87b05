"""Conditions that applications write of a draft, over HTTP: whose they are, how long they stand, and what they open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cacheserver.catalogs.workers import Workers
from cacheserver.model import Key, Kind
from tests.fakes.api import Answer
from tests.support.writing import JSON_PATCH, MERGE, World, authoring_world

pytestmark = pytest.mark.etcd

NAME = "edge.app.w1"
KEY = Key(Kind.REVISION, "team", "edge", "app", "w1")
PATH = f"packagerevisions/{NAME}/status"
GATE = "example.com/validated"
GATES = [{"conditionType": GATE}]


@pytest.fixture
async def world(etcd_endpoint: str, tmp_path: Path) -> AsyncIterator[World]:
    async with Workers(1) as workers, authoring_world(etcd_endpoint, workers, tmp_path) as world:
        yield world


def causes(answer: Answer) -> list[str]:
    return [cause.get("field", "") for cause in answer.json.get("details", {}).get("causes", ())]


async def say(world: World, status: str = "True", kind: str = GATE, **more: Any) -> Answer:
    """One condition, by a merge patch."""
    change = {"status": {"conditions": [{"type": kind, "status": status, **more}]}}
    return await world.ask("PATCH", PATH, change, media=MERGE)


async def condition(world: World, kind: str = GATE) -> dict[str, Any]:
    """As it is served; empty for none."""
    conditions = (await world.get())["status"].get("conditions", [])
    return next((each for each in conditions if each["type"] == kind), {})


# --- the subresource ---


async def test_a_condition_is_written_and_read_back(world: World) -> None:
    before = (await world.create()).json
    answer = await say(world, reason="Fine", message="all limits are there")
    assert answer.status == 200, answer.body
    after = await world.get()
    assert answer.json == after
    found = await condition(world)
    assert found.pop("lastTransitionTime")
    digest = after["status"]["content"]["digest"]
    assert found == {
        "type": GATE, "status": "True", "reason": "Fine", "message": "all limits are there", "observedDigest": digest,
    }  # fmt: skip
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert (await world.ask("GET", PATH)).json == after


async def test_the_same_again_changes_nothing(world: World) -> None:
    await world.create()
    await say(world)
    version = await world.version()
    for answer in (await say(world), await world.ask("PUT", PATH, await world.get())):
        assert answer.status == 200, answer.body
    assert await world.version() == version


async def test_applications_do_not_undo_each_other(world: World) -> None:
    await world.create()
    kinds = [f"example.com/c{n}" for n in range(8)]
    answers = await asyncio.gather(*(say(world, kind=kind) for kind in kinds))
    assert [answer.status for answer in answers] == [200] * 8
    types = {each["type"] for each in (await world.get())["status"]["conditions"]}
    assert types >= set(kinds)


async def test_a_status_takes_conditions_and_nothing_of_the_rest(world: World) -> None:
    """spec and metadata stand there as they were read, and are not looked at (Kubernetes: of every status)."""
    await world.create()
    found = await world.get()
    found["spec"]["lifecycle"] = "Proposed"
    found["metadata"]["labels"]["x"] = "y"
    found["status"]["conditions"].append({"type": GATE, "status": "False"})
    answer = await world.ask("PUT", PATH, found)
    assert answer.status == 200, answer.body
    assert answer.json["spec"]["lifecycle"] == "Draft"
    assert "x" not in answer.json["metadata"]["labels"]
    found = await world.get()
    found["status"]["content"]["digest"] = "sha256:" + "0" * 64
    answer = await world.ask("PUT", PATH, found)
    assert (answer.status, causes(answer)) == (422, ["status.content"])


async def test_an_update_names_the_version_that_it_changes(world: World) -> None:
    await world.create()
    found = await world.get()
    await say(world)
    answer = await world.ask("PUT", PATH, found)
    assert (answer.status, answer.json["reason"]) == (409, "Conflict")
    stale = {"metadata": {"resourceVersion": found["metadata"]["resourceVersion"]}, "status": {"conditions": []}}
    answer = await world.ask("PATCH", PATH, stale, media=MERGE)
    assert (answer.status, answer.json["reason"]) == (409, "Conflict")
    del found["metadata"]["resourceVersion"]
    answer = await world.ask("PUT", PATH, found)
    assert (answer.status, causes(answer)) == (422, ["metadata.resourceVersion"])


async def test_a_condition_is_taken_back_by_a_json_patch(world: World) -> None:
    await world.create()
    await say(world)
    conditions = (await world.get())["status"]["conditions"]
    at = [each["type"] for each in conditions].index(GATE)
    answer = await world.ask("PATCH", PATH, [{"op": "remove", "path": f"/status/conditions/{at}"}], media=JSON_PATCH)
    assert answer.status == 200, answer.body
    assert await condition(world) == {}
    assert await condition(world, "Pushed")


async def test_an_ordinary_update_says_nothing_of_conditions(world: World) -> None:
    """Who may write the object is not who may say how it is."""
    await world.create(readinessGates=GATES)
    change = {"status": {"conditions": [{"type": GATE, "status": "True"}]}, "metadata": {"labels": {"x": "y"}}}
    answer = await world.ask("PATCH", f"packagerevisions/{NAME}", change, media=MERGE)
    assert answer.status == 200
    assert await condition(world) == {}


async def test_misspelt_fields_of_a_condition_are_told(world: World) -> None:
    await world.create()
    change = {"status": {"conditions": [{"type": GATE, "status": "True", "mesage": "x"}]}}
    answer = await world.ask("PATCH", PATH, change, media=MERGE, fieldValidation="Strict")
    assert answer.status == 400
    assert 'unknown field "status.conditions[0].mesage"' in answer.json["message"]


async def test_a_dry_run_answers_and_changes_nothing(world: World) -> None:
    await world.create()
    version = await world.version()
    change = {"status": {"conditions": [{"type": GATE, "status": "True"}]}}
    answer = await world.ask("PATCH", PATH, change, media=MERGE, dryRun="All")
    assert (answer.status, answer.json["status"]["conditions"][-1]["type"]) == (200, GATE)
    assert await world.version() == version


# --- what is refused ---


async def test_what_is_too_much_or_the_servers_is_refused_and_nothing_is_written(world: World) -> None:
    await world.create()
    version = await world.version()
    many = [{"type": f"example.com/c{n}", "status": "True"} for n in range(10_000)]
    for wanted in (many, [{"type": GATE, "status": "True", "message": "x" * 1_000_000}]):
        answer = await world.ask("PATCH", PATH, {"status": {"conditions": wanted}}, media=MERGE)
        assert answer.status == 422, answer.body
    for kind in ("Pushed", "Rendered", "Ready", "cacheserver.dev/x"):
        answer = await say(world, kind=kind)
        assert (answer.status, causes(answer)) == (422, ["status.conditions[0].type"])
    answer = await say(world, message="x" * (4 << 20))
    assert answer.status == 413
    assert await world.version() == version


async def test_of_what_is_published_git_says_all(world: World) -> None:
    await world.create()
    await world.publish()
    answer = await say(world)
    assert (answer.status, answer.json["reason"]) == (403, "Forbidden")
    assert "it is Published" in answer.json["message"]


async def test_of_a_repository_that_is_only_read_nothing_is_said(world: World) -> None:
    await world.create()
    key, known = next((key, each) for key, each in world.repositories.items() if key.name == "edge")
    world.repositories[key] = replace(known, writable=False)
    answer = await say(world)
    assert (answer.status, answer.json["reason"]) == (403, "Forbidden")
    assert "'edge' is read-only" in answer.json["message"]


async def test_of_a_revision_that_is_not_there_nothing_is_said(world: World) -> None:
    assert (await say(world)).status == 404


# --- how long they stand ---


async def test_conditions_survive_saves_labels_and_a_rejection(world: World) -> None:
    await world.create()
    await say(world)
    before = await condition(world)
    await world.save(files={"a.txt": "1"})
    await world.ask("PATCH", f"packagerevisions/{NAME}", {"metadata": {"labels": {"x": "y"}}}, media=MERGE)
    await world.move("Proposed")
    await world.move("Draft")
    assert await condition(world) == before


async def test_a_condition_of_a_draft_that_came_from_git_makes_it_known_here(world: World) -> None:
    """Its record begins then, and nothing of it is pushed for that."""
    await world.create()
    held = await world.authored.read(KEY)
    assert held.served is not None
    assert await world.authored.write(held, value=held.served.value, draft=None) is not None
    assert (await say(world)).status == 200
    held = await world.authored.read(KEY)
    assert held.draft is not None
    assert ([each.type for each in held.draft.conditions], held.draft.unpushed_ms) == ([GATE], 0)


# --- gates ---


async def test_a_gate_opens_for_what_an_application_says_of_the_content_that_there_is(world: World) -> None:
    await world.create(readinessGates=GATES)
    await world.move("Proposed")
    answer = await world.move("Published")
    assert (answer.status, f"{GATE} (nobody has written it)" in answer.json["message"]) == (422, True)
    await say(world, "False", message="no limits")
    assert "False: no limits" in (await world.move("Published")).json["message"]
    await say(world)
    answer = await world.move("Published")
    assert answer.status == 200, answer.body


async def test_what_was_saved_since_has_to_be_judged_again(world: World) -> None:
    """Else whoever may save could publish what nobody judged."""
    await world.create(readinessGates=GATES)
    digest = (await world.get())["status"]["content"]["digest"]
    await say(world)
    await world.save(files={"evil.yaml": "a: 1\n"})
    await world.move("Proposed")
    answer = await world.move("Published")
    assert (answer.status, "True of other content" in answer.json["message"]) == (422, True)
    await say(world, observedDigest=digest)  # a verdict that comes late, on what was there before
    assert (await world.move("Published")).status == 422
    await say(world)
    assert (await world.move("Published")).status == 200


async def test_an_author_does_not_open_the_gate_in_his_kptfile(world: World) -> None:
    await world.create(readinessGates=GATES)
    kptfile = (await world.resources())["spec"]["resources"]["Kptfile"]
    claimed = f"{kptfile}status:\n  conditions:\n    - type: {GATE}\n      status: 'True'\n"
    assert (await world.save(files={"Kptfile": claimed})).status == 200
    assert (await condition(world))["status"] == "True"
    await world.move("Proposed")
    answer = await world.move("Published")
    assert (answer.status, "True in the Kptfile alone" in answer.json["message"]) == (422, True)


async def test_gates_of_the_spec_and_of_the_kptfile_count_both(world: World) -> None:
    """A save that leaves them out of the Kptfile does not take away those that were asked for in the spec."""
    await world.create(readinessGates=GATES)
    kptfile = (await world.resources())["spec"]["resources"]["Kptfile"]
    assert "readinessGates" in kptfile
    await world.save(files={"Kptfile": kptfile.replace(GATE, "example.com/other")})
    await world.move("Proposed")
    message = (await world.move("Published")).json["message"]
    assert (f"{GATE} (" in message, "example.com/other (" in message) == (True, True)


async def test_discovery_and_openapi_have_the_subresource(world: World) -> None:
    found = (await world.ask("GET", "/apis/cacheserver.dev/v1alpha1")).json["resources"]
    [status] = [each for each in found if each["name"] == "packagerevisions/status"]
    assert status["verbs"] == ["get", "patch", "update"]
    paths = (await world.ask("GET", "/openapi/v3/apis/cacheserver.dev/v1alpha1")).json["paths"]
    item = paths["/apis/cacheserver.dev/v1alpha1/namespaces/{namespace}/packagerevisions/{name}/status"]
    assert {"get", "put", "patch"} <= item.keys()
