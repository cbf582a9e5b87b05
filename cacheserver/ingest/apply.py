"""Writes a parsed catalog into etcd, only what changed, in the order that readers rely on:

content before the revisions that refer to it, revisions before their package, packages gone before their revisions.
A crash repeats work and never skips it; no reader meets a reference to something absent.
The label of the latest revision is taken away before it is given to another: at most one has it at any moment.
Decides nothing about what is to be served: sync.py does, and calls this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from cacheserver import metrics
from cacheserver.catalogs import Catalog, ParsedPackage
from cacheserver.config import RepositoryConfig
from cacheserver.errors import BlobMissingError, NoSpace
from cacheserver.ingest.authored import AuthoredStore
from cacheserver.ingest.removal import remove_package
from cacheserver.ingest.shown import marked
from cacheserver.model import LABEL_LATEST, Key, Kind, Record, Stored
from cacheserver.slotted import slotted
from cacheserver.sources import Progress
from cacheserver.store.blobs import Blobs
from cacheserver.store.claims import Claim
from cacheserver.store.journal import Telling, Tells, silent
from cacheserver.store.objects import Store
from cacheserver.tasks import in_parallel

PACKAGES_AT_ONCE: Final = 6
"""Each with up to as many writes in flight: about store.PIPELINE in all, as many reads."""
_WRITES_AT_ONCE: Final = 6

Served = Mapping[str, Mapping[Key, int]]
"""Package name -> its served objects' keys and mod revisions."""


@slotted()
class Writes:
    """What an Apply did, in served objects (packages and revisions)."""

    added: int = 0
    changed: int = 0
    deleted: int = 0
    unchanged: int = 0


class Apply:
    """One repository's catalog on its way into etcd. Run once.

    served: what there is now. `writes` counts while run() goes on.
    """

    def __init__(
        self,
        config: RepositoryConfig,
        catalog: Catalog,
        served: Served,
        claim: Claim,
        store: Store,
        blobs: Blobs,
        progress: Progress,
    ) -> None:
        self.writes = Writes()
        self._config = config
        self._tells: Tells = silent
        self._key = config.key
        self._catalog = catalog
        self._served = served
        self._claim = claim
        self._store = store
        # Costs a question more for each write, so only where users may write as well.
        self._writer: Store | AuthoredStore = AuthoredStore(store) if config.writable else store
        self._blobs = blobs
        self._progress = progress
        self._done = 0

    async def run(self, gone: Sequence[str], *, complete: bool = False) -> Telling | None:
        """Write what differs; gone: packages that are to go. Where etcd is full, these go all the same.

        complete: what is served is what an earlier sync saw. Returns who told what was changed, to be asked at the
        sync's end; None where nothing was.
        Raises: EtcdError (NoSpace and LeaseLostError among them), BlobMissingError; the next sync does the rest.
        """
        self.writes.unchanged += sum(len(self._served.get(name, ())) for name in self._catalog.unchanged)
        if not self._catalog.packages and not gone:
            return None
        telling = await self._begin(complete=complete)
        try:
            await in_parallel(self._catalog.packages, self._package, width=PACKAGES_AT_ONCE)
        except NoSpace:
            await in_parallel(gone, self._remove, width=PACKAGES_AT_ONCE)  # what makes room is not held up
            raise
        await in_parallel(gone, self._remove, width=PACKAGES_AT_ONCE)
        return telling

    async def only_remove(self, gone: Sequence[str], *, complete: bool = False) -> None:
        """As run(), of a full etcd that nothing is to be put into: these packages go, and the rest stays as it is.

        Raises: EtcdError.
        """
        if gone:
            await self._begin(complete=complete)
            await in_parallel(gone, self._remove, width=PACKAGES_AT_ONCE)

    async def _begin(self, *, complete: bool) -> Telling:
        # From here on the index of the last sync is no longer what is served: if this sync does not finish, the next
        # one must not take a package for unchanged that was half written. A delete, since a full etcd takes that.
        begun = [name for name, keys in self._served.items() if any(key.kind is Kind.PACKAGE for key in keys)]
        telling, marks = await self._store.journal.begin(self._claim, self._key, set(begun), complete=complete)
        if not await self._store.put_state(self._claim, self._key, None, marks):
            telling.tell_nothing()
        self._tells = telling
        return telling

    async def _package(self, package: ParsedPackage) -> None:
        """Content, then revisions, then the package, then its revisions that went."""
        read = await self._store.read_package(self._key, package.name) if package.name in self._served else {}
        await self._content(package, read.values())
        home = {record.key: record.name for record in package.records}  # making a name takes 6 us: once
        here = await self._in_place(home, read.values())
        *revisions, last = package.records
        last = marked(last, self._config)
        names = set(home.values())
        losing = await self._without_old_latest(revisions, home, here, names)
        others = [record for record in revisions if home[record.key] not in losing]
        await in_parallel(
            others, lambda record: self._put(record, here.get(home[record.key]), names), width=_WRITES_AT_ONCE
        )
        served = here.get(home[last.key])
        if served is None:
            await self._delete_obsolete(here, names)  # left of a package that went; nobody was told of them
        await self._put(last, served, names)
        await self._delete_obsolete(here, names)
        self._done += 1
        self._progress("write", self._done, len(self._catalog.packages))

    async def _in_place(self, home: Mapping[Key, str], read: Iterable[Stored]) -> dict[str, Stored]:
        """Each served object by its name, none of them under the key that a record of another name is to have.

        home: of the records, key and name.

        Releases before key and name were one kept a bundle under its own name. Such an object moves to its key when it
        is put; only what is under another's key, or there twice, has to go first.
        """
        here: dict[str, Stored] = {}
        in_the_way: list[Stored] = []
        # The one under its own key counts, else the latest.
        for stored in sorted(read, key=lambda each: (each.key.name != each.name, -each.mod_revision)):
            if stored.name in here or home.get(stored.key, stored.name) != stored.name:
                in_the_way.append(stored)
            else:
                here[stored.name] = stored
        await in_parallel(in_the_way, lambda stored: self._delete(stored, silent), width=_WRITES_AT_ONCE)
        return here

    async def _delete_obsolete(self, here: dict[str, Stored], names: set[str]) -> None:
        obsolete = [stored for name, stored in here.items() if name not in names]
        await in_parallel(obsolete, lambda stored: self._delete(stored, self._tells), width=_WRITES_AT_ONCE)
        for stored in obsolete:
            del here[stored.name]

    async def _without_old_latest(
        self, revisions: Sequence[Record], home: Mapping[Key, str], here: dict[str, Stored], names: set[str]
    ) -> set[str]:
        """Take the label from every revision that is not the latest any more; returns the names of those put so.

        The package is written last, as ever: for a moment it names the latest of before, which is still there.
        """
        latest = {home[record.key] for record in revisions if LABEL_LATEST in record.labels}
        had = {name for name, stored in here.items() if name not in latest and stored.has_label(LABEL_LATEST)}
        losing = [record for record in revisions if home[record.key] in had]
        await in_parallel(
            losing, lambda record: self._put(record, here[home[record.key]], names), width=_WRITES_AT_ONCE
        )
        for name in had - names:  # it goes, but only after the package stopped naming it
            here[name] = await self._writer.unlabel(self._claim, here[name], LABEL_LATEST)
        return had & names

    async def _content(self, package: ParsedPackage, served: Iterable[Stored]) -> None:
        wanted = {digest for record in package.records for digest in record.blobs}
        referenced = {digest for stored in served for digest in stored.blobs()}
        here = self._catalog.blobs
        absent = await self._blobs.keep(wanted - referenced)
        absent |= await self._blobs.absent(wanted & referenced & here.keys())  # deleted by hand
        if lost := absent - here.keys():
            raise BlobMissingError(f"content {min(lost)} went while it was referred to; the next sync reads it again")
        await self._blobs.put_all([here[digest] for digest in sorted(absent)])

    async def _put(self, record: Record, previous: Stored | None, names: set[str]) -> None:
        """previous: what is served of it. names: of objects that stay; the one that the record got is added."""
        stored = await self._writer.put(self._claim, record, previous, self._tells)
        if stored is None:
            self.writes.unchanged += 1
            return
        names.add(stored.name)
        if previous is None:
            self.writes.added += 1
        else:
            self.writes.changed += 1
        metrics.writes.labels("put").inc()

    async def _remove(self, package: str) -> None:
        count = await remove_package(self._key, package, self._claim, self._store, self._writer, self._tells)
        self.writes.deleted += count  # read after the wait, not before: others count meanwhile

    async def _delete(self, stored: Stored, tells: Tells) -> None:
        if await self._writer.delete(self._claim, stored, tells):
            self.writes.deleted += 1
            metrics.writes.labels("delete").inc()
