"""How much is done at the same time: a limit for reads, and one for watches, which last. Over it: 429, try again.

Nothing waits here: a queue would only hold what clients repeat by themselves
(k8s.io/apiserver/pkg/server/filters/maxinflight.go).
"""

from __future__ import annotations

from cacheserver.api.status import too_many_requests

READS = 400  # k8s.io/apiserver/pkg/server/config.go: MaxRequestsInFlight
WATCHES = 10_000


class InFlight:
    """Each enter() that returns needs its leave()."""

    def __init__(self, reads: int = READS, watches: int = WATCHES) -> None:
        self._most = (reads, watches)
        self._now = [0, 0]

    def enter(self, *, watch: bool, exempt: bool) -> None:
        """exempt: counted, never refused. Raises: StatusError 429."""
        if self._now[watch] >= self._most[watch] and not exempt:
            raise too_many_requests()
        self._now[watch] += 1

    def leave(self, *, watch: bool) -> None:
        self._now[watch] -= 1
