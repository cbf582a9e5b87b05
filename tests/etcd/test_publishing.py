"""The life of a repository that is written to: operations and syncs in turn, and what is then served. Real etcd."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from cacheserver.catalogs.workers import Workers
from cacheserver.config import RepositoryConfig
from cacheserver.config.sources import GitRef, GitSource, RefKind
from cacheserver.etcd.client import Client, prefix_end
from cacheserver.ingest import Ingest, ServedStatusStore, SyncServices
from cacheserver.ingest.disk import Mirrors
from cacheserver.ingest.reading import open_for
from cacheserver.model import ANNOTATION_REQUESTED, Digest, Format, Key, Kind, RepositoryKey
from cacheserver.publish.git.publisher import Publisher
from cacheserver.sources import Source
from cacheserver.store.authored import Step
from cacheserver.store.blobs import Blobs
from cacheserver.store.keys import PREFIX
from cacheserver.store.objects import Store
from tests.fakes.source import FakeSource
from tests.support import invariants
from tests.support.archive import untar
from tests.support.authoring import Desk
from tests.support.gitserver import GitRepository
from tests.support.waiting import eventually as eventually_within

pytestmark = pytest.mark.etcd

KEY = RepositoryKey("ns", "repo")
eventually = functools.partial(eventually_within, within_s=60.0)  # several processes of git each time


@dataclass
class World:
    remote: GitRepository
    client: Client
    store: Store
    services: SyncServices
    desk: Desk
    home: Path
    config: RepositoryConfig

    @asynccontextmanager
    async def serving(self, config: RepositoryConfig | None = None, cache: str = "cache") -> AsyncIterator[Ingest]:
        publisher = Publisher(self.desk.authored, self.desk.blobs)
        ingest = Ingest(self.services, ServedStatusStore(self.store), publisher=publisher)
        config = config or self.config

        def source() -> Source:
            return open_for(config.source, config.format, cache=self.home / cache)

        ingest.put(config, source)
        task = asyncio.create_task(ingest.run())
        try:
            yield ingest
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def do(self, package: str, workspace: str, step: Step) -> dict[str, Any]:
        """Ask, wait as the API does, and read the answer; empty where it is gone."""
        operation = await self.desk.ask(package, workspace, step)
        key = self.desk.key(package, workspace)
        await asyncio.wait_for(
            self.desk.authored.settled(key, operation.id, after=await self.store.current_revision()), 60
        )
        return await self.object(package, workspace)

    async def object(self, package: str, workspace: str) -> dict[str, Any]:
        held = await self.desk.authored.read(self.desk.key(package, workspace))
        return orjson.loads(held.served.value) if held.served else {}

    async def objects(self) -> dict[str, dict[str, Any]]:
        """Packages and revisions by name."""
        found = {}
        async for page in self.store.read_all():
            for change in page.changes:
                assert change.value is not None
                manifest = orjson.loads(change.value)
                if manifest["kind"] != "Repository":
                    found[manifest["metadata"]["name"]] = manifest
        return found

    async def files(self, manifest: dict[str, Any]) -> dict[str, bytes]:
        digest = Digest(manifest["status"]["content"]["digest"])
        return untar(b"".join([piece async for piece in self.desk.blobs.read(digest)]))

    async def repository(self) -> dict[str, Any]:
        found = await self.store.read_object(Key(Kind.REPOSITORY, "ns", "repo"))
        return orjson.loads(found.value) if found else {"status": {"conditions": []}}

    async def handled(self) -> str:
        return str((await self.repository())["status"].get("lastHandledReconcileAt", ""))

    async def condition(self, kind: str) -> str:
        found = (await self.repository())["status"].get("conditions", ())
        return next((each["status"] for each in found if each["type"] == kind), "")


@pytest.fixture
async def world(etcd_endpoint: str, tmp_path: Path) -> AsyncIterator[World]:
    remote = GitRepository(tmp_path / "remote.git")
    spec = GitSource(remote.url, GitRef(RefKind.BRANCH, "main"), "")
    config = RepositoryConfig(KEY, spec, format=Format.KRM, writable=True, push_after_s=0.1)
    async with Client([etcd_endpoint]) as client, Workers(1) as workers:
        await client.connect()
        await client.delete(PREFIX, prefix_end(PREFIX))
        store, blobs = Store(client), Blobs(client)
        await store.open()
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        services = SyncServices(store, blobs, workers, scratch)
        yield World(remote, client, store, services, Desk(store.authored, blobs, KEY, tmp_path), tmp_path, config)
    if (remote.path / "HEAD").exists():  # a test may have taken it away
        invariants.check(remote, [])


async def test_a_package_is_drafted_proposed_approved_and_served_as_git_has_it(world: World) -> None:
    async with world.serving():
        await world.desk.create("sites/berlin", "w1")
        await eventually(lambda: "refs/heads/drafts/sites/berlin/w1" in invariants.refs(world.remote))
        uid = (await world.object("sites/berlin", "w1"))["metadata"]["uid"]
        assert (await world.do("sites/berlin", "w1", Step.PROPOSE))["spec"]["lifecycle"] == "Proposed"
        served = await world.do("sites/berlin", "w1", Step.APPROVE)
    assert served["spec"]["lifecycle"] == "Published"
    assert (served["spec"]["revision"], served["status"]["revisionNumber"]) == ("v1", 1)
    assert served["status"]["publishedBy"] == "bob@example.com"
    assert served["metadata"]["uid"] == uid
    assert served["metadata"]["labels"]["cacheserver.dev/latest"] == "true"
    assert "operation" not in served["status"]
    invariants.check(world.remote, [("sites/berlin", "v1", "w1")], {("sites/berlin", "v1"): await world.files(served)})


async def test_the_look_that_follows_a_publish_writes_nothing(world: World) -> None:
    async with world.serving() as ingest:
        await world.desk.create("p", "w1")
        await world.do("p", "w1", Step.PROPOSE)
        await world.do("p", "w1", Step.APPROVE)
        await _looked(world, ingest, "to the end of what the publish wrote")
        before = await world.objects()
        revision = await world.store.current_revision()
        await _looked(world, ingest, "again")
        async with world.store.follow(revision) as follower:
            end = await world.store.tick()
            async for changes in follower:
                assert [c for c in changes.changes if c.kind is not Kind.REPOSITORY] == []
                if changes.revision >= end:
                    break
        assert await world.objects() == before


async def _looked(world: World, ingest: Ingest, word: str) -> None:
    """Until a look that was asked for by this word has ended."""
    asked = replace(world.config, annotations={ANNOTATION_REQUESTED: word})
    ingest.put(asked, lambda: FakeSource({}))  # it changes nothing but that a look is asked for: the source stays
    await eventually(lambda: _is(world.handled(), word))


async def _is(found: Any, wanted: object) -> bool:
    return bool(await found == wanted)


async def test_what_was_written_is_read_the_same_into_an_empty_etcd(world: World) -> None:
    async with world.serving():
        for package in ("a", "sites/b"):
            await world.desk.create(package, "w1", package)
            await world.do(package, "w1", Step.PROPOSE)
            await world.do(package, "w1", Step.APPROVE)
        await world.do("a", "w1", Step.PROPOSE_DELETION)
        await world.desk.create("draft", "w1")
        await world.desk.create("proposed", "w1")
        await world.do("proposed", "w1", Step.PROPOSE)
        await eventually(lambda: "refs/heads/drafts/draft/w1" in invariants.refs(world.remote))
        await eventually(lambda: _pushed(world, "draft"))
        before = {name: told for name, told in (await world.objects()).items() if told["kind"] == "PackageRevision"}
    await world.client.delete(PREFIX, prefix_end(PREFIX))
    await world.store.open()
    async with world.serving(cache="another"):
        await eventually(lambda: _is(world.condition("Ready"), "True"))
        after = {name: told for name, told in (await world.objects()).items() if told["kind"] == "PackageRevision"}
    branch = {name for name, told in after.items() if told["spec"]["revision"] == "main"}
    assert after.keys() - branch == before.keys() - branch
    for name in before.keys() - branch:
        old, new = before[name], after[name]
        assert new["metadata"]["uid"] == old["metadata"]["uid"], name
        assert new["spec"]["lifecycle"] == old["spec"]["lifecycle"], name
        assert new["spec"]["revision"] == old["spec"]["revision"], name
        assert new["spec"]["workspaceName"] == old["spec"]["workspaceName"], name
        assert new["status"]["content"] == old["status"]["content"], name
        assert new["status"]["selfLock"] == old["status"]["selfLock"], name


async def _pushed(world: World, package: str) -> bool:
    conditions = (await world.object(package, "w1"))["status"].get("conditions", [])
    return any(each["type"] == "Pushed" and each["status"] == "True" for each in conditions)


async def test_what_is_asked_for_at_once_after_an_answer_is_not_taken_for_what_was_answered(world: World) -> None:
    async with world.serving():
        await world.desk.create("p", "w1")
        for step in (Step.PROPOSE, Step.REJECT, Step.PROPOSE, Step.APPROVE, Step.PROPOSE_DELETION, Step.KEEP):
            answer = await world.do("p", "w1", step)
            assert answer["status"].get("lastOperation", {}).get("result") != "Failed"
        assert (await world.object("p", "w1"))["spec"]["lifecycle"] == "Published"
        assert (await world.do("p", "w1", Step.PROPOSE_DELETION))["spec"]["lifecycle"] == "DeletionProposed"


async def test_deletion_goes_the_whole_way_and_the_label_of_the_latest_goes_back(world: World) -> None:
    async with world.serving():
        await world.desk.create("p", "w1")
        await world.do("p", "w1", Step.PROPOSE)
        first = await world.do("p", "w1", Step.APPROVE)
        base = ("v1", first["status"]["selfLock"]["git"]["commit"])
        await world.desk.create("p", "w2", "2", base=base)
        await world.do("p", "w2", Step.PROPOSE)
        await world.do("p", "w2", Step.APPROVE)
        going = await world.do("p", "w2", Step.PROPOSE_DELETION)
        assert going["spec"]["lifecycle"] == "DeletionProposed", going["status"]
        assert (await world.do("p", "w2", Step.KEEP))["spec"]["lifecycle"] == "Published"
        await world.do("p", "w2", Step.PROPOSE_DELETION)
        assert await world.do("p", "w2", Step.DELETE) == {}
        await eventually(lambda: _latest(world, "p", "w1"))
    assert "refs/tags/p/v2" not in invariants.refs(world.remote)


async def _latest(world: World, package: str, workspace: str) -> bool:
    return "cacheserver.dev/latest" in (await world.object(package, workspace))["metadata"]["labels"]


async def test_a_source_that_cannot_be_read_keeps_no_draft_from_being_pushed(world: World) -> None:
    world.remote.commit({"p0/Kptfile": b"o"}, branch="other")
    async with world.serving():  # there is no branch main, and something else is there
        await eventually(lambda: _is(world.condition("Ready"), "False"))
        world.remote.commit({"x": b"1"})
        await world.desk.create("p", "w1")
        await eventually(lambda: "refs/heads/drafts/p/w1" in invariants.refs(world.remote))


async def test_git_that_is_away_is_told_of_and_saves_go_on(world: World) -> None:
    world.remote.commit({"x": b"1"})
    async with world.serving() as ingest:
        await eventually(lambda: _is(world.condition("Ready"), "True"))
        world.remote.path.rename(world.home / "away")
        await world.desk.create("p", "w1")
        await eventually(lambda: _is(world.condition("Pushed"), "False"))
        answer = await world.do("p", "w1", Step.PROPOSE)
        assert answer["status"]["lastOperation"]["code"] == 503
        await world.desk.save("p", "w1", world.desk.files("p", "2"))
        (world.home / "away").rename(world.remote.path)
        await eventually(lambda: "refs/heads/drafts/p/w1" in invariants.refs(world.remote))
        await eventually(lambda: _is(world.condition("Pushed"), "True"))
        ingest.request_sync()


async def test_a_repository_that_goes_has_its_drafts_pushed_and_git_is_left_alone(world: World) -> None:
    world.remote.commit({"x": b"1"})
    late = replace(world.config, push_after_s=30.0)
    async with world.serving(late) as ingest:
        await eventually(lambda: _is(world.condition("Ready"), "True"))
        await world.desk.create("p", "w1", saved_ms=int(1e15))
        before = invariants.refs(world.remote)
        ingest.remove(KEY)
        await eventually(lambda: _none_left(world))
    after = invariants.refs(world.remote)
    assert after.keys() - before.keys() <= {"refs/heads/drafts/p/w1"}
    assert "refs/heads/drafts/p/w1" in after
    assert await world.desk.authored.drafts(KEY) == {}


async def test_drafts_that_are_lost_with_their_repository_are_named(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.remote.commit({"x": b"1"})
    async with world.serving(replace(world.config, push_after_s=30.0)) as ingest:
        await eventually(lambda: _is(world.condition("Ready"), "True"))
        await world.desk.create("p", "w1", saved_ms=int(1e15))
        world.remote.path.rename(world.home / "away")
        with caplog.at_level(logging.WARNING):
            ingest.remove(KEY)
            await eventually(lambda: _none_left(world))
    assert any(getattr(record, "first", "") == "repo.p.w1" for record in caplog.records)


async def _none_left(world: World) -> bool:
    return not await world.store.repositories()


class CountedMirrors(Mirrors):
    """used: how often git's copies were looked at, all of them."""

    used = 0

    @asynccontextmanager
    async def using(self, key: RepositoryKey) -> AsyncIterator[Callable[[int], None]]:
        self.used += 1
        async with super().using(key) as bring:
            yield bring


async def test_a_save_that_is_not_due_looks_at_none_of_gits_copies(world: World) -> None:
    """With 400 drafts in git each save walked over all of their objects, twice."""
    mirrors = CountedMirrors(world.home / "mirrors", 1 << 30)
    world.services = replace(world.services, mirrors=mirrors)
    async with world.serving(replace(world.config, push_after_s=30.0)):
        await eventually(lambda: _is(world.condition("Ready"), "True"))
        before = mirrors.used
        await world.desk.create("a", "w1", saved_ms=int(time.time() * 1000))
        for number in range(5):
            await world.desk.save("a", "w1", world.desk.files("a", str(number)), saved_ms=int(time.time() * 1000))
        await world.desk.create("b", "w1", saved_ms=int(time.time() * 1000))
        await world.do("b", "w1", Step.PROPOSE)  # what comes behind the saves was seen, so these were
        assert mirrors.used - before < 3
