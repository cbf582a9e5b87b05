"""The status of Repository objects in the cluster, written behind: ingestion never waits for the host API.

A status that ingestion writes is readable at once, and sent as soon as the host API takes it; of each Repository the
latest one waits, and no other. It is sent only while the claim that it was written under is held, and only onto the
version of the object that was seen last, so that a process that was paused past its lease overwrites nothing. Called by
ingestion (as its StatusStore) and by the controller, with each object that the host API shows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from typing import Any, Final

import orjson

from cacheserver.cluster.events import Events, Subject, occurrences
from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.config import RepositoryConfig
from cacheserver.errors import EtcdError, KubernetesError, KubernetesUnavailable
from cacheserver.model import CONFIG_GROUP, VERSION, Key, Kind, Record, RepositoryKey, Stored
from cacheserver.slotted import slotted
from cacheserver.store.claims import Claim

log = logging.getLogger(__name__)

SENT_AT_ONCE: Final = 8
_CONFLICTS: Final = 5  # ours: in a row, each with a fresh read; then it waits like any other failure
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 30.0
_CONDITION_PARTS: Final = ("type", "status", "reason", "message", "lastTransitionTime")

Holds = Callable[[Claim], Awaitable[bool]]
"""Whether a claim is still held. Raises: EtcdError."""


@slotted(eq=False)
class _Pending:
    """A status on its way to the host API."""

    claim: Claim
    status: dict[str, Any]


@slotted()
class _Entry:
    """One Repository as the host API showed it last, and what it does not know yet."""

    uid: str
    version: str
    status: dict[str, Any]
    waiting: _Pending | None = field(default=None)

    @property
    def latest(self) -> dict[str, Any]:
        return self.waiting.status if self.waiting else self.status


class ClusterStatusStore:
    """See the module. The controller calls `saw` and `gone`; call run() (for ever)."""

    def __init__(self, api: KubeAPI, holds: Holds, events: Events) -> None:
        self._api = api
        self._holds = holds
        self._events = events
        self._entries: dict[RepositoryKey, _Entry] = {}
        self._dirty: dict[RepositoryKey, None] = {}  # in the order of their first unsent status
        self._arrived = asyncio.Event()
        self._refused: set[RepositoryKey] = set()
        self._away = False

    # --- what the host API shows ---

    def saw(self, key: RepositoryKey, manifest: Mapping[str, Any]) -> None:
        """A Repository as the host API showed it, in a list, a watch or an answer; older news than known is ignored."""
        metadata = manifest["metadata"]
        uid, version = str(metadata.get("uid", "")), str(metadata.get("resourceVersion", ""))
        entry = self._entries.get(key)
        if entry is None or entry.uid != uid:
            self._entries[key] = _Entry(uid, version, _status(manifest))
            self._dirty.pop(key, None)
        elif _number(version) >= _number(entry.version):
            entry.version, entry.status = version, _status(manifest)

    def gone(self, key: RepositoryKey) -> None:
        """The Repository was deleted: what waits for it is dropped."""
        self._entries.pop(key, None)
        self._dirty.pop(key, None)
        self._refused.discard(key)

    # --- what ingestion writes: a StatusStore ---

    async def read(self, config: RepositoryConfig) -> Stored | None:
        """The latest status of the Repository, sent or not; None when there is no such object."""
        entry = self._entries.get(config.key)
        return _stored(config.key, entry) if entry else None

    async def write(self, claim: Claim, record: Record, previous: Stored | None) -> Stored | None:
        """Take note of `record`'s status; the rest of the object is its user's. Returns at once."""
        key = RepositoryKey(record.key.namespace, record.key.repository)
        entry = self._entries.get(key)
        if entry is None:
            return None  # deleted meanwhile; ingestion hears of it in a moment
        status: dict[str, Any] = orjson.loads(record.status)
        subject = Subject(key.namespace, key.name, entry.uid, entry.version)
        for occurrence in occurrences(entry.latest, status):
            self._events.record(subject, occurrence)
        entry.waiting = _Pending(claim, status)
        self._dirty[key] = None
        self._arrived.set()
        return _stored(key, entry)

    # --- sending ---

    async def run(self) -> None:
        """Send statuses and Events until cancelled; while the host API or etcd is away, they wait."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._events.run(), name="repositories: events")
            group.create_task(self._send_all(), name="repositories: status")

    async def _send_all(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._dirty:
                batch = [key for key, _ in zip(self._dirty, range(SENT_AT_ONCE), strict=False)]
                async with asyncio.TaskGroup() as group:
                    tasks = {key: group.create_task(self._send(key), name=f"status: {key}") for key in batch}
                for key in (key for key, task in tasks.items() if not task.result() and key in self._dirty):
                    self._dirty[key] = self._dirty.pop(key)  # to the end: one that fails must not stop the others
                if any(task.result() for task in tasks.values()):
                    pause_s = _FIRST_PAUSE_S
                    continue
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _send(self, key: RepositoryKey) -> bool:
        """False when it has to wait: the host API or etcd is away."""
        entry = self._entries.get(key)
        if entry is None or entry.waiting is None:
            self._dirty.pop(key, None)
            return True
        pending = entry.waiting
        try:
            await self._deliver(key, entry, pending)
        except (KubernetesUnavailable, EtcdError) as exc:
            if not self._away:
                log.warning("status waits to be written", extra={**_about(key), "error": str(exc)})
            self._away = True
            return False
        except KubernetesError as exc:
            # Written again after the next look at the source; logged once.
            if exc.code != 404 and key not in self._refused:
                log.warning("status is not taken", extra={**_about(key), "error": str(exc)})
                self._refused.add(key)
        else:
            if self._away:
                log.info("status waits no longer")
            self._away = False
            self._refused.discard(key)
        if entry.waiting is pending:
            entry.waiting = None
            self._dirty.pop(key, None)
        return True

    async def _deliver(self, key: RepositoryKey, entry: _Entry, pending: _Pending) -> None:
        """Write the status onto the object as it is, while its claim is held. Raises: KubernetesError, EtcdError."""
        path = f"{collection(key.namespace)}/{key.name}"
        for _ in range(_CONFLICTS):
            # Asked before each try: after a conflict it may well be that another process leads, and wrote one.
            if not await self._holds(pending.claim):
                log.info("status dropped: another process ingests this repository now", extra=_about(key))
                return
            cleared = dict.fromkeys(entry.status.keys() - pending.status.keys())
            body = {"metadata": {"resourceVersion": entry.version}, "status": {**cleared, **pending.status}}
            written = True
            try:
                found = await self._api.patch(f"{path}/status", body)
            except KubernetesError as exc:
                if exc.code != 409:
                    raise
                written, found = False, await self._api.get(path)
            if self._entries.get(key) is entry:  # else it went meanwhile, and this answer is older than that news
                self.saw(key, found)
            if written or self._entries.get(key) is not entry:
                return  # if not written: this is another object of the same name, which the status is not about
        raise KubernetesUnavailable(f"{path}: changed {_CONFLICTS} times while its status was written", code=409)


def collection(namespace: str = "") -> str:
    """The path of Repositories in the host API; empty for those of all namespaces."""
    base = f"/apis/{CONFIG_GROUP}/{VERSION}"
    return f"{base}/namespaces/{namespace}/{Kind.REPOSITORY}" if namespace else f"{base}/{Kind.REPOSITORY}"


def _stored(key: RepositoryKey, entry: _Entry) -> Stored:
    value = orjson.dumps({"metadata": {}, "spec": {}, "status": entry.latest})
    return Stored(Key(Kind.REPOSITORY, key.namespace, key.name), value, _number(entry.version))


def _number(version: str) -> int:
    """Kubernetes 1.35 (KEP-5504): versions of one resource are whole numbers that grow; older ones are in practice."""
    return int(version) if version.isascii() and version.isdigit() else 0


def _status(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """`status`, less conditions that others wrote in other forms: ingestion reads all parts of each."""
    found = manifest.get("status")
    status: dict[str, Any] = dict(found) if isinstance(found, Mapping) else {}
    conditions = status.get("conditions")
    if conditions is not None:
        status["conditions"] = [c for c in conditions if all(isinstance(c.get(part), str) for part in _CONDITION_PARTS)]
    return status


def _about(key: RepositoryKey) -> dict[str, object]:
    return {"namespace": key.namespace, "repository": key.name}
