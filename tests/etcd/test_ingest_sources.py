"""The same catalog from everywhere gives the same objects, and a catalog's history ends where a fresh ingest does.

Real etcd, real registry, real git.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cacheserver.catalogs.workers import Workers
from cacheserver.config.sources import DirectorySource, GitRef, GitSource, OCISource, RefKind
from cacheserver.ingest import Outcome, SyncReport
from cacheserver.model import Format
from tests.support.fbc import catalog
from tests.support.gitserver import GitRepository
from tests.support.krm import KRMRepository
from tests.support.registry import (
    DOCKER_MANIFEST,
    Image,
    RealRegistry,
    find_registry,
    image_of,
    index,
    zstandard_compressed,
)
from tests.support.shared import ABSENT, FBC
from tests.support.world import World

pytestmark = pytest.mark.etcd

EXAMPLES = Path(__file__).parents[2] / "examples" / "catalogs"


async def objects(world: World) -> dict[str, dict[str, Any]]:
    """By name, without what differs between two births of one object."""
    found = await world.objects()
    for manifest in found.values():
        for born in ("uid", "creationTimestamp"):
            del manifest["metadata"][born]
    return found


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[RealRegistry]:
    binary = find_registry()
    if isinstance(binary, str):
        pytest.skip(f"NO REAL REGISTRY: {binary}")
    real = RealRegistry(binary, tmp_path / "registry")
    try:
        await real.start()
        yield real
    finally:
        real.stop()


class Noted(Workers):
    """Tells for which formats processes were begun before there was a job."""

    def __init__(self) -> None:
        super().__init__(2)
        self.begun_for: list[Format] = []

    async def prepare(self, expected: Format) -> None:
        self.begun_for.append(expected)
        await super().prepare(expected)


async def test_workers_begin_before_there_is_a_job_only_where_files_are_fetched(world: World, tmp_path: Path) -> None:
    git = KRMRepository(tmp_path / "krm.git")
    git.package("pump")
    async with Noted() as workers:
        world.services = replace(world.services, workers=workers)
        world.files.package("app", "1.0.0")
        await world.sync()
        assert workers.begun_for == []  # one file, so one of the two processes is enough
        await world.sync(GitSource(git.url, GitRef(RefKind.BRANCH, "main")))
        assert workers.begun_for == [Format.KRM]


# --- images ----------------------------------------------------------------------------------------------------------


async def assert_same_as_directory(world: World, registry: RealRegistry, root: Path, image: Image) -> SyncReport:
    """The image gives what the directory gives: nothing is left to write, whichever of them came first."""
    await registry.push(image, "team/catalog", "v1")
    spec = OCISource(f"{registry.host}/team/catalog:v1", insecure=True)
    from_directory = await world.sync(DirectorySource(root))
    served = await objects(world)
    assert len(served) == from_directory.added > 0
    from_image = await world.sync(spec, anew=True)
    assert (from_image.outcome, from_image.written) == (Outcome.APPLIED, 0)
    assert from_image.unchanged == from_directory.added
    assert from_image.digest != from_directory.digest
    await world.forget_everything()
    await world.sync(spec, anew=True)
    assert await objects(world) == served
    assert (await world.sync(spec)).outcome is Outcome.UNCHANGED
    return from_directory


@pytest.mark.parametrize("name", ["community-v4.20", "kueue/v4.20/catalog", "gatekeeper/catalog-4-19"])
@pytest.mark.skipif(not FBC.exists(), reason=ABSENT)
async def test_a_real_catalog_is_the_same_as_an_image(world: World, registry: RealRegistry, name: str) -> None:
    await assert_same_as_directory(world, registry, FBC / name, image_of(FBC / name))


@pytest.mark.parametrize("form", ["gzip", "zstd", "docker in an index"])
async def test_the_examples_are_the_same_as_an_image(world: World, registry: RealRegistry, form: str) -> None:
    forms: dict[str, Callable[[], Image]] = {
        "gzip": lambda: image_of(EXAMPLES),
        "zstd": lambda: image_of(EXAMPLES, compress=zstandard_compressed, suffix="+zstd"),
        "docker in an index": lambda: index([(image_of(EXAMPLES, media_type=DOCKER_MANIFEST), "linux", "amd64")]),
    }
    made = forms[form]()
    report = await assert_same_as_directory(world, registry, EXAMPLES, made)
    assert not report.rejected


# --- history ---------------------------------------------------------------------------------------------------------


class FBCHistory:
    """Commits of a catalog: packages come, go, break, grow and shrink by a seeded dice; the last one is good."""

    def __init__(self, home: Path, seed: int) -> None:
        self._dice = random.Random(seed)
        self._root = home / "work"
        self._catalog = catalog(self._root)
        self._repository = GitRepository(home / "repo.git")
        self._packages: dict[str, list[str]] = {}
        self.spec = GitSource(self._repository.url, GitRef(RefKind.BRANCH, "main"))

    def commit(self, *, last: bool = False) -> None:
        for _ in range(self._dice.randint(1, 3)):
            self._step()
        if not self._packages:
            self._packages["app0"] = ["1.0.0"]
        bad = self._dice.choice(sorted(self._packages)) if self._dice.random() < 0.3 and not last else ""
        files: dict[str, bytes] = {}
        for name, versions in self._packages.items():
            described = {versions[0]: f"about {self._dice.randint(0, 2)}"}
            self._catalog.package(name, *(["not-a-version"] if name == bad else versions), descriptions=described)
            file = self._root / name / "catalog.yaml"
            # As files move, and as two packages share one, without changing.
            path = f"{self._dice.choice(('a', 'b'))}/{name}.json"
            files[path] = file.read_bytes()
        self._repository.commit(files)
        if self._dice.random() < 0.2:
            self._repository.git("update-ref", "refs/heads/main", self._repository.git("commit-tree", "main^{tree}"))

    def _step(self) -> None:
        name = f"app{self._dice.randint(0, 4)}"
        versions = self._packages.setdefault(name, [])
        match self._dice.randint(0, 3):
            case 0 if len(versions) > 1:
                versions.pop()
            case 1 if len(self._packages) > 1:
                del self._packages[name]
                return
            case _:
                versions.append(f"1.{len(versions)}.{self._dice.randint(0, 1)}")
        if not versions:
            versions.append("1.0.0")


class KRMHistory:
    """Pushes to a repository of packages: branch, tags (new, moved, deleted), drafts and force-pushes."""

    def __init__(self, home: Path, seed: int) -> None:
        self._dice = random.Random(seed)
        self._repository = KRMRepository(home / "repo.git")
        self._repository.package("p0", "0")
        self.spec = GitSource(self._repository.url, GitRef(RefKind.BRANCH, "main"))

    def commit(self, *, last: bool = False) -> None:
        dice, repository = self._dice, self._repository
        name = f"p{dice.randint(0, 3)}"
        tags = repository.git("tag").split()
        drafts = repository.git("for-each-ref", "--format=%(refname)", "refs/heads/drafts").split()
        match 0 if last else dice.randint(0, 7):
            case 0 | 1:
                repository.package(name, str(dice.random()))
            case 2:
                repository.tag(f"{name}/v{dice.randint(1, 3)}", annotated=dice.random() < 0.5)
            case 3 if tags:
                repository.delete(f"refs/tags/{dice.choice(tags)}")
            case 4:
                repository.branch(f"drafts/{name}/w{dice.randint(0, 1)}")
            case 5 if drafts:
                repository.delete(dice.choice(drafts))
            case 6 if int(repository.git("rev-list", "--count", "main")) > 2:
                repository.branch("main", "main~1")
            case 7 if len(repository.files) > 4 and f"{name}/Kptfile" in repository.files:
                repository.remove(name)
            case _:
                repository.package(name, str(dice.random()))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("made", [FBCHistory, KRMHistory])
async def test_a_history_replayed_ends_in_the_state_of_a_fresh_ingest(
    world: World, tmp_path: Path, made: Callable[[Path, int], FBCHistory | KRMHistory], seed: int
) -> None:
    history = made(tmp_path, seed)
    steps = 15
    outcomes: dict[Outcome, int] = {}
    for step in range(steps):
        history.commit(last=step == steps - 1)
        report = await world.sync(history.spec)
        outcomes[report.outcome] = outcomes.get(report.outcome, 0) + 1
        assert (await world.sync(history.spec)).outcome is Outcome.UNCHANGED
    assert outcomes.get(Outcome.APPLIED, 0) > steps // 3
    replayed = await objects(world)
    await world.forget_everything()
    assert await objects(world) == {}
    fresh = await world.sync(history.spec, anew=True)
    assert not fresh.rejected
    assert _without_generations(await objects(world)) == _without_generations(replayed)


def _without_generations(objects: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """How often its spec changed belongs to an object's own past."""
    for manifest in objects.values():
        manifest["metadata"].pop("generation", None)
    return dict(objects)
