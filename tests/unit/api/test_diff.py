"""packagerevisions/NAME/diff: what changed, in both forms; bounded, and for who may read both."""

from __future__ import annotations

import aiohttp
import pytest

from cacheserver.api import Identity
from cacheserver.api.attributes import Attributes
from cacheserver.api.comparing import MOST_BYTES
from cacheserver.api.status import forbidden
from tests.fakes.api import World, api_world

V2 = "namespaces/team/packagerevisions/r.app.v2/diff"


def fill(world: World) -> None:
    old = {"Kptfile": b"a\n", "gone.yaml": b"x: 1\n", "logo.png": b"\x89PNG\0"}
    new = {"Kptfile": b"b\n", "new.yaml": b"y: 2\n", "logo.png": b"\x89PNG\0\0"}
    world.revision("v1", world.blobs.put_files(old))
    world.revision("v2", world.blobs.put_files(new))
    world.revision("empty")


@pytest.fixture
async def app(world: World) -> World:
    fill(world)
    await world.settled()
    return world


async def test_a_difference_is_told_by_file(app: World) -> None:
    answer = (await app.get(V2, query={"from": "r.app.v1"})).json
    assert (answer["kind"], answer["spec"]) == ("PackageRevisionDiff", {"from": "r.app.v1"})
    assert answer["status"]["files"] == [
        {
            "path": "Kptfile",
            "change": "changed",
            "binary": False,
            "added": 1,
            "removed": 1,
            "diff": "@@ -1 +1 @@\n-a\n+b\n",
        },
        {
            "path": "gone.yaml",
            "change": "removed",
            "binary": False,
            "added": 0,
            "removed": 1,
            "diff": "@@ -1 +0,0 @@\n-x: 1\n",
        },
        {"path": "logo.png", "change": "changed", "binary": True, "added": 0, "removed": 0, "diff": ""},
        {
            "path": "new.yaml",
            "change": "added",
            "binary": False,
            "added": 1,
            "removed": 0,
            "diff": "@@ -0,0 +1 @@\n+y: 2\n",
        },
    ]


async def test_a_difference_is_a_patch(app: World) -> None:
    by_format = await app.get(V2, query={"from": "r.app.v1", "format": "diff"})
    by_accept = await app.get(V2, query={"from": "r.app.v1"}, accept="text/x-diff")
    assert by_format.body == by_accept.body
    assert by_format.headers["Content-Type"] == "text/x-diff; charset=utf-8"
    assert by_format.body.startswith(b"--- a/Kptfile\n+++ b/Kptfile\n@@ -1 +1 @@\n-a\n+b\n")


async def test_what_is_equal_or_has_no_files_differs_in_nothing_or_in_all(app: World) -> None:
    assert (await app.get(V2, query={"from": "r.app.v2"})).json["status"]["files"] == []
    files = (await app.get(V2, query={"from": "r.app.empty"})).json["status"]["files"]
    assert {file["change"] for file in files} == {"added"}


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ({}, 400, "say what to compare with"),
        ({"from": "r.app.v9"}, 404, "r.app.v9"),
        ({"from": "r.app.v1", "format": "html"}, 400, "json, diff"),
        ({"from": "r.app.v1", "form": "x"}, 400, "'form'"),
    ],
)
async def test_what_cannot_be_compared_is_refused_by_name(
    app: World, query: dict[str, str], status: int, said: str
) -> None:
    answer = await app.get(V2, query=query)
    assert (answer.status, said in answer.json["message"]) == (status, True)


async def test_what_is_too_large_is_refused_by_its_size(app: World) -> None:
    app.revision("v3", app.blobs.put_files({"a": b"x" * MOST_BYTES}))
    await app.settled()
    answer = await app.get(V2, query={"from": "r.app.v3"})
    assert answer.status == 400
    assert f"at most {MOST_BYTES}" in answer.json["message"]


class NotTheOld:
    """Somebody who may read every revision but v1."""

    async def identify(self, request: aiohttp.web.BaseRequest) -> Identity:
        return Identity("jane")

    async def authorize(self, identity: Identity, attributes: Attributes) -> None:
        if attributes.name == "r.app.v1":
            raise forbidden("jane", attributes)


async def test_who_may_not_read_the_other_one_learns_nothing_of_it() -> None:
    async with api_world(gate=NotTheOld()) as world:
        fill(world)
        await world.settled()
        answer = await world.get(V2, query={"from": "r.app.v1"})
        assert answer.status == 403
        assert 'get resource "packagerevisions/content"' in answer.json["message"]
        assert (await world.get(V2, query={"from": "r.app.empty"})).status == 200
