"""A package's documents into all that operator-registry answers about it (pkg/cache, pkg/api/model_to_api.go). Pure.

Runs in a worker, on documents that were good when they were read (fbc/rules.py). What the reference refuses and we
serve elsewhere (two olm.csv.metadata, a CSV of other types) is refused here, the package with it, by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import orjson
import zstandard

from cacheserver.catalogs.documents import gorules
from cacheserver.catalogs.documents.document import (
    JSON,
    DocumentError,
    Object,
    ShapeError,
    as_object,
    child,
    children,
    field,
    text,
    texts,
)
from cacheserver.catalogs.fbc import facts as f
from cacheserver.catalogs.fbc.registry import csv
from cacheserver.catalogs.fbc.registry.protobuf import message, string
from cacheserver.catalogs.fbc.registry.wire import (
    Channel,
    Packed,
    Place,
    Refused,
    Stored,
    decode_job,
    encode_packed,
)
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.slotted import slotted

LISTED_BYTES: Final = (4 << 20) - (64 << 10)
"""Of a message of ListBundles. Clients in Go refuse those over 4 MiB, and with one of them the whole list; the part of
the channel comes to it later."""
_INDEX_BYTES: Final = 32 << 20
"""Of names of bundles that entries of channels mention: 30,000 channels of ten entries have 25 MB."""
_PLAIN_BYTES: Final = 64 << 10
"""Of a block of what lists show: as much is in memory for each client that is slow to take it."""
_INLINE_BYTES: Final = 1 << 20
"""Of a block of CSVs and manifests, of which one is read at a time, in 1 ms: neighbours have much in common. Community
v4.20 takes 0.8 MB so, 1.8 with 256 KiB."""
_ENTRY_BYTES: Final = 64


class _Package:
    """What the documents say, before it is packed."""

    def __init__(self, name: str, limits: ParseLimits) -> None:
        self.name = name
        self.limits = limits
        self.said: Object | None = None
        self.channels: dict[str, Mapping[str, f.Entry]] = {}
        self.bundles: dict[str, Object] = {}
        self.deprecations: dict[tuple[str, str], str] = {}
        self.others: list[tuple[str, bytes]] = []
        self._index_bytes = 0

    def add(self, line: bytes) -> None:
        """Raises: ShapeError, DocumentError."""
        document = as_object(gorules.from_json(line, self.limits), "a document") or {}
        schema, name = text(document, "schema"), text(document, "name")
        if schema == f.PACKAGE:
            if self.said is not None:
                raise ShapeError(f"duplicate package {name!r}")
            self.said = document
        elif schema == f.CHANNEL:
            if name in self.channels:
                raise ShapeError(f"duplicate channel {name!r}")
            self.channels[name] = self._entries(name, document)
        elif schema == f.BUNDLE:
            if name in self.bundles:
                raise ShapeError(f"duplicate bundle {name!r}")
            self.bundles[name] = document
        elif schema == f.DEPRECATIONS:
            for each in children(document, "entries"):
                reference = child(each, "reference") or {}
                self.deprecations[text(reference, "schema"), text(reference, "name")] = text(each, "message")
        else:
            self.others.append((schema, line))

    def _entries(self, channel: str, document: Object) -> Mapping[str, f.Entry]:
        found: dict[str, f.Entry] = {}
        for each in children(document, "entries"):
            entry = f.Entry(
                text(each, "name"), text(each, "replaces"), tuple(texts(each, "skips")), text(each, "skipRange")
            )
            if entry.name in found:
                raise ShapeError(f"channel {channel!r}: duplicate entry {entry.name!r}")
            found[entry.name] = entry
            self._index_bytes += _ENTRY_BYTES + len(entry.name) + sum(8 + len(skip) for skip in entry.skips)
            if self._index_bytes > _INDEX_BYTES:
                raise ShapeError(f"names in its channels come to more than {_INDEX_BYTES} bytes")
        return dict(sorted(found.items()))


def answer(frame: bytes, limits: ParseLimits) -> bytes:
    """The answer to a job of wire.py."""
    name, lines = decode_job(frame)
    return encode_packed(pack(name, lines, limits))


def pack(name: str, lines: Iterable[bytes], limits: ParseLimits) -> Packed | Refused:
    """name: empty for documents of no package, or of one that is not here."""
    package = _Package(name, limits)
    try:
        for line in lines:
            package.add(line)
        return _packed(package)
    except (ShapeError, DocumentError) as exc:
        return Refused(name, str(exc))


def _packed(package: _Package) -> Packed:
    packer = _Packer()
    bundles: dict[str, Stored] = {}
    provided: dict[tuple[str, str, str], list[str]] = {}
    if package.name:
        about = csv.about(package.said or {})
        plain, inline = _Block(packer, _PLAIN_BYTES), _Block(packer, _INLINE_BYTES)
        parts: dict[str, tuple[Place, Place, _Bundle]] = {}
        for name, document in sorted(package.bundles.items()):
            try:
                one = _bundle(package, name, document, about)
            except (ShapeError, DocumentError) as exc:
                raise ShapeError(f"bundle {name!r}: {exc}") from exc
            for api in one.provided:
                provided.setdefault(api, []).append(name)
            parts[name] = (plain.add(one.plain), inline.add(one.inline), one)
        plain.close()
        inline.close()
        for name, (at, beside, one) in parts.items():
            bundles[name] = Stored(packer.placed(at), packer.placed(beside), one.listed, one.made)
    others = _others(package, packer)
    said = package.said or {}
    return Packed(
        name=package.name,
        default_channel=text(said, "defaultChannel"),
        deprecation=package.deprecations.get((f.PACKAGE, "")),
        channels={name: _channel(package, name) for name in sorted(package.channels)},
        bundles=bundles,
        provided={api: provided[api] for api in sorted(provided)},
        others=others,
        blocks=packer.blocks,
        weight=sum(map(len, packer.blocks)),
    )


def _others(package: _Package, packer: _Packer) -> Mapping[str, Sequence[Place]]:
    block = _Block(packer, _INLINE_BYTES)
    placed = [(schema, block.add(line)) for schema, line in package.others]
    block.close()
    found: dict[str, list[Place]] = {}
    for schema, place in placed:
        found.setdefault(schema, []).append(packer.placed(place))
    return found


def _channel(package: _Package, name: str) -> Channel:
    entries = package.channels[name]
    return Channel(name, _head(name, entries), package.deprecations.get((f.CHANNEL, name)), entries)


def _head(channel: str, entries: Mapping[str, f.Entry]) -> str:
    """The one entry that no other replaces or skips (alpha/model, Channel.Head). Raises: ShapeError."""
    incoming = {each.replaces for each in entries.values()}
    for each in entries.values():
        incoming.update(each.skips)
    heads = [name for name in entries if name not in incoming]
    if len(heads) != 1:
        raise ShapeError(f"channel {channel!r}: " + (f"has {len(heads)} heads" if heads else "has no head"))
    return heads[0]


@slotted()
class _Bundle:
    """A bundle's message in parts. plain: without channel, CSV and manifests; others as wire.Stored has them."""

    plain: bytes
    inline: bytes
    provided: Sequence[tuple[str, str, str]]
    listed: bool
    made: bool


@slotted()
class _Properties:
    """What a bundle's properties come to. written, dependencies: fields of its message. metadata, manifests: of its CSV
    and its objects, which these fields leave out."""

    versions: list[str] = dataclasses.field(default_factory=list)
    provided: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    required: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    dependencies: list[bytes] = dataclasses.field(default_factory=list)
    written: list[bytes] = dataclasses.field(default_factory=list)
    metadata: list[JSON] = dataclasses.field(default_factory=list)
    manifests: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def add(self, kind: str, value: JSON, limits: ParseLimits) -> None:
        """Raises: ShapeError, DocumentError."""
        if kind == "olm.bundle.object":
            self.manifests.append(csv.manifest(value, limits))
            return
        if kind == "olm.csv.metadata":
            self.metadata.append(value)
            return
        written = _json(value)
        self.written.append(message(12, string(1, kind) + string(2, written)))
        if kind == "olm.package":
            self.versions.append(text(as_object(value, kind) or {}, "version"))
        elif kind == "olm.gvk":
            self.provided.append(_gvk(value, kind))
        elif kind == "olm.gvk.required":
            self.required.append(_gvk(value, kind))
            self.dependencies.append(message(11, string(1, "olm.gvk") + string(2, written)))
        elif kind == "olm.package.required":
            asked = as_object(value, kind) or {}
            wanted: Object = {"packageName": text(asked, "packageName"), "version": text(asked, "versionRange")}
            self.dependencies.append(message(11, string(1, "olm.package") + string(2, _json(wanted))))


def _bundle(package: _Package, name: str, document: Object, about: csv.About) -> _Bundle:
    """Raises: ShapeError, DocumentError."""
    image, said = text(document, "image"), _Properties()
    for each in children(document, "properties"):
        said.add(text(each, "type"), field(each, "value"), package.limits)
    if len(said.versions) != 1 or len(said.metadata) > 1:
        raise ShapeError(
            f"{len(said.versions)} properties olm.package and {len(said.metadata)} olm.csv.metadata;"
            " there has to be one, and there may be one"
        )
    [version] = said.versions
    inline, made = _inline(document, said.manifests, said.metadata, version, about)
    deprecation = package.deprecations.get((f.BUNDLE, name))
    plain = b"".join(
        (
            string(1, name),
            string(2, package.name),
            string(6, image),
            *(_api(7, api) for api in said.provided),
            *(_api(8, api) for api in said.required),
            string(9, version),
            *said.dependencies,
            *said.written,
            b"" if deprecation is None else message(15, string(1, deprecation)),
        )
    )
    size = len(plain) + (0 if image else len(inline) * (2 if made else 1))
    if size > LISTED_BYTES:
        raise ShapeError(f"comes to {size} bytes in a list; clients take {LISTED_BYTES}")
    return _Bundle(plain, inline, said.provided, listed=not image, made=made)


def _inline(
    document: Object, manifests: Sequence[tuple[str, str]], metadata: Sequence[JSON], version: str, about: csv.About
) -> tuple[bytes, bool]:
    """csvJson and object, or the JSON that is both; which of these it is. Raises: ShapeError."""
    found = next((written for written, kind in manifests if kind == csv.KIND), "")
    if not found and metadata:
        found = csv.made_of(metadata[0], document, version, about)
        if not manifests:
            return found.encode(), True
    return string(4, found) + b"".join(string(5, written, always=True) for written, _ in manifests), False


def _gvk(value: JSON, kind: str) -> tuple[str, str, str]:
    said = as_object(value, kind) or {}
    return text(said, "group"), text(said, "version"), text(said, "kind")


def _api(number: int, api: tuple[str, str, str]) -> bytes:
    return message(number, b"".join(string(at, part) for at, part in enumerate(api, 1)))


_U2028, _U2029 = "\u2028".encode(), "\u2029".encode()


def _json(value: JSON) -> str:
    """As the document's line has it."""
    try:
        line = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as exc:
        raise DocumentError("TooDeep", f"cannot be written as JSON: {exc}") from exc
    return line.replace(_U2028, b"\\u2028").replace(_U2029, b"\\u2029").decode()


class _Packer:
    """Blocks in the order in which they are closed."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []
        self._zstd = zstandard.ZstdCompressor(level=3)
        self._named = 0
        self._places: dict[int, int] = {}

    def name(self) -> int:
        """A block that is begun."""
        self._named += 1
        return self._named

    def close(self, name: int, content: bytes) -> None:
        self._places[name] = len(self.blocks)
        self.blocks.append(self._zstd.compress(content))

    def placed(self, place: Place) -> Place:
        """A place whose block has been closed."""
        return Place(self._places[place.block], place.at, place.size)


class _Block:
    """Fills blocks of one kind."""

    def __init__(self, packer: _Packer, most: int) -> None:
        self._packer = packer
        self._most = most
        self._parts: list[bytes] = []
        self._size = 0
        self._name = packer.name()

    def add(self, content: bytes) -> Place:
        """Its place; what is larger than a block is one by itself."""
        if self._size and self._size + len(content) > self._most:
            self.close()
        place = Place(self._name, self._size, len(content))
        self._parts.append(content)
        self._size += len(content)
        return place

    def close(self) -> None:
        """The block as it is, unless nothing refers to it."""
        if self._parts:
            self._packer.close(self._name, b"".join(self._parts))
            self._parts, self._size, self._name = [], 0, self._packer.name()
