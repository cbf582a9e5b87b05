"""Ages as kubectl prints them (cases of k8s.io/apimachinery/pkg/util/duration), and how long they stay true."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.api.ages import age

HOUR, DAY, YEAR = 3600, 86400, 365 * 86400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (70, "70s"),
        (119, "119s"),
        (120, "2m"),
        (190, "3m10s"),
        (599, "9m59s"),
        (600, "10m"),
        (47 * 60, "47m"),
        (3 * HOUR, "3h"),
        (3 * HOUR + 60, "3h1m"),
        (8 * HOUR, "8h"),
        (47 * HOUR, "47h"),
        (48 * HOUR, "2d"),
        (49 * HOUR, "2d1h"),
        (8 * DAY, "8d"),
        (2 * YEAR - 1, "729d"),
        (2 * YEAR, "2y"),
        (2 * YEAR + DAY, "2y1d"),
        (8 * YEAR, "8y"),
        (9 * YEAR + 3 * DAY, "9y"),
    ],
)
def test_an_age_reads_as_in_kubectl(seconds: int, text: str) -> None:
    assert age(seconds)[0] == text


@given(st.integers(-100, 10 * YEAR))
def test_an_age_is_true_until_it_says_so_and_not_longer(seconds: int) -> None:
    text, true_for = age(seconds)
    assert true_for > 0
    assert age(seconds + true_for - 1)[0] == text
    assert age(seconds + true_for)[0] != text or text == "0s"
