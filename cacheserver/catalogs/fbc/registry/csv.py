"""The ClusterServiceVersion of a bundle as operator-registry gives it to its clients. Pure, runs in a worker.

It is the first olm.bundle.object of that kind, as JSON; else one made of the only olm.csv.metadata (operator-registry
pkg/api/model_to_api.go: csvMetadataToCsv). A made one passes through Go's types (../csvspec.py).
"""

from __future__ import annotations

import base64
from typing import Final

import orjson

from cacheserver.catalogs.documents import goyaml
from cacheserver.catalogs.documents.document import (
    JSON,
    DocumentError,
    Object,
    as_object,
    child,
    decode_base64,
    field,
    text,
)
from cacheserver.catalogs.fbc import csvspec
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.slotted import slotted

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
_CALLED: Final = {"customresourcedefinitions": "crdDescriptions", "apiservicedefinitions": "apiServiceDefinitions"}
"""Where an olm.csv.metadata has what a CSV calls otherwise (operator-registry alpha/property: CSVMetadata)."""


@slotted(frozen=True)
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
    owner = as_object(metadata, "olm.csv.metadata") or {}
    said = csvspec.said(owner, _CALLED, whole=True)
    said["description"] = said["description"] or package.description

    def some(*names: str) -> dict[str, JSON]:
        return csvspec.present({name: said[name] for name in names})

    images = csvspec.decoded(csvspec.RELATED_IMAGES, field(bundle, "relatedImages"), "relatedImages", whole=True)
    icon: Object = {}
    if package.icon is not None:
        icon = {"icon": [{"base64data": package.icon[0], "mediatype": package.icon[1]}]}
    marks: Object = {name: {**csvspec.strings(owner, name)} for name in ("labels", "annotations")}
    return _marshal(
        {
            "kind": KIND,
            "apiVersion": _API_VERSION,
            "metadata": {"name": text(bundle, "name"), **csvspec.present(marks)},
            "spec": {  # in the order in which Go writes the fields
                # OLM's package server writes into a nil map without this.
                "install": {"strategy": "deployment", "spec": {"deployments": None}},
                "version": version,
                **some("maturity"),
                "customresourcedefinitions": said["customresourcedefinitions"],
                "apiservicedefinitions": said["apiservicedefinitions"],
                **some("nativeAPIs", "minKubeVersion"),
                "displayName": said["displayName"],
                **some("description", "keywords", "maintainers"),
                "provider": said["provider"],
                **some("links"),
                **icon,
                **some("installModes"),
                "cleanup": {"enabled": False},
                **csvspec.present({"relatedImages": images}),
            },
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
