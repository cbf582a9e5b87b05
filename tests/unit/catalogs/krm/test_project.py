"""Revisions into records: versions, numbers, the latest, labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from cacheserver.catalogs.catalog import Problem
from cacheserver.catalogs.krm.facts import Facts, Lock, Origin, Revision, decode, decode_revision, encode
from cacheserver.catalogs.krm.project import records, revision_number, version_of
from cacheserver.model import LABEL_LATEST, LABEL_LIFECYCLE, LABEL_PACKAGE, Kind, Record, RepositoryKey
from cacheserver.names import package_label

KEY = RepositoryKey("ns", "repo")
FACTS = Facts(("sha256:" + "0" * 64, 2048, 1), labels=(("team", "net"),))


def tag(name: str, **changes: Any) -> Revision:
    return Revision(name, Origin.TAG, "tree", workspace=name, **changes)


def made(*revisions: Revision, facts: Facts = FACTS) -> list[Record]:
    return records(KEY, "a/app", [(revision, facts) for revision in revisions])


def latest(*names: str) -> str:
    """The revision that the package calls the latest; each record agrees."""
    found = made(*map(tag, names))
    status = orjson.loads(found[-1].status)
    marked = [record.key.revision for record in found if LABEL_LATEST in record.labels]
    named = status.get("latest", {}).get("revision", "")
    assert marked == ([named] if named else [])
    return str(named)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("v9", "v10", "v2"), "v10"),
        (("v1", "v3.0.0", "v2"), "v3.0.0"),
        (("v3", "v3.0.0"), "v3.0.0"),
        (("v3", "v2.9.9"), "v3"),
        (("1.2.3", "v1.2.4-rc.1"), "v1.2.4-rc.1"),
        (("v1.5.5", "v1.5.5-pkg.0"), "v1.5.5"),
        (("0.4.2",), "0.4.2"),
        (("v0", "main", "release"), ""),
        (("v0", "v0.0.1"), "v0.0.1"),
        (("v1.0.0+a", "v1.0.0+b"), "v1.0.0+b"),
        (("v007", "v6"), "v007"),
    ],
)
def test_the_latest_is_the_highest_version(names: tuple[str, ...], expected: str) -> None:
    assert latest(*names) == expected
    assert latest(*reversed(names)) == expected


def test_neither_branches_nor_drafts_nor_what_goes_are_the_latest() -> None:
    others = [
        Revision("v9", Origin.BRANCH, "t"),
        Revision("v8", Origin.DRAFT, "t"),
        Revision("v7", Origin.PROPOSED, "t"),
        tag("v6", deletion_proposed=True),
        tag("v1"),
    ]
    found = made(*others)
    assert orjson.loads(found[-1].status)["latest"] == {"revision": "v1", "version": "v1"}
    lifecycles = {record.key.revision: record.labels[LABEL_LIFECYCLE] for record in found[:-1]}
    assert lifecycles == {
        "v9": "Published",
        "v8": "Draft",
        "v7": "Proposed",
        "v6": "DeletionProposed",
        "v1": "Published",
    }


@pytest.mark.parametrize(
    ("revision", "number", "version"),
    [
        (tag("v12"), 12, "v12"),
        (tag("3"), 3, "3"),
        (tag("v1.2.3"), -1, "v1.2.3"),
        (tag("v-3"), -1, ""),
        (tag("+5"), -1, ""),
        (tag("v" + "9" * 30), -1, ""),
        (tag("vv1"), -1, ""),
        (tag("\u0661"), -1, ""),
        (tag("nightly"), -1, ""),
        (Revision("v3", Origin.BRANCH, "t"), -1, ""),
        (Revision("v3", Origin.DRAFT, "t"), 0, ""),
        (Revision("v3", Origin.PROPOSED, "t"), 0, ""),
        (Revision("local", Origin.LOCAL, "t"), -1, ""),
    ],
)
def test_only_tags_have_numbers_and_versions(revision: Revision, number: int, version: str) -> None:
    assert (revision_number(revision), version_of(revision)) == (number, version)


def test_the_record_carries_locks_publication_and_content() -> None:
    lock = Lock("https://git.example/x.git", "a/app", "a/app/v1", "c0ffee")
    revision = tag("v1", lock=lock, published_at="2026-01-01T00:00:00Z", published_by="a@example.com")
    facts = replace(FACTS, upstream_lock=Lock("https://up.example", "", "main", "beef"), readiness_gates=("ready",))
    record = made(revision, facts=facts)[0]
    assert record.key.kind is Kind.REVISION
    assert record.name == "repo.a.app.v1"
    assert orjson.loads(record.spec) == {
        "repository": "repo",
        "packageName": "a/app",
        "revision": "v1",
        "version": "v1",
        "workspaceName": "v1",
        "lifecycle": "Published",
        "format": "KRM",
    }
    assert orjson.loads(record.status) == {
        "revisionNumber": 1,
        "upstreamLock": {"type": "git", "git": {"repo": "https://up.example", "ref": "main", "commit": "beef"}},
        "selfLock": {
            "type": "git",
            "git": {"repo": lock.repo, "directory": "a/app", "ref": "a/app/v1", "commit": "c0ffee"},
        },
        "publishedAt": "2026-01-01T00:00:00Z",
        "publishedBy": "a@example.com",
        "readinessGates": [{"conditionType": "ready"}],
        "content": {"digest": FACTS.content[0], "size": 2048, "files": 1},
    }
    assert record.labels["team"] == "net"
    assert list(record.blobs) == [FACTS.content[0]]


def test_the_latest_speaks_for_the_package_and_else_the_branch() -> None:
    def summary(*revisions: Revision) -> str:
        pairs = [(revision, replace(FACTS, summary=revision.name)) for revision in revisions]
        return str(orjson.loads(records(KEY, "app", pairs)[-1].status)["summary"])

    branch, draft = Revision("main", Origin.BRANCH, "t"), Revision("d", Origin.DRAFT, "t")
    assert summary(branch, tag("v1"), tag("v2"), draft) == "v2"
    assert summary(tag("nightly"), branch, draft) == "main"
    assert summary(draft) == "d"


def test_facts_and_revisions_survive_being_written_down() -> None:
    facts = replace(FACTS, upstream_lock=Lock("r", "d", "f", "c"), warnings=(Problem("LeftOut", "is a link", "x"),))
    assert decode(encode(facts)) == facts
    revision = tag("v1", lock=Lock("r", "d", "f", "c"), deletion_proposed=True)
    assert decode_revision(orjson.loads(orjson.dumps(revision))) == revision


def names(*revisions: Revision) -> dict[str, str]:
    """The object's name of each revision."""
    found = {orjson.loads(record.spec)["revision"]: record.name for record in made(*revisions)[:-1]}
    assert len(set(found.values())) == len(revisions)
    return found


def test_a_published_revision_has_the_name_that_its_draft_had() -> None:
    draft = Revision("w1", Origin.DRAFT, "t", workspace="w1", nonce="0123456789abcdef")
    published = replace(tag("v1", nonce="0123456789abcdef"), workspace="w1")
    before, after = made(draft)[0], made(published)[0]
    assert before.name == after.name == "repo.a.app.w1"
    assert before.nonce == after.nonce
    assert before.key == after.key


def test_of_two_of_one_workspace_the_lower_version_has_its_name() -> None:
    again = [replace(tag(name), workspace="w1") for name in ("v3", "v1", "v2")]
    assert names(*again) == {"v1": "repo.a.app.w1", "v2": "repo.a.app.v2", "v3": "repo.a.app.v3"}


def test_no_two_revisions_share_a_name_whatever_their_workspaces_say() -> None:
    lock = Lock("https://git.example/x.git", "a/app", "a/app/v2", "c0ffee" * 7)
    odd = [
        replace(tag("v1"), workspace="v2"),
        replace(tag("v2"), workspace="v2", lock=lock),
        replace(tag("v3"), workspace="main"),
        Revision("main", Origin.BRANCH, "t"),
        Revision("w", Origin.DRAFT, "t"),
        replace(tag("v4"), workspace="w"),
        replace(tag("v5"), workspace=""),
    ]
    found = names(*odd)
    assert found["main"] == "repo.a.app.main"
    assert found["v1"] == "repo.a.app.v2"
    assert found["v2"] == "repo.a.app.v2x--40c0ffeec0ffee"
    assert found["v3"] == "repo.a.app.v3"
    assert names(*reversed(odd)) == found


@pytest.mark.parametrize("path", ["dns", "network/dns", "a/" * 40 + "z", "nœud"])
def test_whatever_the_path_objects_are_selected_by_a_label_of_their_package(path: str) -> None:
    made = records(KEY, path, [(tag("v1"), FACTS)])
    assert {record.labels[LABEL_PACKAGE] for record in made} == {package_label(path)}
