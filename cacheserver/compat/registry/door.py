"""The registry's listeners: which are open, and with what. One a repository that the settings name, in every replica.

A listener opens when what its repository publishes is known and made ready, and not before; it closes when the
repository is published no more. What cannot be read is tried again, and what is shown stays in the meantime.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from time import monotonic
from typing import Final, NoReturn, Protocol

from cacheserver import metrics
from cacheserver.compat.registry.listener import Listener
from cacheserver.compat.registry.loading import Documents, Loaded, Loader, Pool, TooLargeError
from cacheserver.compat.registry.room import Room
from cacheserver.config import Address, Door
from cacheserver.errors import BlobMissingError, CatalogError, EtcdError
from cacheserver.model import RepositoryKey
from cacheserver.store.published import PublishedCatalog

log = logging.getLogger(__name__)

_CALM_S: Final = 2.0
"""Between two changes at least: each makes every client read the whole catalog."""
_CALM_MOST_S: Final = 4.0
"""Where one change follows the other; doubled with each. Ours: what changes is shown within 5 s, loading included."""
_AGAIN_S: Final = 1.0
_AGAIN_MOST_S: Final = 30.0
_PATIENCE_S: Final = 10.0
"""How long a repository that nobody knows holds up readiness: in a cluster they become known after the start."""


class Catalogs(Documents, Protocol):
    """What is published (compat/catalogs.py)."""

    def get(self, key: RepositoryKey) -> PublishedCatalog | None:
        """What the last finished sync left."""
        ...

    def is_published(self, key: RepositoryKey, door: Door) -> bool:
        """Whether the repository names the door."""
        ...

    @property
    def known(self) -> bool:
        """Whether get() knows of any."""
        ...

    def changes(self) -> AsyncIterator[RepositoryKey]:
        """Keys of which something changed; first all."""
        ...


class Registry:
    """See the module. Call run()."""

    def __init__(
        self,
        catalogs: Catalogs,
        workers: Pool,
        addresses: Mapping[RepositoryKey, Address],
        *,
        calm_s: float = _CALM_S,
    ) -> None:
        loader, room = Loader(catalogs, workers), Room()
        self._catalogs = catalogs
        self._ports = {
            key: _Port(key, Listener(address, room), catalogs, loader, calm_s) for key, address in addresses.items()
        }
        self._began = monotonic()

    def address(self, key: RepositoryKey) -> Address | None:
        """Where a repository's listener is open."""
        port = self._ports[key]
        return port.listener.address if port.listener.open else None

    def check(self) -> str | None:
        """For readyz: why clients that are sent here would find a port closed, that is open elsewhere."""
        patient = monotonic() - self._began < _PATIENCE_S
        waiting = sorted(str(key.name) for key, port in self._ports.items() if not port.settled(patient=patient))
        return f"the registry does not listen yet for: {', '.join(waiting)}" if waiting else None

    async def run(self) -> NoReturn:
        """Open and close listeners as repositories change, until cancelled; then all close at once."""
        try:
            async with asyncio.TaskGroup() as group:
                for key, port in self._ports.items():
                    group.create_task(port.run(), name=f"registry: {key.namespace}/{key.name}")
                async for key in self._catalogs.changes():
                    if (changed := self._ports.get(key)) is not None:
                        changed.changed.set()
            raise AssertionError("changes do not end")
        finally:
            await asyncio.shield(self.close(0.0))

    async def close(self, grace_s: float) -> None:
        """Let clients go, to another replica: nobody connects any more, and calls have the grace to end."""
        for port in self._ports.values():
            port.leaving = True
        await asyncio.gather(*(port.listener.close(grace_s) for port in self._ports.values()))


class _Port:
    """One listener's life."""

    def __init__(
        self, key: RepositoryKey, listener: Listener, catalogs: Catalogs, loader: Loader, calm_s: float
    ) -> None:
        self.key = key
        self.listener = listener
        self.changed = asyncio.Event()
        self.leaving = False  # never to be opened again: who comes goes to another replica
        self._catalogs = catalogs
        self._loader = loader
        self._shown: Loaded | None = None
        self._settled = False
        self._calm = _Calm(calm_s)
        self._failed = ""
        self._hopeless = False
        self.changed.set()

    def settled(self, *, patient: bool) -> bool:
        """Once true, always: what is open is never a reason to send clients elsewhere."""
        if not self._settled and self._published():
            nothing = self._catalogs.known and self._catalogs.get(self.key) is None
            self._settled = self.listener.open or nothing or self._hopeless
        elif not self._settled:
            self._settled = not patient
        return self._settled

    async def run(self) -> NoReturn:
        pause_s = _AGAIN_S
        while True:
            await self.changed.wait()
            self.changed.clear()
            wanted = self._wanted()
            if wanted is None:
                await self._hide()
                continue
            if self._shown is not None and self._shown.content.revision == wanted.revision:
                continue
            try:
                await self._show()
            except TooLargeError as exc:
                self._say(exc)
                self._hopeless = True  # until it changes; no reason to keep others from being served
            except (EtcdError, BlobMissingError, CatalogError, OSError) as exc:
                self._say(exc)
                self.changed.set()
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _AGAIN_MOST_S)
            else:
                pause_s = _AGAIN_S

    def _published(self) -> bool:
        return self._catalogs.is_published(self.key, Door.REGISTRY)

    def _wanted(self) -> PublishedCatalog | None:
        return self._catalogs.get(self.key) if self._published() and not self.leaving else None

    async def _show(self) -> None:
        """Raises: what loading does; OSError."""
        if self.listener.open:
            await self._calm.wait()
        wanted = self._wanted()  # that of now, whatever it was before the wait
        if wanted is None:
            self.changed.set()
            return
        loaded = await self._loader.load(wanted, self._shown)
        if self._wanted() is None:
            self.changed.set()
            return
        await self.listener.show(loaded.content)
        before, self._shown, self._failed = self._shown, loaded, ""
        names = (self.key.namespace, self.key.name)
        metrics.registry_revisions.labels(*names).inc()
        metrics.registry_packages.labels(*names).set(len(loaded.content.packages))
        metrics.registry_refused.labels(*names).set(len(loaded.refused))
        said = {one.name for one in before.refused} if before else set()
        for one in loaded.refused:
            if one.name not in said:
                log.warning(
                    "a package is left out of the registry: operator-registry, or its clients, would refuse it",
                    extra={**self._named, "package": one.name, "reason": one.reason},
                )
        log.info(
            "the registry answers with other content" if before else "the registry is open",
            extra={
                **self._named,
                "listen": str(self.listener.address),
                "packages": len(loaded.content.packages),
                "bytes": loaded.content.weight,
            },
        )

    async def _hide(self) -> None:
        if self.listener.open:
            log.info("the registry is closed: nothing is published", extra=self._named)
            self._shown = None
            metrics.forget_registry(self.key.namespace, self.key.name)
            await self.listener.close()

    def _say(self, error: Exception) -> None:
        """The first of a row of failures, and each of another kind."""
        kind = type(error).__name__
        if kind != self._failed:
            log.warning(
                "what the registry answers cannot be brought up to date; trying on",
                extra={**self._named, "error": str(error)},
            )
        self._failed = kind

    @property
    def _named(self) -> Mapping[str, str]:
        return {"namespace": self.key.namespace, "repository": self.key.name}


class _Calm:
    """How long to wait before the next change is shown: longer with each that comes right after the last."""

    def __init__(self, least_s: float) -> None:
        self._least_s = self._pause_s = least_s
        self._last = float("-inf")

    async def wait(self) -> None:
        since_s = monotonic() - self._last
        if since_s > 2 * self._pause_s:
            self._pause_s = self._least_s
        else:
            await asyncio.sleep(max(0.0, self._pause_s - since_s))
            self._pause_s = min(2 * self._pause_s, _CALM_MOST_S)
        self._last = monotonic()
