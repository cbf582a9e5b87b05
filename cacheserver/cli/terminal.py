"""What the command line prints: findings, tables, progress, the lines to try. Text in, no decisions.

Whatever comes from a catalog goes through `one_line`: a terminal must not obey it.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, TextIO

from cacheserver.cli.logs import one_line

if TYPE_CHECKING:  # `--help` and `version` do without what catalogs and sources import
    from cacheserver.catalogs import Catalog, Finding
    from cacheserver.ingest import SyncReport
    from cacheserver.server.begun import Begun

Progress = Callable[[str, int, int], None]
"""As sources.Progress: (what, done, total), total 0 while unknown."""

_RED, _YELLOW, _RESET, _CLEAR_LINE = "\x1b[31m", "\x1b[33m", "\x1b[0m", "\r\x1b[K"
_PROGRESS_EVERY_S: Final = 0.1
_SHOWN_NAMES: Final = 10
_CAUSE_CHARACTERS: Final = 300  # of why a repository was not read; the whole stands in its status


class Terminal:
    """stdout and stderr, and what may be done to them. colour: wished for; used only where it is a terminal."""

    def __init__(self, *, colour: bool = True, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self.colour = colour

    @property
    def interactive(self) -> bool:
        """Whether stdout is a terminal."""
        return self._out.isatty()

    def out(self, text: str) -> None:
        """A line on stdout, at once."""
        print(text, file=self._out, flush=True)

    def error(self, text: str) -> None:
        """A line on stderr that says who complains."""
        label = f"{_RED}error{_RESET}" if self.colour and self._err.isatty() else "error"
        print(f"cacheserver: {label}: {text}", file=self._err, flush=True)

    def painted(self, text: str, *, warning: bool) -> str:
        """The text in red, or yellow for a warning, where colours are wanted and seen."""
        if not (self.colour and self.interactive):
            return text
        return f"{_YELLOW if warning else _RED}{text}{_RESET}"

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """One line on stderr, rewritten ten times a second and with each new step, wiped at the end; nothing off a
        terminal. Log lines that come meanwhile get a line of their own."""
        if not self._err.isatty():
            yield lambda _what, _done, _total: None
            return
        next_at, step, over = 0.0, "", False

        def show(what: str, done: int, total: int) -> None:
            nonlocal next_at, step
            now = time.monotonic()
            if over or (now < next_at and what == step):
                return
            next_at, step = now + _PROGRESS_EVERY_S, what
            amount = f" {100 * done // total:3d} %" if total else f" {done}" if done else ""
            self._err.write(f"{_CLEAR_LINE}{one_line(what)[:60]}{amount}")
            self._err.flush()

        def make_room(_record: logging.LogRecord) -> bool:
            nonlocal next_at
            if step and next_at:
                self._err.write(_CLEAR_LINE)
                next_at = 0.0
            return True

        handlers = logging.getLogger().handlers[:]
        for handler in handlers:
            handler.addFilter(make_room)
        try:
            yield show
        finally:
            over = True
            for handler in handlers:
                handler.removeFilter(make_room)
            self._err.write(_CLEAR_LINE)
            self._err.flush()


def finding_line(finding: Finding, terminal: Terminal, *, prefix: str = "") -> str:
    """`FILE:LINE: error: MESSAGE [REASON, package P, document N]`: editors and terminals make the place a link."""
    at = f":{finding.line}" if finding.line else ""
    place = f"{prefix}{finding.path}{at}" if finding.path else prefix.rstrip("/: ")
    word = terminal.painted("warning" if finding.warning else "error", warning=finding.warning)
    about = [finding.reason]
    if finding.package:
        about.append(f"package {finding.package}")
    if finding.document:
        about.append(f"document {finding.document}")
    return f"{one_line(place)}: {word}: {one_line(finding.message)} [{one_line(', '.join(about))}]"


def finding_lines(findings: Sequence[Finding], most: int, terminal: Terminal, *, prefix: str = "") -> Iterator[str]:
    """A line each, in the order given; of more than `most` the errors first, and how many are left out."""
    shown = findings
    if len(findings) > most:
        shown = sorted(findings, key=lambda finding: finding.warning)[:most]
    for finding in shown:
        yield finding_line(finding, terminal, prefix=prefix)
    if len(shown) < len(findings):
        yield f"and {len(findings) - len(shown)} more; --max-findings {len(findings)} shows all"


def validate_summary(catalog: Catalog, *, files: int, elapsed_s: float) -> str:
    """One line that says whether the catalog may be served, and one that names what may not."""
    good = len(catalog.packages) + len(catalog.unchanged)
    warnings = sum(finding.warning for finding in catalog.findings)
    sizes = f"{counted(good, 'good package')} with {counted(catalog.revisions, 'revision')}"
    troubles = f"{len(catalog.rejected)} rejected, {counted(warnings, 'warning')}"
    lines = [f"{counted(files, 'file')}, {sizes}, {troubles}, {elapsed_s:.2f} s"]
    if catalog.rejected:
        names = sorted(catalog.rejected)
        more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
        lines.append(f"rejected: {one_line(', '.join(names[:_SHOWN_NAMES]))}{more}")
    if catalog.unreadable:
        lines.append(
            "some files were not read, so packages may be missing; a server would delete nothing until they are"
        )
    return "\n".join(lines)


_INGEST_HEADER: Final = (
    *("REPOSITORY", "ADDED", "CHANGED", "DELETED", "UNCHANGED"),
    *("REJECTED", "PACKAGES", "REVISIONS", "TIME", "RESULT"),
)


def ingest_table(reports: Sequence[SyncReport]) -> str:
    """A row a repository, in the order given. Counts of objects: packages and their revisions."""
    rows: list[Sequence[str]] = [_INGEST_HEADER]
    for report in reports:
        moved = (report.added, report.changed, report.deleted, report.unchanged, report.all_rejected)
        there = (report.packages, report.revisions)
        time_s = f"{report.elapsed_s:.2f}s"
        rows.append([report.repository.name, *map(str, moved), *map(str, there), time_s, report.outcome.value])
    return table(rows)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns three blanks apart, as kubectl's; nothing is cut."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("   ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def banner(begun: Begun) -> str:
    """What is served, what is not and why, the address, and what to try there first."""
    kubectl = f"kubectl --server {begun.url}"
    lines = [f"Serving {_content(begun)} on {begun.url}"]
    lines += [f"  {name} could not be read: {_cut(why)}" for name, why in sorted(begun.failed.items())[:_SHOWN_NAMES]]
    if begun.reading:
        names = ", ".join(begun.reading[:_SHOWN_NAMES])
        more = f" and {len(begun.reading) - _SHOWN_NAMES} more" if len(begun.reading) > _SHOWN_NAMES else ""
        lines.append(f"  still being read: {names}{more}")
    return "\n".join(
        (
            *lines,
            "",
            "Try, in another terminal:",
            "",
            f"  {kubectl} get packages",
            f"  {kubectl} get repositories",
            f"  {kubectl} get packagerevisions -l cacheserver.dev/package=NAME",
            f"  {kubectl} get packages --watch",
            f"  {kubectl} explain package.status",
            f"  curl {begun.url}/apis/cacheserver.dev/v1alpha1/packages",
            f"  curl {begun.url}/readyz?verbose",
            "",
            "Ctrl-C stops it.",
        )
    )


def _content(begun: Begun) -> str:
    if not begun.repositories:
        return "what etcd holds"
    packages, revisions = counted(begun.packages, "package"), counted(begun.revisions, "revision")
    return f"{packages}, {revisions} of {counted(begun.repositories, 'repository', 'repositories')}"


def _cut(text: str) -> str:
    return one_line(text if len(text) <= _CAUSE_CHARACTERS else f"{text[:_CAUSE_CHARACTERS]}...")


def counted(count: int, one: str, many: str = "") -> str:
    """`1 file`, `2 files`. many: the plural, where it is more than an s."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"
