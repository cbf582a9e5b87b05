"""Since when: as people say it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cacheserver.client.changes import moment
from cacheserver.client.connection import ClientError
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
