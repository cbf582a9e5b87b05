"""The Repository that a ClusterCatalog asks for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cacheserver.compat.made import spec
from cacheserver.config import Door, show_duration
from cacheserver.model import GROUP

Object = Mapping[str, Any]

OLM: Final = "olm.operatorframework.io"
API_VERSION: Final = f"{OLM}/v1"
KIND: Final = "ClusterCatalog"
MADE_OF: Final = f"{GROUP}/cluster-catalog"
"""Annotation of a Repository that was made of the ClusterCatalog of that name."""
_MINUTES_MOST: Final = 7 * 24 * 60  # config/repositories.py: INTERVAL
_MINUTES_LEAST: Final = 1


def repository(catalog: Object, namespace: str) -> dict[str, Any]:
    """The Repository as it is to be created. Raises: ValueError, which says why there can be none; kube-apiserver lets
    some of these ClusterCatalogs pass."""
    return spec.repository(
        {"apiVersion": API_VERSION, "kind": KIND, **catalog},
        namespace,
        MADE_OF,
        {
            "source": {"oci": {"image": _image(catalog)}},
            **_interval(catalog),
            "suspend": unavailable(catalog),
            "publish": [] if unavailable(catalog) else [Door.CATALOG.value],
        },
    )


def unavailable(catalog: Object) -> bool:
    """Whether its user wants nothing of it to be served."""
    return bool((catalog.get("spec") or {}).get("availabilityMode") == "Unavailable")


def _image(catalog: Object) -> str:
    source = (catalog.get("spec") or {}).get("source") or {}
    ref = (source.get("image") or {}).get("ref")
    if source.get("type") != "Image" or not isinstance(ref, str):
        raise ValueError(f"spec.source is of type {str(source.get('type'))[:80]!r}; Image with its image.ref is read")
    return spec.image(ref, "spec.source.image.ref")


def _interval(catalog: Object) -> dict[str, str]:
    """Repository.spec.interval. Without pollIntervalMinutes catalogd never asks again: a week is the longest here."""
    image = catalog["spec"]["source"]["image"]
    if spec.is_by_digest(image["ref"]):
        return {}
    minutes = image.get("pollIntervalMinutes")
    if not isinstance(minutes, int) or minutes < _MINUTES_LEAST:
        minutes = _MINUTES_MOST
    return {"interval": show_duration(60.0 * min(minutes, _MINUTES_MOST))}
