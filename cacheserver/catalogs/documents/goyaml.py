"""YAML to JSON values by Go's rules, built on libyaml's events; knows nothing of catalogs.

PyYAML's own loaders compose nodes, which recurses in C (40,000 `[` end the process) and costs twice the time.
Here the recursion is ours and ends at the depth limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any, Final

from yaml import YAMLError
from yaml._yaml import CParser
from yaml.error import MarkedYAMLError
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    StreamEndEvent,
)
from yaml.reader import ReaderError

from cacheserver.catalogs.documents import gorules
from cacheserver.catalogs.documents.document import JSON, DocumentError, Object
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.slotted import slotted

_CORE: Final = "tag:yaml.org,2002:"
_MOST_TAG_DIRECTIVES: Final = 256
"""Ours: libyaml compares each %TAG with all before it, so 80,000 of them (1 MB) take 22 s. Catalogs hold none."""


class NotAloneError(Exception):
    """A piece of a document that has to be read with what is around it. Never leaves repeated.py."""


class Nothing:
    """What a document of blanks and comments holds."""


@slotted()
class Loaded:
    """One document's value, and the duplicate keys met on the way as (key, 1-based line)."""

    value: JSON | Nothing
    duplicates: list[tuple[str, int]] = field(default_factory=list)


def load(raw: bytes, limits: ParseLimits) -> Loaded:
    """The one document in `raw`. Duplicate keys: the last one wins, as in go-yaml v2.

    Raises: DocumentError, with a line where there is one.
    """
    if raw.count(b"%TAG") > _MOST_TAG_DIRECTIVES:
        raise DocumentError("TooManyDirectives", f"more than {_MOST_TAG_DIRECTIVES} %TAG directives")
    try:
        return _Builder(raw, limits).build()
    except MarkedYAMLError as exc:
        raise _syntax(raw, exc) from exc
    except ReaderError as exc:
        at = exc.position if isinstance(exc.position, int) else 0
        reason = "InvalidUTF8" if "UTF-8" in str(exc.reason) else "YAMLSyntax"
        raise DocumentError(reason, str(exc.reason), line=raw.count(b"\n", 0, at) + 1) from exc
    except YAMLError as exc:
        raise DocumentError("YAMLSyntax", str(exc)) from exc


def load_piece(raw: bytes, limits: ParseLimits, depth: int) -> tuple[JSON, int]:
    """The value of a document that stands so deep in another one, and how many mappings and lists it has.

    Raises: NotAloneError.
    """
    try:
        return _Builder(raw, limits).build_piece(depth)
    except (YAMLError, DocumentError) as exc:
        raise NotAloneError("it is no document") from exc


_BEGINS_WHERE_IT_IS_WRONG: Final = ("while scanning a quoted scalar", "while scanning a simple key")
"""libyaml's scanner.c: what it was at. It notices at the next line, or at the end of the document."""


def _syntax(raw: bytes, exc: MarkedYAMLError) -> DocumentError:
    """The error at the line that is to be mended: an open quote is closed by the next one, lines or documents later."""
    marks: list[Any] = [exc.problem_mark, exc.context_mark]
    if exc.context in _BEGINS_WHERE_IT_IS_WRONG:
        marks.reverse()
    mark: Any = next(filter(None, marks), None)
    message = ", ".join(filter(None, (exc.context, exc.problem)))
    if mark is None:
        return DocumentError("YAMLSyntax", message)
    begun, ended = _last_quoted(raw)
    if begun < ended == mark.line:
        message = f"is a quote not closed? The text in quotes that begins here ends in line {ended + 1}: {message}"
        return DocumentError("YAMLSyntax", message, line=begun + 1)
    return DocumentError("YAMLSyntax", message, line=mark.line + 1)


def _last_quoted(raw: bytes) -> tuple[int, int]:
    """First and last line (from 0) of the last scalar in quotes before the error; (0, 0) without one."""
    parser, found = CParser(raw), (0, 0)
    try:
        while parser.check_event():
            event: Any = parser.get_event()
            if event.__class__ is ScalarEvent and event.style in ("'", '"'):
                found = _line(event) - 1, _last_line(event) - 1
    except YAMLError:
        pass
    return found


class _Builder:
    """Builds one document. Events are typed Any: the stubs know no attributes of them, and this loop is hot."""

    def __init__(self, raw: bytes, limits: ParseLimits) -> None:
        self._next: Callable[[], Any] = CParser(raw).get_event
        self._limits = limits
        self._anchors: dict[str, JSON] = {}
        self._weights: dict[int, int] = {}
        self._weighed: list[JSON] = []  # kept alive: another value at the same address would pass for one of them
        self._repeated = 0
        self._containers = 0
        self._duplicates: list[tuple[str, int]] = []

    def build(self) -> Loaded:
        self._next()  # the stream's start
        if self._next().__class__ is StreamEndEvent:
            return Loaded(Nothing())
        event = self._next()
        value: JSON | Nothing = self._value(event, 0)
        if event.__class__ is ScalarEvent and event.implicit[0] and not event.value:
            value = Nothing()  # comments only, between separators
        if self._next().__class__ is not DocumentEndEvent or self._next().__class__ is not StreamEndEvent:
            raise DocumentError("YAMLSyntax", "more than one document without a --- line between them")
        return Loaded(value, self._duplicates)

    def build_piece(self, depth: int) -> tuple[JSON, int]:
        """As load_piece."""
        self._next()
        self._next()
        value = self._value(self._next(), depth)
        ended = self._next()
        alone = ended.__class__ is DocumentEndEvent and not ended.explicit and self._next().__class__ is StreamEndEvent
        if not alone or self._anchors or self._duplicates:
            raise NotAloneError("it ends, names or repeats something")
        return value, self._containers

    def _value(self, event: Any, depth: int) -> JSON:
        kind = event.__class__
        if kind is ScalarEvent:
            return self._scalar(event)
        if kind is AliasEvent:
            return self._alias(event)
        if depth >= self._limits.depth:
            raise _refused("TooDeep", f"nested deeper than {self._limits.depth} levels", event)
        self._containers += 1
        if self._containers > self._limits.containers:
            raise _refused("TooManyNodes", f"more than {self._limits.containers} mappings and lists", event)
        into: JSON = self._mapping(depth + 1) if kind is MappingStartEvent else self._sequence(depth + 1)
        if event.anchor is not None:
            self._remember(event.anchor, into)
        return into

    def _mapping(self, depth: int) -> Object:
        """Hot, as _sequence: what an untagged scalar needs is done in line, everything else in the methods below."""
        following, words, numeric = self._next, gorules.WORDS, gorules.NUMERIC
        into: Object = {}
        while True:
            event = following()
            if event.__class__ is not ScalarEvent:
                if event.__class__ is MappingEndEvent:
                    return into
                raise _refused("UnsupportedKey", "a mapping key is not a scalar", event)
            key = event.value
            if event.implicit[0] and (key in words or key[0] in numeric or key == "<<"):
                if key == "<<":
                    self._merge(into, self._value(following(), depth), event)
                    continue
                key = _key(event)
            if event.anchor is not None:
                self._remember(event.anchor, key)
            if key in into:
                self._duplicates.append((key, _line(event)))
            event = following()
            if event.__class__ is ScalarEvent and event.anchor is None:
                text: str = event.value
                plain, quoted = event.implicit
                if plain:
                    into[key] = words[text] if text in words else text if text[0] not in numeric else _number(event)
                else:
                    into[key] = text if quoted else _tagged(event)
            else:
                into[key] = self._value(event, depth)

    def _sequence(self, depth: int) -> list[JSON]:
        following, words, numeric = self._next, gorules.WORDS, gorules.NUMERIC
        into: list[JSON] = []
        while True:
            event = following()
            if event.__class__ is ScalarEvent and event.anchor is None and event.implicit[0]:
                text: str = event.value
                into.append(words[text] if text in words else text if text[0] not in numeric else _number(event))
            elif event.__class__ is SequenceEndEvent:
                return into
            else:
                into.append(self._value(event, depth))

    def _scalar(self, event: Any) -> JSON:
        plain, quoted = event.implicit
        value: JSON = event.value
        if plain:
            value = _number(event)
        elif not quoted:
            value = _tagged(event)
        if event.anchor is not None:
            self._remember(event.anchor, value)
        return value

    def _remember(self, anchor: str, value: JSON) -> None:
        """Only once complete, so an alias inside its own anchor is an unknown one: no cycles."""
        self._anchors[anchor] = value
        if isinstance(value, dict | list):
            self._weights[id(value)] = self._weigh(value)
            self._weighed.append(value)

    def _alias(self, event: Any) -> JSON:
        if event.anchor not in self._anchors:
            raise _refused("YAMLSyntax", f"alias {event.anchor} without an anchor that ended before it", event)
        value = self._anchors[event.anchor]
        self._repeated += self._weigh(value)
        if self._repeated > self._limits.alias_bytes:
            cap = self._limits.alias_bytes
            raise _refused("AliasExpansion", f"excessive aliasing: aliases repeat more than {cap} bytes", event)
        return value

    def _weigh(self, value: JSON) -> int:
        """Bytes that writing `value` once more costs, roughly. Anchored parts are weighed once: linear over all."""
        weight, waiting = 0, [value]
        while waiting:
            part = waiting.pop()
            if id(part) in self._weights and isinstance(part, dict | list):
                weight += self._weights[id(part)]
            elif isinstance(part, dict):
                weight += sum(map(len, part)) + 4 * len(part) + 2
                waiting.extend(part.values())
            elif isinstance(part, list):
                weight += 2
                waiting.extend(part)
            else:
                weight += 2 + (len(part) if isinstance(part, str) else 8)
        return weight

    def _merge(self, into: Object, value: JSON, event: Any) -> None:
        """`<<`: keys written in the mapping itself win (YAML 1.1 merge key; go-yaml v2 decode.go)."""
        for source in value if isinstance(value, list) else [value]:
            if not isinstance(source, dict):
                raise _refused("YAMLSyntax", "<< needs a mapping or a list of mappings", event)
            for key, merged in source.items():
                into.setdefault(key, merged)


def _key(event: Any) -> str:
    try:
        return gorules.key(event.value)
    except DocumentError as exc:
        raise _refused(exc.reason, str(exc), event) from None


def _number(event: Any) -> JSON:
    """A plain scalar that may be a number."""
    try:
        return gorules.plain(event.value)
    except DocumentError as exc:
        raise _refused(exc.reason, str(exc), event) from None


def _tagged(event: Any) -> JSON:
    """A scalar with an explicit tag. Tags outside the core schema mean nothing to JSON: the text stays a string."""
    tag, scalar = str(event.tag), event.value
    if not tag.startswith(_CORE):
        return str(scalar)
    name = tag.removeprefix(_CORE)
    if name not in {"null", "bool", "int", "float"}:
        return str(scalar)  # str, timestamp, and binary, which stays base64
    value = _number(event)
    fits = {
        "null": value is None,
        "bool": isinstance(value, bool),
        "int": not isinstance(value, str | bool | None),
        "float": not isinstance(value, str | bool | None),
    }
    if not fits[name]:
        raise _refused("YAMLSyntax", f"cannot read {scalar!r} as !!{name}", event)
    return value


def _refused(reason: str, message: str, event: Any) -> DocumentError:
    return DocumentError(reason, message, line=_line(event))


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _last_line(event: Any) -> int:
    return int(event.end_mark.line) + 1
