"""Package: what a repository says of a package, its channels and its latest revision."""

from __future__ import annotations

from typing import Final

from cacheserver.api.kinds.fields import (
    CHANNELS,
    DEPRECATION,
    FORMAT,
    PACKAGE_COLUMN,
    PACKAGE_NAME,
    PROVIDES,
    READ,
    REPOSITORY_NAME,
    SEVERAL,
    TRUNCATED,
    all_apis,
    apis,
    channel_names,
)
from cacheserver.api.kinds.resource import (
    Column,
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
    text,
    text_map,
    texts,
)
from cacheserver.model import GROUP, Kind


def _latest(manifest: Manifest) -> str:
    return look(manifest, "status", "latest", "version") or look(manifest, "status", "latest", "revision")


def _deprecated(manifest: Manifest) -> bool:
    return bool(manifest.get("status", {}).get("deprecation"))


PACKAGE: Final = Resource(
    kind="Package",
    plural="packages",
    short_names=("cpkg",),
    group=GROUP,
    description="A package of a repository: what it is, its channels, and its latest revision.",
    verbs=READ,
    source=Kind.PACKAGE,
    selectable=("spec.repository", "spec.packageName", "spec.format", PROVIDES, CHANNELS),
    several=SEVERAL,
    columns=(
        name_column(),
        Column("Repository", "Repository that it comes from.", lambda m: look(m, "spec", "repository")),
        PACKAGE_COLUMN,
        Column("Latest", "Version of the latest revision.", _latest),
        Column("Channel", "Default channel.", lambda m: look(m, "status", "defaultChannel")),
        Column(
            "Revisions", "How many revisions there are.", lambda m: look_number(m, "status", "revisions"), "integer"
        ),
        Column("Age", "Time since the package was first seen.", None),
        Column("Provider", "Who provides it.", lambda m: look(m, "status", "provider", "name"), wide=True),
        Column("Channels", "All channels.", channel_names, wide=True),
        Column("Format", "What the source's bytes mean.", lambda m: look(m, "spec", "format"), wide=True),
        Column("Deprecated", "True when its author advises against it.", _deprecated, "boolean", wide=True),
    ),
    spec=record(
        "spec",
        "Which package this is.",
        REPOSITORY_NAME,
        PACKAGE_NAME,
        FORMAT,
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
        apis("providedAPIs", "APIs that its latest revision brings; what `status.provides` selects by."),
        all_apis(),
        record(
            "icon",
            "The icon, served by the icon subresource; absent when the package has none.",
            text("mediaType", "Media type of the image."),
            text("digest", "sha256 of the image; also its ETag."),
            number("size", "Bytes of the image."),
        ),
        record(
            "documents",
            "The package's documents in its catalog, also those that nothing is served of (FBC).",
            text("digest", "sha256 of them all: it changes whenever one of them does."),
        ),
        record(
            "manifest",
            "What its PackageManifest is made of, where the repository publishes one (FBC).",
            text("digest", "sha256 of most of it: it changes whenever its channels do."),
            number("size", "Bytes of that."),
            text("displayName", "The catalog's name for people."),
            text("publisher", "Who publishes the catalog."),
            text_map("labels", "Labels that it has, less those that name the catalog."),
            record(
                "icon",
                "Its icon: of the CSV of its default channel.",
                text("mediaType", "Media type of the image."),
                text("digest", "sha256 of the image."),
                number("size", "Bytes of the image."),
            ),
        ),
        DEPRECATION,
        TRUNCATED,
    ),
    subresources=(
        Subresource("icon", "The package's icon, or a default one.", ("image/svg+xml", "image/png")),
        Subresource(
            "export",
            "A valid catalog of it alone, or of a part of it, as its documents are written: what is to be mirrored "
            "(FBC).",
            ("application/jsonl", "application/json", "application/yaml"),
            parameters=(
                ("channel", "This channel alone, which becomes the default one; without it all."),
                ("from", "This bundle and those with a higher version, and what stands between them in a channel."),
                ("format", "json (a line each) or yaml, whatever Accept says."),
            ),
        ),
        Subresource(
            "graph",
            "The upgrade graph, laid out: channels as lanes, the newest on top (FBC); the line of revisions (KRM).",
            ("application/json", "image/svg+xml", "text/vnd.graphviz", "text/vnd.mermaid"),
            parameters=(("format", "json, svg, dot or mermaid, whatever Accept says."),),
        ),
        Subresource(
            "images",
            "The images that its bundles run or may run, once each: what is to be mirrored (FBC).",
            ("application/json", "text/plain"),
            parameters=(
                ("channel", "Of the bundles of this channel; without it of all."),
                ("from", "Of this bundle and those with a higher version, and what stands between them in a channel."),
                ("format", "json or text, a line each, whatever Accept says."),
            ),
        ),
        Subresource(
            "upgrades",
            "How to get from one revision to another, by the rules of OLM v0 and v1, or why there is no way.",
            ("application/json",),
            parameters=(
                ("from", "What is installed: the name or version of a bundle."),
                ("to", "Where it is to lead, named likewise; without it, what comes next."),
                ("channel", "The channel whose edges count; without it all of them for v1, the default one for v0."),
                ("fromVersion", "The version of what is installed, where no bundle of the package has its name."),
            ),
        ),
    ),
)
