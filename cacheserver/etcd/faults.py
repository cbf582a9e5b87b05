"""gRPC's codes and etcd's messages as our errors, and what each says about retrying. Decides nothing itself.

Codes and texts: etcd api/v3rpc/rpctypes/error.go; they are stable, clients of every language match on them.
"""

from __future__ import annotations

from enum import Enum, auto

from cacheserver.errors import (
    Compacted,
    EtcdError,
    EtcdPermissionDenied,
    FutureRevision,
    LeaseLostError,
    NoSpace,
    Unavailable,
)
from cacheserver.http2.grpc import CallError, Code


class Fault(Enum):
    """What a failed attempt allows next."""

    FINAL = auto()  # the server understood and refused
    AMBIGUOUS = auto()  # no answer; it may have happened
    NOT_SENT = auto()  # it certainly did not happen, another endpoint may work
    BUSY = auto()  # it did not happen, the same endpoint may take it later
    TOKEN = auto()  # it did not happen; authenticate again


_TOKEN = ("invalid auth token", "user name is empty", "revision of auth store is old")
# etcd's documentation, Maintenance, Space quota: the alarm stays until it is disarmed.
_MAKE_ROOM = (
    "reads and deletes still work. Make room: compact, defragment, then disarm the alarm (docs/troubleshooting.md); "
    "raise --quota-backend-bytes if it comes back"
)
_AMBIGUOUS = {
    Code.UNAVAILABLE,
    Code.DEADLINE_EXCEEDED,
    Code.CANCELLED,
    # etcd answers these for a handler cut off by a shutdown ("context canceled"), gRPC for a stream reset by a proxy.
    Code.UNKNOWN,
    Code.INTERNAL,
    Code.ABORTED,
}


def classify(failure: CallError) -> Fault:
    """What may be done after this failure. Its details are etcd's words, in any case."""
    code, lowered = failure.code, failure.details.lower()
    # "no leader" is said before a request is looked at (see transport.REQUIRE_LEADER); "leader changed" is not.
    if not failure.sent or (code is Code.UNAVAILABLE and "etcdserver: no leader" in lowered):
        return Fault.NOT_SENT
    if any(text in lowered for text in _TOKEN):
        return Fault.TOKEN
    if code is Code.RESOURCE_EXHAUSTED and "too many requests" in lowered:
        return Fault.BUSY
    return Fault.AMBIGUOUS if code in _AMBIGUOUS else Fault.FINAL


def error_of(failure: CallError, *, operation: str, endpoint: str) -> EtcdError:
    """The error a caller acts on. Its details are etcd's words, which name keys of no request and no secret."""
    code, details, lowered = failure.code, failure.details, failure.details.lower()
    message = f"etcd {operation} at {endpoint}: {details or code.name}"
    if code is Code.DEADLINE_EXCEEDED:
        return Unavailable(f"etcd {operation} at {endpoint}: no answer within the deadline")
    if code is Code.OUT_OF_RANGE:
        return FutureRevision(message) if "future revision" in lowered else Compacted(message)
    if code is Code.RESOURCE_EXHAUSTED:
        if "database space exceeded" in lowered:
            return NoSpace(f"{message}; {_MAKE_ROOM}")
        if "too many requests" in lowered:
            return Unavailable(message)
    if code is Code.NOT_FOUND and "lease not found" in lowered:
        return LeaseLostError(message)
    if (
        code in (Code.PERMISSION_DENIED, Code.UNAUTHENTICATED)
        or "invalid user id or password" in lowered
        or any(text in lowered for text in _TOKEN)
    ):
        return EtcdPermissionDenied(message)
    return Unavailable(message) if code in _AMBIGUOUS else EtcdError(message)
