"""How a package takes a newer revision of what it was cloned from, by a strategy. Files in memory in and out; pure, and
to be called in a thread, since it reads YAML.

Three sides: what the package was cloned from (original), what it is to take (updated), and what it is now (local). The
strategies are kpt's (kpt, internal/util/update): fast-forward takes the update where nobody changed the clone, and says
what was changed where somebody did; force-delete-replace takes it whole, and what was changed is gone. Ours: the
Kptfile is merged field by field, not name by name in its lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final

import yaml

from cacheserver.catalogs.documents.document import DocumentError
from cacheserver.catalogs.krm.facts import KPTFILE
from cacheserver.publish import kptfile, refusals
from cacheserver.publish.create import tasks
from cacheserver.publish.package import File, Files
from cacheserver.slotted import slotted

_NAMED: Final = 20
"""Changed files that a refusal names."""


class Strategy(StrEnum):
    """Those that there are."""

    FAST_FORWARD = "fast-forward"
    FORCE_DELETE_REPLACE = "force-delete-replace"


LATER: Final = ("resource-merge", "copy-merge")
"""Porch's other ones (porch, pkg/task/upgrade.go), which are not there yet."""


@slotted(frozen=True)
class Asked:
    """to: name of the revision to be taken. of: name of the one that the package was cloned from; empty: the one that
    its upstreamLock names."""

    to: str
    strategy: Strategy
    of: str = ""


@slotted(frozen=True)
class Upgrade:
    """asked: with all names. local: name of the revision that is upgraded. origins: where original and updated lie in
    git (Lock's fields)."""

    package: str
    asked: Asked
    local: str
    origins: tuple[Mapping[str, str], Mapping[str, str]]
    deployment: bool = False

    def files(self, original: Files | None, updated: Files, local: Files) -> dict[str, File]:
        """original: None where nobody has it any more.

        Raises: RefusedError 422 where the strategy does not allow it, or a Kptfile cannot be read or changed.
        """
        old, new = self.origins
        if self.asked.strategy is Strategy.FAST_FORWARD and (changed := self._changed(original or {}, local, old)):
            more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
            why = (
                f"local package files have been modified: {', '.join(changed[:_NAMED])}{more}; take the update and "
                f"lose these changes with {Strategy.FORCE_DELETE_REPLACE}, or make them anew in a clone"
            )
            raise self._wrong("strategy", self.asked.strategy, why)
        found = self._clone(self.asked.to, new).files(updated)
        fields = self._kept(original or {}, updated, local)
        try:
            raw = kptfile.set_fields(found[KPTFILE].content, fields)
        except DocumentError as exc:
            raise self._wrong("to", self.asked.to, f"its Kptfile cannot be changed: {exc}") from exc
        return {**found, KPTFILE: File(raw, found[KPTFILE].executable)}

    def task(self) -> dict[str, Any]:
        """As Porch has it: api/porch/v1alpha1, Task."""
        asked = self.asked
        names = {"oldUpstreamRef": asked.of, "newUpstreamRef": asked.to, "localPackageRevisionRef": self.local}
        refs = {field: {"name": name} for field, name in names.items() if name}
        return {"type": "upgrade", "upgrade": {**refs, "strategy": asked.strategy.value}}

    def _clone(self, source: str, origin: Mapping[str, str]) -> tasks.Clone:
        return tasks.Clone(self.package, source, origin, deployment=self.deployment)

    def _changed(self, original: Files, local: Files, origin: Mapping[str, str]) -> list[str]:
        """Paths that are not as a clone of the original has them, with merge comments or without."""
        cloned = self._clone(self.asked.of, origin).files(original)
        found = []
        for path in sorted(cloned.keys() | original.keys() | local.keys()):
            here = local.get(path)
            if path == KPTFILE:
                if _own(self._loaded(original, self.asked.of)) != _own(self._loaded(local, self.local)):
                    found.append(path)
            elif path == tasks.CONTEXT:
                # kpt, internal/builtins/pkg_context.go: the clone has its own; one that has none is as good.
                if here not in (cloned.get(path), original.get(path), None):
                    found.append(path)
            elif here not in (cloned.get(path), original.get(path)):
                found.append(path)
        return found

    def _kept(self, original: Files, updated: Files, local: Files) -> dict[kptfile.Path, Any]:
        """Fields of the package's own Kptfile that stay: those that the update does not change against the original, or
        has not at all. Where both changed one, the update's counts, as with kpt."""
        sides = [self._loaded(files, name) for files, name in zip(
            (original, updated, local), (self.asked.of, self.asked.to, self.local), strict=True,
        )]  # fmt: skip
        began, new, own = (_fields(side) for side in sides)
        mine = [path for path in own.keys() | began.keys() if own.get(path) != began.get(path)]
        return {path: own.get(path) for path in sorted(mine) if new.get(path) == began.get(path)}

    def _loaded(self, files: Files, name: str) -> dict[str, Any]:
        if KPTFILE not in files:
            return {}
        try:
            return kptfile.loaded(files[KPTFILE].content)
        except (DocumentError, yaml.YAMLError) as exc:
            raise self._wrong("to", self.asked.to, f"the Kptfile of {name} cannot be read: {exc}") from exc

    def _wrong(self, field: str, value: str, why: str) -> Exception:
        return refusals.wrong("", f"spec.source.upgrade.{field}", value, why)


_TOP: Final = ("pipeline", "inventory")
_INNER: Final = (("metadata", ("labels", "annotations")), ("info", None))
_OF_ITS_OWN: Final = ("upstream", "upstreamLock", "status")
"""kpt, internal/util/update/fastforward.go: what two equal packages may differ in, besides their name."""


def _fields(document: Mapping[str, Any]) -> dict[kptfile.Path, Any]:
    """What of a Kptfile a package may have of its own, by path."""
    found: dict[kptfile.Path, Any] = {(name,): document[name] for name in _TOP if name in document}
    for name, inner in _INNER:
        part = document.get(name)
        if isinstance(part, dict):
            names: Iterable[str] = part if inner is None else [each for each in inner if each in part]
            found |= {(name, each): part[each] for each in names if isinstance(each, str)}
    return found


def _own(document: Mapping[str, Any]) -> dict[str, Any]:
    """A Kptfile without what every clone has of its own."""
    found = {name: value for name, value in document.items() if name not in _OF_ITS_OWN}
    metadata = found.get("metadata")
    if isinstance(metadata, dict):
        found["metadata"] = {name: value for name, value in metadata.items() if name != "name"}
    return found
