"""Documents of file-based catalogs as a client of OLM cares about them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import orjson

Document = dict[str, Any]


def package(name: str, default: str = "stable", **more: Any) -> Document:
    return {"schema": "olm.package", "name": name, "defaultChannel": default, **more}


def channel(package: str, name: str, *entries: Document) -> Document:
    return {"schema": "olm.channel", "package": package, "name": name, "entries": list(entries)}


def entry(name: str, replaces: str = "", skips: Sequence[str] = (), skip_range: str = "") -> Document:
    return {"name": name, "replaces": replaces, "skips": list(skips), "skipRange": skip_range}


def bundle(package: str, version: str, *properties: Document, image: str | None = None, **more: Any) -> Document:
    return {
        "schema": "olm.bundle",
        "package": package,
        "name": f"{package}.v{version}",
        "image": f"registry.example.com/{package}:v{version}" if image is None else image,
        "properties": [
            {"type": "olm.package", "value": {"packageName": package, "version": version}},
            *properties,
        ],
        **more,
    }


def prop(kind: str, value: object) -> Document:
    return {"type": kind, "value": value}


def gvk(group: str, version: str, kind: str, *, required: bool = False) -> Document:
    return prop("olm.gvk.required" if required else "olm.gvk", {"group": group, "version": version, "kind": kind})


def manifest(content: bytes | Document) -> Document:
    raw = content if isinstance(content, bytes) else orjson.dumps(content)
    return prop("olm.bundle.object", {"data": base64.b64encode(raw).decode()})


def metadata(**fields: Any) -> Document:
    return prop("olm.csv.metadata", fields)


def deprecations(package: str, *said: tuple[str, str, str]) -> Document:
    entries = [{"reference": {"schema": schema, "name": name}, "message": message} for schema, name, message in said]
    return {"schema": "olm.deprecations", "package": package, "entries": entries}


def kettle() -> list[Document]:
    """A package with two channels, an edge of each kind, APIs, and a deprecated version."""
    api = gvk("kettle.example.com", "v1", "Kettle")
    return [
        package("kettle", description="Boils <water>"),
        channel(
            "kettle",
            "stable",
            entry("kettle.v1.0.0"),
            entry("kettle.v1.1.0", "kettle.v1.0.0"),
            entry("kettle.v1.2.0", "kettle.v1.0.0", ["kettle.v1.1.0"], ">=1.0.0 <1.2.0"),
        ),
        channel("kettle", "alpha", entry("kettle.v1.2.0", "kettle.v0.9.0", ["kettle.v1.1.0", "kettle.v0.9.0"])),
        bundle("kettle", "1.0.0", api, metadata(displayName="Kettle")),
        bundle("kettle", "1.1.0", api, metadata(displayName="Kettle")),
        bundle("kettle", "1.2.0", api, gvk("water.example.com", "v1", "Water", required=True), metadata()),
        deprecations("kettle", ("olm.bundle", "kettle.v1.1.0", "leaks"), ("olm.channel", "alpha", "use stable")),
    ]
