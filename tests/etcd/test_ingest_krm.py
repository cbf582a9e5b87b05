"""KRM packages from git to what a watcher of etcd sees: each change of a ref exactly its events. Real etcd and git."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from cacheserver.config.sources import DirectorySource as DirectorySpec
from cacheserver.config.sources import GitRef, GitSource, RefKind
from cacheserver.ingest import Outcome
from cacheserver.model import LABEL_LATEST
from tests.support.krm import KRMRepository, annotated, kptfile
from tests.support.shared import ABSENT, NEPHIO
from tests.support.world import KEY, World

pytestmark = pytest.mark.etcd


async def seen(world: World, since: int) -> Sequence[tuple[str, str]]:
    """What a watcher from `since` on sees up to now: ("put" or "gone", `PACKAGE[@REVISION]`), sorted."""
    events = [(what, key.split(f"/{KEY.name}/")[1]) for what, key in await world.events(since)]
    return sorted((what, key.replace("/", "@").replace("%2F", "/")) for what, key in events)


@pytest.fixture
def repository(tmp_path: Path) -> KRMRepository:
    """Packages a (v1, v2) and b (v1), each on the branch too."""
    repository = KRMRepository(tmp_path / "repo.git")
    repository.package("a", "1")
    repository.package("b", "1")
    for tag in ("a/v1", "b/v1"):
        repository.tag(tag)
    repository.package("a", "2")
    repository.tag("a/v2")
    return repository


def of(repository: KRMRepository, directory: str = "") -> GitSource:
    return GitSource(repository.url, GitRef(RefKind.BRANCH, "main"), directory)


async def test_each_change_of_a_ref_is_exactly_its_events(world: World, repository: KRMRepository) -> None:
    spec = of(repository)
    first = await world.sync(spec)
    assert (first.outcome, first.added, first.packages, first.revisions) == (Outcome.APPLIED, 7, 2, 5)

    async def after(change: Callable[..., object], *arguments: str) -> Sequence[tuple[str, str]]:
        since = await world.store.current_revision()
        change(*arguments)
        await world.sync(spec)
        return await seen(world, since)

    # A new tag: itself, the old latest that lost its label, and the package that counts them.
    assert await after(repository.tag, "a/v3") == [("put", "a"), ("put", "a@v2"), ("put", "a@v3")]
    # A moved tag: its new commit and content. It was not the latest: nothing else is to be said.
    assert await after(repository.tag, "a/v1", "a/v3") == [("put", "a@v1")]
    # A tag that is not a package's makes no event.
    assert await after(repository.tag, "v1.0.0") == []
    # A deleted tag: the label is taken from it before another gets it, and it goes when the package no longer names it.
    deleted = await after(repository.delete, "refs/tags/a/v3")
    assert deleted == [("gone", "a@v3"), ("put", "a"), ("put", "a@v2"), ("put", "a@v3")]
    # A push: the package that it touches.
    assert await after(repository.package, "b", "2") == [("put", "b@main")]
    # A force push back.
    assert await after(repository.branch, "main", "main~1") == [("put", "b@main")]
    # An unrelated history with the same files: only the commits differ.
    anew = repository.git("commit-tree", "main^{tree}", "-m", "anew")
    unrelated = await after(repository.git, "update-ref", "refs/heads/main", anew)
    assert unrelated == [("put", "a@main"), ("put", "b@main")]
    # A package that goes from the branch keeps its tags; the last tag takes the package with it.
    assert await after(repository.remove, "b") == [("gone", "b@main"), ("put", "b")]
    assert await after(repository.delete, "refs/tags/b/v1") == [("gone", "b"), ("gone", "b@v1")]


async def test_drafts_come_and_go_with_their_branches(world: World, repository: KRMRepository) -> None:
    spec = of(repository)
    repository.branch("drafts/a/work")
    await world.sync(spec)
    assert (await world.objects())["repo.a.work"]["spec"]["lifecycle"] == "Draft"
    since = await world.store.current_revision()
    repository.branch("proposed/a/work")
    repository.delete("refs/heads/drafts/a/work")
    await world.sync(spec)
    assert await seen(world, since) == [("put", "a@work")]
    repository.package("a", "3", message=annotated("a", "work", "3"))
    repository.tag("a/v3")
    repository.delete("refs/heads/proposed/a/work")
    since = await world.store.current_revision()
    await world.sync(spec)
    published = (await world.objects())["repo.a.work"]
    assert (published["spec"]["lifecycle"], published["spec"]["revision"]) == ("Published", "v3")
    assert published["spec"]["workspaceName"] == "work"
    assert published["metadata"]["labels"][LABEL_LATEST] == "true"
    assert ("gone", "a@work") not in await seen(world, since)  # published, not gone and come


async def test_a_second_sync_asks_for_refs_and_nothing_else(world: World, repository: KRMRepository) -> None:
    spec = of(repository)
    await world.sync(spec)
    since = await world.store.current_revision()
    assert (await world.sync(spec)).outcome is Outcome.UNCHANGED
    repository.branch("unrelated")  # no branch of ours: the digest is the same
    assert (await world.sync(spec)).outcome is Outcome.UNCHANGED
    assert await world.store.current_revision() == since


async def test_a_bad_package_stays_as_it_was_and_says_why(world: World, repository: KRMRepository) -> None:
    spec = of(repository)
    await world.sync(spec)
    since = await world.store.current_revision()
    repository.write({"a/Kptfile": b"{"})
    report = await world.sync(spec)
    assert list(report.rejected) == ["a"]
    assert await seen(world, since) == []
    assert (report.packages, report.revisions) == (2, 5)


async def test_content_that_another_package_brought_is_not_written_twice(
    world: World, repository: KRMRepository
) -> None:
    spec = of(repository)
    repository.write({"x/Kptfile": kptfile("same")})
    await world.sync(spec)
    repository.write({"y/Kptfile": kptfile("same")})
    await world.sync(spec)
    assert await world.content("repo.y.main") == {"Kptfile": kptfile("same")}
    repository.remove("x")
    await world.sync(spec)
    assert await world.content("repo.y.main") == {"Kptfile": kptfile("same")}


async def test_auto_is_decided_by_what_the_repository_holds(world: World, tmp_path: Path) -> None:
    repository = KRMRepository(tmp_path / "auto.git")
    document = b'{"schema":"olm.package","name":"fbc","defaultChannel":"s"}\n'
    document += b'{"schema":"olm.channel","package":"fbc","name":"s","entries":[{"name":"fbc.v1.0.0"}]}\n'
    document += (
        b'{"schema":"olm.bundle","package":"fbc","name":"fbc.v1.0.0","image":"r/fbc:v1",'
        b'"properties":[{"type":"olm.package","value":{"packageName":"fbc","version":"1.0.0"}}]}\n'
    )
    repository.write({"fbc/catalog.json": document})
    await world.sync(of(repository))
    assert set(await world.objects()) == {"repo.fbc", "repo.fbc.1.0.0"}
    assert (await world.sync(of(repository))).outcome is Outcome.UNCHANGED
    repository.files.clear()
    repository.package("app", "1")
    repository.tag("app/v1")
    await world.sync(of(repository))
    assert set(await world.objects()) == {"repo.app", "repo.app.main", "repo.app.v1"}
    by_tag = GitSource(repository.url, GitRef(RefKind.NAME, "app/v1"), "")
    await world.sync(by_tag)
    assert set(await world.objects()) == {"repo.app", "repo.app.local"}


async def test_a_directory_is_served_and_a_second_sync_writes_nothing(world: World, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "Kptfile").write_bytes(kptfile(name))
    spec = DirectorySpec(tmp_path / "packages")
    assert (await world.sync(spec)).added == 4
    since = await world.store.current_revision()
    assert (await world.sync(spec)).outcome is Outcome.UNCHANGED
    (tmp_path / "packages" / "b" / "new").write_bytes(b"\xff")
    assert (await world.sync(spec)).written == 1
    assert await seen(world, since) == [("put", "b@local")]
    assert await world.content("repo.b.local") == {"Kptfile": kptfile("b"), "new": b"\xff"}


# --- the catalog of the Nephio project -------------------------------------------------


@pytest.fixture(scope="module")
def nephio(tmp_path_factory: pytest.TempPathFactory) -> KRMRepository:
    if not NEPHIO.exists():
        pytest.skip(ABSENT)
    path = tmp_path_factory.mktemp("nephio") / "catalog.git"
    command = ["git", "clone", "--quiet", "--mirror", str(NEPHIO), str(path)]
    subprocess.run(command, check=True, timeout=120)
    return KRMRepository(path)


def branch_of(repository: KRMRepository, branch: str, directory: str = "") -> GitSource:
    return GitSource(repository.url, GitRef(RefKind.BRANCH, branch), directory)


async def test_the_nephio_catalog_is_served_as_porch_finds_it(world: World, nephio: KRMRepository) -> None:
    spec = branch_of(nephio, "main")
    with blockbuster_ctx("cacheserver.catalogs"):
        report = await world.sync(spec)
    assert (report.packages, report.revisions, dict(report.rejected)) == (77, 189, {})
    ignored = [finding.path for finding in report.findings if finding.reason == "IgnoredTag"]
    assert sorted(ignored) == [
        "Release4",
        "v2.0.0",
        "v4",
        "v5.0.0",
        "workloads/oai/package-variants/v2.0.0",
        "workloads/oai/package-variants/v3.0.0",
        "workloads/ric/package-variants/v3.0.0",
    ]
    objects = await world.objects()
    revisions = [o for o in objects.values() if o["kind"] == "PackageRevision"]
    on_branch = [o for o in revisions if o["status"]["selfLock"]["git"]["ref"] == "main"]
    assert (len(on_branch), len(revisions) - len(on_branch)) == (65, 124)
    assert {o["status"]["revisionNumber"] for o in on_branch} == {-1}
    assert len({o["spec"]["packageName"] for o in revisions if o["status"]["revisionNumber"] > 0}) == 11
    latest = {o["spec"]["packageName"]: o for o in revisions if LABEL_LATEST in o["metadata"]["labels"]}
    assert len(latest) == 58  # of 77: 19 are on the branch only
    assert latest["workloads/oai/oai-ran-operator"]["spec"]["version"] == "v3.0.0"
    assert {"repo.distros.sandbox.cert-manager", "repo.distros.gcp.nephio-mgmt.cert-manager"} <= objects.keys()
    since = await world.store.current_revision()
    assert (await world.sync(spec)).outcome is Outcome.UNCHANGED
    assert await world.store.current_revision() == since


async def test_nephios_largest_package_is_whole(world: World, nephio: KRMRepository) -> None:
    await world.sync(branch_of(nephio, "main", "infra/capi"))
    files = await world.content("repo.cluster-capi.main")
    listed = nephio.git("ls-tree", "-r", "--name-only", "main:infra/capi/cluster-capi").splitlines()
    assert sorted(files) == sorted(listed)
    assert sum(map(len, files.values())) == 1_689_237
    for path, content in files.items():
        command = ["git", "--git-dir", str(nephio.path), "cat-file", "blob", f"main:infra/capi/cluster-capi/{path}"]
        assert content == subprocess.run(command, check=True, capture_output=True, timeout=30).stdout


async def test_nephios_branch_entries_name_the_commit_that_git_log_names(world: World, nephio: KRMRepository) -> None:
    await world.sync(branch_of(nephio, "main", "workloads"))
    checked = 0
    for manifest in (await world.objects()).values():
        lock = manifest["status"].get("selfLock", {}).get("git", {})
        if lock.get("ref") == "main":
            checked += 1
            expected = nephio.git("log", "-1", "--format=%H", "main", "--", lock["directory"])
            assert lock["commit"] == expected, lock["directory"]
    assert checked > 10


async def test_nephios_directories_and_branches_hold_what_they_should(world: World, nephio: KRMRepository) -> None:
    oai = await world.sync(branch_of(nephio, "main", "workloads/oai"))
    assert (oai.packages, oai.revisions) == (7, 24)
    v3 = await world.sync(branch_of(nephio, "v3"))
    assert v3.outcome is Outcome.APPLIED
    on_branch = [
        o for o in (await world.objects()).values() if o["status"].get("selfLock", {}).get("git", {}).get("ref") == "v3"
    ]
    assert len(on_branch) == 48
    assert {o["status"]["revisionNumber"] for o in on_branch} == {-1}
    assert not [o for o in on_branch if LABEL_LATEST in o["metadata"]["labels"]]
    # Nested packages: files of their parent on the branch, revisions of their own by tag.
    nested = await world.content("repo.distros.gcp.nephio-mgmt.v3")
    assert "cert-manager/Kptfile" in nested
    assert "repo.distros.gcp.nephio-mgmt.cert-manager" in await world.objects()
