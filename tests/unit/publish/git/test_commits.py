"""Commits made and pushed by git itself: equal input equal commits, no ref moved that is not where it was seen."""

from __future__ import annotations

import stat
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path

import pytest

from cacheserver.archive import Part
from cacheserver.errors import SourceError, SourceInvalidError
from cacheserver.publish.git import commits, refs
from cacheserver.publish.git.commits import NewCommit, Update, Verdict
from cacheserver.publish.git.message import Person
from cacheserver.sources.git.command import Remote
from cacheserver.sources.git.source import GitRefsSource
from tests.support.gitserver import GitRepository

MAIN = "refs/heads/main"
DRAFT = "refs/heads/drafts/p/w"
ALICE = Person("Alice", "alice@example.com")


def files(content: Mapping[str, bytes]) -> Callable[[], AsyncGenerator[Part, None]]:
    async def parts() -> AsyncGenerator[Part, None]:
        for path, raw in content.items():
            for at in range(0, len(raw) or 1, 100_000):
                yield Part(path, len(raw), at, raw[at : at + 100_000], executable=path == "run")

    return parts


def commit(*parents: str | int, directory: str = "p", content: Mapping[str, bytes] | None = None) -> NewCommit:
    written = {"Kptfile": b"kind: Kptfile\r\n"} if content is None else content
    return NewCommit(tuple(parents), directory, "m\n", ALICE, ALICE, 1_700_000_000, files=files(written))


def opened(repository: GitRepository, tmp_path: Path, cache: str = "cache") -> GitRefsSource:
    return GitRefsSource(Remote(repository.url), "main", "", tmp_path / cache)


def hook(repository: GitRepository, name: str, script: str) -> None:
    path = repository.path / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def repository(tmp_path: Path) -> GitRepository:
    return GitRepository(tmp_path / "remote.git")


@pytest.mark.processes
async def test_a_commit_replaces_its_directory_and_keeps_every_byte_of_the_others(
    repository: GitRepository, tmp_path: Path
) -> None:
    old = repository.commit({"p/old": b"o", "other/run": b"r"}, modes={"other/run": "100755"})
    source = opened(repository, tmp_path)
    odd = {"Kptfile": b"a\r\n", 'a b\n"c\\': b"\0\xff", "sub/x": b"x" * 300_000, "empty": b"", "run": b"#!"}
    async with source.writing() as copy:
        await source.look()
        first, second = await commits.build(copy, [commit(old, content=odd), commit(0, directory="q/r")])
        await commits.push(copy, [Update(DRAFT, "", first), Update("refs/heads/drafts/q/r/w", "", second)])
    listed = repository.git("ls-tree", "-r", "-z", "drafts/p/w").split("\0")
    assert sorted(line.split("\t")[1] for line in listed if line) == sorted(
        ["other/run", *(f"p/{name}" for name in odd)]
    )
    assert {line.split()[0] for line in listed if line.endswith("run")} == {"100755"}
    assert {line.split()[0] for line in listed if line and not line.endswith("run")} == {"100644"}
    assert repository.git("rev-parse", "drafts/p/w^") == old
    assert repository.git("cat-file", "-s", "drafts/p/w:p/sub/x") == "300000"
    assert repository.git("log", "-1", "--format=%an %ae %ct", "drafts/p/w") == "Alice alice@example.com 1700000000"
    assert repository.git("rev-parse", "drafts/q/r/w^") == first


@pytest.mark.processes
async def test_equal_input_makes_the_commit_that_another_process_made(
    repository: GitRepository, tmp_path: Path
) -> None:
    made = []
    for cache in ("one", "two"):
        source = opened(repository, tmp_path, cache)
        async with source.writing() as copy:
            await source.look()
            made.append(await commits.build(copy, [commit()]))
    assert made[0] == made[1]


@pytest.mark.processes
async def test_an_empty_repository_takes_a_draft_and_then_its_branch(repository: GitRepository, tmp_path: Path) -> None:
    source = opened(repository, tmp_path)
    async with source.writing() as copy:
        assert not (await source.look()).oids
        (draft,) = await commits.build(copy, [commit()])
        await commits.push(copy, [Update(DRAFT, "", draft)])
        seen = await source.look()
        assert seen.oids == {DRAFT: draft}
        (tree,) = await copy.objects([f"{draft}:p"])
        (main,) = await commits.build(copy, [NewCommit((draft,), "p", "a", ALICE, ALICE, 1, tree=tree)])
        await commits.push(copy, [Update(MAIN, "", main), Update("refs/tags/p/v1", "", main), Update(DRAFT, draft, "")])
    assert repository.git("for-each-ref", "--format=%(refname) %(objectname)").splitlines() == [
        f"{MAIN} {main}", f"refs/tags/p/v1 {main}",
    ]  # fmt: skip


@pytest.mark.processes
async def test_a_ref_that_moved_is_stale_and_an_atomic_push_moves_nothing(
    repository: GitRepository, tmp_path: Path
) -> None:
    old = repository.commit({"x": b"1"})
    source = opened(repository, tmp_path)
    async with source.writing() as copy:
        await source.look()
        (made,) = await commits.build(copy, [commit(old)])
        moved = repository.commit({"x": b"2"})
        found = await commits.push(copy, [Update(MAIN, old, made), Update("refs/tags/p/v1", "", made)])
    assert {ref: result.verdict for ref, result in found.items()} == {
        MAIN: Verdict.STALE, "refs/tags/p/v1": Verdict.NOT_TRIED,
    }  # fmt: skip
    assert repository.git("for-each-ref", "--format=%(refname) %(objectname)") == f"{MAIN} {moved}"


@pytest.mark.processes
async def test_the_same_push_again_is_fine_and_moves_nothing(repository: GitRepository, tmp_path: Path) -> None:
    source = opened(repository, tmp_path)
    async with source.writing() as copy:
        await source.look()
        (made,) = await commits.build(copy, [commit()])
        for _ in range(2):
            found = await commits.push(copy, [Update(DRAFT, "", made)])
            assert found[DRAFT].verdict is Verdict.OK


@pytest.mark.processes
@pytest.mark.parametrize("name", ["pre-receive", "update"])
async def test_what_a_hook_says_is_one_bounded_line_without_control_characters(
    repository: GitRepository, tmp_path: Path, name: str
) -> None:
    said = "printf 'main is \\033[31mclosed\\nhttps://bob:hunter2@git.example/x %s\\n' \"$(seq 1 400)\"; exit 1"
    hook(repository, name, f'[ -z "$1" ] || [ "$1" = {MAIN} ] || exit 0; {said}')
    source = opened(repository, tmp_path)
    async with source.writing() as copy:
        await source.look()
        (made,) = await commits.build(copy, [commit()])
        found = await commits.push(copy, [Update(MAIN, "", made), Update("refs/tags/p/v1", "", made)])
    assert found[MAIN].verdict is Verdict.REFUSED
    assert "closed" in found[MAIN].text
    assert "hunter2" not in found[MAIN].text
    assert found[MAIN].text.isprintable()
    assert len(found[MAIN].text) <= 510
    assert found["refs/tags/p/v1"].verdict is (Verdict.REFUSED if name == "pre-receive" else Verdict.NOT_TRIED)
    assert repository.git("for-each-ref") == ""


@pytest.mark.processes
async def test_without_atomic_pushes_the_server_is_told_nothing_until_it_is_asked_so(
    repository: GitRepository, tmp_path: Path
) -> None:
    repository.git("config", "receive.advertiseAtomic", "false")
    source = opened(repository, tmp_path)
    async with source.writing() as copy:
        await source.look()
        (made,) = await commits.build(copy, [commit()])
        with pytest.raises(commits.AtomicUnsupportedError):
            await commits.push(copy, [Update(MAIN, "", made)])
        assert repository.git("for-each-ref") == ""
        found = await commits.push(copy, [Update(MAIN, "", made)], atomic=False)
    assert found[MAIN].verdict is Verdict.OK


@pytest.mark.processes
@pytest.mark.parametrize("path", ["../x", "a/../../x", ".git/config", "a/.GIT/x", "/x", "a//b", "a\0b"])
async def test_a_path_that_leaves_the_package_makes_no_commit(
    repository: GitRepository, tmp_path: Path, path: str
) -> None:
    source = opened(repository, tmp_path)
    async with source.writing() as copy:
        await source.look()
        with pytest.raises(SourceInvalidError):
            await commits.build(copy, [commit(), commit(content={path: b"x"})])


@pytest.mark.processes
async def test_content_that_breaks_off_makes_no_commit(repository: GitRepository, tmp_path: Path) -> None:
    async def parts() -> AsyncGenerator[Part, None]:
        yield Part("Kptfile", 10, 0, b"12345")
        raise SourceError("gone")

    source = opened(repository, tmp_path)
    async with source.writing() as copy:
        await source.look()
        with pytest.raises(SourceError, match="gone"):
            await commits.build(copy, [NewCommit((), "p", "m", ALICE, ALICE, 1, files=parts)])
        assert await copy.read("for-each-ref") == b""


@pytest.mark.processes
async def test_a_server_that_is_away_is_an_error_and_no_refusal(repository: GitRepository, tmp_path: Path) -> None:
    source = opened(repository, tmp_path)
    async with source.writing() as copy:
        await source.look()
        (made,) = await commits.build(copy, [commit()])
        repository.path.rename(tmp_path / "elsewhere")
        with pytest.raises(SourceError):
            await commits.push(copy, [Update(DRAFT, "", made)])


@pytest.mark.parametrize(
    "name",
    ["refs/heads/a b", "refs/heads/a..b", "refs/heads/.a", "refs/heads/a.lock", "refs/heads/a/", "refs/heads/-a",
     "refs/heads/a\nb", "refs/heads/a~1", "refs/heads/@{x", "refs/heads/" + "a" * 300, "refs/heads/a."],
)  # fmt: skip
def test_a_name_that_git_does_not_take_is_no_ref(name: str) -> None:
    assert refs.check_ref(name)


def test_a_ref_is_kept_as_a_file_so_none_lies_below_another() -> None:
    assert refs.clash("refs/heads/drafts/a/b/w", ["refs/heads/drafts/a/b"]) == "refs/heads/drafts/a/b"
    assert refs.clash("refs/heads/drafts/a/b", ["refs/heads/drafts/a/b/w"])
    assert not refs.clash("refs/heads/drafts/a/b", ["refs/heads/drafts/a/b", "refs/heads/drafts/a/bc"])
    assert "'w'" in refs.draft_clash("a/b/w", "x", [("a/b", "w")])
    assert not refs.draft_clash("a/b", "x", [("a/b", "w")])
    assert stat.S_ISREG(0o100644)
