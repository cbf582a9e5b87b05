"""Since when: as people say it, and no more is read than that."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest

from cacheserver.client.catalog import Catalog
from cacheserver.client.changes import changes, moment, since
from cacheserver.client.connection import ClientError, Direct, Object
from cacheserver.client.output import Output
from cacheserver.store.news import moment as name_of_moment

NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)  # a Friday


@pytest.mark.parametrize(
    ("since", "names_from"),
    [
        ("2d", "20261118t100000"),
        ("36h", "20261118t220000"),
        ("999999w", ""),
        ("2026-11-20T08:00:00Z", "20261120t080000"),
        ("2026-11-20T08:00:00+02:00", "20261120t060000"),
    ],
)
def test_a_time_is_what_names_begin_with(since: str, names_from: str) -> None:
    assert moment(since, NOW) == names_from


def test_a_day_of_the_week_is_the_last_one() -> None:
    days = [moment(day, NOW) for day in ("monday", "Tuesday", "friday", "saturday")]
    assert days[3] < days[0] < days[1] < days[2]


def test_what_happens_then_is_named_not_below() -> None:
    assert name_of_moment(int(NOW.timestamp() * 1000)) > moment("2026-11-20T10:00:00Z", NOW)
    assert name_of_moment(int(NOW.timestamp() * 1000) - 1) < moment("2026-11-20T10:00:00Z", NOW)


def test_what_is_no_time_is_refused_with_examples() -> None:
    with pytest.raises(ClientError, match=r"--since yesterday: give 2d, 36h"):
        moment("yesterday", NOW)


def test_a_watch_that_was_cut_in_the_midst_of_an_event_is_asked_for_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (_event(name, version) for name, version in (("one", "5"), ("two", "6")))
    answers = [[first, second[:40]], [second]]
    asked: list[str] = []

    def lines(self: Direct, path: str) -> Iterator[bytes]:
        asked.append(path)
        if not answers:
            raise ClientError("enough")
        yield from answers.pop(0)

    begin = {"items": [], "metadata": {"resourceVersion": "4"}}
    monkeypatch.setattr(Direct, "get", lambda self, path: json.dumps(begin).encode())
    monkeypatch.setattr(Direct, "lines", lines)
    monkeypatch.setattr("time.sleep", lambda s: None)
    catalog = Catalog(Direct("http://127.0.0.1:9"), "default")
    wanted = Namespace(all_namespaces=False, package="", repository="", type="", since="", watch=True)
    with pytest.raises(ClientError, match="enough"):
        changes(catalog, wanted, Output("name"))
    assert [line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()] == ["one", "two"]
    assert ["resourceVersion=4" in asked[0], "resourceVersion=5" in asked[1]] == [True, True]


def _event(name: str, version: str) -> bytes:
    metadata = {"name": name, "uid": name, "resourceVersion": version}
    return json.dumps({"type": "ADDED", "object": {"kind": "PackageChange", "metadata": metadata}}).encode() + b"\n"


class Pages:
    """A server with changes named after days, in pages of two. newest_first: it knows that order."""

    namespace = "default"

    def __init__(self, *, newest_first: bool) -> None:
        self.days = sorted((f"202611{day:02}t080000.000z" for day in range(1, 21)), reverse=newest_first)
        self.asked = 0

    def get(self, path: str) -> bytes:
        self.asked += 1
        query = {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
        assert query["order"] == "newest"
        at = int(query.get("continue", "0"))
        more = {"continue": str(at + 2)} if at + 2 < len(self.days) else {}
        items = [{"metadata": {"name": name}} for name in self.days[at : at + 2]]
        return json.dumps({"items": items, "metadata": more}).encode()

    def send(self, verb: str, path: str, body: object = None) -> Object:
        raise AssertionError((verb, path, body))


@pytest.mark.parametrize(("newest_first", "asked"), [(True, 2), (False, 10)])
def test_no_more_is_read_than_what_is_asked_for_also_from_a_server_that_has_the_oldest_first(
    newest_first: bool, asked: int
) -> None:
    server = Pages(newest_first=newest_first)
    found = since(Catalog(server, "default"), "", "20261118t100000")
    assert [one["metadata"]["name"][:8] for one in found] == ["20261119", "20261120"]
    assert server.asked == asked
