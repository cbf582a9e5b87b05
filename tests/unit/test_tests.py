"""Rules that the tests themselves keep."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

SLEEPS = {
    "support/waiting.py": (2, "polls what another process does, with a limit: everybody else waits by it"),
    "support/writing.py": (1, "a client that is answered 503 with Retry-After, before it asks again"),
    "support/server.py": (1, "a client whose server went, before it asks again"),
    "e2e/test_watch_correctness.py": (
        3,
        "clients that dawdle or ask again, and a writer that pauses: it is about them",
    ),
    "support/authors.py": (2, "clients whose server went, or that are told to come back, before they ask again"),
    "e2e/test_random_authoring.py": (2, "how long a trouble lasts, and how often content is looked at"),
    "etcd/test_life.py": (1, "a remote that sends for ever, and leaves the processor to whoever looks at the disk"),
    "hostile/arena.py": (1, "an attack lasts long enough for the honest client's percentiles"),
    "hostile/honest.py": (1, "asks at an even pace: what it measures is how late the answers are"),
    "hostile/clients.py": (4, "attackers that hold what they have, in real time"),
    "hostile/test_clients.py": (1, "attackers that hold what they have, in real time"),
}
"""File -> (sleeps, why time can be neither faked nor an event awaited)."""


def _sleeps(source: str) -> Iterator[int]:
    """Lines that sleep for longer than a turn of the loop."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or ast.unparse(node.func).rpartition(".")[2] != "sleep":
            continue
        if [ast.unparse(argument) for argument in node.args] != ["0"]:
            yield node.lineno


def test_nobody_sleeps_where_an_event_can_be_awaited() -> None:
    found = {str(path.relative_to(TESTS)): list(_sleeps(path.read_text("utf-8"))) for path in TESTS.rglob("*.py")}
    unexpected = {path: lines for path, lines in found.items() if len(lines) != SLEEPS.get(path, (0, ""))[0]}
    assert unexpected == {}, "wait by tests.support.waiting.eventually, or for an asyncio.Event"


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        ("await asyncio.sleep(0)", []),
        ("await asyncio.sleep(0.01)", [1]),
        ("time.sleep(pause_s)", [1]),
        ("sleep()", [1]),
        ("asleep(1)", []),
    ],
)
def test_a_sleep_is_recognised(line: str, lines: list[int]) -> None:
    assert list(_sleeps(f"async def f(): {line}" if "await" in line else line)) == lines
