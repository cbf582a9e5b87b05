"""Who was cloned from a published revision: while somebody was, it is not deleted. Called by author."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import orjson

from cacheserver.model import Key
from cacheserver.publish import refusals
from cacheserver.publish.create.origin import lies_at

_NAMED: Final = 5


class Shelf(Protocol):
    """What of the served revisions this depends on."""

    async def speaking_of(self, namespace: str, commit: str) -> Sequence[bytes]:
        """The manifests of revisions in which a commit's name stands, whatever for."""
        ...


async def check_unreferenced(shelf: Shelf, key: Key, manifest: Mapping[str, Any]) -> None:
    """Raises: RefusedError 403 that names the revisions of the namespace whose upstreamLock this one is.

    What the branch holds counts for none: it stays when the last revision of its package is deleted. Of other
    namespaces nothing is known to who deletes, and nothing is told.
    """
    where = manifest["status"].get("selfLock", {}).get("git", {})
    if not where.get("commit"):
        return
    clones = []
    for value in await shelf.speaking_of(key.namespace, where["commit"]):
        other = orjson.loads(value)
        lock = other["status"].get("upstreamLock", {}).get("git", {})
        is_branch = other["status"].get("revisionNumber") == -1 and not other["spec"].get("version")
        if other["metadata"]["name"] != key.name and not is_branch and lies_at(where, lock):
            clones.append(other["metadata"]["name"])
    if clones:
        more = f" and {len(clones) - _NAMED} more" if len(clones) > _NAMED else ""
        why = (
            f"{', '.join(sorted(clones)[:_NAMED])}{more} was cloned from it, and could not be upgraded without "
            "it; upgrade or delete that first, or keep this one (spec.lifecycle: Published)"
        )
        raise refusals.forbidden(key.name, why)
