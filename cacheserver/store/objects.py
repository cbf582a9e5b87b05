"""What etcd holds and how: the only module that knows keys and encoding.

    served/<kind>/<namespace>/<repository>[/<package>[/<revision>]]   manifest without resourceVersion; watched; the
                                                                       parts are those of the object's name (model.Key)
    served/tick                                                        freshness mark for old etcd; watched
    ingest/<namespace>/<repository>                                    what the last sync saw
    blob/<sha256>/head, blob/<sha256>/<nnnn>                           content: zstd in chunks of 512 KiB; not watched
    claim/<name>                                                       who may write, on a lease
    layout                                                             version of all this

At most one served object is written in a transaction: objects of one transaction share a mod revision, and a client
that breaks off between the two would resume behind both. Called by ingest, the watch cache and the API (blobs).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar
from urllib.parse import quote, unquote

import orjson

from cacheserver.errors import ConfigError, LeaseLostError, Unavailable
from cacheserver.etcd.client import Client, Compare, Delete, Get, Lease, Put, RangeResult, Watch, prefix_end
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

log = logging.getLogger(__name__)

PREFIX = b"/cacheserver/v1/"
_SERVED = PREFIX + b"served/"
_TICK = _SERVED + b"tick"
_INGEST = PREFIX + b"ingest/"
_CLAIM = PREFIX + b"claim/"
_LAYOUT = PREFIX + b"layout"

LAYOUT_VERSION = b"1"

CLAIM_TTL_S = 10
"""A dead writer's claim is free after this. Ours: etcd.md advises 10 to 15; keep-alive runs at a third of it."""

PIPELINE = 96
"""Transactions in flight for one apply. etcd.md §1: throughput is flat from about 64 on; more only adds latency."""

_RETRY_FOR_S = 20.0
"""How long one write is tried again while etcd is away; then the sync fails and is repeated as a whole."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change:
    """One served key as it is now (or gone: `value` None), as of `mod_revision`. `key` is opaque outside."""

    kind: Kind
    key: bytes
    value: bytes | None
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Changes:
    """Whole revisions, in order. `revision`: all served changes up to it have been delivered; 0: not known."""

    changes: Sequence[Change]
    revision: int


@dataclass(frozen=True, slots=True)
class IngestState:
    """What the last complete sync of a repository saw.

    digest: of the source. index: digest of a blob with the catalog's index ("" when there is none).
    settings: what else decided the outcome (format, validation); a change of it means parse again.
    """

    digest: str
    index: str = ""
    settings: str = ""


class Follower(Protocol):
    """Changes behind a revision, live. Iterating raises Compacted, Unavailable, EtcdPermissionDenied."""

    def __aiter__(self) -> AsyncIterator[Changes]: ...

    async def request_progress(self) -> None:
        """Ask for a Changes with the current revision, events or not."""


class Store:
    """See the module. Safe to share between tasks."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def open(self) -> None:
        """Mark an empty store with the layout's version; refuse one that a newer release wrote.

        Raises: ConfigError, Unavailable; NoSpace where the mark is missing and etcd is full.
        """
        await self._client.connect()
        # Read first: a full etcd refuses a transaction that holds a put, even where the put would not be made.
        written = (await _persist(lambda: self._client.range(_LAYOUT))).key_values
        if not written:
            layout = Put(_LAYOUT, LAYOUT_VERSION)
            result = await _persist(
                lambda: self._client.txn([Compare(_LAYOUT, "create_revision", 0)], [layout], [Get(_LAYOUT)])
            )
            written = [] if result.succeeded else result.ranges[0].key_values
        found = written[0].value if written else LAYOUT_VERSION
        if found != LAYOUT_VERSION:
            raise ConfigError(
                f"this etcd holds layout {found.decode(errors='replace')}, not {LAYOUT_VERSION.decode()}: "
                "run the release that wrote it, or point at an empty etcd (catalogs are ingested again)"
            )

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
        return await self._client.newest_revision(_TICK)

    async def tick(self) -> int:
        """Write a mark that followers see; returns its revision."""
        return await self._client.put(_TICK, b"")

    async def read_all(self, revision: int = 0) -> AsyncIterator[Changes]:
        """Every served object as of one revision (0: the newest), in pages. Raises Compacted when it is gone."""
        async for page in self._client.pages(_SERVED, revision=revision):
            found = [change for kv in page.key_values if (change := _change(kv.key, kv.value, kv.mod_revision))]
            yield Changes(found, page.revision)

    @asynccontextmanager
    async def follow(self, after: int) -> AsyncIterator[Follower]:
        """Every served change behind revision `after`."""
        async with self._client.watch(_SERVED, start_revision=after + 1) as watch:
            yield _Follower(watch, self._client.progress_trusted)

    # --- one repository, for ingest ---

    async def read_state(self, repository: RepositoryKey) -> IngestState | None:
        """What the last sync of the repository saw, if there was one."""
        found = (await self._client.range(_ingest_key(repository))).key_values
        return _decode_state(found[0].value) if found else None

    async def served_keys(self, repository: RepositoryKey) -> dict[str, dict[Key, int]]:
        """Package name -> its served objects' keys with their mod revisions, the package's own among them."""
        found: dict[str, dict[Key, int]] = {}
        revision = 0
        for kind in (Kind.PACKAGE, Kind.REVISION):
            prefix = _repository_prefix(kind, repository)
            async for page in self._client.pages(prefix, revision=revision, keys_only=True):
                revision = page.revision
                for kv in page.key_values:
                    key = _parse_key(kind, kv.key)
                    found.setdefault(key.package, {})[key] = kv.mod_revision
        return found

    async def count_served(self, repository: RepositoryKey) -> tuple[int, int]:
        """How many packages and how many revisions of the repository are served."""
        counts = []
        for kind in (Kind.PACKAGE, Kind.REVISION):
            prefix = _repository_prefix(kind, repository)
            counts.append((await self._client.range(prefix, prefix_end(prefix), count_only=True)).count)
        packages, revisions = counts
        return packages, revisions

    async def read_package(self, repository: RepositoryKey, package: str) -> dict[Key, Stored]:
        """Every served object of one package."""
        found: dict[Key, Stored] = {}
        itself = await self.read_object(Key(Kind.PACKAGE, repository.namespace, repository.name, package))
        if itself is not None:
            found[itself.key] = itself
        prefix = _repository_prefix(Kind.REVISION, repository) + _parts(package) + b"/"
        async for page in self._client.pages(prefix):
            for kv in page.key_values:
                key = _parse_key(Kind.REVISION, kv.key)
                found[key] = Stored(key, kv.value, kv.mod_revision)
        return found

    async def read_object(self, key: Key) -> Stored | None:
        found = (await self._client.range(_object_key(key))).key_values
        return Stored(key, found[0].value, found[0].mod_revision) if found else None

    async def repositories(self) -> Sequence[RepositoryKey]:
        """Every repository of which anything is here, sorted: a sync's state, or an object."""
        keys: set[RepositoryKey] = set()
        for prefix in (_INGEST, *(_SERVED + kind.value.encode() + b"/" for kind in Kind)):
            key = prefix
            # From one repository's first key to the next one's: few questions, however many objects each has.
            while found := (await self._client.range(key, prefix_end(prefix), limit=1, keys_only=True)).key_values:
                namespace, name, *_ = found[0].key.removeprefix(prefix).split(b"/")
                keys.add(RepositoryKey(_component_of(namespace), _component_of(name)))
                key = prefix + namespace + b"/" + name
                key = found[0].key + b"\0" if found[0].key == key else prefix_end(key + b"/")
        return sorted(keys)

    async def referenced_blobs(self) -> set[Digest]:
        """Digest of every blob that a served object or a sync's state refers to (at least those)."""
        return {digest async for _, digests in self._references() for digest in digests}

    async def _references(self) -> AsyncIterator[tuple[RepositoryKey, AbstractSet[Digest]]]:
        """What packages, revisions and syncs' states refer to. Not a Repository: the digest there is its source's."""
        for prefix in (_INGEST, *(_SERVED + kind.value.encode() + b"/" for kind in (Kind.PACKAGE, Kind.REVISION))):
            async for page in self._client.pages(prefix, page_bytes=1 << 20):
                for kv in page.key_values:
                    namespace, name, *_ = kv.key.removeprefix(prefix).split(b"/")
                    key = RepositoryKey(_component_of(namespace), _component_of(name))
                    if prefix != _INGEST:
                        yield key, blob_references(kv.value)
                    elif index := _decode_state(kv.value).index:
                        yield key, {Digest(index)}

    async def forget_those_who_miss(self, lost: AbstractSet[Digest]) -> Sequence[RepositoryKey]:
        """Forget what the last sync saw of every repository that refers to one of `lost`; returns them, sorted.

        So the next sync reads all of its source again. One that just finished is left alone: it is looked at later.
        """
        found = {repository async for repository, digests in self._references() if not lost.isdisjoint(digests)}
        for repository in found:
            key = _ingest_key(repository)
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
        return bool(found) and found[0].create_revision == claim.create_revision

    async def drop_claims(self) -> None:
        """Forget every claim: only for the owner of an etcd that nobody else can reach (embedded, after a crash)."""
        await self._client.delete(_CLAIM, prefix_end(_CLAIM))

    # --- write, for ingest; every write is refused once the claim is lost ---

    async def put(self, claim: Claim, record: Record, previous: Stored | None) -> Stored | None:
        """Serve `record`. None when its bytes are already served: no write, no event.

        previous: the object of that name as it is served. Kept under another key, which an older release does, it moves
        to the record's in the same transaction: nobody sees it twice, or not at all.
        Raises: LeaseLostError, NoSpace, Unavailable (after trying again for a while).
        """
        value = encode(record, previous=previous.value if previous else None, now=_now())
        if previous is not None and previous.key == record.key and previous.value == value:
            return None
        mod_revision = await self._write(claim, _object_key(record.key), value, previous)
        return Stored(record.key, value, mod_revision)

    async def unlabel(self, claim: Claim, stored: Stored, label: str) -> Stored:
        """Take one label, which it has, from a served object. Raises: as put."""
        value = without_label(stored.value, label)
        return Stored(stored.key, value, await self._write(claim, _object_key(stored.key), value, stored))

    async def delete(self, claim: Claim, stored: Stored) -> None:
        await self._write(claim, _object_key(stored.key), None, stored)

    async def put_state(self, claim: Claim, repository: RepositoryKey, state: IngestState | None) -> None:
        """Remember what the sync saw, last of all; None forgets it, which a full etcd does, too."""
        key = _ingest_key(repository)
        operation: Put | Delete = Delete(key) if state is None else Put(key, _encode_state(state))
        result = await _persist(lambda: self._client.txn([claim.fence], [operation]))
        if not result.succeeded:
            raise LeaseLostError(claim.lost_message)

    async def _write(self, claim: Claim, key: bytes, value: bytes | None, previous: Stored | None) -> int:
        """One object, one transaction. A write whose answer was lost is recognised by its value, never repeated."""
        before = _object_key(previous.key) if previous else key
        expected = {key: 0, before: previous.mod_revision if previous else 0}
        operations: list[Put | Delete] = [Delete(key) if value is None else Put(key, value)]
        if before != key:
            # In this order: a replica of an older release then sees it go and come, and ends with what is there.
            operations.insert(0, Delete(before))
        reads = [Get(claim.key), *map(Get, expected)]
        while True:
            compares = [claim.fence, *(Compare(each, "mod_revision", at) for each, at in expected.items())]
            result = await _persist(lambda compares=compares: self._client.txn(compares, operations, reads))  # type: ignore[misc]
            if result.succeeded:
                return result.revision
            owner, *found = (r.key_values[0] if r.key_values else None for r in result.ranges)
            if owner is None or owner.create_revision != claim.create_revision:
                raise LeaseLostError(claim.lost_message)
            current, *others = found
            if (current.value if current else None) == value and not any(others):
                return current.mod_revision if current else result.revision
            expected = {each: kv.mod_revision if kv else 0 for each, kv in zip(expected, found, strict=True)}


class Session:
    """A live lease, and the claims on it."""

    def __init__(self, client: Client, lease: Lease, holder: str) -> None:
        self._client = client
        self._lease = lease
        self._holder = holder.encode()
        # Kept, not asked for again. Should one be lost all the same, the first write that it fences says so.
        self._held: dict[str, Claim] = {}

    async def wait_lost(self) -> None:
        """Returns when the lease can no longer be relied on."""
        await self._lease.wait_lost()

    async def claim(self, name: str, *, on_wait: Callable[[str], None] = lambda holder: None) -> Claim:
        """The right to write what `name` stands for; waits until its holder lets go or dies.

        on_wait: called with the present holder, once.
        Raises: NoSpace where nobody holds it and etcd is full; LeaseLostError, Unavailable.
        """
        told = False
        while True:
            claim, found = await self._attempt(name)
            if claim is not None:
                return claim
            held = found.key_values
            if held and not told:
                told = True
                on_wait(held[0].value.decode(errors="replace"))
            await self._wait_for_release(_claim_key(name), found.revision)

    async def _attempt(self, name: str) -> tuple[Claim | None, RangeResult]:
        """The claim, or who holds it. Reads before it writes: a full etcd refuses the write even where it is ours."""
        key = _claim_key(name)
        if (known := self._held.get(name)) is not None:
            return known, RangeResult((), 0, 0, more=False)
        found = await _persist(lambda: self._client.range(key))
        if not found.key_values:
            put = Put(key, self._holder, self._lease.id)
            result = await _persist(lambda: self._client.txn([Compare(key, "create_revision", 0)], [put], [Get(key)]))
            if result.succeeded:
                self._held[name] = Claim(name, key, result.revision)
                return self._held[name], found
            found = result.ranges[0]
            found = RangeResult(found.key_values, result.revision, found.count, found.more)
        if found.key_values and found.key_values[0].lease == self._lease.id:  # ours after all: an answer was lost
            self._held[name] = Claim(name, key, found.key_values[0].create_revision)
            return self._held[name], found
        return None, found

    async def try_writing(self) -> None:
        """One small write that nobody sees, to learn whether etcd takes any. Raises: NoSpace, LeaseLostError,
        Unavailable."""
        await self._client.put(_CLAIM + b"probe/%x" % self._lease.id, b"", lease=self._lease.id)

    async def _wait_for_release(self, key: bytes, revision: int) -> None:
        """Until the key is deleted, or a TTL has gone by (look again: a watch can miss what was compacted)."""
        try:
            async with asyncio.timeout(CLAIM_TTL_S), self._client.watch(key, start_revision=revision + 1) as watch:
                async for batch in watch:
                    if any(event.key == key and event.value is None for event in batch.events):
                        return
        except TimeoutError:
            pass

    async def release(self, claim: Claim) -> None:
        self._held.pop(claim.name, None)
        await self._client.txn([claim.fence], [Delete(claim.key)])


@dataclass(frozen=True, slots=True)
class Claim:
    """Held since create_revision. Writes compare that: a paused process that lost it cannot write later."""

    name: str
    key: bytes
    create_revision: int

    @property
    def fence(self) -> Compare:
        return Compare(self.key, "create_revision", self.create_revision)

    @property
    def lost_message(self) -> str:
        return f"the claim on {self.name} is held by another process now; nothing was written"


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


async def in_parallel(items: Iterable[T], act: Callable[[T], Awaitable[object]], *, width: int = PIPELINE) -> None:
    """`act` on every item, at most `width` at a time. The first error cancels the rest and is raised alone."""
    pending = iter(items)

    async def worker() -> None:
        for item in pending:
            await act(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(width):
                group.create_task(worker())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _persist(call: Callable[[], Awaitable[T]]) -> T:
    """The answer of an idempotent call, tried again with back-off while etcd is away."""
    deadline = time.monotonic() + _RETRY_FOR_S
    pause_s = 0.05
    while True:
        try:
            return await call()
        except Unavailable:
            if time.monotonic() + pause_s > deadline:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, 2.0)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _component(text: str) -> str:
    """Safe between slashes; `~` alone stands for the empty string, which etcd keys could not tell apart."""
    return quote(text, safe="") or "~"


def _component_of(written: bytes) -> str:
    """What _component was given."""
    return "" if written == b"~" else unquote(written.decode())


def _claim_key(name: str) -> bytes:
    return _CLAIM + quote(name, safe="/").encode()


def _parts(*parts: str) -> bytes:
    return "/".join(map(_component, parts)).encode()


def _repository_prefix(kind: Kind, repository: RepositoryKey) -> bytes:
    return _SERVED + kind.value.encode() + b"/" + _parts(repository.namespace, repository.name) + b"/"


def _object_key(key: Key) -> bytes:
    base = _SERVED + key.kind.value.encode() + b"/"
    if key.kind is Kind.REPOSITORY:
        return base + _parts(key.namespace, key.repository)
    if key.kind is Kind.PACKAGE:
        return base + _parts(key.namespace, key.repository, key.package)
    return base + _parts(key.namespace, key.repository, key.package, key.revision)


def _parse_key(kind: Kind, key: bytes) -> Key:
    parts = key[len(_SERVED) + len(kind.value) + 1 :].decode().split("/")
    return Key(kind, *("" if part == "~" else unquote(part) for part in parts))


_KINDS = {kind.value.encode(): kind for kind in Kind}


def _change(key: bytes, value: bytes | None, mod_revision: int) -> Change | None:
    kind = _KINDS.get(key[len(_SERVED) :].partition(b"/")[0])
    return Change(kind, key, value, mod_revision) if kind else None  # the tick, or what a newer version serves


def _ingest_key(repository: RepositoryKey) -> bytes:
    return _INGEST + _parts(repository.namespace, repository.name)


def _encode_state(state: IngestState) -> bytes:
    return orjson.dumps(state)


def _decode_state(value: bytes) -> IngestState:
    raw = orjson.loads(value)
    return IngestState(digest=raw["digest"], index=raw.get("index", ""), settings=raw.get("settings", ""))
