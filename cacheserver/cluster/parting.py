"""Keeps a Repository that is written to until git has its drafts: a finalizer on it, set and taken away by the leader.

Whoever deletes the Repository, or its namespace, loses no draft: what git does not have is pushed first, as ever, and
nothing new is taken meanwhile. Where that cannot be done the object stays, says so, and goes when somebody lifts the
finalizer by hand. Git is never changed for it otherwise. Called by the controller.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from cacheserver.cluster.events import EventType, Occurrence, Subject
from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.cluster.steps import Recorder
from cacheserver.errors import EtcdError, KubernetesError, KubernetesUnavailable
from cacheserver.model import CONFIG_GROUP, VERSION, Kind, RepositoryKey
from cacheserver.slotted import slotted
from cacheserver.store.authored import Authored

log = logging.getLogger(__name__)

FINALIZER: Final = f"{CONFIG_GROUP}/drafts"
_LOOK_S: Final = 2.0
"""Between two looks at whether git has the drafts of one that is to go."""
_REFUSED_S: Final = 60.0
"""Until what the host API refused is tried again: rights may come."""
_TELL_S: Final = 600.0


@slotted()
class _Seen:
    """A Repository as the host API showed it last. try_at, tell_at: not before."""

    uid: str
    version: str
    finalizers: tuple[str, ...]
    leaving: bool
    writable: bool
    try_at: float = 0.0
    tell_at: float = 0.0

    @property
    def held(self) -> bool:
        return FINALIZER in self.finalizers

    @property
    def settled(self) -> bool:
        """Whether there is nothing to do."""
        return not self.held if self.leaving else self.held == self.writable


class Parting:
    """See the module. Call run() (for ever)."""

    def __init__(
        self,
        api: KubeAPI,
        authored: Authored,
        events: Recorder,
        leads: Callable[[], bool],
        *,
        look_s: float = _LOOK_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._authored = authored
        self._events = events
        self._leads = leads
        self._look_s = look_s
        self._now = now
        self._open: dict[RepositoryKey, _Seen] = {}
        self._arrived = asyncio.Event()

    def saw(self, key: RepositoryKey, manifest: Mapping[str, Any], *, writable: bool) -> None:
        """A Repository as the host API shows it. Returns at once."""
        metadata = manifest["metadata"]
        seen = _Seen(
            str(metadata.get("uid", "")),
            str(metadata.get("resourceVersion", "")),
            tuple(metadata.get("finalizers") or ()),
            leaving="deletionTimestamp" in metadata,
            writable=writable,
        )
        if seen.settled:
            self._open.pop(key, None)
            return
        before = self._open.get(key)
        if before is not None and before.uid == seen.uid:
            seen.tell_at = before.tell_at
        self._open[key] = seen
        self._arrived.set()

    def gone(self, key: RepositoryKey) -> None:
        """It is not there any more."""
        self._open.pop(key, None)

    async def run(self) -> NoReturn:
        """Until cancelled; while the host API or etcd is away, it waits."""
        while True:
            await self._arrived.wait()
            if self._leads():
                for key, seen in list(self._open.items()):
                    if self._open.get(key) is seen and seen.try_at <= self._now():
                        await self._settle(key, seen)
            if not self._open:
                self._arrived.clear()
                continue
            await asyncio.sleep(self._look_s)

    async def _settle(self, key: RepositoryKey, seen: _Seen) -> None:
        try:
            if seen.leaving and (missing := await self._missing(key)):
                self._tell(key, seen, missing)
                return
            rest = [name for name in seen.finalizers if name != FINALIZER]
            wanted = rest if seen.held else [*rest, FINALIZER]
            path = f"/apis/{CONFIG_GROUP}/{VERSION}/namespaces/{key.namespace}/{Kind.REPOSITORY}/{key.name}"
            await self._api.patch(path, {"metadata": {"resourceVersion": seen.version, "finalizers": wanted}})
        except (KubernetesUnavailable, EtcdError) as exc:
            log.debug("a Repository's finalizer waits", extra={**_about(key), "error": str(exc)})
            return
        except KubernetesError as exc:
            if exc.code not in (404, 409):  # it went, or changed, and the watch shows how
                log.warning("a Repository's finalizer cannot be changed", extra={**_about(key), "error": str(exc)})
                seen.try_at = self._now() + _REFUSED_S
                return
        else:
            log.info("finalizer", extra={**_about(key), "set": not seen.held})
        if self._open.get(key) is seen:
            seen.try_at = self._now() + self._look_s  # by then the watch has shown it

    async def _missing(self, key: RepositoryKey) -> list[str]:
        """Names of what git does not have, or has not done yet."""
        drafts, operations = await self._authored.of_repository(key)
        return [each.name for each, draft in drafts.items() if draft.unpushed_ms or each in operations]

    def _tell(self, key: RepositoryKey, seen: _Seen, missing: list[str]) -> None:
        if self._now() < seen.tell_at:
            return
        first, seen.tell_at = not seen.tell_at, self._now() + _TELL_S
        why = f"{len(missing)} drafts are not in git yet, {missing[0]} among them: they are pushed first"
        if not first:
            why += (
                "; the condition Pushed, and that of the drafts, say what is in the way. Without them it goes when the "
                f"finalizer {FINALIZER} is taken away by hand"
            )
        subject = Subject(key.namespace, key.name, seen.uid, seen.version)
        self._events.record(subject, Occurrence(EventType.WARNING, "DraftsNotPushed", why))
        log.warning("a Repository is to go, and git does not have its drafts", extra={**_about(key), "drafts": why})


def _about(key: RepositoryKey) -> dict[str, object]:
    return {"namespace": key.namespace, "repository": key.name}
