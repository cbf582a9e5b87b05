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
