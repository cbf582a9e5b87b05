"""What a client asks for when it creates a PackageRevision, read and checked as far as that needs nobody else. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from cacheserver.errors import Cause
from cacheserver.model import Key, Kind, UserMetadata
from cacheserver.publish import changes, refusals
from cacheserver.publish.create import git_clone, tasks
from cacheserver.publish.create.upgrade import LATER, Asked, Strategy
from cacheserver.publish.package import DEPTH_MOST
from cacheserver.slotted import slotted

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")  # RFC 1123
_LABEL_SAID: Final = (
    "must be 1 to 63 lower-case letters, digits and hyphens, with a letter or digit at both ends (an RFC 1123 label)"
)
_PACKAGE_MOST: Final = 200
"""Characters of a package's path. Ours: with repository and workspace most names then need no hash (names.py)."""
_TEXT_MOST: Final = 4096
_FIELDS: Final = {
    "init": ("description", "keywords", "site"),
    "clone": ("revision", "git"),
    "copy": ("revision",),
    "upgrade": ("to", "from", "strategy"),
}
"""What is kept of spec.source."""
_SOURCES: Final = ("init", "clone", "copy", "upgrade")


@slotted(frozen=True)
class Wanted:
    """key: of the new revision, which is named after its workspace. clone, copy: names of revisions; of these and
    upgrade there is one at most.

    extras: of the served spec.
    """

    key: Key
    users: UserMetadata
    gates: tuple[str, ...] = ()
    init: tasks.Init | None = None
    clone: str = ""
    copy: str = ""
    git: git_clone.Asked | None = None
    upgrade: Asked | None = None
    source: Mapping[str, Any] | None = None

    @property
    def extras(self) -> dict[str, Any]:
        """Of the served spec, besides what names the revision."""
        found: dict[str, Any] = {}
        if self.source:
            found["source"] = self.source
        if self.gates:
            found["readinessGates"] = [{"conditionType": gate} for gate in self.gates]
        return found


def read_wanted(namespace: str, manifest: Mapping[str, Any]) -> Wanted:
    """Raises: RefusedError 422 with every field that is wrong."""
    metadata, spec = changes.mapping(manifest, "metadata", ""), changes.mapping(manifest, "spec", "")
    named = str(metadata.get("name") or "")
    causes: list[Cause] = []
    repository = _one(spec, "repository", causes)
    package = _package(spec, causes)
    workspace = _one(spec, "workspaceName", causes)
    lifecycle = spec.get("lifecycle")
    if lifecycle not in (None, "", "Draft"):
        causes.append(
            refusals.bad("spec.lifecycle", str(lifecycle), "must be Draft at creation; propose it afterwards")
        )
    causes += [
        refusals.denied(f"spec.{field}", "is chosen when the revision is approved")
        for field in ("revision", "version")
        if spec.get(field) not in (None, "")
    ]
    if spec.get("format") not in (None, "", "KRM"):
        causes.append(refusals.bad("spec.format", str(spec["format"]), "must be KRM"))
    users = changes.users_of(None, metadata, causes)
    gates = changes.gates_of(spec, causes)
    source = _source(spec, causes)
    if metadata.get("namespace") not in (None, "", namespace):
        said = "the namespace of the object does not match the namespace on the request"
        causes.append(refusals.bad("metadata.namespace", str(metadata["namespace"]), said))
    if metadata.get("resourceVersion") not in (None, ""):
        causes.append(refusals.denied("metadata.resourceVersion", "must not be set on objects to be created"))
    if causes:
        raise refusals.invalid(named, causes)
    key = Key(Kind.REVISION, namespace, repository, package, workspace)
    if named and named != key.name:
        why = f"the name follows from repository, package and workspace: leave it out, or write {key.name}"
        raise refusals.wrong(named, "metadata.name", named, why)
    kind, inner = source
    given = {kind: {field: inner[field] for field in _FIELDS[kind] if inner.get(field)}} if kind else None
    match kind:
        case "clone" if inner.get("git") is not None:
            return Wanted(key, users, gates, git=_git(inner["git"]), source=given)
        case "clone":
            return Wanted(key, users, gates, clone=str(inner["revision"]), source=given)
        case "copy":
            return Wanted(key, users, gates, copy=str(inner["revision"]), source=given)
        case "upgrade":
            asked = Asked(inner["to"], Strategy(inner["strategy"]), inner.get("from") or "")
            return Wanted(key, users, gates, upgrade=asked, source=given)
        case _:
            return Wanted(key, users, gates, _init(package, inner), source=given)


def _one(spec: Mapping[str, Any], field: str, causes: list[Cause]) -> str:
    value = spec.get(field)
    if value in (None, ""):
        causes.append(refusals.required(f"spec.{field}"))
        return ""
    if not isinstance(value, str) or not _LABEL.match(value):
        causes.append(refusals.bad(f"spec.{field}", str(value), _LABEL_SAID))
        return ""
    return value


def _package(spec: Mapping[str, Any], causes: list[Cause]) -> str:
    value = spec.get("packageName")
    if value in (None, ""):
        causes.append(refusals.required("spec.packageName"))
        return ""
    parts = value.split("/") if isinstance(value, str) else []
    if not parts or not all(map(_LABEL.match, parts)):
        causes.append(refusals.bad("spec.packageName", str(value), f"each part between slashes {_LABEL_SAID}"))
    elif len(value) > _PACKAGE_MOST or len(parts) > DEPTH_MOST:
        said = f"must have at most {_PACKAGE_MOST} characters and {DEPTH_MOST} parts"
        causes.append(refusals.bad("spec.packageName", value, said))
    return value if isinstance(value, str) else ""


def _source(spec: Mapping[str, Any], causes: list[Cause]) -> tuple[str, Mapping[str, Any]]:
    """(kind, what it says) of spec.source; empty for none."""
    given = spec.get("source")
    if given is None:
        return "", {}
    kinds = [kind for kind in _SOURCES if given.get(kind) is not None] if isinstance(given, dict) else []
    if len(kinds) != 1 or not isinstance(given[kinds[0]], dict):
        causes.append(refusals.bad("spec.source", "", "must be exactly one of: init, clone, copy, upgrade"))
        return "", {}
    kind, inner = kinds[0], given[kinds[0]]
    if kind == "upgrade":
        _check_upgrade(inner, causes)
    elif kind != "init":
        name = inner.get("revision")
        if kind == "clone" and inner.get("git") is not None:
            _check_git(inner, causes)
        elif not isinstance(name, str) or not name or len(name) > 253:
            causes.append(refusals.required(f"spec.source.{kind}.revision", "the name of a package revision"))
    else:
        _check_init(inner, causes)
    return kind, inner


def _check_git(inner: Mapping[str, Any], causes: list[Cause]) -> None:
    given, field = inner["git"], git_clone.FIELD
    if not isinstance(given, dict) or inner.get("revision"):
        causes.append(refusals.bad("spec.source.clone", "", "must be exactly one of: revision, git"))
        return
    for name, why in (("url", "https://HOST/PATH, or ssh://"), ("ref", "a branch, a tag or a commit")):
        if not isinstance(given.get(name), str) or not given[name] or len(given[name]) > _TEXT_MOST:
            causes.append(refusals.required(f"{field}.{name}", why))
    if not isinstance(given.get("directory") or "", str):
        causes.append(refusals.bad(f"{field}.directory", "", "must be a path from the repository's root"))
    for name in ("secretRef", "caSecretRef"):
        named = given.get(name)
        if named is not None and not (isinstance(named, dict) and isinstance(named.get("name"), str) and named["name"]):
            causes.append(refusals.required(f"{field}.{name}.name", "the name of a Secret"))


def _git(given: Mapping[str, Any]) -> git_clone.Asked:
    secrets = [(given.get(name) or {}).get("name", "") for name in ("secretRef", "caSecretRef")]
    return git_clone.Asked(given["url"], given["ref"], (given.get("directory") or "").strip("/"), *secrets)


def _check_upgrade(inner: Mapping[str, Any], causes: list[Cause]) -> None:
    for field, needed in (("to", True), ("from", False)):
        name = inner.get(field)
        if (needed or name is not None) and (not isinstance(name, str) or not name or len(name) > 253):
            causes.append(refusals.required(f"spec.source.upgrade.{field}", "the name of a package revision"))
    strategy, there = inner.get("strategy"), ", ".join(Strategy)
    if strategy in (None, ""):
        causes.append(refusals.required("spec.source.upgrade.strategy", f"one of {there}"))
    elif strategy not in tuple(Strategy):
        why = f"is not supported yet; {there} are" if strategy in LATER else f"must be one of {there}"
        causes.append(Cause("FieldValueNotSupported", f'Unsupported value: "{str(strategy)[:200]}": {why}',
                            "spec.source.upgrade.strategy"))  # fmt: skip


def _check_init(inner: Mapping[str, Any], causes: list[Cause]) -> None:
    for field in ("description", "site"):
        value = inner.get(field)
        if value is not None and (not isinstance(value, str) or len(value) > _TEXT_MOST):
            causes.append(refusals.bad(f"spec.source.init.{field}", "", f"must be at most {_TEXT_MOST} characters"))
    words = inner.get("keywords")
    if words is not None and (
        not isinstance(words, list)
        or len(words) > 100
        or not all(isinstance(word, str) and len(word) <= 200 for word in words)
    ):
        causes.append(refusals.bad("spec.source.init.keywords", "", "must be at most 100 words"))


def _init(package: str, inner: Mapping[str, Any]) -> tasks.Init:
    return tasks.Init(
        package, inner.get("description") or "", tuple(inner.get("keywords") or ()), inner.get("site") or ""
    )
