"""KRM packages into the records that are served: one for each revision, then the package. Fields:
docs/reference/kinds.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from cacheserver import model, names
from cacheserver.catalogs import bounds, semver
from cacheserver.catalogs.krm.facts import RENDERED, Condition, Facts, Lock, Origin, Revision
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.model import Digest, Format, Key, Kind, Lifecycle, Record, RepositoryKey

_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?\Z")  # Kubernetes: labels, syntax
_INTEGER: Final = re.compile(r"v?([0-9]{1,18})\Z")
"""Porch, pkg/repository Revision2Int: one leading v, then an integer. Ours: no sign, and what int64 holds."""
_FORMAT: Final = str(Format.KRM)

_Rank = tuple[semver.Version, bool, str]


_NOTHING: Final = Condition(RENDERED, "True", "NoPipeline", "it has no functions to run")
_UNKNOWN: Final = Condition(RENDERED, "Unknown", "NoRunner", "its pipeline was not run: there is no function runner")

_OF_REVISION: Final = ("conditions", "readinessGates", "providedAPIs", "requiredAPIs")
_OF_PACKAGE: Final = ("keywords", "providedAPIs")
"""Lists whose whole is in the content, all but one in its Kptfile."""


def records(
    repository: RepositoryKey,
    package: str,
    revisions: Sequence[tuple[Revision, Facts]],
    limits: ParseLimits = bounds.DEFAULT,
) -> list[Record]:
    """Revisions from the lowest version up, those without one before them by name; the package last.

    Raises: BoundError for one too large to be served.
    """
    ordered = sorted(revisions, key=lambda pair: (_rank(pair[0]) is not None, _rank(pair[0]) or (), pair[0].name))
    latest = _latest(revision for revision, _ in revisions)
    identities = _identities([revision for revision, _ in ordered])
    made = [
        revision_record(
            repository, package, revision, facts, limits, identity=identities[revision.name], latest=revision is latest
        )
        for revision, facts in ordered
    ]
    made.append(_package(repository, package, ordered, latest, limits))
    for record in made:
        bounds.check(record, limits)
    return made


def version_of(revision: Revision) -> str:
    """The revision's name where it is a version: an integer or a semantic one, a leading v allowed; else empty.

    Ours: of tags only. A branch called v3 and a draft that may become v3 are not version 3 yet.
    """
    if revision.origin is not Origin.TAG:
        return ""
    return revision.name if _INTEGER.match(revision.name) or _semantic(revision.name) else ""


def revision_number(revision: Revision) -> int:
    """N of vN; 0 for a draft; -1 for a branch, a directory, and a tag that is not an integer (docs/sources.md)."""
    if revision.origin in (Origin.DRAFT, Origin.PROPOSED):
        return 0
    found = _INTEGER.match(revision.name) if revision.origin is Origin.TAG else None
    return int(found[1]) if found else -1


def _latest(revisions: Iterable[Revision]) -> Revision | None:
    """The highest version among the published. Ours: not one that is proposed for deletion, though Porch allows it:
    nobody should be led to what is about to go."""
    ranked = [
        (rank, revision)
        for revision in revisions
        if _lifecycle(revision) is Lifecycle.PUBLISHED
        if (rank := _rank(revision))
    ]
    return max(ranked, key=lambda pair: pair[0])[1] if ranked else None


def _rank(revision: Revision) -> _Rank | None:
    """What `latest` compares: vN as N.0.0, a semantic version over the integer equal to it, the name at last."""
    if revision.origin is not Origin.TAG:
        return None
    integer = _INTEGER.match(revision.name)
    if integer:
        # Porch, pkg/repository: 0 is never the latest; it is Porch's number of drafts.
        return (semver.Version(int(integer[1]), 0, 0), False, revision.name) if int(integer[1]) else None
    version = _semantic(revision.name)
    return (version, True, revision.name) if version else None


def _semantic(name: str) -> semver.Version | None:
    try:
        return semver.parse(name.removeprefix("v"))
    except ValueError:
        return None


def _lifecycle(revision: Revision) -> Lifecycle:
    if revision.origin is Origin.DRAFT:
        return Lifecycle.DRAFT
    if revision.origin is Origin.PROPOSED:
        return Lifecycle.PROPOSED
    return Lifecycle.DELETION_PROPOSED if revision.deletion_proposed else Lifecycle.PUBLISHED


def _identities(ordered: Sequence[Revision]) -> dict[str, str]:
    """What each revision's object is named after, by its name: a tag's workspace, so that publishing a draft changes no
    name; all else itself (docs/sources.md, Names).

    ordered: from the lowest version up. Of two that would share a name the lower version has it, the other its own.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    branches = [each for each in ordered if each.origin in (Origin.BRANCH, Origin.LOCAL)]
    tags = [each for each in ordered if each.origin is Origin.TAG]
    drafts = [each for each in ordered if each.origin in (Origin.DRAFT, Origin.PROPOSED)]
    for revision in (*branches, *tags, *drafts):
        wanted = revision.workspace if revision.origin is Origin.TAG else revision.name
        commit = revision.lock.commit[:12] if revision.lock else ""
        # The last one holds no other's name by chance: no two revisions of a package have one name.
        choices = (wanted, revision.name, f"{revision.name}@{commit}", f"{revision.name}@@")
        found[revision.name] = next(choice for choice in choices if choice and choice not in taken)
        taken.add(found[revision.name])
    return found


def revision_record(
    repository: RepositoryKey,
    package: str,
    revision: Revision,
    facts: Facts,
    limits: ParseLimits = bounds.DEFAULT,
    *,
    identity: str = "",
    latest: bool = False,
) -> Record:
    """The record of one revision. identity: what its object is named after; empty: its name, as a draft's is.

    Not checked against the bounds of an object (bounds.check).
    """
    digest, size, files = facts.content
    lifecycle = _lifecycle(revision)
    spec = {
        "repository": repository.name,
        "packageName": package,
        "revision": revision.name,
        "version": version_of(revision),
        "workspaceName": revision.workspace,
        "lifecycle": lifecycle,
        "format": _FORMAT,
    }
    status = {
        "revisionNumber": revision_number(revision),
        "providedAPIs": _apis(facts.provided),
        "requiredAPIs": _apis(facts.required),
        "upstreamLock": _lock(facts.upstream_lock),
        "selfLock": _lock(revision.lock),
        "nonce": revision.nonce if revision.origin in (Origin.DRAFT, Origin.PROPOSED) else "",
        "publishedAt": revision.published_at,
        "publishedBy": revision.published_by,
        "readinessGates": [{"conditionType": gate} for gate in facts.readiness_gates],
        "conditions": _conditions(revision, facts),
        "content": {"digest": digest, "size": size, "files": files},
    }
    own = {
        **_own_labels(repository, package),
        model.LABEL_LIFECYCLE: lifecycle,
        model.LABEL_LATEST: "true" if latest else "",
    }
    return Record(
        key=Key(Kind.REVISION, repository.namespace, repository.name, package, identity or revision.name),
        labels=_labels(facts, own),
        spec=orjson.dumps(spec),
        status=orjson.dumps(bounds.fitted(_present(status), _OF_REVISION, _cut(facts, status), limits)),
        blobs=(Digest(digest),),
        nonce=revision.nonce,
    )


def _conditions(revision: Revision, facts: Facts) -> list[dict[str, Any]]:
    """Those of the Kptfile. Ours: of a draft the server says whether its pipeline was run, for its author could say so.

    The place of a function runner: what it makes of a draft's pipeline is said here once there is one.
    """
    said = facts.conditions
    if revision.origin in (Origin.DRAFT, Origin.PROPOSED):
        said = (_UNKNOWN if facts.pipeline else _NOTHING, *(each for each in said if each.type != RENDERED))
    return [_present({"type": c.type, "status": c.status, "reason": c.reason, "message": c.message}) for c in said]


def _package(
    repository: RepositoryKey,
    package: str,
    ordered: Sequence[tuple[Revision, Facts]],
    latest: Revision | None,
    limits: ParseLimits,
) -> Record:
    facts = _describing_facts(ordered, latest)
    status = {
        "displayName": facts.display_name,
        "summary": facts.summary,
        "keywords": facts.keywords,
        "latest": {"revision": latest.name, "version": version_of(latest)} if latest else None,
        "revisions": len(ordered),
        "providedAPIs": _apis(facts.provided),
    }
    return Record(
        key=Key(Kind.PACKAGE, repository.namespace, repository.name, package),
        labels=_labels(facts, _own_labels(repository, package)),
        spec=orjson.dumps({"repository": repository.name, "packageName": package, "format": _FORMAT}),
        status=orjson.dumps(bounds.fitted(_present(status), _OF_PACKAGE, _cut(facts, status), limits)),
    )


def _cut(facts: Facts, status: Mapping[str, Any]) -> list[str]:
    return [name for name in facts.cut if name in status or name == "labels"]


def _describing_facts(ordered: Sequence[tuple[Revision, Facts]], latest: Revision | None) -> Facts:
    """Whose Kptfile speaks for the package: the latest revision's, else the branch's, else the highest one's."""
    # The first of equals: the highest, since `ordered` begins with the lowest.
    preferred = max(
        reversed(ordered), key=lambda pair: (pair[0] is latest, pair[0].origin in (Origin.BRANCH, Origin.LOCAL))
    )
    return preferred[1]


def _own_labels(repository: RepositoryKey, package: str) -> dict[str, str]:
    label = names.package_label(package)
    return {model.LABEL_REPOSITORY: repository.name, model.LABEL_PACKAGE: label, model.LABEL_FORMAT: _FORMAT}


def _labels(facts: Facts, own: Mapping[str, str]) -> dict[str, str]:
    """The Kptfile's (valid ones, none of our domain: kptfile.py) and ours, which are left out where no value."""
    return {**dict(facts.labels), **{name: value for name, value in own.items() if value and _LABEL_VALUE.match(value)}}


def _apis(found: Iterable[tuple[str, str, str]]) -> list[dict[str, str]]:
    return [{"group": group, "version": version, "kind": kind} for group, version, kind in found]


def _lock(lock: Lock | None) -> dict[str, Any] | None:
    if lock is None:
        return None
    git = {"repo": lock.repo, "directory": lock.directory, "ref": lock.ref, "commit": lock.commit}
    return {"type": "git", "git": _present(git)}


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without what says nothing, as `omitempty` does; zero and false are kept, they say something."""
    return {name: value for name, value in fields.items() if value not in (None, "") and value not in ([], (), {})}
