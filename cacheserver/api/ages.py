"""Ages as kubectl prints them, and how long each stays true. Rules: k8s.io/apimachinery/pkg/util/duration."""

from __future__ import annotations

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_YEAR = 365 * _DAY


def age(seconds: int) -> tuple[str, int]:
    """(`3d4h`, whole seconds until the text changes)."""
    if seconds < -1:
        return "<invalid>", -1 - seconds
    if seconds < 2 * _MINUTE:
        return f"{max(seconds, 0)}s", 1
    if seconds < 10 * _MINUTE:
        return _two(seconds, _MINUTE, "m", 1, "s")
    if seconds < 3 * _HOUR:
        return f"{seconds // _MINUTE}m", _MINUTE - seconds % _MINUTE
    if seconds < 8 * _HOUR:
        return _two(seconds, _HOUR, "h", _MINUTE, "m")
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR}h", _HOUR - seconds % _HOUR
    if seconds < 8 * _DAY:
        return _two(seconds, _DAY, "d", _HOUR, "h")
    if seconds < 2 * _YEAR:
        return f"{seconds // _DAY}d", _DAY - seconds % _DAY
    if seconds < 8 * _YEAR:
        return _two(seconds, _YEAR, "y", _DAY, "d")
    return f"{seconds // _YEAR}y", _YEAR - seconds % _YEAR


def _two(seconds: int, large: int, large_unit: str, small: int, small_unit: str) -> tuple[str, int]:
    rest = seconds % large // small
    text = f"{seconds // large}{large_unit}" + (f"{rest}{small_unit}" if rest else "")
    return text, small - seconds % small
