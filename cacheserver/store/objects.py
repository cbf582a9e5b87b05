"""What is served and what syncs saw, in etcd: read, followed, and written under a claim. Keys: keys.py.

At most one served object is written in a transaction: objects of one transaction share a mod revision, and a client
that breaks off between the two would resume behind both. Called by ingest and the watch cache.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing, asynccontextmanager
from typing import NamedTuple, Protocol

import orjson

from cacheserver.errors import LeaseLostError, NoSpace
from cacheserver.etcd.client import Client, Compare, Delete, Get, KeyValue, Put, Watch, prefix_end
from cacheserver.model import (
    Digest,
    Key,
    Kind,
    Record,
    RepositoryKey,
    Stored,
    blob_references,
    encode,
    without_label,
)
from cacheserver.slotted import slotted
from cacheserver.store import migrate
from cacheserver.store.authored import Authored
from cacheserver.store.claims import CLAIM_TTL_S, Claim, Session, persist
from cacheserver.store.journal import MOST, Journal, Tells, Told, silent
from cacheserver.store.keys import (
    CHANGE,
    CLAIM,
    INGEST,
    PUBLISHED,
    SERVED,
    TICK,
    IngestState,
    component_of,
    decode_state,
    encode_state,
    ingest_key,
    joined,
    object_key,
    parse_key,
    repository_prefix,
)
from cacheserver.store.published import Published, decoded

_OF_REPOSITORIES = (Kind.REPOSITORY, Kind.PACKAGE, Kind.REVISION)
"""Kinds whose keys name their repository; what was told of one outlives it."""

PIPELINE = 32
"""Transactions in flight for one apply. Ours: more write nothing faster (etcd's client made 18,300 puts a second with
32), and all whose answers come together are taken in one turn of the loop, for which every reader waits."""


class Change(NamedTuple):  # as KeyValue
    """One served key as it is now (or gone: `value` None), as of `mod_revision`. `key` is opaque outside."""

    kind: Kind
    key: bytes
    value: bytes | None
    mod_revision: int


@slotted(frozen=True)
class Changes:
    """Whole revisions, in order. `revision`: all served changes up to it have been delivered; 0: not known."""

    changes: Sequence[Change]
    revision: int


class Follower(Protocol):
    """Changes behind a revision, live. Iterating raises Compacted, Unavailable, EtcdPermissionDenied."""

    def __aiter__(self) -> AsyncIterator[Changes]: ...

    async def request_progress(self) -> None:
        """Ask for a Changes with the current revision, events or not."""


class Store:
    """See the module. Safe to share between tasks. authored: drafts, and what is to be done with them. published: what
    doors show. journal: what is told of changes."""

    def __init__(self, client: Client, *, changes: int = MOST) -> None:
        """changes: kept, of what was told; 0 tells nothing."""
        self._client = client
        self.journal = Journal(client, most=changes)
        self.authored = Authored(client, self.journal)
        self.published = Published(client)

    async def open(self) -> None:
        """Mark an empty store with the layout's version; refuse one that a newer release wrote. An older layout is read
        as it is until migrate() has run.

        Raises: ConfigError, Unavailable; NoSpace where the mark is missing and etcd is full.
        """
        await self._client.connect()
        await migrate.mark(self._client)

    async def migrate(self, session: Session, *, patience_s: float) -> migrate.Migrated:
        """Bring an older layout to this one; see store/migrate.py."""
        return await migrate.migrate(self._client, self, session, patience_s=patience_s)

    # --- read, for the watch cache ---

    @property
    def cluster_id(self) -> int:
        """Of the etcd cluster last heard from. Another one means other revisions: nothing cached holds any more."""
        return self._client.cluster_id

    @property
    def progress_trusted(self) -> bool:
        """False: this etcd's progress may run ahead of its events (before 3.5.13); use tick() for freshness."""
        return self._client.progress_trusted

    async def current_revision(self) -> int:
        """The newest revision at some moment during this call (a linearizable read)."""
        return await self._client.newest_revision(TICK)

    async def tick(self) -> int:
        """Write a mark that followers see; returns its revision."""
        return await self._client.put(TICK, b"")

    async def read_all(self, revision: int = 0) -> AsyncGenerator[Changes, None]:
        """Every served object as of one revision (0: the newest), in pages, of which the next is on its way while one
        is worked on; to be closed. Raises Compacted when it is gone."""
        async with aclosing(self._client.pages(SERVED, revision=revision, ahead=True)) as pages:
            async for page in pages:
                found: list[Change] = []
                for of_kind, some in itertools.groupby(page.key_values, key=_directory):
                    if (kind := _KINDS.get(of_kind)) is not None:
                        found += [Change(kind, key, value, revision) for key, value, _, revision, _ in some]
                yield Changes(found, page.revision)

    @asynccontextmanager
    async def follow(self, after: int) -> AsyncIterator[Follower]:
        """Every served change behind revision `after`."""
        async with self._client.watch(SERVED, start_revision=after + 1) as watch:
            yield _Follower(watch, self._client.progress_trusted)

    # --- one repository, for ingest ---

    async def read_state(self, repository: RepositoryKey) -> IngestState | None:
        """What the last sync of the repository saw, if there was one."""
        found = (await self._client.range(ingest_key(repository))).key_values
        return decode_state(found[0].value) if found else None

    async def served_keys(self, repository: RepositoryKey) -> dict[str, dict[Key, int]]:
        """Package name -> its served objects' keys with their mod revisions, the package's own among them."""
        found: dict[str, dict[Key, int]] = {}
        revision = 0
        for kind in (Kind.PACKAGE, Kind.REVISION):
            prefix = repository_prefix(kind, repository)
            async for page in self._client.pages(prefix, revision=revision, keys_only=True):
                revision = page.revision
                for kv in page.key_values:
                    key = parse_key(kind, kv.key)
                    found.setdefault(key.package, {})[key] = kv.mod_revision
        return found

    async def count_served(self, repository: RepositoryKey) -> tuple[int, int]:
        """How many packages and how many revisions of the repository are served."""
        counts = []
        for kind in (Kind.PACKAGE, Kind.REVISION):
            prefix = repository_prefix(kind, repository)
            counts.append((await self._client.range(prefix, prefix_end(prefix), count_only=True)).count)
        packages, revisions = counts
        return packages, revisions

    async def read_package(self, repository: RepositoryKey, package: str) -> dict[Key, Stored]:
        """Every served object of one package."""
        found: dict[Key, Stored] = {}
        itself = await self.read_object(Key(Kind.PACKAGE, repository.namespace, repository.name, package))
        if itself is not None:
            found[itself.key] = itself
        prefix = repository_prefix(Kind.REVISION, repository) + joined(package) + b"/"
        async for page in self._client.pages(prefix):
            for kv in page.key_values:
                key = parse_key(Kind.REVISION, kv.key)
                found[key] = Stored(key, kv.value, kv.mod_revision)
        return found

    async def packages(self, repository: RepositoryKey) -> AsyncIterator[Sequence[Stored]]:
        """Every served package of a repository, by key, as of one moment, some 500 at a time. Raises: EtcdError."""
        prefix = repository_prefix(Kind.PACKAGE, repository)
        async for page in self._client.pages(prefix, page_bytes=1 << 20):
            yield [Stored(parse_key(Kind.PACKAGE, kv.key), kv.value, kv.mod_revision) for kv in page.key_values]

    async def read_object(self, key: Key) -> Stored | None:
        """The object under this key; None where there is none. Raises: EtcdError."""
        found = (await self._client.range(object_key(key))).key_values
        return Stored(key, found[0].value, found[0].mod_revision) if found else None

    async def repositories(self) -> Sequence[RepositoryKey]:
        """Every repository of which anything is here, sorted: a sync's state, an object, or what doors show."""
        keys: set[RepositoryKey] = set()
        for prefix in (INGEST, PUBLISHED, *(SERVED + kind.value.encode() + b"/" for kind in _OF_REPOSITORIES)):
            key = prefix
            # From one repository's first key to the next one's: few questions, however many objects each has.
            while found := (await self._client.range(key, prefix_end(prefix), limit=1, keys_only=True)).key_values:
                namespace, name, *_ = found[0].key.removeprefix(prefix).split(b"/")
                keys.add(RepositoryKey(component_of(namespace), component_of(name)))
                key = prefix + namespace + b"/" + name
                key = found[0].key + b"\0" if found[0].key == key else prefix_end(key + b"/")
        return sorted(keys)

    async def referenced_blobs(self) -> set[Digest]:
        """Digest of every blob that a served object, a sync's state or a door refers to (at least those)."""
        return {digest async for _, digests in self._references() for digest in digests}

    async def _references(self) -> AsyncIterator[tuple[RepositoryKey, AbstractSet[Digest]]]:
        """What packages, revisions, syncs' states and doors refer to. Not a Repository: the digest there is its
        source's."""
        for prefix in (INGEST, *(SERVED + kind.value.encode() + b"/" for kind in (Kind.PACKAGE, Kind.REVISION))):
            async for page in self._client.pages(prefix, page_bytes=1 << 20):
                for kv in page.key_values:
                    namespace, name, *_ = kv.key.removeprefix(prefix).split(b"/")
                    key = RepositoryKey(component_of(namespace), component_of(name))
                    if prefix != INGEST:
                        yield key, blob_references(kv.value)
                    else:
                        yield key, decode_state(kv.value).blobs
        for key, value in (await self.published.everything())[0].items():
            yield key, (await decoded(key, value)).blobs

    async def forget_those_who_miss(self, lost: AbstractSet[Digest]) -> Sequence[RepositoryKey]:
        """Forget what the last sync saw of every repository that refers to one of `lost`; returns them, sorted.

        So the next sync reads all of its source again. One that just finished is left alone: it is looked at later.
        """
        found = {repository async for repository, digests in self._references() if not lost.isdisjoint(digests)}
        for repository in found:
            key = ingest_key(repository)
            for kv in (await self._client.range(key)).key_values:
                await self._client.txn([Compare(key, "mod_revision", kv.mod_revision)], [Delete(key)])
        return sorted(found)

    # --- claims ---

    @asynccontextmanager
    async def session(self, holder: str) -> AsyncIterator[Session]:
        """A lease of CLAIM_TTL_S kept alive while the block runs; claims hang on it and go with it.

        holder: names this process to people who look at the claim.
        """
        async with self._client.lease(CLAIM_TTL_S) as lease:
            yield Session(self._client, lease, holder)

    async def holds(self, claim: Claim) -> bool:
        """Whether the claim stands, at some moment during this call (a linearizable read). Raises: Unavailable."""
        # By a range, not a transaction: etcd before 3.5.7 refuses every transaction when it is full (etcd #14884).
        found = (await self._client.range(claim.key)).key_values
        return (found[0].create_revision if found else 0) == claim.create_revision

    async def drop_claims(self) -> None:
        """Forget every claim: only for the owner of an etcd that nobody else can reach (embedded, after a crash)."""
        await self._client.delete(CLAIM, prefix_end(CLAIM))

    # --- write, for ingest; every write is refused once the claim is lost ---

    async def put(self, claim: Claim, record: Record, previous: Stored | None, tells: Tells = silent) -> Stored | None:
        """Serve `record`. None when its bytes are already served: no write, no event.

        tells: what it changes is told by this, in the same transaction.

        previous: the object of that name as it is served. Kept under another key, which an older release does, it moves
        to the record's in the same transaction: nobody sees it twice, or not at all.
        Raises: LeaseLostError, NoSpace, Unavailable (after trying again for a while).
        """
        before = previous.value if previous else None
        old = orjson.loads(before) if before is not None else None
        value = encode(record, previous=before, now=_now(), old=old)
        if previous is not None and previous.key == record.key and before == value:
            return None
        told = await tells(record.key, before, value, old)
        mod_revision = await self._write(claim, object_key(record.key), value, previous, told)
        return Stored(record.key, value, mod_revision)

    async def unlabel(self, claim: Claim, stored: Stored, label: str) -> Stored:
        """Take one label, which it has, from a served object. Raises: as put."""
        value = without_label(stored.value, label)
        return Stored(stored.key, value, await self._write(claim, object_key(stored.key), value, stored))

    async def move(self, claim: Claim, stored: Stored, to: Key) -> Stored:
        """The same object under another key, which must be free. Raises: as put."""
        return Stored(to, stored.value, await self._write(claim, object_key(to), stored.value, stored))

    async def delete(self, claim: Claim, stored: Stored, tells: Tells = silent) -> bool:
        """Delete it, also where it changed since it was read; nothing happens where it is gone. Returns true: it is
        gone. tells: as put. A full etcd deletes, and tells nothing. Raises: as put."""
        told = await tells(stored.key, stored.value, None, None)
        await self._write(claim, object_key(stored.key), None, stored, told)
        return True

    async def put_state(
        self, claim: Claim, repository: RepositoryKey, state: IngestState | None, also: Sequence[Put | Delete] = ()
    ) -> bool:
        """Remember what the sync saw, last of all; None forgets it, which a full etcd does, too.

        also: what the journal writes with it, once. False: a full etcd took none of its puts.
        """
        key = ingest_key(repository)
        operations: list[Put | Delete] = [Delete(key) if state is None else Put(key, encode_state(state)), *also]
        told = [each.key for each in also if each.key.startswith(CHANGE)]
        compares = [claim.fence, *(Compare(each, "create_revision", 0) for each in told)]
        reads = [Get(claim.key), *map(Get, told)]
        try:
            result = await persist(lambda: self._client.txn(compares, operations, reads))
        except NoSpace:
            if state is not None or not any(isinstance(each, Put) for each in also):
                raise
            await self.put_state(claim, repository, None, [each for each in also if isinstance(each, Delete)])
            return False
        if not result.succeeded:
            owner, *found = (r.key_values[0] if r.key_values else None for r in result.ranges)
            if owner is None or owner.create_revision != claim.create_revision or not all(found):
                raise LeaseLostError(claim.lost_message)
        return True

    async def _write(
        self, claim: Claim, key: bytes, value: bytes | None, previous: Stored | None, told: Told | None = None
    ) -> int:
        """One object, one transaction. A write whose answer was lost is recognised by its value, never repeated.

        told: written besides. It is of what was there before `previous` changed under us, if it did: under a claim
        nobody else writes but by hand.
        """
        before = object_key(previous.key) if previous else key
        expected = {key: 0, before: previous.mod_revision if previous else 0}
        operations: list[Put | Delete] = [Delete(key) if value is None else Put(key, value)]
        if before != key:
            # In this order: a replica of an older release then sees it go and come, and ends with what is there.
            operations.insert(0, Delete(before))
        reads = [Get(claim.key), *map(Get, expected)]
        while True:
            compares = [claim.fence, *(Compare(each, "mod_revision", at) for each, at in expected.items())]
            once = functools.partial(self.journal.txn, compares, operations, told, (), reads)
            result = await persist(once)
            if result.succeeded:
                return result.revision
            owner, *found = (r.key_values[0] if r.key_values else None for r in result.ranges)
            if (owner.create_revision if owner else 0) != claim.create_revision:
                raise LeaseLostError(claim.lost_message)
            current, *others = found
            if (current.value if current else None) == value and not any(others):
                return current.mod_revision if current else result.revision
            expected = {each: kv.mod_revision if kv else 0 for each, kv in zip(expected, found, strict=True)}


class _Follower:
    def __init__(self, watch: Watch, trusted: bool) -> None:
        self._watch = watch
        self._trusted = trusted

    async def __aiter__(self) -> AsyncIterator[Changes]:
        async for batch in self._watch:
            if not batch.events and not self._trusted:
                yield Changes((), 0)  # a sign of life; its revision may run ahead of events still to come
                continue
            changes = [c for e in batch.events if (c := _change(e.key, e.value, e.mod_revision))]
            yield Changes(changes, batch.revision)

    async def request_progress(self) -> None:
        await self._watch.request_progress()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


_KINDS = {kind.value.encode(): kind for kind in Kind}


def _directory(kv: KeyValue) -> bytes:
    return kv[0][len(SERVED) :].partition(b"/")[0]


def _change(key: bytes, value: bytes | None, mod_revision: int) -> Change | None:
    kind = _KINDS.get(key[len(SERVED) :].partition(b"/")[0])
    return Change(kind, key, value, mod_revision) if kind else None  # the tick, or what a newer version serves
