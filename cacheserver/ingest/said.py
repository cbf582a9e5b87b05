"""What a sync says in the log of what it rejects, cannot read, or holds as a whole: each fault once while it lasts.

Writes lines and remembers which; decides nothing. One for each repository, called by life.py.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from cacheserver.catalogs import Finding
from cacheserver.catalogs.summary import LONGEST_NAME, clip
from cacheserver.ingest.status import cause_of
from cacheserver.ingest.sync import Outcome, SyncReport

log = logging.getLogger(__name__)

MOST_LINES: Final = 20
"""Of one sync, as many as `status.rejected` has: a catalog of which every package broke is one fault, not 400."""
_LONGEST: Final = 500

_Fault = tuple[str, str, str]
"""(package, reason, message)"""


class Said:
    """What the last sync had to say, so that a catalog that changes each minute repeats nothing."""

    def __init__(self) -> None:
        self._known: frozenset[_Fault] = frozenset()

    def tell(self, report: SyncReport) -> None:
        """A warning for each fault that the sync before this one had not: the first MOST_LINES of them."""
        about: dict[str, object] = {"namespace": report.repository.namespace, "repository": report.repository.name}
        before, self._known = self._known, frozenset(_faults(report))
        if report.outcome is Outcome.HELD:
            if self._known != before:
                extra = {**about, "reason": report.reason, "error": clip(report.message, _LONGEST)}
                log.warning("catalog refused as a whole; what was served stays", extra=extra)
            return
        if report.cause is not None and _fault("", report.cause) not in before:
            extra = {**about, **_of(report.cause)}
            log.warning("a file of the catalog cannot be read; nothing is deleted until it can", extra=extra)
        for name, finding in _shown(report).items():
            if _fault(name, finding) not in before:
                extra = {**about, "package": clip(name, LONGEST_NAME), **_of(finding)}
                log.warning("package rejected; what was served of it stays", extra=extra)
        more = len(report.rejected) - MOST_LINES
        if more > 0 and self._known != before:
            extra = {**about, "more": more}
            log.warning("more packages are rejected; `cacheserver validate` lists all of them", extra=extra)


def _shown(report: SyncReport) -> Mapping[str, Finding]:
    """The first of the rejected packages, each with why."""
    return {name: cause_of(findings) for name, findings in sorted(report.rejected.items())[:MOST_LINES]}


def _faults(report: SyncReport) -> list[_Fault]:
    if report.outcome is Outcome.HELD:
        return [("", report.reason, report.message)]
    cause = [_fault("", report.cause)] if report.cause is not None else []
    return [*cause, *(_fault(name, finding) for name, finding in _shown(report).items())]


def _fault(package: str, finding: Finding) -> _Fault:
    return package, finding.reason, finding.message


def _of(finding: Finding) -> Mapping[str, object]:
    """A finding as fields of a line."""
    where = {"path": clip(finding.path, _LONGEST), "line": finding.line, "reason": finding.reason}
    return {**where, "error": clip(finding.message, _LONGEST)}
