"""Requests in flight: a limit for reads, one for watches, none for masters, health and discovery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from tests.fakes.api import BASE, World, api_world
from tests.fakes.guarded import PKI, Guarded, ask, guarded_world
from tests.support.waiting import eventually

pytestmark = pytest.mark.processes

ALICE: Mapping[str, str] = {"X-Remote-User": "alice"}


@pytest.fixture
async def small() -> AsyncIterator[World]:
    async with api_world(max_reads=1, max_watches=2) as world:
        world.package("a")
        await world.settled()
        yield world


async def test_one_watch_too_many_is_told_to_come_back(small: World) -> None:
    async with small.watch(resourceVersion="11"), small.watch(resourceVersion="11"):
        answer = await small.get("packages", watch="1")
        assert answer.status == 429
        assert answer.headers["Retry-After"] == "1"
        assert answer.json["reason"] == "TooManyRequests"
        assert answer.json["message"] == "Too many requests, please try again later."
        assert (await small.get("packages")).status == 200  # reads have a limit of their own


async def test_a_watch_that_ended_makes_room(small: World) -> None:
    async def opens() -> bool:
        async with small.session.get(f"{BASE}/packages", params={"watch": "1", "resourceVersion": "11"}) as response:
            return response.status == 200

    for _ in range(3):
        await eventually(opens)  # the server learns a little later that a client has gone


async def test_one_read_too_many_is_told_to_come_back(pki: PKI) -> None:
    """The first read waits for its review, and is one in flight meanwhile."""
    async with guarded_world(pki, max_reads=1) as guarded:
        guarded.kube.allow("alice", resource="packages")
        guarded.kube.hang()
        first = asyncio.create_task(guarded.get(proxied="alice"))
        await _asked(guarded)
        assert (await guarded.get(proxied="alice")).status == 429
        for path in ("/healthz", "/apis", "/openapi/v2", "/version"):
            assert (await guarded.get(path, proxied="alice")).status == 200, path
        assert (await guarded.get(proxied="root", groups="system:masters")).status == 200
        guarded.kube.let_go()
        assert (await first).status == 200
        assert (await guarded.get(proxied="alice")).status == 200


async def test_one_user_has_a_share_and_leaves_the_rest_to_others(pki: PKI) -> None:
    async with guarded_world(pki, max_reads=8) as guarded:
        for user in ("alice", "bob"):
            guarded.kube.allow(user, resource="packages")
        guarded.kube.hang()
        first = [asyncio.create_task(guarded.get(f"{BASE}/packages?limit={n}", proxied="alice")) for n in (1, 2)]
        await eventually(lambda: guarded.world.api._in_flight._now[0] == 2)
        refused = await guarded.get(proxied="alice")
        assert refused.status == 429
        assert refused.json["message"].startswith("Too many requests of this user, who has 2 at a time")
        other = asyncio.create_task(guarded.get(proxied="bob"))
        guarded.kube.let_go()
        assert [answer.status for answer in await asyncio.gather(*first, other)] == [200, 200, 200]


async def test_a_client_that_leaves_makes_room(pki: PKI) -> None:
    async with guarded_world(pki, max_reads=1) as guarded:
        guarded.kube.allow("alice", resource="packages")
        guarded.kube.hang()
        async with guarded.client(pki.front_proxy) as session:
            first = asyncio.create_task(ask(session, headers=ALICE))
            await _asked(guarded)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        guarded.kube.let_go()

        async def let_in() -> bool:
            return (await guarded.get(proxied="alice")).status == 200

        await eventually(let_in)


async def _asked(guarded: Guarded) -> None:
    await eventually(lambda: guarded.kube.calls["POST /apis/authorization.k8s.io/v1/subjectaccessreviews"] > 0)
