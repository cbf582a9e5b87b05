"""What the status of an object says that became a Repository: conditions, and what is to be written of them. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cacheserver.slotted import slotted

Object = Mapping[str, Any]

MESSAGE_CHARACTERS: Final = 4096  # ours; CustomResourceDefinitions take 32,768


@slotted(frozen=True)
class Says:
    """A condition."""

    status: bool
    reason: str
    message: str


def said(status: Object) -> dict[str, Says]:
    """Conditions that have the form of one; others wrote the rest."""
    found: dict[str, Says] = {}
    for each in status.get("conditions") or ():
        if all(isinstance(each.get(part), str) for part in ("type", "status", "reason", "message")):
            found[each["type"]] = Says(each["status"] == "True", each["reason"], each["message"])
    return found


def conditions(told: Mapping[str, Says | None], made_of: Object, now: float) -> dict[str, list[dict[str, Any]]]:
    """The member `conditions` of a status, those that say something; none where none does. now: Unix time."""
    before, generation = made_of.get("status") or {}, int(made_of["metadata"].get("generation", 0))
    old = {each.get("type"): each for each in before.get("conditions") or ()}
    found: list[dict[str, Any]] = []
    for name, says in told.items():
        if says is None:
            continue
        status, was = str(says.status), old.get(name, {})
        kept = was.get("lastTransitionTime") if was.get("status") == status else None
        found.append(
            {
                "type": name,
                "status": status,
                "reason": says.reason,
                "message": says.message[:MESSAGE_CHARACTERS],
                "observedGeneration": generation,
                "lastTransitionTime": kept or stamp(now),
            }
        )
    return {"conditions": found} if found else {}


def merge_patch(before: Object, after: Mapping[str, Any]) -> dict[str, Any]:
    """RFC 7386: what takes one status to the other; empty where they are equal."""
    gone = dict.fromkeys(before.keys() - after.keys())
    changed = {name: value for name, value in after.items() if before.get(name) != value}
    for name, value in changed.items():
        if isinstance(value, Mapping) and isinstance(before.get(name), Mapping):
            # What somebody else put beside it goes: the patch would keep it.
            changed[name] = {**dict.fromkeys(before[name].keys() - value.keys()), **value}
    return {**gone, **changed}


def is_current(found: Object) -> bool:
    """Whether a Repository's status speaks of its spec as it is."""
    status = found.get("status") or {}
    return bool(status.get("observedGeneration", 0) >= found["metadata"].get("generation", 1))


def condition(found: Object, kind: str) -> Object:
    """A Repository's condition; empty where it has none of that type."""
    all_of_it: Sequence[Object] = (found.get("status") or {}).get("conditions") or ()
    return next((each for each in all_of_it if each.get("type") == kind), {})


def stamp(at: float) -> str:
    """Unix time as Kubernetes writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
