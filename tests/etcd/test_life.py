"""The life of repositories: back-off, suspend, sync on request, status, metrics, and that none waits for another.

Real etcd and worker processes; sources that answer as the test says. With real servers that hang: tests/e2e.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import field, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from cacheserver import metrics
from cacheserver.config.sources import GitSource
from cacheserver.errors import (
    CacheServerError,
    SourceAuthenticationError,
    SourceError,
    SourceInvalidError,
    SourceNetworkError,
    SourceNotFoundError,
    SourceRateLimitedError,
    SourceTooLargeError,
)
from cacheserver.ingest import Ingest, ServedStatusStore
from cacheserver.ingest.disk import Mirrors
from cacheserver.ingest.pace import Pace
from cacheserver.ingest.sync import APPLIES_AT_ONCE, ASKS_AT_ONCE, FETCHES_AT_ONCE, SLOW_AT_ONCE
from cacheserver.model import ANNOTATION_REQUESTED, Key, Kind, RepositoryKey
from cacheserver.slotted import slotted
from cacheserver.sources import FETCHING, Progress, Tree, open_source
from tests.fakes.source import FakeSource, UnderWay
from tests.support.fbc import bundle
from tests.support.gitserver import GitRepository
from tests.support.waiting import eventually
from tests.support.world import World, running

pytestmark = pytest.mark.etcd

SOURCE = GitSource("https://git.example/catalog.git")


def files(*versions: str) -> dict[str, bytes]:
    """A catalog of one package, `app`."""
    entries = [
        {"name": f"app.v{version}"} | ({"replaces": f"app.v{versions[at - 1]}"} if at else {})
        for at, version in enumerate(versions)
    ]
    documents: list[dict[str, Any]] = [
        {"schema": "olm.package", "name": "app", "defaultChannel": "stable"},
        {"schema": "olm.channel", "package": "app", "name": "stable", "entries": entries},
        *(bundle("app", version) for version in versions),
    ]
    return {"app/catalog.json": b"\n".join(map(orjson.dumps, documents))}


@slotted(frozen=True)
class NotedPace(Pace):
    """Waits a hundredth of a second, and keeps what it was asked: (reason, failures in a row)."""

    asked: list[tuple[str, int]] = field(default_factory=list)

    def retry_s(self, error: CacheServerError, failures: int, interval_s: float) -> float:
        self.asked.append((getattr(error, "reason", type(error).__name__), failures))
        return 0.01


@pytest.fixture
async def world(world: World) -> World:
    """Of repositories in git: of those, questions and fetches are bounded."""
    world.spec = SOURCE
    return world


# --- pace ------------------------------------------------------------------------------------------------------------


async def test_failures_in_a_row_are_counted_and_forgotten_with_the_first_success(world: World) -> None:
    source, pace = FakeSource(files("1.0.0")), NotedPace()
    ingest = world.ingest(pace)
    ingest.put(world.config(interval_s=0.01), lambda: source)
    source.error = SourceNetworkError("x: no route")
    async with running(ingest):
        await eventually(lambda: len(pace.asked) >= 3)
        source.error = None
        await eventually(lambda: world.says("Synced"))
        before = len(pace.asked)
        source.error = SourceAuthenticationError("x: who?")
        await eventually(lambda: len(pace.asked) > before + 1)
    assert pace.asked[:3] == [("NetworkError", 1), ("NetworkError", 2), ("NetworkError", 3)]
    assert pace.asked[before : before + 2] == [("AuthenticationFailed", 1), ("AuthenticationFailed", 2)]


async def test_an_unchanged_source_is_asked_again_at_its_interval_and_nothing_is_written(world: World) -> None:
    source, ingest = FakeSource(files("1.0.0")), world.ingest()
    ingest.put(world.config(interval_s=0.02), lambda: source)
    async with running(ingest):
        await eventually(lambda: world.says("Synced"))
        await eventually(lambda: source.asked > 2)
        since, asked = await world.store.current_revision(), source.asked
        await eventually(lambda: source.asked > asked + 5)
        assert await world.store.current_revision() == since


async def test_a_wish_to_sync_is_heard_between_two_looks_and_during_one(world: World) -> None:
    source, ingest = FakeSource(files("1.0.0")), world.ingest()
    ingest.put(world.config(), lambda: source)
    async with running(ingest):
        await eventually(lambda: world.says("Synced"))
        source.files = files("1.0.0", "1.1.0")
        ingest.request_sync()
        await eventually(lambda: source.asked == 2)
        ingest.request_sync()
        ingest.request_sync()  # both while the second look is under way, or just after: one more look, not two
        await eventually(lambda: source.asked == 3)
        assert await world.versions() == ["1.0.0", "1.1.0"]
        assert source.asked == 3


async def test_a_requested_sync_is_done_and_acknowledged(world: World) -> None:
    source, ingest = FakeSource(files("1.0.0")), world.ingest()
    ingest.put(world.config(), lambda: source)
    async with running(ingest):
        await eventually(lambda: world.says("Synced"))
        ingest.put(world.config(annotations={ANNOTATION_REQUESTED: "now"}), lambda: source)
        await eventually(lambda: _acknowledged(world, "now"))
    assert source.asked == 2


async def _acknowledged(world: World, wish: str) -> bool:
    return bool((await world.status()).get("lastHandledReconcileAt") == wish)


async def test_a_suspended_repository_is_asked_nothing_and_keeps_what_it_serves(world: World) -> None:
    source, ingest = FakeSource(files("1.0.0")), world.ingest()
    ingest.put(world.config(), lambda: source)
    async with running(ingest):
        await eventually(lambda: world.says("Synced"))
        ingest.put(world.config(suspend=True), lambda: source)
        await eventually(lambda: world.says("Suspended"))
        source.files = files("2.0.0")
        asked = source.asked
        ingest.request_sync()
        ingest.put(world.config(suspend=True, labels={"a": "b"}), lambda: source)
        await eventually(lambda: _labelled(world))
        assert source.asked == asked
        assert await world.versions() == ["1.0.0"]
        status, _, message = await world.condition()
        assert status == "True"
        assert "suspend: false" in message
        ingest.put(world.config(), lambda: source)
        await eventually(lambda: world.says("Synced"))
        assert await world.versions() == ["2.0.0"]


async def _labelled(world: World) -> bool:
    found = await world.store.read_object(Key(Kind.REPOSITORY, "ns", "repo"))
    return found is not None and b'"a":"b"' in found.value


# --- none waits for another ------------------------------------------------------------------------------------------


async def test_questions_to_sources_are_bounded_and_all_are_asked(world: World) -> None:
    under_way, ingest = UnderWay(), world.ingest()
    sources = [FakeSource({}, under_way) for _ in range(3 * ASKS_AT_ONCE)]
    for at, source in enumerate(sources):
        ingest.put(world.config(f"r{at}"), lambda source=source: source)  # type: ignore[misc]  # bound at once
    async with running(ingest):
        await eventually(lambda: all(source.asked for source in sources))
    assert under_way.most <= ASKS_AT_ONCE


async def test_repositories_that_hang_after_a_failure_wait_in_a_line_of_their_own(world: World) -> None:
    """An outage of the server of most repositories: those elsewhere go on at their own pace."""
    ingest = world.ingest(NotedPace())
    broken = [FakeSource({}) for _ in range(2 * ASKS_AT_ONCE)]
    for at, source in enumerate(broken):
        source.error = SourceNetworkError("x: no route")
        ingest.put(world.config(f"broken{at}"), lambda source=source: source)  # type: ignore[misc]  # bound at once
    good = FakeSource(files("1.0.0"))
    async with running(ingest):
        await eventually(lambda: all(source.asked for source in broken))
        for source in broken:
            source.hangs = True
        ingest.put(world.config("good", interval_s=0.01), lambda: good)
        await eventually(lambda: world.says("Synced", "good"))
        asked = good.asked
        await eventually(lambda: good.asked > asked + 5)
        good.files = files("1.0.0", "1.1.0")
        await eventually(lambda: _serves(world, "good", 2))


async def test_fetches_that_never_end_delay_nobody_else(world: World) -> None:
    ingest = world.ingest()
    for at in range(3):
        stuck = FakeSource(files("1.0.0"))
        stuck.fetch_hangs = True
        ingest.put(world.config(f"stuck{at}"), lambda stuck=stuck: stuck)  # type: ignore[misc]  # bound at once
    good = FakeSource(files("1.0.0"))
    ingest.put(world.config("good", interval_s=0.01), lambda: good)
    async with running(ingest):
        await eventually(lambda: world.says("Synced", "good"))
        good.files = files("1.0.0", "1.1.0")
        await eventually(lambda: _serves(world, "good", 2))
        assert await world.condition("Reconciling", "stuck0") == ("True", "Syncing", "reading the source")


async def test_fetched_trees_that_wait_to_be_applied_are_bounded_and_all_are_applied(world: World) -> None:
    ingest, count = world.ingest(), 3 * FETCHES_AT_ONCE
    for at in range(count):
        source = FakeSource(files("1.0.0"))
        ingest.put(world.config(f"r{at}"), lambda source=source: source)  # type: ignore[misc]  # bound at once

    def trees() -> int:
        return len(list(world.services.scratch.glob("*/tree/tree")))

    async with contextlib.AsyncExitStack() as busy:
        for at in range(APPLIES_AT_ONCE):
            await busy.enter_async_context(world.services.applying.turn(RepositoryKey(f"busy{at}", "r")))
        async with running(ingest):
            share = (FETCHES_AT_ONCE - SLOW_AT_ONCE) * 3 // 4  # of one namespace
            await eventually(lambda: trees() >= share)
            with pytest.raises(AssertionError, match="not true within"):
                await eventually(lambda: trees() > share, within_s=0.5)
            await busy.aclose()
            for at in range(count):
                await eventually(lambda at=at: world.says("Synced", f"r{at}"))  # type: ignore[misc]  # bound at once
    assert trees() == 0
    assert world.services.scratch_space.held_bytes == 0


async def _serves(world: World, name: str, revisions: int) -> bool:
    return len(await world.versions(name)) == revisions


# --- status ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (SourceNetworkError("where: refused"), "tried again"),
        (SourceAuthenticationError("where: 401"), "credentials"),
        (SourceNotFoundError("where: 404"), "correct spec.source"),
        (SourceRateLimitedError("where: 429"), "tried again"),
        (SourceInvalidError("where: bad digest"), "changes"),
        (SourceTooLargeError("where: more than 5 bytes (cap `total_bytes`)"), "raise the cap"),
        (SourceError("where: the disk is full"), "tried again"),
    ],
    ids=lambda value: getattr(value, "reason", ""),
)
async def test_a_failure_names_its_cause_and_what_to_do_and_the_last_good_content_stays(
    world: World, error: SourceError, remedy: str
) -> None:
    source, ingest = FakeSource(files("1.0.0")), world.ingest()
    ingest.put(world.config(), lambda: source)
    async with running(ingest):
        await eventually(lambda: world.says("Synced"))
        source.error = error
        ingest.request_sync()
        await eventually(lambda: world.says(error.reason))
        status, _, message = await world.condition()
        assert status == "False"
        assert str(error) in message
        assert remedy in message
        assert "last good content stays" in message
        assert await world.versions() == ["1.0.0"]
        source.error = None
        ingest.request_sync()
        await eventually(lambda: world.says("Synced"))


# --- metrics ---------------------------------------------------------------------------------------------------------


def gauges(name: str) -> dict[str, float]:
    """cacheserver_repository_* of one repository, by the name's end."""
    return {
        sample.name.removeprefix("cacheserver_repository_"): sample.value
        for family in metrics.registry().collect()
        for sample in family.samples
        if sample.name.startswith("cacheserver_repository_") and sample.labels.get("repository") == name
    }


@pytest.fixture
def without_metrics() -> None:
    metrics.forget_repository("ns", "repo")


@pytest.mark.usefixtures("without_metrics")
async def test_metrics_tell_what_is_served_after_a_restart_too(world: World) -> None:
    source = FakeSource({**files("1.0.0", "1.1.0"), "bad/catalog.json": b'{"schema":"olm.package","name":"bad"}'})
    config = world.config()
    expected = {"ready": 1, "packages": 1, "revisions": 2, "rejected": 1}
    first = world.ingest()
    first.put(config, lambda: source)
    async with running(first):
        await eventually(lambda: world.says("Synced"))
        await eventually(lambda: len(gauges("repo")) == 8)
    before = gauges("repo")
    assert {name: before[name] for name in expected} == expected
    assert before["last_checked_timestamp_seconds"] >= before["last_synced_timestamp_seconds"] - 1
    metrics.forget_repository("ns", "repo")
    again = world.ingest()
    again.put(config, lambda: source)
    async with running(again):
        await eventually(lambda: len(gauges("repo")) == 8)
    after = gauges("repo")
    assert {name: after[name] for name in expected} == expected
    assert abs(after["last_synced_timestamp_seconds"] - before["last_synced_timestamp_seconds"]) < 2


@pytest.mark.usefixtures("without_metrics")
async def test_metrics_tell_what_is_served_while_the_source_is_away(world: World) -> None:
    source = FakeSource(files("1.0.0"))
    first = world.ingest()
    first.put(world.config(), lambda: source)
    async with running(first):
        await eventually(lambda: world.says("Synced"))
    metrics.forget_repository("ns", "repo")
    source.error = SourceNetworkError("x: no route")
    again = world.ingest()
    again.put(replace(world.config()), lambda: source)
    async with running(again):
        await eventually(lambda: world.says("NetworkError"))
        await eventually(lambda: gauges("repo").get("packages") == 1)
    assert gauges("repo")["ready"] == 0
    assert gauges("repo")["revisions"] == 1


async def test_a_removed_repository_leaves_no_series(world: World) -> None:
    source, ingest = FakeSource(files("1.0.0")), world.ingest()
    ingest.put(world.config(), lambda: source)
    async with running(ingest):
        await eventually(lambda: world.says("Synced"))
        ingest.remove(RepositoryKey("ns", "repo"))
        await eventually(lambda: gauges("repo") == {})


# --- leaving ---------------------------------------------------------------------------------------------------------


async def test_what_another_process_ingests_is_left_alone(world: World) -> None:
    """Two servers with different catalogs on one etcd, one of which had the other's once."""
    theirs, ours, settled = world.ingest(), world.ingest(), asyncio.Event()
    theirs.put(world.config(), lambda: FakeSource(files("1.0.0")))

    async def done() -> None:
        settled.set()

    async with running(theirs):
        await eventually(lambda: world.says("Synced"))
        ours.remove(RepositoryKey("ns", "repo"), patience_s=0.1, done=done)
        async with running(ours), asyncio.timeout(5):
            await settled.wait()
        assert await world.versions() == ["1.0.0"]
    settled.clear()
    ours.remove(RepositoryKey("ns", "repo"), patience_s=5, done=done)
    async with running(ours), asyncio.timeout(5):
        await settled.wait()
    assert await world.versions() == []


async def test_one_that_goes_while_another_process_holds_it_delays_nobody(world: World) -> None:
    theirs, ours = world.ingest(), world.ingest()
    theirs.put(world.config("held"), lambda: FakeSource(files("1.0.0")))
    async with running(theirs):
        await eventually(lambda: world.says("Synced", "held"))
        ours.remove(RepositoryKey("ns", "held"))
        async with running(ours):
            ours.put(world.config("new"), lambda: FakeSource(files("1.0.0")))
            await eventually(lambda: world.says("Synced", "new"))


async def test_a_status_that_was_not_written_is_made_good_by_the_next_process(world: World) -> None:
    """The process died between the last write of a sync and its status: the source does not move, the status must."""
    source, first = FakeSource(files("1.0.0")), world.ingest()
    first.put(world.config(), lambda: source)
    async with running(first):
        await eventually(lambda: world.says("Synced"))
        before = await world.store.read_object(Key(Kind.REPOSITORY, "ns", "repo"))
        source.files = files("1.0.0", "1.1.0")
        first.request_sync()
        await eventually(lambda: _counts(world, 2))
    assert before is not None
    await world.services.store._client.put(b"/cacheserver/v1/served/repositories/ns/repo", before.value)
    again = world.ingest()
    again.put(world.config(), lambda: source)
    async with running(again):
        await eventually(lambda: _counts(world, 2))


async def _counts(world: World, revisions: int) -> bool:
    return bool((await world.status()).get("revisions") == revisions)


# --- git's copies ----------------------------------------------------------------------------------------------------


async def test_a_removed_repository_takes_gits_copy_of_it_along(world: World, tmp_path: Path) -> None:
    remote = GitRepository(tmp_path / "remote")
    remote.commit(files("1.0.0"))
    mirrors = Mirrors(tmp_path / "sources", 1 << 30)
    world.services = replace(world.services, mirrors=mirrors)
    config = replace(world.config(), source=GitSource(remote.url))
    stale = mirrors.path(RepositoryKey("ns", "went-while-nobody-looked"))
    (stale / "mirror.git").mkdir(parents=True)
    ingest = world.ingest()
    ingest.put(config, lambda: open_source(config.source, cache=mirrors.path(config.key)))
    async with running(ingest):
        await eventually(lambda: world.says("Synced"), within_s=60)  # git is five processes
        assert not stale.exists()
        assert (mirrors.path(config.key) / "shallow.git").is_dir()
        ingest.remove(config.key)
        await eventually(lambda: not mirrors.path(config.key).exists())


class Growing(FakeSource):
    """A remote that sends for ever, more between two looks at the disk than may be there: here nothing gets there."""

    async def fetch(self, scratch: Path, progress: Progress) -> Tree:
        bytes_brought = 0
        while True:
            bytes_brought += 2 << 30
            progress(FETCHING, bytes_brought, 0)
            await asyncio.sleep(0.001)


async def test_what_git_is_bringing_counts_in_the_bound_of_its_copies(world: World, tmp_path: Path) -> None:
    source, mirrors = Growing(files("1.0.0")), Mirrors(tmp_path / "sources", 1 << 30)
    world.services = replace(world.services, mirrors=mirrors)
    ingest = world.ingest()
    ingest.put(replace(world.config(), source=GitSource("https://git.example.com/large")), lambda: source)
    async with running(ingest):
        await eventually(lambda: world.says("SourceTooLarge"))
        _, _, message = await world.condition()
        assert "--max-mirror-bytes raises it" in message


# --- slow ones -------------------------------------------------------------------------------------------------------


async def test_a_sync_that_works_for_too_long_is_ended_and_says_so(world: World) -> None:
    source = FakeSource(files("1.0.0"))
    source.fetch_hangs = True
    ingest = Ingest(replace(world.services, timeout_s=0.2), ServedStatusStore(world.store))
    ingest.put(world.config(), lambda: source)
    async with running(ingest):
        await eventually(lambda: world.says("SyncTooLong"))
        _, _, message = await world.condition()
        assert "fetching the source" in message
        assert "--sync-timeout" in message


async def test_many_that_are_slow_in_one_namespace_delay_no_other_namespace(world: World) -> None:
    """More than there are places to fetch, and none of them ever ends."""
    ingest, slow = world.ingest(), [FakeSource(files("1.0.0")) for _ in range(40)]
    for at, stuck in enumerate(slow):
        stuck.fetch_hangs = True
        ingest.put(world.config(f"stuck{at}"), lambda stuck=stuck: stuck)  # type: ignore[misc]  # bound at once
    async with running(ingest):
        await eventually(lambda: all(stuck.asked for stuck in slow))
        good = replace(world.config("good"), key=RepositoryKey("other", "good"))
        ingest.put(good, lambda: FakeSource(files("1.0.0")))
        await eventually(lambda: _is_served(world, good.key))


async def _is_served(world: World, key: RepositoryKey) -> bool:
    return bool(await world.store.served_keys(key))


@pytest.mark.usefixtures("without_metrics")
async def test_metrics_tell_the_interval_suspension_and_failures_by_reason(world: World) -> None:
    source, ingest, config = FakeSource(files("1.0.0")), world.ingest(), world.config()
    ingest.put(config, lambda: source)

    def failures(reason: str) -> float:
        return metrics.sync_failures.labels("ns", "repo", reason).value

    def syncs(outcome: str) -> int:
        return sum(metrics.sync_seconds.labels("ns", "repo", outcome).counts)

    async with running(ingest):
        await eventually(lambda: world.says("Synced"))
        assert (syncs("applied"), syncs("failed")) == (1, 0)
        assert gauges("repo")["interval_seconds"] == config.interval_s
        assert gauges("repo")["suspended"] == 0
        source.error = SourceNetworkError("x: no route")
        ingest.request_sync()
        await eventually(lambda: failures("NetworkError") == 1)
        assert syncs("failed") == 1
        assert gauges("repo")["ready"] == 0
        ingest.put(replace(config, suspend=True), lambda: source)
        await eventually(lambda: gauges("repo").get("suspended") == 1)
        ingest.remove(config.key)
        await eventually(lambda: not gauges("repo"))
        assert failures("NetworkError") == 0
