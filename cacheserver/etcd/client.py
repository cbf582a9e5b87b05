"""Thin asyncio client of the etcd v3 calls we make, on grpc.aio.

Knows nothing of our keys. Every unary call has a deadline; every server error becomes one of `errors.EtcdError`.
Used by `store` and by nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyValue:
    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class RangeResult:
    """`revision`: the header's, the store's current one when the range ran. `count`: keys in the range, before limit."""

    key_values: Sequence[KeyValue]
    revision: int
    count: int
    more: bool


@dataclass(frozen=True, slots=True)
class Put:
    key: bytes
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    key: bytes
    range_end: bytes = b""


@dataclass(frozen=True, slots=True)
class Get:
    key: bytes
    range_end: bytes = b""
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Compare:
    """Holds when `field` of `key` equals `value`. A missing key has create_revision and mod_revision 0."""

    key: bytes
    field: str  # "create_revision" | "mod_revision" | "lease" | "value"
    value: int | bytes


@dataclass(frozen=True, slots=True)
class TxnResult:
    succeeded: bool
    revision: int
    ranges: Sequence[RangeResult]  # answers to the Gets of the branch that ran, in order


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """A put (`value` set) or a delete (`value` is None; `mod_revision` is the deletion's)."""

    key: bytes
    value: bytes | None
    mod_revision: int
    create_revision: int


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """All events of one or more whole revisions, in order. `revision`: everything up to it has been delivered.

    No events: a progress notification.
    """

    events: Sequence[WatchEvent]
    revision: int


class Watch:
    """One watch on one stream. Iterating yields batches until the stream ends.

    Raises from the iterator: Compacted (start revision gone), Unavailable (stream broken, or no answer to progress
    requests for the liveness deadline), EtcdPermissionDenied.
    """

    def __aiter__(self) -> AsyncIterator[WatchBatch]:
        raise NotImplementedError

    async def request_progress(self) -> None:
        """Ask etcd to say how far this watch is; the answer arrives as a batch."""
        raise NotImplementedError


class Client:
    """Connected to one of `endpoints` at a time; moves to the next on failure (sticky failover).

    Reads and idempotent calls are retried on another endpoint within their deadline; a write that may have happened
    is not: Unavailable tells the caller to read again.
    """

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
        raise NotImplementedError

    def pages(
        self, prefix: bytes, *, revision: int = 0, keys_only: bool = False, page_bytes: int = 4 << 20
    ) -> AsyncIterator[RangeResult]:
        """Everything under `prefix` at one revision (the first page's), in key order, in pages of about page_bytes."""
        raise NotImplementedError

    async def put(self, key: bytes, value: bytes, *, lease: int = 0) -> int:
        """The revision of the write."""
        raise NotImplementedError

    async def delete(self, key: bytes, range_end: bytes = b"") -> int:
        """How many keys went."""
        raise NotImplementedError

    async def txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[Put | Delete | Get],
        failure: Sequence[Put | Delete | Get] = (),
        *,
        deadline_s: float | None = None,
    ) -> TxnResult:
        raise NotImplementedError

    def watch(self, prefix: bytes, *, start_revision: int, prev_kv: bool = False) -> AbstractAsyncContextManager[Watch]:
        """Everything under prefix from start_revision on. Fragmented responses are joined before they are delivered."""
        raise NotImplementedError
