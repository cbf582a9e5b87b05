"""Doors: the protocols of other systems that a repository's catalog is published through, as `spec.publish` names them.

None is open by itself: what is behind a door is read by whoever reaches it, where the API asks for rights. Alike in
files, on the command line and in a cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cacheserver.config import quantities
from cacheserver.model import Format, RepositoryKey
from cacheserver.names import REPOSITORY_NAME as LABEL
from cacheserver.slotted import slotted

if TYPE_CHECKING:
    from cacheserver.config.documents import Value


class Door(StrEnum):
    """One way in for clients of another system."""

    CATALOG = "Catalog"
    """catalogd's HTTP API, and ClusterCatalogs: for OLM v1."""
    REGISTRY = "Registry"
    """The gRPC registry of a CatalogSource: for OLM v0."""
    PACKAGE_MANIFEST = "PackageManifest"
    """The aggregated API of OLM v0's package-server."""
    RUKPAK = "Rukpak"
    """The views of rukpak-packageserver."""


_DOOR: Final = quantities.choice(Door)
_KRM: Final = (
    "only file-based catalogs are published to clients of OLM, and format says that these are KRM packages: leave "
    "publish out"
)


def publish(spec: Mapping[str, Value], chosen: Format | None) -> frozenset[Door]:
    """`spec.publish`. chosen: `spec.format`. Raises: ConfigError for what is there and is none."""
    if "publish" not in spec:
        return frozenset()
    found = set[Door]()
    for each in spec["publish"].items():
        try:
            door = _DOOR.parse(each.text(), Path())
        except ValueError as exc:
            raise each.error(str(exc)) from exc
        if door in found:
            raise each.error(f"{door} is named twice")
        found.add(door)
    if found and chosen is Format.KRM:
        raise spec["publish"].error(_KRM)
    return frozenset(found)


def in_order(doors: Iterable[Door]) -> list[str]:
    """As they are served: in the order in which they are declared."""
    named = frozenset(doors)
    return [door.value for door in Door if door in named]


def parse(text: str, _base: Path) -> str:
    """Text of `--publish`: NAME=DOOR,DOOR. A list from the environment is taken apart at its commas, so a DOOR by
    itself belongs to the NAME before it. Raises: ValueError."""
    name, equals, listed = text.rpartition("=")
    if not listed or bool(name) != bool(equals):
        raise ValueError(f"{text!r} names no door: write NAME=DOOR,DOOR, as in example={Door.CATALOG}")
    doors = [_DOOR.parse(part.strip(), Path()) for part in listed.split(",")]
    return f"{name}{equals}{','.join(doors)}"


@slotted(frozen=True)
class RegistryListener:
    """Where the gRPC registry of one repository listens. namespace: empty for that of the settings."""

    namespace: str
    name: str
    address: quantities.Address


def parse_listener(text: str, _base: Path) -> RegistryListener:
    """`[NAMESPACE/]NAME=HOST:PORT`. Raises: ValueError."""
    written, equals, address = text.partition("=")
    namespace, slash, name = written.rpartition("/")
    if not equals or not all(LABEL.match(part) for part in ((namespace, name) if slash else (name,))):
        raise ValueError(
            f"{text!r} does not say whose registry listens where: write NAME=HOST:PORT, as in example=127.0.0.1:50051, "
            "or NAMESPACE/NAME=HOST:PORT"
        )
    return RegistryListener(namespace, name, quantities.parse_address(address))


def listeners(
    written: Iterable[RegistryListener], namespace: str, reserved: quantities.Address
) -> dict[RepositoryKey, quantities.Address]:
    """Repository -> where its registry listens. reserved: where the API does. Raises: ValueError where two collide."""
    found: dict[RepositoryKey, quantities.Address] = {}
    ports: dict[int, str] = {reserved.port: "--listen"}
    for each in written:
        key = RepositoryKey(each.namespace or namespace, each.name)
        if key in found:
            raise ValueError(f"{key.namespace}/{key.name} is there twice; a repository has one registry")
        port = each.address.port
        if port and port in ports:
            raise ValueError(f"{key.namespace}/{key.name} wants port {port}, which {ports[port]} has: choose another")
        ports[port] = f"{key.namespace}/{key.name}"
        found[key] = each.address
    return found


def of_catalogs(texts: Iterable[str]) -> dict[str, frozenset[Door]]:
    """Name of a catalog -> its doors, of texts that `parse` gave. Raises: ValueError for one that names no catalog."""
    found: dict[str, frozenset[Door]] = {}
    name = ""
    for text in texts:
        before, _, listed = text.rpartition("=")
        name = before or name
        if not name:
            raise ValueError(f"{text!r} does not say which catalog: write NAME={text}")
        found[name] = found.get(name, frozenset()) | {Door(part) for part in listed.split(",")}
    return found
