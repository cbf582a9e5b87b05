"""The shape of the code: how long files and functions may be. Who may import whom is import-linter's (`make check`)."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = {"etcd_pb2.py"}
FILES = sorted(path for path in (ROOT / "cacheserver").rglob("*.py") if path.name not in GENERATED)

MOST_LINES = 800
MEDIAN_LINES = 200
MOST_FUNCTION_LINES = 60


def _lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def _functions(path: Path) -> Iterator[tuple[str, int]]:
    """(name, lines from `def` to the last one) of each function, nested ones too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    assert _lines(path) <= MOST_LINES
    assert [name for name, lines in _functions(path) if lines > MOST_FUNCTION_LINES] == []


def test_half_of_the_files_are_short() -> None:
    assert statistics.median(_lines(path) for path in FILES) <= MEDIAN_LINES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_opens_with_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_only_settings_read_a_variable() -> None:
    # House rule: read once at start. Handing the environment to a child process, or to config.load, is no read.
    reads = re.compile(r"os\.environ(\.get\(|\[)|os\.getenv")
    assert [path.name for path in FILES if reads.search(path.read_text(encoding="utf-8"))] == ["settings.py"]


def _shared(tree: ast.AST) -> set[str]:
    """Names that a function changes for those around it."""
    return {name for node in ast.walk(tree) if isinstance(node, ast.Nonlocal | ast.Global) for name in node.names}


def _lost_updates(source: str) -> list[int]:
    """Lines that read what others can change, wait, and write it: what was written meanwhile is lost."""
    tree = ast.parse(source)
    shared, found = _shared(tree), []
    for node in ast.walk(tree):
        targets: list[ast.expr]
        sums: list[ast.expr]
        if isinstance(node, ast.AugAssign):
            targets, sums = [node.target], [node.value]
        elif isinstance(node, ast.Assign):
            # x = x + await ...: a sum of both. In x = await f(x) it is for f to know what it does.
            targets = node.targets
            names = {ast.unparse(target) for target in targets}
            pairs = [part for part in ast.walk(node.value) if isinstance(part, ast.BinOp)]
            sums = [pair for pair in pairs if names & {ast.unparse(side) for side in (pair.left, pair.right)}]
        else:
            continue
        waits = any(isinstance(part, ast.Await) for each in sums for part in ast.walk(each))
        if waits and any(not isinstance(target, ast.Name) or target.id in shared for target in targets):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_shared_is_read_before_a_wait_and_written_after_it(path: Path) -> None:
    assert _lost_updates(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("line", "lost"),
    [
        ("count += await remove()", True),
        ("count = count + await remove()", True),
        ("self.count += await remove()", True),
        ("self.sizes[key] += await remove()", True),
        ("self.count = self.count + len(await remove())", True),
        ("mine += await remove()", False),
        ("self.count = await remove()", False),
        ("removed = await remove(); self.count += removed", False),
    ],
)
def test_a_lost_update_is_recognised(line: str, lost: bool) -> None:
    source = f"async def f(self):\n    count = mine = 0\n    async def g():\n        nonlocal count\n        {line}"
    assert bool(_lost_updates(source)) is lost
