"""Converts plain values to etcd's messages and back; the table of its methods. Only this file knows field names.

Messages: etcd.proto, the part of etcd's api/etcdserverpb/rpc.proto and api/mvccpb/kv.proto that we call.

Runs for every call, so it builds each message once and looks nothing up twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from google.protobuf.message import Message

from cacheserver import metrics
from cacheserver.etcd import etcd_pb2 as pb
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
    TxnResult,
    WatchEvent,
)
from cacheserver.slotted import slotted

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@slotted(frozen=True, eq=False)
class Method(Generic[Request, Response]):
    """One gRPC method: its path on the wire, its metric label, and how to read its answers. apart: asked on a
    connection of its own, so that nothing large is in its way."""

    path: str
    operation: str
    serialize: Callable[[Request], bytes]
    parse: Callable[[bytes], Response]
    observe: Callable[[float], None]
    with_token: bool = True
    apart: bool = False


def _method(
    path: str,
    operation: str,
    request: type[Request],
    response: type[Response],
    *,
    with_token: bool = True,
    apart: bool = False,
) -> Method[Request, Response]:
    observe = metrics.etcd_seconds.labels(operation).observe
    return Method(path, operation, request.SerializeToString, response.FromString, observe, with_token, apart)


RANGE = _method("/etcdserverpb.KV/Range", "range", pb.RangeRequest, pb.RangeResponse)
NEWEST = _method("/etcdserverpb.KV/Range", "range", pb.RangeRequest, pb.RangeResponse, apart=True)
PUT = _method("/etcdserverpb.KV/Put", "put", pb.PutRequest, pb.PutResponse)
DELETE = _method("/etcdserverpb.KV/DeleteRange", "delete", pb.DeleteRangeRequest, pb.DeleteRangeResponse)
TXN = _method("/etcdserverpb.KV/Txn", "txn", pb.TxnRequest, pb.TxnResponse)
COMPACT = _method("/etcdserverpb.KV/Compact", "compact", pb.CompactionRequest, pb.CompactionResponse)
WATCH = _method("/etcdserverpb.Watch/Watch", "watch", pb.WatchRequest, pb.WatchResponse)
GRANT = _method("/etcdserverpb.Lease/LeaseGrant", "lease_grant", pb.LeaseGrantRequest, pb.LeaseGrantResponse)
REVOKE = _method("/etcdserverpb.Lease/LeaseRevoke", "lease_revoke", pb.LeaseRevokeRequest, pb.LeaseRevokeResponse)
# A stream on etcd's side; to one message it has one answer, and then ends as any call.
KEEP_ALIVE = _method(
    "/etcdserverpb.Lease/LeaseKeepAlive", "lease_keep_alive", pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse
)
AUTHENTICATE = _method(
    "/etcdserverpb.Auth/Authenticate", "authenticate", pb.AuthenticateRequest, pb.AuthenticateResponse, with_token=False
)
STATUS = _method("/etcdserverpb.Maintenance/Status", "status", pb.StatusRequest, pb.StatusResponse)
ALARM = _method("/etcdserverpb.Maintenance/Alarm", "alarm", pb.AlarmRequest, pb.AlarmResponse)
DEFRAGMENT = _method("/etcdserverpb.Maintenance/Defragment", "defragment", pb.DefragmentRequest, pb.DefragmentResponse)


def _compare(compare: Compare) -> pb.Compare:
    key, value = compare.key, compare.value
    match compare.field:
        case "create_revision" if isinstance(value, int):
            return pb.Compare(target=pb.Compare.CREATE, key=key, create_revision=value)
        case "mod_revision" if isinstance(value, int):
            return pb.Compare(target=pb.Compare.MOD, key=key, mod_revision=value)
        case "lease" if isinstance(value, int):
            return pb.Compare(target=pb.Compare.LEASE, key=key, lease=value)
        case "value" if isinstance(value, bytes):
            return pb.Compare(target=pb.Compare.VALUE, key=key, value=value)
    raise TypeError(f"cannot compare {compare.field!r} with {type(value).__name__}")


def _operation(operation: Put | Delete | Get) -> pb.RequestOp:
    if isinstance(operation, Put):
        return pb.RequestOp(request_put=pb.PutRequest(key=operation.key, value=operation.value, lease=operation.lease))
    if isinstance(operation, Get):
        return pb.RequestOp(
            request_range=pb.RangeRequest(
                key=operation.key,
                range_end=operation.range_end,
                limit=operation.limit,
                count_only=operation.count_only,
            )
        )
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=operation.key, range_end=operation.range_end))


def txn_request(
    compares: Sequence[Compare], success: Sequence[Put | Delete | Get], failure: Sequence[Put | Delete | Get]
) -> pb.TxnRequest:
    """compares: all have to hold for `success` to run; else `failure` does."""
    return pb.TxnRequest(
        compare=[_compare(compare) for compare in compares],
        success=[_operation(operation) for operation in success],
        failure=[_operation(operation) for operation in failure],
    )


def txn_result(response: pb.TxnResponse) -> TxnResult:
    """Of its answers, those to Gets."""
    revision = response.header.revision
    ranges = [
        range_result(answer.response_range, revision)
        for answer in response.responses
        if answer.WhichOneof("response") == "response_range"
    ]
    return TxnResult(response.succeeded, revision, ranges)


def range_result(response: pb.RangeResponse, revision: int) -> RangeResult:
    """revision: the answer's header has it; inside a transaction, the transaction's."""
    key_values = [KeyValue(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.lease) for kv in response.kvs]
    return RangeResult(key_values, revision, response.count, response.more)


def watch_events(response: pb.WatchResponse) -> list[WatchEvent]:
    """In the order of their revisions, as etcd sent them."""
    events = []
    for event in response.events:
        kv = event.kv
        # PUT is the enum's 0; its name costs a lookup an event.
        events.append(WatchEvent(kv.key, None if event.type else kv.value, kv.mod_revision, kv.create_revision))
    return events


def status(response: pb.StatusResponse) -> Status:
    """Of the member that answered."""
    return Status(
        version=response.version,
        member_id=response.header.member_id,
        leader=response.leader,
        revision=response.header.revision,
        db_size=response.dbSize,
        db_size_in_use=response.dbSizeInUse,
        is_learner=response.isLearner,
        errors=tuple(response.errors),
    )


def alarms(response: pb.AlarmResponse) -> list[Alarm]:
    """Kinds this build does not know are left out: they cannot be disarmed by name."""
    known = {kind.value: kind for kind in AlarmKind}
    return [Alarm(alarm.memberID, known[alarm.alarm]) for alarm in response.alarms if alarm.alarm in known]
