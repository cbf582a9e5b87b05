"""What a request asks besides a document: conditions, ranges, encodings. Pure; the rules are RFC 9110's as Go's
net/http (fs.go) reads them, where clients of catalogd can tell.
"""

from __future__ import annotations

import calendar
import math
import re
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from enum import Enum
from time import strptime
from typing import Final
from urllib.parse import unquote_to_bytes

from cacheserver.slotted import slotted

_DATES: Final = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")
"""Go: net/http.ParseTime; the first is what everybody writes."""
_HEADER_CHARACTERS: Final = 4096
"""Of a header of conditions that is read: some 50 tags of ours. A longer one matches nothing."""
_ESCAPES: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_RANGE: Final = re.compile(r"[ \t]*([0-9]*)-([0-9]*)[ \t]*\Z")


class Encoding(Enum):
    """Of a body; the value is the token of Content-Encoding."""

    IDENTITY = ""
    GZIP = "gzip"
    ZSTD = "zstd"


class Verdict(Enum):
    """What conditions make of an answer."""

    SEND = 200
    NOT_MODIFIED = 304
    FAILED = 412


@slotted(frozen=True)
class Version:
    """What an answer is made of. tag: of a strong ETag, without quotes; each encoding has its own.

    changed: Unix time in whole seconds. since: Unix time from which on this process knows that nothing else is current.
    """

    tag: str
    changed: int
    since: float

    def etag(self, encoding: Encoding = Encoding.IDENTITY) -> str:
        """Quoted. A strong tag is of bytes, so each encoding has its own (RFC 9110, section 8.8.3.3)."""
        return f'"{self.tag}-{encoding.value}"' if encoding.value else f'"{self.tag}"'

    @property
    def last_modified(self) -> str:
        """As a header's value."""
        return formatdate(self.changed, usegmt=True)


def judge(headers: Mapping[str, str], version: Version) -> Verdict:
    """In the order of RFC 9110, section 13.2.2. A date that cannot be read is not there."""
    if if_match := headers.get("If-Match"):
        if not _names(if_match, version):
            return Verdict.FAILED
    elif (before := _seconds(headers.get("If-Unmodified-Since"))) is not None and version.changed > before:
        return Verdict.FAILED
    if if_none_match := headers.get("If-None-Match"):
        return Verdict.NOT_MODIFIED if _names(if_none_match, version) else Verdict.SEND
    since = _seconds(headers.get("If-Modified-Since"))
    return Verdict.NOT_MODIFIED if since is not None and _is_current(since, version) else Verdict.SEND


def _is_current(since: int, version: Version) -> bool:
    """Whether who has what was current at `since` has what is current now.

    The very time that we gave stands for what it was given with. A later one need not: where etcd was restored from a
    backup, it may be of newer content that is not here any more, whose holder would keep it for ever. So it counts only
    from when on this process knows that there was nothing else.
    """
    return since == version.changed or since >= max(version.changed, math.ceil(version.since))


def _names(tags: str, version: Version) -> bool:
    if len(tags) > _HEADER_CHARACTERS:
        return False
    ours = {"*", *(version.etag(encoding) for encoding in Encoding)}
    return any(tag.strip().removeprefix("W/") in ours for tag in tags.split(","))


def _seconds(date: str | None) -> int | None:
    if not date or len(date) > _HEADER_CHARACTERS:
        return None
    for form in _DATES:
        try:
            return calendar.timegm(strptime(date, form))
        except (ValueError, OverflowError):
            continue
    return None


class Unsatisfiable(Exception):  # noqa: N818 - a state, as in RFC 9110
    """No byte of the body is in the range, or it is none; the text says which."""


def one_range(headers: Mapping[str, str], version: Version, size: int) -> tuple[int, int] | None:
    """First byte and the one behind the last of the range that is asked for; None: the whole body is.

    Several ranges are answered with the whole body, which is allowed (RFC 9110, section 14.2) and no work for us.
    Raises: Unsatisfiable.
    """
    asked = headers.get("Range", "")
    if not asked:
        return None
    unless = headers.get("If-Range", "").strip()
    if unless and unless != version.etag() and _seconds(unless) != version.changed:
        return None
    unit, equals, ranges = asked.partition("=")
    if unit != "bytes" or not equals:
        raise Unsatisfiable("invalid range")
    if "," in ranges:
        return None
    found = _RANGE.match(ranges) if len(ranges) <= _HEADER_CHARACTERS else None
    if found is None or not any(found.groups()):
        raise Unsatisfiable("invalid range")
    first, last = (_number(text) for text in found.groups())
    if first is None:  # so many at the end
        return (max(0, size - (last or 0)), size) if size and last else _none()
    if first >= size:
        _none()
    if last is not None and last < first:
        raise Unsatisfiable("invalid range")
    return first, size if last is None else min(last + 1, size)


def _number(text: str) -> int | None:
    return int(text[:20]) if text else None  # more digits than any body has bytes


def _none() -> tuple[int, int]:
    raise Unsatisfiable("invalid range: failed to overlap")


def encoding_for(accept_encoding: str) -> Encoding:
    """The best of ours that is accepted; of equals zstd, as catalogd prefers it (klauspost/compress, gzhttp)."""
    if not accept_encoding or len(accept_encoding) > _HEADER_CHARACTERS:
        return Encoding.IDENTITY
    weights = {name: weight for name, weight in map(_weighted, accept_encoding.split(",")) if weight > 0}
    zstd, gzip = weights.get("zstd", 0.0), weights.get("gzip", 0.0)
    if not zstd and not gzip:
        return Encoding.IDENTITY
    return Encoding.ZSTD if zstd >= gzip else Encoding.GZIP


def _weighted(clause: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in clause.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return name, float(parameter[2:])
            except ValueError:
                return name, 0.0
    return name, 1.0


def parse_query(text: str) -> Mapping[str, str]:
    """The first value of each key, as Go's url.Values.Get has it: what cannot be read is not there."""
    found: dict[str, str] = {}
    for part in text.split("&"):
        if not part or ";" in part:
            continue
        key, _, value = part.partition("=")
        if _ESCAPES.search(key) or _ESCAPES.search(value):
            continue
        found.setdefault(_unescaped(key), _unescaped(value))
    return found


def _unescaped(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "surrogateescape")


def clean(path: str) -> str:
    """The path without empty parts, `.` and `..`, as Go's ServeMux redirects to it."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    ends = path.endswith(("/", "/.", "/.."))
    return "/" + "/".join(parts) + ("/" if parts and ends else "")


def header_lines(lines: Sequence[tuple[str, str]]) -> bytes:
    """As they are sent; values are ours."""
    return "".join(f"{name}: {value}\r\n" for name, value in lines).encode()
