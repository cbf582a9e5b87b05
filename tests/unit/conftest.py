"""What keeps `make unit` fast and alike everywhere: a test that starts a process has the mark `processes`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

STARTING: Final = ("workers", "etcd_process", "start_etcd")
"""Fixtures that start processes: whoever asks for one, also by way of another, has the mark by that."""

_EVENTS: Final = frozenset(("subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"))
_forbidden = ""
"""The test that may start none, while it runs."""


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and isinstance(item, pytest.Function) and {*STARTING} & {*item.fixturenames}:
            item.add_marker("processes")


def _audit(event: str, arguments: object) -> None:
    if event in _EVENTS and _forbidden:
        raise RuntimeError(f"{_forbidden} starts a process ({event}): give it the mark `processes`")


sys.addaudithook(_audit)


@pytest.fixture(autouse=True)
def no_process_without_a_mark(request: pytest.FixtureRequest) -> Iterator[None]:
    global _forbidden  # noqa: PLW0603  # an audit hook is the process's, and knows no test
    _forbidden = "" if request.node.get_closest_marker("processes") else request.node.nodeid
    yield
    _forbidden = ""
