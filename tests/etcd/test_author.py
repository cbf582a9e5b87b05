"""What whoever writes packages may count on, over HTTP, on a real etcd and real workers; operations are carried out by
a stand-in for the publisher (tests.support.writing.py)."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from cacheserver.api.status import forbidden
from cacheserver.catalogs.workers import Workers
from cacheserver.model import Key, Kind
from cacheserver.publish.package import Limits
from cacheserver.security.identity import Attributes, Identity
from cacheserver.store.authored import Step
from tests.support.waiting import eventually
from tests.support.writing import JSON_PATCH, MERGE, Failure, World, authoring_world, config, draft

pytestmark = pytest.mark.etcd

NAME = "edge.app.w1"


@pytest.fixture
async def world(etcd_endpoint: str, tmp_path: Path) -> AsyncIterator[World]:
    async with Workers(2) as workers, authoring_world(etcd_endpoint, workers, tmp_path) as world:
        yield world


def causes(answer: Any) -> list[str]:
    """The fields that a refusal names."""
    return [cause.get("field", "") for cause in answer.json.get("details", {}).get("causes", ())]


# --- create ---


async def test_a_new_package_is_a_draft_with_the_files_that_porch_gives_one(world: World) -> None:
    answer = await world.create("sites/berlin", source={"init": {"description": "Berlin", "keywords": ["b"]}})
    assert answer.status == 201, answer.body
    created = answer.json
    assert created["metadata"]["name"] == "edge.sites.berlin.w1"
    assert created["spec"]["lifecycle"] == "Draft"
    assert (created["spec"]["revision"], created["status"]["revisionNumber"]) == ("w1", 0)
    assert created["metadata"]["labels"]["cacheserver.dev/lifecycle"] == "Draft"
    assert await world.get("edge.sites.berlin.w1") == created
    files = (await world.resources("edge.sites.berlin.w1"))["spec"]["resources"]
    assert sorted(files) == ["Kptfile", "README.md", "package-context.yaml"]
    kptfile = yaml.safe_load(files["Kptfile"])
    assert kptfile["metadata"]["name"] == "sites/berlin"
    assert kptfile["info"] == {"description": "Berlin", "keywords": ["b"]}
    context = yaml.safe_load(files["package-context.yaml"])
    assert (context["metadata"]["name"], context["data"]) == ("kptfile.kpt.dev", {"name": "example"})


async def test_the_same_again_exists_already(world: World) -> None:
    await world.create()
    version = await world.version()
    answer = await world.create()
    assert (answer.status, answer.json["reason"]) == (409, "AlreadyExists")
    assert await world.version() == version


async def test_of_two_equal_creates_at_once_one_wins(world: World) -> None:
    answers = await asyncio.gather(world.create(), world.create())
    assert sorted(answer.status for answer in answers) == [201, 409]


@pytest.mark.parametrize("package", ["a//b", "A", "a" * 64, "../x", "", "a/", "/a", "a b", "a/B"])
async def test_a_package_name_that_is_no_path_of_labels_is_refused(world: World, package: str) -> None:
    version = await world.version()
    answer = await world.create(package)
    assert (answer.status, causes(answer)) == (422, ["spec.packageName"]), answer.body
    assert await world.version() == version


@pytest.mark.parametrize("workspace", ["w.1", "-w", "", "main", "W", "a/b"])
async def test_a_workspace_that_is_no_label_or_the_branch_is_refused(world: World, workspace: str) -> None:
    answer = await world.create(workspace=workspace)
    assert (answer.status, causes(answer)) == (422, ["spec.workspaceName"]), answer.body


@pytest.mark.parametrize(
    ("field", "spec"),
    [
        ("spec.lifecycle", {"lifecycle": "Published"}),
        ("metadata.labels", {"metadata": {"labels": {"cacheserver.dev/latest": "true"}}}),
        ("spec.revision", {"revision": "v7"}),
        ("metadata.name", {"metadata": {"name": "edge.app.w2"}}),
        ("metadata.namespace", {"metadata": {"namespace": "other"}}),
        ("spec.source", {"source": {"init": {}, "copy": {"revision": "x"}}}),
        ("spec.source", {"source": {}}),
        ("spec.source.clone.git.ref", {"source": {"clone": {"git": {"url": "https://x.example/x"}}}}),
        ("spec.source.upgrade.strategy", {"source": {"upgrade": {"to": "x"}}}),
        ("spec.source.clone.revision", {"source": {"clone": {"revision": "no.such.v1"}}}),
        ("spec.readinessGates[0].conditionType", {"readinessGates": [{"conditionType": "a b"}]}),
        ("metadata.finalizers", {"metadata": {"finalizers": ["unqualified"]}}),
        ("metadata.annotations", {"metadata": {"annotations": {"example.com/x": 1}}}),
        ("metadata", {"metadata": {"annotations": {"example.com/x": "y" * (64 << 10)}}}),
    ],
)
async def test_what_nobody_may_ask_for_at_creation_is_refused_by_field(
    world: World, field: str, spec: dict[str, Any]
) -> None:
    version = await world.version()
    answer = await world.create(**spec)
    assert (answer.status, causes(answer)) == (422, [field]), answer.body
    assert await world.version() == version


async def test_every_wrong_field_is_named_at_once(world: World) -> None:
    answer = await world.create("A", "-", "Edge", lifecycle="Published")
    assert causes(answer) == ["spec.repository", "spec.packageName", "spec.workspaceName", "spec.lifecycle"]
    assert answer.json["message"].startswith('PackageRevision.cacheserver.dev "" is invalid: [spec.repository: ')


@pytest.mark.parametrize(
    ("repository", "why"),
    [
        ("folder", "not a git repository"),
        ("readonly", "read-only"),
        ("suspended", "suspended"),
        ("auto", "format: KRM"),
        ("tagged", "names no branch"),
    ],
)
async def test_a_repository_that_cannot_be_written_to_says_why(world: World, repository: str, why: str) -> None:
    answer = await world.create(repository=repository)
    assert (answer.status, answer.json["reason"]) == (403, "Forbidden")
    assert why in answer.json["message"]


async def test_an_unknown_repository_is_not_found(world: World) -> None:
    answer = await world.create(repository="nowhere")
    assert answer.status == 404
    assert answer.json["message"] == 'repositories.config.cacheserver.dev "nowhere" not found'


async def test_packages_do_not_overlap(world: World) -> None:
    await world.create("a")
    answer = await world.create("a/b")
    assert (answer.status, causes(answer)) == (422, ["spec.packageName"])


async def test_a_draft_whose_branch_git_cannot_keep_beside_anothers_is_refused(world: World) -> None:
    """Git keeps refs as files: drafts/a/b/c and drafts/a/b/c/w1 exclude each other, so one is never pushed."""
    await world.create("a/b", "c")
    answer = await world.create("a/b/c")
    assert (answer.status, causes(answer)) == (422, ["spec.workspaceName"])
    assert "drafts/a/b/c" in answer.json["message"]


async def test_a_package_begins_once(world: World) -> None:
    await world.create("a/b", "w1")
    answer = await world.create("a/b", "w2")
    assert (answer.status, answer.json["reason"]) == (409, "AlreadyExists")


async def test_a_repository_has_so_many_drafts_and_no_more(etcd_endpoint: str, tmp_path: Path) -> None:
    async with (
        Workers(1) as workers,
        authoring_world(etcd_endpoint, workers, tmp_path, limits=Limits(drafts=1)) as world,
    ):
        assert (await world.create("a")).status == 201
        answer = await world.create("b")
        assert (answer.status, answer.json["reason"]) == (403, "Forbidden")


async def test_a_deleted_draft_that_is_made_again_is_another_object(world: World) -> None:
    first = (await world.create()).json["metadata"]["uid"]
    assert (await world.ask("DELETE", f"packagerevisions/{NAME}")).status == 200
    second = (await world.create()).json["metadata"]["uid"]
    assert first != second


# --- clone and copy ---


async def test_a_clone_names_what_it_came_from_and_changes_nothing_else(world: World) -> None:
    await world.create("site", "w1", "blueprints")
    deployment = "# ours\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec: {}\n"
    await world.save("blueprints.site.w1", {"web.yaml": deployment, "notes.txt": "as it is\r\n"})
    await world.publish("blueprints.site.w1")
    answer = await world.create("sites/berlin", source={"clone": {"revision": "blueprints.site.w1"}})
    assert answer.status == 201, answer.body
    files = (await world.resources("edge.sites.berlin.w1"))["spec"]["resources"]
    kptfile = yaml.safe_load(files["Kptfile"])
    git = {"repo": "https://git.example/edge.git", "directory": "site", "ref": "site/v1"}
    assert kptfile["metadata"]["name"] == "sites/berlin"
    assert kptfile["upstream"] == {"type": "git", "git": git}
    assert kptfile["upstreamLock"] == {"type": "git", "git": {**git, "commit": "c" * 40}}
    assert files["notes.txt"] == "as it is\r\n"
    assert files["web.yaml"] == deployment.replace("metadata:", "metadata: # kpt-merge: /web")
    # edge is a deployment repository
    context = yaml.safe_load(files["package-context.yaml"])
    assert context["data"] == {"name": "sites/berlin", "package-path": "sites/berlin"}
    assert answer.json["status"]["upstreamLock"]["git"]["commit"] == "c" * 40


async def test_a_draft_cannot_be_cloned_and_a_package_is_cloned_once(world: World) -> None:
    await world.create("site", "w1", "blueprints")
    source = {"clone": {"revision": "blueprints.site.w1"}}
    answer = await world.create("a", source=source)
    assert (answer.status, causes(answer)) == (422, ["spec.source.clone.revision"])
    await world.publish("blueprints.site.w1")
    assert (await world.create("a", source=source)).status == 201
    answer = await world.create("a", "w2", source=source)
    assert (answer.status, answer.json["reason"]) == (409, "AlreadyExists")


async def test_a_copy_begins_with_the_files_of_an_earlier_revision(world: World) -> None:
    await world.create()
    await world.save(files={"a.txt": "one"})
    await world.publish()
    answer = await world.create("app", "w2", source={"copy": {"revision": NAME}})
    assert answer.status == 201, answer.body
    assert answer.json["status"]["base"] == {"revision": "v1", "commit": "c" * 40}
    assert (await world.resources("edge.app.w2"))["spec"]["resources"]["a.txt"] == "one"
    answer = await world.create("other", "w1", source={"copy": {"revision": NAME}})
    assert (answer.status, causes(answer)) == (422, ["spec.source.copy.revision"])


# --- files ---


async def test_saved_files_are_read_back_as_they_were(world: World) -> None:
    before = (await world.create()).json
    found = await world.resources()
    binary = bytes(range(256))
    found["spec"]["resources"]["a/b.yaml"] = "a: 1\r\n"
    found["spec"]["binaryResources"] = {"x.bin": base64.b64encode(binary).decode()}
    del found["spec"]["resources"]["README.md"]
    answer = await world.ask("PUT", f"packagerevisionresources/{NAME}", found)
    assert answer.status == 200, answer.body
    assert answer.json["spec"] == found["spec"]
    assert int(answer.json["metadata"]["resourceVersion"]) > int(found["metadata"]["resourceVersion"])
    after = await world.get()
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["content"]["digest"] != before["status"]["content"]["digest"]
    [pushed] = [each for each in after["status"]["conditions"] if each["type"] == "Pushed"]
    assert pushed["status"] == "False"


async def test_saved_files_need_the_version_that_was_read(world: World) -> None:
    await world.create()
    found = await world.resources()
    found["spec"]["resources"]["a"] = "1"
    assert (await world.ask("PUT", f"packagerevisionresources/{NAME}", found)).status == 200
    found["spec"]["resources"]["a"] = "2"
    answer = await world.ask("PUT", f"packagerevisionresources/{NAME}", found)
    assert (answer.status, answer.json["reason"]) == (409, "Conflict")
    del found["metadata"]["resourceVersion"]
    answer = await world.ask("PUT", f"packagerevisionresources/{NAME}", found)
    assert (answer.status, causes(answer)) == (422, ["metadata.resourceVersion"])
    assert (await world.resources())["spec"]["resources"]["a"] == "1"


async def test_a_label_between_reading_and_saving_is_in_nobodys_way(world: World) -> None:
    await world.create()
    found = await world.resources()
    labelled = {"metadata": {"labels": {"team": "a"}}}
    assert (await world.ask("PATCH", f"packagerevisions/{NAME}", labelled, media=MERGE)).status == 200
    found["spec"]["resources"]["a"] = "1"
    answer = await world.ask("PUT", f"packagerevisionresources/{NAME}", found)
    assert answer.status == 200, answer.body
    assert (await world.get())["metadata"]["labels"]["team"] == "a"


async def test_of_many_saves_of_one_version_one_wins(world: World) -> None:
    await world.create()
    found = await world.resources()

    async def save(number: int) -> int:
        spec = {**found["spec"], "resources": {**found["spec"]["resources"], "who": str(number)}}
        return (await world.ask("PUT", f"packagerevisionresources/{NAME}", {**found, "spec": spec})).status

    statuses = await asyncio.gather(*(save(number) for number in range(20)))
    assert sorted(statuses) == [200] + [409] * 19


async def test_patches_of_different_files_all_arrive(world: World) -> None:
    await world.create()
    answers = await asyncio.gather(*(world.save(files={f"f{n}": str(n)}) for n in range(6)))
    assert [answer.status for answer in answers] == [200] * 6
    files = (await world.resources())["spec"]["resources"]
    assert {f"f{n}": files[f"f{n}"] for n in range(6)} == {f"f{n}": str(n) for n in range(6)}


async def test_equal_files_change_nothing(world: World) -> None:
    await world.create()
    found = await world.resources()
    version = await world.version()
    answer = await world.ask("PUT", f"packagerevisionresources/{NAME}", found)
    assert answer.status == 200
    assert answer.json["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]
    assert (await world.get())["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]
    # Content is touched, so that no collection takes it meanwhile; nothing that is watched changes.
    assert await world.version() == version


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/x",
        ".git/config",
        "a//b",
        "a\0b",
        "a/./b",
        ".GIT/x",
        ".git./x",
        ".g\u200cit/x",
        "GIT~1/x",
        ".git::$INDEX_ALLOCATION/x",
        "a\\b",
        "a/\x07",
        "x" * 256,
        "a/" * 40 + "x",
        ".gitmodules",
        "",
    ],
)
async def test_a_path_that_could_leave_or_harm_a_checkout_is_refused(world: World, path: str) -> None:
    await world.create()
    version = await world.version()
    answer = await world.save(files={path: "x"})
    assert (answer.status, answer.json["reason"]) == (422, "Invalid"), answer.body
    assert await world.version() == version


@pytest.mark.parametrize("twins", [("a.yaml", "A.yaml"), ("\u00e9", "e\u0301"), ("d/x", "D/y"), ("a", "a/b")])
async def test_files_that_are_one_to_some_file_system_are_refused(world: World, twins: tuple[str, str]) -> None:
    await world.create()
    answer = await world.save(files=dict.fromkeys(twins, "x"))
    assert (answer.status, answer.json["reason"]) == (422, "Invalid"), answer.body


async def test_a_package_has_a_kptfile_that_can_be_read(world: World) -> None:
    await world.create()
    answer = await world.save(files={"Kptfile": None})
    assert (answer.status, causes(answer)) == (422, ["spec"])
    answer = await world.save(files={"Kptfile": "apiVersion: kpt.dev/v1\nkind: Kptfile\nmetadata: {"})
    assert (answer.status, causes(answer)) == (422, ["spec[Kptfile]"])
    assert "line 3" in answer.json["message"] or "line 4" in answer.json["message"]
    answer = await world.save(files={"Kptfile": "apiVersion: v1\nkind: ConfigMap\n"})
    assert answer.status == 422


async def test_too_much_is_refused_before_it_is_read(etcd_endpoint: str, tmp_path: Path) -> None:
    limits = Limits(files=5, size=100_000)
    async with Workers(1) as workers, authoring_world(etcd_endpoint, workers, tmp_path, limits=limits) as world:
        await world.create()
        answer = await world.save(files={f"f{n}": "" for n in range(6)})
        assert answer.status == 422
        assert "--max-package-files" in answer.json["message"]
        answer = await world.save(files={"big": "x" * 100_001})
        assert answer.status == 422
        assert "--max-package-bytes" in answer.json["message"]
        answer = await world.ask("PUT", f"packagerevisions/{NAME}/files/big", b"x" * 100_001)
        assert (answer.status, answer.json["reason"]) == (413, "RequestEntityTooLarge")
        answer = await world.ask("PUT", f"packagerevisionresources/{NAME}", b"x" * (4 << 20))
        assert answer.status == 413
        assert (await world.get())["metadata"]["name"] == NAME


async def test_a_large_package_is_saved(world: World) -> None:
    await world.create()
    large = "0123456789abcdef" * (1_700_000 // 16)
    assert (await world.save(files={"crd.yaml": large})).status == 200
    assert (await world.resources())["spec"]["resources"]["crd.yaml"] == large


async def test_which_files_can_be_run_is_said_with_them_and_stays_where_it_is_not(world: World) -> None:
    await world.create()
    found = await world.resources()
    assert found["spec"]["executables"] == []
    found["spec"]["resources"] |= {"run.sh": "#!/bin/sh\n", "walk.sh": "#!/bin/sh\n"}
    found["spec"]["executables"] = ["run.sh", "gone.sh"]
    answer = await world.ask("PUT", f"packagerevisionresources/{NAME}", found)
    assert answer.status == 200, answer.body
    assert "spec.executables names gone.sh," in answer.headers["Warning"]
    assert answer.json["spec"]["executables"] == ["run.sh"]
    found = await world.resources()
    assert found["spec"]["executables"] == ["run.sh"]
    # a client that knows no such field changes no mode
    del found["spec"]["executables"]
    found["spec"]["resources"]["run.sh"] = "#!/bin/sh\nexit\n"
    assert (await world.ask("PUT", f"packagerevisionresources/{NAME}", found)).status == 200
    moved = [{"op": "replace", "path": "/spec/executables", "value": ["walk.sh"]}]
    answer = await world.ask("PATCH", f"packagerevisionresources/{NAME}", moved, media="application/json-patch+json")
    assert answer.json["spec"]["executables"] == ["walk.sh"]
    digest = (await world.get())["status"]["content"]["digest"]
    for wrong in ("run.sh", [1], {"run.sh": True}):
        found = await world.resources()
        found["spec"]["executables"] = wrong
        answer = await world.ask("PUT", f"packagerevisionresources/{NAME}", found)
        assert (answer.status, causes(answer)) == (422, ["spec.executables"])
    assert (await world.get())["status"]["content"]["digest"] == digest


async def test_one_file_is_put_and_deleted_as_bytes(world: World) -> None:
    await world.create()
    content = b"\x00\xff\r\n#!"
    digest = (await world.get())["status"]["content"]["digest"]
    path = f"packagerevisions/{NAME}/files/bin/run.sh"
    wrong = {"If-Match": '"sha256:0"'}
    assert (await world.ask("PUT", path, content, media="application/octet-stream", headers=wrong)).status == 412
    good = {"If-Match": f'"{digest}"'}
    answer = await world.ask("PUT", path, content, media="application/octet-stream", headers=good, executable="true")
    assert answer.status == 200, answer.body
    found = (await world.resources())["spec"]["binaryResources"]
    assert base64.b64decode(found["bin/run.sh"]) == content
    files = (await world.author.files(key_of(NAME)))[1]
    assert files["bin/run.sh"].executable
    # kept where nothing is said, by either way of saving
    await world.ask("PUT", path, b"#!/bin/sh\n", media="application/octet-stream")
    await world.save(files={"other": "x"})
    files = (await world.author.files(key_of(NAME)))[1]
    assert (files["bin/run.sh"].content, files["bin/run.sh"].executable) == (b"#!/bin/sh\n", True)
    assert (await world.ask("DELETE", path)).status == 200
    assert (await world.ask("DELETE", path)).status == 404
    assert "bin/run.sh" not in (await world.author.files(key_of(NAME)))[1]


def key_of(name: str) -> Key:
    repository, package, workspace = name.split(".")
    return Key(Kind.REVISION, "team", repository, package, workspace)


# --- the object ---


async def test_an_update_names_the_version_that_it_changes(world: World) -> None:
    await world.create()
    found = await world.get()
    found["metadata"]["labels"]["team"] = "a"
    first = await world.ask("PUT", f"packagerevisions/{NAME}", found)
    assert first.status == 200, first.body
    found["metadata"]["labels"]["team"] = "b"
    answer = await world.ask("PUT", f"packagerevisions/{NAME}", found)
    assert (answer.status, answer.json["reason"]) == (409, "Conflict")
    del found["metadata"]["resourceVersion"]
    answer = await world.ask("PUT", f"packagerevisions/{NAME}", found)
    assert (answer.status, causes(answer)) == (422, ["metadata.resourceVersion"])
    assert "must be specified for an update" in answer.json["message"]
    again = await world.ask("PUT", f"packagerevisions/{NAME}", first.json)
    assert again.json == first.json


async def test_labels_and_annotations_survive_a_save(world: World) -> None:
    await world.create(metadata={"labels": {"team": "a"}, "annotations": {"example.com/why": "x"}})
    await world.save(files={"a": "1"})
    metadata = (await world.get())["metadata"]
    assert (metadata["labels"]["team"], metadata["annotations"]["example.com/why"]) == ("a", "x")
    gone = {"metadata": {"labels": {"team": None}}}
    await world.ask("PATCH", f"packagerevisions/{NAME}", gone, media=MERGE)
    assert "team" not in (await world.get())["metadata"]["labels"]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("spec.packageName", {"spec": {"packageName": "other"}}),
        ("spec.workspaceName", {"spec": {"workspaceName": "w2"}}),
        ("spec.repository", {"spec": {"repository": "blueprints"}}),
        ("spec.revision", {"spec": {"revision": "v1"}}),
        ("spec.source", {"spec": {"source": {"init": {"description": "another"}}}}),
        ("spec.lifecycle", {"spec": {"lifecycle": "Published"}}),
        ("spec.lifecycle", {"spec": {"lifecycle": "DeletionProposed"}}),
        ("spec.lifecycle", {"spec": {"lifecycle": "Nonsense"}}),
        ("metadata.labels", {"metadata": {"labels": {"cacheserver.dev/repository": "x"}}}),
        ("metadata.labels", {"metadata": {"labels": {"a": "b c"}}}),
        ("metadata.name", {"metadata": {"name": "other"}}),
    ],
)
async def test_what_never_changes_is_refused_by_field(world: World, field: str, change: Any) -> None:
    await world.create(source={"init": {"description": "one"}})
    version = await world.version()
    answer = await world.ask("PATCH", f"packagerevisions/{NAME}", change, media=MERGE)
    assert (answer.status, causes(answer)) == (422, [field]), answer.body
    assert await world.version() == version


async def test_another_objects_uid_is_a_conflict(world: World) -> None:
    await world.create()
    change = {"metadata": {"uid": "another"}}
    answer = await world.ask("PATCH", f"packagerevisions/{NAME}", change, media=MERGE)
    assert (answer.status, answer.json["reason"]) == (409, "Conflict")


async def test_a_json_patch_tests_and_changes(world: World) -> None:
    await world.create()
    good = [
        {"op": "test", "path": "/spec/lifecycle", "value": "Draft"},
        {"op": "add", "path": "/metadata/labels/example.com~1a", "value": "b"},
    ]
    answer = await world.ask("PATCH", f"packagerevisions/{NAME}", good, media=JSON_PATCH)
    assert (answer.status, answer.json["metadata"]["labels"]["example.com/a"]) == (200, "b")
    bad = [{"op": "test", "path": "/spec/lifecycle", "value": "Published"}]
    assert (await world.ask("PATCH", f"packagerevisions/{NAME}", bad, media=JSON_PATCH)).status == 422


@pytest.mark.parametrize("media", ["application/strategic-merge-patch+json", "application/apply-patch+yaml"])
async def test_other_patches_are_refused_by_those_that_are_taken(world: World, media: str) -> None:
    await world.create()
    answer = await world.ask("PATCH", f"packagerevisions/{NAME}", {}, media=media)
    assert answer.status == 415
    assert "application/json-patch+json, application/merge-patch+json" in answer.json["message"]


async def test_gates_go_into_the_kptfile(world: World) -> None:
    await world.create(readinessGates=[{"conditionType": "example.com/validated"}])
    found = await world.get()
    assert found["status"]["readinessGates"] == [{"conditionType": "example.com/validated"}]
    change = {"spec": {"readinessGates": [{"conditionType": "example.com/b"}]}}
    answer = await world.ask("PATCH", f"packagerevisions/{NAME}", change, media=MERGE)
    assert answer.json["status"]["readinessGates"] == [{"conditionType": "example.com/b"}]
    kptfile = yaml.safe_load((await world.resources())["spec"]["resources"]["Kptfile"])
    assert kptfile["info"]["readinessGates"] == [{"conditionType": "example.com/b"}]


# --- the life of a revision ---


async def test_a_draft_is_proposed_rejected_proposed_and_approved(world: World) -> None:
    await world.create()
    assert (await world.move("Proposed")).json["spec"]["lifecycle"] == "Proposed"
    answer = await world.save(files={"a": "1"})
    assert (answer.status, answer.json["reason"]) == (403, "Forbidden")
    assert "reject it first" in answer.json["message"]
    assert (await world.ask("DELETE", f"packagerevisions/{NAME}")).status == 403
    assert (await world.move("Draft")).json["spec"]["lifecycle"] == "Draft"
    assert (await world.save(files={"a": "1"})).status == 200
    published = await world.publish()
    assert (published["metadata"]["name"], published["spec"]["revision"]) == (NAME, "v1")
    assert [step for _, step, _ in world.done] == [Step.PROPOSE, Step.REJECT, Step.PROPOSE, Step.APPROVE]
    assert (await world.save(files={"a": "2"})).status == 403
    again = await world.move("Published")
    assert (again.status, again.json) == (200, published)


async def test_a_published_revision_goes_when_its_deletion_was_proposed(world: World) -> None:
    await world.create()
    await world.publish()
    answer = await world.ask("DELETE", f"packagerevisions/{NAME}")
    assert (answer.status, answer.json["reason"]) == (403, "Forbidden")
    assert "must be proposed for deletion" in answer.json["message"]
    assert (await world.move("DeletionProposed")).status == 200
    assert (await world.move("Published")).status == 200
    assert (await world.move("DeletionProposed")).status == 200
    answer = await world.ask("DELETE", f"packagerevisions/{NAME}")
    assert (answer.status, answer.json["status"]) == (200, "Success")
    assert (await world.ask("GET", f"packagerevisions/{NAME}")).status == 404


async def test_what_is_approved_meets_its_gates(world: World) -> None:
    await world.create(readinessGates=[{"conditionType": "example.com/validated"}])
    await world.move("Proposed")
    answer = await world.move("Published")
    assert answer.status == 422
    assert "example.com/validated" in answer.json["message"]


async def test_the_approval_subresource_takes_the_lifecycle_alone(world: World) -> None:
    await world.create()
    path = f"packagerevisions/{NAME}/approval"
    answer = await world.ask("PATCH", path, {"spec": {"lifecycle": "Published"}}, media=MERGE)
    assert (answer.status, causes(answer)) == (422, ["spec.lifecycle"])
    answer = await world.ask("PATCH", path, {"spec": {"lifecycle": "Proposed"}}, media=MERGE)
    assert answer.status == 422
    await world.move("Proposed")
    found = (await world.ask("GET", path)).json
    assert found == await world.get()
    found["spec"] |= {"lifecycle": "Published", "packageName": "whatever"}
    found["metadata"]["labels"] = {"x": "y"}
    answer = await world.ask("PUT", path, found)
    assert (answer.status, answer.json["spec"]["lifecycle"]) == (200, "Published"), answer.body
    assert "x" not in answer.json["metadata"]["labels"]


async def test_what_git_refuses_is_told_and_nothing_moved(world: World) -> None:
    await world.create()
    await world.move("Proposed")
    world.fails[Step.APPROVE] = Failure(403, "Forbidden", "the remote refuses refs/heads/main: protected branch")
    answer = await world.move("Published")
    assert (answer.status, answer.json["reason"]) == (403, "Forbidden")
    assert "protected branch" in answer.json["message"]
    world.fails[Step.APPROVE] = Failure(422, "Invalid", "Outdated: v2 was published since")
    answer = await world.move("Published")
    [cause] = answer.json["details"]["causes"]  # of what is Invalid kubectl shows these alone
    assert (answer.status, cause["field"], cause["message"]) == (
        422,
        "spec.lifecycle",
        "Outdated: v2 was published since",
    )
    found = await world.get()
    assert (found["spec"]["lifecycle"], "operation" in found["status"]) == ("Proposed", False)
    world.fails.clear()
    assert (await world.move("Published")).status == 200


async def test_while_git_works_other_writes_wait_and_the_same_joins(world: World) -> None:
    await world.create()
    world.stuck.add(Step.PROPOSE)
    proposed = asyncio.ensure_future(world.move("Proposed"))

    async def asked() -> bool:
        return "operation" in (await world.get())["status"]

    await eventually(asked)
    answer = await world.save(files={"a": "1"})
    assert (answer.status, answer.json["reason"]) == (409, "Conflict")
    assert (answer.headers["Retry-After"], answer.json["details"]["retryAfterSeconds"]) == ("1", 1)
    again = asyncio.ensure_future(world.move("Proposed"))
    world.stuck.clear()
    await world.create("wakes-the-publisher")
    assert [(await each).status for each in (proposed, again)] == [200, 200]
    assert [step for _, step, _ in world.done] == [Step.PROPOSE]


# --- deletion ---


async def test_finalizers_hold_a_deletion_up(world: World) -> None:
    await world.create(metadata={"finalizers": ["example.com/wait"]})
    answer = await world.ask("DELETE", f"packagerevisions/{NAME}")
    assert answer.status == 200
    assert answer.json["metadata"]["deletionTimestamp"]
    assert world.done == []
    more = {"metadata": {"finalizers": ["example.com/wait", "example.com/more"]}}
    answer = await world.ask("PATCH", f"packagerevisions/{NAME}", more, media=MERGE)
    assert (answer.status, causes(answer)) == (422, ["metadata.finalizers"])
    answer = await world.ask("PATCH", f"packagerevisions/{NAME}", {"metadata": {"finalizers": []}}, media=MERGE)
    assert answer.status == 200
    assert (await world.ask("GET", f"packagerevisions/{NAME}")).status == 404
    assert [step for _, step, _ in world.done] == [Step.DELETE]


async def test_the_last_finalizer_of_what_has_no_repository_any_more_forgets_it(world: World) -> None:
    await world.create(metadata={"finalizers": ["example.com/wait"]})
    await world.ask("DELETE", f"packagerevisions/{NAME}")
    world.repositories.clear()
    answer = await world.ask("PATCH", f"packagerevisions/{NAME}", {"metadata": {"finalizers": []}}, media=MERGE)
    assert answer.status == 200, answer.body
    assert (await world.ask("GET", f"packagerevisions/{NAME}")).status == 404
    assert world.done == []


async def test_a_deletion_has_preconditions(world: World) -> None:
    await world.create()
    for wanted in ({"uid": "another"}, {"resourceVersion": "1"}):
        options = {"kind": "DeleteOptions", "apiVersion": "porch.kpt.dev/v1alpha1", "preconditions": wanted}
        answer = await world.ask("DELETE", f"packagerevisions/{NAME}", options)
        assert (answer.status, answer.json["reason"]) == (409, "Conflict"), answer.body
    uid = (await world.get())["metadata"]["uid"]
    options = {"preconditions": {"uid": uid}, "propagationPolicy": "Foreground"}
    answer = await world.ask("DELETE", f"packagerevisions/{NAME}", options)
    assert (answer.status, answer.json["details"]["uid"]) == (200, uid)


async def test_what_belongs_to_a_repository_that_went_is_forgotten_without_git(world: World) -> None:
    await world.create()
    await world.publish()
    world.repositories.clear()
    assert (await world.ask("DELETE", f"packagerevisions/{NAME}")).status == 200
    assert (await world.ask("GET", f"packagerevisions/{NAME}")).status == 404
    assert Step.DELETE not in [step for _, step, _ in world.done]


async def test_many_are_deleted_by_selector(world: World) -> None:
    for package in ("a", "b", "c"):
        await world.create(package, metadata={"labels": {"which": package}})
    answer = await world.ask("DELETE", "packagerevisions", labelSelector="which in (a, b)")
    assert answer.status == 200, answer.body
    assert sorted(answer.names) == ["edge.a.w1", "edge.b.w1"]
    assert (await world.ask("GET", "packagerevisions")).names == ["edge.c.w1"]


# --- dry runs, and strictness ---


async def test_a_dry_run_answers_and_changes_nothing(world: World) -> None:
    version = await world.version()
    answer = await world.ask("POST", "packagerevisions", draft(), dryRun="All")
    assert (answer.status, answer.json["metadata"]["name"]) == (201, NAME)
    assert await world.version() == version
    await world.create()
    version = await world.version()
    found = await world.resources()
    found["spec"]["resources"]["a"] = "1"
    answer = await world.ask("PUT", f"packagerevisionresources/{NAME}", found, dryRun="All")
    assert (answer.status, answer.json["spec"]["resources"]["a"]) == (200, "1")
    propose = {"spec": {"lifecycle": "Proposed"}}
    answer = await world.ask("PATCH", f"packagerevisions/{NAME}", propose, media=MERGE, dryRun="All")
    assert (answer.status, answer.json["spec"]["lifecycle"]) == (200, "Proposed")
    assert (await world.ask("DELETE", f"packagerevisions/{NAME}", dryRun="All")).status == 200
    assert (await world.ask("DELETE", f"packagerevisions/{NAME}", dryRun="No")).status == 422
    assert await world.version() == version


async def test_unknown_and_doubled_fields_are_told_or_refused(world: World) -> None:
    body = b"""{"apiVersion": "cacheserver.dev/v1alpha1", "kind": "PackageRevision", "spec": {"repository": "edge",
        "packageName": "app", "packageName": "app", "workspaceName": "w1", "foo": 1}}"""
    answer = await world.ask("POST", "packagerevisions", body, fieldValidation="Strict")
    assert answer.status == 400
    assert 'unknown field "spec.foo", duplicate field "packageName"' in answer.json["message"]
    answer = await world.ask("POST", "packagerevisions", body, fieldValidation="Ignore", dryRun="All")
    assert (answer.status, "Warning" in answer.headers) == (201, False)
    answer = await world.ask("POST", "packagerevisions", body)
    assert answer.status == 201
    assert '299 - "unknown field \\"spec.foo\\""' in answer.headers.getall("Warning")  # type: ignore[attr-defined]


async def test_yaml_is_taken_and_other_types_are_not(world: World) -> None:
    body = yaml.safe_dump(draft()).encode()
    assert (await world.ask("POST", "packagerevisions", body, media="application/yaml")).status == 201
    for media in ("application/x-www-form-urlencoded", "text/plain", "application/vnd.kubernetes.protobuf"):
        assert (await world.ask("POST", "packagerevisions", body, media=media)).status == 415


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"kind":"Pod","apiVersion":"v1"}', b"[" * 5000, b'{"a":"\xff"}']
)
async def test_what_is_no_revision_is_a_bad_request(world: World, body: bytes) -> None:
    answer = await world.ask("POST", "packagerevisions", body)
    assert (answer.status, answer.json["reason"]) == (400, "BadRequest")


async def test_web_pages_do_not_write_but_our_own(world: World) -> None:
    body = draft()
    for origin in ("https://evil.example", "null", "http://evil.example:1", "http://127.0.0.1", "file://"):
        answer = await world.ask("POST", "packagerevisions", body, headers={"Origin": origin})
        assert answer.status == 403, origin
    names = {"Origin": "http://evil.example:8001", "Host": "evil.example:8001"}  # a name of theirs that leads here
    assert (await world.ask("POST", "packagerevisions", body, headers=names)).status == 403
    answer = await world.ask("POST", "packagerevisions", body, headers={"Host": "evil.example:8001"})
    assert answer.status == 403
    answer = await world.ask("POST", "packagerevisions", body, headers={"Host": "localhost:8001"})
    assert answer.status == 201
    own = {"Origin": "http://localhost:8001", "Host": "localhost:8001"}
    assert (await world.ask("POST", "packagerevisions", draft("other"), headers=own)).status == 201


async def test_metadata_of_what_is_only_read_can_be_changed(world: World) -> None:
    """Labels touch no git."""
    await world.create()
    await world.publish()
    known = config("edge", writable=False)
    world.repositories[known.key] = known
    labelled = {"metadata": {"labels": {"team": "a"}}}
    assert (await world.ask("PATCH", f"packagerevisions/{NAME}", labelled, media=MERGE)).status == 200
    assert (await world.move("DeletionProposed")).status == 403


# --- rights ---


class Rights:
    """Users are who they say they are; who may approve is in `approvers`."""

    approvers = ("boss",)

    async def identify(self, request: web.BaseRequest) -> Identity:
        return Identity(request.headers.get("X-User", "nobody"))

    async def authorize(self, identity: Identity, attributes: Attributes) -> None:
        if attributes.subresource == "approval" and identity.user not in self.approvers:
            assert (attributes.verb, attributes.resource, attributes.namespace) == (
                "update",
                "packagerevisions",
                "team",
            )
            raise forbidden(identity.user, attributes)
        if attributes.resource == "repositories":
            raise forbidden(identity.user, attributes)


async def test_who_may_not_approve_is_told_which_right_is_missing(etcd_endpoint: str, tmp_path: Path) -> None:
    async with Workers(1) as workers, authoring_world(etcd_endpoint, workers, tmp_path, gate=Rights()) as world:
        world.user = "ada"
        await world.create()
        assert (await world.move("Proposed")).status == 200
        for wanted in ("Published", "Draft"):
            answer = await world.move(wanted)
            assert (answer.status, answer.json["reason"]) == (403, "Forbidden")
            assert 'the right to update "packagerevisions/approval"' in answer.json["message"]
        world.user = "boss"
        assert (await world.move("Published")).status == 200
        assert [user for _, _, user in world.done] == ["ada", "boss"]
        world.user = "ada"
        assert (await world.move("DeletionProposed")).status == 403
        found = await world.get()
        assert found["status"]["createdBy"] == "ada"


async def test_a_namespace_that_goes_takes_nothing_out_of_git(etcd_endpoint: str, tmp_path: Path) -> None:
    async with Workers(1) as workers, authoring_world(etcd_endpoint, workers, tmp_path, gate=Rights()) as world:
        world.user = "ada"
        await world.create()
        world.user = "system:serviceaccount:kube-system:namespace-controller"
        answer = await world.ask("DELETE", "packagerevisions")
        assert (answer.status, answer.json["items"], world.done) == (200, [], [])
