"""How a Package becomes a PackageManifest: name, namespace, labels and cells from the Package alone, bytes with a blob.

Pure; reads nothing. A package of the global namespace is shown in every other one too, as an object of its own there.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from cacheserver.api.selectors import Selection
from cacheserver.cache.snapshot import CellsOf, Entry
from cacheserver.cache.watchcache import Projection
from cacheserver.compat.packagemanifests.kind import GROUP, PLURAL, VERSION
from cacheserver.model import Digest, RepositoryKey
from cacheserver.slotted import slotted

MANIFEST: Final = "status.manifest"
"""Among a stored package's fields, as JSON; only where manifests are served (projection)."""
PACKAGE: Final = "spec.packageName"
REPOSITORY: Final = "spec.repository"

_OPEN: Final = f'{{"kind":"PackageManifest","apiVersion":"{GROUP}/{VERSION}","metadata":'.encode()
_SPEC: Final = b',"spec":{},"status":'
_MATCH_COST: Final = 12  # of one package, in steps of 0.2 us: most is to read what its manifest says
_NOBODY: Final[Mapping[str, str]] = {}

Published = Callable[[RepositoryKey], bool]
"""Whether a repository's packages are to be shown, as far as its configuration is known."""


def projection(of_packages: Projection) -> Projection:
    """Of stored packages: as it was, and what their manifests say."""

    def project(manifest: Mapping[str, Any], texts: Mapping[str, str]) -> tuple[dict[str, str], CellsOf]:
        fields, cells = of_packages(manifest, texts)
        if found := manifest.get("status", {}).get("manifest"):
            fields[MANIFEST] = orjson.dumps(found).decode()
        return fields, cells

    return project


@slotted(frozen=True)
class About:
    """What a Package says of its manifest. size: bytes of the blob."""

    digest: Digest
    size: int
    display_name: str
    publisher: str
    labels: Mapping[str, str]
    icon: Digest

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> About | None:
        """fields: of the stored package; None where it has no manifest."""
        text = fields.get(MANIFEST)
        if not text:
            return None
        found = orjson.loads(text)
        # Last, so that nothing else names the catalog.
        labels = {
            **found["labels"],
            "catalog": fields[REPOSITORY],
            "catalog-namespace": fields["metadata.namespace"],
        }
        return cls(
            Digest(found["digest"]),
            found["size"],
            found.get("displayName", ""),
            found.get("publisher", ""),
            labels,
            Digest(found.get("icon", {}).get("digest", "")),
        )


def shown(package: Entry, namespace: str, inside: bytes | None = None) -> Entry | None:
    """The manifest as a request for `namespace` (empty: all) sees it; None where the package has none.

    inside: the blob; without it the digest stands in its place, by which a change is seen (cache/view.py) where nothing
    but metadata, cells and labels is needed.
    """
    about = About.of(package.fields)
    if about is None:
        return None
    name = package.fields[PACKAGE]
    where = namespace or package.name[0]
    metadata = orjson.dumps(
        {
            "resourceVersion": str(package.resource_version),
            "name": name,
            "namespace": where,
            **_identity(package, where),
            "labels": dict(sorted(about.labels.items())),
        }
    )
    catalog = orjson.dumps(
        {
            "catalogSource": package.fields[REPOSITORY],
            "catalogSourceDisplayName": about.display_name,
            "catalogSourcePublisher": about.publisher,
            "catalogSourceNamespace": package.name[0],
        }
    )
    if inside is None:
        inside = orjson.dumps({"digest": about.digest})[1:]
    # Ours: a catalog without a name for people is shown by its name.
    cells = orjson.dumps([name, about.display_name or package.fields[REPOSITORY]])
    return Entry(
        name=(where, name),
        resource_version=package.resource_version,
        body=b"".join((_OPEN, metadata, _SPEC, catalog[:-1], b",", inside, b"}")),
        metadata_start=len(_OPEN),
        metadata_end=len(_OPEN) + len(metadata) - 1,
        labels=about.labels,
        fields={"metadata.name": name, "metadata.namespace": where},
        cells=(cells[1:-1] + b',"', b'"'),
        created=package.created,
    )


def without_channels(package: Entry) -> bytes:
    """What stands for a blob that is not there any more."""
    return orjson.dumps({"packageName": package.fields[PACKAGE], "channels": [], "defaultChannel": ""})[1:]


def _identity(package: Entry, where: str) -> Mapping[str, str]:
    """uid and creationTimestamp. Ours: the uid follows from the package's, and from where it is shown."""
    metadata = orjson.loads(package.metadata + b"}")
    seed = PLURAL if where == package.name[0] else f"{PLURAL}/{where}"
    return {
        "uid": str(uuid.uuid5(uuid.UUID(metadata["uid"]), seed)),
        "creationTimestamp": metadata["creationTimestamp"],
    }


class Selecting:
    """Matches stored packages as `selection` matches their manifests; cache/window.py: Selector."""

    everything: Final = False  # packages without a manifest are not meant
    held: Final = 0

    def __init__(self, namespace: str, selection: Selection, published: Published) -> None:
        """namespace: of the request."""
        self._namespace = namespace
        self._selection = selection
        self._published = published
        self.cost = selection.cost + _MATCH_COST
        wanted = {PACKAGE: "metadata.name", REPOSITORY: "catalog"}
        self.required = {
            field: value for field, name in wanted.items() if (value := selection.required.get(name)) is not None
        }

    def matches(self, labels: Mapping[str, str], fields: Mapping[str, str]) -> bool:
        """labels, fields: of a stored package."""
        if not fields.get(MANIFEST):
            return False
        namespace = fields["metadata.namespace"]
        if not self._published(RepositoryKey(namespace, fields[REPOSITORY])):
            return False
        if self._selection.everything:
            return True
        shown_as = {"metadata.name": fields[PACKAGE], "metadata.namespace": self._namespace or namespace}
        if not self._selection.labels:
            return self._selection.matches(_NOBODY, shown_as)
        about = About.of(fields)
        return about is not None and self._selection.matches(about.labels, shown_as)
