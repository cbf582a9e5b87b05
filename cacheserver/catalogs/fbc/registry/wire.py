"""What is asked of a worker about a package's documents, and what it answers, for clients of operator-registry.

The answer is an index, and the bundles' messages in packed blocks, so that a whole catalog can be kept in memory for
little: community v4.20 has 13 MB of documents, 0.7 MB of which stay.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final

import orjson

from cacheserver.catalogs.fbc.facts import Entry
from cacheserver.catalogs.frame import REGISTRY
from cacheserver.slotted import slotted

_HEAD: Final = struct.Struct(">II")


@slotted(frozen=True)
class Place:
    """Where something stands: in which block, from which byte, how many."""

    block: int
    at: int
    size: int


@slotted(frozen=True)
class Channel:
    """entries: by bundle. deprecation: None where it is not."""

    name: str
    head: str
    deprecation: str | None
    entries: Mapping[str, Entry]


@slotted(frozen=True)
class Stored:
    """A bundle's message in parts: what all answers have of it, and its CSV and manifests.

    listed: whether ListBundles sends these too: it does where there is no image to read them from. made: the CSV was
    made, and is the only manifest too; it is kept once.
    """

    plain: Place
    inline: Place
    listed: bool
    made: bool


@slotted(frozen=True)
class Packed:
    """All that is answered of one package. Channels, bundles and what they provide by name, sorted.

    provided: (group, version, kind) -> the bundles that provide it. others: schema -> documents of it that are of no
    schema of OLM's, as lines. blocks: zstd frames that say their size. weight: bytes that it takes, about.
    """

    name: str
    default_channel: str
    deprecation: str | None
    channels: Mapping[str, Channel]
    bundles: Mapping[str, Stored]
    provided: Mapping[tuple[str, str, str], Sequence[str]]
    others: Mapping[str, Sequence[Place]]
    blocks: Sequence[bytes]
    weight: int
    lasting: ClassVar[bool] = True


@slotted(frozen=True)
class Refused:
    """A package that operator-registry would refuse, or that no client could take, and why.

    lasting: the same documents would be refused again.
    """

    name: str
    reason: str
    lasting: bool = True


def encode_job(name: str, lines: Iterable[bytes]) -> bytes:
    """The question: a package's name (empty: documents of none), and its documents, without line breaks."""
    return b"\n".join((REGISTRY + orjson.dumps(name) + b"]", *lines))


def decode_job(frame: bytes) -> tuple[str, list[bytes]]:
    """What encode_job() was given."""
    head, _, lines = frame.partition(b"\n")
    name: str = orjson.loads(head)[1]
    return name, lines.splitlines()


def encode_packed(packed: Packed | Refused) -> bytes:
    """An answer."""
    if isinstance(packed, Refused):
        head = orjson.dumps({"name": packed.name, "refused": packed.reason})
        return _HEAD.pack(len(head), 0) + head
    index = {
        "name": packed.name,
        "defaultChannel": packed.default_channel,
        "deprecation": packed.deprecation,
        "channels": [
            [each.name, each.head, each.deprecation, [*each.entries.values()]] for each in packed.channels.values()
        ],
        "bundles": [
            [name, _place(one.plain), _place(one.inline), one.listed, one.made] for name, one in packed.bundles.items()
        ],
        "provided": [[*api, bundles] for api, bundles in packed.provided.items()],
        "others": [[schema, [_place(place) for place in places]] for schema, places in packed.others.items()],
        "blocks": [len(block) for block in packed.blocks],
    }
    head = orjson.dumps(index)
    return b"".join((_HEAD.pack(len(head), len(packed.blocks)), head, *packed.blocks))


def decode_packed(frame: bytes) -> Packed | Refused:
    """What encode_packed() was given. Slow for the loop where it is long."""
    size, _ = _HEAD.unpack_from(frame)
    index = orjson.loads(memoryview(frame)[_HEAD.size : _HEAD.size + size])
    if "refused" in index:
        return Refused(index["name"], index["refused"])
    blocks, at = [], _HEAD.size + size
    for length in index["blocks"]:
        blocks.append(frame[at : at + length])
        at += length
    names: dict[str, str] = {}
    return Packed(
        name=index["name"],
        default_channel=index["defaultChannel"],
        deprecation=index["deprecation"],
        channels={each[0]: _channel(each, names) for each in index["channels"]},
        bundles={
            names.setdefault(name, name): Stored(Place(*plain), Place(*inline), listed, made)
            for name, plain, inline, listed, made in index["bundles"]
        },
        provided={
            (group, version, kind): tuple(names.setdefault(one, one) for one in bundles)
            for group, version, kind, bundles in index["provided"]
        },
        others={schema: tuple(Place(*place) for place in places) for schema, places in index["others"]},
        blocks=blocks,
        # What Python makes of the index is about six times its text (measured on community v4.20).
        weight=6 * size + sum(index["blocks"]),
    )


def _place(place: Place) -> tuple[int, int, int]:
    return place.block, place.at, place.size


def _channel(written: Any, names: dict[str, str]) -> Channel:
    """names: of bundles, each kept once, however many channels and skips have it."""
    name, head, deprecation, entries = written
    made: dict[str, Entry] = {}
    for each in entries:
        bundle = names.setdefault(each["name"], each["name"])
        skips = tuple(names.setdefault(skip, skip) for skip in each["skips"])
        replaces = names.setdefault(each["replaces"], each["replaces"])
        made[bundle] = Entry(bundle, replaces, skips, each["skip_range"])
    return Channel(name, head, deprecation, made)
