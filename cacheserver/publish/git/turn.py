"""One look at a repository, and all that is done with it in git: operations chained into one push, then drafts.

What is about to be pushed is written down first, each push has a lease on every ref, and whoever comes next looks at
git before he does anything, so that it may be cut off anywhere. Called by publisher.py.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import TYPE_CHECKING, Final

from cacheserver import metrics
from cacheserver.config import RepositoryConfig
from cacheserver.errors import SourceAuthenticationError, SourceError, SourceInvalidError
from cacheserver.model import Key
from cacheserver.publish.git import commits, refs
from cacheserver.publish.git.commits import AtomicUnsupportedError, Update, Verdict
from cacheserver.publish.git.plan import Later, Plan, Planner, RefusedPlan, View, number_of
from cacheserver.publish.outcome import DIVERGED, PUSHED, Condition, Failure, Object, taken_apart
from cacheserver.slotted import slotted
from cacheserver.sources.git.complaints import MirrorDamagedError
from cacheserver.sources.git.mirror import Copy
from cacheserver.sources.git.source import GitRefsSource
from cacheserver.store.authored import Draft, Held, Operation, Step
from cacheserver.store.claims import Claim
from cacheserver.tasks import in_parallel

if TYPE_CHECKING:
    from cacheserver.publish.git.publisher import Publisher

log = logging.getLogger(__name__)

CHAIN: Final = 32
"""Operations of one push. Ours: it takes no longer than one alone, and is taken apart again where one is refused."""
DRAFTS_AT_ONCE: Final = 256
"""Drafts of one push, and their bytes: what one `git fast-import` writes."""
DRAFTS_BYTES: Final = 64 << 20
_TRIES: Final = 10
"""Of an operation whose refs move under it, or whose push breaks off."""
_LOOKS: Final = 3
"""Of a remote that does not answer, before an operation is given up."""
_WRITES: Final = 16
CAS_TRIES: Final = 20
"""Of a write that somebody else's overtook."""
_DIVERGED_S: Final = 60.0
"""Until a draft whose branch somebody moved is looked at again, unless it is saved."""

_BY_SYNC: Final = (Step.APPROVE, Step.PROPOSE_DELETION, Step.KEEP, Step.DELETE)

Waiting = tuple[Key, str]
"""A revision, and the id of its operation."""


@slotted()
class Turn:
    """One look at a repository and all that is done with it."""

    publisher: Publisher
    config: RepositoryConfig
    claim: Claim
    pushed: bool = False
    waiting: list[Waiting] = field(default_factory=list)
    error: SourceError | None = None
    remote: GitRefsSource = field(init=False)
    _singly: bool = False
    _tries: int = 0

    async def carry_out(self, copy: Copy, operations: Mapping[Key, Operation], due: Sequence[Key]) -> None:
        """Raises: SourceError that no operation waits for any more."""
        await self._operations(copy, list(operations))
        for some in await self._chunks(due):
            await self._drafts(copy, some)

    async def give_up(self, operations: Mapping[Key, Operation], due: Sequence[Key], error: SourceError) -> None:
        """Tell what was not come to: nobody waits for an operation that nobody tries."""
        carried_out = {key for key, _ in self.waiting}
        for key, operation in operations.items():
            held = await self.publisher.authored.read(key)
            if key not in carried_out and held.operation is not None and held.operation.id == operation.id:
                await self.publisher.end(held, held.operation, self.claim, _failure(error))
        why, drafts = _not_pushed(error), await self.publisher.authored.drafts(self.config.key) if due else {}
        waiting = [key for key in due if key in drafts and drafts[key].unpushed_ms]
        await in_parallel(waiting, lambda key: self._tell(key, why), width=_WRITES)

    async def _look(self, copy: Copy) -> Planner:
        seen = await self.remote.look()
        self.publisher.reached("looked")
        return Planner(copy, await View.of(seen), self.publisher.people, self.publisher.files_of)

    # --- operations ---

    async def _operations(self, copy: Copy, left: list[Key]) -> None:
        began, count = time.monotonic(), len(left)
        while left:
            if self._tries >= _TRIES:
                await self._fail(left, Failure(503, "ServiceUnavailable", _TOO_FAST))
                return
            try:
                planner = await self._look(copy)
            except MirrorDamagedError:
                raise
            except SourceError as exc:
                self._tries += 1
                if isinstance(exc, SourceAuthenticationError) or self._tries >= _LOOKS:
                    self.error = exc
                    await self._fail(left, _failure(exc))
                    return
                await self._pause()
                continue
            plans = await self._plans(planner, left, self._width())
            if plans:
                await self._push(copy, planner, plans, left)
        for _ in range(count):
            metrics.publish_seconds.observe(time.monotonic() - began)

    def _width(self) -> int:
        return 1 if self._singly or not self.publisher.is_atomic(self.config.key) else CHAIN

    async def _plans(self, planner: Planner, left: list[Key], most: int) -> list[Plan]:
        """What is to be pushed for the first of `left`; those that need no push, or cannot be done, leave it."""
        plans: list[Plan] = []
        ahead = await self._look_ahead(planner, left[:most])
        for key in list(left):
            if len(plans) >= most:
                break
            held, highest = ahead.get(key) or await self._read(key)
            if held.operation is None or held.served is None:
                left.remove(key)
                if held.operation is not None:
                    await self.publisher.end(held, held.operation, self.claim, None)
                continue
            try:
                plan = await planner.plan(held, highest)
            except Later:
                continue
            except RefusedPlan as refused:
                left.remove(key)
                await self.publisher.end(held, held.operation, self.claim, refused.failure)
                continue
            if plan.moves:
                plans.append(plan)
            else:
                left.remove(key)
                await self._done(plan, [])
        return plans

    async def _look_ahead(self, planner: Planner, keys: Sequence[Key]) -> dict[Key, tuple[Held, int]]:
        """All that is kept of these, read at the same time, and known to the planner."""
        found: dict[Key, tuple[Held, int]] = {}

        async def read(key: Key) -> None:
            found[key] = await self._read(key)

        await in_parallel(keys, read, width=_WRITES)
        await planner.look_ahead(list(found.values()))
        return found

    async def _read(self, key: Key) -> tuple[Held, int]:
        """What there is of a revision, and the highest number that is noted of its package."""
        authored = self.publisher.authored
        return await authored.read(key), await authored.highest_number(self.config.key, key.package)

    async def _push(self, copy: Copy, planner: Planner, plans: Sequence[Plan], left: list[Key]) -> None:
        """One push for all plans; those that are settled by it leave `left`."""
        view, reached = planner.view, self.publisher.reached
        try:
            made = await commits.build(copy, view.commits)
        except MirrorDamagedError:
            raise
        except SourceInvalidError as exc:  # of one of them: its content is not there, or no tree may hold it
            if len(plans) > 1:
                self._singly = True
            else:
                await self._fail([plans[0].held.key], _failure(exc), left)
            return
        reached("built")
        noted = await self._note(plans, made)
        if len(noted) < len(plans):
            self._tries += 1
            return  # somebody wrote meanwhile: look at it again
        reached("noted")
        updates = [update for plan in noted for update in plan.updates(made)]
        if isinstance(view.head, int):
            updates.insert(0, Update(view.main, view.oids.get(view.main, ""), made[view.head]))
        try:
            results = await self._pushed(copy, updates)
        except AtomicUnsupportedError:
            self.publisher.not_atomic(self.config.key)
            return
        except MirrorDamagedError:
            raise
        except SourceAuthenticationError as exc:
            self.error = exc
            await self._fail([plan.held.key for plan in noted], _failure(exc), left)
            return
        except SourceError as exc:
            self._tries += 1  # it may have happened: the next look tells
            log.info("a push broke off; git is asked what came of it", extra={"error": str(exc)})
            await self._pause()
            return
        reached("pushed")
        if all(result.verdict is Verdict.OK for result in results.values()):
            for plan in noted:
                left.remove(plan.held.key)
            await in_parallel(noted, lambda plan: self._done(plan, made), width=_WRITES)
            return
        await self._refused(noted, made, results, left, view.main)

    async def _pushed(self, copy: Copy, updates: Sequence[Update]) -> dict[str, commits.Result]:
        if self.publisher.is_atomic(self.config.key):
            return await commits.push(copy, updates)
        # The branch, then tags, then what goes: cut short, the next look finds the commit on the branch.
        results: dict[str, commits.Result] = {}
        order = sorted(updates, key=lambda update: (not update.new, update.ref.startswith(refs.TAGS)))
        for update in order:
            results |= await commits.push(copy, [update], atomic=False)
            self.publisher.reached("pushed one")
            if results[update.ref].verdict is not Verdict.OK:
                break
        return results

    async def _refused(
        self,
        plans: Sequence[Plan],
        made: Sequence[str],
        results: Mapping[str, commits.Result],
        left: list[Key],
        main: str,
    ) -> None:
        """Nothing was moved (atomic). Who is to blame is told; for the others it is tried again."""
        refused = {ref: result for ref, result in results.items() if result.verdict is Verdict.REFUSED}
        if not refused:
            self._tries += 1
            await self._pause()
            return
        mine = {plan.held.key: {update.ref for update in plan.updates(made)} & refused.keys() for plan in plans}
        to_blame = [plan for plan in plans if mine[plan.held.key]]
        if len(plans) > 1 and (main in refused or len(to_blame) == len(plans)):
            self._singly = True  # a hook speaks of all or none: one by one, it is seen whom it means
            return
        for plan in to_blame if len(plans) > 1 else plans:
            text = next((result.text for ref, result in sorted(refused.items())), "")
            why = f"the git server refuses it, and nothing was moved: {text or 'it does not say why'}"
            await self._fail([plan.held.key], Failure(403, "Forbidden", why), left)

    async def _note(self, plans: Sequence[Plan], made: Sequence[str]) -> list[Plan]:
        """Write down what is about to be pushed, so that whoever finds it in git knows it for ours."""
        noted: list[Plan] = []
        authored, claim = self.publisher.authored, self.claim

        async def note(plan: Plan) -> None:
            held, operation, draft = plan.held, plan.held.operation, plan.held.draft
            assert held.served is not None
            if operation is not None and operation.step is Step.DELETE and plan.revision:
                await authored.note_number(claim, self.config.key, held.key.package, number_of(plan.revision))
            if operation is not None and plan.commit != "":
                commit = made[plan.commit] if isinstance(plan.commit, int) else plan.commit
                operation = replace(operation, revision=plan.revision, commit=commit)
            if draft is not None and plan.made is not None and plan.draft is not None:
                draft = replace(draft, pushing=made[plan.made], pushing_digest=plan.draft.digest)
            after: Held | None = held
            if (operation, draft) != (held.operation, held.draft):
                after = await authored.write(
                    held, value=held.served.value, draft=draft, operation=operation, claim=claim
                )
            if after is not None:
                noted.append(replace(plan, held=after))

        await in_parallel(plans, note, width=_WRITES)
        order = [plan.held.key for plan in plans]
        return sorted(noted, key=lambda plan: order.index(plan.held.key))

    async def _done(self, plan: Plan, made: Sequence[str]) -> None:
        """Git is as the operation wants it."""
        held, operation = plan.held, plan.held.operation
        assert operation is not None
        deleted_draft = operation.step is Step.DELETE and held.draft is not None
        if operation.step in _BY_SYNC and not deleted_draft:
            self.pushed = self.pushed or bool(plan.moves)
            self.waiting.append((held.key, operation.id))
            if operation.step is Step.APPROVE and (number := number_of(plan.revision)):
                await self.publisher.authored.note_number(self.claim, self.config.key, held.key.package, number)
            return
        for _ in range(CAS_TRIES):
            if deleted_draft:
                after = await self.publisher.authored.write(held, value=None, draft=None, claim=self.claim)
                self.pushed = self.pushed or after is not None
            else:
                after = await self._moved(held, operation, plan, made)
            if after is not None:
                break
            held = await self.publisher.authored.read(held.key)
            if held.operation is None or held.operation.id != operation.id:
                return
        self.publisher.reached("written")
        metrics.publish_operations.labels(operation.step.value, "done").inc()
        about = {"revision": held.key.name, "user": operation.user, "id": operation.id}
        log.info("done in git", extra={**about, "step": operation.step.value})

    async def _moved(self, held: Held, operation: Operation, plan: Plan, made: Sequence[str]) -> Held | None:
        """A draft was proposed or rejected."""
        assert plan.draft is not None
        draft = plan.draft
        if plan.made is not None:
            draft = replace(draft, commit=made[plan.made])
        served = await taken_apart(held)
        proposed = operation.step is Step.PROPOSE
        served.become("Proposed" if proposed else "Draft")
        served.note(proposedBy=operation.user if proposed else "", proposedAt=operation.at if proposed else "")
        served.end(operation, None)
        clean = draft.digest == served.digest
        draft = replace(draft, unpushed_ms=0 if clean else draft.unpushed_ms)
        self._tell_pushed(served, draft, clean=clean)
        return await self.publisher.authored.write(held, value=served.bytes(), draft=draft, claim=self.claim)

    def _tell_pushed(self, served: Object, draft: Draft, *, clean: bool) -> None:
        served.locate(self.remote.url, draft.directory, draft.branch, draft.commit)
        served.untell(DIVERGED)
        if clean:
            served.tell(
                Condition(PUSHED, true=True, reason="Pushed", message="git has all of it"), self.publisher.now()
            )

    async def _fail(self, keys: Iterable[Key], failure: Failure, left: list[Key] | None = None) -> None:
        for key in list(keys):
            held = await self.publisher.authored.read(key)
            if held.operation is not None:
                await self.publisher.end(held, held.operation, self.claim, failure)
            if left is not None:
                left.remove(key)

    async def _pause(self) -> None:
        """Those who meet again and again must not go on in step."""
        await asyncio.sleep(random.uniform(0.5, 1.0) * min(0.05 * 2**self._tries, 2.0))  # noqa: S311  no secret

    # --- drafts ---

    async def _chunks(self, due: Sequence[Key]) -> list[list[Held]]:
        """Drafts to be pushed, as many as one push takes."""
        chunks: list[list[Held]] = []
        room_bytes = 0
        for key in due:
            held = await self.publisher.authored.read(key)
            if held.draft is None or held.served is None or held.operation is not None or not held.draft.unpushed_ms:
                continue
            size = (await taken_apart(held)).size
            if not chunks or len(chunks[-1]) >= DRAFTS_AT_ONCE or size > room_bytes:
                chunks.append([])
                room_bytes = DRAFTS_BYTES
            chunks[-1].append(held)
            room_bytes -= size
        return chunks

    async def _drafts(self, copy: Copy, some: Sequence[Held]) -> None:
        try:
            planner = await self._look(copy)
            plans = await self._flushes(planner, some)
            made = await commits.build(copy, planner.view.commits)
            self.publisher.reached("drafts built")
            noted = await self._note(plans, made)
            self.publisher.reached("drafts noted")
            updates = [update for plan in noted for update in plan.updates(made)]
            # Each for itself: one that somebody moved holds up no other.
            results = await commits.push(copy, updates, atomic=False)
            self.publisher.reached("drafts pushed")
        except SourceError as exc:
            why = _not_pushed(exc)
            await in_parallel(some, lambda held: self._tell(held.key, why), width=_WRITES)
            raise

        async def finish(plan: Plan) -> None:
            found = [results[update.ref] for update in plan.updates(made)]
            bad = next((result for result in found if result.verdict is not Verdict.OK), None)
            if bad is None:
                await self._flushed(plan, made)
            elif bad.verdict is Verdict.REFUSED:
                why = f"the git server refuses it: {bad.text or 'it does not say why'}"
                await self._hold_back(plan.held, Condition(PUSHED, true=False, reason="Refused", message=why))

        await in_parallel(noted, finish, width=_WRITES)
        self.publisher.reached("drafts written")

    async def _flushes(self, planner: Planner, some: Sequence[Held]) -> list[Plan]:
        plans: list[Plan] = []
        for held in some:
            try:
                plan = planner.flush(held, await taken_apart(held))
            except RefusedPlan as refused:
                why = Condition(DIVERGED, true=True, reason="BranchMoved", message=refused.failure.message)
                await self._hold_back(held, why)
                continue
            if plan.moves:
                plans.append(plan)
            else:
                await self._flushed(plan, [])
        return plans

    async def _flushed(self, plan: Plan, made: Sequence[str]) -> None:
        """Git has a draft's content, or what that was when it was pushed."""
        assert plan.draft is not None
        authored, has = self.publisher.authored, plan.draft
        commit = made[plan.made] if plan.made is not None else has.commit
        for _ in range(CAS_TRIES):
            held = await authored.read(plan.held.key)
            if held.draft is None or held.served is None or held.draft.nonce != has.nonce:
                return
            served = await taken_apart(held)
            clean = served.digest == has.digest
            draft = replace(
                held.draft, commit=commit, digest=has.digest, branch=has.branch, pushing="", pushing_digest="",
                unpushed_ms=0 if clean else held.draft.saved_ms,
            )  # fmt: skip
            self._tell_pushed(served, draft, clean=clean)
            after = await authored.write(
                held, value=served.bytes(), draft=draft, operation=held.operation, claim=self.claim
            )
            if after is not None:
                return

    async def _hold_back(self, held: Held, why: Condition) -> None:
        """Not before it changes, or a while has gone by."""
        assert held.draft is not None
        self.publisher.drafts.hold_back(held.key, held.draft, _DIVERGED_S)
        if await self._tell(held.key, why):
            about = {"revision": held.key.name, "reason": why.reason, "error": why.message}
            log.warning("a draft is not pushed", extra=about)

    async def _tell(self, key: Key, why: Condition) -> bool:
        """A condition of a draft, once; false where it says so already."""
        authored = self.publisher.authored
        for _ in range(CAS_TRIES):
            held = await authored.read(key)
            if held.draft is None or held.served is None:
                return False
            served = await taken_apart(held)
            if not served.tell(why, self.publisher.now()):
                return False
            value = served.bytes()
            if await authored.write(held, value=value, draft=held.draft, operation=held.operation, claim=self.claim):
                return True
        return False


_TOO_FAST: Final = "git's refs moved each time this was tried; nothing was moved by it. Try again in a moment"


def _not_pushed(error: SourceError) -> Condition:
    return Condition(PUSHED, true=False, reason=error.reason, message=f"git does not have it yet: {error}"[:1000])


def _failure(error: SourceError) -> Failure:
    if isinstance(error, SourceAuthenticationError):
        return Failure(403, "Forbidden", f"git does not let us push: {error}")
    return Failure(503, "ServiceUnavailable", f"git cannot be worked with now, and this was given up: {error}")
