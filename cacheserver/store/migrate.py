"""From an older layout of etcd to this one: while readers read, under the claims that syncs take, one object at a time.

Layout 1 (to the release that named a revision's key after its bundle): an FBC revision is under its bundle's name.
Layout 2: under what its own name is made of (model.Key). The objects are the same, so both are read alike: servers of
either release go on serving while it happens, and whoever follows sees one name move in one transaction.

Every step can be the last of a process that is killed: what has moved stands right, and the next start moves the rest.
The layout's number is written last. Called by ingest before its first sync.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

import orjson

from cacheserver.errors import ConfigError, LeaseLostError
from cacheserver.etcd.client import Client, Compare, Get, Put
from cacheserver.model import Key, Kind, RepositoryKey, Stored
from cacheserver.slotted import slotted
from cacheserver.store.claims import Claim, Session, persist
from cacheserver.store.keys import LAYOUT

log = logging.getLogger(__name__)

LAYOUT_VERSION: Final = 2
_OLDEST: Final = 1
_CLAIM: Final = "layout"


class Objects(Protocol):
    """What a migration needs of the store (objects.Store)."""

    async def repositories(self) -> Sequence[RepositoryKey]:
        """As Store.repositories."""
        ...

    async def served_keys(self, repository: RepositoryKey) -> dict[str, dict[Key, int]]:
        """As Store.served_keys."""
        ...

    async def read_package(self, repository: RepositoryKey, package: str) -> dict[Key, Stored]:
        """As Store.read_package."""
        ...

    async def move(self, claim: Claim, stored: Stored, to: Key) -> Stored:
        """As Store.move."""
        ...

    async def delete(self, claim: Claim, stored: Stored) -> object:
        """As Store.delete."""
        ...


@slotted(frozen=True)
class Migrated:
    """What a migration did. waiting: repositories that other processes ingest; they and the number stay as they are."""

    moved: int = 0
    waiting: Sequence[RepositoryKey] = ()


async def mark(client: Client) -> int:
    """The layout of this etcd; an empty one is marked with ours. Called before anything is read.

    Raises: ConfigError for one that this release does not know, Unavailable; NoSpace where the mark is missing and etcd
    is full.
    """
    # Read first: a full etcd refuses a transaction that holds a put, even where the put would not be made.
    written = (await persist(lambda: client.range(LAYOUT))).key_values
    if not written:
        layout = Put(LAYOUT, b"%d" % LAYOUT_VERSION)
        result = await persist(lambda: client.txn([Compare(LAYOUT, "create_revision", 0)], [layout], [Get(LAYOUT)]))
        written = [] if result.succeeded else result.ranges[0].key_values
    found = written[0].value.decode(errors="replace") if written else str(LAYOUT_VERSION)
    if found not in map(str, range(_OLDEST, LAYOUT_VERSION + 1)):
        raise ConfigError(
            f"this etcd holds layout {found}, and this release of cacheserver reads {_OLDEST} to {LAYOUT_VERSION}: "
            "run the release that wrote it, or a newer one"
        )
    return int(found)


async def migrate(client: Client, objects: Objects, session: Session, *, patience_s: float) -> Migrated:
    """Bring etcd to this layout; returns at once where it is. patience_s: how long to wait for claims of others.

    Raises: LeaseLostError, NoSpace, Unavailable, ConfigError as mark.
    """
    if await mark(client) == LAYOUT_VERSION:
        return Migrated()
    waiting = asyncio.timeout(patience_s)
    moved = 0
    left: list[RepositoryKey] = []
    try:
        async with waiting:
            own = await session.claim(_CLAIM)
            try:
                if await mark(client) == LAYOUT_VERSION:
                    return Migrated()  # by the process that held the claim
                left += await objects.repositories()
                while left:
                    claim = await session.claim(f"{left[-1].namespace}/{left[-1].name}")
                    waiting.reschedule(None)  # the time is for waiting: what is held is moved to its end
                    moved += await _repository(objects, claim, left[-1])
                    await session.release(claim)
                    left.pop()
                    waiting.reschedule(asyncio.get_running_loop().time() + patience_s)
                waiting.reschedule(None)
                await _raise_mark(client, own)
            finally:
                await session.release(own)
    except TimeoutError:
        if not waiting.expired():
            raise
        log.warning(
            "etcd stays in its older layout: another process holds a repository; the next start tries again",
            extra={"repositories": [f"{key.namespace}/{key.name}" for key in left], "moved": moved},
        )
        return Migrated(moved, left)
    log.info("etcd has this release's layout now", extra={"layout": LAYOUT_VERSION, "moved": moved})
    return Migrated(moved)


async def _raise_mark(client: Client, claim: Claim) -> None:
    result = await persist(lambda: client.txn([claim.fence], [Put(LAYOUT, b"%d" % LAYOUT_VERSION)]))
    if not result.succeeded:
        raise LeaseLostError(claim.lost_message)


async def _repository(objects: Objects, claim: Claim, repository: RepositoryKey) -> int:
    """Every revision of the repository under its own key; returns how many were not."""
    moved = 0
    for package in sorted(await objects.served_keys(repository)):
        moved += await _package(objects, claim, await objects.read_package(repository, package))
    return moved


async def _package(objects: Objects, claim: Claim, found: Mapping[Key, Stored]) -> int:
    taken = {key: stored for key, stored in found.items() if key.name == stored.name}
    names = {stored.name for stored in taken.values()}
    astray = _newest_first(stored for key, stored in found.items() if key not in taken)
    homes = {stored.key: home for stored in astray if (home := home_of(stored)) is not None}
    waiting = [stored for stored in astray if stored.key in homes]
    moved = 0
    while waiting:
        places = {stored.key for stored in waiting} | taken.keys()
        stored = next((one for one in waiting if one.name in names or homes[one.key] not in places), None)
        if stored is None:
            # Each stands where another belongs, bundles named after each other's versions: the next sync brings back
            # the one that gives way. Two objects in one transaction would be lost to whoever resumes between them.
            stored = waiting[-1]
        if stored.name in names or homes[stored.key] in places:
            await objects.delete(claim, stored)  # a ghost of what stands right, or of what was moved: newest first
        else:
            await objects.move(claim, stored, homes[stored.key])
            taken[homes[stored.key]] = stored
            names.add(stored.name)
        waiting.remove(stored)
        moved += 1
    return moved


def _newest_first(found: Iterable[Stored]) -> list[Stored]:
    return sorted(found, key=lambda stored: -stored.mod_revision)


def home_of(stored: Stored) -> Key | None:
    """The key that has the object's name; None where nothing in the object says it.

    FBC, layout 1: named after the version, or after version and release, under the bundle's name, which is then
    PACKAGE-vVERSION-RELEASE (operator-registry, alpha/declcfg: a bundle with a release).
    """
    if stored.key.kind is not Kind.REVISION:
        return None
    version = orjson.loads(stored.value)["spec"].get("version", "")
    written = [version]
    before, _, release = stored.key.revision.partition(f"{stored.key.package}-v{version}-")
    if release and not before:
        written.append(f"{version}/{release}")
    keys = (replace(stored.key, revision=revision) for revision in written)
    return next((key for key in keys if key.name == stored.name), None)
