"""What a PackageManifest says of a package, made where its documents are read: in a worker, when one of them changed.

Most of it is a blob, the inside of `status` behind what names the catalog; what selects, lists and tables need is in
the Package (`status.manifest`), so that they read no blob, and an event of the Package is one of the manifest. Rules:
operator-lifecycle-manager pkg/package-server/provider/registry.go (newPackageManifest).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from cacheserver.catalogs.catalog import Manifests
from cacheserver.catalogs.documents import document as d
from cacheserver.catalogs.documents.document import JSON, DocumentError, Object, ShapeError
from cacheserver.catalogs.fbc import bundle as bundles
from cacheserver.catalogs.fbc import csv, rules
from cacheserver.catalogs.fbc import facts as f
from cacheserver.catalogs.fbc.csv import CSV
from cacheserver.catalogs.fbc.registry import csv as registry
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.model import BlobHead, Digest
from cacheserver.slotted import slotted

MANIFEST_BYTES: Final = 4 << 20
"""Of one manifest: a reader holds one whole. The largest of community v4.20 has 169 KB."""
LABELS_BYTES: Final = 16 << 10
"""Of its labels, names and values together: they are in the Package, a sixteenth of what that may have."""
TEXT_CHARACTERS: Final = 1024
"""Of one label's value; real ones are names and addresses."""
ICON_BYTES: Final = 1 << 20
MEDIA_TYPE: Final = "application/json"

_DEPRECATED: Final = "olm.deprecated"
_OBJECT: Final = "olm.bundle.object"
_OS_AND_ARCH: Final = (
    ("operatorframework.io/os", "operatorframework.io/os.linux"),
    ("operatorframework.io/arch", "operatorframework.io/arch.amd64"),
)
_OURS: Final = frozenset(("catalog", "catalog-namespace"))
"""Labels that name the catalog. OLM lets a CSV overwrite them; ours: then whoever writes one chooses what it is taken
for."""
_TAKEN_FOR_CONTENT: Final = "digest"
"""What an object calls the content that it refers to (model.blob_references): no label of a stranger's has the name."""

Line = Callable[[str, str], bytes]
"""The line of JSON of the document of a schema and name, of one package. Raises: OSError."""


@slotted(frozen=True)
class Manifest:
    """status: for the Package's `status.manifest`. content: (head, bytes) of the manifest, and of its icon.

    left_out: labels that no room was for.
    """

    status: Mapping[str, Any]
    content: Sequence[tuple[BlobHead, bytes]]
    left_out: int = 0


class TooLargeError(Exception):
    """A manifest over MANIFEST_BYTES. Never leaves the worker: it becomes a Finding."""


def make(package: rules.Package, wanted: Manifests, line: Line, limits: ParseLimits) -> Manifest | None:
    """None where no channel has a head with a CSV that can be read: then it is not listed.

    Raises: TooLargeError; OSError where a document cannot be read.
    """
    said, about = package.said, orjson.loads(line(f.PACKAGE, package.said.name))
    deprecated = {(entry.schema, entry.name): entry.message for entry in package.deprecations}
    entries = _entries(package, deprecated, line)
    default = said.default_channel
    channels: list[bytes] = []
    names: list[str] = []
    first: CSV | None = None
    of_default: CSV | None = None
    size = 0
    for channel in package.channels:
        found = _head(orjson.loads(line(f.BUNDLE, channel.head)), about, limits)
        if found is None:
            continue
        name = channel.said.name
        first = first or found
        of_default = found if name == default else of_default
        channels.append(_channel(name, found, deprecated.get((f.CHANNEL, name)), entries(channel)))
        names.append(name)
        size += len(channels[-1])
        if size > MANIFEST_BYTES:
            raise TooLargeError(f"its PackageManifest would have over {MANIFEST_BYTES} bytes, and is not served")
    chosen = of_default or first
    if chosen is None:
        return None
    body = {
        "provider": chosen.provider,
        "packageName": said.name,
        **_deprecation(deprecated.get((f.PACKAGE, ""))),
        "channels": [orjson.Fragment(each) for each in channels],
        "defaultChannel": default if of_default is not None else names[0],
    }
    # The opening brace is written with what names the catalog, which is not known here.
    content = [_content(orjson.dumps(body)[1:], MEDIA_TYPE)]
    labels, left_out = _labels(chosen, wanted.labels)
    status: dict[str, Any] = {"digest": content[0][0].digest, "size": content[0][0].size, "labels": labels}
    people = {"displayName": wanted.display_name, "publisher": wanted.publisher}
    status |= {field: text for field, text in people.items() if text}
    if of_default is not None and (icon := _icon(of_default)) is not None:
        content.append(icon)
        head = icon[0]
        status["icon"] = {"mediaType": head.media_type, "digest": head.digest, "size": head.size}
    return Manifest(status, content, left_out)


def _entries(
    package: rules.Package, deprecated: Mapping[tuple[str, str], str], line: Line
) -> Callable[[rules.Channel], Sequence[Mapping[str, Any]] | None]:
    """What gives a channel's entries: highest version first, less those with the property olm.deprecated."""
    hidden = {one.said.name for one in package.bundles if _is_hidden(line(f.BUNDLE, one.said.name))}
    ranked = [one for one in reversed(package.bundles) if one.said.name not in hidden]

    def of(channel: rules.Channel) -> Sequence[Mapping[str, Any]] | None:
        here = {entry.name for entry in channel.said.entries}
        # null there, where nothing is left: a Go slice that was never made.
        return [
            {
                "name": one.said.name,
                "version": one.written,
                **_deprecation(deprecated.get((f.BUNDLE, one.said.name))),
            }
            for one in ranked
            if one.said.name in here
        ] or None

    return of


def _is_hidden(bundle: bytes) -> bool:
    if _DEPRECATED.encode() not in bundle:  # nearly none: what is not looked for is not decoded
        return False
    return any(kind == _DEPRECATED for kind, _ in _properties(orjson.loads(bundle)))


def _head(bundle: Object, package: Object, limits: ParseLimits) -> CSV | None:
    """The CSV of a channel's head; None where there is none, or one that Go could not decode."""
    try:
        objects = (bundles.manifest(value, limits)[1] for kind, value in _properties(bundle) if kind == _OBJECT)
        manifest = next((found for found in objects if found.get("kind") == registry.KIND), None)
        if manifest is not None:
            return csv.of_manifest(manifest)
        metadata = [value for kind, value in _properties(bundle) if kind == "olm.csv.metadata"]
        versions = [value for kind, value in _properties(bundle) if kind == "olm.package"]
        if len(metadata) != 1 or not versions:
            return None
        version = d.text(d.as_object(versions[0], "value") or {}, "version")
        # The icon comes to it behind: it is large, and every head of the package would carry it there and back.
        about = registry.About(d.text(package, "description"))
        found = csv.of_manifest(orjson.loads(registry.made_of(metadata[0], bundle, version, about)))
        icon = d.child(package, "icon") or {}
        return replace(found, icon=(d.text(icon, "mediatype"), d.text(icon, "base64data")))
    except (ShapeError, DocumentError):
        return None


def _properties(bundle: Object) -> Iterator[tuple[str, JSON]]:
    for entry in d.children(bundle, "properties"):
        yield d.text(entry, "type"), d.field(entry, "value")


def _channel(name: str, head: CSV, deprecation: str | None, entries: Sequence[Mapping[str, Any]] | None) -> bytes:
    return orjson.dumps(
        {
            "name": name,
            "currentCSV": head.name,
            "currentCSVDesc": orjson.Fragment(head.description()),
            **_deprecation(deprecation),
            "entries": entries,
        }
    )


def _labels(chosen: CSV, of_repository: Mapping[str, str]) -> tuple[Mapping[str, str], int]:
    """Without those of the catalog, which its names give; and how many no room was for.

    Later ones overwrite earlier ones. A value need not be one that a label can have: OLM shows them as they are.
    """
    provider = chosen.provider
    wanted = {
        **of_repository,
        "provider": provider.get("name", ""),
        "provider-url": provider.get("url", ""),
        **dict(sorted(chosen.labels.items())),
    }
    for prefix, default in _OS_AND_ARCH:
        if not any(name.startswith(prefix) for name in wanted):
            wanted[default] = "supported"
    kept: dict[str, str] = {}
    left = LABELS_BYTES
    for name, value in wanted.items():
        size = len(name.encode()) + len(value.encode())
        if name not in (*_OURS, _TAKEN_FOR_CONTENT) and size <= left and len(value) <= TEXT_CHARACTERS:
            kept[name] = value
            left -= size
    return dict(sorted(kept.items())), len(wanted.keys() - kept.keys() - _OURS)


def _icon(found: CSV) -> tuple[BlobHead, bytes] | None:
    media_type, written = found.icon
    try:
        image = d.decode_base64(written, "icon")
    except ShapeError:
        return None
    return _content(image, media_type[:TEXT_CHARACTERS]) if 0 < len(image) <= ICON_BYTES else None


def _content(content: bytes, media_type: str) -> tuple[BlobHead, bytes]:
    digest = Digest(f"sha256:{hashlib.sha256(content).hexdigest()}")
    return BlobHead(digest, len(content), media_type), content


def _deprecation(message: str | None) -> Mapping[str, Any]:
    return {"deprecation": {"message": message}} if message is not None else {}
