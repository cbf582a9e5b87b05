"""Since when: as people say it."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from cacheserver.client.catalog import Catalog
from cacheserver.client.changes import changes, moment
from cacheserver.client.connection import ClientError, Direct
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
