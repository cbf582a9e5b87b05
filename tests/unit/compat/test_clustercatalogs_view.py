"""ClusterCatalogs of a server without a cluster: what clients of OLM v1 read and watch of what is published."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from cacheserver.api.selectors import EVERYTHING
from cacheserver.compat.clustercatalogs.controller import LABEL
from cacheserver.compat.clustercatalogs.status import base_url
from cacheserver.compat.clustercatalogs.view import PRIORITY, ClusterCatalogView
from cacheserver.config import Door, RepositoryConfig, parse_source
from cacheserver.model import Digest, Kind, RepositoryKey
from cacheserver.security.identity import Attributes, Identity
from tests.fakes.api import BASE, METADATA, TABLE, World, api_world
from tests.fakes.contents import Contents
from tests.support.waiting import eventually
from tests.unit.api.http.test_websocket import frame, request, talking

NAMESPACE = "team"
PATH = "/apis/olm.operatorframework.io/v1/clustercatalogs"
ONE, TWO, THREE = (Digest(f"sha256:{digit * 64}") for digit in "123")
IMAGE = "oci://quay.io/operatorhubio/catalog:latest"


@dataclass
class Shown:
    """A world with the kind in it. world: set once it runs."""

    contents: Contents = field(default_factory=lambda: Contents(NAMESPACE))
    configs: dict[RepositoryKey, RepositoryConfig] = field(default_factory=dict)
    world: World = field(init=False)
    view: ClusterCatalogView = field(init=False)

    def __post_init__(self) -> None:
        self.view = ClusterCatalogView(
            self.contents,
            self.configs,
            lambda key: base_url("http://127.0.0.1:8001", NAMESPACE, key),
            lambda key: key.name,
            lambda key: self.world.cache.held(Kind.REPOSITORY, (key.namespace, key.name)),
            lambda: self.world.cache.watch(
                Kind.REPOSITORY, since=None, initial=None, namespace=None, selector=EVERYTHING
            ),
        )

    def publish(self, name: str, *doors: Door, source: str = IMAGE, **more: Any) -> RepositoryKey:
        key = RepositoryKey(NAMESPACE, name)
        self.configs[key] = RepositoryConfig(key, parse_source(source, Path("/")), publish=frozenset(doors), **more)
        self.contents.serve(name, self.contents.served[key].revision if key in self.contents.served else None)
        return key

    def sync(self, name: str, revision: Digest | None = ONE, ready: str = "True") -> None:
        """What ingestion leaves."""
        condition = {"type": "Ready", "status": ready, "reason": "Synced", "message": "words"}
        status = orjson.dumps({"observedGeneration": 1, "conditions": [condition]})
        self.world.feed.put(NAMESPACE, name, kind=Kind.REPOSITORY, spec=b'{"source":{}}', status=status)
        if revision is not None:
            self.contents.serve(name, revision)

    async def served(self, name: str, revision: Digest = ONE) -> dict[str, Any]:
        found: dict[str, Any] = {}

        async def named() -> bool:
            answer = await self.world.get(f"{PATH}/{name}")
            found.update(answer.json)
            ref = answer.json.get("status", {}).get("resolvedSource", {}).get("image", {}).get("ref", "")
            return bool(ref.endswith(revision))

        await eventually(named)
        return found

    async def names(self, **query: str) -> list[str]:
        return (await self.world.get(PATH, query=query)).names


@pytest.fixture
async def shown() -> AsyncIterator[Shown]:
    shown = Shown()
    async with api_world(beside=[shown.view]) as world:
        shown.world = world
        task = asyncio.create_task(shown.view.run())
        try:
            yield shown
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_each_repository_that_is_published_has_one_and_no_other(shown: Shown) -> None:
    shown.publish("hub", Door.CATALOG, labels={"tier": "gold"}, annotations={PRIORITY: "-5"})
    shown.publish("files", Door.CATALOG, source="/srv/files")
    shown.publish("registry-only", Door.REGISTRY)
    shown.publish("hidden")
    for name in ("hub", "files", "registry-only", "hidden"):
        shown.sync(name)
    found = await shown.served("hub")
    await shown.served("files")
    assert await shown.names() == ["files", "hub"]
    assert (found["apiVersion"], found["kind"]) == ("olm.operatorframework.io/v1", "ClusterCatalog")
    assert found["metadata"]["labels"] == {"tier": "gold", LABEL: "hub"}
    assert "namespace" not in found["metadata"]
    assert found["spec"] == {
        "source": {"type": "Image", "image": {"ref": "quay.io/operatorhubio/catalog:latest"}},
        "priority": -5,
        "availabilityMode": "Available",
    }
    status = found["status"]
    assert status["resolvedSource"]["image"]["ref"] == f"cacheserver.dev/team/hub@{ONE}"
    assert status["urls"]["base"] == "http://127.0.0.1:8001/catalogs/hub"
    assert [(c["type"], c["status"], c["reason"]) for c in status["conditions"]] == [
        ("Progressing", "True", "Succeeded"),
        ("Serving", "True", "Available"),
    ]


@pytest.mark.parametrize("text", ["", "high", "1.5", "²", "99999999999", str(2**31)])
async def test_a_priority_that_is_none_is_zero(shown: Shown, text: str) -> None:
    shown.publish("hub", Door.CATALOG, annotations={PRIORITY: text})
    shown.sync("hub")
    assert (await shown.served("hub"))["spec"]["priority"] == 0


async def test_clients_find_it_by_the_labels_that_they_select_catalogs_by(shown: Shown) -> None:
    for name in ("a", "b"):
        shown.publish(name, Door.CATALOG, labels={"tier": name})
        shown.sync(name)
        await shown.served(name)
    assert await shown.names(labelSelector=f"{LABEL} in (b)") == ["b"]
    assert await shown.names(labelSelector="tier=a") == ["a"]
    assert await shown.names(fieldSelector="metadata.name=b") == ["b"]
    assert (await shown.world.get(PATH, fieldSelector="spec.priority=1")).status == 400


async def test_every_kind_that_is_discovered_is_explained(shown: Shown) -> None:
    """As kubectl explain asks: the document of the group and version, by the kind's path in it."""
    shown.publish("one", Door.CATALOG)
    documents = (await shown.world.get("/openapi/v3")).json["paths"]
    for group in (await shown.world.get("/apis")).json["groups"]:
        for version in group["versions"]:
            at = version["groupVersion"]
            content = (await shown.world.get(documents[f"apis/{at}"]["serverRelativeURL"])).json
            for row in (await shown.world.get(f"/apis/{at}")).json["resources"]:
                kinds = {
                    (kind["group"], kind["version"], kind["kind"])
                    for schema in content["components"]["schemas"].values()
                    for kind in schema.get("x-kubernetes-group-version-kind", ())
                }
                assert (group["name"], version["version"], row["kind"]) in kinds
                if "/" not in row["name"]:
                    below = "namespaces/{namespace}/" if row["namespaced"] else ""
                    assert f"/apis/{at}/{below}{row['name']}" in content["paths"]
    content = (await shown.world.get(documents["apis/olm.operatorframework.io/v1"]["serverRelativeURL"])).json
    assert set(content["paths"]) == {
        "/apis/olm.operatorframework.io/v1/",
        "/apis/olm.operatorframework.io/v1/clustercatalogs",
        "/apis/olm.operatorframework.io/v1/clustercatalogs/{name}",
    }


async def test_it_is_discovered_as_a_kind_of_the_cluster(shown: Shown) -> None:
    [found] = (await shown.world.get("/apis/olm.operatorframework.io/v1")).json["resources"]
    assert (found["name"], found["namespaced"], found["verbs"]) == ("clustercatalogs", False, ["get", "list", "watch"])
    aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    groups = (await shown.world.get("/apis", accept=aggregated)).json["items"]
    [olm] = [group for group in groups if group["metadata"]["name"] == "olm.operatorframework.io"]
    assert olm["versions"][0]["resources"][0]["scope"] == "Cluster"


async def test_it_is_shown_in_every_form(shown: Shown) -> None:
    shown.publish("hub", Door.CATALOG)
    shown.sync("hub")
    await shown.served("hub")
    table = (await shown.world.get(PATH, accept=TABLE)).json
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "LastUnpacked", "Serving", "Age"]
    assert table["rows"][0]["cells"][:3] == ["hub", "2026-09-21T14:13:20Z", "True"]
    partial = (await shown.world.get(f"{PATH}/hub", accept=METADATA)).json
    assert (partial["kind"], partial["metadata"]["name"]) == ("PartialObjectMetadata", "hub")
    assert b"\nkind: ClusterCatalog\n" in (await shown.world.get(f"{PATH}/hub", accept="application/yaml")).body


@pytest.mark.parametrize("websocket", [False, True], ids=["chunks", "websocket"])
async def test_a_watch_tells_of_content_that_changes_and_of_catalogs_that_come_and_go(
    shown: Shown, *, websocket: bool
) -> None:
    shown.world.websocket = websocket
    key = shown.publish("hub", Door.CATALOG)
    shown.sync("hub")
    await shown.served("hub")
    version = (await shown.world.get(PATH)).json["metadata"]["resourceVersion"]
    async with shown.world.watch(PATH, resourceVersion=version) as lines:
        shown.sync("hub", TWO)
        event = await lines.next()
        assert event["type"] == "MODIFIED"
        assert event["object"]["status"]["resolvedSource"]["image"]["ref"].endswith(TWO)
        assert int(event["object"]["metadata"]["resourceVersion"]) > int(version)
        shown.configs[key] = replace(shown.configs[key], publish=frozenset())
        shown.contents.serve("hub", TWO)
        event = await lines.next()
        assert (event["type"], event["object"]["metadata"]["name"]) == ("DELETED", "hub")
        shown.publish("hub", Door.CATALOG)
        assert (await lines.next())["type"] == "ADDED"
    assert await shown.names() == ["hub"]


async def test_what_does_not_change_makes_no_event(shown: Shown) -> None:
    shown.publish("hub", Door.CATALOG)
    shown.publish("mark", Door.CATALOG)
    shown.sync("hub")
    await shown.served("hub")
    version = (await shown.world.get(PATH, fieldSelector="metadata.name=hub")).json["metadata"]["resourceVersion"]
    async with shown.world.watch(PATH, resourceVersion=version, fieldSelector="metadata.name=hub") as lines:
        shown.sync("hub", ONE)
        shown.sync("mark", TWO)
        await shown.served("mark", TWO)
        shown.sync("hub", THREE)
        event = await lines.next()
        assert event["object"]["status"]["resolvedSource"]["image"]["ref"].endswith(THREE)


async def test_a_watch_list_begins_with_what_there_is_and_says_where_that_ends(shown: Shown) -> None:
    shown.publish("hub", Door.CATALOG)
    shown.sync("hub")
    await shown.served("hub")
    asked = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    async with shown.world.watch(PATH, **asked) as lines:
        first, mark = await lines.take(2)
    assert (first["type"], first["object"]["metadata"]["name"]) == ("ADDED", "hub")
    assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_who_comes_from_another_process_lists_again(shown: Shown) -> None:
    for version in ("7", "99999999999999999"):
        async with shown.world.watch(PATH, resourceVersion=version) as lines:
            event = await lines.next()
        assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
    assert (await shown.world.get(PATH, resourceVersion="7", resourceVersionMatch="Exact")).status == 410
    ahead = str(2**62)
    for match in ("Exact", "NotOlderThan"):
        assert (await shown.world.get(PATH, resourceVersion=ahead, resourceVersionMatch=match)).status == 410


async def test_who_falls_behind_what_is_kept_lists_again(shown: Shown) -> None:
    shown.publish("hub", Door.CATALOG)
    shown.sync("hub")
    await shown.served("hub")
    version = (await shown.world.get(PATH)).json["metadata"]["resourceVersion"]
    for at in range(1001):
        shown.sync("hub", Digest(f"sha256:{at:064x}"))
        shown.view.look(RepositoryKey(NAMESPACE, "hub"))
    async with shown.world.watch(PATH, resourceVersion=version) as lines:
        assert (await lines.next())["object"]["code"] == 410


async def test_before_it_is_known_what_is_served_none_is_shown(shown: Shown) -> None:
    shown.contents.forget()
    shown.publish("hub", Door.CATALOG)
    shown.publish("mark", Door.REGISTRY)
    shown.sync("hub")
    assert await shown.names() == []
    shown.contents.know()
    shown.contents.serve("hub", ONE)
    await shown.served("hub")


async def test_it_is_read_only_and_has_no_namespaces(shown: Shown) -> None:
    shown.publish("hub", Door.CATALOG)
    shown.sync("hub")
    await shown.served("hub")
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        answer = await shown.world.get(f"{PATH}/hub", method=method)
        assert answer.status == 405, method
    assert (await shown.world.get(f"{PATH}/hub/status")).status == 404
    inside = PATH.replace("clustercatalogs", f"namespaces/{NAMESPACE}/clustercatalogs")
    assert (await shown.world.get(inside)).status == 404
    assert (await shown.world.get(f"{PATH}/none")).status == 404


async def test_watches_end_when_the_server_stops(shown: Shown) -> None:
    async with shown.world.watch(PATH) as lines:
        shown.world.api.begin_shutdown()
        with contextlib.suppress(EOFError):
            await lines.next()
            raise AssertionError("the watch went on")
    assert (await shown.world.get(PATH, watch="true")).status == 503


def _handshake(**headers: str) -> bytes:
    return request(**headers).replace(f"{BASE}/packages".encode(), PATH.encode())


async def test_a_watch_over_websocket_ends_with_its_client_s_goodbye(shown: Shown) -> None:
    """It stood for half an hour and more, however often its client said so."""
    async with talking(shown.world, _handshake()) as talk:
        assert (await talk.head())[0] == 101
        await talk.raw.send(frame(8, b"\x03\xe8"))
        assert await talk.ends() == 1000


async def test_a_page_of_another_site_watches_nothing_by_its_browser_s_certificate() -> None:
    shown = Shown()

    class Gate:
        async def identify(self, asked: web.BaseRequest) -> Identity:
            return Identity("bob", (), "", ())

        async def authorize(self, identity: Identity, attributes: Attributes) -> None: ...

    async with (
        api_world(beside=[shown.view], gate=Gate()) as shown.world,
        talking(shown.world, _handshake(Origin="https://elsewhere.example")) as talk,
    ):
        assert (await talk.head())[0] == 403
