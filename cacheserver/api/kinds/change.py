"""PackageChange: what a write of a sync or of an author changed, named after its time. Made in store/news.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cacheserver.api.kinds.fields import FORMAT, PACKAGE_COLUMN, PACKAGE_NAME, READ, REPOSITORY_NAME
from cacheserver.api.kinds.resource import (
    Column,
    Manifest,
    Resource,
    look,
    name_column,
    number,
    record,
    records,
    text,
)
from cacheserver.cache.several import several
from cacheserver.model import GROUP, Kind
from cacheserver.store.news import What

TYPE: Final = "spec.type"
REVISION: Final = "spec.revision"


def types(manifest: Manifest) -> Iterator[str]:
    """What happened, each type once."""
    yield from dict.fromkeys(str(change["type"]) for change in manifest["spec"]["changes"])


def _revisions(manifest: Manifest) -> Iterator[str]:
    """Revisions that it speaks of: its own, and those that a channel led to and leads to."""
    spec = manifest["spec"]
    if "revision" in spec:
        yield str(spec["revision"])
    for change in spec["changes"]:
        if change["type"] == What.HEAD_MOVED:
            yield from (str(change[end]) for end in ("from", "to") if end in change)


PACKAGE_CHANGE: Final = Resource(
    kind="PackageChange",
    plural="packagechanges",
    short_names=("cpkgchg",),
    group=GROUP,
    description="What one write of a sync, or of an author, changed: kept for a while, named after its time.",
    verbs=READ,
    instead="it is a record of what happened",
    source=Kind.CHANGE,
    categories=(),
    selectable=("spec.repository", "spec.packageName", REVISION, TYPE),
    several=(
        (REVISION, (), lambda manifest: several(_revisions(manifest))),
        (TYPE, ("changes",), lambda manifest: several(types(manifest))),
    ),
    columns=(
        name_column(),
        Column("Repository", "Repository that it happened in.", lambda m: look(m, "spec", "repository")),
        PACKAGE_COLUMN,
        Column("Change", "What happened, in words.", lambda m: look(m, "spec", "summary")),
        Column("Age", "Time since then.", None),
        Column("Types", "Types of what happened.", lambda m: ",".join(types(m)), wide=True),
        Column("Revision", "Revision that it is about.", lambda m: look(m, "spec", "revision"), wide=True),
    ),
    spec=record(
        "spec",
        "What happened.",
        REPOSITORY_NAME,
        PACKAGE_NAME,
        record(
            "object",
            "What was written.",
            text("kind", "Its kind.", enum=("Package", "PackageRevision")),
            text("name", "Its name."),
        ),
        text("revision", "The revision; of a package, its latest."),
        text("version", "Version of that revision."),
        FORMAT,
        number("packages", "Of a repository: packages that it has, or had."),
        number("revisions", "Of a repository, of a package that came or went: revisions that it has, or had."),
        records(
            "changes",
            "Each thing that this write changed. Of a repository's first content, and of more than a sync tells one by "
            "one, there is one for the whole; a new package is told with all its revisions.",
            text("type", f"What happened; what `{TYPE}` selects by.", enum=tuple(What), required=True),
            text("channel", "Of a channel: its name."),
            text("from", "What was: the head, the default channel, the lifecycle."),
            text("to", "What is."),
            text("fromVersion", "Version of the head that was."),
            text("toVersion", "Version of the head that is."),
            text("message", "Of a deprecation: what the author says, cut."),
        ),
        number("omitted", "How many changes more there were than one object holds."),
        text("summary", "All of it in a line, for people."),
    ),
    status=None,
)
