"""How soon a failed repository is tried again: by kind of error, doubling, never slower than its interval."""

from __future__ import annotations

import pytest

from cacheserver.errors import (
    CacheServerError,
    CatalogError,
    SourceAuthenticationError,
    SourceInvalidError,
    SourceNetworkError,
    SourceNotFoundError,
    SourceRateLimitedError,
    Unavailable,
)
from cacheserver.ingest.pace import Pace

INTERVAL_S = 600.0


@pytest.mark.parametrize(
    ("error", "waits_s"),
    [
        (SourceNetworkError("x"), [5, 10, 20, 40, 80, 160, 320, 600, 600]),
        (SourceAuthenticationError("x"), [60, 120, 240, 480, 600]),
        (SourceNotFoundError("x"), [30, 60, 120]),
        (SourceRateLimitedError("x"), [60, 120, 240]),
        (SourceRateLimitedError("x", retry_after_s=1200), [1200, 1200]),
        (SourceRateLimitedError("x", retry_after_s=0.1), [1, 1]),
        (CatalogError("x"), [30, 60]),
        (Unavailable("x"), [1, 2, 4]),
        (SourceInvalidError("x"), [600, 600]),
        (CacheServerError("x"), [600, 600]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, CacheServerError) else "",
)
def test_each_kind_of_error_has_its_own_pace(error: CacheServerError, waits_s: list[float]) -> None:
    pace = Pace()
    assert [pace.retry_s(error, failures, INTERVAL_S) for failures in range(1, len(waits_s) + 1)] == waits_s


def test_the_interval_is_the_slowest_pace() -> None:
    assert Pace().retry_s(SourceAuthenticationError("x"), 1, 10.0) == 10.0
    assert Pace().retry_s(SourceNetworkError("x"), 10**6, INTERVAL_S) == INTERVAL_S


def test_waits_are_spread_around_what_is_meant() -> None:
    waits = [Pace().spread(100.0) for _ in range(200)]
    assert 90 <= min(waits) < 97
    assert 103 < max(waits) <= 110
    assert Pace(jitter=0).spread(7.0) == 7.0
