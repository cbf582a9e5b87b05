"""From a directory to what a watcher of etcd sees: only what changed, and never a reference to something absent.

Real etcd, real worker processes. Left to tests/e2e: the same through a server that is killed.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import field, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from cacheserver.catalogs import ParseLimits
from cacheserver.catalogs.workers import Workers
from cacheserver.config import Validation
from cacheserver.errors import CatalogError, LeaseLostError, Unavailable
from cacheserver.etcd.client import Delete, prefix_end
from cacheserver.ingest import Outcome
from cacheserver.ingest.removal import forget
from cacheserver.ingest.status import repository_record, synced
from cacheserver.slotted import slotted
from cacheserver.sources import DirectorySource, Progress, Tree
from cacheserver.store.claims import Claim
from cacheserver.store.keys import PREFIX
from tests.support.world import KEY, World

pytestmark = pytest.mark.etcd


async def test_a_catalog_is_served_and_a_second_sync_writes_nothing(world: World) -> None:
    world.files.package("app", "1.0.0", "1.1.0").package("db", "2.0.0")
    first = await world.sync()
    revision = await world.store.current_revision()
    second = await world.sync()
    assert (first.outcome, first.added, first.packages, first.revisions) == (Outcome.APPLIED, 5, 2, 3)
    assert (second.outcome, second.written) == (Outcome.UNCHANGED, 0)
    assert await world.store.current_revision() == revision
    objects = await world.objects()
    assert sorted(objects) == ["repo.app", "repo.app.1.0.0", "repo.app.1.1.0", "repo.db", "repo.db.2.0.0"]
    assert objects["repo.app"]["status"]["latest"] == {"revision": "app.v1.1.0", "version": "1.1.0"}


async def test_files_that_moved_without_changing_write_no_object(world: World) -> None:
    world.files.package("app", "1.0.0").package("db", "2.0.0")
    await world.sync()
    before = await world.objects()
    (world.files.root / "app").rename(world.files.root / "elsewhere")
    report = await world.sync()
    assert report.written == 0
    assert await world.objects() == before


async def test_one_changed_bundle_makes_events_for_that_revision_and_its_package_only(world: World) -> None:
    world.files.package("app", "1.0.0", "1.1.0").package("db", "2.0.0")
    await world.sync()
    since = await world.store.current_revision()
    world.files.package("app", "1.0.0", "1.1.0", descriptions={"1.0.0": "now different"})
    report = await world.sync()
    events = await world.events(since)
    touched = {name for _, name in events}
    assert "packagerevisions/ns/repo/app/1.0.0" in touched
    assert touched <= {"packagerevisions/ns/repo/app/1.0.0", "packages/ns/repo/app"}
    assert report.changed == len(events)


async def test_a_new_version_arrives_before_the_package_that_names_it(world: World) -> None:
    world.files.package("app", "1.0.0")
    await world.sync()
    since = await world.store.current_revision()
    world.files.package("app", "1.0.0", "1.1.0")
    await world.sync()
    names = [name for _, name in await world.events(since)]
    assert names.index("packagerevisions/ns/repo/app/1.1.0") < names.index("packages/ns/repo/app")


async def test_a_removed_package_goes_before_its_revisions(world: World) -> None:
    world.files.package("app", "1.0.0", "1.1.0").package("db", "2.0.0")
    await world.sync()
    since = await world.store.current_revision()
    world.files.without("app")
    report = await world.sync()
    events = await world.events(since)
    assert report.deleted == 3
    assert events[0] == ("gone", "packages/ns/repo/app")
    assert sorted(events[1:]) == [("gone", f"packagerevisions/ns/repo/app/1.{i}.0") for i in (0, 1)]
    assert sorted(await world.objects()) == ["repo.db", "repo.db.2.0.0"]


async def test_a_removed_version_goes_after_the_package_stopped_naming_it(world: World) -> None:
    world.files.package("app", "1.0.0", "1.1.0")
    await world.sync()
    since = await world.store.current_revision()
    world.files.package("app", "1.0.0")
    await world.sync()
    events = await world.events(since)
    assert events.index(("put", "packages/ns/repo/app")) < events.index(("gone", "packagerevisions/ns/repo/app/1.1.0"))


async def test_a_package_that_breaks_keeps_its_last_good_content(world: World) -> None:
    world.files.package("app", "1.0.0").package("db", "2.0.0")
    await world.sync()
    before = await world.objects()
    world.files.package("app", "not-a-version").package("db", "2.0.0", "2.1.0")
    report = await world.sync()
    after = await world.objects()
    assert list(report.rejected) == ["app"]
    assert after["repo.app"] == before["repo.app"]
    assert after["repo.app.1.0.0"] == before["repo.app.1.0.0"]
    assert "repo.db.2.1.0" in after


async def test_strict_changes_nothing_until_everything_is_right(world: World) -> None:
    world.files.package("app", "1.0.0")
    await world.sync(validation=Validation.STRICT)
    before = await world.objects()
    world.files.package("app", "not-a-version").package("db", "2.0.0")
    report = await world.sync(validation=Validation.STRICT)
    assert (report.outcome, report.reason) == (Outcome.HELD, "CatalogRefused")
    assert await world.objects() == before
    world.files.package("app", "1.1.0")
    assert (await world.sync(validation=Validation.STRICT)).outcome is Outcome.APPLIED
    assert sorted(await world.objects()) == ["repo.app", "repo.app.1.1.0", "repo.db", "repo.db.2.0.0"]


async def test_while_a_file_cannot_be_read_nothing_is_deleted(world: World) -> None:
    world.files.package("app", "1.0.0").package("db", "2.0.0")
    await world.sync()
    world.files.file("app/catalog.yaml", b"schema: [")
    report = await world.sync()
    assert report.unreadable
    assert report.deleted == 0
    assert "repo.app.1.0.0" in await world.objects()
    world.files.without("app")
    assert (await world.sync()).deleted == 2


async def test_a_catalog_that_became_empty_is_held_unless_that_is_allowed(world: World) -> None:
    world.files.package("app", "1.0.0")
    await world.sync()
    world.files.without("app")
    report = await world.sync()
    assert (report.outcome, report.reason) == (Outcome.HELD, "CatalogEmpty")
    assert "allow-empty" in report.message
    assert sorted(await world.objects()) == ["repo.app", "repo.app.1.0.0"]
    allowed = await world.sync(allow_empty=True)
    assert (allowed.outcome, allowed.deleted) == (Outcome.APPLIED, 2)
    assert await world.objects() == {}


async def test_a_sync_that_lost_its_claim_half_way_is_finished_by_the_next(world: World) -> None:
    """The claim goes at the n-th write, for several n: the end is what an undisturbed sync makes."""
    versions = [f"1.{i}.0" for i in range(6)]
    world.files.package("app", *versions).package("db", "1.0.0")
    await world.sync()
    for n in (1, 3, 5):
        shifted = [f"{2 + n}.{i}.0" for i in range(6)]
        world.files.package("app", *shifted).package("db", f"{n}.9.0")
        await _interrupted(world, after_writes=n)
        assert world.claim is None
        await world.sync()
        found = await world.objects()
        assert sorted(found) == sorted(
            ["repo.app", "repo.db", f"repo.db.{n}.9.0", *(f"repo.app.{version}" for version in shifted)]
        )
        assert found["repo.app"]["status"]["latest"]["version"] == shifted[-1]


async def test_a_first_sync_cut_short_leaves_a_repository_that_is_known_and_can_be_forgotten(world: World) -> None:
    world.files.package("app", "1.0.0", "1.1.0")
    await world.hold()
    await _interrupted(world, after_writes=3)  # at the package itself, behind its two revisions
    assert KEY in await world.store.repositories()
    assert await forget(KEY, await world.hold(), world.store) == 2
    assert await world.objects() == {}


async def test_content_going_back_after_an_interrupted_sync_is_not_taken_for_unchanged(world: World) -> None:
    world.files.package("app", "1.0.0", "1.1.0")
    await world.sync()
    before = {name: m["status"] for name, m in (await world.objects()).items()}
    descriptions = {"1.0.0": "other", "1.1.0": "other"}
    world.files.package("app", "1.0.0", "1.1.0", "1.2.0", descriptions=descriptions)
    await _interrupted(world, after_writes=2)
    world.files.package("app", "1.0.0", "1.1.0")
    await world.sync()
    assert {name: m["status"] for name, m in (await world.objects()).items()} == before


async def _interrupted(world: World, *, after_writes: int) -> None:
    """A sync whose claim is taken away after so many writes."""
    assert world.claim is not None
    claim, count, put = world.claim, 0, world.store.put

    async def counting(claim: Claim, record: Any, previous: Any, tells: Any = None) -> Any:
        nonlocal count
        count += 1
        if count == after_writes:
            await (await world.session()).release(claim)
        return await put(claim, record, previous, tells)

    world.store.put = counting  # type: ignore[method-assign] # the one place where a test reaches in: to cut a sync
    try:
        with pytest.raises(LeaseLostError):
            await world.sync()
    finally:
        world.store.put = put  # type: ignore[method-assign] # as above
    assert claim is world.claim
    world.claim = None


async def test_a_forgotten_repository_leaves_nothing_served(world: World) -> None:
    world.files.package("app", "1.0.0")
    await world.sync()
    assert world.claim is not None
    assert await forget(KEY, world.claim, world.store) == 2
    assert await world.objects() == {}
    assert await world.store.read_state(KEY) is None


async def test_content_is_stored_for_every_revision(world: World) -> None:
    world.files.package("app", "1.0.0")
    await world.sync()
    content = (await world.objects())["repo.app.1.0.0"]["status"]["content"]
    head = await world.blobs.head(content["digest"])
    assert head is not None
    assert head.size == content["size"]
    assert len(head.files) == content["files"]


async def test_nothing_names_its_repository_as_owner(world: World) -> None:
    """The host's garbage collector deletes what has an owner, and a delete of a revision reaches git."""
    world.files.package("app", "1.0.0")
    await world.sync(uid="uid-1")
    objects = await world.objects()
    assert sorted(objects) == ["repo.app", "repo.app.1.0.0"]
    assert not any("ownerReferences" in found["metadata"] for found in objects.values())


BROKEN = {
    "a channel with a broken quote": ("volsync/fast.yaml", b'schema: olm.channel\npackage: volsync\nname: "fast\n'),
    "deprecations cut in the middle": (
        "volsync/deprecations.yaml",
        b"schema: olm.deprecations\npackage: volsync\nentries:\n- reference: {schema: olm.bundle",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
async def test_a_document_that_cannot_be_read_takes_nothing_from_its_package(world: World, broken: str) -> None:
    path, content = BROKEN[broken]
    entries = [{"name": "volsync.v1.1.0", "replaces": "volsync.v1.0.0"}, {"name": "volsync.v1.0.0"}]
    reference = {"schema": "olm.bundle", "name": "volsync.v1.0.0"}
    good = {
        "volsync/fast.yaml": {"schema": "olm.channel", "package": "volsync", "name": "fast", "entries": entries},
        "volsync/deprecations.yaml": {
            "schema": "olm.deprecations",
            "package": "volsync",
            "entries": [{"reference": reference, "message": "old"}],
        },
    }
    world.files.package("volsync", "1.0.0", "1.1.0").package("db", "1.0.0")
    for file, document in good.items():
        world.files.file(file, orjson.dumps(document))
    await world.sync()
    before, since = await world.objects(), await world.store.current_revision()
    assert before["repo.volsync.1.0.0"]["status"]["deprecation"] == {"message": "old"}

    world.files.file(path, content).package("db", "1.0.0", "1.1.0")
    report = await world.sync()
    assert (list(report.rejected), report.unreadable, report.added) == (["volsync"], True, 1)
    assert {name for _, name in await world.events(since) if "volsync" in name} == set()
    after = await world.objects()
    assert {name: after[name] for name in before if "volsync" in name} == {
        name: before[name] for name in before if "volsync" in name
    }
    phase = synced(report)
    assert phase.ready[0]
    assert path in phase.ready[2]
    assert "volsync" in phase.degraded[2].partition(". Held back")[2]

    since = await world.store.current_revision()
    world.files.file(path, orjson.dumps(good[path]))
    assert ((await world.sync()).rejected, await world.events(since)) == ({}, [])
    entries[0]["skipRange"] = "<1.1.0"
    world.files.file("volsync/fast.yaml", orjson.dumps(good["volsync/fast.yaml"]))
    assert (await world.sync()).changed == 2, "the revision, and the package, whose documents are others now"


async def test_a_package_whose_first_documents_cannot_all_be_read_is_not_served_until_they_can(world: World) -> None:
    world.files.package("app", "1.0.0").file("app/fast.yaml", b'schema: "olm.channel\n')
    report = await world.sync()
    assert (list(report.rejected), await world.objects()) == (["app"], {})
    (world.files.root / "app/fast.yaml").unlink()
    assert (await world.sync()).added == 2


async def test_strict_refuses_a_catalog_of_which_a_document_cannot_be_read(world: World) -> None:
    world.files.package("app", "1.0.0").package("db", "1.0.0")
    await world.sync(validation=Validation.STRICT)
    since = await world.store.current_revision()
    world.files.file("app/fast.yaml", b'schema: "olm.channel\n').package("db", "1.0.0", "1.1.0")
    report = await world.sync(validation=Validation.STRICT)
    assert (report.outcome, report.reason) == (Outcome.HELD, "CatalogRefused")
    assert await world.events(since) == []


def everything(namespace: str, name: str, labels: Mapping[str, str]) -> bool:
    return True


async def served(world: World) -> dict[str, dict[str, Any]]:
    """As objects(), and every one is there once, under the key of its name."""
    found: dict[str, dict[str, Any]] = {}
    for name, keys in (await world.store.served_keys(KEY)).items():
        for key, stored in (await world.store.read_package(KEY, name)).items():
            assert key in keys
            assert stored.name == key.name
            assert stored.name not in found
            found[stored.name] = orjson.loads(stored.value)
    return found


async def test_a_bundle_renamed_under_its_version_is_the_same_object_changed(world: World) -> None:
    world.files.package("app", "1.0.0", "1.1.0")
    await world.sync()
    before = await served(world)
    since = await world.store.current_revision()
    world.files.package("app", "1.0.0", "1.1.0", bundles={"1.1.0": "app.v1.1.0-hotfix"})
    report = await world.sync()
    events = await world.events(since)
    after = await served(world)
    assert (report.added, report.deleted) == (0, 0)
    assert sorted(events) == [("put", "packagerevisions/ns/repo/app/1.1.0"), ("put", "packages/ns/repo/app")]
    assert after["repo.app.1.1.0"]["spec"]["revision"] == "app.v1.1.0-hotfix"
    assert after["repo.app.1.1.0"]["metadata"]["uid"] == before["repo.app.1.1.0"]["metadata"]["uid"]


async def test_a_version_corrected_under_the_same_bundle_name_is_another_object(world: World) -> None:
    world.files.package("app", "1.0.0", "1.1.0")
    await world.sync()
    since = await world.store.current_revision()
    world.files.package("app", "1.0.0", "1.1.1", bundles={"1.1.1": "app.v1.1.0"})
    await world.sync()
    seen = (await world.history(since)).events(everything, since)
    assert sorted(await served(world)) == ["repo.app", "repo.app.1.0.0", "repo.app.1.1.1"]
    assert [(s.type, s.manifest["metadata"]["name"]) for s in seen][-2:] == [
        ("MODIFIED", "repo.app"),
        ("DELETED", "repo.app.1.1.0"),
    ]


async def moved_as_an_older_release_had_them(world: World) -> None:
    """Every revision under its bundle's name."""
    prefix = PREFIX + b"served/packagerevisions/"
    found = (await world.client.range(prefix, prefix_end(prefix))).key_values
    await world.client.delete(prefix, prefix_end(prefix))
    for kv in found:
        bundle = orjson.loads(kv.value)["spec"]["revision"]
        await world.client.put(kv.key.rsplit(b"/", 1)[0] + b"/" + bundle.encode(), kv.value)


async def test_what_an_older_release_wrote_is_moved_without_being_gone_or_doubled(world: World) -> None:
    world.files.package("app", "1.0.0", "1.1.0").package("db", "2.0.0")
    await world.sync()
    await moved_as_an_older_release_had_them(world)
    before = await world.objects()
    since = await world.store.current_revision()
    world.files.package("app", "1.0.0", "1.1.0", "1.2.0", descriptions={"1.0.0": "changed"})
    report = await world.sync()
    after = await world.objects()
    assert (report.added, report.deleted) == (1, 0)
    assert sorted(after) == [*sorted(before)[:3], "repo.app.1.2.0", "repo.db", "repo.db.2.0.0"]
    for name in ("repo.app.1.0.0", "repo.app.1.1.0"):
        for kept in ("uid", "creationTimestamp", "generation"):
            assert after[name]["metadata"][kept] == before[name]["metadata"][kept]
    assert {seen.type for seen in (await world.history(since)).events(everything, since)} == {"MODIFIED", "ADDED"}
    assert (await world.store.count_served(KEY)) == (2, 4)
    world.files.without("app").without("db")
    assert (await world.sync(allow_empty=True)).deleted == 6
    assert await world.objects() == {}


async def test_a_key_of_an_older_release_that_another_version_needs_is_cleared_first(world: World) -> None:
    """Bundles called like each other's versions: nobody does, somebody will."""
    bundles = {"1.0.0": "2.0.0", "2.0.0": "1.0.0"}
    world.files.package("app", "1.0.0", "2.0.0", bundles=bundles)
    await world.sync()
    before = await world.objects()
    await moved_as_an_older_release_had_them(world)
    assert await world.objects() == before
    world.files.package("app", "1.0.0", "2.0.0", bundles=bundles, descriptions={"1.0.0": "x", "2.0.0": "x"})
    await world.sync()
    assert sorted(await served(world)) == ["repo.app", "repo.app.1.0.0", "repo.app.2.0.0"]


async def test_a_move_whose_answer_was_lost_is_recognised(world: World) -> None:
    world.files.package("app", "1.0.0")
    await world.sync()
    await moved_as_an_older_release_had_them(world)
    world.files.package("app", "1.0.0", descriptions={"1.0.0": "changed"})
    txn, lost = world.client.txn, list[int]()

    async def loses_answers(*arguments: Any, **more: Any) -> Any:
        result = await txn(*arguments, **more)
        if isinstance(arguments[1][0], Delete) and not lost:
            lost.append(result.revision)
            raise Unavailable("the answer is lost")
        return result

    world.client.txn = loses_answers  # type: ignore[method-assign] # the network is what fails here
    await world.sync()
    assert lost
    assert sorted(await served(world)) == ["repo.app", "repo.app.1.0.0"]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (["1.0.0", "1.1.0"], ["1.0.0", "1.1.0", "1.2.0"]),
        (["1.0.0", "1.1.0"], ["1.0.0"]),
        (["1.0.0", "1.1.0"], ["1.1.0", "1.0.0"]),
        (["1.0.0", "1.1.0"], ["2.0.0", "2.1.0"]),
    ],
    ids=["a new one", "the latest goes", "back to an older one", "all are new"],
)
async def test_the_latest_is_one_at_every_moment(world: World, first: list[str], then: list[str]) -> None:
    """Also when the sync is cut at any of its puts; the next one makes it whole."""
    world.files.package("app", *first)
    await world.sync()
    since = await world.store.current_revision()
    for cut in range(1, 6):
        world.files.package("app", *then)
        await world.hold()
        with suppress(pytest.fail.Exception):  # fewer puts than that: it was not cut
            await _interrupted(world, after_writes=cut)
        world.claim = None
        await world.sync()
        assert [m["spec"]["version"] for m in (await world.objects()).values() if is_latest(m)] == [then[-1]]
        world.files.package("app", *first)
        await world.sync()
    history = await world.history(since)
    assert history.steps
    for revision in sorted({step.revision for step in history.steps}):
        state = history.state(everything, revision)
        latest = [m["spec"]["version"] for m in state.values() if is_latest(m)]
        assert len(latest) <= 1, revision
        versions = {m["spec"]["version"] for m in state.values() if m["kind"] == "PackageRevision"}
        named = [m["status"]["latest"]["version"] for m in state.values() if m["kind"] == "Package"]
        assert set(named) <= versions, f"the package names what is not there at {revision}"


def is_latest(manifest: dict[str, Any]) -> bool:
    return "cacheserver.dev/latest" in manifest["metadata"]["labels"]


async def test_versions_that_differ_in_build_metadata_only_are_two_objects(world: World) -> None:
    world.files.package("app", "1.0.0+a.b", "1.0.0+a-b")
    assert (await world.sync()).added == 3
    assert sorted(await served(world)) == ["repo.app", "repo.app.1.0.0x--2ba-b", "repo.app.1.0.0x--2ba.b"]


async def test_a_package_too_large_for_etcd_is_rejected_and_blocks_nobody(world: World) -> None:
    """30,000 channels were one record of 3 MB, which etcd refused at every sync, and everything behind it."""
    world.files.package("huge", "1.0.0").package("db", "1.0.0")
    await world.sync()
    before = await world.objects()
    channels = [
        {"schema": "olm.channel", "package": "huge", "name": f"c{at}", "entries": [{"name": "huge.v1.0.0"}]}
        for at in range(30_000)
    ]
    world.files.file("huge/more.json", b"\n".join(map(orjson.dumps, channels))).package("db", "1.0.0", "1.1.0")
    report = await world.sync()
    assert (report.outcome, list(report.rejected), report.added) == (Outcome.APPLIED, ["huge"], 1)
    [finding] = report.rejected["huge"]
    assert finding.reason == "RecordTooLarge"
    assert "channels; the limit for one object is 262144" in finding.message
    after = await world.objects()
    assert {name: after[name] for name in before if "huge" in name} == {
        name: before[name] for name in before if "huge" in name
    }
    assert "db" in "".join(set(after) - set(before))
    assert "RecordTooLarge" in str(report.rejected)
    record = repository_record(world.config(), synced(report), report, None, now=0.0)
    assert record is not None
    assert len(record.status) < 8192


async def test_the_status_of_a_repository_stays_small_whatever_its_findings_say(world: World) -> None:
    for at in range(25):
        world.files.file(
            f"p{at}.json",
            orjson.dumps({"schema": "olm.package", "name": f"{at}" + "é" * 300_000, "defaultChannel": "x"}),
        )
        world.files.file(f"q{at}.json", b'{"schema": "' + b"x" * 100_000)
    report = await world.sync()
    assert len(report.rejected) == 25
    record = repository_record(world.config(), synced(report), report, None, now=0.0)
    assert record is not None
    assert len(record.status) < 64 * 1024


async def test_an_object_with_more_than_it_can_hold_is_served_and_its_content_has_all(world: World) -> None:
    apis = [
        {"type": "olm.gvk", "value": {"group": "example.com", "version": "v1", "kind": f"K{n}"}} for n in range(9000)
    ]
    world.files.package("app", "1.0.0")
    lines = (world.files.root / "app/catalog.yaml").read_bytes().split(b"---\n")
    bundle = orjson.loads(lines[-1])
    bundle["properties"] += apis
    world.files.file("app/catalog.yaml", b"---\n".join([*lines[:-1], orjson.dumps(bundle)]))
    report = await world.sync()
    assert [finding.reason for finding in report.findings] == ["Truncated"] * 2
    status = (await world.objects())["repo.app.1.0.0"]["status"]
    assert status["truncated"] == ["providedAPIs"]
    whole = b"".join([piece async for piece in world.blobs.read(status["content"]["digest"])])
    assert whole.count(b'"type": "olm.gvk"') == 9000


@slotted(frozen=True)
class OpenTree(Tree):
    """A tree that notes when it was let go of."""

    closings: list[str] = field(default_factory=list)

    async def aclose(self) -> None:
        self.closings.append(self.digest)


class OpenSource(DirectorySource):
    """A directory whose trees have to be closed."""

    closings: list[str]

    async def fetch(self, scratch: Path, progress: Progress) -> Tree:
        tree = await super().fetch(scratch, progress)
        return OpenTree(tree.root, tree.files, tree.digest, tree.refused, tree.format, self.closings)


@pytest.mark.parametrize("documents", [100, 1], ids=["applied", "refused"])
async def test_a_tree_is_closed_by_the_sync_that_fetched_it(world: World, documents: int) -> None:
    world.files.package("app", "1.0.0").package("db", "2.0.0")
    closings: list[str] = []
    source = OpenSource(world.files.root)
    world.use(source)
    source.closings = closings
    async with Workers(1, ParseLimits(documents=documents)) as workers:
        world.services = replace(world.services, workers=workers)
        with nullcontext() if documents > 1 else pytest.raises(CatalogError, match="more than 1 documents"):
            await world.sync()
    assert set(closings) == {await source.probe()}
