"""Against the folder `shared` next to the repository, where it exists: 60 questions over two real catalogs, 58 of them
answered in the first three."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
import pytest_asyncio

from cacheserver.catalogs import Catalog, Workers, parse
from cacheserver.model import Kind, RepositoryKey
from cacheserver.query.search import SearchIndex, at_once
from cacheserver.sources import Tree

SHARED = Path(__file__).parents[4] / "shared"
TABLE = SHARED / "data" / "golden" / "finding" / "queries.tsv"
ROWS: list[dict[str, str]] = []
if TABLE.exists():
    with TABLE.open(encoding="utf-8") as file:
        ROWS = list(csv.DictReader(file, delimiter="\t"))

pytestmark = [
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not ROWS, reason="no folder shared next to the repository"),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def index(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SearchIndex]:
    nephio = tmp_path_factory.mktemp("nephio")
    bundle = SHARED / "data" / "git" / "nephio-catalog.bundle"
    subprocess.run(["git", "clone", "-q", str(bundle), str(nephio)], check=True, capture_output=True)
    found = SearchIndex()
    async with Workers(2) as pool:
        for name, root in (("community", SHARED / "data" / "fbc" / "community-v4.20"), ("nephio", nephio)):
            files = (path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file())
            tree = Tree(root, tuple(str(path) for path in files if path.parts[0] != ".git"), "")
            scratch = tmp_path_factory.mktemp("scratch")
            put(found, await parse(tree, None, RepositoryKey("shop", name), pool, scratch=scratch, write_blobs=False))
    yield found


def put(index: SearchIndex, catalog: Catalog) -> None:
    for package in catalog.packages:
        for record in package.records:
            if record.key.kind is Kind.PACKAGE:
                metadata = {"namespace": record.key.namespace, "name": record.name}
                status = orjson.loads(record.status)
                index.put({"metadata": metadata, "spec": orjson.loads(record.spec), "status": status})


async def test_what_is_asked_for_is_among_the_first_three(index: SearchIndex) -> None:
    missed = []
    for row in ROWS:
        first = [hit.facts.package for hit in at_once(index.search(row["query"])).hits[:3]]
        if not set(row["expected"].split(",")) & set(first):
            missed.append((row["query"], row["expected"], first))
    assert len(ROWS) == 60
    assert len(missed) <= 2, missed
