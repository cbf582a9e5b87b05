"""What a write tells: bounded whatever a catalog says, named in the order of time."""

from __future__ import annotations

import uuid
from typing import Any

import orjson
import pytest

from cacheserver.model import Key, Kind, Record, encode, uid_of
from cacheserver.names import MAX_NAME
from cacheserver.store import news
from cacheserver.store.journal import share
from cacheserver.store.news import MOST_BYTES, News, between, moment, name_of

PACKAGE = Key(Kind.PACKAGE, "ns", "repo", "app")
REVISION = Key(Kind.REVISION, "ns", "repo", "app", "1.0.0")


def manifest(key: Key, **status: Any) -> bytes:
    spec = {"repository": "repo", "packageName": "app", "format": "FBC"}
    if key.kind is Kind.REVISION:
        spec |= {"revision": "app.v1.0.0", "version": "1.0.0", "lifecycle": "Published"}
    record = Record(key, {"cacheserver.dev/package": "app"}, orjson.dumps(spec), orjson.dumps(status))
    return encode(record, previous=None, now="2026-11-20T10:00:00Z")


def channel(name: str, head: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "head": head, "headVersion": head.removeprefix("app.v"), **more}


def spec_of(found: News | None) -> dict[str, Any]:
    assert found is not None
    spec: dict[str, Any] = orjson.loads(news.encode(found, name_of(0.0), 0.0))["spec"]
    return spec


def test_channels_that_move_come_and_go_are_told_with_their_heads() -> None:
    before = manifest(PACKAGE, defaultChannel="a", channels=[channel("a", "app.v1"), channel("b", "app.v1")])
    after = manifest(PACKAGE, defaultChannel="c", channels=[channel("a", "app.v2"), channel("c", "app.v2")])
    spec = spec_of(between(PACKAGE, before, after))
    assert spec["changes"] == [
        {"type": "DefaultChannelMoved", "from": "a", "to": "c"},
        {
            "type": "ChannelHeadMoved",
            "channel": "a",
            "from": "app.v1",
            "to": "app.v2",
            "fromVersion": "1",
            "toVersion": "2",
        },
        {"type": "ChannelHeadMoved", "channel": "b", "from": "app.v1", "fromVersion": "1"},
        {"type": "ChannelHeadMoved", "channel": "c", "to": "app.v2", "toVersion": "2"},
    ]
    assert spec["summary"] == "default channel: a -> c; a: 1 -> 2; channel b gone; channel c added: 2"


@pytest.mark.parametrize("message", ["", "use another"])
def test_a_deprecation_is_told_when_it_comes_and_when_it_goes(message: str) -> None:
    plain, said = manifest(REVISION), manifest(REVISION, deprecation={"message": message or "x"})
    assert [change["type"] for change in spec_of(between(REVISION, plain, said))["changes"]] == ["Deprecated"]
    assert [change["type"] for change in spec_of(between(REVISION, said, plain))["changes"]] == ["Undeprecated"]
    assert between(REVISION, said, manifest(REVISION, deprecation={"message": "other words"})) is None


def test_what_nobody_follows_is_no_news() -> None:
    assert between(PACKAGE, manifest(PACKAGE, summary="a"), manifest(PACKAGE, summary="b")) is None


def test_what_a_hostile_catalog_says_stays_within_an_object() -> None:
    heads = ["app.v" + "\x00\U0001f600" * 2000 + str(at) for at in (1, 2)]
    names = [f'{at}<script>"' + "\x01" * 300 for at in range(3000)]
    before, after = (manifest(PACKAGE, channels=[channel(name, head) for name in names]) for head in heads)
    found = between(PACKAGE, before, after)
    assert found is not None
    written = news.encode(found, name_of(0.0), 0.0)
    assert len(written) < MOST_BYTES
    spec = orjson.loads(written)["spec"]
    assert len(spec["changes"]) + spec["omitted"] == 3000


def test_names_are_valid_and_sort_by_time() -> None:
    names = [name_of(1_700_000_000 + at / 1000) for at in range(1500)]
    assert names == sorted(names)
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= MAX_NAME
    assert names[0] > moment(1_700_000_000_000) > name_of(1_699_999_999.999)
    assert Key(Kind.CHANGE, "ns", "", "", "x").kind == "packagechanges"


def test_uids_are_those_of_the_standard() -> None:
    """RFC 9562, 5.5: as anybody's library makes them, for they are kept for ever."""
    namespace = uuid.UUID("6c1f9c5e-5c1b-5f0e-9b53-2d1f0f6d9a11")
    for name in (*map(str, range(64)), "\u00e9", ""):
        wanted = "/".join(part for part in ("packagechanges", "ns", name) if part)
        assert uid_of(Kind.CHANGE, "ns", name) == str(uuid.uuid5(namespace, wanted))


@pytest.mark.parametrize(
    ("counts", "most", "each"),
    [([], 10, 10), ([3, 4], 10, 10), ([8, 8], 10, 5), ([1, 100], 10, 9), ([1, 4, 100], 10, 5), ([7], 0, 0)],
)
def test_who_has_less_than_its_share_keeps_all(counts: list[int], most: int, each: int) -> None:
    assert share(counts, most) == each
    assert sum(min(count, each) for count in counts) <= most
