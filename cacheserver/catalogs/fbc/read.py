"""One FBC document into facts and blobs: envelope and fields here, bundles in bundle.py. Pure, runs in a worker."""

from __future__ import annotations

from typing import Final

from cacheserver.catalogs.catalog import Problem
from cacheserver.catalogs.documents.document import (
    JSON,
    DocumentError,
    Object,
    ShapeError,
    child,
    children,
    decode_base64,
    name_of,
    text,
    texts,
)
from cacheserver.catalogs.documents.document import field as member
from cacheserver.catalogs.fbc import bundle
from cacheserver.catalogs.fbc import facts as f
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.catalogs.summary import LONGEST_NAME, clip, summarise
from cacheserver.slotted import slotted

ICON_TYPES: Final = frozenset({"image/svg+xml", "image/png", "image/jpeg", "image/gif", "image/webp"})
"""Ours: an icon is served as one of these or not at all; the type comes from the catalog and browsers act on it."""
_ICON_ALIASES: Final = {"image/jpg": "image/jpeg", "image/svg": "image/svg+xml"}


@slotted(frozen=True)
class Blob:
    """Bytes that a document brings. digest: theirs. files: of a tar, in order."""

    content: bytes
    digest: str
    media_type: str
    files: tuple[tuple[str, int], ...] = ()


@slotted(frozen=True)
class Envelope:
    """What every document carries (declcfg Meta)."""

    schema: str
    package: str
    name: str
    document: Object


def envelope(value: JSON) -> Envelope:
    """schema, package and name, whatever the case of their keys. Raises: DocumentError."""
    if not isinstance(value, dict):
        raise DocumentError("NotAnObject", f"a document must be an object, not {name_of(value)}")
    if len({key.casefold() for key in value}) != len(value):
        # declcfg extractUniqueMetaKeys: two top-level keys that are equal after folding.
        folded: dict[str, list[str]] = {}
        for key in value:
            folded.setdefault(key.casefold(), []).append(key)
        clash = sorted(key for keys in folded.values() if len(keys) > 1 for key in keys)
        raise DocumentError("DuplicateKeys", f"duplicate keys but for case: {', '.join(clash)}")
    try:
        found = Envelope(text(value, "schema"), text(value, "package"), text(value, "name"), value)
    except ShapeError as exc:
        raise DocumentError("NotAString", f"{exc}; put it in quotes", package=_package_of(value)) from None
    if not found.schema:
        raise DocumentError("MissingSchema", "the document has no schema", package=_package_of(value))
    return found


def _package_of(value: Object) -> str:
    """The package that a document without a usable envelope speaks of, where that much can be read."""
    named = member(value, "name" if member(value, "schema") == f.PACKAGE else "package")
    return named if isinstance(named, str) else ""


def read(value: JSON, limits: ParseLimits) -> tuple[f.Facts, Blob | None]:
    """The document's facts, and the icon or content that it brings. Raises: DocumentError without a usable envelope."""
    meta = envelope(value)
    try:
        if meta.schema == f.BUNDLE:
            found = bundle.read(meta.document, meta.package, meta.name, limits)
            return found.facts, Blob(found.tar, found.digest, "application/x-tar", found.files)
        if meta.schema == f.PACKAGE:
            return _package(meta)
        if meta.schema == f.CHANNEL:
            entries = tuple(_entry(entry) for entry in children(meta.document, "entries"))
            return f.Facts(f.Channel(meta.package, meta.name, entries)), None
        if meta.schema == f.DEPRECATIONS:
            deprecated = tuple(_deprecation(entry) for entry in children(meta.document, "entries"))
            return f.Facts(f.Deprecations(meta.package, deprecated)), None
    except ShapeError as exc:
        return f.Facts(_bare(meta), (Problem("FieldType", str(exc)),)), None
    except DocumentError as exc:
        exc.package = meta.package
        raise
    return f.Facts(f.Other(clip(meta.package, LONGEST_NAME), clip(meta.schema, LONGEST_NAME))), None


def _bare(meta: Envelope) -> f.Subject:
    """Who is meant, where nothing else of the document can be used."""
    if meta.schema == f.PACKAGE:
        return f.Package(meta.name)
    if meta.schema == f.DEPRECATIONS:
        return f.Deprecations(meta.package)
    return (f.Channel if meta.schema == f.CHANNEL else f.Bundle)(meta.package, meta.name)


def _package(meta: Envelope) -> tuple[f.Facts, Blob | None]:
    default, description = text(meta.document, "defaultChannel"), text(meta.document, "description")
    children(meta.document, "properties")
    warnings: tuple[Problem, ...] = ()
    blob, shown = None, None
    icon = child(meta.document, "icon")
    if icon:
        content = decode_base64(text(icon, "base64data"), "icon.base64data")
        declared = text(icon, "mediatype").partition(";")[0].strip().lower()
        media_type = _ICON_ALIASES.get(declared, declared)
        if content and media_type in ICON_TYPES:
            blob = Blob(content, bundle.digest_of(content), media_type)
            shown = (media_type, blob.digest, len(content))
        elif content:
            # model.Icon.Validate leaves media types unchecked: production catalogs get them wrong.
            warnings = (Problem("IconType", f"an icon of media type {clip(declared, 60)!r} is not served"),)
    package = f.Package(meta.name, default, summarise(description), shown)
    return f.Facts(package, (), warnings), blob


def _entry(entry: Object) -> f.Entry:
    return f.Entry(text(entry, "name"), text(entry, "replaces"), tuple(texts(entry, "skips")), text(entry, "skipRange"))


def _deprecation(entry: Object) -> f.Deprecation:
    reference = child(entry, "reference") or {}
    return f.Deprecation(text(reference, "schema"), text(reference, "name"), text(entry, "message"))
