"""packages/NAME/export: a valid catalog of a part of a package, streamed, in two forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pytest

from cacheserver.catalogs.documents import goyaml
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.query import export
from tests.fakes.api import Answer, World

EXPORT = "namespaces/team/packages/r.app/export"
IMAGES = "namespaces/team/packages/r.app/images"
CHANNELS = {"stable": ["1.0.0", "1.1.0", "1.2.0"], "fast": ["1.2.0", "2.0.0"], "old": ["1.0.0"]}


def bundle(version: str, *, text: str = "") -> dict[str, Any]:
    return {
        "schema": "olm.bundle",
        "package": "app",
        "name": f"app.v{version}",
        "image": f"reg.io/bundle:{version}",
        "properties": [{"type": "olm.package", "value": {"packageName": "app", "version": version}}],
        "relatedImages": [{"name": "", "image": f"reg.io/app:{version}"}],
        "text": text,
    }


def channel(name: str, versions: Sequence[str]) -> dict[str, Any]:
    entries = [
        {"name": f"app.v{version}"} | ({"replaces": f"app.v{versions[at - 1]}"} if at else {"replaces": "app.v0.1.0"})
        for at, version in enumerate(versions)
    ]
    return {"schema": "olm.channel", "package": "app", "name": name, "entries": entries}


def documents() -> list[dict[str, Any]]:
    deprecated = [
        {"reference": {"schema": "olm.package"}, "message": "all of it"},
        {"reference": {"schema": "olm.channel", "name": "old"}, "message": "old"},
        {"reference": {"schema": "olm.bundle", "name": "app.v1.0.0"}, "message": "1e3"},
    ]
    return [
        {"schema": "olm.package", "name": "app", "defaultChannel": "stable"},
        *(channel(name, versions) for name, versions in CHANNELS.items()),
        *(bundle(version) for version in ("1.0.0", "1.1.0", "1.2.0", "2.0.0")),
        {"schema": "olm.deprecations", "package": "app", "entries": deprecated},
        {"schema": "example.com.lifecycle", "package": "app", "any": {"thing": [1.5, "y"]}},
    ]


def put(world: World, found: Sequence[Mapping[str, Any]]) -> None:
    lines = b"".join(orjson.dumps(each, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE) for each in found)
    world.package("app", defaultChannel="stable", documents={"digest": world.blobs.put(lines, "application/jsonl")})
    for each in found:
        if each["schema"] == "olm.bundle":
            name, version = each["name"], each["name"].removeprefix("app.v")
            places = [
                {"name": one["name"], "replaces": entry["replaces"]}
                for one in found
                if one["schema"] == "olm.channel"
                for entry in one["entries"]
                if entry["name"] == name
            ]
            world.revision(version, image=each["image"], relatedImages=each["relatedImages"], channels=places)


@pytest.fixture
async def app(world: World) -> World:
    put(world, documents())
    await world.settled()
    return world


def lines(answer: Answer) -> list[Any]:
    assert answer.status == 200, answer.body
    return [orjson.loads(line) for line in answer.body.splitlines()]


def of(found: Sequence[Mapping[str, Any]], schema: str) -> list[Any]:
    return [each for each in found if each["schema"] == schema]


async def test_the_whole_package_is_its_documents(app: World) -> None:
    answer = await app.get(EXPORT, accept="*/*")
    assert lines(answer) == documents()
    assert answer.headers["Content-Type"] == "application/jsonl"


@pytest.mark.parametrize(
    ("query", "default", "channels", "deprecated"),
    [
        ({"channel": "stable"}, "stable", {"stable": ["1.0.0", "1.1.0", "1.2.0"]}, ["", "app.v1.0.0"]),
        ({"channel": "fast"}, "fast", {"fast": ["1.2.0", "2.0.0"]}, [""]),
        ({"channel": "stable", "from": "1.1.0"}, "stable", {"stable": ["1.1.0", "1.2.0"]}, [""]),
        ({"from": "1.2.0"}, "stable", {"stable": ["1.2.0"], "fast": ["1.2.0", "2.0.0"]}, [""]),
        ({"from": "2.0.0"}, "fast", {"fast": ["2.0.0"]}, [""]),
        ({"channel": "old"}, "old", {"old": ["1.0.0"]}, ["", "old", "app.v1.0.0"]),
    ],
)
async def test_a_part_has_what_it_names_and_nothing_else(
    app: World, query: dict[str, str], default: str, channels: Mapping[str, list[str]], deprecated: list[str]
) -> None:
    found = lines(await app.get(EXPORT, query=query))
    assert of(found, "olm.package") == [{"schema": "olm.package", "name": "app", "defaultChannel": default}]
    entries = {each["name"]: each["entries"] for each in of(found, "olm.channel")}
    assert {name: [each["name"] for each in some] for name, some in entries.items()} == {
        name: [f"app.v{version}" for version in versions] for name, versions in channels.items()
    }
    assert all("replaces" in each for some in entries.values() for each in some)  # where installed ones come from
    taken = {version for versions in channels.values() for version in versions}
    assert of(found, "olm.bundle") == [bundle(version) for version in sorted(taken)]
    references = [each["reference"] for each in of(found, "olm.deprecations")[0]["entries"]]
    assert [each.get("name", "") for each in references] == deprecated
    assert of(found, "example.com.lifecycle")
    images = (await app.get(IMAGES, query=query)).json["status"]["images"]
    listed = {image["image"] for each in of(found, "olm.bundle") for image in each["relatedImages"]}
    assert images == sorted(listed | {each["image"] for each in of(found, "olm.bundle")})


async def test_yaml_says_the_same_to_go(app: World) -> None:
    answer = await app.get(EXPORT, query={"format": "yaml"})
    assert answer.body == (await app.get(EXPORT, accept="application/yaml")).body
    found = [goyaml.load(piece, ParseLimits()).value for piece in answer.body.split(b"---\n")[1:]]
    assert found == documents()


async def test_a_bundle_may_be_called_by_its_objects_name(app: World) -> None:
    by_object = await app.get(EXPORT, query={"from": "r.app.1.2.0"})
    assert by_object.body == (await app.get(EXPORT, query={"from": "1.2.0"})).body


async def test_large_documents_go_through_whole(world: World) -> None:
    put(world, [*documents()[:-6], *(bundle(v, text="x" * 200_000) for v in ("1.0.0", "1.1.0", "1.2.0", "2.0.0"))])
    await world.settled()
    found = of(lines(await world.get(EXPORT, channel="stable")), "olm.bundle")
    assert [len(each["text"]) for each in found] == [200_000] * 3


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"channel": "slow"}, "there are fast, old, stable"),
        ({"from": "7.0.0"}, "there are app.v2.0.0"),
        ({"format": "xml"}, "json, yaml"),
        ({"to": "1.0.0"}, "'to'"),
        ({"channel": "old", "from": "1.1.0"}, "have none"),
    ],
)
async def test_what_is_not_there_is_refused_by_name(app: World, query: dict[str, str], said: str) -> None:
    answer = await app.get(EXPORT, query=query)
    assert (answer.status, said in answer.json["message"]) == (400, True), answer.body


async def test_where_no_default_channel_is_left_the_others_are_named(world: World) -> None:
    put(world, [*documents(), channel("next", ["2.0.0"])])
    await world.settled()
    answer = await world.get(EXPORT, query={"from": "2.0.0"})
    assert (answer.status, "fast, next" in answer.json["message"]) == (400, True)


async def test_what_would_hold_everybody_is_refused_by_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    put(world, [*documents(), {"schema": "x", "package": "app", "a": [[]] * (export.MOST_CONTAINERS + 1)}])
    await world.settled()
    answer = await world.get(EXPORT)
    assert (answer.status, "objects and lists" in answer.json["message"]) == (400, True)
    put(world, [*documents(), {"schema": "x", "package": "app", "a": "b" * export.MOST_LINE_BYTES}])
    await world.settled()
    answer = await world.get(EXPORT)
    assert (answer.status, "bytes" in answer.json["message"]) == (400, True)


async def test_a_krm_package_is_no_catalog(world: World) -> None:
    world.package("app")
    await world.settled()
    answer = await world.get(EXPORT)
    assert (answer.status, "FBC" in answer.json["message"]) == (400, True)


async def test_nothing_is_read_of_documents_that_are_gone(app: World) -> None:
    app.blobs._blobs.clear()
    assert (await app.get(EXPORT)).status == 503
