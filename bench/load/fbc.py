"""File-based catalogs of any size on disk: the same seed gives the same bytes everywhere.

Shapes and sizes are drawn from real catalogs' quantiles. Every package passes the loader's rules: one chain of
replaces a channel, every bundle in a channel, the default channel set.
"""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import orjson
import yaml

from bench.load import words

_PARTS: Final = (0.0, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1.0)

# Measured on the community operators catalog for OpenShift v4.20 (37 packages, 85 channels, 803 bundles, 14.6 MB of
# YAML); values at _PARTS.
BUNDLES_A_PACKAGE: Final = (1, 2, 4, 9, 26, 56, 106, 152, 152)
CHANNELS_A_PACKAGE: Final = (1, 1, 1, 1, 2, 5, 10, 12, 12)
BUNDLE_BYTES: Final = (2313, 4583, 5300, 10465, 16935, 30863, 39809, 143586, 171704)
"""Of one olm.bundle document as compact JSON."""
DESCRIPTION_BYTES: Final = (38, 45, 75, 1195, 1896, 3725, 6876, 20978, 26416)
APIS_A_BUNDLE: Final = (1, 1, 1, 2, 16, 21, 26, 39, 39)
IMAGES_A_BUNDLE: Final = (2, 2, 2, 2, 3, 4, 29, 66, 95)
ICON_BYTES: Final = (726, 1161, 1917, 5949, 18633, 31209, 50646, 56898, 56898)
WITHOUT_ICON: Final = 67 / 267
"""Of 267 community packages 67 have none."""

_IMAGE: Final = re.compile(rb'(^image: \S+|"image": ?"[^"\s]+)(?=[0-9a-f]("|$))([0-9a-f])', re.MULTILINE)


class Syntax(StrEnum):
    YAML = "yaml"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Shape:
    """packages: as many as the measured catalog has, by default."""

    packages: int = 37
    syntax: Syntax = Syntax.YAML
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Written:
    packages: int
    bundles: int
    bytes: int


def write(shape: Shape, root: Path) -> Written:
    """One directory and one file a package under `root`, which is made."""
    bundles = size = 0
    for number in range(shape.packages):
        documents = package(shape, number)
        directory = root / str(documents[0]["name"])
        directory.mkdir(parents=True)
        content = encode(documents, shape.syntax)
        (directory / f"catalog.{shape.syntax}").write_bytes(content)
        bundles += sum(document["schema"] == "olm.bundle" for document in documents)
        size += len(content)
    return Written(shape.packages, bundles, size)


def package(shape: Shape, number: int) -> list[dict[str, Any]]:
    """Documents of package `number`: the olm.package, its channels, its bundles from the oldest up."""
    rng = random.Random(f"{shape.seed}/fbc/{number}")
    # The number-th of evenly spread draws, shuffled by the seed: few packages already have the real spread.
    spread = list(range(shape.packages))
    random.Random(f"{shape.seed}/fbc").shuffle(spread)
    place = (spread[number] + 0.5) / shape.packages
    name = f"{words.name(rng)}-{number}"
    versions = [words.semantic_version(index) for index in range(_at(BUNDLES_A_PACKAGE, place))]
    slices = _channels(name, versions, min(_at(CHANNELS_A_PACKAGE, place), len(versions)))
    head: dict[str, Any] = {"schema": "olm.package", "name": name, "defaultChannel": slices[-1]["name"]}
    head["description"] = words.sentences(rng, _at(DESCRIPTION_BYTES, rng.random()))
    if rng.random() >= WITHOUT_ICON:
        picture = f"<svg>{words.hexadecimal(rng, _at(ICON_BYTES, rng.random()))}</svg>".encode()
        head["icon"] = {"base64data": base64.b64encode(picture).decode(), "mediatype": "image/svg+xml"}
    start, apis, images = rng.random(), _at(APIS_A_BUNDLE, rng.random()), _at(IMAGES_A_BUNDLE, rng.random())
    kinds = [words.name(rng).title().replace("-", "") for _ in range(apis)]
    bundles = [
        # Steps of the golden ratio spread evenly however many there are: a big package must not set the total size.
        _bundle(rng, name, version, _at(BUNDLE_BYTES, (start + index * 0.618034) % 1.0), kinds, images)
        for index, version in enumerate(versions)
    ]
    return [head, *slices, *bundles]


def encode(documents: Sequence[Mapping[str, Any]], syntax: Syntax) -> bytes:
    """As opm renders: YAML documents with sorted keys and block text, or indented JSON objects one after the other."""
    if syntax is Syntax.JSON:
        return b"".join(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n" for document in documents)
    text = yaml.dump_all(documents, Dumper=_Dumper, explicit_start=True, width=1 << 20, allow_unicode=True)
    return bytes(text, "utf-8")


def changed(content: bytes) -> bytes:
    """`content` with the image of one bundle changed by a digit. Raises: ValueError when no bundle has an image."""
    start = max(content.find(b"schema: olm.bundle"), 0)  # YAML sorts the image in front of the schema
    start = max(content.rfind(b"\n---", 0, start), 0)
    found = _IMAGE.search(content, start) or _IMAGE.search(content)
    if found is None:
        raise ValueError("no bundle here has an image whose reference ends in a digit")
    at = found.start(3)
    digit = b"1" if content[at : at + 1] == b"0" else b"0"
    return content[:at] + digit + content[at + 1 :]


def _channels(name: str, versions: Sequence[str], count: int) -> list[dict[str, Any]]:
    """The versions cut into `count` neighbouring channels, each a chain; the last one is the newest."""
    channels = []
    for index in range(count):
        start, end = len(versions) * index // count, len(versions) * (index + 1) // count
        entries = []
        for at in range(start, end):
            entry = {"name": f"{name}.v{versions[at]}"}
            if at > 0:
                entry["replaces"] = f"{name}.v{versions[at - 1]}"
            entries.append(entry)
        channels.append({"schema": "olm.channel", "package": name, "name": f"stable-{index}", "entries": entries})
    return channels


def _bundle(
    rng: random.Random, package: str, version: str, size: int, kinds: Sequence[str], images: int
) -> dict[str, Any]:
    """One olm.bundle document of about `size` bytes as JSON; the examples and CRD descriptions fill it up."""
    group = f"{package}.example.com"
    related = [
        {"name": words.name(rng, 1), "image": f"quay.io/bench/{package}@sha256:{words.hexadecimal(rng)}"}
        for _ in range(images)
    ]
    document: dict[str, Any] = {
        "schema": "olm.bundle",
        "package": package,
        "name": f"{package}.v{version}",
        "image": f"quay.io/bench/{package}-bundle@sha256:{words.hexadecimal(rng)}",
        "properties": [{"type": "olm.gvk", "value": {"group": group, "version": "v1", "kind": kind}} for kind in kinds],
        "relatedImages": related,
    }
    document["properties"].append({"type": "olm.package", "value": {"packageName": package, "version": version}})
    room = size - len(orjson.dumps(document)) - 500
    text = min(_at(DESCRIPTION_BYTES, rng.random()), max(0, room // 2))
    described = max(0, (room - text) // 2)
    document["properties"].append(
        {
            "type": "olm.csv.metadata",
            "value": {
                "annotations": {"alm-examples": _example(rng, group, max(0, room - text - described))},
                "crdDescriptions": {"owned": _owned(rng, group, kinds, described)},
                "description": words.sentences(rng, text),
                "displayName": package.title(),
                "installModes": [{"supported": True, "type": "AllNamespaces"}],
                "keywords": [words.name(rng, 1) for _ in range(3)],
                "provider": {"name": words.name(rng).title()},
            },
        }
    )
    return document


def _example(rng: random.Random, group: str, size: int) -> str:
    """JSON in a string, as alm-examples is."""
    lines = [f'    "{words.name(rng, 1)}": "{words.name(rng)}",' for _ in range(size // 28)]
    return "\n".join(["[", "  {", f'    "apiVersion": "{group}/v1",', *lines, '    "spec": {}', "  }", "]"])


def _owned(rng: random.Random, group: str, kinds: Sequence[str], size: int) -> list[dict[str, str]]:
    each = max(20, size // len(kinds) - 120)
    return [
        {
            "kind": kind,
            "name": f"{kind.lower()}s.{group}",
            "version": "v1",
            "description": words.sentences(rng, each).replace("\n", " "),
        }
        for kind in kinds
    ]


def _at(values: Sequence[int], part: float) -> int:
    """The value at `part` (0 to 1) of a distribution given by its values at _PARTS, straight lines between."""
    for index in range(1, len(_PARTS)):
        if part <= _PARTS[index]:
            low, high = _PARTS[index - 1], _PARTS[index]
            share = (part - low) / (high - low)
            return round(values[index - 1] + share * (values[index] - values[index - 1]))
    return values[-1]


class _Dumper(yaml.CSafeDumper):
    """Text of several lines as a block, as Go's YAML writes it."""


def _text(dumper: yaml.CSafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
