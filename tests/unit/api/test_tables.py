"""Tables: what kubectl prints."""

from __future__ import annotations

import orjson
import pytest

from cacheserver.model import Kind
from tests.fakes.api import CREATED, TABLE, World


async def _rows(world: World, path: str = "packages") -> list[list[object]]:
    return [row["cells"] for row in (await world.get(path, accept=TABLE)).json["rows"]]


async def test_columns_are_those_agreed_and_described(six: World) -> None:
    columns = (await six.get("packages", accept=TABLE)).json["columnDefinitions"]
    shown = " ".join(column["name"].upper() for column in columns if not column["priority"])
    wide = " ".join(column["name"].upper() for column in columns if column["priority"])
    assert shown == "NAME REPOSITORY PACKAGE LATEST CHANNEL REVISIONS AGE"
    assert wide == "PROVIDER CHANNELS FORMAT DEPRECATED"
    assert columns[0]["format"] == "name"
    assert all(column["description"] for column in columns)


async def test_cells_are_rendered_by_the_server_ages_too(six: World) -> None:
    six.time = CREATED + 300
    assert (await _rows(six, "namespaces/team/packages"))[0] == [
        "r.a", "r", "a", "", "stable", 3, "5m", "", "", "FBC", False,
    ]  # fmt: skip


async def test_ages_move_with_the_clock_and_only_then(six: World) -> None:
    six.time = CREATED + 601
    ten = await six.get("packages", accept=TABLE)
    six.time = CREATED + 659
    assert (await six.get("packages", accept=TABLE)).body == ten.body
    six.time = CREATED + 660
    assert (await _rows(six))[0][6] == "11m"


async def test_rows_carry_what_is_asked_for(six: World) -> None:
    async def row(include: str) -> object:
        table = (await six.get("packages", accept=TABLE, limit="1", includeObject=include)).json
        return table["rows"][0]["object"]

    assert await row("None") is None
    assert (await row("Metadata"))["kind"] == "PartialObjectMetadata"  # type: ignore[index] # JSON
    assert (await row("Object"))["kind"] == "Package"  # type: ignore[index] # JSON
    refused = await six.get("packages", accept=TABLE, includeObject="Foo")
    assert refused.json["message"].startswith("Unable to convert to Table as requested")


async def test_an_empty_table_has_columns_and_no_rows(world: World) -> None:
    table = (await world.get("packages", accept=TABLE)).json
    assert table["rows"] == []
    assert table["columnDefinitions"]


async def test_v1beta1_is_answered_in_kind(six: World) -> None:
    accept = "application/json;as=Table;v=v1beta1;g=meta.k8s.io"
    table = (await six.get("packages", accept=accept, limit="1")).json
    assert table["apiVersion"] == table["rows"][0]["object"]["apiVersion"] == "meta.k8s.io/v1beta1"


async def test_a_revision_shows_its_size_and_origin(world: World) -> None:
    status = {"image": "quay.io/x@sha256:1", "content": {"digest": "sha256:1", "size": 1536, "files": 2}}
    spec = {"packageName": "app", "revision": "app.v1", "version": "1.0.0", "lifecycle": "Published"}
    labels = {"cacheserver.dev/latest": "true"}
    world.feed.put(
        "team", "r.app.1", kind=Kind.REVISION, labels=labels, spec=orjson.dumps(spec), status=orjson.dumps(status)
    )
    await world.settled()
    assert await _rows(world, "packagerevisions") == [
        ["r.app.1", "app", "1.0.0", "Published", True, "5m", "", "quay.io/x@sha256:1", "1.5Ki"]
    ]


@pytest.mark.parametrize(
    ("source", "cell"),
    [
        ({"oci": {"image": "quay.io/a:1"}}, "oci://quay.io/a:1"),
        ({"git": {"url": "https://h/r.git", "ref": {"tag": "v1"}, "directory": "d"}}, "https://h/r.git@v1#d"),
        ({"directory": {"path": "/srv/c"}}, "/srv/c"),
    ],
)
async def test_a_repository_says_where_from_how_it_is_and_since_when(
    world: World, source: dict[str, object], cell: str
) -> None:
    ready = {"type": "Ready", "status": "False", "reason": "NetworkError", "message": "no route to host"}
    degraded = {"type": "Degraded", "status": "True", "reason": "PackagesRejected", "message": "1 package rejected"}
    status = {"conditions": [ready, degraded], "packages": 1, "revisions": 2, "lastSyncedAt": "2026-01-02T03:06:05Z"}
    status |= {"summary": "no route to host"}
    spec = orjson.dumps({"source": source, "interval": "10m", "publish": ["Catalog"]})
    world.feed.put("team", "r", kind=Kind.REPOSITORY, spec=spec, status=orjson.dumps(status))
    world.feed.put("team", "s", kind=Kind.REPOSITORY, spec=spec)
    await world.settled()
    world.time = CREATED + 300
    rows = await _rows(world, "/apis/config.cacheserver.dev/v1alpha1/repositories")
    assert rows[0] == [
        "r",
        cell,
        "False",
        "NetworkError",
        "True",
        1,
        2,
        "3m",
        "no route to host",
        "",
        "10m",
        False,
        '["Catalog"]',
    ]
    assert rows[1][7] == ""  # never synced
