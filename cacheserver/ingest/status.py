"""The Repository object as served: spec from configuration, status from the last sync. Words for people at 3 a.m.

Conditions follow kstatus (Ready, Reconciling, Stalled) plus Degraded; each is always present, with a CamelCase reason
and a message that says what happened and what to do. Ready is Unknown until the first look ends. Written only when
something but the clock changed, so an unchanged catalog makes no event.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson

from cacheserver.catalogs import Finding
from cacheserver.catalogs.fbc.held import REASON as HELD_BACK
from cacheserver.catalogs.krm.packages import IGNORED_TAG
from cacheserver.catalogs.summary import LONGEST_NAME, clip, counted, first_of
from cacheserver.config import RepositoryConfig
from cacheserver.config.doors import in_order
from cacheserver.config.sources import GitSource
from cacheserver.errors import CacheServerError, CatalogError, EtcdError, NoSpace, SourceError
from cacheserver.ingest.sync import ASKS_AT_ONCE, SLOW_AT_ONCE, Outcome, SyncReport
from cacheserver.model import Key, Kind, Record, Stored
from cacheserver.slotted import slotted
from cacheserver.store.published import PublishedCatalog

REJECTED_SHOWN = 20
_TAGS_SHOWN = 20
_NAMES_SHOWN = 5
_SUMMARY_CHARACTERS = 120
"""Ours: of Ready's message in a table, beside the other columns of `kubectl get -o wide`."""
_MESSAGE_CHARACTERS = 1024
CHECKED_EVERY_S = 3600.0
"""`lastCheckedAt` alone is refreshed no more often than this: each refresh is an event at every watcher. The metric
cacheserver_repository_last_checked_timestamp_seconds is exact."""

Says = tuple[bool | None, str, str]
"""A condition as (true? None: unknown, reason, message)."""

# Retrying does not help; the source, the settings or the catalog has to change. kstatus: Stalled.
_STALLING = {
    "SpecInvalid",
    "SecretInvalid",
    "SourceInvalid",
    "SourceTooLarge",
    "CatalogRefused",
    "CatalogEmpty",
    "NoPackages",
}
# What to do, where the error's own message does not always say so: it was raised far from what the operator can turn.
_REMEDIES = {
    "NetworkError": "it is tried again by itself, soon and then less often; check the address and the network",
    "RateLimited": "it is tried again when the server allows it; a longer interval asks less often",
    "AuthenticationFailed": "give the repository credentials that its source accepts",
    "SourceNotFound": "correct spec.source, or put there what it names",
    "SourceInvalid": "repair the source; it is refused until it changes",
    "StorageLimit": "raise the cap, or make the catalog smaller; it is tried again by itself",
    "SourceTooLarge": "raise the cap, or make the source smaller",
    "SourceFailed": "it is tried again at each interval",
    "SyncTooLong": "it is tried again at each interval; raise --sync-timeout, or make the source smaller or faster",
    "NoSpace": "it goes on by itself when etcd takes writes again",
    "CatalogFailed": "it is tried again by itself; `cacheserver validate` says more",
}
_LONGEST_CAUSE = 700
_PUSHED = "Pushed"
_PUBLISHED = "Published"


@slotted(frozen=True)
class Phase:
    """What a status says, condition by condition."""

    ready: Says
    reconciling: Says
    stalled: Says
    degraded: Says


@slotted(frozen=True)
class _Counts:
    """What is served, and which tags are ignored: how many, and the names of the first of them."""

    packages: int
    revisions: int
    ignored_tags: int = 0
    ignored: Sequence[str] = ()


_NOT_RECONCILING: Says = (False, "Idle", "no sync under way")
_NOT_STALLED: Says = (False, "NotStalled", "nothing stands in the way of the next sync")
_NOT_DEGRADED: Says = (False, "AllAccepted", "every package of the source is served")
_NOTHING_READ: Says = (False, "NothingRead", "the source was not read yet, so nothing of it is served")


def awaited(config: RepositoryConfig) -> Phase:
    """Of a repository that nobody asked yet, so that it is listed from the start on, however slow others are."""
    message = "the source is asked for the first time and has not answered yet"
    if isinstance(config.source, GitSource):
        most = ASKS_AT_ONCE - SLOW_AT_ONCE
        message += f", or it waits for its turn: {most} git repositories are asked at a time"
    return Phase((None, "Waiting", message), (True, "Waiting", message), _NOT_STALLED, _NOTHING_READ)


def syncing(previous: Stored | None) -> Phase:
    """A sync reads the source now; everything else stays as it was."""
    said = _said(previous)
    ready = said.get("Ready", (None, "", ""))
    if ready[0] is None:
        ready = (None, "Syncing", "the first sync is under way: the source is fetched and read")
    reconciling = (True, "Syncing", "reading the source")
    return Phase(ready, reconciling, _NOT_STALLED, said.get("Degraded", _NOTHING_READ))


def same(previous: Stored) -> Phase:
    """What it says already."""
    said = _said(previous)
    ready = said.get("Ready", (False, "Syncing", "the first sync is under way"))
    return Phase(
        ready,
        said.get("Reconciling", _NOT_RECONCILING),
        said.get("Stalled", _NOT_STALLED),
        said.get("Degraded", _NOTHING_READ),
    )


def pushing(error: SourceError | None) -> tuple[bool, str, str]:
    """The condition Pushed of a repository that is written to. error: why git could not be worked with."""
    if error is None:
        return True, "Pushed", "git takes what is pushed; each draft tells whether git has all of it"
    remedy = _REMEDIES.get(error.reason, "")
    parts = (str(error)[:_LONGEST_CAUSE], remedy, "drafts can be saved meanwhile, and wait")
    return False, error.reason, "; ".join(filter(None, parts))


def publishing(config: RepositoryConfig, catalog: PublishedCatalog | None) -> Says | None:
    """The condition Published of a repository that names doors. catalog: what its last finished sync left for them."""
    if not config.publish:
        return None
    doors = ", ".join(in_order(config.publish))
    if catalog is None:
        why = "no finished sync has left a file-based catalog, and nothing else (KRM) is shown there"
        return False, "NothingPublished", f"behind {doors}: nothing; {why}"
    return True, _PUBLISHED, f"behind {doors}: {counted(len(catalog.packages), 'package')}, as {catalog.revision}"


_LEAVING = (
    True,
    "DraftsFirst",
    (
        "it is being deleted, takes no writes, and goes as soon as git has its drafts. Where git cannot get them (see "
        "Pushed) it goes when its finalizer is taken away by hand; what git does not have is lost then"
    ),
)


def is_silent(previous: Stored | None) -> bool:
    """Whether nothing was said of the repository so far."""
    return "Ready" not in _said(previous)


def digest_of(previous: Stored | None) -> str:
    """Of the source that the status speaks of; empty before the first sync."""
    return str(_facts_of(previous).get("digest", ""))


def recall(report: SyncReport, stored: Stored | None) -> None:
    """Fill in what the last sync that read the source found wrong with it."""
    if stored is not None:
        report.rejected_before = orjson.loads(stored.value)["status"].get("rejectedCount", 0)
        report.unreadable = _said(stored).get("Degraded", _NOT_DEGRADED)[1] == "UnreadableFile"


def unchanged(previous: Stored | None) -> Phase:
    """The source is what it was at the last finished sync: say again what that one meant."""
    degraded = _said(previous).get("Degraded", _NOT_DEGRADED)
    if degraded[1] == _NOTHING_READ[1]:
        degraded = _NOT_DEGRADED
    if degraded[0] and degraded[1] in _STALLING:
        return Phase((False, *degraded[1:]), _NOT_RECONCILING, degraded, degraded)
    facts = _facts_of(previous)
    counts = _Counts(*(facts.get(name, 0) for name in ("packages", "revisions", "ignoredTags")))
    return _good(replace(counts, ignored=facts.get("ignoredTagNames", ())), degraded)


def suspended(previous: Stored | None) -> Phase:
    """Nobody looks at the source; what is served is as good as it was."""
    message = "suspended: the source is not asked; what is there stays. Set suspend: false to go on"
    degraded = _said(previous).get("Degraded", _NOTHING_READ)
    return Phase((True, "Suspended", message), _NOT_RECONCILING, _NOT_STALLED, degraded)


def synced(report: SyncReport) -> Phase:
    """What a finished sync means."""
    if report.outcome is Outcome.HELD:
        held = (True, report.reason, report.message)
        return Phase((False, report.reason, report.message), _NOT_RECONCILING, held, held)
    degraded = _NOT_DEGRADED
    if report.cause is not None:
        message = f"nothing is deleted until every file can be read again. {_in_place(report.cause)}{_held(report)}"
        degraded = (True, "UnreadableFile", message)
    elif report.rejected:
        name, first = next((name, cause_of(findings)) for name, findings in report.rejected.items())
        them = "it" if len(report.rejected) == 1 else "them"
        count = counted(len(report.rejected), "package")
        message = (
            f"{count} rejected, what was served of {them} stays; {clip(name, LONGEST_NAME)}: {_in_place(first, name)}"
        )
        degraded = (True, "PackagesRejected", message)
    return _good(_Counts(report.packages, report.revisions, report.ignored_tags, _ignored(report)), degraded)


def cause_of(findings: Sequence[Finding]) -> Finding:
    """The one of a rejected package's findings that rejects it; the others may follow from it."""
    return next((finding for finding in findings if not finding.warning), findings[0])


def _in_place(finding: Finding, package: str = "") -> str:
    """A finding in its place: FILE:LINE: MESSAGE. package: named before already."""
    message = finding.message.removeprefix(f"package {package!r}: ")
    return f"{place_of(finding)}: {clip(message, 300)}" if finding.path else clip(message, 300)


def place_of(finding: Finding) -> str:
    """FILE:LINE, as far as it is known."""
    path = clip(finding.path, 200)
    return f"{path}:{finding.line}" if path and finding.line else path


def _ignored(report: SyncReport) -> Sequence[str]:
    """The first tags that name no package."""
    names = (finding.path for finding in report.findings if finding.reason == IGNORED_TAG and finding.path)
    return [clip(name, LONGEST_NAME) for name, _ in zip(names, range(_TAGS_SHOWN), strict=False)]


def _held(report: SyncReport) -> str:
    """Which packages stay as they were because of it."""
    names = sorted(name for name, findings in report.rejected.items() if findings[0].reason == HELD_BACK)
    shown = first_of([clip(name, 63) for name in names], _NAMES_SHOWN)
    return f". Held back, as they may be spoken of there: {shown}" if names else ""


def _good(counts: _Counts, degraded: Says) -> Phase:
    message = f"synced: {counted(counts.packages, 'package')}, {counted(counts.revisions, 'revision')}"
    if many := counts.ignored_tags:
        shown = first_of(counts.ignored, _NAMES_SHOWN, of=many)
        names = f" ({shown})" if shown else ""
        message += f"; {counted(many, 'tag')} ignored, which {'names' if many == 1 else 'name'} no package{names}"
    if degraded[0]:
        message += f"; {degraded[2]}"
    return Phase((True, "Synced", message), _NOT_RECONCILING, _NOT_STALLED, degraded)


def _said(previous: Stored | None) -> dict[str, Says]:
    """What each condition of the object says."""
    truth = {"True": True, "False": False}
    conditions = _facts_of(previous).get("conditions", ())
    return {c["type"]: (truth.get(c["status"]), c["reason"], c["message"]) for c in conditions}


def _facts_of(previous: Stored | None) -> dict[str, Any]:
    """The status as it was; empty before the first one."""
    facts: dict[str, Any] = orjson.loads(previous.value)["status"] if previous else {}
    return facts


def failed(error: CacheServerError, previous: Stored | None) -> Phase:
    """The sync did not finish; what was served stays, and how good that was (Degraded)."""
    reason = failure_reason(error)
    ever = "lastSyncedAt" in _facts_of(previous)
    stays = "the last good content stays served" if ever else "nothing of it was served so far"
    parts = (clip(str(error), _LONGEST_CAUSE), _REMEDIES.get(reason, ""), stays)
    message = "; ".join(filter(None, parts))
    stalled = (True, reason, message) if reason in _STALLING else _NOT_STALLED
    degraded = _said(previous).get("Degraded", _NOTHING_READ)
    return Phase((False, reason, message), _NOT_RECONCILING, stalled, degraded)


@slotted(frozen=True)
class Served:
    """What a status says is served, for metrics. synced_at: Unix time."""

    packages: int
    revisions: int
    rejected: int
    synced_at: float


def served(record: Record | None, previous: Stored | None) -> Served | None:
    """Of the record that is being published, else of the object that stays; None before the first sync."""
    facts: dict[str, Any] = orjson.loads(record.status) if record else _facts_of(previous)
    if "lastSyncedAt" not in facts:
        return None
    packages, revisions, rejected = (facts.get(name, 0) for name in ("packages", "revisions", "rejectedCount"))
    return Served(packages, revisions, rejected, _seconds(facts["lastSyncedAt"]))


def failure_reason(error: CacheServerError) -> str:
    """The reason of the Ready condition for an error of a sync."""
    if isinstance(error, SourceError):
        return error.reason
    if isinstance(error, EtcdError):
        return "NoSpace" if isinstance(error, NoSpace) else "StoreUnavailable"
    return "CatalogFailed" if isinstance(error, CatalogError) else "InternalError"


def repository_record(
    config: RepositoryConfig,
    phase: Phase,
    report: SyncReport | None,
    previous: Stored | None,
    *,
    now: float,
    answers: str | None = None,
    pushing: Says | None = None,
    publishing: Says | None = None,
) -> Record | None:
    """The object to serve; None when nothing but the clock would change.

    report: of the look that ended with this, if it did not fail. answers: the annotation requestedAt (model.py) as it
    was when that look began, empty without one; None where no look ended. pushing, publishing: see these; None: as they
    were.
    """
    old: dict[str, Any] = orjson.loads(previous.value) if previous else {}
    before: dict[str, Any] = old.get("status", {})
    spec = config.spec_json()
    # In a cluster the API server counts generations, and spec is the user's to write, without our defaults.
    ours = not config.generation
    generation = config.generation or old.get("metadata", {}).get("generation", 1)
    if ours and old and orjson.dumps(old["spec"]) != spec:
        generation += 1
    stamp = _stamp(now)
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "conditions": _conditions(phase, _beside(config, pushing, publishing, before), before, generation, stamp),
        **_facts(before, report, stamp),
        "summary": clip(" ".join(phase.ready[2].split()), _SUMMARY_CHARACTERS),
    }
    if answers is not None:
        status["lastCheckedAt"] = stamp
    if answers:  # of a look that failed too: who asked can tell it from one to come
        status["lastHandledReconcileAt"] = answers

    changed = _timeless(status) != _timeless(before)
    same = old and not changed
    if ours and old:
        same = same and orjson.dumps(old["spec"]) == spec and _same_metadata(old["metadata"], config)
    if same and now - _seconds(before.get("lastCheckedAt", "")) < CHECKED_EVERY_S:
        return None
    key = Key(Kind.REPOSITORY, config.key.namespace, config.key.name)
    return Record(key, config.labels, spec, orjson.dumps(status), annotations=config.annotations)


def _timeless(status: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in status.items() if name != "lastCheckedAt"}


def _same_metadata(metadata: Mapping[str, Any], config: RepositoryConfig) -> bool:
    labels, annotations = metadata.get("labels", {}), metadata.get("annotations", {})
    return bool(labels == dict(config.labels) and annotations == dict(config.annotations))


def _beside(
    config: RepositoryConfig, pushing: Says | None, publishing: Says | None, before: Mapping[str, Any]
) -> list[tuple[str, Says]]:
    """Conditions that not every repository has, by name."""
    old = {each["type"]: each for each in before.get("conditions", ())}
    told: list[tuple[str, Says]] = []
    for name, has, says in ((_PUSHED, config.writable, pushing), (_PUBLISHED, bool(config.publish), publishing)):
        if has and says is None and (kept := old.get(name)) is not None:
            says = (kept["status"] == "True", kept["reason"], kept["message"])
        if has and says is not None:
            told.append((name, says))
    return [*told, ("Leaving", _LEAVING)] if config.leaving else told


def _conditions(
    phase: Phase, told: Sequence[tuple[str, Says]], before: Mapping[str, Any], generation: int, stamp: str
) -> list[dict[str, Any]]:
    """told: beside those that every repository has."""
    old = {condition["type"]: condition for condition in before.get("conditions", ())}
    conditions = []
    for name, said in (
        ("Ready", phase.ready),
        ("Reconciling", phase.reconciling),
        ("Stalled", phase.stalled),
        ("Degraded", phase.degraded),
        *told,
    ):
        status = {True: "True", False: "False", None: "Unknown"}[said[0]]
        moved = old.get(name, {}).get("status") != status
        conditions.append(
            {
                "type": name,
                "status": status,
                "observedGeneration": generation,
                "lastTransitionTime": stamp if moved else old[name]["lastTransitionTime"],
                "reason": said[1],
                "message": clip(said[2], _MESSAGE_CHARACTERS),
            }
        )
    return conditions


def _facts(before: Mapping[str, Any], report: SyncReport | None, stamp: str) -> dict[str, Any]:
    """Everything beside the conditions: from the report when there is one, else as it was."""
    facts = {k: v for k, v in before.items() if k not in ("observedGeneration", "conditions")}
    if report is None:
        return facts
    if report.outcome is Outcome.UNCHANGED:
        return {**facts, "lastCheckedAt": stamp}
    rejected = [
        {
            "package": clip(name, LONGEST_NAME),
            "reason": finding.reason,
            "message": clip(finding.message, 512),
            **({"path": clip(finding.path, 512)} if finding.path else {}),
            **({"line": finding.line} if finding.line else {}),
        }
        for name, findings in sorted(report.rejected.items())[:REJECTED_SHOWN]
        for finding in [cause_of(findings)]
    ]
    for name in ("ignoredTags", "ignoredTagNames"):
        facts.pop(name, None)
    if report.outcome is Outcome.APPLIED:
        facts["lastSyncedAt"] = stamp
    return {
        **facts,
        "digest": report.digest,
        "packages": report.packages,
        "revisions": report.revisions,
        **({"ignoredTags": report.ignored_tags} if report.ignored_tags else {}),
        **({"ignoredTagNames": names} if (names := _ignored(report)) else {}),
        "rejectedCount": len(report.rejected),
        "rejected": rejected,
        "lastCheckedAt": stamp,
    }


def _stamp(now: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp() if stamp else 0.0
