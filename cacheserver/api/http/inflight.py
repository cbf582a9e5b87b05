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
WATCHES = 10_000

_SHARES: Final = (4, 2)
"""One user has a fourth of the reads, and half of the watches: a service account may stand for a whole fleet."""


class InFlight:
    """Each enter() that returns needs its leave()."""

    def __init__(self, reads: int = READS, watches: int = WATCHES) -> None:
        self._most = (reads, watches)
        self._share = tuple(max(1, most // share) for most, share in zip(self._most, _SHARES, strict=True))
        self._now = [0, 0]
        self._by_user: tuple[Counter[str], Counter[str]] = (Counter(), Counter())

    def enter(self, user: str, *, watch: bool, exempt: bool) -> None:
        """user: empty where nobody asks who it is. exempt: counted, never refused. Raises: StatusError 429."""
        if not exempt:
            if self._now[watch] >= self._most[watch]:
                raise too_many_requests()
            if user and self._by_user[watch][user] >= self._share[watch]:
                what = "watches" if watch else "requests"
                raise too_many_requests(
                    f"Too many {what} of this user, who has {self._share[watch]} at a time; please try again later."
                )
        self._now[watch] += 1
        if user:
            self._by_user[watch][user] += 1

    def leave(self, user: str, *, watch: bool) -> None:
        self._now[watch] -= 1
        if user:
            left = self._by_user[watch][user] - 1
            if left:
                self._by_user[watch][user] = left
            else:
                del self._by_user[watch][user]
