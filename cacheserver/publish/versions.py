"""Versions that people name (spec.versioning: SemVer): which there may be, and above which published ones. Pure.

A version's line is its major and minor number: 1.2.4 has to be above 1.2.3, whatever was published of 1.3 or 2.0.
Called by author, of what is served, and by plan, of what is in git.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from cacheserver.catalogs import semver
from cacheserver.config.policy import Versioning
from cacheserver.model import Lifecycle
from cacheserver.publish import changes, refusals
from cacheserver.store.authored import Step

VERSION_MOST: Final = 128
"""Characters. Ours: with the package's path it is a name of a tag, which has 1,000 bytes at most."""
_FIELD: Final = "spec.version"


def shown(version: str) -> str:
    """As a tag has it, and spec.version: with one leading v."""
    return f"v{version.removeprefix('v')}" if version else ""


def chosen(
    manifest: Mapping[str, Any], change: changes.Change, step: Step | None, versioning: Versioning, there: Iterable[str]
) -> str:
    """The version that a draft has then, with its leading v; empty: none yet, or numbers are given.

    there: published ones of its package. Raises: RefusedError 422.
    """
    name, spec = manifest["metadata"]["name"], manifest["spec"]
    if versioning is Versioning.INTEGER:
        if change.version:
            why = "its repository numbers revisions; with spec.versioning: SemVer there they are named"
            raise refusals.wrong(name, _FIELD, change.version, why)
        return ""
    if change.version is not None and spec["lifecycle"] == Lifecycle.PROPOSED and step is not Step.APPROVE:
        why = "is named by who proposes, or by who approves: reject it first, or name it with the approval"
        raise refusals.wrong(name, _FIELD, change.version, why)
    version = spec.get("version", "") if change.version is None else change.version
    if not version:
        if step is Step.APPROVE:
            why = "who proposes or approves names a version (its repository says spec.versioning: SemVer)"
            raise refusals.invalid(name, [refusals.required(_FIELD, why)])
        return ""
    if why := wrong_with(version) or not_above(version, there):
        raise refusals.wrong(name, _FIELD, version, why)
    return shown(version)


def wrong_with(version: str) -> str:
    """Why it is no version; empty: it is one."""
    if len(version) > VERSION_MOST:
        return f"has {len(version)} characters, a version at most {VERSION_MOST}"
    try:
        semver.parse(version.removeprefix("v"))
    except ValueError as exc:
        return f"must be a semantic version, as in 1.2.3: {exc}"
    return ""


def not_above(version: str, there: Iterable[str]) -> str:
    """Which published version of its line it is not above; empty: none. there: those that are no versions count not."""
    wanted = semver.parse(version.removeprefix("v"))
    line = (wanted.major, wanted.minor)
    found = [each for text in there if (each := _parsed(text)) is not None and (each.major, each.minor) == line]
    highest = max(found, default=None)
    if highest is None or wanted > highest:
        return ""
    return f"must be above {shown(str(highest))}, which is published of {line[0]}.{line[1]}"


def _parsed(text: str) -> semver.Version | None:
    try:
        return semver.parse(text.removeprefix("v"))
    except ValueError:
        return None
