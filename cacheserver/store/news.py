"""What one write changes, as a PackageChange tells it: found by comparing an object before and after. Pure, no I/O.

One write is one PackageChange, since both go into one transaction and no two objects of a kind may share one
(objects.py); where it changes several things (two channels lead on at once), `changes` has each. What nobody waits for
is no news: another description, label or icon. Called by journal.py.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

import orjson

from cacheserver.model import (
    LABEL_FORMAT,
    LABEL_PACKAGE,
    LABEL_REPOSITORY,
    METADATA_OPEN,
    SPEC_OPEN,
    Key,
    Kind,
    RepositoryKey,
    uid_of,
)
from cacheserver.slotted import slotted

_CHANGES_BYTES: Final = 3072
"""Of `changes` as JSON, but always one; how many more there were is said. Ours: 20 channels of 40 characters."""
MOST_BYTES: Final = 12 << 10
"""No PackageChange is larger: nine names of 253 characters of four bytes, the summary and the metadata."""
_NAME_CHARACTERS: Final = 253
_MESSAGE_CHARACTERS: Final = 256
_SUMMARY_CHARACTERS: Final = 200
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""What XML 1.0 (section 2.2, Char) has no place for, and what a terminal might obey."""


class What(StrEnum):
    """What happened; `type` of a change."""

    REPOSITORY_ADDED = "RepositoryAdded"
    REPOSITORY_CHANGED = "RepositoryChanged"
    """More than is told one by one."""
    REPOSITORY_GONE = "RepositoryGone"
    PACKAGE_ADDED = "PackageAdded"
    PACKAGE_GONE = "PackageGone"
    REVISION_ADDED = "RevisionAdded"
    REVISION_GONE = "RevisionGone"
    HEAD_MOVED = "ChannelHeadMoved"
    DEFAULT_MOVED = "DefaultChannelMoved"
    DEPRECATED = "Deprecated"
    UNDEPRECATED = "Undeprecated"
    LIFECYCLE_MOVED = "LifecycleMoved"


@slotted(frozen=True)
class News:
    """One PackageChange that is yet to be named. about: further fields of its spec. labels: of its package."""

    repository: RepositoryKey
    changes: Sequence[Mapping[str, str]]
    about: Mapping[str, Any]
    labels: Mapping[str, str]


def between(key: Key, before: bytes | None, after: bytes | None, old: Mapping[str, Any] | None = None) -> News | None:
    """What a write of a Package or a PackageRevision tells; None where it tells nothing.

    before, after: its manifests without resourceVersion (model.encode); None: there is none. old: what `before` says,
    of who has read it.
    """
    if before == after:
        return None
    old = orjson.loads(before) if old is None and before is not None else old
    new = orjson.loads(after) if after is not None else None
    one: Mapping[str, Any] = new or old or {}
    of_kind = _of_package if key.kind is Kind.PACKAGE else _of_revision
    changes = list(of_kind(old, new))
    if not changes:
        return None
    status, spec = one["status"], one["spec"]
    about: dict[str, Any] = {
        "packageName": key.package,
        "object": {"kind": one["kind"], "name": one["metadata"]["name"]},
        "format": spec.get("format", ""),
    }
    if key.kind is Kind.PACKAGE:
        latest = status.get("latest") or {}
        about |= {"revision": latest.get("revision", ""), "version": latest.get("version", "")}
        if not (old and new):
            about["revisions"] = status.get("revisions", 0)
    else:
        about |= {"revision": spec.get("revision", ""), "version": spec.get("version", "")}
    labels = {name: text for name, text in one["metadata"].get("labels", {}).items() if name in _LABELS}
    return News(RepositoryKey(key.namespace, key.repository), changes, about, labels)


_LABELS: Final = (LABEL_FORMAT, LABEL_PACKAGE)


def of_repository(repository: RepositoryKey, what: What, packages: int, revisions: int) -> News:
    """What is told of a repository as a whole. packages, revisions: it has now, or had."""
    return News(repository, [{"type": what}], {"packages": packages, "revisions": revisions}, {})


def _of_package(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> Iterator[dict[str, str]]:
    if old is None or new is None:
        yield {"type": What.PACKAGE_ADDED if old is None else What.PACKAGE_GONE}
        return
    had, has = old["status"], new["status"]
    yield from _deprecation(had.get("deprecation"), has.get("deprecation"))
    if had.get("defaultChannel") != has.get("defaultChannel"):
        default = {"from": had.get("defaultChannel", ""), "to": has.get("defaultChannel", "")}
        yield {"type": What.DEFAULT_MOVED, **default}
    before, after = ({each["name"]: each for each in side.get("channels") or ()} for side in (had, has))
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name) or {}, after.get(name) or {}
        if was.get("head") != now.get("head"):
            moved = {"from": was.get("head", ""), "to": now.get("head", "")}
            versions = {"fromVersion": was.get("headVersion", ""), "toVersion": now.get("headVersion", "")}
            yield {"type": What.HEAD_MOVED, "channel": name, **moved, **versions}
        if was and now and was.get("deprecated") != now.get("deprecated"):
            yield {"type": What.DEPRECATED if now.get("deprecated") else What.UNDEPRECATED, "channel": name}


def _of_revision(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> Iterator[dict[str, str]]:
    if old is None or new is None:
        of = (new or old or {})["spec"].get("lifecycle", "")
        yield {"type": What.REVISION_ADDED, "to": of} if old is None else {"type": What.REVISION_GONE, "from": of}
        return
    was, now = old["spec"].get("lifecycle", ""), new["spec"].get("lifecycle", "")
    if was != now:
        yield {"type": What.LIFECYCLE_MOVED, "from": was, "to": now}
    yield from _deprecation(old["status"].get("deprecation"), new["status"].get("deprecation"))


def _deprecation(was: Mapping[str, str] | None, now: Mapping[str, str] | None) -> Iterator[dict[str, str]]:
    if not was and now:
        yield {"type": What.DEPRECATED, "message": _clip(now.get("message", ""), _MESSAGE_CHARACTERS)}
    elif was and not now:
        yield {"type": What.UNDEPRECATED}


_counter = itertools.count()


def name_of(at: float) -> str:
    """A name for what happens at this Unix time: names of one process sort as they were asked for, those of several by
    their clocks."""
    milliseconds = int(at * 1000)
    count = next(_counter) % 0x10000
    return f"{moment(milliseconds)}-{count:04x}{os.urandom(3).hex()}"


def moment(milliseconds: int) -> str:
    """What the names of that millisecond begin with, and sorts before them."""
    return f"{_second(milliseconds // 1000)[0]}.{milliseconds % 1000:03d}z"


@lru_cache(maxsize=4)  # of one sync many happen in one second
def _second(at: int) -> tuple[str, str]:
    """As names have it, and as RFC 3339."""
    when = time.gmtime(at)
    return time.strftime("%Y%m%dt%H%M%S", when), time.strftime("%Y-%m-%dT%H:%M:%SZ", when)


def encode(news: News, name: str, at: float) -> bytes:
    """The PackageChange's manifest, without resourceVersion, as model.encode writes others. at: Unix time."""
    namespace = news.repository.namespace
    labels = {LABEL_REPOSITORY: news.repository.name, **news.labels}
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": uid_of(Kind.CHANGE, namespace, name),
        "creationTimestamp": _second(int(at))[1],
        "generation": 1,
        "labels": dict(sorted(labels.items())),
    }
    changes, omitted = _fitted(news.changes)
    about = {
        field: _clip(value, _NAME_CHARACTERS) if isinstance(value, str) else value
        for field, value in news.about.items()
        if value != ""
    }
    spec = {"repository": news.repository.name, **about, "changes": changes}
    if omitted:
        spec["omitted"] = omitted
    spec["summary"] = _summary(news, omitted)
    inner = orjson.dumps(metadata)[1:-1]
    return b"".join((METADATA_OPEN[Kind.CHANGE], inner, SPEC_OPEN, orjson.dumps(spec), b"}"))


def _fitted(changes: Sequence[Mapping[str, str]]) -> tuple[list[dict[str, str]], int]:
    """As many as fit, without empty fields, and how many did not."""
    fitted: list[dict[str, str]] = []
    size = 0
    for change in changes:
        present = {field: _clip(value, _NAME_CHARACTERS + 3) for field, value in change.items() if value}
        size += len(orjson.dumps(present)) + 1
        if size > _CHANGES_BYTES and fitted:
            break
        fitted.append(present)
    return fitted, len(changes) - len(fitted)


def _summary(news: News, omitted: int) -> str:
    """For people, in a line."""
    said = "; ".join([_said(news, change) for change in news.changes[:8]])
    more = max(omitted, len(news.changes) - 8)
    return _clip(said, _SUMMARY_CHARACTERS) + (f" and {more} more" if more > 0 else "")


def _said(news: News, change: Mapping[str, str]) -> str:
    about, what = news.about, What(change["type"])
    revisions, packages = about.get("revisions", 0), about.get("packages", 0)
    version = about.get("version") or about.get("revision", "")
    before, after, channel = change.get("from", ""), change.get("to", ""), change.get("channel", "")
    match what:
        case What.REPOSITORY_ADDED | What.REPOSITORY_CHANGED | What.REPOSITORY_GONE:
            verb = what.removeprefix("Repository").lower()
            return f"repository {verb}: {_counted(packages, 'package')}, {_counted(revisions, 'revision')}"
        case What.PACKAGE_ADDED | What.PACKAGE_GONE:
            verb = what.removeprefix("Package").lower()
            return f"package {verb}: {_counted(revisions, 'revision')}" + (f", latest {version}" if version else "")
        case What.REVISION_ADDED | What.REVISION_GONE:
            lifecycle = after or before
            verb = what.removeprefix("Revision").lower()
            return f"{version} {verb}" + (f" ({lifecycle})" if lifecycle not in ("", "Published") else "")
        case What.HEAD_MOVED:
            was, now = change.get("fromVersion") or before, change.get("toVersion") or after
            if was and now:
                return f"{channel}: {was} -> {now}"
            return f"channel {channel} added: {now}" if now else f"channel {channel} gone"
        case What.DEFAULT_MOVED:
            return f"default channel: {before or '-'} -> {after or '-'}"
        case What.LIFECYCLE_MOVED:
            return f"{version}: {before or '-'} -> {after or '-'}"
        case What.DEPRECATED | What.UNDEPRECATED:
            of = f"channel {channel}" if channel else version if about["object"]["kind"] != "Package" else "package"
            said = f": {change['message']}" if change.get("message") else ""
            return f"{of} {'deprecated' if what is What.DEPRECATED else 'no longer deprecated'}{said}"


def _counted(count: int, one: str) -> str:
    return f"{count} {one if count == 1 else f'{one}s'}"


def _clip(text: str, most: int) -> str:
    """What no line and no XML can hold is shown as U+FFFD."""
    text = text if len(text) <= most else text[: most - 1] + "…"
    return text if text.isprintable() else _CONTROL.sub("\ufffd", text)
