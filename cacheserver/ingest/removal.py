"""Forgets repositories: deletes what is served of each, under the claim on it, so never beside a sync of it.

What a source still has is not looked at; a name that comes back is read as if nothing were there. Called by runner.py,
which first ends the repository's own task; `remove_package` also by apply.py, for packages that a catalog has no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from cacheserver import metrics
from cacheserver.errors import EtcdError
from cacheserver.ingest.authored import AuthoredStore
from cacheserver.ingest.space import Space
from cacheserver.model import Key, Kind, RepositoryKey, Stored
from cacheserver.slotted import slotted
from cacheserver.store.claims import Claim, Session
from cacheserver.store.journal import Tells, silent
from cacheserver.store.objects import Store
from cacheserver.tasks import in_parallel

if TYPE_CHECKING:
    from cacheserver.ingest.sync import SyncServices

log = logging.getLogger(__name__)

_PACKAGES_AT_ONCE: Final = 6
_DELETES_AT_ONCE: Final = 6
"""Of one package: with as many packages, about what store/objects.py has in flight."""


@slotted(frozen=True)
class _Removal:
    patience_s: float | None
    done: Callable[[], Awaitable[None]] | None
    last: Callable[[Claim], Awaitable[None]] | None


class Removals:
    """Repositories that went and are not forgotten yet. One for each Ingest."""

    def __init__(self, services: SyncServices, space: Space) -> None:
        self._services = services
        self._space = space
        self._wanted: dict[RepositoryKey, _Removal] = {}

    def add(
        self,
        key: RepositoryKey,
        *,
        patience_s: float | None,
        done: Callable[[], Awaitable[None]] | None,
        last: Callable[[Claim], Awaitable[None]] | None = None,
    ) -> None:
        """Forget this repository from now on; carry_out() does it.

        patience_s: where another process ingests it for so long, it is theirs and stays; None: it goes as soon as they
        let go of it. done: awaited once it is settled either way. last: awaited under the claim, before anything goes.
        """
        self._wanted[key] = _Removal(patience_s, done, last)

    def cancel(self, key: RepositoryKey) -> None:
        """It is wanted again. What carry_out() is doing for it must be ended by whoever started it."""
        self._wanted.pop(key, None)

    def wanted(self) -> list[RepositoryKey]:
        """Those that are to be forgotten, in the order they were added."""
        return list(self._wanted)

    async def carry_out(self, session: Session, key: RepositoryKey) -> None:
        """Forget one of wanted(); tried again for as long as etcd is away or full. May be cut short and begun again.

        Raises: LeaseLostError, OSError (git's copy of it).
        """
        removal, about = self._wanted[key], {"namespace": key.namespace, "repository": key.name}
        deleted = await self._space.retry(lambda: self._delete(session, key, removal), f"forgetting {key}")
        if self._wanted.get(key) is removal:
            del self._wanted[key]
        metrics.forget_repository(key.namespace, key.name)
        if deleted is None:
            log.info("repository left alone: another process ingests it", extra=about)
        else:
            if self._services.mirrors is not None:
                await self._services.mirrors.remove(key)
            log.info("repository removed", extra={**about, "deleted": deleted})
        if removal.done is not None:
            await removal.done()

    async def begin_without_claims(self) -> None:
        """Delete what is served of wanted() as far as nobody holds it: while a full etcd grants no lease, and so no
        claims, that makes room. carry_out() does the rest, once there is some.

        What another process may want to keep stays, and what is to be done under a claim before anything goes.
        """
        for key, removal in list(self._wanted.items()):
            if removal.patience_s is None and removal.last is None:
                with contextlib.suppress(EtcdError):  # it is held, or this etcd (before 3.5.7) refuses deletes too
                    await forget(key, Claim.of_nobody(str(key)), self._services.store)

    async def _delete(self, session: Session, key: RepositoryKey, removal: _Removal) -> int | None:
        """How many objects went; None: another process ingests it."""
        try:
            async with asyncio.timeout(removal.patience_s):
                claim = await session.claim(str(key))
        except TimeoutError:
            return None
        if removal.last is not None:
            await removal.last(claim)
        count = await forget(key, claim, self._services.store)
        if self._services.storage is not None:
            await self._services.storage.forget(claim, key)
        await session.release(claim)
        return count


async def forget(repository: RepositoryKey, claim: Claim, store: Store) -> int:
    """Delete a repository's packages, their revisions, drafts among them, and itself. Returns how many objects went.
    Git is not touched.

    Cut short, it leaves nothing that a sync would take for complete: what was seen is forgotten first of all.
    Raises: EtcdError (LeaseLostError among them); whatever is left goes when it is called again.
    """
    await store.put_state(
        claim, repository, None, await store.journal.of_gone(repository, *await store.count_served(repository))
    )
    await store.published.forget(claim, repository)
    await store.authored.forget(repository, claim)
    count = 0

    async def remove(package: str) -> None:
        nonlocal count
        removed = await remove_package(repository, package, claim, store, store)
        count += removed  # read after the wait, not before: others count meanwhile

    await in_parallel(sorted(await store.served_keys(repository)), remove, width=_PACKAGES_AT_ONCE)
    itself = await store.read_object(Key(Kind.REPOSITORY, repository.namespace, repository.name))
    if itself is not None:
        await store.delete(claim, itself)
        count += 1
    return count


async def remove_package(
    repository: RepositoryKey,
    package: str,
    claim: Claim,
    store: Store,
    writer: Store | AuthoredStore,
    tells: Tells = silent,
) -> int:
    """Delete a package and its revisions; returns how many objects went. Raises: EtcdError.

    The package goes first: nobody may see it naming revisions that are gone. writer: whose delete is to be asked, which
    may leave a revision alone. tells: of the package; its revisions go with it.
    """
    count = 0

    async def remove(stored: Stored) -> None:
        nonlocal count
        gone = await writer.delete(claim, stored, tells if stored.key.kind is Kind.PACKAGE else silent)
        count += gone  # read after the wait, not before: others count meanwhile

    objects = await store.read_package(repository, package)
    ordered = sorted(objects.values(), key=lambda stored: stored.key.kind is not Kind.PACKAGE)
    for stored in ordered[:1]:
        await remove(stored)
    await in_parallel(ordered[1:], remove, width=_DELETES_AT_ONCE)
    metrics.writes.labels("delete").inc(count)
    return count
