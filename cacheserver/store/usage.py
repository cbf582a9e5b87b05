"""What each repository has stored: counted from what is there, and kept beside it, so that all who write see it.

    usage/<namespace>                 changes with every reservation in the namespace: of two at once, one looks again
    usage/<namespace>/<repository>    Usage, as JSON

Called by ingest (storage.py), which knows the caps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, field, replace

import orjson

from cacheserver.errors import LeaseLostError
from cacheserver.etcd.client import Client, Compare, Delete, Put, prefix_end
from cacheserver.model import Digest, Kind, RepositoryKey, blob_references
from cacheserver.slotted import slotted
from cacheserver.store.claims import Claim
from cacheserver.store.keys import CHANGE, USAGE, component, component_of, joined, parse_key, repository_prefix

_CHANGE_BYTES = 1024
"""Of a PackageChange, counted and not measured: one of a real catalog has 500 to 900, with 20 channels 4,000."""


@slotted(frozen=True)
class Usage:
    """Bytes of one repository. stored: objects, content and index that are referred to.

    left: (until when, in Unix time; bytes) of content that nobody refers to any more, and that is collected later.
    pending, digest: of it, new content that a sync of the source with this digest writes, or wrote in part.
    """

    stored: int = 0
    left: tuple[tuple[int, int], ...] = field(default=())
    pending: int = 0
    digest: str = ""

    def at(self, now: float) -> Usage:
        """Less what is collected by then."""
        return replace(self, left=tuple(each for each in self.left if each[0] > now))

    @property
    def total(self) -> int:
        """Bytes that count against the caps: what is there, and what is left of what was replaced."""
        # What is replaced just now is beside it for a while: whoever replaces everything once would else need the
        # room twice, and never get it.
        return self.stored + sum(size for _, size in self.left)


@slotted(frozen=True)
class Package:
    """What is stored of one package: bytes of its objects, and the content that they refer to."""

    objects: int
    content: frozenset[Digest]


@slotted(frozen=True)
class Ledger:
    """What a namespace has, by repository, as of one moment. mark: of that moment. changes: bytes of what was told."""

    mark: int
    usages: Mapping[str, Usage]
    changes: int = 0


class Usages:
    """See the module."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def read(self, namespace: str) -> Ledger:
        """What all repositories of a namespace have; hand it to reserve(). Raises: EtcdError."""
        mark = (await self._client.range(_mark(namespace))).key_values  # first: what changes behind it is seen
        found: dict[str, Usage] = {}
        prefix = _mark(namespace) + b"/"
        async for page in self._client.pages(prefix):
            for kv in page.key_values:
                raw = orjson.loads(kv.value)
                left = tuple((until, size) for until, size in raw["left"])
                name = component_of(kv.key.removeprefix(prefix))
                found[name] = Usage(raw["stored"], left, raw["pending"], raw["digest"])
        told = CHANGE + component(namespace).encode() + b"/"
        changes = (await self._client.range(told, prefix_end(told), count_only=True)).count * _CHANGE_BYTES
        return Ledger(mark[0].mod_revision if mark else 0, found, changes)

    async def reserve(self, claim: Claim, key: RepositoryKey, usage: Usage, seen: Ledger) -> bool:
        """Write it, unless somebody reserved in this namespace since `seen`. Raises: LeaseLostError, NoSpace."""
        mark = _mark(key.namespace)
        unchanged = [claim.fence, Compare(mark, "mod_revision", seen.mark)]
        done = await self._client.txn(unchanged, [Put(mark, b""), Put(_key(key), _encode(usage))])
        if not done.succeeded and not (await self._client.txn([claim.fence], [])).succeeded:
            raise LeaseLostError(claim.lost_message)
        return done.succeeded

    async def write(self, claim: Claim, key: RepositoryKey, usage: Usage | None) -> None:
        """Write what is less than was reserved; None: forget it, which a full etcd does, too. Raises: LeaseLostError,
        NoSpace."""
        operation: Put | Delete = Delete(_key(key)) if usage is None else Put(_key(key), _encode(usage))
        if not (await self._client.txn([claim.fence], [operation])).succeeded:
            raise LeaseLostError(claim.lost_message)

    async def measure(self, repository: RepositoryKey) -> dict[str, Package]:
        """Every package of which anything is served: read whole, some 70 ms for 5,000 objects.

        Content of drafts that were made here is left out: their authors' share counts it (publish/allowance.py).
        """
        sizes: dict[str, int] = {}
        content: dict[str, set[Digest]] = {}
        for kind in (Kind.PACKAGE, Kind.REVISION):
            async for page in self._client.pages(repository_prefix(kind, repository), page_bytes=1 << 20):
                for kv in page.key_values:
                    name = parse_key(kind, kv.key).package
                    sizes[name] = sizes.get(name, 0) + len(kv.key) + len(kv.value)
                    held = content.setdefault(name, set())
                    if not _made_here(kv.value):
                        held.update(blob_references(kv.value))
        return {name: Package(size, frozenset(content[name])) for name, size in sizes.items()}


def _made_here(value: bytes) -> bool:
    """Whether an object is a draft that was made here."""
    return b'"createdBy"' in value and "createdBy" in orjson.loads(value).get("status", {})


def _mark(namespace: str) -> bytes:
    return USAGE + component(namespace).encode()


def _key(key: RepositoryKey) -> bytes:
    return USAGE + joined(key.namespace, key.name)


def _encode(usage: Usage) -> bytes:
    return orjson.dumps(asdict(usage))
