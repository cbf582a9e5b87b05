"""One pool of workers for a whole test module: a start costs 0.1 s, and parses share nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from cacheserver.catalogs import Catalog, Manifests, Workers, parse
from cacheserver.model import RepositoryKey
from cacheserver.sources import Tree

Parse = Callable[..., Awaitable[Catalog]]

KEY = RepositoryKey("shop", "community")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def workers() -> AsyncIterator[Workers]:
    async with Workers(2) as pool:
        yield pool


@pytest.fixture
def parsed(workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Parse:
    """parsed(root, *paths, known=b"", refused=(), manifests=None): what `paths` below root hold, or all of it."""

    async def run(
        root: Path,
        *paths: str,
        known: bytes = b"",
        refused: tuple[tuple[str, str], ...] = (),
        blobs: bool = True,
        manifests: Manifests | None = None,
    ) -> Catalog:
        files = paths or tuple(sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()))
        tree = Tree(root, tuple(files), "", refused)
        scratch = tmp_path_factory.mktemp("scratch")
        return await parse(
            tree, None, KEY, workers, known=known, scratch=scratch, write_blobs=blobs, manifests=manifests
        )

    return run
