"""Git as a source, against real git servers: one tree at a ref, all refs of packages, and remotes that mean harm."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import uvloop
from blockbuster import blockbuster_ctx

from cacheserver.config.sources import GitRef, RefKind
from cacheserver.errors import (
    SourceAuthenticationError,
    SourceError,
    SourceInvalidError,
    SourceNetworkError,
    SourceNotFoundError,
    SourceRateLimitedError,
    SourceTooLargeError,
)
from cacheserver.sources import GitCredentials, Limits, Tree
from cacheserver.sources.git.command import Git, Remote
from cacheserver.sources.git.source import GitMirror, GitRefsSource, GitSource
from tests.support.certificates import Authority
from tests.support.gitserver import GitDaemon, GitHTTPS, GitRepository, basic
from tests.support.shared import ABSENT, NEPHIO
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

FILES = {
    "catalog/foo.yaml": b"schema: olm.package\n",
    "catalog/sub/bar.yaml": b"\xff\r\nbinary",
    "README.md": b"readme",
}


def quiet(_what: str, _done: int, _total: int) -> None: ...


@pytest.fixture
def repository(tmp_path: Path) -> GitRepository:
    return GitRepository(tmp_path / "served" / "repo.git")


class Fetcher:
    """Fetches each time into a directory of its own; the cache stays."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.cache = home / "cache"
        self._count = 0

    def source(
        self,
        remote: GitRepository | Remote,
        ref: GitRef | str | None = "main",
        directory: str = "",
        limits: Limits | None = None,
    ) -> GitSource:
        remote = Remote(remote.url) if isinstance(remote, GitRepository) else remote
        ref = GitRef(RefKind.NAME, ref) if isinstance(ref, str) else ref
        return GitSource(remote, ref, directory, self.cache, limits)

    async def fetch(self, source: GitSource) -> Tree:
        self._count += 1
        scratch = self.home / f"scratch{self._count}"
        scratch.mkdir()
        return await source.fetch(scratch, quiet)

    async def files(self, *arguments: object, **options: object) -> dict[str, bytes]:
        return contents(await self.fetch(self.source(*arguments, **options)))  # type: ignore[arg-type]  # passed through


def contents(tree: Tree) -> dict[str, bytes]:
    assert not any(path.is_symlink() for path in tree.root.rglob("*"))
    return {path: (tree.root / path).read_bytes() for path in tree.files}


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path)


# --- one tree at a ref ----------------------------------------------------------------------------------------------


async def test_a_branch_gives_exactly_its_files(repository: GitRepository, fetcher: Fetcher) -> None:
    commit = repository.commit(FILES)
    tree = await fetcher.fetch(fetcher.source(repository))
    assert contents(tree) == FILES
    assert tree.digest == f"git:{commit}"


@pytest.mark.parametrize("annotated", [False, True])
async def test_refs_of_every_kind(repository: GitRepository, fetcher: Fetcher, annotated: bool) -> None:
    first = repository.commit({"a": b"1"})
    repository.tag("v1", annotated=annotated)
    repository.tag("main", annotated=annotated)
    repository.commit({"a": b"2"})
    repository.commit({"a": b"3"}, branch="feature/x")
    wanted = {
        GitRef(RefKind.NAME, "main"): b"2", GitRef(RefKind.NAME, "v1"): b"1", GitRef(RefKind.TAG, "main"): b"1",
        GitRef(RefKind.BRANCH, "feature/x"): b"3", GitRef(RefKind.COMMIT, first): b"1", None: b"2",
    }  # fmt: skip
    for ref, content in wanted.items():
        source = fetcher.source(repository, ref)
        tree = await fetcher.fetch(source)
        assert contents(tree) == {"a": content}
        assert await source.probe() == tree.digest


async def test_a_directory_is_taken_alone_and_stands_in_the_digest(repository: GitRepository, fetcher: Fetcher) -> None:
    commit = repository.commit(FILES)
    tree = await fetcher.fetch(fetcher.source(repository, directory="/catalog/sub/"))
    assert contents(tree) == {"bar.yaml": FILES["catalog/sub/bar.yaml"]}
    assert tree.digest == f"git:{commit}#catalog/sub"
    for wrong in ("cat", "catalog/foo.yaml", "README.md", ".."):
        with pytest.raises(SourceNotFoundError, match="no directory"):
            await fetcher.files(repository, directory=wrong)


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        (GitRef(RefKind.BRANCH, "absent"), "no branch 'absent'"),
        (GitRef(RefKind.TAG, "main"), "no tag 'main'"),
        (GitRef(RefKind.NAME, "absent"), "neither a branch nor a tag"),
        (GitRef(RefKind.COMMIT, "1" * 40), "no such branch, tag or commit|cannot be|leads to no commit|our copy"),
    ],
)
async def test_a_ref_that_is_not_there_is_named(
    repository: GitRepository, fetcher: Fetcher, ref: GitRef, message: str
) -> None:
    repository.commit(FILES)
    with pytest.raises(SourceError, match=message):
        await fetcher.files(repository, ref)


async def test_an_empty_repository_has_no_head(repository: GitRepository, fetcher: Fetcher) -> None:
    with pytest.raises(SourceNotFoundError, match="no branch at all"):
        await fetcher.source(repository, None).probe()


async def test_a_moved_branch_is_news_and_a_force_push_too(repository: GitRepository, fetcher: Fetcher) -> None:
    repository.commit({"a": b"1"})
    source = fetcher.source(repository)
    before = (await fetcher.fetch(source)).digest
    repository.git("update-ref", "-d", "refs/heads/main")
    repository.commit({"b": b"unrelated"})
    assert await source.probe() != before
    assert contents(await fetcher.fetch(source)) == {"b": b"unrelated"}


async def test_history_is_not_fetched_and_nothing_twice(repository: GitRepository, fetcher: Fetcher) -> None:
    for number in range(5):
        repository.commit({"a": b"%d" % number})
    source = fetcher.source(repository)
    await fetcher.fetch(source)
    mirror = fetcher.cache / "shallow.git"
    assert count_objects(mirror) == 3  # one commit, one tree, one blob
    packs = sorted(path.stat().st_mtime_ns for path in mirror.rglob("objects/**/*") if path.is_file())
    await fetcher.fetch(source)
    assert sorted(path.stat().st_mtime_ns for path in mirror.rglob("objects/**/*") if path.is_file()) == packs


def count_objects(mirror: Path) -> int:
    command = ["git", "--git-dir", str(mirror), "cat-file", "--batch-all-objects", "--batch-check"]
    return len(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout.splitlines())


async def test_links_submodules_and_strange_names_are_refused_by_name(
    repository: GitRepository, fetcher: Fetcher
) -> None:
    commit = repository.commit({"x": b""})
    links = {
        "in": b"sub/real", "sub/up": b"../in", "out": b"../../etc/passwd", "abs": b"/etc/passwd", "loop": b"loop",
        "dir": b"sub", "none": b"absent", "long": b"x" * 5000,
    }  # fmt: skip
    modes = dict.fromkeys(links, "120000") | {"module": "160000", "run.sh": "100755"}
    files = {**links, "sub/real": b"r", "module": commit.encode(), "run.sh": b"#!/bin/sh"}
    repository.commit(files, modes=modes)
    tree = await fetcher.fetch(fetcher.source(repository))
    assert contents(tree) == {"sub/real": b"r", "in": b"r", "sub/up": b"r", "run.sh": b"#!/bin/sh"}
    assert not os.access(tree.root / "run.sh", os.X_OK)
    out = "link leads out of the source's root"
    assert dict(tree.refused) == {
        "out": out, "abs": out, "loop": "link loops", "dir": "link to a directory; its files are read at sub",
        "none": "link leads nowhere", "module": "is a submodule", "long": "link to a name that is too long",
    }  # fmt: skip


async def test_names_that_git_itself_would_refuse_stay_out(repository: GitRepository, fetcher: Fetcher) -> None:
    blob = repository.git("hash-object", "-w", "--stdin", stdin=b"evil")
    inner = repository.raw_tree(("100644", b"hook", blob))
    names = [b"..", b".git", b".GIT", b"a/../../evil", b"/abs", b"\xff", b"fine"]
    tree = repository.raw_tree(*(("100644", name, blob) for name in names), ("40000", b"..", inner))
    repository.commit_tree(tree)
    got = await fetcher.fetch(fetcher.source(repository))
    assert contents(got) == {"fine": b"evil"}
    assert len(got.refused) == 6
    assert not list(fetcher.home.rglob("evil"))


@pytest.mark.parametrize(
    ("limits", "cap"),
    [
        (Limits(files=2), "files"),
        (Limits(depth=1), "depth"),
        (Limits(file_bytes=8), "file_bytes"),
        (Limits(total_bytes=20), "total"),
    ],
)
async def test_caps_are_named(repository: GitRepository, fetcher: Fetcher, limits: Limits, cap: str) -> None:
    repository.commit(FILES)
    await fetcher.fetch(fetcher.source(repository))
    with pytest.raises(SourceTooLargeError, match=f"cap `{cap}"):
        await fetcher.files(repository, limits=limits)


async def test_a_tree_of_endless_depth_is_refused(repository: GitRepository, fetcher: Fetcher) -> None:
    blob = repository.git("hash-object", "-w", "--stdin", stdin=b"x")
    tree = repository.raw_tree(("100644", b"file", blob))
    for _ in range(70):
        tree = repository.raw_tree(("40000", b"a", tree), ("40000", b"b", tree))  # 2 to the 70 paths
    repository.commit_tree(tree)
    with pytest.raises(SourceTooLargeError, match="cap `"):
        await fetcher.files(repository)


async def test_large_files_are_written_in_pieces(repository: GitRepository, fetcher: Fetcher) -> None:
    large = os.urandom(3 << 20)
    repository.commit({"large": large, "small": b"s", "empty": b""})
    assert await fetcher.files(repository) == {"large": large, "small": b"s", "empty": b""}


async def test_a_sha256_repository(tmp_path: Path, fetcher: Fetcher) -> None:
    repository = GitRepository(tmp_path / "sha256.git", object_format="sha256")
    repository.commit(FILES)
    assert await fetcher.files(repository) == FILES


async def test_a_bundle_file_is_a_remote(repository: GitRepository, fetcher: Fetcher) -> None:
    repository.commit(FILES)
    bundle = fetcher.home / "with space.bundle"
    repository.git("bundle", "create", str(bundle), "--all")
    assert await fetcher.files(Remote(f"file://{str(bundle).replace(' ', '%20')}")) == FILES


async def test_fetching_never_blocks_the_loop(repository: GitRepository, fetcher: Fetcher) -> None:
    repository.commit({f"d{n % 7}/f{n}": b"%d" % n for n in range(100)})
    with blockbuster_ctx("cacheserver"):
        assert len((await fetcher.fetch(fetcher.source(repository))).files) == 100


def test_the_servers_own_kind_of_loop(repository: GitRepository, fetcher: Fetcher) -> None:
    repository.commit({f"f{n}": b"%d" % n for n in range(500)})
    tree = uvloop.run(fetcher.fetch(fetcher.source(repository)))
    assert len(tree.files) == 500


# --- servers, and who we are to them --------------------------------------------------------------------------------


async def test_git_daemon(repository: GitRepository, fetcher: Fetcher) -> None:
    commit = repository.commit({"a": b"1"})
    repository.commit(FILES)
    with GitDaemon(repository.path.parent) as daemon:
        await eventually(daemon.listening)
        assert await fetcher.files(Remote(daemon.url("repo.git"))) == FILES
        assert await fetcher.files(Remote(daemon.url("repo.git")), GitRef(RefKind.COMMIT, commit)) == {"a": b"1"}
        with pytest.raises(SourceNotFoundError):
            await fetcher.source(Remote(daemon.url("absent.git"))).probe()
    with pytest.raises(SourceNetworkError, match="cannot be reached"):
        await fetcher.source(Remote(daemon.url("repo.git"))).probe()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def https(repository: GitRepository, authority: Authority) -> Iterator[GitHTTPS]:
    repository.commit(FILES)
    with GitHTTPS(repository.path.parent, authority.issue("git")) as server:
        yield server


@pytest.fixture
def remote(https: GitHTTPS, authority: Authority) -> Callable[..., Remote]:
    """A Remote of the server that trusts its authority."""

    def make(path: str = "repo.git", **credentials: str) -> Remote:
        ca = authority.certificate.read_bytes()
        return Remote(f"{https.origin}/{path}", GitCredentials(**credentials), ca)  # type: ignore[arg-type]  # all text

    return make


async def test_https_with_basic_authentication(
    https: GitHTTPS, remote: Callable[..., Remote], fetcher: Fetcher
) -> None:
    https.authorization = basic("puller", "s3cr3t-word")
    assert await fetcher.files(remote(username="puller", password="s3cr3t-word")) == FILES
    for wrong in (remote(username="puller", password="wr0ng-word"), remote()):
        with pytest.raises(SourceAuthenticationError) as caught:
            await fetcher.source(wrong).probe()
        assert "wr0ng-word" not in str(caught.value)
    assert "wr0ng-word" not in repr(remote(password="wr0ng-word"))


async def test_https_with_a_token(https: GitHTTPS, remote: Callable[..., Remote], fetcher: Fetcher) -> None:
    https.authorization = basic("git", "t0ken")
    assert await fetcher.files(remote(password="t0ken")) == FILES
    https.authorization = "Bearer t0ken.value"
    assert await fetcher.files(remote(bearer_token="t0ken.value"), directory="catalog")


async def test_credentials_never_stand_in_arguments_and_leave_no_file(
    https: GitHTTPS, remote: Callable[..., Remote], fetcher: Fetcher
) -> None:
    https.authorization = basic("puller", "s3cr3t-word")
    seen: list[bytes] = []

    def look(_path: str) -> None:
        seen.extend(path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())

    https.intercept = look
    await fetcher.files(remote(username="puller", password="s3cr3t-word"))
    assert any(b"ls-remote" in line for line in seen)
    assert not any(b"s3cr3t" in line for line in seen)
    assert not any(b"s3cr3t" in path.read_bytes() for path in fetcher.cache.rglob("*") if path.is_file())
    assert not list(fetcher.cache.glob("run-*"))


async def test_credentials_do_not_follow_a_redirect(
    https: GitHTTPS, remote: Callable[..., Remote], fetcher: Fetcher, authority: Authority
) -> None:
    with GitHTTPS(https.base, authority.issue("elsewhere"), authorization=basic("puller", "s3cr3t-word")) as elsewhere:
        https.intercept = lambda path: (302, {"Location": elsewhere.origin + path})
        for given in ({"username": "puller", "password": "s3cr3t-word"}, {"bearer_token": "s3cr3t-word"}):
            with pytest.raises(SourceError):
                await fetcher.source(remote(**given)).probe()
        assert not any("Authorization" in headers for _, _, headers in elsewhere.seen)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, SourceNotFoundError),
        (403, SourceAuthenticationError),
        (429, SourceRateLimitedError),
        (500, SourceNetworkError),
        (503, SourceNetworkError),
    ],
)
async def test_what_a_server_answers_decides_the_kind(
    https: GitHTTPS, remote: Callable[..., Remote], fetcher: Fetcher, status: int, kind: type[SourceError]
) -> None:
    https.intercept = lambda _path: (status, {})
    with pytest.raises(kind):
        await fetcher.source(remote()).probe()


async def test_a_stranger_of_a_certificate_is_refused(https: GitHTTPS, fetcher: Fetcher, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger").certificate.read_bytes()
    for ca in (stranger, b""):
        with pytest.raises(SourceNetworkError, match="certificate is not trusted"):
            await fetcher.source(Remote(f"{https.origin}/repo.git", ca=ca)).probe()


async def test_ssh_is_told_which_key_and_which_hosts(repository: GitRepository, fetcher: Fetcher) -> None:
    repository.commit(FILES)
    programs = fetcher.home / "bin"
    programs.mkdir()
    said = fetcher.home / "said"
    # Stands in for ssh: notes what it is told, and runs the command here instead of there.
    (programs / "ssh").write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >{said}\nwhile [ "$1" != -i ]; do shift; done\ncat "$2" >>{said}\n'
        f'stat -c %a "$2" >>{said}\nfor last; do :; done\neval "$last"\n'
    )
    (programs / "ssh").chmod(0o755)
    credentials = GitCredentials(ssh_key=b"-----KEY-----", known_hosts=b"host ssh-ed25519 AAAA")
    remote = Remote(f"ssh://git@host.test{repository.path}", credentials)
    fetcher.cache.mkdir()
    git = Git(remote, fetcher.cache, {"PATH": f"{programs}:{os.environ['PATH']}"})
    listed = await git.run("ls-remote", "--heads", "--", remote.location, timeout_s=20)
    assert b"refs/heads/main" in listed
    told = said.read_text()
    for wanted in (
        "StrictHostKeyChecking=yes",
        "GlobalKnownHostsFile=/dev/null",
        "BatchMode=yes",
        "-----KEY-----",
        "600",
    ):
        assert wanted in told
    assert not list(fetcher.cache.glob("run-*"))


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c id",
        "https://user:pass@host/x",
        "ftp://host/x",
        "-u/etc",
        "ssh://-oProxyCommand=id/x",
        "https://h/a\nb",
        "/x",
    ],
)
def test_urls_that_are_more_than_a_place_are_refused(url: str) -> None:
    with pytest.raises(SourceInvalidError):
        Remote(url)


async def test_a_remote_cannot_choose_another_transport(
    https: GitHTTPS, remote: Callable[..., Remote], fetcher: Fetcher
) -> None:
    https.intercept = lambda path: (302, {"Location": "ftp://127.0.0.1/x" + path})
    with pytest.raises(SourceError):
        await fetcher.source(remote()).probe()


async def test_the_machines_configuration_does_not_reach_git(
    repository: GitRepository, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit(FILES)
    working = fetcher.home / "working"
    subprocess.run(["git", "init", "-q", str(working)], check=True, timeout=30)
    evil = fetcher.home / "gitconfig"
    evil.write_text('[url "file:///nonexistent"]\n\tinsteadOf = /\n')
    (working / ".git" / "config").write_text(evil.read_text())
    for name, value in {"GIT_CONFIG_GLOBAL": str(evil), "GIT_DIR": "/nonexistent", "GIT_SSH_COMMAND": "false"}.items():
        monkeypatch.setenv(name, value)
    source = GitSource(Remote(repository.url), None, "", working / "deep" / "cache")
    assert contents(await fetcher.fetch(source)) == FILES


# --- the mirror on disk ---------------------------------------------------------------------------------------------


async def test_locks_of_a_killed_git_are_removed(repository: GitRepository, fetcher: Fetcher) -> None:
    repository.commit({"a": b"1"})
    source = fetcher.source(repository)
    await fetcher.fetch(source)
    mirror = fetcher.cache / "shallow.git"
    for name in ("shallow.lock", "packed-refs.lock", "HEAD.lock", "config.lock", "objects/pack/tmp_pack_x", "gc.pid"):
        (mirror / name).touch()
    dead = fetcher.cache / "run-4194303-left"
    dead.mkdir()
    (dead / "key").touch()
    repository.commit({"a": b"2"})
    assert contents(await fetcher.fetch(source)) == {"a": b"2"}
    assert not list(mirror.rglob("*.lock"))
    assert not dead.exists()


@pytest.mark.parametrize("damage", ["objects", "head", "pack", "config", "shallow"])
async def test_a_damaged_mirror_is_made_anew(repository: GitRepository, fetcher: Fetcher, damage: str) -> None:
    repository.commit(FILES)
    source = fetcher.source(repository)
    await fetcher.fetch(source)
    mirror = fetcher.cache / "shallow.git"
    objects = [path for path in mirror.rglob("objects/**/*") if path.is_file()]
    assert objects
    if damage == "objects":
        for path in objects:
            path.unlink()
    elif damage == "pack":
        for path in objects:
            path.chmod(0o600)
            path.write_bytes(path.read_bytes()[:20] + b"rubbish")
    else:
        (mirror / {"head": "HEAD", "config": "config", "shallow": "shallow"}[damage]).write_text("rubbish\n[")
    assert contents(await fetcher.fetch(source)) == FILES


@pytest.mark.parametrize("damage", ["objects", "config"])
async def test_a_damaged_remote_is_not_called_our_copy(
    repository: GitRepository, fetcher: Fetcher, damage: str
) -> None:
    repository.commit(FILES)
    source = fetcher.source(repository)
    if damage == "config":
        (repository.path / "config").write_text("rubbish\n[")
    else:
        for path in (path for path in repository.path.rglob("objects/**/*") if path.is_file()):
            path.chmod(0o600)
            path.write_bytes(path.read_bytes()[:20] + b"rubbish")
    with pytest.raises(SourceInvalidError, match="damaged where it is kept") as refused:
        await fetcher.fetch(source)
    assert "our copy" not in str(refused.value)


async def test_a_mirror_in_use_is_waited_for(repository: GitRepository, fetcher: Fetcher) -> None:
    repository.commit(FILES)
    fetcher.cache.mkdir()
    source = fetcher.source(repository)
    with (fetcher.cache / "shallow.git.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fetching = asyncio.create_task(fetcher.fetch(source))
        done, _ = await asyncio.wait([fetching], timeout=0.3)
        assert not done
    assert contents(await fetching) == FILES


async def test_a_cancelled_fetch_kills_git_and_its_children(
    https: GitHTTPS, remote: Callable[..., Remote], fetcher: Fetcher
) -> None:
    reached, release = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(path: str) -> None:
        if "git-upload-pack" in path and "info/refs" not in path:
            loop.call_soon_threadsafe(reached.set)
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result(timeout=60)

    https.intercept = hang
    fetching = asyncio.create_task(fetcher.fetch(fetcher.source(remote())))
    await reached.wait()
    ours = children_running(str(fetcher.cache))
    assert ours
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    release.set()
    await eventually(lambda: not children_running(str(fetcher.cache)))
    assert not list(fetcher.cache.glob("run-*"))


def children_running(cwd: str) -> list[int]:
    """Processes that run in that directory, zombies left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if str((path / "cwd").readlink()) == cwd:
                found.append(int(path.name))
        except OSError:
            continue
    return found


async def test_a_git_that_hangs_is_ended_in_time(repository: GitRepository, fetcher: Fetcher) -> None:
    programs = fetcher.home / "bin"
    programs.mkdir()
    (programs / "git").write_text("#!/bin/sh\ntrap '' TERM\nwhile :; do /bin/sleep 0.05; done\n")
    (programs / "git").chmod(0o755)
    fetcher.cache.mkdir()
    git = Git(Remote(repository.url), fetcher.cache, {"PATH": str(programs)})
    with pytest.raises(SourceNetworkError, match="timed out"):
        await git.run("ls-remote", timeout_s=0.2)
    # Killed it is, with its children; they may still be on their way out.
    await eventually(lambda: not children_running(str(fetcher.cache)))


async def test_no_git_is_said_plainly(repository: GitRepository, fetcher: Fetcher) -> None:
    fetcher.cache.mkdir()
    with pytest.raises(SourceError, match="install git"):
        await Git(Remote(repository.url), fetcher.cache, {"PATH": "/nonexistent"}).run("version", timeout_s=5)


# --- all refs -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def mirrors() -> AsyncIterator[list[GitMirror]]:
    opened: list[GitMirror] = []
    yield opened
    for mirror in opened:
        await mirror.aclose()


def refs_source(
    remote: GitRepository | Remote, cache: Path, branch: str = "main", directory: str = ""
) -> GitRefsSource:
    return GitRefsSource(Remote(remote.url) if isinstance(remote, GitRepository) else remote, branch, directory, cache)


async def test_a_mirror_has_branches_and_peeled_tags(
    repository: GitRepository, fetcher: Fetcher, mirrors: list[GitMirror]
) -> None:
    commit = repository.commit({"pkg/Kptfile": b"k", "pkg/sub/x": b"\0"})
    repository.tag("pkg/v1")
    repository.tag("pkg/v2", annotated=True)
    repository.tag("pkg/v3", "pkg/v2", annotated=True)
    repository.tag("blob", repository.git("rev-parse", "main:pkg/Kptfile"))
    repository.git("update-ref", "refs/pull/1/head", commit)
    source = refs_source(repository, fetcher.cache)
    mirror = await source.sync(quiet)
    mirrors.append(mirror)
    assert {name: ref.commit for name, ref in mirror.refs.items()} == dict.fromkeys(
        ("refs/heads/main", "refs/tags/pkg/v1", "refs/tags/pkg/v2", "refs/tags/pkg/v3"), commit
    )
    assert mirror.refs["refs/tags/pkg/v1"].tag_object == ""
    assert mirror.refs["refs/tags/pkg/v3"].tag_object == repository.git("rev-parse", "pkg/v3")
    assert mirror.branch == "main"
    assert mirror.digest == await source.probe()
    listing = await mirror.ls_tree(commit, "pkg")
    assert [entry.path for entry in listing.entries] == ["Kptfile", "sub/x"]
    read = [found async for found in mirror.cat_file([entry.oid for entry in listing.entries])]
    assert [found.content for found in read] == [b"k", b"\0"]
    assert [found.content async for found in mirror.cat_file([listing.entries[0].oid], most_bytes=0)] == [None]
    assert await mirror.history(commit, "pkg") == (commit,)
    with pytest.raises(SourceNotFoundError):
        await mirror.ls_tree(commit, "absent")


async def test_a_mirror_follows_what_moves_and_prunes_what_goes(
    repository: GitRepository, fetcher: Fetcher, mirrors: list[GitMirror]
) -> None:
    repository.commit({"a": b"1"})
    repository.tag("a/v1")
    repository.commit({"a": b"x"}, branch="drafts/a/w1")
    repository.commit({"a": b"x"}, branch="unrelated")
    source = refs_source(repository, fetcher.cache, branch="")
    digests = [(await source.sync(quiet)).digest]
    repository.commit({"a": b"y"}, branch="unrelated")
    assert await source.probe() == digests[0]
    for change in (
        lambda: repository.tag("a/v1", repository.commit({"a": b"2"})),
        lambda: repository.git("update-ref", "-d", "refs/heads/drafts/a/w1"),
        lambda: repository.commit({"b": b"3"}, branch="drafts"),
        lambda: repository.git("tag", "-d", "a/v1"),
        lambda: repository.tag("a", repository.git("rev-parse", "main")),
    ):
        change()
        mirror = await source.sync(quiet)
        mirrors.append(mirror)
        assert mirror.digest == await source.probe()
        digests.append(mirror.digest)
        shown = repository.git("for-each-ref", "--format=%(refname)", "refs/heads", "refs/tags").split()
        assert sorted(mirror.refs) == sorted(shown)
    assert len(set(digests)) == len(digests) - 1  # a branch named just `drafts` holds no package


async def test_a_second_sync_fetches_nothing(repository: GitRepository, fetcher: Fetcher) -> None:
    repository.commit(FILES)
    repository.tag("x/v1", annotated=True)
    repository.tag("tree", repository.git("rev-parse", "main^{tree}"))
    source = refs_source(repository, fetcher.cache)
    reports: list[str] = []
    await (await source.sync(quiet)).aclose()
    before = {path: path.stat().st_mtime_ns for path in (fetcher.cache / "mirror.git").rglob("*")}
    await (await source.sync(lambda what, _done, _total: reports.append(what))).aclose()
    assert {path: path.stat().st_mtime_ns for path in (fetcher.cache / "mirror.git").rglob("*")} == before
    assert reports == []


async def test_refs_of_an_empty_repository_and_of_a_missing_branch(repository: GitRepository, fetcher: Fetcher) -> None:
    assert (await refs_source(repository, fetcher.cache).sync(quiet)).refs == {}
    repository.commit(FILES)
    with pytest.raises(SourceNotFoundError, match="no branch 'absent'"):
        await refs_source(repository, fetcher.cache, "absent").probe()


async def test_objects_that_went_missing_are_named_and_come_back(
    repository: GitRepository, fetcher: Fetcher, mirrors: list[GitMirror]
) -> None:
    commit = repository.commit(FILES)
    source = refs_source(repository, fetcher.cache)
    mirror = await source.sync(quiet)
    mirrors.append(mirror)
    for path in (fetcher.cache / "mirror.git").rglob("objects/**/*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(SourceInvalidError, match="cannot be read"):
        await mirror.ls_tree(commit)
    again = await source.sync(quiet)
    mirrors.append(again)
    assert len((await again.ls_tree(commit)).entries) == 3


async def test_a_reader_left_early_reads_on(
    repository: GitRepository, fetcher: Fetcher, mirrors: list[GitMirror]
) -> None:
    commit = repository.commit({f"f{n}": b"%d" % n for n in range(500)})
    mirror = await refs_source(repository, fetcher.cache).sync(quiet)
    mirrors.append(mirror)
    oids = [entry.oid for entry in (await mirror.ls_tree(commit)).entries]
    async with aclosing(mirror.cat_file(oids)) as objects:
        first = await anext(objects)
    assert [found async for found in mirror.cat_file(oids[:1])] == [first]


@pytest.mark.skipif(not NEPHIO.exists(), reason=ABSENT)
async def test_nephios_catalog(fetcher: Fetcher, mirrors: list[GitMirror]) -> None:
    source = refs_source(Remote(f"file://{NEPHIO}"), fetcher.cache)
    mirror = await source.sync(quiet)
    mirrors.append(mirror)
    branch = await mirror.ls_tree(mirror.refs["refs/heads/main"].commit)
    roots = sorted(
        (entry.path.removesuffix("Kptfile") for entry in branch.entries if f"/{entry.path}".endswith("/Kptfile")),
        key=len,
    )
    packages = [root for at, root in enumerate(roots) if not any(root.startswith(above) for above in roots[:at])]
    assert len(packages) == 65  # as `git ls-tree` of its branch counts them
    tags = [name.removeprefix("refs/tags/") for name in mirror.refs if name.startswith("refs/tags/")]
    tagged = ignored = 0
    for tag in tags:
        path, slash, _ = tag.rpartition("/")
        commit = mirror.refs[f"refs/tags/{tag}"].commit
        try:
            found = bool(slash) and any(e.path == "Kptfile" for e in (await mirror.ls_tree(commit, path)).entries)
        except SourceNotFoundError:
            found = False
        tagged, ignored = tagged + found, ignored + (not found)
    assert (tagged, ignored) == (124, 7)
    large = (await mirror.ls_tree(mirror.refs["refs/heads/main"].commit, "infra/capi/cluster-capi")).entries
    read = [found async for found in mirror.cat_file([entry.oid for entry in large])]
    assert 1_600_000 < sum(found.size for found in read) < 1_800_000
    command = ["git", "--git-dir", str(mirror.path), "cat-file", "blob", large[0].oid]
    assert read[0].content == subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
