"""What is served of a draft, and what is kept of it: made from the facts of its files and what both were before. Pure.

Called by author, where a draft begins and at each save.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from cacheserver.catalogs import bounds
from cacheserver.catalogs.krm import project
from cacheserver.catalogs.krm.facts import Facts, Origin, Revision
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.model import Key, Record, RepositoryKey, Stored, edited
from cacheserver.publish import conditions, refusals
from cacheserver.publish.outcome import PUSHED, Condition, with_condition
from cacheserver.publish.outdated import OUTDATED
from cacheserver.store.authored import AUTHORS_MOST, Draft

_KEPT: Final = ("source", "readinessGates", "version")
"""Of a draft's spec, when its content changes."""


def record_of(
    key: Key,
    facts: Facts,
    draft: Draft,
    extras: Mapping[str, Any],
    before: Mapping[str, Any] | None = None,
    *,
    limits: ParseLimits,
    now: str,
) -> Record:
    """A draft as it is served. extras: of its spec. before: status of the object as it is, of one that is there.

    Raises: RefusedError 422, for more than the limits of what is served.
    """
    repository = RepositoryKey(key.namespace, key.repository)
    revision = Revision(key.revision, Origin.DRAFT, "", workspace=key.revision, nonce=draft.nonce)
    made = project.revision_record(repository, key.package, revision, facts, limits)
    status = orjson.loads(made.status)
    if draft.base_revision:
        status["base"] = {"revision": draft.base_revision, "commit": draft.base}
    if draft.created_by:
        status["createdBy"] = draft.created_by
    for name in ("proposedBy", "lastOperation"):
        if before is not None and name in before:
            status[name] = before[name]
    said = conditions.of_kptfile(status.get("conditions", ()))
    if before is not None and (was := _condition(before, PUSHED)) is not None:
        said.append(was)
    if before is not None and before.get("base", {}) == status.get("base", {}):
        said += [each for each in before.get("conditions", ()) if each.get("type") == OUTDATED]
    status["conditions"] = conditions.served(said, draft.conditions)
    record = replace(
        made,
        spec=orjson.dumps({**orjson.loads(made.spec), **extras}),
        status=orjson.dumps(_unpushed(status, now)),
    )
    try:
        bounds.check(record, limits)
    except bounds.BoundError as exc:
        raise refusals.wrong(key.name, "spec", "", str(exc)) from exc
    return record


def with_content(
    stored: Stored,
    manifest: Mapping[str, Any],
    facts: Facts,
    draft: Draft,
    extras: Mapping[str, Any],
    *,
    limits: ParseLimits,
    now: str,
) -> bytes:
    """The object with other content. manifest: as it is. extras: of its spec. Raises: as record_of."""
    kept = {name: manifest["spec"][name] for name in _KEPT if name in manifest["spec"]}
    status = manifest["status"]
    record = record_of(stored.key, facts, draft, {**kept, **extras}, status, limits=limits, now=now)
    made = orjson.loads(record.status)
    made |= {name: status[name] for name in ("selfLock",) if name in status and name not in made}
    return edited(
        stored.value,
        labels=record.labels,
        spec=record.spec,
        status=orjson.dumps(_unpushed(made, now)),
    )


def from_git(key: Key, manifest: Mapping[str, Any], base: str, base_revision: str) -> Draft:
    """What is kept of a draft that came from git. base, base_revision: commit and name of what it follows."""
    status = manifest["status"]
    lock = status.get("selfLock", {}).get("git", {})
    return Draft(
        nonce=status.get("nonce", ""),
        directory=lock.get("directory", key.package),
        task="",
        base=base,
        base_revision=base_revision,
        commit=lock.get("commit", ""),
        digest=status["content"]["digest"],
        branch=lock.get("ref", ""),
    )


def saved(draft: Draft, user: str, at_ms: int) -> Draft:
    """What is kept of a draft whose content this user changes."""
    authors = (*(each for each in draft.authors if each != user), user)[-AUTHORS_MOST:]
    return replace(draft, authors=authors, saved_ms=at_ms, unpushed_ms=draft.unpushed_ms or at_ms)


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    return next((each for each in status.get("conditions", ()) if each.get("type") == kind), None)


def _unpushed(status: Mapping[str, Any], now: str) -> Any:
    waiting = Condition(PUSHED, true=False, reason="Waiting", message="git does not have the last change yet")
    return {**status, "conditions": with_condition(status.get("conditions", ()), waiting, now)}
