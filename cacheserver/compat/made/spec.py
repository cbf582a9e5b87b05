"""The Repository that an object of another system asks for, and what makes the one there is be that. Pure.

Fields that such an object has no word for (secretRef, validation, insecure) are the user's, and stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cacheserver.config import Door
from cacheserver.config.doors import in_order
from cacheserver.config.repositories import API_VERSION, check_name
from cacheserver.config.sources import oci_source

Object = Mapping[str, Any]

_IMAGE_CHARACTERS: Final = 640  # configs/kubernetes/crd/repositories.yaml
_SENTENCE: Final = re.compile(r"\s+")


def repository(made_of: Object, namespace: str, mark: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The Repository as it is to be created, under the name of what it is made of, which owns it. mark: the annotation
    that says so. Raises: ValueError where a Repository cannot have that name."""
    name = made_of["metadata"]["name"]
    return {
        "apiVersion": API_VERSION,
        "kind": "Repository",
        "metadata": {
            "name": _name(name, made_of["kind"]),
            "namespace": namespace,
            "annotations": {mark: name},
            "ownerReferences": [_owner(made_of)],
        },
        "spec": {"format": "FBC", **spec},
    }


def is_made_of(found: Object, mark: str, name: str) -> bool:
    """Whether a Repository was made of the object of this name, or of one that had its name before."""
    return bool((found["metadata"].get("annotations") or {}).get(mark) == name)


def patch(found: Object, wanted: Object, door: Door) -> dict[str, Any]:
    """A merge patch (RFC 7386) that makes the Repository there is the one that is wanted; empty where it is. door: the
    one that `wanted` says to publish by or not; others are the user's."""
    metadata: dict[str, Any] = {}
    if found["metadata"].get("ownerReferences") != wanted["metadata"]["ownerReferences"]:
        metadata["ownerReferences"] = wanted["metadata"]["ownerReferences"]
    spec = _spec_patch(found.get("spec") or {}, wanted["spec"], door)
    if not metadata and not spec:
        return {}
    metadata["resourceVersion"] = found["metadata"]["resourceVersion"]
    return {"metadata": metadata, **({"spec": spec} if spec else {})}


def image(ref: object, field: str) -> str:
    """`ref`, where it names an image. field: where it stands. Raises: ValueError."""
    if not isinstance(ref, str) or len(ref) > _IMAGE_CHARACTERS:
        raise ValueError(f"{field} is to name an image, in {_IMAGE_CHARACTERS} characters at most")
    try:
        oci_source(ref)
    except ValueError as exc:
        raise ValueError(f"{field}: {_SENTENCE.sub(' ', str(exc))}") from exc
    return ref


def is_by_digest(image: str) -> bool:
    """Whether an image never changes: the Repository's own rule wants no interval then."""
    return "@" in image


def _spec_patch(found: Object, wanted: Object, door: Door) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    source = found.get("source") or {}
    others = {kind: None for kind in source if kind != "oci"}
    if others or (source.get("oci") or {}).get("image") != wanted["source"]["oci"]["image"]:
        spec["source"] = {**others, **wanted["source"]}
    for name in ("format", "suspend"):
        if name in wanted and found.get(name, False) != wanted[name]:
            spec[name] = wanted[name]
    if found.get("interval") != wanted.get("interval"):
        spec["interval"] = wanted.get("interval")
    doors: Sequence[str] = found.get("publish") or ()
    others_too = frozenset(doors) - {door}
    publish = others_too | {door} if wanted["publish"] else others_too
    if publish != frozenset(doors):
        spec["publish"] = in_order(each for each in Door if each in publish)
    return spec


def _owner(made_of: Object) -> dict[str, Any]:
    # Kubernetes then deletes the Repository with what it is made of while nobody of us runs.
    reference = {"apiVersion": made_of["apiVersion"], "kind": made_of["kind"], "name": made_of["metadata"]["name"]}
    uid = str(made_of["metadata"].get("uid", ""))
    return {**reference, "uid": uid, "controller": True, "blockOwnerDeletion": False}


def _name(name: str, kind: str) -> str:
    try:
        return check_name(name)
    except ValueError as exc:
        raise ValueError(f"{exc}. Make the {kind} anew under such a name") from exc
