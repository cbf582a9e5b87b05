"""The served object of a revision as the write side reads and changes it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from cacheserver.model import LABEL_LIFECYCLE, Digest, UserMetadata, edited
from cacheserver.store.authored import Operation


def digest_of(manifest: Mapping[str, Any]) -> Digest:
    """Of its content."""
    return Digest(manifest["status"]["content"]["digest"])


def commit_of(manifest: Mapping[str, Any]) -> str:
    """Where it lies in git; empty where that is not known."""
    return str(manifest["status"].get("selfLock", {}).get("git", {}).get("commit", ""))


def place_of(value: bytes | None) -> tuple[str, str]:
    """Commit and name of a published revision; empty without one."""
    if value is None:
        return "", ""
    manifest = orjson.loads(value)
    return commit_of(manifest), manifest["spec"]["revision"]


def with_lifecycle(value: bytes, lifecycle: str) -> bytes:
    """In spec and label."""
    manifest = orjson.loads(value)
    before = UserMetadata.of(manifest)
    labels = {name: text for name, text in manifest["metadata"].get("labels", {}).items() if name not in before.labels}
    spec = {**manifest["spec"], "lifecycle": lifecycle}
    return edited(value, labels={**labels, LABEL_LIFECYCLE: lifecycle}, spec=orjson.dumps(spec))


def with_version(value: bytes, version: str) -> bytes:
    """In spec."""
    return edited(value, spec=orjson.dumps({**orjson.loads(value)["spec"], "version": version}))


def with_operation(value: bytes, operation: Operation) -> bytes:
    """While it runs. What the last one came to is told no more."""
    status = _status(value)
    status.pop("lastOperation", None)
    status["operation"] = {"id": operation.id, "step": operation.step.value, "since": operation.at}
    return edited(value, status=orjson.dumps(status))


def _status(value: bytes) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(value)["status"]
    return found
