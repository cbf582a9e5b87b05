"""Changes to YAML that leave everything else as its author wrote it: fields of a Kptfile, and kpt's merge comments.

By libyaml's events, which say where in the text each field stands; nothing here recurses, so no nesting hurts. What
cannot be changed in the text (flow style, JSON, odd forms) is written anew. Pure; may take a second for a megabyte, so
to be called in a thread. Called by begin and author.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any, Final

import yaml
from yaml._yaml import CParser
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from cacheserver.catalogs.documents import goyaml
from cacheserver.catalogs.documents.document import DocumentError
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.slotted import slotted

_LIMITS: Final = ParseLimits(document_bytes=1 << 20)
_DEPTH: Final = 3  # of fields that are looked at

Path = tuple[str, ...]


@slotted()
class _Field:
    """A key of a mapping. line, column: of the key; end: of the value as (line, column). scalar: None for others.

    block: its value is a mapping in block style. All counted from 0.
    """

    key: str
    line: int
    column: int
    scalar: str | None = None
    begin: tuple[int, int] = (0, 0)
    end: tuple[int, int] = (0, 0)
    block: bool = False
    fields: list[_Field] = field(default_factory=list)

    def child(self, key: str) -> _Field | None:
        return next((each for each in self.fields if each.key == key), None)


@slotted()
class _Frame:
    """A mapping or sequence that is being read. owner: None below the depth that is looked at, and for sequences."""

    owner: _Field | None
    is_mapping: bool
    of: _Field | None = None
    key_next: bool = True


def set_fields(raw: bytes, fields: Mapping[Path, Any]) -> bytes:
    """The document with each field at its path set (None: taken out), all else as it stands.

    Raises: DocumentError where it is none that can be read, or no mapping.
    """
    wanted = _loaded(raw)
    for path, value in fields.items():
        _set(wanted, path, value)
    text = raw
    try:
        for path, value in fields.items():
            text = _edited(text, path, value)
        if _loaded(text) == wanted:
            return text
    except (DocumentError, _OddError, yaml.YAMLError):
        pass
    return written(wanted)


def written(value: Mapping[str, Any]) -> bytes:
    """As YAML, keys in their order."""
    out: bytes = yaml.dump(value, Dumper=yaml.CSafeDumper, encoding="utf-8", allow_unicode=True, sort_keys=False)
    return out


def loaded(raw: bytes) -> dict[str, Any]:
    """Raises: DocumentError where it is none that can be read, or no mapping."""
    return _loaded(raw)


def _loaded(raw: bytes) -> dict[str, Any]:
    if len(raw) > _LIMITS.document_bytes:
        raise DocumentError("TooLarge", f"{len(raw)} bytes; the limit for one that is changed is 1 MiB")
    value: Any = goyaml.load(raw, _LIMITS).value
    if not isinstance(value, dict):
        raise DocumentError("NotAKptfile", "a Kptfile must be an object")
    return value


def _set(document: dict[str, Any], path: Path, value: Any) -> None:
    *steps, last = path
    for step in steps:
        if not isinstance(document.get(step), dict):
            if value is None:
                return
            document[step] = {}
        document = document[step]
    if value is None:
        document.pop(last, None)
    else:
        document[last] = value


class _OddError(Exception):
    """The text is of a form that is not changed in place."""


def _edited(raw: bytes, path: Path, value: Any) -> bytes:
    """Raises: _OddError, YAMLError."""
    documents = list(_documents(raw))
    if len(documents) != 1 or not documents[0].block:
        raise _OddError
    lines = raw.decode().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return "".join(_replaced(lines, documents[0], path, value)).encode()


def _replaced(lines: list[str], root: _Field, path: Path, value: Any) -> list[str]:
    owner, depth = root, 0
    while depth < len(path) - 1:
        inner = owner.child(path[depth])
        if inner is None:
            break
        if not inner.block:
            raise _OddError
        owner, depth = inner, depth + 1
    indent = owner.fields[0].column if owner.fields else 0
    known = owner.child(path[-1]) if depth == len(path) - 1 else None
    if value is None:
        return lines if known is None else lines[: known.line] + lines[_after(lines, known) :]
    for step in reversed(path[depth:]):
        value = {step: value}
    block = [f"{' ' * indent}{line}\n" for line in written(value).decode().splitlines()]
    if known is not None:
        return lines[: known.line] + block + lines[_after(lines, known) :]
    at = _after(lines, _last_before(owner, path[depth]))
    return lines[:at] + block + lines[at:]


_ORDER: Final = (
    "apiVersion",
    "kind",
    "metadata",
    "upstream",
    "upstreamLock",
    "info",
    "pipeline",
    "inventory",
    "status",
)
"""kpt, pkg/api/kptfile/v1/types.go: KptFile."""


def _last_before(owner: _Field, key: str) -> _Field:
    """Behind which field of a mapping a new one goes."""
    if key in _ORDER:
        earlier = _ORDER[: _ORDER.index(key)]
        before = [each for each in owner.fields if each.key in earlier]
        if before:
            return before[-1]
    return owner.fields[-1]


def _after(lines: list[str], known: _Field) -> int:
    """The line behind a field: comments and blanks before what follows belong to that."""
    line, column = known.end
    at = line if column == 0 else line + 1
    while at > known.line + 1 and (not lines[at - 1].strip() or lines[at - 1].lstrip().startswith("#")):
        at -= 1
    # A value in block style ends where the next token begins, which may be in the middle of that line.
    while (
        at > known.line + 1
        and at - 1 > known.begin[0]
        and _indent(lines[at - 1]) <= known.column
        and (not lines[at - 1].lstrip().startswith("- "))
    ):
        at -= 1
    return at


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _documents(raw: bytes) -> Iterator[_Field]:
    """The top of each document, with its fields. Raises: YAMLError."""
    parser: Any = CParser(raw)
    stack: list[_Frame] = []
    root: _Field | None = None
    while (event := parser.get_event()) is not None:
        kind = event.__class__
        if kind is DocumentStartEvent:
            root = None
        elif kind in (MappingEndEvent, SequenceEndEvent):
            frame = stack.pop()
            if frame.owner is not None:
                frame.owner.end = (event.end_mark.line, event.end_mark.column)
            if not stack and root is not None:
                yield root
        elif kind in (ScalarEvent, AliasEvent, MappingStartEvent, SequenceStartEvent):
            root = _take(event, stack, root)


def _take(event: Any, stack: list[_Frame], root: _Field | None) -> _Field | None:
    """A node's beginning; the document's top."""
    start, end = event.start_mark, event.end_mark
    kind = event.__class__
    opens = kind in (MappingStartEvent, SequenceStartEvent)
    here: _Field | None = None
    if not stack:
        here = root = _Field("", start.line, start.column)
    else:
        top = stack[-1]
        if top.is_mapping and top.key_next:
            top.key_next = False
            if kind is ScalarEvent and top.owner is not None and len(stack) <= _DEPTH:
                top.of = _Field(event.value, start.line, start.column)
                top.owner.fields.append(top.of)
        elif top.is_mapping:
            top.key_next = True
            here, top.of = top.of, None
    if here is not None:
        here.begin, here.end = (start.line, start.column), (end.line, end.column)
        here.scalar = event.value if kind is ScalarEvent else None
        here.block = kind is MappingStartEvent and not event.flow_style
    if opens:
        stack.append(_Frame(here, kind is MappingStartEvent))
    return root


def documents(raw: bytes) -> list[dict[str, Any]]:
    """apiVersion, kind, name and namespace of each document that is a mapping; what is no text stays out."""
    return [_identity(top) for top in _documents(raw)]


def _identity(top: _Field) -> dict[str, Any]:
    metadata = top.child("metadata")
    found = {key: each.scalar for key in ("apiVersion", "kind") if (each := top.child(key)) is not None}
    if metadata is not None:
        for key in ("name", "namespace"):
            if (inner := metadata.child(key)) is not None:
                found[key] = inner.scalar
    return {key: text for key, text in found.items() if text}


def with_merge_comments(raw: bytes) -> bytes:
    """Each resource's `metadata:` with the comment by which kpt finds it again after it was renamed.

    kpt, internal/util/addmergecomment. Ours: one that has another comment there, or flow style, stays as it is.
    Raises: YAMLError.
    """
    lines = raw.decode().splitlines(keepends=True)
    changed = False
    for top in _documents(raw):
        about = _identity(top)
        metadata = top.child("metadata")
        if metadata is None or not metadata.block or not {"apiVersion", "kind", "name"} <= about.keys():
            continue
        line = lines[metadata.line]
        bare = line.rstrip("\r\n")
        if bare.strip() == "metadata:":
            comment = f" # kpt-merge: {about.get('namespace', '')}/{about['name']}"
            lines[metadata.line] = bare.rstrip() + comment + line[len(bare) :]
            changed = True
    return "".join(lines).encode() if changed else raw
