"""Discovery and OpenAPI: what kubectl and the aggregator ask, and that the documents hold together."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from typing import Any

import pytest

from cacheserver.api.describe.reference import reference
from cacheserver.api.describe.schema import components
from cacheserver.api.kinds.resource import Resource
from cacheserver.api.kinds.table import RESOURCES, served
from tests.fakes.api import World

V2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
V2BETA1 = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
GROUP_VERSION = "/apis/cacheserver.dev/v1alpha1"


async def test_kubectl_gets_everything_in_one_document(world: World) -> None:
    answer = await world.get("/apis", accept=f"{V2},{V2BETA1},application/json")
    assert answer.headers["Content-Type"] == V2
    assert answer.headers["Cache-Control"] == "public"
    assert re.fullmatch('"[0-9A-F]{128}"', answer.headers["ETag"])
    groups = [item["metadata"]["name"] for item in answer.json["items"]]
    assert groups == ["cacheserver.dev", "config.cacheserver.dev"]
    packages = answer.json["items"][0]["versions"][0]["resources"][0]
    assert packages["responseKind"]["kind"] == "Package"
    assert packages["subresources"][0]["subresource"] == "icon"
    assert packages["categories"] == ["catalog"]
    not_modified = await world.get("/apis", accept=V2, headers={"If-None-Match": answer.headers["ETag"]})
    assert (not_modified.status, not_modified.body) == (304, b"")
    assert not_modified.headers["ETag"] == answer.headers["ETag"]


@pytest.mark.parametrize(
    ("path", "accept", "status", "kind"),
    [
        ("/apis", "application/json", 200, "APIGroupList"),
        ("/apis/", None, 200, "APIGroupList"),
        ("/apis", f"{V2BETA1},application/json", 200, "APIGroupList"),
        ("/apis", V2BETA1, 406, "Status"),
        ("/apis", f"{V2};profile=nopeer", 200, "APIGroupDiscoveryList"),
        ("/api", V2, 200, "APIGroupDiscoveryList"),
        ("/api", "application/json", 200, "APIVersions"),
        ("/apis/cacheserver.dev", "application/json", 200, "APIGroup"),
        (GROUP_VERSION, None, 200, "APIResourceList"),
        (GROUP_VERSION, V2, 406, "Status"),
        (GROUP_VERSION, f"{V2},application/json", 200, "APIResourceList"),
        ("/apis/cacheserver.dev/v9", None, 404, "Status"),
        ("/apis/nope.example", None, 404, "Status"),
    ],
)
async def test_each_path_answers_in_its_kind(
    world: World, path: str, accept: str | None, status: int, kind: str
) -> None:
    answer = await world.get(path, accept=accept)
    assert (answer.status, answer.json["kind"]) == (status, kind)


async def test_only_verbs_that_work_are_advertised(world: World) -> None:
    resources = (await world.get(GROUP_VERSION)).json["resources"]
    verbs = {resource["name"]: resource["verbs"] for resource in resources}
    assert verbs == {
        "packages": ["get", "list", "watch"],
        "packages/icon": ["get"],
        "packages/export": ["get"],
        "packages/graph": ["get"],
        "packages/images": ["get"],
        "packages/upgrades": ["get"],
        "packagesearches": ["create"],
        "packagechanges": ["get", "list", "watch"],
        "packagerevisions": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        "packagerevisions/approval": ["get", "patch", "update"],
        "packagerevisions/rebase": ["create"],
        "packagerevisions/status": ["get", "patch", "update"],
        "packagerevisions/files": ["delete", "update"],
        "packagerevisions/content": ["get"],
        "packagerevisions/dependencies": ["get"],
        "packagerevisions/diff": ["get"],
        "packagerevisionresources": ["get", "list", "patch", "update", "watch"],
    }
    short = {name for resource in resources for name in resource.get("shortNames", ())}
    assert short == {"cpkg", "cpkgrev", "cpkgres", "cpkgchg"}


def test_in_a_cluster_repositories_are_not_ours() -> None:
    assert "repositories" not in {row.plural for row in served(standalone=False)}


# --- OpenAPI ------------------------------------------------------------------------------------------------------


async def test_the_advertised_openapi_url_may_be_kept_for_ever(world: World) -> None:
    root = await world.get("/openapi/v3")
    url = root.json["paths"]["apis/cacheserver.dev/v1alpha1"]["serverRelativeURL"]
    hashed = await world.get(url)
    assert hashed.headers["Cache-Control"] == "public, immutable"
    assert "Expires" in hashed.headers
    plain = await world.get(url.partition("?")[0])
    assert plain.headers["Cache-Control"] == "no-cache, private"
    assert plain.body == hashed.body
    same = await world.get(url, headers={"If-None-Match": f'W/{plain.headers["ETag"]}, "x"'})
    assert same.status == 304
    moved = await world.get(url.partition("?")[0], hash="AAAA")
    assert (moved.status, moved.headers["Location"]) == (301, url)
    packed = await world.get("/openapi/v2", headers={"Accept-Encoding": "gzip"})
    assert gzip.decompress(packed.body) == (await world.get("/openapi/v2")).body


@pytest.mark.parametrize("path", ["/openapi/v2", "/openapi/v3", f"/openapi/v3{GROUP_VERSION}"])
async def test_protobuf_is_not_answered_with_json(world: World, path: str) -> None:
    accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    assert (await world.get(path, accept=accept)).status == 406
    assert (await world.get(path, accept=None)).status == 200


def _walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from _walk(value)


@pytest.mark.parametrize(
    ("path", "prefix", "at"),
    [
        (f"/openapi/v3{GROUP_VERSION}", "#/components/schemas/", ("components", "schemas")),
        ("/openapi/v3/apis/config.cacheserver.dev/v1alpha1", "#/components/schemas/", ("components", "schemas")),
        ("/openapi/v2", "#/definitions/", ("definitions",)),
    ],
)
async def test_references_lead_somewhere_and_operations_name_their_kind(
    world: World, path: str, prefix: str, at: tuple[str, ...]
) -> None:
    document = (await world.get(path)).json
    schemas = document
    for step in at:
        schemas = schemas[step]
    references = [node["$ref"] for node in _walk(document) if "$ref" in node]
    assert references
    assert all(reference.removeprefix(prefix) in schemas for reference in references)
    actions = [node for node in _walk(document) if "x-kubernetes-action" in node]
    assert actions
    assert all(node["x-kubernetes-group-version-kind"]["kind"] for node in actions)
    for path_parameters in re.findall(r"/apis/\S+", " ".join(document["paths"])):
        assert GROUP_VERSION in path_parameters or "config.cacheserver.dev" in path_parameters


@pytest.mark.parametrize("row", RESOURCES, ids=lambda row: row.plural)
async def test_kubectl_leaves_the_validation_of_a_manifest_to_the_server(world: World, row: Resource) -> None:
    """As it decides it: k8s.io/cli-runtime/pkg/resource/query_param_verifier_v3.go. The server then says why not."""
    document = (await world.get(f"/openapi/v3/apis/{row.api_version}")).json
    gvk = {"group": row.group, "version": row.version, "kind": row.kind}
    patches = [item["patch"] for item in document["paths"].values() if "patch" in item]
    found = [each for each in patches if each["x-kubernetes-group-version-kind"] == gvk]
    assert found
    for patch in found:
        assert {"query"} == {each["in"] for each in patch["parameters"] if each["name"] == "fieldValidation"}
        if "patch" not in row.verbs:
            assert set(patch["responses"]) == {"405"}, "it promises nothing"
            assert row.instead in patch["description"]


def test_every_field_column_and_kind_is_described() -> None:
    for node in _walk(components(RESOURCES)):
        for name, schema in node.get("properties", {}).items():
            assert schema.get("description"), name
    for row in RESOURCES:
        assert row.description
        assert all(column.description for column in row.columns)
        assert all(sub.description for sub in row.subresources)


def test_the_reference_for_people_has_every_field_and_column() -> None:
    text = reference()
    for row in RESOURCES:
        assert f"## {row.kind}\n" in text
        assert all(f"| {column.name.upper()} |" in text for column in row.columns)
    assert "| `status.channels[].headVersion` | string |" in text
