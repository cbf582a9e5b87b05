"""The kinds of rukpak-packageserver as a client sees them: which there are, what they say, gets, lists, watches."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any, Final

import orjson
import pytest

from cacheserver.api import PROJECTIONS
from cacheserver.cache.watchcache import WatchCache
from cacheserver.compat.rukpak import kinds, projections
from cacheserver.model import Kind, RepositoryKey
from tests.fakes.api import TABLE, World, api_world

GROUP: Final = "/apis/core.rukpak.io/v1beta1"
TEST: Final = f"{GROUP}/namespaces/test"
SAMPLE: Final = "catalogsource-sample"
IMAGE: Final = "docker.io/anik120/community-operator-index:v4.11"


class Shown:
    """A world with these kinds; hidden: repositories whose packages are not shown."""

    def __init__(self, world: World, hidden: set[RepositoryKey]) -> None:
        self.world = world
        self.hidden = hidden

    def repository(self, name: str, *doors: str, source: dict[str, Any] | None = None) -> None:
        spec = {"source": source or {"oci": {"image": IMAGE, "insecure": False}}, "interval": "45m"}
        status = {"lastCheckedAt": "2026-01-02T03:04:05Z"}
        if doors:
            spec["publish"] = list(doors)
        self.world.feed.put("test", name, kind=Kind.REPOSITORY, spec=orjson.dumps(spec), status=orjson.dumps(status))

    def package(self, name: str, *, repository: str = SAMPLE, shown_by: str = "Rukpak", **status: Any) -> None:
        self.world.package(name, namespace="test", repository=repository, shown_by=shown_by, **status)

    async def items(self, plural: str, **asked: Any) -> list[str]:
        answer = await self.world.get(f"{TEST}/{plural}", **asked)
        assert answer.status == 200, answer.body
        return answer.names


@pytest.fixture(params=[True, False], ids=["chunks", "websocket"])
async def shown(request: pytest.FixtureRequest) -> AsyncIterator[Shown]:
    hidden: set[RepositoryKey] = set()
    made: list[WatchCache] = []

    class Kept(WatchCache):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    async with api_world(
        cache_type=Kept,
        projections=projections(PROJECTIONS),
        more=lambda blobs: kinds(blobs, made[0], lambda key: key not in hidden, standalone=True),
    ) as world:
        world.websocket = not request.param
        found = Shown(world, hidden)
        found.repository(SAMPLE, "Catalog", "Rukpak")
        found.repository("private")
        icon = world.blobs.put(b"<svg/>", "image/svg+xml")
        found.package(
            "quay",
            defaultChannel="stable",
            channels=[{"name": "stable", "head": "quay.v1.1.0", "headVersion": "1.1.0", "revisions": 2}],
            provider={"name": "Red Hat"},
            icon={"mediaType": "image/svg+xml", "digest": icon, "size": 6},
        )
        found.package("vault")
        found.package("secret", repository="private", shown_by="")
        hidden.add(RepositoryKey("test", "private"))
        await world.settled()
        yield found


async def test_names_are_those_of_the_quickstart_and_what_is_not_published_is_not_there(shown: Shown) -> None:
    assert await shown.items("catalogsources") == await shown.items("catalogcaches") == [SAMPLE]
    assert await shown.items("packages") == ["quay", "vault"]
    for path in ("catalogsources/private", "catalogcaches/private", "packages/secret", "packages/quay/icon"):
        assert (await shown.world.get(f"{TEST}/{path}")).status == 404
    table = (await shown.world.get(f"{TEST}/packages", accept=TABLE)).json
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Age"]
    assert [row["cells"][0] for row in table["rows"]] == ["quay", "vault"]


async def test_a_source_says_image_interval_and_when_it_was_looked_at(shown: Shown) -> None:
    found = (await shown.world.get(f"{TEST}/catalogsources/{SAMPLE}")).json
    assert (found["kind"], found["apiVersion"]) == ("CatalogSource", "core.rukpak.io/v1beta1")
    assert found["spec"] == {"image": IMAGE, "pollingInterval": "45m"}
    assert found["status"] == {"latestImagePoll": "2026-01-02T03:04:05Z"}
    assert (await shown.world.get(f"{TEST}/catalogsources")).json["items"] == [found]


async def test_a_package_says_what_the_catalog_does_and_has_its_icon_in_a_get(shown: Shown) -> None:
    found = (await shown.world.get(f"{TEST}/packages/quay")).json
    icon = found["spec"].pop("icon")
    assert icon == {"base64data": base64.b64encode(b"<svg/>").decode(), "mediatype": "image/svg+xml"}
    assert found["spec"] == {
        "catalogSource": SAMPLE,
        "catalogSourceNamespace": "test",
        "packageName": "quay",
        "channels": [{"name": "stable", "head": "quay.v1.1.0"}],
        "defaultChannel": "stable",
        "provider": {"name": "Red Hat"},
    }
    assert (await shown.world.get(f"{TEST}/packages")).json["items"][0] == found
    assert "icon" not in (await shown.world.get(f"{TEST}/packages/vault")).json["spec"]


async def test_a_cache_has_every_bundle_of_its_catalog_in_a_get(shown: Shown) -> None:
    api = {"group": "x.io", "version": "v1", "kind": "X"}
    for repository in (SAMPLE, "private"):
        for version in range(500):
            spec = {
                "repository": repository,
                "packageName": "quay",
                "revision": f"quay.v{version}",
                "version": f"{version}.0.0",
            }
            status = {
                "image": f"i/quay:{version}",
                "providedAPIs": [api],
                **({"requiredAPIs": [api]} if version else {}),
            }
            shown.world.feed.put(
                "test",
                f"{repository}.quay.{version:03}",
                kind=Kind.REVISION,
                spec=orjson.dumps(spec),
                status=orjson.dumps(status),
            )
    await shown.world.settled()
    found = (await shown.world.get(f"{TEST}/catalogcaches/{SAMPLE}")).json["spec"]["operators"]
    assert len(found) == 500
    first = {"name": "quay.v0", "package": "quay", "version": "0.0.0", "providedapis": [api], "bundlepath": "i/quay:0"}
    assert found[0] == first
    assert found[1]["requiredapis"] == [api]
    assert (await shown.world.get(f"{TEST}/catalogcaches")).json["items"][0]["spec"] == {}


async def test_they_are_selected_by_name_and_label_and_paged(shown: Shown) -> None:
    assert await shown.items("packages", fieldSelector="metadata.name=quay") == ["quay"]
    assert await shown.items("packages", fieldSelector="metadata.name!=quay") == ["vault"]
    assert await shown.items("packages", fieldSelector="metadata.name=secret") == []
    assert await shown.items("packages", labelSelector="cacheserver.dev/package=vault") == ["vault"]
    first = (await shown.world.get(f"{TEST}/packages", limit="1")).json
    token = first["metadata"]["continue"]
    assert await shown.items("packages", limit="1", **{"continue": token}) == ["vault"]


async def test_they_are_watched_and_what_is_not_published_is_no_event(shown: Shown) -> None:
    version = str(shown.world.feed.revision)
    async with (
        shown.world.watch(f"{TEST}/packages", resourceVersion=version) as packages,
        shown.world.watch(f"{TEST}/catalogsources", resourceVersion=version) as sources,
    ):
        shown.package("secret", repository="private", shown_by="", defaultChannel="beta")
        shown.package("vault", defaultChannel="beta")
        shown.repository("private", "Catalog")
        shown.repository("private", "Rukpak")
        shown.repository(SAMPLE)
        changed = await packages.next()
        assert (changed["type"], changed["object"]["metadata"]["name"]) == ("MODIFIED", "vault")
        assert changed["object"]["spec"]["defaultChannel"] == "beta"
        seen = [(each["type"], each["object"]["metadata"]["name"]) for each in await sources.take(2)]
        assert seen == [("ADDED", "private"), ("DELETED", SAMPLE)]


async def test_two_catalogs_with_the_same_package_are_two_items_and_a_get_is_of_the_first(shown: Shown) -> None:
    shown.repository("another", "Rukpak")
    shown.package("quay", repository="another")
    await shown.world.settled()
    assert await shown.items("packages") == ["quay", "quay", "vault"]
    found = (await shown.world.get(f"{TEST}/packages/quay")).json
    assert found["spec"]["catalogSource"] == "another"
    uids = {item["metadata"]["uid"] for item in (await shown.world.get(f"{TEST}/packages")).json["items"]}
    assert len(uids) == 3


async def test_packages_of_both_kinds_are_listed_and_watched_beside_each_other(shown: Shown) -> None:
    """They have one plural, and are stored once."""
    version = str(shown.world.feed.revision)
    async with (
        shown.world.watch("packages", resourceVersion=version) as ours,
        shown.world.watch(f"{GROUP}/packages", resourceVersion=version) as theirs,
    ):
        for summary in ("one", "two"):
            shown.package("quay", summary=summary, defaultChannel=summary)
            one, other = await ours.next(), await theirs.next()
            assert one["object"]["metadata"]["name"] == f"{SAMPLE}.quay"
            assert one["object"]["status"]["summary"] == summary
            assert (other["object"]["metadata"]["name"], other["object"]["spec"]["defaultChannel"]) == ("quay", summary)
    for _ in range(2):
        rows = [(await shown.world.get(path, accept=TABLE)).json["rows"] for path in ("packages", f"{GROUP}/packages")]
        assert [[row["cells"][0] for row in each] for each in rows] == [
            [f"{SAMPLE}.quay", f"{SAMPLE}.vault", "private.secret"],
            ["quay", "vault"],
        ]


async def test_they_are_views_and_a_write_says_what_to_write_instead(shown: Shown) -> None:
    answer = await shown.world.get(f"{TEST}/catalogsources", method="POST")
    assert answer.status == 405
    assert "publish: [Rukpak]" in answer.json["message"]


async def test_what_is_published_no_more_is_hidden_at_once_and_deleted_to_who_watches(shown: Shown) -> None:
    """spec.publish changes first, then what is stored; also for who comes back and missed it."""
    version = str(shown.world.feed.revision)
    async with shown.world.watch(f"{TEST}/packages", resourceVersion=version) as open_:
        shown.hidden.add(RepositoryKey("test", SAMPLE))
        assert await shown.items("packages") == []
        for name in ("quay", "vault"):
            shown.package(name, shown_by="")
        seen = [(each["type"], each["object"]["metadata"]["name"]) for each in await open_.take(2)]
        assert seen == [("DELETED", "quay"), ("DELETED", "vault")]
    async with shown.world.watch(f"{TEST}/packages", resourceVersion=version) as back:
        assert [each["type"] for each in await back.take(2)] == ["DELETED", "DELETED"]
        shown.hidden.clear()
        shown.package("quay")
        again = await back.next()
        assert (again["type"], again["object"]["metadata"]["name"]) == ("ADDED", "quay")
    assert await shown.items("packages") == ["quay"]


async def test_in_a_cluster_sources_are_the_clusters_and_the_views_of_a_version_beside_theirs(shown: Shown) -> None:
    rows = kinds(shown.world.blobs, shown.world.cache, lambda _: True, standalone=False)
    assert [(row.plural, row.api_version) for row in rows] == [
        ("catalogcaches", "core.rukpak.io/v1alpha1"),
        ("packages", "core.rukpak.io/v1alpha1"),
    ]
