"""A package's documents as a smaller catalog: of one channel, or from a version on, and valid by itself.

Entries, bundles and deprecations that are not taken are left out (selection.py); what stays is as it was, also edges
to what is gone, for that is where installed operators come from: the tail of a channel may replace what is not there
(operator-registry, alpha/model/model.go; its own filter leaves edges alone, too). Documents of other schemas stay.
Lines in, lines out: the documents are gone through twice, and never held. Pure; called by api/exporting.py, in a
thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

import orjson

from cacheserver.catalogs.fbc.facts import Entry
from cacheserver.query.package import Bundle, Channel, Package, check_size, order_of, version_of
from cacheserver.query.selection import WrongQuestionError, chosen, selected, some
from cacheserver.slotted import slotted

MOST_BYTES: Final = 64 << 20
"""Of a package's documents, as many as are served (ParseLimits.package_bytes)."""
MOST_LINE_BYTES: Final = 4 << 20
"""Of a document. The largest bundle of 7,831 real ones has 1.05 MB."""
MOST_CONTAINERS: Final = 20_000
"""Objects and lists in a document: reading them holds the interpreter, 20,000 for 10 ms. Real ones have 3,000."""

_PACKAGE, _CHANNEL, _BUNDLE, _DEPRECATIONS = "olm.package", "olm.channel", "olm.bundle", "olm.deprecations"


class ExportError(WrongQuestionError):
    """These documents cannot be exported so; the message says what does."""


@slotted(frozen=True)
class _Line:
    """A document of the catalog: what it is, and of a bundle or channel its name."""

    schema: str
    name: str


_UNNAMED: Final = {schema: _Line(schema, "") for schema in (_PACKAGE, _DEPRECATIONS, "")}
"""Of whatever has no name that counts: a package may have 200,000 of them."""


class Documents:
    """What the first look at the lines gathers. add() each of them, in order; then plan()."""

    def __init__(self) -> None:
        self._lines: list[_Line] = []
        self._package = self._default = ""
        self._channels: dict[str, dict[str, Entry]] = {}
        self._bundles: dict[str, Bundle] = {}
        self._entries = 0

    def add(self, lines: Iterable[bytes]) -> None:
        """Raises: ExportError, TooMuchError."""
        for line in lines:
            document = read(line)
            schema, name = str(document.get("schema")), str(document.get("name"))
            named = schema in (_CHANNEL, _BUNDLE)
            self._lines.append(_Line(schema, name) if named else _UNNAMED.get(schema, _UNNAMED[""]))
            if schema == _PACKAGE:
                self._package, self._default = name, str(document.get("defaultChannel"))
            elif schema == _CHANNEL:
                entries = [_entry(each) for each in document.get("entries") or ()]
                self._channels[name] = {entry.name: entry for entry in entries}
                self._entries += sum(1 + len(entry.skips) for entry in entries)
            elif schema == _BUNDLE:
                self._bundles[name] = _bundle(name, document)
            check_size(len(self._bundles), self._entries)

    def plan(self, channel: str, start: str) -> Plan:
        """What stays of them. channel: that alone; start: the lowest bundle, by name or version; empty: all.

        Raises: ExportError for what is not there, and where no default channel would be left.
        """
        ordered = sorted(self._bundles.values(), key=lambda each: (each.order, each.name), reverse=True)
        channels = {name: Channel(name, entries) for name, entries in sorted(self._channels.items())}
        package = Package(self._package, "FBC", {each.name: each for each in ordered}, channels, self._default)
        kept = selected(package, channel, chosen(package, channel, start))
        if self._default in kept:
            default = self._default
        elif len(kept) == 1:
            (default,) = kept
        else:
            raise ExportError(
                f"nothing of the default channel {self._default!r} is from {start!r} on, and a catalog needs one: name "
                f"a channel; from there on have {some(kept) or 'none'}"
            )
        return Plan(self._lines, kept, default if default != self._default else "")


class Plan:
    """What becomes of each line, for the second look at them, from the first to the last."""

    def __init__(self, lines: Sequence[_Line], kept: Mapping[str, AbstractSet[str]], default: str) -> None:
        """kept: channel -> entries. default: the new default channel; empty: as it was."""
        self._lines = lines
        self._kept = kept
        self._default = default
        self._bundles = {name for names in kept.values() for name in names}
        self._at = 0

    def written(self, lines: Iterable[bytes]) -> list[bytes]:
        """The next lines, as they are to be written: fewer, or others. Each ends with a line break."""
        found: list[bytes] = []
        for line in lines:
            planned, self._at = self._lines[self._at], self._at + 1
            written = self._written(planned, line)
            if written:
                found.append(written)
        return found

    def _written(self, planned: _Line, line: bytes) -> bytes:
        if planned.schema == _BUNDLE:
            return line if planned.name in self._bundles else b""
        if planned.schema == _CHANNEL:
            return self._channel(planned.name, line) if planned.name in self._kept else b""
        if planned.schema == _DEPRECATIONS:
            return self._deprecations(line)
        if planned.schema == _PACKAGE and self._default:
            return _dumped({**read(line), "defaultChannel": self._default})
        return line

    def _channel(self, name: str, line: bytes) -> bytes:
        document, names = read(line), self._kept[name]
        entries = [each for each in document["entries"] if each["name"] in names]
        return line if len(entries) == len(document["entries"]) else _dumped({**document, "entries": entries})

    def _deprecations(self, line: bytes) -> bytes:
        document = read(line)
        entries = [each for each in document["entries"] if self._is_there(each.get("reference") or {})]
        if len(entries) == len(document["entries"]):
            return line
        return _dumped({**document, "entries": entries}) if entries else b""

    def _is_there(self, reference: Any) -> bool:
        schema, name = reference.get("schema"), reference.get("name")
        if schema == _CHANNEL:
            return name in self._kept
        return name in self._bundles if schema == _BUNDLE else True


def read(line: bytes) -> dict[str, Any]:
    """A document. Raises: ExportError for one that takes too long to be read beside other requests."""
    found = line.count(b"{") + line.count(b"[")
    if found > MOST_CONTAINERS:
        raise ExportError(
            f"a document has {found} objects and lists, or as many brackets; at most {MOST_CONTAINERS} are exported: "
            "take it from its source"
        )
    document: dict[str, Any] = orjson.loads(line)
    return document


def _dumped(document: object) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def _entry(said: Any) -> Entry:
    return Entry(said["name"], said.get("replaces") or "", tuple(said.get("skips") or ()), said.get("skipRange") or "")


def _bundle(name: str, document: Any) -> Bundle:
    """declcfg: exactly one olm.package property, which has the version; rules.py refuses all else."""
    said: dict[str, str] = next((each["value"] for each in document["properties"] if each.get("type") == _PACKAGE), {})
    written = said.get("version") or ""
    version = version_of(written)
    return Bundle(name, version, order_of(version, said.get("release") or ""), written)
