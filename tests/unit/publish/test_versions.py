"""Which versions may be named above those that are published. Pure."""

from __future__ import annotations

import pytest

from cacheserver.publish import versions


@pytest.mark.parametrize(
    ("version", "there"),
    [
        ("1.0.0", []),
        ("1.2.4", ["v1.2.3", "v1.3.0", "v2.0.0"]),  # a correction of an older line
        ("1.3.0-rc.1", ["v1.2.9"]),
        ("1.3.0", ["v1.3.0-rc.1"]),
        ("v1.0.0", ["v7", "main", "", "1.2"]),  # numbers, branches: no versions
    ],
)
def test_a_version_is_above_those_of_its_line(version: str, there: list[str]) -> None:
    assert versions.not_above(version, there) == ""


@pytest.mark.parametrize(
    ("version", "there", "highest"),
    [
        ("1.2.3", ["v1.2.3"], "v1.2.3"),
        ("1.2.2", ["v1.2.1", "v1.2.3"], "v1.2.3"),
        ("1.3.0-rc.1", ["1.3.0"], "v1.3.0"),
        ("1.3.0+b", ["v1.3.0+a"], "v1.3.0+a"),  # build metadata makes no version higher
    ],
)
def test_what_is_not_above_names_the_highest(version: str, there: list[str], highest: str) -> None:
    assert f"above {highest}," in versions.not_above(version, there)


def test_a_version_has_a_length() -> None:
    assert versions.wrong_with("1.0.0-" + "x" * (versions.VERSION_MOST - 6)) == ""
    assert "at most 128" in versions.wrong_with("1.0.0-" + "x" * (versions.VERSION_MOST - 5))
