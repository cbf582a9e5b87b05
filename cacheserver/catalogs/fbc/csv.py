"""A ClusterServiceVersion as a PackageManifest shows it. Pure, runs in a worker.

Read as Go's types decode it (csvspec.py); what is shown of it: operator-lifecycle-manager
pkg/package-server/apis/operators/v1/packagemanifest.go (CreateCSVDescription).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Final

import orjson

from cacheserver.catalogs import semver
from cacheserver.catalogs.documents import document as d
from cacheserver.catalogs.documents.document import JSON, Object, ShapeError
from cacheserver.catalogs.fbc import csvspec
from cacheserver.catalogs.fbc.csvspec import present
from cacheserver.slotted import slotted

_DEPLOYMENT: Final = "deployment"
_NO_VERSION: Final = "0.0.0"


@slotted(frozen=True)
class CSV:
    """What is read of one. said: fields of spec by name, decoded. images: of deployments and related ones."""

    name: str
    version: str
    said: Mapping[str, JSON]
    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    images: Sequence[str] = ()
    icon: tuple[str, str] = ("", "")
    """(media type, base64) of the first one."""

    @property
    def provider(self) -> Mapping[str, str]:
        """name and url, as far as they are there."""
        found = self.said["provider"]
        assert isinstance(found, dict)
        return {name: str(text) for name, text in found.items()}

    def description(self) -> bytes:
        """A CSVDescription as JSON, in Go's order; empty lists and texts are left out."""
        said = self.said
        return orjson.dumps(
            {
                **present({"displayName": said["displayName"]}),
                "version": self.version,
                "provider": said["provider"],
                **present({"annotations": {**self.annotations}}),
                **present({name: said[name] for name in ("keywords", "links", "maintainers", "maturity")}),
                **present({"description": said["description"], "installModes": said["installModes"]}),
                "customresourcedefinitions": said["customresourcedefinitions"],
                "apiservicedefinitions": said["apiservicedefinitions"],
                **present({"nativeApis": said["nativeAPIs"], "minKubeVersion": said["minKubeVersion"]}),
                # A set, in any order there. Ours: sorted, so that equal content is equal bytes.
                **present({"relatedImages": [*sorted(set(self.images))]}),
            }
        )


def of_manifest(manifest: Object) -> CSV:
    """From a ClusterServiceVersion itself. Raises: ShapeError."""
    metadata, spec = d.child(manifest, "metadata") or {}, d.child(manifest, "spec") or {}
    icons = csvspec.decoded(csvspec.ICONS, d.field(spec, "icon"), "icon", whole=False)
    assert isinstance(icons, list)
    first = icons[0] if icons else {}
    assert isinstance(first, dict)
    return CSV(
        name=d.text(metadata, "name"),
        version=_NO_VERSION if d.field(spec, "version") is None else tolerant_version(d.text(spec, "version")),
        said=csvspec.said(spec, {}, whole=False),
        annotations=csvspec.strings(metadata, "annotations"),
        labels=csvspec.strings(metadata, "labels"),
        images=(*_deployed(spec), *_images(spec)),
        icon=(str(first.get("mediatype", "")), str(first.get("base64data", ""))),
    )


def tolerant_version(written: str) -> str:
    """As blang/semver's ParseTolerant reads and writes it. Raises: ShapeError."""
    parts = written.strip().removeprefix("v").split(".", 2)
    for at, part in enumerate(parts):
        if len(part) > 1:
            kept = part.lstrip("0")
            parts[at] = kept if kept[:1].isdigit() else "0" + kept
    if len(parts) < 3 and re.search(r"[-+]", parts[-1]):
        raise ShapeError(f"version {written[:64]!r} is short, and has more behind it")
    try:
        return str(semver.parse(".".join((*parts, "0", "0")[: max(len(parts), 3)])))
    except ValueError as exc:
        raise ShapeError(f"version: {exc}") from None


def _images(owner: Object) -> Sequence[str]:
    return tuple(d.text(image, "image") for image in d.children(owner, "relatedImages"))


def _deployed(spec: Object) -> Sequence[str]:
    """Of containers and init containers (operator-registry pkg/registry/csv.go: GetOperatorImages)."""
    install = d.child(spec, "install") or {}
    if d.text(install, "strategy") != _DEPLOYMENT:
        return ()
    found: list[str] = []
    for deployment in d.children(d.child(install, "spec") or {}, "deployments"):
        template = d.child(d.child(deployment, "spec") or {}, "template") or {}
        pod = d.child(template, "spec") or {}
        for name in ("containers", "initContainers"):
            found += [d.text(container, "image") for container in d.children(pod, name)]
    return found
