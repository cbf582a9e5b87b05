"""KRM packages in git: what is discovered in which refs, and what of it is read again."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from cacheserver.archive import TarReader
from cacheserver.catalogs import Catalog, ParseLimits, Workers, parse
from cacheserver.config.sources import GitRef, GitSource, RefKind
from cacheserver.ingest.reading import open_for
from cacheserver.model import LABEL_LATEST, Format, Kind, Record, RepositoryKey
from cacheserver.sources import Limits, Tree
from cacheserver.sources.git.commits import Commits
from cacheserver.sources.git.packages import PackagesTree
from tests.support.archive import untar
from tests.support.content import unpacked
from tests.support.krm import KRMRepository, annotated, kptfile

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.processes]

KEY = RepositoryKey("ns", "repo")


def quiet(_what: str, _done: int, _total: int) -> None: ...


class Reader:
    """Parses a repository again and again, as ingest does: the copy and the index stay, the rest is new each time."""

    def __init__(self, workers: Workers, home: Path, repository: KRMRepository) -> None:
        self._workers = workers
        self._home = home
        self._count = 0
        self.repository = repository
        self.index = b""
        self.read = 0
        """Trees read in the last parse."""

    async def parse(self, directory: str = "", *, branch: str = "main", fresh: bool = False, **limits: int) -> Catalog:
        self._count += 1
        scratch = self._home / f"scratch-{self._count}"
        scratch.mkdir()
        spec = GitSource(self.repository.url, GitRef(RefKind.BRANCH, branch), directory)
        cache = self._home / "cache"
        source = open_for(spec, Format.KRM, cache=cache, limits=replace(Limits(), **limits))
        tree = await source.fetch(scratch, quiet)
        self.read = 0

        def progress(_what: str, _done: int, total: int) -> None:
            self.read = total

        known = b"" if fresh else self.index
        async with aclosing(tree):
            catalog = await parse(
                tree, None, KEY, self._workers, known=known, scratch=scratch / "parsed", progress=progress
            )
        await source.aclose()
        if not fresh:
            self.index = catalog.index
        assert not list((scratch / "parsed").glob("batch-*"))
        return catalog


@pytest.fixture
def repository(tmp_path: Path) -> KRMRepository:
    return KRMRepository(tmp_path / "repo.git")


@pytest.fixture
def reader(workers: Workers, tmp_path: Path, repository: KRMRepository) -> Reader:
    return Reader(workers, tmp_path, repository)


def revisions(catalog: Catalog) -> dict[str, dict[str, Any]]:
    """`PACKAGE@REVISION` -> its spec and status together, of the packages that changed."""
    return {
        f"{record.key.package}@{record.key.revision}": orjson.loads(record.spec) | orjson.loads(record.status)
        for record in records(catalog)
        if record.key.kind is Kind.REVISION
    }


def records(catalog: Catalog) -> list[Record]:
    return [record for package in catalog.packages for record in package.records]


def latest(catalog: Catalog) -> set[str]:
    return {f"{r.key.package}@{r.key.revision}" for r in records(catalog) if LABEL_LATEST in r.labels}


def told(catalog: Catalog) -> list[tuple[str, str]]:
    return [(finding.reason, finding.path) for finding in catalog.findings]


# --- discovery ------------------------------------------------------------------------------------------------------


async def test_branch_tags_and_drafts_each_have_their_revisions(reader: Reader, repository: KRMRepository) -> None:
    repository.package("net/vpc", "1", message=annotated("net/vpc", "first-try"))
    repository.tag("net/vpc/v1", annotated=True)
    repository.branch("drafts/net/vpc/work")
    repository.branch("proposed/app/next")
    repository.package("app", "1")
    repository.branch("proposed/app/next")
    found = revisions(await reader.parse())
    shown = {
        name: (r["lifecycle"], r["revisionNumber"], r["version"], r["workspaceName"], r["selfLock"]["git"]["ref"])
        for name, r in found.items()
    }
    assert shown == {
        "app@main": ("Published", -1, "", "main", "main"),
        "app@next": ("Proposed", 0, "", "next", "proposed/app/next"),
        "net/vpc@main": ("Published", -1, "", "main", "main"),
        "net/vpc@first-try": ("Published", 1, "v1", "first-try", "net/vpc/v1"),
        "net/vpc@work": ("Draft", 0, "", "work", "drafts/net/vpc/work"),
    }
    tag = found["net/vpc@first-try"]
    assert (tag["publishedBy"], tag["publishedAt"]) == ("test@example.com", "2026-01-01T00:00:00Z")
    assert tag["selfLock"]["git"]["commit"] == repository.git("rev-parse", "net/vpc/v1^{commit}")
    assert tag["selfLock"]["git"]["directory"] == "net/vpc"
    assert "publishedAt" in found["net/vpc@main"]  # its last change is annotated
    assert "publishedAt" not in found["app@main"]
    assert "publishedAt" not in found["net/vpc@work"]


async def test_a_tag_put_on_another_revisions_commit_is_named_after_its_version(
    reader: Reader, repository: KRMRepository
) -> None:
    repository.package("app", "1", message=annotated("app", "w1"))
    repository.tag("app/v1")
    repository.tag("app/v7")
    found = {name: r["workspaceName"] for name, r in revisions(await reader.parse()).items()}
    assert found == {"app@main": "main", "app@w1": "w1", "app@v7": "v7"}


async def test_a_file_that_can_be_run_stays_one(reader: Reader, repository: KRMRepository) -> None:
    repository.package("app", "1", {"run.sh": b"x", "plain": b"x"})
    repository.write({}, modes={"app/run.sh": "100755"})
    repository.tag("app/v1")
    catalog = await reader.parse()
    [blob] = catalog.blobs.values()
    tar = unpacked(blob)
    assert {part.path: part.executable for part in TarReader().feed(tar)} == {
        "Kptfile": False,
        "config.yaml": False,
        "plain": False,
        "run.sh": True,
    }
    before = blob.head.digest
    repository.write({}, modes={"app/run.sh": "100644"})
    assert before not in (await reader.parse()).blobs


async def test_refs_that_name_no_package_are_ignored_and_counted(reader: Reader, repository: KRMRepository) -> None:
    repository.package("app", "1")
    repository.write({"docs/x.md": b"x"})
    for name in ("v1.0.0", "docs/v1", "gone/v1", "app/v1"):
        repository.tag(name)
    repository.branch("drafts/app")
    repository.branch("drafts/none/v1")
    repository.git("tag", "app/blob", repository.git("rev-parse", "main:app/Kptfile"))
    catalog = await reader.parse()
    assert sorted(revisions(catalog)) == ["app@main", "app@v1"]
    assert catalog.ignored_tags == 3
    assert told(catalog) == [
        ("IgnoredTag", "docs/v1"),
        ("IgnoredDraft", "drafts/app"),
        ("IgnoredDraft", "drafts/none/v1"),
        ("IgnoredTag", "gone/v1"),
        ("IgnoredTag", "v1.0.0"),
    ]
    assert all(finding.warning for finding in catalog.findings)
    again = await reader.parse()
    assert (told(again), again.ignored_tags) == (told(catalog), 3)


async def test_equal_last_names_are_different_packages(reader: Reader, repository: KRMRepository) -> None:
    repository.package("a/x", "1")
    repository.package("b/x", "1")
    for name in ("a/x/v1", "a/x/v2", "b/x/v1"):
        repository.tag(name)
    assert latest(await reader.parse()) == {"a/x@v2", "b/x@v1"}


async def test_a_nested_package_is_its_parents_file_and_its_tags_own_revision(
    reader: Reader, repository: KRMRepository
) -> None:
    repository.package("dist", "1")
    repository.package("dist/sub", "1")
    repository.tag("dist/sub/v1")
    catalog = await reader.parse()
    assert sorted(revisions(catalog)) == ["dist/sub@v1", "dist@main"]
    assert revisions(catalog)["dist@main"]["content"]["files"] == 4
    assert revisions(catalog)["dist/sub@v1"]["content"]["files"] == 2


async def test_only_what_lies_in_the_directory_is_served(reader: Reader, repository: KRMRepository) -> None:
    for path in ("work/a", "workload/b", "c"):
        repository.package(path, "1")
        repository.tag(f"{path}/v1")
    repository.tag("v1.0.0")
    catalog = await reader.parse("work")
    assert sorted(revisions(catalog)) == ["a@main", "a@v1"]
    assert revisions(catalog)["a@v1"]["selfLock"]["git"]["directory"] == "work/a"
    assert catalog.ignored_tags == 0
    none = await reader.parse("wor")
    assert (none.packages, none.unreadable, told(none)) == ([], False, [("NoDirectory", "main")])
    assert none.nothing == "branch 'main' has no directory 'wor'; there are 6 files, in: c/, work/, workload/"
    root = await reader.parse("work/a")
    assert sorted(revisions(root)) == ["repo@main", "repo@v1"]


async def test_a_branch_with_a_versions_name_is_no_version(reader: Reader, repository: KRMRepository) -> None:
    repository.package("app", "1")
    repository.branch("v3")
    repository.tag("app/v1")
    catalog = await reader.parse(branch="v3")
    assert revisions(catalog)["app@v3"]["revisionNumber"] == -1
    assert latest(catalog) == {"app@v1"}


async def test_a_tag_goes_before_a_branch_and_a_draft_of_its_name(reader: Reader, repository: KRMRepository) -> None:
    repository.package("app", "1")
    for branch in ("drafts/app/v1", "proposed/app/v1"):
        repository.branch(branch)
    for tag in ("app/v1", "app/main"):
        repository.tag(tag)
    catalog = await reader.parse()
    assert {name: r["selfLock"]["git"]["ref"] for name, r in revisions(catalog).items()} == {
        "app@v1": "app/v1",
        "app@main": "app/main",
    }
    assert told(catalog) == [
        ("DuplicateRevision", "drafts/app/v1"),
        ("DuplicateRevision", "main"),
        ("DuplicateRevision", "proposed/app/v1"),
    ]


async def test_a_deletion_proposed_marks_what_is_published(reader: Reader, repository: KRMRepository) -> None:
    repository.package("app", "1")
    for tag in ("app/v1", "app/v2"):
        repository.tag(tag)
    await reader.parse()
    repository.branch("deletionProposed/app/v2")
    repository.branch("deletionProposed/app/main")
    catalog = await reader.parse()
    assert {name: r["lifecycle"] for name, r in revisions(catalog).items()} == {
        "app@main": "DeletionProposed",
        "app@v1": "Published",
        "app@v2": "DeletionProposed",
    }
    assert latest(catalog) == {"app@v1"}
    assert reader.read == 0
    repository.delete("refs/heads/deletionProposed/app/v2")
    assert latest(await reader.parse()) == {"app@v2"}


async def test_an_empty_repository_has_no_packages(reader: Reader) -> None:
    catalog = await reader.parse()
    assert (catalog.packages, catalog.revisions, list(catalog.findings), catalog.unreadable) == ([], 0, [], False)
    assert catalog.nothing == "the repository has no branch yet"


async def test_a_repository_of_something_else_says_what_is_there(reader: Reader, repository: KRMRepository) -> None:
    repository.write({"docs/a.md": b"", "docs/b/c.md": b"", "main.go": b""})
    for tag in ("v1.0.0", "docs/v1"):
        repository.tag(tag)
    repository.branch("drafts/docs/new")
    assert (await reader.parse()).nothing == (
        "branch 'main' has no Kptfile; there are 3 files, in: docs/, main.go; "
        "2 tags name no directory with one: v1.0.0, docs/v1; 1 draft names no directory with one: drafts/docs/new"
    )
    assert (await reader.parse("docs")).nothing.startswith(
        "branch 'main' has no Kptfile in 'docs'; there are 2 files, in: "
    )


async def test_a_repository_of_sha256_names_is_read(workers: Workers, tmp_path: Path) -> None:
    repository = KRMRepository(tmp_path / "new.git", object_format="sha256")
    repository.package("app", "1")
    repository.tag("app/v1")
    assert sorted(revisions(await Reader(workers, tmp_path, repository).parse())) == ["app@main", "app@v1"]


# --- content --------------------------------------------------------------------------------------------------------


async def test_the_content_is_every_regular_file_byte_for_byte(reader: Reader, repository: KRMRepository) -> None:
    files = {
        "Kptfile": kptfile("app"),
        "raw": bytes(range(256)),
        "crlf": b"a\r\n",
        "\u96ea/empty": b"",
        "run.sh": b"#!",
    }
    repository.write(
        {f"app/{path}": raw for path, raw in files.items()}
        | {"app/link": b"../../etc/passwd", "app/vendored": repository.package("other").encode()},
        modes={"app/link": "120000", "app/vendored": "160000", "app/run.sh": "100755"},
    )
    catalog = await reader.parse()
    digest = next(iter(catalog.packages[0].records[0].blobs))
    raw = unpacked(catalog.blobs[digest])
    assert untar(raw) == files
    left_out = [(f.path, f.message) for f in catalog.findings]
    assert left_out == [("main:app/link", "is a symbolic link"), ("main:app/vendored", "is a submodule")]


@pytest.mark.parametrize("mode", ["120000", "160000"])
async def test_a_kptfile_that_is_no_file_makes_no_package(reader: Reader, repository: KRMRepository, mode: str) -> None:
    target = repository.package("good").encode() if mode == "160000" else b"elsewhere"
    repository.write({"odd/Kptfile": target, "odd/sub/Kptfile": kptfile("sub")}, modes={"odd/Kptfile": mode})
    repository.tag("odd/v1")
    catalog = await reader.parse()
    assert "odd/sub@main" in revisions(catalog)
    assert "odd@main" not in revisions(catalog)
    assert ("OddKptfile", "main:odd/Kptfile") in told(catalog)
    assert ("IgnoredTag", "odd/v1") in told(catalog)


async def test_an_unreadable_annotation_is_told_and_ignored(reader: Reader, repository: KRMRepository) -> None:
    repository.package("app", "1", message="Approve\n\nkpt:{broken\nkpt:[]")
    repository.tag("app/v1")
    catalog = await reader.parse("", branch="main")
    assert revisions(catalog)["app@v1"]["workspaceName"] == "v1"
    assert [(f.reason, f.warning) for f in catalog.findings] == [("InvalidAnnotation", True)] * 2


# --- bad packages ---------------------------------------------------------------------------------------------------


async def test_a_bad_revision_hides_neither_its_siblings_nor_its_last_good_content(
    reader: Reader, repository: KRMRepository
) -> None:
    repository.package("app", "1")
    repository.package("other", "1")
    repository.tag("app/v1")
    good = revisions(await reader.parse())["app@main"]
    repository.write({"app/Kptfile": b"kind: [", "only/Kptfile": b"kind: ["})
    repository.tag("app/v2")
    repository.tag("app/v3", "app/v1")
    catalog = await reader.parse()
    assert list(catalog.unchanged) == ["other"]
    found = revisions(catalog)
    assert found["app@main"] == good
    assert sorted(found) == ["app@main", "app@v1", "app@v3"]
    assert sorted(catalog.rejected) == ["app", "only"]
    assert {(f.reason, f.path) for f in catalog.rejected["app"]} == {
        ("YAMLSyntax", "app/v2:app/Kptfile"),
        ("YAMLSyntax", "main:app/Kptfile"),
    }
    repository.package("app", "1")
    repository.delete("refs/tags/app/v2")
    repository.remove("only")
    mended = await reader.parse()
    fresh = await reader.parse(fresh=True)
    assert mended.index == fresh.index
    assert not mended.rejected


async def test_a_package_over_its_limits_is_refused_by_name(tmp_path: Path, repository: KRMRepository) -> None:
    repository.package("big", "1", {"a": b"x" * 40_000, "b": b"y" * 40_000})
    repository.package("many", "1", {f"f{n}": b"" for n in range(20)})
    repository.package("small", "1", {"a": b"x" * 40_000})
    async with Workers(1, ParseLimits(package_bytes=64 << 10, package_files=16)) as workers:
        catalog = await Reader(workers, tmp_path, repository).parse()
    assert [package.name for package in catalog.packages] == ["small"]
    assert {name: found[0].reason for name, found in catalog.rejected.items()} == {
        "big": "TooLarge",
        "many": "TooManyFiles",
    }


# --- only what changed ----------------------------------------------------------------------------------------------


async def test_an_unchanged_tree_is_not_read_again(reader: Reader, repository: KRMRepository) -> None:
    for path in ("a", "b"):
        repository.package(path, "1")
        repository.tag(f"{path}/v1")
    first = await reader.parse()
    assert reader.read == 2  # the tags have the branch's trees
    again = await reader.parse()
    assert (again.packages, list(again.unchanged), reader.read) == ([], ["a", "b"], 0)
    assert again.revisions == first.revisions == 4
    repository.package("a", "2")
    changed = await reader.parse()
    assert reader.read == 1
    assert list(changed.unchanged) == ["b"]
    repository.tag("b/v2", "b/v1")
    assert latest(await reader.parse()) == {"b@v2"}
    assert reader.read == 0


async def test_a_push_changes_only_the_packages_that_it_touches(reader: Reader, repository: KRMRepository) -> None:
    repository.package("a", "1")
    touched = repository.package("b", "1")
    await reader.parse()
    repository.package("a", "2")
    repository.write({"README.md": b"x"})
    catalog = await reader.parse()
    assert (sorted(revisions(catalog)), list(catalog.unchanged)) == (["a@main"], ["b"])
    fresh = revisions(await reader.parse(fresh=True))
    assert fresh["b@main"]["selfLock"]["git"]["commit"] == touched


async def test_the_last_change_is_the_one_that_git_log_names(reader: Reader, repository: KRMRepository) -> None:
    dice = random.Random(7)
    packages = ["a", "b/c", "b/d"]
    for package in packages:
        repository.package(package, "0")
    for step in range(12):
        repository.package(dice.choice(packages), str(dice.randrange(3)))
        if step % 4 == 3:  # a merge, of a side that changed something or nothing
            base = repository.git("rev-parse", f"main~{dice.randrange(1, 4)}")
            side = repository.git("commit-tree", f"{base}^{{tree}}", "-p", base, "-m", "side")
            tree = repository.git("rev-parse", f"{dice.choice(['main', side])}^{{tree}}")
            merge = repository.git("commit-tree", tree, "-p", "main", "-p", side, "-m", "merge")
            repository.git("update-ref", "refs/heads/main", merge)
    found = revisions(await reader.parse())
    for package in packages:
        expected = repository.git("log", "-1", "--format=%H", "main", "--", package)
        assert found[f"{package}@main"]["selfLock"]["git"]["commit"] == expected


async def test_a_known_commit_ends_the_search(reader: Reader, repository: KRMRepository) -> None:
    first = repository.package("a", "1")
    middle = repository.package("b", "1")
    head = repository.package("b", "2")
    spec = GitSource(repository.url, None, "")
    source = open_for(spec, Format.KRM, cache=reader._home / "cache")
    tree = await source.fetch(reader._home, quiet)
    assert isinstance(tree, PackagesTree)
    known: Mapping[str, Mapping[str, str]] = {middle: {"a": "remembered"}}
    try:
        found = await Commits(tree.mirror).last_changes(head, ["a", "b"], known)
        assert found == {"a": "remembered", "b": head}
        assert await Commits(tree.mirror).last_changes(head, ["a"], {}) == {"a": first}
    finally:
        await tree.aclose()
        await source.aclose()


def _shake(repository: KRMRepository, dice: random.Random) -> None:
    """One random change of the repository's refs."""
    packages = ["a", "b", "n/c", "n/c/d"]
    package, version = dice.choice(packages), dice.choice(["v1", "v2", "v1.0.0", "x"])
    refs = repository.git("for-each-ref", "--format=%(refname)").split()
    others = [ref for ref in refs if ref != "refs/heads/main"]
    match dice.randrange(9):
        case 0 | 1 | 2:
            message = (
                annotated(package, f"w{dice.randrange(3)}", dice.choice(["1", "2", "v1"]))
                if dice.random() < 0.4
                else "m"
            )
            repository.package(package, str(dice.randrange(4)), message=message)
        case 3:
            repository.remove(package)
        case 4 | 5:
            repository.tag(f"{package}/{version}", annotated=dice.random() < 0.3)
        case 6:
            repository.branch(f"{dice.choice(['drafts', 'proposed', 'deletionProposed'])}/{package}/{version}")
        case 7 if others:
            repository.delete(dice.choice(others))
        case _:  # a force push: back in time, or to an unrelated history
            target = "main~1" if dice.random() < 0.7 and repository.git("rev-list", "--count", "main") != "1" else ""
            if target:
                repository.branch("main", target)
            else:
                empty = repository.git("rev-parse", "main^{tree}")
                fresh = repository.git("commit-tree", empty, "-m", "anew")
                repository.git("update-ref", "refs/heads/main", fresh)


@pytest.mark.parametrize("seed", [1])
async def test_step_by_step_ends_where_a_fresh_parse_does(reader: Reader, repository: KRMRepository, seed: int) -> None:
    dice = random.Random(seed)
    repository.package("a", "0")
    served: dict[str, list[Record]] = {}
    for step in range(18):
        _shake(repository, dice)
        if step % 3:
            continue
        catalog = await reader.parse()
        served = {name: served[name] for name in catalog.unchanged}
        served |= {package.name: list(package.records) for package in catalog.packages}
        fresh = await reader.parse(fresh=True)
        assert served == {package.name: list(package.records) for package in fresh.packages}
        assert catalog.index == fresh.index
        assert told(catalog) == told(fresh)
        assert (catalog.revisions, catalog.ignored_tags) == (fresh.revisions, fresh.ignored_tags)


def _readers() -> int:
    """git processes of ours that read objects."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            count += parent == os.getpid() and b"cat-file" in (path.parent / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return count


async def test_gits_process_ends_with_the_tree_and_at_once_where_the_tree_is_another(
    repository: KRMRepository, tmp_path: Path
) -> None:
    repository.package("a", "1")
    source = open_for(GitSource(repository.url, None, ""), None, cache=tmp_path / "cache")
    before = _readers()
    for number in range(2):  # also where the last one was not closed yet
        (tmp_path / str(number)).mkdir()
        tree = await source.fetch(tmp_path / str(number), quiet)
        assert isinstance(tree, PackagesTree)
        assert _readers() == before + 1
        await tree.aclose()
        assert _readers() == before
    repository.remove("a")
    repository.commit({"catalog.yaml": b"schema: olm.package\nname: a\n"})
    (tmp_path / "plain").mkdir()
    tree = await source.fetch(tmp_path / "plain", quiet)
    assert (type(tree), tree.files) == (Tree, ("catalog.yaml",))
    assert _readers() == before
    await source.aclose()


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with every object name that git is asked for from here on, one a line."""
    names, real = tmp_path / "asked", shutil.which("git")
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "git"
    wrapper.write_text(
        f'#!/bin/sh\ncase "$*" in *"cat-file --batch") tee -a {names} | {real} "$@";; *) exec {real} "$@";; esac\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}")
    return names


@pytest.mark.parametrize("files", [{"n/a/Kptfile": kptfile("a"), "n/a/more/x": b"1"}, {"n/a/catalog.yaml": b"{}"}])
async def test_a_repository_of_a_format_to_be_found_out_is_fetched_and_listed_once(
    workers: Workers, repository: KRMRepository, tmp_path: Path, asked: Path, files: dict[str, bytes]
) -> None:
    repository.commit(files)
    trees = repository.git(
        "rev-list", "--objects", "--filter=object:type=tree", "--filter-provided-objects", "--no-object-names", "main"
    ).split()
    source = open_for(GitSource(repository.url, None, ""), None, cache=tmp_path / "cache")
    (tmp_path / "tree").mkdir()
    async with aclosing(await source.fetch(tmp_path / "tree", quiet)) as tree:
        await parse(tree, None, KEY, workers, scratch=tmp_path / "parsed")
    await source.aclose()
    names = asked.read_text().split()
    listed = {tree: names.count(tree) for tree in trees if tree in names}
    assert set(listed.values()) == {1}, listed
    assert len(listed) >= len(files) + 1
    assert [path.name for path in (tmp_path / "cache").glob("*.git")] == ["mirror.git"]


async def test_the_format_that_was_fetched_for_is_the_one_that_is_read(
    workers: Workers, repository: KRMRepository, tmp_path: Path
) -> None:
    """A link called Kptfile makes no package, so this is a catalog, also where the link's file is read as one."""
    repository.commit({"catalog.yaml": b"schema: olm.package\nname: a\n", "n/file": kptfile("a")})
    repository.git("symbolic-ref", "HEAD", "refs/heads/main")
    oid = repository.git("hash-object", "-w", "--stdin", stdin=b"file")
    entries = repository.git("ls-tree", "main:n") + f"\n120000 blob {oid}\tKptfile\n"
    nested = repository.git("mktree", stdin=entries.encode())
    top = repository.git("ls-tree", "main").replace(repository.git("rev-parse", "main:n"), nested)
    head = repository.git("commit-tree", repository.git("mktree", stdin=f"{top}\n".encode()), "-m", "link")
    repository.git("update-ref", "refs/heads/main", head)
    source = open_for(GitSource(repository.url, None, ""), None, cache=tmp_path / "cache")
    (tmp_path / "tree").mkdir()
    async with aclosing(await source.fetch(tmp_path / "tree", quiet)) as tree:
        assert "n/Kptfile" in tree.files
        catalog = await parse(tree, None, KEY, workers, scratch=tmp_path / "parsed")
    await source.aclose()
    assert list(catalog.rejected) == ["a"]  # a package of a catalog, without a channel
