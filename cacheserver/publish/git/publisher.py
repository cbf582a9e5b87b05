"""Does in git what was asked for: operations on package revisions, then drafts that git does not have yet (turn.py).

One process at a time works on a repository: whoever holds its claim. It may be killed at any point: what is about to be
pushed is written down first, each push has a lease on every ref, and whoever comes next looks at git before it does
anything. What is published is served by the sync that follows (ingest); never by what stands here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Final

from cacheserver import metrics
from cacheserver.archive import Part, TarReader
from cacheserver.config import RepositoryConfig
from cacheserver.errors import BlobMissingError, SourceError, SourceInvalidError
from cacheserver.model import Digest, RepositoryKey
from cacheserver.publish.git.drafts import Drafts
from cacheserver.publish.git.message import AUTHOR, COMMITTER, Person
from cacheserver.publish.git.plan import People
from cacheserver.publish.git.turn import CAS_TRIES, Turn, Waiting
from cacheserver.publish.outcome import Failure, taken_apart
from cacheserver.slotted import slotted
from cacheserver.sources import Written
from cacheserver.sources.git.complaints import MirrorDamagedError
from cacheserver.store.authored import Authored, Held, Operation, Step
from cacheserver.store.blobs import Blobs
from cacheserver.store.claims import Claim

log = logging.getLogger(__name__)

_AT_ONCE: Final = 4
"""Repositories that are worked on at the same time: git's processes of 10 MB in all, and packs."""


@slotted(frozen=True)
class Work:
    """What came of one look.

    pushed: git has other published revisions now: sync the source at once. waiting: operations that a sync is to end.
    next_s: seconds until something is due, None: when something changes. error: why git could not be worked with;
    operations were told, and drafts wait. tried: git was asked; without that, nothing is known of it.
    """

    pushed: bool = False
    waiting: tuple[Waiting, ...] = ()
    next_s: float | None = None
    error: SourceError | None = None
    tried: bool = True


def _nothing(step: str) -> None:
    """Nobody counts steps."""


class Publisher:
    """See the module. One for all repositories of a process."""

    def __init__(
        self,
        authored: Authored,
        blobs: Blobs,
        *,
        author: str = AUTHOR,
        committer: str = COMMITTER,
        now: Callable[[], float] = time.time,
        reached: Callable[[str], None] = _nothing,
    ) -> None:
        """author: of what nobody is known to have written. reached: called before and behind each step (tests)."""
        self.authored = authored
        self.blobs = blobs
        self.people = People(author, Person.of(committer))
        self.now = now
        self.reached = reached
        self.drafts = Drafts(authored, now)
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._not_atomic: set[RepositoryKey] = set()

    async def work(
        self,
        config: RepositoryConfig,
        source: Written,
        claim: Claim,
        *,
        copies: Callable[[], AbstractAsyncContextManager[object]] = contextlib.nullcontext,
        everything: bool = False,
    ) -> Work:
        """All that waits for one repository. everything: drafts that are not due yet too.

        source: asked for its repository only where there is something to do; copies: in which git's copies stay, and
        which looks at all of them: so not for each save.

        Raises: EtcdError (LeaseLostError among them): what was begun is finished by the next one.
        """
        operations = await self.authored.operations(config.key)
        due, next_s = await self.drafts.due(config, everything=everything)
        if not operations and not due:
            return Work(next_s=next_s, tried=False)
        turn = Turn(self, config, claim)
        async with copies(), self._places:
            for last in (False, True):
                try:
                    turn.remote = await source.written()
                    async with turn.remote.writing() as copy:
                        await turn.carry_out(copy, operations, due)
                    break
                except MirrorDamagedError as exc:  # it is made anew by the next look
                    if last:
                        turn.error = exc
                    operations = await self.authored.operations(config.key)
                except SourceError as exc:
                    turn.error = exc
                    break
            if turn.error is not None:
                await turn.give_up(operations, due, turn.error)
        self.drafts.tell(config.key, turn.error)
        _, next_s = await self.drafts.due(config, looked=True)
        return Work(turn.pushed, tuple(turn.waiting), next_s, turn.error)

    async def settle(self, waiting: Iterable[Waiting], claim: Claim) -> None:
        """End operations that git has carried out and that a sync, which found all well, did not end.

        That one saw nothing new, or does not serve what was published: then this says so.
        """
        for key, operation in waiting:
            held = await self.authored.read(key)
            if held.operation is None or held.operation.id != operation:
                continue  # ended, and perhaps another was asked for since
            failure = None
            if held.operation.step is Step.APPROVE and held.draft is not None:
                why = f"it is published in git as {held.operation.revision}, but its source's sync does not serve that"
                failure = Failure(500, "InternalError", f"{why}: see the status of the Repository")
            await self.end(held, held.operation, claim, failure)

    async def end(self, held: Held | None, operation: Operation, claim: Claim, failure: Failure | None) -> None:
        """An operation is over: with `failure`, or because git is as it is to be."""
        assert held is not None
        for _ in range(CAS_TRIES):
            if held.operation is None or held.operation.id != operation.id:
                return
            value = None
            if held.served is not None:
                served = await taken_apart(held)
                served.end(operation, failure)
                value = served.bytes()
            if await self.authored.write(held, value=value, draft=held.draft, claim=claim) is not None:
                break
            held = await self.authored.read(held.key)
        result = "done" if failure is None else "failed"
        metrics.publish_operations.labels(operation.step.value, result).inc()
        about = {"revision": held.key.name, "step": operation.step.value, "user": operation.user, "id": operation.id}
        if failure is not None:
            log.warning("not done in git", extra={**about, "code": failure.code, "error": failure.message})
        else:
            log.info("done in git", extra=about)

    def is_atomic(self, key: RepositoryKey) -> bool:
        """Whether all refs of a push are moved or none, as far as is known of the repository's server."""
        return key not in self._not_atomic

    def not_atomic(self, key: RepositoryKey) -> None:
        """Its server said so: from now on its refs are pushed one after the other."""
        if key not in self._not_atomic:
            about = {"namespace": key.namespace, "repository": key.name}
            log.warning("the git server takes no atomic pushes; refs are pushed one after the other", extra=about)
        self._not_atomic.add(key)

    def forget(self, key: RepositoryKey) -> None:
        """The repository went: nothing is remembered of it, nor counted."""
        self._not_atomic.discard(key)
        self.drafts.forget(key)

    def files_of(self, digest: Digest) -> Callable[[], AsyncGenerator[Part, None]]:
        """plan.FilesOf."""

        async def parts() -> AsyncGenerator[Part, None]:
            reader = TarReader()
            async with aclosing(self._pieces(digest)) as pieces:
                async for piece in pieces:
                    for part in reader.feed(piece):
                        yield part

        return parts

    async def _pieces(self, digest: Digest) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in self.blobs.read(digest):
                yield piece
        except BlobMissingError as exc:
            raise SourceInvalidError(str(exc)) from exc
