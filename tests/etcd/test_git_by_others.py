"""Repositories that others write to as well: Porch beside us, and people with git in their hands. Over HTTP, with real
git and a real etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import invariants
from tests.support.krm import kptfile
from tests.support.porch import Porch
from tests.support.waiting import eventually
from tests.support.whole import Whole, whole_world
from tests.support.writing import MERGE

pytestmark = pytest.mark.etcd


@pytest.fixture
async def world(etcd_endpoint: str, tmp_path: Path) -> AsyncIterator[Whole]:
    async with whole_world(etcd_endpoint, tmp_path) as world:
        yield world


def condition(manifest: Any, kind: str) -> str:
    found = [each["status"] for each in manifest["status"].get("conditions", ()) if each["type"] == kind]
    return found[0] if found else ""


def is_pushed(manifest: Any) -> bool:
    return condition(manifest, "Pushed") == "True"


async def published(world: Whole, *workspaces: str) -> None:
    """Revisions of the package app, v1 and so on, whose value is that number."""
    for number, workspace in enumerate(workspaces, 1):
        source = {"source": {"copy": {"revision": f"edge.app.{workspaces[0]}"}}} if number > 1 else {}
        assert (await world.create(workspace=workspace, **source)).status == 201  # type: ignore[arg-type]  # a spec
        await world.save(f"edge.app.{workspace}", {"value": f"{number}\n"})
        assert (await world.publish(f"edge.app.{workspace}"))["spec"]["revision"] == f"v{number}"


async def drafted(world: Whole, workspace: str, value: str) -> None:
    answer = await world.create(workspace=workspace, source={"copy": {"revision": "edge.app.w1"}})
    assert answer.status == 201, answer.body
    await world.save(f"edge.app.{workspace}", {"value": value})
    await world.until(is_pushed, f"edge.app.{workspace}")


# --- Porch ---


async def test_what_porch_left_is_read_as_it_was_and_goes_on(world: Whole) -> None:
    """Draft, proposed, published, and proposed for deletion; each on to Published."""
    git = world.remotes["edge"]
    porch = Porch(git)
    porch.published("net/dns", "first", 1, {"a": b"1\n"})
    second = porch.published("net/dns", "second", 2, {"a": b"2\n"})
    porch.propose_deletion("net/dns", 2)
    porch.published("web", "old", 1)
    porch.draft("web", "next", {"web.txt": b"3\n"}, {"type": "edit", "edit": {"sourceRef": {"name": "edge.web.old"}}})
    porch.draft("api", "w1", {"api.txt": b"4\n"})
    porch.propose("api", "w1")
    world.sync()
    expected = {
        "edge.net.dns.first": ("Published", "v1", "first", 1),
        "edge.net.dns.second": ("DeletionProposed", "v2", "second", 2),
        "edge.web.old": ("Published", "v1", "old", 1),
        "edge.web.next": ("Draft", "next", "next", 0),
        "edge.api.w1": ("Proposed", "w1", "w1", 0),
    }
    for name, wanted in expected.items():
        found = await world.until(lambda _: True, name)
        spec, number = found["spec"], found["status"]["revisionNumber"]
        assert (spec["lifecycle"], spec["revision"], spec["workspaceName"], number) == wanted, name
    assert (await world.resources("edge.web.next"))["spec"]["resources"]["web.txt"] == "3\n"
    kept = await world.move("Published", "edge.net.dns.second")
    assert (kept.status, kept.json["spec"]["lifecycle"]) == (200, "Published"), kept.body
    assert (await world.save("edge.web.next", {"more.txt": "5\n"})).status == 200
    assert (await world.publish("edge.web.next"))["spec"]["revision"] == "v2"
    approved = await world.move("Published", "edge.api.w1")
    assert (approved.status, approved.json["spec"]["revision"]) == (200, "v1"), approved.body
    refs = world.refs()
    assert {ref for ref in refs if not ref.startswith("refs/tags/")} == {"refs/heads/main"}
    assert refs["refs/tags/net/dns/v2"] == second
    said = [
        ("net/dns", "v1", "first"), ("net/dns", "v2", "second"), ("web", "v1", "old"), ("web", "v2", "next"),
        ("api", "v1", "w1"),
    ]  # fmt: skip
    contents = {
        ("web", "v2"): {"Kptfile": kptfile("web"), "web.txt": b"3\n", "more.txt": b"5\n"},
        ("api", "v1"): {"Kptfile": kptfile("api"), "api.txt": b"4\n"},
    }
    invariants.check(git, said, contents)


async def test_what_porch_left_is_rejected_and_deleted_too(world: Whole) -> None:
    porch = Porch(world.remotes["edge"])
    porch.published("web", "old", 1)
    porch.draft("api", "w1")
    porch.propose("api", "w1")
    porch.propose_deletion("web", 1)
    world.sync()
    await world.until(lambda found: found["spec"]["lifecycle"] == "Proposed", "edge.api.w1")
    rejected = await world.move("Draft", "edge.api.w1")
    assert (rejected.status, rejected.json["spec"]["lifecycle"]) == (200, "Draft"), rejected.body
    assert "refs/heads/drafts/api/w1" in world.refs()
    await world.until(lambda found: found["spec"]["lifecycle"] == "DeletionProposed", "edge.web.old")
    assert (await world.ask("DELETE", "packagerevisions/edge.web.old")).status == 200
    assert (await world.ask("DELETE", "packagerevisions/edge.api.w1")).status == 200
    assert set(world.refs()) == {"refs/heads/main"}


# --- somebody with git ---


async def test_a_tag_that_was_deleted_by_hand_is_followed_and_its_number_is_not_used_again(world: Whole) -> None:
    await published(world, "w1", "w2")
    await drafted(world, "w3", "3\n")
    world.remotes["edge"].git("tag", "--delete", "app/v2")
    world.sync()
    await world.gone("edge.app.w2")
    first = await world.until(lambda found: "cacheserver.dev/latest" in found["metadata"]["labels"], "edge.app.w1")
    assert first["spec"]["revision"] == "v1"
    assert (await world.resources("edge.app.w3"))["spec"]["resources"]["value"] == "3\n"
    assert (await world.publish("edge.app.w3"))["spec"]["revision"] == "v3"
    assert "refs/tags/app/v2" not in world.refs()


async def test_a_tag_that_was_moved_by_hand_is_followed_and_a_draft_of_what_it_was_is_outdated(world: Whole) -> None:
    await published(world, "w1", "w2")
    await drafted(world, "w3", "3\n")
    git = world.remotes["edge"]
    moved = git.commit({"app/Kptfile": kptfile("app"), "app/value": b"moved\n"}, branch="elsewhere")
    git.tag("app/v2", moved)
    world.sync()

    async def serves_it() -> bool:
        listed = (await world.ask("GET", "packagerevisions", fieldSelector="spec.revision=v2")).json["items"]
        return [each["status"]["selfLock"]["git"]["commit"] for each in listed] == [moved]

    await eventually(serves_it, within_s=60)
    (item,) = (await world.ask("GET", "packagerevisions", fieldSelector="spec.revision=v2")).json["items"]
    found = await world.resources(item["metadata"]["name"])
    assert found["spec"]["resources"]["value"] == "moved\n"
    assert (await world.resources("edge.app.w3"))["spec"]["resources"]["value"] == "3\n"
    assert (await world.move("Proposed", "edge.app.w3")).status == 200
    refused = await world.move("Published", "edge.app.w3")
    assert (refused.status, "Outdated: v2" in refused.json["message"]) == (422, True)
    change = {"metadata": {"annotations": {"cacheserver.dev/accept-base": "v2"}}}
    assert (await world.ask("PATCH", "packagerevisions/edge.app.w3", change, media=MERGE)).status == 200
    approved = await world.move("Published", "edge.app.w3")
    assert (approved.status, approved.json["spec"]["revision"]) == (200, "v3"), approved.body
    assert world.refs()["refs/tags/app/v2"] == moved


@pytest.mark.parametrize("to", ["an earlier commit", "another history"])
async def test_a_branch_that_was_rewritten_by_hand_is_built_upon(world: Whole, to: str) -> None:
    await published(world, "w1", "w2")
    await drafted(world, "w3", "3\n")
    git = world.remotes["edge"]
    if to == "an earlier commit":
        new = world.refs()["refs/tags/app/v1"]
    else:
        new = git.commit({"other/x": b"1"}, branch="another")
    git.git("update-ref", "refs/heads/main", new)
    tags = {ref: commit for ref, commit in world.refs().items() if ref.startswith("refs/tags/")}
    world.sync()
    assert (await world.publish("edge.app.w3"))["spec"]["revision"] == "v3"
    refs = world.refs()
    assert refs.items() >= tags.items()
    assert git.git("rev-list", "--first-parent", "main").splitlines()[:2] == [refs["refs/tags/app/v3"], new]
    assert git.git("show", "main:app/value") == "3"
    for workspace, revision in (("w1", "v1"), ("w2", "v2")):
        found = await world.until(lambda _: True, f"edge.app.{workspace}")
        assert (found["spec"]["revision"], found["spec"]["lifecycle"]) == (revision, "Published")


async def test_of_a_draft_that_was_moved_by_hand_both_contents_are_kept(world: Whole) -> None:
    await published(world, "w1")
    await drafted(world, "w2", "ours\n")
    git = world.remotes["edge"]
    theirs = git.commit({"app/Kptfile": kptfile("app"), "app/value": b"theirs\n"}, branch="drafts/app/w2")
    world.sync()
    await world.save("edge.app.w2", {"value": "ours again\n"})
    told = await world.until(lambda found: condition(found, "Diverged") == "True", "edge.app.w2")
    (why,) = [each["message"] for each in told["status"]["conditions"] if each["type"] == "Diverged"]
    assert theirs[:12] in why
    assert (await world.resources("edge.app.w2"))["spec"]["resources"]["value"] == "ours again\n"
    assert world.refs()["refs/heads/drafts/app/w2"] == theirs
    refused = await world.move("Proposed", "edge.app.w2")
    assert (refused.status, "Diverged" in refused.json["message"]) == (422, True), refused.body
    change = {"metadata": {"annotations": {"cacheserver.dev/overwrite": theirs}}}
    assert (await world.ask("PATCH", "packagerevisions/edge.app.w2", change, media=MERGE)).status == 200
    assert (await world.publish("edge.app.w2"))["spec"]["revision"] == "v2"
    assert git.git("show", "app/v2:app/value") == "ours again"
    assert git.git("merge-base", theirs, "main") == theirs


async def test_a_diverged_draft_that_is_deleted_leaves_the_others_branch(world: Whole) -> None:
    await published(world, "w1")
    await drafted(world, "w2", "ours\n")
    theirs = world.remotes["edge"].commit({"app/Kptfile": kptfile("app")}, branch="drafts/app/w2")
    await world.save("edge.app.w2", {"value": "ours again\n"})
    await world.until(lambda found: condition(found, "Diverged") == "True", "edge.app.w2")
    assert (await world.ask("DELETE", "packagerevisions/edge.app.w2")).status == 200
    assert world.refs()["refs/heads/drafts/app/w2"] == theirs


# --- object names of SHA-256 ---


async def test_an_empty_repository_of_sha256_is_written_to(etcd_endpoint: str, tmp_path: Path) -> None:
    async with whole_world(etcd_endpoint, tmp_path, object_format="sha256") as world:
        await published(world, "w1", "w2")
        assert all(len(commit) == 64 for commit in world.refs().values())
        invariants.check(world.remotes["edge"], [("app", "v1", "w1"), ("app", "v2", "w2")])
