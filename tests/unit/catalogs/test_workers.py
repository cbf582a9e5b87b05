"""The pool survives whatever a file does to a worker, blames the right file, and is fair."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cacheserver import headstart
from cacheserver.catalogs import ParseLimits, Workers, parse
from cacheserver.catalogs.fbc.wire import Part, Scan, encode_job
from cacheserver.errors import CatalogError, WorkerCrashedError
from cacheserver.model import Format, RepositoryKey
from cacheserver.priority import NICE
from cacheserver.sources import Tree
from tests.unit.catalogs.conftest import KEY, Parse

FIXTURES = Path(__file__).parents[2] / "fixtures" / "fbc"
MIB = 1 << 20

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.processes]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def workers() -> AsyncIterator[Workers]:
    """One worker, with little memory for large documents."""
    limits = ParseLimits(document_bytes=64 * MIB, containers=50_000_000, file_bytes=200 * MIB)
    async with Workers(1, limits, memory_bytes=192 * MIB) as pool:
        yield pool


def children() -> list[int]:
    """Worker processes of ours."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) != os.getpid():
                continue
            # For a moment behind exec() it has none yet, while its parent goes on already.
            while not (command := (path.parent / "cmdline").read_bytes()) and _runs(path):
                pass
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"cacheserver.catalogs.worker" in command and _runs(path):
            found.append(int(path.parent.name))
    return found


def _runs(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_hostile_files_are_blamed_and_the_others_served(parsed: Parse, tmp_path: Path) -> None:
    for name in ("a", "z"):
        # Each where it is at home: in the directory of a file that nobody can read, it would be held back.
        (tmp_path / name).mkdir()
        (tmp_path / name / "it.yaml").write_text(
            (FIXTURES / "kettle.yaml").read_text().replace("kettle", f"kettle-{name}")
        )
    (tmp_path / "brackets.yaml").write_text("[" * 40_000)
    (tmp_path / "brackets.json").write_text('{"a":' * 40_000)
    (tmp_path / "bomb.yaml").write_bytes((FIXTURES / "bad" / "AliasExpansion.yaml").read_bytes())
    (tmp_path / "scalar.yaml").write_text("a: " + "x" * (65 * MIB))
    (tmp_path / "greedy.yaml").write_text("schema: x\na: " + "x" * (60 * MIB))
    with (tmp_path / "sparse.yaml").open("wb") as file:
        file.truncate(201 * MIB)
    catalog = await parsed(tmp_path)
    assert [package.name for package in catalog.packages] == ["kettle-a", "kettle-z"]
    reasons = {finding.path: finding.reason for finding in catalog.findings}
    assert reasons.pop("greedy.yaml") in {"TooLarge", "WorkerCrashed"}
    assert reasons == {
        "brackets.yaml": "TooDeep",
        "brackets.json": "TooDeep",
        "bomb.yaml": "AliasExpansion",
        "scalar.yaml": "DocumentTooLarge",
        "sparse.yaml": "FileTooLarge",
    }
    assert catalog.unreadable


async def test_a_job_that_takes_too_long_is_stopped_and_named(tmp_path: Path) -> None:
    (tmp_path / "slow.yaml").write_text("schema: x\na:\n" + "- {b: c, d: e}\n" * 400_000)
    others = children()
    async with Workers(1, ParseLimits(containers=50_000_000), job_timeout_s=0.3) as pool:
        catalog = await parse(Tree(tmp_path, ("slow.yaml",), ""), None, KEY, pool, scratch=tmp_path / "s")
        [finding] = catalog.findings
        assert (finding.reason, finding.path) == ("WorkerCrashed", "slow.yaml")
        assert "slow.yaml: took longer than 0.3 s" in finding.message
        assert len(children()) == len(others) + 1


async def test_a_killed_worker_is_replaced_and_its_work_done(workers: Workers, parsed: Parse) -> None:
    await parsed(FIXTURES, "kettle.yaml")  # it is started with the first work
    [worker] = children()
    os.kill(worker, signal.SIGKILL)
    # As the kernel does when memory runs out: no fault of the file that comes next.
    catalog = await parsed(FIXTURES, "kettle.yaml")
    assert list(catalog.findings) == []
    assert [package.name for package in catalog.packages] == ["kettle"]
    assert children() != [worker]


async def test_a_worker_gives_way_to_the_server(parsed: Parse) -> None:
    await parsed(FIXTURES, "kettle.yaml")  # it is started with the first work
    [worker] = children()
    assert os.getpriority(os.PRIO_PROCESS, worker) >= NICE


async def test_a_cancelled_job_leaves_the_pool_whole(workers: Workers, parsed: Parse, tmp_path: Path) -> None:
    (tmp_path / "slow.yaml").write_text("schema: x\na:\n" + "- {b: c, d: e}\n" * 100_000)
    job = encode_job(Scan(str(tmp_path), "", "", [Part("slow.yaml", 0, 1 << 30)], write_blobs=False))
    with workers.queue() as queue:
        task = asyncio.create_task(workers.run(queue, job, "slow.yaml"))
        await asyncio.sleep(0)  # the job is written
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [package.name for package in (await parsed(FIXTURES, "kettle.yaml")).packages] == ["kettle"]


async def test_a_small_catalog_does_not_wait_for_a_large_one(workers: Workers, tmp_path: Path) -> None:
    files = tuple(f"{at}.yaml" for at in range(6))
    for name in files:
        (tmp_path / name).write_text("schema: x\ntext: |\n" + "  some words in a line of text\n" * 20_000)
    order: list[str] = []
    begun = asyncio.Event()

    async def run(name: str, root: Path, *files: str) -> None:
        tree, scratch = Tree(root, files, ""), tmp_path / f"s-{name}"
        key = RepositoryKey("shop", name)
        await parse(tree, None, key, workers, scratch=scratch, progress=lambda *_: begun.set())
        order.append(name)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run("large", tmp_path, *files))
        await begun.wait()
        tasks.create_task(run("small", FIXTURES, "kettle.yaml"))
    assert order == ["small", "large"]


async def test_an_error_names_the_job(workers: Workers) -> None:
    with workers.queue() as queue:
        with pytest.raises(WorkerCrashedError, match=r"the thing: its worker died \(exit code 1\)"):
            await workers.run(queue, b"[]", "the thing")
        job = encode_job(Scan(str(FIXTURES), "", "", [Part("kettle.yaml", 0, 1 << 20)], write_blobs=False))
        assert b"kettle.v0.3.0" in await workers.run(queue, job, "kettle.yaml")


async def test_a_worker_that_was_begun_before_the_pool_is_taken_by_it_with_its_caps(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_bytes((FIXTURES / "kettle.yaml").read_bytes())
    others = children()
    begun = headstart.begin(["validate", str(tmp_path)])
    [first] = set(children()) - set(others)
    async with Workers(2, ParseLimits(documents=1), begun=begun) as pool:
        catalog = await parse(Tree(tmp_path, ("two.yaml",), ""), None, KEY, pool, scratch=tmp_path / "s")
        assert set(children()) - set(others) == {first}  # and it is enough for a small catalog
        limit, _ = resource.prlimit(first, resource.RLIMIT_AS)
        begun.end()  # of no effect: it is the pool's
        assert set(children()) - set(others) == {first}
    assert "TooManyDocuments" in {finding.reason for finding in catalog.findings}
    assert limit == 1024 * MIB
    assert children() == others


async def test_a_worker_that_nobody_takes_ends_with_the_command() -> None:
    others = children()
    begun = headstart.begin(["ingest", "--catalog", "a=b"])
    assert len(children()) == len(others) + 1
    begun.end()
    assert children() == others


@pytest.mark.parametrize("arguments", [[], ["serve"], ["version"], ["validate", "--help"], ["ingest", "-h"]])
async def test_a_command_that_parses_nothing_at_once_begins_no_worker(arguments: list[str]) -> None:
    assert headstart.begin(arguments).take() is None


async def test_a_pool_that_could_not_replace_its_worker_tells_who_waits_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process, killed on its job while no other can be started; a second job is in line for it."""
    job = encode_job(Scan(str(FIXTURES), "", "", [Part("kettle.yaml", 0, 1 << 20)], write_blobs=False))
    async with Workers(1) as pool:
        with pool.queue() as queue:
            await pool.run(queue, job, "kettle.yaml")
            monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
            first = asyncio.create_task(pool.run(queue, b"[]", "the thing"))
            second = asyncio.create_task(pool.run(queue, job, "kettle.yaml"))
            with pytest.raises(WorkerCrashedError, match="the thing"):
                await first
            async with asyncio.timeout(30):
                with pytest.raises(CatalogError, match="cannot start a parse worker"):
                    await second
            monkeypatch.undo()
            assert b"kettle.v0.3.0" in await pool.run(queue, job, "kettle.yaml")


async def test_nothing_is_imported_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("yaml", "json", "orjson"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    async with Workers(1) as pool:
        catalog = await parse(Tree(FIXTURES, ("kettle.yaml",), ""), None, KEY, pool, scratch=tmp_path / "s")
    assert list(catalog.findings) == []


async def test_processes_that_are_prepared_do_the_work_that_comes(tmp_path: Path) -> None:
    before = set(children())
    async with Workers(3) as pool:
        await pool.prepare(Format.FBC)
        prepared = set(children()) - before
        assert len(prepared) == 2
        await pool.prepare(Format.FBC)
        catalog = await parse(Tree(FIXTURES, ("kettle.yaml",), ""), None, KEY, pool, scratch=tmp_path / "s")
        assert [package.name for package in catalog.packages] == ["kettle"]
        assert set(children()) - before == prepared
    assert set(children()) == before


async def test_where_no_process_can_be_prepared_the_work_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Workers(2) as pool:
        monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
        await pool.prepare(Format.FBC)
        with pool.queue() as queue, pytest.raises(CatalogError, match="cannot start a parse worker"):
            await pool.run(queue, b"[]", "the thing")


async def test_processes_start_with_the_work_and_none_outlives_the_pool(tmp_path: Path) -> None:
    before = children()
    async with Workers(2) as pool:
        assert children() == before
        await parse(Tree(FIXTURES, ("kettle.yaml",), ""), None, KEY, pool, scratch=tmp_path / "s")
        assert len(children()) == len(before) + 1
    assert children() == before


async def test_nobody_outlives_a_pool_that_is_cancelled_at_work(tmp_path: Path) -> None:
    before = children()
    (tmp_path / "slow.yaml").write_text("schema: x\na:\n" + "- {b: c, d: e}\n" * 400_000)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.4), Workers(1) as pool:
            await parse(Tree(tmp_path, ("slow.yaml",), ""), None, KEY, pool, scratch=tmp_path / "s")
    assert children() == before
