"""Conditions, ranges, encodings and queries, as Go's net/http reads them."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from cacheserver.compat.catalogd.conditions import (
    Encoding,
    Unsatisfiable,
    Verdict,
    Version,
    clean,
    encoding_for,
    judge,
    one_range,
    parse_query,
)

CHANGED = 1_800_000_000
VERSION = Version("abc", CHANGED, since=CHANGED + 60.5)
SEND, SAME, FAILED = Verdict.SEND, Verdict.NOT_MODIFIED, Verdict.FAILED


def at(seconds: int) -> str:
    return formatdate(CHANGED + seconds, usegmt=True)


@pytest.mark.parametrize(
    ("headers", "verdict"),
    [
        ({}, SEND),
        ({"If-None-Match": '"abc"'}, SAME),
        ({"If-None-Match": 'W/"abc"'}, SAME),
        ({"If-None-Match": '"other", "abc-gzip"'}, SAME),
        ({"If-None-Match": '"abc-zstd"'}, SAME),
        ({"If-None-Match": "*"}, SAME),
        ({"If-None-Match": '"abcd"'}, SEND),
        ({"If-None-Match": '"x",' * 5_000 + '"abc"'}, SEND),
        ({"If-None-Match": '"x"', "If-Modified-Since": at(0)}, SEND),
        ({"If-Match": '"x"'}, FAILED),
        ({"If-Match": "*"}, SEND),
        ({"If-Match": '"abc"'}, SEND),
        ({"If-Match": '"x"', "If-None-Match": '"abc"'}, FAILED),
        ({"If-Unmodified-Since": at(-1)}, FAILED),
        ({"If-Unmodified-Since": at(0)}, SEND),
        ({"If-Unmodified-Since": "soon"}, SEND),
        ({"If-Match": '"abc"', "If-Unmodified-Since": at(-1)}, SEND),
        ({"If-Modified-Since": at(0)}, SAME),
        ({"If-Modified-Since": at(-1)}, SEND),
        ({"If-Modified-Since": at(3600)}, SAME),
        ({"If-Modified-Since": "yesterday"}, SEND),
        ({"If-Modified-Since": "Friday, 15-Jan-27 08:00:00 GMT"}, SAME),
        ({"If-Modified-Since": "Fri Jan 15 08:00:00 2027"}, SAME),
        ({"If-Modified-Since": "9" * 5_000}, SEND),
    ],
)
def test_conditions_in_the_order_of_the_rule(headers: dict[str, str], verdict: Verdict) -> None:
    assert judge(headers, VERSION) is verdict


def test_a_time_between_the_content_and_this_processs_knowledge_proves_nothing() -> None:
    """It may be of newer content, that went with an etcd which was restored: whoever has that is to get ours."""
    for seconds, verdict in ((0, SAME), (1, SEND), (60, SEND), (61, SAME), (100, SAME)):
        assert judge({"If-Modified-Since": at(seconds)}, VERSION) is verdict


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("bytes=0-9", (0, 10)),
        ("bytes=5-", (5, 100)),
        ("bytes=-5", (95, 100)),
        ("bytes=-500", (0, 100)),
        ("bytes=99-1000", (99, 100)),
        ("bytes= 3 - 4 ", None),
        ("bytes=0-0", (0, 1)),
        ("bytes=0-1,4-5", None),
        ("bytes=" + "0-1," * 20_000, None),
        ("bytes=0-" + "9" * 500, (0, 100)),
    ],
)
def test_one_range_is_a_part_and_several_are_the_whole(asked: str, found: tuple[int, int] | None) -> None:
    if asked == "bytes= 3 - 4 ":
        with pytest.raises(Unsatisfiable, match="invalid range"):
            one_range({"Range": asked}, VERSION, 100)
        return
    assert one_range({"Range": asked}, VERSION, 100) == found


@pytest.mark.parametrize("asked", ["bytes=", "bytes=a-b", "bytes=5-4", "bytes", "lines=0-1", "bytes=-"])
def test_what_is_no_range_is_refused(asked: str) -> None:
    with pytest.raises(Unsatisfiable, match=r"\Ainvalid range\Z"):
        one_range({"Range": asked}, VERSION, 100)


@pytest.mark.parametrize(("asked", "size"), [("bytes=100-", 100), ("bytes=-0", 100), ("bytes=0-0", 0), ("bytes=-1", 0)])
def test_a_range_without_a_byte_is_refused(asked: str, size: int) -> None:
    with pytest.raises(Unsatisfiable, match="failed to overlap"):
        one_range({"Range": asked}, VERSION, size)


@pytest.mark.parametrize(
    ("unless", "part"), [('"abc"', True), (at(0), True), ('"old"', False), (at(-1), False), ('W/"abc"', False)]
)
def test_a_range_of_other_content_is_the_whole(unless: str, part: bool) -> None:
    asked = {"Range": "bytes=0-1", "If-Range": unless}
    assert one_range(asked, VERSION, 100) == ((0, 2) if part else None)


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("", Encoding.IDENTITY),
        ("gzip", Encoding.GZIP),
        ("gzip, deflate, br, zstd", Encoding.ZSTD),
        ("GZip;q=1.0, zstd;q=0.5", Encoding.GZIP),
        ("gzip;q=0", Encoding.IDENTITY),
        ("zstd;q=0, gzip;q=0.1", Encoding.GZIP),
        ("zstd;q=nonsense", Encoding.IDENTITY),
        ("br", Encoding.IDENTITY),
        ("gzip," * 5_000, Encoding.IDENTITY),
    ],
)
def test_the_best_encoding_that_is_accepted(accepted: str, encoding: Encoding) -> None:
    assert encoding_for(accepted) is encoding


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("schema=a&schema=b", {"schema": "a"}),
        ("schema=", {"schema": ""}),
        ("name", {"name": ""}),
        ("name=a+b%2Fc%C3%A9", {"name": "a b/cé"}),
        ("name=%zz&schema=a", {"schema": "a"}),
        ("name=a;b", {}),
        ("&&name=a&", {"name": "a"}),
    ],
)
def test_a_query_is_read_as_go_reads_it(text: str, found: dict[str, str]) -> None:
    assert parse_query(text) == found


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        ("/catalogs/a/api/v1/all", "/catalogs/a/api/v1/all"),
        ("//catalogs//a", "/catalogs/a"),
        ("/x/../catalogs/./a", "/catalogs/a"),
        ("/../..", "/"),
        ("/a/", "/a/"),
        ("/a/b/..", "/a/"),
        ("/", "/"),
    ],
)
def test_a_path_is_cleaned_as_go_cleans_it(path: str, cleaned: str) -> None:
    assert clean(path) == cleaned
