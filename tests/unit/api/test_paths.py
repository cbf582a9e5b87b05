"""Paths of other protocols beside the API's: each answers below its own first step, and nowhere else."""

from __future__ import annotations

import pytest

from cacheserver.api.http.reply import Reply, whole
from cacheserver.api.paths import PathRequest, Paths, Route
from tests.fakes.api import api_world


async def _echo(asked: PathRequest) -> Reply:
    return whole(f"{asked.request.method} {asked.path} {asked.query}".encode())


async def test_a_route_answers_for_its_paths_beside_the_api() -> None:
    one = Route("feeds", _echo, below=True)
    two = Route("v2", _echo, methods=("GET", "POST"), listed=("/v2/catalog",))
    async with api_world(routes=(one, two)) as world:
        assert (await world.get("/feeds/team.atom", since="3")).body == b"GET /feeds/team.atom since=3"
        assert (await world.get("/v2", method="POST")).body == b"POST /v2 "
        assert (await world.get("/v2/below")).status == 404
        refused = await world.get("/feeds", method="POST")
        assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")
        assert (await world.get("/feed")).status == 404
        assert (await world.get("/metrics")).status == (await world.get("/healthz")).status == 200
        paths = (await world.get("/")).json["paths"]
        assert {"/feeds", "/v2/catalog", "/metrics", "/healthz", "/openapi/v3", "/version"} <= set(paths)
        assert "/v2" not in paths


def test_two_routes_do_not_share_a_path() -> None:
    with pytest.raises(ValueError, match="/feeds"):
        Paths([Route("feeds", _echo), Route("feeds", _echo, below=True)])
