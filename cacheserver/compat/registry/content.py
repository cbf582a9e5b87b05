"""What is answered about one revision of a catalog: operator-registry's calls as functions, of packages as packed.

Semantics, order and words are the reference's (operator-registry pkg/cache/cache.go and pkgs.go); where it has no
order, for it walks a map, ours is by package, channel and bundle. Immutable, so a server that is on its way out goes
on with its own. Knows neither gRPC nor etcd.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Final

import orjson
import zstandard
from google.protobuf import json_format, struct_pb2

from cacheserver.catalogs.documents.document import text
from cacheserver.catalogs.fbc.facts import Entry
from cacheserver.catalogs.fbc.registry.protobuf import message, string
from cacheserver.catalogs.fbc.registry.wire import Channel, Packed, Place, Stored
from cacheserver.slotted import slotted

BATCH_BYTES: Final = 64 << 10
"""Of messages that are given out together."""
_ENTRIES_BYTES: Final = 16 << 10
"""As BATCH_BYTES, of ChannelEntries, which are small: made in 1 ms. A head may skip 10,000 in each of 30 channels."""
_TURN_ENTRIES: Final = 2000
"""Names in entries that are looked at before the loop has its turn: 1 ms."""
_INLINE_UNPACKED: Final = 1 << 20
"""A block that is unpacked on the loop, in 1 ms; larger ones, of a single bundle, are for a thread."""
_META_KEY: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*\Z")
_PRINTED: Final = 512
"""Of a name in an error, which goes into a header: as much as any name of a real catalog, twice."""

Api = tuple[str, str, str]
"""(group, version, kind)"""


class NotFoundError(Exception):
    """There is nothing to answer with; the message is the reference's."""


class InvalidError(Exception):
    """A question that the reference refuses; the message is its own."""


@slotted(frozen=True)
class Batch:
    """Messages of an answer. size: bytes that are in memory while they wait for the client."""

    messages: Sequence[bytes]
    size: int


class Content:
    """See the module. packages: by name, sorted. others: documents of no package, or of none that is here."""

    def __init__(self, revision: str, packages: Iterable[Packed], others: Packed | None = None) -> None:
        self.revision = revision
        self.packages: Mapping[str, Packed] = {each.name: each for each in sorted(packages, key=lambda one: one.name)}
        self._others = others
        # pkg/cache/bundle_key.go: by channel, then package, then bundle; by bytes, as Go compares strings.
        pairs = [(channel, package) for package in self.packages.values() for channel in package.channels.values()]
        self._listed = sorted(pairs, key=lambda pair: (pair[0].name.encode(), pair[1].name.encode()))

    @property
    def weight(self) -> int:
        """Bytes that it takes, about."""
        return sum(package.weight for package in self.packages.values())

    # --- packages ---

    def list_packages(self) -> Iterator[Batch]:
        """PackageName of each."""
        yield from _batches(string(1, name) for name in self.packages)

    def package(self, name: str) -> bytes:
        """A Package. Raises: NotFoundError."""
        package = self._package(name)
        channels = (
            message(2, string(1, each.name) + string(2, each.head) + _deprecation(3, each.deprecation))
            for each in package.channels.values()
        )
        return b"".join(
            (
                string(1, package.name),
                *channels,
                string(3, package.default_channel),
                _deprecation(4, package.deprecation),
            )
        )

    # --- bundles ---

    async def list_bundles(self) -> AsyncIterator[Batch]:
        """A Bundle for each bundle of each channel."""
        for channel, package in self._listed:
            plain, inline = _Reader(package), _Reader(package)
            messages: list[bytes] = []
            size = 0
            for entry in channel.entries.values():
                stored = package.bundles.get(entry.name)
                if stored is None:
                    continue  # no catalog that was good has one
                parts = [await plain.read(stored.plain), _of_channel(channel.name, entry)]
                if stored.listed:
                    parts.append(_inline(stored, await inline.read(stored.inline)))
                messages.append(b"".join(parts))
                size += len(messages[-1])
                if size >= BATCH_BYTES:
                    yield Batch(messages, size + plain.held + inline.held)
                    messages, size = [], 0
            if messages:
                yield Batch(messages, size + plain.held + inline.held)

    async def bundle(self, package: str, channel: str, bundle: str) -> bytes:
        """GetBundle: a Bundle, without what it replaces and skips. Raises: NotFoundError."""
        found, where = self._channel(package, channel)
        entry = where.entries.get(bundle)
        if entry is None or bundle not in found.bundles:
            raise NotFoundError(
                f"package {quoted(package)}, channel {quoted(channel)}, bundle {quoted(bundle)} not found"
            )
        return await self._whole(found, where, entry)

    async def head(self, package: str, channel: str) -> bytes:
        """GetBundleForChannel: as bundle(), of the channel's head. Raises: NotFoundError."""
        self._channel(package, channel)
        return await self.bundle(package, channel, self.packages[package].channels[channel].head)

    async def replacing(self, bundle: str, package: str, channel: str) -> bytes:
        """GetBundleThatReplaces: as bundle(), of the first by name that replaces or skips it. Raises: NotFoundError."""
        if package not in self.packages:
            raise NotFoundError(f"package {_clipped(package)} not found")  # the reference's, without quotes
        _, where = self._channel(package, channel)
        async for entry in _unhurried(where.entries.values()):
            if bundle == entry.replaces or bundle in entry.skips:
                return await self.bundle(package, channel, entry.name)
        raise NotFoundError(f"no entry found for package {quoted(package)}, channel {quoted(channel)}")

    async def default_provider(self, api: Api) -> bytes:
        """GetDefaultBundleThatProvides: as bundle(), of the first package by name whose default channel's head provides
        it. Raises: NotFoundError."""
        found = False
        for package, channel, head in self._heads(api):
            found = True
            if channel.name == package.default_channel:
                return await self._whole(package, channel, head)
        raise NotFoundError(
            f"no entry found that provides {_printed(api)}"
            if found
            else f"no channel entries found that provide {_printed(api)}"
        )

    # --- entries of channels ---

    async def replacements(self, bundle: str) -> AsyncIterator[Batch]:
        """GetChannelEntriesThatReplace: a ChannelEntry of each that replaces or skips it. Raises: NotFoundError."""
        found: list[bytes] = []
        size, sent = 0, False
        for package in self.packages.values():
            for channel in package.channels.values():
                async for entry in _unhurried(channel.entries.values()):
                    times = (entry.replaces == bundle) + (entry.skips.count(bundle) if entry.replaces != bundle else 0)
                    if times:
                        found += [_entry(package, channel, entry, entry.replaces)] * times
                        size += len(found[-1]) * times
                    if size >= _ENTRIES_BYTES:
                        yield Batch(found, size)
                        found, size, sent = [], 0, True
        if found:
            yield Batch(found, size)
        elif not sent:
            raise NotFoundError(f"no channel entries found that replace {_clipped(bundle)}")

    async def providers(self, api: Api) -> AsyncIterator[Batch]:
        """GetChannelEntriesThatProvide: of each bundle that provides it what it replaces, and each skip, whether or not
        these are in its channel. Raises: NotFoundError."""
        found = False
        for package in self.packages.values():
            provided = set(package.provided.get(api, ()))
            if not provided:
                continue
            for channel in package.channels.values():
                async for entry in _unhurried(channel.entries.values()):
                    if entry.name in provided:
                        found = True
                        for batch in _batches(_replaced(package, channel, entry, everywhere=True), _ENTRIES_BYTES):
                            yield batch
        if not found:
            raise NotFoundError(f"no channel entries found that provide {_printed(api)}")

    def latest_providers(self, api: Api) -> Iterator[Batch]:
        """GetLatestChannelEntriesThatProvide: as providers(), of heads, and of skips those that are in the channel.
        Raises: NotFoundError."""
        found = False
        entries = (
            one
            for package, channel, head in self._heads(api)
            for one in _replaced(package, channel, head, everywhere=False)
        )
        for batch in _batches(entries, _ENTRIES_BYTES):
            found = True
            yield batch
        if not found:
            raise NotFoundError(f"no channel entries found that provide {_printed(api)}")

    def _heads(self, api: Api) -> Iterator[tuple[Packed, Channel, Entry]]:
        """Heads of channels that provide it, by package and channel."""
        for package in self.packages.values():
            provided = package.provided.get(api)
            if provided:
                for channel in package.channels.values():
                    if channel.head in provided:
                        yield package, channel, channel.entries[channel.head]

    # --- documents of other schemas ---

    async def custom(self, schema: str, package: str) -> AsyncIterator[Batch]:
        """ExperimentalListPackageCustomSchemas: a Struct of each document of the schema that names the package, which
        may be empty. Raises: InvalidError."""
        _check_key("schema", schema)
        if package:
            _check_key("packageName", package)
        found = self.packages.get(package) if package else None
        for source in (found, self._others):
            if source is None:
                continue
            reader = _Reader(source)
            for place in source.others.get(schema, ()):
                line = await reader.read(place)
                made = await asyncio.to_thread(_struct, line, package)
                if made is not None:
                    yield Batch([made], len(made) + reader.held)

    # --- of all ---

    def _package(self, name: str) -> Packed:
        found = self.packages.get(name)
        if found is None:
            raise NotFoundError(f"package {quoted(name)} not found")
        return found

    def _channel(self, package: str, channel: str) -> tuple[Packed, Channel]:
        found = self._package(package)
        where = found.channels.get(channel)
        if where is None:
            raise NotFoundError(f"package {quoted(package)}, channel {quoted(channel)} not found")
        return found, where

    async def _whole(self, package: Packed, channel: Channel, entry: Entry) -> bytes:
        stored, reader = package.bundles[entry.name], _Reader(package)
        plain = await reader.read(stored.plain)
        inline = _inline(stored, await reader.read(stored.inline))
        return b"".join((plain, string(3, channel.name), string(10, entry.skip_range), inline))


class _Reader:
    """Reads what a package's blocks hold; keeps the last one unpacked."""

    def __init__(self, package: Packed) -> None:
        self._blocks = package.blocks
        self._index = -1
        self._block = b""

    @property
    def held(self) -> int:
        """Bytes of the block that is unpacked."""
        return len(self._block)

    async def read(self, place: Place) -> bytes:
        if place.block != self._index:
            packed = self._blocks[place.block]
            if zstandard.frame_content_size(packed) > _INLINE_UNPACKED:
                self._block = await asyncio.to_thread(_unpack, packed)
            else:
                self._block = _unpack(packed)
            self._index = place.block
        return self._block[place.at : place.at + place.size]


def _unpack(block: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(block)


def _inline(stored: Stored, content: bytes) -> bytes:
    """csvJson and object of a Bundle."""
    return message(4, content) + message(5, content) if stored.made else content


def _of_channel(channel: str, entry: Entry) -> bytes:
    """What a Bundle has of its channel."""
    return b"".join(
        (
            string(3, channel),
            string(10, entry.skip_range),
            string(13, entry.replaces),
            *(string(14, skip, always=True) for skip in entry.skips),
        )
    )


def _deprecation(number: int, said: str | None) -> bytes:
    return b"" if said is None else message(number, string(1, said))


def _entry(package: Packed, channel: Channel, entry: Entry, replaces: str) -> bytes:
    """A ChannelEntry."""
    return string(1, package.name) + string(2, channel.name) + string(3, entry.name) + string(4, replaces)


def _replaced(package: Packed, channel: Channel, entry: Entry, *, everywhere: bool) -> Iterator[bytes]:
    """What it replaces, and each skip; everywhere: also those that are not in the channel."""
    yield _entry(package, channel, entry, entry.replaces)
    for skip in entry.skips:
        if skip != entry.replaces and (everywhere or skip in channel.entries):
            yield _entry(package, channel, entry, skip)


def _batches(messages: Iterable[bytes], most: int = BATCH_BYTES) -> Iterator[Batch]:
    batch: list[bytes] = []
    size = 0
    for each in messages:
        batch.append(each)
        size += len(each)
        if size >= most:
            yield Batch(batch, size)
            batch, size = [], 0
    if batch:
        yield Batch(batch, size)


async def _unhurried(entries: Iterable[Entry]) -> AsyncIterator[Entry]:
    """The entries, and the loop's turn now and then."""
    looked_at = 0
    for entry in entries:
        looked_at += 1 + len(entry.skips)
        if looked_at >= _TURN_ENTRIES:
            looked_at = 0
            await asyncio.sleep(0)
        yield entry


def _struct(line: bytes, package: str) -> bytes | None:
    """A document as google.protobuf.Struct; None where it speaks of another package. Raises: InvalidError."""
    document = orjson.loads(line)
    if text(document, "package") != package:
        return None
    try:
        written: bytes = json_format.ParseDict(document, struct_pb2.Struct()).SerializeToString()
    except (json_format.ParseError, RecursionError, ValueError) as exc:
        raise InvalidError(f"a document of schema {quoted(document['schema'])} cannot be written: {exc}") from exc
    return written


def _check_key(what: str, value: str) -> None:
    """pkg/cache/meta_key.go. Raises: InvalidError."""
    if not _META_KEY.match(value):
        raise InvalidError(
            f"invalid custom schema query: invalid {what} {quoted(value)}: must match ^[a-zA-Z0-9][a-zA-Z0-9._-]*$"
        )


def _printed(api: Api) -> str:
    return "group:{} version:{} kind:{}".format(*map(quoted, api))


_ESCAPES: Final = {"\\": "\\\\", '"': '\\"'} | {
    chr(code): f"\\{letter}" for code, letter in zip(range(7, 14), "abtnvfr", strict=True)
}


def quoted(written: str) -> str:
    """As Go prints text with %q (strconv.Quote)."""
    return '"' + "".join(_escape(char) for char in _clipped(written)) + '"'


def _escape(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _clipped(written: str) -> str:
    return written if len(written) <= _PRINTED else written[:_PRINTED] + "..."
