"""The record of changes: one PackageChange beside each write that changes what people follow, in its transaction.

    served/packagechanges/<namespace>/<name>    the change (news.py), sorted by time
    told/<namespace>/<repository>/known         that there is such a repository was told
    told/<namespace>/<repository>/whole         all that has changed since then was told

So there is no gap and no double, whatever is cut short. Not told one by one are a repository's first content, what one
sync changes over its share (`most`, a tenth), and what a full etcd lets go without taking a note: then `whole` is taken
away first, and the sync that ends tells of the repository as a whole, in the transaction that remembers its digest.
Called by objects.py and authored.py at each write, by ingest for a sync's beginning and end, and to collect.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from cacheserver.errors import LeaseLostError, NoSpace
from cacheserver.etcd.client import Client, Compare, Delete, Get, Put, TxnResult, prefix_end
from cacheserver.model import Key, Kind, RepositoryKey
from cacheserver.slotted import slotted
from cacheserver.store.claims import Claim, persist
from cacheserver.store.keys import CHANGE, TOLD, change_key, component, component_of, joined
from cacheserver.store.news import News, What, between, encode, moment, name_of, of_repository
from cacheserver.tasks import in_parallel

MOST: Final = 10_000
"""Kept, of all namespaces together. Ours: weeks of a catalog like OperatorHub's, which changes some 100 times a day; 20
MB in each replica's memory."""
FOR_S: Final = 30 * 86_400.0
_SHARE: Final = 10
"""One sync tells a tenth of all at most, so that none pushes out everything else."""
_DELETES_AT_ONCE: Final = 16
_PAGE: Final = 1_000


@slotted(frozen=True)
class Told:
    """What a transaction writes besides. repository: that it tells of."""

    put: Put
    repository: RepositoryKey

    @property
    def instead(self) -> Delete:
        """What a full etcd takes, where the rest of it only deletes."""
        return Delete(_mark(self.repository, b"whole"))


Tells = Callable[[Key, bytes | None, bytes | None, Mapping[str, Any] | None], Awaitable[Told | None]]
"""Given a key, its manifests before and after a write, and what the first says, where it was read: what is to be
written besides."""


async def silent(_key: Key, _before: bytes | None, _after: bytes | None, _old: Mapping[str, Any] | None) -> Told | None:
    """Of what is no news, or told as part of something else."""
    return None


class Telling:
    """How one sync's changes are told; a Tells. packages: names of those that are served, whose revisions are told one
    by one; of a new package all is told at once, when it is there."""

    def __init__(
        self, journal: Journal, claim: Claim, repository: RepositoryKey, packages: AbstractSet[str], *, singly: bool
    ) -> None:
        self._journal = journal
        self._claim = claim
        self._repository = repository
        self._packages = packages
        self._singly = singly
        self._left = max(1, journal.most // _SHARE)
        self._stopping = asyncio.Lock()

    async def __call__(
        self, key: Key, before: bytes | None, after: bytes | None, old: Mapping[str, Any] | None
    ) -> Told | None:
        """Raises: LeaseLostError, Unavailable, where more is changed than is told one by one."""
        if not self._singly:
            return None
        part = key.kind is Kind.REVISION and (before is None or after is None) and key.package not in self._packages
        news = None if part else between(key, before, after, old)
        if news is None:
            return None
        if self._left > 0:
            self._left -= 1
            return self._journal.told(news)
        async with self._stopping:  # nothing goes untold before it is known that it does
            if self._singly:
                await self._journal.not_whole(self._claim, self._repository)
                self._singly = False
        return None

    def tell_nothing(self) -> None:
        """A full etcd took not even the mark that it begins."""
        self._singly = False

    async def ended(self, packages: int, revisions: int) -> list[Put]:
        """What to write with the memory of the sync. packages, revisions: served now. Raises: Unavailable."""
        journal, repository = self._journal, self._repository
        if not journal.most:
            return []
        known, whole = await journal.marks(repository)
        if known and whole:
            return []
        what = What.REPOSITORY_CHANGED if known else What.REPOSITORY_ADDED
        told = journal.told(of_repository(repository, what, packages, revisions))
        return [*_whole(repository), told.put]


class Journal:
    """See the module. Safe to share between tasks. most: changes kept; 0 tells nothing."""

    def __init__(self, client: Client, *, most: int = MOST) -> None:
        self._client = client
        self.most = most
        self._told = 0
        self.overdue = asyncio.Event()
        """Set when a tenth of all was told since collect() began."""

    def told(self, news: News) -> Told:
        """A new PackageChange, of now."""
        self._told += 1
        if self._told > self.most // _SHARE:
            self.overdue.set()
        now = time.time()
        name = name_of(now)
        put = Put(change_key(news.repository.namespace, name), encode(news, name, now))
        return Told(put, news.repository)

    async def each(
        self, key: Key, before: bytes | None, after: bytes | None, old: Mapping[str, Any] | None
    ) -> Told | None:
        """A Tells, of single writes of users."""
        news = between(key, before, after, old) if self.most else None
        return self.told(news) if news is not None else None

    async def txn(
        self,
        compares: Sequence[Compare],
        changes: Sequence[Put | Delete],
        told: Told | None,
        gets: Sequence[Get],
        failure: Sequence[Get],
    ) -> TxnResult:
        """A transaction of the client with what is told of it. What makes room is not held up by the note: a full etcd
        that takes the deletions takes with them that not all was told. Raises: as Client.txn."""
        besides = [told.put] if told is not None else []
        try:
            return await self._client.txn(compares, [*changes, *besides, *gets], failure)
        except NoSpace:
            if told is None or any(isinstance(each, Put) for each in changes):
                raise
            return await self._client.txn(compares, [*changes, told.instead, *gets], failure)

    async def marks(self, repository: RepositoryKey) -> tuple[bool, bool]:
        """Whether `known` and `whole` are there."""
        prefix = TOLD + joined(repository.namespace, repository.name) + b"/"
        found = (await self._client.range(prefix, prefix_end(prefix), keys_only=True)).key_values
        there = {kv.key.removeprefix(prefix) for kv in found}
        return b"known" in there, b"whole" in there

    async def begin(
        self, claim: Claim, repository: RepositoryKey, packages: AbstractSet[str], *, complete: bool
    ) -> tuple[Telling, list[Put | Delete]]:
        """How a sync tells its changes, and what to write before its first one.

        packages: as Telling. complete: what is served is all that an earlier sync saw, perhaps of a release that told
        nothing. Raises: Unavailable.
        """
        known, whole = await self.marks(repository)
        marks: list[Put | Delete] = []
        if not self.most:
            marks = [Delete(put.key) for put in _whole(repository)] if known or whole else []
            return Telling(self, claim, repository, packages, singly=False), marks
        if not known and complete:
            marks = [*_whole(repository)]
        return Telling(self, claim, repository, packages, singly=bool(marks) or (known and whole)), marks

    async def not_whole(self, claim: Claim, repository: RepositoryKey) -> None:
        """From here on not all is told. Raises: LeaseLostError, Unavailable."""
        gone = Delete(_mark(repository, b"whole"))
        if not (await persist(lambda: self._client.txn([claim.fence], [gone]))).succeeded:
            raise LeaseLostError(claim.lost_message)

    async def of_gone(self, repository: RepositoryKey, packages: int, revisions: int) -> list[Put | Delete]:
        """What to write first of all when a repository is forgotten; nothing where it was never told of."""
        known, whole = await self.marks(repository)
        if not known and not whole:
            return []
        gone = of_repository(repository, What.REPOSITORY_GONE, packages, revisions)
        told = [self.told(gone).put] if known and self.most else []
        return [*(Delete(put.key) for put in _whole(repository)), *told]

    # --- how much is kept ---

    async def counts(self) -> Mapping[str, int]:
        """How many changes each namespace has. Raises: EtcdError."""
        found: dict[str, int] = {}
        key = CHANGE
        # From one namespace's first key to the next one's: two questions each, however many there are.
        while first := (await self._client.range(key, prefix_end(CHANGE), limit=1, keys_only=True)).key_values:
            namespace = first[0].key.removeprefix(CHANGE).partition(b"/")[0]
            prefix = CHANGE + namespace + b"/"
            counted = await self._client.range(prefix, prefix_end(prefix), count_only=True)
            found[component_of(namespace)] = counted.count
            key = prefix_end(prefix)
        return found

    async def collect(self, *, for_s: float = FOR_S, now: float | None = None) -> int:
        """Delete what is older than for_s, and the oldest of those namespaces that have most, down to `most` in all.

        Each in a transaction of its own, as all that is watched: one who breaks off between two deletions of one
        version would never hear of the second. Returns how many went. Raises: EtcdError; the rest goes the next time.
        """
        self._told = 0
        self.overdue.clear()
        counts = await self.counts()
        level = share(counts.values(), self.most)
        oldest = moment(int(((now if now is not None else time.time()) - for_s) * 1000))
        deleted = 0
        for namespace, count in counts.items():
            prefix = CHANGE + component(namespace).encode() + b"/"
            over = count - level
            while (found := await self._oldest(prefix, over)) or (found := await self._before(prefix, oldest)):
                await in_parallel(found, self._client.delete, width=_DELETES_AT_ONCE)
                deleted += len(found)
                over -= len(found)
        return deleted

    async def _oldest(self, prefix: bytes, count: int) -> list[bytes]:
        if count <= 0:
            return []
        found = await self._client.range(prefix, prefix_end(prefix), limit=min(count, _PAGE), keys_only=True)
        return [kv.key for kv in found.key_values]

    async def _before(self, prefix: bytes, name: str) -> list[bytes]:
        end = prefix + component(name).encode()
        return [kv.key for kv in (await self._client.range(prefix, end, limit=_PAGE, keys_only=True)).key_values]


def share(counts: Iterable[int], most: int) -> int:
    """How many each may keep so that all keep `most` together: who has fewer keeps all of them."""
    left, level = most, 0
    ordered = sorted(counts)
    for at, count in enumerate(ordered):
        level = left // (len(ordered) - at)
        if count > level:
            return level
        left -= count
    return most


def _mark(repository: RepositoryKey, name: bytes) -> bytes:
    return TOLD + joined(repository.namespace, repository.name) + b"/" + name


def _whole(repository: RepositoryKey) -> list[Put]:
    return [Put(_mark(repository, name), b"") for name in (b"known", b"whole")]
