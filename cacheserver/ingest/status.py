"""The Repository object as served: spec from configuration, status from the last sync. Words for people at 3 a.m.

Conditions follow kstatus (Ready, Reconciling, Stalled) plus Degraded; each is always present, with a CamelCase reason
and a message that says what happened and what to do. Written only when something but the clock changed, so an
unchanged catalog makes no event.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from cacheserver.catalogs.fbc.held import REASON as HELD_BACK
from cacheserver.catalogs.summary import LONGEST_NAME, clip
from cacheserver.config import RepositoryConfig
from cacheserver.errors import CacheServerError, CatalogError, EtcdError, NoSpace, SourceError
from cacheserver.ingest.sync import Outcome, SyncReport
from cacheserver.model import ANNOTATION_REQUESTED, Key, Kind, Record, Stored

REJECTED_SHOWN = 20
_NAMES_SHOWN = 5
CHECKED_EVERY_S = 3600.0
"""`lastCheckedAt` alone is refreshed no more often than this: each refresh is an event at every watcher. The metric
cacheserver_repository_last_checked_timestamp_seconds is exact."""

# Retrying does not help; the source, the settings or the catalog has to change. kstatus: Stalled.
_STALLING = {
    "SpecInvalid",
    "SecretInvalid",
    "SourceInvalid",
    "SourceTooLarge",
    "CatalogRefused",
    "CatalogEmpty",
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


@dataclass(frozen=True, slots=True)
class Phase:
    """What a status says: each condition as (true?, reason, message)."""

    ready: tuple[bool, str, str]
    reconciling: tuple[bool, str, str]
    stalled: tuple[bool, str, str]
    degraded: tuple[bool, str, str]


_NOT_RECONCILING = (False, "Idle", "no sync under way")
_NOT_STALLED = (False, "Progressing", "nothing stands in the way of the next sync")
_NOT_DEGRADED = (False, "AllAccepted", "every package of the source is served")
_NOTHING_READ = (False, "NothingRead", "the source was not read yet, so nothing of it is served")


def syncing(previous: Stored | None) -> Phase:
    """A sync reads the source now; everything else stays as it was."""
    said = _said(previous)
    ready = said.get("Ready", (False, "Syncing", "the first sync is under way"))
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


def digest_of(previous: Stored | None) -> str:
    """Of the source that the status speaks of; empty before the first sync."""
    return str(orjson.loads(previous.value)["status"].get("digest", "")) if previous else ""


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
    facts = orjson.loads(previous.value)["status"] if previous else {}
    return _good(facts.get("packages", 0), facts.get("revisions", 0), facts.get("ignoredTags", 0), degraded)


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
    if report.unreadable:
        first = next((f for f in report.findings if not f.warning and f.reason != HELD_BACK), None)
        where = f"{clip(first.path, 200)}: {clip(first.message, 300)}" if first else "a file could not be read"
        message = f"nothing is deleted until every file can be read again. {where}{_held(report)}"
        degraded = (True, "UnreadableFile", message)
    elif report.rejected:
        name, findings = next(iter(report.rejected.items()))
        first, name = next((f for f in findings if not f.warning), findings[0]), clip(name, LONGEST_NAME)
        degraded = (
            True,
            "PackagesRejected",
            f"{len(report.rejected)} rejected, their last good content stays; first: {name}: {first.message}",
        )
    return _good(report.packages, report.revisions, report.ignored_tags, degraded)


def _held(report: SyncReport) -> str:
    """Which packages stay as they were because of it."""
    names = sorted(name for name, findings in report.rejected.items() if findings[0].reason == HELD_BACK)
    shown = ", ".join(clip(name, 63) for name in names[:_NAMES_SHOWN])
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f". Held back, as they may be spoken of there: {shown}{more}" if names else ""


def _good(packages: int, revisions: int, ignored_tags: int, degraded: tuple[bool, str, str]) -> Phase:
    message = f"synced: {packages} packages, {revisions} revisions"
    if ignored_tags:
        message += f"; {ignored_tags} tags ignored, which name no package"
    if degraded[0]:
        message += f"; {degraded[2]}"
    return Phase((True, "Synced", message), _NOT_RECONCILING, _NOT_STALLED, degraded)


def _said(previous: Stored | None) -> dict[str, tuple[bool, str, str]]:
    """What each condition of the object says."""
    conditions = orjson.loads(previous.value)["status"].get("conditions", ()) if previous else ()
    return {c["type"]: (c["status"] == "True", c["reason"], c["message"]) for c in conditions}


def failed(error: CacheServerError, previous: Stored | None) -> Phase:
    """The sync did not finish; what was served stays, and how good that was (Degraded)."""
    reason = failure_reason(error)
    parts = (str(error)[:_LONGEST_CAUSE], _REMEDIES.get(reason, ""), "the last good content stays served")
    message = "; ".join(filter(None, parts))
    stalled = (True, reason, message) if reason in _STALLING else _NOT_STALLED
    degraded = _said(previous).get("Degraded", _NOTHING_READ)
    return Phase((False, reason, message), _NOT_RECONCILING, stalled, degraded)


@dataclass(frozen=True, slots=True)
class Served:
    """What a status says is served, for metrics. synced_at: Unix time."""

    packages: int
    revisions: int
    rejected: int
    synced_at: float


def served(record: Record | None, previous: Stored | None) -> Served | None:
    """Of the record that is being published, else of the object that stays; None before the first sync."""
    facts: dict[str, Any] = orjson.loads(record.status) if record else {}
    if not facts and previous:
        facts = orjson.loads(previous.value)["status"]
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
    pushing: tuple[bool, str, str] | None = None,
) -> Record | None:
    """The object to serve; None when nothing but the clock would change. pushing: see pushing(); None: as it was."""
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
        "conditions": _conditions(phase, pushing, before, generation, stamp, writable=config.writable),
        **_facts(before, report, stamp),
    }
    requested = config.annotations.get(ANNOTATION_REQUESTED)
    if requested and report is not None:
        status["lastHandledReconcileAt"] = requested

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


def _conditions(
    phase: Phase,
    pushing: tuple[bool, str, str] | None,
    before: Mapping[str, Any],
    generation: int,
    stamp: str,
    *,
    writable: bool,
) -> list[dict[str, Any]]:
    old = {condition["type"]: condition for condition in before.get("conditions", ())}
    conditions = []
    if writable and pushing is None and (kept := old.get(_PUSHED)) is not None:
        pushing = (kept["status"] == "True", kept["reason"], kept["message"])
    told = [(_PUSHED, pushing)] if writable and pushing is not None else []
    for name, said in (
        ("Ready", phase.ready),
        ("Reconciling", phase.reconciling),
        ("Stalled", phase.stalled),
        ("Degraded", phase.degraded),
        *told,
    ):
        status = "True" if said[0] else "False"
        moved = old.get(name, {}).get("status") != status
        conditions.append(
            {
                "type": name,
                "status": status,
                "observedGeneration": generation,
                "lastTransitionTime": stamp if moved else old[name]["lastTransitionTime"],
                "reason": said[1],
                "message": said[2][:1024],
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
        {"package": clip(name, LONGEST_NAME), "reason": finding.reason, "message": finding.message[:512]}
        for name, findings in sorted(report.rejected.items())
        for finding in [next((f for f in findings if not f.warning), findings[0])]
    ]
    facts.pop("ignoredTags", None)
    return {
        **facts,
        "digest": report.digest,
        "packages": report.packages,
        "revisions": report.revisions,
        **({"ignoredTags": report.ignored_tags} if report.ignored_tags else {}),
        "rejectedCount": len(rejected),
        "rejected": rejected[:REJECTED_SHOWN],
        "lastCheckedAt": stamp,
        "lastSyncedAt": stamp if report.outcome is Outcome.APPLIED else facts.get("lastSyncedAt", stamp),
    }


def _stamp(now: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp() if stamp else 0.0
