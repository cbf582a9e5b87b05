"""Versions and ranges: as strict as blang/semver, and ordered as semver 2.0 says."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.catalogs.semver import Version, check_range, check_release, parse, parse_range

numbers = st.integers(0, 30)
identifiers = st.from_regex(r"\A([1-9][0-9]{0,3}|0|[a-zA-Z-][0-9A-Za-z-]{0,4})\Z")
versions = st.builds(
    Version,
    numbers,
    numbers,
    numbers,
    st.lists(identifiers, max_size=3).map(tuple),
    st.lists(st.from_regex(r"\A[0-9A-Za-z-]{1,4}\Z"), max_size=2).map(tuple),
)


@given(versions)
def test_a_version_reads_back(version: Version) -> None:
    again = parse(str(version))
    assert (again, again.build) == (version, version.build)


@given(versions, versions, versions)
def test_the_order_is_total(a: Version, b: Version, c: Version) -> None:
    assert (a < b) + (b < a) + (a == b) == 1
    if a < b and b < c:
        assert a < c


def test_the_order_is_the_one_of_the_specification() -> None:
    # semver 2.0, item 11
    rising = (
        "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0 1.0.1 1.10.0"
    )
    parsed = [parse(text) for text in rising.split()]
    assert [a < b for a, b in pairwise(parsed)] == [True] * (len(parsed) - 1)
    assert parse("1.0.0+a") == parse("1.0.0+b")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.0",
        "v1.0.0",
        "1.0.0.1",
        "01.0.0",
        "1.00.0",
        "1.0.01",
        "1.0.0-",
        "1.0.0-a..b",
        "1.0.0-01",
        "1.0.0+",
        "1.0.0+a_b",
        "1.0.0-ü",
        "1.0.0 ",
        " 1.0.0",
        "1.-1.0",
        "18446744073709551616.0.0",
        "٣.0.0",
        "1.0.x",
        "9" * 5000 + ".0.0",
    ],
)
def test_what_blang_refuses_is_no_version(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "1.0.0",
        "<1.0.0",
        ">=1.0.0 <1.2.0",
        ">= 1.0.0 < 1.2.0",
        "1.0.0 || 2.0.0",
        ">=1.0.0 <1.1.0 || 2.x",
        "!1.0.0",
        "!=1.0.0",
        "==1.0.0",
        "=1.0.0",
        "1.x",
        "1.2.x",
        ">1.x.x",
        "<=1.x",
        ">=1.0.0-x1",
        "<1.0.0-rc.1",
        " 1.0.0 ",
        "1.0.0 7",
    ],
)
def test_ranges_that_blang_reads(text: str) -> None:
    check_range(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "abc",
        "<v1.0.0",
        ">=1.0.0 <01.2.0",
        "1.0",
        "~1.0.0",
        "^1.0.0",
        "||",
        "|| 1.0.0",
        "1.0.0 ||",
        ">1.0.0-x1",
        "x",
        "1.x.1",
        "=>1.0.0",
        "1.0.0,2.0.0",
    ],
)
def test_ranges_that_blang_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        check_range(text)


def test_releases() -> None:
    for good in ("1", "0", "rc.1", "a" * 20):
        check_release(good)
    for bad in ("01", "!!", "a" * 21, "a..b", "1."):
        with pytest.raises(ValueError, match=r"."):
            check_release(bad)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("1.2.x", "1.2.0 1.2.9", "1.1.9 1.3.0 1.2.0-rc.1"),
        ("1.x", "1.0.0 1.9.9", "0.9.0 2.0.0"),
        (">1.2.x", "1.3.0 2.0.0", "1.2.9"),
        ("<=1.x", "0.1.0 1.9.9", "2.0.0"),
        (">=2.1.x <2.2.1", "2.1.0 2.2.0", "2.0.9 2.2.1"),
        ("1.x.x", "1.0.9", "1.1.0"),
        ("!=1.2.x", "", "1.1.0 1.2.0 1.3.0"),
        ("<1.0.0 || >=2.0.0 !2.1.0", "0.9.0 2.0.0", "1.0.0 2.1.0"),
        ("<0.8.1-rc.1", "0.8.0 0.8.1-alpha", "0.8.1-rc.1 0.8.1"),
        ("<1.0.0+2", "0.9.0", "1.0.0+1 1.0.0"),
    ],
)
def test_a_range_holds_what_blang_holds(text: str, inside: str, outside: str) -> None:
    held = parse_range(text)
    assert [each for each in inside.split() if not held.holds(parse(each))] == []
    assert [each for each in outside.split() if held.holds(parse(each))] == []
