"""Every watch here is asked for in chunks, with gzip, and over WebSocket."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fakes.api import World, api_world


@pytest.fixture(params=["chunks", "gzip", "websocket"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with api_world() as world:
        world.websocket = request.param == "websocket"
        world.gzip = request.param == "gzip"
        yield world
