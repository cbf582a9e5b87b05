"""Writes of a sync into a repository in which drafts are made here too (store/authored.py). Nothing of a user is lost:

a draft that was made here is left to its author and to publish, whatever its branch in git holds; what users write into
metadata while the sync goes on stays. When its tag is there, the draft becomes what git says, in one transaction, and
what was asked of the publisher is done with it. Stands in for store/objects.py where apply.py writes.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Final

import orjson

from cacheserver.model import (
    LABEL_LATEST,
    LABEL_LIFECYCLE,
    Key,
    Kind,
    Lifecycle,
    Record,
    RepositoryKey,
    Stored,
    encode,
    without_label,
)
from cacheserver.publish.outcome import taken_apart
from cacheserver.publish.outdated import OUTDATED, outdated
from cacheserver.store.authored import Draft, Held, Operation, Step
from cacheserver.store.claims import Claim
from cacheserver.store.journal import Tells, silent
from cacheserver.store.objects import Store

_DONE: Final = {
    Step.PROPOSE_DELETION: Lifecycle.DELETION_PROPOSED,
    Step.KEEP: Lifecycle.PUBLISHED,
    Step.APPROVE: Lifecycle.PUBLISHED,
}
"""In which lifecycle git has a revision once an operation was carried out."""


class AuthoredStore:
    """put, unlabel and delete as Store has them, of which a sync needs no more."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._authored = store.authored

    async def put(self, claim: Claim, record: Record, previous: Stored | None, tells: Tells = silent) -> Stored | None:
        """As Store.put. None also where a draft is left alone.

        The object's key is another than the record's where a draft has that and is not what was published: then the
        revision is named after its version for now.
        """
        if record.key.kind is not Kind.REVISION:
            return await self._store.put(claim, record, previous, tells)
        while True:
            held = await self._authored.read(record.key)
            wanted = record
            if held.draft is not None and not _published_of(record, held.draft, held):
                if not _lifecycle(record).published:
                    return None
                wanted = _named_after_version(record)
                held = await self._authored.read(wanted.key)
                if held.draft is not None:
                    return None  # both names are drafts': it waits until one of them goes
            operation = None if held.operation is None or _done(held.operation, wanted) else held.operation
            value = _value(wanted, held, operation)
            same = held.served is not None and held.served.value == value
            if same and held.draft is None and operation == held.operation:
                return None
            after = await self._authored.write(
                held, value=value, draft=None, operation=operation, claim=claim, tells=tells
            )
            if after is not None:
                await self._tell_drafts(claim, wanted)
                return after.served

    async def _tell_drafts(self, claim: Claim, newest: Record) -> None:
        """Those of its package whether they are overtaken, where the record is of the package's latest revision now."""
        if LABEL_LATEST not in newest.labels:
            return
        key, now = newest.key, time.time()
        revision = orjson.loads(newest.spec)["revision"]
        commit = orjson.loads(newest.status).get("selfLock", {}).get("git", {}).get("commit", "")
        for each in await self._authored.drafts(RepositoryKey(key.namespace, key.repository), key.package):
            while True:
                held = await self._authored.read(each)
                if held.draft is None or held.served is None:
                    break
                served = await taken_apart(held)
                condition = outdated(held.draft, revision, commit)
                if condition is None:
                    served.untell(OUTDATED)
                else:
                    served.tell(condition, now)
                value = served.bytes()
                same = orjson.loads(value) == orjson.loads(held.served.value)
                if same or await self._authored.write(
                    held, value=value, draft=held.draft, operation=held.operation, claim=claim
                ):
                    break

    async def unlabel(self, claim: Claim, stored: Stored, label: str) -> Stored:
        """As Store.unlabel; of an object that has the label no more nothing is changed."""
        if stored.key.kind is not Kind.REVISION:
            return await self._store.unlabel(claim, stored, label)
        while True:
            held = await self._authored.read(stored.key)
            if held.served is None or not held.served.has_label(label):
                return held.served or stored
            value = without_label(held.served.value, label)
            after = await self._authored.write(
                held, value=value, draft=held.draft, operation=held.operation, claim=claim
            )
            if after is not None:
                assert after.served is not None, "it was written"
                return after.served

    async def delete(self, claim: Claim, stored: Stored, tells: Tells = silent) -> bool:
        """As Store.delete; false where a draft was left alone. Finalizers hold up nothing: it is gone from git."""
        if stored.key.kind is not Kind.REVISION:
            return await self._store.delete(claim, stored, tells)
        while True:
            held = await self._authored.read(stored.key)
            if held.draft is not None:
                return False
            if held.served is None and held.operation is None:
                return True
            if await self._authored.write(held, value=None, draft=None, claim=claim, tells=tells) is not None:
                return True


def _published_of(record: Record, draft: Draft, held: Held) -> bool:
    """Whether the record is of what this draft became: published from it, with all that it holds."""
    if not _lifecycle(record).published or record.nonce != draft.nonce:
        return False
    approved = held.operation is not None and held.operation.step is Step.APPROVE
    return approved or (held.served is not None and held.served.blobs() == set(record.blobs))


def _lifecycle(record: Record) -> Lifecycle:
    return Lifecycle(record.labels[LABEL_LIFECYCLE])


def _named_after_version(record: Record) -> Record:
    key = record.key
    revision = orjson.loads(record.spec)["revision"]
    return replace(record, key=Key(key.kind, key.namespace, key.repository, key.package, revision))


def _done(operation: Operation, record: Record) -> bool:
    return _DONE.get(operation.step) is _lifecycle(record)


def _value(record: Record, held: Held, operation: Operation | None) -> bytes:
    """What is served of the record; what is still to be done with it stays told."""
    previous = held.served.value if held.served else None
    if operation is not None and previous is not None:
        status: dict[str, Any] = orjson.loads(record.status)
        told = orjson.loads(previous)["status"].get("operation")
        record = replace(record, status=orjson.dumps(status | ({"operation": told} if told else {})))
    return encode(record, previous=previous, now=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
