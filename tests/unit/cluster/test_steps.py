"""Which Events a change of a package revision calls for, and how many a namespace may have."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from cacheserver.cache.snapshot import Entry
from cacheserver.cache.window import Event
from cacheserver.cluster.events import Occurrence, Subject
from cacheserver.cluster.steps import BURST, Steps, occurrences
from cacheserver.config import RepositoryConfig
from cacheserver.config.sources import GitSource
from cacheserver.model import RepositoryKey


def revision(lifecycle: str = "Draft", *, name: str = "edge.p.w1", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "team", "name": name, "uid": "u"},
        "spec": {"lifecycle": lifecycle, "revision": "v1" if lifecycle != "Draft" else "w1"},
        "status": status,
    }


def condition(kind: str, status: str, reason: str, message: str = "why") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


FAILED = {"id": "1", "step": "Approve", "result": "Failed", "code": 403, "reason": "Forbidden", "message": "hook"}
LOCK = {"git": {"commit": "c" * 40}}


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        (None, revision(createdBy="ada"), ["Created: ada made it"]),
        (None, revision(), []),  # of git
        (None, revision("Published"), []),
        (revision(), revision("Proposed", proposedBy="ada"), ["Proposed: ada proposed it"]),
        (
            revision("Proposed"),
            revision("Proposed", operation={"step": "Approve"}),
            ["Approved: it was approved, and "],
        ),
        (
            revision("Proposed", operation={"step": "Approve"}),
            revision("Published", publishedBy="bob", selfLock=LOCK),
            ["Published: bob published it as v1, commit cccccccccccc"],
        ),
        (revision("Proposed"), revision(), ["Rejected: "]),
        (revision("Published"), revision("DeletionProposed"), ["DeletionProposed: "]),
        (revision("DeletionProposed"), revision("Published"), ["Kept: "]),
        (revision("DeletionProposed"), None, ["Deleted: it is gone; it was DeletionProposed"]),
        (revision("Proposed"), revision("Proposed", lastOperation=FAILED), ["ApproveFailed: 403 Forbidden: hook"]),
        (revision("Proposed", lastOperation=FAILED), revision("Proposed", lastOperation=FAILED), []),
        (revision(), revision(conditions=[condition("Pushed", "False", "Waiting")]), []),
        (revision(), revision(conditions=[condition("Pushed", "False", "Refused")]), ["PushFailed: why"]),
        (revision(), revision(conditions=[condition("Diverged", "True", "BranchMoved")]), ["Diverged: why"]),
        (
            revision(conditions=[condition("Diverged", "True", "BranchMoved")]),
            revision(conditions=[condition("Diverged", "True", "BranchMoved", "still")]),
            [],
        ),
    ],
)
def test_each_step_is_one_event(old: Any, new: Any, wanted: list[str]) -> None:
    told = [f"{each.reason}: {each.message}" for each in occurrences(old, new)]
    assert len(told) == len(wanted)
    assert all(found.startswith(begins) for found, begins in zip(told, wanted, strict=True)), told


class Recorder:
    def __init__(self) -> None:
        self.told: list[tuple[Subject, Occurrence]] = []

    def record(self, subject: Subject, occurrence: Occurrence) -> None:
        self.told.append((subject, occurrence))


async def _nothing() -> Any:
    raise AssertionError("not in these tests")


def created(name: str, namespace: str = "team") -> Event:
    body = orjson.dumps(revision(name=name, createdBy="ada"))
    return Event(7, None, Entry((namespace, name), 7, body, 0, 0, {}, {}, (b"", b""), 0))


def steps(recorder: Recorder, *, writable: bool = True) -> tuple[Steps, list[float]]:
    clock = [0.0]
    known = {
        RepositoryKey(namespace, "edge"): RepositoryConfig(
            RepositoryKey(namespace, "edge"), GitSource("https://h/r.git"), writable=writable
        )
        for namespace in ("team", "other")
    }
    return Steps(recorder, _nothing, known, lambda: True, now=lambda: clock[0]), clock


def test_an_event_is_about_the_revision() -> None:
    recorder = Recorder()
    steps(recorder)[0].tell(created("edge.p.w1"))
    [(subject, _occurrence)] = recorder.told
    assert (subject.kind, subject.group, subject.name, subject.uid) == (
        "PackageRevision", "cacheserver.dev", "edge.p.w1", "u",
    )  # fmt: skip


def test_who_makes_many_fills_no_cluster_and_silences_no_other_namespace() -> None:
    recorder = Recorder()
    found, clock = steps(recorder)
    for at in range(10 * BURST):
        found.tell(created(f"edge.p.w{at}"))
    assert len(recorder.told) == BURST
    found.tell(created("edge.p.w1", "other"))
    assert len(recorder.told) == BURST + 1
    clock[0] += 3
    for at in range(10):
        found.tell(created(f"edge.q.w{at}"))
    assert len(recorder.told) == BURST + 1 + 3


def test_of_a_repository_that_is_only_read_nothing_is_told() -> None:
    recorder = Recorder()
    found, _clock = steps(recorder, writable=False)
    found.tell(created("edge.p.w1"))
    found.tell(created("unknown.p.w1"))
    assert recorder.told == []
