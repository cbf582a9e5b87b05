"""An olm.bundle document into facts and its content: the tar that PackageRevisionResources serves.

The tar holds `bundle.json`, the whole document as JSON (keys sorted, indented, so that a diff can be read), and
`manifests/<kind>-<name>.yaml` or `.json` for each olm.bundle.object, byte for byte as it was encoded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import field, replace
from typing import Final

import orjson

from cacheserver.archive import tar_stream
from cacheserver.catalogs import bounds, provides
from cacheserver.catalogs.catalog import Problem
from cacheserver.catalogs.documents import goyaml
from cacheserver.catalogs.documents.document import (
    JSON,
    DocumentError,
    Object,
    ShapeError,
    as_object,
    child,
    children,
    decode_base64,
    text,
    texts,
)
from cacheserver.catalogs.documents.document import field as member
from cacheserver.catalogs.fbc import facts as f
from cacheserver.catalogs.fbc.images import check_pull_spec
from cacheserver.catalogs.fbc.written import canonical, indented
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.catalogs.summary import (
    LONGEST_MESSAGE,
    LONGEST_NAME,
    clip,
    summarise,
    words,
)
from cacheserver.slotted import slotted

_CSV_KIND: Final = "ClusterServiceVersion"
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_MOST_PROBLEMS: Final = 50
"""Ours: of one document, as many as are listed for a package (rules.py)."""


@slotted(frozen=True)
class Read:
    """What one olm.bundle document comes to. tar: of the files that PackageRevisionResources serves, not packed.

    digest: of the tar.
    """

    facts: f.Facts
    tar: bytes
    digest: str
    files: tuple[tuple[str, int], ...]
    """(path, bytes) of each file in the tar, in order."""


@slotted()
class _Properties:
    """What the properties of one bundle come to."""

    versions: list[tuple[str, str, str]] = field(default_factory=list)
    provided: list[tuple[str, str, str]] = field(default_factory=list)
    required: list[tuple[str, str, str]] = field(default_factory=list)
    dependencies: list[tuple[str, str]] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    csv_metadata: list[Object] = field(default_factory=list)
    manifests: list[tuple[bytes, Object, str]] = field(default_factory=list)
    """(bytes as encoded, parsed, file extension)"""


def digest_of(content: bytes) -> str:
    """`sha256:` and the hexadecimal digits."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def read(document: Object, package: str, name: str, limits: ParseLimits) -> Read:
    """The bundle's facts and content. Raises: ShapeError for a field of the wrong type."""
    problems: list[Problem] = []
    image = text(document, "image")
    related = [(text(each, "name"), text(each, "image")) for each in children(document, "relatedImages")]
    images = [("image", image), *((f"relatedImages[{at}]", spec) for at, (_, spec) in enumerate(related))]
    for where, spec in images:
        try:
            # declcfg validateImagePullSpec: empty ones pass here.
            if spec:
                check_pull_spec(spec)
        except ValueError as exc:
            problems.append(Problem("InvalidImage", f"{where} {clip(spec, LONGEST_NAME)!r} is not a pull spec: {exc}"))
    found = _Properties()
    for at, entry in enumerate(children(document, "properties")):
        kind = text(entry, "type")
        try:
            _property(kind, member(entry, "value"), found, limits)
        except ShapeError as exc:
            problems.append(Problem("PropertyType", f"property[{at}] of type {clip(kind, LONGEST_NAME)!r}: {exc}"))
        except DocumentError as exc:
            problems.append(Problem("InvalidManifest", f"property[{at}]: cannot read the manifest: {exc}"))
    warnings: list[Problem] = []
    if len(found.csv_metadata) > 1:
        # opm serve refuses a second one, opm validate does not.
        warnings.append(
            Problem("SeveralCSVMetadata", f"{len(found.csv_metadata)} olm.csv.metadata properties; the first counts")
        )
    files = _files(document, found, limits)
    tar = b"".join(tar_stream(files))
    digest = digest_of(tar)
    sizes = tuple((path, len(content)) for path, content in files)
    provided: tuple[provides.API, ...] = ()
    try:
        bounds.check_files(sizes, limits)
        provided = bounds.checked_apis(found.provided)
    except bounds.BoundError as exc:
        problems.insert(0, Problem(exc.reason, str(exc)))
    cutter = bounds.Cutter(limits)
    bundle = f.Bundle(
        package=package,
        name=name,
        image=image,
        inline=bool(found.manifests),
        versions=tuple(found.versions),
        provided=provided,
        required=cutter.items("requiredAPIs", (*found.required, *_required(found))),
        dependencies=cutter.items("dependencies", found.dependencies),
        constraints=cutter.items("constraints", found.constraints),
        related_images=cutter.items("relatedImages", (each for each in related if each[1])),
        about=_about(found, cutter),
        content=(digest, len(tar), len(files)),
    )
    clipped = tuple(replace(one, message=clip(one.message, LONGEST_MESSAGE)) for one in problems[:_MOST_PROBLEMS])
    return Read(f.Facts(replace(bundle, cut=cutter.cut), clipped, tuple(warnings)), tar, digest, sizes)


def _property(kind: str, value: JSON, found: _Properties, limits: ParseLimits) -> None:
    """Adds one property to `found` (declcfg property.Parse). Raises: ShapeError; DocumentError for a bad manifest."""
    if kind == "olm.gvk":
        found.provided.append(_gvk(value))
    elif kind == "olm.package":
        entry = as_object(value, "value") or {}
        found.versions.append((text(entry, "packageName"), text(entry, "version"), text(entry, "release")))
    elif kind == "olm.gvk.required":
        found.required.append(_gvk(value))
    elif kind == "olm.package.required":
        entry = as_object(value, "value") or {}
        found.dependencies.append((text(entry, "packageName"), text(entry, "versionRange")))
    elif kind == "olm.constraint":
        found.constraints.append(canonical(value).decode().rstrip("\n"))
    elif kind == "olm.csv.metadata":
        found.csv_metadata.append(_csv_metadata(value))
    elif kind == "olm.bundle.object":
        found.manifests.append(manifest(value, limits))
    elif not kind:
        # property.Validate: type must be set.
        raise ShapeError("type must be set")


def _gvk(value: JSON) -> tuple[str, str, str]:
    entry = as_object(value, "value") or {}
    return text(entry, "group"), text(entry, "version"), text(entry, "kind")


def _csv_metadata(value: JSON) -> Object:
    """The value, with the types of the fields that are read later checked."""
    metadata = as_object(value, "value") or {}
    for name in ("displayName", "description", "maturity", "minKubeVersion"):
        text(metadata, name)
    texts(metadata, "keywords")
    for name in ("annotations", "labels", "provider"):
        strings = child(metadata, name) or {}
        for key in strings:
            text(strings, key)
    for name in ("installModes", "links", "maintainers", "nativeAPIs"):
        children(metadata, name)
    return metadata


def manifest(value: JSON, limits: ParseLimits) -> tuple[bytes, Object, str]:
    """Of an olm.bundle.object: (bytes as encoded, parsed, extension). Raises: ShapeError, DocumentError."""
    entry = as_object(value, "value") or {}
    if text(entry, "ref"):
        raise ShapeError("`ref` is no longer supported by OLM; carry the manifest in `data`")
    content = decode_base64(text(entry, "data"), "data")
    if content.lstrip()[:1] == b"{":
        try:
            parsed: JSON = orjson.loads(content)
        except orjson.JSONDecodeError:
            pass  # YAML in flow style also begins with a brace
        else:
            return content, as_object(parsed, "data") or {}, "json"
    loaded = goyaml.load(content, limits).value
    if isinstance(loaded, goyaml.Nothing):
        raise ShapeError("data is empty")
    return content, as_object(loaded, "data") or {}, "yaml"


def _files(document: Object, found: _Properties, limits: ParseLimits) -> list[tuple[str, bytes]]:
    """The content's files, sorted by path, names made unique in the order of the properties."""
    files = {"bundle.json": indented(document, limits)}
    copies: dict[str, int] = {}
    for content, parsed, extension in found.manifests:
        kind, name = _said(parsed, "kind"), _said(_part(parsed, "metadata"), "name")
        stem = _UNSAFE.sub("-", f"{kind or 'object'}-{name or 'unnamed'}").lower()[:150].strip(".")
        path = plain = f"manifests/{stem}.{extension}"
        # From where the last of the same name ended: thousands may share one, and each would try all before it.
        copy = copies.get(plain, 1)
        while path in files:
            copy += 1
            path = f"manifests/{stem}-{copy}.{extension}"
        copies[plain] = copy
        files[path] = content
    return sorted(files.items())


def _about(found: _Properties, cutter: bounds.Cutter) -> f.About:
    """What the CSV says. OLM: the CSV among the objects wins, olm.csv.metadata fills what it leaves empty."""
    metadata = found.csv_metadata[0] if found.csv_metadata else {}
    csv = next((parsed for _, parsed, _ in found.manifests if _said(parsed, "kind") == _CSV_KIND), {})
    spec = _part(csv, "spec")
    notes = {**_part(metadata, "annotations"), **_part(_part(csv, "metadata"), "annotations")}
    provider = _part(spec, "provider") or _part(metadata, "provider")

    def said(name: str) -> str:
        return _said(spec, name) or _said(metadata, name)

    keywords = member(spec, "keywords") or member(metadata, "keywords")
    listed = keywords if isinstance(keywords, list) else []
    return f.About(
        display_name=cutter.text("displayName", said("displayName").strip()),
        summary=summarise(_said(notes, "description") or said("description")),
        provider_name=cutter.text("provider", _said(provider, "name").strip()),
        provider_url=cutter.text("provider", _said(provider, "url").strip()),
        keywords=cutter.items("keywords", words(w for w in listed if isinstance(w, str))),
        categories=cutter.items("categories", words(_said(notes, "categories").split(","))),
        min_kube_version=cutter.text("minKubeVersion", said("minKubeVersion").strip()),
    )


_REQUIRED: Final = (
    ("crdDescriptions", "customresourcedefinitions", "name"),
    ("apiServiceDefinitions", "apiservicedefinitions", "group"),
)
"""Of olm.csv.metadata, and of a CSV's spec; where the group is, for a CRD is named PLURAL.GROUP."""


def _required(found: _Properties) -> Iterator[tuple[str, str, str]]:
    """Kinds that the CSV requires: OLM installs none that are missing (olm.gvk.required), and waits for these."""
    metadata = found.csv_metadata[0] if found.csv_metadata else {}
    csv = next((parsed for _, parsed, _ in found.manifests if _said(parsed, "kind") == _CSV_KIND), {})
    for name, name_in_csv, group_in in _REQUIRED:
        for owner in (_part(metadata, name), _part(_part(csv, "spec"), name_in_csv)):
            listed = member(owner, "required")
            for each in listed if isinstance(listed, list) else ():
                if isinstance(each, dict):
                    group = _said(each, group_in)
                    group = group.partition(".")[2] if group_in == "name" else group
                    api = group, _said(each, "version"), _said(each, "kind")
                    if all(api):
                        yield api


def _said(owner: Object, name: str) -> str:
    """A string for people; anything else counts as not said: the manifests inside a bundle are not ours to reject."""
    value = member(owner, name)
    return value if isinstance(value, str) else ""


def _part(owner: Object, name: str) -> Object:
    value = member(owner, name)
    return value if isinstance(value, dict) else {}
