"""What an author may have in etcd, and write into it: the rest is refused by name, and what makes room is taken."""

from __future__ import annotations

import base64
import random
from pathlib import Path

import pytest

from cacheserver.catalogs.workers import Workers
from cacheserver.model import Key, Kind, RepositoryKey
from cacheserver.publish.package import Limits
from cacheserver.store.usage import Usages
from tests.support.waiting import eventually
from tests.support.writing import MERGE, World, authoring_world

pytestmark = pytest.mark.etcd

REVISION = "packagerevisions/edge.app.w1"
KIB = 1 << 10


def noise(size: int, seed: int = 0) -> str:
    """Text that cannot be packed much."""
    return base64.b64encode(random.Random(seed).randbytes(size * 3 // 4)).decode()


async def stored(world: World) -> list[str]:
    found = (await world.client.range(b"/cacheserver/v1/blob/", b"/cacheserver/v1/blob0", keys_only=True)).key_values
    return [kv.key.decode() for kv in found]


async def test_a_save_over_the_repositorys_share_is_refused_by_name_and_nothing_of_it_stays(
    etcd_endpoint: str, tmp_path: Path
) -> None:
    async with (
        Workers(1) as workers,
        authoring_world(etcd_endpoint, workers, tmp_path, shares=(256 * KIB, 1 << 30)) as world,
    ):
        assert (await world.create()).status == 201
        assert (await world.save(files={"a.txt": noise(100 * KIB)})).status == 200
        before = await stored(world)
        answer = await world.save(files={"b.txt": noise(200 * KIB, 1)})
        assert answer.status == 403, answer.body
        said = answer.json["message"]
        assert "the repository 'edge' would have" in said
        assert "may have 262144 (--max-repository-bytes): publish or delete drafts" in said
        assert await stored(world) == before
        assert "b.txt" not in (await world.resources())["spec"]["resources"]
        other = await world.create(repository="blueprints")
        assert other.status == 201, "another repository has a share of its own"


async def test_what_is_deleted_makes_room(etcd_endpoint: str, tmp_path: Path) -> None:
    async with (
        Workers(1) as workers,
        authoring_world(etcd_endpoint, workers, tmp_path, shares=(256 * KIB, 1 << 30)) as world,
    ):
        for name in ("app", "other"):
            assert (await world.create(name)).status == 201
        assert (await world.save(files={"a.txt": noise(200 * KIB)})).status == 200
        assert (await world.save("edge.other.w1", {"a.txt": noise(200 * KIB, 1)})).status == 403
        assert (await world.ask("DELETE", REVISION)).status == 200

        async def fits() -> bool:
            return (await world.save("edge.other.w1", {"a.txt": noise(200 * KIB, 1)})).status == 200

        await eventually(fits)  # what was counted a moment ago counts that long


async def test_a_namespace_has_a_share_over_all_its_repositories(etcd_endpoint: str, tmp_path: Path) -> None:
    async with (
        Workers(1) as workers,
        authoring_world(etcd_endpoint, workers, tmp_path, shares=(1 << 30, 512 * KIB)) as world,
    ):
        assert (await world.create()).status == 201
        assert (await world.create(repository="blueprints")).status == 201
        assert (await world.save(files={"a.txt": noise(200 * KIB)})).status == 200
        found = await world.save("blueprints.app.w1", {"a.txt": noise(600 * KIB, 1)})
        assert found.status == 403, found.body
        assert "namespace 'team'" in found.json["message"]
        assert "--max-namespace-bytes" in found.json["message"]


async def test_who_creates_and_deletes_again_and_again_is_stopped_and_can_still_delete(
    etcd_endpoint: str, tmp_path: Path
) -> None:
    """etcd keeps what was replaced for an hour."""
    async with (
        Workers(1) as workers,
        authoring_world(etcd_endpoint, workers, tmp_path, shares=(1 << 30, 2048 * KIB)) as world,
    ):
        statuses: list[int] = []
        answer = await world.create()
        for turn in range(12):
            assert answer.status in (201, 429)
            answer = await world.save(files={"a.txt": noise(300 * KIB, turn)})
            statuses.append(answer.status)
            if answer.status != 200:
                break
            assert (await world.ask("DELETE", REVISION)).status == 200
            answer = await world.create()
        assert statuses[-1] == 429, statuses
        assert len(statuses) > 2
        assert answer.json["reason"] == "TooManyRequests"
        assert int(answer.headers["Retry-After"]) > 0
        assert "written in the namespace 'team' within the hour" in answer.json["message"]
        assert (await world.ask("DELETE", REVISION)).status == 200


async def test_labels_annotations_and_finalizers_fill_nothing_either(etcd_endpoint: str, tmp_path: Path) -> None:
    """By what is there, and by what was replaced."""
    async with (
        Workers(1) as workers,
        authoring_world(etcd_endpoint, workers, tmp_path, shares=(64 * KIB, 1024 * KIB)) as world,
    ):
        for name in ("app", "other"):
            assert (await world.create(name)).status == 201
        large = {"metadata": {"annotations": {"example.com/a": "a" * 60_000}}}
        assert (await world.ask("PATCH", REVISION, large, media=MERGE)).status == 200
        assert (await world.ask("PATCH", "packagerevisions/edge.other.w1", large, media=MERGE)).status == 403
        kept = {"metadata": {"finalizers": [f"example.com/{'f' * 60}"]}}
        small = {"metadata": {"annotations": {"example.com/a": None}}}
        assert (await world.ask("PATCH", REVISION, small, media=MERGE)).status == 200
        assert (await world.ask("PATCH", REVISION, kept, media=MERGE)).status == 200
        statuses = []
        for _ in range(40):
            statuses += [(await world.ask("PATCH", REVISION, change, media=MERGE)).status for change in (large, small)]
            if 429 in statuses:
                break
        assert 429 in statuses


async def test_a_repository_has_so_many_open_drafts_and_no_more(etcd_endpoint: str, tmp_path: Path) -> None:
    async with (
        Workers(1) as workers,
        authoring_world(etcd_endpoint, workers, tmp_path, limits=Limits(drafts=3)) as world,
    ):
        for name in ("a", "b", "c"):
            assert (await world.create(name)).status == 201
        answer = await world.create("d")
        assert answer.status == 403
        assert "3 open drafts, the most that it may have; publish or delete some" in answer.json["message"]
        assert (await world.ask("DELETE", "packagerevisions/edge.a.w1")).status == 200
        assert (await world.create("d")).status == 201


async def test_a_sync_counts_no_content_of_drafts_that_their_authors_share_counts(
    etcd_endpoint: str, tmp_path: Path
) -> None:
    async with Workers(1) as workers, authoring_world(etcd_endpoint, workers, tmp_path) as world:
        assert (await world.create()).status == 201
        assert (await world.save(files={"a.txt": noise(100 * KIB)})).status == 200
        found = await Usages(world.client).measure(RepositoryKey("team", "edge"))
        assert found["app"].content == frozenset()
        assert found["app"].objects > 500
        draft = (await world.authored.drafts(RepositoryKey("team", "edge")))[
            Key(Kind.REVISION, "team", "edge", "app", "w1")
        ]
        assert 70 * KIB < draft.stored < 110 * KIB
        held = await world.authored.read(Key(Kind.REVISION, "team", "edge", "app", "w1"))
        assert held.served is not None
        assert held.served.blobs() != set()
