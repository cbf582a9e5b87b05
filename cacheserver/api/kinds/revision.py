"""The served kinds, one declaration each. A new kind, column, selectable field or schema field is a change here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from cacheserver.api.kinds.resource import (
    Column,
    Field,
    Manifest,
    Resource,
    Subresource,
    flag,
    look,
    look_number,
    name_column,
    number,
    record,
    records,
    seconds_of,
    text,
    text_map,
    texts,
    time,
)
from cacheserver.cache.snapshot import Entry
from cacheserver.cache.watchcache import Projection
from cacheserver.model import CONFIG_GROUP, GROUP, LABEL_LATEST, Kind

_READ: Final = ("get", "list", "watch")
_FORMAT: Final = text("format", "What the source's bytes mean.", enum=("FBC", "KRM"))
_TRUNCATED: Final = texts(
    "truncated", "Fields that are too long for one object and not whole here; all of them stands in the content."
)
_DEPRECATION: Final = record(
    "deprecation", "Set when its author advises against it.", text("message", "What the author says to users.")
)
_CONTENT: Final = record(
    "content",
    "The files of the revision, served by PackageRevisionResources and the content subresource.",
    text("digest", "sha256 of the canonical tar of the files; also the ETag of the content."),
    number("size", "Bytes of the tar, uncompressed."),
    number("files", "How many files there are."),
)
_CONDITIONS: Final = records(
    "conditions",
    "What holds at present, in the form of Kubernetes' standard conditions.",
    text("type", "Name of the condition.", required=True),
    text("status", "Whether it holds.", enum=("True", "False", "Unknown"), required=True),
    text("reason", "CamelCase reason of the last transition, for programs."),
    text("message", "What that means and what to do about it, for people."),
    time("lastTransitionTime", "When the status last changed."),
    number("observedGeneration", "The generation that the condition speaks of."),
)


def _condition_message(manifest: Manifest, kind: str, part: str) -> str:
    conditions: Sequence[Mapping[str, str]] = manifest.get("status", {}).get("conditions") or ()
    return next((str(c.get(part, "")) for c in conditions if c.get("type") == kind), "")


# --- Repository ---------------------------------------------------------------------------------------------------


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


def _last_synced(entry: Entry) -> int:
    return seconds_of(entry.fields.get("status.lastSyncedAt", ""))


REPOSITORY: Final = Resource(
    kind="Repository",
    plural="repositories",
    singular="repository",
    short_names=("crepo",),
    group=CONFIG_GROUP,
    description="A source of packages: where a catalog comes from, and how its last sync went.",
    verbs=_READ,
    source=Kind.REPOSITORY,
    hidden=("status.lastSyncedAt",),
    born=_last_synced,
    selectable=("spec.format",),
    columns=(
        name_column(),
        Column("Source", "Where the catalog comes from.", _source),
        Column("Ready", "Status of the Ready condition.", lambda m: _condition_message(m, "Ready", "status")),
        Column("Packages", "Packages served.", lambda m: look_number(m, "status", "packages"), "integer"),
        Column("Revisions", "Package revisions served.", lambda m: look_number(m, "status", "revisions"), "integer"),
        Column("Synced", "Time since the content was last applied.", None),
        Column("Status", "Message of the Ready condition.", lambda m: _condition_message(m, "Ready", "message")),
        Column("Digest", "Digest of the content served.", lambda m: look(m, "status", "digest"), wide=True),
        Column("Interval", "How often the source is asked.", lambda m: look(m, "spec", "interval"), wide=True),
        Column(
            "Suspended", "True when syncing is off.", lambda m: m["spec"].get("suspend") is True, "boolean", wide=True
        ),
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
                text("url", "https or ssh URL; on a server of your own, also a file URL.", required=True),
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
        text("interval", "How often the source is asked for changes, as a duration; at least 10s, by default 10m."),
        flag("suspend", "True stops syncing; what is served stays."),
        text(
            "validation",
            "Isolate rejects bad packages alone; Strict refuses the whole catalog for one bad package.",
            enum=("Isolate", "Strict"),
        ),
        record("secretRef", "Secret with the credentials of the source.", text("name", "Name of the Secret.")),
        record("caSecretRef", "Secret with the certificate authority to trust.", text("name", "Name of the Secret.")),
    ),
    status=record(
        "status",
        "How the last sync went.",
        number("observedGeneration", "Generation of the spec that this status speaks of."),
        _CONDITIONS,
        text(
            "digest", "Digest of what was read: an image's, a directory's, a commit's (git:), or that of refs (refs:)."
        ),
        number("packages", "Packages served."),
        number("revisions", "Package revisions served."),
        number("ignoredTags", "Tags of a git repository that name no package (KRM)."),
        time("lastCheckedAt", "When the source was last asked."),
        time("lastSyncedAt", "When content was last applied."),
        records(
            "rejected",
            "The first 20 packages that were refused in the last sync.",
            text("package", "Name of the package, empty when it could not be told."),
            text("reason", "CamelCase reason, for programs."),
            text("message", "What is wrong and where, for people."),
        ),
        number("rejectedCount", "How many packages were refused in the last sync."),
        text("lastHandledReconcileAt", "Last value of the annotation cacheserver.dev/requestedAt that was acted on."),
    ),
)

# --- Package ------------------------------------------------------------------------------------------------------


def _latest(manifest: Manifest) -> str:
    return look(manifest, "status", "latest", "version") or look(manifest, "status", "latest", "revision")


def _channel_names(manifest: Manifest) -> str:
    channels: Sequence[Mapping[str, str]] = manifest.get("status", {}).get("channels") or ()
    return ",".join(str(channel.get("name", "")) for channel in channels)


def _deprecated(manifest: Manifest) -> bool:
    return bool(manifest.get("status", {}).get("deprecation"))


PACKAGE: Final = Resource(
    kind="Package",
    plural="packages",
    singular="package",
    short_names=("cpkg",),
    group=GROUP,
    description="A package of a repository: what it is, its channels, and its latest revision.",
    verbs=_READ,
    source=Kind.PACKAGE,
    selectable=("spec.repository", "spec.packageName", "spec.format"),
    columns=(
        name_column(),
        Column("Repository", "Repository that it comes from.", lambda m: look(m, "spec", "repository")),
        Column("Package", "Name of the package in its repository.", lambda m: look(m, "spec", "packageName")),
        Column("Latest", "Version of the latest revision.", _latest),
        Column("Channel", "Default channel.", lambda m: look(m, "status", "defaultChannel")),
        Column(
            "Revisions", "How many revisions there are.", lambda m: look_number(m, "status", "revisions"), "integer"
        ),
        Column("Age", "Time since the package was first seen.", None),
        Column("Provider", "Who provides it.", lambda m: look(m, "status", "provider", "name"), wide=True),
        Column("Channels", "All channels.", _channel_names, wide=True),
        Column("Format", "What the source's bytes mean.", lambda m: look(m, "spec", "format"), wide=True),
        Column("Deprecated", "True when its author advises against it.", _deprecated, "boolean", wide=True),
    ),
    spec=record(
        "spec",
        "Which package this is.",
        text("repository", "Name of the Repository that it comes from."),
        text("packageName", "Name of the package in its repository (KRM: its path)."),
        _FORMAT,
    ),
    status=record(
        "status",
        "What its repository says about it.",
        text("displayName", "Name for people."),
        text("summary", "First sentences of the description, at most 200 characters."),
        record(
            "provider", "Who provides it.", text("name", "Name of the provider."), text("url", "Home of the provider.")
        ),
        texts("keywords", "Words to find it by."),
        texts("categories", "Categories that it belongs to."),
        text("defaultChannel", "Channel that is followed when none is named."),
        records(
            "channels",
            "Its channels (FBC).",
            text("name", "Name of the channel."),
            text("head", "Revision that the channel leads to."),
            text("headVersion", "Version of that revision."),
            number("revisions", "How many revisions are in the channel."),
            flag("deprecated", "True when its author advises against the channel."),
        ),
        record(
            "latest",
            "The latest revision: of the default channel (FBC), or the highest published one (KRM).",
            text("revision", "The revision, as in PackageRevision.spec.revision."),
            text("version", "Its version."),
        ),
        number("revisions", "How many revisions there are."),
        record(
            "icon",
            "The icon, served by the icon subresource; absent when the package has none.",
            text("mediaType", "Media type of the image."),
            text("digest", "sha256 of the image; also its ETag."),
            number("size", "Bytes of the image."),
        ),
        _DEPRECATION,
        _TRUNCATED,
    ),
    subresources=(Subresource("icon", "The package's icon, or a default one.", ("image/svg+xml", "image/png")),),
)

# --- PackageRevision ----------------------------------------------------------------------------------------------


def _image_or_commit(manifest: Manifest) -> str:
    return look(manifest, "status", "image") or look(manifest, "status", "selfLock", "git", "commit")


def _size(manifest: Manifest) -> str:
    """Bytes of the content with a binary unit, one decimal below ten."""
    size = float(look_number(manifest, "status", "content", "size"))
    for unit in ("", "Ki", "Mi", "Gi"):
        if size < 1024 or unit == "Gi":
            return f"{size:.1f}{unit}" if unit and size < 10 else f"{size:.0f}{unit}"
        size /= 1024
    raise AssertionError("the last unit always fits")


def _is_latest(manifest: Manifest) -> bool:
    return (manifest["metadata"].get("labels") or {}).get(LABEL_LATEST) == "true"


def _lock(name: str, description: str) -> Field:
    return record(
        name,
        description,
        text("type", "Kind of origin.", enum=("git",)),
        record(
            "git",
            "The commit in its repository.",
            text("repo", "URL of the git repository."),
            text("directory", "Directory of the package in it."),
            text("ref", "Branch or tag."),
            text("commit", "Commit hash."),
        ),
    )


def _apis(name: str, description: str) -> Field:
    return records(
        name,
        description,
        text("group", "API group."),
        text("version", "API version."),
        text("kind", "Kind."),
    )


_REVISION_SPEC: Final = (
    text("repository", "Name of the Repository that it comes from."),
    text("packageName", "Name of the package in its repository (KRM: its path)."),
    text("revision", "The revision: an FBC bundle's name; for KRM a tag's last part, a draft's workspace or a branch."),
    text("version", "Semantic version; empty when the revision is none (KRM)."),
    text("workspaceName", "Workspace that the revision was drafted in (KRM)."),
    text("lifecycle", "How far it is.", enum=("Draft", "Proposed", "Published", "DeletionProposed")),
    _FORMAT,
)

PACKAGE_REVISION: Final = Resource(
    kind="PackageRevision",
    plural="packagerevisions",
    singular="packagerevision",
    short_names=("cpkgrev",),
    group=GROUP,
    description="One revision of a package: version, channels, what it provides and needs, where its content is.",
    verbs=_READ,
    source=Kind.REVISION,
    selectable=(
        "spec.repository",
        "spec.packageName",
        "spec.revision",
        "spec.version",
        "spec.lifecycle",
        "spec.format",
    ),
    columns=(
        name_column(),
        Column("Package", "Name of the package in its repository.", lambda m: look(m, "spec", "packageName")),
        Column("Version", "Its version.", lambda m: look(m, "spec", "version") or look(m, "spec", "revision")),
        Column("Lifecycle", "How far it is.", lambda m: look(m, "spec", "lifecycle")),
        Column("Latest", "True for the package's latest revision.", _is_latest, "boolean"),
        Column("Age", "Time since the revision was first seen.", None),
        Column("Channels", "Channels that it is in.", _channel_names, wide=True),
        Column("Image-Or-Commit", "Its bundle image (FBC) or git commit (KRM).", _image_or_commit, wide=True),
        Column("Size", "Size of its content, uncompressed.", _size, wide=True),
    ),
    spec=record("spec", "Which revision this is.", *_REVISION_SPEC),
    status=record(
        "status",
        "What its repository says about it.",
        records(
            "channels",
            "Channels that it is in, with the upgrade edges there (FBC).",
            text("name", "Name of the channel."),
            flag("head", "True when the channel leads to this revision."),
            text("replaces", "Revision that it upgrades."),
            texts("skips", "Revisions that an upgrade may skip."),
            text("skipRange", "Range of versions that upgrade to it directly."),
        ),
        text("image", "Bundle image (FBC)."),
        _apis("providedAPIs", "APIs that it brings (FBC)."),
        _apis("requiredAPIs", "APIs that must be there (FBC)."),
        records(
            "dependencies",
            "Packages that must be there (FBC).",
            text("package", "Name of the package."),
            text("versionRange", "Versions that will do."),
        ),
        text("minKubeVersion", "Lowest Kubernetes version that it runs on (FBC)."),
        _DEPRECATION,
        number("revisionNumber", "N of a tag vN or N; 0 for a draft, -1 for a branch and for any other tag (KRM)."),
        _lock("upstreamLock", "What the package was cloned from (KRM)."),
        _lock("selfLock", "Where this revision lies (KRM)."),
        time("publishedAt", "When it was published (KRM)."),
        text("publishedBy", "Who published it (KRM)."),
        records(
            "readinessGates",
            "Conditions that must be True before it is published (KRM).",
            text("conditionType", "Type of the condition."),
        ),
        _CONDITIONS,
        _CONTENT,
        _TRUNCATED,
    ),
    subresources=(
        Subresource(
            "content",
            "The revision's files as a tar, or as JSON.",
            ("application/gzip", "application/x-tar", "application/json"),
        ),
    ),
)

# --- PackageRevisionResources -------------------------------------------------------------------------------------

PACKAGE_REVISION_RESOURCES: Final = Resource(
    kind="PackageRevisionResources",
    plural="packagerevisionresources",
    singular="packagerevisionresources",
    short_names=("cpkgres",),
    group=GROUP,
    description="The files of a package revision. A get carries them; a list carries their paths, sizes and digest.",
    verbs=("get", "list"),
    source=Kind.REVISION,
    derived=True,
    selectable=PACKAGE_REVISION.selectable,
    columns=(
        name_column(),
        Column("Package", "Name of the package in its repository.", lambda m: look(m, "spec", "packageName")),
        Column("Version", "Its version.", lambda m: look(m, "spec", "version") or look(m, "spec", "revision")),
        Column("Files", "How many files there are.", lambda m: look_number(m, "status", "content", "files"), "integer"),
        Column("Size", "Size of the files together.", _size),
        Column("Age", "Time since the revision was first seen.", None),
    ),
    spec=record(
        "spec",
        "The revision and, in a get, its files.",
        text("packageName", "Name of the package in its repository (KRM: its path)."),
        text("repository", "Name of the Repository that it comes from."),
        text("revision", "The revision, as in PackageRevision.spec.revision."),
        text_map("resources", "Path to content of every file that is UTF-8 text; in a get only."),
        text_map("binaryResources", "Path to base64 content of every other file; in a get only."),
    ),
    status=record(
        "status",
        "The files, without their content.",
        text("digest", "sha256 of the canonical tar of the files."),
        records(
            "files",
            "The files, sorted by path; in a list only.",
            text("path", "Path relative to the package's root."),
            number("size", "Bytes."),
        ),
    ),
)

RESOURCES: Final = (REPOSITORY, PACKAGE, PACKAGE_REVISION, PACKAGE_REVISION_RESOURCES)


def served(*, standalone: bool) -> tuple[Resource, ...]:
    """What this process serves: in a cluster, Repository is a CustomResourceDefinition and not ours."""
    return RESOURCES if standalone else tuple(row for row in RESOURCES if row.group == GROUP)


PROJECTIONS: Final[Mapping[Kind, Projection]] = {row.source: row.projection for row in RESOURCES if not row.derived}
"""What the watch cache makes of each stored kind's manifests."""
