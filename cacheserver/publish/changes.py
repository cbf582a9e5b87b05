"""What a client's version of a PackageRevision changes, and whether it may: metadata, lifecycle, gates. Pure.

Rules of metadata: k8s.io/apimachinery/pkg/api/validation/objectmeta.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from cacheserver.errors import Cause
from cacheserver.model import ANNOTATION_USERS, GROUP, Lifecycle, UserMetadata
from cacheserver.publish import refusals
from cacheserver.slotted import slotted

METADATA_BYTES: Final = 64 << 10
"""Of all that users write into one object's metadata. Ours: kube-apiserver takes 256 KiB of annotations alone, but
every list of ours carries them."""
GATES_MOST: Final = 64

ANNOTATION_ACCEPT_BASE: Final = f"{GROUP}/accept-base"
ANNOTATION_OVERWRITE: Final = f"{GROUP}/overwrite"
_USERS_OWN: Final = frozenset((ANNOTATION_ACCEPT_BASE, ANNOTATION_OVERWRITE))
"""Annotations of our domain that users write."""

_DNS_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = re.compile(rf"{_DNS_LABEL}(\.{_DNS_LABEL})*\Z")
_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?\Z")
_VALUE: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?\Z")
_OWNER: Final = ("apiVersion", "kind", "name", "uid")
_OWNER_FIELDS: Final = (*_OWNER, "controller", "blockOwnerDeletion")
_FIXED: Final = ("repository", "packageName", "workspaceName", "revision", "format")


@slotted(frozen=True)
class Change:
    """users: the metadata as it is to be. lifecycle: that is wanted. gates, version: None where they stay.

    warnings: of what is left out, for the client.
    """

    users: UserMetadata
    lifecycle: str
    gates: tuple[str, ...] | None = None
    warnings: tuple[str, ...] = ()
    version: str | None = None


def read(manifest: Mapping[str, Any], wanted: Mapping[str, Any]) -> Change:
    """What `wanted` makes of the object as it is served. Raises: RefusedError 409 of another uid, 422."""
    metadata, name = manifest["metadata"], manifest["metadata"]["name"]
    asked = mapping(wanted, "metadata", name)
    check_identity(metadata, asked, name)
    causes: list[Cause] = []
    users = users_of(manifest, asked, causes)
    spec, now = mapping(wanted, "spec", name), manifest["spec"]
    warnings: list[str] = []
    causes += [
        refusals.bad(f"spec.{field}", str(spec[field]), "field is immutable")
        for field in _FIXED
        if spec.get(field) not in (None, now.get(field))
    ]
    if (given := spec.get("source")) is not None and given != now.get("source"):
        if "source" in now:
            causes.append(refusals.bad("spec.source", _text(given), "field is immutable"))
        else:
            warnings.append("spec.source: is remembered of drafts that were made here only, and has no effect")
    gates = None
    if spec.get("readinessGates") != now.get("readinessGates") and "readinessGates" in spec:
        gates = gates_of(spec, causes)
    version = _version(spec, now, causes)
    lifecycle = spec.get("lifecycle") or now["lifecycle"]
    if not isinstance(lifecycle, str):
        causes.append(refusals.bad("spec.lifecycle", _text(lifecycle), "must be a string"))
    if causes:
        raise refusals.invalid(name, causes)
    return Change(users, lifecycle, gates, tuple(warnings), version)


def _version(spec: Mapping[str, Any], now: Mapping[str, Any], causes: list[Cause]) -> str | None:
    """spec.version, where it is to be another; None: it stays. A leading v makes no difference."""
    given, here = spec.get("version"), now.get("version", "")
    if given is None or (isinstance(given, str) and given.removeprefix("v") == here.removeprefix("v")):
        return None
    if not isinstance(given, str):
        causes.append(refusals.bad("spec.version", _text(given), "must be a string"))
    elif Lifecycle(now["lifecycle"]).published:
        causes.append(refusals.bad("spec.version", given, "field is immutable"))
    else:
        return given
    return None


def check_identity(metadata: Mapping[str, Any], asked: Mapping[str, Any], name: str) -> None:
    """Raises: RefusedError 409 where the uid is another object's, 422 for another name or namespace."""
    for field in ("name", "namespace"):
        if (given := asked.get(field)) not in (None, "", metadata[field]):
            raise refusals.wrong(name, f"metadata.{field}", str(given), "field is immutable")
    if (uid := asked.get("uid")) not in (None, "", metadata["uid"]):
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {metadata['uid']}"
        raise refusals.conflict(name, why)


def mapping(owner: Mapping[str, Any], field: str, name: str) -> Mapping[str, Any]:
    """An object field; absent and null are empty. Raises: RefusedError 422."""
    found = owner.get(field)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise refusals.wrong(name, field, _text(found), "must be an object")
    return found


def gates_of(spec: Mapping[str, Any], causes: list[Cause]) -> tuple[str, ...]:
    """Types of the conditions in spec.readinessGates; what is wrong goes into `causes`."""
    written = spec.get("readinessGates") or ()
    found: list[str] = []
    if not isinstance(written, Sequence) or isinstance(written, str) or len(written) > GATES_MOST:
        causes.append(refusals.bad("spec.readinessGates", "", f"must be a list of at most {GATES_MOST}"))
        return ()
    for at, gate in enumerate(written):
        kind = gate.get("conditionType") if isinstance(gate, dict) else None
        field = f"spec.readinessGates[{at}].conditionType"
        if not isinstance(kind, str) or wrong_key(kind) is not None:
            causes.append(
                refusals.bad(field, str(kind), "must be the type of a condition, as in example.com/validated")
            )
        elif kind not in found:
            found.append(kind)
    return tuple(found)


# --- metadata ---


def users_of(manifest: Mapping[str, Any] | None, asked: Mapping[str, Any], causes: list[Cause]) -> UserMetadata:
    """What users wrote, when the metadata is to be as asked. manifest: the object as it is; None for a new one.

    What its source gives stays whether it is repeated or not.
    """
    metadata: Mapping[str, Any] = manifest["metadata"] if manifest is not None else {}
    before = UserMetadata.of(manifest) if manifest is not None else UserMetadata()
    labels = _texts(asked, "labels", metadata, before.labels, causes)
    annotations = _texts(asked, "annotations", metadata, before.annotations, causes)
    finalizers = _finalizers(asked, before, causes)
    owners = _owners(asked, causes)
    size = len(orjson.dumps([labels, annotations, finalizers, owners]))
    if size > METADATA_BYTES:
        said = f"Too long: what users write into the metadata has {size} bytes, at most {METADATA_BYTES} are kept"
        causes.append(Cause("FieldValueTooLong", said, "metadata"))
    return UserMetadata(labels, annotations, finalizers, owners, before.deletion)


def _texts(
    asked: Mapping[str, Any], field: str, metadata: Mapping[str, Any], before: Mapping[str, str], causes: list[Cause]
) -> dict[str, str]:
    """Labels or annotations of users."""
    given = asked.get(field) or {}
    where = f"metadata.{field}"
    if not isinstance(given, dict):
        causes.append(refusals.bad(where, _text(given), "must be an object of strings"))
        return {}
    served: Mapping[str, str] = metadata.get(field, {})
    kept: dict[str, str] = {}
    for key, value in given.items():
        from_source = key in served and key not in before
        if key == ANNOTATION_USERS or (from_source and served[key] == value):
            continue
        why = _wrong_text(key, value, is_label=field == "labels")
        if why is None and from_source:
            why = "comes from the package and cannot be changed here"
        if why is not None:
            causes.append(refusals.bad(where, str(key), why))
        else:
            kept[key] = value
    return kept


def _wrong_text(key: str, value: Any, *, is_label: bool) -> str | None:
    prefix, slash, _ = key.rpartition("/")
    if slash and (prefix == GROUP or prefix.endswith(f".{GROUP}")) and (is_label or key not in _USERS_OWN):
        return f"names below {GROUP} are the server's"
    if (why := wrong_key(key)) is not None:
        return why
    if not isinstance(value, str):
        return "must have a string as its value"
    if is_label and not _VALUE.match(value):
        return (
            f"its value {value[:80]!r} must be at most 63 letters, digits, '-', '_' or '.', and begin and end with a "
            "letter or digit"
        )
    return None


def wrong_key(key: str) -> str | None:
    """What is wrong with it as a qualified name (Kubernetes); None: nothing."""
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > 253 or not _SUBDOMAIN.match(prefix)):
        return "the prefix of its name must be a DNS subdomain"
    if len(name) > 63 or not _NAME.match(name):
        return "its name must be at most 63 letters, digits, '-', '_' or '.', and begin and end with a letter or digit"
    return None


def _finalizers(asked: Mapping[str, Any], before: UserMetadata, causes: list[Cause]) -> tuple[str, ...]:
    given = asked.get("finalizers") or ()
    if not isinstance(given, Sequence) or isinstance(given, str) or not all(isinstance(one, str) for one in given):
        causes.append(refusals.bad("metadata.finalizers", _text(given), "must be a list of strings"))
        return ()
    for one in given:
        if wrong_key(one) is not None or "/" not in one:
            causes.append(refusals.bad("metadata.finalizers", one, "name should be fully qualified"))
        elif before.deletion and one not in before.finalizers:
            said = f"no new finalizers can be added if the object is being deleted, found new finalizers {one!r}"
            causes.append(refusals.denied("metadata.finalizers", said))
    return tuple(dict.fromkeys(given))


def _owners(asked: Mapping[str, Any], causes: list[Cause]) -> tuple[Mapping[str, Any], ...]:
    given = asked.get("ownerReferences") or ()
    if not isinstance(given, Sequence) or isinstance(given, str) or not all(isinstance(one, dict) for one in given):
        causes.append(refusals.bad("metadata.ownerReferences", _text(given), "must be a list of objects"))
        return ()
    for at, one in enumerate(given):
        where = f"metadata.ownerReferences[{at}]"
        causes += [
            refusals.required(f"{where}.{field}")
            for field in _OWNER
            if not isinstance(one.get(field), str) or not one[field]
        ]
        causes += [
            refusals.bad(f"{where}.{field}", "", "must be true or false")
            for field in ("controller", "blockOwnerDeletion")
            if not isinstance(one.get(field), bool | None)
        ]
    if sum(bool(one.get("controller")) for one in given) > 1:
        said = "only one reference can have Controller set to true"
        causes.append(refusals.bad("metadata.ownerReferences", "", said))
    return tuple({field: one[field] for field in _OWNER_FIELDS if field in one} for one in given)


def _text(value: object) -> str:
    try:
        return orjson.dumps(value).decode()[:200]
    except TypeError:
        return str(value)[:200]


def of_approval(manifest: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What an approval asks for, of all that its body says: porch, pkg/registry/porch: others are not compared."""
    asked = mapping(wanted, "spec", manifest["metadata"]["name"]).get("lifecycle")
    metadata = wanted.get("metadata")
    given = metadata if isinstance(metadata, dict) else {}
    identity = {name: given[name] for name in ("name", "namespace", "uid", "resourceVersion") if name in given}
    kept = {name: text for name, text in manifest["metadata"].items() if name not in identity}
    if "resourceVersion" not in identity:
        kept.pop("resourceVersion", None)
    spec = {**manifest["spec"], "lifecycle": asked or ""}
    version = mapping(wanted, "spec", "").get("version")
    if version and manifest["spec"]["lifecycle"] == Lifecycle.PROPOSED:
        spec["version"] = version
    return {**manifest, "metadata": {**kept, **identity}, "spec": spec}
