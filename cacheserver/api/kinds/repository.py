"""Repository: a source of packages, and how its last sync went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import orjson

from cacheserver.api.kinds.fields import CONDITIONS, READ
from cacheserver.api.kinds.resource import (
    Column,
    Manifest,
    Resource,
    flag,
    look,
    look_number,
    name_column,
    number,
    record,
    records,
    seconds_of,
    text,
    texts,
    time,
)
from cacheserver.cache.snapshot import Entry
from cacheserver.config import Door
from cacheserver.model import CONFIG_GROUP, Kind


def _condition(manifest: Manifest, kind: str, part: str) -> str:
    conditions: Sequence[Mapping[str, str]] = manifest.get("status", {}).get("conditions") or ()
    return next((str(c.get(part, "")) for c in conditions if c.get("type") == kind), "")


def _source(manifest: Manifest) -> str:
    """The source in one word, as it would be written on the command line."""
    source = manifest.get("spec", {}).get("source") or {}
    if "oci" in source:
        return "oci://" + look(source, "oci", "image")
    if "git" in source:
        git = source["git"]
        ref = next((look(git, "ref", kind) for kind in git.get("ref") or ()), "")
        directory = look(git, "directory")
        return look(git, "url") + (f"@{ref}" if ref else "") + (f"#{directory}" if directory else "")
    if "ociLayout" in source:
        return "oci-layout:" + look(source, "ociLayout", "path")
    return look(source, "directory", "path")


def _published(manifest: Manifest) -> str:
    """As JSON, as kube-apiserver prints a list: both tables are to say the same."""
    doors = manifest.get("spec", {}).get("publish")
    return orjson.dumps(doors).decode() if doors else ""


def _last_synced(entry: Entry) -> int:
    return seconds_of(entry.fields.get("status.lastSyncedAt", ""))


REPOSITORY: Final = Resource(
    kind="Repository",
    plural="repositories",
    short_names=("crepo",),
    group=CONFIG_GROUP,
    description="A source of packages: where a catalog comes from, and how its last sync went.",
    verbs=READ,
    instead=(
        "this server takes repositories from its start alone: cacheserver serve --repositories FILE reads this manifest"
        " (in a cluster, it is an object like any other)"
    ),
    source=Kind.REPOSITORY,
    hidden=("status.lastSyncedAt",),
    born=_last_synced,
    selectable=("spec.format",),
    columns=(
        name_column(),
        Column("Source", "Where the catalog comes from.", _source),
        Column("Ready", "Status of the Ready condition.", lambda m: _condition(m, "Ready", "status")),
        Column("Reason", "Reason of the Ready condition.", lambda m: _condition(m, "Ready", "reason")),
        Column(
            "Degraded",
            "True when something of the source is not served.",
            lambda m: _condition(m, "Degraded", "status"),
        ),
        Column("Packages", "Packages served.", lambda m: look_number(m, "status", "packages"), "integer"),
        Column("Revisions", "Package revisions served.", lambda m: look_number(m, "status", "revisions"), "integer"),
        Column("Synced", "Time since the content was last applied.", None),
        Column("Status", "Ready's message, cut.", lambda m: look(m, "status", "summary"), wide=True),
        Column("Digest", "Digest of the content served.", lambda m: look(m, "status", "digest"), wide=True),
        Column("Interval", "How often the source is asked.", lambda m: look(m, "spec", "interval"), wide=True),
        Column(
            "Suspended", "True when syncing is off.", lambda m: m["spec"].get("suspend") is True, "boolean", wide=True
        ),
        Column("Published", "Doors that it is published through.", _published, wide=True),
    ),
    spec=record(
        "spec",
        "What to read, and how.",
        record(
            "source",
            "Exactly one place that the catalog comes from.",
            record(
                "oci",
                "An OCI image that holds the catalog.",
                text("image", "Reference with a tag or digest: host/repository:tag.", required=True),
                flag("insecure", "Speak plain HTTP to the registry."),
            ),
            record(
                "git",
                "A git repository.",
                text(
                    "url",
                    "https or ssh URL; on a server of your own, also a file URL, or a path relative to the manifest.",
                    required=True,
                ),
                record(
                    "ref",
                    "What to read; at most one, by default the remote's default branch. KRM packages of a branch come "
                    "with those of all tags PATH/REVISION and drafts; a tag or commit is read alone.",
                    text("branch", "Name of a branch."),
                    text("tag", "Name of a tag."),
                    text("commit", "Full commit hash."),
                    text("name", "Name of a branch, or else of a tag; on a server of your own only."),
                ),
                text("directory", "Subdirectory that the catalog begins in; empty for the root."),
            ),
            record(
                "directory",
                "A directory on the server's disk; on a server of your own only.",
                text("path", "Absolute path; in a file, relative to that.", required=True),
            ),
            record(
                "ociLayout",
                "A directory in OCI image layout on the server's disk; on a server of your own only.",
                text("path", "Absolute path; in a file, relative to that.", required=True),
            ),
        ),
        text(
            "format",
            "What the bytes mean; Auto decides by what is found (a Kptfile or an FBC document).",
            enum=("Auto", "FBC", "KRM"),
        ),
        flag("deployment", "True for a repository that packages are deployed from."),
        text(
            "access",
            "ReadWrite lets packages be made, approved and published through the API, which pushes to the branch; by "
            "default so where deployment is true, format KRM and a branch named.",
            enum=("ReadOnly", "ReadWrite"),
        ),
        record(
            "approval",
            "Who may approve what is proposed, besides what roles say.",
            flag(
                "forbidSelf", "True: nobody approves what he proposed, or changed since somebody else last rejected it."
            ),
            flag(
                "perRepository",
                "True: who approves, rejects, or proposes for deletion needs the right to `approve` this Repository, "
                "by its name.",
            ),
        ),
        record(
            "drafts",
            "How drafts of packages are kept in git.",
            text(
                "pushAfter", "How long after the last save a draft is pushed to its branch; at most 30s, by default 5s."
            ),
        ),
        text(
            "render",
            "Require holds back packages whose pipeline was not run, when they are proposed or approved; by default "
            "IfPossible, which does not.",
            enum=("IfPossible", "Require"),
        ),
        text(
            "versioning",
            "What a published revision is called: by default Integer, the next number (v1, v2); SemVer, the version "
            "that who proposes or approves it names in spec.version.",
            enum=("Integer", "SemVer"),
        ),
        text("interval", "How often the source is asked for changes, as a duration; at least 10s, by default 10m."),
        flag("suspend", "True stops syncing; what is served stays."),
        text(
            "validation",
            "Isolate rejects bad packages alone; Strict refuses the whole catalog for one bad package.",
            enum=("Isolate", "Strict"),
        ),
        texts(
            "publish",
            "Doors that a file-based catalog is published through, for clients of other systems, who are not asked who "
            "they are; by default none.",
            enum=tuple(Door),
        ),
        record("secretRef", "Secret with the credentials of the source.", text("name", "Name of the Secret.")),
        record("caSecretRef", "Secret with the certificate authority to trust.", text("name", "Name of the Secret.")),
    ),
    status=record(
        "status",
        "How the last sync went.",
        number("observedGeneration", "Generation of the spec that this status speaks of."),
        CONDITIONS,
        text(
            "digest", "Digest of what was read: an image's, a directory's, a commit's (git:), or that of refs (refs:)."
        ),
        number("packages", "Packages served."),
        number("revisions", "Package revisions served."),
        number("ignoredTags", "Tags of a git repository that name no package (KRM)."),
        texts("ignoredTagNames", "The first 20 tags that name no package (KRM)."),
        text("summary", "Ready's message in at most 120 characters, for tables."),
        time(
            "lastCheckedAt",
            "When a look at the source last ended, well or not. Where nothing else changes it is written once an hour, "
            "so it can be that old; the metric cacheserver_repository_last_checked_timestamp_seconds is exact.",
        ),
        time("lastSyncedAt", "When content was last applied."),
        records(
            "rejected",
            "The first 20 packages that were refused in the last sync.",
            text("package", "Name of the package, empty when it is not known."),
            text("reason", "CamelCase reason, for programs."),
            text("message", "What is wrong and where, for people."),
            text("path", "File, relative to the source; of git REF:FILE (KRM)."),
            number("line", "Line in that file, where it is known."),
        ),
        number("rejectedCount", "How many packages were refused in the last sync."),
        text(
            "lastHandledReconcileAt",
            "Value of the annotation cacheserver.dev/requestedAt that the last look answered, well or not.",
        ),
    ),
)
