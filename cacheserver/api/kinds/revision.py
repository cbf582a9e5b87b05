"""PackageRevision: one revision of a package, what it provides and needs, and where its content is."""

from __future__ import annotations

from typing import Final

from cacheserver.api.kinds.fields import (
    CHANNELS,
    CONDITIONS_OF_CONTENT,
    CONTENT,
    DEPRECATION,
    FORMAT,
    PACKAGE_COLUMN,
    PACKAGE_NAME,
    PROVIDES,
    READ,
    REPOSITORY_NAME,
    SEVERAL,
    TRUNCATED,
    WRITE,
    all_apis,
    apis,
    channel_names,
    content_size,
)
from cacheserver.api.kinds.resource import (
    Column,
    Field,
    Manifest,
    Resource,
    Subresource,
    flag,
    look,
    name_column,
    number,
    record,
    records,
    text,
    texts,
    time,
)
from cacheserver.model import GROUP, LABEL_LATEST, Kind


def _image_or_commit(manifest: Manifest) -> str:
    return look(manifest, "status", "image") or look(manifest, "status", "selfLock", "git", "commit")


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


_REVISION_SPEC: Final = (
    REPOSITORY_NAME,
    PACKAGE_NAME,
    text("revision", "The revision: an FBC bundle's name; for KRM a tag's last part, a draft's workspace or a branch."),
    text("version", "Semantic version; empty when the revision is none (KRM)."),
    text("workspaceName", "Workspace that the revision was drafted in (KRM)."),
    text("lifecycle", "How far it is.", enum=("Draft", "Proposed", "Published", "DeletionProposed")),
    FORMAT,
    record(
        "source",
        "How a draft begins, exactly one; a new package without it (KRM; of drafts that were made here only).",
        record(
            "init",
            "As a new package.",
            text("description", "What it is."),
            texts("keywords", "Words to find it by."),
            text("site", "Its home page."),
        ),
        record(
            "clone",
            "From a revision of another package.",
            text("revision", "Name of a PackageRevision."),
            record(
                "git",
                "Or from a git repository elsewhere, for who may create Repositories.",
                text("url", "https:// or ssh://, without credentials."),
                text("ref", "Branch, tag or commit."),
                text("directory", "Of the package, from the repository's root."),
                record("secretRef", "Secret with credentials, as a Repository's.", text("name", "Its name.")),
                record("caSecretRef", "Secret with the authority to trust.", text("name", "Its name.")),
            ),
        ),
        record("copy", "From an earlier revision of its own.", text("revision", "Name of a PackageRevision.")),
        record(
            "upgrade",
            "As its own newest revision, with a newer one of what it was cloned from.",
            text("to", "Name of the PackageRevision that it is to take."),
            text(
                "from", "Name of the PackageRevision that it was cloned from; by default what its upstreamLock names."
            ),
            text(
                "strategy",
                "What becomes of what was changed in the clone: nothing may be, or it is gone.",
                enum=("fast-forward", "force-delete-replace"),
            ),
        ),
    ),
    records(
        "readinessGates",
        "Conditions that must be True before it is approved, written through packagerevisions/status (KRM; the Kptfile "
        "keeps the gates).",
        text("conditionType", "Type of the condition."),
    ),
)

PACKAGE_REVISION: Final = Resource(
    kind="PackageRevision",
    plural="packagerevisions",
    short_names=("cpkgrev",),
    group=GROUP,
    description="One revision of a package: version, channels, what it provides and needs, where its content is.",
    verbs=(*READ, *WRITE),
    source=Kind.REVISION,
    selectable=(
        "spec.repository",
        "spec.packageName",
        "spec.revision",
        "spec.version",
        "spec.lifecycle",
        "spec.format",
        PROVIDES,
        CHANNELS,
    ),
    several=SEVERAL,
    columns=(
        name_column(),
        PACKAGE_COLUMN,
        Column("Version", "Its version; empty where there is none (KRM).", lambda m: look(m, "spec", "version")),
        Column("Lifecycle", "How far it is.", lambda m: look(m, "spec", "lifecycle")),
        Column("Latest", "True for the package's latest revision.", _is_latest, "boolean"),
        Column("Age", "Time since the revision was first seen.", None),
        Column("Channels", "Channels that it is in.", channel_names, wide=True),
        Column("Image-Or-Commit", "Its bundle image (FBC) or git commit (KRM).", _image_or_commit, wide=True),
        Column("Size", "Size of its content, uncompressed.", content_size, wide=True),
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
        records(
            "relatedImages",
            "Images that it runs or may run, as its bundle lists them (FBC).",
            text("name", "What the image is for, where the author says so."),
            text("image", "The image."),
        ),
        apis(
            "providedAPIs",
            "APIs that it brings, as its bundle says (FBC) or by the CustomResourceDefinitions among its files (KRM); "
            "what `status.provides` selects by.",
        ),
        all_apis(),
        apis(
            "requiredAPIs",
            "APIs that must be there: of olm.gvk.required and its CSV (FBC), or the kinds among its files, Kubernetes' "
            "own left out, that it brings no definition of (KRM).",
        ),
        records(
            "dependencies",
            "Packages that must be there (FBC).",
            text("package", "Name of the package."),
            text("versionRange", "Versions that will do."),
        ),
        texts("constraints", "What olm.constraint properties ask of one other bundle, each as JSON (FBC)."),
        text("minKubeVersion", "Lowest Kubernetes version that it runs on (FBC)."),
        DEPRECATION,
        number("revisionNumber", "N of a tag vN or N; 0 for a draft, -1 for a branch and for any other tag (KRM)."),
        _lock("upstreamLock", "What the package was cloned from (KRM)."),
        _lock("selfLock", "Where this revision lies (KRM)."),
        text("nonce", "Random part of a draft's uid, as its commit in git has it (KRM)."),
        time("publishedAt", "When it was published (KRM)."),
        text("publishedBy", "Who published it (KRM)."),
        records(
            "readinessGates",
            "Conditions that must be True before it is published (KRM).",
            text("conditionType", "Type of the condition."),
        ),
        CONDITIONS_OF_CONTENT,
        CONTENT,
        TRUNCATED,
        record(
            "base",
            "What was the package's newest revision when the draft began.",
            text("revision", "Its revision."),
            text("commit", "Its commit."),
        ),
        text("createdBy", "Who made the draft."),
        text("proposedBy", "Who proposed it."),
        time("proposedAt", "When it was proposed."),
        record(
            "operation",
            "What is being done in git, while it is.",
            text("id", "Its identity."),
            text("step", "What is done."),
            time("since", "When it was asked for."),
        ),
        record(
            "lastOperation",
            "What the last operation in git came to.",
            text("id", "Its identity."),
            text("step", "What was done."),
            text("result", "What it came to.", enum=("Done", "Failed")),
            number("code", "Of a failure: its HTTP code."),
            text("reason", "Of a failure: its reason, for programs."),
            text("message", "Of a failure: what happened and what to do about it."),
        ),
    ),
    subresources=(
        Subresource(
            "approval",
            "The revision, for who may approve, reject, propose for deletion and keep: spec.lifecycle is taken.",
            ("application/json", "application/yaml"),
            ("get", "patch", "update"),
            whole=True,
        ),
        Subresource(
            "rebase",
            "The draft, brought onto the newest published revision of its package.",
            ("application/json", "application/yaml"),
            ("create",),
            whole=True,
        ),
        Subresource(
            "status",
            "The revision, for applications: status.conditions of a draft is taken, by type.",
            ("application/json", "application/yaml"),
            ("get", "patch", "update"),
            whole=True,
        ),
        Subresource(
            "files",
            "One file of a draft, at the path behind it, as bytes.",
            ("*/*",),
            ("delete", "update"),
        ),
        Subresource(
            "dependencies",
            "What it needs of others, and the revisions that give it, of what the caller may list.",
            ("application/json", "text/plain"),
            parameters=(
                ("namespaces", "Where to look besides its own namespace: names with commas between, or * for all."),
                ("limit", "Revisions that are listed for each requirement: 10, or up to 100."),
                ("format", "json or text, a table, whatever Accept says."),
            ),
        ),
        Subresource(
            "diff",
            "What changed between the files of another revision of the namespace and of this one.",
            ("application/json", "text/x-diff"),
            parameters=(
                ("from", "Name of the PackageRevision to compare with; its content has to be readable too."),
                ("format", "json or diff, whatever Accept says."),
            ),
        ),
        Subresource(
            "content",
            "The revision's files as a tar, or as JSON.",
            ("application/gzip", "application/x-tar", "application/json"),
        ),
    ),
)
