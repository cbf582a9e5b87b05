"""What users may write into etcd: a share of each repository and namespace, and so much in an hour.

etcd is one for all: whoever fills it stops everybody. Two things are counted, both before anything is written. What is
there: of drafts, and of what users say in metadata, beside what the last sync counted (store/usage.py). What was
written within the hour, for which etcd keeps what was replaced. The first is counted from etcd, metadata anew each
16 MiB; the second by each process for itself, so each replica lets so much through.
Called by content.py, and by whoever writes drafts, through Rationed.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from cacheserver.config import RepositoryConfig
from cacheserver.errors import RefusedError
from cacheserver.model import Digest, Key, RepositoryKey
from cacheserver.publish import refusals
from cacheserver.slotted import slotted
from cacheserver.store.authored import Authored, Draft, Held, Operation, Step
from cacheserver.store.claims import Claim
from cacheserver.store.journal import Tells
from cacheserver.store.usage import Usage, Usages

HISTORY_S: Final = 3600.0
"""For so long etcd keeps what was replaced: configs/etcd, --auto-compaction-retention."""
_FRESH_S: Final = 30.0
_FRESH_NEAR_S: Final = 2.0
"""For which what was counted counts, and where it is more than half of the share."""
_ANEW_S: Final = 0.2
"""The same before anybody is refused."""
_REST: Final = 10.0
"""So many times as long as counting took, it is not done again: who is refused again and again costs etcd a tenth."""
_GROWN_BYTES: Final = 16 << 20
"""Of metadata, until it is counted anew: a read of all objects of the repository."""
_BESIDE_BYTES: Final = 1024
"""Of each write: the draft's record, and the keys."""
_SIZES: Final = 4096
_NAMESPACES: Final = 1024


@slotted()
class _Stock:
    """Of one repository, as of a moment.

    rest: not counted anew before. synced: by the last sync; counted: of it what is referred to. objects: of what is
    served, 0 where that was not counted. drafts: packed content of drafts; since: of that written, or given back, here
    since then. grown: objects, by what is written here.
    """

    at: float = -_FRESH_S
    rest: float = 0.0
    synced: int = 0
    counted: int = 0
    objects: int = 0
    drafts: int = 0
    since: int = 0
    grown: int = 0

    @property
    def total(self) -> int:
        return max(self.synced, self.objects) + max(self.drafts + self.since, 0) + self.grown


@slotted()
class _Total:
    """Of one namespace, as of a moment, and what was written here since. rest: not counted anew before."""

    bytes: int
    at: float
    rest: float


@slotted(frozen=True)
class _Ledger:
    """Of one namespace, as of a moment. written: repositories that are written to. changes: bytes of PackageChanges."""

    at: float
    usages: Mapping[str, Usage]
    written: tuple[RepositoryKey, ...]
    changes: int


class Allowance:
    """See the module. One for all writes of a process."""

    def __init__(
        self,
        authored: Authored,
        usages: Usages,
        repositories: Mapping[RepositoryKey, RepositoryConfig],
        *,
        repository_bytes: int,
        namespace_bytes: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        """repositories: all that there are, kept up to date by whoever made it. now: Unix time."""
        self._authored = authored
        self._usages = usages
        self._repositories = repositories
        self._repository_bytes = repository_bytes
        self._namespace_bytes = namespace_bytes
        self._now = now
        self._stocks: dict[RepositoryKey, _Stock] = {}
        self._ledgers: dict[str, _Ledger] = {}
        self._totals: dict[str, _Total] = {}
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()  # namespace -> (bytes, as of when)
        self._sizes: OrderedDict[Digest, int] = OrderedDict()

    async def admit(self, key: Key, digest: Digest, size: int) -> None:
        """Room for content of a draft, `size` bytes packed. Raises: RefusedError 403, 429; EtcdError."""
        await self._take(key, size)
        repository = RepositoryKey(key.namespace, key.repository)
        if (stock := self._stocks.get(repository)) is not None:
            stock.since += size
        self._sizes[digest] = size
        while len(self._sizes) > _SIZES:
            self._sizes.popitem(last=False)

    async def write(self, key: Key, before: int, after: int, step: Step | None = None) -> None:
        """Room for an object of `after` bytes in the place of one of `before`. step: asked for with it.

        What deletes is always let in, and what asks for another step is not measured by what is there: it makes room.
        Raises: as admit.
        """
        if step is Step.DELETE:
            return
        grows = after - before if step is None else 0
        await self._take(key, after + _BESIDE_BYTES, grows=max(grows, 0))
        if (stock := self._stocks.get(RepositoryKey(key.namespace, key.repository))) is not None:
            stock.grown = max(stock.grown + grows, 0)

    def give_back(self, key: Key, content: int, served: int) -> None:
        """A draft's content was replaced, or goes with `served` bytes of its object. What is there is counted later."""
        if (stock := self._stocks.get(RepositoryKey(key.namespace, key.repository))) is not None:
            stock.since -= content
            stock.grown = max(stock.grown - served, 0)
        if (total := self._totals.get(key.namespace)) is not None:
            total.bytes = max(total.bytes - content - served, 0)

    def size_of(self, digest: Digest) -> int | None:
        """Packed bytes of content that was let in lately."""
        return self._sizes.get(digest)

    async def _take(self, key: Key, size: int, *, grows: int | None = None) -> None:
        """size: written, and there then, unless `grows` says otherwise."""
        wanted = size if grows is None else grows
        if wanted:
            await self._fits(key, wanted)
        self._spend(key, size)

    async def _fits(self, key: Key, wanted: int) -> None:
        """Raises: RefusedError 403."""
        repository = RepositoryKey(key.namespace, key.repository)
        total = (await self._stock(repository, self._repository_bytes)).total + wanted
        if total > self._repository_bytes:
            total = (await self._stock(repository, self._repository_bytes, anew=True)).total + wanted
        self._check(key, f"the repository {key.repository!r}", total, self._repository_bytes, "repository")
        found = await self._namespace(key.namespace)
        if found.bytes + wanted > self._namespace_bytes:
            found = await self._namespace(key.namespace, anew=True)
        total = found.bytes + wanted
        self._check(key, f"the namespace {key.namespace!r}", total, self._namespace_bytes, "namespace")
        found.bytes += wanted

    def _check(self, key: Key, whose: str, total: int, most: int, flag: str) -> None:
        if total > most:
            raise refusals.forbidden(
                key.name,
                f"{whose} would have {total} bytes stored, its drafts among them, and may have {most} "
                f"(--max-{flag}-bytes): publish or delete drafts, or take files, labels and annotations out",
            )

    def _spend(self, key: Key, size: int) -> None:
        """Raises: RefusedError 429."""
        now, most = self._now(), self._namespace_bytes
        spent, at = self._spent.pop(key.namespace, (0.0, now))
        spent = max(spent - (now - at) * most / HISTORY_S, 0.0)
        fits = spent + size <= most
        self._spent[key.namespace] = (spent + size if fits else spent, now)
        while len(self._spent) > _NAMESPACES:
            self._spent.popitem(last=False)
        if not fits:
            wait_s = int((spent + size - most) * HISTORY_S / most) + 1
            why = (
                f"{most} bytes (--max-namespace-bytes) were written in the namespace {key.namespace!r} within the hour "
                f"for which etcd keeps what was replaced; try again in {wait_s} s"
            )
            raise RefusedError(
                429, "TooManyRequests", why, kind=refusals.REVISIONS, name=key.name, retry_after_s=min(wait_s, 3600)
            )

    async def _namespace(self, namespace: str, *, anew: bool = False) -> _Total:
        """What the repositories have that are written to, and what the last syncs counted of the others."""
        found, now = self._totals.get(namespace), self._now()
        if found is not None:
            near = anew or found.bytes > self._namespace_bytes // 2
            if now < max(found.at + (_FRESH_NEAR_S if near else _FRESH_S), found.rest):
                return found
        ledger, total = await self._ledger(namespace, anew=anew), 0
        for gone in self._stocks.keys() - self._repositories.keys():
            del self._stocks[gone]
        keys = {*ledger.written, *(key for key in self._stocks if key.namespace == namespace)}
        for key in sorted(keys):
            total += (await self._stock(key, self._namespace_bytes)).total
        names = {key.name for key in keys}
        total += sum(usage.at(now).total for name, usage in ledger.usages.items() if name not in names)
        total += ledger.changes
        found = self._totals[namespace] = _Total(total, now, now + _REST * (self._now() - now))
        while len(self._totals) > _NAMESPACES:
            del self._totals[next(iter(self._totals))]
        return found

    async def _ledger(self, namespace: str, *, anew: bool = False) -> _Ledger:
        found, now = self._ledgers.get(namespace), self._now()
        if found is None or now - found.at >= (_ANEW_S if anew else _FRESH_S):
            read = await self._usages.read(namespace)
            every = self._repositories.items()
            written = tuple(key for key, config in every if config.writable and key.namespace == namespace)
            found = self._ledgers[namespace] = _Ledger(now, read.usages, written, read.changes)
            while len(self._ledgers) > _NAMESPACES:
                del self._ledgers[next(iter(self._ledgers))]
        return found

    async def _stock(self, key: RepositoryKey, most: int, *, anew: bool = False) -> _Stock:
        stock, now = self._stocks.setdefault(key, _Stock()), self._now()
        fresh_s = _ANEW_S if anew else _FRESH_NEAR_S if stock.total > most // 2 else _FRESH_S
        if stock.grown >= _GROWN_BYTES:
            stock.objects = sum(each.objects for each in (await self._usages.measure(key)).values())
            stock.grown = 0
        elif now < max(stock.at + fresh_s, stock.rest):
            return stock
        since = stock.since
        drafts = sum(draft.stored for draft in (await self._authored.drafts(key)).values())
        usage = (await self._ledger(key.namespace, anew=anew)).usages.get(key.name)
        synced = usage.at(now).total if usage else 0
        if stock.at > 0 and usage is not None and usage.stored != stock.counted:
            stock.grown = 0  # a sync has counted the objects since
        stock.synced, stock.counted = synced, usage.stored if usage else 0
        stock.drafts, stock.since, stock.at = drafts, stock.since - since, now
        stock.rest = now + _REST * (self._now() - now)
        return stock


class Rationed(Authored):
    """Drafts as users write them: within their Allowance."""

    def __init__(self, authored: Authored, room: Allowance) -> None:
        super().__init__(authored.client, authored.journal)
        self._room = room

    async def write(
        self,
        before: Held,
        *,
        value: bytes | None,
        draft: Draft | None,
        operation: Operation | None = None,
        content: Digest | None = None,
        claim: Claim | None = None,
        tells: Tells | None = None,
    ) -> Held | None:
        """As Authored.write. Raises: also RefusedError 403, 429."""
        if value is not None:
            had = len(before.served.value) if before.served else 0
            await self._room.write(before.key, had, len(value), operation.step if operation else None)
        if draft is not None and content is not None and (size := self._room.size_of(content)) is not None:
            draft = replace(draft, stored=size)
        after = await super().write(
            before, value=value, draft=draft, operation=operation, content=content, claim=claim, tells=tells
        )
        goes = value is None or (operation is not None and operation.step is Step.DELETE)
        if after is not None and before.draft is not None and (goes or content is not None):
            had = len(before.served.value) if goes and before.served is not None else 0
            self._room.give_back(before.key, before.draft.stored, had)
        return after
