"""What a client sees of one object, and of what goes wrong."""

from __future__ import annotations

import pytest
import yaml

from cacheserver.api.options import encode_token
from cacheserver.cache.snapshot import Entry, Name
from cacheserver.model import Kind
from tests.fakes.api import METADATA, METADATA_LIST, TABLE, World, api_world
from tests.support.waiting import eventually

ITEM = "namespaces/team/packages/r.a"


async def test_an_object_is_one_compact_line_with_its_version(six: World) -> None:
    answer = await six.get(ITEM)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-cache, private"
    assert answer.body.count(b"\n") == 1
    assert answer.body.endswith(b"\n")
    assert answer.json["metadata"]["resourceVersion"] == "11"


async def test_a_missing_object_is_told_in_kubernetes_words(six: World) -> None:
    answer = await six.get("namespaces/team/packages/nope")
    assert answer.status == 404
    assert answer.json == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'packages.cacheserver.dev "nope" not found',
        "reason": "NotFound",
        "details": {"name": "nope", "group": "cacheserver.dev", "kind": "packages"},
        "code": 404,
    }


async def test_a_package_asked_for_by_its_own_name_is_told_with_the_object_s(six: World) -> None:
    answer = await six.get("namespaces/team/packages/a")
    assert (answer.status, answer.json["reason"]) == (404, "NotFound")
    assert answer.json["message"] == 'packages.cacheserver.dev "a" not found; there is "r.a"'
    assert answer.json["details"]["name"] == "a"
    elsewhere = await six.get("namespaces/team/packages/e")  # another namespace has it
    assert elsewhere.json["message"] == 'packages.cacheserver.dev "e" not found'


async def test_of_many_repositories_with_a_package_some_are_named(six: World) -> None:
    for repository in "stuvwx":
        six.package("a", repository=repository)
    await six.settled()
    message = (await six.get("namespaces/team/packages/a")).json["message"]
    assert message.endswith('; there are "r.a", "s.a", "t.a", "u.a", "v.a" and more')


@pytest.mark.parametrize("kind", ["packagerevisions", "packagerevisionresources"])
async def test_a_revision_asked_for_by_half_its_name_is_told_with_the_whole(six: World, kind: str) -> None:
    six.package("app")
    six.revision("1.3.0")
    await six.settled()
    path = f"namespaces/team/{kind}"
    half, package = await six.get(f"{path}/app.1.3.0"), await six.get(f"{path}/app")
    assert half.json["message"] == f'{kind}.cacheserver.dev "app.1.3.0" not found; there is "r.app.1.3.0"'
    assert package.json["message"].endswith(
        f'"app" not found; "app" is a package: kubectl get {kind} -l cacheserver.dev/package=app'
    )
    assert (await six.get(f"{path}/app.1.4.0")).json["message"].endswith('"app.1.4.0" not found')


async def test_what_a_name_may_have_meant_is_looked_up_a_bounded_number_of_times(six: World) -> None:
    for number in range(300):
        six.package("many", namespace=f"n{number:03}")
    six.package("many")
    await six.settled()
    calls: list[str] = []
    held = six.cache.held

    def counted(kind: Kind, name: Name) -> Entry | None:
        calls.append(name[1])
        return held(kind, name)

    six.cache.held = counted  # type: ignore[method-assign]  # counts what is looked up
    await six.get("namespaces/n299/packages/many")
    assert len(calls) <= 2 * 200
    calls.clear()
    await six.get(f"namespaces/team/packages/{'a.' * 500}a")
    assert not calls


@pytest.mark.parametrize(
    ("path", "instead"),
    [
        ("namespaces/team/packages", "it is read from its source: change it there"),
        ("namespaces/team/packagerevisions", "it is read from its source: change it there"),
        (
            "/apis/config.cacheserver.dev/v1alpha1/namespaces/team/repositories",
            "this server takes repositories from its start alone: cacheserver serve --repositories FILE",
        ),
    ],
)
async def test_a_refused_write_says_what_to_do_instead(six: World, path: str, instead: str) -> None:
    message = (await six.get(path, method="POST")).json["message"]
    assert message.startswith("create is not supported on resources of kind")
    assert instead in message


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("packages/r.a", 404),
        ("nonsense", 404),
        (f"{ITEM}/nonsense", 404),
        (f"{ITEM}/icon/more", 404),
        (f"{ITEM}/", 200),
        ("namespaces/team/packages/a%25b", 400),
        ("/no-such-path", 404),
        ("/version/more", 404),
    ],
)
async def test_paths_lead_where_kubernetes_paths_lead(six: World, path: str, status: int) -> None:
    answer = await six.session.get(path if path[0] == "/" else f"/apis/cacheserver.dev/v1alpha1/{path}")
    assert answer.status == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_writing_is_refused_with_what_is_allowed(six: World, method: str) -> None:
    for path in ("namespaces/team/packages", ITEM, "packages"):
        answer = await six.get(path, method=method)
        assert (answer.status, answer.json["reason"]) == (405, "MethodNotAllowed")
        assert answer.headers["Allow"] == "GET, HEAD"


async def test_a_patch_of_an_unknown_type_hears_of_types_first(six: World) -> None:
    strategic = {"Content-Type": "application/strategic-merge-patch+json"}
    answer = await six.get(ITEM, method="PATCH", headers=strategic)
    assert (answer.status, answer.json["reason"]) == (415, "UnsupportedMediaType")
    answer = await six.get(ITEM, method="PATCH", headers={"Content-Type": "application/merge-patch+json"})
    assert answer.status == 405


async def test_head_is_the_headers_of_get_alone(six: World) -> None:
    full, head = await six.get(ITEM), await six.get(ITEM, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(full.body))


async def test_an_audit_id_is_echoed_or_made(six: World) -> None:
    assert (await six.get(ITEM, headers={"Audit-ID": "mine"})).headers["Audit-Id"] == "mine"
    first, second = await six.get(ITEM), await six.get(ITEM)
    assert len(first.headers["Audit-Id"]) == 36
    assert first.headers["Audit-Id"] != second.headers["Audit-Id"]
    assert len((await six.get(ITEM, headers={"Audit-ID": "x" * 65})).headers["Audit-Id"]) == 36


async def test_people_get_indented_json_and_may_decline(six: World) -> None:
    curl = {"User-Agent": "curl/8.0"}
    assert (await six.get(ITEM, headers=curl)).body.startswith(b'{\n  "')
    assert (await six.get(ITEM, headers=curl, pretty="false")).body.count(b"\n") == 1
    assert (await six.get(ITEM, pretty="true")).body.startswith(b'{\n  "')
    assert (await six.get("namespaces/team/packages/nope", headers=curl)).body.startswith(b'{\n  "')


async def test_yaml_says_the_same(six: World) -> None:
    answer = await six.get(ITEM, accept="application/yaml")
    assert answer.headers["Content-Type"] == "application/yaml"
    assert yaml.load(answer.body, Loader=yaml.BaseLoader)["metadata"]["name"] == "r.a"


async def test_metadata_alone_is_a_kind_of_its_own(six: World) -> None:
    answer = await six.get(ITEM, accept=METADATA)
    assert set(answer.json) == {"kind", "apiVersion", "metadata"}
    assert answer.json["kind"] == "PartialObjectMetadata"
    refused = await six.get(ITEM, accept=METADATA_LIST)
    assert refused.status == 406
    assert refused.json["message"].startswith("you requested PartialObjectMetadataList, but")


async def test_a_table_of_one_has_one_row(six: World) -> None:
    table = (await six.get(ITEM, accept=TABLE)).json
    assert [row["cells"][0] for row in table["rows"]] == ["r.a"]
    assert table["metadata"] == {"resourceVersion": "11"}


async def test_bad_parameters_are_refused_by_name(six: World) -> None:
    assert "abc" in (await six.get(ITEM, resourceVersion="abc")).json["message"]
    assert (await six.get(ITEM, export="true")).status == 400
    assert (await six.get(ITEM, timeout="abc")).json["message"].startswith("invalid timeout specified")
    assert (await six.get(ITEM, accept="text/html")).json["reason"] == "NotAcceptable"
    assert (await six.get(ITEM, unknown="ignored")).status == 200


async def test_a_version_on_its_way_is_waited_for_as_long_as_the_client_wants(six: World) -> None:
    six.feed.hold()
    six.package("late")
    answer = await six.get(ITEM, resourceVersion=str(six.feed.revision), timeout="20ms")
    assert (answer.status, answer.json["reason"]) == (504, "Timeout")


@pytest.mark.parametrize("path", [ITEM, "packages"])
async def test_a_version_that_there_is_not_is_refused_so_that_informers_list_anew_at_once(
    six: World, path: str
) -> None:
    answer = await six.get(path, resourceVersion="999999")
    details = answer.json["details"]
    assert (answer.status, details["causes"][0]["reason"]) == (504, "ResourceVersionTooLarge")
    assert details["retryAfterSeconds"] == 1
    assert "Retry-After" not in answer.headers, "client-go would ask for the same ten times first"


async def test_a_token_of_an_etcd_that_was_replaced_is_expired(six: World) -> None:
    answer = await six.get("packages", query={"continue": encode_token(999_999, ("team", "r.a"))})
    assert (answer.status, answer.json["reason"]) == (410, "Expired")
    assert answer.json["metadata"]["continue"]


async def test_the_last_state_is_served_with_a_warning_while_the_store_is_away() -> None:
    async with api_world() as world:
        world.package("a")
        await world.settled()
        assert "Warning" not in (await world.get(ITEM)).headers
        world.feed.away = True
        world.feed.break_streams()
        for path in (ITEM, "packages", "packages?resourceVersion=0", "packages?limit=1"):
            answer = await world.get(path)
            assert answer.status == 200
            assert answer.headers["Warning"].startswith('299 - "served from memory: etcd has not been heard from for')
        async with world.watch(resourceVersion=str(world.feed.revision)) as lines:
            assert "Warning" in lines.response.headers
        world.feed.away = False
        await eventually(lambda: not world.cache.away)
        assert "Warning" not in (await world.get(ITEM)).headers


@pytest.mark.parametrize("path", [ITEM, "packages"])
async def test_a_slow_store_makes_a_timeout_that_says_what_to_do(
    six: World, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cacheserver.cache.freshness.READ_WAIT_S", 0.05)
    six.feed.hang()
    answer = await six.get(path)
    assert (answer.status, answer.json["reason"], answer.headers["Retry-After"]) == (504, "Timeout", "1")
    assert "resourceVersion=0" in answer.json["message"]
    assert (await six.get(path, resourceVersion="0")).status == 200


async def test_before_the_first_read_of_the_store_clients_are_told_to_retry() -> None:
    async with api_world(away=True) as world:
        answer = await world.get(ITEM)
        assert (answer.status, answer.json["reason"]) == (429, "TooManyRequests")
        assert answer.headers["Retry-After"] == "1"
        assert (await world.get("/readyz")).status == 500
        assert (await world.get("/livez")).status == 200
        assert (await world.get("/apis")).status == 200
