"""The API over fakes, for every test here."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fakes.api import World, api_world


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with api_world() as world:
        yield world


@pytest.fixture
async def six(world: World) -> World:
    """Six packages a to f, a to d in namespace `team`, the rest in `other`."""
    for package in "abcd":
        world.package(package, defaultChannel="stable", revisions=3)
    for package in "ef":
        world.package(package, namespace="other", repository="s")
    await world.settled()
    return world
