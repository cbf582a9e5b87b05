"""PackageManifests as a client sees them: which there are in a namespace, their identity, selectors, pages, watch."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson
import pytest

from cacheserver.api import PROJECTIONS, Blobs
from cacheserver.api.kinds.resource import Resource
from cacheserver.cache.snapshot import Entry
from cacheserver.cache.view import Completed
from cacheserver.compat.packagemanifests import PackageManifests, projections
from cacheserver.compat.packagemanifests import door as doors
from cacheserver.model import RepositoryKey
from tests.fakes.api import METADATA_LIST, TABLE, Answer, Frames, Lines, World, api_world

GROUP: Final = "/apis/packages.operators.coreos.com/v1"
SVG: Final = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"


class Manifests:
    """A world with the door, `global` as global namespace."""

    def __init__(self, world: World, hidden: set[RepositoryKey]) -> None:
        self.world = world
        self.hidden = hidden

    async def package(
        self,
        name: str,
        namespace: str = "team",
        repository: str = "r",
        *,
        says: str = "as ever",
        icon: bytes = b"",
        media_type: str = "image/svg+xml",
        labels: Mapping[str, str] = {},
    ) -> int:
        inside = {
            "provider": {},
            "packageName": name,
            "channels": [{"name": "stable", "currentCSV": f"{name}.v1", "currentCSVDesc": {"description": says}}],
            "defaultChannel": "stable",
        }
        digest = self.world.blobs.put(orjson.dumps(inside)[1:], "application/json")
        manifest: dict[str, Any] = {"digest": digest, "size": 1, "displayName": "Shop", "labels": dict(labels)}
        manifest["size"] = len(orjson.dumps(inside)) - 1
        if icon:
            image = self.world.blobs.put(icon, media_type)
            manifest["icon"] = {"mediaType": media_type, "digest": image, "size": len(icon)}
        revision = self.world.package(name, namespace=namespace, repository=repository, manifest=manifest)
        await self.world.settled()
        return revision

    async def list(self, namespace: str = "", **asked: Any) -> Answer:
        where = f"/namespaces/{namespace}" if namespace else ""
        return await self.world.get(f"{GROUP}{where}/packagemanifests", **asked)

    async def get(self, name: str, namespace: str = "team", **asked: Any) -> Answer:
        return await self.world.get(f"{GROUP}/namespaces/{namespace}/packagemanifests/{name}", **asked)

    @asynccontextmanager
    async def watch(self, namespace: str = "", **asked: str) -> AsyncIterator[Lines | Frames]:
        where = f"/namespaces/{namespace}" if namespace else ""
        async with self.world.watch(f"{GROUP}{where}/packagemanifests", **asked) as lines:
            yield lines


@pytest.fixture
async def manifests() -> AsyncIterator[Manifests]:
    hidden: set[RepositoryKey] = set()
    async with api_world(
        projections=projections(PROJECTIONS),
        more=lambda blobs: [PackageManifests(blobs, lambda key: key not in hidden, "global").row],
    ) as world:
        yield Manifests(world, hidden)


@pytest.fixture
async def shop(manifests: Manifests) -> Manifests:
    """lamp and quay of `global`, lamp and vault of `team`, moon of `other`; and a package that has no manifest."""
    await manifests.package("lamp", "global", "main", labels={"tier": "gold"})
    await manifests.package("quay", "global", "main")
    await manifests.package("lamp", "team", "own")
    await manifests.package("vault", "team", "own", labels={"tier": "gold"})
    await manifests.package("moon", "other", "else")
    manifests.world.package("plain")
    await manifests.world.settled()
    return manifests


def catalogs(answer: Answer) -> list[tuple[str, str, str]]:
    return [
        (item["metadata"]["namespace"], item["status"]["catalogSource"], item["metadata"]["name"])
        for item in answer.json["items"]
    ]


async def test_a_namespace_has_its_own_and_those_of_the_global_one(shop: Manifests) -> None:
    listed = await shop.list("team")
    assert (listed.json["kind"], listed.json["apiVersion"]) == (
        "PackageManifestList",
        "packages.operators.coreos.com/v1",
    )
    assert catalogs(listed) == [
        ("team", "own", "lamp"),
        ("team", "own", "vault"),
        ("team", "main", "lamp"),
        ("team", "main", "quay"),
    ]
    assert catalogs(await shop.list("nobody")) == [("nobody", "main", "lamp"), ("nobody", "main", "quay")]
    assert catalogs(await shop.list("global")) == [("global", "main", "lamp"), ("global", "main", "quay")]


async def test_over_all_namespaces_each_is_there_once_in_its_own(shop: Manifests) -> None:
    assert catalogs(await shop.list()) == [
        ("global", "main", "lamp"),
        ("global", "main", "quay"),
        ("other", "else", "moon"),
        ("team", "own", "lamp"),
        ("team", "own", "vault"),
    ]


async def test_an_object_says_all_that_olm_says(shop: Manifests) -> None:
    [quay] = [item for item in (await shop.list("team")).json["items"] if item["metadata"]["name"] == "quay"]
    metadata = quay.pop("metadata")
    assert metadata.pop("uid")
    assert metadata.pop("resourceVersion")
    assert metadata == {
        "name": "quay",
        "namespace": "team",
        "creationTimestamp": "2026-01-02T03:04:05Z",
        "labels": {"catalog": "main", "catalog-namespace": "global"},
    }
    assert quay == {
        "kind": "PackageManifest",
        "apiVersion": "packages.operators.coreos.com/v1",
        "spec": {},
        "status": {
            "catalogSource": "main",
            "catalogSourceDisplayName": "Shop",
            "catalogSourcePublisher": "",
            "catalogSourceNamespace": "global",
            "provider": {},
            "packageName": "quay",
            "channels": [
                {"name": "stable", "currentCSV": "quay.v1", "currentCSVDesc": {"description": "as ever"}},
            ],
            "defaultChannel": "stable",
        },
    }


async def test_what_is_shown_elsewhere_is_another_object_at_the_same_version(shop: Manifests) -> None:
    shown = [(await shop.get("quay", namespace)).json["metadata"] for namespace in ("global", "team", "other")]
    assert len({each["uid"] for each in shown}) == 3
    assert len({each["resourceVersion"] for each in shown}) == 1
    assert shown == [(await shop.get("quay", namespace)).json["metadata"] for namespace in ("global", "team", "other")]


async def test_of_two_with_one_name_a_get_gives_the_own_one_always(shop: Manifests) -> None:
    await shop.package("lamp", "team", "also")
    items = [item for item in (await shop.list("team")).json["items"] if item["metadata"]["name"] == "lamp"]
    assert [item["status"]["catalogSource"] for item in items] == ["also", "own", "main"]
    assert len({item["metadata"]["uid"] for item in items}) == 3
    got = {(await shop.get("lamp")).json["status"]["catalogSource"] for _ in range(20)}
    assert got == {"also"}
    assert (await shop.get("lamp", "global")).json["status"]["catalogSource"] == "main"


async def test_what_is_not_there_is_not_found(shop: Manifests) -> None:
    for name in ("plain", "moon", "own.lamp", "nothing"):
        answer = await shop.get(name)
        assert (answer.status, answer.json["details"]["kind"]) == (404, "packagemanifests"), name
        assert (await shop.get(f"{name}/icon")).status == 404


async def test_a_list_is_the_same_in_pages(shop: Manifests) -> None:
    found: list[tuple[str, str, str]] = []
    token = ""
    for _ in range(10):
        page = await shop.list("team", limit="1", query={"continue": token} if token else None)
        found += catalogs(page)
        token = page.json["metadata"].get("continue", "")
        if not token:
            break
    assert found == catalogs(await shop.list("team"))


async def test_a_page_holds_its_version_over_both_namespaces(shop: Manifests) -> None:
    first = await shop.list("team", limit="3")
    token = {"continue": first.json["metadata"]["continue"]}
    await shop.package("zeppelin", "global", "main")
    await shop.package("anchor", "team", "own")
    second = await shop.list("team", query=token)
    assert catalogs(second) == [("team", "main", "quay")]
    assert second.json["metadata"]["resourceVersion"] == first.json["metadata"]["resourceVersion"]
    own = (await shop.list("team", limit="1")).json["metadata"]["continue"]
    assert (await shop.list("other", query={"continue": own})).status == 400


async def test_selectors_see_the_manifest_and_not_the_package(shop: Manifests) -> None:
    async def names(**asked: str) -> list[str]:
        answer = await shop.list("team", **asked)
        assert answer.status == 200, answer.body
        return [f"{item['status']['catalogSource']}.{item['metadata']['name']}" for item in answer.json["items"]]

    assert await names(fieldSelector="metadata.name=lamp") == ["own.lamp", "main.lamp"]
    assert await names(fieldSelector="metadata.name=lamp", labelSelector="catalog=main") == ["main.lamp"]
    assert await names(fieldSelector="metadata.name!=lamp") == ["own.vault", "main.quay"]
    assert await names(fieldSelector="metadata.namespace=team") == await names()
    assert await names(fieldSelector="metadata.namespace=global") == []
    assert await names(fieldSelector="metadata.name=own.lamp") == []
    assert await names(labelSelector="tier=gold") == ["own.vault", "main.lamp"]
    assert await names(labelSelector="catalog-namespace=global") == ["main.lamp", "main.quay"]
    assert await names(labelSelector="!opsrc-owner-name,!csc-owner-name") == await names()
    assert await names(labelSelector="cacheserver.dev/package=lamp") == []
    refused = await shop.list("team", fieldSelector="spec.packageName=lamp")
    assert refused.status == 400
    assert "metadata.name" in refused.json["message"]
    assert "metadata.namespace" in refused.json["message"]


async def test_a_csv_cannot_say_that_it_is_of_another_catalog(manifests: Manifests) -> None:
    await manifests.package("lamp", labels={"catalog": "trusted", "catalog-namespace": "global"})
    labels = (await manifests.get("lamp")).json["metadata"]["labels"]
    assert labels == {"catalog": "r", "catalog-namespace": "team"}
    assert (await manifests.list("team", labelSelector="catalog=trusted")).json["items"] == []


async def test_the_other_forms_read_no_content(shop: Manifests) -> None:
    reads = shop.world.blobs.reads
    table = (await shop.list("team", accept=TABLE)).json
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Catalog", "Age"]
    assert [row["cells"] for row in table["rows"]][:2] == [["lamp", "Shop", "5m"], ["vault", "Shop", "5m"]]
    partial = (await shop.list("team", accept=METADATA_LIST)).json
    assert [item["metadata"]["namespace"] for item in partial["items"]] == ["team"] * 4
    assert shop.world.blobs.reads == reads


async def test_readable_and_compressed_lists_say_the_same(shop: Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = await shop.list("team")
    pretty = await shop.list("team", pretty="1")
    assert pretty.body != plain.body
    assert pretty.json == plain.json
    monkeypatch.setattr(doors, "GZIP_ABOVE", 1)
    packed = await shop.list("team", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    empty = await shop.list("team", labelSelector="tier=none")
    assert empty.json["items"] == []


async def test_a_list_that_comes_again_reads_nothing(shop: Manifests) -> None:
    first = await shop.list("team")
    reads = shop.world.blobs.reads
    assert (await shop.list("team")).body == first.body
    await shop.list("other")
    assert shop.world.blobs.reads == reads + 1  # moon, which nobody read yet


async def test_an_unpublished_repository_is_nowhere(shop: Manifests) -> None:
    shop.hidden.add(RepositoryKey("global", "main"))
    assert catalogs(await shop.list("other")) == [("other", "else", "moon")]
    assert (await shop.get("quay")).status == 404
    assert (await shop.get("quay/icon")).status == 404
    assert (await shop.list("team", accept=TABLE)).json["rows"][-1]["cells"][0] == "vault"


async def test_nothing_is_written(shop: Manifests) -> None:
    for method in ("POST", "DELETE"):
        answer = await shop.world.get(f"{GROUP}/namespaces/team/packagemanifests", method=method)
        assert answer.status == 405


# --- watch ---


async def test_a_change_is_one_event_to_each_who_sees_the_package(shop: Manifests) -> None:
    since = (await shop.list("team")).json["metadata"]["resourceVersion"]
    changed = await shop.package("quay", "global", "main", says="something new")
    for namespace, shown in (("", "global"), ("team", "team"), ("global", "global"), ("nobody", "nobody")):
        async with shop.watch(namespace, resourceVersion=since) as lines:
            event = await lines.next()
            assert (event["type"], event["object"]["metadata"]["namespace"]) == ("MODIFIED", shown)
            assert event["object"]["metadata"]["resourceVersion"] == str(changed)
            assert event["object"] == (await shop.get("quay", shown)).json


async def test_what_changes_elsewhere_or_shows_nothing_is_no_event(shop: Manifests) -> None:
    async with shop.watch("team") as lines:
        assert [each["type"] for each in await lines.take(4)] == ["ADDED"] * 4
        await shop.package("moon", "other", "else", says="news")
        shop.world.package("plain", revisions=2)
        await shop.package("lamp", "team", "own")  # what is shown of it stays as it was
        await shop.package("last", "team", "own")
        event = await lines.next()
        assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "last")


async def test_watchers_of_several_namespaces_follow_at_the_same_time(shop: Manifests) -> None:
    since = (await shop.list()).json["metadata"]["resourceVersion"]
    async with (
        shop.watch("team", resourceVersion=since) as team,
        shop.watch("nobody", resourceVersion=since) as nobody,
        shop.watch(resourceVersion=since) as everywhere,
        shop.watch("team", resourceVersion=since, labelSelector="catalog=main") as selecting,
    ):
        for round_ in range(3):
            await shop.package("quay", "global", "main", says=f"round {round_}")
            for lines, where in ((team, "team"), (nobody, "nobody"), (everywhere, "global"), (selecting, "team")):
                event = await lines.next()
                assert (event["type"], event["object"]["metadata"]["namespace"]) == ("MODIFIED", where)
                [channel] = event["object"]["status"]["channels"]
                assert channel["currentCSVDesc"]["description"] == f"round {round_}"


async def test_a_package_that_goes_or_is_published_no_more_is_deleted(shop: Manifests) -> None:
    since = (await shop.list()).json["metadata"]["resourceVersion"]
    async with shop.watch("nobody", resourceVersion=since) as lines:
        shop.world.feed.delete("global", "main.quay")
        gone = await lines.next()
        assert (gone["type"], gone["object"]["metadata"]["name"]) == ("DELETED", "quay")
        assert gone["object"]["metadata"]["namespace"] == "nobody"
        shop.hidden.add(RepositoryKey("global", "main"))
        shop.world.package("lamp", namespace="global", repository="main")
        gone = await lines.next()
        assert (gone["type"], gone["object"]["metadata"]["name"]) == ("DELETED", "lamp")


async def test_leaving_a_selection_is_a_deletion(shop: Manifests) -> None:
    async with shop.watch("team", labelSelector="tier=gold") as lines:
        assert {each["object"]["metadata"]["name"] for each in await lines.take(2)} == {"lamp", "vault"}
        await shop.package("vault", "team", "own", labels={"tier": "silver"})
        event = await lines.next()
        assert (event["type"], event["object"]["metadata"]["name"]) == ("DELETED", "vault")
        await shop.package("vault", "team", "own", labels={"tier": "gold"})
        assert (await lines.next())["type"] == "ADDED"


async def test_a_table_is_watched_without_content(shop: Manifests) -> None:
    reads = shop.world.blobs.reads
    async with shop.watch("team", accept=TABLE) as lines:
        rows = [each["object"]["rows"][0]["cells"][0] for each in await lines.take(4)]
        assert rows == ["lamp", "vault", "lamp", "quay"]
        await shop.package("quay", "global", "main", labels={"tier": "gold"})
        assert (await lines.next())["object"]["rows"][0]["cells"][0] == "quay"
    assert shop.world.blobs.reads == reads


async def test_a_lost_blob_breaks_one_object_alone_and_until_it_is_back(shop: Manifests) -> None:
    digest = (await shop.world.get("namespaces/team/packages/own.vault")).json["status"]["manifest"]["digest"]
    lost = shop.world.blobs.lose(digest)
    listed = await shop.list("team")
    assert len(catalogs(listed)) == 4
    assert [item["status"]["channels"] == [] for item in listed.json["items"]] == [False, True, False, False]
    assert (await shop.get("vault")).status == 503
    shop.world.blobs.put(lost, "application/json")
    assert all(item["status"]["channels"] for item in (await shop.list("team")).json["items"])


class Noted(PackageManifests):
    """Notes how many whole objects are made at once."""

    def __init__(self, blobs: Blobs) -> None:
        super().__init__(blobs, lambda _: True, "global")
        self.at_once: list[int] = []

    async def _whole(self, namespace: str, packages: Sequence[Entry]) -> Completed:
        self.at_once.append(len(packages))
        return await super()._whole(namespace, packages)


async def test_large_objects_are_made_one_at_a_time_while_they_are_sent() -> None:
    doors: list[Noted] = []

    def more(blobs: Blobs) -> Sequence[Resource]:
        doors.append(Noted(blobs))
        return [doors[0].row]

    async with api_world(projections=projections(PROJECTIONS), more=more) as world:
        manifests = Manifests(world, set())
        for at in range(12):
            await manifests.package(f"large{at:02}", "global", "main", says="x" * 100_000)
        async with manifests.watch("team") as lines:
            events = await lines.take(12)
            said = [event["object"]["status"]["channels"][0]["currentCSVDesc"]["description"] for event in events]
            assert said == ["x" * 100_000] * 12
            assert [event["object"]["metadata"]["name"] for event in events] == [f"large{at:02}" for at in range(12)]
            assert doors[0].at_once == [1] * 12
            await manifests.package("large00", "global", "main", says="y" * 100_000)
            assert (await lines.next())["type"] == "MODIFIED"
        doors[0].at_once.clear()
        assert len((await manifests.list("team")).json["items"]) == 12
        assert sum(doors[0].at_once) == 12
        assert max(doors[0].at_once) == 2
        await manifests.package("large00", "global", "main", says="z" * 100_000)
        doors[0].at_once.clear()
        crowd = await asyncio.gather(*(manifests.list("team") for _ in range(5)))
        assert [len(each.json["items"]) for each in crowd] == [12] * 5
        assert doors[0].at_once == [2], "what changed is made once, for all who come together"


# --- icons ---


async def test_an_icon_has_an_etag_of_its_own_and_runs_no_script(manifests: Manifests) -> None:
    await manifests.package("lamp", icon=SVG)
    asked = {"resourceVersion": "lamp.stable.lamp.v1", "catalog": "r"}
    found = await manifests.get("lamp/icon", query=asked)
    assert (found.status, found.body, found.headers["Content-Type"]) == (200, SVG, "image/svg+xml")
    assert "sandbox" in found.headers["Content-Security-Policy"]
    assert "default-src 'none'" in found.headers["Content-Security-Policy"]
    assert found.headers["X-Content-Type-Options"] == "nosniff"
    etag = found.headers["ETag"]
    known = await manifests.get("lamp/icon", query=asked, headers={"If-None-Match": etag})
    assert (known.status, known.body) == (304, b"")
    other = await manifests.get("lamp/icon", query=asked, headers={"If-None-Match": '"lamp.stable.lamp.v1"'})
    assert (other.status, other.body) == (200, SVG)


async def test_the_catalog_chooses_among_icons_of_one_name(shop: Manifests) -> None:
    await shop.package("lamp", "team", "own", icon=b"own", media_type="image/png")
    await shop.package("lamp", "global", "main", icon=b"main", media_type="image/jpeg")
    assert (await shop.get("lamp/icon")).body == b"own"
    of_main = await shop.get("lamp/icon", query={"catalog": "main"})
    assert (of_main.body, of_main.headers["Content-Type"]) == (b"main", "image/jpeg")
    assert (await shop.get("lamp/icon", query={"catalog": "nowhere"})).status == 404


@pytest.mark.parametrize("media_type", ["text/html", "image/svg+xml; charset=x\r\nX: y", "", "application/javascript"])
async def test_what_says_to_be_no_image_is_not_passed_on_as_it_says(manifests: Manifests, media_type: str) -> None:
    await manifests.package("lamp", icon=b"<html><script>", media_type=media_type)
    found = await manifests.get("lamp/icon")
    assert (found.status, found.headers["Content-Type"]) == (200, "application/octet-stream")
    assert found.headers["X-Content-Type-Options"] == "nosniff"


async def test_without_an_icon_there_is_one_of_ours(manifests: Manifests) -> None:
    await manifests.package("lamp")
    found = await manifests.get("lamp/icon")
    assert (found.status, found.headers["Content-Type"]) == (200, "image/svg+xml")
    assert found.body.startswith(b"<svg")


# --- discovery ---


async def test_discovery_says_what_there_is(manifests: Manifests) -> None:
    found = (await manifests.world.get(GROUP)).json
    assert [(each["name"], each["singularName"], sorted(each["verbs"])) for each in found["resources"]] == [
        ("packagemanifests", "packagemanifest", ["get", "list", "watch"]),
        ("packagemanifests/icon", "", ["get"]),
    ]
    assert "packages.operators.coreos.com" in {g["name"] for g in (await manifests.world.get("/apis")).json["groups"]}
    schema = (await manifests.world.get(f"/openapi/v3{GROUP}")).json["components"]["schemas"]
    assert "com.coreos.operators.packages.v1.PackageManifest" in schema


async def test_discovery_answers_before_the_store_does() -> None:
    def more(blobs: Any) -> Any:
        return [PackageManifests(blobs, lambda _: True).row]

    async with api_world(away=True, projections=projections(PROJECTIONS), more=more) as world:
        assert (await world.get(GROUP)).status == 200
        assert (await world.get(f"{GROUP}/packagemanifests")).json["reason"] == "TooManyRequests"  # come again


async def test_there_is_no_group_unless_it_is_asked_for() -> None:
    async with api_world() as world:
        assert (await world.get(GROUP)).status == 404
        assert (await world.get(f"{GROUP}/packagemanifests")).status == 404
