"""Packages that begin as a clone of what lies in a git repository: over HTTP, with real git and a real etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cacheserver.catalogs.workers import Workers
from tests.etcd.test_author import Rights
from tests.support.krm import kptfile
from tests.support.whole import Whole, whole_world
from tests.support.writing import BASE, authoring_world, draft

pytestmark = pytest.mark.etcd

RESOURCE = b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: web\n"
FILES = {
    "apps/web/Kptfile": kptfile("web"),
    "apps/web/web.yaml": RESOURCE,
    "apps/web/run.sh": b"#!/bin/sh\r\n",
    "apps/web/image.bin": bytes(range(256)),
    "README.md": b"not of the package\n",
}


@pytest.fixture
async def world(etcd_endpoint: str, tmp_path: Path) -> AsyncIterator[Whole]:
    async with whole_world(etcd_endpoint, tmp_path, ("edge", "elsewhere")) as world:
        world.remotes["elsewhere"].commit(FILES, modes={"apps/web/run.sh": "100755"})
        yield world


async def clone(world: Whole, workspace: str = "w1", package: str = "site", **git: Any) -> Any:
    given = {"url": world.remotes["elsewhere"].url, "ref": "main", "directory": "apps/web", **git}
    kept = {name: value for name, value in given.items() if value is not None}
    return await world.create(package, workspace, source={"clone": {"git": kept}})


async def test_a_clone_of_a_branch_names_it_and_its_commit_and_is_published(world: Whole) -> None:
    answer = await clone(world)
    assert answer.status == 201, answer.body
    elsewhere = world.remotes["elsewhere"]
    found = (await world.resources("edge.site.w1"))["spec"]
    about = yaml.safe_load(found["resources"]["Kptfile"])
    git = {"repo": elsewhere.url, "directory": "apps/web", "ref": "main"}
    assert about["metadata"]["name"] == "site"
    assert about["upstream"] == {"type": "git", "git": git}
    assert about["upstreamLock"]["git"] == {**git, "commit": elsewhere.git("rev-parse", "main")}
    assert found["resources"]["web.yaml"] == RESOURCE.decode().replace("metadata:", "metadata: # kpt-merge: /web")
    assert set(found["resources"]) == {"Kptfile", "web.yaml", "run.sh", "package-context.yaml"}
    await world.publish("edge.site.w1")
    edge = world.remotes["edge"]
    assert edge.git("ls-tree", "site/v1", "site/run.sh").startswith("100755")
    assert edge.git("rev-parse", "site/v1:site/image.bin") == elsewhere.git("rev-parse", "main:apps/web/image.bin")
    assert '"upstreamRef":{"type":"git"' in edge.git("log", "-1", "--format=%B", "site/v1^")
    assert not list((world.remotes["edge"].path.parent / "scratch").glob("clone-*"))


async def test_tags_and_commits_are_refs_as_well(world: Whole) -> None:
    elsewhere = world.remotes["elsewhere"]
    elsewhere.tag("v1", annotated=True)
    commit = elsewhere.git("rev-parse", "main")
    elsewhere.commit({"apps/web/Kptfile": kptfile("newer")})
    for workspace, ref in (("a", "v1"), ("b", commit)):
        answer = await clone(world, package=f"site-{workspace}", ref=ref)
        assert answer.status == 201, answer.body
        assert answer.json["status"]["upstreamLock"]["git"]["commit"] == commit


@pytest.mark.parametrize(
    ("git", "field", "said"),
    [
        ({"ref": "no-such"}, "ref", "neither a branch nor a tag 'no-such'"),
        ({"ref": "0" * 40}, "ref", "no such branch, tag or commit"),
        ({"ref": "a..b"}, "ref", "not a name that git accepts"),
        ({"ref": None}, "ref", "Required value"),
        ({"directory": "apps/none"}, "directory", "no directory 'apps/none'"),
        ({"directory": "../up"}, "directory", "not a directory inside"),
        ({"directory": ""}, "directory", "there is no Kptfile"),
        ({"url": None}, "url", "Required value"),
        ({"url": "file:///etc"}, "url", "the server's own machine"),
        ({"url": "ext::sh -c id"}, "url", "is not a git URL"),
        ({"url": "https://u:hunter2@h.example/x"}, "url", "holds a user or password"),
        ({"url": "ssh://-oProxyCommand=id/x"}, "url", "does not start with a hyphen"),
        ({"url": "git://127.0.0.1/x"}, "url", "is not a git URL"),
        ({"secretRef": {}}, "secretRef.name", "the name of a Secret"),
    ],
)
async def test_what_cannot_be_cloned_is_refused_by_field_and_nothing_is_written(
    world: Whole, git: dict[str, Any], field: str, said: str
) -> None:
    before = world.refs()
    answer = await clone(world, **git)
    assert answer.status == 422, answer.body
    assert [each["field"] for each in answer.json["details"]["causes"]] == [f"spec.source.clone.git.{field}"]
    assert said in answer.json["message"]
    assert "hunter2" not in answer.json["message"]
    assert (await world.ask("GET", "packagerevisions/edge.site.w1")).status == 404
    assert world.refs() == before


async def test_links_submodules_and_too_much_are_refused(world: Whole) -> None:
    elsewhere = world.remotes["elsewhere"]
    elsewhere.commit({**FILES, "apps/web/link": b"/etc/passwd"}, branch="links", modes={"apps/web/link": "120000"})
    elsewhere.commit(
        {**FILES, "apps/web/sub": elsewhere.git("rev-parse", "main").encode()}, branch="sub",
        modes={"apps/web/sub": "160000"},
    )  # fmt: skip
    elsewhere.commit({**FILES, **{f"apps/web/{at}": b"" for at in range(1001)}}, branch="many")
    elsewhere.commit({**FILES, "apps/web/large": bytes((16 << 20) + 1)}, branch="large")
    said = {"links": "'link' is a link", "sub": "'sub' is a link, a submodule", "many": "1000 at most",
            "large": "16777216 bytes at most"}  # fmt: skip
    for ref, why in said.items():
        answer = await clone(world, ref=ref)
        assert (answer.status, why in answer.json["message"]) == (422, True), answer.body


async def test_a_package_is_cloned_once_and_a_revision_or_git_is_named_not_both(world: Whole) -> None:
    assert (await clone(world)).status == 201
    assert (await clone(world, "w2")).status == 409
    both = {"clone": {"revision": "x.y.z", "git": {"url": "https://h.example/x", "ref": "main"}}}
    answer = await world.create("other", source=both)
    assert (answer.status, "exactly one of: revision, git" in answer.json["message"]) == (422, True)


async def test_a_server_that_is_away_is_to_be_tried_again_later(world: Whole) -> None:
    source = {"clone": {"git": {"url": "https://127.0.0.1:1/x.git", "ref": "main"}}}
    async with world.session.post(f"{BASE}/packagerevisions", json=draft("site", source=source)) as answer:
        assert (answer.status, answer.headers.get("Retry-After")) == (503, "5")
        assert "cannot be asked now" in (await answer.json())["message"]


async def test_who_may_not_make_repositories_has_no_url_fetched(etcd_endpoint: str, tmp_path: Path) -> None:
    async with Workers(1) as workers, authoring_world(etcd_endpoint, workers, tmp_path, gate=Rights()) as world:
        world.user = "ada"
        source = {"clone": {"git": {"url": "https://127.0.0.1:1/x.git", "ref": "main"}}}
        answer = await world.create("site", source=source)
        assert (answer.status, answer.json["reason"]) == (403, "Forbidden")
        assert "'ada' may not have a URL fetched" in answer.json["message"]
        assert 'the right to create "repositories"' in answer.json["message"]
