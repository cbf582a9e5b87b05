"""How much is done at the same time: a limit for reads, and one for watches, which last. Over it: 429, try again.

An answer counts until its client has taken it. One user has a share of each limit, so that none takes all of it.
Nothing waits here: a queue would only hold what clients repeat by themselves
(k8s.io/apiserver/pkg/server/filters/maxinflight.go).
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from cacheserver.api.status import too_many_requests

READS = 400  # k8s.io/apiserver/pkg/server/config.go: MaxRequestsInFlight
WRITES = 200  # k8s.io/apiserver/pkg/server/config.go: MaxMutatingRequestsInFlight
WATCHES = 10_000
SELECTORS_BYTES: Final = 64 << 20
"""That the selectors of all open watches hold, for as long as they are open. Ours: some 400 of the longest ones there
are, of which 10,000 would hold 1.5 GB; half of it for one user. Short ones are not counted, see SHORT_BYTES."""
SHORT_BYTES: Final = 4 << 10
"""A selector of ten terms. Who has no more is bounded by the number of watches, and never in the way of others."""

_SHARES: Final = (4, 2)
"""One user has a fourth of the reads, and half of the watches: a service account may stand for a whole fleet."""


class InFlight:
    """Each enter() that returns needs its leave(), with the same arguments."""

    def __init__(self, reads: int = READS, watches: int = WATCHES, *, selectors_bytes: int = SELECTORS_BYTES) -> None:
        self._most = (reads, watches)
        self._share = tuple(max(1, most // share) for most, share in zip(self._most, _SHARES, strict=True))
        self._now = [0, 0]
        self._by_user: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self._selectors_most = selectors_bytes
        self._selectors = 0
        self._selectors_by_user: Counter[str] = Counter()

    def enter(self, user: str, *, watch: bool, exempt: bool, selectors: int = 0) -> None:
        """user: empty where nobody asks who it is. exempt: counted, never refused. selectors: bytes that those of a
        watch hold, about. Raises: StatusError 429."""
        selectors = selectors if watch and selectors > SHORT_BYTES else 0
        if not exempt:
            if self._now[watch] >= self._most[watch]:
                raise too_many_requests()
            if user and self._by_user[watch][user] >= self._share[watch]:
                what = "watches" if watch else "requests"
                raise too_many_requests(
                    f"Too many {what} of this user, who has {self._share[watch]} at a time; please try again later."
                )
            if selectors:
                self._check_selectors(user, selectors)
        self._now[watch] += 1
        self._selectors += selectors
        if user:
            self._by_user[watch][user] += 1
            if selectors:
                self._selectors_by_user[user] += selectors

    def leave(self, user: str, *, watch: bool, selectors: int = 0) -> None:
        """Once for each enter() that was let in, with the same arguments."""
        self._now[watch] -= 1
        selectors = selectors if watch and selectors > SHORT_BYTES else 0
        self._selectors -= selectors
        if user:
            _take(self._by_user[watch], user, 1)
            if selectors:
                _take(self._selectors_by_user, user, selectors)

    def _check_selectors(self, user: str, size: int) -> None:
        share = self._selectors_most // _SHARES[True]
        if user and self._selectors_by_user[user] + size > share:
            whose, most = "this user's open watches", share
        elif self._selectors + size > self._selectors_most:
            whose, most = "all open watches", self._selectors_most
        else:
            return
        raise too_many_requests(
            f"The selectors of {whose} hold all of the {most >> 20} MiB that they may; select by fewer terms, "
            "or try again later."
        )


def _take(counter: Counter[str], user: str, count: int) -> None:
    left = counter[user] - count
    if left:
        counter[user] = left
    else:
        del counter[user]
