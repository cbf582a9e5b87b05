"""The spec of a ClusterServiceVersion as Go's types decode and write it. Pure, runs in a worker.

Fields that the types do not know go; empty ones are left out where the type says omitempty; a value of another type
than its field has makes the whole of it unreadable, as with encoding/json; null is the zero value. Types:
operator-framework/api pkg/operators/v1alpha1/clusterserviceversion_types.go. Used where a CSV is made (registry/csv.py)
and where one is shown (csv.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final

from cacheserver.catalogs.documents import document as d
from cacheserver.catalogs.documents.document import JSON, Object, ShapeError
from cacheserver.slotted import slotted


class Plain(Enum):
    """Types without parts. RAW: anything, as it is, null among it."""

    STRING = str
    FLAG = bool
    NUMBER = int
    RAW = object


@slotted(frozen=True)
class List:
    """Of one type; null is empty."""

    of: Type


@slotted(frozen=True)
class Struct:
    """fields: in Go's order. always: those written even when they are empty. described: those that a description of
    the CSV has no place for."""

    fields: Mapping[str, Type]
    always: Sequence[str] = ()
    described: Sequence[str] = ()


Type = Plain | List | Struct

_STRING, _FLAG, _NUMBER, _RAW = Plain.STRING, Plain.FLAG, Plain.NUMBER, Plain.RAW
_STRINGS: Final = List(_STRING)
_LINK: Final = Struct({"name": _STRING, "url": _STRING})
_MAINTAINER: Final = Struct({"name": _STRING, "email": _STRING})
_MODE: Final = Struct({"type": _STRING, "supported": _FLAG}, always=("type", "supported"))
_API: Final = Struct({"group": _STRING, "version": _STRING, "kind": _STRING}, always=("group", "version", "kind"))
_RESOURCE: Final = Struct({"name": _STRING, "kind": _STRING, "version": _STRING}, always=("name", "kind", "version"))
_DESCRIPTOR: Final = Struct(
    {"path": _STRING, "displayName": _STRING, "description": _STRING, "x-descriptors": _STRINGS, "value": _RAW},
    always=("path",),
)
_DETAILS: Final[Mapping[str, Type]] = {
    "resources": List(_RESOURCE),
    "statusDescriptors": List(_DESCRIPTOR),
    "specDescriptors": List(_DESCRIPTOR),
    "actionDescriptors": List(_DESCRIPTOR),
}
_CRD: Final = Struct(
    {"name": _STRING, "version": _STRING, "kind": _STRING, "displayName": _STRING, "description": _STRING, **_DETAILS},
    always=("name", "version", "kind"),
    described=tuple(_DETAILS),
)
_SERVICE: Final = Struct(
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
    described=("deploymentName", "containerPort", *_DETAILS),
)
ICONS: Final = List(Struct({"base64data": _STRING, "mediatype": _STRING}))
RELATED_IMAGES: Final = List(Struct({"name": _STRING, "image": _STRING}, always=("name", "image")))

_SPEC: Final[Mapping[str, Type]] = {
    "maturity": _STRING,
    "customresourcedefinitions": Struct({"owned": List(_CRD), "required": List(_CRD)}),
    "apiservicedefinitions": Struct({"owned": List(_SERVICE), "required": List(_SERVICE)}),
    "nativeAPIs": List(_API),
    "minKubeVersion": _STRING,
    "displayName": _STRING,
    "description": _STRING,
    "keywords": _STRINGS,
    "maintainers": List(_MAINTAINER),
    "provider": _LINK,
    "links": List(_LINK),
    "installModes": List(_MODE),
}
"""What a CSV for people says; of its other fields only parts are read."""
_INT32: Final = range(-(1 << 31), 1 << 31)


def said(owner: Object, called: Mapping[str, str], *, whole: bool) -> dict[str, JSON]:
    """Every field of _SPEC, zero values too. called: what `owner` calls some of them; whole: with what a description
    has no place for. Raises: ShapeError."""
    return {
        name: decoded(kind, d.field(owner, called.get(name, name)), called.get(name, name), whole=whole)
        for name, kind in _SPEC.items()
    }


def decoded(kind: Type, value: JSON, where: str, *, whole: bool) -> JSON:
    """As Go decodes and writes it. Raises: ShapeError."""
    if isinstance(kind, List):
        if value is not None and not isinstance(value, list):
            raise ShapeError(f"{where} must be a list, not {d.name_of(value)}")
        return [decoded(kind.of, item, where, whole=whole) for item in value or ()]
    if isinstance(kind, Struct):
        return _struct(kind, d.as_object(value, where) or {}, whole=whole)
    if kind is _RAW:
        return value
    if value is None:
        return "" if kind is _STRING else False if kind is _FLAG else 0
    if type(value) is not kind.value:
        wanted = {_STRING: "a string", _FLAG: "a boolean", _NUMBER: "a whole number"}[kind]
        raise ShapeError(f"{where} must be {wanted}, not {d.name_of(value)}")
    if type(value) is int and value not in _INT32:
        raise ShapeError(f"{where} must be a whole number of 32 bits")
    return value


def strings(owner: Object, name: str) -> Mapping[str, str]:
    """A map of strings, as Go writes one: sorted. Raises: ShapeError."""
    members = d.child(owner, name) or {}
    for key, text in members.items():
        if text is not None and not isinstance(text, str):
            raise ShapeError(f"{name}[{key[:64]!r}] must be a string, not {d.name_of(text)}")
    return {key: str(members[key] or "") for key in sorted(members)}


def present(fields: Mapping[str, JSON]) -> dict[str, JSON]:
    """Those that omitempty leaves."""
    return {name: value for name, value in fields.items() if _is_there(value)}


def _struct(kind: Struct, owner: Object, *, whole: bool) -> JSON:
    found: dict[str, JSON] = {}
    for name, part in kind.fields.items():
        value = decoded(part, d.field(owner, name), name, whole=whole)
        shown = whole or name not in kind.described
        # json.RawMessage: null is written where it was written.
        if shown and (name in kind.always or _is_there(value) or (part is _RAW and _has(owner, name))):
            found[name] = value
    return found


def _has(owner: Object, name: str) -> bool:
    return any(len(key) == len(name) and key.casefold() == name for key in owner)


def _is_there(value: JSON) -> bool:
    return value is not None and value is not False and value not in ("", 0) and value not in ([], {})
