"""What the last finished sync of each FBC repository left: its packages with their documents, for doors.

    published/<namespace>/<repository>    zstd of JSON, some 50 bytes a package

One key a repository, replaced as a whole, so who reads it never sees a sync half done. What it refers to is content
that stays as long as it stands (Store.referenced_blobs). Written by ingest (ingest/published.py), followed by every
replica (compat/catalogs.py). Knows neither documents nor doors.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, Literal

import orjson
import zstandard

from cacheserver.errors import LeaseLostError
from cacheserver.etcd.client import Client, Delete, Put
from cacheserver.model import Digest, RepositoryKey
from cacheserver.slotted import slotted
from cacheserver.store.claims import Claim, persist
from cacheserver.store.keys import PUBLISHED, component_of, joined

VALUE_BYTES: Final = 1 << 20
"""Of one record, packed. Ours: two thirds of what etcd takes in a request (1.5 MiB, --max-request-bytes); about 20,000
packages, where the largest catalog there is has 300."""
_UNPACKED_BYTES: Final = 32 << 20
"""Of a record as JSON; one of VALUE_BYTES has 3 MB."""
_INLINE_BYTES: Final = 64 << 10
"""Of a record, packed, that is decoded on the event loop: 1,600 packages, 4 ms; one of VALUE_BYTES takes 60."""


@slotted(frozen=True)
class PublishedPackage:
    """documents: of the blob with its documents, a line of JSON each. size: its bytes, unpacked; count: documents."""

    name: str
    documents: Digest
    size: int
    count: int


@slotted(frozen=True)
class PublishedCatalog:
    """What one finished sync left.

    revision: over names and documents: equal content has equal revisions. changed: Unix time in whole seconds; grows by
    at least 1 with each other revision, the same in every replica and after restarts. packages: by name, none twice.
    others: of the blob with the documents of no package; empty where there are none.
    """

    key: RepositoryKey
    revision: Digest
    changed: int
    packages: Sequence[PublishedPackage]
    others: Digest | Literal[""] = ""

    @property
    def blobs(self) -> set[Digest]:
        """What has to stay in the store for it."""
        return {package.documents for package in self.packages} | ({Digest(self.others)} if self.others else set())


@slotted(frozen=True)
class Record:
    """A catalog as it is stored: small, and read (decode) by who needs it. value: None: nothing is published."""

    key: RepositoryKey
    value: bytes | None


class Published:
    """See the module. Safe to share between tasks."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def read(self, key: RepositoryKey) -> PublishedCatalog | None:
        """What the last finished sync left, if it left anything. Raises: EtcdError."""
        found = (await self._client.range(_key(key))).key_values
        return await decoded(key, found[0].value) if found else None

    async def write(self, claim: Claim, catalog: PublishedCatalog) -> bool:
        """Replace what is there. False: the record would be over VALUE_BYTES; then nothing is published any more.

        Raises: LeaseLostError, NoSpace, Unavailable.
        """
        value = encode(catalog)
        fits = len(value) <= VALUE_BYTES
        await self._put(claim, Put(_key(catalog.key), value) if fits else Delete(_key(catalog.key)))
        return fits

    async def forget(self, claim: Claim, key: RepositoryKey) -> None:
        """Nothing is published of the repository any more. Raises: LeaseLostError, Unavailable."""
        await self._put(claim, Delete(_key(key)))

    async def _put(self, claim: Claim, operation: Put | Delete) -> None:
        if not (await persist(lambda: self._client.txn([claim.fence], [operation]))).succeeded:
            raise LeaseLostError(claim.lost_message)

    async def everything(self) -> tuple[Mapping[RepositoryKey, bytes], int]:
        """The value of every record, and the revision of etcd that this is true of. Raises: EtcdError."""
        found: dict[RepositoryKey, bytes] = {}
        revision = 0
        async for page in self._client.pages(PUBLISHED):
            revision = page.revision
            found.update((_repository(kv.key), kv.value) for kv in page.key_values)
        return found, revision

    @asynccontextmanager
    async def follow(self, after: int) -> AsyncIterator[AsyncIterator[Sequence[Record]]]:
        """Records that came, changed or went behind a revision of etcd, live; in order, each as it became.

        Raises: Compacted, Unavailable, also while iterating: begin again with everything().
        """

        async def each() -> AsyncIterator[Sequence[Record]]:
            async for batch in watch:
                if batch.events:
                    yield [Record(_repository(event.key), event.value) for event in batch.events]

        async with self._client.watch(PUBLISHED, start_revision=after + 1) as watch:
            yield each()


def revision_of(packages: Sequence[PublishedPackage], others: str) -> Digest:
    """Over names and documents; see PublishedCatalog."""
    hashed = hashlib.sha256(others.encode())
    for package in packages:
        hashed.update(f"\n{package.name}\0{package.documents}".encode())
    return Digest(f"sha256:{hashed.hexdigest()}")


def encode(catalog: PublishedCatalog) -> bytes:
    """As it is stored: equal catalogs give equal bytes."""
    packages = [(one.name, _hex(one.documents), one.size, one.count) for one in catalog.packages]
    said = {
        "revision": catalog.revision,
        "changed": catalog.changed,
        "others": catalog.others,
        "packages": packages,
    }
    return zstandard.ZstdCompressor(level=3).compress(orjson.dumps(said))


def decode(key: RepositoryKey, value: bytes) -> PublishedCatalog:
    """encode, backwards."""
    raw = orjson.loads(zstandard.ZstdDecompressor().decompress(value, max_output_size=_UNPACKED_BYTES))
    packages = tuple(
        PublishedPackage(name, Digest(f"sha256:{documents}"), size, count)
        for name, documents, size, count in raw["packages"]
    )
    return PublishedCatalog(key, Digest(raw["revision"]), raw["changed"], packages, raw["others"])


async def decoded(key: RepositoryKey, value: bytes) -> PublishedCatalog:
    """decode, in a thread where that takes long."""
    return decode(key, value) if is_small(value) else await asyncio.to_thread(decode, key, value)


def is_small(value: bytes) -> bool:
    """Whether decoding it takes so little that nobody else has to wait for it."""
    return len(value) <= _INLINE_BYTES


def size_of(names: Iterable[str]) -> int:
    """Bytes of the record of packages with these names, about: never far below."""
    return 256 + sum(len(name) + 48 for name in names)


def _hex(digest: Digest) -> str:
    return digest.removeprefix("sha256:")


def _key(key: RepositoryKey) -> bytes:
    return PUBLISHED + joined(key.namespace, key.name)


def _repository(key: bytes) -> RepositoryKey:
    namespace, name = key.removeprefix(PUBLISHED).split(b"/")
    return RepositoryKey(component_of(namespace), component_of(name))
