"""The shape of the code: how long files and functions may be. Who may import whom is import-linter's (`make check`)."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = {"etcd_pb2.py"}
FILES = sorted(path for path in (ROOT / "cacheserver").rglob("*.py") if path.name not in GENERATED)

MOST_LINES = 800
MEDIAN_LINES = 200
MOST_FUNCTION_LINES = 60


@pytest.fixture(scope="module")
def sources() -> Mapping[str, str]:
    """Path below the checkout -> text."""
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}


@pytest.fixture(scope="module")
def trees(sources: Mapping[str, str]) -> Mapping[str, ast.Module]:
    return {path: ast.parse(source) for path, source in sources.items()}


def _functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(name, lines from `def` to the last one) of each function, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_a_file_can_be_read_in_one_sitting(sources: Mapping[str, str]) -> None:
    assert len(sources) > 100
    assert {path: lines for path, text in sources.items() if (lines := text.count("\n")) > MOST_LINES} == {}


def test_a_function_fits_a_screen(trees: Mapping[str, ast.Module]) -> None:
    long = [(path, *each) for path, tree in trees.items() for each in _functions(tree) if each[1] > MOST_FUNCTION_LINES]
    assert long == []


def test_half_of_the_files_are_short(sources: Mapping[str, str]) -> None:
    assert statistics.median(text.count("\n") for text in sources.values()) <= MEDIAN_LINES


def test_a_file_opens_with_what_it_is_for(trees: Mapping[str, ast.Module]) -> None:
    assert [path for path, tree in trees.items() if not ast.get_docstring(tree)] == []


def test_only_settings_read_a_variable(sources: Mapping[str, str]) -> None:
    # House rule: read once at start. Handing the environment to a child process, or to config.load, is no read.
    reads = re.compile(r"os\.environ(\.get\(|\[)|os\.getenv")
    assert [path for path, text in sources.items() if reads.search(text)] == ["cacheserver/config/settings.py"]


def _shared(tree: ast.AST) -> set[str]:
    """Names that a function changes for those around it."""
    return {name for node in ast.walk(tree) if isinstance(node, ast.Nonlocal | ast.Global) for name in node.names}


def _lost_updates(tree: ast.AST) -> list[int]:
    """Lines that read what others can change, wait, and write it: what was written meanwhile is lost."""
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


def test_nothing_shared_is_read_before_a_wait_and_written_after_it(trees: Mapping[str, ast.Module]) -> None:
    assert {path: lines for path, tree in trees.items() if (lines := _lost_updates(tree))} == {}


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
    assert bool(_lost_updates(ast.parse(source))) is lost
