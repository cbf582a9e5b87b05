"""Lists: pages, freshness, selectors, and that every form and encoding says the same."""

from __future__ import annotations

import gzip

import orjson
import pytest
import yaml

from cacheserver.api.options import encode_token
from cacheserver.model import Kind
from tests.fakes.api import METADATA, METADATA_LIST, TABLE, Answer, World

SIX = ["r.a", "r.b", "r.c", "r.d", "s.e", "s.f"]


async def test_a_list_is_ordered_and_stamped(six: World) -> None:
    listed = (await six.get("packages")).json
    assert (listed["kind"], listed["apiVersion"]) == ("PackageList", "cacheserver.dev/v1alpha1")
    assert listed["metadata"] == {"resourceVersion": "16"}
    assert [item["metadata"]["name"] for item in listed["items"]] == ["s.e", "s.f", "r.a", "r.b", "r.c", "r.d"]


async def test_an_unknown_namespace_is_empty_and_no_error(six: World) -> None:
    answer = await six.get("namespaces/nowhere/packages")
    assert answer.body == (
        b'{"kind":"PackageList","apiVersion":"cacheserver.dev/v1alpha1","metadata":{"resourceVersion":"16"},"items":[]}\n'
    )


async def test_pages_keep_their_version_whatever_happens_meanwhile(six: World) -> None:
    first = await six.get("namespaces/team/packages", limit="3")
    assert first.names == ["r.a", "r.b", "r.c"]
    assert first.json["metadata"]["remainingItemCount"] == 1
    six.package("aa")
    six.package("z")
    await six.settled()
    second = await six.get(
        "namespaces/team/packages", limit="3", query={"continue": first.json["metadata"]["continue"]}
    )
    assert second.names == ["r.d"]
    assert second.json["metadata"] == {"resourceVersion": "16"}


async def test_a_page_with_a_selector_is_full_and_does_not_count_the_rest(six: World) -> None:
    page = await six.get("packages", limit="2", labelSelector="cacheserver.dev/repository=r")
    assert page.names == ["r.a", "r.b"]
    assert "remainingItemCount" not in page.json["metadata"]
    assert page.json["metadata"]["continue"]


async def test_an_expired_page_comes_with_a_token_that_goes_on(six: World) -> None:
    old = encode_token(1, ("team", "r.b"))
    expired = await six.get("namespaces/team/packages", query={"continue": old})
    assert (expired.status, expired.json["reason"]) == (410, "Expired")
    rest = await six.get("namespaces/team/packages", query={"continue": expired.json["metadata"]["continue"]})
    assert rest.names == ["r.c", "r.d"]


async def test_an_exact_version_is_history(six: World) -> None:
    before = str(six.feed.revision)
    six.package("later")
    await six.settled()
    exact = await six.get("packages", resourceVersion=before, resourceVersionMatch="Exact")
    assert sorted(exact.names) == SIX
    gone = await six.get("packages", resourceVersion="1", resourceVersionMatch="Exact")
    assert (gone.status, gone.json["reason"]) == (410, "Expired")


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"labelSelector": "cacheserver.dev/package in (a,f)"}, ["r.a", "s.f"]),
        ({"labelSelector": "cacheserver.dev/repository!=r"}, ["s.e", "s.f"]),
        ({"labelSelector": "nope"}, []),
        ({"labelSelector": "!nope"}, SIX),
        ({"fieldSelector": "metadata.name=r.a"}, ["r.a"]),
        ({"fieldSelector": "metadata.namespace=other,spec.packageName!=e"}, ["s.f"]),
        ({"fieldSelector": "spec.packageName==b"}, ["r.b"]),
        ({"resourceVersion": "0", "limit": "1"}, SIX),
        ({"limit": "0"}, SIX),
        ({"limit": "-1"}, SIX),
    ],
)
async def test_selectors_select(six: World, parameters: dict[str, str], names: list[str]) -> None:
    assert sorted((await six.get("packages", query=parameters)).names) == names


@pytest.mark.parametrize(
    ("parameters", "status", "says"),
    [
        ({"fieldSelector": "status.x=1"}, 400, 'only "metadata.name", "metadata.namespace", "spec.repository"'),
        ({"labelSelector": "a===b"}, 400, "unable to parse requirement"),
        ({"limit": "abc"}, 400, 'parsing "abc"'),
        ({"resourceVersion": "-1"}, 400, "invalid resource version"),
        ({"continue": "abc"}, 400, "invalid continue token"),
        ({"continue": "abc", "resourceVersion": "5"}, 400, "specifying resource version is not allowed when using"),
        ({"resourceVersionMatch": "Exact"}, 422, "forbidden unless resourceVersion is provided"),
        ({"resourceVersionMatch": "Foo", "resourceVersion": "1"}, 422, 'Unsupported value: "Foo"'),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, 422, 'forbidden for resourceVersion "0"'),
        ({"sendInitialEvents": "true"}, 422, "sendInitialEvents is forbidden for list"),
    ],
)
async def test_bad_parameters_are_refused(six: World, parameters: dict[str, str], status: int, says: str) -> None:
    answer = await six.get("packages", query=parameters)
    assert answer.status == status
    assert says in answer.json["message"]


# --- bytes --------------------------------------------------------------------------------------------------------


async def _many(world: World, count: int = 700) -> None:
    for i in range(count):
        world.package(f"p{i:04d}", summary=f"number {i} " + "and so on " * 200)
    await world.settled()


def _unzipped(answer: Answer) -> bytes:
    assert answer.headers["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in answer.headers["Vary"]
    return gzip.decompress(answer.body)


@pytest.mark.parametrize("accept", ["application/json", TABLE, METADATA_LIST])
async def test_gzip_is_the_same_list_before_and_after_a_change(world: World, accept: str) -> None:
    await _many(world)
    for _ in range(2):
        for _ in range(2):  # made, then remembered
            plain = await world.get("packages", accept=accept)
            packed = await world.get("packages", accept=accept, headers={"Accept-Encoding": "gzip"})
            assert _unzipped(packed) == plain.body
            assert int(plain.headers["Content-Length"]) == len(plain.body)
            rows = plain.json["rows" if accept == TABLE else "items"]
            assert len(rows) == 700
        world.package("p0350", summary="changed")
        await world.settled()
    again = await world.get("packages", headers={"Accept-Encoding": "gzip"})
    assert b'"summary":"changed"' in _unzipped(again)


async def test_a_long_list_is_whole_from_memory_too(world: World) -> None:
    await _many(world)
    first, second = await world.get("packages"), await world.get("packages")
    assert first.body == second.body
    assert len(first.body) > 1 << 20
    world.feed.write_elsewhere()  # nothing of the list moved, only its version
    world.feed.put("team", "r", kind=Kind.REPOSITORY)
    await world.settled()
    third = await world.get("packages")
    assert third.json["items"] == first.json["items"]
    assert third.json["metadata"] != first.json["metadata"]


async def test_small_answers_and_other_encodings_are_not_gzipped(world: World) -> None:
    await _many(world)
    for encoding in ("gzip;q=0.5", "br", "x-gzip"):
        answer = await world.get("packages", headers={"Accept-Encoding": encoding})
        assert "Content-Encoding" not in answer.headers
    small = await world.get("packages", limit="5", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in small.headers


async def test_a_selection_over_many_is_gzipped_as_well(world: World) -> None:
    await _many(world)
    query = {"labelSelector": "cacheserver.dev/package!=p0001"}
    packed = await world.get("packages", headers={"Accept-Encoding": "gzip"}, query=query)
    assert _unzipped(packed) == (await world.get("packages", query=query)).body
    assert len(orjson.loads(_unzipped(packed))["items"]) == 699


async def test_people_get_the_same_list_indented_or_as_yaml(world: World) -> None:
    await _many(world, 60)
    plain = (await world.get("packages")).json
    pretty = await world.get("packages", pretty="true")
    assert pretty.body == orjson.dumps(plain, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    written = await world.get("packages", accept="application/yaml", limit="2")
    assert len(yaml.load(written.body, Loader=yaml.BaseLoader)["items"]) == 2
    empty = await world.get("namespaces/none/packages", pretty="true")
    assert empty.json["items"] == []


async def test_a_long_yaml_list_is_json_which_is_yaml(world: World) -> None:
    await _many(world)
    answer = await world.get("packages", accept="application/yaml")
    assert answer.headers["Content-Type"] == "application/yaml"
    assert len(answer.json["items"]) == 700


async def test_metadata_lists_carry_metadata_only(six: World) -> None:
    listed = (await six.get("packages", accept=METADATA_LIST, limit="2")).json
    assert listed["kind"] == "PartialObjectMetadataList"
    assert set(listed["items"][0]) == {"kind", "apiVersion", "metadata"}
    assert listed["metadata"]["continue"]
    assert (await six.get("packages", accept=METADATA)).status == 406


async def test_what_was_listed_is_got_and_listed_the_same_after_its_neighbours_changed(six: World) -> None:
    listed = {item["metadata"]["name"]: item for item in (await six.get("packages")).json["items"]}
    six.package("b", displayName="another")
    await six.settled()
    for name in ("r.a", "r.c"):
        assert (await six.get(f"namespaces/team/packages/{name}")).json == listed[name]
    again = {item["metadata"]["name"]: item for item in (await six.get("packages")).json["items"]}
    assert {name for name in again if again[name] != listed[name]} == {"r.b"}
    before = await six.get("packages", resourceVersion="16", resourceVersionMatch="Exact")
    assert {item["metadata"]["name"]: item for item in before.json["items"]} == listed
