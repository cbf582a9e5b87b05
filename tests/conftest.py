"""Fixtures for everybody: a real etcd for the session, a client of it, and a prefix of one's own to keep apart."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

import hypothesis
import pytest

from cacheserver.etcd.client import Client
from tests.support import left
from tests.support.etcd import EtcdProcess, FoundEtcd, ServerTLS, find_etcd
from tests.support.fuzz import EXAMPLES

# A busy machine is not a failure: nothing here is judged by its time. Whoever looks longer, does so in all property
# tests: 100 examples are Hypothesis's own measure.
hypothesis.settings.register_profile("cacheserver", deadline=None, max_examples=max(100, EXAMPLES))
hypothesis.settings.load_profile("cacheserver")

left.watch()

found_etcd = cache(find_etcd)

_HERE: Final = Path(__file__).parent


def pytest_report_header() -> str:
    found = found_etcd()
    if found is None:
        return "etcd: none found; set CACHESERVER_TEST_ETCD or install the test extra"
    return f"etcd: {found.version} at {found.path} (from {found.origin})"


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(
        config.option, "loadscopereorder"
    ):  # of pytest-xdist, from 3.8 on: files go in the order that is made here
        config.option.loadscopereorder = False


def _rank(item: pytest.Item) -> tuple[bool, bool]:
    """Whole servers before etcd's and unit tests that start processes, and these before what takes milliseconds."""
    unit = _HERE / "unit" in item.path.parents
    return unit and item.get_closest_marker("processes") is None, unit or _HERE / "etcd" in item.path.parents


@pytest.hookimpl(trylast=True)  # marks are given by then, and -m has chosen
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long go first, so that at the end no worker has one for itself: by rank, then by their tests."""
    tests = Counter(item.path for item in items)
    ranks: dict[Path, tuple[bool, bool]] = {}
    for item in items:
        ranks[item.path] = min(_rank(item), ranks.get(item.path, (True, True)))
    items.sort(key=lambda item: (ranks[item.path], -tests[item.path]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    yield
    if found := left.behind():  # after fixtures: the test's loop is closed
        pytest.fail(f"{item.nodeid} left connections open: {', '.join(found)}", pytrace=False)


@pytest.fixture(scope="session")
def etcd_binary() -> FoundEtcd:
    found = found_etcd()
    if found is None:
        pytest.skip("no etcd binary found")
    return found


@pytest.fixture(scope="session")
def etcd_process(etcd_binary: FoundEtcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    """The session's etcd. Not to be hurt, and not to be compacted or filled: that is what start_etcd is for."""
    process = EtcdProcess(etcd_binary, tmp_path_factory.mktemp("etcd"))
    try:
        process.start()
        yield process
    finally:
        process.stop()


@pytest.fixture(scope="session")
def etcd_endpoint(etcd_process: EtcdProcess) -> str:
    return etcd_process.endpoint


@pytest.fixture
async def etcd_client(etcd_endpoint: str) -> AsyncIterator[Client]:
    """Connected to the session's etcd; keys under `prefix` are this test's alone."""
    async with Client([etcd_endpoint]) as client:
        yield client


@pytest.fixture
def prefix() -> bytes:
    """Ends in a slash, unique to this test."""
    return f"/test/{uuid.uuid4().hex}/".encode()


StartEtcd = Callable[..., EtcdProcess]


@pytest.fixture
def start_etcd(etcd_binary: FoundEtcd, tmp_path: Path) -> Iterator[StartEtcd]:
    """`start_etcd(*flags, tls=None)`: an etcd of this test's own, serving, which it may compact, hang and kill."""
    started: list[EtcdProcess] = []

    def start(*flags: str, tls: ServerTLS | None = None) -> EtcdProcess:
        directory = tmp_path / f"etcd-{len(started)}"
        directory.mkdir()
        process = EtcdProcess(etcd_binary, directory, flags=flags, tls=tls)
        started.append(process)
        process.start()
        return process

    try:
        yield start
    finally:
        for process in started:
            process.stop()
