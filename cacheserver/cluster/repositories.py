"""The Repository controller: hands the cluster's Repository objects to ingestion as they come, change and go.

Lists, then watches; begins anew when the host API has forgotten what came since. Reads the objects and nothing else:
syncing them is ingestion's, and so is who may do it: every replica runs one of these, and only the leader acts. An
object that asks for what cannot be becomes a repository whose source says so. Called by the server.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, Protocol

from cacheserver.cluster.credentials import RefusedSource, SecretReader, SourceWithSecrets
from cacheserver.cluster.follow import FIRST_PAUSE_S, Listed, follow
from cacheserver.cluster.kubeapi import KubeAPI, Object
from cacheserver.cluster.parting import Parting
from cacheserver.cluster.status import ClusterStatusStore, collection
from cacheserver.config import Defaults, DirectorySource, RepositoryConfig, from_cluster
from cacheserver.errors import ConfigError, EtcdError, SpecInvalidError
from cacheserver.model import RepositoryKey
from cacheserver.sources import Access, Source

log = logging.getLogger(__name__)

_SLICE: Final = 50  # ours: about 5 ms of reading objects; then the loop is for others
_LONGEST_PAUSE_S: Final = 30.0

OpenSource = Callable[[RepositoryConfig, Access], Source]
"""Opens a repository's source. Raises: SourceInvalidError."""


class Ingestion(Protocol):
    """What the controller calls; ingest.Ingest implements it."""

    def put(self, config: RepositoryConfig, open_source: Callable[[], Source], *, access: str = "") -> None:
        """Keep this repository in step from now on. access: differs when its credentials do."""
        ...

    def remove(self, key: RepositoryKey) -> None:
        """Stop serving the repository, and delete what was served of it."""
        ...

    async def left_behind(self, present: Collection[RepositoryKey]) -> None:
        """Remove every stored repository that is not `present`. Raises: EtcdError."""
        ...


class Controller:
    """See the module. Call run() (for ever)."""

    def __init__(
        self,
        api: KubeAPI,
        ingest: Ingestion,
        statuses: ClusterStatusStore,
        secrets: SecretReader,
        open_source: OpenSource,
        *,
        namespaces: Sequence[str] = (),
        defaults: Defaults | None = None,
        first_pause_s: float = FIRST_PAUSE_S,
        parting: Parting | None = None,
    ) -> None:
        """namespaces: whose Repositories count; empty for all. defaults: where a Repository is silent. parting: what
        holds those that go until git has their drafts.

        first_pause_s: after a failure; doubled with each one more.
        """
        self._api = api
        self._ingest = ingest
        self._statuses = statuses
        self._secrets = secrets
        self._open = open_source
        self._namespaces = tuple(namespaces) or ("",)
        self._defaults = defaults or Defaults()
        self._first_pause_s = first_pause_s
        self._parting = parting
        self._present: dict[RepositoryKey, None] = {}
        self._leaving: set[RepositoryKey] = set()
        self._unlisted = set(self._namespaces)
        self._all_listed = asyncio.Event()

    async def run(self) -> None:
        """Follow the Repositories, and have their status written, until cancelled; survives the host API's loss."""
        async with asyncio.TaskGroup() as group:
            for namespace in self._namespaces:
                group.create_task(self._follow(namespace), name=f"repositories: {namespace or 'all namespaces'}")
            group.create_task(self._clean_up(), name="repositories: left behind")
            group.create_task(self._statuses.run(), name="repositories: statuses")
            if self._parting is not None:
                group.create_task(self._parting.run(), name="repositories: parting")

    async def _clean_up(self) -> None:
        """Once: forget what belongs to Repositories that went while nobody looked."""
        await self._all_listed.wait()
        pause_s = self._first_pause_s
        while True:
            try:
                # The keys as they are then, not a copy: one that comes meanwhile is present too.
                await self._ingest.left_behind(self._present.keys())
                return
            except EtcdError as exc:
                log.info("what repositories left behind is looked for later", extra={"error": str(exc)})
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    # --- one namespace, or all of them ---

    async def _follow(self, namespace: str) -> None:
        async with aclosing(follow(self._api, collection(namespace), first_pause_s=self._first_pause_s)) as news:
            async for new in news:
                if isinstance(new, Listed):
                    await self._replace(namespace, new.objects)
                elif new.deleted:
                    self._drop(_key(new.object))
                else:
                    self._take(new.object)

    async def _replace(self, namespace: str, manifests: Sequence[Object]) -> None:
        """Take every Repository of the namespace, and let go of those that are no longer there."""
        found = set[RepositoryKey]()
        for at, manifest in enumerate(manifests):
            found.add(self._take(manifest))
            if at % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
        for key in [key for key in self._present if key not in found and namespace in ("", key.namespace)]:
            self._drop(key)
        self._unlisted.discard(namespace)
        if not self._unlisted:
            self._all_listed.set()

    # --- one Repository ---

    def _take(self, manifest: Object) -> RepositoryKey:
        key = _key(manifest)
        self._present[key] = None
        self._statuses.saw(key, manifest)
        try:
            config = from_cluster(manifest, self._defaults)
        except ConfigError as exc:
            self._refuse(key, manifest, str(exc))
            self._hold(key, manifest, writable=False)
            return key
        (self._leaving.add if config.leaving else self._leaving.discard)(key)
        self._hold(key, manifest, writable=config.writable)
        self._ingest.put(config, functools.partial(self._source, config))
        return key

    def _source(self, config: RepositoryConfig) -> Source:
        opened = functools.partial(self._open, config)
        return SourceWithSecrets(config, self._secrets, opened, lambda: config.key in self._leaving)

    def _hold(self, key: RepositoryKey, manifest: Object, *, writable: bool) -> None:
        if self._parting is not None:
            self._parting.saw(key, manifest, writable=writable)

    def _refuse(self, key: RepositoryKey, manifest: Object, message: str) -> None:
        """Have its status say so by the way that any failure takes; what was served of it stays."""
        metadata = manifest["metadata"]
        # Of no use but to stand for the object: its source is never opened.
        config = RepositoryConfig(
            key, DirectorySource(Path("/")), generation=metadata.get("generation", 1), uid=metadata.get("uid", "")
        )
        self._ingest.put(config, lambda: RefusedSource(SpecInvalidError(message)), access=message)

    def _drop(self, key: RepositoryKey) -> None:
        self._present.pop(key, None)
        self._leaving.discard(key)
        if self._parting is not None:
            self._parting.gone(key)
        self._statuses.gone(key)
        self._ingest.remove(key)


def _key(manifest: Object) -> RepositoryKey:
    return RepositoryKey(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
