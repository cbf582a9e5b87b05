"""The ClusterCatalog controller: a Repository for each, and a status that says what is served of it.

compat/made does it, in one namespace, and only while no catalogd runs (rival.py). Called by the server, in a cluster.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final, NoReturn, Protocol

from cacheserver import metrics
from cacheserver.cluster.follow import FIRST_PAUSE_S
from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.compat.clustercatalogs import status, wanted
from cacheserver.compat.clustercatalogs.rival import Rival
from cacheserver.compat.clustercatalogs.status import Facts
from cacheserver.compat.clustercatalogs.wanted import API_VERSION, KIND, MADE_OF, OLM
from cacheserver.compat.made.maker import Counts, Maker, Refusal
from cacheserver.config import Door
from cacheserver.model import GROUP, RepositoryKey
from cacheserver.store.published import PublishedCatalog

Object = Mapping[str, Any]

PATH: Final = f"/apis/{API_VERSION}/clustercatalogs"
LABEL: Final = f"{OLM}/metadata.name"
"""Selectors of ClusterExtensions name catalogs by it; catalogd's webhook sets it (api/v1/common_types.go)."""
IMAGE_DIGEST: Final = f"{GROUP}/image-digest"
"""Annotation: the digest of the image that was read last, which status.resolvedSource does not name."""
CATALOGD_FINALIZER: Final = f"{OLM}/delete-server-cache"
"""What catalogd sets so that its disk is cleaned; without catalogd nobody would take it away."""

_SETTLE_S: Final = 1.0
"""From when this process knows of new content until a status names it. Clients keep what they get by that name, and
get it from any replica: each is to have heard of it from etcd, which takes milliseconds."""


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


class ClusterCatalogs:
    """See the module. Call run() (for ever). It is the Kind of its Maker."""

    name = KIND
    mark = MADE_OF
    door = Door.CATALOG
    counts = Counts(metrics.clustercatalogs, metrics.clustercatalog_statuses, metrics.clustercatalog_contested)

    def __init__(
        self,
        api: KubeAPI,
        contents: Contents,
        leads: Callable[[], bool],
        *,
        namespace: str,
        base: Callable[[RepositoryKey], str],
        settle_s: float = _SETTLE_S,
        first_pause_s: float = FIRST_PAUSE_S,
        **pauses: float,
    ) -> None:
        """namespace: of the Repositories. base: the URL below which a repository's catalog is served. pauses: as
        Maker's."""
        self.namespaces = (namespace,)
        self._contents = contents
        self._base = base
        self._settle_s = settle_s
        self._revisions: dict[RepositoryKey, tuple[str, float]] = {}
        """What is served, and from when on it may be told."""
        self._maker = Maker(api, self, lambda: self._rival.absent and leads(), first_pause_s=first_pause_s, **pauses)
        self._rival = Rival(api, self._maker.wake_all, first_pause_s=first_pause_s)

    async def run(self) -> NoReturn:
        """Until cancelled; while Kubernetes or etcd is away, it waits."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._rival.run(), name="clustercatalogs: catalogd")
            group.create_task(self._heed(), name="clustercatalogs: contents")
            group.create_task(self._know(), name="clustercatalogs: contents known")
            group.create_task(self._maker.run(), name="clustercatalogs: maker")
        raise AssertionError("none of them ends")

    @property
    def acts(self) -> bool:
        """Whether this process writes now."""
        return self._maker.acts

    async def _heed(self) -> None:
        async with aclosing(self._contents.changes()) as keys:  # type: ignore[type-var]  # a generator, there and in fakes
            async for key in keys:
                self._maker.wake(key)

    async def _know(self) -> None:
        await self._contents.wait_known()
        self._maker.wake_all()

    # --- the Kind ---

    def path(self, namespace: str) -> str:
        """As Kind.path: they have no namespace."""
        return PATH

    def repository(self, made_of: Object, namespace: str) -> dict[str, Any]:
        """As Kind.repository. Raises: ValueError."""
        return wanted.repository(made_of, namespace)

    def marks(self, made_of: Object, found: Object | None) -> dict[str, Any]:
        """Label and annotation; of one that goes, catalogd's finalizer."""
        metadata, marks = made_of["metadata"], dict[str, Any]()
        if "deletionTimestamp" in metadata:
            rest = [each for each in metadata.get("finalizers") or () if each != CATALOGD_FINALIZER]
            return {} if rest == list(metadata.get("finalizers") or ()) else {"finalizers": rest}
        if (metadata.get("labels") or {}).get(LABEL) != metadata["name"]:
            marks["labels"] = {LABEL: metadata["name"]}
        digest = ((found or {}).get("status") or {}).get("digest", "")
        if digest and (metadata.get("annotations") or {}).get(IMAGE_DIGEST) != digest:
            marks["annotations"] = {IMAGE_DIGEST: digest}
        return marks

    def status(
        self, key: RepositoryKey, made_of: Object, found: Object | None, refused: Refusal
    ) -> tuple[dict[str, Any], float]:
        """In catalogd's words. What is so new that other replicas may not know it is told a moment later."""
        published = self._contents.get(key) if found is not None else None
        facts = Facts(key, found, published, self._contents.known, self._base(key), refused.why, refused.final)
        tell_at = 0.0
        if published is not None:
            revision, tell_at = self._revisions.get(key, ("", 0.0))
            if revision != published.revision:
                tell_at = time.monotonic() + self._settle_s
                self._revisions[key] = published.revision, tell_at
        return status.wanted(made_of, facts, time.time()), tell_at

    def gone(self, key: RepositoryKey) -> None:
        """As Kind.gone."""
        self._revisions.pop(key, None)
