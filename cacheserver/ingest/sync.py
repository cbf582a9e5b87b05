"""One sync of one repository: has its source changed? Fetch, parse, judge, apply; then remember the digest, last.

So a crash repeats work and never skips it. What is written in which order is apply.py's; when to sync, and what its
failure means, is life.py's, which calls this.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import field, replace
from enum import Enum
from pathlib import Path
from typing import Final, NoReturn

import orjson

from cacheserver import catalogs, metrics
from cacheserver.catalogs import Catalog, Finding, Manifests, parse
from cacheserver.catalogs.summary import clip, counted
from cacheserver.catalogs.workers import Workers
from cacheserver.config import Door, RepositoryConfig, Validation
from cacheserver.config.sources import DirectorySource, GitSource
from cacheserver.errors import BlobMissingError, NoSpace, SyncTooLongError
from cacheserver.ingest.apply import Apply, Served, Writes
from cacheserver.ingest.disk import Mirrors, ScratchSpace
from cacheserver.ingest.published import Publication
from cacheserver.ingest.shares import Shares
from cacheserver.ingest.shown import WITH_MANIFESTS, show, shown_by
from cacheserver.ingest.storage import Storage
from cacheserver.model import (
    ANNOTATION_ALLOW_EMPTY,
    ANNOTATION_DISPLAY_NAME,
    ANNOTATION_PUBLISHER,
    OBJECT_VERSION,
    Digest,
    Format,
    RepositoryKey,
)
from cacheserver.slotted import slotted
from cacheserver.sources import FETCHING, Progress, Source, Tree
from cacheserver.store.blobs import Blobs
from cacheserver.store.claims import Claim
from cacheserver.store.journal import FOR_S, Telling
from cacheserver.store.keys import IngestState
from cacheserver.store.objects import Store

log = logging.getLogger(__name__)

_NAME_CHARACTERS: Final = 256  # of a catalog's names for people: they are in each of its packages
_SHORT_DIGEST: Final = 16


class Outcome(Enum):
    """How a sync ended that did not fail."""

    UNCHANGED = "unchanged"
    """The source has the digest that is served."""
    APPLIED = "applied"
    """What is served is what the source says, rejected packages apart."""
    HELD = "held"
    """The source was read and refused as a whole; what was served stays."""


@slotted()
class SyncReport:
    """What one sync did. Counts are of served objects (packages and revisions); `rejected` by package name;
    `ignored_tags`: tags of a git repository that name no package (KRM).

    cause: as Catalog's: why some file could not be read; None of an UNCHANGED sync.
    reason, message: why it was held, for people; empty otherwise. rejected_before: of an UNCHANGED sync, how many
    packages the sync before it rejected, where `recall` (status.py) was asked.
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
    cause: Finding | None = None
    unreadable: bool = False
    ignored_tags: int = 0
    reason: str = ""
    message: str = ""
    elapsed_s: float = 0.0
    rejected_before: int = 0

    @property
    def all_rejected(self) -> int:
        """Packages of the source that are not served as they are in it."""
        return len(self.rejected) or self.rejected_before

    @property
    def written(self) -> int:
        """Objects that the sync put or deleted."""
        return self.added + self.changed + self.deleted

    def count(self, writes: Writes) -> None:
        """Take over what was written."""
        self.added, self.changed = writes.added, writes.changed
        self.deleted, self.unchanged = writes.deleted, writes.unchanged


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


@slotted(frozen=True)
class SyncServices:
    """What a sync works with. release: see RELEASE. from_cluster: Repositories are objects of a cluster."""

    store: Store
    blobs: Blobs
    workers: Workers
    scratch: Path
    release: str = RELEASE
    timeout_s: float = SYNC_TIMEOUT_S
    from_cluster: bool = False
    keep_changes_s: float = FOR_S
    asking: Shares = field(default_factory=lambda: Shares(ASKS_AT_ONCE - SLOW_AT_ONCE, SLOW_AT_ONCE))
    doubted: Shares = field(default_factory=lambda: Shares(DOUBTED_AT_ONCE, SLOW_AT_ONCE))
    fetching: Shares = field(default_factory=lambda: Shares(FETCHES_AT_ONCE - SLOW_AT_ONCE, SLOW_AT_ONCE))
    applying: Shares = field(default_factory=lambda: Shares(APPLIES_AT_ONCE, SLOW_AT_ONCE))
    scratch_space: ScratchSpace = field(default_factory=lambda: ScratchSpace(SCRATCH_BYTES))
    mirrors: Mirrors | None = None
    """Where git's copies are bounded: in a server."""
    storage: Storage | None = None
    """Where bytes in etcd are bounded: in a server, and in `ingest`."""

    def copies(
        self, config: RepositoryConfig, *, fetch: bool
    ) -> AbstractAsyncContextManager[Callable[[int], None] | None]:
        """For the time of a question, or of a fetch and what is read of it: git's copies stay where they are. What
        comes is as Mirrors.using has it, where they are bounded."""
        if self.mirrors is None or not isinstance(config.source, GitSource):
            return contextlib.nullcontext()
        return self.mirrors.using(config.key) if fetch else self.mirrors.asking(config.key)


class Sync:
    """One sync of one repository: brings what is served in step with the source. Run once.

    claim: asked for the right to write, only when there is something to write.
    on_change: awaited before the source is read, when it is not what is served.
    doubtful: the last sync failed; see DOUBTED_AT_ONCE.
    said: digest that the repository's status speaks of. Another than that of what is served (a process died between
    the two): the source is read again, for status to be right. None: whatever it says is fine.
    only_deletes: packages that the source has no more go, and nothing is put; then NoSpace is raised, for the rest is
    still to be done. What is to be written needs a claim, which a full etcd may not grant (shrinking.py).
    """

    _claim: Claim
    _catalog: Catalog
    _served: Served

    def __init__(
        self,
        config: RepositoryConfig,
        source: Source,
        claim: Callable[[], Awaitable[Claim]],
        services: SyncServices,
        *,
        progress: Progress,
        on_change: Callable[[], Awaitable[None]],
        doubtful: bool = False,
        said: str | None = None,
        only_deletes: bool = False,
    ) -> None:
        self._config = config
        self._key = config.key
        self._source = source
        self._may_write = claim
        self._services = services
        self._store, self._blobs = services.store, services.blobs
        self._progress = progress
        self._on_change = on_change
        self._doubtful = doubtful
        self._said = said
        self._only_deletes = only_deletes
        self._report = SyncReport(config.key)
        self._budget = _Budget(services.timeout_s)
        self._state: IngestState | None = None
        self._telling: Telling | None = None

    async def run(self) -> SyncReport:
        """What was done. Raises: SourceError, CatalogError, EtcdError (LeaseLostError among them); nothing is lost,
        the next sync repeats."""
        started = time.monotonic()
        report, settings = self._report, _settings(self._config, self._services.release)
        if self._only_deletes:
            self._state = await self._store.read_state(self._key)
        else:
            self._state = await tell_doors(self._config, self._may_write, self._services)
        digest = await self._ask()
        same = self._state is not None and (self._state.digest, self._state.settings) == (digest, settings)
        if same and self._said in (None, digest):
            report.digest = digest
            if self._state is not None and not self._state.published and not self._only_deletes:
                await self._publish_as_served(self._state)
        else:
            self._claim = await self._may_write()
            await self._on_change()
            async with self._scratch() as scratch, self._services.copies(self._config, fetch=True) as bring:
                await self._read(scratch, self._brings(bring))
        report.elapsed_s = time.monotonic() - started
        labels = (self._key.namespace, self._key.name, report.outcome.value)
        metrics.sync_seconds.labels(*labels).observe(report.elapsed_s)
        return report

    async def _ask(self) -> str:
        """The source's digest."""
        services, asking = self._services, "asking the source whether it changed"
        if not isinstance(self._config.source, GitSource):
            async with self._budget.spent(asking):
                return await self._source.probe()
        turn = (services.doubted if self._doubtful else services.asking).turn(self._key)
        async with turn, services.copies(self._config, fetch=False), self._budget.spent(asking):
            return await self._source.probe()

    # --- read ---

    @asynccontextmanager
    async def _scratch(self) -> AsyncIterator[Path]:
        scratch = Path(
            await asyncio.to_thread(tempfile.mkdtemp, dir=self._services.scratch, prefix=f"{self._key.name}-")
        )
        try:
            yield scratch
        finally:
            # Shielded: a cancelled sync must not leave a catalog's worth of files behind.
            try:
                await asyncio.shield(asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True))
            finally:
                self._services.scratch_space.drop(scratch)

    def _brings(self, bring: Callable[[int], None] | None) -> Progress:
        """Told of a fetch's progress: the shared bound on git's copies counts it while it is under way."""
        if bring is None:
            return self._progress

        def tell(what: str, done: int, total: int) -> None:
            self._progress(what, done, total)
            if what == FETCHING:
                bring(done)

        return tell

    async def _read(self, scratch: Path, progress: Progress) -> None:
        """Fetch, parse, judge, apply, remember."""
        services, config = self._services, self._config
        await asyncio.to_thread((scratch / "tree").mkdir)
        async with contextlib.AsyncExitStack() as applying:
            async with services.fetching.turn(config.key) as fetched:
                await services.scratch_space.begin(scratch)
                if not isinstance(config.source, DirectorySource):  # there at once: workers are started as jobs come
                    # While it is fetched; how most who have such a source use it, where the format is not said.
                    likely = Format.KRM if isinstance(config.source, GitSource) else Format.FBC
                    await services.workers.prepare(config.format or likely)
                async with self._budget.spent("fetching the source"):
                    tree = await self._source.fetch(scratch / "tree", progress)
                applying.push_async_callback(tree.aclose)
                fetched()
                await services.scratch_space.hold(scratch)
                # Within: else all repositories there are would lie fetched on disk, waiting for their turn.
                await applying.enter_async_context(services.applying.turn(config.key))
            await applying.enter_async_context(self._budget.spent("reading and applying the catalog"))
            catalog = await self._parse(tree, await self._known(), scratch / "parsed")
            if await self._is_incomplete(catalog):
                catalog = await self._parse(tree, b"", scratch / "parsed-anew")
            await tree.aclose()  # for what follows, git's process is not needed
            index, documents = await self._take(catalog, tree.digest, scratch)
            await count_served(self._report, self._store)
            published = await self._publish(documents)
            settings, shown = _settings(config, services.release), shown_by(config)
            done = IngestState(tree.digest, index, settings, documents, published, shown)
            counts = self._report.packages, self._report.revisions
            told = await self._telling.ended(*counts) if self._telling is not None else ()
            await self._store.put_state(self._claim, config.key, done, told)

    async def _publish(self, documents: str) -> bool:
        """Let doors show what is served now; returns what is to be remembered of that."""
        if self._report.outcome is Outcome.HELD:
            # What is served may be half of a sync that was cut short. It stays, and so does what was published.
            return self._state is None or self._state.published
        publication = Publication(self._store, self._blobs, self._claim)
        await publication.write(self._key, documents, self._catalog.measures)
        return True

    async def _publish_as_served(self, state: IngestState) -> None:
        """Once after an upgrade from a release that did not publish, of a source that did not change meanwhile."""
        self._claim = await self._may_write()
        try:
            await Publication(self._store, self._blobs, self._claim).write(self._key, state.documents)
        except BlobMissingError:
            await self._store.put_state(self._claim, self._key, None)  # the next look reads the source again
            raise
        await self._store.put_state(self._claim, self._key, replace(state, published=True))

    async def _parse(self, tree: Tree, known: bytes, scratch: Path) -> Catalog:
        return await parse(
            tree,
            self._config.format,
            self._key,
            self._services.workers,
            known=known,
            scratch=scratch,
            progress=self._progress,
            manifests=_manifests(self._config),
        )

    async def _known(self) -> bytes:
        """The index of the last complete sync; empty when there is none that fits, so that everything is compared."""
        state = self._state
        if state is None or not state.index or not _fits(state, self._config, self._services.release):
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
        report.rejected, report.cause, report.unreadable = catalog.rejected, catalog.cause, catalog.unreadable
        report.ignored_tags = catalog.ignored_tags
        refusal = _refusal(self._config, catalog, await self._read_from_source())
        if self._only_deletes:
            await self._make_room([] if refusal else self._gone())
        if refusal is not None:
            report.outcome, (report.reason, report.message) = Outcome.HELD, refusal
            # What another release makes is written by a sync that knows nothing yet; a refused one wrote nothing.
            fits = state is not None and _fits(state, self._config, self._services.release)
            return (state.index if state and fits else ""), (state.documents if state else "")
        storage, gone, reserved = self._services.storage, self._gone(), None
        if storage is not None and (catalog.packages or gone or catalog.documents in catalog.blobs):
            # A full etcd takes no note, and refuses the puts as well; what the sync takes away is to go all the same.
            with contextlib.suppress(NoSpace):
                reserved = await storage.reserve(self._claim, self._key, catalog, gone, digest)
        report.outcome = Outcome.APPLIED
        apply = Apply(self._config, catalog, self._served, self._claim, self._store, self._blobs, self._progress)
        self._telling = await apply.run(gone, complete=self._state is not None)
        report.count(apply.writes)
        if storage is not None and reserved is not None:
            await storage.finished(self._claim, self._key, reserved)
        index = await self._blobs.put_bytes(catalog.index, "application/octet-stream", scratch)
        return index, await self._kept(catalog)

    async def _make_room(self, gone: Sequence[str]) -> NoReturn:
        """Raises: NoSpace, when these are deleted; EtcdError."""
        apply = Apply(self._config, self._catalog, self._served, self._claim, self._store, self._blobs, self._progress)
        await apply.only_remove(gone, complete=self._state is not None)
        raise NoSpace(f"{counted(apply.writes.deleted, 'object')} went; what is new waits until there is room for it")

    async def _read_from_source(self) -> Served:
        """What is served, less packages of which there are but drafts that were made here."""
        if not self._config.writable:
            return self._served
        drafts = await self._store.authored.drafts(self._key)
        return {name: keys for name, keys in self._served.items() if keys.keys() - drafts.keys()}

    async def _kept(self, catalog: Catalog) -> str:
        """The digest of the documents of no package, which are in the store now; empty where there are none."""
        if catalog.documents is None:
            return ""
        if await self._blobs.keep([catalog.documents]):
            if catalog.documents not in catalog.blobs:
                raise BlobMissingError(f"content {catalog.documents} went while it was referred to")
            await self._blobs.put(catalog.blobs[catalog.documents])
        return catalog.documents

    def _gone(self) -> list[str]:
        """Packages that the catalog no longer has. While a file could not be read nobody knows, so none."""
        if self._catalog.unreadable:
            return []
        here = {package.name for package in self._catalog.packages}
        return sorted(self._served.keys() - here - set(self._catalog.unchanged) - self._catalog.rejected.keys())


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
            message = f"the sync worked for {self._all:.0f} s (--sync-timeout) and was ended while {doing}"
            raise SyncTooLongError(message) from None
        finally:
            self._left = max(0.0, self._left - (time.monotonic() - began))


async def tell_doors(
    config: RepositoryConfig, claim: Callable[[], Awaitable[Claim]], services: SyncServices
) -> IngestState | None:
    """What the last sync saw, after doors that watch were told what spec.publish says: they do not wait for a source.

    claim: as Sync's. Raises: EtcdError (LeaseLostError among them).
    """
    state = await services.store.read_state(config.key)
    if state is not None and state.shown == shown_by(config):
        return state
    with contextlib.suppress(NoSpace):  # the next look tries again; what makes room is not held up
        return await show(config, state, await claim(), services.store, from_cluster=services.from_cluster)
    return state


async def count_served(report: SyncReport, store: Store) -> None:
    """Fill in how many packages and revisions are served now."""
    report.packages, report.revisions = await store.count_served(report.repository)


def _settings(config: RepositoryConfig, release: str) -> str:
    """What else than the source decides the outcome: when it changes, the source is read again."""
    emptied = "allow" if config.allow_empty else "begin" if _may_begin_empty(config) else "keep"
    return f"{_made(config, release)}{config.validation}/{config.source}/{emptied}-empty"


def _made(config: RepositoryConfig, release: str) -> str:
    manifests = _manifests(config)
    # What a sync made with manifests is none that a sync without goes on from, nor the other way round: in front, since
    # _fits() looks at how settings begin.
    with_manifests = f"{WITH_MANIFESTS}{_digest_of(manifests)}/" if manifests is not None else ""
    return f"{with_manifests}{release}/{config.format or 'Auto'}/"


def _manifests(config: RepositoryConfig) -> Manifests | None:
    """What PackageManifests of the repository's packages say of it; None where it publishes none."""
    if Door.PACKAGE_MANIFEST not in config.publish:
        return None
    display_name, publisher = (
        config.annotations.get(name, "")[:_NAME_CHARACTERS] for name in (ANNOTATION_DISPLAY_NAME, ANNOTATION_PUBLISHER)
    )
    return Manifests(display_name, publisher, config.labels)


def _digest_of(manifests: Manifests) -> str:
    written = orjson.dumps(manifests, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(written).hexdigest()[:_SHORT_DIGEST]


def _fits(state: IngestState, config: RepositoryConfig, release: str) -> bool:
    """Whether the state's index speaks of objects as this release makes them, in this format."""
    return state.settings.startswith(_made(config, release))


def _may_begin_empty(config: RepositoryConfig) -> bool:
    """Ours: packages are to be written to it, or deployed from it, and are not there yet."""
    return config.deployment or config.writable


def _refusal(config: RepositoryConfig, catalog: Catalog, served: Served) -> tuple[str, str] | None:
    """(reason, message) when the catalog must not replace what is served."""
    if config.validation is Validation.STRICT and (catalog.rejected or catalog.unreadable):
        first = catalog.cause or next(finding for finding in catalog.findings if not finding.warning)
        wrong = f"{counted(len(catalog.rejected), 'package')} rejected" if catalog.rejected else "a file cannot be read"
        place = f"{first.path}:{first.line}: " if first.line else f"{first.path}: " if first.path else ""
        return "CatalogRefused", (
            f"validation is Strict and {wrong}; first: {clip(place, 256)}{clip(first.message, 400)}; "
            "fix the catalog, or set validation to Isolate to serve the rest"
        )
    empty = not catalog.packages and not catalog.unchanged and not catalog.rejected and not catalog.unreadable
    if not empty or config.allow_empty:
        return None
    meant = f'If that is meant, annotate the repository {ANNOTATION_ALLOW_EMPTY}: "true" (or set --allow-empty)'
    if served:
        before = f"what was served before ({counted(len(served), 'package')}) stays"
        return "CatalogEmpty", f"the source holds no package any more; {before}: {catalog.nothing}. {meant}"
    if _may_begin_empty(config):
        return None
    wrong = "Correct the source, its directory or the format"
    return "NoPackages", f"no package found: {catalog.nothing}. {wrong}. {meant}"
