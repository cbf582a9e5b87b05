"""A ClusterServiceVersion as Go programs decode it, as far as a PackageManifest shows it. Pure, runs in a worker.

A value of another type than its field has makes the whole of it unreadable, as with encoding/json; null is the zero
value. Types: operator-framework/api pkg/operators/v1alpha1/clusterserviceversion_types.go. What is shown of it:
operator-lifecycle-manager pkg/package-server/apis/operators/v1/packagemanifest.go (CreateCSVDescription).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import orjson

from cacheserver.catalogs import semver
from cacheserver.catalogs.documents import document as d
from cacheserver.catalogs.documents.document import JSON, Object, ShapeError


class _Plain(Enum):
    """Types without parts. RAW: anything, as it is."""

    STRING = str
    FLAG = bool
    NUMBER = int
    RAW = object


@dataclass(frozen=True, slots=True)
class _List:
    of: _Type


@dataclass(frozen=True, slots=True)
class _Texts:
    """A map of strings."""


@dataclass(frozen=True, slots=True)
class _Struct:
    """fields: in Go's order. always: those written even when they are empty. hidden: read, and not shown."""

    fields: Mapping[str, _Type]
    always: Sequence[str] = ()
    hidden: Sequence[str] = ()


_Type = _Plain | _List | _Texts | _Struct

_STRING, _FLAG, _NUMBER, _RAW = _Plain.STRING, _Plain.FLAG, _Plain.NUMBER, _Plain.RAW
_STRINGS: Final = _List(_STRING)
_LINK: Final = _Struct({"name": _STRING, "url": _STRING})
_MAINTAINER: Final = _Struct({"name": _STRING, "email": _STRING})
_MODE: Final = _Struct({"type": _STRING, "supported": _FLAG}, always=("type", "supported"))
_API: Final = _Struct({"group": _STRING, "version": _STRING, "kind": _STRING}, always=("group", "version", "kind"))
_RESOURCE: Final = _Struct({"name": _STRING, "kind": _STRING, "version": _STRING})
_DESCRIPTOR: Final = _Struct(
    {"path": _STRING, "displayName": _STRING, "description": _STRING, "x-descriptors": _STRINGS, "value": _RAW}
)
_DETAILS: Final[Mapping[str, _Type]] = {
    "resources": _List(_RESOURCE),
    "statusDescriptors": _List(_DESCRIPTOR),
    "specDescriptors": _List(_DESCRIPTOR),
    "actionDescriptors": _List(_DESCRIPTOR),
}
_CRD: Final = _Struct(
    {"name": _STRING, "version": _STRING, "kind": _STRING, "displayName": _STRING, "description": _STRING, **_DETAILS},
    always=("name", "version", "kind"),
    hidden=tuple(_DETAILS),
)
_SERVICE: Final = _Struct(
    {
        "name": _STRING,
        "group": _STRING,
        "version": _STRING,
        "kind": _STRING,
        "deploymentName": _STRING,
        "containerPort": _NUMBER,
        "displayName": _STRING,
        "description": _STRING,
        **_DETAILS,
    },
    always=("name", "group", "version", "kind"),
    hidden=("deploymentName", "containerPort", *_DETAILS),
)
_ICON: Final = _Struct({"base64data": _STRING, "mediatype": _STRING})
_IMAGE: Final = _Struct({"name": _STRING, "image": _STRING})
_IMAGES: Final = _List(_IMAGE)

_SPEC: Final[Mapping[str, _Type]] = {
    "displayName": _STRING,
    "provider": _LINK,
    "keywords": _STRINGS,
    "links": _List(_LINK),
    "maintainers": _List(_MAINTAINER),
    "maturity": _STRING,
    "description": _STRING,
    "installModes": _List(_MODE),
    "customresourcedefinitions": _Struct({"owned": _List(_CRD), "required": _List(_CRD)}),
    "apiservicedefinitions": _Struct({"owned": _List(_SERVICE), "required": _List(_SERVICE)}),
    "nativeAPIs": _List(_API),
    "minKubeVersion": _STRING,
}
_OF_METADATA: Final = {"customresourcedefinitions": "crdDescriptions", "apiservicedefinitions": "apiServiceDefinitions"}
"""Where an olm.csv.metadata property has what a CSV calls otherwise (operator-registry alpha/property: CSVMetadata)."""
_DEPLOYMENT: Final = "deployment"
_NO_VERSION: Final = "0.0.0"

_INT32: Final = 1 << 31


@dataclass(frozen=True, slots=True)
class CSV:
    """What is read of one. said: fields of spec by name, decoded. images: of deployments and related ones."""

    name: str
    version: str
    said: Mapping[str, JSON]
    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    images: Sequence[str] = ()
    icon: tuple[str, str] = ("", "")
    """(media type, base64) of the first one."""

    @property
    def provider(self) -> Mapping[str, str]:
        """name and url, as far as they are there."""
        found = self.said["provider"]
        assert isinstance(found, dict)
        return {name: str(text) for name, text in found.items()}

    def description(self) -> bytes:
        """A CSVDescription as JSON, in Go's order; empty lists and texts are left out."""
        said = self.said
        return orjson.dumps(
            {
                **_present({"displayName": said["displayName"]}),
                "version": self.version,
                "provider": said["provider"],
                **_present({"annotations": dict(sorted(self.annotations.items()))}),
                **_present({name: said[name] for name in ("keywords", "links", "maintainers", "maturity")}),
                **_present({"description": said["description"], "installModes": said["installModes"]}),
                "customresourcedefinitions": said["customresourcedefinitions"],
                "apiservicedefinitions": said["apiservicedefinitions"],
                **_present({"nativeApis": said["nativeAPIs"], "minKubeVersion": said["minKubeVersion"]}),
                # A set, in any order there. Ours: sorted, so that equal content is equal bytes.
                **_present({"relatedImages": [*sorted(set(self.images))]}),
            }
        )


def of_manifest(manifest: Object) -> CSV:
    """From a ClusterServiceVersion itself. Raises: ShapeError."""
    metadata, spec = d.child(manifest, "metadata") or {}, d.child(manifest, "spec") or {}
    icons = _decoded(_List(_ICON), d.field(spec, "icon"), "icon")
    assert isinstance(icons, list)
    first = icons[0] if icons else {}
    assert isinstance(first, dict)
    return CSV(
        name=d.text(metadata, "name"),
        version=_NO_VERSION if d.field(spec, "version") is None else tolerant_version(d.text(spec, "version")),
        said=_said(spec, {}),
        annotations=_strings(metadata, "annotations"),
        labels=_strings(metadata, "labels"),
        images=(*_deployed(spec), *_images(spec)),
        icon=(str(first.get("mediatype", "")), str(first.get("base64data", ""))),
    )


def of_metadata(value: Object, *, name: str, version: str, bundle: Object, package: Object) -> CSV:
    """Made of an olm.csv.metadata property, as operator-registry does (pkg/api/model_to_api.go). Raises: ShapeError.

    name, version: the bundle's. bundle, package: their documents, for related images, icon and description.
    """
    said = dict(_said(value, _OF_METADATA))
    said["description"] = said["description"] or d.text(package, "description")
    icon = d.child(package, "icon") or {}
    return CSV(
        name=name,
        version=tolerant_version(version),
        said=said,
        annotations=_strings(value, "annotations"),
        labels=_strings(value, "labels"),
        images=_images(bundle),
        icon=(d.text(icon, "mediatype"), d.text(icon, "base64data")),
    )


def tolerant_version(written: str) -> str:
    """As blang/semver's ParseTolerant reads and writes it. Raises: ShapeError."""
    parts = written.strip().removeprefix("v").split(".", 2)
    for at, part in enumerate(parts):
        if len(part) > 1:
            kept = part.lstrip("0")
            parts[at] = kept if kept[:1].isdigit() else "0" + kept
    if len(parts) < 3 and re.search(r"[-+]", parts[-1]):
        raise ShapeError(f"version {written[:64]!r} is short, and has more behind it")
    try:
        return str(semver.parse(".".join((*parts, "0", "0")[: max(len(parts), 3)])))
    except ValueError as exc:
        raise ShapeError(f"version: {exc}") from None


def _said(owner: Object, called: Mapping[str, str]) -> Mapping[str, JSON]:
    return {
        name: _decoded(kind, d.field(owner, called.get(name, name)), called.get(name, name))
        for name, kind in _SPEC.items()
    }


def _decoded(kind: _Type, value: JSON, where: str) -> JSON:
    """As Go decodes and encodes it, with `omitempty`. Raises: ShapeError."""
    if isinstance(kind, _List):
        if value is not None and not isinstance(value, list):
            raise ShapeError(f"{where} must be a list, not {d.name_of(value)}")
        return [_decoded(kind.of, item, where) for item in value or ()]
    if isinstance(kind, _Texts):
        return dict(_texts(value, where))
    if isinstance(kind, _Struct):
        owner = d.as_object(value, where) or {}
        found = {name: _decoded(part, d.field(owner, name), name) for name, part in kind.fields.items()}
        shown = {name: item for name, item in found.items() if name not in kind.hidden}
        return {name: item for name, item in shown.items() if name in kind.always or _is_there(item)}
    return _plain(kind, value, where)


def _plain(kind: _Plain, value: JSON, where: str) -> JSON:
    if kind is _RAW:
        return value
    if value is None:
        return "" if kind is _STRING else False if kind is _FLAG else 0
    if type(value) is not kind.value or (type(value) is int and not -_INT32 <= value < _INT32):
        raise ShapeError(f"{where} must be another type than {d.name_of(value)}")
    return value


def _texts(value: JSON, where: str) -> Mapping[str, str]:
    owner = d.as_object(value, where) or {}
    for name, text in owner.items():
        if text is not None and not isinstance(text, str):
            raise ShapeError(f"{where}[{name[:64]!r}] must be a string, not {d.name_of(text)}")
    return {name: str(text or "") for name, text in owner.items()}


def _strings(owner: Object, name: str) -> Mapping[str, str]:
    return _texts(d.field(owner, name), name)


def _images(owner: Object) -> Sequence[str]:
    return tuple(d.text(image, "image") for image in d.children(owner, "relatedImages"))


def _deployed(spec: Object) -> Sequence[str]:
    """Of containers and init containers (operator-registry pkg/registry/csv.go: GetOperatorImages)."""
    install = d.child(spec, "install") or {}
    if d.text(install, "strategy") != _DEPLOYMENT:
        return ()
    found: list[str] = []
    for deployment in d.children(d.child(install, "spec") or {}, "deployments"):
        template = d.child(d.child(deployment, "spec") or {}, "template") or {}
        pod = d.child(template, "spec") or {}
        for name in ("containers", "initContainers"):
            found += [d.text(container, "image") for container in d.children(pod, name)]
    return found


def _is_there(value: JSON) -> bool:
    return value not in (None, "", 0) and value != [] and value is not False


def _present(fields: Mapping[str, JSON]) -> Mapping[str, JSON]:
    return {name: value for name, value in fields.items() if value not in ("", None) and value not in ([], {})}
