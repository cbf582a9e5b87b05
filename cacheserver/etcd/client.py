"""Thin asyncio client of the etcd v3 calls we make, over HTTP/2 of our own (`calls`, `stream`).

Knows nothing of our keys. Every unary call has a deadline; every server error becomes one of `errors.EtcdError`.
Used by `store`, by the embedded etcd's health check, and by nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Self

from cacheserver.etcd import etcd_pb2 as pb
from cacheserver.etcd import lease as leases
from cacheserver.etcd import wire
from cacheserver.etcd.lease import Lease
from cacheserver.etcd.transport import Transport
from cacheserver.etcd.values import (
    Alarm,
    AlarmKind,
    Compare,
    Delete,
    Get,
    KeyValue,
    Put,
    RangeResult,
    Status,
    TLSFiles,
    TxnResult,
    WatchBatch,
    WatchEvent,
    prefix_end,
)
from cacheserver.etcd.version import Version
from cacheserver.etcd.watch import Watch, open_watch

__all__ = [
    "Alarm",
    "AlarmKind",
    "Client",
    "Compare",
    "Delete",
    "Get",
    "KeyValue",
    "Lease",
    "Put",
    "RangeResult",
    "Status",
    "TLSFiles",
    "TxnResult",
    "Watch",
    "WatchBatch",
    "WatchEvent",
    "prefix_end",
]

# etcd itself gives up on a request after 5 s plus two election timeouts (7 s by default); a healthy call takes
# milliseconds, and a caller that waits longer than this is better off with an error.
DEADLINE_S = 5.0
# Defragmenting 1.2 GB took 5.2 s (measured); the quota allows 8 GiB.
_DEFRAGMENT_DEADLINE_S = 120.0

# Keys a page: the first page is a guess, later ones follow the size of what came.
_FIRST_PAGE_KEYS = 128
_SMALLEST_PAGE_KEYS = 8
# A page costs etcd a walk over the keys that follow it, so few large pages (5,000 keys: 421 ms for 100k keys; 500 keys:
# 1,213 ms), but values may suddenly grow, so not larger ones.
_LARGEST_PAGE_KEYS = 5_000
_PAGE_GROWTH = 8


class Client:
    """Connected to one of `endpoints` at a time; moves to the next on failure (sticky failover).

    Reads and idempotent calls are retried on another endpoint within their deadline; a write that may have happened
    is not: after Unavailable, the caller reads again. Entering does not wait for etcd; `connect` does.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        tls: TLSFiles | None = None,
        user: str | None = None,
        password: str | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """endpoints: http://host:port, https://host:port or unix:/path. Raises: ConfigError."""
        self._transport = Transport(endpoints, tls, user, password)
        self._deadline_s = deadline_s

    async def __aenter__(self) -> Self:
        await self._transport.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._transport.close()

    async def connect(self, *, deadline_s: float | None = None) -> Version | None:
        """Waits until an endpoint has answered; its version, for check_supported.

        None: only root may ask for the version, as in 3.5.28 and later and the first patches of 3.6.
        Raises: Unavailable, EtcdPermissionDenied when etcd does not know the user.
        """
        await self._transport.anywhere(self._transport.probe, deadline_s or self._deadline_s)
        return self._transport.current.version

    @property
    def cluster_id(self) -> int:
        """Of the cluster that answered last; 0 before. Another id than before means: forget all revisions."""
        return self._transport.cluster_id

    @property
    def server_version(self) -> Version | None:
        """Of the current endpoint; None before `connect` or `watch`, after it failed, and where only root may ask."""
        return self._transport.current.version

    @property
    def progress_trusted(self) -> bool:
        """Whether progress notifications of the current endpoint may be believed; False while unknown."""
        return self._transport.current.progress_trusted

    # --- keys ---

    async def range(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        deadline_s: float | None = None,
    ) -> RangeResult:
        """`key` alone, or all of [key, range_end) in key order; linearizable; the whole answer is in memory at once.

        Raises: Compacted or FutureRevision for `revision`, Unavailable, EtcdPermissionDenied.
        """
        request = pb.RangeRequest(
            key=key,
            range_end=range_end,
            limit=limit,
            revision=revision,
            keys_only=keys_only,
            count_only=count_only,
        )
        response = await self._transport.call(
            wire.RANGE, request, deadline_s=deadline_s or self._deadline_s, repeatable=True
        )
        header = response.header
        self._transport.cluster_id = header.cluster_id
        return wire.range_result(response, header.revision)

    async def newest_revision(self, key: bytes) -> int:
        """The newest revision at some moment during this call; linearizable. For who asks all the time: nothing that is
        read or written at the same time is in its way.

        key: any that we may read. Raises: Unavailable, EtcdPermissionDenied.
        """
        request = pb.RangeRequest(key=key, count_only=True)
        response = await self._transport.call(wire.NEWEST, request, deadline_s=self._deadline_s, repeatable=True)
        header = response.header
        self._transport.cluster_id = header.cluster_id
        return header.revision

    async def pages(
        self,
        prefix: bytes,
        *,
        revision: int = 0,
        keys_only: bool = False,
        page_bytes: int = 4 << 20,
        ahead: bool = False,
    ) -> AsyncGenerator[RangeResult, None]:
        """Everything under `prefix` at one revision (the first page's), in key order, in pages of about page_bytes.

        At least one page, empty if need be. Each page's `revision` is that one revision; its `count` and `more` speak
        of what follows. ahead: a page is asked for while the one before it is worked on, so two are in memory; to be
        closed. Raises: Compacted when the revision goes away under way; start again.
        """
        key, range_end, limit = prefix or b"\0", prefix_end(prefix), _FIRST_PAGE_KEYS
        asked: asyncio.Task[RangeResult] | None = None

        def ask() -> Coroutine[Any, Any, RangeResult]:
            return self.range(key, range_end, limit=limit, revision=revision, keys_only=keys_only)

        try:
            while True:
                page = await (asked or ask())
                revision = revision or page.revision
                if page.more:
                    key, limit = page.key_values[-1].key + b"\0", _next_limit(page.key_values, limit, page_bytes)
                    asked = asyncio.create_task(ask(), name="etcd: next page") if ahead else None
                yield RangeResult(page.key_values, revision, page.count, page.more)
                if not page.more:
                    return
        finally:
            if asked is not None:
                asked.cancel()
                await asyncio.gather(asked, return_exceptions=True)

    async def put(self, key: bytes, value: bytes, *, lease: int = 0) -> int:
        """The revision of the write. Raises: NoSpace, LeaseLostError when `lease` is gone, Unavailable."""
        request = pb.PutRequest(key=key, value=value, lease=lease)
        response = await self._transport.call(wire.PUT, request, deadline_s=self._deadline_s, repeatable=False)
        return response.header.revision

    async def delete(self, key: bytes, range_end: bytes = b"") -> int:
        """How many keys went. Raises: Unavailable."""
        request = pb.DeleteRangeRequest(key=key, range_end=range_end)
        response = await self._transport.call(wire.DELETE, request, deadline_s=self._deadline_s, repeatable=False)
        return response.deleted

    async def txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[Put | Delete | Get],
        failure: Sequence[Put | Delete | Get] = (),
        *,
        deadline_s: float | None = None,
    ) -> TxnResult:
        """Runs `success` if every compare holds, else `failure`; all its writes share one revision.

        At most 128 operations and 1.5 MiB by etcd's defaults. Raises: NoSpace, LeaseLostError, EtcdError when too
        large, Unavailable.
        """
        # A txn of Gets alone can be asked twice without harm.
        repeatable = all(isinstance(operation, Get) for operation in (*success, *failure))
        response = await self._transport.call(
            wire.TXN,
            wire.txn_request(compares, success, failure),
            deadline_s=deadline_s or self._deadline_s,
            repeatable=repeatable,
        )
        return wire.txn_result(response)

    # --- watch ---

    @asynccontextmanager
    async def _watching(self, prefix: bytes, start_revision: int) -> AsyncIterator[Watch]:
        key, range_end = prefix or b"\0", prefix_end(prefix)
        watch = await open_watch(self._transport, key, range_end, start_revision, self._deadline_s)
        try:
            yield watch
        finally:
            await watch.close()

    def watch(self, prefix: bytes, *, start_revision: int) -> AbstractAsyncContextManager[Watch]:
        """Everything under prefix from start_revision (at least 1) on. Never delivers a part of a revision.

        Entering waits until etcd has confirmed. Raises: Unavailable, EtcdPermissionDenied; see Watch for the rest.
        """
        if start_revision < 1:
            raise ValueError(f"start_revision {start_revision}: take the revision of a range, plus one")
        return self._watching(prefix, start_revision)

    # --- leases ---

    def lease(self, ttl_s: int) -> AbstractAsyncContextManager[Lease]:
        """A lease kept alive while the block runs and revoked after it.

        It may be lost inside the block: `lost`, `wait_lost`. Raises on entering: NoSpace, Unavailable.
        """
        return leases.hold(self._transport, ttl_s, self._deadline_s)

    async def grant(self, ttl_s: int) -> int:
        """The id of a lease nobody keeps alive. etcd raises a TTL below about two seconds."""
        lease_id, _ = await leases.grant(self._transport, ttl_s, self._deadline_s)
        return lease_id

    async def revoke(self, lease_id: int) -> None:
        """Ends a lease and deletes its keys; fine when it is gone already."""
        await leases.revoke(self._transport, lease_id, self._deadline_s)

    async def keep_alive_once(self, lease_id: int) -> int:
        """Seconds the lease has again. Raises: LeaseLostError when it is gone."""
        return await leases.keep_alive_once(self._transport, lease_id, self._deadline_s)

    # --- maintenance; with authentication on, most of it takes the root role ---

    async def status(self) -> Status:
        """Of the member behind the current endpoint."""
        response = await self._transport.call(
            wire.STATUS, pb.StatusRequest(), deadline_s=self._deadline_s, repeatable=True
        )
        self._transport.cluster_id = response.header.cluster_id
        return wire.status(response)

    async def alarms(self) -> Sequence[Alarm]:
        """Alarms of every member."""
        request = pb.AlarmRequest(action=pb.AlarmRequest.GET)
        return wire.alarms(
            await self._transport.call(wire.ALARM, request, deadline_s=self._deadline_s, repeatable=True)
        )

    async def disarm(self, alarm: Alarm) -> None:
        """Takes an alarm back. After NOSPACE only once there is space: delete, compact, defragment, then this."""
        # The member's id is needed: with 0 etcd answers OK and does nothing (measured).
        request = pb.AlarmRequest(
            action=pb.AlarmRequest.DEACTIVATE, memberID=alarm.member_id, alarm=pb.AlarmType.Name(alarm.kind.value)
        )
        await self._transport.call(wire.ALARM, request, deadline_s=self._deadline_s, repeatable=True)

    async def compact(self, revision: int, *, physical: bool = False) -> None:
        """Forgets everything before `revision`. physical: return only when the space is free inside the file.

        Raises: Compacted when that was done already; FutureRevision.
        """
        request = pb.CompactionRequest(revision=revision, physical=physical)
        await self._transport.call(
            wire.COMPACT, request, deadline_s=_DEFRAGMENT_DEADLINE_S if physical else self._deadline_s, repeatable=False
        )

    async def defragment(self) -> None:
        """Gives free space of the current member back to its disk; it answers nothing else meanwhile (seconds a GB)."""
        await self._transport.call(
            wire.DEFRAGMENT, pb.DefragmentRequest(), deadline_s=_DEFRAGMENT_DEADLINE_S, repeatable=False
        )


def _next_limit(page: Sequence[KeyValue], limit: int, page_bytes: int) -> int:
    """Keys to ask for behind a page, by the size of what it had."""
    size = sum(len(kv.key) + len(kv.value) for kv in page)
    fitting = page_bytes * len(page) // max(size, 1)
    return max(_SMALLEST_PAGE_KEYS, min(fitting, limit * _PAGE_GROWTH, _LARGEST_PAGE_KEYS))
