"""A guarded API for every test here; its certificates are made once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fakes.guarded import PKI, Guarded, guarded_world


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> PKI:
    return PKI(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def guarded(pki: PKI) -> AsyncIterator[Guarded]:
    async with guarded_world(pki) as world:
        yield world
