"""The forms an object can be sent in, and how ready bytes become each of them: the object itself, its metadata alone,
a Table row; as a list item, as a whole answer, as a watch frame.

Pure functions over bytes; nothing here parses JSON. Called by render (lists) and watch (frames).
Forms: k8s.io/apiserver/pkg/endpoints/handlers/response.go.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from cacheserver.api.ages import age
from cacheserver.api.kinds.resource import Resource
from cacheserver.cache.snapshot import Entry
from cacheserver.cache.window import EventType
from cacheserver.slotted import slotted


class Shape(Enum):
    """What an object is sent as; the value is how a refusal names it."""

    OBJECT = "the object itself"
    METADATA = "PartialObjectMetadata"
    TABLE = "Table"


class Include(Enum):
    """What a Table row carries besides its cells."""

    NONE = "None"
    METADATA = "Metadata"
    OBJECT = "Object"


@slotted(frozen=True, eq=False)
class Form:
    """One of FORMS; compared by identity, so cheap as a key. kept: its list pieces are worth keeping in memory."""

    shape: Shape
    api_version: str = ""
    include: Include = Include.METADATA
    kept: bool = False


OBJECT = Form(Shape.OBJECT)
METADATA = {v: Form(Shape.METADATA, f"meta.k8s.io/{v}", kept=v == "v1") for v in ("v1", "v1beta1")}
TABLE = {
    (v, include): Form(Shape.TABLE, f"meta.k8s.io/{v}", include, kept=v == "v1" and include is Include.METADATA)
    for v in ("v1", "v1beta1")
    for include in Include
}


@slotted(frozen=True)
class Envelope:
    """Bytes around the items of a list: head, items joined by commas, tail."""

    head: bytes
    tail: bytes


ItemMaker = Callable[[Entry, int], tuple[bytes, int]]
"""(entry, now in whole seconds since the epoch) -> (bytes, how many seconds they stay true)."""

FOREVER = 1 << 40


def item_maker(resource: Resource, form: Form) -> ItemMaker:
    """Makes one list item (for a Table: one row) in the form."""
    if form.shape is Shape.OBJECT:
        return lambda entry, now: (entry.body, FOREVER)
    partial = f'{{"kind":"PartialObjectMetadata","apiVersion":"{form.api_version}","metadata":'.encode()
    if form.shape is Shape.METADATA:
        return lambda entry, now: (_partial(partial, entry), FOREVER)
    include = form.include
    born = resource.born

    def row(entry: Entry, now: int) -> tuple[bytes, int]:
        since = born(entry)
        text, true_for_s = age(now - since) if since else ("", FOREVER)
        if include is Include.NONE:
            rest = b'],"object":null}'
        elif include is Include.OBJECT:
            rest = b'],"object":%b}' % entry.body
        else:
            rest = b'],"object":%b}' % _partial(partial, entry)
        return b"".join((b'{"cells":[', entry.cells[0], text.encode(), entry.cells[1], rest)), true_for_s

    return row


def _partial(head: bytes, entry: Entry) -> bytes:
    return b"%b%b}}" % (head, entry.metadata)


def list_envelope(
    resource: Resource, form: Form, resource_version: int, continue_token: str, remaining: int | None
) -> Envelope:
    """What stands around a list's items."""
    metadata = f'{{"resourceVersion":"{resource_version}"'
    if continue_token:
        metadata += f',"continue":"{continue_token}"'
        if remaining:
            metadata += f',"remainingItemCount":{remaining}'
    metadata += "}"
    if form.shape is Shape.TABLE:
        return _table(form, metadata.encode(), resource.column_definitions)
    if form.shape is Shape.METADATA:
        kind, api_version = "PartialObjectMetadataList", form.api_version
    else:
        kind, api_version = resource.list_kind, resource.api_version
    head = f'{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{metadata},"items":['
    return Envelope(head.encode(), b"]}\n")


def _table(form: Form, metadata: bytes, columns: bytes) -> Envelope:
    head = b'{"kind":"Table","apiVersion":"%b","metadata":%b,"columnDefinitions":%b,"rows":[' % (
        form.api_version.encode(),
        metadata,
        columns,
    )
    return Envelope(head, b"]}\n")


def one(resource: Resource, form: Form, entry: Entry, now: int) -> bytes:
    """The answer to a get, newline included."""
    if form is OBJECT:
        return entry.body + b"\n"
    item, _ = item_maker(resource, form)(entry, now)
    if form.shape is not Shape.TABLE:
        return item + b"\n"
    envelope = _table(form, b'{"resourceVersion":"%d"}' % entry.resource_version, resource.column_definitions)
    return b"".join((envelope.head, item, envelope.tail))


_FRAME_HEADS = {type_.value: b'{"type":"%b","object":' % type_.value.encode() for type_ in EventType}


class Framer:
    """Makes the lines of one kind of watch: `{"type":...,"object":...}` and a newline."""

    def __init__(self, resource: Resource, form: Form) -> None:
        self._resource = resource
        self.form = form
        self._make = item_maker(resource, form)
        self.has_columns = form.shape is Shape.TABLE

    def frame(self, type_: str, entry: Entry, now: int, *, columns: bool = False) -> bytes:
        """columns: a Table's column definitions go in; k8s: with the first event of a stream only."""
        item, _ = self._make(entry, now)
        if self.has_columns:
            item = self._one_row(item, entry.resource_version, columns=columns)
        return b"".join((_FRAME_HEADS[type_], item, b"}\n"))

    def bookmark(self, resource_version: int, *, ends_initial: bool, columns: bool = False) -> bytes:
        """Everything up to resource_version was sent. ends_initial: annotated as the end of the initial events."""
        metadata = b'{"resourceVersion":"%d"' % resource_version
        if ends_initial:
            metadata += b',"annotations":{"k8s.io/initial-events-end":"true"}'
        metadata += b"}"
        resource, form = self._resource, self.form
        kind, api_version = resource.kind, resource.api_version
        if form.shape is not Shape.OBJECT:
            kind, api_version = "PartialObjectMetadata", form.api_version
        item = f'{{"kind":"{kind}","apiVersion":"{api_version}","metadata":'.encode() + metadata + b"}"
        if self.has_columns:
            cells = b",".join([b'""'] * len(resource.columns))
            item = self._one_row(b'{"cells":[%b],"object":%b}' % (cells, item), resource_version, columns=columns)
        return b'{"type":"BOOKMARK","object":%b}\n' % item

    def _one_row(self, row: bytes, resource_version: int, *, columns: bool) -> bytes:
        definitions = self._resource.column_definitions if columns else b"null"
        envelope = _table(self.form, b'{"resourceVersion":"%d"}' % resource_version, definitions)
        return b"".join((envelope.head, row, envelope.tail[:-1]))


def error_frame(status: bytes) -> bytes:
    """The watch event that ends a watch. status: a Status object as JSON."""
    return b'{"type":"ERROR","object":%b}\n' % status
