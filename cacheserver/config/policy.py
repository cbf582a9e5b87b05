"""What a Repository asks of those who publish to it: approval, versioning, render. Alike in files and in a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cacheserver.config import quantities
from cacheserver.slotted import slotted

if TYPE_CHECKING:
    from cacheserver.config.documents import Value

E = TypeVar("E", bound=StrEnum)


class Render(StrEnum):
    """`spec.render`: whether a package is proposed, and approved, with its pipeline not run."""

    IF_POSSIBLE = "IfPossible"
    REQUIRE = "Require"


class Versioning(StrEnum):
    """`spec.versioning`: what a published revision is called."""

    INTEGER = "Integer"
    """The next number: v1, v2."""
    SEMVER = "SemVer"
    """The semantic version that who proposes or approves it names."""


@slotted(frozen=True)
class Approval:
    """forbid_self: nobody approves what he proposed, or changed since somebody else last rejected it.
    per_repository: who decides needs the right to `approve` this repository, by its name, besides that to
    packagerevisions/approval.
    """

    forbid_self: bool = False
    per_repository: bool = False

    def json(self) -> dict[str, object]:
        """As it is served."""
        return {"forbidSelf": self.forbid_self, "perRepository": self.per_repository}


def approval(spec: Mapping[str, Value]) -> Approval:
    """`spec.approval`. Raises: ConfigError for what is there and is none."""
    if "approval" not in spec:
        return Approval()
    members = spec["approval"].members(("forbidSelf", "perRepository"))
    return Approval(_switch(members, "forbidSelf"), _switch(members, "perRepository"))


def render(spec: Mapping[str, Value]) -> Render:
    """`spec.render`. Raises: ConfigError for what is there and is none."""
    return _word(spec, "render", Render.IF_POSSIBLE)


def versioning(spec: Mapping[str, Value]) -> Versioning:
    """`spec.versioning`. Raises: ConfigError for what is there and is none."""
    return _word(spec, "versioning", Versioning.INTEGER)


def _word(spec: Mapping[str, Value], key: str, default: E) -> E:
    if key not in spec:
        return default
    try:
        return quantities.choice(type(default)).parse(spec[key].text(), Path())
    except ValueError as exc:
        raise spec[key].error(str(exc)) from exc


def _switch(members: Mapping[str, Value], key: str) -> bool:
    if key not in members:
        return False
    try:
        return quantities.parse_switch(members[key].text())
    except ValueError as exc:
        raise members[key].error(str(exc)) from exc
