"""Takes what applications say of a draft: conditions, by type, through the subresource `status`.

One compare-and-set of the draft's record and of what is served of it; the files, and what git has, stay as they are.
Who may is said by the right to packagerevisions/status. Called by the API; a friend of Author, whose rules it shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from cacheserver.model import Key, Kind, Lifecycle, Stored, edited, with_resource_version
from cacheserver.publish import conditions, refusals
from cacheserver.publish.author import Author, Revise, Who, Written
from cacheserver.publish.preconditions import check_idle, check_version, present
from cacheserver.store.authored import Held

_OF_DRAFTS: Final = (Lifecycle.DRAFT, Lifecycle.PROPOSED)


async def tell(
    author: Author,
    key: Key,
    revise: Revise,
    who: Who,
    *,
    must_name_version: bool = False,
    alone: bool = False,
    dry_run: bool = False,
) -> Written:
    """The draft with conditions as `revise` wants its status; nothing else of what that says is taken, as of every
    status (Kubernetes API conventions, spec and status). Equal ones change nothing.

    must_name_version: refuse what names no resourceVersion (PUT). alone: see conditions.read.
    Raises: RefusedError; EtcdError; what `revise` raises.
    """
    async with author._told("Status", key, who, dry_run=dry_run):

        async def once(held: Held) -> Written | None:
            stored = present(held)
            manifest = orjson.loads(with_resource_version(Kind.REVISION, stored.value, stored.mod_revision))
            wanted = revise(manifest)
            author._writable(key)
            _check_lifecycle(key.name, manifest)
            check_version(held, wanted, must_name=must_name_version)
            check_idle(held)
            told = held.draft.conditions if held.draft is not None else ()
            after = conditions.read(manifest, wanted.get("status"), told, author._stamp(), alone=alone)
            if after == told:
                return Written(stored)
            value = _with(stored.value, manifest["status"], told, after)
            if dry_run:
                return Written(Stored(key, value, stored.mod_revision))
            draft = replace(await author._draft(held, manifest), conditions=after)
            content = None if held.draft is not None else manifest["status"]["content"]["digest"]
            written = await author._authored.write(held, value=value, draft=draft, content=content)
            return Written(written.served) if written is not None and written.served is not None else None

        return await author._tried(key, once)


def _check_lifecycle(name: str, manifest: Mapping[str, Any]) -> None:
    """Raises: RefusedError 403."""
    lifecycle = Lifecycle(manifest["spec"]["lifecycle"])
    if lifecycle not in _OF_DRAFTS:
        why = f"it is {lifecycle}: conditions are written of drafts, and of what is published git says all"
        raise refusals.forbidden(name, why)


def _with(value: bytes, status: Mapping[str, Any], before: conditions.Told, after: conditions.Told) -> bytes:
    gone = {each.type for each in before}
    others = [each for each in status.get("conditions", ()) if each.get("type") not in gone]
    told = conditions.served(others, after)
    changed = {**status, "conditions": told}
    if not told:
        del changed["conditions"]
    return edited(value, status=orjson.dumps(changed))
