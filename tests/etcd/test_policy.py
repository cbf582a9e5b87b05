"""What a Repository asks of those who publish to it, over HTTP: who may approve, and where."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from cacheserver.api.status import forbidden
from cacheserver.catalogs.workers import Workers
from cacheserver.config.policy import Approval, Render, Versioning
from cacheserver.model import Key, Kind
from cacheserver.security.identity import Attributes, Identity
from cacheserver.store.authored import AUTHORS_MOST, Step
from tests.support.waiting import eventually
from tests.support.writing import MERGE, World, authoring_world, config

pytestmark = pytest.mark.etcd

NAME = "edge.app.w1"
KEY = Key(Kind.REVISION, "team", "edge", "app", "w1")


class Rights:
    """Users are who they say they are, and may everything but what `refused` has: (user, verb, resource, name)."""

    def __init__(self) -> None:
        self.refused: set[tuple[str, str, str, str]] = set()

    async def identify(self, request: web.BaseRequest) -> Identity:
        return Identity(request.headers.get("X-User", "nobody"))

    async def authorize(self, identity: Identity, attributes: Attributes) -> None:
        asked = "/".join(filter(None, (attributes.resource, attributes.subresource)))
        if (identity.user, attributes.verb, asked, attributes.name) in self.refused:
            raise forbidden(identity.user, attributes, "the rules say so")


@pytest.fixture
def rights() -> Rights:
    return Rights()


@pytest.fixture
async def world(etcd_endpoint: str, tmp_path: Path, rights: Rights) -> AsyncIterator[World]:
    async with Workers(1) as workers, authoring_world(etcd_endpoint, workers, tmp_path, gate=rights) as world:
        world.user = "ada"
        yield world


def asks(world: World, approval: Approval) -> None:
    """Of the repository edge, from now on."""
    known = config("edge", approval=approval)
    world.repositories[known.key] = known


async def approves(world: World, user: str, *, subresource: bool = False) -> tuple[int, str]:
    """The code of the answer, and its message."""
    world.user = user
    path = f"packagerevisions/{NAME}/approval" if subresource else f"packagerevisions/{NAME}"
    answer = await world.ask("PATCH", path, {"spec": {"lifecycle": "Published"}}, media=MERGE)
    return answer.status, answer.json.get("message", "")


# --- nobody approves what he made himself ---


@pytest.mark.parametrize("subresource", [False, True])
async def test_who_proposed_does_not_approve_where_that_is_forbidden(world: World, subresource: bool) -> None:
    asks(world, Approval(forbid_self=True))
    await world.create()
    world.user = "bert"
    await world.move("Proposed")
    for user, why in (("bert", "proposed it"), ("ada", "changed it")):
        code, message = await approves(world, user, subresource=subresource)
        assert (code, f"User '{user}' {why}" in message, "forbidSelf" in message) == (403, True, True), message
    assert Step.APPROVE not in [step for _, step, _ in world.done]
    assert (await approves(world, "cleo", subresource=subresource))[0] == 200


async def test_without_that_rule_who_proposed_may_approve(world: World) -> None:
    await world.create()
    await world.move("Proposed")
    assert (await approves(world, "ada"))[0] == 200


async def test_who_saved_a_file_does_not_approve_it_and_who_wrote_a_label_may(world: World) -> None:
    asks(world, Approval(forbid_self=True))
    await world.create()
    world.user = "bert"
    assert (await world.save(files={"a": "1"})).status == 200
    world.user = "cleo"
    await world.ask("PATCH", f"packagerevisions/{NAME}", {"metadata": {"labels": {"x": "y"}}}, media=MERGE)
    world.user = "ada"
    await world.move("Proposed")
    assert (await approves(world, "bert"))[0] == 403
    assert (await approves(world, "cleo"))[0] == 200


async def test_who_may_not_approve_may_reject(world: World) -> None:
    asks(world, Approval(forbid_self=True))
    await world.create()
    await world.move("Proposed")
    assert (await world.move("Draft")).status == 200


async def test_joining_an_approval_that_goes_on_needs_what_beginning_it_needs(world: World) -> None:
    asks(world, Approval(forbid_self=True))
    await world.create()
    await world.move("Proposed")
    world.stuck.add(Step.APPROVE)
    first = asyncio.ensure_future(approves(world, "cleo"))

    async def began() -> bool:
        return (await world.authored.read(KEY)).operation is not None

    await eventually(began)
    assert (await approves(world, "ada"))[0] == 403
    world.stuck.clear()
    world.user = "ada"
    await world.create("wakes-the-publisher")
    assert (await first)[0] == 200


async def test_what_nobody_is_known_to_have_proposed_is_rejected_first(world: World) -> None:
    """As what was proposed in git, or whose record was lost with an etcd."""
    asks(world, Approval(forbid_self=True))
    await world.create()
    await world.move("Proposed")
    held = await world.authored.read(KEY)
    assert held.served is not None
    assert await world.authored.write(held, value=held.served.value, draft=None) is not None
    code, message = await approves(world, "cleo")
    assert (code, "reject it" in message) == (403, True), message


async def test_a_crowd_of_authors_hides_nobody(world: World) -> None:
    """Not all of them are remembered: then nobody approves."""
    asks(world, Approval(forbid_self=True))
    await world.create()
    await world.move("Proposed")
    held = await world.authored.read(KEY)
    assert held.served is not None
    assert held.draft is not None
    crowd = replace(held.draft, authors=tuple(f"user{n}" for n in range(AUTHORS_MOST)))
    assert await world.authored.write(held, value=held.served.value, draft=crowd) is not None
    code, message = await approves(world, "cleo")
    assert (code, "not all remembered" in message) == (403, True), message


# --- a right for each repository ---


@pytest.mark.parametrize("subresource", [False, True])
async def test_both_rights_are_needed_where_repositories_have_their_own(
    world: World, rights: Rights, subresource: bool
) -> None:
    asks(world, Approval(per_repository=True))
    await world.create()
    await world.move("Proposed")
    kinds = ("update", "patch") if subresource else ("update",)
    for verb in kinds:
        rights.refused.add(("bert", verb, "packagerevisions/approval", NAME))
    rights.refused.add(("cleo", "approve", "repositories", "edge"))
    code, message = await approves(world, "bert", subresource=subresource)
    assert (code, "packagerevisions/approval" in message) == (403, True), message
    code, message = await approves(world, "cleo", subresource=subresource)
    assert code == 403
    assert 'approve "repositories" in API group "config.cacheserver.dev" by the name "edge"' in message
    assert message.endswith('in the namespace "team": the rules say so')
    assert (await approves(world, "dora", subresource=subresource))[0] == 200


async def test_rejecting_and_deleting_need_the_right_to_the_repository_too(world: World, rights: Rights) -> None:
    asks(world, Approval(per_repository=True))
    rights.refused.add(("cleo", "approve", "repositories", "edge"))
    await world.create()
    await world.move("Proposed")
    world.user = "cleo"
    assert (await world.move("Draft")).status == 403
    assert (await approves(world, "dora"))[0] == 200
    world.user = "cleo"
    assert (await world.move("DeletionProposed")).status == 403
    world.user = "dora"
    assert (await world.move("DeletionProposed")).status == 200
    world.user = "cleo"
    assert (await world.move("Published")).status == 403


async def test_without_that_rule_nobody_is_asked_about_the_repository(world: World, rights: Rights) -> None:
    rights.refused.add(("cleo", "approve", "repositories", "edge"))
    await world.create()
    await world.move("Proposed")
    assert (await approves(world, "cleo"))[0] == 200


async def test_a_dry_run_is_refused_as_the_real_one(world: World) -> None:
    asks(world, Approval(forbid_self=True))
    await world.create()
    await world.move("Proposed")
    change = {"spec": {"lifecycle": "Published"}}
    answer = await world.ask("PATCH", f"packagerevisions/{NAME}", change, media=MERGE, dryRun="All")
    assert answer.status == 403


# --- what has to be rendered ---

PIPELINE = "pipeline:\n  mutators:\n    - image: example.com/set-namespace:v1\n"


async def rendered(world: World) -> tuple[str, str]:
    """Status and reason of the condition."""
    conditions = (await world.get())["status"]["conditions"]
    [found] = [each for each in conditions if each["type"] == "Rendered"]
    return found["status"], found["reason"]


async def with_pipeline(world: World, pipeline: str = PIPELINE, path: str = "Kptfile") -> None:
    kptfile = (await world.resources())["spec"]["resources"]["Kptfile"]
    if path != "Kptfile":
        kptfile = "apiVersion: kpt.dev/v1\nkind: Kptfile\nmetadata: {name: sub}\n"
    answer = await world.save(files={path: kptfile + pipeline})
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("pipeline", ["", "pipeline: {}\n", "pipeline: {mutators: [], validators: []}\n"])
async def test_a_package_without_functions_is_rendered(world: World, pipeline: str) -> None:
    known = config("edge", render=Render.REQUIRE)
    world.repositories[known.key] = known
    await world.create()
    await with_pipeline(world, pipeline)
    assert await rendered(world) == ("True", "NoPipeline")
    assert (await world.move("Proposed")).status == 200


@pytest.mark.parametrize("path", ["Kptfile", "sub/Kptfile"])
async def test_of_a_pipeline_nobody_ran_nobody_knows_whether_it_is_rendered(world: World, path: str) -> None:
    await world.create()
    await with_pipeline(world, path=path)
    assert await rendered(world) == ("Unknown", "NoRunner")
    await world.publish()  # which is nobody's business where the Repository does not ask for it


async def test_where_it_is_required_what_is_not_rendered_is_neither_proposed_nor_approved(world: World) -> None:
    asked, unasked = config("edge", render=Render.REQUIRE), config("edge")
    world.repositories[asked.key] = asked
    await world.create()
    await with_pipeline(world)
    answer = await world.move("Proposed")
    assert answer.status == 422
    for part in ("spec.lifecycle", "Rendered=Unknown, NoRunner", "kpt fn render", "spec.render: IfPossible"):
        assert part in answer.json["message"]
    world.repositories[asked.key] = unasked
    assert (await world.move("Proposed")).status == 200
    world.repositories[asked.key] = asked
    assert (await approves(world, "cleo"))[0] == 422
    assert (await world.move("Draft")).status == 200


async def test_a_kptfile_does_not_say_itself_that_it_is_rendered(world: World) -> None:
    known = config("edge", render=Render.REQUIRE)
    world.repositories[known.key] = known
    await world.create()
    await with_pipeline(
        world, f"{PIPELINE}status:\n  conditions:\n    - {{type: Rendered, status: 'True', reason: R}}\n"
    )
    assert await rendered(world) == ("Unknown", "NoRunner")
    assert (await world.move("Proposed")).status == 422


# --- versions that people name ---


@pytest.fixture
def semver(world: World) -> World:
    known = config("edge", versioning=Versioning.SEMVER)
    world.repositories[known.key] = known
    return world


async def names(world: World, version: str, lifecycle: str = "", workspace: str = "w1") -> tuple[int, str]:
    """Code and message of a patch of spec.version, with a lifecycle or alone."""
    spec = {"version": version, **({"lifecycle": lifecycle} if lifecycle else {})}
    answer = await world.ask("PATCH", f"packagerevisions/edge.app.{workspace}", {"spec": spec}, media=MERGE)
    return answer.status, answer.json.get("message", "")


async def publishes(world: World, version: str) -> bool:
    """Whether an approval that is held up is to publish this."""
    held = await world.authored.read(KEY)
    return held.operation is not None and held.operation.version == version


@pytest.mark.parametrize("subresource", [False, True])
async def test_who_approves_names_the_version(semver: World, subresource: bool) -> None:
    world = semver
    await world.create()
    await world.move("Proposed")
    code, message = await approves(world, "cleo", subresource=subresource)
    assert (code, "spec.version: Required value" in message) == (422, True), message
    world.stuck.add(Step.APPROVE)
    path = f"packagerevisions/{NAME}/approval" if subresource else f"packagerevisions/{NAME}"
    change = {"spec": {"lifecycle": "Published", "version": "1.2.3"}}
    approval = asyncio.ensure_future(world.ask("PATCH", path, change, media=MERGE))
    await eventually(lambda: publishes(world, "1.2.3"))
    world.stuck.clear()
    await world.create("wakes-the-publisher")
    assert (await approval).status == 200


async def test_who_proposes_names_it_and_it_survives_saves_and_rejections(semver: World) -> None:
    world = semver
    await world.create()
    assert (await names(world, "v1.2.3"))[0] == 200
    await world.save(files={"a": "1"})
    assert (await names(world, "1.2.4", "Proposed"))[0] == 200
    await world.move("Draft")
    assert (await world.get())["spec"]["version"] == "v1.2.4"
    await world.move("Proposed")
    assert (await world.move("Published")).status == 200


async def test_a_proposed_version_changes_with_its_approval_alone(semver: World) -> None:
    """Else whoever may update slips another one under the approver's eyes."""
    world = semver
    await world.create()
    await names(world, "1.0.0", "Proposed")
    code, message = await names(world, "2.0.0")
    assert (code, "reject it first" in message) == (422, True), message
    assert (await names(world, "2.0.0", "Published"))[0] == 200


@pytest.mark.parametrize(
    "version", ["1", "1.2", "01.2.3", "1.2.3-", "latest", "1.2.3/4", "1.2.3\n", "v" * 9, "1.0.0-" + "x" * 130]
)
async def test_what_is_no_semantic_version_is_refused(semver: World, version: str) -> None:
    world = semver
    await world.create()
    code, message = await names(world, version, "Proposed")
    assert (code, "spec.version" in message) == (422, True), message
    assert (await world.get())["spec"]["lifecycle"] == "Draft"


async def test_where_revisions_are_numbered_none_is_named(world: World) -> None:
    await world.create()
    code, message = await names(world, "1.2.3", "Proposed")
    assert (code, "spec.versioning: SemVer" in message) == (422, True), message
    await world.publish()
    assert (await names(world, "1"))[0] == 200  # which it has
    assert (await names(world, "2"))[0] == 422
