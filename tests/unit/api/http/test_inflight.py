"""What is done at the same time, and what the selectors of open watches hold: by all, and by one user."""

from __future__ import annotations

import pytest

from cacheserver.api.http.inflight import SHORT_BYTES, InFlight
from cacheserver.api.status import StatusError

MIB = 1 << 20


def watch(limits: InFlight, user: str, selectors: int, *, exempt: bool = False) -> None:
    limits.enter(user, watch=True, exempt=exempt, selectors=selectors)


def test_selectors_of_all_watches_are_refused_beyond_the_cap_and_taken_again_below_it() -> None:
    limits = InFlight(selectors_bytes=4 * MIB)
    for user in ("", "", "a", "b"):
        watch(limits, user, MIB)
    with pytest.raises(StatusError, match=r"selectors of all open watches hold all of the 4 MiB"):
        watch(limits, "", MIB)
    limits.leave("a", watch=True, selectors=MIB)
    watch(limits, "c", MIB)


def test_one_user_holds_half_of_it() -> None:
    limits = InFlight(selectors_bytes=4 * MIB)
    watch(limits, "a", MIB)
    watch(limits, "a", MIB)
    with pytest.raises(StatusError, match=r"selectors of this user's open watches hold all of the 2 MiB"):
        watch(limits, "a", MIB)
    watch(limits, "b", MIB)


def test_short_selectors_and_those_who_may_everything_are_never_refused() -> None:
    limits = InFlight(selectors_bytes=MIB)
    watch(limits, "a", MIB // 2)
    watch(limits, "b", MIB // 2)
    for _ in range(1000):
        watch(limits, "a", SHORT_BYTES)
    watch(limits, "admin", MIB, exempt=True)


def test_a_refused_watch_holds_nothing() -> None:
    limits = InFlight(watches=4, selectors_bytes=4 * MIB)
    for _ in range(3):
        with pytest.raises(StatusError):
            watch(limits, "a", 3 * MIB)
    watch(limits, "a", 2 * MIB)
