"""What a busy HTTP server asks of us."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

_MOST_S: Final = (
    24 * 3600.0
)  # Ours: a wish beyond a day is a mistake, and would look like a repository that is suspended.


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds of a Retry-After header, from a number or a date (RFC 9110 10.2.3); 0 without one that can be read."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal() and text.isascii():
        return min(float(text), _MOST_S)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return 0.0
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(max((at - datetime.now(UTC)).total_seconds(), 0.0), _MOST_S)
