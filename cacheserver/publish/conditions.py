"""Conditions that applications write of a draft, by type, and the gates that wait for them. Pure.

Each speaks of the content that it was written of. A save keeps all of them; one that speaks of other content than there
is opens no gate, else whoever may save could publish what nobody judged. What a Kptfile says of conditions is its
author's, and opens none either. Called by status.py, and by author where it decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import orjson

from cacheserver.catalogs.krm.facts import RENDERED
from cacheserver.errors import Cause
from cacheserver.model import GROUP
from cacheserver.publish import changes, refusals
from cacheserver.publish.outcome import DIVERGED, PUSHED
from cacheserver.store.authored import Condition, Draft

CONDITIONS_MOST: Final = changes.GATES_MOST
"""Of one draft, by applications. Ours: one for each gate that it may have."""
CONDITIONS_BYTES: Final = 32 << 10
"""Of all of them together, as JSON. Ours: every list of revisions carries them."""
MESSAGE_MOST: Final = 4096
"""Characters. Ours: what is wrong, not all that was found; Kubernetes takes 32,768."""
_REASON_MOST: Final = 1024  # k8s.io/apimachinery/pkg/apis/meta/v1: Condition
_LISTED_MOST: Final = 1000
"""Of a list that is read at all: with what a Kptfile may bring."""
_CAUSES_MOST: Final = 20

_OWN: Final = frozenset((PUSHED, DIVERGED, RENDERED, "Ready", "Outdated", "Conflicts"))
_STATUSES: Final = ("True", "False", "Unknown")
_REASON: Final = re.compile(r"([A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?)?\Z")  # as _REASON_MOST
_TIME: Final = re.compile(
    r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\.[0-9]{1,9})?(Z|[+-][0-9:]{5})\Z"
)
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")
_HIGHEST: Final = 2**63 - 1
_FIELDS: Final = ("type", "status", "reason", "message", "lastTransitionTime", "observedGeneration", "observedDigest")

Told = tuple[Condition, ...]


def is_own(kind: str) -> bool:
    """Whether the server alone says conditions of this type."""
    prefix = kind.rpartition("/")[0]
    return kind in _OWN or prefix == GROUP or prefix.endswith(f".{GROUP}")


def served(others: Iterable[Mapping[str, Any]], told: Told) -> list[Mapping[str, Any]]:
    """As they are served: what the Kptfile and the server say, then what applications say; of a type these alone."""
    mine = {each.type for each in told}
    return [*(each for each in others if each.get("type") not in mine), *map(_shown, told)]


def of_kptfile(conditions: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What a draft's record has that was made of its files (catalogs/krm/project.py); a Kptfile says nothing of what is
    the server's to say but what stands there in its place."""
    return [each for each in conditions if each.get("type") == RENDERED or not is_own(str(each.get("type", "")))]


def _shown(condition: Condition) -> dict[str, Any]:
    found = {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": condition.since,
        "observedGeneration": condition.generation,
        "observedDigest": condition.digest,
    }
    return {name: value for name, value in found.items() if value or name == "status"}


# --- what an application asks for ---


def read(manifest: Mapping[str, Any], wanted: object, told: Told, now: str, *, alone: bool) -> Told:
    """What applications say of a draft once `wanted`, its status as a client wants it, is there.

    manifest: the object as it is served; what of it is repeated stays as it is. told: by applications so far.
    alone: each condition for itself, those that are not named stay (a merge patch); else they go.
    now: RFC 3339. Raises: RefusedError 422.
    """
    name, before = manifest["metadata"]["name"], manifest["status"]
    if not isinstance(wanted, dict):
        raise refusals.wrong(name, "status", "", "must be an object")
    causes = [
        refusals.denied(f"status.{field}", "is the server's; conditions are all that can be written here")
        for field, value in wanted.items()
        if field != "conditions" and value and value != before.get(field)
    ]
    listed = wanted.get("conditions") or []
    if not isinstance(listed, list) or len(listed) > _LISTED_MOST:
        causes.append(refusals.bad("status.conditions", "", f"must be a list of at most {_LISTED_MOST}"))
        listed = []
    here = {each["type"]: each for each in before.get("conditions", ())}
    known = {each.type: each for each in told}
    found: dict[str, Condition] = {}
    seen: set[str] = set()
    for at, asked in enumerate(listed):
        field = f"status.conditions[{at}]"
        kind = asked.get("type") if isinstance(asked, dict) else None
        if isinstance(kind, str) and kind not in seen and _repeats(asked, here.get(kind)):
            found.update({kind: known[kind]} if kind in known else {})
        elif not isinstance(kind, str) or changes.wrong_key(kind) is not None:
            said = "must be the type of a condition, as in example.com/validated"
            causes.append(refusals.bad(f"{field}.type", str(kind), said))
        elif kind in seen:
            causes.append(Cause("FieldValueDuplicate", f'Duplicate value: "{kind}"', f"{field}.type"))
        elif is_own(kind):
            causes.append(refusals.denied(f"{field}.type", f"{kind} is the server's to say"))
        else:
            made = _condition(asked, known.get(kind), _content(before), now, field, causes)
            found[kind] = made
        seen.add(str(kind))
        if len(causes) >= _CAUSES_MOST:
            break
    after = ({**known, **found} if alone else found).values()
    if not causes:
        causes = _too_much(tuple(after))
    if causes:
        raise refusals.invalid(name, causes[:_CAUSES_MOST])
    return tuple(after)


def _repeats(asked: Mapping[str, Any], here: Mapping[str, Any] | None) -> bool:
    """Whether a condition is the one that is served, read and sent back.

    Also by a client that knows the standard fields alone: it would say for others that theirs is true of what there is.
    """
    if here is None:
        return False
    given = {name: value for name, value in asked.items() if value}
    standard = {name: value for name, value in here.items() if name != "observedDigest"}
    return given == here or ("lastTransitionTime" in given and given == standard)


def _too_much(told: Told) -> list[Cause]:
    field = "status.conditions"
    if len(told) > CONDITIONS_MOST:
        said = f"Too many: {len(told)}: applications write at most {CONDITIONS_MOST} conditions of a draft"
        return [Cause("FieldValueTooMany", said, field)]
    if (size := len(orjson.dumps([asdict(each) for each in told]))) > CONDITIONS_BYTES:
        said = f"Too long: the conditions of applications have {size} bytes, at most {CONDITIONS_BYTES} are kept"
        return [Cause("FieldValueTooLong", said, field)]
    return []


def _condition(
    asked: Mapping[str, Any], before: Condition | None, content: str, now: str, field: str, causes: list[Cause]
) -> Condition:
    """One that is new, or another than it was. What is wrong with it goes into `causes`."""
    status, reason, message = (asked.get(part) for part in ("status", "reason", "message"))
    if status not in _STATUSES:
        said = f'Unsupported value: "{str(status)[:40]}": supported values: "False", "True", "Unknown"'
        causes.append(Cause("FieldValueNotSupported", said, f"{field}.status"))
    for part, value, most in (("reason", reason, _REASON_MOST), ("message", message, MESSAGE_MOST)):
        if value is not None and (not isinstance(value, str) or len(value) > most):
            causes.append(Cause("FieldValueTooLong", f"Too long: a string of at most {most}", f"{field}.{part}"))
    if isinstance(reason, str) and len(reason) <= _REASON_MOST and not _REASON.match(reason):
        causes.append(refusals.bad(f"{field}.reason", reason, "must be a word in CamelCase"))
    given = asked.get("lastTransitionTime")
    if given is not None and (not isinstance(given, str) or not _TIME.match(given)):
        causes.append(refusals.bad(f"{field}.lastTransitionTime", str(given), "must be a time as RFC 3339 has it"))
    generation = asked.get("observedGeneration") or 0
    if type(generation) is not int or not 0 <= generation <= _HIGHEST:
        causes.append(refusals.bad(f"{field}.observedGeneration", str(generation), "must be a whole number"))
    digest = asked.get("observedDigest") or content
    if not isinstance(digest, str) or not _DIGEST.match(digest):
        causes.append(refusals.bad(f"{field}.observedDigest", str(digest), "must be as status.content.digest is"))
    if causes:
        return Condition("", "", "", "", "", "")
    kept = before is not None and before.status == status
    since = before.since if kept and before is not None else now
    if given is not None and (before is None or given != before.since):
        since = given
    return Condition(asked["type"], str(status), reason or "", message or "", since, digest, generation)


def _content(status: Mapping[str, Any]) -> str:
    return str(status.get("content", {}).get("digest", ""))


# --- gates ---


def check_gates(name: str, manifest: Mapping[str, Any], draft: Draft | None) -> None:
    """Whether a draft may be approved: every gate of its spec and of its Kptfile is True of what it holds.

    Raises: RefusedError 422 that names those that are not, and why.
    """
    status = manifest["status"]
    if "readinessGates" in status.get("truncated", ()):
        raise refusals.wrong(name, "spec.lifecycle", "Published", "its Kptfile has more readiness gates than are read")
    gates = _gates(manifest["spec"].get("readinessGates", ()), status.get("readinessGates", ()))
    told = {each.type: each for each in draft.conditions} if draft is not None else {}
    said = {each["type"]: each for each in status.get("conditions", ())}
    unmet = []
    for gate in gates:
        own = is_own(gate) and draft is not None and said.get(gate, {}).get("status") == "True"
        why = "" if own else _unmet(told.get(gate), said.get(gate), _content(status))
        if why:
            unmet.append(f"{gate} ({why})")
    if more := unmet[_CAUSES_MOST:]:
        unmet = [*unmet[:_CAUSES_MOST], f"and {len(more)} more"]
    if unmet:
        why = f"these conditions must be True before it is approved: {', '.join(unmet)}"
        raise refusals.wrong(name, "spec.lifecycle", "Published", why)


def _gates(*lists: Iterable[Mapping[str, Any]]) -> Sequence[str]:
    return list(dict.fromkeys(gate["conditionType"] for each in lists for gate in each))


def _unmet(told: Condition | None, said: Mapping[str, Any] | None, content: str) -> str:
    """Why a gate is closed; empty: it is open."""
    if told is None:
        if said is not None and said.get("status") == "True":
            return "True in the Kptfile alone, where its author may write it: packagerevisions/status counts"
        return "nobody has written it"
    if told.status != "True":
        return told.status + (f": {told.message[:200]}" if told.message else "")
    if told.digest != content:
        return "True of other content than there is now: it has to be judged again"
    return ""
