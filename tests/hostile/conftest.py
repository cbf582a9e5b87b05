"""One arena for all attacks, one after the other; what each took is printed at the end.

A part of the suite runs with all other tests, and judges no times. CACHESERVER_TEST_HOSTILE=1 (`make hostile`) runs
all of it in full size, and judges what others felt, too.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Final

import pytest
import pytest_asyncio

from tests.hostile.arena import Arena, open_arena
from tests.support.etcd import FoundEtcd

WHOLE: Final = bool(os.environ.get("CACHESERVER_TEST_HOSTILE"))
LEAST_S: Final = 6.0 if WHOLE else 0.0
"""Of one attack: 240 of each question, so that their 99th percentile is not one of them."""
whole_only: Final = pytest.mark.skipif(not WHOLE, reason="only in `make hostile`")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def arena(etcd_binary: FoundEtcd, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Arena]:
    async with open_arena(etcd_binary, tmp_path_factory.mktemp("arena")) as arena:
        yield arena
    print("", *arena.told, sep="\n")
