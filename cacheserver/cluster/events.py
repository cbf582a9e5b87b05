"""Kubernetes Events, as `kubectl describe` shows them. On Repositories: one for each change of state, none for a sync
that changed nothing; on package revisions: steps.py.

Best effort: an Event that the host API refuses is dropped, and no caller waits for one. Called by the status store.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.errors import KubernetesError, KubernetesUnavailable
from cacheserver.model import CONFIG_GROUP, VERSION
from cacheserver.slotted import slotted

log = logging.getLogger(__name__)

COMPONENT: Final = "cacheserver"
WAITING: Final = 256
"""Events that wait while the host API is away; the oldest give way."""

# k8s.io/client-go/tools/record: EventCorrelator. The same again within an hour counts the first one up.
_SAME_WITHIN_S: Final = 3600.0
_REMEMBERED: Final = 1024
_MESSAGE_CHARACTERS: Final = 1024  # k8s: pkg/apis/core/validation/events.go, NoteLengthLimit
_NAME_CHARACTERS: Final = 220
_RETRY_S: Final = 5.0
_NEWS_FOR_S: Final = 600.0  # ours: by then the status says it; nor may one event hold up all others


class EventType(StrEnum):
    """Of a core/v1 Event."""

    NORMAL = "Normal"
    WARNING = "Warning"


@slotted(frozen=True)
class Subject:
    """The object that an Event is about, a Repository or a package revision, as of one resource version."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    kind: str = "Repository"
    group: str = CONFIG_GROUP


@slotted(frozen=True)
class Occurrence:
    """What happened: reason is CamelCase, message for people."""

    type: EventType
    reason: str
    message: str


Status = Mapping[str, Any]  # `Repository.status`, decoded


def occurrences(before: Status, after: Status) -> list[Occurrence]:
    """The Events that the step from one status to the next calls for; none while nothing changed."""
    was, is_ = _conditions(before), _conditions(after)
    ready, reason, message = is_.get("Ready", ("", "", ""))
    found: list[Occurrence] = []
    if ready == "False" and reason != "Syncing" and was.get("Ready", ("", ""))[:2] != (ready, reason):
        found.append(Occurrence(EventType.WARNING, "SyncFailed", f"{reason}: {message}"))
    recovered = was.get("Ready", ("False",))[0] != "True"
    if ready == "True" and reason == "Synced" and (recovered or _content(before) != _content(after)):
        found.append(Occurrence(EventType.NORMAL, "Synced", message))
    degraded, reason, message = is_.get("Degraded", ("", "", ""))
    if ready == "True" and degraded == "True" and was.get("Degraded", ("", ""))[:2] != (degraded, reason):
        found.append(Occurrence(EventType.WARNING, reason, message))
    return found


def _conditions(status: Status) -> dict[str, tuple[str, str, str]]:
    """Type -> (status, reason, message)."""
    return {c["type"]: (c["status"], c["reason"], c["message"]) for c in status.get("conditions", ())}


def _content(status: Status) -> tuple[object, ...]:
    return tuple(status.get(name) for name in ("digest", "packages", "revisions"))


@slotted()
class _Sent:
    """An Event that the host API has. first_at: Unix time."""

    path: str
    first_at: float
    count: int


class Events:
    """Writes Events to the host API, one after the other. `record` never waits; call run() (for ever)."""

    def __init__(self, api: KubeAPI) -> None:
        self._api = api
        self._waiting: deque[tuple[Subject, Occurrence, float]] = deque(maxlen=WAITING)
        self._arrived = asyncio.Event()
        self._sent: OrderedDict[tuple[str, Occurrence], _Sent] = OrderedDict()
        self._failing = False
        self._instance = f"{socket.gethostname()}/{os.getpid()}"[:128]

    def record(self, subject: Subject, occurrence: Occurrence) -> None:
        """Queue one Event; when WAITING of them wait, the oldest is dropped."""
        self._waiting.append((subject, occurrence, time.time()))
        self._arrived.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                subject, occurrence, at = item = self._waiting.popleft()
                if time.time() - at > _NEWS_FOR_S:
                    continue
                try:
                    await self._send(subject, occurrence, at)
                    self._failing = False
                except KubernetesUnavailable:
                    if len(self._waiting) < WAITING:
                        self._waiting.appendleft(item)
                    await asyncio.sleep(_RETRY_S)
                except KubernetesError as exc:
                    # A namespace on its way out takes none; nor does one where we have no right to.
                    if not self._failing:
                        log.warning("events are not taken; dropped", extra={"error": str(exc)})
                    self._failing = True

    async def _send(self, subject: Subject, occurrence: Occurrence, at: float) -> None:
        sent = self._sent.get((subject.uid, occurrence))
        if sent is not None and at - sent.first_at < _SAME_WITHIN_S:
            sent.count += 1
            try:
                await self._api.patch(sent.path, {"count": sent.count, "lastTimestamp": _stamp(at)})
                return
            except KubernetesUnavailable:
                sent.count -= 1
                raise
            except KubernetesError:
                pass  # gone: the host API keeps Events for an hour, or less
        namespace = f"/api/v1/namespaces/{subject.namespace}/events"
        body = self._event(subject, occurrence, at)
        await self._api.create(namespace, body)
        self._sent[subject.uid, occurrence] = _Sent(f"{namespace}/{body['metadata']['name']}", at, 1)
        while len(self._sent) > _REMEMBERED:
            self._sent.popitem(last=False)

    def _event(self, subject: Subject, occurrence: Occurrence, at: float) -> dict[str, Any]:
        """core/v1: the form whose count kubectl shows."""
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{subject.name[:_NAME_CHARACTERS]}.{uuid.uuid4().hex[:16]}",
                "namespace": subject.namespace,
            },
            "involvedObject": {
                "apiVersion": f"{subject.group}/{VERSION}",
                "kind": subject.kind,
                "namespace": subject.namespace,
                "name": subject.name,
                "uid": subject.uid,
                "resourceVersion": subject.resource_version,
            },
            "type": occurrence.type.value,
            "reason": occurrence.reason,
            "message": occurrence.message[:_MESSAGE_CHARACTERS],
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._instance,
            "firstTimestamp": _stamp(at),
            "lastTimestamp": _stamp(at),
            "count": 1,
        }


def _stamp(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
