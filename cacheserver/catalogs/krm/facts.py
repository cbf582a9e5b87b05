"""What is known of KRM packages (kpt, Porch): of one tree of files, and of the revisions that refer to trees.

Facts are made by a worker (worker.py), kept in the catalog's index as one line of JSON, and read back by the worker
that makes the records (project.py). Revisions are made where packages are discovered. Pure data.
"""

from __future__ import annotations

from dataclasses import fields
from enum import StrEnum
from typing import Any, Final

import orjson

from cacheserver.catalogs.catalog import Problem
from cacheserver.slotted import slotted

KPTFILE: Final = "Kptfile"
RENDERED: Final = "Rendered"
"""Type of the condition that says whether a package's pipeline was run (kpt, pkg/api/kptfile/v1/types.go)."""


@slotted(frozen=True)
class Lock:
    """A commit of a package in git (kpt: UpstreamLock.git; Porch: selfLock)."""

    repo: str
    directory: str
    ref: str
    commit: str


@slotted(frozen=True)
class Condition:
    """A condition of the Kptfile's status, as it is written there."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


@slotted(frozen=True)
class Facts:
    """One tree of a package's files. content: (digest, bytes, number of files) of its tar; warnings refuse nothing."""

    content: tuple[str, int, int]
    display_name: str = ""
    summary: str = ""
    keywords: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    conditions: tuple[Condition, ...] = ()
    readiness_gates: tuple[str, ...] = ()
    upstream_lock: Lock | None = None
    provided: tuple[tuple[str, str, str], ...] = ()
    """(group, version, kind) of the definitions among its files"""
    required: tuple[tuple[str, str, str], ...] = ()
    """of its resources that none of these is of, and not Kubernetes itself"""
    warnings: tuple[Problem, ...] = ()
    pipeline: bool = False
    """Whether it has functions that are to be run, in a subpackage or in itself."""
    cut: tuple[str, ...] = ()
    """Fields, as they are served, that are longer than what is here (bounds.Cutter)."""


def encode(facts: Facts) -> str:
    """One line of JSON."""
    written = {field.name: getattr(facts, field.name) for field in fields(facts)}
    written["warnings"] = [(one.reason, one.message, one.path) for one in facts.warnings]
    return orjson.dumps(written).decode()


def decode(line: str) -> Facts:
    """What encode() was given."""
    written: dict[str, Any] = orjson.loads(line)
    lock = written["upstream_lock"]
    return Facts(
        content=_tuples(written["content"]),
        display_name=written["display_name"],
        summary=written["summary"],
        keywords=_tuples(written["keywords"]),
        labels=_tuples(written["labels"]),
        conditions=tuple(Condition(**condition) for condition in written["conditions"]),
        readiness_gates=_tuples(written["readiness_gates"]),
        upstream_lock=Lock(**lock) if lock else None,
        provided=_tuples(written["provided"]),
        required=_tuples(written["required"]),
        warnings=tuple(Problem(*problem) for problem in written["warnings"]),
        pipeline=written["pipeline"],
        cut=_tuples(written["cut"]),
    )


def _tuples(value: Any) -> Any:
    """JSON lists back as tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


class Origin(StrEnum):
    """Where a revision was found. In order of precedence where several give one package the same revision."""

    TAG = "tag"
    BRANCH = "branch"
    LOCAL = "local"
    PROPOSED = "proposed"
    DRAFT = "draft"


@slotted(frozen=True)
class Revision:
    """One revision of a package, as discovered. tree: key of its Facts; equal keys mean equal files.

    workspace: that it was drafted in, as far as git says so of this very revision; else its name.
    published_at: RFC 3339 in UTC. lock: where it lies in git, None elsewhere. nonce: of its uid (model.uid_of), for one
    that was made through the API.
    """

    name: str
    origin: Origin
    tree: str
    workspace: str = ""
    deletion_proposed: bool = False
    published_at: str = ""
    published_by: str = ""
    lock: Lock | None = None
    nonce: str = ""


def decode_revision(written: dict[str, Any]) -> Revision:
    """A Revision that orjson wrote."""
    lock = written["lock"]
    return Revision(**{**written, "origin": Origin(written["origin"]), "lock": Lock(**lock) if lock else None})
