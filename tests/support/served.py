"""What is served of a file-based catalog, read back as the rules of upgrades read it; no server, no etcd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

from cacheserver.catalogs import Workers, parse
from cacheserver.model import Record, RepositoryKey
from cacheserver.query.package import Package, read
from cacheserver.sources import Tree


async def packages(root: Path, scratch: Path) -> Mapping[str, Package]:
    """By name, all that are good."""
    files = tuple(sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()))
    async with Workers(2) as pool:
        key = RepositoryKey("shop", "community")
        catalog = await parse(Tree(root, files, ""), None, key, pool, known=b"", scratch=scratch, write_blobs=False)
    return {package.name: _read(package.records) for package in catalog.packages}


def _read(records: Sequence[Record]) -> Package:
    manifests = [
        {"metadata": {"name": record.name}, "spec": orjson.loads(record.spec), "status": orjson.loads(record.status)}
        for record in records
    ]
    return read(manifests[-1], manifests[:-1])
