"""Drafts that were made here, in etcd and beside the syncs of their repository: nothing of a user is lost, and a draft
becomes what git says in one event."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from cacheserver.catalogs.krm.facts import Facts, Origin, Revision
from cacheserver.catalogs.krm.project import revision_record
from cacheserver.config.sources import GitRef, GitSource, RefKind
from cacheserver.errors import LeaseLostError
from cacheserver.ingest.collection import ContentCollection
from cacheserver.ingest.removal import forget
from cacheserver.model import Digest, Key, Kind, Record, UserMetadata, encode
from cacheserver.store.authored import Draft, Held, Operation, Step
from tests.support.krm import KRMRepository, annotated
from tests.support.world import KEY, World

NOW = "2026-11-21T10:00:00Z"
NONCE = "0123456789abcdef"
W1 = Key(Kind.REVISION, KEY.namespace, KEY.name, "a", "w1")
FACTS = Facts(("sha256:" + "1" * 64, 1024, 1))
DRAFT = Draft(nonce=NONCE, directory="a", task="{}", saved_ms=1, unpushed_ms=1)
APPROVE = Operation("op-1", Step.APPROVE, "kim", NOW)


async def sync(world: World, repository: KRMRepository) -> None:
    await world.sync(GitSource(repository.url, GitRef(RefKind.BRANCH, "main"), ""), writable=True)


async def seen(world: World, since: int) -> list[tuple[str, str]]:
    """What a watcher from `since` on sees up to now: ("put" or "gone", `PACKAGE[@REVISION]`)."""
    events = await world.events(since)
    return [(what, key.split(f"/{KEY.name}/")[1].replace("/", "@")) for what, key in events]


@pytest.fixture
def repository(tmp_path: Path) -> KRMRepository:
    """Package a on the branch, without any tag."""
    repository = KRMRepository(tmp_path / "repo.git")
    repository.package("a", "1")
    return repository


def value(lifecycle: Origin = Origin.DRAFT, users: UserMetadata | None = None, content: str = "1") -> bytes:
    facts = replace(FACTS, content=("sha256:" + content * 64, 1024, 1))
    record = revision_record(KEY, "a", Revision("w1", lifecycle, "t", workspace="w1", nonce=NONCE), facts)
    return encode(record, previous=None, now=NOW, users=users)


async def drafted(
    world: World, *, operation: Operation | None = None, users: UserMetadata | None = None, key: Key = W1
) -> Held:
    held = await world.store.authored.write(
        Held(key), value=value(users=users), draft=DRAFT, operation=operation, content=Digest("sha256:" + "1" * 64)
    )
    assert held is not None
    return held


async def test_everything_of_a_revision_is_written_and_read_as_one(world: World) -> None:
    authored = world.store.authored
    made = await drafted(world, operation=APPROVE)
    assert await authored.read(W1) == made
    assert (made.draft, made.operation) == (DRAFT, APPROVE)
    assert made.served is not None
    assert made.content_revision == made.served.mod_revision
    labelled = await authored.write(made, value=value(users=UserMetadata(labels={"x": "y"})), draft=DRAFT)
    assert labelled is not None
    assert labelled.content_revision == made.content_revision  # no change of content
    assert labelled.operation is None
    assert await authored.write(made, value=value(), draft=DRAFT) is None  # not what it was made from
    gone = await authored.write(labelled, value=None, draft=None)
    assert gone == await authored.read(W1)
    assert (gone.served, gone.draft, gone.content_revision) == (None, None, 0)


async def test_of_many_who_write_at_once_one_does(world: World) -> None:
    made = await drafted(world)
    values = [value(users=UserMetadata(labels={"n": str(n)})) for n in range(20)]
    wrote = await asyncio.gather(
        *(
            world.store.authored.write(made, value=each, draft=DRAFT, content=Digest(f"d{n}"))
            for n, each in enumerate(values)
        )
    )
    winners = [held for held in wrote if held is not None]
    assert winners == [await world.store.authored.read(W1)]


async def test_a_write_under_a_lost_claim_is_refused(world: World) -> None:
    made = await drafted(world)
    claim = await world.hold()
    await (await world.session()).release(claim)
    with pytest.raises(LeaseLostError):
        await world.store.authored.write(made, value=value(), draft=None, claim=claim)
    assert await world.store.authored.read(W1) == made


async def test_whoever_follows_hears_of_the_repository_and_of_the_end_of_an_operation(world: World) -> None:
    authored = world.store.authored
    assert await authored.repositories() == (set(), (await authored.repositories())[1])
    _, revision = await authored.repositories()
    async with authored.follow(revision) as changes:
        made = await drafted(world, operation=APPROVE)
        assert await anext(changes) == {KEY}
    assert (await authored.repositories())[0] == {KEY}
    assert await authored.of_repository(KEY) == ({W1: DRAFT}, {W1: APPROVE})
    assert made.served is not None
    waiting = asyncio.ensure_future(authored.settled(W1, "op-1", after=made.served.mod_revision))
    await authored.settled(W1, "another", after=made.served.mod_revision)  # is not there: settled
    await authored.write(made, value=value(), draft=DRAFT)
    await waiting


async def test_a_sync_leaves_drafts_alone_those_in_git_and_those_that_are_not(
    world: World, repository: KRMRepository
) -> None:
    made = await drafted(world, users=UserMetadata(labels={"team": "net"}, finalizers=["example.com/x"]))
    await sync(world, repository)
    assert await world.store.authored.read(W1) == made
    repository.branch("drafts/a/w1")
    repository.package("b", "1")
    await sync(world, repository)
    assert await world.store.authored.read(W1) == made
    repository.remove("a")
    repository.delete("refs/heads/drafts/a/w1")
    await sync(world, repository)  # the package is gone from git, the draft is not
    assert await world.store.authored.read(W1) == made
    assert set(await world.objects()) == {"repo.a.w1", "repo.b", "repo.b.main"}


def publish(repository: KRMRepository, nonce: str = NONCE, content: str = "2") -> None:
    repository.package("a", content, message=annotated("a", "w1", "1", nonce=nonce))
    repository.tag("a/v1")


async def test_a_draft_becomes_what_was_published_in_one_event(world: World, repository: KRMRepository) -> None:
    users = UserMetadata({"team": "net"}, {"note": "x"}, ["example.com/x"])
    made = await drafted(world, operation=APPROVE, users=users)
    assert made.served is not None
    publish(repository)
    await sync(world, repository)
    held = await world.store.authored.read(W1)
    assert (held.draft, held.operation, held.content_revision) == (None, None, 0)
    assert held.served is not None
    before, after = orjson.loads(made.served.value), orjson.loads(held.served.value)
    assert (after["spec"]["lifecycle"], after["spec"]["revision"], after["spec"]["workspaceName"]) == (
        "Published",
        "v1",
        "w1",
    )
    assert after["metadata"]["labels"]["cacheserver.dev/latest"] == "true"
    for kept in ("uid", "name", "creationTimestamp", "finalizers"):
        assert after["metadata"][kept] == before["metadata"][kept]
    assert UserMetadata.of(after) == UserMetadata.of(before)
    assert [event for event in await seen(world, made.served.mod_revision) if event[1] == "a@w1"] == [("put", "a@w1")]
    since = await world.store.current_revision()
    await sync(world, repository)
    assert await seen(world, since) == []


async def test_what_somebody_else_published_from_a_workspace_does_not_take_its_draft_away(
    world: World, repository: KRMRepository
) -> None:
    made = await drafted(world)  # it holds other content than what is published, and nobody approved it here
    publish(repository)
    repository.branch("drafts/b/x")
    for _ in range(2):
        await sync(world, repository)
        found = await world.store.authored.read(W1)
        assert (found.draft, found.content_revision) == (made.draft, made.content_revision)
        objects = await world.objects()
        assert objects["repo.a.w1"]["spec"]["lifecycle"] == "Draft"
        assert "Outdated" in [each["type"] for each in objects["repo.a.w1"]["status"]["conditions"]]
        assert objects["repo.a.v1"]["spec"]["workspaceName"] == "w1"
        repository.package("a", "3")  # its package is written again, and both stay


async def test_what_is_asked_of_a_published_revision_is_done_when_git_says_so(
    world: World, repository: KRMRepository
) -> None:
    publish(repository)
    await sync(world, repository)
    authored = world.store.authored
    held = await authored.read(W1)
    assert held.served is not None
    asked = orjson.loads(held.served.value)
    asked["status"]["operation"] = {"id": "op-2", "step": "ProposeDeletion"}
    operation = Operation("op-2", Step.PROPOSE_DELETION, "kim", NOW)
    assert await authored.write(held, value=orjson.dumps(asked), draft=None, operation=operation)
    repository.package("a", "9", message=annotated("a", "w2", "2"))
    repository.tag("a/v2")
    await sync(world, repository)  # the latest moved: the object is written again, and what is asked stays
    held = await authored.read(W1)
    assert held.operation == operation
    found = (await world.objects())["repo.a.w1"]
    assert found["status"]["operation"] == {"id": "op-2", "step": "ProposeDeletion"}
    assert "cacheserver.dev/latest" not in found["metadata"]["labels"]
    repository.branch("deletionProposed/a/v1", "a/v1")
    await sync(world, repository)
    assert (await authored.read(W1)).operation is None
    found = (await world.objects())["repo.a.w1"]
    assert (found["spec"]["lifecycle"], "operation" in found["status"]) == ("DeletionProposed", False)


async def test_metadata_that_a_user_writes_while_a_sync_goes_on_stays(world: World, repository: KRMRepository) -> None:
    publish(repository)
    await sync(world, repository)
    authored, wrote = world.store.authored, 0

    async def label() -> None:
        nonlocal wrote
        goal = wrote + 10
        while wrote < goal:
            held = await authored.read(W1)
            assert held.served is not None
            manifest = orjson.loads(held.served.value)
            users = UserMetadata.of(manifest)
            spec, status = orjson.dumps(manifest["spec"]), orjson.dumps(manifest["status"])
            labels = {name: text for name, text in manifest["metadata"]["labels"].items() if name not in users.labels}

            record = Record(W1, labels, spec, status, nonce=NONCE)
            users = replace(users, labels={**users.labels, f"n{wrote}": "x"})
            new = encode(record, previous=held.served.value, now=NOW, users=users)
            if await authored.write(held, value=new, draft=held.draft, operation=held.operation):
                wrote += 1

    for number in range(2, 5):
        repository.package("a", str(number), message=annotated("a", f"w{number}", str(number)))
        repository.tag(f"a/v{number}")
        if number == 3:
            repository.branch("deletionProposed/a/v1", "a/v1")
        await asyncio.gather(label(), sync(world, repository))
    labels = (await world.objects())["repo.a.w1"]["metadata"]["labels"]
    assert labels["cacheserver.dev/lifecycle"] == "DeletionProposed"
    assert wrote == 30
    assert {f"n{n}" for n in range(wrote)} <= labels.keys()


async def test_a_repository_that_is_forgotten_takes_its_drafts_along(world: World, repository: KRMRepository) -> None:
    await drafted(world, operation=APPROVE)
    publish(repository)
    claim = await world.hold()
    await forget(KEY, claim, world.store)
    assert await world.objects() == {}
    assert await world.store.authored.of_repository(KEY) == ({}, {})
    left = await world.store.authored.read(W1)
    assert (left.served, left.draft, left.operation, left.content_revision) == (None, None, None, 0)


async def test_content_that_a_save_replaced_goes_soon_and_what_others_refer_to_stays(
    world: World, tmp_path: Path
) -> None:
    shared, unrelated = [await world.blobs.put_bytes(b * 100, "application/x-tar", tmp_path) for b in (b"s", b"u")]
    other = Held(replace(W1, revision="w2"))
    assert await world.store.authored.write(other, value=referring(shared), draft=DRAFT, content=shared)
    collection = ContentCollection(world.store, world.blobs, lambda key: None)
    collecting = asyncio.ensure_future(collection.run_replaced(every_s=0.02, after_s=0.05))
    saved = [shared]
    held = await world.store.authored.write(Held(W1), value=referring(shared), draft=DRAFT, content=shared)
    while not await world.blobs.absent(saved[:-1]):  # it may begin to look later than we begin to save
        assert not collecting.done()
        assert held is not None
        saved.append(await world.blobs.put_bytes(b"%d" % len(saved), "application/x-tar", tmp_path))
        held = await world.store.authored.write(held, value=referring(saved[-1]), draft=DRAFT, content=saved[-1])
    assert await world.blobs.absent([shared, unrelated, saved[-1]]) == set()
    collecting.cancel()


def referring(digest: Digest) -> bytes:
    facts = replace(FACTS, content=(digest, 1024, 1))
    record = revision_record(KEY, "a", Revision("w1", Origin.DRAFT, "t", workspace="w1", nonce=NONCE), facts)
    return encode(record, previous=None, now=NOW)
