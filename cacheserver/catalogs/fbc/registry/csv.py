"""The ClusterServiceVersion of a bundle as operator-registry gives it to its clients. Pure, runs in a worker.

It is the first olm.bundle.object of that kind, as JSON; else one made of the only olm.csv.metadata (operator-registry
pkg/api/model_to_api.go: csvMetadataToCsv). A made one passes through Go's types: fields that these do not know go,
empty ones are left out where the type says omitempty, and what has another type is an error. The types are
operator-framework/api's (pkg/operators/v1alpha1/clusterserviceversion_types.go).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

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
    field,
    name_of,
    text,
    texts,
)
from cacheserver.catalogs.limits import ParseLimits

KIND: Final = "ClusterServiceVersion"
_API_VERSION: Final = "operators.coreos.com/v1alpha1"
_ESCAPED: Final = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)
"""encoding/json, Marshal: so that JSON can stand in a script of a page."""
_INT32: Final = range(-(1 << 31), 1 << 31)


@dataclass(frozen=True, slots=True)
class _Member:
    """A field of a Go struct. read: its value from an object, by its name; empty ones may be left out."""

    name: str
    read: Callable[[Object, str], JSON]
    omit_empty: bool = True


def _flag(owner: Object, name: str) -> JSON:
    value = field(owner, name)
    if value is not None and not isinstance(value, bool):
        raise ShapeError(f"{name} must be a boolean, not {name_of(value)}")
    return bool(value)


def _int32(owner: Object, name: str) -> JSON:
    value = field(owner, name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value not in _INT32):
        raise ShapeError(f"{name} must be a whole number of 32 bits")
    return value or 0


def _texts(owner: Object, name: str) -> JSON:
    return [*texts(owner, name)]


def _strings(owner: Object, name: str) -> JSON:
    """A map of strings, as Go writes one: sorted."""
    members = child(owner, name) or {}
    return {key: text(members, key) for key in sorted(members)}


def _struct(members: Sequence[_Member], owner: Object) -> Object:
    made: Object = {}
    for member in members:
        if member.read is field:
            present = any(len(key) == len(member.name) and key.casefold() == member.name for key in owner)
            if present:
                made[member.name] = field(owner, member.name)
            continue
        value = member.read(owner, member.name)
        if value or not member.omit_empty:
            made[member.name] = value
    return made


def _struct_of(*members: _Member) -> Callable[[Object, str], JSON]:
    return lambda owner, name: _struct(members, child(owner, name) or {})


def _structs_of(*members: _Member) -> Callable[[Object, str], JSON]:
    return lambda owner, name: [_struct(members, each) for each in children(owner, name)]


_LINK: Final = (_Member("name", text), _Member("url", text))
_DESCRIPTOR: Final = (
    _Member("path", text, omit_empty=False),
    _Member("displayName", text),
    _Member("description", text),
    _Member("x-descriptors", _texts),
    _Member("value", field),
)
_DESCRIBED: Final = (
    _Member("displayName", text),
    _Member("description", text),
    _Member("resources", _structs_of(*(_Member(name, text, omit_empty=False) for name in ("name", "kind", "version")))),
    _Member("statusDescriptors", _structs_of(*_DESCRIPTOR)),
    _Member("specDescriptors", _structs_of(*_DESCRIPTOR)),
    _Member("actionDescriptors", _structs_of(*_DESCRIPTOR)),
)
_CRD: Final = (*(_Member(name, text, omit_empty=False) for name in ("name", "version", "kind")), *_DESCRIBED)
_API_SERVICE: Final = (
    *(_Member(name, text, omit_empty=False) for name in ("name", "group", "version", "kind")),
    _Member("deploymentName", text),
    _Member("containerPort", _int32),
    *_DESCRIBED,
)
_METADATA: Final = (_Member("labels", _strings), _Member("annotations", _strings))
_OWNED_CRDS: Final = _struct_of(_Member("owned", _structs_of(*_CRD)), _Member("required", _structs_of(*_CRD)))
_OWNED_SERVICES: Final = _struct_of(
    _Member("owned", _structs_of(*_API_SERVICE)), _Member("required", _structs_of(*_API_SERVICE))
)
_GVKS: Final = _structs_of(*(_Member(name, text, omit_empty=False) for name in ("group", "version", "kind")))
_ABOUT: Final = (
    _Member("minKubeVersion", text),
    _Member("displayName", text, omit_empty=False),
    _Member("description", text),
    _Member("keywords", _texts),
    _Member("maintainers", _structs_of(_Member("name", text), _Member("email", text))),
    _Member("provider", _struct_of(*_LINK), omit_empty=False),
    _Member("links", _structs_of(*_LINK)),
)
_INSTALL_MODES: Final = _structs_of(
    _Member("type", text, omit_empty=False), _Member("supported", _flag, omit_empty=False)
)
_IMAGES: Final = _structs_of(_Member("name", text, omit_empty=False), _Member("image", text, omit_empty=False))


@dataclass(frozen=True, slots=True)
class About:
    """What a made CSV takes of the package. icon: (base64 as Go writes it, media type)."""

    description: str = ""
    icon: tuple[str, str] | None = None


def about(package: Object) -> About:
    """Of an olm.package document. Raises: ShapeError."""
    icon = child(package, "icon")
    if icon is None:
        return About(text(package, "description"))
    encoded = base64.b64encode(decode_base64(text(icon, "base64data"), "icon.base64data")).decode()
    return About(text(package, "description"), (encoded, text(icon, "mediatype")))


def made_of(metadata: JSON, bundle: Object, version: str, package: About) -> str:
    """The CSV that stands for an olm.csv.metadata property. Raises: ShapeError."""
    said = as_object(metadata, "olm.csv.metadata") or {}
    description = _struct(_ABOUT, said)
    if not description.get("description") and package.description:
        # Between its neighbours, as Go writes the fields.
        described = {**description, "description": package.description}
        description = {each.name: described[each.name] for each in _ABOUT if each.name in described}
    spec: Object = {
        # OLM's package server writes into a nil map without this.
        "install": {"strategy": "deployment", "spec": {"deployments": None}},
        "version": version,
        **_struct((_Member("maturity", text),), said),
        "customresourcedefinitions": _OWNED_CRDS(said, "crdDescriptions"),
        "apiservicedefinitions": _OWNED_SERVICES(said, "apiServiceDefinitions"),
        **_struct((_Member("nativeAPIs", _GVKS),), said),
        **description,
    }
    if package.icon is not None:
        spec["icon"] = [{"base64data": package.icon[0], "mediatype": package.icon[1]}]
    spec |= _struct((_Member("installModes", _INSTALL_MODES),), said)
    spec["cleanup"] = {"enabled": False}
    spec |= _struct((_Member("relatedImages", _IMAGES),), bundle)
    name = text(bundle, "name")
    return _marshal(
        {
            "kind": KIND,
            "apiVersion": _API_VERSION,
            "metadata": {"name": name, **_struct(_METADATA, said)},
            "spec": spec,
            "status": {"cleanup": {}},
        }
    )


def manifest(value: JSON, limits: ParseLimits) -> tuple[str, str]:
    """(an olm.bundle.object as JSON, its kind). Raises: ShapeError, DocumentError."""
    content = decode_base64(text(as_object(value, "olm.bundle.object") or {}, "data"), "data")
    if content.lstrip()[:1] == b"{":
        try:
            # k8s.io/apimachinery, yaml.ToJSON: what is JSON stays as it was written.
            return content.decode(), _kind(orjson.loads(content))
        except (orjson.JSONDecodeError, UnicodeDecodeError):
            pass  # YAML in flow style also begins with a brace
    loaded = goyaml.load(content, limits).value
    if isinstance(loaded, goyaml.Nothing):
        return "null", ""
    return _marshal(loaded, sort=True), _kind(loaded)


def _kind(document: JSON) -> str:
    kind = document.get("kind") if isinstance(document, dict) else None
    return kind if isinstance(kind, str) else ""


def _marshal(value: JSON, *, sort: bool = False) -> str:
    try:
        line = orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort else None)
    except orjson.JSONEncodeError as exc:
        raise DocumentError("TooDeep", f"cannot be written as JSON: {exc}") from exc
    for raw, escaped in _ESCAPED:
        line = line.replace(raw, escaped)
    return line.decode()
