"""Kubernetes Events on package revisions: one for each step of the life of those that are written here.

Read from the changes of what is served, so that whatever made a step, it is told; by the leader alone, so that it is
told once. Best effort and bounded: a namespace has a burst and then one a second, and what a process that died did not
tell is not told again. Called by the server.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, NoReturn, Protocol

import orjson

from cacheserver import metrics
from cacheserver.cache.watchcache import Watch
from cacheserver.cache.window import Event
from cacheserver.cluster.events import EventType, Occurrence, Subject
from cacheserver.config import RepositoryConfig
from cacheserver.errors import CacheServerError
from cacheserver.model import GROUP, RepositoryKey

log = logging.getLogger(__name__)

BURST: Final = 200
"""Of one namespace at once: a hundred packages approved together are told whole."""
PER_S: Final = 1.0
"""Then, of one namespace: 3,600 are in the host's etcd at most, which keeps them for an hour. Ours: client-go lets one
object have a burst of 25 and then 12 an hour, and any number of objects."""
_NAMESPACES: Final = 4096
_WAIT_S: Final = 60.0
_AGAIN_S: Final = 1.0
_SAYING: Final = (b'"lastOperation"', b'"Diverged"', b'"Pushed"')
"""What a manifest has to hold for a step that leaves its lifecycle as it is."""

_MOVES: Final = {
    ("Draft", "Proposed"): ("Proposed", "{proposedBy} proposed it"),
    ("Proposed", "Draft"): ("Rejected", "it was rejected, and is a draft again"),
    ("Draft", "Published"): ("Published", "{publishedBy} published it as {revision}, commit {commit}"),
    ("Proposed", "Published"): ("Published", "{publishedBy} published it as {revision}, commit {commit}"),
    ("Published", "DeletionProposed"): ("DeletionProposed", "it is proposed for deletion"),
    ("DeletionProposed", "Published"): ("Kept", "its deletion is proposed no more"),
}


class Recorder(Protocol):
    """Takes Events; cluster/events.py: Events is one."""

    def record(self, subject: Subject, occurrence: Occurrence) -> None:
        """Returns at once."""
        ...


def occurrences(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> list[Occurrence]:
    """The Events that one change of a package revision calls for; None: it was not there, or is not any more."""
    if new is None:
        return [_normal("Deleted", f"it is gone; it was {_lifecycle(old)}")] if old is not None else []
    status = new.get("status", {})
    if old is None:
        return [_normal("Created", f"{who} made it{_from(new)}")] if (who := status.get("createdBy")) else []
    was: Mapping[str, Any] = old.get("status", {})
    found: list[Occurrence] = []
    if _step(status) == "Approve" and _step(was) != "Approve":
        found.append(_normal("Approved", "it was approved, and is being published"))
    if (move := _MOVES.get((_lifecycle(old), _lifecycle(new)))) is not None:
        reason, message = move
        commit = str(status.get("selfLock", {}).get("git", {}).get("commit", ""))[:12]
        about = {name: status.get(name) or "somebody" for name in ("proposedBy", "publishedBy")}
        found.append(_normal(reason, message.format(commit=commit, revision=new["spec"].get("revision", ""), **about)))
    last = status.get("lastOperation", {})
    if last.get("result") == "Failed" and last.get("id") != was.get("lastOperation", {}).get("id"):
        message = f"{last.get('code')} {last.get('reason')}: {last.get('message')}"
        found.append(Occurrence(EventType.WARNING, f"{last.get('step')}Failed", message))
    for kind, bad, quiet, reason in (
        ("Diverged", "True", (), "Diverged"),
        ("Pushed", "False", ("Waiting",), "PushFailed"),
    ):
        before, after = _condition(was, kind), _condition(status, kind)
        if after[0] == bad and after[1] not in quiet and after[:2] != before[:2]:
            found.append(Occurrence(EventType.WARNING, reason, after[2]))
    return found


def _normal(reason: str, message: str) -> Occurrence:
    return Occurrence(EventType.NORMAL, reason, message)


def _lifecycle(manifest: Mapping[str, Any] | None) -> str:
    return str((manifest or {}).get("spec", {}).get("lifecycle", ""))


def _step(status: Mapping[str, Any]) -> str:
    return str(status.get("operation", {}).get("step", ""))


def _condition(status: Mapping[str, Any], kind: str) -> tuple[str, str, str]:
    """Status, reason and message; empty where there is none."""
    every: Iterable[Mapping[str, str]] = status.get("conditions", ())
    found: Mapping[str, str] = next((each for each in every if each.get("type") == kind), {})
    return found.get("status", ""), found.get("reason", ""), found.get("message", "")


def _from(manifest: Mapping[str, Any]) -> str:
    source = manifest["spec"].get("source", {})
    names = (each["revision"] for each in source.values() if isinstance(each, Mapping) and "revision" in each)
    return f" from {name}" if (name := next(names, "")) else ""


class Steps:
    """See the module. Call run() (for ever)."""

    def __init__(
        self,
        events: Recorder,
        watch: Callable[[], Awaitable[Watch]],
        repositories: Mapping[RepositoryKey, RepositoryConfig],
        leads: Callable[[], bool],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """watch: of package revisions, from now on. repositories: kept up to date by whoever made it."""
        self._events = events
        self._watch = watch
        self._repositories = repositories
        self._leads = leads
        self._now = now
        self._rooms: dict[str, tuple[float, float]] = {}  # namespace -> (how many it may have, as of when)

    async def run(self) -> NoReturn:
        """Until cancelled. What happens while the cache is read anew is not told."""
        while True:
            try:
                watch = await self._watch()
                while True:
                    for event in await watch.next(timeout_s=_WAIT_S):
                        if self._leads():
                            self.tell(event)
            except CacheServerError as exc:
                log.debug("steps are not followed for a moment", extra={"error": str(exc)})
            await asyncio.sleep(_AGAIN_S)

    def tell(self, event: Event) -> None:
        """Record what a change calls for."""
        namespace, name = event.name
        config = self._repositories.get(RepositoryKey(namespace, name.partition(".")[0]))
        if config is None or not config.writable or not _says_something(event):
            return
        old, new = (orjson.loads(each.body) if each is not None else None for each in (event.old, event.new))
        metadata = (new or old or {})["metadata"]
        version = str(event.resource_version)
        subject = Subject(namespace, name, metadata["uid"], version, kind="PackageRevision", group=GROUP)
        for occurrence in occurrences(old, new):
            if self._room(namespace):
                self._events.record(subject, occurrence)
            else:
                metrics.events_left_out.inc()

    def _room(self, namespace: str) -> bool:
        """Whether the namespace may have one more now; takes it."""
        now = self._now()
        left, at = self._rooms.pop(namespace, (float(BURST), now))
        left = min(left + (now - at) * PER_S, float(BURST))
        self._rooms[namespace] = (left - 1 if left >= 1 else left, now)
        while len(self._rooms) > _NAMESPACES:
            del self._rooms[next(iter(self._rooms))]
        return left >= 1


def _says_something(event: Event) -> bool:
    """False for most saves and syncs, which are not taken apart."""
    old, new = event.old, event.new
    if old is None or new is None:
        return old is not new
    if old is new:
        return False
    body = new.body
    return old.fields.get("spec.lifecycle") != new.fields.get("spec.lifecycle") or any(each in body for each in _SAYING)
