"""What the client prints: tables, JSON, YAML, names. What comes from a catalog never steers the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

Object = Mapping[str, Any]
Column = tuple[str, Callable[[Any], object]]
"""Heading, and what stands below it."""

FORMS: Final = ("table", "wide", "json", "yaml", "name")
_GAP: Final = "   "
_LONGEST_CELL: Final = 120
_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400


def plain(text: object) -> str:
    """One line that a terminal does not obey: what is not printable is shown as its escape."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(text))


@dataclass(frozen=True, slots=True)
class Output:
    """form: one of FORMS. quiet: no progress on stderr."""

    form: str = "table"
    quiet: bool = False

    def objects(self, found: Sequence[Object], columns: Sequence[Column], wide: Sequence[Column] = ()) -> None:
        """A list of objects in the form that was asked for. wide: columns more of `-o wide`."""
        if self.form == "name":
            for one in found:
                self.line(f"{one['kind'].lower()}.cacheserver.dev/{one['metadata']['name']}")
        elif self.form in ("json", "yaml"):
            self.document({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": list(found)})
        else:
            self.table(found, columns, wide)

    def table(self, rows: Sequence[Any], columns: Sequence[Column], wide: Sequence[Column] = ()) -> None:
        """Rows of anything below headings; nothing at all where there are none but a word on stderr."""
        shown = (*columns, *(wide if self.form == "wide" else ()))
        if not rows:
            self.say("nothing was found")
            return
        cells = [[heading for heading, _ in shown]]
        cells += [[_cell(made(row)) for _, made in shown] for row in rows]
        widths = [max(len(row[at]) for row in cells) for at in range(len(shown))]
        for row in cells:
            self.line(_GAP.join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())

    def row(self, one: Any, columns: Sequence[Column]) -> None:
        """A line of what comes one by one, without headings."""
        self.line(_GAP.join(_cell(made(one)) for _, made in columns))

    def flush(self) -> None:
        """Whoever reads has all that was printed."""
        sys.stdout.flush()

    def document(self, value: object) -> None:
        """One object as JSON or YAML."""
        if self.form == "yaml":
            import yaml  # noqa: PLC0415  20 ms, for who asks for it

            dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
            text = yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True)
            if not all(map(str.isprintable, text.split("\n"))):  # YAML knows escapes in some of its forms alone
                text = yaml.dump(value, Dumper=dumper, sort_keys=False)
            sys.stdout.write(text)
        else:
            lines = json.dumps(value, indent=2, ensure_ascii=False).split("\n")
            sys.stdout.write("\n".join(line if line.isprintable() else escaped(line) for line in lines) + "\n")

    def line(self, text: str) -> None:
        """A line on stdout."""
        sys.stdout.write(text + "\n")

    def say(self, text: str) -> None:
        """A line on stderr, for people."""
        if not self.quiet:
            sys.stderr.write(text + "\n")


def complain(text: str, *, colour: bool) -> None:
    """The error that ends a command, on stderr; in red on a terminal, where that is wished for."""
    label = "\x1b[31merror\x1b[0m" if colour and sys.stderr.isatty() else "error"
    lines = [plain(line) for line in text.splitlines()] or [""]
    sys.stderr.write(f"{label}: " + "\n  ".join(lines) + "\n")


def escaped(line: str) -> str:
    """JSON that says the same, of characters that are seen."""
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in line)


def _cell(value: object) -> str:
    text = plain("" if value is None else value)
    return text if len(text) <= _LONGEST_CELL else text[: _LONGEST_CELL - 3] + "..."


def age(one: Object) -> str:
    """Since an object was made, as kubectl writes it: `7s`, `5m`, `3h`, `12d`, `2y`."""
    try:
        made = datetime.fromisoformat(one["metadata"]["creationTimestamp"])
    except (KeyError, TypeError, ValueError):
        return "<unknown>"
    seconds = max(0, int((datetime.now(UTC) - made).total_seconds()))
    for unit, length in (("y", _YEAR), ("d", _DAY), ("h", _HOUR), ("m", _MINUTE)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def counted(count: int, one: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count} {one if count == 1 else f'{one}s'}"
