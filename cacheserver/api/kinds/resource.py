"""What a served kind declares of itself: names, verbs, columns, selectable fields, and a schema of every field.

Everything that speaks of kinds in general (discovery, OpenAPI, tables, projections, docs) reads these declarations.
"""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from cacheserver.cache.compact import Alike, sharing_keys
from cacheserver.cache.snapshot import Cells, CellsOf, Entry, Run
from cacheserver.cache.view import Completed
from cacheserver.cache.watchcache import Projection
from cacheserver.model import VERSION, Kind
from cacheserver.slotted import slotted

if TYPE_CHECKING:
    from aiohttp.web_request import BaseRequest

    from cacheserver.api.attributes import Query
    from cacheserver.api.content import Blobs
    from cacheserver.api.http.budget import Share
    from cacheserver.api.http.negotiate import Encoding
    from cacheserver.api.http.reply import Reply, Stream
    from cacheserver.api.render import Listing
    from cacheserver.api.selectors import Selection
    from cacheserver.cache.window import Selector

Manifest = Mapping[str, Any]
"""A decoded served object."""


class Type(StrEnum):
    """JSON types of a field; the plural ones are arrays."""

    STRING = "string"
    TIME = "RFC 3339 time in UTC"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    OBJECT = "object"
    STRINGS = "array of string"
    OBJECTS = "array of object"
    MAP = "object of string values"


@slotted(frozen=True)
class Field:
    """One field. fields: of OBJECT and OBJECTS. enum: the only values of a string, or of those in a list."""

    name: str
    type: Type
    description: str
    fields: tuple[Field, ...] = ()
    enum: tuple[str, ...] = ()
    required: bool = False


def text(name: str, description: str, *, enum: tuple[str, ...] = (), required: bool = False) -> Field:
    """A string. enum: all values that it may have, where they are known; required: it is never missing."""
    return Field(name, Type.STRING, description, enum=enum, required=required)


def time(name: str, description: str) -> Field:
    """A moment, written as RFC 3339 in UTC."""
    return Field(name, Type.TIME, description)


def number(name: str, description: str) -> Field:
    """A whole number."""
    return Field(name, Type.INTEGER, description)


def flag(name: str, description: str) -> Field:
    """true or false."""
    return Field(name, Type.BOOLEAN, description)


def texts(name: str, description: str, *, enum: tuple[str, ...] = ()) -> Field:
    """A list of strings. enum: as text."""
    return Field(name, Type.STRINGS, description, enum=enum)


def text_map(name: str, description: str) -> Field:
    """An object whose values are strings."""
    return Field(name, Type.MAP, description)


def record(name: str, description: str, *fields: Field) -> Field:
    """An object with these fields."""
    return Field(name, Type.OBJECT, description, fields)


def records(name: str, description: str, *fields: Field) -> Field:
    """A list of objects with these fields."""
    return Field(name, Type.OBJECTS, description, fields)


@slotted(frozen=True)
class Column:
    """A Table column. wide: only with `-o wide`. value: the cell; None marks the one age column (see Resource.born)."""

    name: str
    description: str
    value: Callable[[Manifest], str | int | bool] | None
    type: str = "string"
    wide: bool = False
    format: str = ""


@slotted(frozen=True)
class Subresource:
    """A part of an object. whole: it is the object itself, for those with other rights.

    parameters: (name, description) of what its get is asked with.
    """

    name: str
    description: str
    media_types: tuple[str, ...]
    verbs: tuple[str, ...] = ("get",)
    whole: bool = False
    parameters: tuple[tuple[str, str], ...] = ()


def name_column() -> Column:
    """The column that kubectl shows first, of every kind."""
    return Column("Name", "Name of the object, unique in its namespace.", _name, format="name")


def _name(manifest: Manifest) -> str:
    return str(manifest["metadata"]["name"])


def created(entry: Entry) -> int:
    """An object's creationTimestamp, in seconds since the epoch."""
    return entry.created


@slotted(frozen=True, eq=False)
class Projected:
    """How the objects of a view are made of stored ones: one of each, with its name, version, labels and fields.

    make: from a stored object alone, for metadata and cells; None: it is not shown (cache/view.py: View).
    complete: whole objects, as a list has them. get: the answer to a get of one, which may hold more; it raises as
    Verbs.answer does.
    """

    make: Callable[[Entry], Entry | None]
    complete: Callable[[Blobs, Sequence[Entry]], Awaitable[Completed]]
    get: Callable[[Asking, Entry], Awaitable[Reply | Stream]]


class Gathered(Protocol):
    """A view whose objects have names and labels of their own, and of which those of one namespace may be shown in the
    others as well. namespace: that of the request, empty for all of them."""

    def behind(self, namespace: str) -> str:
        """The namespace whose objects follow those of `namespace`; empty for none."""
        ...

    def selector(self, namespace: str, selection: Selection, *, watching: bool = False) -> Selector:
        """What matches stored objects as `selection` matches what is shown of them, and nothing that is not shown.

        watching: by what is stored alone, of which there is an event when it changes.
        """
        ...

    def named(self, name: str, query: Query) -> Selection:
        """Of the objects of this name, of which there can be several, those that a request for one of them means."""
        ...

    def shown(self, namespace: str) -> Projected:
        """How the objects are made as they are shown there."""
        ...

    def weigh(self, entry: Entry) -> int:
        """Bytes of the whole object that is made of a stored one, about."""
        ...

    async def runs(self, namespace: str, runs: Sequence[Run]) -> Sequence[Run]:
        """Runs of this view for runs of stored objects, for metadata and cells."""
        ...

    async def send(self, asking: Asking, listing: Listing) -> Stream:
        """A list of whole objects, made while it is sent. listing: of runs of stored objects. Raises: StatusError 429,
        EtcdError."""
        ...

    async def icon(self, asking: Asking, entry: Entry) -> Reply:
        """The icon subresource of a stored object. Raises: StatusError 429; BlobMissingError, EtcdError."""
        ...


@slotted(frozen=True)
class Asking:
    """A request for what a view shows, and what the answer is made with. extra: header lines."""

    request: BaseRequest
    blobs: Blobs
    share: Share
    encoding: Encoding
    pretty: bool
    extra: bytes


@dataclass(frozen=True, eq=False)
class Resource:
    """One row: all that is particular to one served kind.

    source: the stored kind that it is served from. view: how its objects are made of those; None: they are those.
    gathered: set for a view whose objects are named and selected otherwise; `view` is of all namespaces then.
    selectable: field paths for fieldSelector. several: of those, what has several values, each of which finds it; the
    fields of the status (of a kind without one, of the spec) that they are made of, none for all of it, and how, from
    the manifest (cache/several.py). hidden: further paths that `born` needs.
    status: None: it has none.
    virtual: nothing of it is kept; it is created to be answered.
    instead: what whoever tries to write one is told to do.
    born: when the age column's age began, in seconds since the epoch; 0 for never.
    """

    kind: str
    plural: str
    short_names: tuple[str, ...]
    group: str
    description: str
    verbs: tuple[str, ...]
    source: Kind
    columns: tuple[Column, ...]
    selectable: tuple[str, ...]
    spec: Field
    status: Field | None
    subresources: tuple[Subresource, ...] = ()
    view: Projected | None = None
    gathered: Gathered | None = None
    instead: str = "it is read from its source: change it there"
    hidden: tuple[str, ...] = ()
    several: tuple[tuple[str, tuple[str, ...], Callable[[Manifest], str]], ...] = ()
    born: Callable[[Entry], int] = created
    virtual: bool = False
    version: str = VERSION
    categories: tuple[str, ...] = field(default=("catalog",))
    namespaced: bool = True

    @cached_property
    def api_version(self) -> str:
        """As objects have it: `GROUP/VERSION`."""
        return f"{self.group}/{self.version}"

    @cached_property
    def full_name(self) -> str:
        """`PLURAL.GROUP`: another system's kind may have the plural of one of ours."""
        return f"{self.plural}.{self.group}"

    @cached_property
    def singular(self) -> str:
        """As discovery has it: the kind in lower case."""
        return self.kind.lower()

    @cached_property
    def list_kind(self) -> str:
        """The kind of its lists."""
        return f"{self.kind}List"

    @cached_property
    def all_selectable(self) -> tuple[str, ...]:
        """Paths that a field selector may name: those of every kind, then its own."""
        return ("metadata.name", "metadata.namespace", *self.selectable)

    @cached_property
    def column_definitions(self) -> bytes:
        """A Table's columnDefinitions as JSON."""
        return orjson.dumps(
            [
                {
                    "name": column.name,
                    "type": column.type,
                    "format": column.format,
                    "description": column.description,
                    "priority": 1 if column.wide else 0,
                }
                for column in self.columns
            ]
        )

    def verbs_of(self, subresource: str) -> tuple[str, ...]:
        """Of the kind, or of one of its subresources; none where there is no such."""
        if not subresource:
            return self.verbs
        found = self.subresource(subresource)
        return found.verbs if found is not None else ()

    def subresource(self, name: str) -> Subresource | None:
        """Its subresource of that name; None where there is none."""
        return next((sub for sub in self.subresources if sub.name == name), None)

    @cached_property
    def projection(self) -> Projection:
        """For the watch cache, which asks of every object at the start."""
        own = {path for path, _, _ in self.several}
        parts: dict[str, list[str]] = {}  # of the object: all that is wanted of one is picked at once
        deep: list[tuple[str, list[str]]] = []
        for path in (*self.all_selectable, *self.hidden):
            part, *steps = path.split(".")
            if len(steps) == 1 and path not in own:
                parts.setdefault(part, []).append(steps[0])
            elif path not in own:
                deep.append((path, [part, *steps]))
        shallow = [
            # The first one twice, for a picker of one does not give a tuple.
            (part, steps, [f"{part}.{step}" for step in steps], operator.itemgetter(*steps, steps[0]))
            for part, steps in parts.items()
        ]
        cells, empty = self.cells, sharing_keys()
        # Versions of a package come one after the other, and nearly always have the same kinds and channels: comparing
        # them takes 1 us, and making a field of ten kinds 30.
        last: dict[str, tuple[object, str]] = {}
        alike = Alike()

        def project(manifest: Manifest, texts: Mapping[str, str]) -> tuple[dict[str, str], CellsOf]:
            fields = empty()
            for part, steps, paths, pick in shallow:
                try:
                    found: Sequence[str] = pick(manifest[part])
                    "".join(found)  # whether they are texts, in 0.1 us
                except (KeyError, TypeError):
                    found = [look(manifest, part, step) for step in steps]
                for path, text in zip(paths, found, strict=False):
                    fields[path] = texts.get(text) or alike.one(text)
            for path, way in deep:
                fields[path] = look(manifest, *way)
            said = manifest.get("status") or manifest.get("spec") or {}
            for path, names, values in self.several:
                source = [said.get(name) for name in names] or said
                known = last.get(path)
                if known is None or known[0] != source:
                    known = last[path] = (source, values(manifest))
                fields[path] = known[1]
            return fields, cells

        return project

    @cached_property
    def cells(self) -> CellsOf:
        """From a manifest the cells of its Table row."""
        age_at = next(i for i, column in enumerate(self.columns) if column.value is None)
        before = [column.value for column in self.columns[:age_at] if column.value]
        after = [column.value for column in self.columns[age_at + 1 :] if column.value]

        def make(manifest: Manifest) -> Cells:
            # Of all at once, less the brackets: half the time of one by one.
            head = orjson.dumps([value(manifest) for value in before])[1:-1] + (b',"' if before else b'"')
            tail = (b'",' if after else b'"') + orjson.dumps([value(manifest) for value in after])[1:-1]
            return head, tail

        return make


def look(manifest: Manifest, *path: str) -> str:
    """The string at a path; empty when there is none."""
    found: Any = manifest
    for step in path:
        if not isinstance(found, dict):
            return ""
        found = found.get(step)
    if type(found) is str:
        return found
    return "" if found is None else str(found)


def look_number(manifest: Manifest, *path: str) -> int:
    """The number at a path, or how many there are if it is a list; 0 when there is none."""
    *steps, last = path
    parent: Any = manifest
    for step in steps:
        parent = parent.get(step) if isinstance(parent, dict) else None
    found = parent.get(last) if isinstance(parent, dict) else None
    if isinstance(found, Sequence) and not isinstance(found, str):
        return len(found)
    return found if isinstance(found, int) else 0


def seconds_of(timestamp: str) -> int:
    """RFC 3339 in UTC to seconds since the epoch; 0 for what is not a time."""
    try:
        return int(datetime.strptime(timestamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())
    except ValueError:
        return 0
