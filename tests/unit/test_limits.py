"""docs/limits.md says what the code keeps to: every limit it names has the value it tells, and none is left out."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cacheserver.catalogs.limits import ParseLimits
from cacheserver.config import SETTINGS
from cacheserver.sources.tree import Limits

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"
UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "s": 1}
MISSING = "give it a row in docs/limits.md: what it bounds, its value, who sets it, and why"
BY_SETTING = {"total_bytes", "file_bytes", "files", "names_bytes", "refs", "git_memory_bytes", "git_cpu_s"}
"""Limits of a source that a setting gives."""


class Row(NamedTuple):
    limit: str
    most: float
    set_by: str


def _rows() -> Iterator[Row]:
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"\| ([^|]+) \| ([\d,.]+) ?([A-Za-z]*) \| `([^`]+)` \| [^|]+ \|", line):
            yield Row(found[1], float(found[2].replace(",", "")) * UNITS[found[3]], found[4])


ROWS = list(_rows())


def _value(dotted: str) -> Any:
    """A constant, or the default of a dataclass's field."""
    module, _, name = f"cacheserver.{dotted}".rpartition(".")
    owner: Any
    if module.rpartition(".")[2][0].isupper():
        module, _, of = module.rpartition(".")
        owner = getattr(importlib.import_module(module), of)
        return next(field.default for field in dataclasses.fields(owner) if field.name == name)
    return getattr(importlib.import_module(module), name)


def test_the_page_is_read_whole() -> None:
    """A row that the test does not understand would be one that it does not check."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert len(ROWS) == len([line for line in lines if not line.startswith("| limit ")])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.set_by)
def test_a_limit_is_what_the_page_says(row: Row) -> None:
    if not row.set_by.startswith("--"):
        assert _value(row.set_by) == row.most
        return
    [setting] = [setting for setting in SETTINGS if setting.flag == row.set_by]
    [default] = [field.default for field in dataclasses.fields(setting.subject) if field.name == setting.field]
    assert default == row.most


def test_every_limit_with_a_setting_stands_on_the_page() -> None:
    told = {row.set_by for row in ROWS}
    assert {setting.flag for setting in SETTINGS if setting.flag.startswith("--max-")} - told == set(), MISSING


def test_every_limit_of_sources_and_catalogs_stands_on_the_page() -> None:
    told = {row.set_by for row in ROWS}
    of_sources = {f"sources.tree.Limits.{field.name}" for field in dataclasses.fields(Limits)}
    assert of_sources - told == {f"sources.tree.Limits.{name}" for name in BY_SETTING}, MISSING
    of_parses = {f"catalogs.limits.ParseLimits.{field.name}" for field in dataclasses.fields(ParseLimits)}
    assert of_parses - told == {f"catalogs.limits.ParseLimits.{name}" for name in ("file_bytes", "document_bytes")}, (
        MISSING
    )
