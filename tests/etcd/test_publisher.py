"""What is asked for becomes so in git, whatever happens in between. Real etcd, and git itself as the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from cacheserver.errors import LeaseLostError
from cacheserver.sources.git.command import Remote
from cacheserver.sources.git.source import GitRefsSource
from cacheserver.store.authored import Step
from tests.support import invariants
from tests.support.publishing import KEY, Killed, World, world_at

pytestmark = pytest.mark.etcd

MAIN = "refs/heads/main"


@pytest.fixture
async def world(etcd_endpoint: str, tmp_path: Path) -> AsyncIterator[World]:
    async with world_at(etcd_endpoint, tmp_path) as world:
        yield world


def conditions(status: dict[str, Any]) -> dict[str, str]:
    return {each["type"]: each["status"] for each in status.get("conditions", ())}


# --- drafts ---


async def test_a_draft_is_pushed_as_porch_would_find_it(world: World) -> None:
    main = world.remote.commit({"other/Kptfile": b"o"})
    await world.desk.create("p", "w1")
    await world.work()
    commit = world.refs()["refs/heads/drafts/p/w1"]
    assert world.remote.git("log", "-1", "--format=%P|%an|%ae|%cn", commit) == (
        f"{main}|alice@example.com|alice@example.com|cacheserver"
    )
    subject, _, kpt, *_ = world.remote.git("log", "-1", "--format=%B", commit).splitlines()
    assert subject == "Creating new empty revision"
    assert orjson.loads(kpt.removeprefix("kpt:")) == {
        "package": "p", "workspaceName": "w1", "revision": "0",
        "task": {"type": "init", "init": {"description": "a test"}},
    }  # fmt: skip
    assert world.remote.git("ls-tree", "-r", "--name-only", commit).splitlines() == [
        "other/Kptfile", "p/Kptfile", "p/config.yaml",
    ]  # fmt: skip
    status = await world.status("p", "w1")
    assert conditions(status)["Pushed"] == "True"
    assert status["selfLock"]["git"] == {
        "repo": world.remote.url, "directory": "p", "ref": "drafts/p/w1", "commit": commit,
    }  # fmt: skip


async def test_a_save_drops_files_keeps_bytes_and_modes_and_is_one_commit_more(world: World) -> None:
    await world.desk.create("p", "w1")
    await world.work()
    before = world.refs()["refs/heads/drafts/p/w1"]
    odd = {"Kptfile": b"kind: Kptfile\r\napiVersion: kpt.dev/v1\r\nmetadata: {name: p}\r\n", "run": b"\0\xff\r\n"}
    await world.desk.save("p", "w1", odd, executable=("run",))
    await world.work()
    commit = world.refs()["refs/heads/drafts/p/w1"]
    assert world.remote.git("rev-parse", f"{commit}^") == before
    assert {path: mode for path, (mode, _) in invariants.files_at(world.remote, commit, "p").items()} == {
        "Kptfile": "100644", "run": "100755",
    }  # fmt: skip
    for path, raw in odd.items():
        assert world.remote.git("rev-parse", f"{commit}:p/{path}") == world.remote.git(
            "hash-object", "--stdin", stdin=raw
        )


async def test_drafts_are_pushed_together_a_while_after_the_last_save_and_thirty_seconds_after_the_first(
    world: World,
) -> None:
    world.hook("post-receive", f"echo x >> {world.home}/pushes")
    for number in range(3):
        await world.desk.create(f"p{number}", "w1", saved_ms=996_000)
    waits = await world.work(later_s=0)
    assert waits.next_s == pytest.approx(1.0)
    assert world.refs() == {}
    await world.work(later_s=2)
    assert len(world.refs()) == 3
    assert (world.home / "pushes").read_text() == "x\n"
    await world.desk.save("p0", "w1", world.desk.files("p0", "2"), saved_ms=1_002_000)
    await world.desk.save("p0", "w1", world.desk.files("p0", "3"), saved_ms=1_032_000)
    before = world.refs()
    world.clock = 1031.9
    await world.work(later_s=0)
    assert world.refs() == before
    await world.work(later_s=2)
    assert world.refs() != before


async def test_a_branch_that_somebody_else_moved_is_never_forced(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.desk.create("p", "w1")
    await world.desk.create("q", "w1")
    await world.work()
    ours = world.refs()["refs/heads/drafts/p/w1"]
    theirs = world.remote.commit({"p/theirs": b"t"}, branch="drafts/p/w1")
    for package in ("p", "q"):
        await world.desk.save(package, "w1", world.desk.files(package, "2"), saved_ms=2)
    world.clock += 60
    await world.work()
    assert world.refs()["refs/heads/drafts/p/w1"] == theirs
    status = await world.status("p", "w1")
    assert conditions(status)["Diverged"] == "True"
    (said,) = [each["message"] for each in status["conditions"] if each["type"] == "Diverged"]
    assert ours[:12] in said
    assert theirs[:12] in said
    assert [each.getMessage() for each in caplog.records].count("a draft is not pushed") == 1
    assert conditions(await world.status("q", "w1"))["Pushed"] == "True"
    await world.desk.annotate("p", "w1", "cacheserver.dev/overwrite", theirs)
    world.clock += 61
    await world.work()
    commit = world.refs()["refs/heads/drafts/p/w1"]
    assert world.remote.git("rev-parse", f"{commit}^") == theirs
    assert "Diverged" not in conditions(await world.status("p", "w1"))


async def test_while_git_is_away_drafts_wait_and_say_since_when(world: World) -> None:
    await world.desk.create("p", "w1")
    world.remote.path.rename(world.home / "away")
    assert (await world.work()).error is not None
    first = (await world.status("p", "w1"))["conditions"]
    world.clock += 300
    assert (await world.work()).error is not None
    assert (await world.status("p", "w1"))["conditions"] == first
    assert [(each["type"], each["status"]) for each in first][-1] == ("Pushed", "False")
    (world.home / "away").rename(world.remote.path)
    world.clock += 300
    assert (await world.work()).error is None
    assert "refs/heads/drafts/p/w1" in world.refs()


# --- propose, reject, approve ---


async def test_who_rejects_what_he_wrote_himself_stays_its_author(world: World) -> None:
    """Else he rejects it, has somebody propose it, and approves what he wrote (spec.approval.forbidSelf)."""
    await world.desk.create("p", "w1", user="alice@example.com")
    for user, authors in (("alice@example.com", ("alice@example.com",)), ("bob@example.com", ())):
        await world.do("p", "w1", Step.PROPOSE)
        await world.do("p", "w1", Step.REJECT, user=user)
        held = await world.desk.authored.read(world.desk.key("p", "w1"))
        assert held.draft is not None
        assert held.draft.authors == authors


async def test_propose_moves_the_branch_with_its_last_content_in_one_push(world: World) -> None:
    await world.desk.create("p", "w1")
    await world.work()
    await world.desk.save("p", "w1", world.desk.files("p", "2"))
    world.hook("post-receive", f"echo x >> {world.home}/pushes")
    status = await world.do("p", "w1", Step.PROPOSE)
    assert list(world.refs()) == ["refs/heads/proposed/p/w1"]
    assert world.remote.git("show", "proposed/p/w1:p/config.yaml") == "value: 2"
    assert (world.home / "pushes").read_text() == "x\n"
    assert (await world.object("p", "w1"))["spec"]["lifecycle"] == "Proposed"
    assert (await world.object("p", "w1"))["metadata"]["labels"]["cacheserver.dev/lifecycle"] == "Proposed"
    assert status["lastOperation"]["result"] == "Done"
    assert "operation" not in status


async def test_reject_brings_the_branch_back(world: World) -> None:
    await world.desk.create("p", "w1")
    await world.do("p", "w1", Step.PROPOSE)
    commit = world.refs()["refs/heads/proposed/p/w1"]
    await world.do("p", "w1", Step.REJECT)
    assert world.refs() == {"refs/heads/drafts/p/w1": commit}
    assert (await world.object("p", "w1"))["spec"]["lifecycle"] == "Draft"


async def test_approve_publishes_at_one_merge_commit(world: World) -> None:
    old = world.remote.commit({"other/Kptfile": b"o"})
    await world.desk.create("p", "w1")
    await world.do("p", "w1", Step.PROPOSE)
    draft = world.refs()["refs/heads/proposed/p/w1"]
    await world.desk.ask("p", "w1", Step.APPROVE, user="carol")
    work = await world.work()
    assert work.pushed
    assert [key.name for key, _ in work.waiting] == ["repo.p.w1"]
    refs = world.refs()
    assert refs.keys() == {MAIN, "refs/tags/p/v1"}
    assert refs[MAIN] == refs["refs/tags/p/v1"]
    assert world.remote.git("log", "-1", "--format=%P|%an|%ae|%s", MAIN) == (
        f"{old} {draft}|carol|carol|Approving package revision p/1"
    )
    invariants.check(world.remote, [("p", "v1", "w1")], {("p", "v1"): world.desk.files("p", "1")})
    again = await world.work()
    assert not again.pushed
    assert again.waiting == work.waiting
    assert world.refs() == refs


async def test_the_first_publish_into_an_empty_repository_makes_its_branch(world: World) -> None:
    await world.desk.create("a/b", "w1")
    await world.publish("a/b", "w1")
    assert world.refs().keys() == {MAIN, "refs/tags/a/b/v1"}
    await world.desk.create("c", "w1")
    await world.publish("c", "w1")
    invariants.check(world.remote, [("a/b", "v1", "w1"), ("c", "v1", "w1")])


async def test_a_copy_becomes_the_next_revision_and_an_older_base_is_outdated(world: World) -> None:
    await world.desk.create("p", "w1")
    await world.publish("p", "w1")
    base = ("v1", world.refs()["refs/tags/p/v1"])
    for workspace in ("w2", "w3"):
        await world.desk.create("p", workspace, workspace, base=base)
    await world.publish("p", "w2")
    await world.do("p", "w3", Step.PROPOSE)
    before = world.refs()
    status = await world.do("p", "w3", Step.APPROVE)
    assert status["lastOperation"]["code"] == 422
    assert "Outdated: v2" in status["lastOperation"]["message"]
    assert world.refs() == before
    await world.desk.annotate("p", "w3", "cacheserver.dev/accept-base", "v2")
    await world.do("p", "w3", Step.APPROVE)
    invariants.check(world.remote, [("p", f"v{n}", f"w{n}") for n in (1, 2, 3)])


async def test_what_was_changed_on_main_by_hand_is_not_undone(world: World) -> None:
    await world.desk.create("p", "w1")
    await world.publish("p", "w1")
    base = ("v1", world.refs()["refs/tags/p/v1"])
    await world.desk.create("p", "w2", "2", base=base)
    await world.do("p", "w2", Step.PROPOSE)
    world.remote.commit({"p/Kptfile": b"by hand"})
    status = await world.do("p", "w2", Step.APPROVE)
    assert status["lastOperation"]["code"] == 422
    assert "by hand" in status["lastOperation"]["message"]
    await world.desk.annotate("p", "w2", "cacheserver.dev/accept-base", world.remote.git("rev-parse", "main:p")[:12])
    await world.do("p", "w2", Step.APPROVE)
    invariants.check(world.remote, [("p", "v2", "w2")], {("p", "v2"): world.desk.files("p", "2")})


async def test_twenty_approvals_are_at_most_three_pushes_and_one_line_of_history(world: World) -> None:
    world.remote.commit({"other/x": b"1"})
    packages = [f"p{number:02}" for number in range(20)]
    for package in packages:
        await world.desk.create(package, "w1", package)
    await world.work()
    for package in packages:
        await world.desk.ask(package, "w1", Step.PROPOSE)
    await world.work()
    world.hook("post-receive", f"echo x >> {world.home}/pushes")
    for package in packages:
        await world.desk.ask(package, "w1", Step.APPROVE)
    work = await world.work()
    assert len(work.waiting) == 20
    assert len((world.home / "pushes").read_text().split()) <= 3
    invariants.check(
        world.remote,
        [(package, "v1", "w1") for package in packages],
        {(package, "v1"): world.desk.files(package, package) for package in packages},
    )
    assert len(world.remote.git("rev-list", "--first-parent", "main").splitlines()) == 21


async def test_a_push_to_main_by_somebody_else_meanwhile_is_kept(world: World) -> None:
    world.remote.commit({"other/x": b"1"})
    await world.desk.create("p", "w1")
    await world.do("p", "w1", Step.PROPOSE)
    theirs: list[str] = []

    def reached(step: str) -> None:
        if step == "noted" and not theirs:
            theirs.append(world.remote.commit({"other/x": b"2"}))

    world.reached = reached  # type: ignore[method-assign]  # at the moment between two steps
    world.again()
    await world.do("p", "w1", Step.APPROVE)
    assert world.remote.git("rev-parse", "main^1") == theirs[0]
    assert world.remote.git("show", "main:other/x") == "2"
    invariants.check(world.remote, [("p", "v1", "w1")])


@pytest.mark.parametrize("hook", ["pre-receive", "update"])
async def test_a_refusal_of_the_server_is_told_in_its_words_and_moves_nothing(world: World, hook: str) -> None:
    world.remote.commit({"other/x": b"1"})
    await world.desk.create("p", "w1")
    await world.do("p", "w1", Step.PROPOSE)
    before = world.refs()
    refuse = "echo 'main is closed'; exit 1"
    world.hook(hook, f'[ "$1" = {MAIN} ] && {{ {refuse}; }}; exit 0' if hook == "update" else refuse)
    status = await world.do("p", "w1", Step.APPROVE)
    assert status["lastOperation"]["code"] == 403
    assert "main is closed" in status["lastOperation"]["message"]
    assert world.refs() == before
    assert (await world.object("p", "w1"))["spec"]["lifecycle"] == "Proposed"


async def test_one_that_is_refused_is_taken_out_and_the_others_are_published(world: World) -> None:
    for package in ("a", "b", "c"):
        await world.desk.create(package, "w1")
        await world.do(package, "w1", Step.PROPOSE)
    world.hook("update", '[ "$1" = refs/tags/b/v1 ] && { echo "b is frozen"; exit 1; }; exit 0')
    for package in ("a", "b", "c"):
        await world.desk.ask(package, "w1", Step.APPROVE)
    work = await world.work()
    assert {key.package for key, _ in work.waiting} == {"a", "c"}
    assert "b is frozen" in (await world.status("b", "w1"))["lastOperation"]["message"]
    assert "refs/heads/proposed/b/w1" in world.refs()
    invariants.check(world.remote, [("a", "v1", "w1"), ("c", "v1", "w1")])


async def test_git_that_is_away_withdraws_the_operation(world: World) -> None:
    await world.desk.create("p", "w1")
    await world.work()
    world.remote.path.rename(world.home / "away")
    status = await world.do("p", "w1", Step.PROPOSE)
    assert status["lastOperation"]["code"] == 503
    assert "operation" not in status
    assert (await world.object("p", "w1"))["spec"]["lifecycle"] == "Draft"


# --- deletion ---


async def test_deletion_is_marked_taken_back_and_done_and_main_stays(world: World) -> None:
    await world.desk.create("p", "w1")
    await world.publish("p", "w1")
    before = world.refs()
    await world.do("p", "w1", Step.PROPOSE_DELETION)
    await world.sync("p", "w1")
    marker = "refs/heads/deletionProposed/p/v1"
    assert world.refs() == {**before, marker: before["refs/tags/p/v1"]}
    await world.do("p", "w1", Step.KEEP)
    await world.sync("p", "w1")
    assert world.refs() == before
    await world.do("p", "w1", Step.PROPOSE_DELETION)
    await world.sync("p", "w1")
    await world.do("p", "w1", Step.DELETE)
    assert world.refs() == {MAIN: before[MAIN]}


@pytest.mark.parametrize("etcd_lost", [False, True])
async def test_a_number_is_never_used_again(world: World, etcd_lost: bool) -> None:
    await world.desk.create("p", "w1")
    await world.publish("p", "w1")
    base = ("v1", world.refs()["refs/tags/p/v1"])
    await world.desk.create("p", "w2", "2", base=base)
    await world.publish("p", "w2")
    if etcd_lost:
        world.remote.git("update-ref", "-d", "refs/tags/p/v2")
        await world.desk.authored.forget(KEY, await world.session.claim("ns/repo"))
    else:
        for step in (Step.PROPOSE_DELETION, Step.DELETE):
            await world.do("p", "w2", step)
            await world.sync("p", "w2")
    assert "refs/tags/p/v2" not in world.refs()
    await world.desk.create("p", "w3", "3", base=base)
    await world.publish("p", "w3")
    invariants.check(world.remote, [("p", "v1", "w1"), ("p", "v3", "w3")])


async def test_of_many_approved_together_each_keeps_its_own_numbers(world: World) -> None:
    """etcd knows of none, and git of those that were deleted by what the branch's commits say."""
    world.remote.commit({"other/x": b"1"})
    packages = {"p": 1, "q": 3, "sites/r": 2, "new": 0}
    for package, count in packages.items():
        for number in range(1, count + 1):
            tags = world.refs()
            base = (f"v{number - 1}", tags[f"refs/tags/{package}/v{number - 1}"]) if number > 1 else ("", "")
            await world.desk.create(package, f"w{number}", str(number), base=base)
            await world.publish(package, f"w{number}")
            if number > 1:
                world.remote.git("update-ref", "-d", f"refs/tags/{package}/v{number - 1}")
    await world.desk.authored.forget(KEY, await world.session.claim("ns/repo"))
    for package, count in packages.items():
        wanted = (f"v{count}", world.refs()[f"refs/tags/{package}/v{count}"]) if count else ("", "")
        await world.desk.create(package, "next", "9", base=wanted)
        await world.desk.ask(package, "next", Step.PROPOSE)
    await world.work()
    for package, count in packages.items():
        if count:
            world.remote.git("update-ref", "-d", f"refs/tags/{package}/v{count}")
        await world.desk.ask(package, "next", Step.APPROVE)
    await world.work()
    found = {ref.removeprefix("refs/tags/") for ref in world.refs() if ref.startswith("refs/tags/")}
    assert found == {f"{package}/v{count + 1}" for package, count in packages.items()}


async def test_a_draft_is_deleted_with_its_branch_and_somebody_elses_branch_stays(world: World) -> None:
    for package in ("p", "q"):
        await world.desk.create(package, "w1")
    await world.work()
    theirs = world.remote.commit({"q/theirs": b"t"}, branch="drafts/q/w1")
    for package in ("p", "q"):
        assert await world.do(package, "w1", Step.DELETE) == {}
    assert world.refs() == {"refs/heads/drafts/q/w1": theirs}


# --- killed, paused, lost ---

STEPS = ("looked", "built", "noted", "pushed", "written")


@pytest.mark.parametrize("at", STEPS)
@pytest.mark.parametrize("step", [Step.PROPOSE, Step.REJECT, Step.APPROVE, Step.DELETE])
async def test_killed_at_any_step_another_process_ends_it_once(world: World, step: Step, at: str) -> None:
    world.remote.commit({"other/x": b"1"})
    await world.desk.create("p", "w1")
    if step is not Step.PROPOSE:
        await world.do("p", "w1", Step.PROPOSE)
    await world.desk.ask("p", "w1", step)
    world.seen, world.kill_at = [], (at, 1)
    try:
        await world.work()
    except* Killed:
        pass
    world.again()
    await world.work()
    refs = world.refs().keys() - {MAIN}
    held = await world.desk.authored.read(world.desk.key("p", "w1"))
    match step:
        case Step.APPROVE:
            assert refs == {"refs/tags/p/v1"}
            invariants.check(world.remote, [("p", "v1", "w1")])
            assert len(world.remote.git("rev-list", "--first-parent", "main").splitlines()) == 2
        case Step.DELETE:
            assert refs == set()
            assert held.served is None
        case _:
            assert refs == {f"refs/heads/{'proposed' if step is Step.PROPOSE else 'drafts'}/p/w1"}
            assert held.draft is not None
            assert held.draft.commit in world.refs().values()
            assert held.draft.unpushed_ms == 0
            assert held.operation is None


@pytest.mark.parametrize("at", ["looked", "drafts built", "drafts noted", "drafts pushed", "drafts written"])
async def test_a_draft_whose_push_was_cut_short_is_not_taken_for_somebody_elses(world: World, at: str) -> None:
    await world.desk.create("p", "w1")
    world.kill_at = (at, 1)
    try:
        await world.work()
    except* Killed:
        pass
    world.again()
    await world.desk.save("p", "w1", world.desk.files("p", "2"), saved_ms=2)
    await world.work()
    status = await world.status("p", "w1")
    assert conditions(status) == {"Rendered": "True", "Pushed": "True"}
    assert world.remote.git("show", "drafts/p/w1:p/config.yaml") == "value: 2"


async def test_a_holder_that_was_paused_before_its_push_changes_nothing_any_more(world: World) -> None:
    world.remote.commit({"other/x": b"1"})
    for package in ("p", "q"):
        await world.desk.create(package, "w1")
        await world.do(package, "w1", Step.PROPOSE)
    await world.desk.ask("p", "w1", Step.APPROVE)
    claim = await world.session.claim("ns/repo")
    after: dict[str, str] = {}

    async def other() -> None:
        """Another process publishes both while the first one stands still."""
        await world.session.release(claim)
        mine, world._publisher, world.process = world._publisher, None, 1
        world.kill_at = ("", 0)
        await world.desk.ask("q", "w1", Step.APPROVE)
        await world.work()
        after.update(world.refs())
        world._publisher, world.process = mine, 0

    original = world.desk.authored.write

    async def write(*args: Any, **kwargs: Any) -> Any:
        result = await original(*args, **kwargs)
        if not after and kwargs.get("operation") is not None and kwargs["operation"].commit:
            world.desk.authored.write = original  # type: ignore[method-assign]  # once
            await other()
        return result

    world.desk.authored.write = write  # type: ignore[method-assign]  # to stand still at that very moment
    try:
        source = GitRefsSource(Remote(world.remote.url), "main", "", world.home / "cache-0")
        await world.publisher().work(world.config, source, claim)
    except LeaseLostError:
        pass
    assert {"refs/tags/p/v1", "refs/tags/q/v1"} <= after.keys()
    assert world.refs() == after
    invariants.check(world.remote, [("p", "v1", "w1"), ("q", "v1", "w1")])


async def test_a_push_that_broke_off_though_it_was_done_makes_no_second_revision(world: World) -> None:
    await world.desk.create("p", "w1")
    await world.do("p", "w1", Step.PROPOSE)
    # The client dies as soon as the refs have moved: it never hears of it.
    world.hook("post-receive", f"[ -e {world.home}/once ] || {{ touch {world.home}/once; kill -9 $PPID; }}")
    await world.desk.ask("p", "w1", Step.APPROVE)
    work = await world.work()
    assert [key.package for key, _ in work.waiting] == ["p"]
    assert world.refs().keys() == {MAIN, "refs/tags/p/v1"}
    assert (world.home / "once").exists()
    assert len(world.remote.git("rev-list", "main").splitlines()) == 2


async def test_without_atomic_pushes_the_branch_goes_first_and_the_rest_is_made_up_for(world: World) -> None:
    world.remote.git("config", "receive.advertiseAtomic", "false")
    world.remote.commit({"other/x": b"1"})
    for package in ("p", "q"):
        await world.desk.create(package, "w1")
        await world.do(package, "w1", Step.PROPOSE)
    await world.desk.ask("p", "w1", Step.APPROVE)
    world.seen, world.kill_at = [], ("pushed one", 1)
    try:
        await world.work()
    except* Killed:
        pass
    assert "refs/tags/p/v1" not in world.refs()
    world.again()
    await world.desk.ask("q", "w1", Step.APPROVE)
    await world.work()
    assert world.refs().keys() == {MAIN, "refs/tags/p/v1", "refs/tags/q/v1"}
    invariants.check(world.remote, [("p", "v1", "w1"), ("q", "v1", "w1")])


async def test_a_tag_that_was_moved_by_hand_is_not_deleted(world: World) -> None:
    await world.desk.create("p", "w1")
    await world.publish("p", "w1")
    await world.do("p", "w1", Step.PROPOSE_DELETION)
    await world.sync("p", "w1")
    world.remote.commit({"x": b"y"})
    world.remote.tag("p/v1", "main")
    before = world.refs()
    status = await world.do("p", "w1", Step.DELETE)
    assert status["lastOperation"]["code"] == 422
    assert world.refs() == before


async def test_one_whose_content_is_lost_is_told_so_and_the_others_are_published(world: World) -> None:
    for package in ("a", "b", "c"):
        await world.desk.create(package, "w1", package)
    lost = await world.desk.authored.read(world.desk.key("b", "w1"))
    assert lost.served is not None
    for digest in lost.served.blobs():
        assert await world.desk.blobs.delete(digest, await world.desk.blobs.mark(digest))
    for package in ("a", "b", "c"):
        await world.desk.ask(package, "w1", Step.PROPOSE)
    await world.work()
    assert [(await world.status(package, "w1"))["lastOperation"]["result"] for package in ("a", "b", "c")] == [
        "Done", "Failed", "Done"
    ]  # fmt: skip
    assert "not in the store" in (await world.status("b", "w1"))["lastOperation"]["message"]
