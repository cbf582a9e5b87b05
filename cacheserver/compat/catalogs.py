"""What doors read: the published catalog of every repository, followed in etcd, and the documents in it.

One a process, in every replica. It keeps what etcd said last, so doors go on while etcd is away, and shows of a
repository what its last finished sync left, never anything in between. Nothing is followed until a repository names a
door. Documents are content in etcd, read when they are asked for (frames.py). Knows no door.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, NoReturn

from cacheserver.compat.frames import Content, Frames
from cacheserver.config import Door, RepositoryConfig
from cacheserver.errors import EtcdError
from cacheserver.model import Digest, RepositoryKey
from cacheserver.store.published import (
    Published,
    PublishedCatalog,
    PublishedPackage,
    Record,
    decode,
    decoded,
    is_small,
)

log = logging.getLogger(__name__)

_AGAIN_S: Final = 0.5
_AGAIN_MOST_S: Final = 5.0
"""Between two tries to follow an etcd that is away."""
_READS_AT_ONCE: Final = 4
"""Packages whose documents are held whole at the same time, while they are read: 64 MiB each at most (limits.py)."""
_SPLIT_INLINE_BYTES: Final = 256 << 10


class Catalogs:
    """See the module. Safe to share between tasks. configs: of every repository that there is, as they are at each
    look; note() is to be called when one changed. frames: documents by digest."""

    def __init__(
        self, published: Published, content: Content, configs: Mapping[RepositoryKey, RepositoryConfig]
    ) -> None:
        self._published = published
        self.frames = Frames(content)
        self._configs = configs
        self._values: dict[RepositoryKey, bytes] = {}  # as stored, some 50 bytes a package: most are never asked for
        self._decoded: dict[RepositoryKey, PublishedCatalog] = {}
        self._since: dict[RepositoryKey, float] = {}
        self._known = asyncio.Event()
        self._wanted = asyncio.Event()  # a repository named a door
        self._followers: set[_Changes] = set()
        self._reading = asyncio.Semaphore(_READS_AT_ONCE)
        self._revision = 0

    # --- which ---

    def get(self, key: RepositoryKey) -> PublishedCatalog | None:
        """What the last finished sync left; None where that is nothing, or not known yet."""
        found = self._decoded.get(key)
        if found is None and (value := self._values.get(key)) is not None:
            found = self._decoded[key] = decode(key, value)
        return found

    def published(self, door: Door) -> Sequence[RepositoryKey]:
        """Repositories that name the door, sorted; get() may have nothing of one, for it never finished a sync."""
        return sorted(key for key, config in self._configs.items() if door in config.publish)

    def since(self, key: RepositoryKey) -> float:
        """Unix time from which on this process knows what get() gives: until then it may have been anything."""
        return self._since.get(key, 0.0)

    def is_published(self, key: RepositoryKey, door: Door) -> bool:
        """Whether the repository names the door."""
        config = self._configs.get(key)
        return config is not None and door in config.publish

    @property
    def known(self) -> bool:
        """Whether etcd has been asked: before, get() has nothing of anybody. Nobody asks where no door is named."""
        return self._known.is_set()

    async def wait_known(self) -> None:
        """Returns once `known`."""
        await self._known.wait()

    async def changes(self) -> AsyncIterator[RepositoryKey]:
        """A key each time what get() or published() say of it may have changed; first those that there are.

        A key that changes again before it is taken comes once, so what waits here is bounded by the repositories.
        """
        mine = _Changes({**dict.fromkeys(self._configs), **dict.fromkeys(self._values)})
        self._followers.add(mine)
        try:
            while True:
                yield await mine.take()
        finally:
            self._followers.discard(mine)

    # --- documents ---

    async def lines(self, catalog: PublishedCatalog, package: PublishedPackage) -> Sequence[bytes]:
        """The documents of a package of `catalog`, in its order: canonical JSON without the line break.

        All of them in memory, `package.size` bytes and as much again for a moment; four packages at a time are read.
        Content that was replaced is there for an hour more. Raises: BlobMissingError, EtcdError.
        """
        return await self._lines(package.documents)

    async def other_lines(self, catalog: PublishedCatalog) -> Sequence[bytes]:
        """As lines, of the documents of no package."""
        return await self._lines(catalog.others) if catalog.others else ()

    async def _lines(self, digest: Digest) -> Sequence[bytes]:
        async with self._reading:
            text = b"".join([piece async for piece in self.frames.read(digest)])
            if len(text) <= _SPLIT_INLINE_BYTES:
                return text.splitlines()  # in JSON, a line break inside of a text is escaped
            return await asyncio.to_thread(text.splitlines)

    # --- follow ---

    def note(self, key: RepositoryKey) -> None:
        """The configuration of a repository came, changed or went."""
        if (config := self._configs.get(key)) is not None and config.publish:
            self._wanted.set()
        self._tell(key)

    async def run(self) -> NoReturn:
        """Follow etcd from the first repository on that names a door, until cancelled."""
        for key in self._configs:
            self.note(key)
        await self._wanted.wait()
        pause_s = _AGAIN_S
        while True:
            try:
                await self._read_all()
                async with self._published.follow(self._revision) as changes:
                    pause_s = _AGAIN_S
                    async for records in changes:
                        for record in records:
                            await self._take(record)
            except EtcdError as exc:
                log.debug("published catalogs are not followed; beginning again", extra={"error": str(exc)})
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _AGAIN_MOST_S)

    async def _read_all(self) -> None:
        found, self._revision = await self._published.everything()
        for key in self._values.keys() - found.keys():
            await self._take(Record(key, None))
        for key, value in found.items():
            await self._take(Record(key, value))
        self._known.set()

    async def _take(self, record: Record) -> None:
        key, value = record.key, record.value
        if self._values.get(key) == value:
            return
        # What is large is decoded before anybody asks, beside the loop, where it is likely that somebody will.
        config = self._configs.get(key)
        ahead = value is not None and not is_small(value) and config is not None and bool(config.publish)
        catalog = await decoded(key, value) if ahead and value is not None else None
        self._decoded.pop(key, None)
        if value is None:
            del self._values[key], self._since[key]
        else:
            self._values[key], self._since[key] = value, time.time()
        if catalog is not None:
            self._decoded[key] = catalog
        self._tell(key)

    def _tell(self, key: RepositoryKey) -> None:
        for follower in self._followers:
            follower.add(key)


class _Changes:
    """Keys that one follower has not taken yet, in the order they came; none twice."""

    def __init__(self, first: dict[RepositoryKey, None]) -> None:
        self._waiting = first
        self._came = asyncio.Event()

    def add(self, key: RepositoryKey) -> None:
        self._waiting[key] = None
        self._came.set()

    async def take(self) -> RepositoryKey:
        while not self._waiting:
            self._came.clear()
            await self._came.wait()
        key = next(iter(self._waiting))
        del self._waiting[key]
        return key


def blobs_of(catalog: PublishedCatalog) -> Sequence[Digest]:
    """In the order in which doors show them."""
    return [*(package.documents for package in catalog.packages), *([Digest(catalog.others)] if catalog.others else ())]
