"""One sync of one repository: changed? fetch, parse, diff, apply. The order of writes is what readers rely on:

content before the revisions that refer to it, revisions before their package, packages gone before their revisions,
the source's digest last. A crash repeats work and never skips it; no reader meets a reference to something absent.
The label of the latest revision is taken away before it is given to another: at most one has it at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from cacheserver import catalogs, metrics
from cacheserver.catalogs import Catalog, Finding, ParsedPackage, parse
from cacheserver.catalogs.workers import Workers
from cacheserver.config import RepositoryConfig, Validation
from cacheserver.config.sources import GitSource
from cacheserver.errors import BlobMissingError, NoSpace, SyncTooLongError
from cacheserver.ingest.disk import Mirrors, ScratchSpace
from cacheserver.ingest.shares import Shares
from cacheserver.ingest.storage import Storage
from cacheserver.model import LABEL_LATEST, OBJECT_VERSION, Digest, Key, Kind, Record, RepositoryKey, Stored
from cacheserver.sources import Progress, Source, Tree
from cacheserver.store.blobs import Blobs
from cacheserver.store.claims import Claim
from cacheserver.store.keys import IngestState
from cacheserver.store.objects import Store
from cacheserver.tasks import in_parallel

log = logging.getLogger(__name__)

PACKAGES_AT_ONCE = 16  # each with up to as many writes in flight: about store.PIPELINE in all, as many reads
_WRITES_AT_ONCE = 16


class Outcome(Enum):
    UNCHANGED = "unchanged"
    """The source has the digest that is served."""
    APPLIED = "applied"
    """What is served is what the source says, rejected packages apart."""
    HELD = "held"
    """The source was read and refused as a whole; what was served stays."""


@dataclass(slots=True)
class SyncReport:
    """What one sync did. Counts are of served objects (packages and revisions); `rejected` by package name;
    `ignored_tags`: tags of a git repository that name no package (KRM).

    reason, message: why it was held, for people; empty otherwise.
    """

    repository: RepositoryKey
    outcome: Outcome = Outcome.UNCHANGED
    digest: str = ""
    added: int = 0
    changed: int = 0
    deleted: int = 0
    unchanged: int = 0
    packages: int = 0
    revisions: int = 0  # both: served afterwards; of an UNCHANGED sync only where count_served was called
    rejected: Mapping[str, Sequence[Finding]] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    unreadable: bool = False
    ignored_tags: int = 0
    reason: str = ""
    message: str = ""
    elapsed_s: float = 0.0

    @property
    def written(self) -> int:
        return self.added + self.changed + self.deleted


ASKS_AT_ONCE = 16
DOUBTED_AT_ONCE = 4
"""Git repositories asked whether they changed at the same time: each question is processes of 10 MB in all. Those whose
last sync failed wait in a line of their own, so that an outage elsewhere delays nobody who is well. Other sources are
asked at once."""
FETCHES_AT_ONCE = 16
APPLIES_AT_ONCE = 4
"""Repositories fetched, and parsed and written, at the same time; the others wait their turn. Bounds memory and the
load on the loop with any number of repositories, and the trees on disk: one that was fetched keeps its place until it
is applied, so there are as many as both together at most."""
SCRATCH_BYTES = 8 << 30


SLOW_AT_ONCE = 4
"""Of those who take long at a step, at the same time; see shares.py. Beside them the others go on."""
SYNC_TIMEOUT_S = 1800.0
"""Seconds of work that a sync may take, waiting for its turn left out. See the setting sync-timeout."""


RELEASE = f"{catalogs.VERSION}.{OBJECT_VERSION}"
"""What is made of a source, as opposed to what the source says. Another release than the last sync's reads everything
again and writes what differs: served objects stay meanwhile, and watchers see MODIFIED."""


@dataclass(frozen=True, slots=True)
class SyncServices:
    """What a sync works with. release: see RELEASE."""

    store: Store
    blobs: Blobs
    workers: Workers
    scratch: Path
    release: str = RELEASE
    timeout_s: float = SYNC_TIMEOUT_S
    asking: Shares = field(default_factory=lambda: Shares(ASKS_AT_ONCE - SLOW_AT_ONCE, SLOW_AT_ONCE))
    doubted: Shares = field(default_factory=lambda: Shares(DOUBTED_AT_ONCE, SLOW_AT_ONCE))
    fetching: Shares = field(default_factory=lambda: Shares(FETCHES_AT_ONCE - SLOW_AT_ONCE, SLOW_AT_ONCE))
    applying: Shares = field(default_factory=lambda: Shares(APPLIES_AT_ONCE, SLOW_AT_ONCE))
    scratch_space: ScratchSpace = field(default_factory=lambda: ScratchSpace(SCRATCH_BYTES))
    mirrors: Mirrors | None = None
    """Where git's copies are bounded: in a server."""
    storage: Storage | None = None
    """Where bytes in etcd are bounded: in a server, and in `ingest`."""

    def copies(self, config: RepositoryConfig, *, fetch: bool) -> AbstractAsyncContextManager[None]:
        """For the time of a question, or of a fetch and what is read of it: git's copies stay where they are."""
        if self.mirrors is None or not isinstance(config.source, GitSource):
            return contextlib.nullcontext()
        return self.mirrors.using(config.key) if fetch else self.mirrors.asking(config.key)


Served = Mapping[str, Mapping[Key, int]]
"""Package name -> its served objects' keys and mod revisions."""


class Sync:
    """One sync of one repository: brings what is served in step with the source. Run once.

    claim: asked for the right to write, only when there is something to write.
    on_change: awaited before the source is read, when it is not what is served.
    doubtful: the last sync failed; see DOUBTED_AT_ONCE.
    said: digest that the repository's status speaks of. Another than that of what is served (a process died between
    the two): the source is read again, for status to be right. None: whatever it says is fine.
    """

    _claim: Claim
    _catalog: Catalog
    _served: Served

    def __init__(
        self,
        config: RepositoryConfig,
        source: Source,
        claim: Callable[[], Awaitable[Claim]],
        rooms: SyncServices,
        *,
        progress: Progress,
        on_change: Callable[[], Awaitable[None]],
        doubtful: bool = False,
        said: str | None = None,
    ) -> None:
        self._config = config
        self._key = config.key
        self._source = source
        self._may_write = claim
        self._rooms = rooms
        self._store, self._blobs = rooms.store, rooms.blobs
        self._progress = progress
        self._on_change = on_change
        self._doubtful = doubtful
        self._said = said
        self._report = SyncReport(config.key)
        self._budget = _Budget(rooms.timeout_s)
        self._state: IngestState | None = None
        self._done = 0

    async def run(self) -> SyncReport:
        """What was done. Raises: SourceError, CatalogError, EtcdError (LeaseLostError among them); nothing is lost,
        the next sync repeats."""
        started = time.monotonic()
        report, settings = self._report, _settings(self._config, self._rooms.release)
        self._state = await self._store.read_state(self._key)
        digest = await self._ask()
        same = self._state is not None and (self._state.digest, self._state.settings) == (digest, settings)
        if same and self._said in (None, digest):
            report.digest = digest
        else:
            self._claim = await self._may_write()
            await self._on_change()
            async with self._scratch() as scratch, self._rooms.copies(self._config, fetch=True):
                await self._read(scratch)
        report.elapsed_s = time.monotonic() - started
        labels = (self._key.namespace, self._key.name, report.outcome.value)
        metrics.sync_seconds.labels(*labels).observe(report.elapsed_s)
        return report

    async def _ask(self) -> str:
        """The source's digest."""
        rooms, asking = self._rooms, "asking the source whether it changed"
        if not isinstance(self._config.source, GitSource):
            async with self._budget.spent(asking):
                return await self._source.probe()
        turn = (rooms.doubted if self._doubtful else rooms.asking).turn(self._key)
        async with turn, rooms.copies(self._config, fetch=False), self._budget.spent(asking):
            return await self._source.probe()

    # --- read ---

    @asynccontextmanager
    async def _scratch(self) -> AsyncIterator[Path]:
        scratch = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=self._rooms.scratch, prefix=f"{self._key.name}-"))
        try:
            yield scratch
        finally:
            # Shielded: a cancelled sync must not leave a catalog's worth of files behind.
            try:
                await asyncio.shield(asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True))
            finally:
                self._rooms.scratch_space.drop(scratch)

    async def _read(self, scratch: Path) -> None:
        """Fetch, parse, judge, apply, remember."""
        rooms, config = self._rooms, self._config
        await asyncio.to_thread((scratch / "tree").mkdir)
        async with contextlib.AsyncExitStack() as applying:
            async with rooms.fetching.turn(config.key) as fetched:
                await rooms.scratch_space.wait()
                async with self._budget.spent("fetching the source"):
                    tree = await self._source.fetch(scratch / "tree", self._progress)
                applying.push_async_callback(tree.aclose)
                fetched()
                await rooms.scratch_space.hold(scratch)
                # Within: else all repositories there are would lie fetched on disk, waiting for their turn.
                await applying.enter_async_context(rooms.applying.turn(config.key))
            await applying.enter_async_context(self._budget.spent("reading and applying the catalog"))
            catalog = await self._parse(tree, await self._known(), scratch / "parsed")
            if await self._is_incomplete(catalog):
                catalog = await self._parse(tree, b"", scratch / "parsed-anew")
            await tree.aclose()  # for what follows, git's process is not needed
            index, documents = await self._take(catalog, tree.digest, scratch)
            await count_served(self._report, self._store)
            done = IngestState(tree.digest, index, _settings(config, rooms.release), documents)
            await self._store.put_state(self._claim, config.key, done)

    async def _parse(self, tree: Tree, known: bytes, scratch: Path) -> Catalog:
        return await parse(
            tree,
            self._config.format,
            self._key,
            self._rooms.workers,
            known=known,
            scratch=scratch,
            progress=self._progress,
        )

    async def _known(self) -> bytes:
        """The index of the last complete sync; empty when there is none that fits, so that everything is compared."""
        state = self._state
        if state is None or not state.index or not _fits(state, self._config, self._rooms.release):
            return b""
        try:
            return b"".join([piece async for piece in self._blobs.read(Digest(state.index))])
        except BlobMissingError as exc:
            log.warning(
                "the index of the last sync is not in etcd; everything is read again",
                extra={"repository": self._key.name, "error": str(exc)},
            )
            return b""

    async def _is_incomplete(self, catalog: Catalog) -> bool:
        """Whether content that was not read again, for it was known, is not in the store: somebody deleted it."""
        wanted = {digest for package in catalog.packages for record in package.records for digest in record.blobs}
        if catalog.documents is not None:
            wanted.add(catalog.documents)
        return bool(await self._blobs.absent(wanted - catalog.blobs.keys()))

    async def _take(self, catalog: Catalog, digest: str, scratch: Path) -> tuple[str, str]:
        """Serve what the catalog says, or hold what is served; returns the digests of the index that fits and of the
        documents of no package, if any."""
        report, state = self._report, self._state
        self._catalog, self._served = catalog, await self._store.served_keys(self._key)
        report.digest, report.findings = digest, catalog.findings
        report.rejected, report.unreadable = catalog.rejected, catalog.unreadable
        report.ignored_tags = catalog.ignored_tags
        refusal = _refusal(self._config, catalog, self._served)
        if refusal is not None:
            report.outcome, (report.reason, report.message) = Outcome.HELD, refusal
            # What another release makes is written by a sync that knows nothing yet; a refused one wrote nothing.
            fits = state is not None and _fits(state, self._config, self._rooms.release)
            return (state.index if state and fits else ""), (state.documents if state else "")
        storage, gone, reserved = self._rooms.storage, self._gone(), None
        if storage is not None and (catalog.packages or gone or catalog.documents in catalog.blobs):
            # A full etcd takes no note, and refuses the puts as well; what the sync takes away is to go all the same.
            with contextlib.suppress(NoSpace):
                reserved = await storage.reserve(self._claim, self._key, catalog, gone, digest)
        report.outcome = Outcome.APPLIED
        await self._apply(gone)
        if storage is not None and reserved is not None:
            await storage.finished(self._claim, self._key, reserved)
        index = await self._blobs.put_bytes(catalog.index, "application/octet-stream", scratch)
        return index, await self._kept(catalog)

    async def _kept(self, catalog: Catalog) -> str:
        """The digest of the documents of no package, which are in the store now; empty where there are none."""
        if catalog.documents is None:
            return ""
        if await self._blobs.keep([catalog.documents]):
            if catalog.documents not in catalog.blobs:
                raise BlobMissingError(f"content {catalog.documents} went while it was referred to")
            await self._blobs.put(catalog.blobs[catalog.documents])
        return catalog.documents

    # --- apply ---

    async def _apply(self, gone: Sequence[str]) -> None:
        self._report.unchanged += sum(len(self._served.get(name, ())) for name in self._catalog.unchanged)
        if not self._catalog.packages and not gone:
            return
        # From here on the index of the last sync no longer tells what is served: if this sync does not finish, the next
        # one must not take a package for unchanged that was half written. A delete, since a full etcd takes that.
        await self._store.put_state(self._claim, self._key, None)
        try:
            await in_parallel(self._catalog.packages, self._package, width=PACKAGES_AT_ONCE)
        except NoSpace:
            await in_parallel(gone, self._remove, width=PACKAGES_AT_ONCE)  # what makes room is not held up
            raise
        await in_parallel(gone, self._remove, width=PACKAGES_AT_ONCE)

    def _gone(self) -> list[str]:
        """Packages that the catalog no longer has. While a file could not be read nobody knows, so none."""
        if self._catalog.unreadable:
            return []
        here = {package.name for package in self._catalog.packages}
        return sorted(self._served.keys() - here - set(self._catalog.unchanged) - self._catalog.rejected.keys())

    async def _package(self, package: ParsedPackage) -> None:
        """Content, then revisions, then the package, then its revisions that went."""
        read = await self._store.read_package(self._key, package.name) if package.name in self._served else {}
        await self._content(package, read.values())
        here = await self._in_place(package, read.values())
        *revisions, last = package.records
        names = {record.name for record in package.records}
        losing = await self._without_old_latest(revisions, here, names)
        others = [record for record in revisions if record.name not in losing]
        await in_parallel(others, lambda record: self._put(record, here), width=_WRITES_AT_ONCE)
        await self._put(last, here)
        obsolete = [stored for name, stored in here.items() if name not in names]
        await in_parallel(obsolete, self._delete, width=_WRITES_AT_ONCE)
        self._done += 1
        self._progress("write", self._done, len(self._catalog.packages))

    async def _in_place(self, package: ParsedPackage, read: Iterable[Stored]) -> dict[str, Stored]:
        """Each served object by its name, none of them under the key that a record of another name is to have.

        Releases before key and name were one kept a bundle under its own name. Such an object moves to its key when it
        is put; only what is under another's key, or there twice, has to go first.
        """
        home = {record.key: record.name for record in package.records}
        here: dict[str, Stored] = {}
        in_the_way: list[Stored] = []
        # The one under its own key counts, else the latest.
        for stored in sorted(read, key=lambda each: (each.key.name != each.name, -each.mod_revision)):
            if stored.name in here or home.get(stored.key, stored.name) != stored.name:
                in_the_way.append(stored)
            else:
                here[stored.name] = stored
        await in_parallel(in_the_way, self._delete, width=_WRITES_AT_ONCE)
        return here

    async def _without_old_latest(
        self, revisions: Sequence[Record], here: dict[str, Stored], names: set[str]
    ) -> set[str]:
        """Take the label from every revision that is not the latest any more; returns the names of those put so.

        The package is told last, as ever: for a moment it names the latest of before, which is still there.
        """
        latest = {record.name for record in revisions if LABEL_LATEST in record.labels}
        had = {name for name, stored in here.items() if name not in latest and stored.has_label(LABEL_LATEST)}
        losing = [record for record in revisions if record.name in had]
        await in_parallel(losing, lambda record: self._put(record, here), width=_WRITES_AT_ONCE)
        for name in had - names:  # it goes, but only after the package stopped naming it
            here[name] = await self._store.unlabel(self._claim, here[name], LABEL_LATEST)
        return had & names

    async def _content(self, package: ParsedPackage, served: Iterable[Stored]) -> None:
        wanted = {digest for record in package.records for digest in record.blobs}
        referenced = {digest for stored in served for digest in stored.blobs()}
        here = self._catalog.blobs
        absent = await self._blobs.keep(wanted - referenced)
        absent |= await self._blobs.absent(wanted & referenced & here.keys())  # deleted by hand
        if lost := absent - here.keys():
            raise BlobMissingError(f"content {min(lost)} went while it was referred to; the next sync reads it again")
        await in_parallel([here[d] for d in sorted(absent)], self._blobs.put, width=_WRITES_AT_ONCE)

    async def _put(self, record: Record, here: Mapping[str, Stored]) -> None:
        previous = here.get(record.name)
        if await self._store.put(self._claim, record, previous) is None:
            self._report.unchanged += 1
            return
        if previous is None:
            self._report.added += 1
        else:
            self._report.changed += 1
        metrics.writes.labels("put").inc()

    async def _remove(self, package: str) -> None:
        count = await _remove_package(self._key, package, self._claim, self._store)
        self._report.deleted += count  # read after the wait, not before: others count meanwhile

    async def _delete(self, stored: Stored) -> None:
        await self._store.delete(self._claim, stored)
        self._report.deleted += 1
        metrics.writes.labels("delete").inc()


class _Budget:
    """The time that one sync may work. Time that it waits for a place is not spent."""

    def __init__(self, seconds: float) -> None:
        self._all = self._left = seconds

    @asynccontextmanager
    async def spent(self, doing: str) -> AsyncIterator[None]:
        """doing: completes the message of SyncTooLongError, which this raises."""
        began = time.monotonic()
        limit = asyncio.timeout(self._left)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            told = f"the sync worked for {self._all:.0f} s (--sync-timeout) and was ended while {doing}"
            raise SyncTooLongError(told) from None
        finally:
            self._left = max(0.0, self._left - (time.monotonic() - began))


async def count_served(report: SyncReport, store: Store) -> None:
    """Fill in how many packages and revisions are served now."""
    report.packages, report.revisions = await store.count_served(report.repository)


def _settings(config: RepositoryConfig, release: str) -> str:
    """What else than the source decides the outcome: when it changes, the source is read again."""
    emptied = "allow" if config.allow_empty else "keep"
    return f"{_made(config, release)}{config.validation}/{config.source}/{emptied}-empty"


def _made(config: RepositoryConfig, release: str) -> str:
    return f"{release}/{config.format or 'Auto'}/"


def _fits(state: IngestState, config: RepositoryConfig, release: str) -> bool:
    """Whether the state's index speaks of objects as this release makes them, in this format."""
    return state.settings.startswith(_made(config, release))


def _refusal(config: RepositoryConfig, catalog: Catalog, served: Served) -> tuple[str, str] | None:
    """(reason, message) when the catalog must not replace what is served."""
    if config.validation is Validation.STRICT and (catalog.rejected or catalog.unreadable):
        first = next(finding for finding in catalog.findings if not finding.warning)
        return "CatalogRefused", (
            f"validation is Strict and {len(catalog.rejected)} packages are rejected, first because: {first.message}; "
            "fix the catalog, or set validation to Isolate to serve the rest"
        )
    empty = not catalog.packages and not catalog.unchanged and not catalog.rejected and not catalog.unreadable
    if empty and served and not config.allow_empty:
        return "CatalogEmpty", (
            f"the source holds no package any more; the {len(served)} packages served before stay. "
            'If that is meant, annotate the repository cacheserver.dev/allow-empty: "true" (or set --allow-empty)'
        )
    return None


async def _remove_package(repository: RepositoryKey, package: str, claim: Claim, store: Store) -> int:
    """The package first: nobody may see it naming revisions that are gone. Returns how many objects went."""
    objects = await store.read_package(repository, package)
    ordered = sorted(objects.values(), key=lambda stored: stored.key.kind is not Kind.PACKAGE)
    for stored in ordered[:1]:
        await store.delete(claim, stored)
    await in_parallel(ordered[1:], lambda stored: store.delete(claim, stored), width=_WRITES_AT_ONCE)
    metrics.writes.labels("delete").inc(len(ordered))
    return len(ordered)


async def forget(repository: RepositoryKey, claim: Claim, store: Store) -> int:
    """Stop serving a repository: its packages, its revisions, itself. Returns how many objects went.

    Cut short, it leaves nothing that a sync would take for complete: what was seen is forgotten first of all.
    """
    await store.put_state(claim, repository, None)
    count = 0

    async def remove(package: str) -> None:
        nonlocal count
        removed = await _remove_package(repository, package, claim, store)
        count += removed  # read after the wait, not before: others count meanwhile

    await in_parallel(sorted(await store.served_keys(repository)), remove, width=PACKAGES_AT_ONCE)
    itself = await store.read_object(Key(Kind.REPOSITORY, repository.namespace, repository.name))
    if itself is not None:
        await store.delete(claim, itself)
        count += 1
    return count
