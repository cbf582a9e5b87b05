"""Drafts that others overtook, brought onto what was published since: over HTTP, with real git and a real etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import invariants
from tests.support.gitserver import GitRepository
from tests.support.whole import Whole, whole_world
from tests.support.writing import MERGE

pytestmark = pytest.mark.etcd


@pytest.fixture
async def world(etcd_endpoint: str, tmp_path: Path) -> AsyncIterator[Whole]:
    async with whole_world(etcd_endpoint, tmp_path) as world:
        yield world


def name(workspace: str) -> str:
    return f"edge.app.{workspace}"


async def published(world: Whole, workspace: str = "w1", **files: str | None) -> Any:
    """The package's first revision, or the next one, with these files (`__` for a dot)."""
    if workspace == "w1":
        assert (await world.create()).status == 201
        await saved(world, workspace, **files)
    else:
        await drafted(world, workspace, **files)
    return await world.publish(name(workspace))


async def drafted(world: Whole, workspace: str, **files: str | None) -> None:
    """A copy of the first revision, changed."""
    answer = await world.create(workspace=workspace, source={"copy": {"revision": name("w1")}})
    assert answer.status == 201, answer.body
    await saved(world, workspace, **files)


async def saved(world: Whole, workspace: str, **files: str | None) -> None:
    answer = await world.save(name(workspace), {path.replace("__", "."): text for path, text in files.items()})
    assert answer.status == 200, answer.body


def condition(manifest: Any, kind: str) -> str:
    found = [each["status"] for each in manifest["status"]["conditions"] if each["type"] == kind]
    return found[0] if found else ""


def is_settled(manifest: Any) -> bool:
    """Git has the draft, and nothing more is written to it."""
    return condition(manifest, "Pushed") == "True"


def is_told(manifest: Any) -> bool:
    """Settled, and the sync that saw it overtaken has said so."""
    return is_settled(manifest) and condition(manifest, "Outdated") == "True"


async def texts(world: Whole, workspace: str) -> dict[str, str]:
    found: dict[str, str] = (await world.resources(name(workspace)))["spec"]["resources"]
    return {path: text for path, text in found.items() if path not in ("Kptfile", "README.md", "package-context.yaml")}


async def test_of_two_drafts_of_one_revision_the_second_is_rebased_and_holds_both_changes(world: Whole) -> None:
    await published(world, a__yaml="a: 1\n", b__yaml="b: 1\n")
    await drafted(world, "w3", a__yaml="a: 3\n")
    await drafted(world, "w4", b__yaml="b: 4\n", c__yaml="c: 4\n")
    assert (await world.publish(name("w3")))["spec"]["revision"] == "v2"
    assert (await world.move("Proposed", name("w4"))).status == 200
    before = world.refs()
    refused = await world.move("Published", name("w4"))
    assert refused.status == 422
    assert "Outdated: v2 was published since this draft began from v1; rebase it" in refused.json["message"]
    proposed = await world.rebase(name("w4"))
    assert (proposed.status, "reject it first" in proposed.json["message"]) == (403, True)
    assert world.refs() == before
    assert (await world.move("Draft", name("w4"))).status == 200
    rebased = await world.rebase(name("w4"))
    assert rebased.status == 201, rebased.body
    assert rebased.json["status"]["base"]["revision"] == "v2"
    assert await texts(world, "w4") == {"a.yaml": "a: 3\n", "b.yaml": "b: 4\n", "c.yaml": "c: 4\n"}
    assert (await world.publish(name("w4")))["spec"]["revision"] == "v3"
    assert world.remotes["edge"].git("show", "app/v3:app/a.yaml") == "a: 3"
    assert world.remotes["edge"].git("show", "app/v3:app/b.yaml") == "b: 4"
    invariants.check(world.remotes["edge"], [("app", f"v{n}", w) for n, w in ((1, "w1"), (2, "w3"), (3, "w4"))])


async def test_files_that_both_changed_are_named_and_nothing_is_written(world: Whole) -> None:
    await published(world, a__yaml="a: 1\n", b__yaml="b: 1\n", c__yaml="c: 1\n")
    await drafted(world, "w3", a__yaml="a: 3\n", b__yaml=None, c__yaml="c: 3\n")
    await drafted(world, "w4", a__yaml="a: 4\n", b__yaml="b: 4\n", c__yaml="c: 3\n")
    await world.publish(name("w3"))
    before = await world.until(is_told, name("w4"))
    refused = await world.rebase(name("w4"))
    assert refused.status == 422
    told = {cause["field"]: cause["message"] for cause in refused.json["details"]["causes"]}
    assert told.keys() == {"spec.resources[a.yaml]", "spec.resources[b.yaml]"}
    assert "deleted there" in told["spec.resources[b.yaml]"]
    assert await world.get(name("w4")) == before
    await saved(world, "w4", a__yaml="a: 3\n", b__yaml=None)
    assert (await world.rebase(name("w4"))).status == 201
    await saved(world, "w4", a__yaml="a: 4\n")
    assert (await world.publish(name("w4")))["spec"]["revision"] == "v3"


async def test_one_that_nobody_overtook_stays_as_it_is(world: Whole) -> None:
    await published(world, a__yaml="a: 1\n")
    await drafted(world, "w3", a__yaml="a: 3\n")
    before = await world.until(is_settled, name("w3"))
    assert (await world.rebase(name("w3"))).status == 200
    assert await world.get(name("w3")) == before
    refused = await world.rebase(name("w1"))
    assert (refused.status, "what is published never changes" in refused.json["message"]) == (403, True)
    assert (await world.rebase(name("w9"))).status == 404


async def test_a_rebase_has_preconditions_and_may_be_tried_first(world: Whole) -> None:
    await published(world, a__yaml="a: 1\n")
    await drafted(world, "w3", a__yaml="a: 3\n")
    await drafted(world, "w4", b__yaml="b: 4\n")
    await world.publish(name("w3"))
    manifest = await world.until(is_told, name("w4"))
    tried = await world.rebase(name("w4"), dry_run=True)
    assert (tried.status, tried.json["status"]["base"]["revision"]) == (201, "v2")
    assert await world.get(name("w4")) == manifest
    assert (await world.rebase(name("w4"), {"metadata": {"uid": "another"}})).status == 409
    assert (await world.rebase(name("w4"), {"metadata": {"resourceVersion": "1"}})).status == 409
    assert (await world.rebase(name("w4"), [])).status == 400
    wanted = {key: manifest["metadata"][key] for key in ("uid", "resourceVersion")}
    assert (await world.rebase(name("w4"), {"metadata": wanted})).status == 201


async def test_a_base_is_accepted_by_the_annotation_that_names_it(world: Whole) -> None:
    await published(world, a__yaml="a: 1\n")
    await drafted(world, "w3", a__yaml="a: 3\n")
    await drafted(world, "w4", a__yaml="a: 4\n")
    await world.publish(name("w3"))
    await world.move("Proposed", name("w4"))
    for accepted, status in (("v1", 422), ("v2", 200)):
        change = {"metadata": {"annotations": {"cacheserver.dev/accept-base": accepted}}}
        assert (await world.ask("PATCH", f"packagerevisions/{name('w4')}", change, media=MERGE)).status == 200
        assert (await world.move("Published", name("w4"))).status == status
    assert world.remotes["edge"].git("show", "app/v3:app/a.yaml") == "a: 4"


async def test_what_was_changed_on_the_branch_by_hand_is_taken_in(world: Whole) -> None:
    await published(world, a__yaml="a: 1\n", b__yaml="b: 1\n")
    await drafted(world, "w3", a__yaml="a: 3\n")
    git = world.remotes["edge"]
    by_hand(git, {"b.yaml": b"b: hand\n"})
    assert (await world.move("Proposed", name("w3"))).status == 200
    refused = await world.move("Published", name("w3"))
    assert refused.status == 422
    assert "changed on main by hand" in refused.json["message"]
    assert (await world.move("Draft", name("w3"))).status == 200
    world.sync()
    await world.until(lambda found: "publishedAt" not in found["status"], "edge.app.main")
    assert (await world.rebase(name("w3"))).status == 201
    assert await texts(world, "w3") == {"a.yaml": "a: 3\n", "b.yaml": "b: hand\n"}
    assert (await world.rebase(name("w3"))).status == 200
    assert (await world.publish(name("w3")))["spec"]["revision"] == "v2"
    assert git.git("show", "main:app/b.yaml") == "b: hand"


def by_hand(git: GitRepository, files: dict[str, bytes], directory: str = "app") -> str:
    """A commit on main that changes some files of a directory and nothing else."""
    listed = git.git("ls-tree", "-r", "main").splitlines()
    kept = {}
    for line in listed:
        about, path = line.split("\t")
        kept[path] = git.git("cat-file", "blob", about.split()[2]).encode() + b"\n"
    return git.commit({**kept, **{f"{directory}/{path}": raw for path, raw in files.items()}}, message="by hand")


async def test_a_draft_is_told_that_it_was_overtaken_until_it_is_rebased(world: Whole) -> None:
    await published(world, a__yaml="a: 1\n")
    await drafted(world, "w3", a__yaml="a: 3\n")
    await drafted(world, "w4", b__yaml="b: 4\n")
    assert condition(await world.get(name("w4")), "Outdated") == ""
    await world.publish(name("w3"))
    told = await world.until(lambda found: condition(found, "Outdated") == "True", name("w4"))
    (why,) = [each["message"] for each in told["status"]["conditions"] if each["type"] == "Outdated"]
    assert why == "v2 was published since this draft began from v1: rebase it before it is proposed"
    await saved(world, "w4", b__yaml="b: 5\n")
    assert condition(await world.get(name("w4")), "Outdated") == "True"
    rebased = await world.rebase(name("w4"))
    assert (rebased.status, condition(rebased.json, "Outdated")) == (201, "")
    await drafted(world, "w5")
    assert condition(await world.get(name("w5")), "Outdated") == ""


async def test_a_draft_of_what_was_taken_away_is_told_nothing_any_more(world: Whole) -> None:
    await published(world, a__yaml="a: 1\n")
    await drafted(world, "w3", a__yaml="a: 3\n")
    await drafted(world, "w4", b__yaml="b: 4\n")
    await world.publish(name("w3"))
    await world.until(lambda found: condition(found, "Outdated") == "True", name("w4"))
    assert (await world.move("DeletionProposed", name("w3"))).status == 200
    await world.until(lambda found: condition(found, "Outdated") == "", name("w4"))
