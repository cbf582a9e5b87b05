"""How often what is there is counted, and that nobody who is refused makes etcd count all the time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from cacheserver.config import RepositoryConfig
from cacheserver.config.sources import GitSource
from cacheserver.errors import RefusedError
from cacheserver.model import Digest, Key, Kind, RepositoryKey
from cacheserver.publish.allowance import HISTORY_S, Allowance
from cacheserver.store.authored import Draft, Step
from cacheserver.store.usage import Ledger, Usage

MIB = 1 << 20
KEY = Key(Kind.REVISION, "team", "edge", "p", "w1")


@dataclass
class Etcd:
    """Drafts and usages; counts what is read. takes_s: each read."""

    stored: int = 0
    synced: int = 0
    clock: float = 1e9
    takes_s: float = 0.0
    reads: int = 0
    known: dict[RepositoryKey, RepositoryConfig] = field(default_factory=dict)

    async def drafts(self, _: RepositoryKey) -> dict[Key, Draft]:
        self.reads += 1
        self.clock += self.takes_s
        return {KEY: Draft("n", "p", "", stored=self.stored)}

    async def read(self, _: str) -> Ledger:
        self.reads += 1
        return Ledger(0, {"edge": Usage(self.synced)})

    def room(self, repository_bytes: int = 100 * MIB, namespace_bytes: int = 1000 * MIB) -> Allowance:
        for name in ("edge", "core"):
            key = RepositoryKey("team", name)
            self.known[key] = RepositoryConfig(key, GitSource("https://h/r.git"), writable=True)
        me: Any = self
        return Allowance(
            me,
            me,
            self.known,
            repository_bytes=repository_bytes,
            namespace_bytes=namespace_bytes,
            now=lambda: self.clock,
        )


def digest(at: int) -> Digest:
    return Digest(f"sha256:{at:064x}")


async def test_a_thousand_saves_read_what_is_there_once() -> None:
    etcd = Etcd()
    room = etcd.room()
    for at in range(1000):
        await room.admit(KEY, digest(at), 10_000)
        await room.write(KEY, 3000, 3000)
    assert etcd.reads < 6


async def test_what_others_wrote_is_seen_in_time() -> None:
    etcd = Etcd()
    room = etcd.room()
    await room.admit(KEY, digest(1), MIB)
    etcd.stored = 99 * MIB  # by another replica
    etcd.clock += 31
    with pytest.raises(RefusedError, match="--max-repository-bytes") as refused:
        await room.admit(KEY, digest(2), 2 * MIB)
    assert refused.value.code == 403
    etcd.stored = 0
    etcd.clock += 3
    await room.admit(KEY, digest(2), 2 * MIB)


async def test_what_a_sync_counted_counts_too() -> None:
    etcd = Etcd(synced=99 * MIB)
    with pytest.raises(RefusedError, match="--max-repository-bytes"):
        await etcd.room().admit(KEY, digest(1), 2 * MIB)


async def test_who_is_refused_again_and_again_makes_etcd_count_for_a_tenth_of_the_time() -> None:
    etcd = Etcd(stored=100 * MIB, takes_s=1.0)
    room = etcd.room()
    began = etcd.clock
    for _ in range(2000):
        with pytest.raises(RefusedError):
            await room.admit(KEY, digest(1), MIB)
        etcd.clock += 0.05
    assert etcd.reads / 2 <= (etcd.clock - began) / 10 + 2


async def test_content_that_is_replaced_gives_its_room_back() -> None:
    etcd = Etcd()
    room = etcd.room()
    for at in range(50):
        await room.admit(KEY, digest(at), 9 * MIB)
        room.give_back(KEY, 9 * MIB, 0)
    await room.admit(KEY, digest(99), 90 * MIB)


async def test_an_hour_has_its_bytes_and_a_deletion_is_always_taken() -> None:
    etcd = Etcd()
    room = etcd.room(namespace_bytes=100 * MIB)
    for at in range(11):
        await room.admit(KEY, digest(at), 9 * MIB)
        room.give_back(KEY, 9 * MIB, 0)
    with pytest.raises(RefusedError) as refused:
        await room.admit(KEY, digest(11), 9 * MIB)
    assert (refused.value.code, refused.value.reason) == (429, "TooManyRequests")
    await room.write(KEY, 60_000, 60_000, Step.DELETE)
    etcd.clock += refused.value.retry_after_s
    await room.admit(KEY, digest(3), 9 * MIB)
    etcd.clock += HISTORY_S
    for at in range(10):
        await room.admit(KEY, digest(at), 9 * MIB)
        room.give_back(KEY, 9 * MIB, 0)


async def test_a_repository_that_went_is_forgotten() -> None:
    etcd = Etcd()
    room = etcd.room()
    await room.admit(KEY, digest(1), MIB)
    del etcd.known[RepositoryKey("team", "edge")]
    etcd.clock += HISTORY_S
    core = Key(Kind.REVISION, "team", "core", "p", "w1")
    await room.admit(core, digest(2), MIB)
    assert room._stocks.keys() == {RepositoryKey("team", "core")}
