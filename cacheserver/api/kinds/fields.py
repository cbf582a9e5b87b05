"""Schema fields, cells and verbs that several kinds share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from cacheserver.api.kinds.resource import (
    Column,
    Field,
    Manifest,
    look,
    look_number,
    number,
    record,
    records,
    text,
    texts,
    time,
)
from cacheserver.cache.several import several, shared
from cacheserver.catalogs import provides
from cacheserver.catalogs.bounds import ALL_PROVIDED, PROVIDED

READ: Final = ("get", "list", "watch")
WRITE: Final = ("create", "delete", "deletecollection", "patch", "update")
FORMAT: Final = text("format", "What the source's bytes mean.", enum=("FBC", "KRM"))
TRUNCATED: Final = texts(
    "truncated", "Fields that are too long for one object and not whole here; the content has all of them."
)
DEPRECATION: Final = record(
    "deprecation", "Set when its author advises against it.", text("message", "What the author says to users.")
)
CONTENT: Final = record(
    "content",
    "The files of the revision, served by PackageRevisionResources and the content subresource.",
    text("digest", "sha256 of the canonical tar of the files; also the ETag of the content."),
    number("size", "Bytes of the tar, uncompressed."),
    number("files", "How many files there are."),
)
REPOSITORY_NAME: Final = text("repository", "Name of the Repository that it comes from.")
PACKAGE_NAME: Final = text("packageName", "Name of the package in its repository (KRM: its path).")
PACKAGE_COLUMN: Final = Column(
    "Package", "Name of the package in its repository.", lambda manifest: look(manifest, "spec", "packageName")
)
CONDITIONS: Final = records(
    "conditions",
    "What holds at present, in the form of Kubernetes' standard conditions.",
    text("type", "Name of the condition.", required=True),
    text("status", "Whether it holds.", enum=("True", "False", "Unknown"), required=True),
    text("reason", "CamelCase reason of the last transition, for programs."),
    text("message", "What that means and what to do about it, for people."),
    time("lastTransitionTime", "When the status last changed."),
    number("observedGeneration", "The generation that the condition speaks of."),
)
CONDITIONS_OF_CONTENT: Final = replace(
    CONDITIONS,
    fields=(
        *CONDITIONS.fields,
        text(
            "observedDigest",
            "The content that an application's condition speaks of, as status.content.digest; without it that of now.",
        ),
    ),
)


PROVIDES: Final = "status.provides"
CHANNELS: Final = "status.channels"
"""Paths that are selected by, each of several values; the fields are lists of objects (docs/api.md, Selectors)."""


def apis(name: str, description: str) -> Field:
    """A list of kinds."""
    return records(
        name,
        description,
        text("group", "API group."),
        text("version", "API version."),
        text("kind", "Kind."),
    )


def all_apis() -> Field:
    """What is found by, of an object whose list of kinds is cut."""
    return text(
        ALL_PROVIDED,
        "All that `status.provides` selects by, where providedAPIs is cut: a line each, with zlib and base64.",
    )


def provided(manifest: Manifest) -> str:
    """What it is found by as something that provides kinds (catalogs/provides.py), all of them."""
    status = manifest.get("status", {})
    if packed := status.get(ALL_PROVIDED):
        return shared(provides.unpack(packed))
    apis = status.get(PROVIDED) or ()
    found = ((str(api.get("group", "")), str(api.get("version", "")), str(api.get("kind", ""))) for api in apis)
    return several(provides.values(found))


def channels(manifest: Manifest) -> Iterator[str]:
    """Names of its channels."""
    for channel in manifest.get("status", {}).get("channels") or ():
        yield str(channel.get("name", ""))


SEVERAL: Final = (
    (PROVIDES, (PROVIDED, ALL_PROVIDED), provided),
    (CHANNELS, ("channels",), lambda manifest: several(channels(manifest))),
)


def channel_names(manifest: Manifest) -> str:
    """Of all channels in the status, joined by commas."""
    return ",".join(channels(manifest))


def content_size(manifest: Manifest) -> str:
    """Bytes of the content with a binary unit, one decimal below ten."""
    size = float(look_number(manifest, "status", "content", "size"))
    for unit in ("", "Ki", "Mi", "Gi"):
        if size < 1024 or unit == "Gi":
            return f"{size:.1f}{unit}" if unit and size < 10 else f"{size:.0f}{unit}"
        size /= 1024
    raise AssertionError("the last unit always fits")
