"""A lease kept alive in the background: the claim a leader holds. Knows nothing of what is claimed.

One task, owned by `hold`. Judges expiry by this machine's monotonic clock from the moment the last successful request
was *sent*, so it never believes in a lease longer than etcd does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cacheserver.errors import EtcdError, LeaseLostError
from cacheserver.etcd import etcd_pb2 as pb
from cacheserver.etcd import wire
from cacheserver.etcd.transport import Transport

log = logging.getLogger(__name__)

_RETRY_INTERVAL_S = 0.25
# A lease left behind expires by itself; leaving must not take long.
_REVOKE_DEADLINE_S = 2.0


class Lease:
    """`id` goes into the puts that shall end with it. `ttl_s`: what etcd granted, perhaps more than asked."""

    def __init__(self, lease_id: int, ttl_s: int, expires_at: float) -> None:
        self.id = lease_id
        self.ttl_s = ttl_s
        self._expires_at = expires_at
        self._lost = asyncio.Event()

    @property
    def lost(self) -> bool:
        """True once it cannot be relied on any more; never becomes False again."""
        return self._lost.is_set() or self.remaining_s <= 0

    @property
    def remaining_s(self) -> float:
        """Seconds for which nobody else can hold the claim, were etcd to fall silent now."""
        return max(0.0, self._expires_at - asyncio.get_running_loop().time())

    async def wait_lost(self) -> None:
        """Returns when the lease is lost. No limit: a healthy lease is never lost."""
        await self._lost.wait()

    async def _keep_alive(self, transport: Transport) -> None:
        loop = asyncio.get_running_loop()
        pause_s = self.ttl_s / 3
        failing = False
        while self.remaining_s > 0:
            await asyncio.sleep(min(pause_s, self.remaining_s))
            sent_at = loop.time()
            deadline_s = min(max(self.ttl_s / 3, 1.0), self.remaining_s)
            try:
                ttl_s = await keep_alive_once(transport, self.id, deadline_s) if deadline_s > 0 else 0
            except LeaseLostError:
                break
            except EtcdError as exc:
                if not failing:
                    log.warning("lease renewal failed, retrying", extra={"lease": self.id, "error": str(exc)})
                failing, pause_s = True, _RETRY_INTERVAL_S
            else:
                self._expires_at = sent_at + ttl_s
                if failing:
                    log.info("lease renewed again", extra={"lease": self.id})
                failing, pause_s = False, self.ttl_s / 3
        self._expires_at = 0.0
        self._lost.set()


async def grant(transport: Transport, ttl_s: int, deadline_s: float) -> tuple[int, int]:
    """Id and seconds granted. Raises: NoSpace, Unavailable (it may exist; it then expires by itself)."""
    request = pb.LeaseGrantRequest(TTL=ttl_s)
    # Repeatable: a grant that got lost expires unused.
    response = await transport.call(wire.GRANT, request, deadline_s=deadline_s, repeatable=True)
    return response.ID, response.TTL


async def revoke(transport: Transport, lease_id: int, deadline_s: float) -> None:
    """Ends the lease and deletes its keys; fine when it is gone already. Raises: Unavailable."""
    try:
        await transport.call(wire.REVOKE, pb.LeaseRevokeRequest(ID=lease_id), deadline_s=deadline_s, repeatable=True)
    except LeaseLostError:
        pass  # expired, or revoked by the attempt before


async def keep_alive_once(transport: Transport, lease_id: int, deadline_s: float) -> int:
    """Seconds it has again, counted from when etcd got the request. Raises: LeaseLostError when it is gone."""
    response = await transport.call(
        wire.KEEP_ALIVE, pb.LeaseKeepAliveRequest(ID=lease_id), deadline_s=deadline_s, repeatable=True
    )
    if response.TTL <= 0:
        raise LeaseLostError(f"etcd lease {lease_id:x} has expired")
    return response.TTL


@asynccontextmanager
async def hold(transport: Transport, ttl_s: int, deadline_s: float) -> AsyncIterator[Lease]:
    """A lease renewed three times per TTL while the block runs, then revoked so that the next one need not wait."""
    sent_at = asyncio.get_running_loop().time()
    lease_id, granted_s = await grant(transport, ttl_s, deadline_s)
    lease = Lease(lease_id, granted_s, sent_at + granted_s)
    keeper = asyncio.create_task(lease._keep_alive(transport), name="etcd lease")
    try:
        yield lease
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        try:
            await revoke(transport, lease_id, _REVOKE_DEADLINE_S)
        except EtcdError as exc:
            log.info("lease left to expire", extra={"lease": lease_id, "error": str(exc)})
