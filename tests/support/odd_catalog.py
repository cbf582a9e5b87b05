"""A small file-based catalog that is valid everywhere and has what ordinary ones have seldom.

Deprecations of all three kinds, skips and ranges, a bundle in two channels, dependencies, a bundle with its manifests
in it and one with a CSV's summary, numbers and characters that encoders disagree about, documents that no package has,
schemas nobody knows, and packages that are in no default channel's or have no CSV.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import orjson

Document = dict[str, Any]
ODD_TEXT: Final = "<&> \u2028 \u2029 \u00e9 \U0001f600 \x7f \\ \" '"
SVG: Final = b'<svg xmlns="http://www.w3.org/2000/svg"/>'


def write(root: Path, *, changed: bool = False) -> Path:
    """A directory a package, a file each; returns `root`. changed: kettle has one bundle more, and teapot is gone."""
    packages = {"kettle": kettle(newer=changed), "samovar": samovar(), "urn": urn()}
    if not changed:
        packages["teapot"] = teapot()
    for name, documents in packages.items():
        _file(root / name / "catalog.json", documents)
    _file(root / "notes.json", [{"schema": "example.com.note", "name": "of-no-package", "text": ODD_TEXT}])
    if changed:
        (root / "teapot" / "catalog.json").unlink(missing_ok=True)
    return root


def kettle(*, newer: bool = False) -> list[Document]:
    """Two channels that share bundles, with skips, ranges, deprecations and an icon."""
    stable = [
        {"name": "kettle.v1.0.0"},
        {"name": "kettle.v1.1.0", "replaces": "kettle.v1.0.0", "skips": ["kettle.v1.0.1", "kettle.v1.0.2"]},
        {"name": "kettle.v2.0.0", "replaces": "kettle.v1.1.0", "skipRange": ">=1.0.0 <2.0.0"},
    ]
    fast = [{"name": "kettle.v2.0.0"}, {"name": "kettle.v2.1.0-rc.1", "replaces": "kettle.v2.0.0"}]
    versions = ["1.0.0", "1.1.0", "2.0.0", "2.1.0-rc.1"]
    if newer:
        stable.append({"name": "kettle.v2.2.0", "replaces": "kettle.v2.0.0"})
        versions.append("2.2.0")
    deprecations = [
        {"reference": {"schema": "olm.package"}, "message": f"use samovar {ODD_TEXT}"},
        {"reference": {"schema": "olm.channel", "name": "fast"}, "message": "fast is over"},
        {"reference": {"schema": "olm.bundle", "name": "kettle.v1.0.0"}, "message": "leaks"},
    ]
    icon = {"base64data": base64.b64encode(SVG).decode(), "mediatype": "image/svg+xml"}
    return [
        {"schema": "olm.package", "name": "kettle", "defaultChannel": "stable", "description": ODD_TEXT, "icon": icon},
        {"schema": "olm.channel", "package": "kettle", "name": "stable", "entries": stable},
        {"schema": "olm.channel", "package": "kettle", "name": "fast", "entries": fast},
        *(_summarised("kettle", version) for version in versions),
        {"schema": "olm.deprecations", "package": "kettle", "entries": deprecations},
        {"schema": "example.com.lifecycle", "package": "kettle", "name": "kettle", "big": 2**60, "more": 1e21},
        {"schema": "example.com.lifecycle", "package": "kettle", "name": "another", "none": None, "flag": True},
    ]


def samovar() -> list[Document]:
    """Its one bundle depends on others, and gives what kettle gives too."""
    required = [
        {"type": "olm.gvk.required", "value": {"group": "tea.example.com", "kind": "Leaf", "version": "v1"}},
        {"type": "olm.package.required", "value": {"packageName": "kettle", "versionRange": ">=1.0.0"}},
    ]
    bundle = _summarised("samovar", "0.1.0")
    bundle["properties"] = [*bundle["properties"], *required]
    return [
        {"schema": "olm.package", "name": "samovar", "defaultChannel": "alpha"},
        {"schema": "olm.channel", "package": "samovar", "name": "alpha", "entries": [{"name": "samovar.v0.1.0"}]},
        bundle,
    ]


def teapot() -> list[Document]:
    """Its bundle has its manifests in it, as older ones do."""
    name = "teapot.v3.0.0"
    csv = {
        "apiVersion": "operators.coreos.com/v1alpha1",
        "kind": "ClusterServiceVersion",
        "metadata": {
            "name": name,
            "annotations": {"odd": ODD_TEXT.replace("\x7f", "")},  # which no YAML may have
            "labels": {"operatorframework.io/arch.arm64": "supported"},
        },
        "spec": {
            "displayName": "Teapot",
            "version": "3.0.0",
            "provider": {"name": "Example", "url": "https://example.com"},
            "relatedImages": [{"name": "lid", "image": "registry.example.com/lid:1"}],
            "install": {"strategy": "deployment", "spec": {"deployments": []}},
        },
    }
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "leaves.tea.example.com"},
        "spec": {"group": "tea.example.com", "names": {"kind": "Leaf", "plural": "leaves"}},
    }
    objects = [
        {"type": "olm.bundle.object", "value": {"data": base64.b64encode(orjson.dumps(each)).decode()}}
        for each in (crd, csv)
    ]
    properties = [*_described("teapot", "3.0.0"), _gives("tea.example.com", "Leaf"), *objects]
    image = "registry.example.com/teapot:v3.0.0"
    return [
        {"schema": "olm.package", "name": "teapot", "defaultChannel": "stable"},
        {"schema": "olm.channel", "package": "teapot", "name": "stable", "entries": [{"name": name}]},
        {"schema": "olm.bundle", "package": "teapot", "name": name, "image": image, "properties": properties},
    ]


def urn() -> list[Document]:
    """No bundle of it has a CSV, so OLM's users never see it."""
    bundle = {
        "schema": "olm.bundle",
        "package": "urn",
        "name": "urn.v1.0.0",
        "image": "registry.example.com/urn:v1.0.0",
        "properties": _described("urn", "1.0.0"),
    }
    return [
        {"schema": "olm.package", "name": "urn", "defaultChannel": "stable"},
        {"schema": "olm.channel", "package": "urn", "name": "stable", "entries": [{"name": "urn.v1.0.0"}]},
        bundle,
    ]


def _summarised(package: str, version: str) -> Document:
    summary = {
        "annotations": {"odd": ODD_TEXT, "number": "1e21"},
        "displayName": f"{package.title()} {ODD_TEXT}",
        "description": f"# {package}\n{ODD_TEXT}",
        "keywords": ["tea", "<b>"],
        "labels": {"tea": "yes"},
        "provider": {"name": "Example Inc"},
        "installModes": [{"type": "AllNamespaces", "supported": True}, {"type": "OwnNamespace", "supported": False}],
        "links": [{"name": "home", "url": "https://example.com/?a=1&b=2"}],
        "maintainers": [{"name": "A", "email": "a@example.com"}],
        "maturity": "alpha",
        "minKubeVersion": "1.20.0",
        "crdDescriptions": {
            "owned": [{"name": "waters.tea.example.com", "version": "v1", "kind": "Water", "displayName": "Water"}]
        },
    }
    return {
        "schema": "olm.bundle",
        "package": package,
        "name": f"{package}.v{version}",
        "image": f"registry.example.com/{package}:v{version}",
        "relatedImages": [{"name": "", "image": f"registry.example.com/{package}:v{version}"}],
        "properties": [
            *_described(package, version),
            _gives("tea.example.com", "Water"),
            {"type": "olm.csv.metadata", "value": summary},
            {"type": "example.com.odd", "value": {"z": 1.0, "a": [1e21, 2**53 + 1, -0.0], "text": ODD_TEXT}},
        ],
    }


def _described(package: str, version: str) -> list[Document]:
    return [{"type": "olm.package", "value": {"packageName": package, "version": version}}]


def _gives(group: str, kind: str) -> Document:
    return {"type": "olm.gvk", "value": {"group": group, "kind": kind, "version": "v1"}}


def _file(path: Path, documents: Sequence[Document]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\n".join(map(orjson.dumps, documents)) + b"\n")
