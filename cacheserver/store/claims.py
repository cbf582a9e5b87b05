"""Who may write: claims on a lease, one holder each. A write names the claim that it is made under (objects.py).

A process that was paused past its lease cannot write with what it held. Called by ingest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cacheserver.errors import Unavailable
from cacheserver.etcd.client import Client, Compare, Delete, Get, Lease, Put, RangeResult
from cacheserver.slotted import slotted
from cacheserver.store.keys import CLAIM, claim_key

CLAIM_TTL_S = 10
"""A dead writer's claim is free after this. Ours: a busy disk loses shorter ones; keep-alive runs at a third of it."""

_RETRY_FOR_S = 20.0
"""How long one write is tried again while etcd is away; then the sync fails and is repeated as a whole."""

T = TypeVar("T")


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

        on_wait: called with the present holder, and again with each other one.
        Raises: NoSpace where nobody holds it and etcd is full; LeaseLostError, Unavailable.
        """
        named: bytes | None = None
        while True:
            claim, found = await self._attempt(name)
            if claim is not None:
                return claim
            held = found.key_values
            if held and held[0].value != named:
                named = held[0].value
                on_wait(named.decode(errors="replace"))
            await self._wait_for_release(claim_key(name), found.revision)

    async def _attempt(self, name: str) -> tuple[Claim | None, RangeResult]:
        """The claim, or who holds it. Reads before it writes: a full etcd refuses the write even where it is ours."""
        key = claim_key(name)
        if (known := self._held.get(name)) is not None:
            return known, RangeResult((), 0, 0, more=False)
        found = await persist(lambda: self._client.range(key))
        if not found.key_values:
            put = Put(key, self._holder, self._lease.id)
            result = await persist(lambda: self._client.txn([Compare(key, "create_revision", 0)], [put], [Get(key)]))
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
        await self._client.put(CLAIM + b"probe/%x" % self._lease.id, b"", lease=self._lease.id)

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
        """Let go of it: whoever waits for it gets it. One that was lost already stays as it is. Raises: EtcdError."""
        self._held.pop(claim.name, None)
        await self._client.txn([claim.fence], [Delete(claim.key)])


@slotted(frozen=True)
class Claim:
    """Held since create_revision. Writes compare that: a paused process that lost it cannot write later."""

    name: str
    key: bytes
    create_revision: int

    @classmethod
    def of_nobody(cls, name: str) -> Claim:
        """Stands while nobody holds it: for deletes while etcd is full, and gives nobody a claim."""
        return cls(name, claim_key(name), 0)

    @property
    def fence(self) -> Compare:
        """What a transaction has to compare, so that it fails once the claim is lost."""
        return Compare(self.key, "create_revision", self.create_revision)

    @property
    def lost_message(self) -> str:
        """For the error of a write that the fence stopped."""
        return f"the claim on {self.name} is held by another process now; nothing was written"


async def persist(call: Callable[[], Awaitable[T]]) -> T:
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
