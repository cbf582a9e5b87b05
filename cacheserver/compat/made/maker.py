"""Makes a Repository of each object of a kind of another system, and writes into that object how it goes.

Every replica follows these objects, and the Repositories beside them; the leader alone writes, onto the version that
was seen last. What has to be done of one is made out anew each time from what is there, so nothing depends on which
event came, or was missed. What differs from kind to kind is its own to say (Kind). Called by the controllers of these.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, NoReturn, Protocol

from cacheserver.cluster.follow import FIRST_PAUSE_S, Listed, follow
from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.cluster.status import collection
from cacheserver.compat.made import spec, words
from cacheserver.config import Door
from cacheserver.errors import KubernetesError, KubernetesUnavailable
from cacheserver.meters import Counter, Gauge
from cacheserver.model import RepositoryKey
from cacheserver.slotted import slotted

log = logging.getLogger(__name__)

Object = Mapping[str, Any]

AT_ONCE: Final = 8
"""Objects worked on at the same time."""
_LOOK_S: Final = 2.0
"""Between two looks whether this replica leads by now, where there is something to do."""
_AGAIN_S: Final = 1.0
_AGAIN_MOST_S: Final = 300.0
"""Until what was refused, or undone by somebody else, is tried again: doubled each time."""
_SLICE: Final = 50  # objects read in a turn of the loop
_KEPT: Final = ("name", "namespace", "uid", "resourceVersion", "generation", "labels", "annotations", "finalizers")
_KEPT_IF_THERE: Final = ("ownerReferences", "deletionTimestamp")
_KEPT_OF_ANOTHERS: Final = ("name", "namespace", "uid", "resourceVersion")
_STATUS_READ: Final = ("observedGeneration", "digest", "lastCheckedAt")
_CONDITIONS_READ: Final = ("Ready", "Stalled")


@slotted(frozen=True)
class Refusal:
    """Why there is no Repository; empty: there is. final: the object's user has to do something about it."""

    why: str = ""
    final: bool = True


@slotted(frozen=True)
class Counts:
    """Metrics: objects that are known, statuses written, statuses that somebody else changed."""

    known: Gauge
    statuses: Counter
    contested: Counter


class Kind(Protocol):
    """What differs."""

    @property
    def name(self) -> str:
        """In messages, and as owner of Repositories."""
        ...

    @property
    def mark(self) -> str:
        """Annotation of a Repository that was made of the object of that name."""
        ...

    @property
    def door(self) -> Door:
        """By which such a Repository is published."""
        ...

    @property
    def namespaces(self) -> Sequence[str]:
        """Whose Repositories these are; empty text for all."""
        ...

    @property
    def counts(self) -> Counts:
        """Where it is counted."""
        ...

    def path(self, namespace: str) -> str:
        """Of the objects whose Repositories are in the namespace."""
        ...

    def repository(self, made_of: Object, namespace: str) -> dict[str, Any]:
        """The Repository as it is to be created. Raises: ValueError, which says why there can be none."""
        ...

    def marks(self, made_of: Object, found: Object | None) -> dict[str, Any]:
        """A merge patch for the object's metadata; empty where it lacks nothing. found: the Repository made of it."""
        ...

    def status(
        self, key: RepositoryKey, made_of: Object, found: Object | None, refused: Refusal
    ) -> tuple[dict[str, Any], float]:
        """The status as it is to be, and from when on it may be written, monotonic. found: as in marks."""
        ...

    def gone(self, key: RepositoryKey) -> None:
        """The object and its Repository went."""
        ...


@slotted()
class _One:
    """One name: an object and the Repository of that name, as Kubernetes showed them last.

    try_at: not before, monotonic; pause_s: how long the last pause was. refused: why it has no Repository. written: the
    status that was written last; undone: how often somebody else changed that; mend_at: when it is put right.
    asleep_until: when it is looked at by itself; 0: it is not.
    """

    made_of: Object | None = None
    found: Object | None = None
    try_at: float = 0.0
    pause_s: float = 0.0
    refused: Refusal = Refusal()
    written: Object | None = None
    undone: int = 0
    mend_at: float = 0.0
    asleep_until: float = 0.0
    told: tuple[str, ...] = ()


class _OvertakenError(Exception):
    """While one was worked on another process came to lead, or it went."""


class Maker:
    """See the module. Call run() (for ever)."""

    def __init__(
        self,
        api: KubeAPI,
        kind: Kind,
        leads: Callable[[], bool],
        *,
        look_s: float = _LOOK_S,
        again_s: float = _AGAIN_S,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        """leads: whether this process is the one that writes, as far as it knows."""
        self._api = api
        self._kind = kind
        self._leads = leads
        self._look_s, self._again_s, self._first_pause_s = look_s, again_s, first_pause_s
        self._ones: dict[RepositoryKey, _One] = {}
        self._known = 0
        self._due: dict[RepositoryKey, None] = {}
        self._asleep: list[tuple[float, RepositoryKey]] = []
        self._all_due = False
        self._came = asyncio.Event()
        self._unlisted = {(part, namespace) for part in ("made_of", "found") for namespace in kind.namespaces}

    async def run(self) -> NoReturn:
        """Until cancelled; while Kubernetes is away, it waits."""
        async with asyncio.TaskGroup() as group:
            for namespace in self._kind.namespaces:
                for part, path in (("made_of", self._kind.path(namespace)), ("found", collection(namespace))):
                    name = f"{self._kind.name}: {part}: {namespace or 'all namespaces'}"
                    group.create_task(self._follow(path, part, namespace), name=name)
            group.create_task(self._work(), name=f"{self._kind.name}: work")
        raise AssertionError("none of them ends")

    @property
    def acts(self) -> bool:
        """Whether this process writes now."""
        return not self._unlisted and self._leads()

    def wake(self, key: RepositoryKey) -> None:
        """Something that the status of one is made of is another."""
        if (one := self._ones.get(key)) is not None:
            self._wake(key, one)

    def wake_all(self) -> None:
        """As wake, of all."""
        self._all_due = True
        self._came.set()

    # --- what is there ---

    async def _follow(self, path: str, part: str, namespace: str) -> None:
        async with aclosing(follow(self._api, path, first_pause_s=self._first_pause_s)) as news:
            async for new in news:
                if isinstance(new, Listed):
                    await self._replace(part, namespace, new.objects)
                    self._unlisted.discard((part, namespace))
                    self.wake_all()
                else:
                    key = self._key(new.object, namespace)
                    self._take(part, key, None if new.deleted else new.object)
                self._kind.counts.known.set(self._known)

    async def _replace(self, part: str, namespace: str, objects: Sequence[Object]) -> None:
        here = set[RepositoryKey]()
        for at, each in enumerate(objects):
            here.add(key := self._key(each, namespace))
            self._take(part, key, each)
            if at % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
        for key in [key for key, one in self._ones.items() if getattr(one, part) is not None and key not in here]:
            if namespace in ("", key.namespace):
                self._take(part, key, None)

    def _key(self, manifest: Object, namespace: str) -> RepositoryKey:
        """Of what has no namespace, the Repository is in the one that is followed for it."""
        metadata = manifest["metadata"]
        return RepositoryKey(metadata.get("namespace", namespace), metadata["name"])

    def _take(self, part: str, key: RepositoryKey, manifest: Object | None) -> None:
        one = self._ones.setdefault(key, _One())
        before: Object | None = getattr(one, part)
        if manifest is not None and before is not None and _older(manifest, before):
            return  # our own write was answered before the watch told of what was there
        if manifest is None or before is None or _asks_another(manifest, before):
            one.try_at = one.pause_s = 0.0
        self._set(part, key, one, manifest)
        if one.made_of is None and one.found is None:
            del self._ones[key]
            self._due.pop(key, None)
            self._kind.gone(key)
            return
        self._wake(key, one)

    def _set(self, part: str, key: RepositoryKey, one: _One, manifest: Object | None) -> None:
        if part == "made_of":
            self._known += (manifest is not None) - (one.made_of is not None)
            one.made_of = _kept(manifest) if manifest is not None else None
        else:
            one.found = self._kept_repository(key, manifest) if manifest is not None else None

    def _kept_repository(self, key: RepositoryKey, manifest: Object) -> Object:
        """Of somebody else's it is enough to know that it is there; of ours, of a long status, what is read here."""
        if not spec.is_made_of(manifest, self._kind.mark, key.name):
            metadata = manifest["metadata"]
            return {"metadata": {part: metadata[part] for part in _KEPT_OF_ANOTHERS if part in metadata}}
        status = manifest.get("status") or {}
        read = {part: status[part] for part in _STATUS_READ if part in status}
        read["conditions"] = [each for each in status.get("conditions") or () if each.get("type") in _CONDITIONS_READ]
        return {**_kept(manifest), "status": read}

    def _wake(self, key: RepositoryKey, one: _One) -> None:
        """Now, or when it may be tried."""
        if one.try_at <= time.monotonic():
            self._due[key] = None
        elif not one.asleep_until or one.try_at < one.asleep_until:
            one.asleep_until = one.try_at
            heapq.heappush(self._asleep, (one.try_at, key))
        self._came.set()

    # --- what is to be done ---

    async def _work(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            if self._all_due:
                self._all_due = False
                await self._wake_all()
            self._rouse()
            while self._due and self.acts:
                async with asyncio.TaskGroup() as group:
                    for key in [key for key, _ in zip(self._due, range(AT_ONCE), strict=False)]:
                        del self._due[key]
                        group.create_task(self._one(key), name=f"{self._kind.name}: {key}")
                self._rouse()
            await self._pause()

    async def _wake_all(self) -> None:
        for at, key in enumerate(list(self._ones)):
            self.wake(key)
            if at % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)

    def _rouse(self) -> None:
        """Whose time has come is due."""
        now = time.monotonic()
        while self._asleep and self._asleep[0][0] <= now:
            _, key = heapq.heappop(self._asleep)
            if (one := self._ones.get(key)) is not None and 0 < one.asleep_until <= now:
                one.asleep_until = 0.0
                self._wake(key, one)

    async def _pause(self) -> None:
        """Until something comes, or what waits may be tried, or it is time to ask again whether we lead."""
        if not self._due and not self._asleep:
            return
        left_s = self._look_s if self._due else self._asleep[0][0] - time.monotonic()
        try:
            async with asyncio.timeout(min(max(left_s, 0.0), self._look_s)):
                await self._came.wait()
        except TimeoutError:
            self._came.set()

    async def _one(self, key: RepositoryKey) -> None:
        """Bring one in step; what is refused, or fails, is tried again later."""
        one = self._ones.get(key)
        if one is None:
            return  # it went before its turn
        try:
            if await self._settle(key, one):
                one.pause_s = 0.0
            else:
                self._later(key, one)
        except _OvertakenError:
            self.wake(key)
        except KubernetesError as exc:
            # 409 and 404: it is another by now, and the watch shows which.
            quiet = exc.code in (404, 409) or isinstance(exc, KubernetesUnavailable)
            self._tell(one, key, f"a {self._kind.name} is not kept in step, trying on", str(exc), quiet=quiet)
            self._later(key, one)
        except Exception:
            # The edge of the task: an odd object, or a defect of ours in one of them, must not stop the others.
            log.exception(f"a {self._kind.name} is not kept in step by a defect", extra=self._about(key))  # noqa: G004
            one.pause_s = _AGAIN_MOST_S
            self._later(key, one)

    def _later(self, key: RepositoryKey, one: _One) -> None:
        one.pause_s = min(max(one.pause_s * 2, self._again_s), _AGAIN_MOST_S)
        one.try_at = time.monotonic() + one.pause_s
        self.wake(key)

    async def _settle(self, key: RepositoryKey, one: _One) -> bool:
        """False where it has to be tried again. Raises: KubernetesError, _OvertakenError."""
        settled = True
        if one.made_of is None or _leaves(one.made_of):
            await self._let_go(key, one)
        else:
            if marks := self._kind.marks(one.made_of, self._ours(key, one)):
                await self._patch(key, one, one.made_of, marks)
            settled = await self._own(key, one)
        if one.made_of is not None:
            await self._say(key, one, one.made_of)
        return settled

    def _check(self) -> None:
        """Before each write. Raises: _OvertakenError."""
        if not self.acts:
            raise _OvertakenError

    def _ours(self, key: RepositoryKey, one: _One) -> Object | None:
        """The Repository that was made of it."""
        return one.found if one.found is not None and spec.is_made_of(one.found, self._kind.mark, key.name) else None

    async def _let_go(self, key: RepositoryKey, one: _One) -> None:
        """It goes, and so does what was made of it; never a Repository that somebody else made."""
        found = self._ours(key, one)
        if found is not None and not _leaves(found):
            self._check()
            which = {part: found["metadata"][part] for part in ("uid", "resourceVersion")}
            body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": which}
            await self._api.delete(f"{collection(key.namespace)}/{key.name}", body=body)
            log.info(f"a Repository went with its {self._kind.name}", extra=self._about(key))  # noqa: G004
        if one.made_of is not None and (marks := self._kind.marks(one.made_of, found)):
            await self._patch(key, one, one.made_of, marks)

    async def _own(self, key: RepositoryKey, one: _One) -> bool:
        """Its Repository; why it has none is kept. False where that may change by itself."""
        self._check()
        if one.made_of is None:
            raise _OvertakenError
        one.refused = Refusal()
        here = collection(key.namespace)
        try:
            asked = self._kind.repository(one.made_of, key.namespace)
            if one.found is None:
                self._answered("found", key, one, await self._api.create(here, asked))
                log.info(f"a Repository was made of a {self._kind.name}", extra=self._about(key))  # noqa: G004
            elif (ours := self._ours(key, one)) is None:
                raise ValueError(
                    f"the Repository {key.name} in namespace {key.namespace} was made by somebody else, and stays as it"
                    f" is: delete one of the two, or make the {self._kind.name} anew under another name"
                )
            elif not _leaves(ours) and (change := spec.patch(ours, asked, self._kind.door)):
                self._answered("found", key, one, await self._api.patch(f"{here}/{key.name}", change))
        except ValueError as exc:
            one.refused = Refusal(str(exc)[: words.MESSAGE_CHARACTERS])
        except KubernetesError as exc:
            if exc.code == 404 and one.found is not None:
                one.found = None  # it went: the watch says so in a moment
                raise
            if exc.code not in (400, 403, 404, 422):
                raise
            # Rights may come, and the namespace.
            one.refused = Refusal(f"its Repository is refused: {exc}", final=exc.code not in (403, 404))
        if one.refused.why:
            self._tell(one, key, f"a {self._kind.name} cannot be followed", one.refused.why)
        return one.refused.final

    async def _patch(self, key: RepositoryKey, one: _One, made_of: Object, metadata: dict[str, Any]) -> None:
        self._check()
        body = {"metadata": {"resourceVersion": made_of["metadata"]["resourceVersion"], **metadata}}
        path = f"{self._kind.path(key.namespace)}/{key.name}"
        self._answered("made_of", key, one, await self._api.patch(path, body))

    async def _say(self, key: RepositoryKey, one: _One, made_of: Object) -> None:
        """Its status, where that is another."""
        after, not_before = self._kind.status(key, made_of, self._ours(key, one), one.refused)
        change = words.merge_patch(made_of.get("status") or {}, after)
        if not change or not self._may_now(key, one, not_before) or not self._may_mend(key, one, after):
            return
        self._check()
        body = {"metadata": {"resourceVersion": made_of["metadata"]["resourceVersion"]}, "status": change}
        path = f"{self._kind.path(key.namespace)}/{key.name}/status"
        self._answered("made_of", key, one, await self._api.patch(path, body))
        self._kind.counts.statuses.inc()
        one.written, one.mend_at = after, 0.0

    def _may_now(self, key: RepositoryKey, one: _One, not_before: float) -> bool:
        if not_before <= time.monotonic():
            return True
        one.try_at = not_before
        self.wake(key)
        return False

    def _may_mend(self, key: RepositoryKey, one: _One, after: Object) -> bool:
        """False, for now, where somebody else undid what was written: two who put each other right never end."""
        if one.written != after:
            one.undone, one.mend_at = 0, 0.0
            return True
        if not one.mend_at:
            self._kind.counts.contested.inc()
            one.mend_at = time.monotonic() + min(self._again_s * 2**one.undone, _AGAIN_MOST_S)
            one.undone = min(one.undone + 1, 30)
            why = "it is put right, each time later than before"
            self._tell(one, key, f"somebody else writes the status of a {self._kind.name}", why)
        return self._may_now(key, one, one.mend_at)

    def _answered(self, part: str, key: RepositoryKey, one: _One, manifest: Object) -> None:
        """What a write was answered with; unless the watch has told of something newer, or that it went, meanwhile."""
        known: Object | None = getattr(one, part)
        made = known is None and part == "found"
        if made or (known is not None and _same(manifest, known) and not _older(manifest, known)):
            self._set(part, key, one, manifest)

    # --- words ---

    def _tell(self, one: _One, key: RepositoryKey, message: str, why: str, *, quiet: bool = False) -> None:
        """Once a message, until the object goes."""
        level = logging.DEBUG if quiet or why in one.told else logging.WARNING
        if level > logging.DEBUG and len(one.told) < AT_ONCE:
            one.told = (*one.told, why)
        log.log(level, message, extra={**self._about(key), "why": why})

    def _about(self, key: RepositoryKey) -> dict[str, object]:
        return {"kind": self._kind.name, "catalog": key.name, "namespace": key.namespace}


def _leaves(manifest: Object) -> bool:
    return "deletionTimestamp" in manifest["metadata"]


def _same(manifest: Object, known: Object) -> bool:
    return bool(manifest["metadata"].get("uid") == known["metadata"].get("uid"))


def _older(manifest: Object, known: Object) -> bool:
    """Of one object: Kubernetes 1.35 (KEP-5504) says that its versions are numbers that grow."""
    return _same(manifest, known) and _version(manifest["metadata"]) < _version(known["metadata"])


def _version(metadata: Object) -> int:
    """Its resourceVersion; 0 for what is none."""
    text = str(metadata.get("resourceVersion", ""))
    return int(text) if text.isascii() and text.isdigit() else 0


def _asks_another(manifest: Object, known: Object) -> bool:
    """Whether its user did something: then nobody waits until what failed is tried again."""
    new, old = manifest["metadata"], known["metadata"]
    parts = ("uid", "generation", "deletionTimestamp")
    return any(new.get(part) != old.get(part) for part in parts)


def _kept(manifest: Object) -> Object:
    """Less what others wrote into it and nobody here reads: managedFields alone are larger than the rest."""
    metadata = manifest["metadata"]
    kept = {name: metadata[name] for name in (*_KEPT, *_KEPT_IF_THERE) if name in metadata}
    return {"metadata": kept, **{part: manifest[part] for part in ("spec", "status") if part in manifest}}
