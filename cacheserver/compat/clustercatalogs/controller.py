"""The ClusterCatalog controller: a Repository for each, and a status that says what is served of it.

Every replica follows ClusterCatalogs and the Repositories of one namespace; the leader alone writes, onto the version
that was seen last, and only while no catalogd runs (rival.py). What has to be done of one is made out anew each time
from what is there, so nothing depends on which event came, or was missed. Called by the server, in a cluster.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, Protocol

from cacheserver import metrics
from cacheserver.cluster.follow import FIRST_PAUSE_S, Listed, follow
from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.cluster.status import collection
from cacheserver.compat.clustercatalogs import status, wanted
from cacheserver.compat.clustercatalogs.rival import Rival
from cacheserver.compat.clustercatalogs.status import Facts
from cacheserver.compat.clustercatalogs.wanted import KIND, OLM
from cacheserver.errors import KubernetesError, KubernetesUnavailable
from cacheserver.model import GROUP, RepositoryKey
from cacheserver.store.published import PublishedCatalog

log = logging.getLogger(__name__)

PATH: Final = f"/apis/{OLM}/v1/clustercatalogs"
LABEL: Final = f"{OLM}/metadata.name"
"""Selectors of ClusterExtensions name catalogs by it; catalogd's webhook sets it (api/v1/common_types.go)."""
IMAGE_DIGEST: Final = f"{GROUP}/image-digest"
"""Annotation: the digest of the image that was read last, which status.resolvedSource does not name."""
CATALOGD_FINALIZER: Final = f"{OLM}/delete-server-cache"
"""What catalogd sets so that its disk is cleaned; without catalogd nobody would take it away."""

AT_ONCE: Final = 8
"""ClusterCatalogs worked on at the same time."""
_LOOK_S: Final = 2.0
"""Between two looks whether this replica leads by now, where there is something to do."""
_AGAIN_S: Final = 1.0
_AGAIN_MOST_S: Final = 300.0
"""Until what was refused, or undone by somebody else, is tried again: doubled each time."""
_SETTLE_S: Final = 1.0
"""From when this process knows of new content until a status names it. Clients keep what they get by that name, and
get it from any replica: each is to have heard of it from etcd, which takes milliseconds."""
_SLICE: Final = 50  # objects read in a turn of the loop
_KEPT: Final = ("name", "namespace", "uid", "resourceVersion", "generation", "labels", "annotations", "finalizers")
_KEPT_IF_THERE: Final = ("ownerReferences", "deletionTimestamp")


class Contents(Protocol):
    """What is served of repositories (compat/catalogs.py)."""

    @property
    def known(self) -> bool:
        """Whether get() can be believed when it says that there is nothing."""
        ...

    def get(self, key: RepositoryKey) -> PublishedCatalog | None:
        """What the last finished sync left."""
        ...

    async def wait_known(self) -> None:
        """Returns once `known`."""
        ...

    def changes(self) -> AsyncIterator[RepositoryKey]:
        """A key each time get() says another thing."""
        ...


@dataclass(slots=True)
class _One:
    """One name: a ClusterCatalog and the Repository of that name, as Kubernetes showed them last.

    try_at: not before, monotonic; pause_s: how long the last pause was. refused: why it has no Repository; final: its
    user has to do something. written: the status that was written last; undone: how often somebody else changed that;
    mend_at: when it is put right. revision: of the content that is served; tell_at: when it may be told.
    """

    catalog: Mapping[str, Any] | None = None
    found: Mapping[str, Any] | None = None
    try_at: float = 0.0
    pause_s: float = 0.0
    refused: str = ""
    final: bool = True
    written: Mapping[str, Any] | None = None
    undone: int = 0
    mend_at: float = 0.0
    revision: str = ""
    tell_at: float = 0.0
    told: set[str] = field(default_factory=set)


class _OvertakenError(Exception):
    """While one was worked on another process came to lead, a catalogd came, or it went."""


class ClusterCatalogs:
    """See the module. Call run() (for ever)."""

    def __init__(
        self,
        api: KubeAPI,
        contents: Contents,
        leads: Callable[[], bool],
        *,
        namespace: str,
        base: Callable[[RepositoryKey], str],
        look_s: float = _LOOK_S,
        again_s: float = _AGAIN_S,
        settle_s: float = _SETTLE_S,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        """namespace: of the Repositories. base: the URL below which a repository's catalog is served."""
        self._api = api
        self._contents = contents
        self._leads = leads
        self._namespace = namespace
        self._base = base
        self._look_s, self._again_s, self._first_pause_s = look_s, again_s, first_pause_s
        self._settle_s = settle_s
        self._ones: dict[str, _One] = {}
        self._due: dict[str, None] = {}
        self._came = asyncio.Event()
        self._listed: set[str] = set()
        self._rival = Rival(api, self._everything, first_pause_s=first_pause_s)

    async def run(self) -> NoReturn:
        """Until cancelled; while Kubernetes or etcd is away, it waits."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._rival.run(), name="clustercatalogs: catalogd")
            group.create_task(self._follow(PATH, "catalog"), name="clustercatalogs: follow")
            group.create_task(self._follow(collection(self._namespace), "found"), name="clustercatalogs: repositories")
            group.create_task(self._heed(), name="clustercatalogs: contents")
            group.create_task(self._know(), name="clustercatalogs: contents known")
            group.create_task(self._work(), name="clustercatalogs: work")
        raise AssertionError("none of them ends")

    @property
    def acts(self) -> bool:
        """Whether this process writes now."""
        return self._rival.absent and len(self._listed) == 2 and self._leads()

    # --- what is there ---

    async def _follow(self, path: str, part: str) -> None:
        async with aclosing(follow(self._api, path, first_pause_s=self._first_pause_s)) as news:
            async for new in news:
                if isinstance(new, Listed):
                    await self._replace(part, new.objects)
                    self._listed.add(part)
                    self._everything()
                else:
                    self._take(part, new.object["metadata"]["name"], None if new.deleted else new.object)
                metrics.clustercatalogs.set(sum(one.catalog is not None for one in self._ones.values()))

    async def _replace(self, part: str, objects: Sequence[Mapping[str, Any]]) -> None:
        here = set[str]()
        for at, each in enumerate(objects):
            here.add(name := each["metadata"]["name"])
            self._take(part, name, each)
            if at % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
        for name in [name for name, one in self._ones.items() if getattr(one, part) is not None and name not in here]:
            self._take(part, name, None)

    def _take(self, part: str, name: str, manifest: Mapping[str, Any] | None) -> None:
        one = self._ones.setdefault(name, _One())
        before: Mapping[str, Any] | None = getattr(one, part)
        if manifest is not None and before is not None and _older(manifest, before):
            return  # our own write was answered before the watch told of what was there
        if manifest is None or before is None or _asks_another(manifest, before):
            one.try_at = one.pause_s = 0.0
        setattr(one, part, _kept(manifest) if manifest is not None else None)
        if one.catalog is None and one.found is None:
            del self._ones[name]
            self._due.pop(name, None)
            return
        self._wake(name)

    async def _heed(self) -> None:
        async with aclosing(self._contents.changes()) as keys:  # type: ignore[type-var]  # a generator, there and in fakes
            async for key in keys:
                if key.namespace == self._namespace and key.name in self._ones:
                    self._wake(key.name)

    async def _know(self) -> None:
        await self._contents.wait_known()
        self._everything()

    def _everything(self) -> None:
        for name in self._ones:
            self._wake(name)

    def _wake(self, name: str) -> None:
        if name in self._ones:
            self._due[name] = None
            self._came.set()

    # --- what is to be done ---

    async def _work(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            while self._due:
                now = time.monotonic()
                ready = [name for name in self._due if self._ones[name].try_at <= now] if self.acts else []
                if not ready:
                    self._came.clear()
                    await self._pause(now)
                    continue
                async with asyncio.TaskGroup() as group:
                    for name in ready[:AT_ONCE]:
                        del self._due[name]
                        group.create_task(self._one(name), name=f"clustercatalog: {name}")

    async def _pause(self, now: float) -> None:
        """Until something comes, or what waits may be tried, or it is time to ask again whether we lead."""
        next_s = min(self._ones[name].try_at - now for name in self._due) if self.acts else self._look_s
        try:
            async with asyncio.timeout(min(max(next_s, 0.0), self._look_s)):
                await self._came.wait()
        except TimeoutError:
            pass

    async def _one(self, name: str) -> None:
        """Bring one in step; what is refused, or fails, is tried again later."""
        one = self._ones.get(name)
        if one is None:
            return  # it went before its turn
        try:
            if await self._settle(name, one):
                one.pause_s = 0.0
            else:
                self._later(name, one)
        except _OvertakenError:
            self._wake(name)
        except KubernetesError as exc:
            # 409 and 404: it is another by now, and the watch shows which.
            quiet = exc.code in (404, 409) or isinstance(exc, KubernetesUnavailable)
            self._tell(one, name, "a ClusterCatalog is not kept in step, trying on", str(exc), quiet=quiet)
            self._later(name, one)
        except Exception:
            # The edge of the task: an odd object, or a defect of ours in one of them, must not stop the others.
            log.exception("a ClusterCatalog is not kept in step by a defect", extra=self._about(name))
            one.pause_s = _AGAIN_MOST_S
            self._later(name, one)

    def _later(self, name: str, one: _One) -> None:
        one.pause_s = min(max(one.pause_s * 2, self._again_s), _AGAIN_MOST_S)
        one.try_at = time.monotonic() + one.pause_s
        self._wake(name)

    async def _settle(self, name: str, one: _One) -> bool:
        """False where it has to be tried again. Raises: KubernetesError, _OvertakenError."""
        settled = True
        if one.catalog is None or _leaves(one.catalog):
            await self._let_go(name, one)
        else:
            if marks := self._marks(name, one.catalog, one.found):
                await self._patch(name, one, one.catalog, marks)
            settled = await self._own(name, one)
        if one.catalog is not None:
            await self._say(name, one, one.catalog)
        return settled

    def _check(self) -> None:
        """Before each write. Raises: _OvertakenError."""
        if not self.acts:
            raise _OvertakenError

    async def _let_go(self, name: str, one: _One) -> None:
        """It goes, and so does what was made of it; never a Repository that somebody else made."""
        found = one.found
        if found is not None and wanted.is_made_of(found, name) and not _leaves(found):
            self._check()
            which = {part: found["metadata"][part] for part in ("uid", "resourceVersion")}
            body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": which}
            await self._api.delete(f"{collection(self._namespace)}/{name}", body=body)
            log.info("a Repository went with its ClusterCatalog", extra=self._about(name))
        if one.catalog is not None:
            finalizers = one.catalog["metadata"].get("finalizers") or ()
            if CATALOGD_FINALIZER in finalizers:
                rest = [each for each in finalizers if each != CATALOGD_FINALIZER]
                await self._patch(name, one, one.catalog, {"finalizers": rest})

    async def _own(self, name: str, one: _One) -> bool:
        """Its Repository; why it has none is kept. False where that may change by itself."""
        self._check()
        if one.catalog is None:
            raise _OvertakenError
        one.refused, one.final = "", True
        try:
            asked = wanted.repository(one.catalog, self._namespace)
            if one.found is None:
                self._answered(one, "found", await self._api.create(collection(self._namespace), asked))
                log.info("a Repository was made of a ClusterCatalog", extra=self._about(name))
            elif not wanted.is_made_of(one.found, name):
                raise ValueError(
                    f"the Repository {name} in namespace {self._namespace} was made by somebody else, and stays as it"
                    " is: delete one of the two, or make the ClusterCatalog anew under another name"
                )
            elif not _leaves(one.found) and (change := wanted.patch(one.found, asked)):
                self._answered(one, "found", await self._api.patch(f"{collection(self._namespace)}/{name}", change))
        except ValueError as exc:
            one.refused = str(exc)
        except KubernetesError as exc:
            if exc.code == 404 and one.found is not None:
                one.found = None  # it went: the watch says so in a moment
                raise
            if exc.code not in (400, 403, 404, 422):
                raise
            # Rights may come, and the namespace.
            one.refused, one.final = f"its Repository is refused: {exc}", exc.code not in (403, 404)
        if one.refused:
            self._tell(one, name, "a ClusterCatalog cannot be followed", one.refused)
        return one.final

    def _marks(self, name: str, catalog: Mapping[str, Any], found: Mapping[str, Any] | None) -> dict[str, Any]:
        """What its metadata lacks."""
        metadata, marks = catalog["metadata"], dict[str, Any]()
        if (metadata.get("labels") or {}).get(LABEL) != name:
            marks["labels"] = {LABEL: name}
        digest = ((found or {}).get("status") or {}).get("digest", "")
        ours = found is not None and wanted.is_made_of(found, name)
        if ours and digest and (metadata.get("annotations") or {}).get(IMAGE_DIGEST) != digest:
            marks["annotations"] = {IMAGE_DIGEST: digest}
        return marks

    async def _patch(self, name: str, one: _One, catalog: Mapping[str, Any], metadata: dict[str, Any]) -> None:
        self._check()
        version = catalog["metadata"]["resourceVersion"]
        body = {"metadata": {"resourceVersion": version, **metadata}}
        self._answered(one, "catalog", await self._api.patch(f"{PATH}/{name}", body))

    async def _say(self, name: str, one: _One, catalog: Mapping[str, Any]) -> None:
        """Its status, where that is another."""
        key = RepositoryKey(self._namespace, name)
        ours = one.found is not None and wanted.is_made_of(one.found, name)
        facts = Facts(
            key,
            one.found if ours else None,
            self._contents.get(key) if ours else None,
            self._contents.known,
            self._base(key),
            one.refused,
            one.final,
        )
        before = catalog.get("status") or {}
        after = status.wanted(catalog, facts, time.time())
        change = status.merge_patch(before, after)
        if not change or not self._has_settled(name, one, facts) or not self._may_mend(name, one, after):
            return
        self._check()
        body = {"metadata": {"resourceVersion": catalog["metadata"]["resourceVersion"]}, "status": change}
        self._answered(one, "catalog", await self._api.patch(f"{PATH}/{name}/status", body))
        metrics.clustercatalog_statuses.inc()
        one.written, one.mend_at = after, 0.0

    def _has_settled(self, name: str, one: _One, facts: Facts) -> bool:
        """False, for a moment, where what is served is so new that other replicas may not know it."""
        revision, now = facts.published.revision if facts.published is not None else "", time.monotonic()
        if revision and revision != one.revision:
            one.revision, one.tell_at = revision, now + self._settle_s
        if not revision or one.tell_at <= now:
            return True
        one.try_at = one.tell_at
        self._wake(name)
        return False

    def _may_mend(self, name: str, one: _One, after: Mapping[str, Any]) -> bool:
        """False, for now, where somebody else undid what was written: two who put each other right never end."""
        now = time.monotonic()
        if one.written != after:
            one.undone, one.mend_at = 0, 0.0
            return True
        if not one.mend_at:
            metrics.clustercatalog_contested.inc()
            one.mend_at = now + min(self._again_s * 2**one.undone, _AGAIN_MOST_S)
            one.undone = min(one.undone + 1, 30)
            why = "it is put right, each time later than before"
            self._tell(one, name, "somebody else writes the status of a ClusterCatalog", why)
        if one.mend_at <= now:
            return True
        one.try_at = one.mend_at
        self._wake(name)
        return False

    def _answered(self, one: _One, part: str, manifest: Mapping[str, Any]) -> None:
        """What a write was answered with; unless the watch has told of something newer, or that it went, meanwhile."""
        known: Mapping[str, Any] | None = getattr(one, part)
        if known is None and part == "found":  # it was made
            one.found = _kept(manifest)
        elif known is not None and _same(manifest, known) and not _older(manifest, known):
            setattr(one, part, _kept(manifest))

    # --- words ---

    def _tell(self, one: _One, name: str, message: str, why: str, *, quiet: bool = False) -> None:
        """Once a message, until the ClusterCatalog goes."""
        level = logging.DEBUG if quiet or why in one.told else logging.WARNING
        if level > logging.DEBUG and len(one.told) < AT_ONCE:
            one.told.add(why)
        log.log(level, message, extra={**self._about(name), "why": why})

    def _about(self, name: str) -> dict[str, object]:
        return {"kind": KIND, "catalog": name, "namespace": self._namespace}


def _leaves(manifest: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" in manifest["metadata"]


def _same(manifest: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    return bool(manifest["metadata"].get("uid") == known["metadata"].get("uid"))


def _older(manifest: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Of one object: Kubernetes 1.35 (KEP-5504) says that its versions are numbers that grow."""
    return _same(manifest, known) and _version(manifest["metadata"]) < _version(known["metadata"])


def _version(metadata: Mapping[str, Any]) -> int:
    """Its resourceVersion; 0 for what is none."""
    text = str(metadata.get("resourceVersion", ""))
    return int(text) if text.isascii() and text.isdigit() else 0


def _asks_another(manifest: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether its user did something: then nobody waits until what failed is tried again."""
    new, old = manifest["metadata"], known["metadata"]
    parts = ("uid", "generation", "deletionTimestamp")
    return any(new.get(part) != old.get(part) for part in parts)


def _kept(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Less what others wrote into it and nobody here reads: managedFields alone are larger than the rest."""
    metadata = manifest["metadata"]
    kept = {name: metadata[name] for name in (*_KEPT, *_KEPT_IF_THERE) if name in metadata}
    return {"metadata": kept, **{part: manifest[part] for part in ("spec", "status") if part in manifest}}
