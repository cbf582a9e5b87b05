"""How large a record, its key and the list of its files may become, and what happens then. Pure, runs in a worker.

Fields whose whole is in the revision's content are cut, and the object names them in `status.truncated`. Everything
else is refused by name: what is served of it is whole or not there. So is what an object is found by: where its
`providedAPIs` are cut, all of them stand packed beside it (provides.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import quote

import orjson

from cacheserver.catalogs import provides
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.catalogs.summary import LONGEST_NAME, LONGEST_TEXT, clip
from cacheserver.model import Key, Record

DEFAULT: Final = ParseLimits()

_OVERHEAD: Final = 1024
"""Of a served object beside labels, name, spec and status: apiVersion, uid, times, owner (model.encode)."""
_MARK: Final = 256
"""What `truncated` itself takes."""
PROVIDED: Final = "providedAPIs"
ALL_PROVIDED: Final = "allProvidedAPIs"
"""Fields of the status: the list, and all of it packed where it is cut."""

_T = TypeVar("_T")


class BoundError(Exception):
    """A record that cannot be served as a whole. Never leaves the worker: it becomes a Finding."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Cutter:
    """Takes fields of one document whole up to a bound; `cut` names those that were longer, sorted."""

    def __init__(self, limits: ParseLimits = DEFAULT) -> None:
        self._most = limits.record_bytes
        self._cut: set[str] = set()

    @property
    def cut(self) -> tuple[str, ...]:
        """Names of what was cut short, sorted."""
        return tuple(sorted(self._cut))

    def items(self, name: str, found: Iterable[_T]) -> tuple[_T, ...]:
        """The different ones, in order; no more than a record could hold."""
        whole = list(dict.fromkeys(found))
        kept = _prefix(whole, self._most)
        if len(kept) < len(whole):
            self._cut.add(name)
        return tuple(kept)

    def text(self, name: str, written: str) -> str:
        """One line for people; an ellipsis stands where it was cut."""
        if len(written) > LONGEST_TEXT:
            self._cut.add(name)
        return clip(written, LONGEST_TEXT)


def fitted(
    status: Mapping[str, Any], cuttable: Iterable[str], already: Iterable[str], limits: ParseLimits
) -> dict[str, Any]:
    """`status`, its `cuttable` lists cut where it is too large for a record, and `truncated` where anything was.

    already: fields that were cut before. Small lists stay whole; large ones share what is left in equal parts.
    """
    found, truncated = _shared_out(status, cuttable, limits)
    if PROVIDED in truncated:
        packed = provides.pack((api["group"], api["version"], api["kind"]) for api in status[PROVIDED])
        found, truncated = _shared_out({**status, ALL_PROVIDED: packed}, cuttable, limits)
    if truncated := {*truncated, *already}:
        found["truncated"] = sorted(truncated)
    return found


def _shared_out(
    status: Mapping[str, Any], cuttable: Iterable[str], limits: ParseLimits
) -> tuple[dict[str, Any], set[str]]:
    """The status as it fits, and the lists that were cut for it."""
    found = dict(status)
    truncated: set[str] = set()
    # A quarter is left for what is beside the status.
    room = limits.record_bytes * 3 // 4 - _MARK
    sizes = {name: len(orjson.dumps(found[name])) for name in cuttable if name in found}
    size = len(orjson.dumps(found))
    if size > room:
        left = max(room - (size - sum(sizes.values())), 0)
        for at, name in enumerate(sorted(sizes, key=lambda name: (sizes[name], name))):
            share = left // (len(sizes) - at)
            if sizes[name] > share:
                found[name] = _prefix(found[name], share)
                truncated.add(name)
            left -= min(sizes[name], share)
    return found, truncated


def _prefix(found: Sequence[_T], most: int) -> list[_T]:
    """The first of them, as many as `most` bytes of JSON hold."""
    kept: list[_T] = []
    left = most - len(b"[]")
    for one in found:
        left -= len(orjson.dumps(one)) + len(b",")
        if left < 0:
            break
        kept.append(one)
    return kept


def truncated(record: Record) -> list[str]:
    """The fields of a record that are not whole."""
    if b'"truncated":[' not in record.status:
        return []
    found: list[str] = orjson.loads(record.status).get("truncated", [])
    return found


def check(record: Record, limits: ParseLimits) -> None:
    """Returns when etcd will take the record. Raises: BoundError, with the cap and what is large."""
    check_key(record.key, limits)
    size = (
        len(record.key.name)
        + len(record.spec)
        + len(record.status)
        + len(orjson.dumps(dict(record.labels)))
        + _OVERHEAD
    )
    if size > limits.record_bytes:
        status = orjson.loads(record.status)
        largest = max(status, key=lambda name: len(orjson.dumps(status[name])), default="spec")
        what = (
            f"revision {clip(record.key.revision, LONGEST_NAME)!r}" if record.key.revision else "the package's object"
        )
        raise BoundError(
            "RecordTooLarge",
            f"{what} would have {size} bytes, most of them in {largest}; the limit for one object is "
            f"{limits.record_bytes}: etcd takes no larger ones by far",
        )


def check_key(key: Key, limits: ParseLimits) -> None:
    """Returns when the object's key is short enough. Raises: BoundError."""
    # As the store writes it, percent-encoded.
    size = sum(len(quote(part, safe="")) + 1 for part in (key.namespace, key.repository, key.package, key.revision))
    if size > limits.key_bytes:
        raise BoundError("NameTooLong", f"its names make a key of {size} bytes; the limit is {limits.key_bytes}")


def checked_apis(found: Iterable[provides.API]) -> tuple[provides.API, ...]:
    """The different ones, in order: all of them, for objects are found by each. Raises: BoundError."""
    whole = tuple(dict.fromkeys(found))
    if not provides.fits(whole):
        raise BoundError(
            "TooManyAPIs",
            f"it provides {len(whole)} APIs; the limit for one object is {provides.MOST_APIS}, and "
            f"{provides.MOST_BYTES} bytes of their names",
        )
    return whole


def check_files(files: Sequence[tuple[str, int]], limits: ParseLimits) -> None:
    """Returns when the list of a revision's files fits into one record, as its content's head. Raises: BoundError."""
    size = len(orjson.dumps(files))
    if len(files) > limits.package_files:
        raise BoundError("TooManyFiles", f"{len(files)} files; the limit for one revision is {limits.package_files}")
    if size > limits.paths_bytes:
        raise BoundError(
            "PathsTooLong",
            f"the list of its {len(files)} files has {size} bytes; the limit for one revision is {limits.paths_bytes}",
        )
