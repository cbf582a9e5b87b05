"""The verb `changes`: what is new, since when one says, and as it happens."""

from __future__ import annotations

import re
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Final

from cacheserver.client.catalog import Catalog
from cacheserver.client.connection import ClientError, Direct, Kubectl, Object, as_object
from cacheserver.client.output import Column, Output

_RESOURCE: Final = "packagechanges"
_AGAIN_S: Final = 2.0
_WATCH_S: Final = 3600
_UNITS: Final[Mapping[str, int]] = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_DURATION: Final = re.compile(r"(\d{1,6})([mhdw])\Z")
_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

COLUMNS: Final[Sequence[Column]] = (
    ("WHEN", lambda one: one["metadata"]["creationTimestamp"]),
    ("REPOSITORY", lambda one: one["spec"]["repository"]),
    ("PACKAGE", lambda one: one["spec"].get("packageName", "")),
    ("CHANGE", lambda one: one["spec"].get("summary", "")),
)
_WIDE: Final[Sequence[Column]] = (
    ("TYPES", lambda one: ",".join(dict.fromkeys(each["type"] for each in one["spec"]["changes"]))),
    ("NAME", lambda one: f"{one['metadata']['namespace']}/{one['metadata']['name']}"),
)


def changes(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """What changed, the newest last; with --watch what changes from then on, too."""
    there = replace(catalog, namespace="") if asked.all_namespaces else catalog
    terms = {"spec.packageName": asked.package, "spec.repository": asked.repository, "spec.type": asked.type}
    fields = ",".join(f"{name}={text}" for name, text in terms.items() if text)
    begin = moment(asked.since, datetime.now(UTC)) if asked.since else ""
    # Before the list: what comes in between is there twice, and shown once.
    version = there.begin(_RESOURCE, fields=fields) if asked.watch else ""
    found = since(there, fields, begin)
    if not asked.watch or found:
        output.objects(found, COLUMNS, _WIDE)
    if asked.watch:
        seen = {one["metadata"]["uid"] for one in found}
        for one in _watched(there, fields, version):
            if one["metadata"]["uid"] not in seen:
                _show(one, output)
    return 0


def since(there: Catalog, fields: str, begin: str) -> Sequence[Object]:
    """Those whose names, which are times (docs/finding.md, Changes), are not below `begin`; in their order."""
    found: list[Object] = []
    for page in there.pages(_RESOURCE, fields=fields, order="newest"):
        names = [_time(one) for one in page]
        found += (one for one, name in zip(page, names, strict=True) if name >= begin)
        if (
            names and names[-1] < begin and names[-1] <= names[0]
        ):  # a server that knows no such order has the oldest first
            break
    return sorted(found, key=_time)


def _time(one: Object) -> str:
    return str(one["metadata"]["name"])


def moment(text: str, now: datetime) -> str:
    """What names of changes since then are not below. text: `2d`, `36h`, `monday`, `2026-11-20`, or RFC 3339.

    Raises: ClientError for what is none of these.
    """
    if found := _DURATION.match(text):
        try:
            begin = now - timedelta(seconds=int(found[1]) * _UNITS[found[2]])
        except OverflowError:
            return ""
    elif text.lower() in _DAYS:
        day = now.astimezone()  # as the user's calendar has it
        back = (day.weekday() - _DAYS.index(text.lower())) % 7
        begin = (day - timedelta(days=back)).replace(hour=0, minute=0, second=0, microsecond=0)
    else:
        try:
            begin = datetime.fromisoformat(text)
        except ValueError as exc:
            raise ClientError(
                f"--since {text}: give 2d, 36h, a day of the week, {date(2026, 11, 20)}, or 2026-11-20T08:00:00Z"
            ) from exc
        begin = begin if begin.tzinfo else begin.astimezone()
    return begin.astimezone(UTC).strftime("%Y%m%dt%H%M%S")


def _watched(there: Catalog, fields: str, version: str) -> Iterator[Object]:
    """What is added behind `version`, until the user ends it. Raises: ClientError when the server knows it no more."""
    connection = there.connection
    assert isinstance(connection, Kubectl | Direct), "what main() opens"
    while True:
        query = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(_WATCH_S)}
        path = there.path(_RESOURCE, fieldSelector=fields, resourceVersion=version, **query)
        for line in connection.lines(path):
            if not line.endswith(b"\n"):
                break  # cut in its midst: asked for again
            event = as_object(line)
            one: Object = event["object"]
            if event["type"] == "ERROR":
                raise ClientError(f"the watch broke off: {one.get('message', '')}; begin again with --since")
            version = str(one["metadata"]["resourceVersion"])
            if event["type"] == "ADDED":
                yield one
        time.sleep(_AGAIN_S)


def _show(one: Object, output: Output) -> None:
    if output.form in ("json", "yaml"):
        output.document(one)
    elif output.form == "name":
        output.objects([one], ())
    else:
        output.row(one, (*COLUMNS, *(_WIDE if output.form == "wide" else ())))
    output.flush()
