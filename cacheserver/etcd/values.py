"""What goes into and comes out of the etcd client, as plain values. No protobuf type gets past this module."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Literal, NamedTuple

from cacheserver.slotted import slotted


class KeyValue(NamedTuple):  # made a hundred thousand times at a start: a third of a dataclass's time
    """A key as stored. `value` is empty in answers to keys_only."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


@slotted(frozen=True)
class RangeResult:
    """`revision`: the header's, the store's current one when the range ran. `count`: keys in the range, before limit.

    From `Client.pages`, `revision` is the one revision all pages were read at.
    """

    key_values: Sequence[KeyValue]
    revision: int
    count: int
    more: bool


@slotted(frozen=True)
class Put:
    """Write `value` under `key`. lease: the key goes when this lease ends; 0: it stays."""

    key: bytes
    value: bytes
    lease: int = 0


@slotted(frozen=True)
class Delete:
    """Delete `key`, or every key from it up to `range_end` (which is left out; see prefix_end)."""

    key: bytes
    range_end: bytes = b""


@slotted(frozen=True)
class Get:
    """Read `key`, or every key from it up to `range_end`. limit: most keys returned; 0: all. count_only: how many
    there are, and nothing of them, which etcd does not load then."""

    key: bytes
    range_end: bytes = b""
    limit: int = 0
    count_only: bool = False


@slotted(frozen=True)
class Compare:
    """Holds when `field` of `key` equals `value`. A missing key has create_revision and mod_revision 0."""

    key: bytes
    field: Literal["create_revision", "mod_revision", "lease", "value"]
    value: int | bytes


@slotted(frozen=True)
class TxnResult:
    """succeeded: whether every Compare held. revision: the store's after the transaction.

    ranges: answers to the Gets of the branch that ran, in their order.
    """

    succeeded: bool
    revision: int
    ranges: Sequence[RangeResult]


@slotted(frozen=True)
class WatchEvent:
    """A put (`value` set) or a delete (`value` is None; `mod_revision` is the deletion's, `create_revision` 0)."""

    key: bytes
    value: bytes | None
    mod_revision: int
    create_revision: int


@slotted(frozen=True)
class WatchBatch:
    """All events of one or more whole revisions, in order. `revision`: everything up to it has been delivered.

    No events: a progress notification.
    """

    events: Sequence[WatchEvent]
    revision: int


class AlarmKind(Enum):
    """etcd's AlarmType (rpc.proto). NOSPACE: over its quota, it takes no writes. CORRUPT: members differ."""

    NOSPACE = 1
    CORRUPT = 2


@slotted(frozen=True)
class Alarm:
    """Raised by one member; stays until `Client.disarm`, which needs this member's id."""

    member_id: int
    kind: AlarmKind


@slotted(frozen=True)
class Status:
    """What the member behind the current endpoint says of itself. `leader` 0: it knows of none. Sizes in bytes."""

    version: str
    member_id: int
    leader: int
    revision: int
    db_size: int
    db_size_in_use: int
    is_learner: bool
    errors: Sequence[str]


@slotted(frozen=True)
class TLSFiles:
    """PEM files. `ca` None: the system's roots. `cert` and `key` together: a client certificate.

    Read at start and again after a connection failed, so rotated files are picked up.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


def prefix_end(prefix: bytes) -> bytes:
    r"""The `range_end` that makes a range of everything under `prefix`; b"\0" (no end) when there is no such key."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return b"\0"
    return stripped[:-1] + bytes((stripped[-1] + 1,))
