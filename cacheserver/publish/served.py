"""The served object of a revision as the write side changes it: lifecycle, operations, conditions. Pure, over bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from cacheserver.model import LABEL_LIFECYCLE, UserMetadata, edited
from cacheserver.store.authored import Operation

PUSHED: Final = "Pushed"
"""Condition of a draft: git has all of it."""


def with_lifecycle(value: bytes, lifecycle: str) -> bytes:
    """In spec and label."""
    manifest = orjson.loads(value)
    before = UserMetadata.of(manifest)
    labels = {name: text for name, text in manifest["metadata"].get("labels", {}).items() if name not in before.labels}
    spec = {**manifest["spec"], "lifecycle": lifecycle}
    return edited(value, labels={**labels, LABEL_LIFECYCLE: lifecycle}, spec=orjson.dumps(spec))


def with_operation(value: bytes, operation: Operation) -> bytes:
    """While it runs. What the last one came to is told no more."""
    status = _status(value)
    status.pop("lastOperation", None)
    status["operation"] = {"id": operation.id, "step": operation.step.value, "since": operation.at}
    return edited(value, status=orjson.dumps(status))


def with_condition(status: Mapping[str, Any], kind: str, holds: str, reason: str, message: str, now: str) -> Any:
    """A status with this condition in the place of the one of its type. now: RFC 3339."""
    conditions = [each for each in status.get("conditions", ()) if each.get("type") != kind]
    before = next((each for each in status.get("conditions", ()) if each.get("type") == kind), None)
    since = before["lastTransitionTime"] if before and before.get("status") == holds else now
    made = {"type": kind, "status": holds, "reason": reason, "message": message, "lastTransitionTime": since}
    return {**status, "conditions": [*conditions, made]}


def _status(value: bytes) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(value)["status"]
    return found
