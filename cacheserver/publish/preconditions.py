"""Which version of an object a client means: what he read of its files, what he wants to change or delete; and whether
it is there, and at rest. Pure.

Called by author and status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cacheserver.errors import RefusedError
from cacheserver.model import Stored
from cacheserver.publish import refusals, rules
from cacheserver.slotted import slotted
from cacheserver.store.authored import Held


@slotted(frozen=True)
class Preconditions:
    """Of a deletion; empty: none."""

    uid: str = ""
    resource_version: str = ""


def check_content_at(held: Held, at: str) -> None:
    """Raises: RefusedError 409 where the content was changed behind the version that the client saw, 400 for none."""
    if not at:
        return
    stored = held.served
    assert stored is not None
    if not at.isascii() or not at.isdigit() or len(at) > 19:
        raise RefusedError(400, "BadRequest", f"invalid resource version: {at[:40]!r}")
    seen, changed = int(at), held.content_revision or stored.mod_revision
    if not changed <= seen <= stored.mod_revision:
        raise refusals.conflict(held.key.name)


def check_preconditions(stored: Stored, manifest: Mapping[str, Any], wanted: Preconditions) -> None:
    """k8s.io/apiserver/pkg/storage: Preconditions.Check. Raises: RefusedError 409."""
    name, uid = stored.key.name, manifest["metadata"]["uid"]
    if wanted.uid and wanted.uid != uid:
        raise refusals.conflict(
            name, f"Precondition failed: UID in precondition: {wanted.uid}, UID in object meta: {uid}"
        )
    if wanted.resource_version and wanted.resource_version != str(stored.mod_revision):
        raise refusals.conflict(
            name,
            f"Precondition failed: ResourceVersion in precondition: {wanted.resource_version}, ResourceVersion in "
            f"object meta: {stored.mod_revision}",
        )


def present(held: Held) -> Stored:
    """Raises: RefusedError 404."""
    if held.served is None:
        raise refusals.not_found(held.key.name)
    return held.served


def check_idle(held: Held) -> None:
    """Raises: RefusedError 409 while an operation runs."""
    if held.operation is not None:
        raise rules.waiting(held.key.name, held.operation.step)


def check_version(held: Held, wanted: Mapping[str, Any], *, must_name: bool) -> None:
    """Raises: RefusedError 409 where the object is another by now, 422 where none is named and one must be."""
    stored, name = present(held), held.key.name
    metadata = wanted.get("metadata")
    given = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    if given in (None, ""):
        if must_name:
            raise refusals.wrong(name, "metadata.resourceVersion", "", "must be specified for an update")
        return
    if str(given) != str(stored.mod_revision):
        raise refusals.conflict(name)
