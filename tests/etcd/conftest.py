"""One world for every test here that reads sources into etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cacheserver.etcd.client import Client
from tests.support.world import World, opened


@pytest.fixture
async def world(etcd_client: Client, tmp_path: Path) -> AsyncIterator[World]:
    async with opened(etcd_client, tmp_path, World) as world:
        yield world
