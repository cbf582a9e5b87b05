"""Builds small file-based catalogs on disk: `catalog(tmp_path).package("app", "1.0.0", "1.1.0")`.

A package is one file, NAME/catalog.yaml: one channel `stable`, each version replacing the one before.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

CATALOG_SOURCE = """\
apiVersion: core.rukpak.io/v1beta1
kind: CatalogSource
metadata:
  name: catalogsource-sample
  namespace: test
spec:
  image: {host}/anik120/community-operator-index:v4.11
  pollingInterval: 45m
"""
"""rukpak-packageserver's config/samples/rukpak_catalogsource.yaml, but for the registry's host."""


class FBCCatalog:
    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def package(
        self,
        name: str,
        *versions: str,
        descriptions: Mapping[str, str] | None = None,
        bundles: Mapping[str, str] | None = None,
        skip_range: str = "",
    ) -> FBCCatalog:
        """Write (or rewrite) a good package; `descriptions` by version changes what its bundle says, `bundles` how it
        is called, skip_range what the channel says of each."""
        descriptions = descriptions or {}
        called = {version: f"{name}.v{version}" for version in versions} | dict(bundles or {})
        entries = [
            {"name": called[version]}
            | ({"replaces": called[versions[i - 1]]} if i else {})
            | ({"skipRange": skip_range} if skip_range else {})
            for i, version in enumerate(versions)
        ]
        documents: list[dict[str, Any]] = [
            {"schema": "olm.package", "name": name, "defaultChannel": "stable"},
            {"schema": "olm.channel", "package": name, "name": "stable", "entries": entries},
        ]
        documents += [
            bundle(name, version, descriptions.get(version, "as ever")) | {"name": called[version]}
            for version in versions
        ]
        return self.file(f"{name}/catalog.yaml", b"\n".join(b"---\n" + orjson.dumps(d) for d in documents))

    def file(self, path: str, content: bytes) -> FBCCatalog:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return self

    def without(self, name: str) -> FBCCatalog:
        shutil.rmtree(self.root / name)
        return self


def bundle(package: str, version: str, description: str = "") -> dict[str, Any]:
    return {
        "schema": "olm.bundle",
        "package": package,
        "name": f"{package}.v{version}",
        "image": f"registry.example.com/{package}:v{version}".replace("+", "_"),  # a tag takes no plus
        "properties": [
            {"type": "olm.package", "value": {"packageName": package, "version": version}},
            {"type": "olm.csv.metadata", "value": {"displayName": package.title(), "description": description}},
        ],
    }


def catalog(root: Path) -> FBCCatalog:
    return FBCCatalog(root)
