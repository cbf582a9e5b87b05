"""What the publisher changes in a served object: lifecycle, operation, and the conditions that tell of git. Pure.

Everything else of the object is left as its author made it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from cacheserver.model import LABEL_LIFECYCLE, Digest
from cacheserver.slotted import slotted
from cacheserver.store.authored import Held, Operation

PUSHED: Final = "Pushed"
"""Condition of a draft: git has all of it."""
DIVERGED: Final = "Diverged"
OVERWRITE: Final = "cacheserver.dev/overwrite"
"""Annotation: the commit on a draft's branch that may be overwritten; `none` for a branch that somebody deleted."""
ACCEPT_BASE: Final = "cacheserver.dev/accept-base"
"""Annotation: what was published, or changed on the branch, since the draft began, and may be published over."""


@slotted(frozen=True)
class Failure:
    """Why an operation was not carried out, as Kubernetes says it: HTTP code, reason, message."""

    code: int
    reason: str
    message: str


@slotted(frozen=True)
class Condition:
    """One of status.conditions, as Kubernetes has them; its time is given where it is written."""

    type: str
    true: bool
    reason: str
    message: str


class Object:
    """A served PackageRevision, taken apart to be changed; bytes() puts it together again."""

    def __init__(self, value: bytes) -> None:
        self._manifest: dict[str, Any] = orjson.loads(value)
        self._spec = orjson.dumps(self._manifest["spec"])

    def bytes(self) -> bytes:
        """The manifest, without resourceVersion; of the next generation if its spec has changed."""
        manifest = self._manifest
        if orjson.dumps(manifest["spec"]) != self._spec:
            manifest["metadata"]["generation"] += 1
        return orjson.dumps(manifest)

    @property
    def digest(self) -> Digest:
        """Of its content."""
        return Digest(self._manifest["status"].get("content", {}).get("digest", ""))

    @property
    def size(self) -> int:
        """Bytes of its content."""
        return int(self._manifest["status"].get("content", {}).get("size", 0))

    @property
    def lifecycle(self) -> str:
        """spec.lifecycle."""
        return str(self._manifest["spec"].get("lifecycle", ""))

    @property
    def revision(self) -> str:
        """spec.revision: of a draft its workspace."""
        return str(self._manifest["spec"].get("revision", ""))

    @property
    def workspace(self) -> str:
        """spec.workspaceName."""
        return str(self._manifest["spec"].get("workspaceName", ""))

    @property
    def lock(self) -> dict[str, str]:
        """Where it lies in git: repo, directory, ref, commit; empty where git has nothing of it."""
        found: dict[str, str] = (self._manifest["status"].get("selfLock") or {}).get("git", {})
        return found

    def annotation(self, name: str) -> str:
        """Its text; empty where there is none."""
        return str(self._manifest["metadata"].get("annotations", {}).get(name, ""))

    def become(self, lifecycle: str) -> None:
        """Change the lifecycle, in spec and label."""
        self._manifest["spec"]["lifecycle"] = lifecycle
        self._manifest["metadata"].setdefault("labels", {})[LABEL_LIFECYCLE] = lifecycle

    def locate(self, repo: str, directory: str, ref: str, commit: str) -> None:
        """Say where it lies in git, as a sync does."""
        git = {"repo": repo, "directory": directory, "ref": ref, "commit": commit}
        self._manifest["status"]["selfLock"] = {"type": "git", "git": git}

    def end(self, operation: Operation, failure: Failure | None) -> None:
        """Say how an operation ended, which is not under way any more."""
        status = self._manifest["status"]
        status.pop("operation", None)
        last: dict[str, Any] = {"id": operation.id, "step": operation.step.value}
        if failure is None:
            last["result"] = "Done"
        else:
            last |= {"result": "Failed", "code": failure.code, "reason": failure.reason, "message": failure.message}
        status["lastOperation"] = last

    def note(self, **status: str) -> None:
        """Fields of the status; an empty one goes."""
        for name, value in status.items():
            if value:
                self._manifest["status"][name] = value
            else:
                self._manifest["status"].pop(name, None)

    def tell(self, condition: Condition, now: float) -> bool:
        """Put a condition in place of the one of its type; False where it says the same."""
        before = self._manifest["status"].get("conditions", [])
        after = with_condition(before, condition, stamp(now))
        if after[-1] in before:
            return False
        self._manifest["status"]["conditions"] = after
        return True

    def untell(self, kind: str) -> None:
        """Take the condition of this type away."""
        status = self._manifest["status"]
        if kept := [each for each in status.get("conditions", ()) if each.get("type") != kind]:
            status["conditions"] = kept
        else:
            status.pop("conditions", None)


def with_condition(conditions: Sequence[Mapping[str, Any]], condition: Condition, now: str) -> list[Mapping[str, Any]]:
    """The conditions with this one, at their end, in the place of the one of its type; its time is that of the last
    change of its status. now: RFC 3339."""
    state = "True" if condition.true else "False"
    before = next((each for each in conditions if each.get("type") == condition.type), {})
    since = before.get("lastTransitionTime") if before.get("status") == state else None
    after = {
        "type": condition.type,
        "status": state,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": since or now,
    }
    return [*(each for each in conditions if each.get("type") != condition.type), after]


def stamp(now: float) -> str:
    """Unix time as RFC 3339 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))


async def taken_apart(held: Held) -> Object:
    """Beside the loop where it is large."""
    assert held.served is not None
    value = held.served.value
    return await asyncio.to_thread(Object, value) if len(value) > 64 << 10 else Object(value)
