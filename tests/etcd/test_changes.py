"""What is told of changes, on a real etcd: whole and once, whatever is cut; kept within its bounds.

The judge is etcd's own history: what each transaction changed of packages and revisions, and what was told in it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest

from cacheserver.errors import NoSpace, StorageLimitError, Unavailable
from cacheserver.etcd.client import Delete, Put, prefix_end
from cacheserver.ingest.collection import ContentCollection
from cacheserver.ingest.removal import forget
from cacheserver.ingest.storage import Storage
from cacheserver.store.journal import Journal
from cacheserver.store.keys import BLOB, CLAIM, PREFIX, change_key
from cacheserver.store.news import What, encode, name_of, of_repository
from cacheserver.store.objects import Store
from cacheserver.store.usage import Usages
from tests.support.history import History, Step
from tests.support.world import KEY, World

pytestmark = pytest.mark.etcd


async def test_the_first_content_is_one_change_and_what_follows_is_told_one_by_one(world: World) -> None:
    world.files.package("app", "1.0.0", "1.1.0").package("db", "2.0.0")
    await world.sync()
    assert await world.told() == ["repository added: 2 packages, 3 revisions"]
    await world.sync(anew=True)
    assert len(await world.told()) == 1, "nothing changed"
    world.files.package("app", "1.0.0", "1.1.0", "1.2.0").package("new", "1.0.0", "1.1.0").without("db")
    await world.sync()
    assert sorted((await world.told())[1:]) == [
        "1.2.0 added",
        "package added: 2 revisions, latest 1.1.0",
        "package gone: 1 revision, latest 2.0.0",
        "stable: 1.1.0 -> 1.2.0",
    ]


async def test_each_kind_of_change_is_told_with_what_was_and_what_is(world: World) -> None:
    world.files.package("app", "1.0.0", "1.1.0")
    await world.sync()
    deprecated(world, "app", "olm.package", "olm.bundle")
    await world.sync()
    world.files.package("app", "1.1.0")
    world.files.file("app/deprecations.json", b"")
    await world.sync()
    specs = {change["spec"]["summary"]: change["spec"] for change in (await world.changes())[1:]}
    assert sorted(specs) == [
        "1.0.0 deprecated: use another",
        "1.0.0 gone",
        "package deprecated: use another",
        "package no longer deprecated",
    ]
    assert specs["1.0.0 gone"] == {
        "repository": "repo",
        "packageName": "app",
        "object": {"kind": "PackageRevision", "name": "repo.app.1.0.0"},
        "format": "FBC",
        "revision": "app.v1.0.0",
        "version": "1.0.0",
        "changes": [{"type": "RevisionGone", "from": "Published"}],
        "summary": "1.0.0 gone",
    }


def deprecated(world: World, package: str, *schemas: str) -> None:
    named = {"olm.bundle": {"name": f"{package}.v1.0.0"}, "olm.package": {}}
    entries = [{"reference": {"schema": each, **named[each]}, "message": "use another"} for each in schemas]
    said = {"schema": "olm.deprecations", "package": package, "entries": entries}
    world.files.file(f"{package}/deprecations.json", orjson.dumps(said))


# --- cut anywhere ---


class DiedError(Exception):
    """The process did."""


@asynccontextmanager
async def dying(world: World, at: int, *, after: bool) -> AsyncIterator[None]:
    """The process ends at its `at`th transaction that writes other than content, before or after etcd took it."""
    txn, count = world.client.txn, 0

    async def once(compares: Any, success: Any, *rest: Any, **more: Any) -> Any:
        nonlocal count
        # Not those of content, of which many pieces go into one.
        count += any(isinstance(each, Put | Delete) and not each.key.startswith(BLOB) for each in success)
        if count >= at and not after:
            raise DiedError
        result = await txn(compares, success, *rest, **more)
        if count >= at:
            raise DiedError
        return result

    world.client.txn = once  # type: ignore[method-assign] # a death at this very moment
    try:
        yield
    except DiedError:
        pass
    finally:
        world.client.txn = txn  # type: ignore[method-assign] # as above


@asynccontextmanager
async def losing_answers(world: World, chance: float, rng: random.Random) -> AsyncIterator[None]:
    txn = world.client.txn

    async def once(*arguments: Any, **more: Any) -> Any:
        result = await txn(*arguments, **more)
        if rng.random() < chance:
            raise Unavailable("the answer is lost")
        return result

    world.client.txn = once  # type: ignore[method-assign] # the network is what fails here
    try:
        yield
    except Unavailable:  # where the sync does not ask again, it fails, and the next one goes on
        pass
    finally:
        world.client.txn = txn  # type: ignore[method-assign] # as above


def rewrite(world: World, rng: random.Random) -> None:
    """Another catalog, of the same few names, so that packages and revisions come, go and come back."""
    for name in "abc":
        if rng.random() < 0.25 and (world.files.root / name).exists():
            world.files.without(name)
        elif rng.random() < 0.7:
            versions = [f"1.{minor}.0" for minor in range(4) if rng.random() < 0.6] or ["1.0.0"]
            world.files.package(name, *versions, descriptions={"1.1.0": str(rng.random())})
            schemas = [each for each in ("olm.package", "olm.bundle") if rng.random() < 0.4 and "1.0.0" in versions]
            deprecated(world, name, *schemas) if schemas else world.files.file(f"{name}/deprecations.json", b"")


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
async def test_syncs_cut_at_any_transaction_leave_no_gap_and_no_double(world: World, seed: int) -> None:
    """Killed before or after a transaction, with answers lost, and another process going on."""
    rng = random.Random(seed)
    since = await world.store.current_revision()
    for _ in range(15):
        rewrite(world, rng)
        fate = rng.random()
        if fate < 0.6:
            async with dying(world, rng.randrange(1, 14), after=rng.random() < 0.5):
                await world.sync(allow_empty=True)
        elif fate < 0.8:
            async with losing_answers(world, 0.2, rng):
                await world.sync(allow_empty=True)
        else:
            await world.sync(allow_empty=True)
        if rng.random() < 0.3:  # the claim goes to another
            await (await world.session()).release(await world.hold())
            world.claim = None
    await world.sync(allow_empty=True)
    judge(await history(world, since))


async def history(world: World, since: int) -> tuple[History, History]:
    end = await world.store.current_revision()
    served = await History.read(world.client, since, end, ("packages", "packagerevisions"))
    return served, await History.read(world.client, since, end, ("packagechanges",))


def judge(histories: tuple[History, History]) -> None:
    """Every transaction tells exactly what it changes; but of the first content the last tells all."""
    served, told = histories
    assert all(step.old is None for step in told.steps), "what was told is never written again"
    by_revision = {step.revision: (step.new or {})["spec"] for step in told.steps}
    assert len(by_revision) == len(told.steps), "one a transaction, so that whoever watches can resume behind each"
    begun = [at for at, spec in by_revision.items() if spec["changes"] == [{"type": "RepositoryAdded"}]]
    if not begun:
        assert not by_revision
        return
    [first] = begun
    del by_revision[first]
    assert min(by_revision, default=first) >= first, "before that nothing is told"
    there: set[str] = set()
    for step in served.steps:
        package_was_there = package_of(step) in there
        (one,) = [each for each in (step.new, step.old) if each][:1]
        if one["kind"] == "Package":
            there.add(package_of(step)) if step.new else there.discard(package_of(step))
        expected = set(facts(step, package_is_there=package_was_there))
        spec = by_revision.pop(step.revision, None)
        if step.revision > first:
            assert said(spec) == expected, (step.revision, one["metadata"]["name"])
    assert by_revision == {}, "nothing is told that no transaction did"


def package_of(step: Step) -> str:
    return str((step.new or step.old or {})["spec"]["packageName"])


def said(spec: Mapping[str, Any] | None) -> set[tuple[str, ...]]:
    if spec is None:
        return set()
    name = spec["object"]["name"]
    return {(name, c["type"], c.get("channel", ""), c.get("from", ""), c.get("to", "")) for c in spec["changes"]}


def facts(step: Step, *, package_is_there: bool) -> Iterator[tuple[str, ...]]:
    """What a reader would say of one change of one object, by the rules of the documentation alone."""
    name = (step.new or step.old or {})["metadata"]["name"]
    kind = (step.new or step.old or {})["kind"]
    if step.old is None or step.new is None:
        verb = "Added" if step.old is None else "Gone"
        if kind == "Package":
            yield name, f"Package{verb}", "", "", ""
        elif package_is_there:
            yield (name, f"Revision{verb}", "", *(("", "Published") if verb == "Added" else ("Published", "")))
        return
    old, new = step.old["status"], step.new["status"]
    if ("deprecation" in old) != ("deprecation" in new):
        yield name, "Deprecated" if "deprecation" in new else "Undeprecated", "", "", ""
    if kind == "Package":
        heads, now = ({c["name"]: c["head"] for c in side["channels"]} for side in (old, new))
        for channel in heads.keys() | now.keys():
            if heads.get(channel) != now.get(channel):
                yield name, "ChannelHeadMoved", channel, heads.get(channel, ""), now.get(channel, "")


# --- bounds ---


async def test_what_is_told_fast_is_collected_before_its_minute_is_over(world: World) -> None:
    store = Store(world.client, changes=20)
    collection = ContentCollection(store, world.blobs, lambda _: None)
    running = asyncio.create_task(collection.run_changes(every_s=3600, soonest_s=0.01))
    try:
        for at in range(60):
            told = store.journal.told(of_repository(KEY, What.REPOSITORY_CHANGED, at, at))
            await world.client.put(told.put.key, told.put.value)
        async with asyncio.timeout(10):
            while (await store.journal.counts())[KEY.namespace] > 22:  # and the tenth that may be told until then
                await asyncio.sleep(0)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_more_than_one_sync_tells_is_told_as_a_whole_also_when_it_is_cut(world: World) -> None:
    world.services = replace(world.services, store=Store(world.client, changes=50))  # of which a sync tells five
    world.files.package("app", "1.0.0")
    await world.sync()
    world.files.package("app", *(f"1.{minor}.0" for minor in range(30)))
    async with dying(world, 20, after=True):
        await world.sync()
    told = await world.told()
    assert len(told) == 1 + 5
    await world.sync()
    assert (await world.told())[-1] == "repository changed: 1 package, 30 revisions"
    assert len(await world.told()) == len(told) + 1
    world.files.package("app", *(f"1.{minor}.0" for minor in range(31)))
    await world.sync()
    assert (await world.told())[-2:] == ["1.30.0 added", "stable: 1.29.0 -> 1.30.0"], "from here on one by one again"


async def test_what_a_full_etcd_deletes_untold_is_told_of_when_there_is_room(world: World) -> None:
    """The sync's own work goes first: what makes room is not held up by the note of it."""
    world.files.package("app", "1.0.0").package("db", "1.0.0")
    await world.sync()
    world.files.without("db")
    txn = world.client.txn

    async def full(compares: Any, success: Any, *rest: Any, **more: Any) -> Any:
        if any(isinstance(each, Put) for each in success):
            raise NoSpace("full")
        return await txn(compares, success, *rest, **more)

    world.client.txn = full  # type: ignore[method-assign] # as a full etcd answers
    with pytest.raises(NoSpace):
        await world.sync()
    world.client.txn = txn  # type: ignore[method-assign] # as above
    assert sorted(await world.objects()) == ["repo.app", "repo.app.1.0.0"]
    assert len(await world.told()) == 1
    world.files.package("app", "1.0.0", "1.1.0")
    await world.sync()
    assert (await world.told())[1:] == ["repository changed: 1 package, 2 revisions"]


async def test_a_repository_that_goes_is_told_once_and_what_was_told_of_it_stays(world: World) -> None:
    world.files.package("app", "1.0.0")
    await world.sync()
    async with dying(world, 2, after=True):
        await forget(KEY, await world.hold(), world.store)
    await forget(KEY, await world.hold(), world.store)
    assert await world.told() == [
        "repository added: 1 package, 1 revision",
        "repository gone: 1 package, 1 revision",
    ]
    assert await world.store.repositories() == []
    await world.sync()
    assert (await world.told())[-1] == "repository added: 1 package, 1 revision"


async def test_what_an_etcd_of_yesterday_lacks_is_told_again_and_nothing_twice(world: World) -> None:
    world.files.package("app", "1.0.0")
    await world.sync()
    world.files.package("app", "1.0.0", "1.1.0")
    await world.sync()
    yesterday = (await world.client.range(PREFIX, prefix_end(PREFIX))).key_values
    world.files.package("app", "1.0.0", "1.1.0", "1.2.0")
    await world.sync()
    lost = await world.told()
    for kv in (await world.client.range(PREFIX, prefix_end(PREFIX))).key_values:
        if not kv.key.startswith(CLAIM):
            await world.client.delete(kv.key)
    for kv in yesterday:
        if not kv.key.startswith(CLAIM):
            await world.client.put(kv.key, kv.value)
    world.files.package("app", "1.0.0", "1.1.0", "1.2.0", "1.3.0")
    await world.sync()
    told = await world.told()
    assert told[:3] == lost[:3]
    assert sorted(told[3:]) == ["1.2.0 added", "1.3.0 added", "stable: 1.1.0 -> 1.3.0"]


async def test_an_upgrade_from_a_release_that_told_nothing_begins_with_what_changes(world: World) -> None:
    world.services = replace(world.services, store=Store(world.client, changes=0))
    world.files.package("app", "1.0.0")
    await world.sync()
    assert await world.told() == []
    world.services = replace(world.services, store=world.store)
    world.files.package("app", "1.0.0", "1.1.0")
    await world.sync()
    assert await world.told() == ["1.1.0 added", "stable: 1.0.0 -> 1.1.0"]


async def test_the_newest_are_kept_and_nobody_pushes_out_anothers(world: World) -> None:
    journal = Journal(world.client, most=100)
    for namespace, count in {"noisy": 150, "busy": 45, "quiet": 5}.items():
        for at in range(count):
            await write(world, namespace, 1_000_000.0 + at)
    assert await journal.counts() == {"noisy": 150, "busy": 45, "quiet": 5}
    assert await journal.collect(for_s=1e9, now=1_000_200.0) == 100
    assert await journal.counts() == {"noisy": 50, "busy": 45, "quiet": 5}
    assert await journal.collect(for_s=1e9, now=1_000_200.0) == 0
    assert await journal.collect(for_s=100.0, now=1_000_240.0) == 40 + 45 + 5
    assert await journal.counts() == {"noisy": 10}
    assert await Journal(world.client, most=0).collect(now=1_000_200.0) == 10
    assert await journal.counts() == {}


async def write(world: World, namespace: str, at: float) -> None:
    name = name_of(at)
    news = of_repository(replace(KEY, namespace=namespace), What.REPOSITORY_ADDED, 1, 1)
    await world.client.put(change_key(namespace, name), encode(news, name, at))


async def test_each_is_deleted_in_a_transaction_of_its_own(world: World) -> None:
    for at in range(20):
        await write(world, "ns", float(at))
    since = await world.store.current_revision()
    await Journal(world.client, most=0).collect()
    end = await world.store.current_revision()
    gone = await History.read(world.client, since, end, ("packagechanges",))
    assert len({step.revision for step in gone.steps}) == len(gone.steps) == 20


async def test_what_was_told_counts_for_its_namespace_and_is_named_where_it_is_too_much(world: World) -> None:
    world.files.package("app", "1.0.0")
    await world.sync()
    for at in range(1100):
        await write(world, KEY.namespace, float(at))
    storage = Storage(Usages(world.client), world.blobs, namespace_bytes=1 << 20)
    world.services = replace(world.services, storage=storage)
    world.files.package("app", "1.0.0", "1.1.0")
    with pytest.raises(
        StorageLimitError, match=r"namespace ns .* 1127424 of them its PackageChanges \(--max-changes\)"
    ):
        await world.sync()
