"""How long a repository waits between two looks at its source. Pure; the waiting is life.py's."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Final

from cacheserver.errors import CacheServerError, SourceRateLimitedError
from cacheserver.ingest import status
from cacheserver.slotted import slotted

_FIRST_RETRY_S: Final = MappingProxyType(
    {
        "NetworkError": 5.0,
        "RateLimited": 60.0,
        "AuthenticationFailed": 60.0,
        "SourceNotFound": 30.0,
        "SecretNotFound": 10.0,
        "SecretForbidden": 30.0,
        "SecretInvalid": 30.0,
        "StoreUnavailable": 1.0,
        "CatalogFailed": 30.0,
    }
)
_MOST_DOUBLINGS: Final = 16


@slotted(frozen=True)
class Pace:
    """jitter: part of a wait by which it may be shorter or longer, so that many repositories do not ask together.

    first_retry_s: seconds before the first retry after a failed sync, by the reason in its status; doubled with each
    further failure, up to the repository's interval. A reason that is not here waits for the interval.
    """

    jitter: float = 0.1
    first_retry_s: Mapping[str, float] = field(default_factory=lambda: _FIRST_RETRY_S)

    def spread(self, seconds: float) -> float:
        """A wait of about so long."""
        return seconds * random.uniform(1 - self.jitter, 1 + self.jitter)  # noqa: S311 - jitter

    def retry_s(self, error: CacheServerError, failures: int, interval_s: float) -> float:
        """Seconds until the next try, after so many failures in a row of which `error` is the last.

        What a server asks for by Retry-After is kept to, beyond the interval too.
        """
        if isinstance(error, SourceRateLimitedError) and error.retry_after_s:
            return max(error.retry_after_s, 1.0)
        first = self.first_retry_s.get(status.failure_reason(error), interval_s)
        return min(first * (1 << min(failures - 1, _MOST_DOUBLINGS)), interval_s)
