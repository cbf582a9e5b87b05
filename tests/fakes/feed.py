"""A store under the test's control: same promises as cacheserver.store.objects.Store gives the watch cache, all in
memory.

feed = FakeFeed()
feed.put("team-a", "app", labels={"x": "1"})
async with running(WatchCache(feed, PROJECTIONS)) as cache: ...
feed.put(...)           # followers see it
feed.hold()             # followers hear nothing until release()
feed.hang()             # questions for the newest revision are not answered until unhang()
feed.break_streams()    # every follower ends with Unavailable
feed.compact()          # a follower that starts behind it gets Compacted
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from cacheserver.cache.snapshot import CellsOf
from cacheserver.cache.watchcache import WatchCache
from cacheserver.errors import Compacted, NoSpace, Unavailable
from cacheserver.model import Key, Kind, Record, encode
from cacheserver.slotted import slotted
from cacheserver.store.keys import SERVED
from cacheserver.store.objects import Change, Changes, Follower

NOW = "2026-01-02T03:04:05Z"


def project(manifest: Mapping[str, Any], _texts: Mapping[str, str]) -> tuple[dict[str, str], CellsOf]:
    """Enough of a projection for tests of the cache: name, namespace and package."""
    metadata = manifest["metadata"]
    fields = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "spec.packageName": manifest["spec"].get("packageName", ""),
    }
    return fields, lambda manifest: (b"", b"")


PROJECTIONS = dict.fromkeys(Kind, project)


@slotted(frozen=True)
class _Called(Record):
    """A record with a name of the test's choice."""

    called: str = ""

    @property
    def name(self) -> str:
        return self.called


class FakeFeed:
    def __init__(self, *, progress_trusted: bool = True) -> None:
        self.progress_trusted = progress_trusted
        self.cluster_id = 1
        self.revision = 10
        self.away = False
        self.full = False
        self.ticks = 0
        self.questions = 0
        self._values: dict[bytes, Change] = {}
        self._log: list[Change] = []
        self._compacted = 0
        self._moved = asyncio.Condition()
        self._open = asyncio.Event()
        self._open.set()
        self._answering = asyncio.Event()
        self._answering.set()
        self._broken = 0
        self._tasks: set[asyncio.Task[None]] = set()

    # --- the world changes ---

    def put(
        self,
        namespace: str,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        kind: Kind = Kind.PACKAGE,
        spec: bytes = b"{}",
        status: bytes = b"{}",
        key: str = "",
        annotations: Mapping[str, str] | None = None,
    ) -> int:
        """Create or update an object; returns its mod revision. key: where it is kept, if not under its name."""
        value = self.value(namespace, name, labels, kind, spec, status, annotations)
        return self.write((namespace, key or name, value), kind=kind)

    def delete(self, namespace: str, name: str, *, kind: Kind = Kind.PACKAGE) -> int:
        """name: the object's, or the key that it was put under."""
        return self.write((namespace, name, None), kind=kind)

    def value(
        self,
        namespace: str,
        name: str,
        labels: Mapping[str, str] | None = None,
        kind: Kind = Kind.PACKAGE,
        spec: bytes = b"{}",
        status: bytes = b"{}",
        annotations: Mapping[str, str] | None = None,
    ) -> bytes:
        """What is kept of an object."""
        previous = self._values.get(_key(kind, namespace, name))
        key, noted = Key(kind, namespace, "r", name), annotations or {}
        record = _Called(key, labels or {}, spec, status, annotations=noted, called=name)
        return encode(record, previous=previous.value if previous else None, now=NOW)

    def write(self, *changes: tuple[str, str, bytes | None], kind: Kind = Kind.PACKAGE) -> int:
        """(namespace, key, value; None deletes) in one revision, in this order; returns it."""
        revision = self.revision + 1
        for namespace, name, value in changes:
            self._write(Change(kind, _key(kind, namespace, name), value, revision))
        return revision

    def write_elsewhere(self) -> int:
        """A write outside the served keys: moves the revision, makes no event."""
        self.revision += 1
        return self.revision

    def replace_cluster(self) -> None:
        """Another etcd, empty, at revision 1."""
        self.cluster_id += 1
        self.revision, self._values, self._log, self._compacted = 1, {}, [], 0
        self.break_streams()

    def compact(self, revision: int = 0) -> None:
        """Forget what was before this revision, or before the newest."""
        self._compacted = revision or self.revision

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()
        self._notify()

    def hang(self) -> None:
        self._answering.clear()

    def unhang(self) -> None:
        self._answering.set()

    def break_streams(self) -> None:
        self._broken += 1
        self._notify()

    def _write(self, change: Change) -> int:
        self.revision = change.mod_revision
        if change.value is None:
            del self._values[change.key]
        else:
            self._values[change.key] = change
        self._log.append(change)
        self._notify()
        return self.revision

    def _notify(self) -> None:
        async def notify() -> None:
            async with self._moved:
                self._moved.notify_all()

        task = asyncio.get_running_loop().create_task(notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- what the cache asks ---

    async def current_revision(self) -> int:
        self.questions += 1
        await self._answering.wait()
        if self.away:
            raise Unavailable("the fake is away")
        return self.revision

    async def tick(self) -> int:
        if self.full:
            raise NoSpace("the fake is full")
        self.ticks += 1
        self._log.append(Change(Kind.PACKAGE, b"tick", None, self.write_elsewhere()))
        self._notify()
        return self.revision

    async def read_all(self, revision: int = 0) -> AsyncGenerator[Changes, None]:
        revision = revision or self.revision
        if self.away:
            raise Unavailable("the fake is away")
        if revision < self._compacted:
            raise Compacted("compacted", compact_revision=self._compacted)
        values = {change.key: change for change in self._log if change.mod_revision <= revision}
        yield Changes([], revision)
        yield Changes([change for change in values.values() if change.value is not None], revision)

    @asynccontextmanager
    async def follow(self, after: int) -> AsyncIterator[Follower]:
        if self.away:
            raise Unavailable("the fake is away")
        yield _Follower(self, after)


def _key(kind: Kind, namespace: str, name: str) -> bytes:
    return SERVED + f"{kind.value}/{namespace}/{name}".encode()


class _Follower:
    def __init__(self, feed: FakeFeed, after: int) -> None:
        self._feed = feed
        self._after = after
        self._progress = False
        self._broken = feed._broken

    async def request_progress(self) -> None:
        self._progress = True
        self._feed._notify()

    async def __aiter__(self) -> AsyncIterator[Changes]:
        feed = self._feed
        if self._after + 1 < feed._compacted:  # as etcd has it: the compact revision itself is still there
            raise Compacted("compacted", compact_revision=feed._compacted)
        while True:
            await feed._open.wait()
            if self._broken != feed._broken or feed.away:
                raise Unavailable("the fake broke the stream")
            news = [change for change in feed._log if change.mod_revision > self._after]
            if news or self._progress:
                self._progress = False
                self._after = feed.revision
                yield Changes([c for c in news if c.key != b"tick"], feed.revision)
                continue
            async with feed._moved:
                await feed._moved.wait()


@asynccontextmanager
async def running(cache: WatchCache) -> AsyncIterator[WatchCache]:
    """The cache in step with its feed until the block ends."""
    task = asyncio.create_task(cache.run())
    try:
        async with asyncio.timeout(5):
            await cache.wait_ready()
        yield cache
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
