"""What a refused request leaves behind: nothing that waits for the garbage collector, which seldom comes."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from yarl import URL

from cacheserver.api.status import StatusError
from cacheserver.errors import CacheServerError
from tests.fakes.api import BASE, api_world

# Each refused in another place.
REFUSED: dict[str, tuple[int, dict[str, Any]]] = {
    "selector": (400, {"path": "packages", "labelSelector": ",".join(["a"] * 8000)}),
    "query": (400, {"path": "packages", "labelSelector": "a" * 40_000}),
    "grammar": (400, {"path": "packages", "labelSelector": "a==="}),
    "parameter": (400, {"path": "packages", "limit": "many"}),
    "no such path": (404, {"path": "/apis/nowhere/v1/things"}),
    "no such object": (404, {"path": "namespaces/team/packages/none"}),
    "accept": (406, {"path": "packages", "accept": "text/css"}),
    "method": (405, {"path": "namespaces/team/packages/none", "method": "PUT"}),
    "expired": (410, {"path": "packages", "resourceVersion": "1", "resourceVersionMatch": "Exact"}),
    "watch": (400, {"path": "packages", "watch": "1", "fieldSelector": "no.such.field=1"}),
}


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _refusals() -> list[StatusError | CacheServerError]:
    return [each for each in gc.get_objects() if isinstance(each, (StatusError, CacheServerError))]


@pytest.mark.parametrize("why", REFUSED)
async def test_a_refusal_is_gone_with_its_request(why: str) -> None:
    """It holds what was asked, up to 64 KiB of it three times, in the frames of its traceback."""
    status, asked = REFUSED[why]
    path = asked["path"] if asked["path"].startswith("/") else f"{BASE}/{asked['path']}"
    async with api_world() as world:
        world.package("app")
        await world.settled()
        url = URL(path).with_query({k: v for k, v in asked.items() if k not in ("path", "accept", "method")})
        headers = {"Accept": asked.get("accept", "application/json")}
        with no_collector():
            before = set(map(id, _refusals()))  # other tests of this process may have left theirs
            async with world.session.request(asked.get("method", "GET"), url, headers=headers) as answer:
                assert answer.status == status, json.loads(await answer.read())
            for _ in range(10):  # the server's task ends
                await asyncio.sleep(0)
            left = [each for each in _refusals() if id(each) not in before]
            assert [each.__traceback__ for each in left] == [None] * len(left)
