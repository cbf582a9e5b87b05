"""Takes writes of users: drafts are created, saved and deleted in etcd; what git has to do is asked for and awaited.

Each write reads one revision, decides by the rules (rules.py, changes.py), and is one compare-and-set (store/authored).
Any replica takes any write; what is to happen in git is done by whoever holds the repository's claim
(git/publisher.py). Knows nothing of HTTP. Called by the API.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, Protocol

import orjson

from cacheserver import metrics
from cacheserver.catalogs.krm.facts import Facts
from cacheserver.config import RepositoryConfig
from cacheserver.config.policy import Render, Versioning
from cacheserver.config.sources import GitSource
from cacheserver.errors import CacheServerError, RefusedError
from cacheserver.model import (
    Digest,
    Key,
    Kind,
    Lifecycle,
    RepositoryKey,
    Stored,
    UserMetadata,
    edited,
    encode,
    with_resource_version,
)
from cacheserver.publish import changes, conditions, rebase, references, refusals, rendering, rules, served, versions
from cacheserver.publish import draft as drafts
from cacheserver.publish.asking import ANSWER_WITHIN_S, Asking, asked
from cacheserver.publish.content import Content, Judged
from cacheserver.publish.create import tasks
from cacheserver.publish.create.git_clone import GitClones
from cacheserver.publish.create.origin import Beginning
from cacheserver.publish.create.request import Wanted, read_wanted
from cacheserver.publish.git import refs
from cacheserver.publish.package import File, Files, Limits
from cacheserver.publish.preconditions import (
    Preconditions,
    check_content_at,
    check_idle,
    check_preconditions,
    check_version,
    present,
)
from cacheserver.publish.writable import branch_of, directory_of, writable
from cacheserver.slotted import slotted
from cacheserver.store.authored import Authored, Draft, Held, Operation, Step

log = logging.getLogger("cacheserver.audit")

_TRIES: Final = 10
"""Of a write that somebody else's overtook; each begins anew with what there is then."""


class Shelf(Protocol):
    """What else is served, for what a write depends on besides its own revision (the watch cache)."""

    async def packages(self, repository: RepositoryKey) -> tuple[Collection[str], Collection[tuple[str, str]]]:
        """Packages with any revision; package and workspace of each draft and proposed revision."""
        ...

    async def newest(self, repository: RepositoryKey, package: str) -> bytes | None:
        """The manifest of the package's latest published revision."""
        ...

    async def versions(self, repository: RepositoryKey, package: str) -> Collection[str]:
        """spec.version of each published revision of a package."""
        ...

    async def revisions(self, repository: RepositoryKey, package: str) -> Sequence[bytes]:
        """The manifests of all revisions of a package."""
        ...

    async def speaking_of(self, namespace: str, commit: str) -> Sequence[bytes]:
        """The manifests of revisions in which a commit's name stands, whatever for."""
        ...

    async def named(self, namespace: str, name: str) -> bytes | None:
        """The manifest of any revision."""
        ...


@slotted(frozen=True)
class Who:
    """user: as commits and audit lines have it. approve: raises where the caller may not update
    packagerevisions/approval; approve_in: where he may not approve in the repository of this name; fetch: where he
    may not make Repositories, and so have us fetch from where he likes."""

    user: str
    approve: Callable[[], Awaitable[None]]
    approve_in: Callable[[str], Awaitable[None]]
    fetch: Callable[[], Awaitable[None]]


@slotted(frozen=True)
class Written:
    """What a write came to. stored: the object as it is then, or would be; of one that is gone the last there was.

    created, gone: by this write. warnings: for the client.
    """

    stored: Stored
    created: bool = False
    gone: bool = False
    warnings: tuple[str, ...] = ()


Revise = Callable[[dict[str, Any]], Mapping[str, Any]]
"""From an object as it is served, with resourceVersion, to how it is to be; raises what it refuses."""
ReviseFiles = Callable[[Held, dict[str, File]], dict[str, File]]
"""From the files that there are to those that are to be; raises what it refuses."""


class Author:
    """See the module. Safe to share between tasks."""

    def __init__(
        self,
        authored: Authored,
        content: Content,
        shelf: Shelf,
        repositories: Mapping[RepositoryKey, RepositoryConfig],
        *,
        now: Callable[[], float] = time.time,
        answer_within_s: float = ANSWER_WITHIN_S,
        clones: GitClones | None = None,
    ) -> None:
        """repositories: all that there are, kept up to date by whoever made it."""
        self._authored = authored
        self._content = content
        self._shelf = shelf
        self._beginning = Beginning(shelf, content, clones)
        self._repositories = repositories
        self._now = now
        self._asking = Asking(authored, answer_within_s)

    @property
    def limits(self) -> Limits:
        """Of what is written."""
        return self._content.limits

    # --- create ---

    async def create(self, namespace: str, manifest: Mapping[str, Any], who: Who, *, dry_run: bool = False) -> Written:
        """A new draft. Raises: RefusedError; BlobMissingError, EtcdError."""
        wanted = read_wanted(namespace, manifest)
        async with self._told("Create", wanted.key, who, dry_run=dry_run):
            config = self._writable(wanted.key)
            if (
                isinstance(config.source, GitSource)
                and config.source.ref
                and (wanted.key.revision == config.source.ref.name)
            ):
                why = "is the name of the repository's branch, whose content has it already"
                raise refusals.wrong(wanted.key.name, "spec.workspaceName", wanted.key.revision, why)
            held = await self._authored.read(wanted.key)
            if held.served is not None:
                raise refusals.exists(wanted.key.name)
            base, base_revision = await self._place(wanted)
            if wanted.git is not None:
                await who.fetch()
            start, files = await self._beginning.of(wanted, config, who.user)
            if wanted.gates:
                files = await asyncio.to_thread(tasks.with_gates, files, wanted.gates, wanted.key.name)
            judged = await self._content.judge(
                wanted.key, files, field="spec.source", kind=refusals.KIND, store=not dry_run
            )
            assert judged.facts is not None
            at = int(self._now() * 1000)
            draft = Draft(
                nonce=secrets.token_hex(8),
                directory=directory_of(config, wanted.key.package),
                task=orjson.dumps(start.task()).decode(),
                base=base,
                base_revision=base_revision,
                created_by=who.user,
                authors=(who.user,),
                saved_ms=at,
                unpushed_ms=at,
            )
            limits, now = self._content.parsing, self._stamp()
            record = drafts.record_of(wanted.key, judged.facts, draft, wanted.extras, limits=limits, now=now)
            value = encode(record, previous=None, now=now, users=wanted.users)
            if dry_run:
                return Written(Stored(wanted.key, value, 0), created=True)
            after = await self._authored.write(held, value=value, draft=draft, content=judged.digest)
            if after is None or after.served is None:
                raise refusals.exists(wanted.key.name)
            return Written(after.served, created=True)

    async def _place(self, wanted: Wanted) -> tuple[str, str]:
        """Commit and name of the revision that the new one follows. Raises: RefusedError where there is no place."""
        key = wanted.key
        repository = _of(key)
        packages, open_drafts = await self._shelf.packages(repository)
        if len(open_drafts) >= self._content.limits.drafts:
            why = (
                f"the repository has {len(open_drafts)} open drafts, the most that it may have; publish or delete some"
            )
            raise refusals.forbidden(key.name, why)
        if why := refs.draft_clash(key.package, key.revision, open_drafts):
            raise refusals.wrong(key.name, "spec.workspaceName", key.revision, why)
        if wanted.copy or wanted.upgrade:
            return served.place_of(await self._shelf.newest(repository, key.package))
        if key.package in packages:
            why = f"the package {key.package!r} is there; begin a new revision of it with spec.source.copy"
            raise refusals.exists(key.name, why)
        for other in packages:
            if other.startswith(f"{key.package}/") or key.package.startswith(f"{other}/"):
                why = f"lies in the directory of the package {other!r}, or around it; packages do not overlap"
                raise refusals.wrong(key.name, "spec.packageName", key.package, why)
        return "", ""

    # --- files ---

    async def files(self, key: Key) -> tuple[Held, dict[str, File]]:
        """A revision with all its files. Raises: RefusedError 404; BlobMissingError, EtcdError."""
        held = await self._authored.read(key)
        return held, await self._content.files(_digest(present(held)))

    async def save(
        self, key: Key, revise: ReviseFiles, who: Who, *, at: str = "", field: str = "spec", dry_run: bool = False
    ) -> Written:
        """Replace the files of a draft; equal ones change nothing.

        at: resourceVersion since which the content must not have changed; empty: any.
        Raises: RefusedError; BlobMissingError, EtcdError.
        """
        async with self._told("Save", key, who, dry_run=dry_run):

            async def once(held: Held) -> Written | None:
                stored = present(held)
                manifest = orjson.loads(stored.value)
                self._writable(key)
                rules.check_save(key.name, Lifecycle(manifest["spec"]["lifecycle"]))
                check_idle(held)
                check_content_at(held, at)
                known = _digest(stored)
                files = await asyncio.to_thread(revise, held, await self._content.files(known))
                judged = await self._judged(key, files, known, field, dry_run=dry_run)
                if judged.facts is None:
                    return Written(stored)
                draft = await self._edited_draft(held, manifest, who)
                return await self._write_content(held, manifest, judged, draft, dry_run=dry_run)

            return await self._tried(key, once)

    async def rebase(self, key: Key, who: Who, preconditions: Preconditions, *, dry_run: bool = False) -> Written:
        """Bring a draft onto the newest published revision of its package, and what was changed on the branch by hand
        since (rebase.py); one that is there already stays as it is.

        Raises: RefusedError, 422 with every file that both changed; BlobMissingError, EtcdError.
        """
        async with self._told("Rebase", key, who, dry_run=dry_run):

            async def once(held: Held) -> Written | None:
                stored = present(held)
                manifest = orjson.loads(stored.value)
                check_preconditions(stored, manifest, preconditions)
                config = self._writable(key)
                rules.check_save(key.name, Lifecycle(manifest["spec"]["lifecycle"]))
                check_idle(held)
                draft = await self._edited_draft(held, manifest, who)
                wanted = rebase.onto(await self._shelf.revisions(_of(key), key.package), branch_of(config), draft)
                if wanted is None:
                    return Written(stored)
                original = await self._content.files(wanted.original) if wanted.original else {}
                sides = await self._content.files(wanted.digest), await self._content.files(_digest(stored))
                files = await asyncio.to_thread(rebase.merged, key.name, original, *sides)
                judged = await self._judged(key, files, "", "spec.resources", dry_run=dry_run)
                written = await self._write_content(held, manifest, judged, wanted.based(draft), dry_run=dry_run)
                return replace(written, created=True) if written is not None else None

            return await self._tried(key, once)

    async def _write_content(
        self, held: Held, manifest: Mapping[str, Any], judged: Judged, draft: Draft, *, dry_run: bool
    ) -> Written | None:
        """A draft with other content, or None where somebody else was faster."""
        assert judged.facts is not None
        stored = present(held)
        value = self._with_content(held, manifest, judged.facts, draft, {})
        if dry_run:
            return Written(Stored(held.key, value, stored.mod_revision))
        after = await self._authored.write(held, value=value, draft=draft, content=judged.digest)
        return Written(after.served) if after is not None and after.served is not None else None

    async def _judged(self, key: Key, files: Files, known: str, field: str, *, dry_run: bool) -> Judged:
        kind = refusals.RESOURCES_KIND
        return await self._content.judge(key, files, known=known, field=field, kind=kind, store=not dry_run)

    async def _edited_draft(self, held: Held, manifest: Mapping[str, Any], who: Who) -> Draft:
        """The record of a draft whose content changes now."""
        return drafts.saved(await self._draft(held, manifest), who.user, int(self._now() * 1000))

    async def _draft(self, held: Held, manifest: Mapping[str, Any]) -> Draft:
        """The record; of a draft that came from git one that begins now."""
        if held.draft is not None:
            return held.draft
        newest = await self._shelf.newest(_of(held.key), held.key.package)
        return drafts.from_git(held.key, manifest, *served.place_of(newest))

    def _with_content(
        self, held: Held, manifest: Mapping[str, Any], facts: Facts, draft: Draft, extras: Mapping[str, Any]
    ) -> bytes:
        limits, now = self._content.parsing, self._stamp()
        return drafts.with_content(present(held), manifest, facts, draft, extras, limits=limits, now=now)

    # --- the object ---

    async def update(
        self,
        key: Key,
        revise: Revise,
        who: Who,
        *,
        must_name_version: bool = False,
        approval: bool = False,
        dry_run: bool = False,
    ) -> Written:
        """Metadata, gates and lifecycle as `revise` wants them; equal ones change nothing.

        must_name_version: refuse what names no resourceVersion (PUT). approval: take the lifecycle alone, and
        everything that needs it is allowed.
        Raises: RefusedError; BlobMissingError, EtcdError; what `revise` and who.approve raise.
        """

        async def once(held: Held) -> Written | None:
            stored = present(held)
            manifest = orjson.loads(with_resource_version(Kind.REVISION, stored.value, stored.mod_revision))
            wanted = revise(manifest)
            if approval:
                wanted = changes.of_approval(manifest, wanted)
            change = changes.read(manifest, wanted)
            check_version(held, wanted, must_name=must_name_version)
            now = Lifecycle(manifest["spec"]["lifecycle"])
            move = rules.move(key.name, now, change.lifecycle)
            step = move.step if move is not None else None
            if approval and step is Step.PROPOSE:
                raise refusals.wrong(key.name, "spec.lifecycle", change.lifecycle, "a draft is proposed by an update")
            if held.operation is not None and held.operation.step is step:
                await self._may(held, move, who, approval=approval)
                return await self._settled(held, held.operation)
            check_idle(held)
            async with self._told(step.value if step else "Update", key, who, dry_run=dry_run):
                await self._may(held, move, who, approval=approval)
                if step in (Step.PROPOSE, Step.APPROVE) and self._writable(key).render is Render.REQUIRE:
                    rendering.check(key.name, manifest, change.lifecycle)
                if step is Step.APPROVE:
                    conditions.check_gates(key.name, manifest, held.draft)
                version = await self._version(key, manifest, change, step)
                written = await self._apply(held, manifest, change, step, who, version, dry_run=dry_run)
            return replace(written, warnings=change.warnings) if written is not None else None

        return await self._tried(key, once)

    async def _version(self, key: Key, manifest: Mapping[str, Any], change: changes.Change, step: Step | None) -> str:
        """The version that the revision has then (versions.chosen)."""
        if change.version is None and step not in (Step.PROPOSE, Step.APPROVE):
            return str(manifest["spec"].get("version", ""))
        versioning = self._writable(key).versioning
        there = await self._shelf.versions(_of(key), key.package) if versioning is Versioning.SEMVER else ()
        return versions.chosen(manifest, change, step, versioning, there)

    async def _may(self, held: Held, move: rules.Move | None, who: Who, *, approval: bool) -> None:
        if move is None:
            return
        config = self._writable(held.key)
        if move.approval and not approval:
            await who.approve()
        if move.approval and config.approval.per_repository:
            await who.approve_in(held.key.repository)
        if move.step is Step.APPROVE and config.approval.forbid_self:
            rules.check_not_self(held.key.name, who.user, held.draft)

    async def _apply(
        self,
        held: Held,
        manifest: Mapping[str, Any],
        change: changes.Change,
        step: Step | None,
        who: Who,
        version: str,
        *,
        dry_run: bool,
    ) -> Written | None:
        """None where somebody else was faster."""
        stored, key, digest = present(held), held.key, None
        value, draft = edited(stored.value, users=change.users), held.draft
        if change.gates is not None:
            judged, draft, value = await self._with_gates(held, manifest, change, who, dry_run=dry_run)
            digest = judged.digest
        if change.version is not None:
            value = served.with_version(value, version)
            if draft is None:
                draft, digest = await self._draft(held, manifest), _digest(stored)
        if change.users.deletion and not change.users.finalizers:
            if _of(key) not in self._repositories:
                if not dry_run and await self._authored.write(held, value=None, draft=None) is None:
                    return None
                return Written(stored, gone=True)
            rules.check_delete(key.name, Lifecycle(manifest["spec"]["lifecycle"]))
            if manifest["spec"]["lifecycle"] == Lifecycle.DELETION_PROPOSED:
                await references.check_unreferenced(self._shelf, key, manifest)
            step = Step.DELETE
        at = version if step is Step.APPROVE else ""
        operation = asked(step, who.user, self._stamp(), at) if step else None
        if operation is not None:
            if draft is None and manifest["spec"]["lifecycle"] in (Lifecycle.DRAFT, Lifecycle.PROPOSED):
                draft, digest = await self._draft(held, manifest), _digest(stored)
            if dry_run:
                value = served.with_lifecycle(value, change.lifecycle)
            else:
                value = served.with_operation(value, operation)
        if value == stored.value:
            return Written(stored)
        if dry_run:
            return Written(Stored(key, value, stored.mod_revision))
        after = await self._authored.write(held, value=value, draft=draft, operation=operation, content=digest)
        if after is None or after.served is None:
            return None
        if operation is None:
            return Written(after.served)
        return await self._settled(after, operation)

    async def _with_gates(
        self, held: Held, manifest: Mapping[str, Any], change: changes.Change, who: Who, *, dry_run: bool
    ) -> tuple[Judged, Draft, bytes]:
        """The Kptfile keeps the gates, so that git has them."""
        stored, key = present(held), held.key
        gates = change.gates or ()
        if manifest["spec"]["lifecycle"] != Lifecycle.DRAFT:
            raise refusals.wrong(key.name, "spec.readinessGates", "", "only those of a Draft can be changed")
        self._writable(key)
        known = _digest(stored)
        files = await asyncio.to_thread(tasks.with_gates, await self._content.files(known), gates, key.name)
        judged = await self._content.judge(
            key, files, field="spec.readinessGates", kind=refusals.KIND, store=not dry_run
        )
        assert judged.facts is not None
        draft = await self._edited_draft(held, manifest, who)
        extras = {"readinessGates": [{"conditionType": gate} for gate in gates]}
        value = self._with_content(held, manifest, judged.facts, draft, extras)
        return judged, draft, edited(value, users=change.users)

    # --- delete ---

    async def delete(self, key: Key, who: Who, preconditions: Preconditions, *, dry_run: bool = False) -> Written:
        """A draft, or what is proposed for deletion; one with finalizers is marked, and goes with the last of them.

        Raises: RefusedError; EtcdError.
        """
        async with self._told("Delete", key, who, dry_run=dry_run):

            async def once(held: Held) -> Written | None:
                stored = present(held)
                manifest = orjson.loads(stored.value)
                check_preconditions(stored, manifest, preconditions)
                known = _of(key) in self._repositories
                if known:
                    rules.check_delete(key.name, Lifecycle(manifest["spec"]["lifecycle"]))
                    self._writable(key)
                if held.operation is not None and held.operation.step is Step.DELETE:
                    return await self._settled(held, held.operation)
                check_idle(held)
                return await self._delete(held, manifest, who, known=known, dry_run=dry_run)

            return await self._tried(key, once)

    async def _delete(
        self, held: Held, manifest: Mapping[str, Any], who: Who, *, known: bool, dry_run: bool
    ) -> Written | None:
        stored, users = present(held), UserMetadata.of(manifest)
        if known and manifest["spec"]["lifecycle"] == Lifecycle.DELETION_PROPOSED:
            await references.check_unreferenced(self._shelf, held.key, manifest)
        if users.finalizers:
            value = edited(stored.value, users=replace(users, deletion=users.deletion or self._stamp()))
            if dry_run or value == stored.value:
                return Written(Stored(held.key, value, stored.mod_revision))
            after = await self._authored.write(held, value=value, draft=held.draft)
            return Written(after.served) if after is not None and after.served is not None else None
        if dry_run:
            return Written(stored, gone=True)
        if not known:  # its Repository went, and nobody can reach its git any more: forget it
            gone = await self._authored.write(held, value=None, draft=None)
            return Written(stored, gone=True) if gone is not None else None
        draft = held.draft
        digest = None
        if draft is None and manifest["spec"]["lifecycle"] == Lifecycle.DRAFT:
            draft, digest = await self._draft(held, manifest), _digest(stored)
        operation = asked(Step.DELETE, who.user, self._stamp())
        value = served.with_operation(stored.value, operation)
        after = await self._authored.write(held, value=value, draft=draft, operation=operation, content=digest)
        return await self._settled(after, operation) if after is not None else None

    # --- what many need ---

    async def _tried(self, key: Key, once: Callable[[Held], Awaitable[Written | None]]) -> Written:
        """What `once` makes of the revision; asked again, of what there is then, where it says that somebody else was
        faster (None). Raises: RefusedError 404, 409; whatever `once` raises."""
        for attempt in range(_TRIES):
            await _pause(attempt)
            held = await self._authored.read(key)
            present(held)
            if (written := await once(held)) is not None:
                return written
        raise refusals.conflict(key.name)

    def _writable(self, key: Key) -> RepositoryConfig:
        """The repository. Raises: RefusedError 404, 403 with the reason."""
        return writable(self._repositories, key)

    async def _settled(self, held: Held, operation: Operation) -> Written:
        """What it came to, once it is done. Raises: as Asking.settled."""
        after = await self._asking.settled(held, operation)
        return Written(present(held), gone=True) if after is None else Written(after)

    def _stamp(self) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._now()))

    @asynccontextmanager
    async def _told(self, step: str, key: Key, who: Who, *, dry_run: bool) -> AsyncIterator[None]:
        """The audit line and the metric of one step."""
        began, outcome = time.monotonic(), "Done"
        try:
            yield
        except RefusedError as exc:
            outcome = exc.reason
            raise
        except (CacheServerError, asyncio.CancelledError) as exc:
            outcome = type(exc).__name__
            raise
        finally:
            about = {"namespace": key.namespace, "repository": key.repository, "revision": key.name}
            log.info("write", extra={**about, "user": who.user, "step": step, "outcome": outcome, "dry_run": dry_run})
            if not dry_run:
                metrics.author_steps.labels(step, outcome).inc()
                metrics.author_seconds.labels(step).observe(time.monotonic() - began)


def _of(key: Key) -> RepositoryKey:
    return RepositoryKey(key.namespace, key.repository)


async def _pause(attempt: int) -> None:
    """Before the next try: writers who meet again and again must not go on in step."""
    if attempt:
        await asyncio.sleep(random.uniform(0, 0.005 * 2**attempt))  # noqa: S311  no secret


def _digest(stored: Stored) -> Digest:
    return served.digest_of(orjson.loads(stored.value))
