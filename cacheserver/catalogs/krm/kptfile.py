"""Reads and judges a Kptfile: its bytes into what is served of it, or the reason why not. Pure, runs in a worker.

Guards against hostile YAML are goyaml's.
Field names: kpt, pkg/api/kptfile/v1/types.go. What is identity and what must be read is strict; what is only shown is
left out where it is not of the right shape.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from cacheserver.catalogs.bounds import Cutter
from cacheserver.catalogs.documents import goyaml
from cacheserver.catalogs.documents.document import JSON, DocumentError, Object, name_of
from cacheserver.catalogs.krm.facts import KPTFILE, Condition, Lock
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.catalogs.summary import (
    LONGEST_NAME,
    clip,
    summarise,
    words,
)
from cacheserver.model import GROUP
from cacheserver.slotted import slotted

_LABELS_SHARE: Final = 4
"""Ours: labels take a quarter of an object at most; they are beside its status. Real Kptfiles hold a handful."""

_STATUSES: Final = frozenset({"True", "False", "Unknown"})  # metav1.ConditionStatus
# Kubernetes, Labels: syntax and character set.
_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z")
_DNS_LABEL: Final = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_PREFIX: Final = re.compile(rf"{_DNS_LABEL}(\.{_DNS_LABEL})*\Z")


@slotted(frozen=True)
class Kptfile:
    """As Facts' fields of the same names; duplicate_keys: (key, line)."""

    display_name: str = ""
    summary: str = ""
    keywords: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    conditions: tuple[Condition, ...] = ()
    readiness_gates: tuple[str, ...] = ()
    upstream_lock: Lock | None = None
    pipeline: bool = False
    duplicate_keys: tuple[tuple[str, int], ...] = ()
    cut: tuple[str, ...] = ()


def read(raw: bytes, limits: ParseLimits) -> Kptfile:
    """Raises: DocumentError when it cannot be parsed, or is not a Kptfile by kind or apiVersion."""
    if len(raw) > limits.document_bytes:
        raise DocumentError("TooLarge", f"{len(raw)} bytes; the limit for a document is {limits.document_bytes}")
    try:
        loaded = goyaml.load(raw, limits)
    except MemoryError:
        raise DocumentError("TooLarge", "does not fit into the worker's memory") from None
    document = loaded.value
    if isinstance(document, goyaml.Nothing):
        raise DocumentError("NotAKptfile", "the file is empty")
    if not isinstance(document, dict):
        raise DocumentError("NotAKptfile", f"a Kptfile must be an object, not {name_of(document)}")
    # kptfileutil.DecodeKptfile: kind and apiVersion are checked before anything else is read.
    if document.get("kind") != KPTFILE:
        raise DocumentError("NotAKptfile", f"kind must be Kptfile, not {clip(str(document.get('kind')), 60)!r}")
    if not _text(document, "apiVersion").startswith("kpt.dev/"):
        api = clip(str(document.get("apiVersion")), 60)
        raise DocumentError("NotAKptfile", f"apiVersion must be kpt.dev/v1, not {api!r}")
    cutter, narrow = Cutter(limits), Cutter(replace(limits, record_bytes=limits.record_bytes // _LABELS_SHARE))
    metadata, about, status = (_part(document, name) for name in ("metadata", "info", "status"))
    return Kptfile(
        display_name=cutter.text("displayName", _text(metadata, "name").strip()),
        summary=summarise(_text(about, "description")),
        keywords=cutter.items("keywords", words(w for w in _list(about, "keywords") if isinstance(w, str))),
        labels=narrow.items("labels", _labels(_part(metadata, "labels"))),
        conditions=cutter.items("conditions", _conditions(status, cutter)),
        readiness_gates=cutter.items("readinessGates", _gates(about)),
        upstream_lock=_lock(document, cutter),
        pipeline=_has_functions(document),
        duplicate_keys=tuple(loaded.duplicates),
        cut=tuple(sorted({*cutter.cut, *narrow.cut})),
    )


def has_pipeline(raw: bytes, limits: ParseLimits) -> bool:
    """Whether a subpackage's Kptfile has functions to run; true also where it cannot be read, so nobody knows."""
    try:
        document = goyaml.load(raw, limits).value if len(raw) <= limits.document_bytes else None
    except (DocumentError, MemoryError):
        return True
    return _has_functions(document) if isinstance(document, dict) else True


def _has_functions(document: Object) -> bool:
    """kpt, internal/util/render/executor.go: a pipeline without functions is nothing to run."""
    pipeline = document.get("pipeline")
    return any(pipeline.values()) if isinstance(pipeline, dict) else bool(pipeline)


def _labels(written: Object) -> list[tuple[str, str]]:
    """Valid ones, sorted by key. docs/sources.md, Names: what is not a label is left out, never mangled."""
    kept: list[tuple[str, str]] = []
    for key, value in sorted(written.items()):
        prefix, slash, name = key.rpartition("/")
        # Ours: labels of our own domain say what we found out; a package may not say it in our place.
        own = prefix == GROUP or prefix.endswith(f".{GROUP}")
        good_key = _NAME.match(name) and (not slash or (len(prefix) <= LONGEST_NAME and _PREFIX.match(prefix)))
        if good_key and not own and isinstance(value, str) and (not value or _NAME.match(value)):
            kept.append((key, value))
    return kept


def _conditions(status: Object, cutter: Cutter) -> list[Condition]:
    """The first of each type."""
    found: dict[str, Condition] = {}
    for entry in _list(status, "conditions"):
        if not isinstance(entry, dict):
            continue
        kind, holds = _text(entry, "type"), entry.get("status")
        if isinstance(holds, bool):  # written without quotes; Go's decoder takes the text as it stands
            holds = str(holds)
        if kind and len(kind) <= LONGEST_NAME and isinstance(holds, str) and holds in _STATUSES:
            reason, message = (cutter.text("conditions", _text(entry, part)) for part in ("reason", "message"))
            found.setdefault(kind, Condition(kind, holds, reason, message))
    return list(found.values())


def _gates(about: Object) -> list[str]:
    gates = [_text(gate, "conditionType") for gate in _list(about, "readinessGates") if isinstance(gate, dict)]
    return [gate for gate in dict.fromkeys(gates) if gate]


def _lock(document: Object, cutter: Cutter) -> Lock | None:
    """Porch, pkg/git/package.go GetUpstreamLock: a lock counts only where `upstream.git` says what is followed."""
    lock = _part(document, "upstreamLock")
    git = _part(lock, "git")
    if not git or not _part(_part(document, "upstream"), "git"):
        return None
    names = ("repo", "directory", "ref", "commit")
    return Lock(*(cutter.text("upstreamLock", _text(git, name)) for name in names))


def _text(owner: Object, name: str) -> str:
    value = owner.get(name)
    return value if isinstance(value, str) else ""


def _part(owner: Object, name: str) -> Object:
    value = owner.get(name)
    return value if isinstance(value, dict) else {}


def _list(owner: Object, name: str) -> list[JSON]:
    value = owner.get(name)
    return value if isinstance(value, list) else []
