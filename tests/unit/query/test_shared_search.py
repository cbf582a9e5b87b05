"""Against the folder `shared` next to the repository, where it exists: 60 questions over two real catalogs, 58 of them
answered in the first three."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator

import orjson
import pytest
import pytest_asyncio

from cacheserver.catalogs import Catalog, Workers, parse
from cacheserver.model import Kind, RepositoryKey
from cacheserver.query.search import SearchIndex, at_once
from cacheserver.sources import Tree
from tests.support.shared import ABSENT, COMMUNITY, NEPHIO, rows

ROWS = rows("finding/queries.tsv")

pytestmark = [
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not ROWS, reason=ABSENT),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def index(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SearchIndex]:
    nephio = tmp_path_factory.mktemp("nephio")
    subprocess.run(["git", "clone", "-q", str(NEPHIO), str(nephio)], check=True, capture_output=True)
    found = SearchIndex()
    async with Workers(2) as pool:
        for name, root in (("community", COMMUNITY), ("nephio", nephio)):
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
