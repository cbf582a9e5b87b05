"""What is made here and not read from a source: drafts of package revisions, and what is to be done with them in git.

    author/draft/<namespace>/<repository>/<package>/<revision>       Draft, as JSON
    author/content/...                                               digest of a draft's content; written when that
                                                                     changes, so its mod revision is of the last change
    author/operation/...                                             Operation, as JSON; one a revision at most
    number/<namespace>/<repository>/<package>                        highest number that a revision ever had, in decimal

A draft's served object stands where every package revision does (keys.py). All that belongs to one revision is read as
of one moment and written in one transaction, or not at all. Any process may write; what was begun under a claim is
fenced by it. Called by publish, and by ingest, which leaves drafts alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import field
from enum import StrEnum
from typing import Any, Final

import orjson

from cacheserver.errors import LeaseLostError
from cacheserver.etcd.client import Client, Compare, Delete, Get, KeyValue, Put, prefix_end
from cacheserver.model import Digest, Key, RepositoryKey, Stored
from cacheserver.slotted import slotted
from cacheserver.store.claims import Claim, persist
from cacheserver.store.journal import Journal, Tells
from cacheserver.store.keys import (
    AUTHOR,
    CONTENT,
    DRAFT,
    NUMBER,
    OPERATION,
    authored_key,
    component_of,
    joined,
    number_key,
    object_key,
    parse_authored_key,
)

AUTHORS_MOST: Final = 100
"""Of a draft, remembered. Ours: to say who may not approve it; one that has as many is approved by nobody where that
counts."""


@slotted(frozen=True)
class Condition:
    """What an application says of a draft. type, status, reason, message: as Kubernetes has them.

    since: RFC 3339, of the last change of its status. digest: of the content that it speaks of. generation: that the
    application says it speaks of, 0 for none.
    """

    type: str
    status: str
    reason: str
    message: str
    since: str
    digest: str
    generation: int = 0


@slotted(frozen=True)
class Draft:
    """A draft that was made here, and how much of it git has. Its files and fields stand in the served object.

    nonce: random; of the object's uid (model.uid_of). directory: of the package, from the root of the git repository.
    task: JSON of how it began, as Porch writes it into commits (porch, api/porch/v1alpha1: Task).
    base: commit of the published revision that was its package's newest when it began, base_revision that one's name;
    both empty for a package's first. rebased: commit on the branch that changed the package by hand since then, which
    the draft holds too; else empty. created_by: who made it. authors: who changed its content since it was made or
    last rejected by somebody else, at most 100. proposed_by: empty for one that is not proposed.
    saved_ms, unpushed_ms: Unix time of the last change, and of the first that git does not have (0: git has all).
    commit, digest, branch: what git has: the commit, the content in it, the short name of its branch; empty: nothing.
    stored: packed bytes of its content in etcd, 0 where that is not known (of drafts that git gave).
    pushing, pushing_digest: what git may have besides: written before a push, forgotten when its outcome is known.
    conditions: that applications wrote of it, one of a type; what is published has none of them.
    """

    nonce: str
    directory: str
    task: str
    base: str = ""
    base_revision: str = ""
    rebased: str = ""
    created_by: str = ""
    authors: tuple[str, ...] = ()
    proposed_by: str = ""
    saved_ms: int = 0
    unpushed_ms: int = 0
    commit: str = ""
    digest: str = ""
    branch: str = ""
    pushing: str = ""
    pushing_digest: str = ""
    stored: int = 0
    conditions: tuple[Condition, ...] = ()


class Step(StrEnum):
    """What an operation does in git."""

    PROPOSE = "Propose"
    REJECT = "Reject"
    APPROVE = "Approve"
    PROPOSE_DELETION = "ProposeDeletion"
    KEEP = "Keep"
    """Takes a proposed deletion back."""
    DELETE = "Delete"


@slotted(frozen=True)
class Operation:
    """Asked for, and not done yet. Whoever holds the repository's claim does it; each part can be repeated.

    id: random. user: who asked. at: RFC 3339, in UTC; with both, the same commit is made again after a crash.
    version: the semantic version asked for, empty for the next number.
    revision, commit: what was chosen before it is pushed: the tag's last part, and what it is to point to.
    """

    id: str
    step: Step
    user: str
    at: str
    version: str = ""
    revision: str = ""
    commit: str = ""


@slotted(frozen=True)
class Held:
    """Everything of one revision, as of one moment. served, draft, operation: None where there is none.

    content_revision: mod revision of the last change of a draft's content, 0 where none was made here.
    """

    key: Key
    served: Stored | None = None
    draft: Draft | None = None
    operation: Operation | None = None
    content_revision: int = 0
    _marks: Mapping[bytes, int] = field(default_factory=dict)


class Authored:
    """See the module. Safe to share between tasks. journal: where what is written is told."""

    def __init__(self, client: Client, journal: Journal | None = None) -> None:
        self._client = client
        self.journal = journal or Journal(client)

    @property
    def client(self) -> Client:
        """Where all this is."""
        return self._client

    async def read(self, key: Key) -> Held:
        """What there is of a revision. Raises: Unavailable."""
        names = _names(key)
        result = await self._client.txn([], [Get(name) for name in names])
        return _held(key, names, [found.key_values[0] if found.key_values else None for found in result.ranges])

    async def write(
        self,
        before: Held,
        *,
        value: bytes | None,
        draft: Draft | None,
        operation: Operation | None = None,
        content: Digest | None = None,
        claim: Claim | None = None,
        tells: Tells | None = None,
    ) -> Held | None:
        """Replace all that there is of a revision; None, and nothing written, where it is not `before` any more.

        value: of the served object, without resourceVersion (model.encode). content: of a draft whose content changes
        with this; without it the mark of the last change stays, and goes with the draft.
        tells: how what is served of it changes is told, in the same transaction; without it by itself.
        What stays as it is is not written: a change of the draft alone is no event for watchers of what is served.
        A write whose answer was lost is recognised, and not repeated.
        Raises: LeaseLostError where `claim` was lost; NoSpace, Unavailable.
        """
        served, drafts, contents, operations = names = _names(before.key)
        wanted: dict[bytes, bytes | None] = {
            served: value,
            drafts: _encode(draft),
            operations: _encode(operation),
        }
        if content is not None:
            wanted[contents] = content.encode()
        elif draft is None:
            wanted[contents] = None
        had = {
            served: before.served.value if before.served else None,
            drafts: _encode(before.draft),
            operations: _encode(before.operation),
        }
        changes = [
            Delete(name) if written is None else Put(name, written)
            for name, written in wanted.items()
            if (before._marks.get(name) if written is None else written != had.get(name))
        ]
        compares = [Compare(name, "mod_revision", before._marks.get(name, 0)) for name in names]
        fence = [claim.fence] if claim else []
        reads = [Get(name) for name in names]
        told = await (tells or self.journal.each)(before.key, had[served], value, None)

        async def once() -> Held | None:
            result = await self.journal.txn([*fence, *compares], changes, told, reads, reads)
            ranges = result.ranges[-len(names) :]
            found = [each.key_values[0] if each.key_values else None for each in ranges]
            here = {name: kv.value if kv else None for name, kv in zip(names, found, strict=True)}
            # Every write of ours differs from what was there, in a time or an id: what stands there now was this one.
            mine = result.succeeded or (changed and all(here[name] == wanted[name] for name in wanted))
            return _held(before.key, names, found) if mine else None

        changed = any(written != had.get(name) for name, written in wanted.items())
        after = await persist(once)
        if after is None and claim is not None and not (await self._client.txn([claim.fence], [])).succeeded:
            raise LeaseLostError(claim.lost_message)
        return after

    async def of_repository(self, repository: RepositoryKey) -> tuple[dict[Key, Draft], dict[Key, Operation]]:
        """Every draft and every operation of a repository, by key, in order of package and revision."""
        return await self.drafts(repository), await self.operations(repository)

    async def drafts(self, repository: RepositoryKey, package: str | None = None) -> dict[Key, Draft]:
        """Every draft of a repository, or of one of its packages, by key, in order."""
        found: dict[Key, Draft] = {}
        within = (repository.namespace, repository.name, *(() if package is None else (package,)))
        async for page in self._client.pages(DRAFT + joined(*within) + b"/"):
            found.update((parse_authored_key(kv.key)[1], _decode_draft(kv.value)) for kv in page.key_values)
        return found

    async def operations(self, repository: RepositoryKey) -> dict[Key, Operation]:
        """Every operation of a repository, by key, in order."""
        found: dict[Key, Operation] = {}
        async for page in self._client.pages(OPERATION + joined(repository.namespace, repository.name) + b"/"):
            found.update((parse_authored_key(kv.key)[1], _decode_operation(kv.value)) for kv in page.key_values)
        return found

    async def highest_number(self, repository: RepositoryKey, package: str) -> int:
        """The highest number that a revision of the package is known to have had; 0 where none is noted."""
        found = (await self._client.range(number_key(repository, package))).key_values
        return int(found[0].value) if found else 0

    async def note_number(self, claim: Claim, repository: RepositoryKey, package: str, number: int) -> None:
        """Note that a revision of the package had this number. Raises: LeaseLostError, NoSpace, Unavailable."""
        if number <= await self.highest_number(repository, package):
            return
        put = Put(number_key(repository, package), b"%d" % number)
        if not (await persist(lambda: self._client.txn([claim.fence], [put]))).succeeded:
            raise LeaseLostError(claim.lost_message)

    async def forget(self, repository: RepositoryKey, claim: Claim) -> None:
        """Drop every draft and operation of a repository, and the numbers noted; what is served of it stays.

        Raises: LeaseLostError, Unavailable.
        """
        where = joined(repository.namespace, repository.name) + b"/"
        gone = [Delete(each + where, prefix_end(each + where)) for each in (DRAFT, CONTENT, OPERATION, NUMBER)]
        if not (await persist(lambda: self._client.txn([claim.fence], gone))).succeeded:
            raise LeaseLostError(claim.lost_message)

    async def repositories(self) -> tuple[set[RepositoryKey], int]:
        """Repositories with a draft or an operation, and the revision of etcd that this is true of."""
        found: set[RepositoryKey] = set()
        revision = 0
        async for page in self._client.pages(AUTHOR, keys_only=True):
            revision = page.revision
            found.update(_repository(kv.key) for kv in page.key_values)
        return found, revision

    @asynccontextmanager
    async def follow(self, after: int) -> AsyncIterator[AsyncIterator[set[RepositoryKey]]]:
        """Repositories of which a draft or an operation came, changed or went behind a revision of etcd, live.

        Raises: Compacted, Unavailable, also while iterating: begin again with repositories().
        """

        async def each() -> AsyncIterator[set[RepositoryKey]]:
            async for batch in watch:
                if batch.events:
                    yield {_repository(event.key) for event in batch.events}

        async with self._client.watch(AUTHOR, start_revision=after + 1) as watch:
            yield each()

    async def replaced(self) -> AsyncIterator[set[Digest]]:
        """Content that drafts had until now and have no more, live; others may still refer to it.

        Raises: Compacted, Unavailable: begin again.
        """
        here: dict[bytes, bytes] = {}
        revision = 0
        async for page in self._client.pages(CONTENT):
            revision = page.revision
            here.update((kv.key, kv.value) for kv in page.key_values)
        async with self._client.watch(CONTENT, start_revision=revision + 1) as watch:
            async for batch in watch:
                gone: set[Digest] = set()
                for event in batch.events:
                    before = here.pop(event.key, None)
                    if event.value is not None:
                        here[event.key] = event.value
                    if before is not None and before != event.value:
                        gone.add(Digest(before.decode()))
                if gone:
                    yield gone

    async def settled(self, key: Key, operation: str, *, after: int) -> None:
        """Returns when the operation of this id is not there any more. after: a revision of etcd at which it was.

        Raises: Compacted, Unavailable.
        """
        name = authored_key(OPERATION, key)
        async with self._client.watch(name, start_revision=after + 1) as watch:
            found = (await self._client.range(name)).key_values
            if not found or _decode_operation(found[0].value).id != operation:
                return
            async for batch in watch:
                for event in batch.events:
                    if event.key == name and (event.value is None or _decode_operation(event.value).id != operation):
                        return


def _names(key: Key) -> tuple[bytes, bytes, bytes, bytes]:
    return object_key(key), authored_key(DRAFT, key), authored_key(CONTENT, key), authored_key(OPERATION, key)


def _held(key: Key, names: Sequence[bytes], found: Sequence[KeyValue | None]) -> Held:
    served, draft, content, operation = found
    return Held(
        key,
        Stored(key, served.value, served.mod_revision) if served else None,
        _decode_draft(draft.value) if draft else None,
        _decode_operation(operation.value) if operation else None,
        content.mod_revision if content else 0,
        {name: kv.mod_revision if kv else 0 for name, kv in zip(names, found, strict=True)},
    )


def _repository(key: bytes) -> RepositoryKey:
    _, _, rest = key.removeprefix(AUTHOR).partition(b"/")
    namespace, name, *_ = rest.split(b"/")
    return RepositoryKey(component_of(namespace), component_of(name))


def _encode(written: Draft | Operation | None) -> bytes | None:
    return None if written is None else orjson.dumps(written)


def _decode_draft(value: bytes) -> Draft:
    raw: dict[str, Any] = orjson.loads(value)
    told = tuple(Condition(**each) for each in raw.get("conditions", ()))
    return Draft(**{**raw, "authors": tuple(raw["authors"]), "conditions": told})


def _decode_operation(value: bytes) -> Operation:
    raw: dict[str, Any] = orjson.loads(value)
    return Operation(**{**raw, "step": Step(raw["step"])})
