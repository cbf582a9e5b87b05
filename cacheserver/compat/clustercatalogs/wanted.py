"""The Repository that a ClusterCatalog asks for, and what has to change for the one there is to be that. Pure.

Fields that a ClusterCatalog has no word for (secretRef, validation, insecure) are the user's, and stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from cacheserver.config import Door, show_duration
from cacheserver.config.doors import in_order
from cacheserver.config.repositories import API_VERSION, check_name
from cacheserver.config.sources import oci_source
from cacheserver.model import GROUP

Object = Mapping[str, Any]

OLM: Final = "olm.operatorframework.io"
KIND: Final = "ClusterCatalog"
MADE_OF: Final = f"{GROUP}/cluster-catalog"
"""Annotation of a Repository that was made of the ClusterCatalog of that name."""
_MINUTES_MOST: Final = 7 * 24 * 60  # config/repositories.py: INTERVAL
_MINUTES_LEAST: Final = 1
_SENTENCE: Final = re.compile(r"\s+")


def repository(catalog: Object, namespace: str) -> dict[str, Any]:
    """The Repository as it is to be created. Raises: ValueError, which says why there can be none; kube-apiserver lets
    some of these ClusterCatalogs pass."""
    name, uid = str(catalog["metadata"]["name"]), str(catalog["metadata"].get("uid", ""))
    return {
        "apiVersion": API_VERSION,
        "kind": "Repository",
        "metadata": {
            "name": _name(name),
            "namespace": namespace,
            "annotations": {MADE_OF: name},
            "ownerReferences": [_owner(name, uid)],
        },
        "spec": {
            "source": {"oci": {"image": _image(catalog)}},
            "format": "FBC",
            **_interval(catalog),
            "suspend": unavailable(catalog),
            "publish": [] if unavailable(catalog) else [Door.CATALOG.value],
        },
    }


def is_made_of(found: Object, name: str) -> bool:
    """Whether a Repository was made of the ClusterCatalog of this name, or of one that had its name before."""
    return bool((found["metadata"].get("annotations") or {}).get(MADE_OF) == name)


def patch(found: Object, wanted: Object) -> dict[str, Any]:
    """A merge patch (RFC 7386) that makes the Repository there is the one that is wanted; empty where it is."""
    metadata: dict[str, Any] = {}
    if found["metadata"].get("ownerReferences") != wanted["metadata"]["ownerReferences"]:
        metadata["ownerReferences"] = wanted["metadata"]["ownerReferences"]
    spec = _spec_patch(found.get("spec") or {}, wanted["spec"])
    if not metadata and not spec:
        return {}
    metadata["resourceVersion"] = found["metadata"]["resourceVersion"]
    return {"metadata": metadata, **({"spec": spec} if spec else {})}


def unavailable(catalog: Object) -> bool:
    """Whether its user wants nothing of it to be served."""
    return bool((catalog.get("spec") or {}).get("availabilityMode") == "Unavailable")


def _spec_patch(found: Object, wanted: Object) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    source = found.get("source") or {}
    others = {kind: None for kind in source if kind != "oci"}
    if others or (source.get("oci") or {}).get("image") != wanted["source"]["oci"]["image"]:
        spec["source"] = {**others, **wanted["source"]}
    for name in ("format", "suspend"):
        if found.get(name, False) != wanted[name]:
            spec[name] = wanted[name]
    if found.get("interval") != wanted.get("interval"):
        spec["interval"] = wanted.get("interval")
    doors = frozenset(found.get("publish") or ())
    publish = doors | {Door.CATALOG} if wanted["publish"] else doors - {Door.CATALOG}
    if publish != doors:
        spec["publish"] = in_order(door for door in Door if door in publish)
    return spec


def _owner(name: str, uid: str) -> dict[str, Any]:
    # Kubernetes then deletes the Repository with its ClusterCatalog while nobody of us runs.
    reference = {"apiVersion": f"{OLM}/v1", "kind": KIND, "name": name, "uid": uid}
    return {**reference, "controller": True, "blockOwnerDeletion": False}


def _name(name: str) -> str:
    try:
        return check_name(name)
    except ValueError as exc:
        raise ValueError(f"{exc}. Make the ClusterCatalog anew under such a name") from exc


def _image(catalog: Object) -> str:
    source = (catalog.get("spec") or {}).get("source") or {}
    ref = (source.get("image") or {}).get("ref")
    if source.get("type") != "Image" or not isinstance(ref, str):
        raise ValueError(f"spec.source is of type {str(source.get('type'))[:80]!r}; Image with its image.ref is read")
    try:
        oci_source(ref)
    except ValueError as exc:
        raise ValueError(f"spec.source.image.ref: {_SENTENCE.sub(' ', str(exc))}") from exc
    return ref


def _interval(catalog: Object) -> dict[str, str]:
    """Repository.spec.interval. Without pollIntervalMinutes catalogd never asks again: a week is the longest here."""
    image = catalog["spec"]["source"]["image"]
    if "@" in image["ref"]:
        return {}  # it never changes, and the Repository's own rule wants no interval then
    minutes = image.get("pollIntervalMinutes")
    if not isinstance(minutes, int) or minutes < _MINUTES_LEAST:
        minutes = _MINUTES_MOST
    return {"interval": show_duration(60.0 * min(minutes, _MINUTES_MOST))}
