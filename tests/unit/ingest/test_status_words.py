"""What a Repository's status says, word by word: true, in its place, and short where a table shows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from cacheserver.catalogs import Finding
from cacheserver.config import Defaults, Door, RepositoryConfig
from cacheserver.config.repositories import from_text
from cacheserver.errors import SourceInvalidError, SourceNetworkError
from cacheserver.ingest import Outcome, SyncReport, status
from cacheserver.model import Digest, Key, Kind, Stored
from cacheserver.store.published import PublishedCatalog, PublishedPackage

CONFIG = from_text("c=/srv/catalog", Path("/"), Defaults())
GIT = from_text("c=git+https://git.example/catalog.git", Path("/"), Defaults())
CAUSE = Finding("NotAString", "name must be a string, not a number; put it in quotes", "b/catalog.yaml", 2, 7)
CONSEQUENCE = Finding("NoChannel", "package 'app': must contain at least one channel", "a/catalog.yaml", 1, 1, "app")


def say(
    phase: status.Phase,
    report: SyncReport | None = None,
    before: Stored | None = None,
    config: RepositoryConfig = CONFIG,
    **more: Any,
) -> Any:
    """The status that is served."""
    record = status.repository_record(config, phase, report, before, now=60.0, **more)
    assert record is not None
    return orjson.loads(record.status)


def stored(said: Any) -> Stored:
    return Stored(Key(Kind.REPOSITORY, "ns", "c"), orjson.dumps({"metadata": {}, "spec": {}, "status": said}), 1)


def applied(**facts: Any) -> SyncReport:
    return SyncReport(CONFIG.key, outcome=Outcome.APPLIED, **facts)


def synced(**facts: Any) -> Any:
    report = applied(**facts)
    return say(status.synced(report), report)


def condition(said: Any, kind: str = "Ready") -> tuple[str, str, str]:
    [found] = [each for each in said["conditions"] if each["type"] == kind]
    return found["status"], found["reason"], found["message"]


@pytest.mark.parametrize("phase", [status.awaited(CONFIG), status.syncing(None)], ids=["asked", "read"])
def test_before_the_first_look_ends_nobody_knows_whether_a_repository_is_ready(phase: status.Phase) -> None:
    state, reason, message = condition(say(phase))
    assert state == "Unknown"
    assert reason in ("Waiting", "Syncing")
    assert "first" in message


def test_a_git_repository_may_wait_for_its_turn_and_says_so() -> None:
    assert "waits for its turn" in status.awaited(GIT).ready[2]
    assert "turn" not in status.awaited(CONFIG).ready[2]


def test_what_waited_is_not_said_to_wait_while_it_is_read() -> None:
    waiting = stored(say(status.awaited(CONFIG)))
    assert condition(say(status.syncing(waiting), None, waiting))[:2] == ("Unknown", "Syncing")


def test_good_content_is_said_to_stay_only_where_there_is_some() -> None:
    failure = SourceNetworkError("https://git.example: no route")
    never = condition(say(status.failed(failure, None)))[2]
    assert "last good content" not in never
    assert "nothing of it was served so far" in never
    assert "last good content stays" in condition(say(status.failed(failure, stored(synced()))))[2]


def test_a_catalog_that_was_refused_from_the_first_was_never_synced() -> None:
    held = SyncReport(CONFIG.key, outcome=Outcome.HELD, reason="CatalogRefused", message="validation is Strict")
    assert "lastSyncedAt" not in say(status.synced(held), held)


def test_a_look_that_failed_answers_who_asked_for_it() -> None:
    failed = say(status.failed(SourceInvalidError("bad"), None), answers="monday")
    assert (failed["lastHandledReconcileAt"], failed["lastCheckedAt"]) == ("monday", "1970-01-01T00:01:00Z")
    assert "lastHandledReconcileAt" not in say(status.syncing(None))


def test_a_file_that_cannot_be_read_is_told_by_the_first_cause_and_not_by_what_follows_from_it() -> None:
    told = synced(cause=CAUSE, findings=[CONSEQUENCE, CAUSE], rejected={"app": [CONSEQUENCE]})
    state, reason, message = condition(told, "Degraded")
    assert (state, reason) == ("True", "UnreadableFile")
    assert "b/catalog.yaml:7: name must be a string" in message
    assert "at least one channel" not in message


def test_a_rejected_package_is_told_with_its_place_and_named_once() -> None:
    told = synced(rejected={"app": [CONSEQUENCE]}, packages=1, revisions=1)
    assert condition(told)[2] == (
        "synced: 1 package, 1 revision; 1 package rejected, what was served of it stays; "
        "app: a/catalog.yaml:1: must contain at least one channel"
    )
    assert told["rejected"] == [
        {
            "package": "app",
            "reason": "NoChannel",
            "message": CONSEQUENCE.message,
            "path": "a/catalog.yaml",
            "line": 1,
        }
    ]


def test_the_table_shows_a_line_and_the_condition_all_of_it() -> None:
    long = Finding("X", f"{'word ' * 50}\nend", "catalog.yaml", 1, 1)
    told = synced(rejected={"app": [long]})
    assert len(told["summary"]) == 120
    assert "\n" not in told["summary"]
    assert condition(told)[2].endswith("end")


def test_ignored_tags_are_named_as_long_as_they_are_ignored() -> None:
    tags = [Finding("IgnoredTag", "no slash", f"v{n}", warning=True) for n in range(30)]
    first = synced(findings=tags, ignored_tags=30)
    assert (len(first["ignoredTagNames"]), first["ignoredTagNames"][0]) == (20, "v0")
    message = "synced: 0 packages, 0 revisions; 30 tags ignored, which name no package (v0, v1, v2, v3, v4 and 25 more)"
    assert condition(first)[2] == message
    same = SyncReport(CONFIG.key)
    assert condition(say(status.unchanged(stored(first)), same, stored(first), answers="again"))[2] == message
    assert "ignoredTagNames" not in say(status.synced(applied()), applied(), stored(first))


def test_a_healthy_repository_is_not_called_progressing() -> None:
    assert condition(synced(), "Stalled")[:2] == ("False", "NotStalled")


def test_what_doors_show_is_said_as_long_as_there_are_doors_and_stays_while_etcd_does_not_say() -> None:
    config, digest = replace(CONFIG, publish=frozenset((Door.REGISTRY, Door.CATALOG))), Digest(f"sha256:{1:064x}")
    catalog = PublishedCatalog(CONFIG.key, digest, 1, (PublishedPackage("app", digest, 1, 1),))
    report = applied()

    def after(before: Any, config: RepositoryConfig, catalog: PublishedCatalog | None, *, known: bool = True) -> Any:
        publishing = status.publishing(config, catalog) if known else None
        earlier = stored(before) if before else None
        return say(status.synced(report), report, earlier, config, publishing=publishing)

    nothing = after(None, config, None)
    assert condition(nothing, "Published")[:2] == ("False", "NothingPublished")
    shown = after(nothing, config, catalog)
    assert condition(shown, "Published") == (
        "True",
        "Published",
        f"behind Catalog, Registry: 1 package, as {digest}",
    )
    assert condition(after(shown, config, None, known=False), "Published") == condition(shown, "Published")
    assert "Published" not in [each["type"] for each in after(shown, CONFIG, catalog)["conditions"]]
